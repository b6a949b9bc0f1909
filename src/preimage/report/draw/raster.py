"""Frames as pixels, through Pillow: PNG, animated PNG, GIF. Text in the DejaVu Sans that matplotlib brings, so in the same pixels everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from typing import Any

from preimage.report.draw.scene import PAPER, Label, Path, Rect, Scene
from preimage.report.draw.svg import arrow_head

__all__ = ["apng", "gif", "png"]

#: Drawn so many times larger and averaged: smooth edges, in integers.
FINER = 3
DASH = 3.0


def png(scene: Scene, scale: int = 2) -> bytes:
    """One frame; `scale` pixels for each unit of the scene."""
    return _encoded(_pixels(scene, scale), "PNG", optimize=True)


def apng(scenes: Sequence[Scene], seconds: Sequence[float], scale: int = 2) -> bytes:
    """An animated PNG that repeats."""
    first, *rest = (_pixels(s, scale) for s in scenes)
    return _encoded(first, "PNG", save_all=True, append_images=rest, duration=_milliseconds(seconds), loop=0)


def gif(scenes: Sequence[Scene], seconds: Sequence[float], scale: int = 1) -> bytes:
    """A GIF that repeats, with one palette for all frames."""
    from PIL import Image

    frames = [_pixels(s, scale) for s in scenes]
    sample = Image.new("RGB", (frames[0].width, frames[0].height * 2))  # colours of the whole course, in two frames
    sample.paste(frames[len(frames) // 2], (0, 0))
    sample.paste(frames[-1], (0, frames[0].height))
    palette = sample.quantize(128, method=Image.Quantize.MEDIANCUT)
    first, *rest = (f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames)
    return _encoded(
        first, "GIF", save_all=True, append_images=rest, duration=_milliseconds(seconds), loop=0, optimize=False, disposal=1
    )


def _milliseconds(seconds: Sequence[float]) -> list[int]:
    return [10 * round(100 * s) for s in seconds]  # a GIF counts in hundredths


def _encoded(image: Any, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def _font(size: int, bold: bool) -> Any:
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size, layout_engine=ImageFont.Layout.BASIC)


def _pixels(scene: Scene, scale: int) -> Any:
    from PIL import Image, ImageDraw

    k = FINER * scale
    image = Image.new("RGB", (scene.width * k, scene.height * k), PAPER)
    pen = ImageDraw.Draw(image)
    for item in scene.items:
        if isinstance(item, Rect):
            _rect(pen, item, k)
        elif isinstance(item, Path):
            _path(pen, item, k)
        else:
            _label(pen, item, k)
    return image.reduce(FINER)


def _rect(pen: Any, item: Rect, k: int) -> None:
    box = [round(v * k) for v in (item.x, item.y, item.x + item.width, item.y + item.height)]
    inner = (box[0], box[1], max(box[2] - 1, box[0]), max(box[3] - 1, box[1]))
    if item.fill:
        pen.rounded_rectangle(inner, radius=round(item.radius * k), fill=item.fill)
    if not item.stroke:
        return
    line, half = max(1, round(item.line * k)), round(item.line * k / 2)
    if item.dashed:
        corners = (
            (item.x, item.y),
            (item.x + item.width, item.y),
            (item.x + item.width, item.y + item.height),
            (item.x, item.y + item.height),
        )
        _path(pen, Path((*corners, corners[0]), item.stroke, item.line, dashed=True), k)
    else:  # the line lies half outside, as in SVG
        outer = (inner[0] - half, inner[1] - half, inner[2] + half, inner[3] + half)
        pen.rounded_rectangle(outer, radius=round(item.radius * k), outline=item.stroke, width=line)


def _path(pen: Any, item: Path, k: int) -> None:
    line = max(1, round(item.line * k))
    for a, b in _pieces(item):
        pen.line([(a[0] * k, a[1] * k), (b[0] * k, b[1] * k)], fill=item.stroke, width=line)
    if not item.dashed and len(item.points) > 2:
        r = line / 2
        for x, y in item.points[1:-1]:
            pen.ellipse((x * k - r, y * k - r, x * k + r, y * k + r), fill=item.stroke)
    if item.arrow:
        pen.polygon([(x * k, y * k) for x, y in arrow_head(item)], fill=item.stroke)


def _pieces(item: Path) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """The straight pieces to draw: all of a line, or its dashes."""
    for a, b in zip(item.points, item.points[1:], strict=False):
        length = ((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2) ** 0.5
        if not item.dashed or length < DASH:
            yield a, b
            continue
        at = 0.0
        while at < length:
            s, e = at / length, min(at + DASH, length) / length
            yield (
                (a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1])),
                (a[0] + e * (b[0] - a[0]), a[1] + e * (b[1] - a[1])),
            )
            at += 2 * DASH


def _label(pen: Any, item: Label, k: int) -> None:
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[item.anchor]
    place = item.x * k, (item.y + 0.36 * item.size) * k
    pen.text(place, item.text, fill=item.fill, font=_font(round(item.size * k), item.bold), anchor=anchor)
