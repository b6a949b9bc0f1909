"""What an audit found, as tables in the terminal (`audit_page`: as a page). Reads a Report, computes nothing new."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from preimage.audit.figures import Accuracy, summary
from preimage.audit.findings import SEVERITIES, Report, SubjectReport
from preimage.audit.state import State

__all__ = [
    "accuracy_table", "bits_cell", "checks_cell", "console_for", "coverage_rows", "notes_of", "print_report", "print_status", "progress_bar",
    "progress_lines", "title_of", "verdict_of", "worst_units",
]  # fmt: skip

_COLOURS = {
    "out-of-bounds access": "red",
    "crash": "red",
    "wrong value": "red",
    "wrong bits": "magenta",
    "missing error": "yellow",
    "imprecise": "yellow",
}


def console_for() -> Any:
    """Where the tables go: a terminal as wide as it is, else 150 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=150)


@contextmanager
def progress_lines(console: Any) -> Iterator[Callable[[int, int, int], None]]:
    """A line a minute, for runs of hours whose output goes to a file; gives the function to call after every case."""
    start = time.monotonic()
    last = [start, -1]  # when the last line was written, and how many were done when this run began

    def move(done: int, total: int, found: int) -> None:
        if last[1] < 0:
            last[1] = done - 1
        now = time.monotonic()
        if now - last[0] >= 60 or done == total:
            last[0] = now
            rate = (done - last[1]) / max(now - start, 1e-9)
            console.print(_progress_text(done, total, found, rate), highlight=False, markup=False)

    yield move


def _progress_text(done: int, total: int, found: int, rate: float) -> str:
    left = f", {_duration((total - done) / rate)} left" if rate > 0 and done < total else ""
    return f"{done:,} of {total:,} geometries, {_findings(found)}, {rate:.1f} a second{left}"


def _findings(count: int) -> str:
    return f"{count} finding{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def print_status(state: State, console: Any) -> None:
    """How far a long run is: geometries, time, rate, findings, and the runs that it took."""
    found = len(state.report.findings)
    seconds = state.report.seconds
    what = f"{', '.join(state.what['subjects'])}; checks {', '.join(state.what['checks'])}; seed {state.what['seed']}"
    console.print(f"{state.path}: {what}", highlight=False, markup=False)
    rate = len(state.done) / seconds if seconds else 0.0
    text = _progress_text(len(state.done), state.wanted, found, rate)
    console.print(f"{text}; {_duration(seconds)} so far", highlight=False, markup=False)
    for k, run in enumerate(state.runs, 1):
        line = f"run {k}: {run['geometries']:,} geometries in {_duration(run['seconds'])}, code {run['code']}"
        console.print(line, highlight=False, markup=False)
    for old in state.earlier:
        line = f"found in code {old['code']}, and asked again since: {old['subject']}, {old['check']}: {old['message']}"
        console.print(line, highlight=False, markup=False)
    _print_findings(state.report, console)


@contextmanager
def progress_bar(console: Any, what: str = "geometries") -> Iterator[Callable[[int, int, int], None]]:
    """A bar that says how far the audit is and how much it has found; gives the function that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, found="")

        def move(done: int, total: int, found: int) -> None:
            bar.update(task, completed=done, total=total, found=_findings(found) if found else "")

        yield move


def checks_cell(report: Report, subject: SubjectReport, check: str) -> str:
    ran, failed = subject.tally.runs[check], subject.tally.failed[check]
    if not ran and not failed:
        return "-"
    return f"{ran}" if not failed else f"{ran}, {failed} failed"


def worst_units(subject: SubjectReport) -> str:
    if not subject.tally.worst:
        return "-"
    units, _ = max(subject.tally.worst.values())
    return f"{units:.3g}"


def bits_cell(subject: SubjectReport) -> str:
    differing = {p: row[1] for p, row in subject.tally.bits.items() if row[1]}
    if not subject.tally.bits:
        return "-"
    return ", ".join(f"{p} {n}" for p, n in sorted(differing.items())) or "all the same"


def verdict_of(subject: SubjectReport) -> tuple[str, str]:
    """What is to be thought of a subject, and whether that is "ok", "bad" or "mild"."""
    skipped, cases = subject.tally.skipped.total(), subject.tally.cases
    whose = {why.partition(":")[0] for why in subject.tally.skipped}
    by = f": {next(iter(whose))}" if whose == {"your supports()"} else ""
    some = f"; {skipped:,} of {cases:,} skipped{by}" if skipped else ""
    if not subject.ok:
        return _findings(len(subject.findings)) + some, "bad"
    if cases and skipped == cases:
        return f"nothing checked{some}", "mild"
    return f"no findings{some}", "ok"


def print_report(report: Report, console: Any, *, coverage: bool = False) -> None:
    """The table of subjects, then each finding with its reproducer; coverage: and how many cases took each decision."""
    from rich.markup import escape as plain
    from rich.table import Table

    table = Table(title=title_of(report))
    table.add_column("subject")
    for check in report.checks:
        table.add_column(check, justify="right")
    table.add_column("worst rounding\n(of the bound)", justify="right")
    table.add_column("results whose\nbits differ")
    table.add_column("verdict")
    for subject in report.subjects:
        if subject.absent is not None:
            table.add_row(subject.name, *["-"] * (len(report.checks) + 2), f"[dim]absent: {plain(subject.absent)}[/dim]")
            continue
        text, kind = verdict_of(subject)
        verdict = f"[{ {'ok': 'green', 'bad': 'red', 'mild': 'yellow'}[kind] }]{text}[/]"
        cells = [checks_cell(report, subject, check) for check in report.checks]
        table.add_row(subject.name, *cells, worst_units(subject), bits_cell(subject), verdict)
    console.print(table)
    for subject in report.subjects:
        for line in notes_of(subject):
            console.print(f"[dim]{plain(line)}[/dim]", highlight=False)
    for line in report.left_out:
        console.print(f"[dim]left out: {plain(line)}[/dim]", highlight=False)
    for name, count in report.worlds.items():
        console.print(f"[dim]{plain(name)}: {count:,} geometries[/dim]", highlight=False)
    if coverage:
        _print_coverage(report, console)
    if report.accuracy:
        console.print(accuracy_table(report.accuracy))
    _print_findings(report, console)
    if report.interrupted:
        console.print("[yellow]interrupted: this is what had been found by then[/yellow]")


def accuracy_table(rows: Sequence[Accuracy]) -> Any:
    """Subjects by rows, what they computed by columns: rms and worst element in units of u sum |a||b|."""
    from rich.table import Table

    found = summary(rows)
    columns = list(dict.fromkeys((row.result, row.data) for row in rows))
    table = Table(title="float32, error / (u sum |a||b|): rms of the worst layer, worst element")
    table.add_column("subject")
    for result, data in columns:
        table.add_column(f"{result}\n{data}", justify="right")
    for name, own in found.items():
        cells = (own.get(column) for column in columns)
        table.add_row(name, *["-" if pair is None else f"{pair[0]:.2f}  {pair[1]:.2f}" for pair in cells])
    return table


def title_of(report: Report) -> str:
    on_purpose = f" ({report.steered} of them for rare decisions)" if report.steered else ""
    seed = "" if report.worlds else f", seed {report.seed}"
    return f"audit: {report.cases:,} geometries{on_purpose}{seed}, {report.seconds:.1f} s"


def coverage_rows(report: Report, subject: SubjectReport) -> list[tuple[int, str, str]]:
    """(cases, decision, what it means), the rarest first; what cannot be taken on this machine is left out."""
    out = report.unreachable.get(subject.name, {})
    declared = report.declared.get(subject.name, {}).items()
    return sorted((subject.tally.decisions[name], name, words) for name, words in declared if name not in out)


def _print_coverage(report: Report, console: Any) -> None:
    """How many cases took each decision of a planner, the rarest first."""
    from rich.markup import escape as plain
    from rich.table import Table

    for subject in report.subjects:
        rows = coverage_rows(report, subject)
        if not rows:
            console.print(f"{subject.name} declares no decisions", highlight=False, markup=False, style="dim")
            continue
        missed = sum(not count for count, _, _ in rows)
        table = Table(title=f"decisions of {subject.name}: {len(rows)}, {missed} of them taken by no case")
        table.add_column("cases", justify="right")
        table.add_column("decision", overflow="fold")
        table.add_column("what it means", overflow="fold")
        for count, name, words in rows:
            table.add_row(f"{count:,}", plain(name), plain(words), style=None if count else "red")
        console.print(table)
        for name, why in report.unreachable.get(subject.name, {}).items():
            console.print(f"{name} cannot be taken here: {why}", highlight=False, markup=False, style="dim")


def _print_findings(report: Report, console: Any) -> None:
    """Each finding with its reproducer."""
    from rich.markup import escape as plain

    for finding in report.findings:
        colour = _COLOURS[finding.severity]
        console.rule(style=colour)
        console.print(
            f"[bold {colour}]{finding.severity}[/] in [bold]{plain(finding.subject)}[/] ({finding.check}, seen {finding.count} times)"
        )
        console.print(finding.message, highlight=False, markup=False)
        if not finding.smallest:
            sizes = ", ".join(f"{k} {v}" for k, v in finding.case.items())
            console.print(
                f"{finding.dtype}, memory {finding.layout}, data seed {finding.seed}: {sizes}", highlight=False, markup=False
            )
        if finding.smallest_message:
            console.print(f"smallest, {finding.repeatable}: {finding.smallest_message}", highlight=False, markup=False)
        if finding.reproducer:
            console.print(finding.reproducer, highlight=False, markup=False, style="cyan", soft_wrap=True)


def notes_of(subject: SubjectReport) -> list[str]:
    """What is worth knowing about a subject and is no finding."""
    tally = subject.tally
    notes = [f"{subject.name}: {n:,} of {tally.cases:,} geometries skipped: {why}" for why, n in tally.skipped.most_common()]
    for key, (count, units) in sorted(tally.inexact.items()):
        notes.append(
            f"{subject.name}: {key} is not exact on integers ({int(count)} results, at most {units:.2g} of the rounding bound)"
        )
    if tally.conventions:
        notes.append(
            f"{subject.name}: infinity over the padding: " + ", ".join(f"{k} {v}" for k, v in sorted(tally.conventions.items()))
        )
    open_bits = {p: row for p, row in tally.bits.items() if row[1] and p not in subject.promises}
    for promise, (ran, differ, elements, wrong) in sorted(open_bits.items()):
        notes.append(f"{subject.name}: {promise}, not promised: {differ} of {ran} results differ, {wrong} of {elements} elements")
    return notes


assert set(_COLOURS) == set(SEVERITIES)
