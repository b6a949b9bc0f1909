"""The terms of a gather's sums: what lies under one tap, cut where blocks of the sums' order end, and the tables of blocks and groups.

A tap of a dense layer has `run` terms (channels, or channels of all taps of a line). An *item* is a piece of them that lies in one
block. Items stand in the table of taps; blocks are ranges of items, groups are ranges of blocks, and so on: the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import gcd, prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.ordered import Node
from preimage.engines.jit.index.tables import TapList
from preimage.engines.jit.index.taps import Axis, Ints
from preimage.engines.order import Order
from preimage.records import record

__all__ = ["Terms", "node_tables"]


@record(slots=False)
class Terms:
    """order: of one output's sum; joined: taps of the last axis that lie in one run with the channels (1: none)."""

    order: Order
    joined: int = 1

    @classmethod
    def of(cls, channels: int, axes: Sequence[Axis], joined: int = 1) -> Terms:
        """axes: of the gather, outermost first; of joined taps the last one counts as one tap."""
        taps = [axis.most for axis in reversed(axes)]
        if joined > 1:
            taps[0] = joined
        return cls(Order.of((channels, *taps)), joined)

    @property
    def run(self) -> int:
        """Terms under one tap."""
        return self.order.axes[0] * self.joined

    @cached_property
    def pieces(self) -> list[tuple[int, int]]:
        """The items of one tap: first term, terms."""
        channels = self.order.axes[0]
        step = self.run
        if self.order.levels:
            axis, members = self.order.levels[0]
            if axis == 0:
                return [
                    (tap * channels + first, min(members, channels - first))
                    for tap in range(self.joined)
                    for first in range(0, channels, members)
                ]
            if axis == 1 and self.joined > 1:
                step = members * channels
        return [(first, min(step, self.run - first)) for first in range(0, self.run, step)]

    @property
    def item(self) -> int:
        """Terms of every item, 0 where they differ."""
        lengths = {length for _, length in self.pieces}
        return lengths.pop() if len(lengths) == 1 else 0

    @property
    def multiple(self) -> int:
        """What divides the terms of every item."""
        return gcd(*(length for _, length in self.pieces))

    @cached_property
    def lone(self) -> bool:
        """Whether every block is one item."""
        if not self.order.levels:
            return False
        axis, members = self.order.levels[0]
        return axis == 0 or (axis == 1 and (self.joined > 1 or members == 1))

    def lone_rows(self, place: int) -> bool:
        """Whether every block is one line of taps along the order's axis `place` (and what lies within)."""
        if not self.order.levels:
            return False
        axis, members = self.order.levels[0]
        return prod(self.order.axes[:axis]) * members == prod(self.order.axes[: place + 1])

    def cuts(self, place: int) -> bool:
        """Whether blocks end within a line of taps along the order's axis `place`."""
        return bool(self.order.levels) and self.order.levels[0].axis <= place

    def members(self, axis: int, index: Ints) -> Ints:
        """What the index along one of the order's axes adds to the numbers of the block, the group, ... (one column a level)."""
        place: list[Ints | int] = [0] * len(self.order.axes)
        place[axis] = index
        columns = [self.order.member(place, level + 1) + 0 * index for level in range(self.order.depth)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(index), 0), np.int64)


def node_tables(
    owner: Ints, members: Ints, lists: int, lone: bool, part: Ints | None = None, base: int = 0
) -> tuple[Array, Array]:
    """The range of every list (`TapList`: of items, or of nodes where a sum has several blocks), and the nodes.

    One list of four items in two blocks (members: 0, 0, 1, 1): items 0 and 1 are node 0, items 2 and 3 node 1, and the list is nodes 0 and 1. With
    groups above the blocks the list is of groups, whose nodes stand behind those of the blocks.

    owner: the list of every item; members: the numbers of its block, group, ...; part: the call in which it comes, where a list is
    computed in several calls. Both rise from item to item. Of several calls there are all lists for the first, then for the next.
    base: nodes that stand in the table before these.
    """
    parts = 1 if part is None else int(part.max(initial=0)) + 1
    key = owner if part is None else owner * parts + part
    first = np.arange(len(owner), dtype=np.int64)  # of each member of the level: its first item
    tables: list[Array] = []
    children, count = 0, base  # where the level's members begin: in the table of items, then of nodes
    for level in range(int(lone), members.shape[1]):
        number, call, of = members[first, level], key[first], owner[first]
        same = (number[1:] == number[:-1]) & (of[1:] == of[:-1])
        starts = np.flatnonzero(np.append(True, ~same | (call[1:] != call[:-1]))) if len(first) else first
        ends = np.append(starts[1:], len(first))
        nodes = Node.zeros(len(starts))
        nodes["first"], nodes["end"] = children + starts, children + ends
        nodes["resumes"][1:] = same[starts[1:] - 1]
        nodes["continues"][:-1] = nodes["resumes"][1:]
        tables.append(nodes)
        children, count, first = count, count + len(nodes), first[starts]
    wanted = np.arange(lists) if parts == 1 else (np.arange(lists) * parts + np.arange(parts)[:, None]).ravel()
    found = key[first] if tables else key
    begin, end = (found.searchsorted(wanted, side) + children for side in ("left", "right"))
    return TapList(first=begin, end=end).table(), np.concatenate(tables) if tables else Node.zeros(0)
