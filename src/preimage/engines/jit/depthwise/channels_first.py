"""The program of a depthwise convolution whose arrays are channels-first: see `channels_first_kernel`."""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit import branches
from preimage.engines.jit.depthwise.applies import cuts_rows, row_stride
from preimage.engines.jit.depthwise.channels_first_kernel import (
    Band,
    ChannelsFirstArguments,
    ChannelsFirstSpec,
    RowPattern,
    Tile,
    WeightCopyArguments,
    WeightCopySpec,
)
from preimage.engines.jit.index.taps import Axis, Phase, gather_axes
from preimage.engines.jit.index.terms import Terms
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call, operands
from preimage.engines.jit.request import ConvRequest

__all__ = ["copied_weights", "lower_channels_first"]

_LINE = Axis(1, 1, (Phase(0, 1, 1, 1, 1, ((0, 0),)),))


def lower_channels_first(r: ConvRequest) -> Program:
    """Bands of rows of a plane, brought to a scratch with their margins; vectors across its columns."""
    g = r.geometry
    inner = "f64" if r.element == "f64" else "f32"
    item = ELEMENT_BYTES[inner]
    axes = gather_axes(g, r.contraction)[1:]
    row_axis, column_axis = axes if len(axes) == 2 else (_LINE, axes[0])
    out_parts = len(column_axis.phases)
    split = column_axis.phases[0].in_step
    line = -(-column_axis.out_size // out_parts)
    lanes = min(r.target.vector_bytes // item, max(4 if item == 4 else 2, 1 << (line - 1).bit_length()))
    columns = tuple(tuple((k, offset % split, offset // split) for k, offset in p.taps) for p in column_axis.phases)
    places = [place for taps in columns for _, _, place in taps] or [0]
    margin = -(-max(0, -min(places)) // lanes) * lanes
    patterns: dict[RowPattern, int] = {}
    for phase in row_axis.phases:
        patterns.setdefault(_pattern(phase), len(patterns))
    terms = Terms.of(1, (row_axis, column_axis))
    rows, vectors, looped = _tile(r, row_axis, columns, patterns, line, lanes)

    part_pitch = _part_pitch(column_axis, split, line, lanes, vectors, margin, max(0, *places)) * item
    row_pitch, band_bytes = part_pitch * split, r.target.costs.depthwise.band_bytes
    out_row, weight_row = row_stride(r.out_strides, g.ndim), g.kernel_size[-1] * item
    tiles, bands, slots = _bands(row_axis, patterns, rows, row_pitch, out_row, weight_row, band_bytes)
    units, scratch = g.batch * g.groups * len(bands), slots * row_pitch
    per_task = -(-units // (1 if r.threads == 1 else min(units, 4 * r.threads)))
    tasks = -(-units // per_task)

    _take(
        looped, split, len(axes),
        {"rows": rows, "phases": out_parts, "patterns": len(patterns), "vectors": vectors, "bands": len(bands)},
    )  # fmt: skip
    program = ProgramBuilder("depthwise, channels first")
    _pack(r, program, item)
    program.buffers.append(Buffer("scratch", scratch * r.threads))
    spec = ChannelsFirstSpec(
        element=r.element, out=r.element, inner=inner, lanes=lanes, rows=rows, row_step=row_axis.phases[0].in_step, split=split,
        columns=columns, patterns=tuple(patterns), width=g.kernel_size[-1], margin=margin, vectors=vectors, looped=looped,
        order=terms.order, finish=r.finish,
    )  # fmt: skip
    values = ChannelsFirstArguments(
        **operands(), scratch="scratch", scratch_bytes=scratch, units=units, units_per_task=per_task, n_bands=len(bands),
        channels=g.groups, x_image=r.in_strides[0], x_channel=r.in_strides[1], x_row=row_stride(r.in_strides, g.ndim),
        out_image=r.out_strides[0], out_channel=r.out_strides[1], bands=bands, tiles=tiles, row_pitch=row_pitch,
        part_pitch=part_pitch, in_rows=row_axis.in_size, in_columns=column_axis.in_size, out_columns=column_axis.out_size,
        out_step=row_axis.phases[0].step * out_row, weight_bytes=prod(g.kernel_size) * item,
    )  # fmt: skip
    program.calls.append(kernel_call("depthwise", spec, values, tasks))
    program.skips_padding = r.contraction != "conv" and any(axis.margins != (0, 0) for axis in axes)
    branches.channels_first("padding.skipped" if program.skips_padding else "padding.none")
    program.details = {
        "tile": f"{rows} rows x {vectors} vectors of {lanes} pixels" + (f" x {out_parts} stride phases" if out_parts > 1 else ""),
        "rows of taps": "a loop" if looped else "unrolled",
        "bands": f"{len(bands)} a plane, {scratch} bytes of scratch a thread",
        "tasks": str(tasks),
    }
    return program.done()


def _pack(r: ConvRequest, program: ProgramBuilder, item: int) -> None:
    """Have the weights copied, in the type of the sums."""
    program.packing = copied_weights(r)
    program.packed_bytes = prod(r.geometry.weight_shape) * item
    program.packed_key = ("plane", r.element)
    if not r.prepared:
        program.pack_first()


def _take(looped: bool, split: int, axes: int, counts: dict[str, int]) -> None:
    """Name the decisions that were made above."""
    take = branches.channels_first
    take("taken")
    take("axes.one" if axes == 1 else "axes.two")
    take("taps.looped" if looped else "taps.unrolled")
    take("columns.together" if split == 1 else "columns.split")
    for name, count in counts.items():
        take(f"{name}.{'one' if count == 1 else 'several'}")


def _part_pitch(axis: Axis, split: int, line: int, lanes: int, vectors: int, margin: int, reach: int) -> int:
    """Places from one part of a scratch row to the next: what a row holds and what its last tile reads, in whole vectors."""
    tile = lanes * vectors
    places = margin + max(-(-axis.in_size // (split * lanes)) * lanes, -(-line // tile) * tile + reach)
    return -(-(places + lanes) // lanes) * lanes


def _pattern(phase: Phase) -> RowPattern:
    low = min((offset for _, offset in phase.taps), default=0)
    numbers = [number for number, _ in phase.taps]
    return RowPattern(tuple(offset - low for _, offset in phase.taps), numbers[1] - numbers[0] if len(numbers) > 1 else 1)


def _tile(
    r: ConvRequest, row_axis: Axis, columns: tuple[tuple[tuple[int, int, int], ...], ...], patterns: dict[RowPattern, int],
    line: int, lanes: int,
) -> tuple[int, int, bool]:  # fmt: skip
    """Output rows and vectors of a tile, and whether kernel rows are a loop."""
    taps, lines = sum(map(len, columns)), max(len(p.offsets) for p in patterns)
    least = min(p.count for p in row_axis.phases if p.count)
    room = 16 if r.target.vector_registers >= 32 else 8
    vectors, most = 1, r.target.costs.depthwise.most_unrolled
    if len(columns) == 1 and lines * taps > 9 and line > lanes:
        vectors = 2
    rows = max(1, min(least, room // (2 * vectors) if len(columns) == 1 else 4))
    while rows > 1 and rows * vectors * lines * taps > most:
        rows -= 1
    looped = rows * vectors * lines * taps > most and len(patterns) == 1 and not cuts_rows(r)
    if looped:
        rows, vectors = min(least, 4), 1
    return rows, vectors, looped


def _bands(
    axis: Axis, patterns: dict[RowPattern, int], rows: int, row_pitch: int, out_row: int, weight_row: int, band_bytes: int
) -> tuple[Array, Array, int]:
    """Tiles ordered by the input rows that they read, cut into bands that fit the scratch; and the most rows of a band."""
    found: list[tuple[int, int, int, int, int]] = []  # lowest row, last + 1, pattern, output offset, weight offset
    for phase in axis.phases:
        if not phase.count:
            continue
        pattern = _pattern(phase)
        low = min((offset for _, offset in phase.taps), default=0)
        number = phase.taps[0][0] if phase.taps else 0
        span = (rows - 1) * phase.in_step + max(pattern.offsets, default=0) + 1
        for t in np.minimum(np.arange(0, phase.count, rows), phase.count - rows).tolist():
            start = t * phase.in_step + low if phase.taps else 0
            found.append((start, start + span, patterns[pattern], (phase.start + t * phase.step) * out_row, number * weight_row))
    found.sort(key=lambda tile: (tile[0], tile[3]))
    most = max(band_bytes // row_pitch, max(end - start for start, end, *_ in found))
    bands: list[list[int]] = []
    for number, (start, end, *_) in enumerate(found):
        if not bands or max(end, bands[-1][0] + bands[-1][1]) - bands[-1][0] > most:
            bands.append([start, 0, number, number])
        bands[-1][1] = max(bands[-1][1], end - bands[-1][0])
        bands[-1][3] = number + 1
    tiles = []
    for first, _, begin, last in bands:
        tiles += [(pattern, start - first, out, weight) for start, _, pattern, out, weight in found[begin:last]]
    first_row, in_band, first_tile, end_tile = np.array(bands, np.int64).T
    kind, lowest, output, number_of_weight = np.array(tiles, np.int64).T
    return (
        Tile(pattern=kind, lowest_row=lowest, output=output, weight=number_of_weight).table(),
        Band(first_row=first_row, rows=in_band, first_tile=first_tile, end_tile=end_tile).table(),
        int(in_band.max()),
    )


def copied_weights(r: ConvRequest) -> KernelCall:
    """The weights as they are, in one line of the sums' element type."""
    inner = "f64" if r.element == "f64" else "f32"
    spec = WeightCopySpec(r.element, inner, r.target.vector_bytes // ELEMENT_BYTES[inner])
    values = WeightCopyArguments(source="w", result="packed", flag="flag", count=prod(r.geometry.weight_shape))
    return kernel_call("copy weights", spec, values, 1)
