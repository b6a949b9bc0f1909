"""Runs checks over cases and subjects in this process, and collects one Report; `workers` does so in processes that may die."""

from __future__ import annotations

import faulthandler
import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.audit.case import RESULTS, Case
from preimage.audit.checks import make as make_check
from preimage.audit.checks.base import Check, Operands
from preimage.audit.coverage import decisions_of
from preimage.audit.files import expected_invalid
from preimage.audit.findings import Failure, Finding, Report, SubjectReport, Tally, Trial
from preimage.audit.reproduce import reproducer
from preimage.audit.shrink import Shrunk, shrink
from preimage.audit.state import SEED_STEP
from preimage.audit.steer import Asked
from preimage.audit.subjects.base import Subject

__all__ = ["Forked", "audit_case", "death", "fresh_reports", "record", "refuse_expected", "run_here", "seed_of", "trials_of"]

Progress = Callable[[int, int, int], None]
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
        if not hasattr(os, "fork"):
            return self.check.attempt(subject, trial, ops, tally)
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


def seed_of(seed: int, index: int) -> int:
    return seed * SEED_STEP + index


def trials_of(check: Check, subject: Subject, case: Case | Asked, seed: int) -> list[Trial]:
    """What a check asks of a subject for a case.

    Of one that was drawn for a decision, its own subject is asked the trial that takes it, and the rest of the exact check.
    """
    plain = case.case if isinstance(case, Asked) else case
    if isinstance(case, Asked):
        own = [case.trial] if case.trial.check == check.name else []
        if case.subject != subject.name or check.name != "exact" or case.alone:
            return own if case.subject == subject.name else []
    trials = list(check.trials(subject, plain, np.random.default_rng((seed_of(seed, 0), _number(check.name), plain.macs))))
    return own + trials if isinstance(case, Asked) else trials


def _number(text: str) -> int:
    return int.from_bytes(text.encode()[:6], "little")


def audit_case(
    given: Case | Asked,
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
    case = given.case if isinstance(given, Asked) else given
    drawn: dict[Any, Operands] = {}
    data_seed = seed_of(seed, index)
    for s, subject in enumerate(subjects):
        if isinstance(given, Asked) and subject.name != given.subject:
            continue
        report = reports[subject.name]
        with decisions_of(subject, report.tally):
            for c, check in enumerate(checks):
                for t, trial in enumerate(trials_of(check, subject, given, data_seed)):
                    if not note(s, c, t):
                        continue
                    key = (check.name, check.data_key(trial))
                    if key not in drawn:
                        drawn[key] = check.draw(case, trial, data_seed)
                    failure = check.attempt(subject, trial, drawn[key], report.tally)
                    if failure is not None:
                        report.tally.failed[check.name] += 1
                        record(report, check, subject, trial, case, data_seed, failure, shrink_seconds, known)
        report.tally.cases += 1
        if why := _skips(subject, case):
            report.tally.skipped[why] += 1


def _skips(subject: Subject, case: Case) -> str | None:
    """Why a subject takes none of the three contractions of a case; None where it takes one."""
    reasons = [subject.refuses(case, result, subject.dtypes[0]) for result in RESULTS[:3]]
    if None in reasons:
        return None
    of_case = (why for why in reasons if why and not why.startswith("has no "))
    return next(of_case, reasons[0])


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
    if (
        first is not None
        and shrink_seconds > 0
        and finding.key not in known
        and sum(k[0] == subject.name for k in known) < _SHRUNK
    ):
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


def fresh_reports(subjects: Sequence[Subject]) -> dict[str, SubjectReport]:
    return {s.name: SubjectReport(s.name, s.unavailable(), tuple(sorted(s.promises))) for s in subjects}


def run_here(
    subjects: Sequence[Subject],
    cases: Sequence[Case | Asked],
    checks: Sequence[str],
    seed: int = 0,
    *,
    progress: Progress | None = None,
    shrink_seconds: float = 5.0,
    first: int = 0,
) -> Report:
    """The audit in this process; checks that may kill it run each attempt in a forked child. first: number of the first case."""
    start = time.monotonic()
    reports = fresh_reports(subjects)
    present = [s for s in subjects if reports[s.name].absent is None]
    made = [Forked(check) if check.needs_child else check for check in map(make_check, checks)]
    interrupted = False
    known: set[tuple[str, ...]] = set()
    try:
        for i, case in enumerate(cases):
            audit_case(case, first + i, present, reports, made, seed, shrink_seconds=shrink_seconds, known=known)
            if progress is not None:
                progress(i + 1, len(cases), sum(len(r.findings) for r in reports.values()))
    except KeyboardInterrupt:
        interrupted = True
    return Report(list(reports.values()), len(cases), seed, tuple(checks), time.monotonic() - start, interrupted=interrupted)


def refuse_expected(subjects: Sequence[Subject], report: Report, rows: Sequence[dict[str, Any]]) -> None:
    """The cases of files that expect an error: every subject that takes invalid calls must refuse them."""
    check = Forked(make_check("errors"))
    calls = [(row, call) for row in rows if (call := expected_invalid(row)) is not None]
    report.left_out += [
        f"{row['label']}: {row['expect_error']} (not said by its numbers)" for row in rows if expected_invalid(row) is None
    ]
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
