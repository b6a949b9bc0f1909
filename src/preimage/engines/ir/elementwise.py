"""Elementwise steps by name: what a chain, or an epilogue, may do to a value.

A value is a number or the answer to a question (a comparison): an answer that is used as a number counts 1 or 0, and a number that is
used as an answer holds where it is not 0.
"""

from __future__ import annotations

import math as numbers
from collections.abc import Callable, Sequence

from preimage.engines.ir import math
from preimage.engines.ir.builder import Bit, Kernel, Num
from preimage.engines.ir.error_function import erf, normal_cdf
from preimage.engines.ir.inverse_functions import FUNCTIONS
from preimage.engines.ir.logarithms import log, log1p, power
from preimage.engines.ir.trigonometry import cos, sin
from preimage.engines.ir.words import floor, mirrored, number_like, rounded

__all__ = ["HEAVY", "WORDS", "Step", "applied", "number_of"]

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


def _sign(f: Kernel, x: Num) -> Num:
    """-1, 0 or 1; NaN stays."""
    one = number_like(x, 1.0).with_sign_of(x)
    some: Num = (x.is_above(_zero(f, x)) | x.is_below(_zero(f, x))).select(one, _zero(f, x))
    held: Num = x.is_nan().select(x, some)
    return held


def _softsign(f: Kernel, x: Num) -> Num:
    """x / (1 + |x|)."""
    size = x.absolute()
    endless = size.is_equal(number_like(x, numbers.inf))
    value: Num = endless.select(number_like(x, 1.0).with_sign_of(x), x / (number_like(x, 1.0) + size))
    return value


def _above(x: Num, low: float) -> Num:
    """x, held where the factor that it meets has reached 0, so that no infinity does (`ops/gates.py`)."""
    return _maximum(x.kernel, x, number_like(x, low))


def _softplus(f: Kernel, x: Num) -> Num:
    """log(1 + exp(x))."""
    return _maximum(f, x, _zero(f, x)) + log1p(f, math.exp(f, mirrored(x.absolute())))


def _mish(f: Kernel, x: Num) -> Num:
    """x tanh(log(1 + e)) = x n / (n + 2),  n = e (e + 2),  e = exp(x)."""
    e = math.exp(f, x.is_above(number_like(x, 30.0)).select(number_like(x, 30.0), x))
    n = e * (e + number_like(x, 2.0))
    return _above(x, -1000.0) * (n / (n + number_like(x, 2.0)))


def _gelu_tanh(f: Kernel, x: Num) -> Num:
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u),  u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    inner = (x * x) * (x * number_like(x, 0.044715)) + x
    scaled = inner * number_like(x, numbers.sqrt(2 / numbers.pi))
    return _above(x, -50.0) * math.sigmoid(f, scaled + scaled)


def _elu(f: Kernel, x: Num, alpha: Num, inner: Num, scale: Num) -> Num:
    """x where x > 0, else alpha (exp(inner x) - 1), times scale."""
    left = _minimum(f, x, _zero(f, x))
    value: Num = x.is_above(_zero(f, x)).select(x, alpha * math.expm1(f, left * inner))
    return value * scale


#: Steps from numbers to a number.
WORDS: dict[str, Callable[..., Num]] = {
    "abs": lambda f, x: x.absolute(),
    "add": lambda f, x, y: x + y,
    "ceil": lambda f, x: rounded(x, "ceil"),
    "clip": _clip,
    "cos": cos,
    "div": lambda f, x, y: x / y,
    "elu": _elu,
    "erf": erf,
    "exp": math.exp,
    "expm1": math.expm1,
    "floor": lambda f, x: floor(x),
    "gelu": lambda f, x: _above(x, -50.0) * normal_cdf(f, x),
    "gelu_tanh": _gelu_tanh,
    "if_positive": _if_positive,
    "leaky_relu": lambda f, x, slope: _if_positive(f, x, x, x * slope),
    "log": log,
    "log1p": log1p,
    "maximum": _maximum,
    "minimum": _minimum,
    "mish": _mish,
    "mul": lambda f, x, y: x * y,
    "neg": lambda f, x: mirrored(x),
    "normal_cdf": normal_cdf,
    "power": power,
    "reciprocal": lambda f, x: number_like(x, 1.0) / x,
    "relu": lambda f, x: _maximum(f, x, _zero(f, x)),
    "round": lambda f, x: rounded(x, "roundeven"),
    "rsqrt": lambda f, x: number_like(x, 1.0) / x.sqrt(),
    "sigmoid": math.sigmoid,
    "sign": _sign,
    "silu": lambda f, x: _above(x, -1000.0) * math.sigmoid(f, x),
    "sin": sin,
    "softplus": _softplus,
    "softsign": _softsign,
    "sqrt": lambda f, x: x.sqrt(),
    "square": lambda f, x: x * x,
    "sub": lambda f, x, y: x - y,
    "tan": lambda f, x: sin(f, x) / cos(f, x),
    "tanh": math.tanh,
    "trunc": lambda f, x: rounded(x, "trunc"),
    **FUNCTIONS,
}

#: Steps that ask numbers something. A comparison with NaN is false, but for not_equal.
QUESTIONS: dict[str, Callable[..., Bit]] = {
    "equal": lambda f, x, y: x.is_equal(y),
    "greater": lambda f, x, y: x.is_above(y),
    "greater_equal": lambda f, x, y: x.is_above(y) | x.is_equal(y),
    "is_inf": lambda f, x: x.absolute().is_equal(number_like(x, numbers.inf)),
    "is_nan": lambda f, x: x.is_nan(),
    "less": lambda f, x, y: x.is_below(y),
    "less_equal": lambda f, x, y: x.is_below(y) | x.is_equal(y),
    "not_equal": lambda f, x, y: x.is_equal(y).negated(),
}

#: Steps from answers to an answer.
LOGIC: dict[str, Callable[..., Bit]] = {
    "and": lambda f, a, b: a & b,
    "not": lambda f, a: a.negated(),
    "or": lambda f, a, b: a | b,
    "xor": lambda f, a, b: a.but_not(b) | b.but_not(a),
}

#: Steps whose code is long: an element of theirs counts for several.
HEAVY = frozenset(
    (
        "cos", "elu", "erf", "exp", "expm1", "gelu", "gelu_tanh", "log", "log1p", "mish", "normal_cdf", "power", "sigmoid", "silu", "sin",
        "softplus", "tan", "tanh", *FUNCTIONS,
    )
)  # fmt: skip


def number_of(value: Num | Bit, dtype: str) -> Num:
    """A number as it is; an answer as 1 or 0."""
    if isinstance(value, Num):
        return value
    one: Num = value.select(value.kernel.const(dtype, value.lanes, 1.0), value.kernel.zeros(dtype, value.lanes))
    return one


def answer_of(value: Num | Bit) -> Bit:
    """An answer as it is; of a number whether it is not 0."""
    return value if isinstance(value, Bit) else value.is_equal(value.kernel.zeros(value.dtype, value.lanes)).negated()


def applied(f: Kernel, word: str, values: Sequence[Num | Bit], dtype: str) -> Num | Bit:
    """A step's value; dtype: of the numbers."""
    if word in LOGIC:
        return LOGIC[word](f, *map(answer_of, values))
    if word == "where":
        chosen: Num = answer_of(values[0]).select(number_of(values[1], dtype), number_of(values[2], dtype))
        return chosen
    plain = [number_of(value, dtype) for value in values]
    return QUESTIONS[word](f, *plain) if word in QUESTIONS else WORDS[word](f, *plain)
