"""The audit: finds wrong convolutions, in this library's engines and in anyone's.

    report = preimage.audit.run()                       # our engines on 2,000 random geometries
    report = preimage.audit.run(["torch", "jax"])       # other libraries, where installed
    report = preimage.audit.run([MyEngine()])           # an object with conv, conv_transpose, conv_weight_grad
    report.ok, report.findings, report.to_json()

Truth comes from an integer oracle that shares no code with any engine (`audit.oracle`). docs/audit.md says what each check
asks, what the severities mean, and how to audit an engine of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from preimage.audit.case import RESULTS, Case
from preimage.audit.checks import names as check_names
from preimage.audit.coverage import reachable
from preimage.audit.figures import PEERS, accuracy
from preimage.audit.files import CaseFile, read_cases
from preimage.audit.findings import SEVERITIES, Finding, Report
from preimage.audit.generate import cases
from preimage.audit.known import near_case
from preimage.audit.runner import refuse_expected, run_here
from preimage.audit.state import State, alone
from preimage.audit.steer import Asked, steered
from preimage.audit.subjects import Subject
from preimage.audit.subjects import make as make_subject
from preimage.audit.subjects import names as subject_names
from preimage.audit.workers import pick_jobs, run_in_workers
from preimage.display import progress_lines
from preimage.engines.decisions import declared
from preimage.errors import OptionError

__all__ = [
    "MOST_MACS",
    "PEERS",
    "RESULTS",
    "SEVERITIES",
    "Case",
    "CaseFile",
    "Finding",
    "Report",
    "State",
    "Subject",
    "accuracy",
    "cases",
    "check_names",
    "default_subjects",
    "make_subject",
    "read_cases",
    "run",
    "subject_names",
]

#: Multiply-adds above which a case of a file loses images, and is left out if one image is still more.
MOST_MACS = 4_000_000_000


def default_subjects() -> tuple[str, ...]:
    """Our own engines."""
    from preimage.engines import names

    return names()


def run(
    subjects: Sequence[Any] | None = None,
    *,
    geometries: int = 2000,
    seed: int = 0,
    files: Iterable[str | Path] = (),
    near: int = 0,
    only: Sequence[Case] | None = None,
    checks: Sequence[str] | None = None,
    jobs: int | None = None,
    most_macs: int = MOST_MACS,
    shrink_seconds: float = 5.0,
    progress: Callable[[int, int, int], None] | bool | None = None,
    steer_seconds: float = 30.0,
    state: str | Path | None = None,
) -> Report:
    """Audit subjects: names (`subject_names()`), "module:attribute", or objects with the three contractions.

    geometries: how many random cases, by `seed`; files: JSON files of cases to add, and `near` geometries near each of theirs; only:
    these cases and no others. checks: a part of `check_names()`. jobs: processes, one per CPU unless given; 0: in this process
    (checks that may end it run in forked children). progress(done, total, findings) is called after every case; True prints about
    ten lines.

    steer_seconds: how long at most cases are searched for that take decisions of a planner which hardly any of the drawn ones took.
    state: a file from which a long run goes on, and in which it is kept every few seconds (`audit.state`); the exact check then
    asks less of each case, so that far more are asked.

    Raises: OptionError for an unknown subject or check, or a state of another run or in use by one; FileFormatError for a file that
    is not one of cases.
    """
    wanted = tuple(checks) if checks is not None else check_names()
    for name in wanted:
        if name not in check_names():
            raise OptionError(f"no check is called {name!r}; there are {', '.join(check_names())}")
    made = [make_subject(s) for s in (default_subjects() if subjects is None else subjects)]
    if len({s.name for s in made}) < len(made):
        raise OptionError(f"subjects must have different names, got {', '.join(s.name for s in made)}")
    jobs, progress = pick_jobs(jobs), _listener(progress)
    read = [read_cases(path, most_macs=most_macs) for path in files]
    if state is not None:
        if read or only is not None:
            raise OptionError("a long run draws all its geometries by its seed: give cases or a state, not both")
        what = {"subjects": [s.name for s in made], "checks": list(wanted), "seed": seed}
        with alone(state):
            kept = State.open(state, what, geometries)
            report = run_in_workers(
                made, geometries, wanted, seed, jobs=max(jobs, 1), shrink_seconds=shrink_seconds, progress=progress, state=kept
            )
    else:
        todo = list(only) if only is not None else [*_of_files(read, near, seed), *cases(geometries, seed)]
        report = _pass(made, todo, wanted, seed, jobs, shrink_seconds, progress)
        if only is None and geometries and steer_seconds > 0 and not report.interrupted:
            _steer(made, report, wanted, seed, jobs, shrink_seconds, progress, steer_seconds)
    if "errors" in wanted:
        refuse_expected(made, report, [row for f in read for row in f.expected_errors])
    report.left_out += [line for f in read for line in f.left_out]
    report.versions = _versions()
    report.declared = {s.name: {d.name: d.words for d in declared(s.name)} for s in made if s.plans}
    report.unreachable = {s.name: s.unreachable for s in made if s.plans}
    return report


def _listener(progress: Callable[[int, int, int], None] | bool | None) -> Callable[[int, int, int], None] | None:
    if progress is not True:
        return progress or None
    show = progress_lines("case")
    return lambda done, total, found: show(done, total, f"{found} finding{'s' * (found != 1)}")


def _of_files(read: Sequence[CaseFile], near: int, seed: int) -> Iterator[Case]:
    """The cases of files, and so many near each."""
    for file in read:
        for case in file.cases:
            yield case
            for k in range(near):
                yield near_case(case, k, seed)


def _pass(
    subjects: Sequence[Subject],
    todo: Sequence[Case | Asked],
    checks: Sequence[str],
    seed: int,
    jobs: int,
    shrink_seconds: float,
    progress: Callable[[int, int, int], None] | None,
    first: int = 0,
) -> Report:
    """These cases, in worker processes or in this one."""
    if jobs:
        return run_in_workers(
            subjects, todo, checks, seed, jobs=jobs, shrink_seconds=shrink_seconds, progress=progress, first=first
        )
    return run_here(subjects, todo, checks, seed, shrink_seconds=shrink_seconds, progress=progress, first=first)


def _steer(
    subjects: Sequence[Subject],
    report: Report,
    checks: Sequence[str],
    seed: int,
    jobs: int,
    shrink_seconds: float,
    progress: Callable[[int, int, int], None] | None,
    seconds: float,
) -> None:
    """Cases for the decisions that too few took, added to the report."""
    asked = [
        found
        for subject, part in zip(subjects, report.subjects, strict=True)
        if subject.plans and part.absent is None
        for found in steered(subject, part.tally.decisions, reachable(subject), seed, seconds=seconds)
    ]
    if asked:
        report.merge(_pass(subjects, asked, checks, seed, jobs, shrink_seconds, progress, first=report.cases))
        report.steered = len(asked)


def _versions() -> dict[str, str]:
    """What ran: Python, NumPy and the libraries that are loaded or installed, with their versions."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("preimage", "numpy", "torch", "onnxruntime", "jax", "tensorflow", "opencv-python-headless", "scipy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
