"""Where a thread's results lie: the positions of one phase of a gather, numbered over all images, and their places in memory."""

from __future__ import annotations

from typing import Any

from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.ir.builder import Int, Int32, Ptr

__all__ = ["Positions"]


class Positions:
    """Of one phase (tables.py). args: those of the gather's arguments."""

    def __init__(self, f: GpuKernel, args: Any, ndim: int, phase: Any) -> None:
        self.f, self.args, self.ndim, self.phase = f, args, ndim, phase
        self.counts = [getattr(phase, f"count_{k}").narrow() for k in range(ndim)]
        self.starts = [getattr(phase, f"start_{k}").narrow() for k in range(ndim)]
        self.plane = self.counts[0]
        for count in self.counts[1:]:
            self.plane = self.plane * count
        self.total = f.number("batch") * self.plane

    def axis(self, word: str) -> list[Int32]:
        return [self.f.number(f"{word}_{k}") for k in range(self.ndim)]

    def place(self, position: Int32) -> tuple[Int32, list[Int32]]:
        """Image, and index along every axis, of a position."""
        image = position // self.plane
        rest, found = position - image * self.plane, []
        for count in reversed(self.counts[1:]):
            above = rest // count
            found.append(rest - above * count)
            rest = above
        return image, [rest, *reversed(found)]

    def source(self, position: Int32) -> tuple[Ptr, list[Int32]]:
        """The image that a position reads, and where its window begins along every axis."""
        image, index = self.place(position)
        origin = [i * step for i, step in zip(index, self.axis("in_step"), strict=True)]
        return self.args.input.at(image.wide() * self.f.long_number("in_image")), origin

    def under(self, item: Any, origin: list[Int32]) -> tuple[list[Any], Int32]:
        """Whether a window's element under an item lies inside along every axis, and how many elements into the image's channel."""
        inside, offset = [], self.f.i32(0)
        for k, (size, stride) in enumerate(zip(self.axis("in_size"), self.axis("in_stride"), strict=True)):
            at = origin[k] + getattr(item, f"shift_{k}").narrow()
            inside.append(at.below(size))
            offset = offset + at * stride
        return inside, offset

    def result(self, position: Int32) -> Int:
        """Elements from the result's begin to a position, of its first channel."""
        image, index = self.place(position)
        at: Int = self.phase.unit * self.f.long_number("part") + image.wide() * self.f.long_number("out_image")
        for i, step, start, stride in zip(index, self.axis("out_step"), self.starts, self.axis("out_stride"), strict=True):
            at = at + ((i * step + start) * stride).wide()
        return at
