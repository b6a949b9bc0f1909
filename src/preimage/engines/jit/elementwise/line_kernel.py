"""What is computed of whole lines of arrays seen as (outer, length, inner): softmax and its kin, extremes, standardisation.

    softmax               e = exp(x - m), m = max x;  y = e / sum e          gradient, of y and g:  y (g - sum g y)
    log_softmax           x - m - log(sum e)                                 logsumexp:  log(sum e) + m, one number a line
    max, min              one number a line; NaN if any is, and -0 is below +0
    standardize           d = x - sum x / n;  c = d - sum d / n;  y = c s, s = 1 / sqrt(sum c^2 / n + eps)   (then y scale + shift)
    standardize_gradient  of y, g and s:  s (g - sum g / n - y sum(g y) / n)

Sums are those of engines/sums.py: element i of a block goes to partial sum i % 16, which are added as a tree; blocks as the aligned tree.
With inner = 1 the partial sums are lanes (`_Row`), else vectors over `inner` that wait in memory (`_Column`): the same bits. Both read and
write a line by the same few words, in which the functions at the end are written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from preimage.engines.ir import math
from preimage.engines.ir.arguments import Arguments, Elements, Integer, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.logarithms import log
from preimage.engines.jit.elementwise.line_joins import across, extremes, joined, strangest, with_nan
from preimage.engines.jit.elementwise.running_tree import RunningTree
from preimage.engines.order import BLOCK, PARTIALS
from preimage.records import record

__all__ = ["REDUCED", "LineArguments", "LineSpec", "build"]

#: What gives one number a line.
REDUCED = ("logsumexp", "max", "min")
#: Sums taken side by side, where there are several.
_SUMS = {"standardize_gradient": 2}


class LineArguments(Arguments):
    """A task is `share` of all lines (rows), or `share` inner elements of one outer (columns, `shares` of them)."""

    x: Elements = elements("element")  # the values (gradients: the answer y)
    g: Elements = elements("element", default=0)  # the cotangent
    result: Elements = elements("element")
    each: Elements = elements(
        "element", default=0
    )  # a number a line: the standardised squares' mean + eps; read by the gradient: s
    scale: Elements = elements("element", default=0)
    shift: Elements = elements("element", default=0)
    numbers: Elements = elements("element", default=0)  # n, eps
    length: Integer
    inner: Integer
    total: Integer  # lines
    share: Integer
    shares: Integer
    blocks: Integer  # of the sum of a line
    levels: Integer  # of the tree over the blocks


@record
class LineSpec:
    """columns: whether neighbouring vectors' lanes are different lines; affine: whether scale and shift follow.

    Of rows, one_block: a line's sum is of a single block; even: a line is whole vectors of partial sums.
    """

    arguments: ClassVar = LineArguments

    element: str
    lanes: int
    columns: bool
    mode: str
    affine: bool = False
    one_block: bool = False
    even: bool = False

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


#: A vector of a line: where it begins in it, and which lanes count.
Spot = tuple[Int, "Bit | None"]


class _Line:
    """Reading, writing and adding up one line (rows), or as many side by side as a vector has lanes (columns)."""

    lanes: int

    def __init__(self, f: Kernel, spec: LineSpec, args: LineArguments) -> None:
        self.f, self.spec, self.args = f, spec, args
        lanes = spec.lanes if spec.columns else 1
        self.trees = [RunningTree(f, spec.element, lanes, args.levels) for _ in range(_SUMS.get(spec.mode, 1))]

    def number(self, value: float) -> Num:
        return self.f.const(self.spec.element, self.lanes, value)

    def given(self, k: int) -> Num:
        """One of the numbers, in every lane."""
        return self.args.numbers.at(k).splat(self.lanes)

    def end(self, block: Int) -> Int:
        """The end of a block that begins at BLOCK times its number."""
        return (block * BLOCK + BLOCK).minimum(self.args.length)


class _Row(_Line):
    """A line whose elements are neighbours in memory."""

    def __init__(self, f: Kernel, spec: LineSpec, args: LineArguments) -> None:
        super().__init__(f, spec, args)
        self.lanes = min(spec.lanes, PARTIALS)
        self.vectors = PARTIALS // self.lanes

    def begin(self, number: Int) -> None:
        """Go to a line."""
        self.at, self.line = number * self.args.length, number
        self.whole = self.args.length if self.spec.even else self.args.length - self.args.length % PARTIALS
        rest = self.args.length - self.whole
        self.masks = [] if self.spec.even else [self.f.lane_mask(self.lanes, rest - j * self.lanes) for j in range(self.vectors)]

    def load(self, array: Ptr, spot: Spot) -> Num:
        return array.at(self.at + spot[0]).load(self.lanes, spot[1])

    def store(self, array: Ptr, spot: Spot, value: Num) -> None:
        array.at(self.at + spot[0]).store(value, spot[1])

    def along(self, array: Ptr, spot: Spot) -> Num:
        """Of an array that every line shares."""
        return array.at(spot[0]).load(self.lanes, spot[1])

    def load_one(self, array: Ptr) -> Num:
        """The line's own number."""
        return array.at(self.line).splat(self.lanes)

    def store_one(self, array: Ptr, value: Num) -> None:
        array.at(self.line).store(value.lane(0))

    def counted(self, spot: Spot, value: Num, other: Num) -> Num:
        """The value in the lanes that count, else the other."""
        chosen: Num = value if spot[1] is None else spot[1].select(value, other)
        return chosen

    def total(self, sums: int, terms: Callable[[Spot, list[Num]], list[Num]]) -> list[Num]:
        """Sums side by side of the whole line, in every lane."""
        f, args = self.f, self.args
        if self.spec.one_block:
            return [total.splat(self.lanes) for total in self._block(f.i64(0), args.length, sums, terms)]
        with f.loop(0, args.blocks) as block:
            made = self._block(block.index * BLOCK, self.end(block.index), sums, terms)
            for tree, value in zip(self.trees[:sums], made, strict=True):
                tree.add(block.index, value)
        return [tree.total(args.blocks).splat(self.lanes) for tree in self.trees[:sums]]

    def _block(self, start: Int, end: Int, sums: int, terms: Callable[[Spot, list[Num]], list[Num]]) -> list[Num]:
        """The same of one block, as single numbers."""
        f, lanes = self.f, self.lanes
        even = end if self.spec.even else end - (end - start) % PARTIALS

        def step(held: list[Num], place: Int, masks: list[Bit | None]) -> list[Num]:
            made = [terms((place + j * lanes, masks[j]), held[j * sums : j * sums + sums]) for j in range(self.vectors)]
            return [value for several in made for value in several]

        with f.loop(start, even, PARTIALS, carry=[self.number(0.0)] * (self.vectors * sums)) as k:
            k.carry = step(k.carry, k.index, [None] * self.vectors)
        held = k.result
        if not self.spec.even:
            held = step(held, even, [f.lane_mask(lanes, end - even - j * lanes) for j in range(self.vectors)])
        return [across(joined(held[s::sums]), lambda a, b: a + b).lane(0) for s in range(sums)]

    def extreme(self, array: Ptr, word: str) -> Num:
        """The largest or smallest value of a line, in every lane."""
        low = self.number(float("-inf" if word == "maximum" else "inf"))
        many = self.vectors
        with self.f.loop(0, self.whole, PARTIALS, carry=[low] * (2 * many)) as k:
            found = [self.load(array, (k.index + j * self.lanes, None)) for j in range(many)]
            k.carry = extremes(k.carry[:many], found, word) + strangest(k.carry[many:], found)
        tops, strange = k.result[:many], k.result[many:]
        if not self.spec.even:
            ends = [(self.whole + j * self.lanes, mask) for j, mask in enumerate(self.masks)]
            found = [self.counted(spot, self.load(array, spot), low) for spot in ends]
            tops, strange = extremes(tops, found, word), strangest(strange, found)
        for j in range(1, many):
            tops[:1], strange[:1] = extremes(tops[:1], [tops[j]], word), strangest(strange[:1], [strange[j]])
        top = across(tops[0], lambda a, b: extremes([a], [b], word)[0])
        nan = across(strange[0], lambda a, b: strangest([a], [b])[0])
        return with_nan(top, nan).lane(0).splat(self.lanes)

    def every(self, use: Callable[[Spot], None]) -> None:
        """use(...) of every vector of the line."""
        with self.f.loop(0, self.whole, self.lanes) as k:
            use((k.index, None))
        if not self.spec.even:
            for j, mask in enumerate(self.masks):
                use((self.whole + j * self.lanes, mask))


class _Column(_Line):
    """As many lines side by side as a vector has lanes; `mask` is true where there is one."""

    def __init__(self, f: Kernel, spec: LineSpec, args: LineArguments) -> None:
        super().__init__(f, spec, args)
        self.lanes = spec.lanes
        self.rooms = [f.room(spec.element, PARTIALS * spec.lanes) for _ in self.trees]

    def begin(self, outer: Int, inner: Int, mask: Bit | None) -> None:
        """Go to the lines that begin at some place."""
        self.at, self.line, self.mask = (
            outer * (self.args.length * self.args.inner) + inner,
            outer * self.args.inner + inner,
            mask,
        )

    def load(self, array: Ptr, spot: Spot) -> Num:
        return array.at(self.at + spot[0] * self.args.inner).load(self.lanes, self.mask)

    def store(self, array: Ptr, spot: Spot, value: Num) -> None:
        array.at(self.at + spot[0] * self.args.inner).store(value, self.mask)

    def along(self, array: Ptr, spot: Spot) -> Num:
        return array.at(spot[0]).splat(self.lanes)

    def load_one(self, array: Ptr) -> Num:
        return array.at(self.line).load(self.lanes, self.mask)

    def store_one(self, array: Ptr, value: Num) -> None:
        array.at(self.line).store(value, self.mask)

    def counted(self, spot: Spot, value: Num, other: Num) -> Num:
        return value

    def total(self, sums: int, terms: Callable[[Spot, list[Num]], list[Num]]) -> list[Num]:
        f, lanes = self.f, self.lanes
        with f.loop(0, self.args.blocks) as block:
            for room in self.rooms:
                for j in range(PARTIALS):
                    room.at(j * lanes).store(self.number(0.0))
            with f.loop(block.index * BLOCK, self.end(block.index)) as k:
                slots = [room.at((k.index & (PARTIALS - 1)) * lanes) for room in self.rooms]
                for slot, value in zip(slots, terms((k.index, None), [slot.load(lanes) for slot in slots]), strict=True):
                    slot.store(value)
            for room, tree in zip(self.rooms, self.trees, strict=True):
                tree.add(block.index, joined([room.at(j * lanes).load(lanes) for j in range(PARTIALS)]))
        return [tree.total(self.args.blocks) for tree in self.trees]

    def extreme(self, array: Ptr, word: str) -> Num:
        low = self.number(float("-inf" if word == "maximum" else "inf"))
        with self.f.loop(0, self.args.length, carry=[low, low]) as k:
            found = [self.load(array, (k.index, None))]
            k.carry = extremes(k.carry[:1], found, word) + strangest(k.carry[1:], found)
        return with_nan(*k.result)

    def every(self, use: Callable[[Spot], None]) -> None:
        with self.f.loop(0, self.args.length) as k:
            use((k.index, None))


def build(spec: LineSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = LineArguments.read(f, spec)
    if not spec.columns:
        row = _Row(f, spec, args)
        top = f.task * args.share
        with f.loop(top, (top + args.share).minimum(args.total)) as number:
            row.begin(number.index)
            _MODES[spec.mode](row)
        return f.ir()
    column = _Column(f, spec, args)
    outer, first = f.task // args.shares, f.task % args.shares * args.share
    last = (first + args.share).minimum(args.inner)
    edge = last - (last - first) % spec.lanes
    with f.loop(first, edge, spec.lanes) as i:
        column.begin(outer, i.index, None)
        _MODES[spec.mode](column)
    with f.when(edge < last):
        column.begin(outer, edge, f.lane_mask(spec.lanes, last - edge))
        _MODES[spec.mode](column)
    return f.ir()


# -- what is computed of a line ----------------------------------------------------------------------------------------

_AnyLine = _Row | _Column


def _exponentials(line: _AnyLine, top: Num, kept: bool) -> Num:
    """sum exp(x - top); kept: the terms are the result for now."""
    args = line.args

    def term(spot: Spot, held: list[Num]) -> list[Num]:
        e = math.exp(line.f, line.load(args.x, spot) - top)
        if kept:
            line.store(args.result, spot, e)
        return [held[0] + line.counted(spot, e, line.number(0.0))]

    return line.total(1, term)[0]


def _softmax(line: _AnyLine) -> None:
    result, total = line.args.result, _exponentials(line, line.extreme(line.args.x, "maximum"), True)
    line.every(lambda spot: line.store(result, spot, line.load(result, spot) / total))


def _softmax_gradient(line: _AnyLine) -> None:
    y, g = line.args.x, line.args.g
    (total,) = line.total(1, lambda spot, held: [line.load(g, spot).fma(line.load(y, spot), held[0])])
    line.every(lambda spot: line.store(line.args.result, spot, line.load(y, spot) * (line.load(g, spot) - total)))


def _log_softmax(line: _AnyLine) -> None:
    top = line.extreme(line.args.x, "maximum")
    total = log(line.f, _exponentials(line, top, False))
    line.every(lambda spot: line.store(line.args.result, spot, line.load(line.args.x, spot) - top - total))


def _logsumexp(line: _AnyLine) -> None:
    """An infinite maximum is not taken off, so that no infinity meets its like."""
    top = line.extreme(line.args.x, "maximum")
    zero = line.number(0.0)
    top = top.absolute().is_equal(line.number(float("inf"))).select(zero, top)
    line.store_one(line.args.result, log(line.f, _exponentials(line, top, False)) + top)


def _standardize(line: _AnyLine) -> None:
    args, zero = line.args, line.number(0.0)
    count = line.given(0)
    mean = line.total(1, lambda spot, held: [held[0] + line.load(args.x, spot)])[0] / count
    rest = line.total(1, lambda spot, held: [held[0] + line.counted(spot, line.load(args.x, spot) - mean, zero)])[0] / count

    def centred(spot: Spot) -> Num:
        return line.counted(spot, line.load(args.x, spot) - mean - rest, zero)

    def square(spot: Spot, held: list[Num]) -> list[Num]:
        c = centred(spot)
        return [c.fma(c, held[0])]

    below = line.total(1, square)[0] / count + line.given(1)
    line.store_one(args.each, below)
    inverse = line.number(1.0) / below.sqrt()

    def finish(spot: Spot) -> None:
        y = centred(spot) * inverse
        if line.spec.affine:
            y = y * line.along(args.scale, spot) + line.along(args.shift, spot)
        line.store(args.result, spot, y)

    line.every(finish)


def _standardize_gradient(line: _AnyLine) -> None:
    y, g, count = line.args.x, line.args.g, line.given(0)

    def terms(spot: Spot, held: list[Num]) -> list[Num]:
        slope = line.load(g, spot)
        return [held[0] + slope, slope.fma(line.load(y, spot), held[1])]

    plain, weighted = (total / count for total in line.total(2, terms))
    s = line.load_one(line.args.each)
    line.every(lambda spot: line.store(line.args.result, spot, s * (line.load(g, spot) - plain - line.load(y, spot) * weighted)))


_MODES: dict[str, Callable[[_AnyLine], None]] = {
    "softmax": _softmax,
    "softmax_gradient": _softmax_gradient,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "max": lambda line: line.store_one(line.args.result, line.extreme(line.args.x, "maximum")),
    "min": lambda line: line.store_one(line.args.result, line.extreme(line.args.x, "minimum")),
    "standardize": _standardize,
    "standardize_gradient": _standardize_gradient,
}
