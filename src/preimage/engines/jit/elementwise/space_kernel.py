"""Moving and gathering over space: copies side by side, windows (pooling) and their gradient, resizing.

Arrays are seen as (outer, positions.., inner): channels-last arrays have the channels as `inner`, others what follows an axis.
Which positions an output reads stands in tables that the caller makes, so that a kernel knows no strides, paddings or factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr

__all__ = [
    "MaxGradArg", "MaxGradSpec", "PoolArg", "PoolSpec", "ResizeArg", "ResizeSpec", "RowsArg", "RowsSpec", "build_max_grad",
    "build_pool", "build_resize", "build_rows",
]  # fmt: skip


class _Vectors:
    """for the vectors of columns first .. last - 1: body(column, mask of the last, shorter one or None)"""

    def __init__(self, f: Kernel, lanes: int) -> None:
        self.f, self.lanes = f, lanes

    def run(self, first: Int | int, last: Int, body: object) -> None:
        assert callable(body)
        if self.lanes == 1:
            with self.f.loop(first, last) as i:
                body(i.index, None)
            return
        edge = last - (last - first) % self.lanes
        with self.f.loop(first, edge, self.lanes) as i:
            body(i.index, None)
        with self.f.when(edge < last):
            body(edge, self.f.lane_mask(self.lanes, last - edge))


# -- copies ------------------------------------------------------------------------------------------------------------


class RowsArg(IntEnum):
    """ROWS rows of WIDTH elements, STEPs apart; a task copies SHARE rows, PIECE columns of them."""

    SOURCE = 0
    RESULT = 1
    ROWS = 2
    WIDTH = 3
    SOURCE_STEP = 4
    RESULT_STEP = 5
    SHARE = 6
    PIECE = 7
    PIECES = 8


@dataclass(frozen=True, slots=True)
class RowsSpec:
    """Rows copied to rows of another distance."""

    arguments: ClassVar[type[IntEnum]] = RowsArg

    element: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_rows(self)


def build_rows(spec: RowsSpec) -> str:
    f, a = Kernel(), RowsArg
    source, result = f.ptr_arg(a.SOURCE, spec.element), f.ptr_arg(a.RESULT, spec.element)
    pieces, piece, share = f.int_arg(a.PIECES), f.int_arg(a.PIECE), f.int_arg(a.SHARE)
    first = f.task % pieces * piece
    last = (first + piece).minimum(f.int_arg(a.WIDTH))
    top = f.task // pieces * share
    with f.loop(top, (top + share).minimum(f.int_arg(a.ROWS))) as row:
        line = source.at(row.index * f.int_arg(a.SOURCE_STEP))
        to = result.at(row.index * f.int_arg(a.RESULT_STEP))

        def body(i: Int, mask: Bit | None, line: Ptr = line, to: Ptr = to) -> None:
            to.at(i).store(line.at(i).load(spec.lanes, mask), mask)

        _Vectors(f, spec.lanes).run(first, last, body)
    return f.ir()


# -- windows along one axis --------------------------------------------------------------------------------------------


class PoolArg(IntEnum):
    """(outer, SIZE, INNER) -> (outer, OUTPUTS, INNER); TABLE: (first position, taps) of every output; STEP between taps."""

    X = 0
    RESULT = 1
    TABLE = 2
    SIZE = 3
    OUTPUTS = 4
    INNER = 5
    STEP = 6
    ROWS = 7
    SHARE = 8


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """mode "max" (NaN wins, -infinity over nothing) or "sum" (taps in order, from 0). A task is SHARE rows (outer, output)."""

    arguments: ClassVar[type[IntEnum]] = PoolArg

    element: str
    lanes: int
    mode: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build_pool(self)


def build_pool(spec: PoolSpec) -> str:
    f, a = Kernel(), PoolArg
    x, result, table = f.ptr_arg(a.X, spec.element), f.ptr_arg(a.RESULT, spec.element), f.ptr_arg(a.TABLE, "i64")
    inner, outputs, share = f.int_arg(a.INNER), f.int_arg(a.OUTPUTS), f.int_arg(a.SHARE)
    start = f.const(spec.element, spec.lanes, 0.0 if spec.mode == "sum" else float("-inf"))
    step = f.int_arg(a.STEP) * inner
    top = f.task * share
    with f.loop(top, (top + share).minimum(f.int_arg(a.ROWS))) as row:
        entry = table.at(row.index % outputs * 2)
        line = x.at((row.index // outputs * f.int_arg(a.SIZE) + entry.load_int()) * inner)
        taps, to = entry.at(1).load_int(), result.at(row.index * inner)

        def body(i: Int, mask: Bit | None, line: Ptr = line, taps: Int = taps, to: Ptr = to) -> None:
            with f.loop(0, taps, carry=[start]) as tap:
                value = line.at(tap.index * step + i).load(spec.lanes, mask)
                held = tap.carry[0]
                if spec.mode == "max":
                    tap.carry = [(held.is_above(value) | held.is_nan()).select(held, value)]
                else:
                    tap.carry = [held + value]
            to.at(i).store(tap.result[0], mask)

        _Vectors(f, spec.lanes).run(0, inner, body)
    return f.ir()


class MaxGradArg(IntEnum):
    """X, RESULT (outer, SIZE, INNER); POOLED, G (outer, OUTPUTS, INNER); TABLE: TAPS positions of every output, -1: outside."""

    X = 0
    POOLED = 1
    G = 2
    RESULT = 3
    TABLE = 4
    SIZE = 5
    OUTPUTS = 6
    TAPS = 7
    INNER = 8
    SHARE = 9
    SHARES = 10


@dataclass(frozen=True, slots=True)
class MaxGradSpec:
    """The gradient of a maximum over windows: every g is added to the first element of its window that is the maximum (of NaNs
    the first); RESULT holds zeros before. A task is SHARE inner elements of one outer."""

    arguments: ClassVar[type[IntEnum]] = MaxGradArg

    element: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_max_grad(self)


def build_max_grad(spec: MaxGradSpec) -> str:
    f, a = Kernel(), MaxGradArg
    lanes, inner, taps, outputs = spec.lanes, f.int_arg(a.INNER), f.int_arg(a.TAPS), f.int_arg(a.OUTPUTS)
    shares, share = f.int_arg(a.SHARES), f.int_arg(a.SHARE)
    outer, first = f.task // shares, f.task % shares * share
    last = (first + share).minimum(inner)
    large, small = outer * (f.int_arg(a.SIZE) * inner), outer * (outputs * inner)
    x, result = f.ptr_arg(a.X, spec.element).at(large), f.ptr_arg(a.RESULT, spec.element).at(large)
    pooled, g = f.ptr_arg(a.POOLED, spec.element).at(small), f.ptr_arg(a.G, spec.element).at(small)
    table = f.ptr_arg(a.TABLE, "i64")
    zero = f.zeros(spec.element, lanes)
    with f.loop(0, outputs) as o:
        line = table.at(o.index * taps)

        def body(i: Int, mask: Bit | None, line: Ptr = line, at: Int = o.index * inner) -> None:
            best = pooled.at(at + i).load(lanes, mask)
            with f.loop(0, taps, carry=[g.at(at + i).load(lanes, mask)]) as tap:
                left = tap.carry[0]
                place = line.at(tap.index).load_int()
                inside = place > -1
                # a tap outside reads the window's first element in memory, whatever it is, and finds nothing
                where = place.maximum(0) * inner + i
                value, sum_ = x.at(where).load(lanes, mask), result.at(where).load(lanes, mask)
                hit = value.is_equal(best) | value.is_nan()
                found = _both(f, hit, inside, lanes)
                result.at(where).store(sum_ + found.select(left, zero), mask)
                tap.carry = [found.select(zero, left)]

        _Vectors(f, lanes).run(first, last, body)
    return f.ir()


def _both(f: Kernel, hit: Bit, inside: Bit, lanes: int) -> Bit:
    if lanes == 1:
        return hit & inside
    return hit & f.lane_mask(lanes, inside.select(f.i64(lanes), f.i64(0)))


# -- resizing ----------------------------------------------------------------------------------------------------------


class ResizeArg(IntEnum):
    """(outer, ROWS_IN, COLUMNS_IN, INNER) -> (outer, rows out, COLUMNS, INNER).

    LOW.., for rows and for columns: the two positions of every output (integers), the second's weight, and 1 where the two are
    blended, else 0 (elements). A task is SHARE of the TOTAL rows (outer, row out).
    """

    X = 0
    RESULT = 1
    ROWS_IN = 2
    ROWS = 3
    COLUMNS_IN = 4
    COLUMNS = 5
    INNER = 6
    TOTAL = 7
    SHARE = 8
    ROW_LOW = 9
    ROW_HIGH = 10
    ROW_WEIGHT = 11
    ROW_BLEND = 12
    COLUMN_LOW = 13
    COLUMN_HIGH = 14
    COLUMN_WEIGHT = 15
    COLUMN_BLEND = 16


@dataclass(frozen=True, slots=True)
class ResizeSpec:
    """Two axes at once: nearest, or linear (rows are blended first, then columns)."""

    arguments: ClassVar[type[IntEnum]] = ResizeArg

    element: str
    lanes: int
    linear: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build_resize(self)


def build_resize(spec: ResizeSpec) -> str:
    f, a, e, lanes = Kernel(), ResizeArg, spec.element, spec.lanes
    x, result, inner = f.ptr_arg(a.X, e), f.ptr_arg(a.RESULT, e), f.int_arg(a.INNER)
    n_in, n_rows, columns_in, columns = (f.int_arg(k) for k in (a.ROWS_IN, a.ROWS, a.COLUMNS_IN, a.COLUMNS))
    one, zero = f.const(e, lanes, 1.0), f.zeros(e, lanes)

    def table(slot: int, at: Int) -> Int:
        return f.ptr_arg(slot, "i64").at(at).load_int()

    def blend(slot: int, at: Int) -> tuple[Num, Bit]:
        weight, flag = f.ptr_arg(slot, e).at(at).splat(lanes), f.ptr_arg(slot + 1, e).at(at).splat(lanes)
        return weight, flag.is_above(zero)

    top, share = f.task * f.int_arg(a.SHARE), f.int_arg(a.SHARE)
    with f.loop(top, (top + share).minimum(f.int_arg(a.TOTAL))) as row:
        r, base = row.index % n_rows, row.index // n_rows * n_in
        lines = [x.at((base + table(slot, r)) * (columns_in * inner)) for slot in (a.ROW_LOW, a.ROW_HIGH)[: 1 + spec.linear]]
        over = blend(a.ROW_WEIGHT, r) if spec.linear else None
        with f.loop(0, columns) as column:
            c = column.index
            starts = [table(slot, c) * inner for slot in (a.COLUMN_LOW, a.COLUMN_HIGH)[: 1 + spec.linear]]
            along = blend(a.COLUMN_WEIGHT, c) if spec.linear else None
            to = result.at((row.index * columns + c) * inner)

            def body(i: Int, mask: Bit | None, to: Ptr = to, starts: list[Int] = starts, along: object = along) -> None:
                corners = [[line.at(start + i).load(lanes, mask) for line in lines] for start in starts]
                if over is not None:
                    assert isinstance(along, tuple)
                    to.at(i).store(_mixed([_mixed(pair, over, one) for pair in corners], along, one), mask)
                else:
                    to.at(i).store(corners[0][0], mask)

            _Vectors(f, lanes).run(0, inner, body)
    return f.ir()


def _mixed(pair: list[Num], how: tuple[Num, Bit], one: Num) -> Num:
    """low (1 - weight) + high weight, each rounded; low itself where nothing is blended."""
    weight, blended = how
    value: Num = blended.select(pair[0] * (one - weight) + pair[1] * weight, pair[0])
    return value
