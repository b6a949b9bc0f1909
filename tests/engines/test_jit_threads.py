"""The pool of threads: every task once, whoever calls, whatever happens meanwhile.

The long form:  PREIMAGE_LONG_TESTS=60 pytest tests/engines/test_jit_threads.py -k storm     (seconds)
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)

from preimage.engines.ir.arguments import Arguments, Integer, Words  # noqa: E402
from preimage.engines.ir.builder import Kernel  # noqa: E402
from preimage.engines.jit.index.cached import kept  # noqa: E402
from preimage.engines.jit.program import Program, kernel_call  # noqa: E402
from preimage.engines.jit.runtime import lockstep_kernel, pool, pool_ir  # noqa: E402
from preimage.engines.jit.runtime.link import link  # noqa: E402
from preimage.engines.jit.runtime.lockstep import in_step  # noqa: E402

STORM_SECONDS = float(os.environ.get("PREIMAGE_LONG_TESTS", "1.5"))

#: counts[task] += 1 after some work, not atomically: a task that ran twice, or at the same time as itself, is seen
COUNT = """
define void @kernel(ptr %args, i64 %task) {
entry:
  %base = load ptr, ptr %args
  %p = getelementptr i64, ptr %args, i64 1
  %work = load i64, ptr %p
  %at = getelementptr i64, ptr %base, i64 %task
  %old = load i64, ptr %at
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %next = add i64 %i, 1
  store volatile i64 %old, ptr %at
  %more = icmp slt i64 %next, %work
  br i1 %more, label %loop, label %done
done:
  %new = add i64 %old, 1
  store i64 %new, ptr %at
  ret void
}
"""


def count(counts: np.ndarray, n_threads: int, work: int = 1) -> None:
    args = pool.pack_args(counts.ctypes.data, work)
    pool.launch(kernels.compile_module(COUNT, "count"), args, len(counts), n_threads)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 1000])
def test_every_task_runs_once(n_threads, tasks):
    counts = np.zeros(tasks, np.int64)
    for _ in range(20):
        count(counts, n_threads)
    assert (counts == 20).all()


class RelayArguments(Arguments):
    cells: Words
    parts: Integer
    work: Integer


@dataclass(frozen=True)
class RelaySpec:
    """Task (turn, part): cell[part] = cell[part] * 3 + turn, after some work, not atomically."""

    arguments: ClassVar = RelayArguments

    def ir(self) -> str:
        f = Kernel()
        args = RelayArguments.read(f, self)
        parts = args.parts
        part, turn = f.task % parts, f.task // parts
        cell = args.cells.at(part * 8)
        old = cell.load_int()
        with f.loop(0, args.work):
            cell.store_int(old)
        cell.store_int(old * 3 + turn)
        return f.ir()


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
@pytest.mark.parametrize("n_parts", [1, 2, 5])
def test_the_rounds_of_a_part_follow_each_other(n_threads, n_parts):
    rounds, wanted = 200, 0
    for turn in range(rounds):
        wanted = (wanted * 3 + turn) % (1 << 64)
    values = RelayArguments(cells="cells", parts=n_parts, work=200)
    call = in_step(kernel_call("relay", RelaySpec(), values, rounds * n_parts), n_parts, n_threads)
    assert call.tasks == min(n_parts, n_threads)
    linked = link(Program("relay", (call,)), n_threads)
    for _ in range(20):
        cells = np.zeros((n_parts, 8), np.int64)
        linked.run({"cells": cells.ctypes.data}, n_threads)
        assert (cells[:, 0].view(np.uint64) == np.uint64(wanted)).all()


@pytest.mark.parametrize("target", ["avx512", "avx2", "neon"])
def test_the_runner_of_parts_compiles_for(target):
    assert kernels.object_code(lockstep_kernel.build(lockstep_kernel.PartsSpec()), kernels.named_target(target))


def test_the_pool_grows_to_what_is_asked_and_no_further():
    count(np.zeros(100, np.int64), 4)
    size = pool.pool_size()
    assert size >= 3
    count(np.zeros(100, np.int64), 2)
    count(np.zeros(2, np.int64), 40)  # two tasks need one worker
    assert pool.pool_size() == size


def test_one_thread_starts_no_worker():
    code = """
import numpy as np
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime import pool
kernel = kernels.compile_module("define void @kernel(ptr %a, i64 %t) {\\n  ret void\\n}")
pool.launch(kernel, pool.pack_args(0), 100, 1)
assert pool.pool_size() == 0
pool.launch(kernel, pool.pack_args(0), 1, 8)
assert pool.pool_size() == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_two_threads_really_work_at_the_same_time():
    """Task 0 waits until task 1 has started: with one thread at a time it would wait for ever (it gives up after a while)."""
    text = """
define void @kernel(ptr %args, i64 %task) {
entry:
  %base = load ptr, ptr %args
  %mine = getelementptr i64, ptr %base, i64 %task
  %other = sub i64 1, %task
  %theirs = getelementptr i64, ptr %base, i64 %other
  store atomic i64 1, ptr %mine seq_cst, align 8
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %next = add i64 %i, 1
  %seen = load atomic i64, ptr %theirs seq_cst, align 8
  %met = icmp ne i64 %seen, 0
  %late = icmp sgt i64 %i, 3000000000
  %stop = or i1 %met, %late
  br i1 %stop, label %done, label %loop
done:
  %r = getelementptr i64, ptr %mine, i64 2
  store i64 %seen, ptr %r
  ret void
}
"""
    state = np.zeros(4, np.int64)
    pool.launch(kernels.compile_module(text, "meet"), pool.pack_args(state.ctypes.data), 2, 2)
    assert state.tolist() == [1, 1, 1, 1]


def test_python_runs_while_a_kernel_does():
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    begin = time.perf_counter()
    count(np.zeros(1, np.int64), 1, work=300_000_000)
    end = time.perf_counter()
    stop.set()
    other.join()
    assert sum(begin < t < end for t in ticks) > 10


def storm(seconds: float, forks: bool) -> None:
    """Eight Python threads launch jobs of mixed sizes; the main thread forks in between, and the children launch too."""
    stop, wrong = time.monotonic() + seconds, []

    def caller(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < stop:
            counts = np.zeros(int(rng.integers(1, 200)), np.int64)
            turns = int(rng.integers(1, 20))
            for _ in range(turns):
                count(counts, int(rng.integers(1, 5)), int(rng.integers(1, 100)))
            if not (counts == turns).all():
                wrong.append(counts)

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(8)]
    for thread in callers:
        thread.start()
    while forks and time.monotonic() < stop:
        child = os.fork()
        if child == 0:
            counts = np.zeros(50, np.int64)
            for _ in range(5):
                count(counts, 3)
            os._exit(0 if (counts == 5).all() and pool.pool_size() == 2 else 1)
        assert os.waitpid(child, 0)[1] == 0
        time.sleep(0.02)
    for thread in callers:
        thread.join()
    assert not wrong


def test_storm_of_python_threads():
    storm(STORM_SECONDS, forks=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_a_property_is_computed_can_compute_it():
    """functools.cached_property of Python 3.11 holds a lock for all instances, which the child would find taken."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, wait: bool) -> None:
            self.wait, self.computed = wait, 0

        @kept
        def value(self) -> int:
            self.computed += 1
            if self.wait:
                begun.set()
                go_on.wait(60)
            return 7

    thread = threading.Thread(target=lambda: Slow(True).value)
    thread.start()
    assert begun.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends a child that hangs
        os._exit(0 if Slow(False).value == 7 else 1)
    assert os.waitpid(child, 0)[1] == 0
    go_on.set()
    thread.join()
    slow = Slow(False)
    assert (slow.value, slow.value, slow.computed) == (7, 7, 1)
    assert Slow.value.__class__ is kept


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_storm_with_forks():
    count(np.zeros(10, np.int64), 2)
    storm(STORM_SECONDS, forks=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_that_python_did_not_fork_builds_its_own_pool():
    """A fork behind Python's back (from C) is noticed by the process id."""
    count(np.zeros(10, np.int64), 2)
    child = os.fork()
    if child == 0:
        pool._pool = threads_pool_of_parent
        counts = np.zeros(64, np.int64)
        count(counts, 2)
        os._exit(0 if (counts == 1).all() and pool._pool is not threads_pool_of_parent else 1)
    assert os.waitpid(child, 0)[1] == 0


threads_pool_of_parent = None


@pytest.fixture(autouse=True)
def _remember_the_pool():
    global threads_pool_of_parent
    count(np.zeros(10, np.int64), 2)
    threads_pool_of_parent = pool._pool


@pytest.mark.parametrize("how", ["normal", "daemon", "os._exit", "exception", "interrupt"])
def test_the_interpreter_ends_without_a_hang_or_crash(how):
    code = f"""
import os, signal, sys, threading, time
import numpy as np
sys.path.insert(0, {os.path.dirname(__file__)!r})
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime import pool
kernel = kernels.compile_module({COUNT!r}, "count")
counts = np.zeros(1000, np.int64)
def work(turns=200):
    for _ in range(turns):
        pool.launch(kernel, pool.pack_args(counts.ctypes.data, 50), 1000, 3)
work()
how = {how!r}
if how == "daemon":
    for _ in range(3): threading.Thread(target=work, args=(10**9,), daemon=True).start()
    time.sleep(0.05)
elif how == "os._exit":
    os._exit(0)
elif how == "exception":
    raise SystemExit(0)
elif how == "interrupt":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
    print("ready", flush=True)
    try:
        work(10**9)
    except KeyboardInterrupt:
        assert pool.pool_size() == 2
        counts[:] = 0
        work(5)
        assert (counts == 5).all()
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if how == "interrupt":
        assert run.stdout.readline() == b"ready\n"
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
    try:
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 0, err.decode()
    assert b"Error" not in err


@pytest.mark.skipif(not kernels.host().triple.startswith("x86_64"), reason="reads the x86 control word")
def test_kernels_run_with_the_standard_control_word():
    """Rounding to nearest, denormals kept, on every thread and whatever the caller has set, which is there again afterwards."""
    text = """
define void @kernel(ptr %args, i64 %task) {
  %base = load ptr, ptr %args
  %at = getelementptr i32, ptr %base, i64 %task
  call void @llvm.x86.sse.stmxcsr(ptr %at)
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %next, %loop ]
  %next = add i64 %i, 1
  %word = load volatile i32, ptr %at
  %more = icmp slt i64 %next, 20000
  br i1 %more, label %loop, label %done
done:
  ret void
}
declare void @llvm.x86.sse.stmxcsr(ptr)
"""
    setter = """
define void @kernel(ptr %args, i64 %task) {
  call void @llvm.x86.sse.ldmxcsr(ptr %args)
  ret void
}
declare void @llvm.x86.sse.ldmxcsr(ptr)
"""
    words, own = np.zeros(64, np.int32), np.zeros(1, np.int32)
    direct = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64)
    kernel, control = kernels.compile_module(text, "read mxcsr"), kernels.compile_module(setter, "set mxcsr")
    try:
        for wanted in (0x1F80, 0x9FC0, 0x7F80):  # standard; flush to zero and denormals are zero; towards zero
            direct(int(control))(pool.pack_args(wanted), 0)
            for threads in (1, 3) * 10:
                pool.launch(kernel, pool.pack_args(words.ctypes.data), 64, threads)
                assert set(words & 0xFFC0) == {0x1F80}
            direct(int(kernel))(pool.pack_args(own.ctypes.data), 0)
            assert own[0] & 0xFFC0 == wanted & 0xFFC0
    finally:
        direct(int(control))(pool.pack_args(0x1F80), 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are placed on Linux only")
def test_workers_are_kept_off_the_callers_cpu():
    """In a process of its own, whose caller is moved from CPU to CPU; all threads on one CPU work too."""
    code = """
import os
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime import pool
kernel = kernels.compile_module("define void @kernel(ptr %a, i64 %t) {\\n  ret void\\n}")
pool.launch(kernel, pool.pack_args(0), 2, 1)
allowed, before = sorted(os.sched_getaffinity(0)), set(os.listdir("/proc/self/task"))
pool.launch(kernel, pool.pack_args(0), 8, 3)
workers = [int(t) for t in set(os.listdir("/proc/self/task")) - before]
assert len(workers) == 2
if len(allowed) > 1:
    for _ in range(50):
        os.sched_setaffinity(0, {allowed[0]})
        pool.launch(kernel, pool.pack_args(0), 8, 3)
        os.sched_setaffinity(0, allowed[1:])
        pool.launch(kernel, pool.pack_args(0), 8, 3)
        os.sched_setaffinity(0, allowed)
        pool.launch(kernel, pool.pack_args(0), 8, 3)
        for t in workers:
            assert os.sched_getaffinity(t) < set(allowed), os.sched_getaffinity(t)
os.sched_setaffinity(0, {allowed[0]})
for t in workers:
    os.sched_setaffinity(t, {allowed[0]})
pool.launch(kernel, pool.pack_args(0), 8, 3)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


#: seen[task] = the thread that ran it, plus one; task 0 waits a while for the last task to have started on another thread
WHO = """
define void @kernel(ptr %args, i64 %task, i64 %thread) {
entry:
  %seen = load ptr, ptr %args
  %p = getelementptr i64, ptr %args, i64 1
  %patience = load i64, ptr %p
  %mine = getelementptr i64, ptr %seen, i64 %task
  %number = add i64 %thread, 1
  store atomic i64 %number, ptr %mine seq_cst, align 8
  %last = getelementptr i64, ptr %seen, i64 1
  %first = icmp eq i64 %task, 0
  br i1 %first, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %next = add i64 %i, 1
  %other = load atomic i64, ptr %last seq_cst, align 8
  %met = icmp ne i64 %other, 0
  %late = icmp sgt i64 %i, %patience
  %stop = or i1 %met, %late
  br i1 %stop, label %done, label %loop
done:
  ret void
}
"""


class Who:
    """Jobs of two tasks and so much work: which threads ran them, counted from 1. patience: turns that task 0 waits for the other one."""

    def __init__(self) -> None:
        self._run, self._pool = pool.shared(1)
        self._kernel = kernels.compile_module(WHO, "who")
        self._call = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 2, ctypes.c_char_p, *[ctypes.c_int64] * 3)(self._run)

    def __call__(self, work: int, patience: int) -> list[int]:
        seen = (ctypes.c_int64 * 2)()
        assert self._call(self._pool, self._kernel, pool.pack_args(ctypes.addressof(seen), patience), 2, 1, work) == 0
        return list(seen)


def asleep_are(wanted: Callable[[int], bool], with_jobs: bool = False) -> None:
    """Wait until those workers are asleep, a bit for each of them."""
    _, here = pool.shared(1)
    end = time.monotonic() + 30
    while not wanted(ctypes.c_int64.from_address(here + pool_ir.ASLEEP).value):
        assert time.monotonic() < end
        if with_jobs:
            count(np.zeros(2, np.int64), 2, work=1_000_000)
        time.sleep(0.02)


def all_asleep(bits: int) -> bool:
    return bits == (1 << pool.pool_size()) - 1


def test_little_work_is_shared_with_workers_that_are_awake_and_no_others():
    who_runs = Who()
    _, here = pool.shared(1)
    spins = ctypes.c_int64.from_address(here + pool_ir.SPINS)
    before = spins.value
    forever = 3_000_000_000
    try:
        asleep_are(all_asleep)
        assert who_runs(1, 1000) == [1, 1]
        spins.value = 1 << 60  # who is awake stays so
        assert who_runs(pool_ir.WHOLE_WORK, forever) == [1, 2]
        asleep_are(lambda bits: not bits & 1)
        assert who_runs(1, forever) == [1, 2]
    finally:
        spins.value = before
        asleep_are(all_asleep, with_jobs=True)  # each must see a job to learn how long it spins
    assert who_runs(1, 1000) == [1, 1]


def test_little_jobs_soon_after_another_wake_workers():
    who_runs = Who()
    end, job = time.monotonic() + 30, pool_ir.WHOLE_WORK // 3
    asleep_are(all_asleep)
    assert who_runs(job, 1000) == [1, 1]  # the first one alone does not
    while who_runs(job, 100_000) == [1, 1]:
        assert time.monotonic() < end
