"""Copies into the order that a kernel reads: lines, and transposed planes.

    copy        line by line, contiguous to contiguous; a line without a source is filled with zeros (margins)
    swap        planes [a][b] -> [b][a] in squares of lanes x lanes, transposed in registers; channels-first to
                channels-last, and back with the epilogue. Squares are taken together so that cache lines are read and
                written as a whole

Every kernel widens f16 and bf16 as it loads. All sizes are arguments. Weights: see `weights_kernel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from preimage.engines.ir.arguments import Column, Elements, Integer, Record, Records, column, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.records import record

__all__ = [
    "NO_SOURCE",
    "CopyArguments",
    "CopySpec",
    "Line",
    "SwapArguments",
    "SwapSpec",
    "build_copy",
    "build_swap",
    "transposed",
]

PREFETCH_BYTES = 192  # ahead in every row of a plane: its rows are more streams than the hardware follows
NO_SOURCE = -(1 << 62)  # a line of zeros


class Line(Record):
    """A line to copy, or a plane to transpose; offsets in bytes."""

    source: Column  # offset; NO_SOURCE: zeros
    result: Column  # offset
    count: Column  # elements, or rows of a plane
    columns: Column = column(default=0)  # of a plane
    channel: Column = column(default=0)  # of a plane's first column


class CopyArguments(EpilogueArguments):
    """Lines in tasks of `per_task`; the last task has what is left."""

    input: Elements = elements("source")
    output: Elements = elements("result")
    lines: Records[Line]
    total: Integer  # how many lines
    per_task: Integer


class SwapArguments(CopyArguments):
    """Planes in tasks likewise."""

    source_stride: Integer  # bytes between a plane's rows
    result_stride: Integer  # bytes between the result's rows, the plane's columns


@record
class CopySpec:
    """Lines of elements, from one element type to another."""

    arguments: ClassVar = CopyArguments

    source: str
    result: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_copy(self)


@record
class SwapSpec:
    """Planes of rows x columns; the epilogue takes the column as the channel.

    side: of the blocks of squares that are taken one after another, a multiple of lanes; by_columns: those of a column of squares
    first (the plane's columns are further apart in the result than its rows are in the source); rows: of every plane, where a square has
    more and the result is a buffer whose columns follow one another: stores write past a column, into what the next one writes.
    """

    arguments: ClassVar = SwapArguments

    source: str
    result: str
    lanes: int
    finish: EpilogueSpec
    side: int = 0
    by_columns: bool = False
    rows: int = 0

    def ir(self) -> str:
        """The text of the kernel."""
        return build_swap(self)


def build_copy(spec: CopySpec) -> str:
    f = Kernel()
    args = CopyArguments.read(f, spec)
    kind = "f64" if spec.source == "f64" else "f32"
    source, result = args.input, args.output
    lines, total, per_task = args.lines, args.total, args.per_task
    begin = f.task * per_task
    with f.loop(begin, (begin + per_task).minimum(total)) as k:
        line = lines[k.index]
        origin, to, count = line.source, result.at_bytes(line.result), line.count
        zero = f.zeros(kind, spec.lanes)
        whole = count // spec.lanes * spec.lanes
        with f.when(origin.equals(NO_SOURCE)):
            with f.loop(0, whole, spec.lanes) as i:
                to.at(i.index).store(zero)
            with f.loop(whole, count) as i:
                to.at(i.index).store(f.zeros(kind, 1))
        with f.when(origin > NO_SOURCE):
            start = source.at_bytes(origin)
            with f.loop(0, whole, spec.lanes) as i:
                to.at(i.index).store(start.at(i.index).load(spec.lanes))
            with f.loop(whole, count) as i:
                to.at(i.index).store(start.at(i.index).load())
    return f.ir()


def transposed(rows: list[Num]) -> list[Num]:
    """The transpose of a square block held as one vector a row: log2(lanes) steps that swap one bit of row and lane.

    Rows of several times as many lanes are several squares side by side; each is transposed.
    """
    side, lanes, rows, distance = len(rows), rows[0].lanes, list(rows), 1
    while distance < side:
        low = [(j ^ distance) + lanes if j & distance else j for j in range(lanes)]
        high = [j + lanes if j & distance else j | distance for j in range(lanes)]
        for i in range(side):
            if not i & distance:
                a, b = rows[i], rows[i | distance]
                rows[i], rows[i | distance] = a.shuffle(b, low), a.shuffle(b, high)
        distance *= 2
    return rows


def _block(start: Ptr, lanes: int, stride: Int, rows_left: Int | None, mask: Bit | None) -> list[Num]:
    """A lanes x lanes block, transposed; rows past the last are read as the last one again."""
    rows = []
    for j in range(lanes):
        row = j * stride if rows_left is None else (rows_left - 1).minimum(j) * stride
        rows.append(start.at_bytes(row).load(lanes, mask))
    return transposed(rows)


def build_swap(spec: SwapSpec) -> str:
    f = Kernel()
    args = SwapArguments.read(f, spec)
    source, lines = args.input, args.lines
    total, per_task = args.total, args.per_task
    begin = f.task * per_task
    with f.loop(begin, (begin + per_task).minimum(total)) as k:
        plane = lines[k.index]
        start, to, columns = source.at_bytes(plane.source), plane.result, plane.columns
        if spec.rows:
            _few_rows(f, spec, start, to, columns)
        else:
            _many_rows(f, spec, start, to, plane)
    return f.ir()


def _few_rows(f: Kernel, spec: SwapSpec, start: Ptr, to: Int, columns: Int) -> None:
    """A plane with fewer rows than a square has: whole vectors are stored, but at the end."""
    args, lanes = SwapArguments.read(f, spec), spec.lanes
    with f.loop(0, columns, lanes) as b:
        corner, left = start.at_bytes(b.index * ELEMENT_BYTES[spec.source]), columns - b.index

        def square(mask: Bit | None) -> list[Num]:
            rows = [corner.at_bytes(j * args.source_stride).load(lanes, mask) for j in range(spec.rows)]
            return transposed(rows + rows[-1:] * (lanes - spec.rows))

        goes_on = left >= lanes + -(-(lanes - spec.rows) // spec.rows)  # what is written too much lies in this plane's columns
        with f.when(goes_on):
            for j in range(spec.rows):
                f.prefetch(corner.at_bytes(j * args.source_stride + PREFETCH_BYTES))
            for j, value in enumerate(square(None)):
                args.output.at_bytes(to + (b.index + j) * args.result_stride).store(value)
        with f.when(goes_on.negated()):
            written = f.lane_mask(lanes, spec.rows)
            for j, value in enumerate(square(f.lane_mask(lanes, left))):
                with f.when(left > j):
                    args.output.at_bytes(to + (b.index + j) * args.result_stride).store(value, written)


def _many_rows(f: Kernel, spec: SwapSpec, start: Ptr, to: Int, plane: Line) -> None:
    """A plane by squares; those at its ends are masked."""
    args, lanes = SwapArguments.read(f, spec), spec.lanes
    stride, out_stride = args.source_stride, args.result_stride
    rows, columns, channel = plane.count, plane.columns, plane.channel
    for row, place in _squares(f, spec, rows, columns):
        corner = start.at_bytes(row * stride + place * ELEMENT_BYTES[spec.source])
        rows_left, columns_left = rows - row, columns - place
        at = to + row * ELEMENT_BYTES[spec.result] + place * out_stride
        whole = (rows_left >= lanes) & (columns_left >= lanes)
        with f.when(whole):
            for j in range(lanes):
                f.prefetch(corner.at_bytes(j * stride + PREFETCH_BYTES))
            for j, value in enumerate(_block(corner, lanes, stride, None, None)):
                finish(f, spec.finish, value, spec.result, at + j * out_stride, channel + place + j, None, True)
        with f.when(whole.negated()):
            mask = f.lane_mask(lanes, rows_left)
            for j, value in enumerate(_block(corner, lanes, stride, rows_left, f.lane_mask(lanes, columns_left))):
                with f.when(columns_left > j):
                    finish(f, spec.finish, value, spec.result, at + j * out_stride, channel + place + j, mask, True)


def _squares(f: Kernel, spec: SwapSpec, rows: Int, columns: Int) -> Iterator[tuple[Int, Int]]:
    """Loops over the first row and column of every square."""
    lanes, side = spec.lanes, spec.side
    if side <= lanes:
        with f.loop(0, rows, lanes) as a, f.loop(0, columns, lanes) as b:
            yield a.index, b.index
        return
    with f.loop(0, rows, side) as a, f.loop(0, columns, side) as b:
        ends = (a.index + side).minimum(rows), (b.index + side).minimum(columns)
        if spec.by_columns:
            with f.loop(b.index, ends[1], lanes) as column, f.loop(a.index, ends[0], lanes) as row:
                yield row.index, column.index
        else:
            with f.loop(a.index, ends[0], lanes) as row, f.loop(b.index, ends[1], lanes) as column:
                yield row.index, column.index
