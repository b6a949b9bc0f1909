"""Moving and gathering over space: copies side by side, windows (pooling) and their gradient.

Arrays are seen as (outer, positions.., inner): channels-last arrays have the channels as `inner`, others what follows an axis.
Which positions an output reads stands in tables that the caller makes, so that a kernel knows no strides or paddings.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Elements, Integer, Record, Records, Words, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.elementwise.vectors import Vectors
from preimage.records import record

__all__ = [
    "MaxGradArguments", "MaxGradSpec", "PoolArguments", "PoolSpec", "RowsArguments", "RowsSpec",
    "Window", "build_max_grad", "build_pool", "build_rows", "joined", "start_of",
]  # fmt: skip


# -- copies ------------------------------------------------------------------------------------------------------------


class RowsArguments(Arguments):
    """Rows of `width` elements, `source_step` and `result_step` apart; a task copies `share` rows, `piece` columns of them."""

    source: Elements = elements("element")
    result: Elements = elements("element")
    rows: Integer
    width: Integer
    source_step: Integer
    result_step: Integer
    share: Integer
    piece: Integer
    pieces: Integer


@record
class RowsSpec:
    """Rows copied to rows of another distance."""

    arguments: ClassVar = RowsArguments

    element: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_rows(self)


def build_rows(spec: RowsSpec) -> str:
    f = Kernel()
    args = RowsArguments.read(f, spec)
    source, result = args.source, args.result
    pieces, piece, share = args.pieces, args.piece, args.share
    first = f.task % pieces * piece
    last = (first + piece).minimum(args.width)
    top = f.task // pieces * share
    with f.loop(top, (top + share).minimum(args.rows)) as row:
        line = source.at(row.index * args.source_step)
        to = result.at(row.index * args.result_step)

        def body(i: Int, mask: Bit | None, line: Ptr = line, to: Ptr = to) -> None:
            to.at(i).store(line.at(i).load(spec.lanes, mask), mask)

        Vectors(f, spec.lanes).run(first, last, body)
    return f.ir()


# -- windows along one axis --------------------------------------------------------------------------------------------


class Window(Record):
    """The part of a window that lies inside the input."""

    first: Column  # position
    taps: Column


class PoolArguments(Arguments):
    """(outer, size, inner) -> (outer, outputs, inner); a task is `share` of the rows (outer, output)."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    windows: Records[Window]  # of every output
    size: Integer
    outputs: Integer
    inner: Integer
    step: Integer  # between taps
    rows: Integer
    share: Integer


@record
class PoolSpec:
    """mode "max" (NaN wins, -infinity over nothing) or "sum" (taps in order, from 0)."""

    arguments: ClassVar = PoolArguments

    element: str
    lanes: int
    mode: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build_pool(self)


def build_pool(spec: PoolSpec) -> str:
    f = Kernel()
    args = PoolArguments.read(f, spec)
    x, result, windows = args.x, args.result, args.windows
    inner, outputs, share = args.inner, args.outputs, args.share
    start = start_of(f, spec.element, spec.lanes, spec.mode)
    step = args.step * inner
    top = f.task * share
    with f.loop(top, (top + share).minimum(args.rows)) as row:
        window = windows[row.index % outputs]
        line = x.at((row.index // outputs * args.size + window.first) * inner)
        taps, to = window.taps, result.at(row.index * inner)

        def body(i: Int, mask: Bit | None, line: Ptr = line, taps: Int = taps, to: Ptr = to) -> None:
            with f.loop(0, taps, carry=[start]) as tap:
                tap.carry = [joined(spec.mode, tap.carry[0], line.at(tap.index * step + i).load(spec.lanes, mask))]
            to.at(i).store(tap.result[0], mask)

        Vectors(f, spec.lanes).run(0, inner, body)
    return f.ir()


def start_of(f: Kernel, element: str, lanes: int, mode: str) -> Num:
    """What is joined with the first tap."""
    return f.const(element, lanes, 0.0 if mode == "sum" else float("-inf"))


def joined(mode: str, held: Num, value: Num) -> Num:
    """The maximum of two, or their sum."""
    if mode == "sum":
        return held + value
    larger: Num = (held.is_above(value) | held.is_nan()).select(held, value)
    return larger


class MaxGradArguments(Arguments):
    """x and result (outer, size, inner); pooled and g (outer, outputs, inner). A task is `share` inner elements of one outer."""

    x: Elements = elements("element")
    pooled: Elements = elements("element")
    g: Elements = elements("element")
    result: Elements = elements("element")
    positions: Words  # of the taps of every output; -1: outside
    size: Integer
    outputs: Integer
    taps: Integer
    inner: Integer
    share: Integer
    shares: Integer


@record
class MaxGradSpec:
    """The gradient of a maximum over windows: every g is added to the first element of its window that is the maximum (of NaNs
    the first). disjoint: the windows divide the input among them, so that every element is written once; else the sums begin at zeros."""

    arguments: ClassVar = MaxGradArguments

    element: str
    lanes: int
    disjoint: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build_max_grad(self)


def build_max_grad(spec: MaxGradSpec) -> str:
    f = Kernel()
    args = MaxGradArguments.read(f, spec)
    lanes, inner, taps, outputs = spec.lanes, args.inner, args.taps, args.outputs
    shares, share = args.shares, args.share
    outer, first = f.task // shares, f.task % shares * share
    last = (first + share).minimum(inner)
    large, small = outer * (args.size * inner), outer * (outputs * inner)
    x, result = args.x.at(large), args.result.at(large)
    pooled, g = args.pooled.at(small), args.g.at(small)
    positions = args.positions
    zero = f.zeros(spec.element, lanes)
    if not spec.disjoint:
        with f.loop(0, args.size) as p:
            clear = result.at(p.index * inner)
            Vectors(f, lanes).run(first, last, lambda i, mask: clear.at(i).store(zero, mask))
    with f.loop(0, outputs) as o:
        line = positions.at(o.index * taps)

        def body(i: Int, mask: Bit | None, line: Ptr = line, at: Int = o.index * inner) -> None:
            best = pooled.at(at + i).load(lanes, mask)
            with f.loop(0, taps, carry=[g.at(at + i).load(lanes, mask)]) as tap:
                left = tap.carry[0]
                place = line.at(tap.index).load_int()
                # a tap outside reads the window's first element in memory, whatever it is, and finds nothing
                where = place.maximum(0) * inner + i
                value = x.at(where).load(lanes, mask)
                found = value.is_equal(best) | value.is_nan()
                if spec.disjoint:
                    result.at(where).store(zero + found.select(left, zero), mask)
                else:
                    found = _both(f, found, place > -1, lanes)
                    result.at(where).store(result.at(where).load(lanes, mask) + found.select(left, zero), mask)
                tap.carry = [found.select(zero, left)]

        Vectors(f, lanes).run(first, last, body)
    return f.ir()


def _both(f: Kernel, hit: Bit, inside: Bit, lanes: int) -> Bit:
    if lanes == 1:
        return hit & inside
    return hit & f.lane_mask(lanes, inside.select(f.i64(lanes), f.i64(0)))
