"""What a run gives: rows of times, the machine, the probes; plain data that goes to JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Row", "Run"]


@dataclass(slots=True)
class Row:
    """One contestant on one pass of one layer.

    time_ns: seconds per call of every round, in the order of the rounds (rounds are shared by all rows of a cell, so the
    k-th entries are a pair); None where a contestant was not measured in a round. error: why there are no times.
    """

    layer: str
    kind: str
    tier: str
    label: str
    what: str
    contraction: str
    dtype: str
    threads: int
    contestant: str
    layout: str
    work_flop: int
    inside_flop: int
    array_bytes: int
    channels: tuple[int, int]
    time_ns: list[float | None] = field(default_factory=list)
    checked: str = ""
    error: str = ""

    @property
    def cell(self) -> tuple[str, str, str, int]:
        """What is compared with one another: layer, pass, dtype, threads."""
        return (self.layer, self.what, self.dtype, self.threads)

    @property
    def times(self) -> list[float]:
        return [t for t in self.time_ns if t is not None]

    @property
    def median_ns(self) -> float:
        return median(self.times) if self.times else float("nan")

    @property
    def gflops(self) -> float:
        """Nominal work (taps over the padding counted) by the median time."""
        return self.work_flop / self.median_ns if self.times else float("nan")


@dataclass(slots=True)
class Run:
    """One run of the benchmark: where, how, what the machine can do, and the rows."""

    machine: dict[str, Any]
    protocol: dict[str, Any]
    probes: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Run:
        data = json.loads(text)
        rows = [Row(**{**row, "channels": tuple(row["channels"])}) for row in data.pop("rows")]
        return cls(rows=rows, **data)

    @classmethod
    def load(cls, *paths: str | Path) -> Run:
        """Runs from files as one: the rows of all, the best probes, the machine of the first."""
        runs = [cls.from_json(Path(path).read_text()) for path in paths]
        joined = runs[0]
        for run in runs[1:]:
            joined.rows += run.rows
            joined.seconds += run.seconds
            joined.absent |= run.absent
            _join_probes(joined.probes, run.probes)
        return joined

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json())


def _join_probes(into: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    known = {(p["dtype"], p["threads"]): p for p in into}
    for probe in more:
        same = known.get((probe["dtype"], probe["threads"]))
        if same is None:
            into.append(probe)
            continue
        same["peak_gflops"] = max(same["peak_gflops"], probe["peak_gflops"])
        same["peaks"] += probe["peaks"]
        for size, speed in probe["memory_gbytes"].items():
            same["memory_gbytes"][size] = max(speed, same["memory_gbytes"].get(size, 0.0))
