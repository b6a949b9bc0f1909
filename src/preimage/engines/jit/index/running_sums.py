"""The running sums of a weight gradient, as a kernel walks them: after every block of positions, and after every image.

A *level* is a place for the running sums of one tile of weights. Levels 0 .. depth - 1 are the groups of blocks of `Order`, the groups of
groups, and so on; after them come those of the image tree, one for each bit of an image's number. A block's chain ends in registers and
goes up: the sum of every group that it completes is added to the level above, until it is put down where a group is still open:

    for level in the block's steps:  sum = levels[level] + sum        # only levels that hold something
    levels[the block's place] = sum

The last block of an image has the image's sum, which goes up the tree in the same way: image n is added to as many levels as n has
trailing one-bits, since the image or the pair that it is the partner of is there; the last image is added to all that are left.

Groups here begin with their first member and not at +0. That differs only where every member is -0, which a sum of zeros of both signs
never shows again; kernels add +0 to the result in the end.
"""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.arguments import Column, Record
from preimage.engines.jit.index.running_sums_kernel import IMAGE, MORE
from preimage.engines.jit.index.taps import Ints
from preimage.engines.kept_tables import ENTRY_BYTES, kept_tables
from preimage.engines.order import Order
from preimage.records import record

__all__ = ["BlockEnd", "RunningSums", "image_levels", "running_sums"]


class BlockEnd(Record):
    """What becomes of a block's sum."""

    first_step: Column
    end_step: Column  # last + 1
    level: Column  # where the sum is stored, or IMAGE, or MORE


@record
class RunningSums:
    """The walk over blocks of positions.

    ends: `BlockEnd` of every block.
    steps: levels. closed: how many levels end with every block (`depth` after the last one).
    """

    order: Order
    ends: Array
    steps: Ints
    closed: Ints  # (blocks,)

    @property
    def depth(self) -> int:
        """Levels of positions."""
        return self.order.depth

    def lines(self) -> Ints:
        """The blocks as parts of rows along the last axis, in order: for each part its block, its row, its first column and its last + 1."""
        blocks, width = self.order.ranges(), self.order.axes[0]
        if self.order.levels and self.order.levels[0].axis == 0:
            row = blocks[:, 0] // width
            return np.stack([np.arange(len(blocks)), row, *(blocks - (row * width)[:, None]).T])
        rows = (blocks[:, 1] - blocks[:, 0]) // max(1, width)
        parts = np.zeros((4, int(rows.sum())), np.int64)
        parts[0], parts[1], parts[3] = np.arange(len(blocks)).repeat(rows), np.arange(parts.shape[1]), width
        return parts

    def needed(self, empty: Array) -> Ints:
        """The blocks to walk, some of which are empty (all their positions are left out): an empty one that only adds to its group
        adds nothing.
        """
        return np.flatnonzero(~empty | (self.ends["level"] != MORE))

    def with_images(self, images: int) -> tuple[Ints, int, int]:
        """Steps of blocks and images: the table, and where in it the levels of the tree stand in a row, and those of the last image."""
        levels = image_levels(images)
        left = [self.depth + bit for bit in range(levels) if images - 1 >> bit & 1]
        table = np.concatenate([self.steps, self.depth + np.arange(levels), left]).astype(np.int64)
        return table, len(self.steps), len(self.steps) + levels


def image_levels(images: int) -> int:
    """Levels of the tree over so many images: a place for every bit of the last one's number."""
    return (images - 1).bit_length()


def running_sums(output_size: tuple[int, ...]) -> RunningSums:
    """The walk for images of so many output positions."""
    return _of_positions(output_size)


def _bytes(sums: RunningSums) -> int:
    return sums.ends.nbytes + sums.steps.nbytes + sums.closed.nbytes + ENTRY_BYTES


def _running_sums(output_size: tuple[int, ...]) -> RunningSums:
    order = Order.of(output_size[::-1])
    shape = order.sizes[1] if order.levels else ()
    count = prod(shape)
    place = list(np.unravel_index(np.arange(count), shape[::-1])[::-1]) if order.levels else []
    groups = [np.arange(count)]  # of every block: its number, that of its group, of the group's group, ...
    for cut, size in zip(order.levels[1:], order.sizes[2:], strict=True):
        place = [place[cut.axis] // cut.step, *place[cut.axis + 1 :]]
        groups.append(np.ravel_multi_index(place[::-1], size[::-1]))
    groups.append(np.zeros(count, np.int64))
    closed, holds = np.zeros(count, np.int64), np.zeros((count, order.depth), bool)
    for level in range(order.depth):
        member, group = groups[level], groups[level + 1]
        begins = np.concatenate([[True], group[1:] != group[:-1]])
        closed += np.concatenate([begins[1:], [True]])
        first = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
        holds[:, level] = member != member[first]
    added = holds & (np.arange(order.depth) <= closed[:, None])
    numbers = np.cumsum(added.sum(1)) if order.depth else np.zeros(count, np.int64)
    level_of = np.where(closed < order.depth, closed, IMAGE)
    more = added.any(1) & (level_of == 0)
    level_of[more] = MORE
    ends = BlockEnd(
        first_step=np.where(more, 0, np.concatenate([[0], numbers[:-1]])), end_step=np.where(more, 0, numbers), level=level_of
    ).table()  # fmt: skip
    return RunningSums(order, ends, np.nonzero(added)[1].astype(np.int64), closed)


_of_positions = kept_tables(_running_sums, size=_bytes)
