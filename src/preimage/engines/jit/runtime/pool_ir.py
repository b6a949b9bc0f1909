"""The thread pool's functions: what a worker does all its life, and how a job is given to the workers. See `pool` for the picture."""

from __future__ import annotations

from preimage.engines.ir.builder import Bit, Int, Ptr
from preimage.engines.ir.functions import I32, Function, module
from preimage.engines.jit.runtime.affinity_ir import place_function

__all__ = [
    "ASLEEP",
    "AWAKE_NS",
    "COND",
    "LINUX_SIGNALS",
    "MOST_WORKERS",
    "MUTEX",
    "POOL_BYTES",
    "SPINS",
    "WHOLE_WORK",
    "WORKERS",
    "Words",
    "pause",
    "pool_ir",
]

POOL_BYTES = 4096
MOST_WORKERS = 255
MARKED = 64  # workers of whom it is known which sleep
AWAKE_NS = 100_000  # how long a worker spins after a job before it parks
WHOLE_WORK = 1 << 20  # the work of a job that is worth waking workers for; that of smaller ones is a part of it
CALLER_SPINS = 2000  # how often the caller looks for workers that have not left, before it yields its CPU

# Where things lie in the pool's memory, one cache line each for what is written often.
GATE, JOB, NEXT, SLEEPERS, BUSY = 0, 128, 256, 384, 512
PID, SPINS, CPU, WORKERS, ASLEEP, STREAK, LAST, MUTEX, COND = 640, 648, 768, 776, 392, 896, 904, 1024, 1536
MASK = 1792  # the CPUs that the workers' places were chosen from
THREADS = 2048  # the pthread_t of every worker
SIGNAL_SET = 128  # bytes of a sigset_t, or more
#: Linux's numbers of SIG_SETMASK, SIGSEGV, SIGBUS, SIGFPE and SIGILL.
LINUX_SIGNALS = (2, 11, 7, 8, 4)

# The gate: bit 0 open, bits 1..31 how many workers are inside, bits 32.. the number of the job.
OPEN, INSIDE, JOB_BIT = 1, 2, 32
LOW_HALF = (1 << 32) - 1


class Words:
    """The pool's memory by the names of its words."""

    def __init__(self, pool: Ptr) -> None:
        self.pool = pool
        self.gate, self.next, self.sleepers, self.busy = (pool.at_bytes(at) for at in (GATE, NEXT, SLEEPERS, BUSY))
        self.kernel, self.args, self.tasks, self.limit = (pool.at_bytes(JOB + 8 * k) for k in range(4))
        self.pid, self.spins, self.cpu, self.workers = (pool.at_bytes(at) for at in (PID, SPINS, CPU, WORKERS))
        self.asleep = pool.at_bytes(ASLEEP)  # one bit each of the first workers
        self.streak, self.last = pool.at_bytes(STREAK), pool.at_bytes(LAST)
        self.mutex, self.cond, self.mask, self.threads = (pool.at_bytes(at) for at in (MUTEX, COND, MASK, THREADS))


def pool_ir(triple: str, signals: tuple[int, ...] = LINUX_SIGNALS, clock: int = 1) -> str:
    """The pool as LLVM IR; `run` is what `pool.launch` calls. signals: the system's numbers of those named above; clock: that of its steady clock."""
    place = [place_function(Words)] if "linux" in triple else []
    alone, run = [_run_alone(triple), _wakes_nobody(clock)], _run(triple, bool(place))
    return module([*place, *alone, _take(), _worker(triple), run, _init(), _add_worker(signals), _pauses(triple)])


def pause(f: Function, triple: str) -> None:
    """Wait a moment inside a spin loop."""
    if triple.startswith("x86_64"):
        f.call_c("llvm.x86.sse2.pause", "void")
    else:
        f.call_c("llvm.aarch64.isb", "void", I32(15))


def _run_alone(triple: str) -> Function:
    """Every task, one after the other."""
    f = Function("run_alone", "void", kernel="ptr", args="ptr", tasks="i64")
    kernel, args, f.thread = f.parameter("kernel"), f.parameter("args"), f.i64(0)
    with f.standard_floating_point(triple), f.loop(0, f.number("tasks")) as task:
        f.call(kernel.address(), args, task.index)
    return f


def _take() -> Function:
    """Tasks from the counter until none is left; the caller is thread 0, workers follow.

    The caller takes them from the front, workers from the back: in the next call they meet the same data, which they find in their own
    caches. The counter's low half counts the tasks taken in front, its high half those behind.
    """
    f = Function("take", "void", internal=True, next="ptr", kernel="ptr", args="ptr", tasks="i64", thread="i64")
    counter, tasks, f.thread = f.parameter("next"), f.number("tasks"), f.number("thread")
    leads = f.thread.equals(0)
    one = leads.pick(f.i64(1), f.i64(1 << 32))
    with f.forever() as loop:
        taken = counter.atomic_update("add", one, "monotonic")
        front, back = taken & LOW_HALF, taken >> 32
        with f.when(front + back >= tasks):
            loop.leave()
        f.call(f.parameter("kernel").address(), f.parameter("args"), leads.pick(front, tasks - 1 - back))
    return f


def _is_new(gate: Int, last: Ptr) -> Bit:
    """Whether the gate is open for another job than the last one."""
    return (gate & OPEN).equals(OPEN) & (gate >> JOB_BIT).equals(last.load_int()).negated()


def _worker(triple: str) -> Function:
    """What a worker does all its life; its argument is a record of the pool and its number."""
    f = Function("worker", "ptr", internal=True, record="ptr")
    record = f.parameter("record")
    words, index = Words(f.pointer(record.load_int(), "i64")), record.at(1).load_int()
    last = f.cell(-1)  # the job that this worker need not look at again
    seen, spun = f.cell(0), f.cell(0)  # the gate as it was last seen
    f.set_floating_point(triple)  # a new thread has its maker's
    with f.forever():
        _await_job(f, words, index.below(MARKED).pick(f.i64(1) << (index & (MARKED - 1)), f.i64(0)), last, seen, spun, triple)
        with f.forever() as entering:  # while the gate is open, try to go in
            gate = seen.load_int()
            last.store_int(gate >> JOB_BIT)
            with f.when((gate & OPEN).equals(0)):
                entering.leave()
            entered, now = words.gate.compare_exchange(gate, gate + INSIDE, "acq_rel", "acquire")
            with f.when(entered):  # the job cannot end while this worker is counted
                with f.when(index < words.limit.load_int()):
                    job = [f.pointer(word.load_int(), "i64") for word in (words.kernel, words.args)]
                    f.call_function("take", words.next, *job, words.tasks.load_int(), index + 1)
                words.gate.atomic_update("sub", INSIDE, "release")
                entering.leave()
            seen.store_int(now)
    return f


def _await_job(f: Function, words: Words, own: Int, last: Ptr, seen: Ptr, spun: Ptr, triple: str) -> None:
    """Spin until the gate opens for a new job; park after a while. The gate as it was then is in `seen`. own: this worker's bit of `asleep`."""
    limit = words.spins.atomic_load("monotonic")
    spun.store_int(0)
    with f.forever() as spinning:
        seen.store_int(words.gate.atomic_load("acquire"))
        with f.when(_is_new(seen.load_int(), last)):
            spinning.leave()
        with f.when(spun.load_int() > limit):
            f.call_c("pthread_mutex_lock", "i32", words.mutex)
            words.sleepers.atomic_update("add", 1, "seq_cst")
            words.asleep.atomic_update("or", own, "monotonic")
            with f.forever() as sleeping:
                seen.store_int(words.gate.atomic_load("seq_cst"))
                with f.when(_is_new(seen.load_int(), last)):
                    sleeping.leave()
                f.call_c("pthread_cond_wait", "i32", words.cond, words.mutex)
            words.sleepers.atomic_update("sub", 1, "seq_cst")
            words.asleep.atomic_update("and", f.i64(-1) - own, "monotonic")
            f.call_c("pthread_mutex_unlock", "i32", words.mutex)
            spinning.leave()
        spun.store_int(spun.load_int() + 1)
        pause(f, triple)


def _wakes_nobody(clock: int) -> Function:
    """Whether so little work wakes nobody: 1 unless small jobs came one soon after another, so that workers would have been awake for them,
    and have together been worth waking them. A job that is run alone is followed by `work` 0.
    """
    f = Function("wakes_nobody", "i64", internal=True, pool="ptr", work="i64")
    words, time = Words(f.parameter("pool")), f.stack("i64", 2)
    f.call_c("clock_gettime", "i32", I32(clock), time)
    now = time.load_int() * 1_000_000_000 + time.at(1).load_int()
    soon = (now - words.last.atomic_load("monotonic")) < AWAKE_NS
    words.last.atomic_store(now, "monotonic")
    streak = soon.pick(words.streak.atomic_load("monotonic"), f.i64(0)) + f.number("work")
    is_enough = streak >= WHOLE_WORK
    words.streak.atomic_store(is_enough.pick(f.i64(0), streak), "monotonic")
    f.give(is_enough.pick(f.i64(0), f.i64(1)))
    return f


def _run(triple: str, places: bool) -> Function:
    """Run a job. 0: done; 1: the pool belongs to another process, nothing was run.

    work: how much there is to do, `WHOLE_WORK` or a part of it. Less than the whole is shared with those workers that are awake.
    """
    f = Function("run", "i64", pool="ptr", kernel="ptr", args="ptr", tasks="i64", limit="i64", work="i64")
    words = Words(f.parameter("pool"))
    kernel, args, tasks = f.parameter("kernel"), f.parameter("args"), f.number("tasks")
    waited, rouses = f.cell(0), f.cell(1)
    with f.when(f.call_c("getpid", "i32").equals(words.pid.load_int()).negated()):
        f.give(1)
    with f.when(f.number("work") < WHOLE_WORK):
        rouses.store_int(0)
        wanted = (f.i64(1) << f.number("limit").minimum(MARKED - 1)) - 1
        asleep = words.asleep.atomic_load("monotonic") & wanted
        with f.when(asleep.equals(0).negated()):
            quiet = f.call_known("wakes_nobody", words.pool, f.number("work"))
            rouses.store_int(quiet.equals(0).pick(f.i64(1), f.i64(0)))
            with f.when((quiet > 0) & asleep.equals(wanted)):
                f.call_function("run_alone", kernel, args, tasks)
                f.call_known("wakes_nobody", words.pool, f.i64(0))
                f.give(0)
    free, _ = words.busy.compare_exchange(0, 1, "acquire")
    with f.when(free.negated()):  # another thread's job is running: more threads would only get in its way
        f.call_function("run_alone", kernel, args, tasks)
        f.give(0)
    if places:  # of small jobs whether it is still on its CPU, which takes less than to ask for all
        moved = f.call_c("sched_getcpu", "i32").equals(words.cpu.load_int()).negated()
        with f.when((rouses.load_int() > 0) | moved):
            f.call_function("place", words.pool)
    for word, value in ((words.kernel, kernel.address()), (words.args, args.address()), (words.tasks, tasks)):
        word.store_int(value)
    words.limit.store_int(f.number("limit"))
    words.next.atomic_store(0, "monotonic")
    job = (words.gate.atomic_load("monotonic") >> JOB_BIT) + 1
    words.gate.atomic_update("xchg", (job << JOB_BIT) | OPEN, "seq_cst")
    with f.when((rouses.load_int() > 0) & (words.sleepers.atomic_load("seq_cst") > 0)):
        f.call_c("pthread_mutex_lock", "i32", words.mutex)
        f.call_c("pthread_mutex_unlock", "i32", words.mutex)
        f.call_c("pthread_cond_broadcast", "i32", words.cond)
    with f.standard_floating_point(triple):
        f.call_function("take", words.next, kernel, args, tasks, f.i64(0))
    words.gate.atomic_update("and", ~OPEN, "acq_rel")
    with f.forever() as leaving:
        with f.when((words.gate.atomic_load("acquire") & LOW_HALF).equals(0)):
            leaving.leave()
        tired = waited.load_int() > CALLER_SPINS
        waited.store_int(waited.load_int() + 1)
        with f.when(tired):
            f.call_c("sched_yield", "i32")
        with f.when(tired.negated()):
            pause(f, triple)
    words.busy.atomic_store(0, "release")
    f.give(0)
    return f


def _init() -> Function:
    f = Function("init", "void", pool="ptr")
    words, null = Words(f.parameter("pool")), f.pointer(f.i64(0), "i64")
    f.call_c("pthread_mutex_init", "i32", words.mutex, null)
    f.call_c("pthread_cond_init", "i32", words.cond, null)
    words.pid.store_int(f.call_c("getpid", "i32"))
    words.cpu.store_int(-1)
    words.workers.store_int(0)
    return f


def _add_worker(signals: tuple[int, ...]) -> Function:
    """Start one worker (under the package's lock): 0, or the error of pthread_create.

    It takes no signals but those that its own code causes: the others are the Python threads' affair. They are masked here, where no
    signal handler of Python's can come between.
    """
    f = Function("add_worker", "i64", record="ptr")
    record, null = f.parameter("record"), f.pointer(f.i64(0), "i64")
    words = Words(f.pointer(record.load_int(), "i64"))
    thread, masked, before = f.cell(0), f.stack("i64", SIGNAL_SET // 8), f.stack("i64", SIGNAL_SET // 8)
    f.call_c("sigfillset", "i32", masked)
    for number in signals[1:]:
        f.call_c("sigdelset", "i32", masked, I32(number))
    f.call_c("pthread_sigmask", "i32", I32(signals[0]), masked, before)
    error = f.call_c("pthread_create", "i32", thread, null, Ptr(f, "@worker", "i64"), record)
    f.call_c("pthread_sigmask", "i32", I32(signals[0]), before, null)
    with f.when(error.equals(0)):
        f.call_c("pthread_detach", "i32", thread.load_int())
        count = words.workers.load_int()
        words.threads.at(count).store_int(thread.load_int())
        words.workers.store_int(count + 1)
        words.cpu.store_int(-1)  # the next job gives it its CPUs
    f.give(error)
    return f


def _pauses(triple: str) -> Function:
    """So many pauses: how long they take turns a time into a number of spins."""
    f = Function("pauses", "void", n="i64")
    with f.loop(0, f.number("n"), once=True):
        pause(f, triple)
    return f
