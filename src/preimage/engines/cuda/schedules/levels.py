"""The sums above the blocks: memory of each thread in which they wait, in the contract's order (docs/contract.md).

A block's sums are registers. When a block ends they are added to the group's; when that ends too, the group's to those of its
group; and so on. The sums of the first `in_shared` levels lie in shared memory, the others in global memory. Every thread has places of
its own there, so no barrier is needed; they lie so that the threads of a warp read and write neighbouring places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.ir.builder import Int32, Num, Ptr

__all__ = ["LevelSums", "closed_sums"]


@dataclass(frozen=True)
class LevelSums:
    """count: sums of a thread, a multiple of `lanes`; depth: levels above the blocks."""

    f: GpuKernel
    depth: int
    count: int
    lanes: int
    dtype: str
    in_shared: int
    shared: Ptr
    memory: Ptr

    def _place(self, level: int, number: int) -> Ptr:
        """Of the sums number * lanes and following, of a level from 1."""
        runs, threads = self.count // self.lanes, self.f.spec.threads
        base, row = (self.shared, level - 1) if level <= self.in_shared else (self.memory, level - 1 - self.in_shared)
        return base.at((self.f.thread_number + (row * runs + number) * threads) * self.lanes)

    def _load(self, level: int, number: int) -> Num:
        return self._place(level, number).load(self.lanes, align=16)

    def clear(self) -> None:
        """All sums begin at +0."""
        zeros = self.f.zeros(self.dtype, self.lanes)
        for level in range(1, self.depth + 1):
            for number in range(self.count // self.lanes):
                self._place(level, number).store(zeros, align=16)

    def close(self, sums: Sequence[Num], levels: Int32) -> list[Num]:
        """A block ends, with `levels` - 1 levels above it; the sums of the next block."""
        f, lanes = self.f, self.lanes
        runs = self.count // lanes
        for number in range(runs):
            total = self._load(1, number) + f.together(sums[number * lanes : (number + 1) * lanes])
            self._place(1, number).store(total, align=16)
        zeros = f.zeros(self.dtype, lanes)
        for level in range(2, self.depth + 1):
            with f.when(levels >= level):
                for number in range(runs):
                    self._place(level, number).store(self._load(level, number) + self._load(level - 1, number), align=16)
                    self._place(level - 1, number).store(zeros, align=16)
        return [f.zeros(self.dtype, 1)] * self.count

    def total(self, sums: list[Num]) -> list[Num]:
        """The whole sums, after the last block."""
        if not self.depth:
            return sums
        runs = [self._load(self.depth, number) for number in range(self.count // self.lanes)]
        return [run.lane(k) for run in runs for k in range(self.lanes)]


def closed_sums(f: GpuKernel, sums: Sequence[Num], upper: Sequence[Num], levels: Int32) -> list[Num]:
    """The same for sums of all levels that are registers, one level after another: what they are when a block ends."""
    n = len(sums)
    held = [list(upper[k : k + n]) for k in range(0, len(upper), n)]
    held[0] = [total + value for total, value in zip(held[0], sums, strict=True)]
    zeros = [f.zeros(sums[0].dtype, 1)] * n
    for level in range(2, len(held) + 1):
        inner, outer = held[level - 2 : level]
        with f.when(levels >= level, [*inner, *outer]) as ends:
            ends.carry = [*zeros, *(total + value for total, value in zip(outer, inner, strict=True))]
        held[level - 2 : level] = [ends.result[:n], ends.result[n:]]
    return [value for own in held for value in own]
