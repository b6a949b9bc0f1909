"""A net's picture as SVG, PNG, or text for graphviz."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

from preimage.caffe.draw_layout import Box, Edge, Picture
from preimage.errors import FileFormatError, OptionError
from preimage.host import html

__all__ = ["CHARACTER", "LINE", "as_dot", "as_png", "as_svg"]

#: Pixels of a character's width and of a line of text.
CHARACTER, LINE = 7.3, 15.0
_FONT = 12
_MAX_PIXELS = 60_000_000
_HEAD = 7.0  # an arrow's head


def _corners(box: Box) -> list[tuple[float, float]]:
    """The corners of a box's form, around its middle."""
    x, y, cut = box.width / 2, box.height / 2, 8.0 if box.shape == "octagon" else 0.0
    if not cut:
        return [(box.x - x, box.y - y), (box.x + x, box.y - y), (box.x + x, box.y + y), (box.x - x, box.y + y)]
    around = [
        (-x + cut, -y),
        (x - cut, -y),
        (x, -y + cut),
        (x, y - cut),
        (x - cut, y),
        (-x + cut, y),
        (-x, y - cut),
        (-x, -y + cut),
    ]
    return [(box.x + dx, box.y + dy) for dx, dy in around]


def _curve(points: list[tuple[float, float]], flat: bool) -> list[tuple[tuple[float, float], ...]]:
    """Cubic pieces through the points that leave and arrive along the direction of the net: (start, control, control, end)."""
    pieces: list[tuple[tuple[float, float], ...]] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        controls = ((middle[0], y0), (middle[0], y1)) if flat else ((x0, middle[1]), (x1, middle[1]))
        pieces.append(((x0, y0), *controls, (x1, y1)))
    return pieces


def _label_place(edge: Edge) -> tuple[float, float]:
    (x0, y0), (x1, y1) = edge.points[0], edge.points[1]
    return (x0 + x1) / 2, (y0 + y1) / 2 - 4


def as_svg(picture: Picture) -> bytes:
    """The picture as SVG, with a title for each box."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{picture.width:.0f}" height="{picture.height:.0f}" '
        f'viewBox="0 0 {picture.width:.1f} {picture.height:.1f}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{_FONT}" '
        'text-anchor="middle">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>',
        f'<rect width="{picture.width:.1f}" height="{picture.height:.1f}" fill="#fff"/>',
    ]
    flat = picture.direction in ("LR", "RL")
    for edge in picture.edges:
        (x, y), path = edge.points[0], ""
        for _, *rest in _curve(edge.points, flat):
            path += "C" + " ".join(f"{px:.1f} {py:.1f}" for px, py in rest)
        out.append(f'<path d="M{x:.1f} {y:.1f}{path}" fill="none" stroke="#333" marker-end="url(#head)"/>')
        if edge.label:
            x, y = _label_place(edge)
            out.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="10">{html(edge.label)}</text>')
    for box in picture.boxes:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in _corners(box))
        out.append(
            f'<g><title>{html(" ".join(box.lines))}</title><polygon points="{corners}" fill="{box.colour}" stroke="#333"/>'
        )
        top = box.y - (len(box.lines) - 1) * LINE / 2 + _FONT * 0.35
        out += [f'<text x="{box.x:.1f}" y="{top + k * LINE:.1f}">{html(line)}</text>' for k, line in enumerate(box.lines)]
        out.append("</g>")
    return "\n".join([*out, "</svg>", ""]).encode()


def as_png(picture: Picture) -> bytes:
    """The picture as PNG. Needs Pillow. Raises: OptionError for one that is too large, FileFormatError without Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise FileFormatError("PNG pictures need the package Pillow: pip install 'preimage[cli]'; svg needs nothing") from error
    size = (max(1, round(picture.width)), max(1, round(picture.height)))
    if size[0] * size[1] > _MAX_PIXELS:
        raise OptionError(f"the picture would have {size[0]} x {size[1]} pixels, more than {_MAX_PIXELS}; draw it as svg")
    image = Image.new("RGB", size, "#fff")
    pen = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(_FONT), ImageFont.load_default(10)
    flat = picture.direction in ("LR", "RL")
    for edge in picture.edges:
        points = [point for piece in _curve(edge.points, flat) for point in _sampled(piece)]
        pen.line(points, fill="#333")
        pen.polygon(_arrow(points[-1], flat, picture.direction), fill="#333")
        if edge.label:
            pen.text(_label_place(edge), edge.label, fill="#000", font=small, anchor="ms")
    for box in picture.boxes:
        pen.polygon(_corners(box), fill=box.colour, outline="#333")
        top = box.y - (len(box.lines) - 1) * LINE / 2
        for k, line in enumerate(box.lines):
            pen.text((box.x, top + k * LINE), line, fill="#000", font=font, anchor="mm")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _sampled(piece: tuple[tuple[float, float], ...], steps: int = 12) -> list[tuple[float, float]]:
    """Points along a cubic piece."""
    out = []
    for k in range(steps + 1):
        t = k / steps
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        out.append(
            (
                sum(w * p[0] for w, p in zip(weights, piece, strict=True)),
                sum(w * p[1] for w, p in zip(weights, piece, strict=True)),
            )
        )
    return out


def _arrow(tip: tuple[float, float], flat: bool, direction: str) -> list[tuple[float, float]]:
    x, y = tip
    back = _HEAD if direction in ("RL", "BT") else -_HEAD
    return [tip, (x + back, y - 3), (x + back, y + 3)] if flat else [tip, (x - 3, y + back), (x + 3, y + back)]


def as_dot(picture: Picture) -> bytes:
    """The net as text for graphviz, which places the boxes itself."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    lines: list[Any] = ["digraph net {", f"  rankdir={picture.direction};", "  node [style=filled];"]
    for k, box in enumerate(picture.boxes):
        lines.append(f"  n{k} [shape={box.shape}, fillcolor={quoted(box.colour)}, label={quoted(chr(10).join(box.lines))}];")
    for edge in picture.edges:
        lines.append(f"  n{edge.start} -> n{edge.end}" + (f" [label={quoted(edge.label)}];" if edge.label else ";"))
    return "\n".join([*lines, "}", ""]).encode("utf-8", "surrogateescape")
