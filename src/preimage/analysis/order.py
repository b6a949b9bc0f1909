"""The order in which every sum of the contract is taken, and the exact arithmetic that follows it. Nothing else knows it.

A sum is cut into *blocks* of consecutive terms, each one chain of fused multiply-adds from zero; a *tree* says how the block
sums are added: a number is a block, a tuple adds its members from the left. The bias comes last.

    conv, conv_transpose   blocks and groups of taps in row-major order, then channels of the group (`engines.order`)
    matmul                 blocks and groups of the inner axis
    conv_weight_grad       of each image blocks and groups of positions in row-major order; images by the aligned tree
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.contract import fma_exact
from preimage.engines.base import accumulator_dtype
from preimage.engines.order import Order

__all__ = ["Cell", "Tree", "add", "arranged", "arrangement", "chain", "fma", "members_of", "narrowed"]

Array = NDArray[Any]
Tree = int | tuple["Tree", ...]


class Cell(tuple):  # type: ignore[type-arg]
    """A part of a tree whose sum is rounded to the arrays' dtype: one cell of those that are folded back."""


def arrangement(images: Sequence[int]) -> tuple[list[slice], Tree]:
    """The blocks of one element's terms of a matrix product, and the tree over them; `images`: as many as it has terms."""
    order = Order.of((len(images),))
    return arranged([(0, *_numbers(order, (k,))) for k in range(len(images))])


def arranged(members: Sequence[tuple[int, ...]]) -> tuple[list[slice], Tree]:
    """Blocks and tree of terms in order; members: of each the numbers of the image, the widest group, ..., the block in which it lies."""
    blocks: list[slice] = []

    def level(depth: int, first: int, end: int) -> Tree:
        if depth == len(members[first]):
            blocks.append(slice(first, end))
            return len(blocks) - 1
        edges = [k for k in range(first, end) if k == first or members[k][depth] != members[k - 1][depth]]
        parts = [level(depth + 1, a, b) for a, b in zip(edges, [*edges[1:], end], strict=True)]
        if depth == 0:  # images: by the aligned tree
            numbers = [members[k][0] for k in edges]
            return _aligned(dict(zip(numbers, parts, strict=True)))
        return parts[0] if len(parts) == 1 else tuple(parts)

    tree = level(0, 0, len(members)) if members else ()
    return blocks, tree


def _aligned(nodes: dict[int, Tree]) -> Tree:
    """Image i with i ^ 1, then pairs with pairs, ..."""
    while len(nodes) > 1:
        pairs: dict[int, list[Tree]] = {}
        for number, node in nodes.items():
            pairs.setdefault(number // 2, []).append(node)
        nodes = {number: pair[0] if len(pair) == 1 else tuple(pair) for number, pair in pairs.items()}
    return next(iter(nodes.values()))


def _numbers(order: Order, index: Sequence[int]) -> list[int]:
    """The numbers of a term's widest group, ..., its block."""
    return [int(order.member(index, level)) for level in range(order.depth, 0, -1)]


def members_of(order: Order, indices: Sequence[Sequence[int]], image: Sequence[int] | None = None) -> list[tuple[int, ...]]:
    """For `arranged`: terms by their index along the axes of the order, innermost first; image: the image of each."""
    return [(0 if image is None else image[k], *_numbers(order, index)) for k, index in enumerate(indices)]


def fma(a: Any, b: Any, c: Any, dtype: Any) -> Any:
    """a * b + c rounded once, in float32 (also for the narrow floats) or float64; a number of that dtype."""
    sums = accumulator_dtype(np.dtype(dtype))
    with np.errstate(all="ignore"):
        if sums == np.float32:
            return _fma32(float(a), float(b), float(c))
        return np.float64(_fma64(float(a), float(b), float(c)))


def _fma32(a: float, b: float, c: float) -> np.float32:
    """The product is exact in float64; its sum is rounded to odd there, so that the second rounding, to float32, is the only one."""
    product = a * b
    total = product + c
    if not isfinite(total):
        return np.float32(total)
    part = total - product
    error = (product - (total - part)) + (c - part)
    if error:
        bits = np.float64(total).view(np.int64)
        if not bits & 1:
            total = float((bits + (1 if (error > 0) == (total > 0) else -1)).view(np.float64))
    return np.float32(total)


def _fma64(a: float, b: float, c: float) -> float:
    if not (isfinite(a) and isfinite(b)):
        return a * b + c
    if not isfinite(c):
        return c  # the product may overflow on the way, but is finite
    return fma_exact(a, b, c)


def chain(a: Sequence[Any], b: Sequence[Any], dtype: Any) -> list[Any]:
    """The running sums of one chain of fused multiply-adds from zero: one number for each term."""
    total = accumulator_dtype(np.dtype(dtype)).type(0)
    sums = []
    for x, y in zip(a, b, strict=True):
        total = fma(x, y, total, dtype)
        sums.append(total)
    return sums


def add(tree: Tree, sums: Sequence[Any], dtype: Any = None) -> Any:
    """The block sums added as the tree says, each addition rounded once; 0 over none. dtype: to which sums of cells are rounded."""
    if isinstance(tree, int):
        return sums[tree]
    if not tree:
        return np.float32(0)
    with np.errstate(all="ignore"):
        total = add(tree[0], sums, dtype)
        for part in tree[1:]:
            total = total + add(part, sums, dtype)
        if dtype is not None and isinstance(tree, Cell):
            total = accumulator_dtype(np.dtype(dtype)).type(narrowed(total, dtype))
    return total


def narrowed(value: Any, dtype: Any) -> Any:
    """A sum as a number of the arrays' dtype."""
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(np.dtype(dtype))[()]
