"""Writers of reports, pages and drawings, for the table of writers.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

#: Each version holds as many numbers as this: enough for several writes of a buffer.
SIZE = 70_000


def one(values: Any) -> int:
    """The version of an array: all its numbers are the same."""
    numbers = np.unique(np.asarray(values))
    assert numbers.size == 1
    return int(numbers[0])


def _run(version: int) -> Any:
    from preimage.bench import Row, Run

    rows = [
        Row(f"layer{k}", "conv", "core", str(version), "forward", "conv", "float32", 1, name, "channels_last", 9, 9, 9, (1, 1), [2.0 + version])
        for k in range(100) for name in ("jit", "torch")
    ]  # fmt: skip
    machine = {"cpu": "c", "target": "t", "system": "s", "denormals": "kept", "versions": {"numpy": "2"}, "affinity": [0]}
    memory = {"dtype": "float32", "threads": 1, "peak_gflops": 9.0, "peaks": [9.0], "how": "", "memory_gbytes": {"1024": 5.0}}
    return Run(machine, {}, [memory], rows)


def bench_json(path: Path, version: int) -> None:
    _run(version).save(path)


def read_bench_json(path: Path) -> int:
    from preimage.bench import Run

    return one([int(row.label) for row in Run.load(path).rows])


def bench_html(path: Path, version: int) -> None:
    from preimage.report.bench import write_html

    write_html(_run(version), path)


def bench_markdown(path: Path, version: int) -> None:
    from preimage.report.bench_markdown import write_markdown

    write_markdown(_run(version), path)


def read_page(write: Callable[[int], str]) -> Callable[[Path], int]:
    wanted = cache(write)

    def read(path: Path) -> int:
        return [wanted(0), wanted(1)].index(path.read_text())

    return read


def html(version: int) -> str:
    from preimage.report.bench import render

    return render(_run(version))


def markdown(version: int) -> str:
    from preimage.report.bench_markdown import markdown

    return markdown(_run(version))


def _report(version: int) -> Any:
    from preimage.audit.findings import Report, SubjectReport

    parts = [SubjectReport(f"{name}{version}", "not installed" * 50) for name in "abcdefghij"]
    return Report(parts, 0, version, ("exact",))


def audit_json(path: Path, version: int) -> None:
    from preimage.cli.audit import _write

    _write(_report(version), path, None, overwrite=True)


def audit_html(path: Path, version: int) -> None:
    from preimage.cli.audit import _write

    _write(_report(version), None, path, overwrite=True)


def audit_page(version: int) -> str:
    from preimage.report.audit_page import html_page

    return html_page(_report(version))


def audit_state(path: Path, version: int) -> None:
    from preimage.audit.state import Done, State

    what = {"subjects": ["a"], "checks": ["exact"], "seed": version}
    State(path, what, 9, Done([(k, k + 1) for k in range(0, 9000, 2)]), _report(version)).save()


def read_audit_state(path: Path) -> int:
    from preimage.audit.state import State

    state = State.read(path)
    assert len(state.done) == 4500
    return int(state.what["seed"])


def explain(path: Path, version: int) -> None:
    from preimage.report import explain

    explain.write(path, title=f"page {version}")


def explain_page(version: int) -> str:
    from preimage.report import explain

    return explain.page(title=f"page {version}")


@cache
def _drawing(version: int) -> Any:
    from preimage.report.draw.film import Drawing
    from preimage.report.draw.scene import Rect, Scene

    return Drawing(tuple(Scene(40, 30, (Rect(1, 2, 3 + k, 4 + version, "#c4560a"),), "bars") for k in range(3)))


@cache
def _drawn(version: int) -> bytes:
    return bytes(_drawing(version).apng())


def draw(path: Path, version: int) -> None:
    _drawing(version).write(path)


def read_drawing(path: Path) -> int:
    return [_drawn(0), _drawn(1)].index(path.read_bytes())
