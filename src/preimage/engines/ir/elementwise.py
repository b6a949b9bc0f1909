"""Elementwise steps by name: what a chain, or an epilogue, may do to a value."""

from __future__ import annotations

from collections.abc import Callable

from preimage.engines.ir import math
from preimage.engines.ir.builder import Kernel, Num

__all__ = ["WORDS", "Step"]

#: A step: its name, and its operands as indices into the list of operands, numbers and earlier steps' values.
Step = tuple[str, tuple[int, ...]]


def _zero(f: Kernel, x: Num) -> Num:
    return f.zeros(x.dtype, x.lanes)


def _maximum(f: Kernel, x: Num, y: Num) -> Num:
    """NaN if either is; of equal zeros the second, as numpy.maximum."""
    value: Num = (x.is_above(y) | x.is_nan()).select(x, y)
    return value


def _minimum(f: Kernel, x: Num, y: Num) -> Num:
    value: Num = (x.is_below(y) | x.is_nan()).select(x, y)
    return value


def _clip(f: Kernel, x: Num, lo: Num, hi: Num) -> Num:
    """As numpy.clip with both bounds."""
    x = x.is_below(lo).select(lo, x)
    held: Num = x.is_above(hi).select(hi, x)
    return held


def _if_positive(f: Kernel, x: Num, yes: Num, no: Num) -> Num:
    value: Num = x.is_above(_zero(f, x)).select(yes, no)
    return value


#: All steps.
WORDS: dict[str, Callable[..., Num]] = {
    "abs": lambda f, x: x.absolute(),
    "add": lambda f, x, y: x + y,
    "clip": _clip,
    "div": lambda f, x, y: x / y,
    "exp": math.exp,
    "if_positive": _if_positive,
    "leaky_relu": lambda f, x, slope: _if_positive(f, x, x, x * slope),
    "maximum": _maximum,
    "minimum": _minimum,
    "mul": lambda f, x, y: x * y,
    "relu": lambda f, x: _maximum(f, x, _zero(f, x)),
    "sigmoid": math.sigmoid,
    "sqrt": lambda f, x: x.sqrt(),
    "sub": lambda f, x, y: x - y,
    "tanh": math.tanh,
}
