"""The audit: finds wrong convolutions, in this library's engines and in anyone's.

    report = preimage.audit.run()                       # our engines on 2,000 random geometries
    report = preimage.audit.run(["torch", "jax"])       # other libraries, where installed
    report = preimage.audit.run([MyEngine()])           # an object with conv, conv_transpose, conv_weight_grad
    report.ok, report.findings, report.to_json()

Truth comes from an integer oracle that shares no code with any engine (`audit.oracle`). docs/audit.md says what each check
asks, what the severities mean, and how to audit an engine of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from preimage.audit.case import RESULTS, Case
from preimage.audit.checks import names as check_names
from preimage.audit.files import CaseFile, read_cases
from preimage.audit.findings import SEVERITIES, Finding, Report
from preimage.audit.generate import cases
from preimage.audit.runner import refuse_expected, run_here
from preimage.audit.subjects import Subject
from preimage.audit.subjects import make as make_subject
from preimage.audit.subjects import names as subject_names
from preimage.audit.workers import pick_jobs, run_in_workers
from preimage.errors import OptionError

__all__ = [
    "MOST_MACS",
    "RESULTS",
    "SEVERITIES",
    "Case",
    "CaseFile",
    "Finding",
    "Report",
    "Subject",
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
    only: Sequence[Case] | None = None,
    checks: Sequence[str] | None = None,
    jobs: int | None = None,
    most_macs: int = MOST_MACS,
    shrink_seconds: float = 5.0,
    progress: Callable[[int, int, int], None] | None = None,
) -> Report:
    """Audit subjects: names (`subject_names()`), "module:attribute", or objects with the three contractions.

    geometries: how many random cases, by `seed`; files: JSON files of cases to add; only: these cases and no others.
    checks: a part of `check_names()`. jobs: processes, one per CPU unless given; 0: in this process (checks that may end it
    run in forked children). progress(done, total, findings) is called after every case.

    Raises: OptionError for an unknown subject or check; FileFormatError for a file that is not one of cases.
    """
    wanted = tuple(checks) if checks is not None else check_names()
    for name in wanted:
        if name not in check_names():
            raise OptionError(f"no check is called {name!r}; there are {', '.join(check_names())}")
    made = [make_subject(s) for s in (default_subjects() if subjects is None else subjects)]
    if len({s.name for s in made}) < len(made):
        raise OptionError(f"subjects must have different names, got {', '.join(s.name for s in made)}")
    read = [read_cases(path, most_macs=most_macs) for path in files]
    todo = list(only) if only is not None else [*(c for f in read for c in f.cases), *cases(geometries, seed)]
    jobs = pick_jobs(jobs)
    if jobs:
        report = run_in_workers(made, todo, wanted, seed, jobs=jobs, shrink_seconds=shrink_seconds, progress=progress)
    else:
        report = run_here(made, todo, wanted, seed, shrink_seconds=shrink_seconds, progress=progress)
    if "errors" in wanted:
        refuse_expected(made, report, [row for f in read for row in f.expected_errors])
    report.left_out += [line for f in read for line in f.left_out]
    report.versions = _versions()
    return report


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
