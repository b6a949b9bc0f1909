"""Softmax along one axis and its gradient, of arrays seen as (outer, length, inner):

    forward    m = max x;  y = exp(x - m);  s = sum y;  y = y / s
    gradient   s = sum g y;  y (g - s)

The sum is that of engines/sums.py: element i of a block goes to partial sum i % 16, which are added as a tree; blocks as the aligned
tree. With inner = 1 the partial sums are lanes (rows), else vectors over `inner` that wait in memory (columns): the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from preimage.engines.ir import math
from preimage.engines.ir.arguments import Arguments, Elements, Integer, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.elementwise.running_tree import RunningTree
from preimage.engines.order import BLOCK, PARTIALS

__all__ = ["SoftmaxArguments", "SoftmaxSpec", "build"]


class SoftmaxArguments(Arguments):
    """A task is `share` of all lines (rows), or `share` inner elements of one outer (columns, `shares` of them)."""

    x: Elements = elements("element")  # the values (gradient: the answer y)
    g: Elements = elements("element")  # the cotangent
    result: Elements = elements("element")
    length: Integer
    inner: Integer
    total: Integer  # lines
    share: Integer
    shares: Integer
    blocks: Integer  # of the sum of a line
    levels: Integer  # of the tree over the blocks


@dataclass(frozen=True, slots=True)
class SoftmaxSpec:
    """columns: whether neighbouring vectors' lanes are different lines; gradient: which of the two."""

    arguments: ClassVar = SoftmaxArguments

    element: str
    lanes: int
    columns: bool
    gradient: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


class _Line:
    """What the code of a line knows: its length, and the tree over its blocks."""

    def __init__(self, f: Kernel, spec: SoftmaxSpec, length: Int, blocks: Int, levels: Int) -> None:
        self.f, self.spec, self.length, self.blocks = f, spec, length, blocks
        self.tree = RunningTree(f, spec.element, spec.lanes if spec.columns else 1, levels)

    def end(self, block: Int) -> Int:
        """The end of a block that begins at BLOCK times its number."""
        return (block * BLOCK + BLOCK).minimum(self.length)


def build(spec: SoftmaxSpec) -> str:
    f = Kernel()
    lanes = spec.lanes
    room = f.stack(spec.element, PARTIALS * lanes)
    args = SoftmaxArguments.read(f, spec)
    length, share = args.length, args.share
    line = _Line(f, spec, length, args.blocks, args.levels)
    x, g, result = args.x, args.g, args.result
    if not spec.columns:
        top = f.task * share
        with f.loop(top, (top + share).minimum(args.total)) as row:
            at = row.index * length
            _row(line, x.at(at), g.at(at), result.at(at))
        return f.ir()
    inner, shares = args.inner, args.shares
    begin = f.task // shares * (length * inner)
    first = f.task % shares * share
    last = (first + share).minimum(inner)
    edge = last - (last - first) % lanes

    def column(i: Int, mask: Bit | None) -> None:
        at = begin + i
        _column(line, x.at(at), g.at(at), result.at(at), inner, room, mask)

    with f.loop(first, edge, lanes) as i:
        column(i.index, None)
    with f.when(edge < last):
        column(edge, f.lane_mask(lanes, last - edge))
    return f.ir()


def _highest(f: Kernel, x: Num, y: Num) -> Num:
    value: Num = (x.is_above(y) | x.is_nan()).select(x, y)
    return value


def _column(line: _Line, x: Ptr, g: Ptr, result: Ptr, inner: Int, room: Ptr, mask: Bit | None) -> None:
    f, spec, lanes = line.f, line.spec, line.spec.lanes
    top = f.const(spec.element, lanes, float("-inf"))
    if not spec.gradient:
        with f.loop(0, line.length, carry=[top]) as k:
            k.carry = [_highest(f, k.carry[0], x.at(k.index * inner).load(lanes, mask))]
        top = k.result[0]
    with f.loop(0, line.blocks) as block:
        for j in range(PARTIALS):
            room.at(j * lanes).store(f.zeros(spec.element, lanes))
        with f.loop(block.index * BLOCK, line.end(block.index)) as k:
            at = k.index * inner
            slot = room.at((k.index & (PARTIALS - 1)) * lanes)
            value, held = x.at(at).load(lanes, mask), slot.load(lanes)
            if spec.gradient:
                slot.store(g.at(at).load(lanes, mask).fma(value, held))
            else:
                e = math.exp(f, value - top)
                result.at(at).store(e, mask)
                slot.store(held + e)
        line.tree.add(block.index, _joined([room.at(j * lanes).load(lanes) for j in range(PARTIALS)]))
    total = line.tree.total(line.blocks)
    with f.loop(0, line.length) as k:
        at = k.index * inner
        result.at(at).store(_finished(spec, x.at(at), g.at(at), result.at(at), total, lanes, mask), mask)


def _joined(sums: list[Num]) -> Num:
    """j + (j + half) until one is left."""
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [a + b for a, b in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


def _finished(spec: SoftmaxSpec, x: Ptr, g: Ptr, result: Ptr, total: Num, lanes: int, mask: Bit | None) -> Num:
    if spec.gradient:
        return x.load(lanes, mask) * (g.load(lanes, mask) - total)
    return result.load(lanes, mask) / total


def _row(line: _Line, x: Ptr, g: Ptr, result: Ptr) -> None:
    f, spec, length = line.f, line.spec, line.length
    lanes = min(spec.lanes, PARTIALS)
    vectors = PARTIALS // lanes
    whole = length - length % PARTIALS
    masks = [f.lane_mask(lanes, length - whole - j * lanes) for j in range(vectors)]
    top = f.const(spec.element, lanes, float("-inf")) if spec.gradient else _row_top(line, x, whole, masks)

    def term(place: Int, held: Num, mask: Bit | None) -> Num:
        value = x.at(place).load(lanes, mask)
        if spec.gradient:
            return g.at(place).load(lanes, mask).fma(value, held)
        e = math.exp(f, value - top)
        result.at(place).store(e, mask)
        return held + (e if mask is None else mask.select(e, f.zeros(spec.element, lanes)))

    with f.loop(0, line.blocks) as block:
        start, end = block.index * BLOCK, line.end(block.index)
        even = end - (end - start) % PARTIALS
        with f.loop(start, even, PARTIALS, carry=[f.zeros(spec.element, lanes)] * vectors) as k:
            k.carry = [term(k.index + j * lanes, held, None) for j, held in enumerate(k.carry)]
        left = [f.lane_mask(lanes, end - even - j * lanes) for j in range(vectors)]
        sums = [term(even + j * lanes, held, left[j]) for j, held in enumerate(k.result)]
        line.tree.add(block.index, _across(_joined(sums), lambda a, b: a + b).lane(0))
    total = line.tree.total(line.blocks).splat(lanes)
    with f.loop(0, whole, lanes) as k:
        at = k.index
        result.at(at).store(_finished(spec, x.at(at), g.at(at), result.at(at), total, lanes, None))
    for j, mask in enumerate(masks):
        at = whole + j * lanes
        result.at(at).store(_finished(spec, x.at(at), g.at(at), result.at(at), total, lanes, mask), mask)


def _row_top(line: _Line, x: Ptr, whole: Int, masks: list[Bit]) -> Num:
    """The largest value of a line, in every lane."""
    f, lanes = line.f, masks[0].lanes
    low = f.const(line.spec.element, lanes, float("-inf"))
    with f.loop(0, whole, PARTIALS, carry=[low] * len(masks)) as k:
        k.carry = [_highest(f, held, x.at(k.index + j * lanes).load(lanes)) for j, held in enumerate(k.carry)]
    tops = [
        _highest(f, held, mask.select(x.at(whole + j * lanes).load(lanes, mask), low))
        for j, (held, mask) in enumerate(zip(k.result, masks, strict=True))
    ]
    for other in tops[1:]:
        tops[0] = _highest(f, tops[0], other)
    return _across(tops[0], lambda a, b: _highest(f, a, b)).lane(0).splat(lanes)


def _across(value: Num, join: object) -> Num:
    """All lanes joined in lane 0, in halves."""
    assert callable(join)
    half = value.lanes // 2
    while half:
        moved = value.shuffle(value, [*range(half, 2 * half), *range(half, value.lanes)])
        value = join(value, moved)
        half //= 2
    return value
