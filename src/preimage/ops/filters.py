"""Resizing by a filter: cubic, and linear or cubic ones that widen where an axis shrinks (antialias).

Along each axis an output is a sum of the elements near its position p(o),

    y[o] = sum over taps t of w[o, t] x[index[o, t]]

which is linear in x and separable over the axes. The weights are the filter's values at the distances; what lies outside is the border's
element, or counts for nothing and the other weights make up for it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from preimage.autograd import Primitive, primitive
from preimage.engines.kept_tables import kept_tables
from preimage.ops.operands import Array, narrow, operand
from preimage.ops.sampling import Positions
from preimage.ops.sums import exactly
from preimage.records import record
from preimage.typing import Value

__all__ = ["Filter", "add_sorted", "column", "filtered"]


@record
class Filter:
    """How one axis of `size` elements is filtered.

    cubic: the coefficient a of Keys' cubic; None for the linear filter (a triangle).
    stretch: how many times as wide the filter is; above 1 it averages over what an axis that shrinks leaves out.
    inside: elements outside the axis count for nothing, and the weights of the others add up to 1; else the border's element stands for them.

    Example:
        >>> index, weights = Filter(4, Positions(2, Fraction(1, 2), Fraction(2)), None, Fraction(2), True).taps()
        >>> (weights * np.array([0.0, 1, 2, 3])[index]).sum(1)
        array([0.71428571, 2.28571429])
    """

    size: int
    positions: Positions
    cubic: float | None
    stretch: Fraction = Fraction(1)
    inside: bool = False

    def taps(self) -> tuple[Array, Array]:
        """The index and the weight of every tap of every output: (outputs, taps) each."""
        reach = (1 if self.cubic is None else 2) * self.stretch
        around = np.arange(1 - math.ceil(reach), 1 + math.ceil(reach))
        low, part = self.positions.blended()
        index = low[:, None] + around
        distance = np.abs(around - part[:, None]) / float(self.stretch)
        weights = np.maximum(0, 1 - distance) if self.cubic is None else _keys(distance, self.cubic)
        if self.inside:
            weights = np.where((index >= 0) & (index < self.size), weights, 0)
        if self.inside or self.stretch > 1:  # a wider filter's values add up to about 1
            total = weights.sum(1, keepdims=True)
            weights = weights / np.where(total == 0, 1, total)
        return np.clip(index, 0, self.size - 1), weights


def _keys(t: Array, a: float) -> Array:
    """Keys' cubic of a distance. Source: Keys (1981), Cubic convolution interpolation for digital image processing."""
    return np.where(t <= 1, ((a + 2) * t - (a + 3)) * t * t + 1, np.where(t < 2, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a, 0))


@kept_tables
def _steps(axis: Filter) -> list[tuple[Array | None, Array, Array]]:
    """Tap by tap: the outputs that it is of (None: all), their elements, their weights; an element of weight 0 is not read."""
    found = []
    for index, weight in zip(*(a.T for a in axis.taps()), strict=True):
        at = np.flatnonzero(weight)
        if at.size:
            found.append((None if at.size == weight.size else at, index[at], weight[at]))
    return found


def column(t: Array, like: Array, axis: int) -> Array:
    """Numbers along one axis of an array, in its dtype."""
    return t.astype(like.dtype).reshape((-1,) + (1,) * (like.ndim - axis - 1))


def add_sorted(out: Array, k: int, places: Array, values: Array) -> None:
    """values added to the elements `places` of axis k; places rise, so that what is added to one element lies side by side."""
    first = np.flatnonzero(np.diff(places, prepend=-1))
    at: Any = (*(slice(None),) * k, places[first])
    out[at] += np.add.reduceat(values, first, axis=k)


def _filter(x: Array, *, axes: tuple[Filter, ...]) -> Array:
    value = exactly(x)
    for k, axis in enumerate(axes, 2):
        out = np.zeros((*value.shape[:k], axis.positions.outputs, *value.shape[k + 1 :]), value.dtype)
        for at, index, weight in _steps(axis):
            where: Any = ... if at is None else (*(slice(None),) * k, at)
            out[where] += np.take(value, index, axis=k) * column(weight, value, k)
        value = out
    return narrow(value, x)


def _filter_back(y: Array, *, axes: tuple[Filter, ...]) -> Array:
    value = exactly(y)
    for k, axis in reversed(list(enumerate(axes, 2))):
        out = np.zeros((*value.shape[:k], axis.size, *value.shape[k + 1 :]), value.dtype)
        for at, index, weight in _steps(axis):
            part = value if at is None else np.take(value, at, axis=k)
            add_sorted(out, k, index, part * column(weight, value, k))
        value = out
    return narrow(value, y)


_filter_op = primitive("filter", _filter, [lambda g, ans, x, axes: _filter_back_op(g, axes=axes)], saves=(), linear=(0,))
_filter_back_op: Primitive = primitive(
    "filter_back", _filter_back, [lambda g, ans, y, axes: _filter_op(g, axes=axes)], saves=(), linear=(0,)
)


def filtered(x: Value, axes: tuple[Filter, ...]) -> Value:
    """x (N, C, *spatial) with every spatial axis filtered as it says."""
    return _filter_op(operand(x, "x"), axes=axes)
