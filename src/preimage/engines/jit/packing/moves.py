"""Calls that pack: an input into a slab, a result back into its memory order, weights into blocks (see the `*_kernel` files)."""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.ir.shuffles import can_split
from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import PackingCosts
from preimage.engines.jit.index.taps import Folded, Ints
from preimage.engines.jit.packing.copy_kernel import NO_SOURCE, CopyArguments, CopySpec, Line, SwapArguments, SwapSpec
from preimage.engines.jit.packing.fold_kernel import FoldArguments, FoldSpec
from preimage.engines.jit.packing.weights_kernel import GatherWeightArguments, GatherWeightSpec, WeightArguments, WeightSpec
from preimage.engines.jit.program import KernelCall, kernel_call

__all__ = [
    "block_side",
    "copy_call",
    "folded_weight_call",
    "pieces",
    "positions",
    "slab_calls",
    "swap_back",
    "tap_pitch",
    "weight_call",
]


def copy_call(name: str, spec: CopySpec, lines: Array, source: str, result: str, costs: PackingCosts) -> KernelCall:
    """Copy lines (a table of `Line`) from one array to another."""
    total, per_task, tasks = _shares(len(lines), int(np.maximum(lines["count"], 1).sum()), costs)
    return kernel_call(name, spec, CopyArguments(input=source, output=result, lines=lines, total=total, per_task=per_task), tasks)


def _shares(lines: int, elements: int, costs: PackingCosts) -> tuple[int, int, int]:
    """Lines in all and in a task, and tasks: of about `task_elements` elements."""
    tasks = max(1, min(lines, elements // costs.task_elements))
    per_task = -(-lines // tasks)
    branches.packing("tasks.one" if tasks == 1 else "tasks.several")
    return lines, per_task, -(-lines // per_task)


def positions(sizes: list[int], strides: list[int]) -> Ints:
    """Offsets of all positions of some axes, row-major."""
    at = np.zeros(1, np.int64)
    for size, stride in zip(sizes, strides, strict=True):
        if size != 1:
            at = (at[:, None] + np.arange(size, dtype=np.int64) * stride).ravel()
    return at


def pieces(length: int, piece: int) -> tuple[Ints, Ints]:
    """First element and length of the pieces that a line is cut into."""
    first = np.arange(0, length, piece, dtype=np.int64)
    return first, np.minimum(piece, length - first) if len(first) > 1 else np.full(len(first), length)


def slab_calls(
    sizes: list[int], strides: list[int], channels: int, channel_stride: int, source: str, result: str,
    margins: list[tuple[int, int]], lanes: int, result_strides: list[int], costs: PackingCosts,
) -> list[KernelCall]:  # fmt: skip
    """Copy an input (axes: batch and spatial; strides in bytes) into a channels-last slab with margins of zeros.

    Either the channels or the last axis lie contiguously in the source. Result strides are those of the slab.
    """
    item, out_item = ELEMENT_BYTES[source], ELEMENT_BYTES[result]
    pixel = result_strides[-1]  # at least the channels; more where neighbouring pixels should fall on different cache sets
    pitch = pixel // out_item
    last = channel_stride == item or channels == 1
    branches.packing("input.copied" if last else "input.transposed")
    if any(m != (0, 0) for m in margins[:-1]):
        branches.packing("input.margins.lines")
    branches.packing("input.margins.columns" if margins[-1] != (0, 0) else "input.margins.no_columns")
    outer = list(zip(sizes[:-1], strides[:-1], result_strides[:-1], margins[:-1], strict=True))
    width, (left, right) = sizes[-1], margins[-1]
    begins = positions([s for s, *_ in outer], [a for _, a, *_ in outer])[:, None]  # of rows, in the source and in the slab
    places = positions([s for s, *_ in outer], [b for _, _, b, _ in outer])[:, None] + sum(m[0] * b for _, _, b, m in outer)
    zeros: list[Array] = []
    if any(m != (0, 0) for *_, m in outer):
        every = positions([s + m[0] + m[1] for s, _, _, m in outer], [b for _, _, b, _ in outer])
        inner = set(places.ravel().tolist())  # np.isin would import numpy.ma, which takes longer than a plan
        whole = np.array([at for at in every.tolist() if at not in inner], np.int64)  # rows of the outer margins
        zeros.append(Line(source=NO_SOURCE, result=whole, count=(left + width + right) * pitch).table())
    if left or right:
        ends = [(at, n * pitch) for at, n in ((0, left), ((left + width) * pixel, right)) if n]
        at, count = np.array(ends, np.int64).T
        zeros.append(Line(source=NO_SOURCE, result=places + at, count=count).table())
    copy = CopySpec(source, result, lanes)
    if last:
        assert width <= 1 or strides[-1] == channels * item
        first, count = pieces(width, max(1, costs.task_elements // channels) if pitch == channels else 1)
        lines = Line(source=begins + first * channels * item, result=places + (left + first) * pixel, count=count * channels)
        return [copy_call("copy input", copy, Line.joined([lines.table(), *zeros]), "x", "slab", costs)]
    first, count = pieces(width, max(64, costs.task_elements // channels))
    planes = Line(source=begins + first * item, result=places + (left + first) * pixel, count=channels, columns=count).table()
    total, per_task, tasks = _shares(len(planes), prod(sizes) * channels, costs)
    swap = SwapArguments(
        input="x", output="slab", lines=planes, total=total, per_task=per_task, source_stride=channel_stride, result_stride=pixel
    )
    side = block_side(out_item, costs, channels, prod(sizes))
    squares = min(lanes, side)
    rows = channels if channels < squares else 0
    spec = SwapSpec(source, result, squares, EpilogueSpec(), side if side > lanes else 0, rows=rows)
    calls = [kernel_call("transpose input", spec, swap, tasks)]
    if zeros and sum(map(len, zeros)):
        calls.append(copy_call("zero margins", copy, Line.joined(zeros), "x", "slab", costs))
    return calls


def swap_back(
    sizes: list[int],
    strides: list[int],
    channels: int,
    channel_stride: int,
    source: str,
    result: str,
    lanes: int,
    finish: EpilogueSpec,
    costs: PackingCosts,
) -> KernelCall:
    """The channels-last scratch result into a channels-first one, with the epilogue."""
    item, out_item = ELEMENT_BYTES[source], ELEMENT_BYTES[result]
    inner, flat = sizes[-1], len(sizes) - 1
    while flat > 1 and strides[flat - 1] == inner * out_item:  # rows that follow each other in the result
        flat -= 1
        inner *= sizes[flat]
    branches.packing("result.rows_joined" if flat < len(sizes) - 1 else "result.rows_apart")
    rows = positions(sizes[:flat], strides[:flat])[:, None]
    first, count = pieces(inner, max(64, costs.task_elements // channels))
    number = np.arange(len(rows), dtype=np.int64)[:, None]
    planes = Line(
        source=(number * inner + first) * (channels * item), result=rows + first * out_item, count=count, columns=channels
    ).table()
    total, per_task, tasks = _shares(len(planes), prod(sizes) * channels, costs)
    values = SwapArguments(
        input="scratch", output="out", bias="bias", residual="residual", limits="limits", lines=planes, total=total,
        per_task=per_task, source_stride=channels * item, result_stride=channel_stride,
    )  # fmt: skip
    side = block_side(out_item, costs, channels, prod(sizes))
    spec = SwapSpec(source, result, min(lanes, side), finish, side if side > lanes else 0, side > lanes)
    return kernel_call("transpose result", spec, values, tasks)


def tap_pitch(run: int, width: int, item: int, costs: PackingCosts) -> int:
    """Bytes from the packed weights of one tap to those of the next: an odd number of cache lines, unless the channels are few.

    Lines of many taps are written together; an even number, a power of two at worst, would put them into the same few sets.
    """
    size = run * width * item
    return size if run < costs.few_channels else (-(-size // LINE_BYTES) | 1) * LINE_BYTES


def weight_call(
    contraction: str, shape: tuple[int, ...], groups: int, source: str, result: str, lanes: int, width: int,
    costs: PackingCosts, apart: bool = False, by_taps: bool = False,
) -> tuple[KernelCall, int]:  # fmt: skip
    """Pack C-contiguous weights of `shape` (O, I/g, *k); returns the call and the bytes of a block.

    apart: taps lie `tap_pitch` apart; by_taps: the columns are taps alone, whatever the contraction, so that a call can be made
    to pack some of them.
    """
    item, out_item = ELEMENT_BYTES[source], ELEMENT_BYTES[result]
    taps, run = prod(shape[2:]), shape[1] if contraction == "conv" else shape[0] // groups
    pitch = tap_pitch(run, width, out_item, costs) if apart else run * width * out_item
    if contraction == "conv" and by_taps:
        channels = shape[0] // groups
        outer, outer_stride, channel_stride = run, taps * item, run * taps * item
        table, ahead = np.arange(taps, dtype=np.int64) * pitch, costs.row_ahead
    elif contraction == "conv":
        channels = shape[0] // groups
        outer, outer_stride, ahead = 1, 0, costs.row_ahead
        channel_stride = run * taps * item
        tap, channel = np.arange(taps, dtype=np.int64) * pitch, np.arange(run, dtype=np.int64) * (width * out_item)
        table = (channel[:, None] + tap).ravel()
    else:
        channels = shape[1]
        outer, outer_stride = run, channels * taps * item
        channel_stride = taps * item
        table = np.arange(taps, dtype=np.int64) * pitch
        ahead = outer_stride * max(1, costs.pieces_ahead // (min(width, channels) * channel_stride))
    # The kernel depends on the number of taps only where they are few.
    split = taps if contraction == "conv_transpose" and taps <= costs.most_split and not by_taps else 0
    blocks = -(-channels // width)
    block_bytes = taps * pitch
    values = WeightArguments(
        source="w", result="packed", flag="flag", group_blocks=blocks, group_channels=channels,
        group_stride=shape[0] // groups * shape[1] * taps * item, channel_stride=channel_stride, outer=outer,
        outer_stride=outer_stride, outer_result=width * out_item, columns=len(table), table=table, block_bytes=block_bytes,
        width=width, ahead=ahead,
    )  # fmt: skip
    side = lanes if width % lanes == 0 else max(lanes // 2, 1)
    few = prod(shape) <= costs.few_weights
    if few:
        split, side = 0, min(lanes, 32 // out_item)
    branches.packing(f"weights.{'few' if few else 'split' if split else 'many'}")
    branches.packing(f"weights.{'columns_of_taps' if by_taps else 'columns' if contraction == 'conv' else 'by_input'}")
    if width % side:
        branches.packing("weights.ragged_squares")
    spec = WeightSpec(source, result, side, split, width % side != 0, few)
    return kernel_call("pack weights", spec, values, groups * blocks), block_bytes


def folded_weight_call(
    shape: tuple[int, ...], folded: Folded, source: str, result: str, width: int, costs: PackingCosts
) -> tuple[KernelCall, int]:
    """As weight_call for a transposed convolution whose last axis is folded: channel q * channels + o, tap (kh.., j)."""
    item, out_item = ELEMENT_BYTES[source], ELEMENT_BYTES[result]
    run, channels, kernel = shape[0], shape[1], shape[-1]
    lines, taps = prod(shape[2:-1]), folded.axis.kernel
    blocks = -(-channels * folded.stride // width)
    if prod(shape) >= costs.many_weights and can_split(channels):
        branches.packing("weights.folded.interleaved")
        return _interleave_call(shape, folded, source, result, width)
    branches.packing("weights.folded.gathered")
    lane = np.arange(blocks * width)
    q, o = lane // channels, lane % channels
    k = q + np.arange(taps)[:, None] * folded.stride  # (tap j, lane)
    exists = (k < kernel) & (q < folded.stride)
    place = (o * lines * kernel + k) * item  # of line 0
    table = place[None] + (np.arange(lines) * kernel * item)[:, None, None]
    table = np.where(exists[None], table, -1).reshape(lines * taps, blocks, width)
    table = np.ascontiguousarray(table.transpose(1, 0, 2).astype(np.int64))  # (block, tap, lane)
    values = GatherWeightArguments(
        source="w", result="packed", flag="flag", outer=run, outer_stride=channels * lines * kernel * item, table=table
    )
    spec = GatherWeightSpec(source, result, width)
    return kernel_call("pack weights", spec, values, blocks * lines * taps), lines * taps * run * width * out_item


def _interleave_call(shape: tuple[int, ...], folded: Folded, source: str, result: str, width: int) -> tuple[KernelCall, int]:
    """The same by vectors: see `fold_kernel`."""
    item, out_item = ELEMENT_BYTES[source], ELEMENT_BYTES[result]
    run, channels, kernel = shape[0], shape[1], shape[-1]
    lines, taps = prod(shape[2:-1]), folded.axis.kernel
    blocks = -(-channels * folded.stride // width)
    lanes = min(width & -width, 64 // out_item)
    tap_bytes = run * width * out_item
    vectors = -(-blocks * width // (lanes * channels)) * channels
    first = np.arange(vectors, dtype=np.int64) * lanes  # number of a vector's first lane
    table = (first // width * (lines * taps * tap_bytes)) + first % width * out_item
    table[first >= blocks * width] = -1
    values = FoldArguments(
        source="w", result="packed", flag="flag", inputs=run, stride=folded.stride, kernel=kernel, taps=taps,
        vectors=len(table) // channels, table=table, source_line=kernel * item, source_channel=lines * kernel * item,
        source_input=channels * lines * kernel * item, result_input=width * out_item, result_tap=tap_bytes,
    )  # fmt: skip
    return kernel_call("pack weights", FoldSpec(source, result, lanes, channels), values, lines), lines * taps * tap_bytes


def block_side(item: int, costs: PackingCosts, channels: int, positions: int) -> int:
    """Side of the squares that are transposed at a time. 32 bytes make a third of the code of 64; but where much is moved whole
    cache lines are read and written once (between two halves of a line the first is gone, above all where the rows are a power of
    two apart).
    """
    much = channels * item >= 64 and channels * positions * item >= costs.whole_line_bytes
    branches.packing("squares.whole_lines" if much else "squares.half_lines")
    return (64 if much else 32) // item
