"""The state of a long run: which cases are done, what was found, in a file that is never half written.

A run that ends in any way, by Ctrl-C, kill or a power cut, goes on from its file: what is lost is what was done since the file was
last written, a few seconds. Findings are kept in it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preimage.audit.findings import Report, SubjectReport
from preimage.errors import FileFormatError, OptionError
from preimage.host import read_json, write_file
from preimage.host.alone import alone as claimed

__all__ = ["SEED_STEP", "Done", "State", "alone", "code_digest", "index_of"]

#: From the data of one seed's cases to those of the next.
SEED_STEP = 1_000_003
_FORMAT = "preimage audit, long run, 1"


class Done:
    """A set of case numbers as ranges [first, last + 1), few as long as they are done nearly in order."""

    def __init__(self, ranges: Sequence[tuple[int, int]] = ()) -> None:
        self.ranges = [tuple(r) for r in ranges]

    def add(self, i: int) -> None:
        for k in range(len(self.ranges) - 1, -1, -1):  # the last ones grow
            first, end = self.ranges[k]
            if i == end:
                self.ranges[k] = (first, i + 1)
                if k + 1 < len(self.ranges) and self.ranges[k + 1][0] == i + 1:
                    self.ranges[k : k + 2] = [(first, self.ranges[k + 1][1])]
                return
            if first <= i < end:
                return
            if end < i:
                self.ranges.insert(k + 1, (i, i + 1))
                if k + 2 < len(self.ranges) and self.ranges[k + 2][0] == i + 1:
                    self.ranges[k + 1 : k + 3] = [(i, self.ranges[k + 2][1])]
                return
        if self.ranges and self.ranges[0][0] == i + 1:
            self.ranges[0] = (i, self.ranges[0][1])
        else:
            self.ranges.insert(0, (i, i + 1))

    def remove(self, i: int) -> None:
        """Take a number out, to be done again."""
        for k, (first, end) in enumerate(self.ranges):
            if first <= i < end:
                self.ranges[k : k + 1] = [part for part in ((first, i), (i + 1, end)) if part[0] < part[1]]
                return

    def __len__(self) -> int:
        return sum(end - first for first, end in self.ranges)

    def missing(self, count: int) -> Iterator[range]:
        """The ranges of 0..count - 1 that are not done, in order."""
        at = 0
        for first, end in self.ranges:
            if at < min(first, count):
                yield range(at, min(first, count))
            at = max(at, end)
        if at < count:
            yield range(at, count)


def index_of(seed: int, data_seed: int) -> int:
    """The number of a case, from the seed of its data (see `runner.seed_of`)."""
    return data_seed - seed * SEED_STEP


def code_digest() -> str:
    """A short digest of the package's own source: which code a run was of."""
    import preimage

    root = Path(preimage.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def alone(path: str | Path) -> AbstractContextManager[None]:
    """Inside the block no other run of this machine takes the same file; a second one would undo what the first has written.

    Raises: OptionError where another run holds it; OutputError where no lock can lie beside the file.
    """
    return claimed(path, "wait for its end, or name another file with --state; --status shows how far it is")


@dataclass
class State:
    """A long run: what it is of, what is done, the report so far, and the runs that it took.

    what: subjects, checks and seed, which a run that goes on must share. runs: of each, the code's digest, geometries, seconds.
    failing: the cases that failed. Code that has changed since is asked for them again; `earlier` keeps what was found then.
    """

    path: Path
    what: dict[str, Any]
    wanted: int
    done: Done
    report: Report
    runs: list[dict[str, Any]] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    every_seconds: float = 5.0
    _saved: float = field(default=0.0, repr=False)

    @classmethod
    def open(cls, path: str | Path, what: dict[str, Any], wanted: int) -> State:
        """The state in a file, or a new one where there is none.

        Raises: OptionError where the file is of another run; FileFormatError where it holds none.
        """
        path = Path(path)
        if not path.exists():
            subjects = [SubjectReport(name) for name in what["subjects"]]
            made = cls(path, what, wanted, Done(), Report(subjects, 0, what["seed"], tuple(what["checks"])))
            made.save()  # what cannot be written is refused now, not after an hour
            return made
        found = cls.read(path)
        for name, value in what.items():
            if found.what[name] != value:
                raise OptionError(
                    f"{path} holds a run with {name} {found.what[name]!r}, this one has {value!r}; go on with the same, or name a new file"
                )
        found.wanted = wanted
        return found

    @classmethod
    def read(cls, path: str | Path) -> State:
        """The state in a file, to look at or to go on with."""
        path = Path(path)
        try:
            data = read_json(path)
            if not isinstance(data, dict) or data.get("format") != _FORMAT:
                raise FileFormatError(f"{path}: no state of a long audit; wanted a file that `preimage audit --state` wrote")
            what = data["what"]
            report = Report(
                [SubjectReport.from_json(s) for s in data["subjects"]],
                0,
                what["seed"],
                tuple(what["checks"]),
                float(data["seconds"]),
            )
            done = Done([(int(a), int(b)) for a, b in data["done"]])
            report.cases = len(done)
            seeds = [f.seed for f in report.findings]  # files of before `failing` know the first case of each finding
            failing = [int(i) for i in data.get("failing", [index_of(what["seed"], s) for s in seeds])]
            return cls(path, what, int(data["wanted"]), done, report, list(data["runs"]), failing, list(data.get("earlier", [])))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                f"{path}: cannot be read as the state of a long audit: {type(error).__name__}: {error}"
            ) from error

    def begin(self) -> None:
        """Begin another run of the same. What failed under other code is asked again."""
        code = code_digest()
        if self.failing and self.runs[-1]["code"] != code:
            for part in self.report.subjects:
                self.earlier += [
                    {"code": self.runs[-1]["code"], "subject": f.subject, "check": f.check, "message": f.message, "case": f.case,
                     "reproducer": f.reproducer, "count": f.count}
                    for f in part.findings
                ]  # fmt: skip
                part.findings.clear()
                part.tally.failed.clear()
            for i in self.failing:
                self.done.remove(i)
            self.failing.clear()
        self.runs.append({"code": code, "geometries": 0, "seconds": 0.0})
        self._began, self._before, self._saved = time.monotonic(), self.report.seconds, time.monotonic()

    def finished(self, index: int, failed: bool) -> None:
        """A case is done, its results merged into the report; the file is written every few seconds, and at a failure."""
        self.done.add(index)
        if failed:
            self.failing.append(index)
        self.runs[-1]["geometries"] += 1
        if failed or time.monotonic() - self._saved > self.every_seconds:
            self.save()

    def save(self) -> None:
        """Write the file, whole or not at all. Raises: OutputError where it cannot be written."""
        now = time.monotonic()
        if self.runs and hasattr(self, "_began"):
            self.runs[-1]["seconds"] = now - self._began
            self.report.seconds = self._before + now - self._began
        self.report.cases = len(self.done)
        data = {
            "format": _FORMAT,
            "what": self.what,
            "wanted": self.wanted,
            "done": self.done.ranges,
            "seconds": self.report.seconds,
            "runs": self.runs,
            "failing": self.failing,
            "earlier": self.earlier,
            "subjects": self.report.to_json()["subjects"],
        }
        write_file(self.path, json.dumps(data))
        self._saved = now
