"""A fork at any moment: while another thread makes its first call, compiles, multiplies by BLAS, starts workers; in a signal handler.

The child computes the same, within a deadline (SIGALRM ends a child that hangs).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import calls
import pytest
from harness import forget, forget_pool, interrupted

import preimage as pre
from preimage.engines import blas

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
DEADLINE_S = 20


def child_is_right(call: calls.Call, wanted: bytes) -> bool:
    """Fork, and make the call in the child."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE_S)
        try:
            os._exit(0 if call() == wanted else 3)
        finally:
            os._exit(4)
    return os.waitpid(child, 0)[1] == 0


FIRST = """
import os, signal, sys, threading, time
import numpy as np, preimage as pre
x, w = np.ones((1, 4, 16, 16), "f4"), np.ones((4, 4, 3, 3), "f4")
{prepare}

def forked(delay):
    thread = threading.Thread(target=lambda: {call})
    thread.start()
    time.sleep(delay)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if (pre.conv(x, w) == 36).all() and {call} is not None else 3)
        children.append(child)
        time.sleep(0.01)
    thread.join()
    return any([os.waitpid(child, 0)[1] for child in children])

for delay in sys.argv[1:]:  # each in a process that has called nothing yet, with a cache of its own
    child = os.fork()
    if child == 0:
        os.environ["PREIMAGE_CACHE_DIR"] += delay
        os._exit(forked(float(delay)))
    if os.waitpid(child, 0)[1]:
        sys.exit("after " + delay)
"""
DELAYS = ("0.0", "0.02", "0.06", "0.15")


@pytest.mark.parametrize(
    ("call", "prepare"),
    [
        ("pre.conv(x, w)", ""),
        ("pre.ops.softmax(x)", "pre.ops"),
        ("pre.nn.Conv2d(4, 4, 3)(x)", ""),
    ],
    ids=["engine", "kernels around", "a part of the package"],
)
def test_a_fork_while_another_thread_makes_the_first_call(call, prepare, tmp_path):
    """It imports the engine and LLVM: the child must not find a module half imported."""
    run = [sys.executable, "-c", FIRST.format(call=call, prepare=prepare), *DELAYS]
    environment = {**os.environ, "PREIMAGE_CACHE_DIR": str(tmp_path / "after")}
    done = subprocess.run(run, env=environment, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", ["conv by 2 threads", "conv_weight_grad by 2 threads", "gradients", "gemm conv", "gemm conv_weight_grad"]
)
def test_forks_while_other_threads_call(name):
    call = calls.CALLS[name].use()
    wanted, wrong = call(), []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            if name.startswith("conv"):
                forget()
            wrong.extend([1] * (call() != wanted))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert child_is_right(call, wanted)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("name", ["conv by 2 threads", "gemm conv"])
def test_forks_in_the_middle_of_a_call(name, tmp_path, monkeypatch):
    """As from a signal handler, at places all over a first call: the child and the parent finish what they were at."""
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", str(tmp_path))
    call = calls.CALLS[name].use()
    other = calls.conv(24, 20)
    wanted, wanted_inside = call(), other()
    forget()
    with interrupted(lambda: None) as count:
        call()
    for place in range(11, count[0], max(1, count[0] // 12)):
        forget()
        forget_pool()
        children = []

        def fork(children: list[int] = children) -> None:
            child = os.fork()
            children.append(child)
            if child == 0:
                signal.alarm(DEADLINE_S)
                if other() != wanted_inside:
                    os._exit(3)

        with interrupted(fork, only=place):
            result = call()
        if children == [0]:  # in the child, which goes on
            os._exit(0 if result == wanted and call() == wanted else 4)
        assert result == wanted
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children), place


def test_a_fork_waits_for_products_and_holds_new_ones_up(monkeypatch):
    """The products of other threads: the fork may not begin inside one, nor one inside the fork."""
    inside, go_on, events = threading.Event(), threading.Event(), []
    real = blas.np.matmul

    def slow(*args: object, **kwargs: object) -> object:
        inside.set()
        go_on.wait(DEADLINE_S)
        events.append("product")
        return real(*args, **kwargs)

    monkeypatch.setattr(blas.np, "matmul", slow)
    a = blas.np.ones((3, 3))
    thread = threading.Thread(target=lambda: blas.multiply(a, a))
    thread.start()
    assert inside.wait(DEADLINE_S)
    threading.Timer(0.2, go_on.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0)
    events.append("fork")
    os.waitpid(child, 0)
    thread.join()
    assert events == ["product", "fork"]
    assert (blas.multiply(a, a) == 3).all()


COLLECTED = """
import gc, os, threading
from preimage.engines import blas

class Cycle:
    def __init__(self):
        self.me, self.own = self, threading.local()
        self.own.value = 1

for count in range(400):  # so many objects from now on the collector runs: at one of them while the frames are asked for
    gc.disable()
    gc.collect()
    for _ in range(20):
        Cycle()
    gc.set_threshold(gc.get_count()[0] + count, 1000, 1000)
    gc.enable()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert gc.isenabled()
"""


def test_a_fork_in_which_the_collector_would_run():
    """CPython holds the list of threads while it makes the frames of `sys._current_frames`; a thread's own data that is collected just then
    wants the list, too, and the process stood still (CPython 3.11).
    """
    subprocess.run([sys.executable, "-c", COLLECTED], check=True, timeout=60)


def test_the_child_has_the_number_of_blas_threads_of_before():
    control = blas.blas_thread_control()
    if control is None:
        pytest.skip("no control of BLAS's threads here")
    inside, go_on = threading.Event(), threading.Event()

    def work() -> None:
        with blas.blas_threads(before + 1, blas.SMALL_FLOP):
            inside.set()
            go_on.wait(DEADLINE_S)

    before = control[0]()
    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(DEADLINE_S)
    assert control[0]() == before + 1
    child = os.fork()
    if child == 0:
        os._exit(0 if control[0]() == before else 1)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join()
    assert control[0]() == before
    assert pre.engines()["gemm"] == "available"
