"""The whole way on a fake driver whose launches are simulated: the engine, arrays of other libraries. Bits are those of jit."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest
from cases import arrays, differing, geometry, same_bits
from fake_arrays import fake_library
from simulated_driver import simulated_gpu

import preimage as pre
from preimage.engines.base import Epilogue
from preimage.engines.cuda.engine import CudaEngine
from preimage.errors import EngineError


@pytest.fixture
def gpu(monkeypatch):
    return simulated_gpu(monkeypatch)


def test_the_engine_by_the_driver(monkeypatch):
    """Kernels are the PTX that a GPU would get, for its compute capability, by way of the cache."""
    device, fake = simulated_gpu(monkeypatch, compiled=True)
    rng, engine = np.random.default_rng(11), CudaEngine(device)
    for dtype in (np.float32, np.float16):
        g = geometry(rng, 2)
        assert differing(engine, g, arrays(rng, g, dtype)) == []
    assert len(fake.launches) >= 6
    assert all(".target sm_90" in text and "fma.rn.f32" in text for text in fake.modules.values() if "Gather" in text)
    assert not [c for c in fake.calls if c[0] == "raised"]


@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_arrays_of_other_libraries_by_the_driver(gpu, name, monkeypatch):
    """Forward with an epilogue, prepared weights, both gradients of contractions; on the library's stream, nothing copied up or down."""
    _, fake = gpu
    library, rng = fake_library(name), np.random.default_rng(12)
    monkeypatch.setitem(sys.modules, name, library)
    monkeypatch.setattr(fake, "_inside", lambda address, size: True)  # the library's memory is the host's
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 5, 9, 8), (7, 5, 3, 2), (7,)))
    options = {"stride": (2, 1), "padding": ((1, 0), (0, 2))}
    want = pre.conv(x, w, b, activation="relu", **options)
    y = rng.standard_normal(want.shape).astype(np.float32)
    up = library.asarray
    got = pre.conv(up(x), pre.prepare(up(w)), up(b), activation="relu", **options)
    assert same_bits(library.asnumpy(got), want)
    with pre.config(engine="jit"):
        gx, gw = (
            pre.conv_transpose(y, w, output_size=x.shape[2:], **options),
            pre.conv_weight_grad(x, y, kernel_size=(3, 2), **options),
        )
    t, tw = pre.Tensor(up(x), requires_grad=True), pre.Tensor(up(w), requires_grad=True)
    pre.conv(t, tw, **options).backward(up(y))
    assert same_bits(library.asnumpy(t.grad.data), gx)
    assert same_bits(library.asnumpy(tw.grad.data), gw)
    assert {launch["stream"] for launch in fake.launches} == {7}
    assert "cuMemcpyDtoHAsync_v2" not in [c[0] for c in fake.calls if c[0].startswith("cuMemcpyDtoH") and c[3] > 8]


def test_empty_operands_give_the_librarys_arrays(gpu, monkeypatch):
    torch, (_, fake) = fake_library("torch"), gpu
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(fake, "_inside", lambda address, size: True)
    x, w, y = (torch.asarray(np.zeros(s, np.float32)) for s in ((0, 2, 5), (3, 2, 2), (0, 3, 4)))
    made = pre.conv(x, w), pre.conv_transpose(y, w), pre.conv_weight_grad(x, y, kernel_size=2)
    assert [type(m) for m in made] == [torch.Tensor] * 3
    assert [m.shape for m in made] == [(0, 3, 4), (0, 2, 5), (3, 2, 2)]
    assert not torch.asnumpy(made[2]).any()


def test_a_thousand_calls_of_the_engine_leave_nothing(monkeypatch):
    """Results are not computed here; what is taken and given back is."""
    device, fake = simulated_gpu(monkeypatch)
    fake.run = None
    engine, held = CudaEngine(device), []
    x, w, y = (np.ones(s, np.float32) for s in ((1, 2, 6), (3, 2, 3), (1, 3, 4)))
    g = pre.ConvGeometry.from_conv(x.shape, w.shape)
    for k in range(334):
        engine.conv(g, x, w, Epilogue(np.ones(3, np.float32)))
        engine.conv_transpose(g, y, w)
        engine.conv_weight_grad(g, x, y)
        if k in (30, 333):
            gc.collect()
            held.append((fake.used, len(fake.modules), len(fake.events), len(fake.allocated)))
        fake.calls.clear()
        fake.launches.clear()
    assert held[0] == held[1]


@pytest.mark.parametrize(
    "name", ["cuLaunchKernel", "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuModuleLoadDataEx"]
)
def test_a_failure_in_the_middle_of_a_call_is_ours_and_leaves_nothing(monkeypatch, name):
    device, fake = simulated_gpu(monkeypatch)
    engine, x, w = CudaEngine(device), np.ones((1, 2, 6), np.float32), np.ones((3, 2, 3), np.float32)
    g = pre.ConvGeometry.from_conv(x.shape, w.shape)
    engine.conv(g, x, w)
    gc.collect()
    before = fake.used
    if name in ("cuModuleLoadDataEx", "cuMemAlloc_v2"):
        device.trim()  # so that there is something to load, and to take
        before = fake.used
    fake.fail(name, 1, 719 if name == "cuLaunchKernel" else 1)
    with pytest.raises(EngineError):
        engine.conv(g, x, w)
    gc.collect()
    assert fake.used <= before + 8192  # what is kept for a later call
