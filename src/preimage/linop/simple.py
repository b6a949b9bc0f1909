"""Small operators that convolutions are combined with."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.autograd import array_of
from preimage.geometry import Padding
from preimage.linop.operator import Operator
from preimage.ops import fold_margin, pad
from preimage.ops.operands import float_dtype, operand, shape_sizes
from preimage.typing import Axes, DTypeLike, Operand, PaddingMode, Shape, Value

__all__ = ["Diagonal", "Identity", "Pad"]


class Identity(Operator):
    """x -> x. Without a dtype it works in that of the operators beside it, and in float64 alone."""

    def __init__(self, shape: Shape, dtype: DTypeLike | None = None) -> None:
        self.input_shape = self.output_shape = shape_sizes(shape, "Identity: shape")
        self._open_dtype = dtype is None
        self.dtype = float_dtype(np.float64 if dtype is None else dtype)

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return Identity(self.input_shape, dtype)

    def _forward(self, x: Value) -> Value:
        return x

    def _adjoint(self, y: Value) -> Value:
        return y

    def _known_norm(self) -> float:
        return 1.0


class Diagonal(Operator):
    """x -> d * x, element by element: weights, or a mask of zeros and ones."""

    def __init__(self, d: Operand) -> None:
        self.d = operand(d, "d")
        self.input_shape = self.output_shape = tuple(self.d.shape)
        self.dtype = array_of(self.d).dtype

    def _forward(self, x: Value) -> Value:
        return x * self.d

    def _adjoint(self, y: Value) -> Value:
        return y * self.d

    def _known_norm(self) -> float:
        return float(np.abs(np.asarray(array_of(self.d), np.float64)).max(initial=0.0))


class Pad(Operator):
    """x -> pad(x): the signal with a margin; the adjoint folds the margin back. Arguments as preimage.ops.pad.

    Without a dtype it works in that of the operators beside it, and in float64 alone.
    """

    def __init__(
        self, input_shape: Shape, padding: Padding, *, mode: PaddingMode = "zeros", axes: Axes = None,
        dtype: DTypeLike | None = None,
    ) -> None:  # fmt: skip
        self.input_shape = shape_sizes(input_shape, "Pad: input_shape")
        self._open_dtype = dtype is None
        self.dtype = float_dtype(np.float64 if dtype is None else dtype)
        self._padding = padding
        self._options: dict[str, Any] = {"mode": mode, "axes": axes}
        # a view of one element is enough to learn the shape of the result and to check the arguments
        self.output_shape = tuple(
            pad(np.broadcast_to(np.zeros((), self.dtype), self.input_shape), padding, **self._options).shape
        )

    def _forward(self, x: Value) -> Value:
        return pad(x, self._padding, **self._options)

    def _adjoint(self, y: Value) -> Value:
        return fold_margin(y, self._padding, **self._options)

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return Pad(self.input_shape, self._padding, dtype=dtype, **self._options)
