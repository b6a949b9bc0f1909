"""The floating-point mode of the calling thread changes no bit: flushed denormals, rounding down, up and towards zero."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import platform
import sys
import threading

import numpy as np
import pytest

import preimage as pre
from preimage import floating_point, nn, ops, optim

#: C's names of rounding, as fesetround takes them.
ROUNDING = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x800000, 0x400000, 0xC00000)}.get(platform.machine(), ())
C = ctypes.CDLL(ctypes.util.find_library("m"))


@contextlib.contextmanager
def rounded(mode):
    C.fesetround(mode)
    try:
        yield
    finally:
        C.fesetround(0)


@contextlib.contextmanager
def flushed():
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


MODES = [flushed, *[lambda mode=mode: rounded(mode) for mode in ROUNDING]]
IDS = ["flushed", *[f"round {mode:#x}" for mode in ROUNDING]]


def net():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 2, 3, stride=2), nn.Flatten(), nn.Linear(390, 3)
    )


def numbers(shape, least, seed):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 2.0 ** rng.integers(least, 1, shape)).astype(np.float32)


X = numbers((3, 4, 9, 8), -140, 0)  # a tenth of them denormal, most of their products
WEIGHTS = [numbers(p.shape, -10, k) for k, p in enumerate(net().parameters(), 1)]


def work():
    """Layers forward and back, reductions, an optimiser step."""
    model = net()
    parameters = list(model.parameters())
    for p, value in zip(parameters, WEIGHTS, strict=True):
        p.assign(value.copy())
    step = optim.Adam(parameters, lr=1e-3)
    loss = nn.cross_entropy(model(pre.Tensor(X)), np.array([0, 1, 2]))
    loss.backward()
    norm = optim.clip_grad_norm(parameters, 0.5)
    step.step()
    results = [loss.data, np.float64(norm), *[p.data for p in parameters], *[p.grad.data for p in parameters]]
    for op in (
        ops.sum,
        ops.mean,
        ops.var,
        ops.softmax,
        ops.log_softmax,
        ops.logsumexp,
        ops.tanh,
        lambda v: ops.standardize(v, (2, 3)),
    ):
        results.append(op(X))
    results += [ops.multiply(X, X), ops.avg_pool(X, 3), ops.conv(X, X[:2]), ops.conv_weight_grad(X, X[:, :2], kernel_size=1)]
    return [np.asarray(r).tobytes() for r in results]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_the_threads_mode_changes_no_bit(mode, threads):
    with pre.config(threads=threads):
        want = work()
        with mode():
            assert floating_point.is_changed()
            got = work()
            assert floating_point.is_changed()  # the thread has its own mode again
    assert not floating_point.is_changed()
    assert [k for k, (a, b) in enumerate(zip(got, want, strict=True)) if a != b] == []


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_the_mode_would_change_bits(mode, monkeypatch):
    """Without the library's own mode the same work gives others: the test above can fail."""
    want = work()
    for module in (floating_point, sys.modules["preimage.autograd.primitive"]):
        monkeypatch.setattr(module, "SMALL", 0.0)  # no mode looks changed
    with mode():
        got = work()
    assert got != want


def test_a_mode_that_cannot_be_set(monkeypatch):
    monkeypatch.setattr(floating_point, "_functions", lambda: (lambda where: 0, lambda where: 0, None))
    with MODES[-1](), pytest.raises(pre.errors.EngineError, match="fesetenv changes nothing"):
        ops.multiply(X, X)


def test_another_threads_workers():
    """A pool that a thread with flushed denormals starts serves other threads as well."""
    code = []
    with pre.config(threads=2):
        want = work()

    def run():
        with pre.config(threads=3), flushed():
            code.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    with pre.config(threads=3):
        assert code == [want]
        assert work() == want
