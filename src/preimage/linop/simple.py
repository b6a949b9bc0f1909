"""Small operators that convolutions are combined with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage.autograd import array_of, refuse_masked
from preimage.geometry import Padding
from preimage.linop.operator import Operator
from preimage.ops import fold_margin, pad

__all__ = ["Diagonal", "Identity", "Pad"]


class Identity(Operator):
    """x -> x."""

    def __init__(self, shape: Sequence[int], dtype: Any = np.float64) -> None:
        self.input_shape = self.output_shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    def _forward(self, x: Any) -> Any:
        return x

    def _adjoint(self, y: Any) -> Any:
        return y


class Diagonal(Operator):
    """x -> d * x, element by element: weights, or a mask of zeros and ones."""

    def __init__(self, d: Any) -> None:
        refuse_masked(d, "d")
        self.d = d if hasattr(d, "shape") else np.asarray(d)
        self.input_shape = self.output_shape = tuple(self.d.shape)
        self.dtype = array_of(self.d).dtype

    def _forward(self, x: Any) -> Any:
        return x * self.d

    def _adjoint(self, y: Any) -> Any:
        return y * self.d


class Pad(Operator):
    """x -> pad(x): the signal with a margin; the adjoint folds the margin back. Arguments as preimage.ops.pad."""

    def __init__(
        self, input_shape: Sequence[int], padding: Padding, *, mode: str = "zeros", axes: Sequence[int] | None = None,
        dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        self.input_shape, self.dtype = tuple(input_shape), np.dtype(dtype)
        self._padding = padding
        self._options: dict[str, Any] = {"mode": mode, "axes": axes}
        # a view of one element is enough to learn the shape of the result and to check the arguments
        self.output_shape = tuple(
            pad(np.broadcast_to(np.zeros((), self.dtype), self.input_shape), padding, **self._options).shape
        )

    def _forward(self, x: Any) -> Any:
        return pad(x, self._padding, **self._options)

    def _adjoint(self, y: Any) -> Any:
        return fold_margin(y, self._padding, **self._options)
