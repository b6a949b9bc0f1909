"""Windows over two axes at once: (outer, height, width, inner) -> (outer, rows, columns, inner).

    for every row of outputs:
        for columns whose windows lie inside:      all taps written out, in vectors of `inner`, or of neighbouring columns where inner is 1
        for the others, and rows at the edge:      loops over the taps that lie inside

A window is taken column by column, each from top to bottom, then the columns from left to right: the order, and so the bits, of one axis after
the other (space_kernel.PoolSpec).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Records, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.shuffles import deinterleave
from preimage.engines.jit.elementwise.space_kernel import Window, joined
from preimage.engines.jit.elementwise.vectors import Vectors
from preimage.records import record

__all__ = ["PoolPlaneArguments", "PoolPlaneSpec", "build"]


class PoolPlaneArguments(Arguments):
    """A task is `share` rows of outputs. Windows of the columns `first` .. `last` - 1 lie inside; number 0 begins at `begin`."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    over: Elements = elements("element")  # (rows, columns): what sums are divided by
    row_windows: Records[Window]
    column_windows: Records[Window]
    height: Integer
    width: Integer
    inner: Integer
    rows: Integer
    columns: Integer
    row_step: Integer  # between taps
    column_step: Integer
    first: Integer
    last: Integer
    begin: Integer
    total: Integer  # rows of outputs, over all outers
    share: Integer


@record
class PoolPlaneSpec:
    """mode "max", "sum" or "mean" (the sum divided by `over`); window: taps down and across; stride: of columns; flat: inner is 1."""

    arguments: ClassVar = PoolPlaneArguments

    element: str
    lanes: int
    mode: str
    window: tuple[int, int]
    stride: int
    flat: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: PoolPlaneSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = PoolPlaneArguments.read(f, spec)
    rows, columns, inner = args.rows, args.columns, args.inner
    down = args.row_step * args.width * inner
    with f.share(args.total, args.share) as row:
        window = args.row_windows[row.index % rows]
        taps = window.taps
        plane = _Row(
            f, spec, args, args.x.at((row.index // rows * args.height + window.first) * args.width * inner),
            args.result.at(row.index * (columns * inner)), args.over.at(row.index % rows * columns), down, taps,
        )  # fmt: skip
        plane.edge(0, args.first)
        whole = taps.equals(spec.window[0])
        with f.when(whole):
            plane.inside(plane.written_out)
        with f.when(taps < spec.window[0]):
            plane.inside(plane.looped)
        plane.edge(args.last, columns)
    return f.ir()


class _Row:
    """One row of outputs: where it reads and writes."""

    def __init__(
        self, f: Kernel, spec: PoolPlaneSpec, args: PoolPlaneArguments, source: Ptr, target: Ptr, over: Ptr, down: Int, taps: Int
    ) -> None:  # fmt: skip
        self.f, self.spec, self.args = f, spec, args
        self.source, self.target, self.over, self.down, self.taps = source, target, over, down, taps
        self.mode = "max" if spec.mode == "max" else "sum"

    def start(self, lanes: int) -> Num:
        return self.f.const(self.spec.element, lanes, float("-inf") if self.mode == "max" else 0.0)

    def finished(self, sums: Num, over: Num | None) -> Num:
        """What is stored: of a mean, the sums divided."""
        return sums if over is None else sums / over

    def divisor(self, column: Int, lanes: int) -> Num | None:
        """That of one column, in every lane."""
        return self.over.at(column).splat(lanes) if self.spec.mode == "mean" else None

    # -- a vector of outputs, given how one tap is read

    def written_out(self, read: Callable[[Int | int, Int | int], Num]) -> Num:
        """All taps of whole windows."""
        high, wide = self.spec.window
        lanes = self.spec.lanes
        held = self.start(lanes)
        for across in range(wide):
            line = self.start(lanes)
            for down in range(high):
                line = joined(self.mode, line, read(self.down * down, across))
            held = joined(self.mode, held, line)
        return held

    def looped(self, read: Callable[[Int | int, Int | int], Num], lanes: int = 0, wide: Int | int = 0) -> Num:
        """Those rows of taps that lie inside; of columns of taps `wide`."""
        f, lanes = self.f, lanes or self.spec.lanes
        with f.loop(0, wide or self.spec.window[1], carry=[self.start(lanes)]) as across:
            with f.loop(0, self.taps, carry=[self.start(lanes)]) as down:
                down.carry = [joined(self.mode, down.carry[0], read(self.down * down.index, across.index))]
            across.carry = [joined(self.mode, across.carry[0], down.result[0])]
        held: Num = across.result[0]
        return held

    # -- columns

    def inside(self, window: Callable[[Callable[[Int | int, Int | int], Num]], Num]) -> None:
        """Columns whose windows lie inside."""
        spec, args, f = self.spec, self.args, self.f
        if spec.flat:
            self._neighbours(window)
            return
        across = args.column_step * args.inner
        with f.loop(args.first, args.last) as column:
            begin = self.source.at((column.index * spec.stride + args.begin) * args.inner)
            to, over = self.target.at(column.index * args.inner), self.divisor(column.index, spec.lanes)

            def body(i: Int, mask: Bit | None) -> None:
                def read(down: Int | int, tap: Int | int) -> Num:
                    return begin.at(across * tap + down + i).load(spec.lanes, mask)

                to.at(i).store(self.finished(window(read), over), mask)

            Vectors(f, spec.lanes).run(0, args.inner, body)

    def _neighbours(self, window: Callable[[Callable[[Int | int, Int | int], Num]], Num]) -> None:
        """Vectors of outputs next to each other, whose taps lie `stride` apart: every stride-th element of as many vectors of the input."""
        spec, args, f = self.spec, self.args, self.f
        lanes, stride = spec.lanes, spec.stride

        def vector(column: Int, count: Int | int, mask: Bit | None) -> None:
            begin = self.source.at(column * stride + args.begin)
            needed = count * stride - (stride - 1)  # nothing behind the last tap is read: it may lie outside the array

            def read(down: Int | int, tap: Int | int) -> Num:
                at = begin.at(args.column_step * tap + down)
                whole = stride - 1 if mask is None else 0
                masks = [None if k < whole or needed == lanes else f.lane_mask(lanes, needed - k * lanes) for k in range(stride)]
                return deinterleave([at.at(k * lanes).load(lanes, m) for k, m in enumerate(masks)])[0]

            over = self.over.at(column).load(lanes, mask) if spec.mode == "mean" else None
            self.target.at(column).store(self.finished(window(read), over), mask)

        end = args.first + (args.last - args.first) // lanes * lanes
        with f.loop(args.first, end, lanes) as column:
            vector(column.index, lanes, None)
        with f.when(end < args.last):
            vector(end, args.last - end, f.lane_mask(lanes, args.last - end))

    def edge(self, first: Int | int, last: Int) -> None:
        """Columns first .. last - 1, over the taps that lie inside."""
        spec, args, f = self.spec, self.args, self.f
        lanes = 1 if spec.flat else spec.lanes
        across = args.column_step * args.inner
        with f.loop(first, last) as column:
            window = args.column_windows[column.index]
            begin, wide = self.source.at(window.first * args.inner), window.taps
            to, over = self.target.at(column.index * args.inner), self.divisor(column.index, lanes)

            def body(i: Int, mask: Bit | None) -> None:
                def read(down: Int | int, tap: Int | int) -> Num:
                    return begin.at(across * tap + down + i).load(lanes, mask)

                to.at(i).store(self.finished(self.looped(read, lanes, wide), over), mask)

            Vectors(f, lanes).run(0, args.inner, body)
