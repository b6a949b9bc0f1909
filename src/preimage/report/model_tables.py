"""Tables of whole models: which files load, run and agree, and how fast beside peers; for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from preimage.bench.models.check import Verdict, share_in_order
from preimage.bench.models.profile import NodeTime
from preimage.bench.models.results import OURS, ModelRow, ModelRun, summaries
from preimage.host import printable, write_file

__all__ = ["check_markdown", "print_check", "print_models", "print_node_times", "write_models_markdown"]

Rows = Sequence[Sequence[str]]


def _print(heads: Sequence[str], rows: Rows, console: Console) -> None:
    table = Table(box=None, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _markdown(heads: Sequence[str], rows: Rows) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(_safe(cell) for cell in row) + " |" for row in rows]


def _safe(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


# -- info --check ------------------------------------------------------------------------------------------------------

_CHECK = ("model", "kind", "inputs", "loads", "runs", "agrees", "difference", "beside", "missing or said")


def _check_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """What is not in order first."""
    return [
        [
            v.name, v.kind, v.inputs, _yes(v.loads), _yes(v.runs), "not compared" if v.agrees is None else _yes(v.agrees),
            "" if v.difference is None else f"{v.difference:.1e}", v.peer, ", ".join(v.missing) or v.message[:200],
        ]
        for v in sorted(verdicts, key=lambda v: (v.in_order, v.agrees is not None))
    ]  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _check_total(verdicts: Sequence[Verdict]) -> str:
    good, convolving = share_in_order(verdicts)
    share = f" ({good / convolving:.0%})" if convolving else ""
    every = sum(v.in_order for v in verdicts)
    compared = sum(v.agrees is not None for v in verdicts)
    return (
        f"{every} of {len(verdicts)} files are in order; of the {convolving} with convolutions {good}{share}; "
        f"{compared} were compared with another library"
    )


def print_check(verdicts: Sequence[Verdict], console: Console) -> None:
    """The table of `info --check`, what is not in order first."""
    _print(_CHECK, _check_rows(verdicts), console)
    console.print(_check_total(verdicts))


def check_markdown(verdicts: Sequence[Verdict], path: str | Path, *, overwrite: bool = True) -> None:
    """Write the same as Markdown."""
    write_file(
        path, "\n".join([_check_total(verdicts) + ".", "", *_markdown(_CHECK, _check_rows(verdicts))]) + "\n", overwrite=overwrite
    )


# -- info --profile ----------------------------------------------------------------------------------------------------


def print_node_times(nodes: Sequence[NodeTime], console: Console) -> None:
    """The nodes as they come (slowest first): time, speed, and the share of what the machine allows."""
    total = sum(node.time_ns for node in nodes) or 1.0
    heads = ("node", "op", "output", "ms", "share", "GFLOP/s", "GB/s", "bound by", "reached")
    rows = [
        [
            n.name, n.op, " ".join("x".join(map(str, s)) or "scalar" for s in n.shapes), f"{n.time_ns / 1e6:.3f}", f"{n.time_ns / total:.1%}",
            f"{n.gflops:.1f}" if n.work_flop else "", f"{n.gbytes:.1f}", n.bound, f"{n.reached:.0%}",
        ]
        for n in nodes
    ]  # fmt: skip
    _print(heads, rows, console)
    work, moved, least = (sum(values) for values in zip(*((n.work_flop, n.moved_bytes, n.least_ns) for n in nodes), strict=True))
    console.print(
        f"{len(nodes)} nodes, {total / 1e6:.3f} ms: {work / total:.1f} GFLOP/s, {moved / total:.1f} GB/s; "
        f"the machine allows {least / 1e6:.3f} ms ({least / total:.0%} reached)"
    )


# -- bench --model -----------------------------------------------------------------------------------------------------

_ROWS = (
    "model",
    "inputs",
    "library",
    "ms",
    "time / ours (quartiles)",
    "import ms",
    "first call ms",
    "peak MB",
    "difference",
    "said",
)
_MEANS = (
    "library",
    "threads",
    "models",
    "geo-mean",
    "worst",
    "losing",
    "under 2 ms",
    "first call: ours / its",
    "with import",
    "memory: ours / its",
)


def _model_rows(run: ModelRun, threads: int) -> list[list[str]]:
    """Models by our worst ratio, losing ones first; of each model ours first."""
    models: dict[str, list[ModelRow]] = {}
    for row in run.rows:
        if row.threads == threads:
            models.setdefault(row.model, []).append(row)

    def rank(rows: list[ModelRow]) -> float:
        ratios = [ratio[0] for row in rows if (ratio := run.ratio(row)) is not None]
        failed = any(row.contestant == OURS and row.error for row in rows)
        return -1.0 if failed else min(ratios, default=float("inf"))

    return [_model_row(run, row) for rows in sorted(models.values(), key=rank) for row in rows]


def _model_row(run: ModelRun, row: ModelRow) -> list[str]:
    ratio = run.ratio(row)
    times = row.times(run.cpu)
    return [
        row.model, row.inputs, row.contestant + (f" ({row.layout})" if row.layout else ""), f"{median(times) / 1e6:.3g}" if times else "",
        "" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})",
        f"{row.import_ns / 1e6:.0f}" if row.import_ns else "",
        f"{(row.load_ns + row.first_ns) / 1e6:.0f}" if row.first_ns else "", f"{row.peak_bytes / 1e6:.0f}" if row.peak_bytes else "",
        "" if row.difference is None else f"{row.difference:.1e}", row.error,
    ]  # fmt: skip


def _means(run: ModelRun) -> list[list[str]]:
    def number(value: float) -> str:
        return "" if isnan(value) else f"{value:.2f}"

    return [
        [
            s.contestant, str(s.threads), str(s.models), number(s.mean), f"{s.worst:.2f} {s.worst_model}", str(s.losing),
            f"{number(s.small)} ({s.small_models})" if s.small_models else "", number(s.first), number(s.start), number(s.memory),
        ]
        for s in summaries(run)
    ]  # fmt: skip


def _threads(count: int) -> str:
    return f"{count} thread" + ("" if count == 1 else "s")


def _head(run: ModelRun) -> str:
    versions = dict.fromkeys(f"{row.contestant} {row.version}" for row in run.rows if row.version)
    clock = "CPU times of one thread" if run.cpu else "times by the clock"
    absent = "".join(f"; {name} took no part: {why}" for name, why in run.absent.items())
    return f"{run.machine['cpu']} ({run.machine['target']}); {', '.join(versions)}; {clock}; {run.seconds:.0f} s of measuring{absent}."


def print_models(run: ModelRun, console: Console) -> None:
    """Means, then every row, losing models first."""
    console.print(_head(run))
    _print(_MEANS, _means(run), console)
    for threads in sorted({row.threads for row in run.rows}):
        console.print(f"\n{_threads(threads)}, losing models first:")
        _print(_ROWS, _model_rows(run, threads), console)


def write_models_markdown(run: ModelRun, path: str | Path, *, overwrite: bool = True) -> None:
    """Write the same as Markdown."""
    lines = [
        _safe(_head(run)),
        "",
        "Time of each library / time of ours; above 1 we are faster.",
        "",
        *_markdown(_MEANS, _means(run)),
    ]
    for threads in sorted({row.threads for row in run.rows}):
        lines += ["", f"All rows, {_threads(threads)}, losing models first.", "", *_markdown(_ROWS, _model_rows(run, threads))]
    write_file(path, "\n".join(lines) + "\n", overwrite=overwrite)
