"""Warm calls (`ops.warm`, `runtime.program_call`) give what the long way gives, and step aside where they must."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import threading
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage import ops
from preimage.engines import decisions, get
from preimage.engines.jit.runtime import native_function, pool, program_call
from preimage.engines.recording import Recorder
from preimage.ops import warm

pytestmark = pytest.mark.skipif(pre.engines()["jit"] != "available", reason="jit cannot run here")


@dataclass(frozen=True)
class Call:
    what: str
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None]
    options: dict[str, Any]
    dtype: str

    def arrays(self, rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.integers(-9, 10, shape).astype(self.dtype) / 4 for shape in self.shapes if shape is not None]

    def __call__(self, arrays: list[np.ndarray]) -> np.ndarray:
        return getattr(pre, self.what)(*arrays, **self.options)

    def cold(self, arrays: list[np.ndarray]) -> np.ndarray:
        with decisions.recording():  # no shortcut is taken, and none kept
            return self(arrays)


def drawn(rng: np.random.Generator) -> Call:
    """A small call of random geometry."""
    while True:
        call = _maybe(rng)
        if call is not None:
            return call


def _maybe(rng: np.random.Generator) -> Call | None:
    ndim = int(rng.integers(1, 4))
    groups, n = int(rng.choice([1, 1, 2, 3])), int(rng.choice([1, 1, 2, 3]))
    c, k = groups * int(rng.integers(1, 6)), groups * int(rng.integers(1, 9))
    kernel = [int(v) for v in rng.integers(1, 4, ndim)]
    stride, dilation, padding = int(rng.choice([1, 1, 2, 3])), int(rng.choice([1, 1, 2])), int(rng.integers(0, 3))
    sequence = rng.choice([int, list, tuple])  # as which the options are given
    size = [int(v) + dilation * (q - 1) + 1 for v, q in zip(rng.integers(0, 9, ndim), kernel, strict=True)]
    out = [(s + 2 * padding - dilation * (q - 1) - 1) // stride + 1 for s, q in zip(size, kernel, strict=True)]
    back = [(o - 1) * stride + dilation * (q - 1) + 1 - 2 * padding for o, q in zip(out, kernel, strict=True)]
    if min(back) < 1:
        return None
    last = bool(rng.integers(2))
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if sequence is not int:
        options |= {name: sequence([options[name]] * ndim) for name in ("stride", "padding", "dilation")}
    options["layout"] = "channels_last" if last else "channels_first"

    def laid(channels: int, sizes: list[int]) -> tuple[int, ...]:
        return (n, *sizes, channels) if last else (n, channels, *sizes)

    what = str(rng.choice(["conv", "conv_transpose", "conv_weight_grad"]))
    weight = (k, c // groups, *kernel)
    dtype = str(rng.choice(["float32", "float32", "float64", "float16"]))
    if what == "conv":
        return Call(what, (laid(c, size), weight, (k,) if rng.integers(2) else None), options, dtype)
    if what == "conv_transpose":
        return Call(what, (laid(k, out), weight, (c,) if rng.integers(2) else None), options, dtype)
    return Call(what, (laid(c, size), laid(k, out), None), options | {"kernel_size": tuple(kernel)}, dtype)


def meant(a: np.ndarray) -> list[int]:
    """The strides of axes that have more than one index."""
    return [stride for stride, size in zip(a.strides, a.shape, strict=True) if size > 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_memory_order(threads):
    rng = np.random.default_rng(threads)
    served = 0
    with pre.config(threads=threads):
        for _ in range(120):
            call = drawn(rng)
            for _ in range(4):
                arrays = call.arrays(rng)
                got, wanted = call(arrays), call.cold(arrays)
                assert meant(got) == meant(wanted), call
                assert got.dtype == wanted.dtype
                assert got.tobytes() == wanted.tobytes(), call
                call(arrays)
                call(arrays)
                again = call(arrays)  # warm by now: recordings forget
                assert again.tobytes() == wanted.tobytes(), call
                assert meant(again) == meant(wanted), call
            served += any(found is not None for found in warm.calls.values())
    assert served >= 80  # a weight gradient that leaves padding out has no such call: it looks at its result


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_counts_over_the_padding(value):
    x, w = np.ones((1, 2, 9, 9), np.float32), np.ones((4, 2, 3, 3), np.float32)
    call = Call("conv", ((1, 2, 9, 9), (4, 2, 3, 3), None), {"padding": 1}, "float32")
    for _ in range(3):
        call([x, w])
    w[1, 0, 0, 0] = value
    got = call([x, w])
    assert np.isnan(got[0, 1, 0, 0])
    np.testing.assert_array_equal(got, call.cold([x, w]))


def test_prepared_weights():
    rng = np.random.default_rng(9)
    x, b = rng.integers(-9, 10, (2, 3, 8, 7)).astype(np.float32), rng.integers(-9, 10, 5).astype(np.float32)
    first, second = (rng.integers(-9, 10, (5, 3, 3, 3)).astype(np.float32) for _ in range(2))
    prepared = pre.prepare(first)
    for _ in range(4):
        np.testing.assert_array_equal(pre.conv(x, prepared, b, padding=1), pre.conv(x, first, b, padding=1))
    assert all(found is not None for found in warm.calls.values())
    prepared.refresh(second)
    np.testing.assert_array_equal(pre.conv(x, prepared, b, padding=1), pre.conv(x, second, b, padding=1))
    for _ in range(4):
        np.testing.assert_array_equal(pre.conv(x, pre.prepare(second), b, padding=1), pre.conv(x, second, b, padding=1))
    second[0, 0, 0, 0] = np.nan
    prepared.refresh(second)
    for _ in range(4):
        np.testing.assert_array_equal(pre.conv(x, prepared, b, padding=1), pre.conv(x, second, b, padding=1))
    assert np.isnan(pre.conv(x, prepared, b, padding=1)[:, 0]).all(axis=(1, 2)).all()


def test_options_that_are_equal_but_no_integers_are_refused_as_ever():
    x, w = np.ones((1, 2, 9), np.float32), np.ones((4, 2, 3), np.float32)
    for _ in range(3):
        pre.conv(x, w, stride=1)
        pre.conv(x, w, stride=(1,))
        pre.conv_weight_grad(x, np.ones((1, 4, 7), np.float32), kernel_size=(3,))
    with pytest.raises(pre.PreimageError, match=r"integer, got 1\.0"):
        pre.conv(x, w, stride=1.0)
    with pytest.raises(pre.PreimageError, match=r"integer, got True|True"):
        pre.conv(x, w, stride=(True,))
    with pytest.raises(pre.PreimageError, match=r"integer, got 3\.0"):
        pre.conv_weight_grad(x, np.ones((1, 4, 7), np.float32), kernel_size=(3.0,))


def odd(a: np.ndarray) -> np.ndarray:
    """The same values where no element can begin."""
    memory = np.zeros(a.nbytes + 1, np.uint8)
    same = memory[1:].view(a.dtype).reshape(a.shape)
    same[...] = a
    assert not same.flags.aligned
    return same


def test_arrays_that_lie_oddly():
    rng = np.random.default_rng(3)
    x, w, b = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((2, 3, 8, 7), (5, 3, 3, 3), (5,)))
    wanted = pre.conv(x, w, b)
    for _ in range(3):
        pre.conv(x, w, b)
    for given in ((odd(x), w, b), (x, odd(w), b), (x, w, odd(b)), (x[::1, :, ::-1][:, :, ::-1], w, b)):
        np.testing.assert_array_equal(pre.conv(*given), wanted)
    np.testing.assert_array_equal(pre.conv(x[:, :, ::-1], w, b), pre.conv(x[:, :, ::-1].copy(), w, b))
    a = rng.integers(-9, 10, (6, 6)).astype(np.float32)
    wanted = ops.matmul(a, a)
    for given in (a, odd(a), np.asfortranarray(a)):
        for _ in range(3):
            np.testing.assert_array_equal(ops.matmul(given, a), wanted)


def test_bytes_in_another_order_are_no_plain_array():
    x, w = np.arange(18.0, dtype=np.float32).reshape(1, 2, 9), np.arange(24.0, dtype=np.float32).reshape(4, 2, 3)
    y, b = pre.conv(x, w), np.arange(4.0, dtype=np.float32)
    cases = [
        (pre.conv, (x, w, b), {}),
        (pre.conv_transpose, (y, w, b[:2]), {}),
        (pre.conv_weight_grad, (x, y), {"kernel_size": 3}),
    ]
    for function, arrays, options in cases:
        wanted = function(*arrays, **options)
        for which in range(1, 1 << len(arrays)):
            given = [a.astype(">f4") if which >> k & 1 else a for k, a in enumerate(arrays)]
            for _ in range(4):
                np.testing.assert_array_equal(function(*given, **options), wanted)


def test_other_settings_are_other_calls():
    x, w = np.full((1, 64, 16, 16), 0.1, np.float32), np.full((64, 64, 3, 3), 0.3, np.float32)
    exact = pre.conv(x, w)
    for _ in range(2):
        pre.conv(x, w)
    with pre.config(accuracy="fast"):
        fast = [pre.conv(x, w) for _ in range(4)]
    assert all(found.tobytes() == fast[0].tobytes() for found in fast)
    assert fast[0].tobytes() != exact.tobytes()
    with pre.config(engine="reference"):
        np.testing.assert_allclose(pre.conv(x, w), exact, rtol=1e-5)
    assert pre.conv(x, w).tobytes() == exact.tobytes()


def test_a_recorder_sees_every_call():
    x, w = np.ones((1, 2, 9, 9), np.float32), np.ones((4, 2, 3, 3), np.float32)
    for _ in range(3):
        pre.conv(x, w)
    recorder = Recorder()
    given = recorder.watch(x)
    with recorder:
        pre.conv(given, w)
    assert recorder.steps or recorder.broken


def test_large_calls_let_other_threads_run():
    """A product of 1024 x 1024 takes milliseconds: another thread gets on meanwhile."""
    a = np.ones((1024, 1024), np.float32)
    turns, done = [0], threading.Event()

    def count() -> None:
        while not done.is_set():
            turns[0] += 1

    with pre.config(threads=1):
        decisions.forget_shortcuts()
        for _ in range(2):
            ops.matmul(a, a)
        (call,) = _products().values()
        counter = threading.Thread(target=count)
        counter.start()
        try:
            for _ in range(500):  # as many as it takes until the other thread has a CPU
                before = turns[0]
                assert call(a, a) is not None
                if turns[0] > before:
                    break
            else:
                pytest.fail("no other thread ran during a call")
        finally:
            done.set()
            counter.join()


def _products() -> dict[Any, Any]:
    return importlib.import_module("preimage.ops.linear")._warm


def test_threads_share_a_call():
    rng = np.random.default_rng(5)
    w = rng.integers(-9, 10, (4, 3, 3, 3)).astype(np.float32)
    inputs = [rng.integers(-9, 10, (1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    wanted = [pre.conv(x, w, padding=1) for x in inputs]
    for x in inputs:
        pre.conv(x, w, padding=1)
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(500):
            if pre.conv(inputs[k], w, padding=1).tobytes() != wanted[k].tobytes():
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_outlives_what_it_was_made_from():
    x, w = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    get("jit").forget()  # type: ignore[attr-defined]
    wanted = pre.conv(x, w)
    for _ in range(3):
        pre.conv(x, w)
    (call,) = warm.calls.values()
    get("jit").forget()  # type: ignore[attr-defined]
    assert not warm.calls
    gc.collect()
    np.testing.assert_array_equal(call(x, w), wanted)


def function_of(call) -> object:
    """What a warm call runs, its weights packed or not."""
    known = inspect.getclosurevars(call).nonlocals
    return known["function"] if "function" in known else function_of(known["call"])


def test_without_such_functions_all_goes_the_long_way(monkeypatch):
    monkeypatch.setattr(native_function, "interpreter", lambda: None)
    get("jit").forget()  # type: ignore[attr-defined]
    x, w = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    results = [pre.conv(x, w) for _ in range(4)]
    assert all(found is None for found in warm.calls.values())
    assert len({found.tobytes() for found in results}) == 1
    np.testing.assert_array_equal(ops.matmul(x, x), np.matmul(x, x))
    a = np.arange(200.0 * 200, dtype=np.float32).reshape(200, 200) % 7
    with pre.config(threads=3):
        products = [ops.matmul(a, a) for _ in range(4)]
        call = importlib.import_module("preimage.ops.linear")._warm[
            (id(pre.settings.current()), *[(200, 200), a.strides, a.dtype] * 2)
        ]
        assert isinstance(function_of(call), program_call._Launched)
    assert all(product.tobytes() == (a @ a).tobytes() for product in products)
    get("jit").forget()  # type: ignore[attr-defined]


def test_calls_on_several_threads():
    """They are looked up at once, too: with the values of one thread, for new arrays, bad ones and weights that are not finite."""
    rng = np.random.default_rng(11)
    shapes = {"a": (170, 150), "b": (150, 160), "x": (1, 16, 64, 64), "w": (32, 16, 3, 3), "bias": (32,), "layer": (160, 150)}
    for repeat in range(5):
        given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        if repeat == 3:
            given["w"][1, 0, 0, 0] = np.inf
        if repeat == 4:
            odd = np.empty(given["a"].nbytes + 1, np.uint8)[1:].view(np.float32).reshape(given["a"].shape)
            odd[:] = given["a"]
            given["a"] = odd
        prepared, found = pre.prepare(given["layer"]), []
        for threads in (1, 3):
            with pre.config(threads=threads):
                found.append([
                    ops.matmul(given["a"], given["b"]), ops.linear(given["a"], prepared, given["b"][0]),
                    pre.conv(given["x"], given["w"], given["bias"], padding=1),
                ])  # fmt: skip
        for one, several in zip(*found, strict=True):
            assert one.tobytes() == several.tobytes()
    linear = importlib.import_module("preimage.ops.linear")
    made = [call for calls in (linear._warm, warm.calls) for call in calls.values() if call is not None]
    assert len(made) >= 3
    assert not any(isinstance(function_of(call), program_call._Launched) for call in made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_calls_on_several_threads_in_a_forked_child():
    """Its pool is another one: a call that was made ready before finds it."""
    a = np.random.default_rng(3).standard_normal((200, 200)).astype(np.float32)
    with pre.config(threads=3), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        (wanted,) = {ops.matmul(a, a).tobytes() for _ in range(4)}
        child = os.fork()
        if not child:
            code = 1
            try:
                same = all(ops.matmul(a, a).tobytes() == wanted for _ in range(4))
                code = 0 if same and pool.pool_size() >= 2 else 2
            finally:
                os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
