"""Matrix products on a device: each is a convolution with a kernel of one position, whose order of sums is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from preimage.engines.base import Array, Epilogue, apply_to_columns
from preimage.geometry import ConvGeometry

__all__ = ["DeviceProducts"]

Conv = Callable[[ConvGeometry, Any, Any, Epilogue | None], Array]


class DeviceProducts:
    """conv: that of the engine."""

    def __init__(self, conv: Conv) -> None:
        self._conv = conv

    def linear(self, x: Array, w: Any, epilogue: Epilogue | None = None) -> Array:
        return self._product(x, w if isinstance(w, np.ndarray) else w.array, epilogue)

    def matmul(self, a: Array, b: Array, epilogue: Epilogue | None = None) -> Array:
        if b.ndim == 2:
            return self._product(a, b.T, epilogue)
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a, b = (np.broadcast_to(m, (*lead, *m.shape[-2:])) for m in (a, b))
        made = np.empty((*lead, a.shape[-2], b.shape[-1]), a.dtype)
        for place in np.ndindex(lead):
            part = epilogue
            if epilogue is not None and epilogue.residual is not None:
                part = replace(epilogue, residual=np.broadcast_to(epilogue.residual, made.shape)[place])
            made[place] = self._product(a[place], b[place].T, part)
        return made

    def _product(self, x: Array, w: Array, epilogue: Epilogue | None) -> Array:
        """x (..., k) times the transpose of w (n, k)."""
        shape, (n, k) = (*x.shape[:-1], w.shape[0]), w.shape
        rows = prod(x.shape[:-1])
        if not rows or not n or not k:
            return apply_to_columns(np.zeros(shape, x.dtype), epilogue)
        geometry = ConvGeometry.from_conv((1, k, rows), (n, k, 1))
        columns = np.ascontiguousarray(x).reshape(1, rows, k).transpose(0, 2, 1)
        if epilogue is not None and epilogue.residual is not None:
            residual = np.broadcast_to(epilogue.residual, shape).reshape(1, rows, n).transpose(0, 2, 1)
            epilogue = replace(epilogue, residual=residual)
        made = self._conv(geometry, columns, w[:, :, None], epilogue)
        return np.ascontiguousarray(made.transpose(0, 2, 1)).reshape(shape)
