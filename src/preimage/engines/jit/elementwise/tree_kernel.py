"""Sums along the middle axis of arrays (outer, count, width) as the aligned binary tree: value i with i ^ 1, pairs with pairs (preimage.reduction).

A vector holds neighbouring columns. Eight values are one node of the tree, added in registers; these nodes go to a `RunningTree`. The
values that are left over, fewer than eight, go to another one, whose sum is added last.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.elementwise.running_tree import RunningTree
from preimage.records import record

__all__ = ["TreeArguments", "TreeSpec", "build"]

#: Values that are added in registers, and the level of the tree that they reach.
NODE, LEVEL = 8, 3


class TreeArguments(Arguments):
    """A task is `share` columns of an outer; `shares` of them are all."""

    x: Elements = elements("element")
    result: Elements = elements("element")
    count: Integer
    width: Integer
    share: Integer
    shares: Integer
    levels: Integer  # of the tree over the nodes


@record
class TreeSpec:
    """Columns of which a vector holds `lanes`."""

    arguments: ClassVar = TreeArguments

    element: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: TreeSpec) -> str:
    """The kernel's IR text. Tasks: outer x shares."""
    f = Kernel()
    args = TreeArguments.read(f, spec)
    outer, first = f.task // args.shares, f.task % args.shares * args.share
    last = (first + args.share).minimum(args.width)
    nodes = RunningTree(f, spec.element, spec.lanes, args.levels)
    rest = RunningTree(f, spec.element, spec.lanes, f.i64(LEVEL))
    x, result = args.x.at(outer * args.count * args.width), args.result.at(outer * args.width)
    with f.loop(first, last, spec.lanes) as c:
        mask = f.lane_mask(spec.lanes, last - c.index)
        result.at(c.index).store(_summed(f, spec, args, x.at(c.index), mask, nodes, rest), mask)
    return f.ir()


def _summed(f: Kernel, spec: TreeSpec, args: TreeArguments, x: Ptr, mask: Bit, nodes: RunningTree, rest: RunningTree) -> Num:
    """The sum of the columns that begin at x."""

    def value(k: Int) -> Num:
        return x.at(k * args.width).load(spec.lanes, mask)

    whole = args.count // NODE
    with f.loop(0, whole) as k:
        level = [value(k.index * NODE + j) for j in range(NODE)]
        while len(level) > 1:
            level = [a + b for a, b in zip(level[::2], level[1::2], strict=True)]
        nodes.add(k.index, level[0])
    left = args.count - whole * NODE
    with f.loop(0, left) as k:
        rest.add(k.index, value(whole * NODE + k.index))
    return nodes.total(whole, rest.total(left))
