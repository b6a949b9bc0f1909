"""Values and slopes of every pointwise function at the ends of its domain: 0, tiny, huge and infinite arguments, in every dtype.

The definitions are written for float64, in a form that is exact at both ends; what they give is rounded to the dtype.
"""

import math

import ml_dtypes
import numpy as np
import pytest

import preimage as pre
from preimage import ops

INF = math.inf


def logistic(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(max(x, -745.2)) if x > -INF else 0.0


def bump(x):
    """logistic(x) logistic(-x)."""
    e = math.exp(-abs(x))
    return e / (1 + e) ** 2


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def bell(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if abs(x) < 40 else 0.0


def cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def held(f, low, high):
    """f, with the two limits where x is infinite."""
    return lambda x: low if x == -INF else high if x == INF else f(x)


def tanh_gelu(x):
    return logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) if abs(x) < 1e3 else float(x > 0)


def tanh_gelu_slope(x):
    if abs(x) > 50:
        return float(x > 0)
    u = 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return logistic(u) + x * bump(u) * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


def power_of(x, p):
    try:
        return x**p
    except ZeroDivisionError:
        return INF
    except OverflowError:
        return INF


def mish_slope(x):
    p = softplus(x)
    return math.tanh(p) + x * 4 * bump(2 * p) * logistic(x)


def elu_slope(alpha):
    return lambda x: 1.0 if x > 0 else alpha * math.exp(x)


S, A = 1.0507009873554805, 1.6732632423543772
#: name: operation, value, slope, the least x
FUNCTIONS = {
    "sigmoid": (ops.sigmoid, logistic, bump, -INF),
    "tanh": (ops.tanh, math.tanh, lambda x: 4 * bump(2 * x), -INF),
    "softplus": (ops.softplus, softplus, logistic, -INF),
    "softplus 3": (lambda x: ops.softplus(x, 3.0), lambda x: softplus(3 * x) / 3 if abs(x) < 1e300 else max(x, 0), lambda x: logistic(3 * x), -INF),
    "log_sigmoid": (ops.log_sigmoid, lambda x: -softplus(-x), lambda x: logistic(-x), -INF),
    "silu": (ops.silu, held(lambda x: x * logistic(x), 0, INF), held(lambda x: logistic(x) + x * bump(x), 0, 1), -INF),
    "mish": (ops.mish, held(lambda x: x * math.tanh(softplus(x)), 0, INF), held(mish_slope, 0, 1), -INF),
    "gelu": (ops.gelu, held(lambda x: x * cdf(x), 0, INF), held(lambda x: cdf(x) + x * bell(x), 0, 1), -INF),
    "gelu tanh": (lambda x: ops.gelu(x, "tanh"), held(lambda x: x * tanh_gelu(x), 0, INF), held(tanh_gelu_slope, 0, 1), -INF),
    "normal_cdf": (ops.normal_cdf, cdf, bell, -INF),
    "erf": (ops.erf, math.erf, lambda x: 2 / math.sqrt(math.pi) * (math.exp(-x * x) if abs(x) < 30 else 0.0), -INF),
    "elu": (ops.elu, lambda x: x if x > 0 else math.expm1(x), elu_slope(1.0), -INF),
    "celu": (lambda x: ops.celu(x, 0.5), lambda x: x if x > 0 else 0.5 * math.expm1(x / 0.5), lambda x: 1.0 if x > 0 else math.exp(2 * x), -INF),
    "selu": (ops.selu, lambda x: S * (x if x > 0 else A * math.expm1(x)), lambda x: S * (1.0 if x > 0 else A * math.exp(x)), -INF),
    "softsign": (ops.softsign, held(lambda x: x / (1 + abs(x)), -1, 1), lambda x: (1 / (1 + abs(x))) ** 2, -INF),
    "hardswish": (
        ops.hardswish, lambda x: 0 if x <= -3 else x if x >= 3 else x * (x + 3) / 6,
        lambda x: 0 if x <= -3 else 1 if x >= 3 else x / 3 + 0.5, -INF,
    ),
    "hardsigmoid": (ops.hardsigmoid, lambda x: min(max(x / 6 + 0.5, 0), 1), lambda x: 1 / 6 if abs(x) < 3 else 0.0, -INF),
    "relu": (ops.relu, lambda x: max(x, 0), lambda x: float(x > 0), -INF),
    "relu6": (ops.relu6, lambda x: min(max(x, 0), 6), lambda x: float(0 < x < 6), -INF),
    "leaky_relu": (lambda x: ops.leaky_relu(x, 0.25), lambda x: x if x > 0 else x / 4, lambda x: 1.0 if x > 0 else 0.25, -INF),
    "prelu": (lambda x: ops.prelu(x, np.full(1, 0.25, x.dtype)), lambda x: x if x > 0 else x / 4, lambda x: 1.0 if x > 0 else 0.25, -INF),
    "exp": (ops.exp, lambda x: power_of(math.e, x) if x < 700 else float(np.exp(x)), lambda x: float(np.exp(x)), -INF),
    "expm1": (ops.expm1, lambda x: float(np.expm1(x)), lambda x: float(np.exp(x)), -INF),
    "square": (ops.square, lambda x: x * x, lambda x: 2 * x, -INF),
    "abs": (ops.abs, abs, lambda x: float((x > 0) - (x < 0)), -INF),
    "sign": (ops.sign, lambda x: float((x > 0) - (x < 0)), lambda x: 0.0, -INF),
    "clip": (lambda x: ops.clip(x, -2, 5), lambda x: min(max(x, -2), 5), lambda x: float(-2 <= x <= 5), -INF),
    "sqrt": (ops.sqrt, math.sqrt, lambda x: 0.5 / math.sqrt(x) if x else INF, 0.0),
    "rsqrt": (ops.rsqrt, lambda x: 1 / math.sqrt(x) if x else INF, lambda x: -0.5 / math.sqrt(x) / x if x else -INF, 0.0),
    "log": (ops.log, lambda x: math.log(x) if x else -INF, lambda x: 1 / x if x else INF, 0.0),
    "log1p": (ops.log1p, lambda x: math.log1p(x) if x > -1 else -INF, lambda x: 1 / (1 + x) if x > -1 else INF, -1.0),
    "reciprocal": (ops.reciprocal, lambda x: 1 / x if x else INF, lambda x: -1 / x / x if x else -INF, 0.0),
    "1 / x": (lambda x: ops.divide(1.0, x), lambda x: 1 / x if x else INF, lambda x: -1 / x / x if x else -INF, 0.0),
    "x^0.5": (lambda x: ops.power(x, 0.5), math.sqrt, lambda x: 0.5 / math.sqrt(x) if x else INF, 0.0),
    "x^1.5": (lambda x: ops.power(x, 1.5), lambda x: power_of(x, 1.5), lambda x: 1.5 * math.sqrt(x), 0.0),
    "x^3": (lambda x: ops.power(x, 3), lambda x: power_of(x, 3.0), lambda x: 3 * x * x, -INF),
    "x^0": (lambda x: ops.power(x, 0), lambda x: 1.0, lambda x: 0.0, -INF),
    "x^-1": (lambda x: ops.power(x, -1), lambda x: 1 / x if x else INF, lambda x: -1 / x / x if x else -INF, 0.0),
    "2^x": (lambda x: ops.power(2.0, x), lambda x: power_of(2.0, x), lambda x: power_of(2.0, x) * math.log(2), -INF),
    "0.5^x": (lambda x: ops.power(0.5, x), lambda x: power_of(0.5, x), lambda x: power_of(0.5, x) * math.log(0.5), -INF),
}  # fmt: skip

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
POINTS = [
    0.0,
    1e-300,
    1e-40,
    1e-30,
    6e-8,
    1e-5,
    1e-3,
    0.25,
    0.5,
    1.0,
    2.0,
    2.5,
    3.0,
    5.0,
    7.0,
    9.0,
    12.0,
    16.0,
    18.0,
    20.0,
    30.0,
    40.0,
    80.0,
    100.0,
]
POINTS += [300.0, 700.0, 2000.0, 6e4, 1e8, 1e19, 1e30, 3e38, 1e150, 1e300, INF]


def points(dtype, least):
    signed = [s * v for v in POINTS for s in (1.0, -1.0) if s * v >= least and (v or s > 0)]
    if least == -1.0:
        signed.append(-1.0)
    with np.errstate(all="ignore"):
        return np.unique(np.array(signed).astype(dtype))


def rounded(values, dtype):
    """Definitions in the dtype: what is too large is infinite, what is too small 0."""
    with np.errstate(all="ignore"):
        return np.array(values, np.float64).astype(dtype).astype(np.float64)


def near(got, wanted, dtype, ulps, what):
    """Within some units in the last place, and within the smallest normal numbers (which code may flush)."""
    info = ml_dtypes.finfo(dtype)
    got = np.asarray(got, np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted), what)
    flat = np.isinf(wanted) | np.isinf(got)
    edge = np.abs(np.where(np.isfinite(wanted), wanted, got)) > 0.99 * float(info.max)  # either side of the largest number
    np.testing.assert_array_equal(got[flat & ~edge], wanted[flat & ~edge], what)
    rest = ~flat & np.isfinite(wanted)
    np.testing.assert_allclose(got[rest], wanted[rest], rtol=ulps * float(info.eps), atol=4 * float(info.tiny), err_msg=what)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("engine", ["jit", "gemm"])
def test_values_and_slopes_at_the_ends(name, dtype, engine):
    op, value, slope, least = FUNCTIONS[name]
    x = points(dtype, least)
    narrow = np.dtype(dtype).itemsize == 2
    # exponentials of rounded multiples of x lose digits in proportion to x
    ulps = 4 if narrow else 2000 if dtype is np.float64 else 300
    with pre.config(engine=engine):
        t = pre.Tensor(x, requires_grad=True)
        y = op(t)
        (g,) = pre.grad(y, [t], np.ones(x.shape, dtype))
        large = np.tile(x, 9000 // x.size + 1)  # large enough for generated kernels
        assert y.dtype == g.dtype == dtype
        many = op(large)
    exact = [float(v) for v in x]
    with np.errstate(all="ignore"):
        values, slopes = ([f(v) for v in exact] for f in (value, slope))
    near(y.data, rounded(values, dtype), dtype, ulps, name)
    near(g.data, rounded(slopes, dtype), dtype, ulps, f"slope of {name}")
    near(many[: x.size], np.asarray(y.data, np.float64), dtype, 2, f"{name} of many")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_infinite_cotangent_and_nan_stay_where_they_are(name):
    """NaN in the argument reaches the value; a cotangent at one element reaches no other."""
    op = FUNCTIONS[name][0]
    x = np.array([0.5, np.nan, 2.0, 1.5])
    t = pre.Tensor(x, requires_grad=True)
    y = op(t)
    if name != "x^0":
        assert np.isnan(y.data).tolist() == [False, True, False, False]
    (g,) = pre.grad(y, [t], np.array([0.0, 0.0, np.inf, np.nan]))
    assert g.data[0] == 0
    assert not np.isfinite(g.data[2]) or FUNCTIONS[name][2](2.0) == 0


TWO = [
    # op, a, b, value, slope in a, slope in b
    (ops.power, 0.0, 0.0, 1, 0, 0), (ops.power, 0.0, 2.0, 0, 0, 0), (ops.power, 0.0, 1.0, 0, 1, 0), (ops.power, 0.0, 0.5, 0, INF, 0),
    (ops.power, 0.0, -1.0, INF, -INF, -INF), (ops.power, INF, -1.0, 0, 0, 0), (ops.power, INF, 0.0, 1, 0, INF), (ops.power, 1.0, INF, 1, INF, 0),
    (ops.power, 0.5, INF, 0, 0, 0), (ops.power, 2.0, -INF, 0, 0, 0), (ops.power, 2.0, INF, INF, INF, INF), (ops.power, 5.0, 0.0, 1, 0, math.log(5)),
    (ops.power, INF, 2.0, INF, INF, INF), (ops.power, 0.5, 5000.0, 0, 0, 0),
    (ops.maximum, INF, 1.0, INF, 1, 0), (ops.maximum, -INF, 1.0, 1, 0, 1), (ops.maximum, INF, INF, INF, 0.5, 0.5),
    (ops.minimum, -INF, -INF, -INF, 0.5, 0.5),
    (ops.minimum, INF, 2.0, 2, 0, 1), (ops.divide, 0.0, INF, 0, 0, 0), (ops.divide, 1e-30, 1e30, 1e-60, 1e-30, -1e-90),
    (ops.divide, 1.0, 0.0, INF, INF, -INF),
    (ops.divide, 1e200, 1e200, 1, 1e-200, -1e-200),
]  # fmt: skip


@pytest.mark.parametrize("row", TWO, ids=lambda r: f"{r[0].__name__} {r[1]} {r[2]}")
def test_two_arguments(row):
    op, a, b, value, by_a, by_b = row
    ta, tb = (pre.Tensor(np.array([v]), requires_grad=True) for v in (a, b))
    y = op(ta, tb)
    ga, gb = pre.grad(y, [ta, tb], np.ones(1))
    np.testing.assert_allclose([y.data[0], ga.data[0], gb.data[0]], [value, by_a, by_b], rtol=1e-14)


def test_choices_take_no_part_of_what_was_not_chosen():
    """An infinite cotangent goes to the element that was chosen; the other gets 0, not infinity times 0."""
    a, b = (pre.Tensor(np.array(v), requires_grad=True) for v in ([1.0, 5.0], [2.0, 4.0]))
    for op in (ops.maximum, ops.minimum):
        ga, gb = pre.grad(op(a, b), [a, b], np.array([np.inf, np.inf]))
        assert sorted(np.r_[ga.data, gb.data]) == [0, 0, np.inf, np.inf]
    x = pre.Tensor(np.array([[1.0, 3.0, 2.0]]), requires_grad=True)
    for op in (ops.max, ops.min):
        (g,) = pre.grad(op(x, 1), [x], np.array([np.inf]))
        assert sorted(g.data[0]) == [0, 0, np.inf]
    w = pre.Tensor(np.array([0.25]), requires_grad=True)
    (g,) = pre.grad(ops.prelu(np.array([np.inf, -2.0]), w), [w], np.ones(2))
    assert g.data[0] == -2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_goes_on_through_a_saturated_function(dtype):
    """Descent from |x| > 17, where 1 - s is 0: the argument comes back, by the exact slope."""
    for op, slope in ((ops.sigmoid, bump), (ops.tanh, lambda x: 4 * bump(2 * x))):
        x = pre.Tensor(np.array([20.0, -20.0, 30.0], dtype), requires_grad=True)
        (g,) = pre.grad(op(x), [x], np.ones(3, dtype))
        np.testing.assert_allclose(g.data, [slope(v) for v in (20.0, -20.0, 30.0)], rtol=1e-5)
    x = pre.Tensor(np.array([40.0], dtype), requires_grad=True)
    for _ in range(60):
        (g,) = pre.grad(ops.log(ops.sigmoid(ops.negative(x))) * -1.0, [x], np.ones(1, dtype))
        x = pre.Tensor(x.data - g.data, requires_grad=True)
    assert x.data[0] < 1
