"""What a frame is made of: rectangles, lines and words with places and colours. One frame, two writers (svg.py, raster.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = [
    "INK", "LINE", "NEGATIVE", "PAPER", "POSITIVE", "SOFT", "TONES", "WHITE", "Item", "Label", "Path", "Rect", "Scene", "mix", "width_of",
]  # fmt: skip

#: The colours of every picture. The card is always light: a picture on GitHub cannot know in which scheme it is seen.
PAPER, WHITE, INK, SOFT, LINE = "#faf9f6", "#ffffff", "#1d1d1b", "#6b6a64", "#d5d2c8"
#: Values above and below zero; blue and orange can be told apart by the colour-blind.
POSITIVE, NEGATIVE = "#d9640f", "#1f6f9b"
#: For categories and has no sign: taps, groups.
TONES = (POSITIVE, "#1f6f9b", "#5b7f2b", "#8e2a8b", "#b8860b", "#2a8b86")
#: How wide the letters of DejaVu Sans are at most, in units of their size; those not listed, 1.
_WIDTHS = {
    letter: width
    for width, letters in (
        (0.32, "'ijlIJ ,.·"), (0.41, "/:;\\|f-ᵀ()[]t!r"), (0.55, '"*_`°sz?c'), (0.62, "LFkvxyPTYaoe"),
        (0.65, "ESbdghnpqu$0123456789{}K"), (0.7, "AVBRXZC"), (0.79, "UHNDG&OQ"), (0.86, "w∞#+<=>^~−×→M"),
    )
    for letter in letters
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; `fill` or `stroke` may be empty."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    stroke: str = ""
    line: float = 1.0
    dashed: bool = False
    radius: float = 0.0


@dataclass(frozen=True, slots=True)
class Path:
    """Straight lines from point to point; with an arrow head at the end where `arrow` is set."""

    points: tuple[tuple[float, float], ...]
    stroke: str = LINE
    line: float = 1.0
    dashed: bool = False
    arrow: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """A line of text; y is the middle of its height. anchor: start, middle or end."""

    x: float
    y: float
    text: str
    size: float = 13.0
    fill: str = INK
    anchor: str = "start"
    bold: bool = False


Item = Rect | Path | Label


@dataclass(frozen=True, slots=True)
class Scene:
    """One frame. alt: what it shows, in words, for those who do not see it."""

    width: int
    height: int
    items: tuple[Item, ...]
    alt: str


@lru_cache(maxsize=4096)
def mix(a: str, b: str, part: float) -> str:
    """A colour on the way from a (part 0) to b (part 1)."""
    first, second = (tuple(int(c[k : k + 2], 16) for k in (1, 3, 5)) for c in (a, b))
    part = min(max(part, 0.0), 1.0)
    return "#" + "".join(f"{round(p + part * (q - p)):02x}" for p, q in zip(first, second, strict=True))


def width_of(text: str, size: float, bold: bool = False) -> float:
    """About how wide a line of text is; a little room is left for fonts that are wider."""
    return sum(_WIDTHS.get(letter, 1.0) for letter in text) * size * (1.14 if bold else 1.02)
