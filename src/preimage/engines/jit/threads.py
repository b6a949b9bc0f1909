"""A pool of threads that wait inside generated code, and the call that runs a kernel's tasks.

    launch(kernel, args, n_tasks, n_threads)        # kernel(args, 0), ..., kernel(args, n_tasks - 1), each once

Waking a parked Python thread costs about 50 us; a worker here spins on one word of memory for a moment after each job,
then parks. The picture of a job:

    caller:  lock the pool (or, if another thread has it, run all tasks alone) -> write the job -> open the gate
             -> wake the parked -> take tasks from the counter until none is left -> close the gate
             -> wait until the workers inside have left -> unlock
    worker:  wait until the gate opens -> go in (count up) -> take tasks -> go out (count down)

The gate is one 64-bit word: bit 0 open, bits 1..31 how many workers are inside, bits 32.. the number of the job. A worker
goes in by compare-and-swap on an open gate only. So one that wakes late finds it closed and waits for the next job, and
the caller never waits for a worker that the system has not scheduled.

A worker takes over the caller's floating-point control word (rounding, denormals) for the job: the same bits come from
any number of threads. In a forked child there are no workers; the pool notices (the fork hook, or the process id that it
keeps) and is built anew. At exit nothing is joined: parked workers end with the process, and their code is never unloaded.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
import time
from array import array

from preimage.engines.jit import llvm

__all__ = ["launch", "pack_args", "pool_size"]

SPIN_NS = 100_000  # how long a worker spins after a job before it parks
MAX_WORKERS = 255
_POOL_BYTES = 4096

# Where things lie in the pool's memory, one cache line each for what is written often.
_GATE, _JOB, _NEXT, _SLEEPERS, _BUSY = 0, 128, 256, 384, 512
_PID, _SPINS, _MUTEX, _COND = 640, 648, 1024, 1536


def _floating_point(triple: str) -> tuple[str, str, str]:
    """IR that saves the floating-point control word to the job, IR that sets a thread's from the job, declarations."""
    if triple.startswith("x86_64"):
        return (
            "call void @llvm.x86.sse.stmxcsr(ptr %j.fp)",
            "call void @llvm.x86.sse.ldmxcsr(ptr %j.fp)",
            "declare void @llvm.x86.sse.stmxcsr(ptr)\ndeclare void @llvm.x86.sse.ldmxcsr(ptr)",
        )
    return (
        "%fp.now = call i64 @llvm.aarch64.get.fpcr()\n  store i64 %fp.now, ptr %j.fp",
        "%fp.new = load i64, ptr %j.fp\n  call void @llvm.aarch64.set.fpcr(i64 %fp.new)",
        "declare i64 @llvm.aarch64.get.fpcr()\ndeclare void @llvm.aarch64.set.fpcr(i64)",
    )


def _pause(triple: str) -> str:
    if triple.startswith("x86_64"):
        return 'call void asm sideeffect "pause", "~{memory},~{dirflag},~{fpsr},~{flags}"()'
    return 'call void asm sideeffect "isb", "~{memory}"()'


def pool_ir(triple: str) -> str:
    """The pool as LLVM IR, readable top to bottom; `run` is what `launch` calls."""
    save_fp, load_fp, declare_fp = _floating_point(triple)
    pause = _pause(triple)
    addresses = "\n".join(
        f"  %{name} = getelementptr i8, ptr %pool, i64 {offset}"
        for name, offset in (
            ("gate", _GATE), ("j.kernel", _JOB), ("j.args", _JOB + 8), ("j.tasks", _JOB + 16), ("j.limit", _JOB + 24),
            ("j.fp", _JOB + 32), ("next", _NEXT), ("sleepers", _SLEEPERS), ("busy", _BUSY), ("p.pid", _PID),
            ("p.spins", _SPINS), ("mutex", _MUTEX), ("cond", _COND),
        )
    )  # fmt: skip
    return f"""
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
declare i32 @getpid()
{declare_fp}

; every task, one after the other
define void @run_alone(ptr %kernel, ptr %args, i64 %tasks) {{
entry:
  %any = icmp sgt i64 %tasks, 0
  br i1 %any, label %loop, label %done
loop:
  %task = phi i64 [ 0, %entry ], [ %after, %loop ]
  call void %kernel(ptr %args, i64 %task)
  %after = add i64 %task, 1
  %more = icmp slt i64 %after, %tasks
  br i1 %more, label %loop, label %done
done:
  ret void
}}

; tasks from the counter until none is left
define internal void @take(ptr %next, ptr %kernel, ptr %args, i64 %tasks) {{
entry:
  br label %loop
loop:
  %task = atomicrmw add ptr %next, i64 1 monotonic
  %mine = icmp slt i64 %task, %tasks
  br i1 %mine, label %work, label %done
work:
  call void %kernel(ptr %args, i64 %task)
  br label %loop
done:
  ret void
}}

; what a worker does all its life; its argument is a record (pool, its number), 16 bytes
define internal ptr @worker(ptr %record) {{
entry:
  %pool = load ptr, ptr %record
  %r.index = getelementptr i8, ptr %record, i64 8
  %index = load i64, ptr %r.index
{addresses}
  br label %wait
wait:  ; last = the job that this worker need not look at again
  %last = phi i64 [ -1, %entry ], [ %job, %look ], [ %out.job, %leave ]
  %spins = load atomic i64, ptr %p.spins monotonic, align 8
  br label %spin
spin:
  %s = phi i64 [ 0, %wait ], [ %s.1, %spin.on ]
  %g = load atomic i64, ptr %gate acquire, align 8
  %g.job = lshr i64 %g, 32
  %g.bit = and i64 %g, 1
  %g.open = icmp ne i64 %g.bit, 0
  %g.new = icmp ne i64 %g.job, %last
  %go = and i1 %g.open, %g.new
  br i1 %go, label %look, label %spin.more
spin.more:
  %s.1 = add i64 %s, 1
  %tired = icmp sgt i64 %s, %spins
  br i1 %tired, label %park, label %spin.on
spin.on:
  {pause}
  br label %spin
park:
  call i32 @pthread_mutex_lock(ptr %mutex)
  atomicrmw add ptr %sleepers, i64 1 seq_cst
  br label %asleep
asleep:
  %p = load atomic i64, ptr %gate seq_cst, align 8
  %p.job = lshr i64 %p, 32
  %p.bit = and i64 %p, 1
  %p.open = icmp ne i64 %p.bit, 0
  %p.new = icmp ne i64 %p.job, %last
  %p.go = and i1 %p.open, %p.new
  br i1 %p.go, label %awake, label %sleep
sleep:
  call i32 @pthread_cond_wait(ptr %cond, ptr %mutex)
  br label %asleep
awake:
  atomicrmw sub ptr %sleepers, i64 1 seq_cst
  call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %look
look:  ; try to go in
  %seen = phi i64 [ %g, %spin ], [ %p, %awake ], [ %now, %again ]
  %job = lshr i64 %seen, 32
  %bit = and i64 %seen, 1
  %open = icmp ne i64 %bit, 0
  br i1 %open, label %enter, label %wait
enter:
  %in = add i64 %seen, 2
  %swap = cmpxchg ptr %gate, i64 %seen, i64 %in acq_rel acquire
  %ok = extractvalue {{i64, i1}} %swap, 1
  %now = extractvalue {{i64, i1}} %swap, 0
  br i1 %ok, label %inside, label %again
again:
  br label %look
inside:  ; the job cannot end while this worker is counted
  %limit = load i64, ptr %j.limit
  %wanted = icmp slt i64 %index, %limit
  br i1 %wanted, label %work, label %leave
work:
  {load_fp}
  %kernel = load ptr, ptr %j.kernel
  %args = load ptr, ptr %j.args
  %tasks = load i64, ptr %j.tasks
  call void @take(ptr %next, ptr %kernel, ptr %args, i64 %tasks)
  br label %leave
leave:
  %out.job = lshr i64 %in, 32
  atomicrmw sub ptr %gate, i64 2 release
  br label %wait
}}

; 0: done; 1: the pool belongs to another process, nothing was run
define i64 @run(ptr %pool, ptr %kernel, ptr %args, i64 %tasks, i64 %limit) {{
entry:
{addresses}
  %pid = call i32 @getpid()
  %pid.0 = load i32, ptr %p.pid
  %here = icmp eq i32 %pid, %pid.0
  br i1 %here, label %lock, label %foreign
foreign:
  ret i64 1
lock:
  %try = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic
  %mine = extractvalue {{i64, i1}} %try, 1
  br i1 %mine, label %write, label %alone
alone:  ; another thread's job is running: more threads would only get in its way
  call void @run_alone(ptr %kernel, ptr %args, i64 %tasks)
  ret i64 0
write:
  store ptr %kernel, ptr %j.kernel
  store ptr %args, ptr %j.args
  store i64 %tasks, ptr %j.tasks
  store i64 %limit, ptr %j.limit
  {save_fp}
  store atomic i64 0, ptr %next monotonic, align 8
  %old = load atomic i64, ptr %gate monotonic, align 8
  %old.job = lshr i64 %old, 32
  %job = add i64 %old.job, 1
  %job.up = shl i64 %job, 32
  %opened = or i64 %job.up, 1
  atomicrmw xchg ptr %gate, i64 %opened seq_cst
  %asleep = load atomic i64, ptr %sleepers seq_cst, align 8
  %wake = icmp sgt i64 %asleep, 0
  br i1 %wake, label %rouse, label %work
rouse:
  call i32 @pthread_mutex_lock(ptr %mutex)
  call i32 @pthread_mutex_unlock(ptr %mutex)
  call i32 @pthread_cond_broadcast(ptr %cond)
  br label %work
work:
  call void @take(ptr %next, ptr %kernel, ptr %args, i64 %tasks)
  atomicrmw and ptr %gate, i64 -2 acq_rel
  br label %waiting
waiting:
  %w = phi i64 [ 0, %work ], [ %w.1, %still ], [ %w.1, %yield ]
  %g = load atomic i64, ptr %gate acquire, align 8
  %g.low = and i64 %g, 4294967295
  %empty = icmp eq i64 %g.low, 0
  br i1 %empty, label %finish, label %patience
patience:
  %w.1 = add i64 %w, 1
  %long = icmp sgt i64 %w, 2000
  br i1 %long, label %yield, label %still
still:
  {pause}
  br label %waiting
yield:
  call i32 @sched_yield()
  br label %waiting
finish:
  store atomic i64 0, ptr %busy release, align 8
  ret i64 0
}}

define void @init(ptr %pool) {{
entry:
{addresses}
  call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  call i32 @pthread_cond_init(ptr %cond, ptr null)
  %pid = call i32 @getpid()
  store i32 %pid, ptr %p.pid
  ret void
}}

; start one worker: 0, or the error of pthread_create
define i64 @add_worker(ptr %record) {{
entry:
  %thread = alloca i64
  %error = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr %record)
  %wide = sext i32 %error to i64
  %good = icmp eq i32 %error, 0
  br i1 %good, label %detach, label %done
detach:
  %id = load i64, ptr %thread
  call i32 @pthread_detach(i64 %id)
  br label %done
done:
  ret i64 %wide
}}

; how long n pauses take, to turn a time into a number of spins
define void @pauses(i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.1, %loop ]
  {pause}
  %i.1 = add i64 %i, 1
  %more = icmp slt i64 %i.1, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


_PTR, _I64 = ctypes.c_void_p, ctypes.c_int64
_RunAlone = ctypes.CFUNCTYPE(None, _PTR, ctypes.c_char_p, _I64)
_Run = ctypes.CFUNCTYPE(_I64, _PTR, _PTR, ctypes.c_char_p, _I64, _I64)


class _Code:
    """The compiled pool functions; made once per process and never unloaded."""

    def __init__(self) -> None:
        text = pool_ir(llvm.host().triple)
        names = ("run_alone", "run", "init", "add_worker", "pauses")
        self.kernels = llvm.compile_many(text, names, "thread pool")
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
        self._memory = ctypes.create_string_buffer(_POOL_BYTES + 128)
        self.address = (ctypes.addressof(self._memory) + 127) & -128
        self._records: list[array[int]] = []
        self.workers = 0
        self._refused = False
        code.init(self.address)
        begin = time.perf_counter_ns()
        code.pauses(2000)
        spins = 2000 * SPIN_NS // max(1, time.perf_counter_ns() - begin)
        _I64.from_address(self.address + _SPINS).value = max(100, spins)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def grow(self, wanted: int) -> None:
        """Have at least so many workers, as far as the system allows."""
        wanted = min(wanted, MAX_WORKERS)
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
    """Run kernel(args, task) once for every task in range(n_tasks), on up to n_threads threads, the caller being one.

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
