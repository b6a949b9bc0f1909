"""Contractions of integers that stand for (q - zero_point) * scale: QLinearConv, ConvInteger, QLinearMatMul, MatMulInteger, QGemm and their like.

Sums of products of integers are exact. They are computed by the kernels for floats, in float32 where no sum can leave the integers that float32
holds (2^24), which is seen from the weights themselves: no partial sum is larger than the range of the values times the sum of the weights' absolute
values. Where one could, the channels are divided into parts for which that holds, and the sums of the parts are added as integers, or float64 takes
all. Whatever the CPU, the results are the integers that the definition says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from preimage import ops
from preimage.engines import around
from preimage.engines.integers import Finish
from preimage.engines.recording import made_once, recorder
from preimage.errors import FileFormatError
from preimage.io import limits
from preimage.io.graph import OPS, graph_op
from preimage.io.graph.types import gives
from preimage.io.onnx.operators import quantised_kernels as kernels
from preimage.io.onnx.operators.contractions import kernel_fits, transposed_window
from preimage.io.onnx.operators.moving import transpose
from preimage.io.onnx.operators.quantised import dynamically_quantised, integer_type, plain, zero_of

__all__ = ["FLOAT32", "bound_of", "centred", "divided", "dynamically_multiplied", "per_output"]

#: Up to here every integer is a float32, or a float64.
FLOAT32, FLOAT64 = 1 << 24, 1 << 53
#: Parts into which a contraction is divided at most, before float64 takes it as a whole.
MOST_PARTS = 4


def _span(q: np.ndarray) -> int:
    """The largest |q - zero| that the type of q has."""
    info = np.iinfo(q.dtype)
    return int(info.max) - int(info.min)


def _may_decide(*arrays: np.ndarray | None) -> None:
    """What these hold decides which kernels run: a recording in which they may change is none."""
    here = recorder()
    if here is not None and not all(here.is_fixed(a) for a in arrays if a is not None):
        here.lost("the contents of quantised weights decide what is computed")


def centred(q: np.ndarray, zero: np.ndarray | None, dtype: Any = np.int64) -> np.ndarray:
    """q - zero: exact in every dtype that is asked for here."""
    if dtype == np.int64:
        return q.astype(np.int64) if zero is None else q.astype(np.int64) - zero.astype(np.int64)
    given, steps = ((q,), ()) if zero is None else ((q, zero), (("sub", (0, 1)),))
    made = around.mixed(given, steps, dtype, dtype) if zero is None or zero.size == 1 else None
    return centred(q, zero).astype(dtype) if made is None else made


def bound_of(w: np.ndarray, zero: np.ndarray | None, span: int, bias: np.ndarray | None) -> int:
    """What no sum, partial or whole, of values up to `span` times weights (outputs, ...), and no bias added to it, exceeds."""
    return span * int(np.abs(centred(w, zero)).reshape(len(w), -1).sum(axis=1).max(initial=0)) + largest(bias)


def _floats(bound: int, what: str) -> type[np.floating[Any]]:
    """The narrowest float that holds all integers up to a bound. Raises: FileFormatError where none does."""
    if bound >= FLOAT64:
        raise FileFormatError(f"{what}: sums reach 2^53, which is more than quantised kernels add up")
    return np.float32 if bound <= FLOAT32 else np.float64


def largest(bias: np.ndarray | None) -> int:
    """The largest absolute value of a bias."""
    return 0 if bias is None else int(np.abs(bias.astype(np.int64)).max(initial=0))


def divided(w: np.ndarray, zero: np.ndarray | None, span: int, bias: np.ndarray | None) -> list[int] | None:
    """Where to divide the input channels so that no part's sums, the bias added, leave float32: [0, channels] where none must be; None where that
    takes too many parts.
    """
    columns = np.abs(centred(w, zero)).reshape(*w.shape[:2], -1).sum(axis=2).T
    most, total = FLOAT32 - largest(bias), np.cumsum(columns, axis=0)
    ends, done = [0], np.zeros(columns.shape[1], np.int64)
    while ends[-1] < len(columns):
        within = ((total - done).max(axis=1, initial=0) * span <= most).nonzero()[0]
        if not within.size or within[-1] + 1 <= ends[-1] or len(ends) > MOST_PARTS:
            return None
        ends.append(int(within[-1]) + 1)
        done = total[ends[-1] - 1]
    return ends


def _added(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    """The sum of parts that are whole numbers in float32, rounded once to a float dtype."""
    total = parts[0]
    for part in parts[1:]:
        made = around.mixed((total, part), (("add", (0, 1)),), np.float64, np.float64)
        total = np.add(total, part, dtype=np.float64) if made is None else made
    made = around.mixed((total,), (), np.float64, dtype) if total.dtype != dtype else total
    return np.asarray(total, dtype) if made is None else made


def _int32(values: np.ndarray, bound: int) -> np.ndarray:
    """Sums as int32; what is beyond wraps around, as the sum of int32 numbers does."""
    made = around.mixed((values,), (), values.dtype, np.int32) if bound < 1 << 31 and values.dtype.kind == "f" else None
    return np.asarray(values.astype(np.int64).astype(np.int32)) if made is None else made


def _rescaled(sums: np.ndarray, scale_in: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Integer sums (as integers, or as floats that hold them) in units of `scale_in` as integers in units of `scale`."""
    found: np.ndarray = _scaled(sums, made_once(lambda: np.asarray(scale_in / scale, np.float32), scale_in, scale), zero)
    return found


def _scaled(sums: np.ndarray, factor: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """round(sums * factor) + zero in float32, held within the range of the type of zero: how a contraction of integers ends."""
    span = np.iinfo(integer_type(zero.dtype, "a quantised result"))
    if sums.dtype.kind == "f" and zero.size == 1 and zero.dtype.itemsize < 4:
        narrow = sums if sums.dtype == np.float32 else _added([sums], np.float32)
        made = around.mixed((narrow, factor, zero), _RESCALED, np.float32, zero.dtype, (span.min, span.max))
        if made is not None:
            return made
    moved = np.rint(np.asarray(sums).astype(np.float32) * factor).astype(np.float64) + zero.astype(np.float64)
    return np.asarray(np.clip(moved, span.min, span.max), zero.dtype)


#: Of sums, factor, zero, and the ends of the range.
_RESCALED = (("mul", (0, 1)), ("round", (5,)), ("add", (6, 2)), ("clip", (7, 3, 4)))

# -- convolutions ------------------------------------------------------------------------------------------------------

_Attributes = Mapping[str, Any]


def per_output(zero: np.ndarray | None, w: np.ndarray) -> np.ndarray | None:
    """A zero point or scale of the weights: one number, or one for each output channel."""
    if zero is None or zero.size == 1:
        return None if zero is None else zero.reshape(())
    if zero.shape != w.shape[:1]:
        raise FileFormatError(f"a zero point or scale of shape {zero.shape} for weights of shape {w.shape}")
    return zero.reshape(-1, *(1,) * (w.ndim - 1))


def _limited(x: np.ndarray, w: np.ndarray, window: _Attributes) -> _Attributes:
    """The attributes of a convolution that the limits allow."""
    limits.check("conv", [x, w], window, "a quantised convolution")
    return window


def _convolved(
    x: np.ndarray, x_zero: np.ndarray | None, w: np.ndarray, w_zero: np.ndarray | None, bias: np.ndarray | None, attributes: _Attributes
) -> tuple[np.ndarray, int]:  # fmt: skip
    """The sums of a convolution of integers, as floats that hold them, and a bound of their absolute values."""
    what = "a quantised convolution"
    _may_decide(w, w_zero, bias)
    zero = per_output(w_zero, w)
    span, conv = _span(x), OPS["onnx.Conv"].function
    bound = bound_of(w, zero, span, bias)
    ends = divided(w, zero, span, bias) if bound > FLOAT32 and attributes.get("group", 1) == 1 and w.ndim > 2 else None
    dtype = np.float32 if ends else _floats(bound, what)
    weights = made_once(lambda: centred(w, zero).astype(dtype), *(v for v in (w, w_zero) if v is not None))
    added = None if bias is None else made_once(lambda: bias.astype(dtype), bias)
    values = centred(x, x_zero, dtype)
    if ends is None:
        return np.asarray(conv(values, weights, added, **attributes)), bound
    parts = []
    for a, b in pairwise(ends):
        kernel = made_once(partial(_channels, weights, a, b), weights)
        parts.append(np.asarray(conv(values[:, a:b], kernel, None if a else added, **attributes)))
    return _added(parts, np.float64), bound


def _channels(weights: np.ndarray, first: int, stop: int) -> np.ndarray:
    return weights[:, first:stop].copy()


@graph_op("onnx.ConvInteger", types=gives("int32"))
def _conv_integer(
    x: Any, w: Any, x_zero: Any = None, w_zero: Any = None, *, auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None,
    dilations: Any = None, group: int = 1, kernel_shape: Any = None,
) -> Any:  # fmt: skip
    """The padding stands for zero, which is the zero point."""
    x, w = plain("ConvInteger", x, w)
    zeros = [zero_of("ConvInteger", z) for z in (x_zero, w_zero)]
    window = {
        "auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations, "group": group, "kernel_shape": kernel_shape,
    }  # fmt: skip
    made = kernels.convolved(x, zeros[0], w, zeros[1], Finish(), _limited(x, w, window))
    return _int32(*_convolved(x, zeros[0], w, zeros[1], None, window)) if made is None else made


@graph_op("onnx.QLinearConv", types=gives(7))
def _qlinear_conv(
    x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any, scale: Any, zero: Any, bias: Any = None, *,
    auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None, dilations: Any = None, group: int = 1, kernel_shape: Any = None,
) -> Any:  # fmt: skip
    """bias: int32, in units of x_scale * w_scale."""
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = plain(
        "QLinearConv", x, x_scale, x_zero, w, w_scale, w_zero, scale, zero
    )
    window = {
        "auto_pad": auto_pad, "pads": pads, "strides": strides, "dilations": dilations, "group": group, "kernel_shape": kernel_shape,
    }  # fmt: skip
    added = None if bias is None else plain("QLinearConv", bias)[0]
    if added is not None and added.shape != w.shape[:1]:
        raise FileFormatError(f"QLinearConv: a bias of shape {added.shape} for weights of shape {w.shape}")
    flat = made_once(lambda: np.asarray(x_scale * w_scale.reshape(-1)), x_scale, w_scale)
    finish = kernels.requantised(flat, scale, zero, added)
    made = kernels.convolved(x, x_zero, w, w_zero, finish, _limited(x, w, window))
    if made is not None:
        return made
    sums, _ = _convolved(x, x_zero, w, w_zero, added, window)
    form = (-1, *(1,) * (w.ndim - 2)) if w_scale.size > 1 else ()
    unit = made_once(lambda: np.asarray(x_scale * w_scale.reshape(form)), x_scale, w_scale)
    return _rescaled(sums, unit, scale, zero)


@graph_op("quantised_conv_transpose", types=gives(7))
def _quantised_conv_transpose(
    y: Any, y_scale: Any, y_zero: Any, w: Any, w_scale: Any, w_zero: Any, scale: Any, zero: Any, bias: Any = None, *,
    auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None, dilations: Any = None, group: int = 1, kernel_shape: Any = None,
    output_padding: Any = None, output_shape: Any = None,
) -> Any:  # fmt: skip
    """ConvTranspose between integers, as QLinearConv is Conv: the word for what files hold between DequantizeLinear and QuantizeLinear.

    Scales and zero points along the weights' axis of output channels are each group's.
    """
    what = "a quantised ConvTranspose"
    y, y_scale, y_zero, w, w_scale, w_zero, scale, zero = plain(what, y, y_scale, y_zero, w, w_scale, w_zero, scale, zero)
    added = None if bias is None else plain(what, bias)[0]
    kernel_fits(w, kernel_shape, what)
    window = transposed_window(y.shape, w.shape, auto_pad, pads, strides, dilations, group, output_padding, output_shape)
    limits.check("conv_transpose", [y, w], window, what)
    flat = made_once(lambda: np.asarray(y_scale * _of_groups(w_scale, group)), y_scale, w_scale)
    zeros = made_once(partial(_of_groups, w_zero, group), w_zero)
    made = kernels.deconvolved(y, y_zero, w, zeros, kernels.requantised(flat, scale, zero, added), window)
    if made is not None:
        return made
    each = (1, -1, *(1,) * (w.ndim - 2))
    bound = _span(y) * int(np.abs(centred(w, _along(w_zero, each))).sum(axis=(0, *range(2, w.ndim))).max(initial=0)) * group
    dtype = _floats(bound + largest(added), what)
    weights, values = centred(w, _along(w_zero, each)).astype(dtype), centred(y, y_zero.reshape(())).astype(dtype)
    sums = ops.conv_transpose(values, weights, None if added is None else added.astype(dtype), **window)
    unit = np.asarray(y_scale * _of_groups(w_scale, group).reshape((-1, *(1,) * (w.ndim - 2)) if w_scale.size > 1 else ()))
    return _rescaled(np.asarray(sums), unit, scale, zero)


def _of_groups(values: np.ndarray, groups: int) -> np.ndarray:
    """One number for all output channels; one for each channel of a group as one for each of all groups."""
    return values.reshape(-1) if values.size == 1 else np.tile(values.reshape(-1), groups)


def _along(zero: np.ndarray, form: tuple[int, ...]) -> np.ndarray:
    """A zero point, one for each place of an axis or one for all, beside an array."""
    return zero.reshape(form if zero.size > 1 else ())


# -- matrix products ---------------------------------------------------------------------------------------------------


def _fits(a: np.ndarray, b: np.ndarray, what: str) -> None:
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        raise FileFormatError(f"{what}: shapes {a.shape} and {b.shape} do not belong together")
    limits.check("matmul", [a, b], {}, what)


def _multiplied(
    a: np.ndarray, a_zero: np.ndarray | None, b: np.ndarray, b_zero: np.ndarray | None, what: str
) -> tuple[np.ndarray, int]:
    """The product of (a - a_zero) and (b - b_zero), exact, as floats that hold it, and a bound of its absolute values."""
    rows = (
        None if a_zero is None else a_zero.reshape(()) if a_zero.size == 1 else a_zero[..., None] if a_zero.ndim == 1 else a_zero
    )
    columns = None if b_zero is None else b_zero.reshape(()) if b_zero.size == 1 else b_zero
    here = recorder()
    if here is None or all(here.is_fixed(v) for v in (b, b_zero) if v is not None):
        axis = max(b.ndim - 2, 0)
        bound = _span(a) * int(np.abs(centred(b, columns)).sum(axis=axis).max(initial=0))
    else:  # the weights are computed: what their type allows
        bound = _span(a) * _span(b) * a.shape[-1]
    dtype = _floats(bound, what)
    if here is None or here.is_fixed(b):
        right = made_once(lambda: centred(b, columns).astype(dtype), *(v for v in (b, b_zero) if v is not None))
    else:
        right = centred(b, columns, dtype)
    return np.asarray(ops.matmul(centred(a, rows, dtype), right)), bound


@graph_op("onnx.MatMulInteger", types=gives("int32"))
def _matmul_integer(a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    what = "MatMulInteger"
    a, b = plain(what, a, b)
    zeros = [zero_of(what, z) for z in (a_zero, b_zero)]
    _fits(a, b, what)
    made = kernels.multiplied(a, zeros[0], b, zeros[1], Finish())
    return _int32(*_multiplied(a, zeros[0], b, zeros[1], what)) if made is None else made


@graph_op("onnx.QLinearMatMul", types=gives(7))
def _qlinear_matmul(a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, scale: Any, zero: Any) -> Any:
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = plain(
        "QLinearMatMul", a, a_scale, a_zero, b, b_scale, b_zero, scale, zero
    )
    _fits(a, b, "QLinearMatMul")
    if a_scale.size == 1 and b_scale.ndim <= 1:
        flat = made_once(lambda: np.asarray(a_scale.reshape(()) * b_scale), a_scale, b_scale)
        made = kernels.multiplied(a, a_zero, b, b_zero, kernels.requantised(flat, scale, zero))
        if made is not None:
            return made
    sums, _ = _multiplied(a, a_zero, b, b_zero, "QLinearMatMul")
    left = a_scale[..., None] if a_scale.ndim == 1 and a_scale.size > 1 else a_scale
    return _rescaled(sums, made_once(lambda: np.asarray(left * b_scale), a_scale, b_scale), scale, zero)


@graph_op(
    "onnx.com.microsoft::QGemm", types=lambda attributes, inputs: (inputs[8] if len(inputs) > 8 and inputs[8] else "float32",)
)
def _qgemm(
    a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, c: Any = None, scale: Any = None, zero: Any = None, *,
    alpha: float = 1.0, transA: int = 0, transB: int = 0,
) -> Any:  # fmt: skip
    """alpha (A - a_zero) (B - b_zero) a_scale b_scale, with c (int32) in units of alpha a_scale b_scale; float32 where no scale is given."""
    a, a_scale, a_zero, b, b_scale, b_zero = plain("QGemm", a, a_scale, a_zero, b, b_scale, b_zero)
    if a.ndim != 2 or b.ndim != 2:
        raise FileFormatError(f"QGemm: {a.shape} and {b.shape} are no matrices")
    left, right = (transpose(v, (1, 0)) if swap else v for v, swap in ((a, transA), (b, transB)))
    _fits(left, right, "QGemm")
    given = None if c is None else plain("QGemm", c)[0]
    unit = made_once(lambda: np.asarray(np.float32(alpha) * a_scale * b_scale, np.float32), a_scale, b_scale)
    if unit.ndim <= 1 and scale is not None:
        end, end_zero = plain("QGemm", scale, np.zeros((), a.dtype) if zero is None else zero)
        made = kernels.multiplied(left, a_zero, right, b_zero, kernels.requantised(unit, end, end_zero, given))
        if made is not None:
            return made
    sums, _ = _multiplied(left, a_zero, right, b_zero, "QGemm")
    if given is not None:
        sums = _added([sums, made_once(lambda: given.astype(np.float64), given)], np.float64)
    if scale is None:
        return np.asarray(sums * unit, np.float32)
    return _rescaled(sums, unit, plain("QGemm", scale)[0], np.zeros((), a.dtype) if zero is None else plain("QGemm", zero)[0])


@graph_op("onnx.com.microsoft::MatMulIntegerToFloat", types=gives(2))
def _matmul_integer_to_float(
    a: Any, b: Any, a_scale: Any, b_scale: Any, a_zero: Any = None, b_zero: Any = None, bias: Any = None
) -> Any:
    what = "MatMulIntegerToFloat"
    a, b, a_scale, b_scale = plain(what, a, b, a_scale, b_scale)
    zeros, added = [zero_of(what, z) for z in (a_zero, b_zero)], zero_of(what, bias)
    _fits(a, b, what)
    if a_scale.size == 1 and b_scale.ndim <= 1:
        factor = around.mixed((a_scale.reshape(-1), b_scale.reshape(-1)), (("mul", (0, 1)),), np.float32, np.float32)
        factor = a_scale.reshape(-1) * b_scale if factor is None else factor
        made = kernels.multiplied(a, zeros[0], b, zeros[1], kernels.scaled(factor, added))
        if made is not None:
            return made
    sums = _matmul_integer(a, b, a_zero, b_zero)
    found = sums.astype(a_scale.dtype) * (a_scale * b_scale)
    return found if added is None else found + added


@graph_op("onnx.com.microsoft::DynamicQuantizeMatMul")
def dynamically_multiplied(a: Any, b: Any, b_scale: Any, b_zero: Any = None, bias: Any = None) -> Any:
    """a, quantised over its range, times 8-bit integers b in units of b_scale: one scale and zero point for all columns, or one each."""
    q, scale, zero = dynamically_quantised(plain("DynamicQuantizeMatMul", a)[0])
    return _matmul_integer_to_float(q, b, scale, b_scale, zero, b_zero, bias)
