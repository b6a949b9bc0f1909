"""The operands of a weight gradient as its kernel reads them: in place, copied with channels innermost, or copied in blocks."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.packing.blocks_kernel import BlockArguments, BlockSpec
from preimage.engines.jit.packing.copy_kernel import Line, SwapArguments, SwapSpec
from preimage.engines.jit.packing.moves import slab_calls
from preimage.engines.jit.program import Buffer, KernelCall, ProgramBuilder, kernel_call
from preimage.engines.jit.request import WeightGradRequest
from preimage.engines.jit.weight_grad.tiling import Tables
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["Side", "rows_read", "side_of"]


@record
class Side:
    """An operand as the kernel reads it: array or copy, logical byte strides (image, channel, spatial), the group's step,
    from a tile's channels to the next tile's and the offset of the last tile, columns before column 0 in the copy.

    phases: the columns of a copy are ordered by their phase c % phases, so that those a stride apart are neighbours;
    phase_bytes: bytes from one phase to the next. apart: bytes from a channel to the next, of an array that is read channel by channel.
    """

    name: str
    strides: tuple[int, ...]
    group: int
    step: int
    last: int
    first: int = 0
    phases: int = 1
    phase_bytes: int = 0
    apart: int = 0

    def column(self, number: int) -> int:
        """The byte offset of a column of a row; before column 0 too."""
        number += self.first
        return number % self.phases * self.phase_bytes + number // self.phases * self.strides[-1]


def side_of(
    program: ProgramBuilder, r: WeightGradRequest, name: str, shape: tuple[int, ...], strides: tuple[int, ...], width: int,
    tiles: int, margin: tuple[int, int] | None, blocks: bool, scalars: bool,
) -> Side:  # fmt: skip
    """The operand in place if its channels are neighbours (and its pixels, for a run without padding), or if it gives scalars and
    each channel's pixels are neighbours: then every channel is a stream. Else a copy.
    """
    own, inner = ELEMENT_BYTES[r.element], "f64" if r.element == "f64" else "f32"
    size = ELEMENT_BYTES[inner]
    channels, groups = shape[1], r.geometry.groups
    per_group = channels // groups
    row = per_group if margin is None else per_group * r.geometry.kernel_size[-1]
    step, last = width * size, (row - width) * size
    if scalars and margin is None and own == size and strides[1] > own and strides[-1] == own and not r.little:
        branches.weight_grad(f"{name}.streams")
        return Side(name, strides, per_group * strides[1], width * strides[1], (row - width) * strides[1], apart=strides[1])
    if blocks:
        return _blocked(program, r, name, shape, strides, width, tiles)
    in_place = own == size and (strides[1] == own or per_group == 1)
    if margin is not None:
        in_place = in_place and margin == (0, 0) and strides[-1] == per_group * size
    if in_place:
        branches.weight_grad(f"{name}.in_place")
        return Side(name, strides, per_group * strides[1], step, last)
    lo, hi = margin or (0, 0)
    branches.weight_grad(f"{name}.slab.margins" if lo or hi else f"{name}.slab")
    padded = [shape[0], *shape[2:-1], shape[-1] + lo + hi]
    slab = [prod(padded[k + 1 :]) * channels * size for k in range(len(padded))]
    sizes = [shape[0], *shape[2:-1], shape[-1]]
    margins = [(0, 0)] * (len(sizes) - 1) + [(lo, hi)]
    lanes = r.target.vector_bytes // size
    calls = slab_calls(
        sizes, [strides[0], *strides[2:]], channels, strides[1], r.element, inner, margins, lanes, slab, r.target.costs.packing
    )
    program.calls += [call.renamed(f"{call.name} {name}", {"x": name, "slab": f"{name} slab"}) for call in calls]
    program.buffers.append(Buffer(f"{name} slab", prod(padded) * channels * size))
    return Side(f"{name} slab", (slab[0], size, *slab[1:]), per_group * size, step, last, lo)


def _blocked(
    program: ProgramBuilder,
    r: WeightGradRequest,
    name: str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    width: int,
    tiles: int,
) -> Side:
    """A copy in blocks of one tile's channels: [group][tile][image][pixel][width]; the last tile overlaps its neighbour."""
    own, inner = ELEMENT_BYTES[r.element], "f64" if r.element == "f64" else "f32"
    size = ELEMENT_BYTES[inner]
    groups, per_group, spatial = r.geometry.groups, shape[1] // r.geometry.groups, shape[2:]
    image = prod(spatial) * width * size
    block = shape[0] * image
    phases = r.geometry.stride[-1] if name == "x" and strides[1] == own else 1
    if phases > 1:
        branches.weight_grad("x.split_columns")
        return _by_phase(program, r, shape, strides, width, tiles)
    flat = len(spatial) - 1  # axes flat.. follow each other densely in the source
    while flat > 0 and strides[2 + flat - 1] == spatial[flat] * strides[2 + flat]:
        flat -= 1
    run = prod(spatial[flat:])
    outer = list(product(*map(range, spatial[:flat])))
    by_channel = strides[1] != own  # channels-first: transposed on the way
    # Blocks that share cache lines: some pixels are cut into all of them before the next ones, so that a line is read once.
    narrow = width * size < r.target.costs.weight_grad.narrow_bytes and not by_channel
    take = branches.weight_grad
    take(f"{name}.blocks")
    take("blocks.channels_first" if by_channel else "blocks.channels_last")
    if narrow:
        take("blocks.narrow")
    piece = max(16, r.target.costs.packing.task_elements // (shape[1] if narrow else width))
    pieces = []  # source and result offset, first pixel
    for n, (number, at) in product(range(shape[0]), enumerate(outer)):
        source = n * strides[0] + sum(a * s for a, s in zip(at, strides[2:], strict=False))
        pieces += [(source, n * image + number * run * width * size, first) for first in range(0, run, piece)]
    blocks = list(product(range(groups), range(tiles)))
    lines = []
    for (source, result, first), (q, tile) in product(pieces, blocks) if narrow else ((p, b) for b in blocks for p in pieces):
        channel, count = q * per_group + min(tile * width, per_group - width), min(piece, run - first)
        at_source = source + channel * strides[1] + first * strides[-1]
        at_result = (q * tiles + tile) * block + result + first * width * size
        lines.append((at_source, at_result, count))
    source_stride = strides[1] if by_channel else strides[-1]
    program.calls.append(_cut_call(r, f"block {name}", name, width, lines, source_stride, by_channel))
    program.buffers.append(Buffer(f"{name} blocks", groups * tiles * block))
    steps = [width * size]
    for n in spatial[:0:-1]:
        steps.append(steps[-1] * n)
    return Side(f"{name} blocks", (image, size, *steps[::-1]), tiles * block, block, (tiles - 1) * block)


def _cut_call(
    r: WeightGradRequest, title: str, name: str, width: int, lines: list[tuple[int, int, int]], source_stride: int, by_channel: bool
) -> KernelCall:  # fmt: skip
    """Copy lines (source and result offset, pixels) to blocks of `width` channels; by_channel: from a channels-first array."""
    inner = "f64" if r.element == "f64" else "f32"
    size, total = ELEMENT_BYTES[inner], len(lines)
    lanes, per_task = r.target.vector_bytes // size, max(1, -(-total // (8 * r.threads)))
    source, result, pixels = np.array(lines, np.int64).T
    if by_channel:
        return kernel_call(title, SwapSpec(r.element, inner, lanes, EpilogueSpec()), SwapArguments(
            input=name, output=f"{name} blocks", lines=Line(source=source, result=result, count=width, columns=pixels),
            total=total, per_task=per_task, source_stride=source_stride, result_stride=width * size,
        ), -(-total // per_task))  # fmt: skip
    return kernel_call(title, BlockSpec(r.element, inner, lanes, width), BlockArguments(
        input=name, output=f"{name} blocks", lines=Line(source=source, result=result, count=pixels),
        total=total, per_task=per_task, source_stride=source_stride,
    ), -(-total // per_task))  # fmt: skip


def _by_phase(
    program: ProgramBuilder, r: WeightGradRequest, shape: tuple[int, ...], strides: tuple[int, ...], width: int, tiles: int
) -> Side:  # fmt: skip
    """As `_blocked`, for an x that is read with a stride along its last axis: its columns are ordered by phase (c % stride).

    Without that, a tap reads one pixel in `stride`: a part of every page, and so of the places in the cache.
    """
    g, inner = r.geometry, "f64" if r.element == "f64" else "f32"
    size, stride = ELEMENT_BYTES[inner], g.stride[-1]
    per_group, spatial = shape[1] // g.groups, shape[2:]
    pixel, each = width * size, -(-spatial[-1] // stride)
    row = stride * each * pixel
    image = prod(spatial[:-1]) * row
    block, piece = shape[0] * image, max(16, r.target.costs.packing.task_elements // width)
    used = sorted({(k * g.dilation[-1] - g.padding[-1][0]) % stride for k in range(g.kernel_size[-1])})
    outer = list(product(*map(range, spatial[:-1])))
    lines = []
    for q, tile, n in product(range(g.groups), range(tiles), range(shape[0])):
        channel = q * per_group + min(tile * width, per_group - width)
        for number, at in enumerate(outer):
            source = n * strides[0] + channel * strides[1] + sum(a * s for a, s in zip(at, strides[2:], strict=False))
            result = (q * tiles + tile) * block + n * image + number * row
            for phase in used:
                held = -(-(spatial[-1] - phase) // stride)
                for first in range(0, held, piece):
                    at_source = source + (phase + first * stride) * strides[-1]
                    lines.append((at_source, result + (phase * each + first) * pixel, min(piece, held - first)))
    program.calls.append(_cut_call(r, "split x by phase", "x", width, lines, strides[-1] * stride, by_channel=False))
    program.buffers.append(Buffer("x blocks", g.groups * tiles * block))
    steps = [pixel, row]
    for n in spatial[-2:0:-1]:
        steps.append(steps[-1] * n)
    logical = (image, size, *steps[: len(spatial)][::-1])
    return Side("x blocks", logical, tiles * block, block, (tiles - 1) * block, 0, stride, each * pixel)


def rows_read(g: ConvGeometry, table: Tables, x: Side, y: Side, x_is_vector: bool) -> list[list[tuple[int, int, int]]]:
    """For each band what it reads: (operand, first byte, last byte + 1) of every row."""
    stride, lo, extent, width = g.stride[-1], g.padding[-1][0], g.kernel_extent[-1], g.input_size[-1]
    bands: list[list[tuple[int, int, int]]] = []
    for band in range(table.n_bands):
        rows = []
        for outer in table.bands:
            begin, end = table.blocks["first_segment"][outer[band]], table.blocks["end_segment"][outer[band + 1] - 1]
            for x_row, y_row, first, last in table.segments[begin:end].tolist():
                begin, end = max(0, first * stride - lo), min(width, (last - 1) * stride - lo + extent)
                if begin < end:
                    rows.append((int(x_is_vector), x_row + x.column(begin), x_row + x.column(end)))
                rows.append((int(not x_is_vector), y_row + first * y.strides[-1], y_row + last * y.strides[-1]))
        bands.append(rows)
    return bands
