"""ONNX's elementwise operators as graph ops: NumPy on arrays of any type, our ops on Tensors (so that they differentiate)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.engines import around
from preimage.engines.recording import recorder
from preimage.errors import FileFormatError
from preimage.io.graph import OPS, graph_op
from preimage.io.graph.types import TypeRule, gives
from preimage.io.onnx.model import CODES, dtype_of
from preimage.io.onnx.operators.moving import is_float, recorded, reshape, typed, where

__all__ = ["as_type", "per_channel"]


_BOOL = gives("bool")


def _only_arrays(name: str, function: Callable[..., Any], types: TypeRule | None = None) -> Callable[..., Any]:
    """A function without gradient: Tensors are taken for their arrays."""

    def call(*values: Any, **attributes: Any) -> Any:
        arrays = [v.data if isinstance(v, Tensor) else v for v in values]
        with np.errstate(all="ignore"):
            return function(*arrays, **attributes)

    graph_op(f"onnx.{name}", types=types)(call)
    return call


def _smooth(name: str, function: Callable[..., Any], recorded_function: Callable[..., Any]) -> None:
    """Our op on Tensors and arrays of floats, NumPy on others; both take the same attributes."""

    def call(*values: Any, **attributes: Any) -> Any:
        if recorded(*values) or _ours(*values):
            return recorded_function(*values, **attributes)
        with np.errstate(all="ignore"):
            result = function(*values, **attributes)
        return np.asarray(result, values[0].dtype) if np.asarray(result).dtype != values[0].dtype else np.asarray(result)

    graph_op(f"onnx.{name}")(call)


def _ours(*values: Any) -> bool:
    """Whether all are arrays of one float dtype, which our operations take."""
    return all(isinstance(v, np.ndarray) and v.dtype == values[0].dtype and is_float(v) for v in values)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind != "i" else x


# -- arithmetic --------------------------------------------------------------------------------------------------------


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "iu":  # rounds toward zero; a zero divisor is an error of the model, not a crash
        if not np.all(b):
            raise FileFormatError("Div: division of integers by zero")
        quotient = np.floor_divide(a, b)
        return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype))
    return np.asarray(np.divide(a, b))


def _power(a: Any, b: Any) -> Any:
    """The dtype is that of the base; an exponent may have any other. Integers have no gradient."""
    if is_float(a) and not recorded(b) and b.size == 1 and b.ndim <= a.ndim and b.reshape(()) == 2:
        return ops.square(a)
    if is_float(a) and (recorded(a, b) or is_float(b)):
        return ops.power(a, b if b.dtype == a.dtype else as_type(b, a.dtype))
    b = b.data if isinstance(b, Tensor) else b
    with np.errstate(all="ignore"):
        if a.dtype.kind in "iu" and b.dtype.kind in "iu" and np.any(b < 0):
            return np.power(a.astype(np.float64), b).astype(a.dtype)
        return np.power(a, b).astype(a.dtype)


def _mod(a: np.ndarray, b: np.ndarray, fmod: int = 0) -> np.ndarray:
    if a.dtype.kind in "iu" and not np.all(b):
        raise FileFormatError("Mod: division of integers by zero")
    return np.asarray(np.fmod(a, b) if fmod else np.mod(a, b))


_Rows = tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...]
_ARITHMETIC: _Rows = (
    ("Add", np.add, ops.add),
    ("Sub", np.subtract, ops.subtract),
    ("Mul", np.multiply, ops.multiply),
    ("Div", _divide, ops.divide),
)
for _name, _numpy, _op in _ARITHMETIC:
    _smooth(_name, _numpy, _op)
graph_op("onnx.Pow")(_power)
_only_arrays("Mod", _mod)


def _variadic(name: str, function: Callable[[Any, Any], Any], op: Callable[[Any, Any], Any], mean: bool = False) -> None:
    def call(*values: Any) -> Any:
        if not values:
            raise FileFormatError(f"{name} needs an input")
        differentiable = recorded(*values)
        ours = differentiable or _ours(*values)
        total = reduce(op if ours else function, values)
        if not mean:
            return total
        if differentiable:
            return total * (1.0 / len(values))
        count = np.asarray(len(values), total.dtype)
        return ops.divide(total, count) if ours else total / count

    graph_op(f"onnx.{name}")(call)


_variadic("Sum", np.add, ops.add)
_variadic("Mean", np.add, ops.add, mean=True)
_variadic("Max", np.maximum, ops.maximum)
_variadic("Min", np.minimum, ops.minimum)

# -- functions of one value --------------------------------------------------------------------------------------------

_FUNCTIONS: _Rows = (
    ("Abs", np.abs, ops.abs),
    ("Neg", np.negative, ops.negative),
    ("Exp", np.exp, ops.exp),
    ("Log", np.log, ops.log),
    ("Sqrt", np.sqrt, ops.sqrt),
    ("Tanh", np.tanh, ops.tanh),
    ("Reciprocal", np.reciprocal, ops.reciprocal),
    ("Sigmoid", ops.sigmoid, ops.sigmoid),
    ("Softplus", ops.softplus, ops.softplus),
    ("Erf", ops.erf, ops.erf),
    ("Sign", np.sign, ops.sign),
    ("Sin", np.sin, ops.sin),
    ("Cos", np.cos, ops.cos),
    ("Tan", np.tan, ops.tan),
    ("Asin", np.arcsin, ops.arcsin),
    ("Acos", np.arccos, ops.arccos),
    ("Atan", np.arctan, ops.arctan),
    ("Sinh", np.sinh, ops.sinh),
    ("Cosh", np.cosh, ops.cosh),
    ("Asinh", np.arcsinh, ops.arcsinh),
    ("Acosh", np.arccosh, ops.arccosh),
    ("Atanh", np.arctanh, ops.arctanh),
    ("Softsign", lambda x: x / (1 + np.abs(x)), ops.softsign),
    ("Mish", lambda x: x * np.tanh(np.logaddexp(0, x)), ops.mish),
)
for _name, _numpy, _op in _FUNCTIONS:
    _smooth(_name, _numpy, _op)

_KEEPING = {
    "Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor, "BitwiseNot": np.invert,
}  # fmt: skip
_ANSWERS = {
    "Not": np.logical_not, "IsNaN": np.isnan, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor, "Equal": np.equal,
    "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
}  # fmt: skip
#: What kernels have for large arrays of floats, to the same bits.
_WORDS = {
    "Floor": "floor", "Ceil": "ceil", "Round": "round", "Not": "not",
    "IsNaN": "is_nan", "And": "and", "Or": "or", "Xor": "xor", "Equal": "equal", "Less": "less", "LessOrEqual": "less_equal",
    "Greater": "greater", "GreaterOrEqual": "greater_equal",
}  # fmt: skip


def _generated(name: str, function: Callable[..., Any], answers: bool) -> Callable[..., Any]:
    """A function of arrays, by a kernel where one takes them."""
    word = _WORDS.get(name, "")

    def call(*values: Any) -> np.ndarray:
        dtype = values[0].dtype
        if word and answers and all(v.dtype == dtype for v in values) and (dtype.kind == "b" or dtype in _WIDE):
            made = around.mixed(values, ((word, tuple(range(len(values)))),), np.float32 if dtype.kind == "b" else dtype, bool)
        elif word and not answers and dtype in _WIDE:
            made = around.pointwise(word, *values)
        else:
            made = None
        return np.asarray(function(*values)) if made is None else made

    return call


_WIDE = (np.dtype(np.float32), np.dtype(np.float64))
for _table, _types in ((_KEEPING, None), (_ANSWERS, _BOOL)):
    for _name, _function in _table.items():
        _only_arrays(_name, _generated(_name, _function, _types is not None), _types)


def _is_inf(x: np.ndarray, detect_positive: int = 1, detect_negative: int = 1) -> np.ndarray:
    return (np.isposinf(x) & bool(detect_positive)) | (np.isneginf(x) & bool(detect_negative))


_only_arrays("IsInf", _is_inf, _BOOL)


@graph_op("onnx.Identity")
def _identity(x: Any) -> Any:
    return x


@graph_op("onnx.Relu")
def _relu(x: Any) -> Any:
    return ops.relu(x) if is_float(x) else np.maximum(x, 0).astype(x.dtype)


@graph_op("onnx.LeakyRelu")
def _leaky_relu(x: Any, alpha: float = 0.01) -> Any:
    return ops.leaky_relu(x, alpha)


@graph_op("onnx.Where", types=gives(1))
def _where(condition: Any, a: Any, b: Any) -> Any:
    return where(condition.data if isinstance(condition, Tensor) else condition, a, b)


def _zero_like(x: Any) -> np.ndarray:
    return np.zeros((), x.dtype)


@graph_op("onnx.Elu")
def _elu(x: Any, alpha: float = 1.0) -> Any:
    return ops.elu(x, alpha)


@graph_op("onnx.Selu")
def _selu(x: Any, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Any:
    return typed(ops.multiply(ops.elu(x, alpha), gamma), x)


@graph_op("onnx.Celu")
def _celu(x: Any, alpha: float = 1.0) -> Any:
    return typed(ops.multiply(ops.elu(ops.divide(x, alpha), 1.0), alpha), x)


@graph_op("onnx.Gelu")
def _gelu(x: Any, approximate: Literal["none", "tanh"] = "none") -> Any:
    return ops.gelu(x, approximate=approximate)


@graph_op("onnx.HardSigmoid")
def _hard_sigmoid(x: Any, alpha: float = 0.2, beta: float = 0.5) -> Any:
    return typed(ops.clip(x * alpha + beta, 0.0, 1.0), x)


@graph_op("onnx.HardSwish")
def _hard_swish(x: Any) -> Any:
    return typed(x * ops.clip(x * (1.0 / 6.0) + 0.5, 0.0, 1.0), x)


@graph_op("onnx.Swish")
def _swish(x: Any, alpha: float = 1.0) -> Any:
    return typed(ops.multiply(x, ops.sigmoid(ops.multiply(x, alpha))), x)


@graph_op("onnx.ThresholdedRelu")
def _thresholded_relu(x: Any, alpha: float = 1.0) -> Any:
    data = x.data if isinstance(x, Tensor) else x
    return _where(data > alpha, x, _zero_like(data))


@graph_op("onnx.Shrink")
def _shrink(x: Any, lambd: float = 0.5, bias: float = 0.0) -> Any:
    data = x.data if isinstance(x, Tensor) else x
    low = _where(data < -lambd, typed(x + bias, x), _zero_like(data))
    return _where(data > lambd, typed(x - bias, x), low)


def per_channel(x: Sequence[Any], slope: Sequence[Any], opset: int) -> bool:
    """Whether a slope of this shape is one per channel: as opset 6 has it, and files of MXNet of every opset, where it fits in no other way."""
    if len(slope) != 1 or len(x) < 3:
        return False
    return opset < 7 or (slope[0] != 1 and slope[0] != x[-1] and slope[0] == x[1])


@graph_op("onnx.PRelu")
def _prelu(x: Any, slope: Any, *, opset: int = 7) -> Any:
    if per_channel(x.shape, slope.shape, opset):
        slope = reshape(slope, (-1,) + (1,) * (x.ndim - 2))
    zero = _zero_like(x)
    if recorded(x, slope):
        return ops.maximum(x, zero) + slope * ops.minimum(x, zero)
    made = around.chain((x, slope), _PRELU, (0.0,)) if _ours(x, slope) and _fits(slope, x) else None
    return np.where(x < 0, slope * x, x).astype(x.dtype) if made is None else made[0]


def _fits(slope: Any, x: Any) -> bool:
    """Whether the slope broadcasts to x alone."""
    return bool(np.broadcast_shapes(slope.shape, x.shape) == x.shape)


#: Of x, the slope and 0.
_PRELU = (("mul", (1, 0)), ("less", (0, 2)), ("where", (4, 3, 0)))


@graph_op("onnx.Clip")
def _clip(x: Any, low: Any = None, high: Any = None, *, min: float | None = None, max: float | None = None) -> Any:
    low = min if low is None else (low.data if isinstance(low, Tensor) else low)
    high = max if high is None else (high.data if isinstance(high, Tensor) else high)
    if np.size(low) != 1 or np.size(high) != 1:
        raise FileFormatError(f"Clip: the bounds must be single values, got shapes {np.shape(low)} and {np.shape(high)}")
    bounds = [_bound(b, x) for b in (low, high)]
    if recorded(x):
        return ops.clip(x, *bounds)
    # np.minimum(np.maximum()) as the definition says: where low > high the result is high
    result = x if bounds[0] is None else _bounded("maximum", np.maximum, x, bounds[0])
    result = result if bounds[1] is None else _bounded("minimum", np.minimum, result, bounds[1])
    return result.copy() if result is x else result


def _bound(bound: Any, x: Any) -> Any:
    """A bound as a number; for a recorder one that may change as it is, where kernels read it."""
    here = recorder()
    if isinstance(bound, np.ndarray) and here is not None and not here.is_fixed(bound):
        if isinstance(x, np.ndarray) and x.dtype in _WIDE and bound.dtype == x.dtype:
            return bound.reshape(())
        here.lost("bounds that change are read")
    return None if bound is None else np.asarray(bound).reshape(()).item()


def _bounded(word: str, function: Any, x: Any, bound: Any) -> Any:
    made = None
    if isinstance(bound, np.ndarray):
        made = around.pointwise(word, x, bound)
    elif x.dtype in _WIDE:
        made = around.pointwise(word, x, numbers=(bound,))
    return function(x, np.asarray(bound, x.dtype)) if made is None else made


@graph_op("onnx.Dropout", types=gives(0, "bool"))
def _dropout(
    x: Any, ratio_input: Any = None, training_mode: Any = None, *, outputs: int = 1, seed: int = 0, ratio: float = 0.5
) -> Any:
    if training_mode is None or not np.any(training_mode):
        return (x, np.ones(np.shape(x), bool)) if outputs > 1 else x
    share = ratio if ratio_input is None else float(np.asarray(ratio_input).reshape(-1)[0])
    if not 0 <= share < 1:
        raise FileFormatError(f"Dropout: ratio {share}")
    mask = np.random.RandomState(seed).uniform(0, 1, np.shape(x)) >= share
    y = typed(x * typed(mask * np.asarray(1 / (1 - share), x.dtype), x), x)
    return (y, mask) if outputs > 1 else y


def as_type(x: Any, dtype: np.dtype[Any]) -> Any:
    """x in another dtype; a Tensor stays one where the dtype is float."""
    if isinstance(x, Tensor):
        if x.dtype == dtype:
            return x
        if dtype.kind == "f" or dtype.name == "bfloat16":
            return ops.astype(x, dtype)
        x = x.data
    if x.dtype.kind not in "fiubV" and x.dtype.name != "bfloat16":
        raise FileFormatError(f"Cast from {x.dtype} is not supported")
    with np.errstate(all="ignore"):
        if x.dtype.kind == "f" and dtype.kind == "u":
            return x.astype(np.int64).astype(dtype)  # wraps as a C conversion does
        made = around.cast(x, dtype) if dtype.kind == "f" or dtype.name == "bfloat16" else None
        return x.astype(dtype) if made is None else made


@graph_op("onnx.Cast", types=lambda attributes, _: (CODES.get(attributes["to"]),))
def _cast(x: Any, to: int, saturate: int = 1, round_mode: str = "up") -> Any:
    return as_type(x, dtype_of(to, "Cast"))


@graph_op("onnx.CastLike", types=gives(1))
def _cast_like(x: Any, target: Any, saturate: int = 1, round_mode: str = "up") -> Any:
    return as_type(x, np.dtype(target.dtype))


@graph_op("onnx.OldBroadcast", types=lambda attributes, inputs: OPS[f"onnx.{attributes['op']}"].types({}, inputs))
def _old_broadcast(a: Any, b: Any, *, op: str, axis: int) -> Any:
    """An arithmetic op of opset 6 with broadcast=1: the axes of b lie at `axis` of a."""
    behind = a.ndim - b.ndim - (axis % a.ndim)
    if behind < 0:
        raise FileFormatError(f"{op}: {b.shape} does not lie at axis {axis} of {a.shape}")
    return OPS[f"onnx.{op}"].function(a, reshape(b, (*b.shape, *(1,) * behind)))
