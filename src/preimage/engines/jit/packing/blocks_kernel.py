"""Channels-last pixels cut into blocks of channels: each block's pixels lie one after another.

A schedule that reads a few channels of many pixels would touch a new page for every pixel where the channels are many,
and the cache would hold lines that lie a power of two apart. So the channels are copied in blocks of `width` first:

    for line in this task's lines                # a line: neighbouring pixels of one block
        for pixel in line
            block[pixel][0 .. width] = source[pixel][first .. first + width]
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import Kernel
from preimage.engines.jit.packing.copy_kernel import LINE_WORDS, Move

__all__ = ["BlockSpec", "build"]


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """From one element type to another; width channels a block. SOURCE_STRIDE is the pixel stride of the source."""

    arguments: ClassVar[type[IntEnum]] = Move

    source: str
    result: str
    lanes: int
    width: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: BlockSpec) -> str:
    f = Kernel()
    source, result = f.ptr_arg(Move.INPUT, spec.source), f.ptr_arg(Move.OUTPUT, spec.result)
    lines, total, per_task = f.ptr_arg(Move.LINES, "i64"), f.int_arg(Move.TOTAL), f.int_arg(Move.PER_TASK)
    stride = f.int_arg(Move.SOURCE_STRIDE)
    begin = f.task * per_task
    with f.loop(begin, (begin + per_task).minimum(total)) as turn:
        line = lines.at(turn.index * LINE_WORDS)
        origin, to = source.at_bytes(line.load_int()), result.at_bytes(line.at(1).load_int())
        with f.loop(0, line.at(2).load_int()) as pixel:
            here, there = origin.at_bytes(pixel.index * stride), to.at(pixel.index * spec.width)
            first, lanes = 0, spec.lanes
            while first < spec.width:  # vectors, then narrower ones: a masked store takes several times as long
                while first + lanes > spec.width:
                    lanes //= 2
                there.at(first).store(here.at(first).load(lanes))
                first += lanes
    return f.ir()
