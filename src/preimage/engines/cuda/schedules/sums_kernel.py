"""Sums over space of every image and channel, in blocks of 512 positions, in the contract's order (docs/contract.md):

    position i of a block goes to partial sum i % 16; the sixteen are added as a tree: j + (j + 8), then 4, 2, 1

    sums[block][image][channel]          the blocks are added by `reduce_kernel`, whose tree is theirs

Space innermost: sixteen threads have a block's partial sums, in shared memory. Channels innermost: a thread has all sixteen of a channel.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.cuda.device import Target
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.ir.arguments import Arguments, Elements, Integer, elements
from preimage.engines.ir.builder import Int, Num, Ptr
from preimage.engines.ir.types import ELEMENT_BYTES
from preimage.engines.order import BLOCK, PARTIALS
from preimage.records import record

__all__ = ["SumsArguments", "SumsSpec"]


class SumsArguments(Arguments):
    """Strides count elements; space_stride: from a position to the next."""

    x: Elements = elements("element")
    output: Elements = elements("inner")
    images: Integer
    channels: Integer
    space: Integer
    blocks: Integer
    image_stride: Integer
    channel_stride: Integer
    space_stride: Integer


@record
class SumsSpec:
    """columns: whether channels lie innermost."""

    element: str
    inner: str
    columns: bool

    arguments: ClassVar[type[SumsArguments]] = SumsArguments
    threads: ClassVar[int] = 128

    @property
    def lanes(self) -> int:
        """Threads of a sum."""
        return 1 if self.columns else PARTIALS

    @property
    def shared_bytes(self) -> int:
        return 0 if self.columns else ELEMENT_BYTES[self.inner] * self.threads

    def ir(self, target: Target) -> str:
        f = GpuKernel(target, self)
        args = SumsArguments.read(f, self)
        lane, own = f.thread_number % self.lanes, f.thread_number // self.lanes
        images, channels = f.long_number("images"), f.long_number("channels")
        total = images * channels * f.long_number("blocks")
        groups = self.threads // self.lanes
        # Every thread of a block takes part in each turn, as barriers ask for; what lies behind the last sum is not stored.
        first = f.block(0).wide() * groups
        with f.loop(first, total, f.grid.wide() * groups) as turn:
            number = turn.index + own.wide()
            exists = number < total
            number = exists.pick(number, f.i64(0))
            channel, upper = number % channels, number // channels
            image, block = upper % images, upper // images
            start = block * BLOCK
            count = (f.long_number("space") - start).minimum(BLOCK)
            step = f.long_number("space_stride")
            x = args.x.at(image * f.long_number("image_stride") + channel * f.long_number("channel_stride") + start * step)
            made = self._serial(f, x, step, count) if self.columns else self._shared(f, x, step, count, lane.wide())
            with f.when(exists & (lane < 1)):
                args.output.at(number).store(made)
        return f.module()

    def _serial(self, f: GpuKernel, x: Ptr, step: Int, count: Int) -> Num:
        whole, zero = count - count % PARTIALS, f.zeros(self.inner, 1)
        with f.loop(0, whole, PARTIALS, carry=[zero] * PARTIALS) as i:
            i.carry = [sum_ + x.at((i.index + j) * step).load() for j, sum_ in enumerate(i.carry)]
        sums = list(i.result)
        for j in range(PARTIALS):
            with f.when(whole + j < count, [sums[j]]) as more:
                more.carry = [sums[j] + x.at((whole + j) * step).load()]
            sums[j] = more.result[0]
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [a + b for a, b in zip(sums[:half], sums[half:], strict=True)]
        total: Num = sums[0]
        return total

    def _shared(self, f: GpuKernel, x: Ptr, step: Int, count: Int, lane: Int) -> Num:
        with f.loop(lane, count, PARTIALS, carry=[f.zeros(self.inner, 1)]) as i:
            i.carry = [i.carry[0] + x.at(i.index * step).load()]
        held = f.shared(self.inner).at(f.thread_number)
        f.barrier()  # nobody reads the sums of the turn before any more
        held.store(i.result[0])
        half = PARTIALS // 2
        while half:
            f.barrier()
            with f.when(lane < half):
                held.store(held.load() + held.at(half).load())
            half //= 2
        return held.load()
