"""Differences between neighbours: the gradient of an array of any number of axes, and its Laplacian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np

from preimage.errors import OptionError
from preimage.linop.operator import Operator
from preimage.ops import multiply, pad, roll, stack
from preimage.ops.operands import axes_of, entries, float_dtype, number_of, shape_sizes
from preimage.typing import Axes, DTypeLike, Shape, Value

__all__ = ["Gradient", "Laplacian"]

#: What lies behind the last element: itself once more (the last difference is 0), or the first.
Border = Literal["replicate", "circular"]


class _Differences(Operator):
    """What Gradient and Laplacian are told: shape, axes, spacing, border."""

    def __init__(
        self,
        shape: Shape,
        *,
        axes: Axes = None,
        spacing: float | Sequence[float] = 1.0,
        mode: Border = "replicate",
        dtype: DTypeLike | None = None,
    ) -> None:
        name = type(self).__name__
        self.input_shape = shape_sizes(shape, f"{name}: shape")
        self.axes = axes_of(axes, len(self.input_shape), name)
        if not isinstance(mode, str) or mode not in ("replicate", "circular"):
            raise OptionError(f"{name}: mode must be 'replicate' or 'circular', got {mode!r}")
        listed = entries(spacing)
        widths: list[Any] = [spacing] * len(self.axes) if listed is None else listed
        if len(widths) != len(self.axes) or not self.axes:
            raise OptionError(f"{name}: spacing has {len(widths)} values for {len(self.axes)} axes of shape {self.input_shape}")
        self.spacing = tuple(number_of(h, f"{name}: spacing") for h in widths)
        if not all(h > 0 for h in self.spacing):
            raise OptionError(f"{name}: spacing must be positive, got {spacing!r}")
        self.mode: Border = mode
        self.output_shape = self._result_shape()
        self._open_dtype = dtype is None
        self.dtype = float_dtype(np.float64 if dtype is None else dtype)

    def _result_shape(self) -> tuple[int, ...]:
        return self.input_shape

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return type(self)(self.input_shape, axes=self.axes, spacing=self.spacing, mode=self.mode, dtype=dtype)

    def _step(self, x: Value, axis: int, spacing: float) -> Value:
        """x[k + 1] - x[k] along an axis."""
        if self.mode == "circular":
            ahead = roll(x, -1, axis)
        else:
            ahead = pad(_cut(x, axis, slice(1, None)), ((0, 1),), mode="replicate", axes=(axis,)) if x.shape[axis] > 1 else x
        return multiply(ahead - x, self.dtype.type(1 / spacing))

    def _back(self, y: Value, axis: int, spacing: float) -> Value:
        """Its adjoint: y[k - 1] - y[k]."""
        if self.mode == "circular":
            found = roll(y, 1, axis) - y
        else:
            inner = _cut(y, axis, slice(None, -1))
            found = pad(inner, ((1, 0),), axes=(axis,)) - pad(inner, ((0, 1),), axes=(axis,))
        return multiply(found, self.dtype.type(1 / spacing))

    def _square_norm(self) -> float:
        """The largest eigenvalue of D^T D: the sum over the axes of 4 sin^2(frequency / 2) / spacing^2, at the highest frequency of each."""
        total = 0.0
        for axis, spacing in zip(self.axes, self.spacing, strict=True):
            n = self.input_shape[axis]
            frequency = math.pi * (n - 1) / n if self.mode == "replicate" else 2 * math.pi * (n // 2) / n if n else 0.0
            total += (2 * math.sin(frequency / 2) / spacing) ** 2
        return total if math.prod(self.input_shape) else 0.0


def _cut(v: Value, axis: int, part: slice) -> Value:
    return v[(slice(None),) * axis + (part,)]


class Gradient(_Differences):
    """The differences to the next neighbour along each of the axes (None: all), one after another on a new first axis.

    Shapes: x `shape` -> (number of axes, *shape).
    Definition: y[a][k] = (x[k + 1 along axis a] - x[k]) / spacing[a]; behind the last element stands itself once more (mode "replicate": the last
        difference is 0) or the first ("circular").
    Norm: sqrt(sum over the axes of 4 sin^2(f / 2) / spacing^2), f the highest frequency; below 2 sqrt(axes) for spacing 1.

    Example:
        >>> import numpy as np
        >>> from preimage import linop
        >>> D = linop.Gradient((2, 3))
        >>> (D @ np.array([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]])).tolist()
        [[[0.0, -1.0, -3.0], [0.0, 0.0, 0.0]], [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]]
    """

    def _result_shape(self) -> tuple[int, ...]:
        return len(self.axes), *self.input_shape

    def _forward(self, x: Value) -> Value:
        return stack([self._step(x, a, h) for a, h in zip(self.axes, self.spacing, strict=True)])

    def _adjoint(self, y: Value) -> Value:
        return reduce(add, (self._back(y[k], a, h) for k, (a, h) in enumerate(zip(self.axes, self.spacing, strict=True))))

    def _known_norm(self) -> float:
        return math.sqrt(self._square_norm())


class Laplacian(_Differences):
    """The sum over the axes of the second differences: -D^T D for the Gradient D of the same arguments. Its own adjoint.

    Norm: the square of the gradient's.

    Example:
        >>> import numpy as np
        >>> from preimage import linop
        >>> (linop.Laplacian((4,), mode="circular") @ np.array([0.0, 1.0, 0.0, 0.0])).tolist()
        [1.0, -2.0, 1.0, 0.0]
    """

    def _forward(self, x: Value) -> Value:
        return -reduce(add, (self._back(self._step(x, a, h), a, h) for a, h in zip(self.axes, self.spacing, strict=True)))

    def _adjoint(self, y: Value) -> Value:
        return self._forward(y)

    def _known_norm(self) -> float:
        return self._square_norm()
