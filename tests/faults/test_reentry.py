"""Calls in the middle of calls, on the same thread: from a signal handler, a finaliser, a trace function, a collector's callback.

The outer and the inner result are those of a call alone, bit for bit, wherever the inner call comes.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import Any

import calls
import pytest
from harness import forget, forget_pool, interrupted

import preimage as pre
from preimage.engines import get

#: Inner calls of one test, at most, spread evenly: PREIMAGE_LONG_TESTS has them all.
MOST_PLACES = 10**9 if "PREIMAGE_LONG_TESTS" in os.environ else 800


@pytest.mark.parametrize("name", calls.CALLS)
def test_a_call_at_every_opcode_of_a_warm_call(name):
    outer, inner = calls.CALLS[name].use(), calls.conv(24, 3 if name == "arena" else 8)  # small results are no arena's affair
    wanted, wanted_inside = [outer() for _ in range(3)][-1], inner()
    seen = []
    with interrupted(lambda: None, opcodes=True) as count:
        outer()
    step = 1 + count[0] // MOST_PLACES
    with interrupted(lambda: seen.append(inner() == wanted_inside), opcodes=True, every=step):
        result = outer()
    assert len(seen) > 200  # the way of a warm call is a few hundred opcodes
    assert all(seen)
    assert result == wanted
    assert outer() == wanted


@pytest.mark.parametrize("name", ["conv by 2 threads", "conv_transpose", "conv_weight_grad by 2 threads", "arena"])
def test_the_same_call_inside_itself(name):
    """The very same arrays, program and kernels."""
    call = calls.CALLS[name].use()
    wanted = [call() for _ in range(3)][-1]
    seen = []
    with interrupted(lambda: None) as count:
        call()
    with interrupted(lambda: seen.append(call() == wanted), every=1 + 5 * count[0] // MOST_PLACES):
        assert call() == wanted
    assert len(seen) > 30
    assert all(seen)


@pytest.mark.parametrize("name", ["conv by 2 threads", "conv_weight_grad by 2 threads", "gradients"])
def test_a_call_somewhere_in_a_first_call(name, tmp_path, monkeypatch):
    """Plans, kernels and the pool are being made: by a call that begins in the middle of it, too. Kernels come from disk."""
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path))
    outer, inner = calls.CALLS[name].use(), calls.conv(24, 20)
    wanted, wanted_inside = outer(), inner()
    forget()
    with interrupted(lambda: None) as count:
        assert outer() == wanted
    places = range(7, count[0], max(1, count[0] // 40))
    for place in places:
        forget()
        forget_pool()
        seen = []
        with interrupted(lambda seen=seen: seen.append(inner()), only=place):
            assert outer() == wanted, place
        assert seen in ([], [wanted_inside]), place  # a first call may take fewer steps the second time
        assert outer() == wanted


def test_a_call_while_kernels_are_compiled(monkeypatch):
    """In the middle of linking: kernels are being compiled side by side."""
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")
    outer, inner = calls.CALLS["conv by 2 threads"].use(), calls.gradients()
    wanted, wanted_inside = outer(), inner()
    for place in (900, 2500, 4500):
        forget()
        forget_pool()
        seen = []
        with interrupted(lambda seen=seen: seen.append(inner()), only=place):
            assert outer() == wanted
        assert seen == [wanted_inside]


def signalled(outer: calls.Call, inner: calls.Call, turns: int) -> tuple[int, int]:
    """outer() again and again, inner() in a handler of a timer that is set again when the handler is done: (calls, wrong ones)."""
    wanted, wanted_inside = outer(), inner()
    fired = wrong = 0
    running = True

    def handler(*_: object) -> None:
        nonlocal fired, wrong
        fired += 1
        wrong += inner() != wanted_inside
        if running:
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + fired % 37 * 1e-5)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4)
        while fired < turns:
            wrong += outer() != wanted
        running = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return fired, wrong


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("threads", [1, 2])
def test_signal_handlers_that_call(threads):
    pre.config.set(threads=threads)
    fired, wrong = signalled(calls.conv(32, 30), calls.conv(48, 16), 150)
    assert fired >= 150
    assert wrong == 0


def test_finalisers_that_call():
    """Objects in cycles, which the collector finds in the middle of a call."""
    pre.config.set(threads=2)
    outer, inner = calls.conv(32, 30), calls.conv(48, 16)
    wanted, wanted_inside = outer(), inner()
    fired, wrong = [], []

    class Cycle:
        def __init__(self) -> None:
            self.self = self

        def __del__(self) -> None:
            fired.append(1)
            wrong.extend([1] * (inner() != wanted_inside))

    before = gc.get_threshold()
    try:
        for k in range(150):
            gc.set_threshold(10**6)
            Cycle()
            gc.set_threshold(gc.get_count()[0] + k % 60)
            wrong.extend([1] * (outer() != wanted))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(fired) == 150
    assert not wrong


def test_callbacks_of_the_collector_that_call():
    pre.config.set(threads=2)
    outer, inner = calls.gradients(), calls.conv(48, 16)
    wanted, wanted_inside = outer(), inner()
    fired, wrong = [], []

    def callback(phase: str, info: dict[str, int]) -> None:
        fired.append(phase)
        wrong.extend([1] * (inner() != wanted_inside))

    before = gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        gc.set_threshold(40, 2, 2)
        for _ in range(5):
            wrong.extend([1] * (outer() != wanted))
    finally:
        gc.callbacks.remove(callback)
        gc.set_threshold(*before)
    assert len(fired) > 10
    assert not wrong


def test_many_threads_and_signal_handlers_at_once():
    pre.config.set(threads=2)
    calls_of_threads = [calls.conv(16 + k, 20) for k in range(3)]
    wanted = [call() for call in calls_of_threads]
    wrong: list[int] = []
    stop = threading.Event()

    def work(k: int) -> None:
        while not stop.is_set():
            wrong.extend([k] * (calls_of_threads[k]() != wanted[k]))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for worker in workers:
        worker.start()
    try:
        _, bad = signalled(calls.conv(32, 30), calls.conv(48, 16), 60)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert bad == 0
    assert not wrong


def test_a_call_that_an_exception_ends_keeps_nothing_and_breaks_nothing():
    """KeyboardInterrupt before every line of a call: the next one is right, and takes the one workspace that there is."""
    pre.config.set(threads=2)
    call = calls.conv(32, 30)
    engine: Any = get("jit")
    engine._scratch.clear()
    wanted = [call() for _ in range(3)][-1]

    def interrupt() -> None:
        raise KeyboardInterrupt

    with interrupted(lambda: None) as count:
        call()
    for place in range(count[0]):
        with pytest.raises(KeyboardInterrupt), interrupted(interrupt, only=place):
            call()
        assert call() == wanted, place
        assert len(engine._scratch.free) == 1
