"""Matrix products, on the engine that the settings choose: every form gives the same bits, alone, in a batch, in any memory order.

    C [m, n] = A [m, k] B [k, n]
    grad A [m, k] = g [m, n] B^T        grad B [k, n] = A^T g

A layer's rows are images: the gradient of its weights is `conv_weight_grad` without spatial axes, summed by the tree over images,
so that any number of workers may share a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, cast

import numpy as np
from numpy import ndarray

from preimage.autograd import primitive
from preimage.engines import PreparedWeight, products
from preimage.engines.base import Epilogue
from preimage.engines.decisions import Shortcuts
from preimage.errors import ShapeError
from preimage.geometry import ConvGeometry
from preimage.ops.broadcast import astype, match
from preimage.ops.contraction import conv_weight_grad_op, sum_over_space, weight_operand
from preimage.ops.operands import Array, broadcast_shape, operands
from preimage.ops.shape import getitem, reshape, swapaxes
from preimage.settings import current
from preimage.typing import Operand, Value

__all__ = ["linear", "matmul"]

_PLAIN = frozenset(np.dtype(t) for t in (np.float32, np.float64, np.float16))

#: What products and layers of plain arrays run from the second time on; None: there is nothing shorter.
_warm: Shortcuts[tuple[Any, ...], Callable[..., Array | None] | None] = Shortcuts(1024)
_warm_call = _warm.get

_matmul_op = primitive(
    "matmul",
    lambda a, b: products.matmul(a, b),
    [
        lambda g, ans, a, b: match(matmul(g, swapaxes(b, -1, -2)), a),
        lambda g, ans, a, b: match(matmul(swapaxes(a, -1, -2), g), b),
    ],
    saves=(0, 1),
    linear=(0, 1),
    silent=True,
)


def _one_dtype(*values: Value) -> tuple[Value, ...]:
    """Arrays of several dtypes in the one that they promote to."""
    dtype = np.result_type(*[v.dtype for v in values])
    return tuple(v if v.dtype == dtype else astype(v, dtype) for v in values)


def matmul(a: Operand, b: Operand) -> Value:
    """The matrix product over the last two axes, the others broadcasting; one axis means a vector, as in NumPy.

    Every element of the result has one order of summation (docs/contract.md): the same bits alone and in a batch, on any number of threads.
    Raises: ShapeError where the inner sizes differ, or for an array without axes.
    """
    if type(a) is ndarray and type(b) is ndarray:
        key = (id(current()), a.shape, a.strides, a.dtype, b.shape, b.strides, b.dtype)
        call = _warm_call(key)
        if call is not None and (made := call(a, b)) is not None:
            return made
        if _is_plain(a, b):  # nothing to record or convert
            product = products.matmul(a, b)
            if key not in _warm:
                _warm.keep(key, products.warm(a, b))
            return product
    a, b = operands("matmul", a, b)
    if not a.ndim or not b.ndim:
        raise ShapeError(f"matmul: needs at least one axis each, got shapes {a.shape} and {b.shape}; use * for numbers")
    row, column = a.ndim == 1, b.ndim == 1
    left = reshape(a, (1, *a.shape)) if row else a
    right = reshape(b, (*b.shape, 1)) if column else b
    if left.shape[-1] != right.shape[-2]:
        raise ShapeError(f"matmul: inner sizes differ: {a.shape} @ {b.shape}")
    broadcast_shape("matmul", left.shape[:-2], right.shape[:-2])
    left, right = _one_dtype(left, right)
    if right.ndim == 2 and left.ndim > 2:  # as rows of one matrix, so that the gradient of B is one product too
        result = reshape(_matmul_op(_rows(left), right), (*left.shape[:-1], right.shape[-1]))
    else:
        result = _matmul_op(left, right)
    if row:
        result = getitem(result, (..., 0, slice(None)))
    return getitem(result, (..., 0)) if column else result


def _is_plain(a: Array, b: Array) -> bool:
    """Whether two arrays can be multiplied as they are."""
    return (
        a.dtype is b.dtype and a.dtype in _PLAIN and min(a.ndim, b.ndim) >= 2 and a.shape[-1] == b.shape[-2]
        and (a.shape[:-2] == b.shape[:-2] or min(a.ndim, b.ndim) == 2) and a.flags.aligned and b.flags.aligned
    )  # fmt: skip


def _rows(a: Value) -> Value:
    return reshape(a, (prod(a.shape[:-1]), a.shape[-1]))


_FIRST: Any = {"layout": "channels_first"}


def _linear(x: Array, w: Any, b: Array | None, *, geometry: ConvGeometry) -> Array:
    return products.linear(x, w, None if b is None else Epilogue(bias=b))


_linear_op = primitive(
    "linear",
    _linear,
    [
        lambda g, ans, x, w, b, geometry: matmul(g, w.array if isinstance(w, PreparedWeight) else w),
        lambda g, ans, x, w, b, geometry: conv_weight_grad_op(x, g, geometry=geometry, **_FIRST),
        lambda g, ans, x, w, b, geometry: sum_over_space(g, **_FIRST),
    ],
    saves=(0, 1),
    silent=True,
)


def linear(x: Operand, weight: Operand | PreparedWeight, bias: Operand | None = None) -> Value:
    """x @ weight.T + bias: x (..., in_features), weight (out_features, in_features), bias (out_features,).

    The weight may be what `preimage.prepare` made of one. The result has the dtype of x.
    Raises: ShapeError where the features differ.
    """
    given: Any = x
    if type(given) is np.ndarray and given.ndim > 2 and given.size and given.flags.c_contiguous:
        return _linear_of_rows(given, weight, bias)
    key = _layer_key(x, weight, bias)
    if key is not None and (call := _warm_call(key)) is not None and (made := call(x, weight, bias)) is not None:
        return made
    result = _checked_linear(x, weight, bias)
    if key is not None and key not in _warm:
        _warm.keep(key, _warm_layer(cast(Array, x), cast(Any, weight), cast(Any, bias)))
    return result


def _linear_of_rows(x: Array, weight: Any, bias: Any) -> Value:
    """The layer of an array with more axes, as of one matrix of all rows."""
    if type(weight) not in (np.ndarray, PreparedWeight) or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return _checked_linear(x, weight, bias)
    made = linear(x.reshape(x.size // x.shape[-1], x.shape[-1]), weight, bias)
    return reshape(made, (*x.shape[:-1], weight.shape[0]))


def _layer_key(x: Any, weight: Any, bias: Any) -> tuple[Any, ...] | None:
    """What a layer of NumPy's arrays, maybe with a prepared weight, is known by; None for any other, which has no shorter way."""
    if type(x) is not np.ndarray or (bias is not None and type(bias) is not np.ndarray):
        return None
    own: Any
    if type(weight) is np.ndarray:
        own = (weight.shape, weight.strides, weight.dtype)
    elif type(weight) is PreparedWeight and type(held := weight.array) is np.ndarray:
        own = (held.shape, held.dtype)
    else:
        return None
    return (id(current()), x.shape, x.strides, x.dtype, own, None if bias is None else (bias.shape, bias.strides, bias.dtype))


def _warm_layer(x: Array, weight: Array | PreparedWeight, bias: Array | None) -> Callable[..., Array | None] | None:
    """What the next layer like one that was computed can run: that of arrays which are multiplied as they are."""
    arrays = [x, *([weight] if isinstance(weight, np.ndarray) else []), *([] if bias is None else [bias])]
    held = weight if isinstance(weight, np.ndarray) else weight.array
    if x.ndim != 2 or x.dtype not in _PLAIN or held.dtype != x.dtype or not all(array.flags.aligned for array in arrays):
        return None
    return products.warm_linear(x, weight, bias)


def _checked_linear(x: Operand, weight: Operand | PreparedWeight, bias: Operand | None) -> Value:
    if isinstance(weight, PreparedWeight):
        (x,) = operands("linear", x)
        weight = weight_operand(weight, x)
    else:
        x, weight = operands("linear", x, weight)
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"linear: x {x.shape} and weight {weight.shape} do not fit; wanted (..., in) and (out, in)")
    if bias is not None:
        (bias,) = operands("linear", bias)
        if bias.shape != weight.shape[:1]:
            raise ShapeError(f"linear: bias has shape {bias.shape}, wanted ({weight.shape[0]},)")
    given = [v for v in (x, weight, bias) if v is not None]
    if any(v.dtype != x.dtype for v in given):
        plain = [v.array if isinstance(v, PreparedWeight) else v for v in given]
        return astype(linear(*_one_dtype(*plain)), x.dtype)
    rows = _rows(x)
    y = _linear_op(rows, weight, bias, geometry=ConvGeometry.from_conv(rows.shape, weight.shape))
    return reshape(y, (*x.shape[:-1], weight.shape[0]))
