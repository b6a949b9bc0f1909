"""Quantised arithmetic of ONNX: integers q that stand for (q - zero_point) * scale.

Sums of products of integers are exact: they are computed as floating-point contractions that are wide enough to hold them (float32 below 2^24,
else float64), and come out as the integers that the definition says, whatever the CPU. Rounding is to the nearest, ties to even; results are held
within the range of their type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from preimage import ops
from preimage.engines import around, integers
from preimage.engines.recording import constant
from preimage.errors import FileFormatError, PreimageError
from preimage.io.graph import graph_op
from preimage.io.graph.types import Types, gives
from preimage.io.onnx.model import dtype_of
from preimage.io.onnx.operators.moving import recorded
from preimage.io.onnx.operators.shapes import axis_of, data_of

__all__ = ["dequantised", "dynamically_quantised", "integer_type", "plain", "quantised", "zero_of"]


def plain(what: str, *values: Any) -> list[np.ndarray]:
    """The values as arrays: rounding has no gradient."""
    if recorded(*values) and any(getattr(v, "requires_grad", False) for v in values):
        raise PreimageError(f"{what} has no gradient: run it under no_grad")
    return [np.asarray(data_of(v)) for v in values]


def zero_of(what: str, value: Any) -> np.ndarray | None:
    """A zero point as an array; None where it is absent."""
    return None if value is None else plain(what, value)[0]


def _spread(values: np.ndarray, shape: tuple[int, ...], axis: int, block: int, what: str) -> np.ndarray:
    """A scale or zero point beside an array: one number, one for each place of an axis, or one for each block of places."""
    if values.size == 1:
        return values.reshape(())
    if block:
        axis = axis_of(axis, len(shape), what)
        if values.ndim != len(shape) or any(
            a != (-(-b // block) if k == axis else b) for k, (a, b) in enumerate(zip(values.shape, shape, strict=True))
        ):
            raise FileFormatError(f"{what}: {values.shape} blocks of {block} for an array of shape {shape}")
        return np.repeat(values, block, axis)[tuple(slice(n) for n in shape)]
    axis = axis_of(axis, max(len(shape), 1), what)
    if not shape or values.shape != (shape[axis],):
        raise FileFormatError(f"{what}: a scale or zero point of shape {values.shape} along axis {axis} of {shape}")
    return values.reshape([-1 if k == axis else 1 for k in range(len(shape))])


#: Of x, scale, zero, and the ends of the range; of q, scale (and zero).
_QUANTISED = (("div", (0, 1)), ("round", (5,)), ("add", (6, 2)), ("clip", (7, 3, 4)))
_DEQUANTISED = ((("mul", (0, 1)),), (("sub", (0, 2)), ("mul", (3, 1))))


def _spreads(x: np.ndarray, *others: np.ndarray) -> bool:
    """Whether the others broadcast to x alone."""
    return bool(np.broadcast_shapes(x.shape, *(v.shape for v in others)) == x.shape)


def _exact(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, dtype: Any) -> bool:
    """Whether a kernel of the dtype of x gives the same: what leaves the digits of float32 is outside the range of 16 bits."""
    small = np.dtype(dtype).itemsize < 4 and zero.dtype.kind in "iu" and zero.dtype.itemsize < 4
    return small and x.dtype in (np.float32, np.float64) and scale.dtype == x.dtype and _spreads(x, scale, zero)


def quantised(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, dtype: Any) -> np.ndarray:
    """round(x / scale) + zero, held within the range of the integer type."""
    span = np.iinfo(dtype)
    made = (
        around.mixed((x, scale, zero), _QUANTISED, x.dtype, dtype, (span.min, span.max))
        if _exact(x, scale, zero, dtype)
        else None
    )
    if made is not None:
        return made
    moved = np.rint(x / scale.astype(x.dtype)).astype(np.float64) + zero.astype(np.float64)
    return np.asarray(np.nan_to_num(np.clip(moved, span.min, span.max)), dtype)


def dequantised(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    """(q - zero) * scale in the dtype of the scale."""
    wide_dtype = np.float64 if scale.dtype == np.float64 else np.float32
    if q.dtype.itemsize < 4:  # whose differences every float holds
        others = (scale,) if zero is None else (scale, zero)
        made = (
            around.mixed((q, *others), _DEQUANTISED[len(others) - 1], wide_dtype, scale.dtype) if _spreads(q, *others) else None
        )
        if made is not None:
            return made
    whole = q.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
    wide = whole.astype(wide_dtype)
    return np.asarray((wide * scale.astype(wide.dtype)).astype(scale.dtype))


def integer_type(dtype: Any, what: str) -> Any:
    if np.dtype(dtype).kind not in "iu" or np.dtype(dtype).itemsize > 4:
        raise FileFormatError(f"{what}: {dtype} is no quantised type; there are int8, uint8, int16, uint16 and int32")
    return np.dtype(dtype)


def _quantise_types(attributes: Mapping[str, Any], inputs: Types) -> Types:
    if attributes.get("output_dtype"):
        return (dtype_of(attributes["output_dtype"], "QuantizeLinear").name,)
    return (inputs[2] if len(inputs) > 2 and inputs[2] else "uint8",)


@graph_op("onnx.QuantizeLinear", types=_quantise_types)
def _quantize_linear(
    x: Any,
    scale: Any,
    zero: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Any:
    what = "QuantizeLinear"
    x, scale = plain(what, x, scale)
    dtype = zero.dtype if zero is not None else dtype_of(output_dtype, what) if output_dtype else np.dtype(np.uint8)
    spread = _spread(scale, x.shape, axis, block_size, what)
    given = zero_of(what, zero)
    start = constant(np.zeros((), dtype)) if given is None else _spread(given, x.shape, axis, block_size, what)
    wide = x.astype(np.float64) if x.dtype.kind in "iu" else x.astype(np.float32) if x.dtype.itemsize == 2 else x
    return quantised(wide, spread, start, integer_type(dtype, what))


def _dequantise_types(attributes: Mapping[str, Any], inputs: Types) -> Types:
    return (dtype_of(attributes["output_dtype"], "DequantizeLinear").name if attributes.get("output_dtype") else inputs[1],)


@graph_op("onnx.DequantizeLinear", types=_dequantise_types)
def _dequantize_linear(q: Any, scale: Any, zero: Any = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0) -> Any:
    what = "DequantizeLinear"
    q, scale = plain(what, q, scale)
    integer_type(q.dtype, what)
    given = zero_of(what, zero)
    start = None if given is None else _spread(given, q.shape, axis, block_size, what)
    found = dequantised(q, _spread(scale, q.shape, axis, block_size, what), start)
    return found.astype(dtype_of(output_dtype, what)) if output_dtype else found


@graph_op("onnx.DynamicQuantizeLinear", types=gives("uint8", 0, "uint8"))
def _dynamic(x: Any, *, outputs: int = 3) -> tuple[Any, ...]:
    return dynamically_quantised(plain("DynamicQuantizeLinear", x)[0])


def dynamically_quantised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x as uint8 over the range of its values, zero among them; the scale and the zero point."""
    made = integers.dynamic(x)
    if made is not None:
        return made
    low, high = (np.minimum(x.min(), 0), np.maximum(x.max(), 0)) if x.size else (np.float32(0), np.float32(0))
    scale = np.asarray((high - low) / np.float32(255), x.dtype)
    if not scale:
        return np.zeros(x.shape, np.uint8), scale, np.zeros((), np.uint8)
    zero = quantised(np.asarray(-low, x.dtype), scale, np.zeros(()), np.uint8)
    return quantised(x, scale, zero, np.uint8), scale, zero


# -- words of com.microsoft: between dequantising and quantising -------------------------------------------------------


def _between(what: str, function: Any) -> Any:
    def op(*values: Any, **attributes: Any) -> Any:
        x, x_scale, x_zero, scale, zero = plain(what, *values)
        found = np.asarray(function(dequantised(x, x_scale, x_zero), **attributes))
        return quantised(found, scale, zero, x.dtype)

    return op


def _two(what: str, function: Any) -> Any:
    def op(a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, scale: Any, zero: Any = None) -> Any:
        a, a_scale, b, b_scale, scale = plain(what, a, a_scale, b, b_scale, scale)
        zeros = [zero_of(what, z) for z in (a_zero, b_zero, zero)]
        found = function(dequantised(a, a_scale, zeros[0]), dequantised(b, b_scale, zeros[1]))
        return quantised(np.asarray(found), scale, np.zeros((), a.dtype) if zeros[2] is None else zeros[2], a.dtype)

    return op


graph_op("onnx.com.microsoft::QLinearAdd")(_two("QLinearAdd", np.add))
graph_op("onnx.com.microsoft::QLinearMul")(_two("QLinearMul", np.multiply))
graph_op("onnx.com.microsoft::QLinearSigmoid")(_between("QLinearSigmoid", ops.sigmoid))
graph_op("onnx.com.microsoft::QLinearLeakyRelu")(_between("QLinearLeakyRelu", lambda x, alpha=0.01: ops.leaky_relu(x, alpha)))
graph_op("onnx.com.microsoft::QLinearGlobalAveragePool")(
    _between(
        "QLinearGlobalAveragePool",
        lambda x, channels_last=0: ops.mean(x, tuple(range(1, x.ndim - 1) if channels_last else range(2, x.ndim)), keepdims=True),
    )
)


@graph_op("onnx.com.microsoft::QLinearConcat", types=gives(1))
def _qlinear_concat(scale: Any, zero: Any, *parts: Any, axis: int) -> Any:
    if not parts or len(parts) % 3:
        raise FileFormatError(f"QLinearConcat: {len(parts)} inputs, wanted an array, a scale and a zero point for each part")
    scale, zero, *given = plain("QLinearConcat", scale, zero, *parts)
    each = [dequantised(*given[k : k + 3]) for k in range(0, len(given), 3)]
    return quantised(np.concatenate(each, axis), scale, zero, zero.dtype)
