"""One number of a layer as the sum that it is: its terms, the running sums in the order of the contract, the bias, the value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.order import Tree, add, arrangement, chain, narrowed
from preimage.analysis.terms import Places
from preimage.display import Shown
from preimage.engines.base import accumulator_dtype

__all__ = ["Sum", "Term", "sum_of"]

Array = NDArray[Any]
Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """One product: where its factors lie in their arrays, their values, and the product in float64.

    input_index is None where the factor is a zero of the padding. margin: the input was copied there by the padding mode.
    """

    input_index: Index | None
    weight_index: Index
    input: float
    weight: float
    product: float
    margin: bool = False


@dataclass(frozen=True, repr=False)
class Sum(Shown):
    """One element of a contraction and the terms that made it, in the order in which they are summed.

    what: y, x, w, or the gradient of one; index: the element. inputs, weights: indices (terms, axes) into the two operands
    named by `operands`, and their values. running: the sum so far within each block, for every term. value: the element, in
    the arrays' dtype. promised: whether the order is the contract's, so that an engine gives the same bits.
    """

    what: str
    index: Index
    operands: tuple[str, str]
    places: Places
    inputs: Array
    weights: Array
    blocks: tuple[slice, ...]
    tree: Tree
    running: Array
    bias: float | None
    value: float
    dtype: str
    promised: bool

    def __len__(self) -> int:
        return len(self.places)

    @property
    def products(self) -> Array:
        """The products in float64 (exact for float32 arrays)."""
        with np.errstate(all="ignore"):
            return self.inputs.astype(np.float64) * self.weights.astype(np.float64)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms in order."""
        return tuple(self._term(k) for k in range(len(self)))

    @property
    def largest(self) -> tuple[Term, ...]:
        """The terms by size of their products, the largest first; NaN before all others. Padding left out."""
        products = self.products
        size = np.where(np.isnan(products), np.inf, np.abs(products))
        order = np.lexsort((np.arange(len(size)), -size, ~np.isnan(products)))
        return tuple(self._term(int(k)) for k in order if not self.places.outside[k])

    def _term(self, k: int) -> Term:
        p = self.places
        return Term(
            None if p.outside[k] else tuple(p.first[k].tolist()), tuple(p.second[k].tolist()), float(self.inputs[k]),
            float(self.weights[k]), float(self.products[k]), bool(p.margin[k]),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Sum({self.what}{list(self.index)} = {self.value:.8g}, {len(self)} terms, {self.dtype})"

    def __str__(self) -> str:
        a, b = self.operands
        lines = [f"{self.what}{list(self.index)} = {self.value:.8g}: {len(self)} terms {a} x {b}, largest first"]
        for term in self.largest[:12]:
            lines.append(
                f"  {a}{list(term.input_index or ())} {term.input:+.6g}  x  {b}{list(term.weight_index)} {term.weight:+.6g}"
                f"  =  {term.product:+.6g}{'  (margin)' if term.margin else ''}"
            )
        if self.bias is not None:
            lines.append(f"  bias {self.bias:+.6g}")
        return "\n".join(lines)


def sum_of(
    what: str, index: Index, operands: tuple[str, str], places: Places, a: Array, b: Array, bias: float | None, contraction: str,
    promised: bool = True, wide: bool = False,
) -> Sum:  # fmt: skip
    """The sum over `places` of a[first] * b[second], then the bias. wide: cells that are folded back are not rounded to 16 bits before."""
    dtype = b.dtype
    inputs, weights = np.zeros(len(places), dtype), np.zeros(len(places), dtype)
    inside = ~places.outside
    inputs[inside] = a[tuple(places.first[inside].T)]
    weights[:] = b[tuple(places.second.T)]
    if places.blocks is None:
        blocks, tree = arrangement(places.second[:, 0].tolist()) if contraction == "matmul" else ([slice(0, len(places))], 0)
    else:
        assert places.tree is not None
        blocks, tree = list(places.blocks), places.tree
    running: list[Any] = []
    ends: list[Any] = []
    kind = accumulator_dtype(dtype)
    for block in blocks:
        # padded terms take no part while the weights are finite
        part = [k for k in range(block.start, block.stop) if inside[k] or not np.isfinite(weights[k].astype(np.float64))]
        sums = iter(chain([inputs[k] for k in part], [weights[k] for k in part], dtype))
        total, taking = kind.type(0), set(part)
        for k in range(block.start, block.stop):
            total = next(sums) if k in taking else total
            running.append(total)
        ends.append(total)
    # cells that are folded back were rounded as the transposed contraction gave them
    value = kind.type(add(tree, ends, None if wide else dtype))
    with np.errstate(all="ignore"):
        if places.folded and not wide:
            value = kind.type(narrowed(value, dtype))
        if bias is not None:
            value = value + kind.type(bias)
    return Sum(
        what, index, operands, places, inputs, weights, tuple(blocks), tree, np.array(running, kind), bias,
        narrowed(value, dtype), dtype.name, promised,
    )  # fmt: skip
