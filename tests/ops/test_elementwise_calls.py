"""Elementwise functions: calls that come again, options that differ by a sign, and expressions that are one kernel."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines import around
from preimage.engines.decisions import forget_shortcuts
from preimage.ops.elementwise import REPEATS, fused
from preimage.ops.pointwise import multiply, select

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38]


def data(shape, dtype=np.float32, seed=0):
    x = (np.random.default_rng(seed).standard_normal(shape) * 3).astype(dtype)
    x.reshape(-1)[3 : 3 + len(SPECIAL)] = SPECIAL
    return x


def equal(got, want):
    """The same bits, but for what a NaN holds."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    there = ~np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), ~there)
    np.testing.assert_array_equal(got[there], want[there])
    np.testing.assert_array_equal(np.signbit(got[there]), np.signbit(want[there]))


def positive(x):
    return np.abs(x) + 1


#: Operations that NumPy computes with the same bits, of x and of a weight for each channel.
EXACT = {
    "relu": lambda x, w: ops.relu(x), "abs": lambda x, w: ops.abs(x), "negative": lambda x, w: ops.negative(x),
    "sqrt": lambda x, w: ops.sqrt(positive(x)), "square": lambda x, w: ops.square(x), "sign": lambda x, w: ops.sign(x),
    "reciprocal": lambda x, w: ops.reciprocal(x), "add": lambda x, w: ops.add(x, x), "subtract": lambda x, w: ops.subtract(1.0, x),
    "multiply": lambda x, w: ops.multiply(x, w[:, None]), "divide": lambda x, w: ops.divide(x, 3), "maximum": lambda x, w: ops.maximum(x, 0.5),
    "clip": lambda x, w: ops.clip(x, -1.0, 2.0), "clip low": lambda x, w: ops.clip(x, lo=0.0), "clip high": lambda x, w: ops.clip(x, hi=-0.0),
    "leaky_relu": lambda x, w: ops.leaky_relu(x, -0.5), "prelu": lambda x, w: ops.prelu(x, w), "hardswish": lambda x, w: ops.hardswish(x),
    "hardsigmoid": lambda x, w: ops.hardsigmoid(x), "softsign": lambda x, w: ops.softsign(x), "relu6": lambda x, w: ops.relu6(x),
    "where": lambda x, w: ops.where(x > 0, x, 0.0), "where both": lambda x, w: ops.where(x > 0, x, -x),
    "astype": lambda x, w: ops.astype(x, np.float16),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 5, 7), (3, 40, 90), (2, 6, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", EXACT)
def test_a_call_that_comes_again_gives_what_numpy_gives(name, dtype, shape):
    with np.errstate(all="ignore"):
        x, w = data(shape, dtype), np.linspace(-1, 2, shape[1]).astype(dtype)
        laid = [
            x,
            np.asfortranarray(x),
            np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
            np.repeat(x, 2, 2)[:, :, ::2],
        ]
        with pre.config(engine="gemm"):
            want = EXACT[name](x, w)
        for array in laid:
            for _ in range(REPEATS + 3):
                got = EXACT[name](array, w)
                equal(got, want)


def test_few_elements_are_a_kernels_from_some_call_on():
    """So that the test above sees both."""
    x, asked = data((3, 5, 2)), []
    forget_shortcuts()
    kept = around.log_kernels
    around.log_kernels = lambda what, *a: asked.append(what)
    try:
        for _ in range(REPEATS + 2):
            ops.relu(x)
    finally:
        around.log_kernels = kept
    assert len(asked) == 1  # once: after that the call is one function of the engine


@pytest.mark.parametrize("size", [20, 20000])
def test_options_that_differ_by_a_sign_are_told_apart(size):
    x = -np.arange(1, size + 1, dtype=np.float32)
    for _ in range(REPEATS + 2):
        assert not np.signbit(ops.leaky_relu(x, -0.0)).any()
        assert np.signbit(ops.leaky_relu(x, 0.0)).all()
        assert np.signbit(ops.clip(x, lo=-0.0)).all()
        assert not np.signbit(ops.clip(x, lo=0.0)).any()
        assert np.isnan(ops.clip(x, np.nan, 1.0)).all()


def test_numbers_that_a_dtype_cannot_hold():
    x = np.ones(5, np.float32)
    for _ in range(REPEATS + 2):
        assert np.isinf(ops.multiply(x, 1e300)).all()
        assert np.isnan(ops.add(x, float("nan"))).all()


@pytest.mark.parametrize("size", [30, 9000])
@pytest.mark.parametrize(
    "function",
    [
        ops.relu, ops.abs, ops.sqrt, ops.square, ops.reciprocal, ops.rsqrt, ops.log1p, ops.expm1, ops.sin, ops.cos, ops.sigmoid,
        ops.tanh, ops.softplus, ops.silu, ops.mish, ops.gelu, lambda x: ops.gelu(x, "tanh"), ops.elu, ops.selu, ops.erf,
        ops.hardswish, ops.hardsigmoid, ops.relu6, ops.softsign, lambda x: ops.clip(x, -1.0, 2.0), lambda x: ops.clip(x, hi=2.0),
        lambda x: ops.leaky_relu(x, 0.1), lambda x: ops.power(x, 3.0), lambda x: ops.softplus(x, -2.0), ops.arcsinh, ops.tan,
        lambda x: ops.divide(2.0, x), lambda x: ops.prelu(ops.reshape(x, (1, 2, -1)), np.float32([0.5, -2])),
    ],
)  # fmt: skip
def test_a_gradient_of_one_kernel_has_the_bits_of_its_operations(function, size):
    """Recorded, the same rule is taken operation by operation."""
    x, g = data(size), data(size, seed=1)
    t = pre.Tensor(x, requires_grad=True)
    y = function(t)
    (want,) = pre.grad(y, [t], pre.Tensor(g.reshape(y.shape), requires_grad=True), create_graph=True)
    for _ in range(REPEATS + 2):
        (got,) = pre.grad(function(t), [t], g.reshape(y.shape))
        equal(np.asarray(got), np.asarray(want.data))


def test_an_expression_of_arrays_that_broadcast():
    slope = fused(lambda g, x, w: multiply(g, select(x > 0, w, 1.0)))
    x, g, w = data((3, 5, 40)), data((3, 5, 40), seed=1), np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    with np.errstate(all="ignore"):
        for _ in range(REPEATS + 2):
            equal(slope(g, x, w), g * np.where(x > 0, w, np.float32(1)))
