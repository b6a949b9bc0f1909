"""What an audit found, as a table in the terminal and as one self-contained HTML page. Reads a Report, computes nothing new."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from math import prod
from typing import Any

from preimage.audit.findings import BINS, SEVERITIES, Finding, Report, SubjectReport

__all__ = ["html_page", "print_report", "progress_bar"]

_COLOURS = {
    "out-of-bounds access": "red",
    "crash": "red",
    "wrong value": "red",
    "wrong bits": "magenta",
    "missing error": "yellow",
    "imprecise": "yellow",
}


@contextmanager
def progress_bar(console: Any) -> Iterator[Callable[[int, int, int], None]]:
    """A bar that says how far the audit is and how much it has found; gives the function that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("geometries", total=None, found="")

        def move(done: int, total: int, found: int) -> None:
            bar.update(task, completed=done, total=total, found=f"{found} finding{'s' * (found != 1)}" if found else "")

        yield move


def _checks_cell(report: Report, subject: SubjectReport, check: str) -> str:
    ran, failed = subject.tally.runs[check], subject.tally.failed[check]
    if not ran and not failed:
        return "-"
    return f"{ran}" if not failed else f"{ran}, {failed} failed"


def _worst_units(subject: SubjectReport) -> str:
    if not subject.tally.worst:
        return "-"
    units, _ = max(subject.tally.worst.values())
    return f"{units:.3g}"


def _bits_cell(subject: SubjectReport) -> str:
    differing = {p: row[1] for p, row in subject.tally.bits.items() if row[1]}
    if not subject.tally.bits:
        return "-"
    return ", ".join(f"{p} {n}" for p, n in sorted(differing.items())) or "all the same"


def print_report(report: Report, console: Any) -> None:
    """The table of subjects, then each finding with its reproducer."""
    from rich.markup import escape as plain
    from rich.table import Table

    table = Table(title=f"audit: {report.cases} geometries, seed {report.seed}, {report.seconds:.1f} s")
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
        verdict = "[green]no findings[/green]" if subject.ok else f"[red]{len(subject.findings)} findings[/red]"
        cells = [_checks_cell(report, subject, check) for check in report.checks]
        table.add_row(subject.name, *cells, _worst_units(subject), _bits_cell(subject), verdict)
    console.print(table)
    for subject in report.subjects:
        for line in _notes(subject):
            console.print(f"[dim]{plain(line)}[/dim]", highlight=False)
    for line in report.left_out:
        console.print(f"[dim]left out: {plain(line)}[/dim]", highlight=False)
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
    if report.interrupted:
        console.print("[yellow]interrupted: this is what had been found by then[/yellow]")


def _notes(subject: SubjectReport) -> list[str]:
    """What is worth knowing about a subject and is no finding."""
    tally = subject.tally
    notes = []
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


# -- the page ----------------------------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #d8dee4; }
th:first-child, td:first-child, td.text { text-align: left; } pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; }
.finding { border-left: 4px solid #cf222e; padding-left: 1rem; margin: 2rem 0; } .mild { border-color: #bf8700; } .bits { border-color: #8250df; }
.ok { color: #1a7f37; } .bad { color: #cf222e; } .dim { color: #656d76; } .maps { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; } figcaption { font-size: 12px; color: #656d76; } details { margin: .5rem 0; }
"""


def html_page(report: Report) -> str:
    """The whole report as one page: verdicts, findings with pictures of where the wrong values lie, measures."""
    body = [
        "<h1>preimage audit</h1>",
        f"<p>{report.cases} geometries, seed {report.seed}, {report.seconds:.1f} s. "
        + ", ".join(f"{escape(k)} {escape(v)}" for k, v in report.versions.items())
        + "</p>",
        _subject_table(report),
    ]
    notes = [escape(line) for subject in report.subjects for line in _notes(subject)]
    if notes:
        body.append("<h2>Measured, not failed</h2><ul>" + "".join(f"<li>{n}</li>" for n in notes) + "</ul>")
    found = report.findings
    body.append(f"<h2>{len(found)} finding{'s' * (len(found) != 1)}</h2>")
    body += [_finding(f) for f in found] or ["<p class='ok'>None.</p>"]
    body.append(
        "<h2>Rounding errors</h2><p>Elements by their error in units of n&middot;u&middot;&Sigma;|x||w|; the line is at 1.</p>"
    )
    for subject in report.subjects:
        if subject.tally.rounding:
            body.append(f"<h3>{escape(subject.name)}</h3><div class='maps'>" + "".join(_histograms(subject)) + "</div>")
    if report.left_out:
        body.append("<h2>Left out</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in report.left_out) + "</ul>")
    body += _refusals(report)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>preimage audit</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def _subject_table(report: Report) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in ("subject", *report.checks, "worst rounding", "bits that differ", "verdict"))
    rows = []
    for subject in report.subjects:
        if subject.absent is not None:
            dashes = "<td>-</td>" * (len(report.checks) + 2)
            rows.append(f"<tr><td>{escape(subject.name)}</td>{dashes}<td class='dim'>absent: {escape(subject.absent)}</td></tr>")
            continue
        verdict = "<td class='ok'>no findings</td>" if subject.ok else f"<td class='bad'>{len(subject.findings)} findings</td>"
        cells = "".join(f"<td>{escape(_checks_cell(report, subject, c))}</td>" for c in report.checks)
        rows.append(
            f"<tr><td>{escape(subject.name)}</td>{cells}<td>{_worst_units(subject)}</td>"
            f"<td class='text'>{escape(_bits_cell(subject))}</td>{verdict}</tr>"
        )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _finding(finding: Finding) -> str:
    kind = {"wrong bits": " bits", "missing error": " mild", "imprecise": " mild"}.get(finding.severity, "")
    parts = [
        f"<div class='finding{kind}'><h3>{escape(finding.severity)} in {escape(finding.subject)}</h3>",
        f"<p>{escape(finding.message)}<br><span class='dim'>check {escape(finding.check)}, {escape(finding.dtype)}, memory"
        f" {escape(finding.layout)}, seen {finding.count} times, data seed {finding.seed}</span></p>",
    ]
    if finding.wrong_at:
        parts.append(_map(finding.wrong_shape, finding.wrong_at))
    if finding.smallest_message:
        parts.append(f"<p>Smallest case ({escape(finding.repeatable)}): {escape(finding.smallest_message)}</p>")
    if finding.reproducer:
        parts.append(f"<pre>{escape(finding.reproducer)}</pre>")
    case = ", ".join(f"{k} {v}" for k, v in finding.case.items() if k != "label")
    parts.append(f"<details><summary>the case it was found on</summary><p>{escape(case)}</p></details></div>")
    return "".join(parts)


_MOST_MAPS = 24


def _map(shape: tuple[int, ...], wrong_at: list[int]) -> str:
    """Pictures of a result, one an image and channel (or pair of channels): wrong elements dark."""
    grid = shape[-2:] if len(shape) > 3 else (1, *shape[-1:]) if shape else (1, 1)
    if len(shape) == 2:
        grid = shape
    rows, columns = grid
    per, count = rows * columns, prod(shape) // max(rows * columns, 1)
    by_plane: dict[int, list[int]] = {}
    for i in wrong_at:
        by_plane.setdefault(i // per, []).append(i % per)
    planes = sorted(by_plane)[:_MOST_MAPS]
    cell = max(1.0, min(12.0, 220 / max(rows, columns, 1)))
    figures = []
    for plane in planes:
        index, rest = [], plane
        for n in reversed(shape[: len(shape) - (2 if grid == shape[-2:] else 1)]):
            index.append(rest % n)
            rest //= n
        marks = "".join(
            f"<rect x='{i % columns * cell:.1f}' y='{i // columns * cell:.1f}' width='{cell:.1f}' height='{cell:.1f}'/>"
            for i in by_plane[plane]
        )
        width, height = columns * cell, rows * cell
        figures.append(
            f"<figure><svg width='{width + 2:.0f}' height='{height + 2:.0f}' viewBox='-1 -1 {width + 2:.1f} {height + 2:.1f}'>"
            f"<rect width='{width:.1f}' height='{height:.1f}' fill='#eef1f4' stroke='#afb8c1'/><g fill='#cf222e'>{marks}</g></svg>"
            f"<figcaption>{list(reversed(index))}</figcaption></figure>"
        )
    more = f"<p class='dim'>{len(by_plane)} of {count} planes have wrong values; {len(planes)} shown.</p>"
    return f"<div class='maps'>{''.join(figures)}</div>{more}"


def _histograms(subject: SubjectReport) -> Iterator[str]:
    for key, counts in sorted(subject.tally.rounding.items()):
        top, bar = max(max(counts), 1), 10
        marks = ""
        for i, n in enumerate(counts):
            colour, height = "#cf222e" if BINS[i] >= 1 else "#0969da", 58 * n / top
            marks += (
                f"<rect x='{i * bar}' y='{60 - height:.1f}' width='{bar - 1}' height='{height:.1f}' fill='{colour}'>"
                f"<title>{n} from {BINS[i]:g} to {BINS[i + 1]:g}</title></rect>"
            )
        line = BINS.index(1.0) * bar
        units, where = subject.tally.worst.get(key, (0.0, ""))
        yield (
            f"<figure title='{escape(where, quote=True)}'><svg width='{len(counts) * bar}' height='62'>{marks}"
            f"<line x1='{line}' x2='{line}' y1='0' y2='62' stroke='#1b1f24'/></svg>"
            f"<figcaption>{escape(key)}: worst {units:.3g}</figcaption></figure>"
        )


def _refusals(report: Report) -> list[str]:
    rows = [(s.name, why, n) for s in report.subjects for why, n in sorted(s.tally.refused.items())]
    if not rows:
        return []
    lines = "".join(f"<li>{escape(name)}: {escape(why)} ({n} times)</li>" for name, why, n in rows)
    return [f"<details><summary>What the subjects cannot express</summary><ul>{lines}</ul></details>"]


assert set(_COLOURS) == set(SEVERITIES)
