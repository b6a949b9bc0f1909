"""The parts of a gather added up, and finished: of small maps, whose sums several blocks of threads share out among themselves.

    result[e] = epilogue(sum over the units of  parts[unit][e])      in the contract's order

A unit is a node of the sum: a group of blocks of terms. Parts lie as the result does.
"""

from __future__ import annotations

from typing import Any, ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.reduce_kernel import unit_sum
from preimage.engines.ir.arguments import Integer, Words
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.types import ELEMENT_BYTES
from preimage.records import record

__all__ = ["JoinArguments", "JoinSpec"]


class JoinArguments(EpilogueArguments):
    """input: the parts. closes: for every unit how many levels of sums end with it; channel: elements from a channel to the next."""

    closes: Words
    units: Integer
    count: Integer  # elements of the result
    channel: Integer
    channels: Integer


@record
class JoinSpec:
    """depth: levels of sums above the units. inner: as the parts are stored; element: as the result is."""

    depth: int
    inner: str
    element: str
    epilogue: EpilogueSpec

    arguments: ClassVar[type[Any]] = JoinArguments
    threads: ClassVar[int] = 128
    shared_bytes: ClassVar[int] = 0
    writes: ClassVar[tuple[str, ...]] = ("output",)

    @property
    def out(self) -> str:
        return self.element

    def ir(self, target: Target) -> str:
        f = GpuKernel(target, self)
        args = JoinArguments.read(f, self)
        count, channel = f.long_number("count"), f.long_number("channel")
        first = f.block(0).wide() * self.threads + f.thread_number.wide()
        with f.loop(first, count, f.grid.wide() * self.threads) as place:
            parts = args.pointer(args.fields["input"], self.inner).at(place.index)
            total = unit_sum(f, self.depth, args.closes, parts, f.long_number("units"), count)
            size = ELEMENT_BYTES[self.element]
            number = (place.index // channel % f.long_number("channels")).narrow()
            finish(f, self.epilogue, total, self.element, place.index * size, number, None, True, size)
        return f.module()
