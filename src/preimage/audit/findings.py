"""What an audit finds and measures, as plain data that can cross processes and be written as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, is_dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.display import Shown

__all__ = ["BINS", "SEVERITIES", "Failure", "Finding", "Report", "SubjectReport", "Tally", "Trial"]

#: Worst first.
SEVERITIES = ("out-of-bounds access", "crash", "wrong value", "wrong bits", "missing error", "imprecise")

#: Edges of the histogram of rounding errors, in units of the a-priori bound: powers of two up to 1, and beyond.
BINS = (0.0, *(2.0**k for k in range(-16, 2)), float("inf"))


@dataclass(frozen=True)
class Trial:
    """One thing that a check asks of a subject: everything but the case and the seed of its data."""

    check: str
    result: str
    dtype: str = "float32"
    layout: str = "contiguous"
    bias: bool = False
    extra: tuple[Any, ...] = ()


@dataclass
class Failure:
    """A trial that went wrong, with the arrays that show it."""

    severity: str
    message: str
    got: NDArray[Any] | None = None
    want: NDArray[Any] | None = None
    wrong: NDArray[np.bool_] | None = None
    #: Expression over `got` that the reproducer prints beside `want`, where a plain comparison is not the point.
    script: str | None = None


@dataclass
class Finding:
    """A failure of a subject, brought down to the smallest case that still shows it."""

    subject: str
    check: str
    severity: str
    result: str
    dtype: str
    layout: str
    message: str
    case: dict[str, Any]
    seed: int
    smallest: dict[str, Any] | None = None
    smallest_message: str = ""
    reproducer: str = ""
    repeatable: str = ""
    wrong_shape: tuple[int, ...] = ()
    wrong_at: list[int] = field(default_factory=list)
    count: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        """Findings alike in this are one finding seen `count` times."""
        kind = self.message[:24] if self.severity == "crash" else ""
        return (self.subject, self.check, self.severity, self.result, self.dtype, kind)


@dataclass
class Tally:
    """What was run and measured, for one subject: adds up over processes."""

    runs: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    #: (dtype, result) -> counts in BINS.
    rounding: dict[str, list[int]] = field(default_factory=dict)
    #: (dtype, result) -> (units, where).
    worst: dict[str, tuple[float, str]] = field(default_factory=dict)
    #: promise -> [results compared, results that differ, elements compared, elements that differ].
    bits: dict[str, list[int]] = field(default_factory=dict)
    #: Results that are not exact on integers, with an error below the rounding bound (Winograd, FFT): result -> [count, worst].
    inexact: dict[str, list[float]] = field(default_factory=dict)
    #: Where a subject lets padding take part (0 * inf = NaN) and where it leaves it out: "takes part" / "left out" -> count.
    conventions: Counter[str] = field(default_factory=Counter)
    #: Cases of which some result was asked for, and those of which none could be: the reason the subject gave -> count.
    cases: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    #: Decisions of the subject's planner -> how many cases took each (see `coverage`).
    decisions: Counter[str] = field(default_factory=Counter)

    def add_bits(self, promise: str, elements: int, differing: int) -> None:
        row = self.bits.setdefault(promise, [0, 0, 0, 0])
        row[0] += 1
        row[1] += differing > 0
        row[2] += elements
        row[3] += differing

    def add_rounding(self, key: str, units: NDArray[Any], where: str) -> None:
        row = self.rounding.setdefault(key, [0] * (len(BINS) - 1))
        for i, n in enumerate(np.histogram(units, BINS)[0]):
            row[i] += int(n)
        top = float(units.max(initial=0.0))
        if top > self.worst.get(key, (-1.0, ""))[0]:
            self.worst[key] = (top, where)

    def add_inexact(self, key: str, units: float) -> None:
        row = self.inexact.setdefault(key, [0.0, 0.0])
        row[0] += 1
        row[1] = max(row[1], units)

    def merge(self, other: Tally) -> None:
        self.runs.update(other.runs)
        self.failed.update(other.failed)
        self.refused.update(other.refused)
        self.conventions.update(other.conventions)
        self.cases += other.cases
        self.skipped.update(other.skipped)
        self.decisions.update(other.decisions)
        for key, row in other.rounding.items():
            mine = self.rounding.setdefault(key, [0] * len(row))
            mine[:] = [a + b for a, b in zip(mine, row, strict=True)]
        for key, value in other.worst.items():
            self.worst[key] = max(self.worst.get(key, value), value)
        for key, row in other.bits.items():
            mine = self.bits.setdefault(key, [0, 0, 0, 0])
            mine[:] = [a + b for a, b in zip(mine, row, strict=True)]
        for key, (count, top) in other.inexact.items():
            have = self.inexact.setdefault(key, [0.0, 0.0])
            have[:] = [have[0] + count, max(have[1], top)]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tally:
        """The tally that `Report.to_json` wrote."""
        made = cls(cases=int(data["cases"]))
        for name in ("runs", "failed", "refused", "conventions", "skipped", "decisions"):
            getattr(made, name).update({str(k): int(v) for k, v in data[name].items()})
        made.rounding = {k: [int(n) for n in row] for k, row in data["rounding"].items()}
        made.worst = {k: (float(units), str(where)) for k, (units, where) in data["worst"].items()}
        made.bits = {k: [int(n) for n in row] for k, row in data["bits"].items()}
        made.inexact = {k: [float(n) for n in row] for k, row in data["inexact"].items()}
        return made


@dataclass
class SubjectReport:
    """One subject's part of a report. `absent` says why it was not run; then the rest is empty."""

    name: str
    absent: str | None = None
    promises: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def merge(self, other: SubjectReport) -> None:
        """Add what another part of the same audit found."""
        self.tally.merge(other.tally)
        for finding in other.findings:
            self.add(finding)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SubjectReport:
        """The part of a report that `Report.to_json` wrote."""
        findings = [Finding(**{**f, "wrong_shape": tuple(f["wrong_shape"])}) for f in data["findings"]]
        return cls(data["name"], data["absent"], tuple(data["promises"]), Tally.from_json(data["tally"]), findings)

    def add(self, finding: Finding) -> Finding | None:
        """Count a finding; returns it if it is the first of its kind, None if it only raised a count."""
        for known in self.findings:
            if known.key == finding.key:
                known.count += finding.count
                if finding.reproducer and not known.reproducer:
                    finding.count = known.count
                    self.findings[self.findings.index(known)] = finding
                return None
        self.findings.append(finding)
        return finding


@dataclass(repr=False)
class Report(Shown):
    """The result of an audit: subjects, what ran, what was found."""

    subjects: list[SubjectReport]
    cases: int
    seed: int
    checks: tuple[str, ...]
    seconds: float = 0.0
    left_out: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    #: What each subject's planner can decide, in the order of declaration: subject -> decision -> what it means.
    declared: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Of these, what no call can decide on this machine, and why.
    unreachable: dict[str, dict[str, str]] = field(default_factory=dict)
    #: Of small worlds: setting -> geometries.
    worlds: dict[str, int] = field(default_factory=dict)
    #: Cases that were drawn for decisions which too few of the others took.
    steered: int = 0
    #: The figures of `audit.accuracy`, where they were asked for.
    accuracy: list[Any] = field(default_factory=list)

    def merge(self, other: Report) -> None:
        """Add another part of the same audit, of the same subjects."""
        for mine, more in zip(self.subjects, other.subjects, strict=True):
            mine.merge(more)
        self.cases += other.cases
        self.seconds += other.seconds
        self.interrupted |= other.interrupted

    @property
    def ok(self) -> bool:
        """Whether no subject failed."""
        return all(s.ok for s in self.subjects)

    @property
    def findings(self) -> list[Finding]:
        """All findings, worst severity first."""
        return sorted((f for s in self.subjects for f in s.findings), key=lambda f: SEVERITIES.index(f.severity))

    def __repr__(self) -> str:
        names = ", ".join(s.name if s.absent is None else f"{s.name} (absent)" for s in self.subjects)
        found = len(self.findings)
        return f"Report({names}: {self.cases:,} geometries, {found} finding{'s' * (found != 1)}, {self.seconds:.1f} s)"

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump."""
        data: dict[str, Any] = _plain(self)
        data["ok"] = self.ok
        data["bins"] = _plain(BINS)
        return data


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, numbers that JSON lacks as text."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value
