"""Which tile a contraction takes on a device, by a model of its time. Plain data: no kernel is written, and no device is asked."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from preimage.engines.cuda.device import Properties
from preimage.engines.cuda.tile import AnyTile, DirectTile, Tile
from preimage.engines.order import Order
from preimage.geometry import ConvGeometry

__all__ = ["DIRECT", "DIRECT_WEIGHTS", "MATRIX", "TILES", "Launch", "gather_tile", "spreads", "weight_tile"]

#: Tiles by the bytes of a sum, with the share of multiply-adds among the instructions of a gather's loop, as counted in the machine code for
#: an H100 (tests/golden/cuda_machine_code.json). They order the tiles, no more.
TILES: dict[int, tuple[tuple[AnyTile, float], ...]] = {
    4: (
        (Tile(8, 16, 2, 2, 8, 4, 2), 0.91),
        (Tile(8, 8, 2, 2, 8, 4, 3), 0.87),
        (Tile(4, 8, 2, 2, 8, 4, 4), 0.8),
        (Tile(4, 4, 2, 2, 8, 4, 4), 0.7),
        (Tile(4, 4, 1, 1, 8, 4, 8), 0.68),
    ),
    8: (
        (Tile(4, 8, 2, 2, 8, 3, 2), 0.73),
        (Tile(4, 4, 2, 2, 8, 3, 4), 0.63),
        (Tile(2, 4, 1, 1, 8, 3, 8), 0.4),
    ),
}
#: And among those of a weight gradient's, where they are fewer.
WEIGHT_SHARES: dict[AnyTile, float] = {
    Tile(8, 16, 2, 2, 8, 4, 2): 0.88,
    Tile(8, 8, 2, 2, 8, 4, 3): 0.81,
    Tile(4, 8, 2, 2, 8, 4, 4): 0.72,
    Tile(4, 4, 2, 2, 8, 4, 4): 0.59,
    Tile(4, 4, 1, 1, 8, 4, 8): 0.56,
    Tile(4, 8, 2, 2, 8, 3, 2): 0.67,
    Tile(4, 4, 2, 2, 8, 3, 4): 0.55,
    Tile(2, 4, 1, 1, 8, 3, 8): 0.33,
}
#: Tiles on tensor cores, for float64 where they keep the chain. Their share is of what multiply-adds at the usual rate could do, so it may be
#: above 1.
MATRIX: tuple[tuple[Tile, float], ...] = (
    (Tile(8, 8, 2, 2, 8, 3, 2, True), 1.5),
    (Tile(4, 8, 2, 2, 8, 3, 2, True), 1.2),
)
#: Tiles without shared memory, for groups of few outputs or channels, with the same share.
DIRECT: tuple[tuple[DirectTile, float], ...] = (
    (DirectTile(4, 4), 0.4),
    (DirectTile(1, 4), 0.14),
    (DirectTile(4, 1), 0.24),
    (DirectTile(1, 1), 0.07),
    (DirectTile(1, 4, across=True), 0.14),
    (DirectTile(1, 1, across=True), 0.07),
)
#: And of weight gradients.
DIRECT_WEIGHTS: tuple[tuple[DirectTile, float], ...] = (
    (DirectTile(1, 9, across=True), 0.07),
    (DirectTile(1, 4, across=True), 0.06),
    (DirectTile(4, 4, across=True), 0.18),
)
#: Outputs of a group beyond which they are not looked at.
MOST_DIRECT = 16


@dataclass(frozen=True)
class Launch:
    """A tile and what it covers. waves: how often all multiprocessors are filled."""

    tile: AnyTile
    tiles: int
    waves: int
    share: float


def _launch(tile: AnyTile, share: float, tiles: int, device: Properties) -> Launch:
    return Launch(tile, tiles, ceil(tiles / (device.multiprocessors * tile.blocks_per_multiprocessor)), share)


def _cost(launch: Launch, terms: int, device: Properties) -> float:
    tile = launch.tile
    rounds = launch.tiles / (device.multiprocessors * tile.blocks_per_multiprocessor)
    waves = launch.waves if launch.waves < 4 else rounds  # later waves overlap
    busy = terms + 64  # 64: what a tile takes to begin and to store
    work = tile.bm * tile.bn * tile.groups * tile.blocks_per_multiprocessor * busy
    return waves * work / launch.share


def spreads(g: ConvGeometry, transpose: bool, tile: AnyTile) -> bool:
    """Whether a step of the tile holds terms of several taps: where few channels would leave much of it empty. Not of a transpose, whose
    taps may have to be left out one by one.
    """
    channels = g.in_channels_per_group
    return isinstance(tile, Tile) and not transpose and channels % tile.bk != 0 and channels < 2 * tile.bk


def _tiles(itemsize: int, device: Properties) -> list[tuple[AnyTile, float]]:
    return [*TILES[itemsize], *(MATRIX if itemsize == 8 and device.matrix else ())]


def gather_tile(g: ConvGeometry, transpose: bool, itemsize: int, device: Properties, channels_last: bool = False) -> Launch:
    """itemsize: of the sums; channels_last: how the input lies."""
    outs = g.in_channels_per_group if transpose else g.out_channels_per_group
    channels = g.out_channels_per_group if transpose else g.in_channels_per_group
    size = g.input_size if transpose else g.output_size
    phases = prod(min(s, n) for s, n in zip(g.stride, size, strict=True)) if transpose else 1
    positions = max(1, g.batch * prod(size) // max(1, phases))
    taps = max(1, prod(g.kernel_size) // (prod(g.stride) if transpose else 1))
    rows: list[tuple[AnyTile, float]] = _tiles(itemsize, device)
    if outs <= MOST_DIRECT:
        rows += [row for row in DIRECT if row[0].across == (channels_last and g.groups >= row[0].threads // 4)]
    found: list[tuple[Launch, int]] = []
    for tile, share in rows:
        count = ceil(positions / tile.bn) * ceil(outs / tile.bm) * phases * ceil(g.groups / tile.groups)
        steps = ceil(taps * channels / tile.bk) if spreads(g, transpose, tile) else taps * ceil(channels / tile.bk)
        found.append((_launch(tile, share, count, device), steps * tile.bk))
    return min(found, key=lambda row: _cost(row[0], row[1], device))[0]


def weight_tile(g: ConvGeometry, itemsize: int, device: Properties) -> Launch:
    """Tiles of the weights of one image, or part of an image."""
    columns, outs = g.in_channels_per_group * prod(g.kernel_size), g.out_channels_per_group
    rows: list[tuple[AnyTile, float]] = [*_tiles(itemsize, device), *(DIRECT_WEIGHTS if outs <= MOST_DIRECT else ())]
    found: list[tuple[Launch, float]] = []
    positions = prod(g.output_size)
    order = Order.of(g.output_size[::-1])
    parts = prod(order.sizes[1]) if order.depth else 1  # into which an image may be divided
    for tile, usual in rows:
        share = WEIGHT_SHARES.get(tile, usual)
        count = ceil(ceil(columns / tile.bn) * ceil(outs / tile.bm) * g.groups * g.batch / tile.groups)
        wanted = ceil(2 * device.multiprocessors * tile.blocks_per_multiprocessor / count)
        units = max(1, min(parts, wanted))
        divided = _launch(tile, share, count * units, device)
        found.append((_launch(tile, share, count, device), _cost(divided, ceil(positions / units), device)))
    return min(found, key=lambda row: row[1])[0]
