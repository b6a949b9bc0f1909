"""How the sums of the contract (docs/contract.md) are cut, for planners: blocks of terms, groups of blocks, groups of groups.

    order = Order.of((64, 3, 3))          # 64 channels under 3 x 3 taps, the innermost axis first
    order.levels                          # Cut(axis=0, step=32): blocks of 32 channels; Cut(axis=1, step=3): groups of 6 blocks

A kernel keeps one running sum a level: a chain of fused multiply-adds for a block, and plain sums for the groups above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from preimage.records import record

__all__ = ["BLOCK", "PARTIALS", "Cut", "Order"]

LEAST, MOST, GROUP = 32, 128, 9
#: Of pure sums: the terms of a block, of which term i goes to partial sum i % PARTIALS.
BLOCK, PARTIALS = 512, 16

Ints = NDArray[np.int64]


class Cut(NamedTuple):
    """Members of a level: the axes before `axis` whole, `step` neighbouring indices of it. Axes are numbered as the level sees them."""

    axis: int
    step: int


@record(slots=False)
class Order:
    """A sum over the index space of `axes`, the innermost first.

    levels: what makes a block, a group of blocks, and so on; none where all is one block.
    """

    axes: tuple[int, ...]
    levels: tuple[Cut, ...]

    @classmethod
    def of(cls, axes: Sequence[int]) -> Order:
        return _order(tuple(int(n) for n in axes))

    @property
    def depth(self) -> int:
        """Levels of sums above the blocks: 0 where all is one block."""
        return len(self.levels)

    @cached_property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """The axes that each level sees: those of the terms, those that number the blocks, the groups, ..."""
        found = [self.axes]
        for cut in self.levels:
            axes = found[-1]
            found.append((-(-axes[cut.axis] // cut.step), *axes[cut.axis + 1 :]))
        return tuple(found)

    def member(self, index: Sequence[Any], level: int) -> Any:
        """The number of the block (level 1), the group of blocks (2), ... in which a term lies; index: along each axis, numbers or
        arrays that broadcast.
        """
        place = list(index)
        for cut in self.levels[:level]:
            place = [place[cut.axis] // cut.step, *place[cut.axis + 1 :]]
        number = 0
        for i, size in zip(reversed(place), reversed(self.sizes[level]), strict=True):
            number = number * size + i
        return number

    def blocks(self) -> list[tuple[int, int]]:
        """The blocks as ranges of terms, in order."""
        return [(first, end) for first, end in self.ranges().tolist()]

    def ranges(self) -> Ints:
        """`blocks` as one array, (blocks, 2): an image of a billion positions has millions of them."""
        if not self.levels:
            return np.array([[0, prod(self.axes)]], np.int64)
        axis, step = self.levels[0]
        whole, size = prod(self.axes[:axis]), self.axes[axis]
        first = np.arange(0, size, step)
        within = np.stack([first, np.minimum(first + step, size)], axis=1)
        outer = np.arange(prod(self.axes[axis + 1 :])) * size
        found: Ints = whole * (outer[:, None, None] + within).reshape(-1, 2)
        return found


def _limit(terms: int) -> int:
    limit = LEAST
    while limit < MOST and limit * limit <= terms:
        limit *= 2
    return limit


@lru_cache(maxsize=4096)
def _order(axes: tuple[int, ...]) -> Order:
    levels: list[Cut] = []
    sizes, limit = axes, _limit(prod(axes))
    while prod(sizes) > limit:
        whole = 1
        for axis, size in enumerate(sizes):
            if whole * size > limit:
                pieces = -(-size // max(1, limit // whole))
                cut = Cut(axis, -(-size // pieces))
                break
            whole *= size
        levels.append(cut)
        sizes = (-(-sizes[cut.axis] // cut.step), *sizes[cut.axis + 1 :])
        limit = GROUP
    return Order(axes, tuple(levels))
