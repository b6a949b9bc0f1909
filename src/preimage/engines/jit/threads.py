"""A pool of threads that wait inside generated code, and the call that runs a kernel's tasks.

    launch(kernel, args, n_tasks, n_threads)        # kernel(args, 0, t), ..., kernel(args, n_tasks - 1, t), each once

Waking a parked Python thread costs about 50 us; a worker here spins on one word of memory for a moment after each job,
then parks. The picture of a job:

    caller:  lock the pool (or, if another thread has it, run all tasks alone) -> write the job -> open the gate
             -> wake the parked -> take tasks from the counter (in front; workers from behind) until none is left -> close the gate
             -> wait until the workers inside have left -> unlock
    worker:  wait until the gate opens -> go in (count up) -> take tasks -> go out (count down)

The gate is one 64-bit word: bit 0 open, bits 1..31 how many workers are inside, bits 32.. the number of the job. A worker
goes in by compare-and-swap on an open gate only. So one that wakes late finds it closed and waits for the next job, and
the caller never waits for a worker that the system has not scheduled.

A worker takes over the caller's floating-point control word (rounding, denormals) for the job: the same bits come from
any number of threads. On Linux workers are kept off the CPU that the caller runs on (threads_ir._placing says why). In a
forked child there are no workers; the pool notices (the fork hook, or the process id that it keeps) and is built anew. At
exit nothing is joined: parked workers end with the process, and their code is never unloaded.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
import time
from array import array
from collections.abc import Mapping

from preimage.engines.jit import llvm
from preimage.engines.jit.threads_ir import MOST_WORKERS, POOL_BYTES, SPINS, pool_ir

__all__ = ["ask", "launch", "pack_args", "pool_size"]

SPIN_NS = 100_000  # how long a worker spins after a job before it parks

_PTR, _I64 = ctypes.c_void_p, ctypes.c_int64
_RunAlone = ctypes.CFUNCTYPE(None, _PTR, ctypes.c_char_p, _I64)
_Run = ctypes.CFUNCTYPE(_I64, _PTR, _PTR, ctypes.c_char_p, _I64, _I64)


def ask() -> None:
    """Have the pool's code compiled: with a first call's kernels (`llvm.together`), not after them."""
    if _code is None:
        _compiled()


def _compiled() -> Mapping[str, llvm.LoadedKernel]:
    names = ("run_alone", "run", "init", "add_worker", "pauses")
    return llvm.compile_many(pool_ir(llvm.host().triple), names, "thread pool", level=llvm.CONTROL_LEVEL)


class _Code:
    """The compiled pool functions; made once per process and never unloaded."""

    def __init__(self) -> None:
        self.kernels = _compiled()
        self.run_alone = _RunAlone(int(self.kernels["run_alone"]))
        self.run = _Run(int(self.kernels["run"]))
        self.init = ctypes.CFUNCTYPE(None, _PTR)(int(self.kernels["init"]))
        self.add_worker = ctypes.CFUNCTYPE(_I64, _PTR)(int(self.kernels["add_worker"]))
        self.pauses = ctypes.CFUNCTYPE(None, _I64)(int(self.kernels["pauses"]))
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


class _Pool:
    """The memory that the workers share. It is never freed: a worker may look at it until the process ends."""

    def __init__(self, code: _Code) -> None:
        self._code = code
        self._memory = ctypes.create_string_buffer(POOL_BYTES + 128)
        self.address = (ctypes.addressof(self._memory) + 127) & -128
        self._records: list[array[int]] = []
        self.workers = 0
        self._refused = False
        code.init(self.address)
        begin = time.perf_counter_ns()
        code.pauses(2000)
        spins = 2000 * SPIN_NS // max(1, time.perf_counter_ns() - begin)
        _I64.from_address(self.address + SPINS).value = max(100, spins)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def grow(self, wanted: int) -> None:
        """Have at least so many workers, as far as the system allows."""
        wanted = min(wanted, MOST_WORKERS)
        while self.workers < wanted and not self._refused:
            record = array("q", (self.address, self.workers))
            self._records.append(record)
            with _SignalsBlocked():
                self._refused = self._code.add_worker(record.buffer_info()[0]) != 0
            if not self._refused:
                self.workers += 1


class _SignalsBlocked:
    """A thread started inside takes no asynchronous signals: those are the Python threads' affair."""

    def __enter__(self) -> None:
        self._old: set[int] | None = None
        if hasattr(signal, "pthread_sigmask"):
            keep = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
            self._old = set(signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - keep))

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._old)


_code: _Code | None = None
_pool: _Pool | None = None
_lock = threading.Lock()


def _loaded_code() -> _Code:
    global _code
    if _code is None:
        with _lock:
            if _code is None:
                _code = _Code()
    return _code


def _ready_pool(workers: int, broken: _Pool | None = None) -> _Pool:
    global _pool
    code = _loaded_code()
    with _lock:
        if _pool is None or _pool is broken:
            _pool = _Pool(code)
        _pool.grow(workers)
        return _pool


def _after_fork() -> None:
    global _pool, _lock
    _pool = None  # its workers live in the parent
    _lock = threading.Lock()


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
    if n_threads <= 1 or n_tasks <= 1:
        (_code or _loaded_code()).run_alone(kernel, args, n_tasks)
        return
    workers = min(n_threads, n_tasks) - 1
    pool = _pool
    if pool is None or pool.workers < workers:
        pool = _ready_pool(workers)
    if pool._code.run(pool.address, kernel, args, n_tasks, workers):
        pool = _ready_pool(workers, broken=pool)
        if pool._code.run(pool.address, kernel, args, n_tasks, workers):  # pragma: no cover - would need a fork in between
            pool._code.run_alone(kernel, args, n_tasks)


def pool_size() -> int:
    """How many workers this process has started (the caller of `launch` is one thread more)."""
    return 0 if _pool is None else _pool.workers
