"""Packing one side of a product: panels of `width` rows of A, or columns of B, as [panel][term][width], widened.

    straight    the members of a panel are neighbours in memory: a line a term is copied
    transposed      the terms are neighbours: squares of lanes x lanes are transposed in registers

The last panel begins so that it ends with the last member; where there are fewer than a panel has, what lies behind them in the
result is not used. Vectors that are wider than the rest of a line are stored over it: the next line is written after them.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.products.transpose import across
from preimage.records import record

__all__ = ["PackArguments", "PackSpec", "build"]


LINES = 4  # that are copied side by side


class PackArguments(Arguments):
    """Strides and pitches in bytes. A task is share terms of group panels of one matrix, which begins at places."""

    source: Elements = elements("source")
    places: Words
    result: Elements = elements("result")
    members: Integer
    terms: Integer
    member_stride: Integer
    term_stride: Integer
    panels: Integer
    panel_bytes: Integer
    share: Integer
    shares: Integer
    group: Integer
    groups: Integer


@record
class PackSpec:
    """source, result: element types; lanes, width: of a vector, of a panel; transposed: terms are contiguous in the source;
    short: there are fewer members than a panel has.
    """

    arguments: ClassVar = PackArguments

    source: str
    result: str
    lanes: int
    width: int
    transposed: bool
    short: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: PackSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = PackArguments.read(f, spec, at_entry=True)
    share, rest = f.task % args.shares, f.task // args.shares
    panels = args.panels
    group, product = rest % args.groups, rest // args.groups
    source = args.source.at_bytes(args.places.at(product).load_int())
    result = args.result.at_bytes(product * panels * args.panel_bytes)
    begin = share * args.share
    end = (begin + args.share).minimum(args.terms)
    first = group * args.group
    last = (first + args.group).minimum(panels)
    if spec.transposed:
        with f.loop(first, last) as panel:
            member = _first_member(f, spec, panel.index)
            from_, to = (
                source.at_bytes(member * args.member_stride),
                result.at_bytes(panel.index * args.panel_bytes),
            )
            _turned(f, spec, from_, to, begin, end, args.members - member)
    else:
        whole = end - (end - begin) % LINES
        for start, stop, count in ((begin, whole, LINES), (whole, end, 1)):
            with f.loop(start, stop, count) as k, f.loop(first, last) as panel:  # along the lines, as they lie in memory
                member = _first_member(f, spec, panel.index)
                from_ = source.at_bytes(member * args.member_stride + k.index * args.term_stride)
                to, left = result.at_bytes(panel.index * args.panel_bytes).at(k.index * spec.width), args.members - member
                lines = [from_.at_bytes(args.term_stride * n) for n in range(count)]
                masks = [f.lane_mask(spec.lanes, left - s) for s in _starts(spec)]
                values = [[line.at(s).load(spec.lanes, m) for s, m in zip(_starts(spec), masks, strict=True)] for line in lines]
                for n, line in enumerate(values):
                    for s, value in zip(_starts(spec), line, strict=True):
                        to.at(n * spec.width + s).store(value)
    return f.ir()


def _args(f: Kernel, spec: PackSpec) -> PackArguments:
    """The arguments, loaded where they are read."""
    return PackArguments.read(f, spec)


def _first_member(f: Kernel, spec: PackSpec, panel: Int) -> Int:
    return f.i64(0) if spec.short else (panel * spec.width).minimum(_args(f, spec).members - spec.width)


def _starts(spec: PackSpec) -> range:
    """First members of the vectors that cover a line."""
    return range(0, spec.width, spec.lanes)


def _turned(f: Kernel, spec: PackSpec, source: Ptr, result: Ptr, begin: Int, end: Int, left: Int) -> None:
    lanes, stride = spec.lanes, _args(f, spec).member_stride
    ragged = spec.short or spec.width % lanes != 0
    side = min(lanes, 16 // ELEMENT_BYTES[spec.result])

    def lines(k: Int, last: Int | None) -> list[list[Num]]:
        """The vectors of `lanes` lines from line k on."""
        masks: list[Bit | None] = [None if last is None else f.lane_mask(side, last - k - s) for s in range(0, lanes, side)]
        found = []
        for s in _starts(spec):
            members = [(left - 1).minimum(s + j) if ragged else s + j for j in range(lanes)]
            found.append(across([source.at_bytes(stride * m).at(k) for m in members], lanes, masks, side))
        return [list(line) for line in zip(*found, strict=True)]

    whole = end - (end - begin) % lanes
    with f.loop(begin, whole, lanes) as k:
        for j, line in enumerate(lines(k.index, None)):
            for s, value in zip(_starts(spec), line, strict=True):
                result.at((k.index + j) * spec.width + s).store(value)
    with f.loop(whole, end, lanes) as k:
        for j, line in enumerate(lines(k.index, end)):
            with f.when(k.index + j < end):
                for s, value in zip(_starts(spec), line, strict=True):
                    result.at((k.index + j) * spec.width + s).store(value)
