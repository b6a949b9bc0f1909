"""The parts of a weight gradient added up: an image's units in the contract's order, then the images by their tree; one rounding.

Every thread has weights of its own, whose parts no other thread reads or writes. The sums of images go back to the place of the image's
first part, and the tree adds image i + 2^k to image i there. What is left is rounded once, or stays for the tree of a larger batch.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import Int, Num, Ptr
from preimage.records import record

__all__ = ["ReduceArguments", "ReduceSpec", "unit_sum"]


class ReduceArguments(Arguments):
    """closes: for every unit how many levels of sums end with it; levels: of the tree of images."""

    parts: Elements = elements("inner")
    output: Elements = elements("out")
    closes: Words
    images: Integer
    units: Integer
    levels: Integer
    count: Integer  # weights


@record
class ReduceSpec:
    """depth: levels of sums above an image's units. out: as the result is stored."""

    depth: int
    inner: str
    out: str

    arguments: ClassVar[type[ReduceArguments]] = ReduceArguments
    threads: ClassVar[int] = 128
    shared_bytes: ClassVar[int] = 0
    writes: ClassVar[tuple[str, ...]] = ("output", "parts")

    def ir(self, target: Target) -> str:
        f = GpuKernel(target, self)
        args = ReduceArguments.read(f, self)
        count, units, images = f.long_number("count"), f.long_number("units"), f.long_number("images")
        first = f.block(0).wide() * self.threads + f.thread_number.wide()
        with f.loop(first, count, f.grid.wide() * self.threads) as weight:
            parts = args.parts.at(weight.index)
            image_parts = units * count
            with f.loop(0, images) as image:
                own = parts.at(image.index * image_parts)
                own.store(unit_sum(f, self.depth, args.closes, own, units, count))
            with f.loop(0, f.long_number("levels")) as level:
                near = f.i64(1) << level.index
                with f.loop(0, images - near, near + near) as left:
                    a, b = parts.at(left.index * image_parts), parts.at((left.index + near) * image_parts)
                    a.store(a.load() + b.load())
            args.output.at(weight.index).store(parts.load())
        return f.module()


def unit_sum(f: GpuKernel, depth: int, closes: Ptr, parts: Ptr, units: Int, count: Int) -> Num:
    """The sum of units that lie `count` numbers apart, with `depth` levels of sums above them; of a single unit +0 and that."""
    zero = f.zeros(parts.element, 1)
    if not depth:
        return parts.load() + zero
    with f.loop(0, units, carry=[zero] * depth) as unit:
        sums = list(unit.carry)
        sums[0] = sums[0] + parts.at(unit.index * count).load()
        if depth > 1:
            closed = closes.at(unit.index).load_int()
            for level in range(1, depth):
                with f.when(closed > level, sums[level - 1 : level + 1]) as ends:
                    inner, outer = ends.carry
                    ends.carry = [zero, outer + inner]
                sums[level - 1 : level + 1] = ends.result
        unit.carry = sums
    total: Num = unit.result[-1]
    return total
