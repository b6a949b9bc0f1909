"""The program of a convolution by Winograd's algorithms: transform the weights, then one kernel for all bands of tiles (`tile_kernel`)."""

from __future__ import annotations

from math import gcd, lcm, prod
from typing import Any

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES
from preimage.engines.ir.ordered import Node
from preimage.engines.jit.compiler.target import Target
from preimage.engines.jit.conv.winograd import branches
from preimage.engines.jit.conv.winograd.applies import Choice, order_of
from preimage.engines.jit.conv.winograd.input_kernel import AXES, points_of, tile_memory
from preimage.engines.jit.conv.winograd.tile_kernel import WinogradArguments, WinogradSpec
from preimage.engines.jit.conv.winograd.weights_kernel import TransformArguments, TransformSpec
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call, operands
from preimage.engines.jit.request import ConvRequest
from preimage.engines.order import Order
from preimage.records import record

__all__ = ["Tile", "by_axis", "choose_tile", "cycles_of", "lower_winograd", "name_of", "odd_lines", "three"]

FAR_TILES = (
    48  # tiles of a band whose transformed input does not stay in the second cache: each weight that comes from far meets so many
)
FEW_TASKS, EVEN_TASKS = 4, 16  # of a thread: with fewer bands are divided further, or made such that all threads end together
NEAR_TILES = 10  # with fewer that would, weights are read too often
MOST_TILES = 96
#: Vectors of sums of a tile, by the bytes of a vector. With AVX-512 twelve hide every latency, and each pixel wants an address in a register:
#: 2 x 8 reach 101 to 107 GFLOP/s on a core of Zen 4, 2 x 12 80 to 97.
MOST_SUMS = {32: 12, 64: 18}


def name_of(choice: Choice) -> str:
    """As the field writes it."""
    outputs, taps = ("x".join(str(pair[k]) for pair in choice.shape) for k in range(2))
    return f"Winograd F({outputs}, {taps})"


def cycles_of(r: ConvRequest, choice: Choice) -> float:
    """Modelled cycles of one thread."""
    lanes = r.target.vector_bytes // ELEMENT_BYTES[r.element]
    return choice.work * r.geometry.batch / (2 * lanes)


@record
class Tile:
    """The tile of the products."""

    lanes: int
    vectors: int
    pixels: int


def lower_winograd(r: ConvRequest, choice: Choice) -> Program:
    """The program. Compiles nothing."""
    g, forward = r.geometry, r.contraction == "conv"
    channels, outputs = (g.in_channels_per_group, g.out_channels_per_group)[:: 1 if forward else -1]
    shape = ((1, 1),) * (AXES - g.ndim) + choice.shape
    tiles = g.batch * prod(choice.counts)
    tile = choose_tile(r.target, ELEMENT_BYTES[r.element], channels, outputs, tiles)
    program = ProgramBuilder(name_of(choice))
    packing, panel_bytes = _packing(r, shape, tile, channels, outputs)
    program.packing, program.packed_bytes = packing, packing.tasks * prod(points_of(shape)) * panel_bytes
    program.packed_key = ("winograd", r.contraction, r.element, tile.lanes, tile.vectors, shape, g.groups)
    call, band, scratch = _multiply(r, choice, shape, tile, channels, outputs, panel_bytes)
    if not r.prepared:
        program.pack_first()
    program.calls.append(call)
    program.buffers.append(Buffer("scratch", scratch, grows=False))
    branches.take("taken")
    branches.take(f"points.{max(points_of(shape))}")
    branches.take(f"input.{'planes' if call.spec.planes_in else 'channels_last'}")  # type: ignore[attr-defined]
    branches.take(f"result.{'planes' if call.spec.planes_out else 'channels_last'}")  # type: ignore[attr-defined]
    branches.take(f"sums.{'one_block' if not order_of(channels).depth else 'blocks'}")
    program.details |= {
        "accuracy": f"fast: an error of at most {choice.error:.0f} u max|x| sum|w| (docs/contract.md has the measured one)",
        "predicted": f"{cycles_of(r, choice):,.0f} cycles of one thread by the model,"
        f" {choice.exact_work / choice.work:.2f} times less work than the exact order",
        "tile": f"{tile.pixels} tiles x {tile.vectors} vectors of {tile.lanes} channels",
        "bands": f"{-(-tiles // band)} of {band} tiles, of {tiles}",
    }
    return program.done()


def choose_tile(target: Target, item: int, channels: int, outputs: int, tiles: int, lcm_most: int = 1 << 30) -> Tile:
    """Vectors that divide the channels; as few products as can be that are computed in vain.

    lcm_most: of the least common multiple of its pixels and its lanes.
    """
    lanes = gcd(target.vector_bytes // item, channels, outputs)
    sums = MOST_SUMS.get(target.vector_bytes, 28)
    found = [
        Tile(lanes, vectors, pixels)
        for vectors in (2, 3, 1)
        if outputs % (vectors * lanes) == 0
        for pixels in range(max(4, 8 // vectors), sums // vectors + 1)
        if lcm(pixels, lanes) <= lcm_most
    ]
    few = min(tiles, MOST_TILES)

    def cost(t: Tile) -> float:
        """Cycles of a term, for a vector of outputs: two products a cycle, two loads, of which a tile has one for each pixel and vector."""
        return -(-few // t.pixels) * (max(t.pixels * t.vectors, t.pixels + t.vectors) / 2 + 0.5) / t.vectors

    return min(found, key=lambda t: (cost(t), -t.pixels * t.vectors, t.vectors != 2))


def _packing(
    r: ConvRequest, shape: tuple[tuple[int, int], ...], tile: Tile, channels: int, outputs: int
) -> tuple[KernelCall, int]:
    """The call that transforms the weights, and the bytes of a point of a block."""
    g, item = r.geometry, ELEMENT_BYTES[r.element]
    width, taps = tile.vectors * tile.lanes, prod(g.kernel_size)
    panel_bytes = odd_lines(channels * width * item)
    strides = (g.in_channels_per_group * taps * item, taps * item)
    out_stride, in_stride = strides[:: 1 if r.contraction == "conv" else -1]
    blocks = outputs // width
    values = TransformArguments(
        source="w", result="packed", flag="flag", group_blocks=blocks,
        group_stride=g.out_channels_per_group * g.in_channels_per_group * taps * item, out_stride=out_stride,
        in_stride=in_stride, channels=channels, panel_bytes=panel_bytes,
    )  # fmt: skip
    spec = TransformSpec(r.element, tile.lanes, tile.vectors, shape, r.contraction != "conv")
    return kernel_call("transform weights", spec, values, g.groups * blocks), panel_bytes


def odd_lines(size: int) -> int:
    """Bytes up to an odd number of cache lines: what lies so far apart does not meet in the same sets."""
    return (-(-size // LINE_BYTES) | 1) * LINE_BYTES


def three(values: tuple[int, ...], fill: int) -> tuple[int, ...]:
    """The values of three axes; those of axes that are not there are `fill`."""
    return (fill,) * (AXES - len(values)) + values


def _multiply(
    r: ConvRequest, choice: Choice, shape: tuple[tuple[int, int], ...], tile: Tile, channels: int, outputs: int,
    panel_bytes: int,
) -> tuple[KernelCall, int, int]:  # fmt: skip
    """The call, the tiles of a band, and the bytes of scratch."""
    g, item, forward = r.geometry, ELEMENT_BYTES[r.element], r.contraction == "conv"
    points, width = prod(points_of(shape)), tile.vectors * tile.lanes
    blocks, tiles = outputs // width, g.batch * prod(choice.counts)
    v_tile = odd_lines(channels * item)
    most = _most_tiles(
        r.target.l2_bytes, points * blocks * panel_bytes, points * v_tile, points * width * item, tile.pixels
    )  # fmt: skip
    band, parts = _bands(tiles, g.groups, blocks, r.threads, tile.pixels, most)
    part_blocks = -(-blocks // parts)
    v_point = odd_lines(band * v_tile)
    m_point = odd_lines(-(-band // tile.pixels) * tile.pixels * width * item)
    together = part_blocks
    if points * v_point <= r.target.l2_bytes * 5 // 8:  # V stays in the cache, so M should, too
        together = max(1, min(part_blocks, r.target.l2_bytes // 4 // (points * m_point)))
    m_block = odd_lines(points * m_point)
    sizes_in = points_of(shape)
    v_at = tile_memory(sizes_in, sizes_in, tile.lanes, item, r.in_strides[1] != item)
    m_at = v_at + points * v_point
    thread_bytes = -(-(m_at + together * m_block) // 4096) * 4096 + LINE_BYTES
    order = order_of(channels)
    nodes, bounds = _nodes(order)
    step = order.levels[0].step if order.levels else channels
    last = channels - (channels - 1) // step * step
    unroll = max(n for n in range(1, max(1, 32 // (tile.pixels * tile.vectors)) + 1) if gcd(step, last) % n == 0)
    sizes, results = (g.input_size, g.output_size)[:: 1 if forward else -1]
    los = tuple(lo if forward else taps - 1 - lo for (lo, _), taps in zip(g.padding, g.kernel_size, strict=True))
    spec = WinogradSpec(
        element=r.element, lanes=tile.lanes, vectors=tile.vectors, pixels=tile.pixels, shape=shape, depth=order.depth,
        unroll=unroll, planes_in=r.in_strides[1] != item, planes_out=r.out_strides[1] != item, epilogue=r.finish,
    )  # fmt: skip
    along = by_axis(
        count=three(choice.counts, 1), lo=three(los, 0), in_=three(sizes, 1), in_stride=three(r.in_strides[2:], 0),
        out=three(results, 1), out_stride=three(r.out_strides[2:], 0),
    )  # fmt: skip
    values = WinogradArguments(
        **operands("x", "out"), **along, zeros=np.zeros(channels * item // 8 + 1, np.int64), scratch="scratch",
        thread_bytes=thread_bytes, tiles=tiles, in_image=r.in_strides[0], in_channel=r.in_strides[1], channels=channels,
        v_point=v_point, v_tile=v_tile, v_at=v_at, band=band, bands=-(-tiles // band), parts=parts, part_blocks=part_blocks,
        group_blocks=blocks, together=together, out_image=r.out_strides[0], out_channel=r.out_strides[1], group_channels=outputs,
        step=step, first_member=bounds[0], end_member=bounds[1], nodes=nodes, panel_bytes=panel_bytes, m_point=m_point,
        m_block=m_block, m_at=m_at, group_span=channels * r.in_strides[1],
    )  # fmt: skip
    tasks = g.groups * -(-tiles // band) * parts
    return kernel_call("multiply", spec, values, tasks), band, thread_bytes * r.threads


def by_axis(**values: tuple[int, ...]) -> dict[str, Any]:
    """Arguments that there are three of, by their names."""
    return {f"{name.rstrip('_')}_{k}": value for name, found in values.items() for k, value in enumerate(found)}


def _most_tiles(l2: int, weights: int, v_bytes: int, m_bytes: int, pixels: int) -> int:
    """Tiles of a band. weights: bytes of a group's; v_bytes, m_bytes: of a tile's transformed input, and of its sums of a block."""
    beside = (l2 * 7 // 8 - weights) // (v_bytes + m_bytes) // pixels * pixels
    if beside >= 2 * pixels:  # the weights stay in the second cache, too
        return min(beside, FAR_TILES)
    near = l2 // 2 // v_bytes
    return min(near, MOST_TILES) if near >= NEAR_TILES else FAR_TILES


def _bands(tiles: int, groups: int, blocks: int, threads: int, pixels: int, most: int) -> tuple[int, int]:
    """Tiles of a band, about `most`, and parts of a group's output channels, so that every thread has its share."""
    bands, parts = -(-tiles // most), 1
    if threads > 1 and bands * groups < EVEN_TASKS * threads:
        shared = -(-bands // threads) * threads
        if tiles // shared >= 2 * pixels or bands * groups >= FEW_TASKS * threads:
            return _even_band(tiles, groups, threads, pixels, -(-most // pixels) * pixels), 1
        parts = min(blocks, -(-threads // bands))
    band = -(-tiles // bands)
    if band > pixels:
        band = -(-band // pixels) * pixels
    return min(band, tiles), parts


def _even_band(tiles: int, groups: int, threads: int, pixels: int, most: int) -> int:
    """Tiles of a band, at most so many, with which the thread that has most to do is done first. A band counts for a tile more: its weights."""

    def longest(band: int) -> int:
        whole, rest = divmod(tiles, band)
        turns, over = divmod(groups * whole, threads)
        last = band + 1 if over else rest + 1 if rest else 0
        return turns * (band + 1) + last

    return min(range(pixels, most + 1, pixels), key=lambda band: (longest(band), -band))


def _nodes(order: Order) -> tuple[Array, tuple[int, int]]:
    """Groups of blocks, groups of groups, ..., as ranges of what is below, and the range of the highest level."""
    tables, below, base = [], 0, 0
    size = -(-order.axes[0] // order.levels[0].step) if order.levels else 1
    for cut in order.levels[1:]:
        count = -(-size // cut.step)
        nodes = Node.zeros(count)
        nodes["first"] = below + np.arange(count) * cut.step
        nodes["end"] = np.minimum(nodes["first"] + cut.step, below + size)
        tables.append(nodes)
        below, base, size = base, base + count, count
    return np.concatenate(tables) if tables else Node.zeros(1), (below, below + size)
