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
from preimage.engines import around
from preimage.engines.axis_matrix import AxisMatrix
from preimage.engines.kept_tables import kept_tables
from preimage.ops.operands import Array, narrow, operand
from preimage.ops.sampling import Positions
from preimage.ops.sums import exactly
from preimage.records import record
from preimage.typing import Value

__all__ = ["Filter", "along_axes", "filtered"]


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

    def __hash__(self) -> int:  # of every call; fractions take long
        return hash((self.size, self.positions.outputs, self.cubic))

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
def _matrix(axis: Filter, dtype: np.dtype[Any]) -> AxisMatrix:
    index, weights = axis.taps()
    return AxisMatrix.of_taps(axis.size, index, weights.astype(dtype))


def _filter(x: Array, *, axes: tuple[Filter, ...]) -> Array:
    value = exactly(x)
    return narrow(around.along_axes(value, [(k, _matrix(axis, value.dtype)) for k, axis in enumerate(axes, 2)]), x)


def _filter_back(y: Array, *, axes: tuple[Filter, ...]) -> Array:
    value = exactly(y)
    return narrow(around.along_axes(value, [(k, _matrix(axis, value.dtype).transposed()) for k, axis in enumerate(axes, 2)]), y)


_filter_op = primitive("filter", _filter, [lambda g, ans, x, axes: _filter_back_op(g, axes=axes)], saves=(), linear=(0,))
_filter_back_op: Primitive = primitive(
    "filter_back", _filter_back, [lambda g, ans, y, axes: _filter_op(g, axes=axes)], saves=(), linear=(0,)
)


def filtered(x: Value, axes: tuple[Filter, ...]) -> Value:
    """x (N, C, *spatial) with every spatial axis filtered as it says."""
    return _filter_op(operand(x, "x"), axes=axes)


def _along(x: Array, *, matrices: tuple[tuple[int, AxisMatrix], ...]) -> Array:
    return around.along_axes(x, matrices)


_along_op: Primitive = primitive(
    "along_axes",
    _along,
    [lambda g, ans, x, matrices: _along_op(g, matrices=tuple([(axis, matrix.transposed()) for axis, matrix in matrices]))],
    saves=(),
    linear=(0,),
)


def along_axes(x: Value, matrices: tuple[tuple[int, AxisMatrix], ...]) -> Value:
    """Every line of x, float32 or float64, along an axis times a matrix of its dtype, one axis after another."""
    return _along_op(operand(x, "x"), matrices=matrices)
