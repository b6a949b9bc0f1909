"""Broadcasting and its adjoint, and the change of dtype: what gradients of pointwise operations come back through.

broadcast_to: x -> y, y[..] = x[..] repeated along new axes and axes of size 1
sum_to:       y -> x, the sum over just those axes; <broadcast_to(x), y> = <x, sum_to(y)>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.autograd import Spec, Tensor, primitive
from preimage.engines import around
from preimage.engines.decisions import Shortcuts
from preimage.errors import ShapeError
from preimage.ops.operands import Array, float_dtype, narrow, operand, sizes_of
from preimage.ops.sums import total
from preimage.settings import current
from preimage.typing import DTypeLike, Operand, Shape, Value

__all__ = ["astype", "broadcast_to", "in_wide", "match", "sum_to", "widely"]


def _sum_to(y: Array, *, shape: tuple[int, ...]) -> Array:
    extra = y.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + k for k, (a, b) in enumerate(zip(y.shape[extra:], shape, strict=True)) if b == 1 and a != 1
    )
    return narrow(total(y, axes, True), y).reshape(shape)


_broadcast_to_op = primitive(
    "broadcast_to",
    lambda x, shape: np.broadcast_to(x, shape),
    [lambda g, ans, x, shape: sum_to(g, x.shape)],
    saves=(),
    linear=(0,),
)

_sum_to_op = primitive("sum_to", _sum_to, [lambda g, ans, y, shape: broadcast_to(g, y.shape)], saves=(), linear=(0,))


class _Cast:
    """The array in another dtype, rounded once: the forward function of `astype`."""

    is_silent = True

    def __init__(self) -> None:
        self._calls: Shortcuts[Any, Callable[..., Array | None]] = Shortcuts(1024)

    def __call__(self, x: Array, *, dtype: np.dtype[Any]) -> Array:
        key = (id(current()), x.shape, x.strides, x.dtype, dtype)
        call = self._calls.get(key)
        if call is not None and (made := call(x)) is not None:
            return made
        found = around.cast(x, dtype)
        if found is None:
            with np.errstate(all="ignore"):
                return x.astype(dtype)
        wide = np.dtype(np.float64 if np.float64 in (x.dtype, dtype) else np.float32)
        if not around.records() and (ready := around.ready((x,), (), (), wide, dtype)) is not None:
            self._calls.keep(key, ready)
        return found


_astype_op = primitive(
    "astype",
    _Cast(),
    [lambda g, ans, x, dtype: astype(g, x.dtype)],
    saves=(),
    linear=(0,),
)


def broadcast_to(x: Operand, shape: Shape) -> Value:
    """x repeated along new leading axes and along axes of size 1, to `shape`; a read-only view, no copy.

    Gradient: the sum over the repeated axes.
    Raises: ShapeError where the shapes do not fit.
    """
    x, shape = operand(x, "x"), sizes_of(shape, "broadcast_to")
    fits = (
        len(shape) >= x.ndim
        and all(n >= 0 for n in shape)
        and all(a in (1, b) for a, b in zip(x.shape, shape[len(shape) - x.ndim :], strict=True))
    )
    if not fits:
        raise ShapeError(f"broadcast_to: shape {x.shape} cannot be repeated to {shape}; sizes must be equal or 1")
    return x if x.shape == shape else _broadcast_to_op(x, shape=shape)


def sum_to(y: Operand, shape: Shape) -> Value:
    """y summed over the axes along which `shape` would be repeated to reach y's: the adjoint of broadcast_to.

    Raises: ShapeError where `shape` does not broadcast to y's.
    """
    y, shape = operand(y, "y"), sizes_of(shape, "sum_to")
    fits = len(shape) <= y.ndim and all(b in (1, a) for a, b in zip(y.shape[y.ndim - len(shape) :], shape, strict=True))
    if not fits:
        raise ShapeError(f"sum_to: {shape} does not broadcast to {y.shape}")
    return y if y.shape == shape else _sum_to_op(y, shape=shape)


def astype(x: Operand, dtype: DTypeLike) -> Value:
    """x in another float dtype. Gradient: the cotangent in the dtype of x. Raises: DTypeError for anything but floats."""
    x = operand(x, "x")
    wanted = float_dtype(dtype)
    return x if x.dtype == wanted else _astype_op(x, dtype=wanted)


def match(g: Value, like: Value | Spec) -> Value:
    """A cotangent brought back to an argument's shape and dtype: summed over what was broadcast."""
    if g.shape != like.shape:
        g = sum_to(g, like.shape)
    return g if g.dtype == like.dtype else astype(g, like.dtype)


# -- gradients of narrow floats ----------------------------------------------------------------------------------------

_WIDE = np.dtype(np.float32)


def in_wide(value: Any) -> Any:
    """A float16 or bfloat16 array or Tensor in float32; everything else as it is."""
    if isinstance(value, Spec):
        return Spec(value.shape, _WIDE) if value.dtype.itemsize == 2 else value
    if isinstance(value, Tensor | np.ndarray) and value.dtype.itemsize == 2:
        return astype(value, _WIDE)
    return value


def widely(rules: Sequence[Callable[..., Any]]) -> list[Callable[..., Any]]:
    """The rules of a primitive, made to work in float32 where the arguments are narrow: one rounding, at the end.

    Steps of their own would each be rounded, and overflow, in 16 bits.
    """

    def wide(k: int, rule: Callable[..., Any]) -> Callable[..., Any]:
        def apply(g: Any, ans: Any, *args: Any, **params: Any) -> Any:
            dtype = args[k].dtype
            if dtype.itemsize > 2:
                return rule(g, ans, *args, **params)
            return astype(rule(in_wide(g), in_wide(ans), *[in_wide(a) for a in args], **params), dtype)

        return apply

    return [wide(k, rule) for k, rule in enumerate(rules)]
