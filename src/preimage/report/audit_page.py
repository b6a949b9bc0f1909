"""What an audit found as one self-contained HTML page: verdicts, findings with pictures of where the wrong values lie, measures."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from math import prod

from preimage.audit.findings import BINS, Finding, Report, SubjectReport
from preimage.report.audit import bits_cell, checks_cell, coverage_rows, notes_of, title_of, verdict_of, worst_units

__all__ = ["html_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #d8dee4; }
th:first-child, td:first-child, td.text { text-align: left; } pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; }
.finding { border-left: 4px solid #cf222e; padding-left: 1rem; margin: 2rem 0; } .mild { border-color: #bf8700; } .bits { border-color: #8250df; }
.ok { color: #1a7f37; } .bad { color: #cf222e; }
td.mild { color: #bf8700; } .dim { color: #656d76; } .maps { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; } figcaption { font-size: 12px; color: #656d76; } details { margin: .5rem 0; }
"""


def html_page(report: Report) -> str:
    """The whole report as one page: verdicts, findings with pictures of where the wrong values lie, measures."""
    body = [
        "<h1>preimage audit</h1>",
        f"<p>{escape(title_of(report))}. " + ", ".join(f"{escape(k)} {escape(v)}" for k, v in report.versions.items()) + "</p>",
        _subject_table(report),
    ]
    notes = [escape(line) for subject in report.subjects for line in notes_of(subject)]
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
    body += _coverage_tables(report)
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
        text, kind = verdict_of(subject)
        verdict = f"<td class='{kind}'>{escape(text)}</td>"
        cells = "".join(f"<td>{escape(checks_cell(report, subject, c))}</td>" for c in report.checks)
        rows.append(
            f"<tr><td>{escape(subject.name)}</td>{cells}<td>{worst_units(subject)}</td>"
            f"<td class='text'>{escape(bits_cell(subject))}</td>{verdict}</tr>"
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


def _coverage_tables(report: Report) -> list[str]:
    """How many cases took each decision of a planner, the rarest first."""
    parts = []
    for subject in report.subjects:
        rows = coverage_rows(report, subject)
        if not rows:
            continue
        missed = sum(not count for count, _, _ in rows)
        lines = "".join(
            f"<tr{'' if count else ' class=bad'}><td>{count:,}</td><td class='text'>{escape(name)}</td><td class='text'>{escape(words)}</td></tr>"
            for count, name, words in rows
        )
        parts.append(
            f"<details><summary>Decisions of {escape(subject.name)}: {len(rows)}, {missed} of them taken by no case</summary>"
            f"<table><tr><th>cases</th><th>decision</th><th>what it means</th></tr>{lines}</table></details>"
        )
    return parts


def _refusals(report: Report) -> list[str]:
    rows = [(s.name, why, n) for s in report.subjects for why, n in sorted(s.tally.refused.items())]
    if not rows:
        return []
    lines = "".join(f"<li>{escape(name)}: {escape(why)} ({n} times)</li>" for name, why, n in rows)
    return [f"<details><summary>What the subjects cannot express</summary><ul>{lines}</ul></details>"]
