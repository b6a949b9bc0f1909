"""A run of the benchmark as a page of its own: means, a roofline plot for every dtype and thread count, all rows.

No script and no file beside it: the plot is SVG. Rows are ordered by ratio, losing ones first.
"""

from __future__ import annotations

from math import isnan, log10
from pathlib import Path

from preimage.bench.results import Row, Run
from preimage.bench.summary import Roofs, best, cells, headline, pair
from preimage.host import html as escape
from preimage.host import write_file
from preimage.report.bench_table import print_run

__all__ = ["print_run", "roofline_svg", "write_html"]

_COLOURS = {"forward": "#1b6ca8", "grad_input": "#c0561a", "grad_weight": "#3c8c40", "grad_bias": "#7a5aa6"}
_OTHER = "#777"
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c1c1c; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #888; } td { border-bottom: 1px solid #ddd; } td.t, th.t { text-align: left; }
tr.lost td { background: #fbe9e7; } .note { color: #555; } svg { background: #fff; max-width: 100%; }
"""


def write_html(run: Run, path: str | Path, *, overwrite: bool = True) -> None:
    """Write the page, whole or not at all."""
    write_file(path, render(run), overwrite=overwrite)


def render(run: Run) -> str:
    """The page as text."""
    names = list(dict.fromkeys(row.contestant for row in run.rows))
    ours, peers = names[0], names[1:]
    machine = run.machine
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>preimage bench</title><style>{_STYLE}</style><h1>preimage bench</h1>",
        f"<p>{escape(machine['cpu'])} ({escape(machine['target'])}); CPUs {escape(machine['affinity'])}; {escape(machine['system'])};"
        f" denormals {escape(machine['denormals'])}; {escape(versions)}; {run.seconds:.0f} s.</p>",
        "<p class=note>Ratios are the peer's time over ours, round by round in one interleaved run: above 1 ours is faster."
        " Answers were checked before any clock ran.</p>",
    ]
    for peer in peers:
        parts.append(_headline_html(run, ours, peer))
    roof = Roofs(run)
    for dtype, threads in sorted({(row.dtype, row.threads) for row in run.rows}):
        parts.append(f"<h2>Roofline: {escape(ours)}, {escape(dtype)}, {threads} thread(s)</h2>")
        parts.append(roofline_svg(run, ours, dtype, threads, roof))
    parts.append(_rows_html(run, ours, peers, roof))
    return "\n".join(parts) + "</html>\n"


def _headline_html(run: Run, ours: str, peer: str) -> str:
    lines = [f"<h2>{escape(peer)} / {escape(ours)}: geometric means</h2><table><tr>"]
    heads = ("dtype", "threads", "pass", "layouts", "layers", "mean", "deconv", "losing", "worst", "layer")
    lines += [f"<th>{name}</th>" for name in heads]
    for line in headline(run.rows, ours, peer):
        deconv = "" if isnan(line["geomean_deconv"]) else f"{line['geomean_deconv']:.2f}"
        values = [line["dtype"], line["threads"], line["pass"], line["layouts"], line["layers"], f"{line['geomean']:.2f}"]
        values += [deconv, line["losing"], f"{line['worst']:.2f}", line["worst_layer"]]
        lines.append(f"<tr>{''.join(f'<td>{escape(str(v))}</td>' for v in values)}</tr>")
    return "".join(lines) + "</table>"


def _rows_html(run: Run, ours: str, peers: list[str], roof: Roofs) -> str:
    columns = list(dict.fromkeys((row.contestant, row.layout) for row in run.rows))
    heads = "".join(f"<th>{escape(name)}<br>{escape(layout.removeprefix('channels_'))}</th>" for name, layout in columns)
    lines: list[tuple[float, str]] = []
    for cell in cells(run.rows).values():
        first, mine = cell[0], best(cell, ours)
        theirs = [row for name in peers if (row := best(cell, name)) is not None]
        found = pair(mine, min(theirs, key=lambda r: r.median_ns)) if mine is not None and theirs else None
        by_column = {(row.contestant, row.layout): row for row in cell}
        values = "".join(_speed(by_column.get(column)) for column in columns)
        limit = roof(mine) if mine is not None else None
        share = (
            f"<td>{limit.peak_share:.0%}</td><td>{limit.memory_share:.0%}</td><td>{limit.bound}</td>" if limit else "<td><td><td>"
        )
        ratio = f"<td><b>{found.ratio:.2f}</b></td><td>{found.low:.2f}-{found.high:.2f}</td>" if found else "<td><td>"
        names = (
            f"<td class=t>{escape(first.layer)}</td><td class=t>{escape(first.label)}</td><td class=t>{escape(first.what)}</td>"
        )
        lost = " class=lost" if found and found.ratio < 1 else ""
        text = f"<tr{lost}>{names}<td>{escape(first.dtype)}</td><td>{first.threads}</td>{values}{share}{ratio}</tr>"
        lines.append((found.ratio if found else float("inf"), text))
    body = "\n".join(text for _, text in sorted(lines, key=lambda item: item[0]))
    head = "<th class=t>layer</th><th class=t>sizes</th><th class=t>pass</th><th>dtype</th><th>threads</th>"
    tail = "<th>% peak</th><th>% memory</th><th>bound</th><th>ratio</th><th>quartiles</th>"
    return f"<h2>All rows, GFLOP/s</h2><table><tr>{head}{heads}{tail}</tr>{body}</table>"


def _speed(row: Row | None) -> str:
    if row is None or not row.times:
        return f"<td title='{escape(row.error)}'>-</td>" if row is not None else "<td></td>"
    return f"<td title='{row.median_ns / 1e3:.1f} us, {len(row.times)} rounds, {escape(row.checked)}'>{row.gflops:.1f}</td>"


def roofline_svg(run: Run, ours: str, dtype: str, threads: int, roof: Roofs) -> str:
    """Attained GFLOP/s (without padded taps) over flop per byte, with the roofs of every probed working set."""
    rows = [best(cell, ours) for key, cell in cells(run.rows).items() if key[2:] == (dtype, threads)]
    points = [(roof(row).intensity, row.inside_flop / row.median_ns, row) for row in rows if row is not None]
    probe = next((p for p in run.probes if (p["dtype"], p["threads"]) == (dtype, threads)), None)
    if not points or probe is None:
        return "<p class=note>nothing was timed</p>"
    peak = probe["peak_gflops"]
    left, right = -1.5, max(3.0, log10(max(p[0] for p in points)) + 0.2)
    low, high = min(-0.5, log10(min(p[1] for p in points)) - 0.1), log10(peak) + 0.25
    width, height, margin = 900, 460, 56

    def at(x: float, y: float) -> tuple[float, float]:
        """Pixels of log10 coordinates."""
        return (
            margin + (x - left) / (right - left) * (width - margin - 16),
            height - margin - (y - low) / (high - low) * (height - margin - 16),
        )

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(words)}</text>"

    def line(x0: float, y0: float, x1: float, y1: float, colour: str) -> str:
        return f"<path d='M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}' stroke='{colour}'/>"

    def dot(x: float, y: float, what: str, title: str = "") -> str:
        shape = f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{_COLOURS.get(what, _OTHER)}' fill-opacity='.75'>"
        return f"{shape}<title>{escape(title)}</title></circle>"

    out = [f"<svg viewBox='0 0 {width} {height}' width='{width}' role='img' font-size='11' font-family='sans-serif'>"]
    for k in range(int(left), int(right) + 1):
        x, y = at(k, low)
        out += [line(x, y, *at(k, high), "#e4e4e4"), text(x, y + 16, f"{10.0**k:g}", "middle")]
    for k in range(int(low), int(high) + 1):
        x, y = at(left, k)
        out += [line(x, y, *at(right, k), "#e4e4e4"), text(x - 6, y + 4, f"{10.0**k:g}", "end")]
    free = float(height)  # names of roofs that lie close together stand one above the other, in the order of the roofs
    for size, speed in sorted(probe["memory_gbytes"].items(), key=lambda item: item[1]):
        start = max(left, low - log10(speed))
        x, y = at(start, start + log10(speed))
        end = min(log10(peak / speed), right)
        kib = int(size) >> 10
        name = f"{kib >> 10} MiB" if kib >= 1024 else f"{kib} KiB"
        free = min(y - 4, free - 12)
        out += [line(x, y, *at(end, end + log10(speed)), "#999"), text(x + 4, free, f"{name}: {speed:.0f} GB/s")]
    x, y = at(right, log10(peak))
    out += [line(*at(left, log10(peak)), x, y, "#222"), text(x, y - 5, f"{peak:.0f} GFLOP/s", "end")]
    for x, y, row in points:
        title = f"{row.layer} {row.what} ({row.layout}): {y:.1f} GFLOP/s, {x:.1f} flop/byte, {roof(row).reached:.0%} of its roof"
        out.append(dot(*at(log10(x), log10(y)), row.what, title))
    for k, what in enumerate(dict.fromkeys(row.what for _, _, row in points)):
        out += [dot(margin + 20 + 110 * k, height - 12, what), text(margin + 28 + 110 * k, height - 8, what)]
    out.append(text(width - 16, height - 8, "flop per byte of the three arrays; GFLOP/s upwards", "end"))
    return "".join([*out, "</svg>"])
