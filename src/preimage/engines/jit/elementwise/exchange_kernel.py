"""Copies in which a short axis and a long one change places, in vectors: parts p, elements i, at every place of two outer axes

    split:   result[offset[p] + i] = source[i * parts + p]
    else:    result[i * parts + p] = source[offset[p] + i]

Channels shuffled or moved into space where they lie innermost, pictures of three channels laid the other way: elements that lie `parts` apart
are picked out of registers, where one at a time would be loaded or stored.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import Bit, Int, Kernel
from preimage.engines.ir.shuffles import deinterleave, interleave
from preimage.records import record

__all__ = ["ExchangeArguments", "ExchangeSpec", "build"]


class ExchangeArguments(Arguments):
    """A task is `share` of the first * second places of the outer axes. Strides and offsets are in bytes; `unused` are words of other copies."""

    length: Integer  # i < length
    lines: Integer  # first * second
    second: Integer
    source_first: Integer
    source_second: Integer
    result_first: Integer
    result_second: Integer
    share: Integer
    offsets: Words
    unused: Integer
    source: Elements = elements("element")
    unused_1: Integer
    unused_2: Integer
    result: Elements = elements("element")
    unused_3: Integer
    unused_4: Integer


@record
class ExchangeSpec:
    """element: the words that are moved; parts: how many elements of one line of the short axis; split: which of the two."""

    arguments: ClassVar = ExchangeArguments

    element: str
    lanes: int
    parts: int
    split: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: ExchangeSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = ExchangeArguments.read(f, spec)
    parts, lanes, length = spec.parts, spec.lanes, args.length
    offsets = [args.offsets.at(p).load_int() for p in range(parts)]
    whole = length - length % lanes
    with f.share(args.lines, args.share) as line:
        a, b = line.index // args.second, line.index % args.second
        source = args.source.at_bytes(a * args.source_first + b * args.source_second)
        result = args.result.at_bytes(a * args.result_first + b * args.result_second)
        together, apart = (source, result) if spec.split else (result, source)
        lines = [apart.at_bytes(offset) for offset in offsets]

        def move(i: Int, count: Int | None) -> None:
            masks: list[Bit | None] = [None] * parts
            one = None
            if count is not None:
                one = f.lane_mask(lanes, count)
                masks = [f.lane_mask(lanes, count * parts - k * lanes) for k in range(parts)]
            here = together.at(i * parts)
            if spec.split:
                values = deinterleave([here.at(k * lanes).load(lanes, mask) for k, mask in enumerate(masks)])
                for to, value in zip(lines, values, strict=True):
                    to.at(i).store(value, one)
            else:
                values = interleave([at.at(i).load(lanes, one) for at in lines])
                for k, (value, mask) in enumerate(zip(values, masks, strict=True)):
                    here.at(k * lanes).store(value, mask)

        with f.loop(0, whole, lanes) as i:
            move(i.index, None)
        with f.when(whole < length):
            move(whole, length - whole)
    return f.ir()
