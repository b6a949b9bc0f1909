"""Matrix products. For C = A B and a cotangent g of C:

C [m, n] = A [m, k] B [k, n]      grad A [m, k] = g [m, n] B^T [n, k]      grad B [k, n] = A^T [k, m] g [m, n]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.autograd import primitive
from preimage.engines.blas import multiply
from preimage.errors import ShapeError
from preimage.ops.broadcast import match
from preimage.ops.operands import Array, broadcast_shape, narrow, operands, widened
from preimage.ops.reduce import sum as sum_over
from preimage.ops.shape import getitem, reshape, swapaxes

__all__ = ["linear", "matmul"]


def _matmul(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        result = multiply(widened(a), widened(b))
    return np.asarray(result).astype(np.result_type(a.dtype, b.dtype), copy=False)


_matmul_op = primitive(
    "matmul",
    _matmul,
    [
        lambda g, ans, a, b: match(matmul(g, swapaxes(b, -1, -2)), a),
        lambda g, ans, a, b: match(matmul(swapaxes(a, -1, -2), g), b),
    ],
    saves=(0, 1),
    linear=(0, 1),
)


def matmul(a: Any, b: Any) -> Any:
    """The matrix product over the last two axes, the others broadcasting; one axis means a vector, as in NumPy.

    Raises: ShapeError where the inner sizes differ, or for an array without axes.
    """
    a, b = operands("matmul", a, b)
    if not a.ndim or not b.ndim:
        raise ShapeError(f"matmul: needs at least one axis each, got shapes {a.shape} and {b.shape}; use * for numbers")
    row, column = a.ndim == 1, b.ndim == 1
    left = reshape(a, (1, *a.shape)) if row else a
    right = reshape(b, (*b.shape, 1)) if column else b
    if left.shape[-1] != right.shape[-2]:
        raise ShapeError(f"matmul: inner sizes differ: {a.shape} @ {b.shape}")
    broadcast_shape("matmul", left.shape[:-2], right.shape[:-2])
    result = _matmul_op(left, right)
    if row:
        result = getitem(result, (..., 0, slice(None)))
    return getitem(result, (..., 0)) if column else result


def _linear(x: Array, w: Array, b: Array | None) -> Array:
    with np.errstate(all="ignore"):
        y = multiply(widened(x), widened(w).T)
        if b is not None:
            y += b
    return narrow(y, x)


def _rows(a: Any) -> Any:
    return reshape(a, (int(np.prod(a.shape[:-1], dtype=object)), a.shape[-1]))


_linear_op = primitive(
    "linear",
    _linear,
    [
        lambda g, ans, x, w, b: matmul(g, w),
        lambda g, ans, x, w, b: matmul(swapaxes(_rows(g), 0, 1), _rows(x)),
        lambda g, ans, x, w, b: sum_over(g, tuple(range(g.ndim - 1))),
    ],
    saves=(0, 1),
)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """x @ weight.T + bias: x (..., in_features), weight (out_features, in_features), bias (out_features,).

    Raises: ShapeError where the features differ.
    """
    x, weight = operands("linear", x, weight)
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear: x {x.shape} and weight {weight.shape} do not fit; wanted (..., in) and (out, in)")
    if bias is not None:
        (bias,) = operands("linear", bias)
        if bias.shape != weight.shape[:1]:
            raise ShapeError(f"linear: bias has shape {bias.shape}, wanted ({weight.shape[0]},)")
    return _linear_op(x, weight, bias)
