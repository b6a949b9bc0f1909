"""The order in which every sum of the contract is taken, and the exact arithmetic that follows it. Nothing else knows it.

A sum is cut into *blocks* of consecutive terms, each one chain of fused multiply-adds from zero; a *tree* says how the block
sums are added: a number is a block, a tuple adds its members from the left. The bias comes last.

    conv, conv_transpose   one block: taps in row-major order, then the channels of the group
    matmul                 blocks and groups of the inner axis (`engines.order`)
    conv_weight_grad       a block for each image: positions in row-major order; images in order
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.engines.base import accumulator_dtype
from preimage.engines.order import Order

__all__ = ["Tree", "add", "arrangement", "chain", "fma", "narrowed"]

Array = NDArray[Any]
Tree = int | tuple["Tree", ...]


def arrangement(contraction: str, images: Sequence[int]) -> tuple[list[slice], Tree]:
    """The blocks of one element's terms, and the tree over them; `images`: the batch index of each term, in order."""
    count = len(images)
    if contraction == "matmul":
        order = Order.of((count,))
        members: list[Tree] = list(range(len(order.blocks())))
        for _, step in order.levels[1:]:
            members = [tuple(members[k : k + step]) for k in range(0, len(members), step)]
        return [slice(a, b) for a, b in order.blocks()], tuple(members)
    if contraction != "conv_weight_grad":
        return [slice(0, count)], 0
    edges = [k for k in range(count) if not k or images[k] != images[k - 1]]
    blocks = [slice(a, b) for a, b in zip(edges, [*edges[1:], count], strict=True)]
    return blocks, tuple(range(len(blocks)))


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
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact:
        try:
            value = float(exact)
        except OverflowError:
            return float("inf") if exact > 0 else float("-inf")
        return value if value or exact > 0 else -0.0
    if a and b:  # the product and c cancel
        return 0.0
    return a * b + c


def chain(a: Sequence[Any], b: Sequence[Any], dtype: Any) -> list[Any]:
    """The running sums of one chain of fused multiply-adds from zero: one number for each term."""
    total = accumulator_dtype(np.dtype(dtype)).type(0)
    sums = []
    for x, y in zip(a, b, strict=True):
        total = fma(x, y, total, dtype)
        sums.append(total)
    return sums


def add(tree: Tree, sums: Sequence[Any]) -> Any:
    """The block sums added as the tree says, each addition rounded once; 0 over none."""
    if isinstance(tree, int):
        return sums[tree]
    if not tree:
        return np.float32(0)
    with np.errstate(all="ignore"):
        total = add(tree[0], sums)
        for part in tree[1:]:
            total = total + add(part, sums)
    return total


def narrowed(value: Any, dtype: Any) -> Any:
    """A sum as a number of the arrays' dtype."""
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(np.dtype(dtype))[()]
