"""The thread pool as LLVM IR: what a worker does all its life, and how a job is handed out. See `threads` for the picture."""

from __future__ import annotations

from string import Template

from preimage.engines.jit.runtime.affinity_ir import placing

__all__ = ["COND", "LINUX_SIGNALS", "MOST_WORKERS", "MUTEX", "POOL_BYTES", "SPINS", "WORKERS", "pool_ir"]

POOL_BYTES = 4096
MOST_WORKERS = 255

# Where things lie in the pool's memory, one cache line each for what is written often.
GATE, JOB, NEXT, SLEEPERS, BUSY = 0, 128, 256, 384, 512
PID, SPINS, CPU, WORKERS, MUTEX, COND = 640, 648, 768, 776, 1024, 1536
MASK = 1792  # the CPUs that the workers' places were chosen from
THREADS = 2048  # the pthread_t of every worker
SIGNAL_SET = 128  # bytes of a sigset_t, or more
#: Linux's numbers of SIG_SETMASK, SIGSEGV, SIGBUS, SIGFPE and SIGILL.
LINUX_SIGNALS = (2, 11, 7, 8, 4)


#: The names of the pool's words in the functions below, and where they lie.
_WORDS = (
    ("gate", GATE), ("j.kernel", JOB), ("j.args", JOB + 8), ("j.tasks", JOB + 16), ("j.limit", JOB + 24),
    ("j.fp", JOB + 32), ("next", NEXT), ("sleepers", SLEEPERS), ("busy", BUSY), ("p.pid", PID),
    ("p.spins", SPINS), ("p.cpu", CPU), ("p.workers", WORKERS), ("mutex", MUTEX), ("cond", COND),
)  # fmt: skip


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


def _pause(triple: str) -> tuple[str, str]:
    """IR that waits a moment inside a spin loop, and its declaration."""
    if triple.startswith("x86_64"):
        return "call void @llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"
    return "call void @llvm.aarch64.isb(i32 15)", "declare void @llvm.aarch64.isb(i32)"


def pool_ir(triple: str, signals: tuple[int, ...] = LINUX_SIGNALS) -> str:
    """The pool as LLVM IR: its functions as below, in order; `run` is what `launch` calls. signals: the system's numbers of those
    named above.
    """
    place, place_function = placing(triple, _PLACES)
    save_fp, load_fp, declare_fp = _floating_point(triple)
    pause, declare_pause = _pause(triple)
    unmasked = "\n".join(f"  call i32 @sigdelset(ptr %masked, i32 {number})" for number in signals[1:])
    addresses = "\n".join(f"  %{name} = getelementptr i8, ptr %pool, i64 {offset}" for name, offset in _WORDS)
    pieces = (_DECLARATIONS, _RUN_ALONE, _TAKE, _WORKER, _RUN, _INIT, _ADD_WORKER, _PAUSES)
    return Template("".join(pieces)).substitute(
        _PLACES, signal_set=SIGNAL_SET, place=place, place_function=place_function, save_fp=save_fp, load_fp=load_fp, declare_fp=declare_fp,
        pause=pause, declare_pause=declare_pause, unmasked=unmasked, addresses=addresses, set_mask=signals[0],
    )  # fmt: skip


_PLACES = {"cpu": CPU, "workers": WORKERS, "mask": MASK, "threads": THREADS}

_DECLARATIONS = """
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
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @pthread_sigmask(i32, ptr, ptr)
${declare_fp}
${declare_pause}
${place_function}
"""

_RUN_ALONE = """; every task, one after the other
define void @run_alone(ptr %kernel, ptr %args, i64 %tasks) {
entry:
  %any = icmp sgt i64 %tasks, 0
  br i1 %any, label %loop, label %done
loop:
  %task = phi i64 [ 0, %entry ], [ %after, %loop ]
  call void %kernel(ptr %args, i64 %task, i64 0)
  %after = add i64 %task, 1
  %more = icmp slt i64 %after, %tasks
  br i1 %more, label %loop, label %done
done:
  ret void
}

"""

_TAKE = """; tasks from the counter until none is left; the caller is thread 0, workers follow. The caller takes them from the front, workers
; from the back: in the next call they meet the same data, which they find in their own caches. The counter's low half counts the
; tasks taken in front, its high half those behind.
define internal void @take(ptr %next, ptr %kernel, ptr %args, i64 %tasks, i64 %thread) {
entry:
  %leads = icmp eq i64 %thread, 0
  %one = select i1 %leads, i64 1, i64 4294967296
  %last = sub i64 %tasks, 1
  br label %loop
loop:
  %taken = atomicrmw add ptr %next, i64 %one monotonic
  %front = and i64 %taken, 4294967295
  %back = lshr i64 %taken, 32
  %count = add i64 %front, %back
  %from.back = sub i64 %last, %back
  %task = select i1 %leads, i64 %front, i64 %from.back
  %mine = icmp slt i64 %count, %tasks
  br i1 %mine, label %work, label %done
work:
  call void %kernel(ptr %args, i64 %task, i64 %thread)
  br label %loop
done:
  ret void
}

"""

_WORKER = """; what a worker does all its life; its argument is a record (pool, its number), 16 bytes
define internal ptr @worker(ptr %record) {
entry:
  %pool = load ptr, ptr %record
  %r.index = getelementptr i8, ptr %record, i64 8
  %index = load i64, ptr %r.index
${addresses}
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
  ${pause}
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
  %ok = extractvalue {i64, i1} %swap, 1
  %now = extractvalue {i64, i1} %swap, 0
  br i1 %ok, label %inside, label %again
again:
  br label %look
inside:  ; the job cannot end while this worker is counted
  %limit = load i64, ptr %j.limit
  %wanted = icmp slt i64 %index, %limit
  br i1 %wanted, label %work, label %leave
work:
  ${load_fp}
  %kernel = load ptr, ptr %j.kernel
  %args = load ptr, ptr %j.args
  %tasks = load i64, ptr %j.tasks
  %thread = add i64 %index, 1
  call void @take(ptr %next, ptr %kernel, ptr %args, i64 %tasks, i64 %thread)
  br label %leave
leave:
  %out.job = lshr i64 %in, 32
  atomicrmw sub ptr %gate, i64 2 release
  br label %wait
}

"""

_RUN = """; 0: done; 1: the pool belongs to another process, nothing was run
define i64 @run(ptr %pool, ptr %kernel, ptr %args, i64 %tasks, i64 %limit) {
entry:
${addresses}
  %pid = call i32 @getpid()
  %pid.0 = load i32, ptr %p.pid
  %here = icmp eq i32 %pid, %pid.0
  br i1 %here, label %lock, label %foreign
foreign:
  ret i64 1
lock:
  %try = cmpxchg ptr %busy, i64 0, i64 1 acquire monotonic
  %mine = extractvalue {i64, i1} %try, 1
  br i1 %mine, label %write, label %alone
alone:  ; another thread's job is running: more threads would only get in its way
  call void @run_alone(ptr %kernel, ptr %args, i64 %tasks)
  ret i64 0
write:
  ${place}
  store ptr %kernel, ptr %j.kernel
  store ptr %args, ptr %j.args
  store i64 %tasks, ptr %j.tasks
  store i64 %limit, ptr %j.limit
  ${save_fp}
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
  call void @take(ptr %next, ptr %kernel, ptr %args, i64 %tasks, i64 0)
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
  ${pause}
  br label %waiting
yield:
  call i32 @sched_yield()
  br label %waiting
finish:
  store atomic i64 0, ptr %busy release, align 8
  ret i64 0
}

"""

_INIT = """define void @init(ptr %pool) {
entry:
${addresses}
  call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  call i32 @pthread_cond_init(ptr %cond, ptr null)
  %pid = call i32 @getpid()
  store i32 %pid, ptr %p.pid
  store i32 -1, ptr %p.cpu
  store i64 0, ptr %p.workers
  ret void
}

"""

_ADD_WORKER = """; start one worker (under the package's lock): 0, or the error of pthread_create. It takes no signals but those that its own code
; causes: the others are the Python threads' affair. They are masked here, where no signal handler of Python's can come between.
define i64 @add_worker(ptr %record) {
entry:
  %thread = alloca i64
  %masked = alloca [${signal_set} x i8], align 8
  %before = alloca [${signal_set} x i8], align 8
  call i32 @sigfillset(ptr %masked)
${unmasked}
  call i32 @pthread_sigmask(i32 ${set_mask}, ptr %masked, ptr %before)
  %pool = load ptr, ptr %record
  %p.cpu = getelementptr i8, ptr %pool, i64 ${cpu}
  %p.workers = getelementptr i8, ptr %pool, i64 ${workers}
  %error = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr %record)
  call i32 @pthread_sigmask(i32 ${set_mask}, ptr %before, ptr null)
  %wide = sext i32 %error to i64
  %good = icmp eq i32 %error, 0
  br i1 %good, label %detach, label %done
detach:
  %id = load i64, ptr %thread
  call i32 @pthread_detach(i64 %id)
  %n = load i64, ptr %p.workers
  %at = mul i64 %n, 8
  %off = add i64 %at, ${threads}
  %mine = getelementptr i8, ptr %pool, i64 %off
  store i64 %id, ptr %mine
  %n.1 = add i64 %n, 1
  store i64 %n.1, ptr %p.workers
  store i32 -1, ptr %p.cpu  ; the next job gives it its CPUs
  br label %done
done:
  ret i64 %wide
}

"""

_PAUSES = """; how long n pauses take, to turn a time into a number of spins
define void @pauses(i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.1, %loop ]
  ${pause}
  %i.1 = add i64 %i, 1
  %more = icmp slt i64 %i.1, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""
