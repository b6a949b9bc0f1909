"""Chains and channel sums on a device: the bits of the CPU's kernels; whole nets of arrays that lie there, forward and back."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
from cases import same_bits
from fake_arrays import fake_library
from simulated_driver import simulated_gpu

import preimage as pre
from preimage import ops
from preimage.autograd.device_arrays import device_array
from preimage.engines import get
from preimage.engines.sums import sum_over
from preimage.errors import EngineError

RNG = np.random.default_rng(3)


@pytest.fixture
def torch(monkeypatch):
    """Arrays of a fake torch, whose memory is that of a driver that simulates launches."""
    _, fake = simulated_gpu(monkeypatch)
    library = fake_library("torch")
    library.bfloat16 = ml_dtypes.bfloat16
    monkeypatch.setitem(sys.modules, "torch", library)
    monkeypatch.setattr(fake, "_inside", lambda address, size: True)  # the library's memory is the host's
    return library


def down(made):
    return np.array(made.owner._values)


def up(torch, values):
    return device_array(torch.asarray(values))


STEPS = (("mul", (0, 2)), ("add", (4, 1)), ("sigmoid", (5,)), ("if_positive", (0, 6, 3)), ("maximum", (6, 7)))


@pytest.mark.parametrize("shapes", [((2, 3, 5, 4), (3, 1, 1)), ((3, 7), (3, 7)), ((5,), ())])
def test_a_chain_has_the_bits_of_the_cpu(torch, shapes):
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in shapes)
    a.flat[:3] = np.nan, np.inf, -0.0
    numbers, results = (0.7, -1.25), (5, 8)
    got = get("cuda").kernels.run_chain((up(torch, a), up(torch, b)), STEPS, numbers, results)
    want = get("jit").kernels.run_chain((a, b), STEPS, numbers, results)
    assert [same_bits(down(g), w) for g, w in zip(got, want, strict=True)] == [True, True]


def test_results_lie_as_the_operand_does_and_16_bits_are_rounded_once(torch):
    a = np.moveaxis(RNG.standard_normal((2, 5, 4, 3)).astype(np.float16), -1, 1)
    last = device_array(torch.asarray(np.ascontiguousarray(np.moveaxis(a, 1, -1)))).moved_axis(-1, 1)
    (got,) = get("cuda").kernels.run_chain((last,), (("exp", (0,)), ("mul", (1, 0))))
    assert got.strides == last.strides
    (want,) = get("jit").kernels.run_chain((a,), (("exp", (0,)), ("mul", (1, 0))), dtype=np.dtype(np.float32))
    assert same_bits(down(got), want.astype(np.float16))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_channel_sums_have_the_order_of_the_contract(torch, last, dtype):
    x = RNG.standard_normal((3, 5, 41, 27)).astype(dtype)  # three blocks an image, the last of them short
    there = up(torch, x)
    if last:
        there = device_array(torch.asarray(np.ascontiguousarray(np.moveaxis(x, 1, -1)))).moved_axis(-1, 1)
    kernels = get("cuda").kernels
    assert same_bits(down(kernels.channel_sums(there, "plain", False)[0]), sum_over(x, (2, 3)))
    assert same_bits(down(kernels.channel_sums(there, "plain", True)[0]), sum_over(x, (0, 2, 3)))


def test_channel_sums_of_arrays_with_gaps_and_of_none(torch):
    x = RNG.standard_normal((2, 3, 6, 5)).astype(np.float32)
    gaps = device_array(torch.asarray(x).permute((0, 1, 3, 2)))
    kernels = get("cuda").kernels
    assert same_bits(down(kernels.channel_sums(gaps, "plain", True)[0]), sum_over(x.transpose(0, 1, 3, 2), (0, 2, 3)))
    assert not down(kernels.channel_sums(up(torch, x[:0]), "plain", True)[0]).any()


def test_what_is_not_there_is_said(torch):
    a, b = up(torch, np.ones(3, np.float32)), up(torch, np.ones(3, np.float16))
    with pytest.raises(EngineError, match="one dtype, got float32, float16"):
        get("cuda").kernels.run_chain((a, b), (("add", (0, 1)),))
    with pytest.raises(EngineError, match="no sin"):
        get("cuda").kernels.run_chain((a,), (("sin", (0,)),))
    with pytest.raises(EngineError, match="no 'squares'"):
        get("cuda").kernels.channel_sums(a, "squares", True)


def test_numpy_arrays_are_left_to_numpy():
    x = RNG.standard_normal((2, 40_000)).astype(np.float32)
    with pre.config(engine="cuda", device="simulator"):
        assert same_bits(ops.relu(x), np.maximum(x, 0))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_net_forward_and_back(torch, activation):
    """Bias, residual, activations that record, arithmetic, a leaf that is used twice: every gradient has the bits of the CPU."""
    x, w, b, v = (RNG.standard_normal(s).astype(np.float32) for s in ((2, 3, 6, 5), (3, 3, 3, 3), (3,), (3, 2, 2, 2)))
    seed = RNG.standard_normal((2, 2, 12, 10)).astype(np.float32)

    def net(there):
        t, tw, tb, tv = leaves = [pre.Tensor(there(a), requires_grad=True) for a in (x, w, b, v)]
        y = pre.conv(t, tw, tb, padding=1, activation=activation)
        y = ops.tanh(pre.conv(y, tw, tb, padding=1, residual=t)) * 2.0 + y
        z = pre.conv_transpose(ops.leaky_relu(y), tv, stride=2)
        z.backward(there(seed))
        return [z.data, *(leaf.grad.data for leaf in leaves)]

    with pre.config(engine="jit"):
        want = net(np.array)
    for got, wanted in zip(net(torch.asarray), want, strict=True):
        assert same_bits(torch.asnumpy(got), wanted)
