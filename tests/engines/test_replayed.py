"""Functions of several kernels that are run as one call have the bits of the function, and what they cannot keep they leave to it."""

import threading

import numpy as np
import pytest

import preimage as pre
from preimage import nn
from preimage.engines import around, replayed, replayer
from preimage.engines.recording import Recorder
from preimage.engines.replayed import BEFORE, Replayed

pytestmark = pytest.mark.skipif(isinstance(replayer(), str), reason="no engine here runs recorded kernels")


def made_of(counted):
    def function(x, y, *, factor):
        counted.append(x.shape)
        (product,) = around.chain((x, y), (("mul", (0, 1)), ("mul", (3, 2))), (factor,), (4,), 1)
        around.expect_finite(product)
        return product, around.sum_over(product, (1,))

    return Replayed(function)


def arrays(seed, shape=(6, 40), dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_are_the_functions(dtype, threads):
    counted = []
    call = made_of(counted)
    with pre.config(threads=threads):
        for k in range(BEFORE + 5):
            x, y = arrays(k, dtype=dtype)
            product, total = call(x, y, factor=0.5)
            assert product.tobytes() == (x * y * dtype(0.5)).tobytes()
            assert total.tobytes() == around.sum_over(x * y * dtype(0.5), (1,)).tobytes()
        assert len(counted) == BEFORE + 1  # once more to be recorded
        first, _ = call(*arrays(0, dtype=dtype), factor=0.5)
        before = first.copy()
        call(*arrays(1, dtype=dtype), factor=0.5)
        assert first.tobytes() == before.tobytes()  # results are the caller's


def test_how_arrays_lie_and_options_tell_calls_apart():
    counted = []
    call = made_of(counted)
    x, y = arrays(0, (40, 40))
    for _ in range(BEFORE + 2):
        call(x, y, factor=0.5)
    seen = len(counted)
    found, _ = call(x.T, y, factor=0.5)
    assert found.tobytes() == np.ascontiguousarray(x.T * y * np.float32(0.5)).tobytes() or np.array_equal(
        found, x.T * y * np.float32(0.5)
    )
    assert np.array_equal(call(x, y, factor=2.0)[0], x * y * np.float32(2))
    assert len(counted) == seen + 2


def test_a_guard_that_does_not_hold_leaves_it_to_the_function():
    counted = []
    call = made_of(counted)
    x, y = arrays(0)
    for _ in range(BEFORE + 2):
        call(x, y, factor=1.0)
    seen = len(counted)
    x[2, 3] = np.nan
    assert np.isnan(call(x, y, factor=1.0)[0][2, 3])
    assert len(counted) == seen + 1


def test_what_numpy_computes_is_not_recorded():
    counted = []

    def function(x):
        counted.append(0)
        return (np.sin(x),)

    call = Replayed(function)
    x, _ = arrays(0)
    for _ in range(BEFORE + 4):
        assert np.array_equal(call(x)[0], np.sin(x))
    assert len(counted) == BEFORE + 5  # the try, and every call


def test_large_arrays_empty_ones_and_recorders():
    counted = []
    call = made_of(counted)
    shape = (2, replayed.MOST_ELEMENTS // 4 + 1)
    for _ in range(BEFORE + 3):
        call(*arrays(0, shape), factor=1.0)
    assert len(counted) == BEFORE + 3
    x, y = arrays(0)
    for _ in range(BEFORE + 2):
        call(x, y, factor=1.0)
    seen, recorder = len(counted), Recorder()
    with recorder:
        call(recorder.watch(x), recorder.watch(y), factor=1.0)
    assert len(counted) == seen + 1
    assert recorder.steps


def test_threads_share_a_recording():
    call = made_of([])
    x, y = arrays(3)
    wanted = [r.copy() for r in call(x, y, factor=1.0)]
    wrong = []

    def work():
        for _ in range(60):
            if any(a.tobytes() != b.tobytes() for a, b in zip(call(x, y, factor=1.0), wanted, strict=True)):
                wrong.append(0)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(5), nn.InstanceNorm2d(5, affine=True, track_running_stats=True)])
@pytest.mark.parametrize("slope", [None, 0.0, 0.1])
def test_batch_norm_has_the_same_bits_from_the_first_call_on(layer, slope):
    behind = [] if slope is None else [nn.LeakyReLU(slope) if slope else nn.ReLU()]
    net = nn.Sequential(layer, *behind)
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((3, 5, 6, 7)).astype(np.float32) for _ in range(2))
    seen = []
    for k in range(BEFORE + 4):
        t = pre.Tensor(x, requires_grad=True)
        net.zero_grad()
        y = net(t)
        y.backward(g)
        seen.append([y.data.tobytes(), t.grad.data.tobytes(), *[p.grad.data.tobytes() for p in net.parameters()]])
        if k == BEFORE + 2:  # a channel whose squares overflow, in between
            huge = x.copy()
            huge[:, 2] *= np.float32(1e30)
            assert np.isfinite(net(pre.Tensor(huge)).data).all()
    assert all(s == seen[0] for s in seen)
