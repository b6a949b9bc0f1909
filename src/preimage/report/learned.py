"""The results of `preimage learn` and `preimage rebuild` as one page and as PNG files. It reads results and computes none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from preimage.host import html as escape
from preimage.host import write_file
from preimage.io.pictures import write_picture
from preimage.learning import Painting, Progress
from preimage.report.chart import line_chart
from preimage.report.drawing import difference, glow, rgb, sheet, stencil_tile, stencil_tiles
from preimage.report.page import figure, image, inline, page, section, tiles

__all__ = ["LearnedReport", "render_learned", "write_pngs"]

Array = NDArray[Any]
#: Pictures that get a part of the page of their own; more would make it heavy.
SHOWN = 6


@dataclass(slots=True)
class LearnedReport:
    """Everything that the page shows: the stencils with their shares and order of use, the paintings, the curve, and facts."""

    title: str
    lead: str
    stencils: Array
    shares: Array
    order: Array
    paintings: list[Painting]
    curve: list[Progress]
    facts: list[tuple[str, str]]
    tiles: list[tuple[str, str]]
    given: dict[str, Array] = field(default_factory=dict)
    given_word: str = ""
    truth_known: bool = True


def render_learned(report: LearnedReport) -> str:
    """The page as text: one file that needs no other."""
    parts = [tiles(report.tiles)]
    shown = report.paintings[:SHOWN]
    for painting in shown:
        parts.append(_beside(painting, report))
    parts.append(_stencils(report))
    for painting in shown:
        parts.append(_painted(painting, report, len(shown) > 1))
        parts.append(_maps(painting, report, len(shown) > 1))
    if len(report.curve) > 1:
        parts.append(_curves(report.curve))
    facts = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in report.facts)
    more = "" if len(report.paintings) == len(shown) else f" Of {len(report.paintings)} pictures the first {SHOWN} are shown."
    parts.append(
        section(
            "How it was made", f"All numbers are in <code>metrics.json</code> beside this page.{more}", f"<table>{facts}</table>"
        )
    )
    return page(report.title, report.lead, "\n".join(parts))


def _beside(p: Painting, report: LearnedReport) -> str:
    original, rebuilt = rgb(p.original), rgb(p.rebuilt)
    given = report.given.get(p.name)
    first, word = (original, "the original") if given is None else (rgb(given), report.given_word)
    against = "" if report.truth_known else " against the picture given"
    cells = [
        figure(image(first, word), f"{escape(word[:1].upper() + word[1:])}."),
        figure(
            image(rebuilt, "rebuilt from stencils"),
            f"Rebuilt: {p.psnr:.2f} dB{against}, {p.nonzeros_per_pixel:.3f} activations per pixel.",
        ),
        figure(_compare(first, word, rebuilt), f"Slide: {escape(word)} on the left, rebuilt on the right."),
    ]
    if report.truth_known:
        missing = image(difference(p.original, p.rebuilt), "difference", "JPEG")
        cells.append(figure(missing, "Original minus rebuilt, 8 times as strong, around grey."))
    height, width = p.original.shape[-2:]
    kind = "colour" if len(p.original) == 3 else "grey"
    lead = f"{width} x {height} pixels, {kind}. The rebuilt picture is its slowly varying part plus every activation times its stencil."
    return section(p.name, lead, f'<div class="pairs">{"".join(cells)}</div>')


def _compare(first: Array, word: str, rebuilt: Array) -> str:
    return (
        f'<div class="compare">{image(rebuilt, "rebuilt")}<div class="top">{image(first, word)}</div>'
        '<input type="range" min="0" max="100" value="50" aria-label="slide between the two"><div class="bar"></div></div>'
    )


def _stencils(report: LearnedReport) -> str:
    size = report.stencils.shape[-1]
    cells = []
    for k in report.order:
        tile = image(stencil_tile(report.stencils[k]), f"stencil {k}", css="sharp")
        cells.append(
            f'<figure title="stencil {k}: {report.shares[k]:.2%} of all activation">{tile}<figcaption>{report.shares[k]:.1%}</figcaption></figure>'
        )
    text = (
        f"{len(report.stencils)} stencils of {size} x {size} pixels, the most used first, with their share of all activation."
        " Mid-grey is zero; black and white are the two signs."
    )
    return section("The stencils", text, f'<div class="stencils">{"".join(cells)}</div>')


def _painted(p: Painting, report: LearnedReport, named: bool) -> str:
    frames = [[inline(rgb(f.picture), "JPEG"), _frame_text(f.count, f.psnr)] for f in p.frames]
    data = json.dumps(frames).replace("<", "\\u003c")
    box = (
        f'<div class="painter"><script type="application/json">{data}</script>'
        f'<img src="{frames[-1][0]}" alt="the picture as it is painted" width="{p.original.shape[-1]}" height="{p.original.shape[-2]}"'
        f' style="height:auto"><div class="controls"><button type="button">Paint</button><input type="range" min="0" '
        f'max="{len(frames) - 1}" value="{len(frames) - 1}" aria-label="stencils painted"><output>{frames[-1][1]}</output></div></div>'
    )
    chart = line_chart(
        [f.count for f in p.frames],
        [("PSNR", [f.psnr for f in p.frames], "var(--accent)")],
        x_label="stencils painted",
        y_label="PSNR, dB",
    )
    title = f"{p.name}, painted stencil by stencil" if named else "Painted stencil by stencil"
    text = "From the slowly varying part alone to all stencils, the most used first."
    cells = f'<div class="row">{box}<div><div class="card">{chart}</div><p class="soft">PSNR in dB against the original.</p></div></div>'
    return section(title, text, cells)


def _frame_text(count: int, psnr: float) -> str:
    what = "slow part alone" if count == 0 else f"{count} stencil{'s' if count > 1 else ''}"
    return f"{what}: {psnr:.2f} dB"


def _maps(p: Painting, report: LearnedReport, named: bool) -> str:
    cells = []
    for k, activations in p.maps:
        key = image(stencil_tile(report.stencils[k]), f"stencil {k}", css="sharp key")
        cells.append(
            figure(
                image(glow(activations, p.slow), f"where stencil {k} stands", "JPEG") + key,
                f"stencil {k}, {report.shares[k]:.1%} of all activation",
            )
        )
    title = f"{p.name}, strongest activations" if named else "The strongest activation maps"
    text = (
        "Where each of the most used stencils stands, over the dimmed slow part: orange where it is added, blue where it is taken"
        " away, brighter where stronger."
    )
    return section(title, text, f'<div class="maps">{"".join(cells)}</div>')


def _curves(curve: Sequence[Progress]) -> str:
    seconds = [p.seconds for p in curve]
    charts = [
        ("Objective", [p.objective for p in curve], "var(--accent)", True),
        ("PSNR, dB", [p.psnr for p in curve], "var(--second)", False),
        ("Non-zero activations per pixel", [p.nonzeros_per_pixel for p in curve], "var(--third)", True),
    ]
    cells = []
    for name, values, colour, log in charts:
        chart = line_chart(seconds, [(name, values, colour)], x_label="seconds", y_label=name, log=log and min(values) > 0)
        cells.append(figure(f'<div class="card">{chart}</div>', escape(name)))
    text = (
        "The objective is half the squared error plus the sparsity weight times the sum of all activations. The weight starts high"
        " and falls to the value asked for, so the first part of the curve measures activations that are meant to be few."
    )
    return section("The run over time", text, f'<div class="row">{"".join(cells)}</div>')


def write_pngs(report: LearnedReport, folder: Path) -> list[str]:
    """The page's pictures as PNG files in the folder; their names."""
    written = []

    def write(name: str, pixels: Array) -> None:
        write_picture(folder / name, pixels)
        written.append(name)

    write("stencils.png", stencil_tiles(report.stencils[report.order]))
    names: set[str] = set()
    for p in report.paintings:
        stem = "" if len(report.paintings) == 1 else f"{_unique(p.name, names)}-"
        write(f"{stem}original.png", rgb(p.original))
        write(f"{stem}rebuilt.png", rgb(p.rebuilt))
        if report.truth_known:
            write(f"{stem}difference.png", difference(p.original, p.rebuilt))
        if p.name in report.given:
            write(f"{stem}given.png", rgb(report.given[p.name]))
        write(f"{stem}painted.png", sheet([rgb(f.picture) for f in p.frames], columns=4))
        write(f"{stem}activations.png", sheet([glow(a, p.slow) for _, a in p.maps], columns=4))
    if len(report.curve) > 1:
        _curve_png(report.curve, folder / "objective.png")
        written.append("objective.png")
    return written


def _unique(name: str, taken: set[str]) -> str:
    """A name for files: letters, digits and dashes, each once."""
    base = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60] or "picture"
    result, n = base, 2
    while result in taken:
        result, n = f"{base}-{n}", n + 1
    taken.add(result)
    return result


def _curve_png(curve: Sequence[Progress], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = [p.seconds for p in curve]
    drawing = Figure(figsize=(9, 3.2), layout="constrained", dpi=130)
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, 3)
    rows = [
        ("objective", [p.objective for p in curve], "#c4560a", True),
        ("PSNR, dB", [p.psnr for p in curve], "#1f6f8b", False),
        ("non-zeros per pixel", [p.nonzeros_per_pixel for p in curve], "#5b7f2b", True),
    ]
    for ax, (name, values, colour, log) in zip(axes, rows, strict=True):
        ax.plot(seconds, values, color=colour, lw=1.8)
        ax.set(xlabel="seconds", title=name)
        if log and min(values) > 0:
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    write_file(path, lambda file: drawing.savefig(file, format="png"))
