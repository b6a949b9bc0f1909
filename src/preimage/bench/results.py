"""What a run gives: rows of times, the machine, the probes; plain data that goes to JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from preimage.bench.results_check import run_fields
from preimage.errors import FileFormatError
from preimage.host import read_json, write_file

__all__ = ["Row", "Run", "run_of"]


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
    def from_json(cls, text: str, where: str = "the text") -> Run:
        """A run from what `to_json` gave. Raises: FileFormatError that names the first thing which no run has."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{where}: is no JSON: {error}") from None
        return run_of(data, where)

    @classmethod
    def load(cls, *paths: str | Path) -> Run:
        """Runs from files as one: the rows of all, the best probes, the machine of the first. Raises: FileFormatError."""
        runs = [run_of(read_json(path), str(path)) for path in paths]
        joined = runs[0]
        for run in runs[1:]:
            joined.rows += run.rows
            joined.seconds += run.seconds
            joined.absent |= run.absent
            _join_probes(joined.probes, run.probes)
        return joined

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Write the run as JSON, whole or not at all."""
        write_file(path, self.to_json(), overwrite=overwrite)


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


def run_of(data: Any, where: str) -> Run:
    """A run from plain data, every field looked at: pages and tables rely on them. Raises: FileFormatError."""
    fields = run_fields(data, where)
    return Run(**{**fields, "rows": [Row(**{**row, "channels": tuple(row["channels"])}) for row in fields["rows"]]})
