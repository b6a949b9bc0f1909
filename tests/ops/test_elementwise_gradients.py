"""Gradients as one chain: the bits of the operations that they stand for, and one launch."""

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines import around
from preimage.engines.decisions import forget_shortcuts

SIZE = (3, 5, 700)  # more elements than a chain wants

FUNCTIONS = {
    "hardswish": ops.hardswish,
    "silu": ops.silu,
    "mish": ops.mish,
    "gelu": ops.gelu,
    "gelu by tanh": lambda x: ops.gelu(x, "tanh"),
    "hardsigmoid": ops.hardsigmoid,
    "hardsigmoid of -0": lambda x: ops.hardsigmoid(x, -0.0, 0.5),
    "hardtanh": lambda x: ops.hardtanh(x, -0.7, 0.9),
    "sigmoid": ops.sigmoid,
    "tanh": ops.tanh,
    "softplus": lambda x: ops.softplus(x, 1.7),
    "softsign": ops.softsign,
    "elu": lambda x: ops.elu(x, 0.7),
    "selu": ops.selu,
    "celu": lambda x: ops.celu(x, 1.3),
}


def data(dtype):
    """Values around every bend, ends of the range, what is not finite, zeros of both signs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SIZE) * 4
    hard = [0.0, -0.0, 3, -3, 0.7, -0.7, 0.9, 1e-30, -1e-30, 60, -60, 2000, -2000, np.inf, -np.inf, np.nan, 1e38, -1e38]
    x.reshape(-1)[: len(hard)] = hard
    with np.errstate(over="ignore"):
        return x.astype(dtype), rng.standard_normal(SIZE).astype(dtype)


def bits(a):
    """The bits, with one NaN for all."""
    a = np.array(a)
    a[np.isnan(a)] = np.nan
    return a.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_bits_are_those_of_the_operations(name, dtype):
    x, g = data(dtype)

    def gradient():
        t = pre.Tensor(x, requires_grad=True)
        FUNCTIONS[name](t).backward(g)
        return t.grad.data

    with pre.config(engine="jit"):
        fused = gradient()
        recorded = pre.Tensor(x, requires_grad=True)
        apart = pre.grad(FUNCTIONS[name](recorded), recorded, pre.Tensor(g), create_graph=True).data
        assert bits(fused) == bits(apart)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gradient_is_one_chain(name, monkeypatch):
    x, g = data(np.float32)
    seen = []
    chain = around.chain
    with pre.config(engine="jit"):
        t = pre.Tensor(x, requires_grad=True)
        y = FUNCTIONS[name](t)
        forget_shortcuts()  # a call that came before says nothing
        monkeypatch.setattr(around, "chain", lambda *a, **k: (seen.append(a), chain(*a, **k))[1])
        y.backward(g)
    assert len(seen) == 1
