"""What measuring models gives: rows of times, as plain data, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from preimage.bench.summary import geomean
from preimage.errors import FileFormatError
from preimage.host import read_json, write_file

__all__ = ["OURS", "OURS_FAST", "REFERENCE", "ModelRow", "ModelRun", "Summary", "summaries"]

OURS = "preimage"
#: Ours with accuracy="fast", a contestant of its own.
OURS_FAST = "preimage_fast"
#: Whose answers the others' are compared with, where it runs.
REFERENCE = "onnxruntime"
#: Nets below this time are counted apart too: what a call costs beside its arithmetic decides there.
SMALL_NS = 2e6


@dataclass(slots=True)
class ModelRow:
    """One contestant on one model with so many threads.

    time_ns: the median time of a run in each round (the rounds of one model are shared, so the k-th entries are a pair); cpu_ns: the CPU time.
    load_ns, first_ns: loading, and the first run; import_ns: importing the library before (NumPy is there already), 0 where unknown.
    peak_bytes: of the process; model_bytes: without what importing the library took, 0 where unknown.
    difference: the largest from the reference's answers, in parts of an output's range; None where there are none. error: why there are no times.
    """

    model: str
    kind: str
    inputs: str
    threads: int
    contestant: str
    version: str = ""
    layout: str = ""
    time_ns: list[int] = field(default_factory=list)
    cpu_ns: list[int] = field(default_factory=list)
    import_ns: int = 0
    load_ns: int = 0
    first_ns: int = 0
    peak_bytes: int = 0
    model_bytes: int = 0
    difference: float | None = None
    error: str = ""

    def times(self, cpu: bool) -> list[int]:
        """Its times: by the clock, or of the CPU."""
        return self.cpu_ns if cpu else self.time_ns


@dataclass(slots=True)
class ModelRun:
    """All rows of a run, where and how they were measured, and which contestants were not there."""

    machine: dict[str, Any]
    protocol: dict[str, Any]
    rows: list[ModelRow] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def cpu(self) -> bool:
        """Whether CPU times are what is compared."""
        return bool(self.protocol.get("cpu"))

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Write the run as JSON, whole or not at all."""
        write_file(path, json.dumps(asdict(self), indent=1), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> ModelRun:
        """A run that was saved. Raises: FileFormatError for what is none."""
        data = read_json(path)
        try:
            return cls(**{**data, "rows": [ModelRow(**row) for row in data["rows"]]})
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"{path}: is no run of models: {error}") from None

    def ratio(self, row: ModelRow) -> tuple[float, float, float] | None:
        """time(row) / time(ours) on the same model and threads: median and quartiles of the paired ratios."""
        ours = self.ours(row)
        if ours is None or row is ours:
            return None
        pairs = list(zip(row.times(self.cpu), ours.times(self.cpu), strict=False))
        ratios = [theirs / max(own, 1) for theirs, own in pairs]
        if not ratios:
            return None
        low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratios[0],) * 3
        return median(ratios), low, high

    def ours(self, row: ModelRow) -> ModelRow | None:
        """Our row beside this one."""
        found = (
            r for r in self.rows if (r.model, r.threads, r.contestant) == (row.model, row.threads, OURS) and r.times(self.cpu)
        )
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Summary:
    """A peer beside us over all models: ratios above 1 mean that we are faster.

    small: the geometric mean over nets below 2 ms. first (loading and the first run), start (with importing the library), memory: medians of
    ours / the peer's (below 1 we need less).
    """

    contestant: str
    threads: int
    models: int
    mean: float
    worst: float
    worst_model: str
    losing: int
    small: float
    small_models: int
    first: float
    start: float
    memory: float


def summaries(run: ModelRun) -> list[Summary]:
    """For each number of threads and each peer."""
    found = []
    for threads in sorted({row.threads for row in run.rows}):
        for name in dict.fromkeys(row.contestant for row in run.rows if row.contestant != OURS):
            rows = [row for row in run.rows if (row.threads, row.contestant) == (threads, name)]
            ranked = sorted((ratio[0], row.model, row) for row in rows if (ratio := run.ratio(row)) is not None)
            if not ranked:
                continue
            small = [ratio for ratio, _, row in ranked if _is_small(run, row)]
            found.append(
                Summary(
                    name, threads, len(ranked), geomean(ratio for ratio, _, _ in ranked), ranked[0][0], ranked[0][1],
                    sum(ratio < 1 for ratio, _, _ in ranked), geomean(small), len(small),
                    _median(run, [row for _, _, row in ranked], lambda row: row.first_ns + row.load_ns),
                    _median(run, [row for _, _, row in ranked], lambda row: row.import_ns and row.import_ns + row.first_ns + row.load_ns),
                    _median(run, [row for _, _, row in ranked], lambda row: row.peak_bytes),
                )
            )  # fmt: skip
    return found


def _is_small(run: ModelRun, row: ModelRow) -> bool:
    ours = run.ours(row)
    return ours is not None and min(median(ours.times(run.cpu)), median(row.times(run.cpu))) < SMALL_NS


def _median(run: ModelRun, rows: Sequence[ModelRow], of: Callable[[ModelRow], int]) -> float:
    shares = [of(ours) / of(row) for row in rows if (ours := run.ours(row)) is not None and of(row) and of(ours)]
    return median(shares) if shares else float("nan")
