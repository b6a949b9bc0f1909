"""The program of a depthwise convolution or transposed convolution: see `channels_last_kernel`."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.depthwise.applies import lanes_of
from preimage.engines.jit.depthwise.channels_last_kernel import REUSE_STEP, ChannelsLastArguments, DepthwiseSpec, Row, Tap, Tile
from preimage.engines.jit.index.gather import numbered, positions_of
from preimage.engines.jit.index.taps import Axis, Ints, Phase, as_ints, gather_axes
from preimage.engines.jit.index.terms import Terms, node_tables
from preimage.engines.jit.packing.moves import slab_calls, swap_back, weight_call
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call, operands
from preimage.engines.jit.request import ConvRequest
from preimage.records import record

__all__ = ["lower_depthwise"]


@record
class _Pattern:
    """Phases of the pixel axis that share a kernel: the columns of their taps, and the taps from one to the next."""

    columns: tuple[int, ...]
    tap_stride: int


def _pattern(phase: Phase) -> _Pattern:
    low = min((offset for _, offset in phase.taps), default=0)
    numbers = [number for number, _ in phase.taps]
    stride = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    return _Pattern(tuple(offset - low for _, offset in phase.taps), stride)


def _pixel_axis(axes: list[Axis]) -> int:
    """The last axis that is more than one position without taps."""
    return max([k for k in range(1, len(axes)) if axes[k].kernel > 1 or axes[k].out_size > 1], default=len(axes) - 1)


def lower_depthwise(r: ConvRequest) -> Program:
    """Channels-last in place; channels-first through channels-last scratch."""
    g = r.geometry
    target = r.target
    inner = "f64" if r.element == "f64" else "f32"
    item, own = ELEMENT_BYTES[inner], ELEMENT_BYTES[r.element]
    channels = g.out_channels
    full, lanes = target.vector_bytes // item, lanes_of(r)
    axes = gather_axes(g, r.contraction)
    program = ProgramBuilder("depthwise")

    in_sizes, out_sizes = [axis.in_size for axis in axes], [axis.out_size for axis in axes]
    in_strides, out_strides = [r.in_strides[0], *r.in_strides[2:]], [r.out_strides[0], *r.out_strides[2:]]
    read, written, element = "x", "out", r.element
    if r.in_strides[1] != own:
        read, element = "slab", inner
        slab_strides = [prod(in_sizes[k + 1 :]) * channels * item for k in range(len(axes))]
        program.calls += slab_calls(
            in_sizes,
            in_strides,
            channels,
            r.in_strides[1],
            r.element,
            inner,
            [(0, 0)] * len(axes),
            full,
            slab_strides,
            r.target.costs.packing,
        )
        program.buffers.append(Buffer("slab", prod(in_sizes) * channels * item))
        in_strides = slab_strides
    straight = r.out_strides[1] == own
    if not straight:
        written = "scratch"
        out_strides = [prod(out_sizes[k + 1 :]) * channels * item for k in range(len(axes))]
        program.buffers.append(Buffer("scratch", prod(out_sizes) * channels * item))
    program.calls += _calls(program, r, axes, element, lanes, in_strides, out_strides, read, written, straight)
    if not straight:
        true_strides = [r.out_strides[0], *r.out_strides[2:]]
        program.calls.append(
            swap_back(
                out_sizes, true_strides, channels, r.out_strides[1], inner, r.element, full, r.finish, r.target.costs.packing
            )
        )
    program.skips_padding = any(axis.margins != (0, 0) for axis in axes)
    take = branches.channels_last
    take("taken")
    take("input.in_place" if read == "x" else "input.transposed")
    take("result.in_place" if straight else "result.scratch")
    take("multiplier.one" if g.out_channels_per_group == 1 else "multiplier.several")
    take("padding.skipped" if program.skips_padding else "padding.none")
    program.details["input"] = "read in place" if read == "x" else "transposed to channels-last"
    program.details["result"] = "stored in place" if straight else "transposed back from a channels-last scratch"
    return program.done()


def _calls(
    program: ProgramBuilder, r: ConvRequest, axes: list[Axis], element: str, lanes: int, in_strides: list[int], out_strides: list[int],
    read: str, written: str, straight: bool,
) -> list[KernelCall]:  # fmt: skip
    """Packing the weights, and one launch for every pattern of taps along the pixel axis."""
    g, target = r.geometry, r.target
    costs = target.costs
    inner = "f64" if r.element == "f64" else "f32"
    channels, at = g.out_channels, _pixel_axis(axes)
    pixel_axis, outer = axes[at], [k for k in range(len(axes)) if k != at]
    groups, terms = _by_pattern(pixel_axis), Terms.of(1, axes[1:])
    vectors = 1 if r.little or target.vector_registers < 32 else _vectors(channels, lanes, pixel_axis)
    width = vectors * lanes
    tap_bytes, blocks = width * ELEMENT_BYTES[inner], -(-channels // width)
    weights, block_bytes = _pack(program, r, inner, lanes, vectors, blocks)
    take = branches.channels_last
    _take_blocks(at == len(axes) - 1, len(groups), vectors, channels % width != 0, blocks)
    zeros = np.zeros(width, np.float64)  # as wide as a whole tile of any element type
    calls = [] if r.prepared else [weights]
    tiles_of = []
    for pattern, phases in groups.items():
        place = len(axes) - at  # of the pixels' axis in the order of a sum
        unrolled = len(pattern.columns) <= costs.depthwise.most_taps_in_code and not (r.little or terms.cuts(place))
        columns = pattern.columns if unrolled else (0,)
        down = g.ndim > 1 and at == g.ndim and _goes_down(r, pixel_axis, axes[at - 1], in_strides[at - 1])
        pixels = _tile_pixels(r, pattern, phases, vectors, in_strides[at] if down else 0)
        tiles = _tiles(pixel_axis, phases, pixels, columns, out_strides[at], tap_bytes)
        if not pattern.columns:
            take("phases.empty")
        take("taps.unrolled" if unrolled else "taps.looped")
        take("tiles.down" if down else "tiles.along")
        take("tiles.over_the_ends" if tiles["edge"].any() else "tiles.inside")
        rows, taps = _rows(axes, outer, in_strides, out_strides, tap_bytes, terms)
        if not unrolled:
            taps = _spread(taps, pattern, in_strides[at], tap_bytes, terms.members(place, np.arange(len(pattern.columns))))
        lone = terms.lone_rows(place) if unrolled else terms.lone
        nodes = _give_ranges(rows, taps, lone)
        rows["first_tile"], rows["end_tile"] = 0, len(tiles)
        rows, bounds = _share(rows, len(tiles) * pixels * width * blocks * max(1, len(pattern.columns)), r, down)
        spec = DepthwiseSpec(
            element=element, out=r.element if straight else inner, inner=inner, lanes=lanes, vectors=vectors, pixels=pixels, columns=columns,
            step=0 if r.little else phases[0].in_step, tap_stride=1 if r.little else pattern.tap_stride,
            pixel_bytes=0 if r.little else in_strides[at], repeat=g.out_channels_per_group,
            ragged="any" if r.little else ("last" if blocks == 1 else "any") if channels % width else "",
            edges=r.little or bool(tiles["edge"].any()), depth=terms.order.depth, lone=lone,
            finish=r.finish if straight else EpilogueSpec(), ahead=down,
        )  # fmt: skip
        values = ChannelsLastArguments(
            **operands(read, written), rows=rows, tiles=tiles, taps=taps.table, nodes=nodes, chunk_rows=bounds, zeros=zeros, blocks=blocks,
            block_bytes=block_bytes, channels=channels, step=phases[0].in_step, pixel_bytes=in_strides[at],
            ahead=in_strides[at - 1] if down else 0,  # the next line: measured 1.3 times as fast on 25 MB of input
            columns=pixel_axis.in_size, out_pixel_bytes=phases[0].step * out_strides[at],
        )  # fmt: skip
        calls.append(kernel_call("depthwise", spec, values, len(bounds) - 1))
        tiles_of.append(f"{pixels} pixels x {vectors} vectors of {lanes} channels, {len(pattern.columns)} taps a row")
    program.details |= {"tile": "; ".join(tiles_of), "tasks": ", ".join(str(call.tasks) for call in calls[1:])}
    return calls


def _pack(program: ProgramBuilder, r: ConvRequest, inner: str, lanes: int, vectors: int, blocks: int) -> tuple[KernelCall, int]:
    """The call that packs the weights, in so many blocks of channels, and the bytes of a block."""
    shape = (r.geometry.out_channels, 1, *r.geometry.kernel_size)
    call, block_bytes = weight_call("conv", shape, 1, r.element, inner, lanes, vectors * lanes, r.target.costs.packing)
    program.packing, program.packed_bytes = call, blocks * block_bytes
    program.packed_key = ("depthwise", r.element, lanes, vectors)
    if not r.prepared:
        program.buffers.append(Buffer("packed", program.packed_bytes))
    return call, block_bytes


def _by_pattern(axis: Axis) -> dict[_Pattern, list[Phase]]:
    """The phases with positions, by what they share."""
    found: dict[_Pattern, list[Phase]] = {}
    for phase in axis.phases:
        if phase.count:
            found.setdefault(_pattern(phase), []).append(phase)
    return found


def _take_blocks(last_axis: bool, patterns: int, vectors: int, ragged: bool, blocks: int) -> None:
    take = branches.channels_last
    take("pixels.last_axis" if last_axis else "pixels.outer_axis")
    take("patterns.one" if patterns == 1 else "patterns.several")
    take("vectors.one" if vectors == 1 else "vectors.several")
    take("channels.whole" if not ragged else f"channels.ragged.{'one_block' if blocks == 1 else 'several_blocks'}")


def _tile_pixels(r: ConvRequest, pattern: _Pattern, phases: list[Phase], vectors: int, pixel_bytes: int) -> int:
    """Pixels of a tile; pixel_bytes: where tiles go down the lines, of a pixel of the input, so that what they read stays in the cache."""
    pixels = _pixels(pattern, phases, vectors, r.target.vector_registers)
    if r.little:
        pixels = 1 << (pixels.bit_length() - 1)
    if pixel_bytes:
        span = r.target.l2_bytes * 3 // 4 // (r.geometry.kernel_extent[-2] * pixel_bytes)
        pixels = max(1, min(pixels, (span - max(pattern.columns, default=0)) // phases[0].in_step + 1))
    return pixels


def _vectors(channels: int, lanes: int, axis: Axis) -> int:
    """Vectors of a block: more where that leaves no lane empty and a pixel's columns are used once or twice only.

    Measured: neighbouring vectors are read from the caches better than pixels far apart, and a tile of many pixels loads
    less; 3 taps with stride 1 want 2 vectors, with stride 2 they want 4, 5 taps and more want 1. All of that with 32 registers;
    with 16 one vector is best (Zen 3: 1.3 to 2 times).
    """
    if channels <= 2 * lanes:
        return -(-channels // lanes)
    taps, step = max(len(p.taps) for p in axis.phases), axis.phases[0].in_step
    if taps <= 3:
        for vectors in (4, 2) if step > 1 else (2,):
            if channels % (vectors * lanes) == 0:
                return vectors
    return 1


def _pixels(pattern: _Pattern, phases: list[Phase], vectors: int, registers: int) -> int:
    """Pixels of a tile: as many as registers hold with their window of columns, and as fit the phases with little overlap."""
    most = (14 if len(pattern.columns) <= 3 or phases[0].in_step > REUSE_STEP else 8) // vectors
    if registers < 32:  # a sum and a column for each pixel, beside a tap's weights
        most = min(most, (registers - vectors) // (2 * vectors))
    most = max(1, min([most, *(p.count for p in phases)]))

    def cost(pixels: int) -> float:
        return sum(-(-p.count // pixels) for p in phases) * (pixels + 1.5)

    return min(range(most, max(0, most // 2), -1), key=cost)


def _tiles(axis: Axis, phases: list[Phase], pixels: int, columns: tuple[int, ...], out_stride: int, tap_bytes: int) -> Array:
    """First column, output offset, weight offset and edge flag of every tile of these phases."""
    parts = []
    for phase in phases:
        starts = np.minimum(np.arange(0, phase.count, pixels, dtype=np.int64), phase.count - pixels)
        low = min((offset for _, offset in phase.taps), default=0)
        number = phase.taps[0][0] if phase.taps else 0
        highest = max((offset for _, offset in phase.taps), default=0)
        column = starts * phase.in_step + low if phase.taps else np.zeros_like(starts)
        reach = (pixels - 1) * phase.in_step + highest - low
        outside = (column < 0) | (column + reach >= axis.in_size) if phase.taps else False
        output = (phase.start + starts * phase.step) * out_stride
        parts.append(Tile(column=column, output=output, weight=number * tap_bytes, edge=outside).table())
    return Tile.joined(parts)


class _Taps(NamedTuple):
    """The table of taps; owner, members: see `terms.node_tables`."""

    table: Array
    owner: Ints
    members: Ints


def _rows(
    axes: list[Axis], outer: list[int], in_strides: list[int], out_strides: list[int], tap_bytes: int, terms: Terms
) -> tuple[Array, _Taps]:
    """Every position of the outer axes, and lists of the outer taps that reach it, row-major. first: the number of a row's list."""
    weights = [prod([axis.kernel for axis in axes[k + 1 :]]) * tap_bytes for k in range(len(axes))]
    rows: list[Array] = []
    taps: list[tuple[Array, Ints]] = []
    known: dict[Any, int] = {}

    def number_of(ranges: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]) -> int:
        """The number of the list of some ranges of taps, each with the number of its first."""
        if ranges not in known:
            known[ranges] = len(taps)
            taps.append(_taps_of(ranges, outer, len(axes), in_strides, weights, terms))
        return known[ranges]

    for phases in product(*([p for p in axes[k].phases if p.count] for k in outer)):
        at_in, at_out, number = positions_of(outer, phases, in_strides, out_strides)
        every = product(*([(first, p.taps[first:last]) for first, last in p.classes[1]] for p in phases))
        lists = np.array([number_of(ranges) for ranges in every], np.int64)
        rows.append(Row(input=at_in, output=at_out, first=lists[number], end=0, first_tile=0, end_tile=0).table())
    tables, members = [table for table, _ in taps], np.concatenate([numbers for _, numbers in taps])
    return Row.joined(rows), _Taps(Tap.joined(tables), numbered(tables), members)


def _taps_of(
    ranges: tuple[tuple[int, tuple[tuple[int, int], ...]], ...], outer: list[int], ndim: int, in_strides: list[int], weights: list[int],
    terms: Terms,
) -> tuple[Array, Ints]:  # fmt: skip
    """The table of a list of taps: of the ranges along the outer axes, row-major; and the numbers of their blocks, groups, ..."""
    at, weight, numbers = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, terms.order.depth), np.int64)
    for k, (begin, part) in zip(outer, ranges, strict=True):
        if k and terms.order.depth:
            more = terms.members(ndim - k, np.arange(begin, begin + len(part)))
            numbers = (numbers[:, None] + more).reshape(len(numbers) * len(more), terms.order.depth)
        if part != ((0, 0),):
            number, offset = np.array(part, np.int64).reshape(-1, 2).T
            at = (at[:, None] + offset * in_strides[k]).ravel()
            weight = (weight[:, None] + number * weights[k]).ravel()
    if not terms.order.depth:
        numbers = np.zeros((len(at), 0), np.int64)
    return Tap(input=at, weight=weight, columns=0).table(), numbers


def _give_ranges(rows: Array, taps: _Taps, lone: bool) -> Array:
    """The nodes of the sums; rows are given the ranges of their lists, in place of the lists' numbers."""
    ranges, nodes = node_tables(taps.owner, taps.members, int(rows["first"].max()) + 1, lone)
    lists = ranges[rows["first"]]
    rows["first"], rows["end"] = lists["first"], lists["end"]
    return nodes


def _spread(taps: _Taps, pattern: _Pattern, in_stride: int, tap_bytes: int, members: Ints) -> _Taps:
    """The taps of the last axis as turns of the outer loop. members: what they add to the numbers of their blocks, groups, ..."""
    columns = np.array(pattern.columns, np.int64)
    weight = np.arange(len(columns)) * (pattern.tap_stride * tap_bytes)
    outer = {name: taps.table[name][:, None] for name in ("input", "weight", "columns")}
    spread = Tap(input=outer["input"] + columns * in_stride, weight=outer["weight"] + weight, columns=outer["columns"] + columns)
    numbers = (taps.members[:, None] + members).reshape(len(taps.members) * len(members), members.shape[1])
    return _Taps(spread.table(), np.repeat(taps.owner, len(columns)), numbers)


def _goes_down(r: ConvRequest, columns: Axis, lines: Axis, line_bytes: int) -> bool:
    """Whether tiles should go down the lines, not along them: kernel rows overlap, all lines under the kernel are more than
    the L2 cache holds, and little is computed with an element once it is there.
    """
    g = r.geometry
    window = g.kernel_extent[-2] * line_bytes
    overlap = lines.phases[0].in_step < g.kernel_extent[-2] and columns.phases[0].in_step > 1
    return overlap and window > r.target.l2_bytes // 2 and g.inside_macs < 8 * prod(g.input_shape)


def _share(rows: Array, row_work: int, r: ConvRequest, down: bool) -> tuple[Array, Ints]:
    """Rows in order, cut into tasks of about equal work; long rows are cut into pieces first; down: tile by tile."""
    rows = rows[np.argsort(rows["output"], kind="stable")]
    total = row_work * len(rows)
    wanted = 1 if r.threads == 1 else max(1, min(8 * r.threads, total // r.target.costs.depthwise.least_task))
    longest = int(rows["end_tile"][0])
    pieces = longest if down else min(longest, -(-wanted // len(rows)))
    branches.channels_last("rows.cut" if pieces > 1 else "rows.whole")
    if pieces > 1:
        parts = []
        for piece in range(pieces):
            part = rows.copy()
            part["first_tile"], part["end_tile"] = rows["end_tile"] * piece // pieces, rows["end_tile"] * (piece + 1) // pieces
            parts.append(part)
        rows = np.concatenate(parts) if down else np.stack(parts, axis=1).ravel()
    tasks = max(1, min(wanted, len(rows)))
    return np.ascontiguousarray(rows), as_ints([len(rows) * k // tasks for k in range(tasks + 1)])
