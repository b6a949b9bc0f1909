"""Sparse matrices along one axis or two (engines/axis_matrix.py), in vectors.

    result[o, j, i] = sum over the terms t of row j of weight[t] x[o, index[t], i]

Where something lies behind the axis (i), vectors go along it; so two neighbouring axes are done at once, of which the first one's sums stay in the
cache. Elements that stay what they are (margins, the nearest neighbour) are copied in runs. Where the axis is innermost, as many lines as a vector
has lanes are transposed in registers, a piece of them at a time, so that a vector has one element of each; the results are transposed back.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Elements, Integer, Record, Records, Words, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.shuffles import interleave
from preimage.engines.jit.elementwise.vectors import Vectors
from preimage.records import record

__all__ = [
    "HELD_BYTES", "PIECE", "BehindArguments", "BehindSpec", "InnermostArguments", "InnermostSpec", "Kind", "Piece", "PlaneArguments", "PlaneSpec",
    "Run", "RunsArguments", "RunsSpec",
]  # fmt: skip

#: Of the thread's stack.
HELD_BYTES = 64 << 10
#: Elements of a line that lie transposed at a time.
PIECE = 1024
#: Vectors that are summed side by side.
ABREAST = 4


@record
class Kind:
    """weighted: not all weights are 1. single: every row is one element, unchanged. gaps: some rows have no terms."""

    weighted: bool
    single: bool
    gaps: bool


class _Terms:
    """The sums of one row of a matrix."""

    def __init__(self, f: Kernel, kind: Kind, starts: Ptr, index: Ptr, weights: Ptr, j: Int) -> None:
        self.f, self.kind, self.index, self.weights = f, kind, index, weights
        self.only = index.at(j).load_int() if kind.single else None
        self.range = None if kind.single else (starts.at(j).load_int(), starts.at(j + 1).load_int())

    def sums(self, base: Ptr, step: Int | int, mask: Bit | None, lanes: int, count: int) -> list[Num]:
        """Of `count` vectors side by side; base: where they lie of element 0, `step` apart from those of the next one."""

        def loaded(place: Int) -> list[Num]:
            here = base.at(place * step)
            return [here.at(v * lanes).load(lanes, mask) for v in range(count)]

        if self.only is not None:
            return loaded(self.only)
        assert self.range is not None
        element, (begin, end) = base.element, self.range
        start = self.f.const(element, lanes, -0.0)  # to which the first term is added as it is
        if self.kind.gaps:
            start = begin.equals(end).select(self.f.zeros(element, lanes), start)
        with self.f.loop(begin, end, carry=[start] * count) as term:
            values = loaded(self.index.at(term.index).load_int())
            if self.kind.weighted:
                weight = self.weights.at(term.index).splat(lanes)
                values = [value * weight for value in values]
            term.carry = [total + value for total, value in zip(term.carry, values, strict=True)]
        return list(term.result)

    def along(self, base: Ptr, step: Int, to: Ptr, width: Int, lanes: int) -> None:
        """The sums of `width` neighbours, stored."""

        def vectors(i: Int, mask: Bit | None, count: int) -> None:
            for v, total in enumerate(self.sums(base.at(i), step, mask, lanes, count)):
                to.at(i + v * lanes).store(total, mask)

        whole = width - width % (ABREAST * lanes)
        with self.f.loop(0, whole, ABREAST * lanes) as i:
            vectors(i.index, None, ABREAST)
        Vectors(self.f, lanes).run(whole, width, lambda i, mask: vectors(i, mask, 1))


# -- something behind the axis -----------------------------------------------------------------------------------------


class BehindArguments(Arguments):
    """x (outer, size, inner) and result (outer, outputs, inner); a task is `share` of the rows (outer, output)."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    starts: Words
    index: Words
    weights: Elements = elements("element")
    size: Integer
    outputs: Integer
    inner: Integer
    rows: Integer
    share: Integer


@record
class BehindSpec:
    """One axis."""

    arguments: ClassVar = BehindArguments

    element: str
    lanes: int
    kind: Kind

    def ir(self) -> str:
        """The text of the kernel."""
        return _build_behind(self)


def _build_behind(spec: BehindSpec) -> str:
    f = Kernel()
    args = BehindArguments.read(f, spec)
    inner, outputs = args.inner, args.outputs
    with f.share(args.rows, args.share) as row:
        j, outer = row.index % outputs, row.index // outputs
        terms = _Terms(f, spec.kind, args.starts, args.index, args.weights, j)
        terms.along(args.x.at(outer * (args.size * inner)), inner, args.result.at(row.index * inner), inner, spec.lanes)
    return f.ir()


class PlaneArguments(Arguments):
    """x (outer, rows_in, columns_in, inner) and result (outer, rows, columns, inner); a task is `share` of the rows (outer, row)."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    row_starts: Words
    row_index: Words
    row_weights: Elements = elements("element")
    column_starts: Words
    column_index: Words
    column_weights: Elements = elements("element")
    rows_in: Integer
    rows: Integer
    columns_in: Integer
    columns: Integer
    inner: Integer
    total: Integer
    share: Integer


@record
class PlaneSpec:
    """Two axes, the first one first."""

    arguments: ClassVar = PlaneArguments

    element: str
    lanes: int
    row: Kind
    column: Kind

    def ir(self) -> str:
        """The text of the kernel."""
        return _build_plane(self)


def _build_plane(spec: PlaneSpec) -> str:
    f, lanes = Kernel(), spec.lanes
    args = PlaneArguments.read(f, spec)
    inner, columns = args.inner, args.columns
    held = f.stack(spec.element, HELD_BYTES // {"f32": 4, "f64": 8}[spec.element])
    width = args.columns_in * inner
    with f.share(args.total, args.share) as row:
        r, outer = row.index % args.rows, row.index // args.rows
        plane = args.x.at(outer * (args.rows_in * width))
        of_row = _Terms(f, spec.row, args.row_starts, args.row_index, args.row_weights, r)
        line = held
        if of_row.only is not None:
            line = plane.at(of_row.only * width)
        else:
            of_row.along(plane, width, held, width, lanes)
        with f.loop(0, columns) as column:
            terms = _Terms(f, spec.column, args.column_starts, args.column_index, args.column_weights, column.index)
            terms.along(line, inner, args.result.at((row.index * columns + column.index) * inner), inner, lanes)
    return f.ir()


# -- elements that stay what they are ----------------------------------------------------------------------------------


class Run(Record):
    """So many neighbours along the columns, from an input on (below 0: zeros), go to neighbours from an output on."""

    source: Column
    to: Column
    length: Column


class RunsArguments(Arguments):
    """x (outer, rows_in, columns_in, inner) and result (outer, rows, columns, inner); a task is `share` of the rows (outer, row)."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    row_index: Words  # the input row of every output row; below 0: zeros
    runs: Records[Run]
    count: Integer
    rows_in: Integer
    rows: Integer
    columns_in: Integer
    columns: Integer
    inner: Integer
    total: Integer
    share: Integer


@record
class RunsSpec:
    """Two axes of which every output is an input, or 0."""

    arguments: ClassVar = RunsArguments

    element: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return _build_runs(self)


def _build_runs(spec: RunsSpec) -> str:
    f, lanes = Kernel(), spec.lanes
    args = RunsArguments.read(f, spec)
    inner, zeros = args.inner, f.zeros(spec.element, lanes)
    with f.share(args.total, args.share) as row:
        r, outer = row.index % args.rows, row.index // args.rows
        place = args.row_index.at(r).load_int()
        line = args.x.at((outer * args.rows_in + place) * (args.columns_in * inner))
        to = args.result.at(row.index * (args.columns * inner))
        with f.loop(0, args.count) as k:
            run = args.runs[k.index]
            first, target, length = run.source, to.at(run.to * inner), run.length * inner
            source = line.at(first * inner)
            least = place.minimum(first)
            with f.when(least > -1):
                Vectors(f, lanes).run(0, length, lambda i, mask: target.at(i).store(source.at(i).load(lanes, mask), mask))
            with f.when(least < 0):
                Vectors(f, lanes).run(0, length, lambda i, mask: target.at(i).store(zeros, mask))
    return f.ir()


# -- the innermost axis ------------------------------------------------------------------------------------------------


class Piece(Record):
    """Outputs first .. end - 1 of a line, and the inputs low .. high - 1 that they read."""

    first: Column
    end: Column
    low: Column
    high: Column


class InnermostArguments(Arguments):
    """x (outer, size) and result (outer, outputs); a task is one of `count` pieces of as many lines as a vector has lanes."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    starts: Words
    index: Words
    weights: Elements = elements("element")
    pieces: Records[Piece]
    count: Integer
    size: Integer
    outputs: Integer
    outer: Integer


@record
class InnermostSpec:
    """One axis."""

    arguments: ClassVar = InnermostArguments

    element: str
    lanes: int
    kind: Kind

    def ir(self) -> str:
        """The text of the kernel."""
        return _build_innermost(self)


def _build_innermost(spec: InnermostSpec) -> str:
    f, lanes = Kernel(), spec.lanes
    args = InnermostArguments.read(f, spec)
    columns, sums = f.stack(spec.element, PIECE * lanes), f.stack(spec.element, lanes * lanes)
    piece, top = args.pieces[f.task % args.count], f.task // args.count * lanes
    first, end, low, high, outputs, size = piece.first, piece.end, piece.low, piece.high, args.outputs, args.size
    # of lines that are too many the last one is computed again: the same bits, written to the same place
    lines = [(top + k).minimum(args.outer - 1) for k in range(lanes)]
    sources, targets = [args.x.at(k * size) for k in lines], [args.result.at(k * outputs) for k in lines]

    def lay(column: Int, mask: Bit | None) -> None:
        for k, value in enumerate(interleave([source.at(column).load(lanes, mask) for source in sources])):
            columns.at((column - low + k) * lanes).store(value)

    Vectors(f, lanes).run(low, high, lay)

    def compute(at: Int, mask: Bit | None) -> None:
        with f.loop(0, lanes, once=True) as k:
            j = (at + k.index).minimum(outputs - 1)
            terms = _Terms(f, spec.kind, args.starts, args.index, args.weights, j)
            sums.at(k.index * lanes).store(terms.sums(columns.at(low * -lanes), lanes, None, lanes, 1)[0])
        values = interleave([sums.at(k * lanes).load(lanes) for k in range(lanes)])
        for target, value in zip(targets, values, strict=True):
            target.at(at).store(value, mask)

    Vectors(f, lanes).run(first, end, compute)
    return f.ir()
