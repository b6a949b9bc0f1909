"""Sparse matrices that work along one axis: resizing, filters, margins, and the adjoints of all these.

    y[.., j, ..] = sum over the terms t of row j, in their order, of weight[t] x[.., index[t], ..]

Rows are in compressed form (CSR): those of row j stand at starts[j] .. starts[j + 1]. Every product and every addition is rounded, the sum begins
with the first term, and a row without terms gives 0; so NumPy (`times`) and generated kernels give the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines.base import Array, memory_order

__all__ = ["AxisMatrix"]


class AxisMatrix:
    """A matrix of `outputs` rows and `inputs` columns. weights: of the dtype of the arrays, or None where all are 1.

    single: every output is one element of the input, unchanged; moves: one or none. gaps: some rows have no terms. prepared: what an engine
    works out of it once.

    Example:
        >>> blend = AxisMatrix.of_taps(3, np.array([[0, 1], [1, 2]]), np.array([[0.5, 0.5], [1.0, 0.0]]))
        >>> blend.times(np.array([2.0, 4.0, 8.0]), 0), blend.transposed().times(np.array([2.0, 10.0]), 0)
        (array([3., 4.]), array([ 1., 11.,  0.]))
    """

    __slots__ = ("gaps", "index", "inputs", "moves", "outputs", "prepared", "single", "starts", "weights")

    def __init__(self, inputs: int, starts: Array, index: Array, weights: Array | None) -> None:
        self.inputs, self.outputs = inputs, len(starts) - 1
        self.starts, self.index = (np.ascontiguousarray(a, dtype=np.int64) for a in (starts, index))
        self.weights = None if weights is None or (weights == 1).all() else np.ascontiguousarray(weights)
        counts = np.diff(self.starts)
        self.gaps = bool((counts == 0).any())
        self.moves = self.weights is None and bool((counts <= 1).all())
        self.single = self.moves and not self.gaps
        self.prepared: dict[Any, Any] = {}

    @classmethod
    def of_taps(cls, inputs: int, index: Array, weights: Array) -> AxisMatrix:
        """From the same number of terms in every row: (outputs, taps) each; terms of weight 0 are left out, so that nothing there is read."""
        kept = weights != 0
        return cls(inputs, np.concatenate(([0], np.cumsum(kept.sum(1)))), index[kept], weights[kept])

    @classmethod
    def of_margins(cls, size: int, lo: int, hi: int) -> AxisMatrix:
        """Zeros before and behind; negative ones leave elements out."""
        places = np.arange(-lo, size + hi)
        inside = (places >= 0) & (places < size)
        return cls(size, np.concatenate(([0], np.cumsum(inside))), places[inside], None)

    def sources(self) -> Array:
        """Of a matrix that moves elements alone: which one every output is; -1: none, so 0."""
        found = np.full(self.outputs, -1)
        found[np.diff(self.starts) == 1] = self.index
        return found

    @property
    def nbytes(self) -> int:
        """With the adjoint's, which is made for a gradient."""
        own = self.starts.nbytes + self.index.nbytes + (0 if self.weights is None else self.weights.nbytes)
        return 2 * own

    def transposed(self) -> AxisMatrix:
        """The adjoint, made once: the terms of a row in the order of what were rows."""
        found: AxisMatrix | None = self.prepared.get("transposed")
        if found is None:
            found = self.prepared["transposed"] = self._transposed()
        return found

    def _transposed(self) -> AxisMatrix:
        order = np.argsort(self.index, kind="stable")
        starts = np.searchsorted(self.index[order], np.arange(self.inputs + 1))
        rows = np.repeat(np.arange(self.outputs), np.diff(self.starts))
        return AxisMatrix(self.outputs, starts, rows[order], None if self.weights is None else self.weights[order])

    def times(self, x: Array, axis: int) -> Array:
        """The product with every line of x along an axis, by NumPy; it lies in memory as x does."""
        order = memory_order(x)
        value, k = x.transpose(order), order.index(axis)
        out = np.zeros((*value.shape[:k], self.outputs, *value.shape[k + 1 :]), value.dtype)
        counts = np.diff(self.starts)
        rows = np.flatnonzero(counts)
        rank = 0
        while rows.size:  # the first terms of all rows, then the second ones, ...
            terms = self.starts[rows] + rank
            part = np.take(value, self.index[terms], axis=k)
            if self.weights is not None:
                part *= self.weights[terms].reshape((-1,) + (1,) * (value.ndim - k - 1))
            where: Any = (*(slice(None),) * k, slice(None) if rows.size == self.outputs else rows)
            if rank:
                out[where] += part
            else:
                out[where] = part
            rank += 1
            rows = rows[counts[rows] > rank]
        return out.transpose(np.argsort(order))
