"""A pool of threads that wait inside generated code, and the call that runs a kernel's tasks.

    launch(kernel, args, n_tasks, n_threads)        # kernel(args, 0, t), ..., kernel(args, n_tasks - 1, t), each once

Waking a parked Python thread costs about 50 us; a worker here spins on one word of memory for a moment after each job,
then parks. The picture of a job:

    caller:  lock the pool (or, if another thread has it, run all tasks alone) -> write the job -> open the gate
             -> wake the parked -> take tasks from the counter (in front; workers from behind) until none is left -> close the gate
             -> wait until the workers inside have left -> unlock
    worker:  wait until the gate opens -> go in (count up) -> take tasks -> go out (count down)

A job of little work goes another way: it is shared with those workers that are awake, or else is the caller's alone, until such jobs,
one soon after another, have together been worth waking workers for.

The gate is one 64-bit word: bit 0 open, bits 1..31 how many workers are inside, bits 32.. the number of the job. A worker
goes in by compare-and-swap on an open gate only. So one that wakes late finds it closed and waits for the next job, and
the caller never waits for a worker that the system has not scheduled.

All kernels run with the standard floating-point control word (rounding to nearest, denormals kept), whatever the caller's
thread or the one that a worker was started from has set; the caller gets its own back. On Linux workers are kept off the CPU
that the caller runs on (`affinity_ir` says why). In a forked child there are no workers; the pool notices (the fork hook, or
the process id that it keeps) and is built anew. At exit nothing is joined: parked workers end with the process, and their
code is never unloaded.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from array import array

from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.pool_ir import AWAKE_NS, MOST_WORKERS, POOL_BYTES, SPINS, WHOLE_WORK, WORKERS, pool_ir
from preimage.engines.recording import recorder
from preimage.locks import LOCK

__all__ = ["is_loaded", "launch", "launch_known", "pack_args", "pool_size", "shared", "shared_place", "wanted"]

PATIENCE = 256  # jobs that run on the workers there are before the system is asked again for a thread that it refused

_PTR, _I64 = ctypes.c_void_p, ctypes.c_int64
_RunAlone = ctypes.CFUNCTYPE(None, _PTR, ctypes.c_char_p, _I64)
_Run = ctypes.CFUNCTYPE(_I64, _PTR, _PTR, ctypes.c_char_p, _I64, _I64, _I64)


_FUNCTIONS = ("run_alone", "run", "init", "add_worker", "pauses")


def wanted() -> kernels.Wanted:
    """The pool's code, to be compiled beside a first call's kernels and not after them."""
    text = pool_ir(kernels.host().triple, _SIGNALS, getattr(time, "CLOCK_MONOTONIC", 1))
    return kernels.wanted_module(text, _FUNCTIONS, "thread pool", level=kernels.CONTROL_LEVEL)


def is_loaded() -> bool:
    """Whether the pool's code is there."""
    return _code is not None


class _Code:
    """The compiled pool functions; made once per process and never unloaded."""

    def __init__(self) -> None:
        self.kernels = kernels.load_all([wanted()])[0]
        self.run_alone = _RunAlone(int(self.kernels["run_alone"]))
        self.run = _Run(int(self.kernels["run"]))
        self.init = ctypes.CFUNCTYPE(None, _PTR)(int(self.kernels["init"]))
        self.add_worker = ctypes.CFUNCTYPE(_I64, _PTR)(int(self.kernels["add_worker"]))
        self.pauses = ctypes.CFUNCTYPE(None, _I64)(int(self.kernels["pauses"]))
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


def _timed(code: _Code) -> int:
    """The nanoseconds of 2000 pauses. The least of several says how long they take: another process may have the CPU meanwhile."""
    begin = time.perf_counter_ns()
    code.pauses(2000)
    return max(1, time.perf_counter_ns() - begin)


class _Pool:
    """The memory that the workers share. It is never freed: a worker may look at it until the process ends."""

    def __init__(self, code: _Code) -> None:
        self._code = code
        self._memory = ctypes.create_string_buffer(POOL_BYTES + 128)
        self.address = (ctypes.addressof(self._memory) + 127) & -128
        self._records: list[array[int]] = []
        self._numbers = list(range(MOST_WORKERS - 1, -1, -1))  # not used yet, the lowest last
        self._started = _I64.from_address(self.address + WORKERS)
        self._patience = 0  # calls of `grow` that start no thread, after the system refused one
        self.workers = 0
        code.init(self.address)
        spins = 2000 * AWAKE_NS // min([_timed(code) for _ in range(3)])
        _I64.from_address(self.address + SPINS).value = max(100, spins)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def grow(self, wanted: int) -> None:
        """Have at least so many workers, as far as the system allows.

        A call that a signal handler makes may be inside this one: each takes numbers of its own, and how many workers there are is
        read from the memory that `add_worker` counts in.
        """
        if self._patience:
            self._patience -= 1
            return
        wanted = min(wanted, MOST_WORKERS)
        while self._started.value < wanted:
            try:
                number = self._numbers.pop()  # one step: no two workers get the same
            except IndexError:
                break
            record = array("q", (self.address, number))
            self._records.append(record)
            if self._code.add_worker(record.buffer_info()[0]):
                self._records.remove(record)
                self._numbers.append(number)
                self._patience = PATIENCE
                break
        self.workers = self._started.value


#: What a worker leaves to the Python threads: all signals but those that its own code causes.
_SIGNALS = (int(signal.SIG_SETMASK), *(int(s) for s in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)))

_code: _Code | None = None
_pool: _Pool | None = None
_here = _I64(0)  # where the pool is, for generated code; it stays where it is until the process ends
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_here))


def _loaded_code() -> _Code:
    global _code
    if _code is None:
        with LOCK:
            made = _Code()
            _code = _code or made  # a signal handler may have made it meanwhile
    return _code


def _ready_pool(workers: int, broken: _Pool | None = None) -> _Pool:
    global _pool
    code = _loaded_code()
    with LOCK:
        pool = _pool
        if pool is None or pool is broken:
            made = _Pool(code)
            if _pool is pool:
                _pool = made
            pool = _pool or made
        pool.grow(workers)
        _here.value = pool.address
        return pool


def _after_fork() -> None:
    global _pool
    _pool = None  # its workers live in the parent
    _here.value = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def pack_args(*values: int) -> bytes:
    """The argument vector of a kernel: 64-bit integers (sizes, strides, addresses). One per call, so threads do not meet."""
    return struct.pack(f"{len(values)}q", *values)


def launch(kernel: int, args: bytes, n_tasks: int, n_threads: int) -> None:
    """Run kernel(args, task, thread) once for every task in range(n_tasks), on up to n_threads threads: the caller is thread 0.

    Tasks may run in any order and at the same time. The GIL is released meanwhile. A second caller at the same time
    runs its tasks alone, in its own thread.
    """
    if (here := recorder()) is not None:
        here.lost("a kernel is launched whose arrays are not known")
    launch_known(kernel, args, n_tasks, n_threads)


def launch_known(kernel: int, args: bytes, n_tasks: int, n_threads: int) -> None:
    """`launch` of what a recorder was told of, if one is there."""
    if n_threads <= 1 or n_tasks <= 1:
        (_code or _loaded_code()).run_alone(kernel, args, n_tasks)
        return
    workers = min(n_threads, n_tasks) - 1
    pool = _pool
    if pool is None or pool.workers < workers:
        pool = _ready_pool(workers)
    if pool._code.run(pool.address, kernel, args, n_tasks, workers, WHOLE_WORK):
        pool = _ready_pool(workers, broken=pool)
        if pool._code.run(
            pool.address, kernel, args, n_tasks, workers, WHOLE_WORK
        ):  # pragma: no cover - would need a fork in between
            pool._code.run_alone(kernel, args, n_tasks)


def shared(workers: int) -> tuple[int, int]:
    """The address of the function `run`, and that of the pool with at least so many workers, for generated code that hands out jobs itself."""
    pool = _pool
    if pool is None or pool.workers < workers:
        pool = _ready_pool(workers)
    return int(pool._code.kernels["run"]), pool.address


def shared_place(workers: int) -> tuple[int, int]:
    """As `shared`, but for the address of the word that holds that of the pool, for code that outlives a pool: a forked child has another."""
    run, _ = shared(workers)
    return run, ctypes.addressof(_here)


def pool_size() -> int:
    """How many workers this process has started (the caller of `launch` is one thread more)."""
    return 0 if _pool is None else _pool.workers
