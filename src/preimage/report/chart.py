"""A line chart as SVG text that takes its colours from the page around it (CSS variables), so it works light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

from preimage.host import html as escape

__all__ = ["line_chart"]


def line_chart(
    x: Sequence[float],
    lines: Sequence[tuple[str, Sequence[float], str]],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    width: int = 420,
    height: int = 260,
) -> str:
    """Lines (name, values, CSS colour) over x; a log axis where asked for."""
    left, right, top, bottom = 54, 14, 14, 44
    values = [v for _, ys, _ in lines for v in ys]
    low, high = min(values), max(values)
    if log and low > 0:
        ticks = _log_ticks(low, high)
        low, high = min(low, ticks[0]), max(high, ticks[-1])
        low, high = log10(low), log10(high)
    else:
        log = False
        ticks = _ticks(low, high)
        low, high = min(low, ticks[0]), max(high, ticks[-1])
    x_ticks = _ticks(0.0, max(x))
    x_high = max(max(x), 1e-9)

    def across(v: float) -> float:
        return left + (width - left - right) * v / x_high

    def down(v: float) -> float:
        v = log10(v) if log else v
        return height - bottom - (height - top - bottom) * (v - low) / max(high - low, 1e-12)

    parts = [
        f'<svg viewBox="0 0 {width} {height}" class="chart" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">'
    ]
    for t in ticks:
        y = down(t)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{t:g}</text>')
    for t in x_ticks:
        if t <= x_high * 1.0001:
            parts.append(f'<text x="{across(t):.1f}" y="{height - bottom + 18}" text-anchor="middle">{t:g}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{height - bottom}" y2="{height - bottom}"/>')
    parts.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>')
    for name, ys, colour in lines:
        points = " ".join(f"{across(a):.1f},{down(b):.1f}" for a, b in zip(x, ys, strict=True))
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"><title>{escape(name)}</title></polyline>'
        )
        end_x, end_y = across(x[-1]), down(ys[-1])
        parts.append(f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="3.5" fill="{colour}"/>')
    return "".join(parts) + "</svg>"


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span low..high."""
    if high <= low:
        high = low + max(abs(low), 1.0) * 0.1
    raw = (high - low) / about
    unit = 10.0 ** floor(log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten that lie between, with one beyond each end."""
    all_ticks = [m * 10.0**p for p in range(-12, 13) for m in (1, 2, 5)]
    if high / low < 4:
        fine = [m * 10.0**p for p in range(-12, 13) for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
        all_ticks = sorted(fine)
    below = [t for t in all_ticks if t <= low]
    above = [t for t in all_ticks if t >= high]
    start, end = below[-1] if below else all_ticks[0], above[0] if above else all_ticks[-1]
    return [t for t in all_ticks if start <= t <= end]
