"""A run of the benchmark as tables for the terminal: losing rows first, then the rest, then the means."""

from __future__ import annotations

from math import isnan
from typing import Any

from preimage.bench.results import Row, Run
from preimage.bench.summary import Roofs, best, cells, dense_peak_shares, headline, pair

__all__ = ["print_run"]

_SHORT = {"channels_last": "last", "channels_first": "first"}


def print_run(run: Run, console: Any, worst: int = 0) -> None:
    """Print a run: machine, rows (worst ratio first), headline."""
    from rich.table import Table

    machine = run.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    console.print(f"{machine['cpu']} ({machine['target']}), CPUs {machine['affinity']}, denormals {machine['denormals']}")
    console.print(f"{versions}; {run.seconds:.0f} s")
    for probe in run.probes:
        memory = ", ".join(f"{_bytes(int(size))} {speed:.0f}" for size, speed in probe["memory_gbytes"].items())
        console.print(
            f"{probe['dtype']}, {probe['threads']} thread(s): peak {probe['peak_gflops']:.1f} GFLOP/s"
            f" (least seen {min(probe['peaks']):.1f}; {probe['how']}); memory GB/s by working set: {memory}",
            highlight=False,
        )
    for name, why in run.absent.items():
        console.print(f"not here: {name}: {why}", highlight=False)
    names = list(dict.fromkeys(row.contestant for row in run.rows))
    ours, peers = names[0], names[1:]
    roof = Roofs(run)
    table = Table(title=f"GFLOP/s; ratio: time of the best {'/'.join(peers) or 'peer'} row / time of the best {ours} row")
    wide = console.width >= 170
    for column in ("layer", *(("sizes",) if wide else ()), "pass", "dtype", "n"):
        table.add_column(column, no_wrap=True)
    columns = list(dict.fromkeys((row.contestant, row.layout) for row in run.rows))
    for name, layout in columns:
        table.add_column(f"{name.replace('runtime', '')}\n{_SHORT.get(layout, layout)}", justify="right", no_wrap=True)
    for column in ("%peak", "%mem", "bound", "ratio", "quartiles"):
        table.add_column(column, justify="right", no_wrap=True)
    for ratio, cell in sorted(_ranked(run, ours, peers), key=lambda item: item[0])[: worst or None]:
        table.add_row(*_cells_of(cell, columns, ours, peers, roof, wide), style="red" if ratio < 1 else "")
    console.print(table)
    _print_errors(run, ours, console)
    for peer in peers if len(run.rows) > len(names) else ():
        _print_headline(run, ours, peer, console)
    shares = dense_peak_shares(run, ours)
    if shares:
        mid, (least, row) = shares[len(shares) // 2][0], shares[0]
        console.print(
            f"{ours}, {len(shares)} rows of at least 0.2 GFLOP with 32 channels a group on both sides: median"
            f" {mid:.0%} of the peak, worst {least:.0%} ({row.layer} {row.what}, {row.threads} thread(s))",
            highlight=False,
        )


def _print_errors(run: Run, ours: str, console: Any, most: int = 12) -> None:
    """Failures of anyone, and what ours refuses; the same message of many rows is said once, with their number."""
    said: dict[str, list[Row]] = {}
    for row in run.rows:
        if row.error and (row.contestant == ours or row.error.startswith("wrong") or "Error:" in row.error):
            said.setdefault(f"{row.contestant}: {row.error}", []).append(row)
    for text, rows in list(said.items())[:most]:
        places = ", ".join(dict.fromkeys(f"{row.layer} {row.what}" for row in rows[:3]))
        console.print(f"{places}{f' and {len(rows) - 3} more' if len(rows) > 3 else ''}: {text}", style="red", markup=False)


def _ranked(run: Run, ours: str, peers: list[str]) -> list[tuple[float, list[Row]]]:
    """Every cell with the ratio that ranks it: best peer row / our best row; cells without one come last."""
    ranked = []
    for cell in cells(run.rows).values():
        mine = best(cell, ours)
        theirs = [row for name in peers if (row := best(cell, name)) is not None]
        if mine is None or not theirs:
            ranked.append((float("inf"), cell))
        else:
            ranked.append((pair(mine, min(theirs, key=lambda r: r.median_ns)).ratio, cell))
    return ranked


def _cells_of(cell: list[Row], columns: list[tuple[str, str]], ours: str, peers: list[str], roof: Roofs, wide: bool) -> list[str]:
    first = cell[0]
    dtype = first.dtype.replace("bfloat", "bf").replace("float", "f")
    texts = [first.layer, *((first.label,) if wide else ()), first.what, dtype, str(first.threads)]
    by_column = {(row.contestant, row.layout): row for row in cell}
    for column in columns:
        row = by_column.get(column)
        texts.append(f"{row.gflops:.1f}" if row is not None and row.times else "-")
    mine = best(cell, ours)
    if mine is None:
        return [*texts, "", "", "", "", ""]
    limit = roof(mine)
    texts += [f"{limit.peak_share:.0%}", f"{limit.memory_share:.0%}", limit.bound]
    theirs = [row for name in peers if (row := best(cell, name)) is not None]
    if not theirs:
        return [*texts, "", ""]
    found = pair(mine, min(theirs, key=lambda r: r.median_ns))
    return [*texts, f"{found.ratio:.2f}", f"{found.low:.2f}-{found.high:.2f}"]


def _print_headline(run: Run, ours: str, peer: str, console: Any) -> None:
    from rich.table import Table

    table = Table(title=f"time of {peer} / time of {ours}, geometric means")
    for column in ("dtype", "thr", "pass", "layouts", "layers", "mean", "deconv", "losing", "worst"):
        table.add_column(column, justify="left" if column in ("pass", "layouts") else "right", no_wrap=True)
    for line in headline(run.rows, ours, peer):
        table.add_row(
            line["dtype"], str(line["threads"]), line["pass"], line["layouts"], str(line["layers"]), f"{line['geomean']:.2f}",
            "" if isnan(line["geomean_deconv"]) else f"{line['geomean_deconv']:.2f}", str(line["losing"]),
            f"{line['worst']:.2f} {line['worst_layer']}",
        )  # fmt: skip
    console.print(table)


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
