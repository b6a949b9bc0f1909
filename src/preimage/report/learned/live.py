"""The part of the page that paints: the strokes, stencils and slow part as numbers, from which the page's script adds the picture up."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.host import html as escape
from preimage.learning import Painting, Strokes
from preimage.report.page import inline

__all__ = ["MOST_STROKES", "assets", "box", "paintable", "shared"]

Array = NDArray[Any]
#: What a page holds at most; pictures beyond that are shown as they grow stencil by stencil, as images.
MOST_STROKES, MOST_NUMBERS = 500_000, 6_000_000
#: Steps between two byte values in which the slow part is kept.
FINE = 15


def paintable(paintings: Sequence[Painting], stencils: tuple[int, ...]) -> set[int]:
    """The numbers of the paintings that the page can paint: those with strokes, as many as it may hold."""
    found: set[int] = set()
    strokes = numbers = 0
    for n, p in enumerate(paintings):
        if p.strokes is None or min(p.original.shape[1:]) < 2 * stencils[-1]:
            continue
        strokes, numbers = strokes + len(p.strokes), numbers + p.original.size
        if strokes > MOST_STROKES or numbers > MOST_NUMBERS:
            break
        found.add(n)
    return found


def assets() -> tuple[str, str]:
    """Style and script."""
    style, script = (files("preimage.report.learned").joinpath(f"live.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return style, script


def shared(stencils: Array, order: Array) -> str:
    """The stencils, once for the page, with their order of use."""
    data = {"shape": list(stencils.shape), "values": _packed(stencils, "<f4"), "order": [int(k) for k in order]}
    return f'<script type="application/json" id="live-stencils">{json.dumps(data)}</script>'


def box(p: Painting, number: int) -> str:
    """Canvas, controls and data of one picture."""
    assert p.strokes is not None
    channels, height, width = p.original.shape
    data = json.dumps({"shape": [channels, height, width], "slow": _fine(p.slow), "strokes": _strokes(p.strokes)})
    what = escape(f"{p.name} as it is painted; arrow keys move the frame")
    return (
        f'<div class="live" data-original="original-{number}"><script type="application/json">{data}</script>'
        f'<div class="easel"><div class="sheet"><canvas width="{width}" height="{height}" tabindex="0" role="img" aria-label="{what}">'
        '</canvas><div class="frame"></div><div class="brush" hidden></div></div>'
        '<div class="controls"><button type="button" class="paint">Paint</button>'
        '<input type="range" class="count" min="0" max="1000" value="0" aria-label="strokes painted">'
        '<button type="button" class="one" aria-label="one stroke more">+1</button></div>'
        '<div class="controls"><output class="count-text"></output><label class="order">order <select>'
        '<option value="strong">strongest strokes first</option><option value="stencil">stencil by stencil</option></select></label></div>'
        '<p class="stroke soft" aria-live="off"><canvas class="sharp"></canvas><span></span></p></div>'
        '<div class="place"><h3>One place</h3><p class="sum" aria-live="polite"></p><div class="terms"></div></div></div>'
    )


def _packed(values: Array, kind: str) -> str:
    return b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _strokes(s: Strokes) -> dict[str, Any]:
    columns = {"stencil": "<u2", "row": "<i2", "column": "<i2", "plane": "u1", "value": "<f4"}
    return {name: _packed(getattr(s, name), kind) for name, kind in columns.items()} | {"wraps": s.wraps}


def _fine(slow: Array) -> list[str]:
    """The slow part as two images: whole byte values, and the rest in FINE parts; bytes alone would show as bands in the sums."""
    scaled = np.clip(np.asarray(slow, np.float64), 0.0, 1.0) * 255.0
    whole = np.floor(scaled)
    rest = np.rint((scaled - whole) * FINE) * (255 // FINE)

    def pixels(planes: Array) -> Array:
        values = np.asarray(planes.astype(np.uint8))
        return values[0] if len(values) == 1 else np.ascontiguousarray(np.moveaxis(values, 0, -1))

    return [inline(pixels(whole)), inline(pixels(rest))]
