"""Generated kernels of a training step against NumPy: gradients of activations, normalisation, optimisers."""

from __future__ import annotations

import numpy as np
import pytest
from around_kernels import SHAPE, beside, data, laid, same

import preimage as pre
from preimage import ops

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_gradients_of_relu(slope, layout, dtype):
    x = laid(data(dtype=dtype), layout)
    g = laid(data(dtype=dtype, seed=1), layout)

    def gradient(v):
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            return pre.grad(ops.leaky_relu(t, slope) if slope else ops.relu(t), t, g).data

    same(*beside(gradient, x))


NORMS = {
    "batch": lambda dtype: pre.nn.BatchNorm2d(21, dtype=dtype),
    "batch, plain": lambda dtype: pre.nn.BatchNorm2d(21, affine=False, dtype=dtype),
    "instance": lambda dtype: pre.nn.InstanceNorm2d(21, affine=True, dtype=dtype),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("name", NORMS)
def test_normalisation_and_its_gradients(name, layout, dtype):
    rng = np.random.default_rng(13)
    x = (rng.standard_normal(SHAPE) * 2 + 3).astype(dtype)
    g = rng.standard_normal(SHAPE).astype(dtype)
    w, b = rng.standard_normal(21).astype(dtype), rng.standard_normal(21).astype(dtype)

    def run(v):
        net = NORMS[name](v.dtype)
        if net.weight is not None:
            net.weight.assign(w.astype(v.dtype))
            net.bias.assign(b.astype(v.dtype))
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            y = net(t)
            leaves = [t, *net.parameters()]
            gradients = pre.grad(y, leaves, g.astype(v.dtype))
        running = [np.asarray(net.running_mean), np.asarray(net.running_var)] if name.startswith("batch") else []
        return [y.data, *(a.data for a in gradients), *running]

    got, _ = beside(run, laid(x, layout))
    with pre.config(engine="gemm"):
        want = run(x.astype(np.float64))
    assert got[0].dtype == dtype
    for a, e in zip(got, want, strict=True):
        scale = np.abs(e).max()
        assert np.abs(a - e).max() <= (3e-6 if dtype == np.float32 else 1e-13) * scale
    again = run(laid(x, "channels_first"))
    with pre.config(threads=1), kernels.use_target("avx2"):
        narrow = run(laid(x, "channels_last"))
    for a, e, n in zip(got, again, narrow, strict=True):
        same(a, e)
        same(n, e)


def test_second_gradients_of_normalisation():
    x = pre.Tensor(np.random.default_rng(14).standard_normal((3, 4, 5, 6)), requires_grad=True)
    net = pre.nn.BatchNorm2d(4, dtype=np.float64)

    def second():
        (g,) = pre.grad((net(x) ** 3).sum(), [x], create_graph=True)
        return [g.data, *(a.data for a in pre.grad((g * g).sum(), [x, net.weight]))]

    got = second()
    with pre.config(engine="gemm"):
        want = second()
    for a, e in zip(got, want, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


OPTIMISERS = {
    "sgd": lambda p: pre.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3, dampening=0.2),
    "nesterov": lambda p: pre.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: pre.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: pre.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimiser_steps_round_as_numpy(name, dtype):
    rng = np.random.default_rng(15)
    start = rng.standard_normal((40, 30, 3, 3)).astype(dtype)
    gradients = [rng.standard_normal(start.shape).astype(dtype) for _ in range(4)]

    def train(value):
        p = pre.Tensor(value.copy(), requires_grad=True)
        opt = OPTIMISERS[name]([p])
        for g in gradients:
            p.grad = pre.Tensor(g)
            opt.step()
        return p.data

    same(*beside(train, start))
