"""Sums over a batch in the contract's order, whole or in parts: the aligned binary tree over the images.

Image i is added to image i ^ 1, pairs to pairs, and so on; what has no partner goes up as it is (docs/contract.md). A *node* of the
tree is (level, index): the sum of the images index * 2**level up to (index + 1) * 2**level - 1. Any part of a batch is a few nodes, and
whoever merges the nodes of all parts finds the bits of the whole, however the batch was divided:

    >>> import numpy as np
    >>> from preimage.reduction import TreeSum, tree_sum
    >>> losses = np.random.default_rng(1).standard_normal(96).astype(np.float32)
    >>> parts = [TreeSum.of(losses[:31]), TreeSum.of(losses[31:64], first=31), TreeSum.of(losses[64:], first=64)]
    >>> list(parts[1].nodes)
    [(0, 31), (5, 1)]
    >>> whole = TreeSum()
    >>> for part in parts:
    ...     whole.merge(part.nodes)
    >>> bool(whole.total(96) == tree_sum(losses))
    True

Gradients are such sums. A worker that has the images 31 to 63 of a batch computes one of its nodes at a time and sends them:

    >>> import preimage as pre
    >>> from preimage.reduction import part_sum
    >>> x, gy = (np.random.default_rng(2).standard_normal((33, 4, 9, 9)).astype(np.float32) for _ in range(2))
    >>> part = part_sum(lambda images: pre.conv_weight_grad(x[images], gy[images], kernel_size=3, padding=1), 33, first=31)
    >>> list(part.nodes)
    [(0, 31), (5, 1)]

What is summed may be anything that `+` adds and does not change: arrays, NumPy's numbers. 16-bit values are to be given as float32, the
type in which the contract sums them, and rounded when the total is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from preimage.errors import OptionError

__all__ = ["Node", "TreeSum", "part_nodes", "part_sum", "tree_sum"]

Array = np.ndarray[Any, Any]
#: A part of the tree: its level and its number on that level.
Node = tuple[int, int]


def tree_sum(values: Any, axis: int = 0) -> Any:
    """The sum of an array along an axis, in the order of the tree.

    Shapes: values of any shape; the result lacks `axis`. Of no values it is zero.
    Cost: as many additions as numpy.sum makes; half of the array in scratch memory.

    Example:
        >>> float(tree_sum(np.float32([2.0**24, 1, 1, 2.0**24])))  # (2^24 + 1) + (1 + 2^24): each one is lost
        33554432.0
    """
    level = np.moveaxis(np.asarray(values), axis, 0)
    if len(level) < 2:
        return level[0].copy() if len(level) else np.zeros(level.shape[1:], level.dtype)
    with np.errstate(all="ignore"):
        while len(level) > 1:
            pairs = level[0:-1:2] + level[1::2]
            level = np.concatenate([pairs, level[-1:]]) if len(level) % 2 else pairs
    return level[0]


def part_nodes(first: int, end: int) -> list[Node]:
    """The fewest nodes that are the images first .. end - 1, in their order: at most 2 log2(end - first) of them.

    Example:
        >>> part_nodes(3, 12)
        [(0, 3), (2, 1), (2, 2)]
    """
    if not 0 <= first <= end:
        raise OptionError(f"images {first} to {end} are no part of a batch; wanted 0 <= first <= end")
    nodes = []
    while first < end:
        level = (end - first).bit_length() - 1
        if first:
            level = min(level, (first & -first).bit_length() - 1)
        nodes.append((level, first >> level))
        first += 1 << level
    return nodes


def part_sum(compute: Callable[[slice], Any], images: int, first: int = 0) -> TreeSum:
    """The nodes of a part of a batch, each computed by one call: `compute(slice)` sums those of the part's own images 0 .. images - 1.

    first: the number in the batch of the part's first image. compute: anything that sums images as the contract says, such as
    `conv_weight_grad` and the gradients of parameters; arrays of 16-bit types are to be made float32 before.
    """
    tree = TreeSum()
    for level, index in part_nodes(first, first + images):
        begin = (index << level) - first
        tree.add(compute(slice(begin, begin + (1 << level))), index, level)
    return tree


class TreeSum:
    """A sum over images that come in any order and in parts; it holds about log2 values.

    nodes: what has been added so far, the largest nodes that can be, in the order of their images. owned: values are arrays that nobody else
    needs; sums are written into them (so that the total can be taken once), and `spare` has those that are free again. into: what writes
    left + right into left then; by default NumPy.
    """

    def __init__(self, owned: bool = False, into: Callable[[Any, Any], Any] | None = None) -> None:
        self._nodes: dict[Node, Any] = {}
        self._owned, self.spare = owned, list[Any]()
        self._into = _into if into is None else into

    @classmethod
    def of(cls, values: Iterable[Any], first: int = 0) -> TreeSum:
        """The sum of consecutive images, the first of which is number `first` of its batch."""
        tree = cls()
        for image, value in enumerate(values, first):
            tree.add(value, image)
        return tree

    @property
    def nodes(self) -> dict[Node, Any]:
        return dict(sorted(self._nodes.items(), key=lambda item: _images(item[0])))

    def add(self, value: Any, index: int, level: int = 0) -> None:
        """Add an image, or a node of a higher level. Two that are partners become one."""
        first, end = _images((level, index))
        for other in self._nodes:
            begin, last = _images(other)
            if first < last and begin < end:
                raise OptionError(
                    f"images {first} to {end - 1} cannot be added: {begin} to {last - 1} are in the sum; add each image once"
                )
        while (partner := self._nodes.pop((level, index ^ 1), None)) is not None:
            with np.errstate(all="ignore"):
                left, right = (partner, value) if index & 1 else (value, partner)
                value = self._into(left, right) if self._owned else left + right
            if self._owned:
                self.spare.append(right)
            level, index = level + 1, index >> 1
        self._nodes[level, index] = value

    def merge(self, nodes: Mapping[Node, Any]) -> None:
        """Add the nodes of another part."""
        for (level, index), value in nodes.items():
            self.add(value, index, level)

    def total(self, images: int | None = None) -> Any:
        """The sum of the batch. images: how many there are, to be certain that all have come.

        Raises: OptionError where images are missing, or there are none.
        """
        found = self.nodes
        end = 0
        for node in found:
            first, after = _images(node)
            if first != end:
                raise OptionError(f"the sum lacks images {end} to {first - 1}; add every part before the total is taken")
            end = after
        if not found or (images is not None and images != end):
            wanted = f"{images} were" if images is not None else "at least one was"
            raise OptionError(f"the sum has {end} images; {wanted} wanted")
        *larger, total = found.values()
        with np.errstate(all="ignore"):
            for value in reversed(larger):  # what has no partner goes up to the next node on its left
                total = self._into(value, total) if self._owned else value + total
        return total


def _into(left: Any, right: Any) -> Any:
    return np.add(left, right, out=left)


def _images(node: Node) -> tuple[int, int]:
    """First image of a node, and the one after its last."""
    level, index = node
    return index << level, index + 1 << level
