"""The program of a depthwise weight gradient: see `weight_grad_kernel`."""

from __future__ import annotations

from itertools import pairwise, product
from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.depthwise.weight_grad_kernel import Block, DepthwiseGradArguments, DepthwiseGradSpec, Position, Tile
from preimage.engines.jit.index.running_sums import RunningSums, image_levels, running_sums
from preimage.engines.jit.packing.copy_kernel import Line, SwapArguments, SwapSpec
from preimage.engines.jit.packing.moves import slab_calls
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call
from preimage.engines.jit.request import WeightGradRequest, little_macs
from preimage.geometry import ConvGeometry

__all__ = ["is_depthwise_grad", "lower_depthwise_grad", "not_depthwise_grad", "take_refusal"]


def is_depthwise_grad(r: WeightGradRequest) -> bool:
    """Whether this strategy takes a request."""
    return not_depthwise_grad(r) is None


def not_depthwise_grad(r: WeightGradRequest) -> str | None:
    """None for one input channel a group, and as many output channels as divide a vector (a depthwise multiplier of 1, 2, 4...)."""
    g = r.geometry
    if not g.is_depthwise or g.ndim == 0:
        return (
            "there is no spatial axis" if g.is_depthwise else f"each group has {g.in_channels_per_group} input channels, not one"
        )
    if _is_too_little(r):
        return "little work: the kernels of any size take it"
    if _lanes(r) % g.out_channels_per_group:
        return f"{g.out_channels_per_group} output channels a group do not divide vectors of {_lanes(r)}"
    return None


def take_refusal(r: WeightGradRequest) -> None:
    """Name the decision that a depthwise layer is not computed by this strategy."""
    if r.geometry.is_depthwise and r.geometry.ndim:
        branches.depthwise_weight_grad("refused.little_work" if _is_too_little(r) else "refused.multiplier")


def _is_too_little(r: WeightGradRequest) -> bool:
    return r.little and r.geometry.inside_macs * r.target.costs.depthwise.weight_grad_gain <= little_macs()


def _lanes(r: WeightGradRequest) -> int:
    full = r.target.vector_bytes // ELEMENT_BYTES["f64" if r.element == "f64" else "f32"]
    return int(min(full, 1 << (r.geometry.out_channels - 1).bit_length()))


def lower_depthwise_grad(r: WeightGradRequest) -> Program:
    """Channels-last operands in place, others through channels-last copies."""
    g = r.geometry
    inner, size = r.sums, ELEMENT_BYTES[r.sums]
    program = ProgramBuilder("depthwise weight gradient")
    lanes = _lanes(r)
    x_name, x_element, x_strides = _side(program, r, "x", (g.batch, g.in_channels, *g.input_size), r.x_strides, inner)
    y_name, y_element, y_strides = _side(program, r, "y", (g.batch, g.out_channels, *g.output_size), r.y_strides, inner)

    taps = prod(g.kernel_size)
    parts_h, parts_w, vectors = _split(g, lanes, 26 if r.target.vector_registers >= 32 else 10, r.threads)
    width = vectors * lanes
    blocks = -(-g.out_channels // width)
    sum_tap = blocks * width * size
    program.buffers.append(Buffer("sums", taps * sum_tap))
    zeros = np.zeros(4 * 64, np.float64)
    walk = running_sums(g.output_size)
    steps, image_steps, last_steps = walk.with_images(g.batch)
    n_levels = walk.depth + image_levels(g.batch)
    level_room = 0
    tiles_said = []
    for rows, columns in product(sorted({n for _, n in parts_h}), sorted({n for _, n in parts_w})):
        tiles, blocks_of_tiles, positions = _tables(g, walk, x_strides, y_strides, [k for k, n in parts_h if n == rows], rows,
                                   [k for k, n in parts_w if n == columns], columns, sum_tap)  # fmt: skip
        units = len(tiles) * blocks
        wanted = 1 if r.threads == 1 else min(units, 4 * r.threads)
        per_task = -(-units // wanted)
        spec = DepthwiseGradSpec(
            element=inner, x_element=x_element, y_element=y_element, lanes=lanes, vectors=vectors, rows=rows,
            columns=tuple(k * g.dilation[-1] for k in range(columns)), step=g.stride[-1],
            turn=_turn(rows * columns * vectors, vectors, r.target.vector_registers), x_pixel=x_strides[-1],
            y_pixel=y_strides[-1], repeat=g.out_channels_per_group, ragged=g.out_channels % width != 0,
        )  # fmt: skip
        values = DepthwiseGradArguments(
            x=x_name, y=y_name, sums="sums", tiles=tiles, positions=positions, n_tiles=len(tiles), units=units,
            units_per_task=per_task, images=g.batch, x_image=x_strides[0], y_image=y_strides[0],
            x_row=x_strides[-2] * g.dilation[-2] if g.ndim > 1 else 0, sum_row=g.kernel_size[-1] * sum_tap, sum_tap=sum_tap,
            channels=g.out_channels, columns=g.input_size[-1], zeros=zeros, blocks=blocks_of_tiles,
            levels="levels" if n_levels else 0, thread_bytes=n_levels * spec.tile_bytes, steps=steps, image_steps=image_steps,
            last_steps=last_steps, n_steps=len(steps), image_level=walk.depth,
        )  # fmt: skip
        level_room = max(level_room, n_levels * spec.tile_bytes)
        program.calls.append(kernel_call("depthwise weight gradient", spec, values, -(-units // per_task)))
        tiles_said.append(f"{rows} x {columns} taps x {vectors} vectors of {lanes} channels")
    if level_room:
        program.buffers.append(Buffer("levels", r.threads * level_room))
    _take(g, {"x": x_name, "y": y_name}, {"rows": len(parts_h), "columns": len(parts_w), "vectors": vectors}, width)
    program.calls.append(_order(r, inner, taps, sum_tap))
    program.skips_padding = True
    program.details = {"tile": "; ".join(tiles_said), "x": x_name, "y": y_name}
    return program.done()


def _take(g: ConvGeometry, read: dict[str, str], counts: dict[str, int], width: int) -> None:
    """Name the decisions. read: the array that each operand is read from; width: channels of a tile."""
    take = branches.depthwise_weight_grad
    take("taken")
    for name, array in read.items():
        take(f"{name}.{'in_place' if array == name else 'copied'}")
    counts |= {"multiplier": g.out_channels_per_group, "images": g.batch}
    for name, count in counts.items():
        take(f"{name}.{'one' if count == 1 else 'several'}")
    take("channels.ragged" if g.out_channels % width else "channels.whole")
    take(f"axes.{('one', 'two')[g.ndim - 1] if g.ndim < 3 else 'more'}")


def _side(
    program: ProgramBuilder, r: WeightGradRequest, name: str, shape: tuple[int, ...], strides: tuple[int, ...], inner: str
) -> tuple[str, str, list[int]]:
    """Array, element type and byte strides (image, spatial) of an operand with neighbouring channels."""
    own, size = ELEMENT_BYTES[r.element], ELEMENT_BYTES[inner]
    if strides[1] == own:
        return name, r.element, [strides[0], *strides[2:]]
    sizes = [shape[0], *shape[2:]]
    slab = [prod(sizes[k + 1 :]) * shape[1] * size for k in range(len(sizes))]
    full = r.target.vector_bytes // size
    calls = slab_calls(
        sizes,
        [strides[0], *strides[2:]],
        shape[1],
        strides[1],
        r.element,
        inner,
        [(0, 0)] * len(sizes),
        full,
        slab,
        r.target.costs.packing,
    )
    program.calls += [call.renamed(f"{call.name} {name}", {"x": name, "slab": f"{name} slab"}) for call in calls]
    program.buffers.append(Buffer(f"{name} slab", prod(sizes) * shape[1] * size))
    return f"{name} slab", inner, slab


def _even(total: int, most: int) -> list[tuple[int, int]]:
    """0 .. total - 1 in runs of almost equal length, at most `most`: (first, length)."""
    pieces = -(-total // max(1, most))
    edges = [total * k // pieces for k in range(pieces + 1)]
    return [(a, b - a) for a, b in pairwise(edges)]


def _split(g: ConvGeometry, lanes: int, most: int, threads: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
    """Runs of taps along the second last and the last axis, and the vectors of a block, for `most` sums in registers."""
    last, above = g.kernel_size[-1], g.kernel_size[-2] if g.ndim > 1 else 1
    columns = _even(last, min(11, most))
    longest = max(n for _, n in columns)
    rows = _even(above, max(1, most // longest))
    tall = max(n for _, n in rows)
    vectors = 1
    needed = -(-g.out_channels // lanes)
    while (
        vectors < 4
        and tall * longest * vectors * 2 <= min(most, 18)
        and needed >= vectors * 2
        and needed % (vectors * 2) == 0
        and needed // (vectors * 2) * len(rows) * len(columns) >= (1 if threads == 1 else 2 * threads)
    ):
        vectors *= 2
    if vectors == 1 and needed == 2 and threads == 1 and tall * longest * 2 <= most:
        vectors = 2
    return rows, columns, vectors


def _turn(sums: int, vectors: int, registers: int) -> int:
    """Pixels of a turn: as many as registers are left for their y."""
    return max(1, min(8, (registers - 2 - sums) // vectors))


def _reach(g: ConvGeometry, axis: int, k: int) -> tuple[int, int]:
    """The output positions along `axis` whose tap k lies on the input: first, last + 1."""
    stride, start = g.stride[axis], k * g.dilation[axis] - g.padding[axis][0]
    first = max(0, -(start // stride))
    last = min(g.output_size[axis], (g.input_size[axis] - 1 - start) // stride + 1)
    return first, max(first, last)


def _tables(
    g: ConvGeometry, walk: RunningSums, x_strides: list[int], y_strides: list[int], starts_h: list[int], rows: int, starts_w: list[int],
    columns: int, sum_tap: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """The tiles of rows x columns taps, the blocks and the positions of each (see the schedule's words)."""
    tiles: list[Array] = []
    blocks: list[Array] = []
    n_blocks = 0
    positions: list[Array] = []
    count = 0
    lines = walk.lines()
    firsts = lines[0].searchsorted(np.arange(len(walk.ends) + 1))
    (_, first_row, first_column, end_column), last_row = lines[:, firsts[:-1]], lines[1, firsts[1:] - 1]
    far, above = list(range(g.ndim - 2)), g.ndim - 2  # the axes before, and the second last one
    last = g.ndim - 1
    for outer in product(*(range(g.kernel_size[k]) for k in far), starts_h):
        table = np.zeros((1, 5), np.int64)  # the words of a position, and its row among all
        table[:, 3] = rows if g.ndim == 1 else 0
        for axis, k in zip(far, outer, strict=False):
            first, end = _reach(g, axis, k)
            at = np.arange(first, end, dtype=np.int64)
            more = np.zeros((len(at), 5), np.int64)
            more[:, 0] = (at * g.stride[axis] + k * g.dilation[axis] - g.padding[axis][0]) * x_strides[1 + axis]
            more[:, 1] = at * y_strides[1 + axis]
            more[:, 4] = at * prod(g.output_size[axis + 1 : last])
            table = (table[:, None] + more[None]).reshape(-1, 5)
        if g.ndim > 1:
            start = outer[-1]
            at = np.arange(g.output_size[above], dtype=np.int64)
            line = at * g.stride[above] + start * g.dilation[above] - g.padding[above][0]
            on = np.stack(
                [(line + q * g.dilation[above] >= 0) & (line + q * g.dilation[above] < g.input_size[above]) for q in range(rows)]
            )
            more = np.stack([line * x_strides[1 + above], at * y_strides[1 + above], on.argmax(0), on.sum(0), at], axis=1)
            table = (table[:, None] + more[on.any(0)][None]).reshape(-1, 5)
        positions.append(Position.of_rows(table[:, :4]))
        met = [np.searchsorted(table[:, 4], line) + count for line in (first_row, last_row + 1)]
        needed = walk.needed(met[0] == met[1])
        own_blocks = n_blocks, n_blocks + len(needed)
        n_blocks += len(needed)
        blocks.append(Block(
            first_position=met[0], end_position=met[1],
            first_column=first_column, end_column=end_column, first_step=walk.ends["first_step"],
            end_step=walk.ends["end_step"], level=walk.ends["level"],
        ).table()[needed])  # fmt: skip
        number = 0
        for axis, k in zip(range(g.ndim - 1), outer, strict=False):
            number = number * g.kernel_size[axis] + k
        tiles += [_tile(g, number, start, columns, own_blocks, sum_tap) for start in starts_w]
        count += len(table)
    joined = Position.joined(positions) if count else Position.zeros(1)
    return Tile.joined(tiles), Block.joined(blocks), joined


def _tile(g: ConvGeometry, row: int, start: int, columns: int, blocks: tuple[int, int], sum_tap: int) -> Array:
    """The taps `start` .. of the last axis in a row of taps, as a table of one tile."""
    last = g.ndim - 1
    reach = [_reach(g, last, start + t) for t in range(columns)]
    some = [pair for pair in reach if pair[0] < pair[1]]
    begin, end = (min(a for a, _ in some), max(b for _, b in some)) if some else (0, 0)
    all_begin, all_end = max(a for a, _ in reach), min(b for _, b in reach)
    if all_begin >= all_end:
        all_begin = all_end = end
    column = start * g.dilation[last] - g.padding[last][0]
    offset = (row * g.kernel_size[last] + start) * sum_tap
    return Tile(
        first_block=blocks[0], end_block=blocks[1], column=column, begin=begin, all_begin=all_begin, all_end=all_end, end=end,
        sums=[offset],
    ).table()  # fmt: skip


def _order(r: WeightGradRequest, inner: str, taps: int, sum_tap: int) -> KernelCall:
    """[tap][channel] to the result's [channel][tap]."""
    g, size, own = r.geometry, ELEMENT_BYTES[inner], ELEMENT_BYTES[r.element]
    values = SwapArguments(
        input="sums", output="out", lines=Line(source=0, result=0, count=taps, columns=[g.out_channels]), total=1, per_task=1,
        source_stride=sum_tap, result_stride=taps * own,
    )  # fmt: skip
    return kernel_call("order result", SwapSpec(inner, r.element, r.target.vector_bytes // size, EpilogueSpec()), values, 1)
