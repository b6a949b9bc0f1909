"""1x1 layers of channels-first arrays as matrix products: the values, and the bits of the other strategies."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

import oracle
from geometries import operands
from preimage.engines.base import Epilogue
from preimage.engines.jit import select
from preimage.engines.jit.conv.pointwise import Pointwise
from preimage.engines.jit.engine import JitEngine
from preimage.geometry import ConvGeometry
from preimage.settings import config

JIT = JitEngine()
pytestmark = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))


@pytest.fixture
def engines(monkeypatch):
    """One engine that takes products wherever it can, and one that never does; how often the first did."""
    planned, taken = select.pointwise, []

    def always(r):
        found = planned(r)
        taken.append(isinstance(found, Pointwise))
        return replace(found, cost=-1.0) if isinstance(found, Pointwise) else found

    class Never(JitEngine):
        def lower(self, r):
            with monkeypatch.context() as here:
                here.setattr(select, "pointwise", lambda r: "not here")
                return super().lower(r)

    monkeypatch.setattr(select, "pointwise", always)
    return JitEngine(), Never(), taken


def _case(rng):
    groups, batch, ndim = rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2, 5)), rng.choice((1, 2, 2, 3))
    c, k = groups * rng.choice((2, 3, 7, 33, 70, 300)), groups * rng.choice((1, 2, 5, 13, 40))
    size = [rng.choice((1, 2, 5, 9, 17)) for _ in range(ndim - 1)] + [rng.choice((8, 9, 31, 64, 100))]
    return ConvGeometry.from_conv((batch, c, *size), (k, c // groups, *[1] * ndim), groups=groups)


def test_values_and_bits(engines):
    ours, others, taken = engines
    rng, numbers = random.Random(3), np.random.default_rng(3)
    for _ in range(60):
        g = _case(rng)
        with config(threads=rng.choice((1, 2))):
            x, w, y = operands(g, numbers)
            for name, a in (("conv", x), ("conv_transpose", y)):
                assert np.array_equal(getattr(ours, name)(g, a, w), getattr(oracle, name)(a, w, oracle.sizes_of(g))), (name, g)
                a, v = (numbers.standard_normal(m.shape).astype(rng.choice(("f4", "f8", "f2"))) for m in (a, w))
                v = v.astype(a.dtype)
                result = g.out_channels if name == "conv" else g.in_channels
                bias = numbers.standard_normal(result).astype(a.dtype)
                epilogue = rng.choice((None, Epilogue(bias=bias), Epilogue(bias=bias, activation="relu")))
                one, other = (getattr(engine, name)(g, a, v, epilogue=epilogue) for engine in (ours, others))
                assert one.tobytes() == other.tobytes(), (name, g, a.dtype)
    assert sum(taken) > 100


def test_arrays_that_are_parts_of_others(engines):
    """Channels of a larger input, and every other image of it: lines that are whole, at any distance."""
    ours, others, taken = engines
    x = np.random.default_rng(0).standard_normal((6, 20, 7, 9)).astype("f4")[::2, 3:11]
    w = np.random.default_rng(1).standard_normal((12, 4, 1, 1)).astype("f4")
    g = ConvGeometry.from_conv(x.shape, w.shape, groups=2)
    assert ours.conv(g, x, w).tobytes() == others.conv(g, x, w).tobytes() == ours.conv(g, x.copy(), w).tobytes()
    assert all(taken)


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (ConvGeometry.from_conv((1, 8, 9, 9), (4, 8, 3, 3)), "not every output position"),
        (ConvGeometry.from_conv((1, 8, 9, 9), (4, 8, 1, 1), stride=2), "not every output position"),
        (ConvGeometry.from_conv((1, 8, 9, 9), (4, 8, 1, 1), padding=1), "not every output position"),
        (ConvGeometry.from_conv((1, 8, 1, 3), (4, 8, 1, 1)), "do not fill a vector"),
    ],
)
def test_why_there_is_no_product(geometry, words):
    plan = JIT.plan(geometry, "conv", np.dtype("f4"))
    assert words in plan.refused["matrix product"]
    last = JIT.plan(ConvGeometry.from_conv((1, 8, 9, 9), (4, 8, 1, 1)), "conv", np.dtype("f4"), channels_last=True)
    assert "not neighbours" in last.refused["matrix product"]


@pytest.mark.parametrize("sizes", [(216, 214), (63, 62), (64, 62)])
def test_a_transpose_whose_result_is_longer_reads_nothing_behind_its_input(sizes):
    """output_padding up to dilation - 1: the audit found what lies behind the input among the results."""
    large, small = sizes
    rng = np.random.default_rng(large)
    geometry = ConvGeometry(2, 15, 25, 5, (large,), (small,), (1,), (1,), ((0, 0),), (3,))
    memory = rng.integers(1, 5, (2, 25, small + 2)).astype(np.float32)  # no zeros behind any line
    y, w = memory[..., :small], rng.integers(1, 5, (25, 3, 1)).astype(np.float32)
    want = np.zeros((2, 15, large), np.float32)
    want[..., :small] = np.einsum("ngop,goi->ngip", y.reshape(2, 5, 5, small), w.reshape(5, 5, 3)).reshape(2, 15, small)
    for given in (np.ascontiguousarray(y), y):
        np.testing.assert_array_equal(JIT.conv_transpose(geometry, given, w), want)
    x = rng.integers(1, 5, (2, 15, large)).astype(np.float32)
    there = np.einsum("ngip,goi->ngop", x[..., :small].reshape(2, 5, 3, small), w.reshape(5, 5, 3)).reshape(2, 25, small)
    np.testing.assert_array_equal(JIT.conv(geometry, x, w), there)
