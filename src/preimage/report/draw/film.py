"""A drawing: frames of one size, one of which stands for all in a still picture; as SVG, PNG, GIF or animated PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preimage.errors import OptionError
from preimage.host import write_file
from preimage.report.draw import raster
from preimage.report.draw.scene import Item, Label, Rect, Scene
from preimage.report.draw.scene import Path as Lines
from preimage.report.draw.svg import svg

__all__ = ["ENDINGS", "MOST_FRAMES", "Drawing", "beside", "spread", "stacked"]

ENDINGS = (".svg", ".png", ".apng", ".gif")
#: Longer courses are thinned out evenly.
MOST_FRAMES = 100


@dataclass(frozen=True, repr=False)
class Drawing:
    """Frames and how long each stays. still: the frame that SVG and PNG show where none is asked for."""

    frames: tuple[Scene, ...]
    still: int = -1
    seconds: float = 0.5
    last_seconds: float = 2.0

    def __post_init__(self) -> None:
        width, height = max(f.width for f in self.frames), max(f.height for f in self.frames)
        object.__setattr__(self, "frames", tuple(replace(f, width=width, height=height) for f in self.frames))

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        scene = self.frame()
        return f"Drawing({len(self)} frame{'s' * (len(self) != 1)} of {scene.width} x {scene.height}: {scene.alt})"

    def frame(self, number: int | None = None) -> Scene:
        """One frame, from 0; negative numbers count from the end. Raises: OptionError for a frame that is not there."""
        number = self.still if number is None else number
        if not -len(self) <= number < len(self):
            raise OptionError(f"frame {number} is not there: the drawing has {len(self)}, 0 to {len(self) - 1}")
        return self.frames[number]

    def svg(self, frame: int | None = None) -> str:
        """One frame as SVG."""
        return svg(self.frame(frame))

    def png(self, frame: int | None = None, scale: int = 2) -> bytes:
        """One frame as PNG, `scale` pixels for each unit of the SVG."""
        return raster.png(self.frame(frame), scale)

    def gif(self, scale: int = 1) -> bytes:
        """All frames as a GIF that repeats."""
        return raster.gif(self.frames, self._durations(), scale)

    def apng(self, scale: int = 2) -> bytes:
        """All frames as an animated PNG that repeats."""
        return raster.apng(self.frames, self._durations(), scale)

    def encoded(self, ending: str, frame: int | None = None, scale: int | None = None) -> bytes:
        """The bytes of a file of that kind.

        Raises: OptionError for another ending, a frame that is not there or one of a moving picture, a scale outside 1 to 8.
        """
        if ending not in ENDINGS:
            raise OptionError(f"pictures are written as {', '.join(ENDINGS)}, got {ending or 'no ending'!r}")
        if frame is not None and ending in (".gif", ".apng"):
            raise OptionError(f"{ending} holds all frames; one frame goes into .svg or .png")
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale <= 8):
            raise OptionError(f"scale must be a whole number from 1 to 8, got {scale!r}")
        if ending == ".svg":
            return self.svg(frame).encode()
        if ending == ".png":
            return self.png(frame, scale or 2)
        return self.gif(scale or 1) if ending == ".gif" else self.apng(scale or 2)

    def write(self, path: str | Path, *, frame: int | None = None, scale: int | None = None, overwrite: bool = True) -> Path:
        """Write a file of the kind that its ending says: .svg and .png one frame, .gif and .apng all.

        Raises: OptionError as `encoded`; OutputError where it cannot be written.
        """
        place = Path(path)
        write_file(place, self.encoded(place.suffix.lower(), frame, scale), overwrite=overwrite)
        return place

    def _durations(self) -> list[float]:
        return [self.seconds] * (len(self) - 1) + [self.last_seconds]

    def _repr_svg_(self) -> str:
        return self.svg()


def spread(steps: Sequence[Any], most: int = MOST_FRAMES) -> list[Any]:
    """At most so many of the steps, evenly, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(k * (len(steps) - 1) / (most - 1))] for k in range(most)]


def stacked(scenes: Sequence[Scene], gap: int = 0) -> Scene:
    """Scenes below one another as one."""
    tops = [sum(s.height + gap for s in scenes[:k]) for k in range(len(scenes))]
    items = tuple(_moved(item, 0, top) for s, top in zip(scenes, tops, strict=True) for item in s.items)
    height = sum(s.height for s in scenes) + gap * (len(scenes) - 1)
    return Scene(max(s.width for s in scenes), height, items, "; ".join(s.alt for s in scenes))


def beside(scenes: Sequence[Scene], gap: int = 0) -> Scene:
    """Scenes in a row as one."""
    lefts = [sum(s.width + gap for s in scenes[:k]) for k in range(len(scenes))]
    items = tuple(_moved(item, left, 0) for s, left in zip(scenes, lefts, strict=True) for item in s.items)
    width = sum(s.width for s in scenes) + gap * (len(scenes) - 1)
    return Scene(width, max(s.height for s in scenes), items, "; ".join(s.alt for s in scenes))


def _moved(item: Item, x: float, y: float) -> Item:
    if not x and not y:
        return item
    if isinstance(item, Lines):
        return replace(item, points=tuple((a + x, b + y) for a, b in item.points))
    made: Callable[..., Rect | Label] = replace
    return made(item, x=item.x + x, y=item.y + y)
