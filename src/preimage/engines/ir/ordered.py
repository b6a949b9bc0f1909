"""Sums in the order of the contract (docs/contract.md): chains of blocks, added in groups, groups of groups, ...

What stores a sum (`epilogue.finish`) adds +0 to it, so that no result is -0; a sum of one block is its chain here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from preimage.engines.ir.arguments import Column, Record
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.records import record

__all__ = ["Kept", "Node", "StaticSum", "added", "ordered_sum"]


class Node(Record):
    """A block as a range of items, a group as a range of blocks, and so on."""

    first: Column
    end: Column  # last + 1
    resumes: Column  # 1 where it goes on from another call
    continues: Column  # 1 where it goes on in another call


@record
class Kept:
    """Memory where the sums of every level wait, between calls that have some of the items each."""

    memory: Ptr
    zeros: list[Num]

    def store(self, level: int, sums: Sequence[Num]) -> None:
        """For the next call."""
        for k, value in enumerate(sums):
            self._place(level, k).store(value)

    def restored(self, level: int, goes_on: Bit) -> list[Num]:
        """What the call before stored, where the sum goes on from it, else zeros."""
        return [goes_on.select(self._place(level, k).load(zero.lanes), zero) for k, zero in enumerate(self.zeros)]

    def _place(self, level: int, number: int) -> Ptr:
        return self.memory.at((level * len(self.zeros) + number) * self.zeros[0].lanes)


def ordered_sum(
    f: Kernel, depth: int, bounds: tuple[Int, Int], zeros: list[Num], item: Callable[[Int, list[Num]], list[Num]],
    nodes: Callable[[Int], Node], lone: bool = False, kept: Kept | None = None, goes_on: Bit | None = None,
) -> list[Num]:  # fmt: skip
    """Several sums side by side. bounds: of the items, where depth is 0, else of the nodes of the highest level.

    item(number, sums): the sums with the terms of an item added to their chains; nodes(number): a node; lone: every block is one
    item; kept, goes_on: where a call has some of the items, and whether the sums go on from the call before.
    """

    def level(depth: int, first: Int, end: Int, start: list[Num]) -> list[Num]:
        with f.loop(first, end, carry=start) as member:
            if depth == 0:
                member.carry = item(member.index, member.carry)
            elif depth == 1 and lone:
                member.carry = added(member.carry, item(member.index, zeros))
            else:
                node = nodes(member.index)
                begin = zeros if kept is None else kept.restored(depth - 1, node.resumes > 0)
                inner = level(depth - 1, node.first, node.end, begin)
                if kept is not None:  # a member that goes on in the next call is not added yet
                    kept.store(depth - 1, inner)
                    ends = node.continues.equals(0)
                    inner = [ends.select(value, zero) for value, zero in zip(inner, zeros, strict=True)]
                member.carry = added(member.carry, inner)
        return member.result

    start = zeros if kept is None or goes_on is None else kept.restored(depth, goes_on)
    return level(depth, *bounds, start)


def added(totals: Sequence[Num], sums: Sequence[Num]) -> list[Num]:
    """Each total with its sum added."""
    return [total + value for total, value in zip(totals, sums, strict=True)]


class StaticSum:
    """Sums side by side whose terms all stand in the code: `add` them one after another, then take the `total`."""

    def __init__(self, zeros: Sequence[Num], depth: int) -> None:
        self._zeros = list(zeros)
        self._sums: list[list[Num] | None] = [None] * (depth + 1)  # of the block, of its group, ...; None: nothing yet
        self._place: tuple[int, ...] | None = None

    def add(self, place: tuple[int, ...], term: Callable[[list[Num]], list[Num]]) -> None:
        """place: the numbers of the term's block, group, ...; term: adds it to the chains that it is given."""
        if self._place is not None:
            for level, (before, now) in enumerate(zip(self._place, place, strict=True)):
                if before != now:
                    self._close(level)
        self._place = place
        self._sums[0] = term(self._sums[0] or self._zeros)

    def total(self) -> list[Num]:
        """The whole sums."""
        for level in range(len(self._sums) - 1):
            self._close(level)
        return self._sums[-1] or self._zeros

    def _close(self, level: int) -> None:
        self._sums[level + 1] = added(self._sums[level + 1] or self._zeros, self._sums[level] or self._zeros)
        self._sums[level] = None
