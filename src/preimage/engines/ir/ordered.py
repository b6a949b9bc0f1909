"""Sums in the order of the contract (docs/contract.md): chains of blocks, added in groups, groups of groups, ...

What stores a sum (`epilogue.finish`) adds +0 to it, so that no result is -0; a sum of one block is its chain here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from preimage.engines.ir.arguments import Column, Record, Rows
from preimage.engines.ir.builder import Int, Kernel, Num

__all__ = ["Node", "StaticSum", "added", "ordered_sum"]


class Node(Record):
    """A block as a range of items, a group as a range of blocks, and so on."""

    first: Column
    end: Column  # last + 1
    resumes: Column  # 1 where it goes on from another call
    continues: Column  # 1 where it goes on in another call


def ordered_sum(
    f: Kernel, depth: int, bounds: tuple[Int, Int], zeros: list[Num], item: Callable[[Int, list[Num]], list[Num]], nodes: Rows[Node],
    lone: bool = False,
) -> list[Num]:  # fmt: skip
    """Several sums side by side. bounds: of the items, where depth is 0, else of the nodes of the highest level.

    item(number, sums): the sums with the terms of an item added to their chains; lone: every block is one item.
    """

    def level(depth: int, first: Int, end: Int) -> list[Num]:
        with f.loop(first, end, carry=zeros) as member:
            if depth == 0:
                member.carry = item(member.index, member.carry)
            elif depth == 1 and lone:
                member.carry = added(member.carry, item(member.index, zeros))
            else:
                node = nodes[member.index]
                member.carry = added(member.carry, level(depth - 1, node.first, node.end))
        return member.result

    return level(depth, *bounds)


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
