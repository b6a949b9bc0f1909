"""Channels-last pixels cut into blocks of channels: each block's pixels lie one after another.

A kernel that reads a few channels of many pixels would touch a new page for every pixel where there are many channels, and cache
lines at a stride of a power of two evict one another. So the channels are copied in blocks of `width` first:

    for line in this task's lines                # a line: neighbouring pixels of one block
        for pixel in line
            block[pixel][0 .. width] = source[pixel][first .. first + width]
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Integer
from preimage.engines.ir.builder import Kernel
from preimage.engines.jit.packing.copy_kernel import CopyArguments
from preimage.records import record

__all__ = ["BlockArguments", "BlockSpec", "build"]


class BlockArguments(CopyArguments):
    """Lines of `count` pixels of one block, in tasks of `per_task`."""

    source_stride: Integer  # bytes from pixel to pixel


@record
class BlockSpec:
    """From one element type to another; width channels a block."""

    arguments: ClassVar = BlockArguments

    source: str
    result: str
    lanes: int
    width: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: BlockSpec) -> str:
    f = Kernel()
    args = BlockArguments.read(f, spec)
    source, result = args.input, args.output
    lines, total, per_task = args.lines, args.total, args.per_task
    stride = args.source_stride
    begin = f.task * per_task
    with f.loop(begin, (begin + per_task).minimum(total)) as k:
        line = lines[k.index]
        origin, to = source.at_bytes(line.source), result.at_bytes(line.result)
        with f.loop(0, line.count) as pixel:
            here, there = origin.at_bytes(pixel.index * stride), to.at(pixel.index * spec.width)
            first, lanes = 0, spec.lanes
            while first < spec.width:  # vectors, then narrower ones: a masked store takes several times as long
                while first + lanes > spec.width:
                    lanes //= 2
                there.at(first).store(here.at(first).load(lanes))
                first += lanes
    return f.ir()
