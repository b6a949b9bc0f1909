"""The results of `preimage learn` and `preimage rebuild` as one page and as PNG files. It reads results and computes none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from preimage.host import html as escape
from preimage.learning import Painting, Progress
from preimage.report.chart import line_chart
from preimage.report.images import difference, glow, rgb, stencil_tile
from preimage.report.learned.files import write_pngs
from preimage.report.learned.live import assets, box, paintable, shared
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
    for number, painting in enumerate(shown):
        parts.append(_beside(painting, number, report))
    parts.append(_stencils(report))
    moving = paintable(shown, report.stencils.shape)
    if moving:
        parts.append(shared(report.stencils, report.order))
    for painting in shown:
        number, named = report.paintings.index(painting), len(shown) > 1
        parts.append(_stroked(painting, number, named) if number in moving else _painted(painting, report, named))
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
    style, script = assets() if moving else ("", "")
    return page(report.title, report.lead, "\n".join(parts), style=style, script=script)


def _beside(p: Painting, number: int, report: LearnedReport) -> str:
    original, rebuilt = rgb(p.original), rgb(p.rebuilt)
    given = report.given.get(p.name)
    first, word = (original, "the original") if given is None else (rgb(given), report.given_word)
    against = "" if report.truth_known else " against the picture given"
    cells = [
        figure(
            image(first, word, name="" if given is not None else f"original-{number}"), f"{escape(word[:1].upper() + word[1:])}."
        ),
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


def _stroked(p: Painting, number: int, named: bool) -> str:
    title = f"{p.name}, painted stroke by stroke" if named else "Painted stroke by stroke"
    text = (
        "It begins with the slowly varying part. Every activation is one stroke: its number times its stencil, added where it stands."
        " Touch the picture, or move the frame with the arrow keys, to see what one place is the sum of."
    )
    return section(title, text, box(p, number))


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
