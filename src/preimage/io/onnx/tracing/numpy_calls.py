"""What NumPy computes on arrays that are written down: masks, indices, and the arithmetic on them, as ONNX's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.autograd import array_of
from preimage.autograd.traced import plain
from preimage.io.onnx.tracing.rows import DTYPE_CODES, expanded
from preimage.ops.operands import axes_of

if TYPE_CHECKING:
    from preimage.io.onnx.tracing.recorder import Recorder

__all__ = ["FUNCTIONS", "written_ufunc"]

#: Universal functions whose arguments have one dtype.
_UFUNCS: dict[Any, str] = {
    np.add: "Add", np.subtract: "Sub", np.multiply: "Mul", np.divide: "Div", np.maximum: "Max", np.minimum: "Min", np.power: "Pow",
    np.negative: "Neg", np.absolute: "Abs", np.exp: "Exp", np.log: "Log", np.sqrt: "Sqrt", np.reciprocal: "Reciprocal", np.sign: "Sign",
    np.floor: "Floor", np.ceil: "Ceil", np.rint: "Round", np.sin: "Sin", np.cos: "Cos", np.tan: "Tan", np.arcsin: "Asin", np.arccos: "Acos",
    np.arctan: "Atan", np.sinh: "Sinh", np.cosh: "Cosh", np.tanh: "Tanh", np.arcsinh: "Asinh", np.arccosh: "Acosh", np.arctanh: "Atanh",
    np.matmul: "MatMul", np.isnan: "IsNaN", np.isinf: "IsInf",
    np.greater: "Greater", np.greater_equal: "GreaterOrEqual", np.less: "Less", np.less_equal: "LessOrEqual", np.equal: "Equal",
}  # fmt: skip
#: Those on booleans.
_LOGIC: dict[Any, str] = {
    np.logical_and: "And", np.bitwise_and: "And", np.logical_or: "Or", np.bitwise_or: "Or", np.logical_xor: "Xor", np.bitwise_xor: "Xor",
    np.logical_not: "Not", np.invert: "Not",
}  # fmt: skip
_REDUCE: dict[Any, str] = {np.add: "ReduceSum", np.multiply: "ReduceProd", np.maximum: "ReduceMax", np.minimum: "ReduceMin"}


def _typed(w: Recorder, value: Any, dtype: np.dtype[Any]) -> str:
    """A value in this dtype."""
    array = array_of(value)
    known = w.known(value) if isinstance(array, np.ndarray) else None
    if known is None:
        return w.constant(array, dtype)
    made: str = known if array.dtype == dtype else w.put("onnx.Cast", known, to=DTYPE_CODES[dtype.name])
    return made


def written_ufunc(
    w: Recorder, ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any], result: np.ndarray
) -> str | None:
    """The name of what a universal function makes; None where there is no word."""
    options = {k: v for k, v in options.items() if k == "axis" or (k not in ("out", "casting", "subok") and not _unsaid(k, v))}
    values = [plain(array_of(v)) for v in inputs]
    if method == "reduce":
        return _reduced(w, ufunc, inputs[0], options, result)
    if method != "__call__" or options or result.dtype.name not in DTYPE_CODES:
        return None
    if ufunc in _LOGIC and result.dtype == bool and all(np.asarray(v).dtype == bool for v in values):
        return str(w.put(f"onnx.{_LOGIC[ufunc]}", *(_typed(w, v, np.dtype(bool)) for v in inputs)))
    dtype = np.result_type(*values) if result.dtype == bool else result.dtype
    if dtype.name not in DTYPE_CODES:
        return None
    names = [_typed(w, v, dtype) for v in inputs]
    if ufunc in _UFUNCS:
        return w.put(f"onnx.{_UFUNCS[ufunc]}", *names)
    row = _CHAINS.get(ufunc)
    return None if row is None else row(w, dtype, *names)


def _unsaid(key: str, value: Any) -> bool:
    """Whether an option is what it is without being given."""
    return value is None or value is np._NoValue or (key == "where" and value is True)


def _reduced(w: Recorder, ufunc: np.ufunc, x: Any, options: dict[str, Any], result: np.ndarray) -> str | None:
    axis = options.get("axis", 0)
    array = array_of(x)
    plainly = set(options) <= {"axis", "keepdims", "dtype"} and ufunc in _REDUCE
    if not plainly or not isinstance(array, np.ndarray) or not array.ndim or (array.dtype == bool and ufunc is not np.add):
        return None
    if array.dtype.kind in "iu" and ufunc in (np.maximum, np.minimum):
        return None  # that looks whether indices fit
    axes = axes_of(axis, array.ndim, ufunc.__name__)
    return w.put(f"onnx.{_REDUCE[ufunc]}", _typed(w, x, result.dtype), w.ints(*axes), keepdims=int(bool(options.get("keepdims"))))


def _not_equal(w: Recorder, dtype: np.dtype[Any], a: str, b: str) -> str:
    return w.put("onnx.Not", w.put("onnx.Equal", a, b))


def _is_finite(w: Recorder, dtype: np.dtype[Any], x: str) -> str:
    return w.put("onnx.Not", w.put("onnx.Or", w.put("onnx.IsNaN", x), w.put("onnx.IsInf", x)))


def _floor_divide(w: Recorder, dtype: np.dtype[Any], a: str, b: str) -> str | None:
    return None if dtype.kind != "f" else w.put("onnx.Floor", w.put("onnx.Div", a, b))


def _remainder(w: Recorder, dtype: np.dtype[Any], a: str, b: str) -> str | None:
    if dtype.kind != "f":
        return w.put("onnx.Mod", a, b)
    return str(w.put("onnx.Sub", a, w.put("onnx.Mul", w.put("onnx.Floor", w.put("onnx.Div", a, b)), b)))


_CHAINS: dict[Any, Callable[..., str | None]] = {
    np.not_equal: _not_equal, np.isfinite: _is_finite, np.floor_divide: _floor_divide, np.remainder: _remainder,
    np.square: lambda w, dtype, x: w.put("onnx.Mul", x, x), np.positive: lambda w, dtype, x: x,
}  # fmt: skip


# -- other functions ---------------------------------------------------------------------------------------------------


def _where(w: Recorder, result: np.ndarray, condition: Any, a: Any = None, b: Any = None) -> str | None:
    if a is None or b is None:
        return None
    return w.put("onnx.Where", _typed(w, condition, np.dtype(bool)), _typed(w, a, result.dtype), _typed(w, b, result.dtype))


def _arg(word: str) -> Callable[..., str | None]:
    def row(w: Recorder, result: np.ndarray, a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> str | None:
        if out is not None:
            return None
        name = w.name(a)
        if axis is None:
            name = w.put("onnx.Reshape", name, w.ints(-1))
            found = w.put(f"onnx.{word}", name, axis=0, keepdims=0)
            return w.put("onnx.Reshape", found, w.ints(*[1] * array_of(a).ndim)) if keepdims is True else found
        return w.put(f"onnx.{word}", name, axis=int(axis), keepdims=int(keepdims is True))

    return row


def _clip(w: Recorder, result: np.ndarray, a: Any, a_min: Any = None, a_max: Any = None, **options: Any) -> str | None:
    if options:
        return None
    name = _typed(w, a, result.dtype)
    for word, bound in (("Max", a_min), ("Min", a_max)):
        name = name if bound is None else w.put(f"onnx.{word}", name, _typed(w, bound, result.dtype))
    return name


def _count_nonzero(w: Recorder, result: np.ndarray, a: Any, axis: Any = None, *, keepdims: bool = False) -> str | None:
    array = array_of(a)
    axes = axes_of(axis, array.ndim, "count_nonzero")
    zero = w.constant(0, array.dtype)
    mask = w.name(a) if array.dtype == bool else w.put("onnx.Not", w.put("onnx.Equal", w.name(a), zero))
    return w.put("onnx.ReduceSum", w.put("onnx.Cast", mask, to=DTYPE_CODES["int64"]), w.ints(*axes), keepdims=int(keepdims))


def _reduction(word: str) -> Callable[..., str | None]:
    def row(w: Recorder, result: np.ndarray, a: Any, axis: Any = None, *, keepdims: Any = False, **options: Any) -> str | None:
        array = array_of(a)
        if any(not _unsaid(k, v) for k, v in options.items()) or not array.ndim:
            return None
        axes = axes_of(axis, array.ndim, word)
        return w.put(f"onnx.{word}", _typed(w, a, result.dtype), w.ints(*axes), keepdims=int(keepdims is True))

    return row


def _norm(w: Recorder, result: np.ndarray, x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> str | None:
    word = {None: "ReduceL2", 2: "ReduceL2", 1: "ReduceL1"}.get(ord)
    flat = ord is None and (axis is None or not isinstance(axis, tuple) or len(axis) <= 2)
    if word is None or not (flat or isinstance(axis, int) or array_of(x).ndim == 1):
        return None  # norms of matrices
    return _reduction(word)(w, result, x, axis, keepdims=keepdims)


def _einsum(w: Recorder, result: np.ndarray, subscripts: Any, *operands: Any, **options: Any) -> str | None:
    if not isinstance(subscripts, str) or options.keys() - {"optimize"}:
        return None
    return w.put("onnx.Einsum", *(_typed(w, v, result.dtype) for v in operands), equation=subscripts)


def _cumsum(w: Recorder, result: np.ndarray, a: Any, axis: Any = None, **options: Any) -> str | None:
    if axis is None or options:
        return None
    return w.put("onnx.CumSum", _typed(w, a, result.dtype), w.constant(int(axis), np.int64))


def _take_along_axis(w: Recorder, result: np.ndarray, arr: Any, indices: Any, axis: Any = -1) -> str | None:
    given, wanted = (array_of(v).shape for v in (arr, indices))
    if axis is None or any(n != m for k, (n, m) in enumerate(zip(given, wanted, strict=True)) if k != axis % len(given)):
        return None
    return w.put("onnx.GatherElements", w.name(arr), _typed(w, indices, np.dtype(np.int64)), axis=int(axis))


def _take(w: Recorder, result: np.ndarray, a: Any, indices: Any, axis: Any = None, **options: Any) -> str | None:
    return (
        None
        if axis is None or options
        else w.put("onnx.Gather", w.name(a), _typed(w, indices, np.dtype(np.int64)), axis=int(axis))
    )


def _reshape(w: Recorder, result: np.ndarray, a: Any, *_: Any, order: str = "C", **options: Any) -> str | None:
    return None if order != "C" else w.put("reshape", w.name(a), target=result.shape)


def _transpose(w: Recorder, result: np.ndarray, a: Any, axes: Any = None) -> str:
    order = tuple(reversed(range(result.ndim))) if axes is None else tuple(int(k) % result.ndim for k in axes)
    return w.put("transpose", w.name(a), axes=order)


def _swapaxes(w: Recorder, result: np.ndarray, a: Any, axis1: int, axis2: int) -> str:
    order = list(range(result.ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return w.put("transpose", w.name(a), axes=tuple(order))


def _concatenate(w: Recorder, result: np.ndarray, arrays: Any, axis: int = 0, **options: Any) -> str | None:
    if options or axis is None:
        return None
    return w.put("onnx.Concat", *(_typed(w, v, result.dtype) for v in arrays), axis=int(axis))


def _stack(w: Recorder, result: np.ndarray, arrays: Any, axis: int = 0, **options: Any) -> str | None:
    if options:
        return None
    at = w.ints(int(axis) % result.ndim)
    parts = [w.put("onnx.Unsqueeze", _typed(w, v, result.dtype), at) for v in arrays]
    return w.put("onnx.Concat", *parts, axis=int(axis))


def _broadcast_to(w: Recorder, result: np.ndarray, array: Any, *_: Any, **options: Any) -> str:
    return expanded(w, w.name(array), array_of(array).shape, result.shape)


FUNCTIONS: dict[Any, Callable[..., str | None]] = {
    np.where: _where, np.argmax: _arg("ArgMax"), np.argmin: _arg("ArgMin"), np.clip: _clip, np.count_nonzero: _count_nonzero,
    np.reshape: _reshape, np.ravel: _reshape, np.expand_dims: _reshape, np.squeeze: _reshape, np.transpose: _transpose,
    np.sum: _reduction("ReduceSum"), np.mean: _reduction("ReduceMean"), np.prod: _reduction("ReduceProd"),
    np.max: _reduction("ReduceMax"), np.amax: _reduction("ReduceMax"), np.min: _reduction("ReduceMin"), np.amin: _reduction("ReduceMin"),
    np.linalg.norm: _norm, np.einsum: _einsum, np.cumsum: _cumsum, np.take_along_axis: _take_along_axis, np.take: _take,
    np.swapaxes: _swapaxes, np.concatenate: _concatenate, np.stack: _stack, np.broadcast_to: _broadcast_to,
}  # fmt: skip
