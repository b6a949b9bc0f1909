"""A frame as SVG: plain shapes and text, nothing that depends on the day, the machine or a font file."""

from __future__ import annotations

from html import escape

from preimage.report.draw.scene import PAPER, Item, Label, Path, Rect, Scene

__all__ = ["svg"]

#: The first is the font of the PNG and GIF, the others are as wide.
FONTS = "DejaVu Sans, Verdana, Geneva, sans-serif"


def svg(scene: Scene) -> str:
    """The file's text."""
    size = f"{scene.width} {scene.height}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{scene.width}" height="{scene.height}" role="img"'
        f' font-family="{FONTS}">\n<title>{escape(scene.alt, quote=False)}</title>\n'
        f'<rect width="{scene.width}" height="{scene.height}" rx="10" fill="{PAPER}"/>\n'
    )
    return head + "".join(_item(item) + "\n" for item in scene.items) + "</svg>\n"


def _item(item: Item) -> str:
    if isinstance(item, Rect):
        radius = f' rx="{_n(item.radius)}"' if item.radius else ""
        where = f'x="{_n(item.x)}" y="{_n(item.y)}" width="{_n(item.width)}" height="{_n(item.height)}"'
        return f'<rect {where}{radius} fill="{item.fill or "none"}"{_stroke(item.stroke, item.line, item.dashed)}/>'
    if isinstance(item, Path):
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in item.points)
        drawn = f'<polyline points="{points}" fill="none"{_stroke(item.stroke, item.line, item.dashed)}/>'
        if item.arrow:
            head = " ".join(f"{_n(x)},{_n(y)}" for x, y in arrow_head(item))
            drawn += f'<polygon points="{head}" fill="{item.stroke}"/>'
        return drawn
    return _label(item)


def _label(item: Label) -> str:
    anchor = "" if item.anchor == "start" else f' text-anchor="{item.anchor}"'
    weight = ' font-weight="bold"' if item.bold else ""
    place = f'x="{_n(item.x)}" y="{_n(item.y + 0.36 * item.size)}" font-size="{_n(item.size)}"'
    return f'<text {place} fill="{item.fill}"{anchor}{weight} xml:space="preserve">{escape(item.text, quote=False)}</text>'


def arrow_head(path: Path) -> tuple[tuple[float, float], ...]:
    """The corners of the head at the end of a path."""
    (ax, ay), (bx, by) = path.points[-2:]
    length = max(((bx - ax) ** 2 + (by - ay) ** 2) ** 0.5, 1e-9)
    ux, uy = (bx - ax) / length, (by - ay) / length
    size = 5 + 2 * path.line
    back = bx - size * ux, by - size * uy
    side = -uy * size * 0.45, ux * size * 0.45
    return (bx, by), (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1])


def _stroke(colour: str, line: float, dashed: bool) -> str:
    if not colour:
        return ""
    return f' stroke="{colour}" stroke-width="{_n(line)}"' + (' stroke-dasharray="3 3"' if dashed else "")


def _n(value: float) -> str:
    """A coordinate in hundredths, without zeros at its end."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value else "0"
