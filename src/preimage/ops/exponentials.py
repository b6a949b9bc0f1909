"""Softmax and its relatives: exponentials over lines, by one generated kernel where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, primitive
from preimage.engines import around
from preimage.ops.broadcast import broadcast_to, widely
from preimage.ops.operands import Array, Axes, axes_of, axis_of, flag_of, narrow, operand, widened
from preimage.ops.pointwise import exp, multiply, select, subtract
from preimage.ops.reduce import kept_shape
from preimage.ops.reduce import sum as sum_over
from preimage.ops.shape import reshape
from preimage.typing import Operand, Value

__all__ = ["log_softmax", "logsumexp", "softmax"]

AxisTuple = tuple[int, ...]


def _shift(x: Array, axis: AxisTuple) -> Array:
    """The maximum that is taken off before exponentials; 0 where it is infinite, so that no infinity meets its like."""
    top = np.maximum.reduce(x, axis=axis, keepdims=True, initial=-np.inf)
    return np.where(np.isinf(top), np.zeros((), top.dtype), top)


def _exponentials(x: Array) -> Array:
    made = around.function("exp", x)
    return np.exp(x) if made is None else made


def _along(e: Array, axis: AxisTuple) -> Array:
    """The sum of exponentials, axes kept: terms of one line, also where the first axis, which elsewhere counts images, is summed over."""
    return around.sum_over(e[None], tuple(k + 1 for k in axis)).reshape(kept_shape(e.shape, axis))


def _logsumexp(x: Array, *, axis: AxisTuple, keepdims: bool) -> Array:
    wide = widened(x)
    made = around.lines(wide, axis, "logsumexp")
    if made is not None:
        return narrow(made.reshape(kept_shape(x.shape, axis)) if keepdims else made, x)
    with np.errstate(all="ignore"):
        top = _shift(wide, axis)
        result = np.log(_along(_exponentials(wide - top), axis)) + top
    shape = result.shape if keepdims else tuple(n for k, n in enumerate(result.shape) if k not in axis)
    return narrow(result, x).reshape(shape)


def _held(x: Array, axis: int) -> Array:
    """x, where +infinity is its largest value with all else at -infinity: what the limit of a softmax is the softmax of."""
    top = np.maximum.reduce(x, axis=axis, keepdims=True, initial=-np.inf)
    if not np.isposinf(top).any():
        return x
    kept = np.where(np.isposinf(x), x.dtype.type(0), x.dtype.type(-np.inf))
    return np.where(np.isposinf(top), kept, x)


def _of_lines(x: Array, axis: int, mode: str) -> Array | None:
    """A softmax by a generated kernel. It gives NaN where +infinity is the largest value; then the whole is taken again of the limit."""
    made = around.lines(x, (axis,), mode)
    if made is not None and not around.expect_finite(made) and np.isnan(np.add.reduce(made, axis=None)):
        held = _held(x, axis)
        return made if held is x else around.lines(held, (axis,), mode)
    return made


def _softmax(x: Array, *, axis: int) -> Array:
    made = _of_lines(widened(x), axis, "softmax")
    if made is not None:
        return narrow(made, x)
    wide = _held(widened(x), axis)
    with np.errstate(all="ignore"):
        e = _exponentials(wide - np.maximum.reduce(wide, axis=axis, keepdims=True, initial=-np.inf))
        e /= _along(e, (axis,))
    return narrow(e, x)


def _log_softmax(x: Array, *, axis: int) -> Array:
    made = _of_lines(widened(x), axis, "log_softmax")
    if made is not None:
        return narrow(made, x)
    wide = _held(widened(x), axis)
    with np.errstate(all="ignore"):
        low = wide - np.maximum.reduce(wide, axis=axis, keepdims=True, initial=-np.inf)
        low -= np.log(_along(_exponentials(low), (axis,)))
    return narrow(low, x)


def _logsumexp_rule(g: Any, ans: Any, x: Any, *, axis: AxisTuple, keepdims: bool) -> Any:
    """g times the softmax: of infinite values the limit (shared by all +infinities), and 0 for a -infinity, also among its like."""
    kept = kept_shape(x.shape, axis)
    values, best = array_of(x), array_of(ans).reshape(kept)
    if not np.isinf(best).any():
        return multiply(broadcast_to(reshape(g, kept), x.shape), exp(subtract(x, reshape(ans, kept))))
    hit = np.isposinf(values) & np.isposinf(best)
    ties = np.maximum(np.add.reduce(hit, axis=axis, dtype=g.dtype, keepdims=True), 1)
    share = np.where(hit, 1 / ties, g.dtype.type(0))
    infinite = np.broadcast_to(np.isinf(best), x.shape)
    low = subtract(select(infinite, 0.0, x), reshape(select(np.isinf(best), 0.0, reshape(ans, kept)), kept))
    return multiply(broadcast_to(reshape(g, kept), x.shape), select(infinite, share, exp(low)))


_logsumexp_op = primitive("logsumexp", _logsumexp, widely([_logsumexp_rule]), saves=("ans", 0))


def _softmax_rule(g: Any, ans: Any, x: Any, *, axis: int) -> Any:
    if not isinstance(g, Tensor):
        made = around.softmax(ans, axis, g)
        if made is not None:
            return made
    return multiply(ans, subtract(g, sum_over(multiply(g, ans), axis, keepdims=True)))


_softmax_op = primitive("softmax", _softmax, widely([_softmax_rule]), saves=("ans",))

_log_softmax_op = primitive(
    "log_softmax",
    _log_softmax,
    widely([lambda g, ans, x, axis: subtract(g, multiply(exp(ans), sum_over(g, axis, keepdims=True)))]),
    saves=("ans",),
)


def logsumexp(x: Operand, axis: Axes = None, keepdims: bool = False) -> Value:
    """log(sum(exp(x))) over the axes, without overflow; -infinity over none. Gradient: the softmax; 0 at a -infinity."""
    x = operand(x, "x")
    return _logsumexp_op(x, axis=axes_of(axis, x.ndim, "logsumexp"), keepdims=flag_of(keepdims, "keepdims"))


def softmax(x: Operand, axis: int = -1) -> Value:
    """exp(x) / sum(exp(x)) along one axis, without overflow: positive, adding to 1; shared evenly by the elements that are +infinity,
    and NaN where all are -infinity.

    Gradient: y (g - sum(g y)).

    Example:
        >>> from preimage import ops
        >>> ops.softmax([1000.0, 1000.0])
        array([0.5, 0.5])
    """
    x = operand(x, "x")
    return _softmax_op(x, axis=axis_of(axis, x.ndim, "softmax"))


def log_softmax(x: Operand, axis: int = -1) -> Value:
    """log(softmax(x)) along one axis, exact where softmax underflows."""
    x = operand(x, "x")
    return _log_softmax_op(x, axis=axis_of(axis, x.ndim, "log_softmax"))
