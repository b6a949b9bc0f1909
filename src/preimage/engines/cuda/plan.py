"""Which tile a contraction takes on a device, by a model of its time. Plain data: no kernel is written, and no device is asked."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from preimage.engines.cuda.device import Properties
from preimage.engines.cuda.tile import Tile
from preimage.geometry import ConvGeometry

__all__ = ["TILES", "Launch", "gather_tile", "weight_tile"]

#: Tiles by the bytes of a sum, with the share of a thread's instructions that are multiply-adds: estimated from the number of loads a
#: multiply-add needs, not yet counted in machine code. They order the tiles, no more.
TILES: dict[int, tuple[tuple[Tile, float], ...]] = {
    4: (
        (Tile(8, 8, 2, 4, 8, 4, 2), 0.83),
        (Tile(4, 8, 2, 2, 8, 4, 4), 0.74),
        (Tile(4, 4, 2, 2, 8, 4, 4), 0.6),
        (Tile(4, 4, 1, 1, 8, 4, 8), 0.5),
    ),
    8: (
        (Tile(4, 8, 2, 2, 8, 3, 2), 0.8),
        (Tile(4, 4, 2, 2, 8, 3, 4), 0.7),
        (Tile(2, 4, 1, 1, 8, 3, 8), 0.4),
    ),
}


@dataclass(frozen=True)
class Launch:
    """A tile and what it covers. waves: how often all multiprocessors are filled."""

    tile: Tile
    tiles: int
    waves: int
    share: float


def _launch(tile: Tile, share: float, tiles: int, device: Properties) -> Launch:
    return Launch(tile, tiles, ceil(tiles / (device.multiprocessors * tile.blocks_per_multiprocessor)), share)


def _cost(launch: Launch, terms: int, device: Properties) -> float:
    tile = launch.tile
    rounds = launch.tiles / (device.multiprocessors * tile.blocks_per_multiprocessor)
    waves = launch.waves if launch.waves < 4 else rounds  # later waves overlap
    work = tile.bm * tile.bn * tile.blocks_per_multiprocessor * (terms + 64)  # 64: what a tile takes to begin and to store
    return waves * work / launch.share


def gather_tile(g: ConvGeometry, transpose: bool, itemsize: int, device: Properties) -> Launch:
    """itemsize: of the sums."""
    outs = g.in_channels_per_group if transpose else g.out_channels_per_group
    channels = g.out_channels_per_group if transpose else g.in_channels_per_group
    size = g.input_size if transpose else g.output_size
    phases = prod(min(s, n) for s, n in zip(g.stride, size, strict=True)) if transpose else 1
    positions = max(1, g.batch * prod(size) // max(1, phases))
    taps = max(1, prod(g.kernel_size) // (prod(g.stride) if transpose else 1))
    found = []
    for tile, share in TILES[itemsize]:
        count = ceil(positions / tile.bn) * ceil(outs / tile.bm) * phases * g.groups
        found.append(_launch(tile, share, count, device))
    return min(found, key=lambda launch: _cost(launch, taps * ceil(channels / launch.tile.bk) * launch.tile.bk, device))


def weight_tile(g: ConvGeometry, itemsize: int, device: Properties) -> Launch:
    """Tiles of the weights of one image, or part of an image."""
    columns = g.in_channels_per_group * prod(g.kernel_size)
    found = []
    for tile, share in TILES[itemsize]:
        count = ceil(columns / tile.bn) * ceil(g.out_channels_per_group / tile.bm) * g.groups * g.batch
        found.append(_launch(tile, share, count, device))
    return min(found, key=lambda launch: _cost(launch, prod(g.output_size), device))
