"""A run of the benchmark as Markdown: machine, means, the share of the peak, then every row, losing ones first."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from statistics import median

from preimage.bench.results import Row, Run
from preimage.bench.summary import Roofs, best, cells, dense_peak_shares, headline, pair, transposed_to_conv
from preimage.host import printable, write_file

__all__ = ["markdown", "write_markdown"]


def write_markdown(run: Run, path: str | Path, *, overwrite: bool = True) -> None:
    """Write the tables, whole or not at all."""
    write_file(path, markdown(run), overwrite=overwrite)


def markdown(run: Run) -> str:
    """The tables as text."""
    names = list(dict.fromkeys(row.contestant for row in run.rows))
    ours, peers = names[0], names[1:]
    machine, roof = {name: _safe(value) for name, value in run.machine.items()}, Roofs(run)
    versions = _safe(", ".join(f"{name} {version}" for name, version in run.machine["versions"].items()))
    lines = [
        f"{machine['cpu']} ({machine['target']}); CPUs {machine['affinity']}, threads not pinned; denormals {machine['denormals']};"
        f" {versions}. {run.seconds:.0f} s of measuring.",
        "",
    ]
    for probe in run.probes:
        memory = ", ".join(f"{_bytes(int(size))} {speed:.0f}" for size, speed in probe["memory_gbytes"].items())
        lines.append(
            f"- {_safe(probe['dtype'])}, {_threads(probe['threads'])}: FMA peak {probe['peak_gflops']:.1f} GFLOP/s (least seen"
            f" {min(probe['peaks']):.1f}); memory, GB/s by working set: {memory}"
        )
    for peer in peers:
        lines += [
            "",
            f"Time of {_safe(peer)} / time of {_safe(ours)}, geometric means (above 1: {_safe(ours)} is faster):",
            "",
            *_means(run, ours, peer),
        ]
    lines += ["", *_shares(run, ours), "", *_both_ways(run, ours)]
    for dtype, threads in sorted({(row.dtype, row.threads) for row in run.rows}):
        lines += [
            "",
            f"All rows, {_safe(dtype)}, {_threads(threads)}: GFLOP/s, worst ratio first.",
            "",
            *_rows(run, ours, peers, dtype, threads, roof),
        ]
    return "\n".join(lines) + "\n"


def _safe(text: object) -> str:
    """Text from a file inside Markdown, which may hold HTML, and whose tables end a cell at a bar."""
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def _threads(n: int) -> str:
    return f"{n} thread" if n == 1 else f"{n} threads"


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _means(run: Run, ours: str, peer: str) -> list[str]:
    lines = [
        "| dtype | threads | pass | layouts | layers | mean | deconvolutions | losing | worst |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in headline(run.rows, ours, peer):
        deconv = "" if isnan(line["geomean_deconv"]) else f"{line['geomean_deconv']:.2f}"
        values = (line["dtype"], line["threads"], line["pass"], line["layouts"], line["layers"], f"{line['geomean']:.2f}", deconv,
                  line["losing"], f"{line['worst']:.2f} {line['worst_layer']}")  # fmt: skip
        lines.append(f"| {' | '.join(map(_safe, values))} |")
    return lines


def _shares(run: Run, ours: str) -> list[str]:
    """Share of the FMA peak on the large dense rows, per dtype, threads and pass."""
    found: dict[tuple[str, int, str], list[tuple[float, Row]]] = {}
    for share, row in dense_peak_shares(run, ours):
        for what in (row.what, "all"):
            found.setdefault((row.dtype, row.threads, what), []).append((share, row))
    if not found:
        return []
    lines = ["Share of the FMA peak, rows of at least 0.2 GFLOP with at least 32 channels a group on both sides:", ""]
    lines += ["| dtype | threads | pass | rows | median | worst |", "|---|---|---|---|---|---|"]
    for (dtype, threads, what), items in sorted(found.items(), key=lambda item: (*item[0][:2], item[0][2] != "all", item[0][2])):
        least, row = min(items, key=lambda item: item[0])
        middle = median(share for share, _ in items)
        lines.append(
            f"| {_safe(dtype)} | {threads} | {_safe(what)} | {len(items)} | {middle:.0%} | {least:.0%} {_safe(row.layer)} {_safe(row.what)} |"
        )
    return lines


def _both_ways(run: Run, ours: str) -> list[str]:
    """What a deconvolution costs beside the convolution of the same geometry."""
    found = transposed_to_conv(run, ours)
    if not found:
        return []
    lines = [f"{_safe(ours)}: time of conv_transpose / time of conv, each deconvolution's own geometry read both ways:", ""]
    lines += ["| layer | dtype | threads | ratio |", "|---|---|---|---|"]
    return lines + [f"| {_safe(row.layer)} | {_safe(row.dtype)} | {row.threads} | {ratio:.2f} |" for ratio, row in found]


def _rows(run: Run, ours: str, peers: list[str], dtype: str, threads: int, roof: Roofs) -> list[str]:
    columns = list(dict.fromkeys((row.contestant, row.layout) for row in run.rows))
    heads = [_safe(f"{name} {layout.removeprefix('channels_')}") for name, layout in columns]
    lines = [
        f"| layer | pass | {' | '.join(heads)} | % peak | bound | ratio | quartiles |",
        "|---|---|" + "---|" * (len(heads) + 4),
    ]
    ranked: list[tuple[float, str]] = []
    for key, cell in cells(run.rows).items():
        if key[2:] != (dtype, threads):
            continue
        mine = best(cell, ours)
        theirs = [row for name in peers if (row := best(cell, name)) is not None]
        by_column = {(row.contestant, row.layout): row for row in cell}
        speeds = [f"{row.gflops:.1f}" if (row := by_column.get(column)) is not None and row.times else "" for column in columns]
        limit = roof(mine) if mine is not None else None
        shares = [f"{limit.peak_share:.0%}", limit.bound] if limit else ["", ""]
        found = pair(mine, min(theirs, key=lambda row: row.median_ns)) if mine is not None and theirs else None
        ratio = [f"{found.ratio:.2f}", f"{found.low:.2f}-{found.high:.2f}"] if found else ["", ""]
        text = f"| {' | '.join(map(_safe, [cell[0].layer, cell[0].what, *speeds, *shares, *ratio]))} |"
        ranked.append((found.ratio if found else float("inf"), text))
    return lines + [text for _, text in sorted(ranked)]
