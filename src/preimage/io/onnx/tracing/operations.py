"""Arithmetic, functions of one value, reductions and movement as words: see `rows`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.autograd import array_of
from preimage.io.onnx.tracing.indexing import written_index
from preimage.io.onnx.tracing.rows import FUNCTIONS, OPERATIONS, Names, Row, cast_to, expanded, like, of_one_dtype, row
from preimage.ops.operands import axes_of

if TYPE_CHECKING:
    from preimage.io.onnx.tracing.recorder import Recorder

__all__: list[str] = []

#: Operations whose arguments are a word's inputs, and their parameters its attributes.
_SAME = {
    "abs": "abs", "add": "add", "divide": "div", "exp": "exp", "log": "log", "matmul": "matmul", "maximum": "maximum", "minimum": "minimum",
    "mish": "mish", "multiply": "mul", "negative": "neg", "reciprocal": "reciprocal", "relu": "relu", "rsqrt": "rsqrt", "sigmoid": "sigmoid",
    "silu": "swish", "softsign": "softsign", "sqrt": "sqrt", "square": "square", "subtract": "sub", "tanh": "tanh", "hardswish": "hard_swish",
    "clip": "clip", "hardtanh": "clip", "hardsigmoid": "hard_sigmoid", "softplus": "softplus", "leaky_relu": "leaky_relu",
    "softmax": "softmax", "log_softmax": "log_softmax", "concat": "concat", "transpose": "transpose", "gelu": "gelu",
    "sin": "onnx.Sin", "cos": "onnx.Cos", "sign": "onnx.Sign", "erf": "onnx.Erf", "power": "onnx.Pow",
    "tan": "onnx.Tan", "sinh": "onnx.Sinh", "cosh": "onnx.Cosh", "arcsin": "onnx.Asin", "arccos": "onnx.Acos", "arctan": "onnx.Atan",
    "arcsinh": "onnx.Asinh", "arccosh": "onnx.Acosh", "arctanh": "onnx.Atanh",
}  # fmt: skip


def _same(word: str) -> Row:
    return lambda w, *args, **params: w.put(word, *of_one_dtype(w, args), **params)


OPERATIONS.update({name: _same(word) for name, word in _SAME.items()})


# -- element by element ------------------------------------------------------------------------------------------------

OPERATIONS.update(
    {
        "gelu_tanh": lambda w, x: w.put("gelu", w.name(x), approximate="tanh"),
        "expm1": lambda w, x: w.put("sub", w.put("exp", w.name(x)), like(w, 1.0, x)),
        "log1p": lambda w, x: w.put("log", w.put("add", w.name(x), like(w, 1.0, x))),
        "power_number": lambda w, x, exponent: w.put("onnx.Pow", w.name(x), like(w, exponent, x)),
        "select": lambda w, a, b, condition: w.put("onnx.Where", w.name(condition), *of_one_dtype(w, (a, b))),
        "astype": lambda w, x, dtype: cast_to(w, x, dtype),
    }
)


@row(OPERATIONS, "elu")
def _elu(w: Recorder, x: Any, alpha: float, inner: float, scale: float) -> Names:
    if scale != 1:  # of all elus that are scaled there is one
        return w.put("selu", w.name(x))
    return w.put("elu", w.name(x), alpha=alpha) if inner == 1 else w.put("celu", w.name(x), alpha=alpha)


@row(OPERATIONS, "normal_cdf")
def _normal_cdf(w: Recorder, x: Any) -> Names:
    error = w.put("onnx.Erf", w.put("mul", w.name(x), like(w, math.sqrt(0.5), x)))
    return w.put("mul", w.put("add", error, like(w, 1.0, x)), like(w, 0.5, x))


@row(FUNCTIONS, "prelu")
def _prelu(w: Recorder, x: Any, weight: Any) -> Names:
    return w.put("prelu", w.name(x), w.name(weight)) if array_of(weight).ndim == 1 and array_of(x).ndim > 1 else None


# -- sums, means, extremes, products -----------------------------------------------------------------------------------


def _reduction(word: str) -> Row:
    def reduce(w: Recorder, x: Any, axis: Any, keepdims: bool) -> Names:
        if not axis:  # over none: ONNX would take all
            return w.put("onnx.ReduceSum", w.name(x), w.ints(), noop_with_empty_axes=1)
        return w.put(f"onnx.{word}", w.name(x), w.ints(*axis), keepdims=int(keepdims))

    return reduce


OPERATIONS.update({
    "sum": _reduction("ReduceSum"), "mean": _reduction("ReduceMean"), "max": _reduction("ReduceMax"), "min": _reduction("ReduceMin"),
    "logsumexp": _reduction("ReduceLogSumExp"),
})  # fmt: skip


@row(FUNCTIONS, "prod")
def _prod(w: Recorder, x: Any, axis: Any, keepdims: bool) -> Names:
    axes = axes_of(axis, array_of(x).ndim, "prod")
    return w.put("onnx.ReduceProd", w.name(x), w.ints(*axes), keepdims=int(keepdims)) if axes else None


@row(FUNCTIONS, "std")
def _std(w: Recorder, x: Any, axis: Any, keepdims: bool, correction: float) -> Names:
    """The root of the variance, whose slope is 0 where it is 0: as `ops.std`, which looks whether there is such a place."""
    array = array_of(x)
    if array.dtype.itemsize == 2 or not array.ndim:
        return None
    axes = axes_of(axis, array.ndim, "std")
    along, centred = w.ints(*axes), w.name(x)
    for _ in range(2):  # the second takes off what rounding left of a large mean
        centred = w.put("sub", centred, w.put("onnx.ReduceMean", centred, along))
    squares, how = w.put("square", centred), {"keepdims": int(bool(keepdims))}
    if correction:
        count = math.prod(array.shape[k] for k in axes)
        total = w.put("onnx.ReduceSum", squares, along, **how)
        spread = w.put("div", total, like(w, max(count - float(correction), 0.0), x))
    else:
        spread = w.put("onnx.ReduceMean", squares, along, **how)
    flat, zero = w.put("onnx.Equal", spread, like(w, 0.0, x)), like(w, 0.0, x)
    root = w.put("sqrt", w.put("onnx.Where", flat, like(w, 1.0, x), spread))
    return w.put("onnx.Where", flat, zero, root)


@row(OPERATIONS, "sum_to")
def _sum_to(w: Recorder, x: Any, shape: tuple[int, ...]) -> Names:
    given = array_of(x).shape
    extra = len(given) - len(shape)
    axes = [*range(extra), *(extra + k for k, n in enumerate(shape) if n != given[extra + k])]
    summed = w.put("onnx.ReduceSum", w.name(x), w.ints(*axes), keepdims=1)
    return w.put("onnx.Squeeze", summed, w.ints(*range(extra))) if extra else summed


# -- moving ------------------------------------------------------------------------------------------------------------

OPERATIONS["getitem"] = written_index


@row(OPERATIONS, "reshape")
def _reshape(w: Recorder, x: Any, shape: tuple[int, ...]) -> Names:
    return w.put("reshape", w.name(x), target=tuple(shape))


@row(OPERATIONS, "broadcast_to")
def _broadcast_to(w: Recorder, x: Any, shape: tuple[int, ...]) -> Names:
    return expanded(w, w.name(x), array_of(x).shape, shape)


_PAD = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@row(OPERATIONS, "pad")
def _pad(w: Recorder, x: Any, pairs: Sequence[tuple[int, int]], mode: str, value: float) -> Names:
    """A margin that reflects more than there is, which ONNX does not say, is gathered."""
    made, left = w.name(x), list(pairs)
    for axis, (n, (lo, hi)) in enumerate(zip(array_of(x).shape, pairs, strict=True)):
        if mode == "reflect" and max(lo, hi) >= n:
            period = max(2 * (n - 1), 1)
            places = np.abs((np.arange(-lo, n + hi) + n - 1) % period - (n - 1))
            made, left[axis] = w.put("onnx.Gather", made, w.constant(places, np.int64), axis=axis), (0, 0)
    if left != list(pairs) and not any(any(pair) for pair in left):
        return made
    amounts = w.ints(*(lo for lo, _ in left), *(hi for _, hi in left))
    fill = [like(w, value, x)] if mode == "zeros" else []
    return w.put("onnx.Pad", made, amounts, *fill, mode=_PAD[mode])


@row(OPERATIONS, "fold_margin")
def _fold_margin(w: Recorder, y: Any, shape: tuple[int, ...], pairs: Sequence[tuple[int, int]], mode: str) -> Names:
    """What lies in a margin is cut off, laid where it was copied from, and added, one axis after the other from the last."""
    value = w.name(y)
    for axis in reversed(range(len(shape))):
        (lo, hi), n = pairs[axis], shape[axis]
        if not (lo or hi):
            continue
        if mode != "zeros" and (min(lo, hi) < 0 or max(lo, hi) > n - (mode == "reflect")):
            return None
        whole, value = value, _part(w, value, axis, max(lo, 0), n + lo - max(-hi, 0))
        if mode == "zeros":
            value = _laid(w, y, value, len(shape), axis, max(-lo, 0), max(-hi, 0))
            continue
        for count, start, at in ((lo, 0, (0, n - lo, 1)), (hi, lo + n, (n - 1, 0, n - 1 - hi))):
            if not count:
                continue
            margin = _part(w, whole, axis, start, start + count)
            if mode == "replicate":
                margin, place, width = w.put("onnx.ReduceSum", margin, w.ints(axis), keepdims=1), at[0], 1
            else:
                margin = _reversed(w, margin, axis) if mode == "reflect" else margin
                place, width = at[1 if mode == "circular" else 2], count
            value = w.put("add", value, _laid(w, y, margin, len(shape), axis, place, n - place - width))
    return value


def _part(w: Recorder, value: str, axis: int, start: int, stop: int) -> str:
    return w.put("slice_axis", value, axis=axis, start=start, stop=stop)


def _reversed(w: Recorder, value: str, axis: int) -> str:
    return w.put("onnx.Slice", value, w.ints(-1), w.ints(np.iinfo(np.int64).min), w.ints(axis), w.ints(-1))


def _laid(w: Recorder, x: Any, value: str, ndim: int, axis: int, before: int, behind: int) -> str:
    """A value between zeros of the dtype of x."""
    amounts = [0] * (2 * ndim)
    amounts[axis], amounts[ndim + axis] = before, behind
    return w.put("onnx.Pad", value, w.ints(*amounts), like(w, 0.0, x), mode="constant")
