"""From rows to statements: paired ratios, geometric means, and the roofline that bounds a row.

ratio        time of a peer / time of ours, round by round (the two times of one round are a pair); above 1 ours is faster
best         of a peer's layouts (or of ours) the one with the least median
roofline     least time = max(flop / peak, bytes / bandwidth): flop without padded taps, bytes of the three arrays once,
             bandwidth of the smallest probed working set that holds them
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from statistics import median, quantiles
from typing import Any

from preimage.bench.results import Row, Run

__all__ = ["Comparison", "Roof", "Roofs", "cells", "compare", "geomean", "headline"]


@dataclass(frozen=True, slots=True)
class Roof:
    """What bounds a row: "compute" or "memory", the least time it allows, and the share of it that was reached."""

    bound: str
    least_ns: float
    reached: float
    peak_share: float
    memory_share: float
    intensity: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rows of a cell: the peer's time over ours; median and quartiles of the paired ratios."""

    ours: Row
    peer: Row
    ratio: float
    low: float
    high: float
    pairs: int


def cells(rows: Iterable[Row]) -> dict[tuple[str, str, str, int], list[Row]]:
    """The rows of each cell (layer, pass, dtype, threads), in order."""
    found: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        found.setdefault(row.cell, []).append(row)
    return found


def geomean(values: Iterable[float]) -> float:
    """Geometric mean of the finite positive values; NaN of none."""
    logs = [log(v) for v in values if isfinite(v) and v > 0]
    return exp(sum(logs) / len(logs)) if logs else float("nan")


def best(rows: Sequence[Row], name: str, layout: str | None = None) -> Row | None:
    """The fastest timed row of a contestant in a cell, in one layout or in any."""
    own = [r for r in rows if r.contestant == name and r.times and (layout is None or r.layout == layout)]
    return min(own, key=lambda r: r.median_ns, default=None)


def pair(ours: Row, peer: Row) -> Comparison:
    """The paired comparison of two rows of one cell."""
    pairs = zip(ours.time_ns, peer.time_ns, strict=False)
    ratios = [b / a for a, b in pairs if a is not None and b is not None]
    if len(ratios) > 1:
        low, _, high = quantiles(ratios, n=4, method="inclusive")
    else:
        low = high = ratios[0]
    return Comparison(ours, peer, median(ratios), low, high, len(ratios))


def compare(
    rows: Iterable[Row], ours: str, peer: str, our_layout: str | None = None, peer_layout: str | None = None
) -> list[Comparison]:
    """Ours against a peer in every cell where both have times, worst first. Layout None: the best of each."""
    found = []
    for cell in cells(rows).values():
        a, b = best(cell, ours, our_layout), best(cell, peer, peer_layout)
        if a is not None and b is not None:
            found.append(pair(a, b))
    return sorted(found, key=lambda c: c.ratio)


def headline(rows: Sequence[Row], ours: str, peer: str) -> list[dict[str, Any]]:
    """Geometric means per dtype, threads, pass and pairing of layouts, with the worst layer of each."""
    table = []
    pairings: list[tuple[str, str | None, str | None]] = [("best", None, None)]
    for layout in dict.fromkeys(row.layout for row in rows if row.contestant == ours):
        pairings += [(f"{layout} to best", layout, None), (f"{layout} both", layout, layout)]
    keys = sorted({(r.dtype, r.threads) for r in rows})
    for dtype, threads in keys:
        for what in dict.fromkeys(r.what for r in rows):
            part = [r for r in rows if (r.dtype, r.threads, r.what) == (dtype, threads, what)]
            for name, our_layout, peer_layout in pairings:
                found = compare(part, ours, peer, our_layout, peer_layout)
                if not found:
                    continue
                deconv = [c.ratio for c in found if c.ours.kind == "deconv"]
                table.append(
                    {
                        "dtype": dtype,
                        "threads": threads,
                        "pass": what,
                        "layouts": name,
                        "layers": len(found),
                        "geomean": geomean(c.ratio for c in found),
                        "geomean_deconv": geomean(deconv),
                        "worst": found[0].ratio,
                        "worst_layer": found[0].ours.layer,
                        "losing": sum(c.ratio < 1 for c in found),
                    }
                )
    return table


class Roofs:
    """The roofline of every row of a run."""

    def __init__(self, run: Run) -> None:
        self._probes = {(p["dtype"], p["threads"]): p for p in run.probes}

    def peak(self, dtype: str, threads: int) -> float:
        """GFLOP/s; narrow floats are summed in float32."""
        probe = self._probe(dtype, threads)
        return float(probe["peak_gflops"]) if probe else float("nan")

    def _probe(self, dtype: str, threads: int) -> Any:
        return self._probes.get((dtype, threads)) or self._probes.get(("float32", threads))

    def bandwidth(self, row: Row) -> float:
        """GB/s of the smallest probed working set that holds the row's arrays."""
        probe = self._probe(row.dtype, row.threads)
        if not probe or not probe["memory_gbytes"]:
            return float("nan")
        speeds = sorted((int(size), float(speed)) for size, speed in probe["memory_gbytes"].items())
        return next((speed for size, speed in speeds if size >= row.array_bytes), speeds[-1][1])

    def __call__(self, row: Row) -> Roof:
        peak, bandwidth = self.peak(row.dtype, row.threads), self.bandwidth(row)
        compute, memory = row.inside_flop / peak, row.array_bytes / bandwidth
        least, time = max(compute, memory), row.median_ns
        return Roof(
            "compute" if compute >= memory else "memory",
            least,
            least / time,
            compute / time,
            memory / time,
            row.inside_flop / max(row.array_bytes, 1),
        )


def transposed_to_conv(run: Run, name: str) -> list[tuple[float, Row]]:
    """(time of conv_transpose / time of conv, row), greatest first: a deconvolution's own geometry read both ways."""
    by_key: dict[tuple[str, str, int], dict[str, Row]] = {}
    for cell in cells(row for row in run.rows if row.kind == "deconv").values():
        row = best(cell, name)
        if row is not None:
            by_key.setdefault((row.layer, row.dtype, row.threads), {})[row.contraction] = row
    pairs = [(p["conv_transpose"], p["conv"]) for p in by_key.values() if {"conv", "conv_transpose"} <= p.keys()]
    return sorted(((a.median_ns / b.median_ns, a) for a, b in pairs), key=lambda item: -item[0])


def dense_peak_shares(run: Run, name: str) -> list[tuple[float, Row]]:
    """(share of the FMA peak, row), least first: the best layout of `name` in every cell of at least 0.2 GFLOP with at
    least 32 channels a group on both sides."""
    roof = Roofs(run)
    found = []
    for cell in cells(run.rows).values():
        row = best(cell, name)
        if row is not None and row.work_flop >= 2e8 and min(row.channels) >= 32 and row.what != "grad_bias":
            found.append((roof(row).peak_share, row))
    return sorted(found, key=lambda item: item[0])
