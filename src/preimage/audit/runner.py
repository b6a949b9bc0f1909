"""Runs checks over cases and subjects, in this process or in workers that may die, and collects one Report.

A worker notes where it is (case, subject, check, trial) in shared memory before each attempt; if it dies, that place is the
finding, a fresh worker goes on behind it, and the crash is shrunk by attempts that each run in a forked child.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.checks import make as make_check
from preimage.audit.checks.base import Check, Operands
from preimage.audit.files import expected_invalid
from preimage.audit.findings import Failure, Finding, Report, SubjectReport, Tally, Trial
from preimage.audit.reproduce import reproducer
from preimage.audit.shrink import Shrunk, shrink
from preimage.audit.subjects import make as make_subject
from preimage.audit.subjects.base import Subject

__all__ = ["Forked", "audit_case", "pick_jobs", "refuse_expected", "run_here", "run_in_workers"]

Progress = Callable[[int, int, int], None]
_CHUNK = 8
_PICTURE = 20_000
#: Failures of one subject that are shrunk in one process; more of other kinds are reported as they came.
_SHRUNK = 12


class Forked(Check):
    """A check whose attempts each run in a forked child, so that a crash is a Failure and not the end."""

    def __init__(self, check: Check, seconds: float = 60.0) -> None:
        self.check, self.name, self.seconds = check, check.name, seconds

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Any:
        return self.check.trials(subject, case, rng)

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        return self.check.draw(case, trial, seed)

    def data_key(self, trial: Trial) -> Any:
        return self.check.data_key(trial)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of BLAS are idle here, and the child ends by _exit
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(read)
                faulthandler.disable()  # a death is expected, and reported by the parent
                counted = Tally()
                failure = self.check.attempt(subject, trial, ops, counted)
                with os.fdopen(write, "wb") as pipe:
                    pickle.dump((failure, counted), pipe)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        import select

        with os.fdopen(read, "rb") as pipe:
            if not select.select([pipe], [], [], self.seconds)[0]:
                os.kill(pid, signal.SIGKILL)
            data = pipe.read()
        _, status = os.waitpid(pid, 0)
        if data and os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            failure, counted = pickle.loads(data)
            tally.merge(counted)
            return failure  # type: ignore[no-any-return]
        return death(self.name, trial, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def death(check: str, trial: Trial, code: int | None) -> Failure:
    """The failure that a dead process is."""
    name = signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
    if check == "memory" and name in ("SIGSEGV", "SIGBUS"):
        side = trial.extra[0] if trial.extra else "end"
        where = "past the end" if side == "end" else "before the start"
        return Failure("out-of-bounds access", f"{trial.result} touched memory {where} of an array ({name})")
    return Failure("crash", f"{trial.result} ended the process ({name})")


def _seed_of(seed: int, index: int) -> int:
    return seed * 1_000_003 + index


def _trials(check: Check, subject: Subject, case: Case, seed: int) -> list[Trial]:
    return list(check.trials(subject, case, np.random.default_rng((_seed_of(seed, 0), _number(check.name), case.macs))))


def _number(text: str) -> int:
    return int.from_bytes(text.encode()[:6], "little")


def audit_case(
    case: Case,
    index: int,
    subjects: Sequence[Subject],
    reports: dict[str, SubjectReport],
    checks: Sequence[Check],
    seed: int,
    *,
    note: Callable[[int, int, int], bool] = lambda s, c, t: True,
    shrink_seconds: float = 5.0,
    known: set[tuple[str, ...]] | None = None,
) -> None:
    """All checks of one case on all subjects; data and truth are shared. `note` may skip a trial; failures whose kind is
    in `known` are not shrunk again.
    """
    known = set() if known is None else known
    drawn: dict[Any, Operands] = {}
    data_seed = _seed_of(seed, index)
    for s, subject in enumerate(subjects):
        report = reports[subject.name]
        for c, check in enumerate(checks):
            for t, trial in enumerate(_trials(check, subject, case, data_seed)):
                if not note(s, c, t):
                    continue
                key = (check.name, check.data_key(trial))
                if key not in drawn:
                    drawn[key] = check.draw(case, trial, data_seed)
                failure = check.attempt(subject, trial, drawn[key], report.tally)
                if failure is not None:
                    report.tally.failed[check.name] += 1
                    record(report, check, subject, trial, case, data_seed, failure, shrink_seconds, known)


def record(
    report: SubjectReport,
    check: Check,
    subject: Subject,
    trial: Trial,
    case: Case,
    data_seed: int,
    failure: Failure,
    shrink_seconds: float,
    known: set[tuple[str, ...]],
) -> None:
    """Add a failure to the report; the first of its kind is shrunk and gets its reproducer."""
    finding = Finding(
        subject.name,
        check.name,
        failure.severity,
        trial.result,
        trial.dtype,
        trial.layout,
        failure.message,
        case.to_json(),
        data_seed,
    )
    if failure.wrong is not None:
        finding.wrong_shape = tuple(failure.wrong.shape)
        finding.wrong_at = [int(i) for i in np.flatnonzero(failure.wrong)[:_PICTURE]]
    first = report.add(finding)
    if first is not None and shrink_seconds > 0 and finding.key not in known and sum(k[0] == subject.name for k in known) < _SHRUNK:
        known.add(finding.key)
        complete(first, shrink(check, subject, trial, case, data_seed, failure, seconds=shrink_seconds), subject, failure)


def complete(finding: Finding, smallest: Shrunk | None, subject: Subject, failure: Failure) -> None:
    """Write what shrinking found into the finding."""
    if smallest is None:
        finding.repeatable = "did not come back in 60 tries with the same data"
        finding.reproducer = failure.script or ""
        return
    finding.smallest = smallest.operands.case.to_json()
    finding.smallest_message = smallest.failure.message
    finding.reproducer = reproducer(subject, smallest)
    finding.repeatable = f"{smallest.seen} of {smallest.tried} runs"
    if smallest.failure.wrong is not None and not finding.wrong_at:
        finding.wrong_shape = tuple(smallest.failure.wrong.shape)
        finding.wrong_at = [int(i) for i in np.flatnonzero(smallest.failure.wrong)[:_PICTURE]]


def _reports(subjects: Sequence[Subject]) -> dict[str, SubjectReport]:
    return {s.name: SubjectReport(s.name, s.unavailable(), tuple(sorted(s.promises))) for s in subjects}


def run_here(
    subjects: Sequence[Subject],
    cases: Sequence[Case],
    checks: Sequence[str],
    seed: int = 0,
    *,
    progress: Progress | None = None,
    shrink_seconds: float = 5.0,
) -> Report:
    """The audit in this process; checks that may kill it run each attempt in a forked child."""
    start = time.monotonic()
    reports = _reports(subjects)
    present = [s for s in subjects if reports[s.name].absent is None]
    made = [Forked(check) if check.needs_child else check for check in map(make_check, checks)]
    interrupted = False
    known: set[tuple[str, ...]] = set()
    try:
        for i, case in enumerate(cases):
            audit_case(case, i, present, reports, made, seed, shrink_seconds=shrink_seconds, known=known)
            if progress is not None:
                progress(i + 1, len(cases), sum(len(r.findings) for r in reports.values()))
    except KeyboardInterrupt:
        interrupted = True
    return Report(
        list(reports.values()), len(cases), seed, tuple(checks), time.monotonic() - start, interrupted=interrupted
    )


# -- workers -----------------------------------------------------------------------------------------------------------


class _Handed:
    """A list of subjects that pickles by spec where there is one."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects: list[Any] = [s.spec or s for s in subjects]

    def made(self) -> list[Subject]:
        return [make_subject(s) if isinstance(s, str) else s for s in self.subjects]


def _worker(
    conn: Connection, handed: _Handed, checks: Sequence[str], seed: int, place: Any, shrink_seconds: float
) -> None:
    """Take (first index, cases, place to go on behind) and send (index, reports) for every case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _one_thread()
    subjects, made = handed.made(), [make_check(c) for c in checks]
    known: set[tuple[str, ...]] = set()
    while True:
        task = conn.recv()
        if task is None:
            return
        indices, cases, behind = task
        for i, case in zip(indices, cases, strict=True):
            reports = {s.name: SubjectReport(s.name) for s in subjects}

            def note(s: int, c: int, t: int, i: int = i) -> bool:
                if behind is not None and (i, s, c, t) <= behind:
                    return False
                place[:] = [i, s, c, t]
                return True

            try:
                audit_case(case, i, subjects, reports, made, seed, note=note, shrink_seconds=shrink_seconds, known=known)
            except Exception:  # subjects are called guarded: this is a defect of the audit
                conn.send(f"case {case}\n{traceback.format_exc()}")
                return
            conn.send((i, reports))
        conn.send(None)


def _one_thread() -> None:
    from preimage import settings

    settings.set_defaults(threads=1)


@contextmanager
def _single_threaded_children() -> Any:
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
        self, subjects: Sequence[Subject], checks: Sequence[str], seed: int, jobs: int, shrink_seconds: float
    ) -> None:
        self.subjects, self.checks, self.seed, self.shrink_seconds = subjects, checks, seed, shrink_seconds
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
            args=(theirs, _Handed(self.subjects), self.checks, self.seed, place, self.shrink_seconds),
            daemon=True,
        )
        with _single_threaded_children():
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
            try:
                conn.send(None)
            except OSError:
                pass
        process.join(10)
        conn.close()
        code: int | None = process.exitcode
        return code


def run_in_workers(
    subjects: Sequence[Subject],
    cases: Sequence[Case],
    checks: Sequence[str],
    seed: int = 0,
    *,
    jobs: int = 2,
    progress: Progress | None = None,
    shrink_seconds: float = 5.0,
) -> Report:
    """The audit in `jobs` processes. A process that dies is a finding, and the audit goes on behind the place."""
    start = time.monotonic()
    reports = _reports(subjects)
    present = [s for s in subjects if reports[s.name].absent is None]
    made = [make_check(c) for c in checks]
    pool = _Pool(present, checks, seed, jobs, shrink_seconds)
    chunks = [list(range(k, min(k + _CHUNK, len(cases)))) for k in range(0, len(cases), _CHUNK)] if present else []
    waiting = [(c, [cases[i] for i in c], None) for c in reversed(chunks)]
    done, interrupted = 0, False
    try:
        while waiting and len(pool.workers) < jobs:
            pool.start(waiting.pop())
        while pool.workers:
            for conn in wait(list(pool.workers)):
                assert isinstance(conn, Connection)
                try:
                    message = conn.recv()
                except (EOFError, OSError):
                    task = _after_death(pool, conn, present, made, reports, seed)
                    if task is not None:
                        pool.start(task)
                    elif waiting:
                        pool.start(waiting.pop())
                    continue
                if message is None:
                    if waiting:
                        pool.give(conn, waiting.pop())
                    else:
                        pool.stop(conn)
                    continue
                if isinstance(message, str):
                    raise RuntimeError(f"the audit itself failed at {message}")
                index, found = message
                done += 1
                pool.workers[conn][2].append(index)
                for name, report in found.items():
                    reports[name].tally.merge(report.tally)
                    for finding in report.findings:
                        reports[name].add(finding)
                if progress is not None:
                    progress(done, len(cases), sum(len(r.findings) for r in reports.values()))
    except KeyboardInterrupt:
        interrupted = True
        for conn in list(pool.workers):
            pool.stop(conn, kill=True)
    return Report(
        list(reports.values()), len(cases), seed, tuple(checks), time.monotonic() - start, interrupted=interrupted
    )


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
    case = cases[indices.index(i)]
    subject, check = subjects[s], checks[c]
    data_seed = _seed_of(seed, i)
    trial = _trials(check, subject, case, data_seed)[t]
    failure = death(check.name, trial, code)
    report = reports[subject.name]
    report.tally.failed[check.name] += 1
    record(report, Forked(check), subject, trial, case, data_seed, failure, pool.shrink_seconds * 2, pool.known)
    left = [k for k in indices if k >= i]
    return left, [cases[indices.index(k)] for k in left], at


def pick_jobs(jobs: int | None) -> int:
    """The number of workers: as asked, or one per CPU of the affinity mask."""
    if jobs is not None:
        return jobs
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_expected(subjects: Sequence[Subject], report: Report, rows: Sequence[dict[str, Any]]) -> None:
    """The cases of files that expect an error: every subject that takes invalid calls must refuse them."""
    check = Forked(make_check("errors"))
    calls = [(row, call) for row in rows if (call := expected_invalid(row)) is not None]
    report.left_out += [f"{row['label']}: {row['expect_error']} (not said by its numbers)" for row in rows if expected_invalid(row) is None]
    nowhere = Case(1, 1, 1, 1, (), (), (), (), (), ())
    for subject in subjects:
        if subject.unavailable() is not None or not subject.takes_invalid:
            continue
        part = next(r for r in report.subjects if r.name == subject.name)
        for row, call in calls:
            trial = Trial("errors", call.op, subject.dtypes[0], extra=(call,))
            failure = check.attempt(subject, trial, check.draw(nowhere, trial, 0), part.tally)
            if failure is not None:
                part.tally.failed["errors"] += 1
                failure.message = f"{row['label']}: {failure.message}"
                record(part, check, subject, trial, nowhere, 0, failure, 0.0, set())
