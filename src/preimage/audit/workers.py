"""The audit in processes that may die, and one Report of it all.

A worker notes where it is (case, subject, check, trial) in shared memory before each attempt; if it dies, that place is the
finding, a fresh worker goes on behind it, and the crash is shrunk by attempts that each run in a forked child.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any

from preimage.audit.case import Case
from preimage.audit.checks import make as make_check
from preimage.audit.checks.base import Check
from preimage.audit.findings import Report, SubjectReport
from preimage.audit.generate import case_at
from preimage.audit.runner import Forked, Progress, audit_case, death, fresh_reports, record, seed_of, trials_of
from preimage.audit.state import State
from preimage.audit.steer import Asked
from preimage.audit.subjects import make as make_subject
from preimage.audit.subjects.base import Subject
from preimage.errors import OptionError

__all__ = ["one_thread", "pick_jobs", "run_in_workers", "single_threaded_children"]

_CHUNK = 8


class _Handed:
    """A list of subjects that pickles by spec where there is one."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects: list[Any] = [s.spec or s for s in subjects]

    def made(self) -> list[Subject]:
        return [make_subject(s) if isinstance(s, str) else s for s in self.subjects]


def _worker(
    conn: Connection, handed: _Handed, checks: Sequence[str], seed: int, brief: bool, place: Any, shrink_seconds: float
) -> None:
    """Take (indices, cases or None for those of the seed, place to go on behind) and send (index, reports) for every case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # what subjects say about NaN and overflow is wanted here
    one_thread()
    subjects, made = handed.made(), [make_check(c, brief=brief) for c in checks]
    known: set[tuple[str, ...]] = set()
    while True:
        try:
            task = conn.recv()
        except (EOFError, OSError):  # the parent was killed
            return
        if task is None:
            return
        indices, cases, behind = task
        for k, i in enumerate(indices):
            case = case_at(i, seed) if cases is None else cases[k]
            reports = {s.name: SubjectReport(s.name) for s in subjects}

            def note(s: int, c: int, t: int, i: int = i, behind: Any = behind) -> bool:
                if behind is not None and (i, s, c, t) <= behind:
                    return False
                place[:] = [i, s, c, t]
                return True

            try:
                audit_case(case, i, subjects, reports, made, seed, note=note, shrink_seconds=shrink_seconds, known=known)
            except OptionError as error:  # what the subject says of itself makes no sense
                conn.send(error)
                return
            except Exception:  # subjects are called guarded: this is a defect of the audit
                conn.send(f"case {case}\n{traceback.format_exc()}")
                return
            try:
                conn.send((i, reports))
            except OSError:
                return
        conn.send(None)


def one_thread() -> None:
    """Engines use one thread in this process: the processes are what runs in parallel."""
    from preimage import settings

    settings.set_defaults(threads=1)


@contextmanager
def single_threaded_children() -> Iterator[None]:
    """BLAS and OpenMP of the children use one thread: the workers are what runs in parallel."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {n: os.environ.get(n) for n in names}
    os.environ.update({n: before[n] or "1" for n in names})
    try:
        yield
    finally:
        for n, v in before.items():
            if v is None:
                del os.environ[n]
            else:
                os.environ[n] = v


class _Pool:
    """Workers, the chunk each is at, and what to do when one dies."""

    def __init__(
        self, subjects: Sequence[Subject], checks: Sequence[str], seed: int, jobs: int, shrink_seconds: float, brief: bool
    ) -> None:
        self.subjects, self.checks, self.seed, self.shrink_seconds, self.brief = subjects, checks, seed, shrink_seconds, brief
        try:
            pickle.dumps(handed := _Handed(subjects))
            mine = any("__main__" in type(getattr(s, "target", s)).__module__ for s in handed.subjects if not isinstance(s, str))
        except Exception:
            mine = True
        # An object that another process cannot import is handed over by forking.
        self.context = multiprocessing.get_context("fork" if mine else "spawn")
        self.workers: dict[Connection, tuple[Any, Any, list[Any]]] = {}
        self.jobs = jobs
        self.known: set[tuple[str, ...]] = set()

    def start(self, task: Any) -> Connection:
        ours, theirs = self.context.Pipe()
        place = self.context.RawArray("q", [-1, 0, 0, 0])
        process = self.context.Process(  # type: ignore[attr-defined]
            target=_worker,
            args=(theirs, _Handed(self.subjects), self.checks, self.seed, self.brief, place, self.shrink_seconds),
            daemon=True,
        )
        with single_threaded_children():
            process.start()
        theirs.close()
        ours.send(task)
        self.workers[ours] = (process, place, [task])
        return ours

    def give(self, conn: Connection, task: Any) -> None:
        self.workers[conn][2][0] = task
        conn.send(task)

    def stop(self, conn: Connection, *, kill: bool = False) -> int | None:
        process, _, _ = self.workers.pop(conn)
        if kill:
            process.terminate()
        else:
            with suppress(OSError):
                conn.send(None)
        process.join(10)
        conn.close()
        code: int | None = process.exitcode
        return code


def run_in_workers(
    subjects: Sequence[Subject],
    cases: Sequence[Case | Asked] | int,
    checks: Sequence[str],
    seed: int = 0,
    *,
    jobs: int = 2,
    progress: Progress | None = None,
    shrink_seconds: float = 5.0,
    first: int = 0,
    state: State | None = None,
) -> Report:
    """The audit in `jobs` processes. A process that dies is a finding, and the audit goes on behind the place.

    cases: the cases, or how many of the seed's own, which the processes draw themselves; first: the number of the first case.
    state: what is done already is left out, and what is done is written there.
    """
    start = time.monotonic()
    reports = fresh_reports(subjects) if state is None else {s.name: r for s, r in _begun(subjects, state)}
    present = [s for s in subjects if reports[s.name].absent is None]
    made = [make_check(c, brief=state is not None) for c in checks]
    pool = _Pool(present, checks, seed, jobs, shrink_seconds, state is not None)
    count = cases if isinstance(cases, int) else len(cases)
    tasks = _tasks(cases, count, first, state) if present else iter(())
    done, interrupted = 0 if state is None else len(state.done), False
    deaths: set[int] = set()  # cases that ended a process
    try:
        for task in islice(tasks, jobs):
            pool.start(task)
        while pool.workers:
            for conn in wait(list(pool.workers)):
                assert isinstance(conn, Connection)
                try:
                    message = conn.recv()
                except (EOFError, OSError):
                    deaths.add(int(pool.workers[conn][1][0]))
                    task = _after_death(pool, conn, present, made, reports, seed) or next(tasks, None)
                    if task is not None:
                        pool.start(task)
                    continue
                if message is None:
                    task = next(tasks, None)
                    if task is not None:
                        pool.give(conn, task)
                    else:
                        pool.stop(conn)
                    continue
                if isinstance(message, OptionError):
                    raise message
                if isinstance(message, str):
                    raise RuntimeError(f"the audit itself failed at {message}")
                index, found = message
                done += 1
                for name, report in found.items():
                    reports[name].merge(report)
                if state is not None:
                    state.finished(index, index in deaths or any(r.findings for r in found.values()))
                if progress is not None:
                    progress(done, count, sum(len(r.findings) for r in reports.values()))
    except KeyboardInterrupt:
        interrupted = True
        for conn in list(pool.workers):
            pool.stop(conn, kill=True)
    if state is not None:
        state.save()
        state.report.interrupted = interrupted
        return state.report
    return Report(list(reports.values()), count, seed, tuple(checks), time.monotonic() - start, interrupted=interrupted)


def _begun(subjects: Sequence[Subject], state: State) -> Iterator[tuple[Subject, SubjectReport]]:
    """The subjects of a long run with what was found so far."""
    fresh = fresh_reports(subjects)
    for report in state.report.subjects:
        report.absent, report.promises = fresh[report.name].absent, fresh[report.name].promises
        yield next(s for s in subjects if s.name == report.name), report
    state.begin()


def _tasks(cases: Sequence[Case | Asked] | int, count: int, first: int, state: State | None) -> Iterator[Any]:
    """(numbers, cases or None, None) of a few cases each; what is done already is left out."""
    missing = [range(count)] if state is None else list(state.done.missing(count))
    for part in missing:
        for k in range(part.start, part.stop, _CHUNK):
            at = range(k, min(k + _CHUNK, part.stop))
            yield [first + i for i in at], None if isinstance(cases, int) else [cases[i] for i in at], None


def _after_death(
    pool: _Pool,
    conn: Connection,
    subjects: Sequence[Subject],
    checks: Sequence[Check],
    reports: dict[str, SubjectReport],
    seed: int,
) -> Any:
    """Record why a worker died; the task that goes on behind the place, or None if nothing is left of it."""
    process, place, (task, *_) = pool.workers[conn]
    at = tuple(place)
    process.join(10)
    code = process.exitcode
    pool.stop(conn)
    indices, cases, _ = task
    if at[0] < 0:
        raise RuntimeError(f"a worker of the audit could not start (exit status {code})")
    i, s, c, t = at
    given = case_at(i, seed) if cases is None else cases[indices.index(i)]
    case = given.case if isinstance(given, Asked) else given
    subject, check = subjects[s], checks[c]
    data_seed = seed_of(seed, i)
    trial = trials_of(check, subject, given, data_seed)[t]
    failure = death(check.name, trial, code)
    report = reports[subject.name]
    report.tally.failed[check.name] += 1
    record(report, Forked(check), subject, trial, case, data_seed, failure, pool.shrink_seconds * 2, pool.known)
    left = [k for k in indices if k >= i]
    return left, None if cases is None else [cases[indices.index(k)] for k in left], at


def pick_jobs(jobs: int | None) -> int:
    """The number of workers: as asked, or one per CPU of the affinity mask."""
    if jobs is not None:
        return jobs
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
