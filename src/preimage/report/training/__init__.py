"""The results of `preimage train` as one page and a picture of its curves. It reads results and computes none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.host import html as escape
from preimage.host import write_file
from preimage.report.chart import line_chart
from preimage.report.images import rgb, sheet, stencil_tiles
from preimage.report.page import figure, image, page, section, tiles

__all__ = ["TrainingReport", "curves", "render_training", "write_curves"]

Array = NDArray[Any]
#: Points of a curve on the page; longer ones are thinned out.
MOST_POINTS = 600
COLOURS = ("var(--accent)", "var(--second)", "var(--third)")
INKS = ("#c4560a", "#1f6f8b", "#5b7f2b")


@dataclass(slots=True)
class TrainingReport:
    """What the page shows: the journal's entries, facts, large numbers, the first layer's stencils, pictures of the net's work."""

    title: str
    lead: str
    entries: Sequence[dict[str, Any]]
    facts: list[tuple[str, str]]
    tiles: list[tuple[str, str]]
    stencils: Array | None = None
    pictures: dict[str, Array] = field(default_factory=dict)


def curves(entries: Sequence[dict[str, Any]]) -> list[tuple[str, list[float], list[float], bool]]:
    """(name, steps, values, log axis) of what a run measured, each thinned out to MOST_POINTS by means: loss, rate, tests."""
    measured = dict.fromkeys(k for e in entries for k in e)
    names = [k for k in ("loss", *(k for k in measured if k.startswith("test ")), "lr") if k in measured]
    found = []
    for name in names:
        points = [(float(e["step"]), float(e[name])) for e in entries if name in e and math.isfinite(e[name])]
        if len(points) < 2:
            continue
        if len(points) > MOST_POINTS:
            parts = np.array_split(np.asarray(points), MOST_POINTS)
            points = [(float(p[-1, 0]), float(p[:, 1].mean())) for p in parts]
        steps, values = [p[0] for p in points], [p[1] for p in points]
        if name == "lr" and min(values) == max(values):
            continue
        log = ("loss" in name or name == "lr") and min(values) > 0 and max(values) > 4 * min(values)
        found.append((name, steps, values, log))
    return found


def render_training(report: TrainingReport) -> str:
    """The page as text: one file that needs no other."""
    parts = [tiles(report.tiles)]
    cells = []
    for number, (name, steps, values, log) in enumerate(curves(report.entries)):
        chart = line_chart(steps, [(name, values, COLOURS[number % 3])], x_label="steps", y_label=name, log=log)
        cells.append(figure(f'<div class="card">{chart}</div>', escape(_titled(name))))
    if cells:
        text = "Each point of the loss is the mean of the steps since the last one; the tests are on data that the net does not learn from."
        parts.append(section("The run over time", text, f'<div class="row">{"".join(cells)}</div>'))
    for title, pixels in report.pictures.items():
        parts.append(section(title, "", image(_sheet(pixels), title, css="sharp")))
    if report.stencils is not None:
        text = f"{len(report.stencils)} stencils, as they were learned. Mid-grey is zero; black and white are the two signs."
        parts.append(
            section(
                "Stencils of the first layer", text, image(stencil_tiles(report.stencils[:64], scale=10), "stencils", css="sharp")
            )
        )
    facts = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in report.facts)
    note = "Every step's numbers are in <code>metrics.jsonl</code> beside this page."
    parts.append(section("How it was made", note, f"<table>{facts}</table>"))
    return page(report.title, report.lead, "\n".join(parts))


def _titled(name: str) -> str:
    words = {"loss": "Loss", "lr": "Learning rate"}
    return words.get(name, name[:1].upper() + name[1:])


def _sheet(pixels: Array) -> Array:
    """One picture, or several on a sheet, enlarged where they are small."""
    if pixels.dtype == np.uint8:
        return pixels
    several = pixels if pixels.ndim == 4 else pixels[None]
    scale = max(1, (96 if len(several) > 1 else 720) // max(several.shape[-2:]))
    shown = [rgb(p.astype(np.float32)).repeat(scale, axis=0).repeat(scale, axis=1) for p in several]
    return sheet(shown, max(1, math.ceil(len(shown) ** 0.5))) if len(shown) > 1 else shown[0]


def write_curves(entries: Sequence[dict[str, Any]], path: Path) -> bool:
    """The curves as a PNG file; False where there are none yet."""
    found = curves(entries)
    if not found:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.5 * len(found), 3.4), layout="constrained", dpi=130)
    FigureCanvasAgg(drawing)
    for number, ((name, steps, values, log), ax) in enumerate(
        zip(found, np.atleast_1d(drawing.subplots(1, len(found))), strict=True)
    ):
        ax.plot(steps, values, color=INKS[number % 3], lw=1.6)
        ax.set(xlabel="steps", title=_titled(name))
        if log:
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    write_file(path, lambda file: drawing.savefig(file, format="png"))
    return True
