"""What notebook cards are made of: a frame with its style, tables, facts, pictures inside the text.

The text has the notebook's own colour, light or dark; lines and shades are mixed from it. Where a viewer drops styles, plain tables are left.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import OptionError
from preimage.host import html as escape
from preimage.report.draw import Drawing

__all__ = ["block", "card", "count", "drawing", "facts", "heat", "more", "picture", "pictures", "planes", "png", "shape", "table"]

#: Rows of a table that are shown at once; all open with a click.
ROWS = 12
#: Rows that are written at all.
MOST_ROWS = 1000

_STYLE = """<style>
.preimage-card { font: 13px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; max-width: 64rem; margin: .2rem 0 .5rem;
  --line: color-mix(in srgb, currentColor 15%, transparent); --soft: color-mix(in srgb, currentColor 68%, transparent);
  --accent: #d9640f; --second: #2f86b5; --third: #6d9436; }
.preimage-card .scroll { overflow-x: auto; } .preimage-card .soft, .preimage-card caption { color: var(--soft); }
.preimage-card .head { font-weight: 600; font-size: 14px; margin: 0 0 .25rem; overflow-wrap: anywhere; }
.preimage-card .head span { font-weight: 400; color: var(--soft); margin-left: .6em; }
div.preimage-card.preimage-card table { border-collapse: collapse; margin: .3rem 0; font: inherit; border: 0; width: auto; }
div.preimage-card.preimage-card table tr { background: none; }
div.preimage-card.preimage-card table th, div.preimage-card.preimage-card table td { text-align: left; padding: .12rem 1.1rem .12rem 0; border: 0;
  border-bottom: 1px solid var(--line); vertical-align: top; white-space: normal; max-width: 34rem; overflow-wrap: break-word; color: inherit; }
div.preimage-card.preimage-card table th { font-weight: 600; }
div.preimage-card.preimage-card table.facts td:first-child { color: var(--soft); white-space: nowrap; }
div.preimage-card.preimage-card table .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
div.preimage-card.preimage-card table tr.total td { font-weight: 600; border-bottom: 0; }
.preimage-card pre { font: 12px/1.4 ui-monospace, Menlo, Consolas, monospace; margin: .3rem 0; padding: 0; background: none;
  color: inherit; white-space: pre; }
.preimage-card .pictures { display: flex; flex-wrap: wrap; gap: .8rem; margin: .4rem 0; }
.preimage-card figure { margin: 0; max-width: 100%; min-width: 9rem; } .preimage-card figcaption { color: var(--soft); font-size: 12px; }
.preimage-card img, .preimage-card svg { max-width: 100%; height: auto; } .preimage-card img.sharp { image-rendering: pixelated; }
.preimage-card summary { cursor: pointer; color: var(--soft); } .preimage-card .bad { color: #d1242f; } .preimage-card .ok { color: #2c8a43; }
.preimage-card svg.chart { width: 24rem; } .preimage-card .chart text { fill: var(--soft); font-size: 13px; }
.preimage-card .chart .grid { stroke: var(--line); } .preimage-card .chart .axis { stroke: var(--soft); }
</style>"""


def card(title: str, *body: str, note: str = "") -> str:
    """The frame: a title, a word beside it, and the parts (HTML)."""
    beside = f"<span>{escape(note)}</span>" if note else ""
    return f'<div class="preimage-card">{_STYLE}<div class="head">{escape(title)}{beside}</div>{"".join(body)}</div>'


def facts(rows: Sequence[tuple[str, object]]) -> str:
    """Names and values, one a line."""
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<div class="scroll"><table class="facts"><tbody>{lines}</tbody></table></div>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: int = 0, total: Sequence[object] | None = None
) -> str:
    """Rows under a head. numbers: how many of the last columns stand to the right. Long tables open with a click."""

    def cell(kind: str, value: object, column: int) -> str:
        right = ' class="n"' if column >= len(head) - numbers else ""
        return f"<{kind}{right}>{escape(value)}</{kind}>"

    def lines(part: Sequence[Sequence[object]]) -> str:
        return "".join("<tr>" + "".join(cell("td", v, c) for c, v in enumerate(row)) + "</tr>" for row in part)

    top = "<thead><tr>" + "".join(cell("th", h, c) for c, h in enumerate(head)) + "</tr></thead>"
    end = "" if total is None else '<tr class="total">' + "".join(cell("td", v, c) for c, v in enumerate(total)) + "</tr>"

    def whole(part: Sequence[Sequence[object]], last: str) -> str:
        return f'<div class="scroll"><table>{top}<tbody>{lines(part)}{last}</tbody></table></div>'

    if len(rows) <= 2 * ROWS:
        return whole(rows, end)
    left = len(rows) - MOST_ROWS
    cut = f'<p class="soft">{left:,} more rows are not shown.</p>' if left > 0 else ""
    return whole(rows[:ROWS], end) + more(f"all {len(rows):,} rows", whole(rows[:MOST_ROWS], end) + cut)


def block(text: str) -> str:
    """Text whose lines stay lines."""
    return "<pre>" + "\n".join(escape(line) for line in text.splitlines()) + "</pre>"


def more(title: str, body: str) -> str:
    """A part that opens with a click."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def pictures(parts: Sequence[str]) -> str:
    """Pictures beside one another."""
    return f'<div class="pictures">{"".join(parts)}</div>' if parts else ""


def drawing(make: Callable[[], Drawing]) -> str:
    """A drawing as SVG; nothing where the arrays are too large to draw."""
    try:
        return f'<div class="scroll">{make().svg()}</div>'
    except OptionError:
        return ""


def picture(pixels: NDArray[Any], caption: str, *, width: int | None = None, sharp: bool = False) -> str:
    """Bytes (H, W, 3) as a picture with its caption; width: in the page."""
    across = pixels.shape[1]
    shown = across if width is None else width
    style = ' class="sharp"' if sharp else ""
    tag = f'<img{style} src="data:image/png;base64,{b64encode(png(pixels)).decode()}" alt="{escape(caption)}" width="{shown}">'
    return f'<figure style="width:{shown}px">{tag}<figcaption>{escape(caption)}</figcaption></figure>'


def png(pixels: NDArray[Any]) -> bytes:
    """Bytes (H, W, 3) as a PNG file, without Pillow: a notebook may have NumPy alone."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = np.ascontiguousarray(pixels, np.uint8).reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")


def shape(sizes: Sequence[object]) -> str:
    """A shape in words: 1 x 3 x 5."""
    return " x ".join("?" if s is None else str(s) for s in sizes) or "scalar"


def count(number: float) -> str:
    """1234567 as '1.23 M'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g} "


#: The colours of values above and below zero, as in the pictures of layers.
ABOVE, BELOW, ZERO = (np.array(c, np.float64) for c in ((217, 100, 15), (31, 111, 155), (255, 255, 255)))
UNKNOWN = (142, 42, 139)
#: Pixels that a picture of an array has at most on its longer side, and the planes of it that are shown.
LONGEST, PLANES = 320, 8


def heat(values: NDArray[Any], caption: str) -> str:
    """An array (W) or (H, W) as a picture: orange above zero, blue below, purple where it is no number."""
    grid = np.atleast_2d(np.asarray(values, np.float64))
    cell = max(1, min(18, LONGEST // max(*grid.shape, 1)))
    return picture(_coloured(grid), caption, width=max(cell * grid.shape[1], 1), sharp=True)


def _coloured(grid: NDArray[Any]) -> NDArray[Any]:
    step = -(-max(grid.shape) // 1024)  # what is wider than any screen is thinned out
    grid = grid[::step, ::step]
    size = np.abs(grid)
    largest = size[np.isfinite(size)].max(initial=0.0)
    part = (
        np.nan_to_num(np.minimum(size / largest, 1.0) if largest else np.zeros_like(size), nan=0.0, posinf=1.0)[..., None] ** 0.8
    )
    colour = np.where((grid > 0)[..., None], ABOVE, BELOW)
    mixed = ZERO + part * (colour - ZERO)
    mixed[np.isnan(grid)] = UNKNOWN
    return np.asarray(np.rint(mixed).astype(np.uint8))


def planes(array: NDArray[Any], name: str) -> str:
    """The first planes of an array (..., H, W) side by side, as one picture under one scale."""
    values = np.asarray(array, np.float64)
    if not values.size or not values.ndim:
        return ""
    sizes = values.shape[-2:] if values.ndim > 3 else (1, values.shape[-1])
    stack = values.reshape(-1, *sizes)[:PLANES]
    gap = max(1, max(sizes) // 24)
    row = np.zeros((sizes[0], len(stack) * (sizes[1] + gap) - gap))
    for k, plane in enumerate(stack):
        row[:, k * (sizes[1] + gap) : k * (sizes[1] + gap) + sizes[1]] = plane
    of = values.size // max(1, sizes[0] * sizes[1])
    more_of = f", {len(stack)} of {of} planes" if of > len(stack) else ""
    return heat(row, f"{name} {shape(values.shape)}{more_of}")
