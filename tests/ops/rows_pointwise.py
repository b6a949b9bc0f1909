"""Rows of the pointwise operations and activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from naive import each
from row import A, B, C, Row, away, distinct, normal, positive, within

from preimage import ops

mask = np.arange(24).reshape(A) % 3 == 0
erf = each(math.erf)
sig = each(lambda x: 1 / (1 + math.exp(-x)))
cdf = each(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))
softplus = each(lambda x: math.log(1 + math.exp(x)))


def _power_inputs(rng: np.random.Generator) -> list[Any]:
    return [rng.uniform(0.5, 2.0, A), rng.standard_normal(C)]


POINTWISE = [
    Row("add", ops.add, normal(A, B), lambda a, b: a + b, diff=(0, 1), empty=((0, 3, 4), (3, 1))),
    Row("subtract", ops.subtract, normal(B, A), lambda a, b: a - b, diff=(0, 1), empty=((3, 1), (0, 3, 4))),
    Row("multiply", ops.multiply, normal(A, C), lambda a, b: a * b, diff=(0, 1), linear=(0, 1), empty=((0, 4), (4,))),
    Row("multiply", lambda a: ops.multiply(a, 3.0), normal(A), lambda a: a * 3, linear=(0,)),
    Row("divide", ops.divide, positive(C, A), lambda a, b: a / b, diff=(0, 1), linear=(0,), empty=((4,), (0, 4))),
    Row("negative", ops.negative, normal(A), lambda a: -a, linear=(0,)),
    Row("power", ops.power, _power_inputs, lambda a, b: a**b, diff=(0, 1), empty=((0, 4), (4,))),
    Row("power", lambda a: ops.power(a, 3), normal(A), lambda a: a * a * a),
    Row("power", lambda a: ops.power(a, -0.5), positive(A), lambda a: 1 / np.sqrt(a)),
    Row("power", lambda a: ops.power(a, 2), normal(A), lambda a: a * a),
    Row("power", lambda a: ops.power(2.0, a), normal(A), each(lambda x: 2.0**x)),
    Row("exp", ops.exp, normal(A), each(math.exp)),
    Row("expm1", ops.expm1, normal(A), each(math.expm1)),
    Row("log", ops.log, positive(A), each(math.log)),
    Row("log1p", ops.log1p, positive(A), each(math.log1p)),
    Row("sqrt", ops.sqrt, positive(A), each(math.sqrt)),
    Row("rsqrt", ops.rsqrt, positive(A), each(lambda x: x**-0.5)),
    Row("square", ops.square, normal(A), lambda a: a * a),
    Row("reciprocal", ops.reciprocal, positive(A), lambda a: 1 / a),
    Row("sin", ops.sin, normal(A), each(math.sin)),
    Row("cos", ops.cos, normal(A), each(math.cos)),
    Row("tan", ops.tan, within(A), each(math.tan)),
    Row("arcsin", ops.arcsin, within(A), each(math.asin)),
    Row("arccos", ops.arccos, within(A), each(math.acos)),
    Row("arctan", ops.arctan, normal(A), each(math.atan)),
    Row("sinh", ops.sinh, normal(A), each(math.sinh)),
    Row("cosh", ops.cosh, normal(A), each(math.cosh)),
    Row("arcsinh", ops.arcsinh, normal(A), each(math.asinh)),
    Row("arccosh", lambda a: ops.arccosh(a + 1.0), positive(A), each(lambda x: math.acosh(x + 1))),
    Row("arctanh", ops.arctanh, within(A), each(math.atanh)),
    Row(
        "where",
        lambda a, b: ops.where(mask, a, b),
        normal(A, C),
        lambda a, b: np.choose(mask, [b + 0 * a, a]),
        diff=(0, 1),
        empty=None,
    ),
    Row("maximum", ops.maximum, distinct((2, 3, 4), (2, 3, 4)), each(max), diff=(0, 1), empty=((0, 4), (4,)), second=False),
    Row("minimum", ops.minimum, distinct((2, 3, 4), (2, 3, 4)), each(min), diff=(0, 1), empty=((0, 4), (4,)), second=False),
    Row("clip", lambda a: ops.clip(a, -1, 0.5), away(A, kinks=(-1, 0.5)), each(lambda x: min(max(x, -1), 0.5)), second=False),
    Row("clip", lambda a: ops.clip(a, hi=0.5), away(A, kinks=(0.5,)), each(lambda x: min(x, 0.5)), second=False),
    Row("clip", ops.clip, normal(A), lambda a: a, linear=(0,), second=False),
    Row("sign", ops.sign, away(A), each(lambda x: (x > 0) - (x < 0)), second=False),
    Row("abs", ops.abs, away(A), each(abs), second=False),
    Row("astype", lambda a: ops.astype(a, a.dtype), normal(A), lambda a: a, linear=(0,)),
]

ACTIVATIONS = [
    Row("relu", ops.relu, away(A), each(lambda x: max(x, 0)), second=False),
    Row("leaky_relu", lambda a: ops.leaky_relu(a, 0.2), away(A), each(lambda x: x if x > 0 else 0.2 * x), second=False),
    Row("prelu", ops.prelu, away(A, (3,)), lambda x, w: np.where(x > 0, x, x * w[:, None]), diff=(0, 1), empty=((0, 3, 4), (3,))),
    Row("prelu", ops.prelu, away(A, (1,)), lambda x, w: np.where(x > 0, x, x * w[0]), diff=(0, 1), empty=((0, 3), (1,))),
    Row("hardtanh", ops.hardtanh, away(A, kinks=(-1, 1)), each(lambda x: min(max(x, -1), 1)), second=False),
    Row("relu6", ops.relu6, away(A, scale=5, kinks=(0, 6)), each(lambda x: min(max(x, 0), 6)), second=False),
    Row(
        "hardsigmoid", ops.hardsigmoid, away(A, scale=3, kinks=(-3, 3)), each(lambda x: min(max(x / 6 + 0.5, 0), 1)), second=False
    ),
    Row("hardswish", ops.hardswish, away(A, scale=3, kinks=(-3, 3)), each(lambda x: x * min(max(x / 6 + 0.5, 0), 1))),
    Row("sigmoid", ops.sigmoid, normal(A, scale=2), sig),
    Row("log_sigmoid", ops.log_sigmoid, normal(A, scale=2), each(lambda x: -math.log(1 + math.exp(-x)))),
    Row("tanh", ops.tanh, normal(A), each(math.tanh)),
    Row("softplus", ops.softplus, normal(A, scale=2), softplus),
    Row("softplus", lambda a: ops.softplus(a, beta=3.0), normal(A), lambda a: softplus(3 * a) / 3),
    Row("softsign", ops.softsign, away(A), each(lambda x: x / (1 + abs(x)))),
    Row("elu", lambda a: ops.elu(a, 0.7), away(A), each(lambda x: x if x > 0 else 0.7 * math.expm1(x))),
    Row("selu", ops.selu, away(A), each(lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)))),
    Row("celu", lambda a: ops.celu(a, 0.6), away(A), each(lambda x: x if x > 0 else 0.6 * math.expm1(x / 0.6))),
    Row("silu", ops.silu, normal(A, scale=2), lambda a: a * sig(a)),
    Row("mish", ops.mish, normal(A, scale=2), lambda a: a * np.tanh(softplus(a))),
    Row("erf", ops.erf, normal(A), erf),
    Row("normal_cdf", ops.normal_cdf, normal(A, scale=2), cdf),
    Row("gelu", ops.gelu, normal(A, scale=2), lambda a: a * cdf(a)),
    Row(
        "gelu",
        lambda a: ops.gelu(a, "tanh"),
        normal(A, scale=2),
        each(lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ),
]
