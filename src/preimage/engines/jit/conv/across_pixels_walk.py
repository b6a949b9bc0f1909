"""How vectors across pixels walk down a plane: steps of rows, the input lines that each reads, and the ring of scratch lines under them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.jit.conv.across_pixels_arguments import Band, Fill, Line, Step
from preimage.engines.jit.conv.across_pixels_kernel import END_BITS, FIRST, TAKES_PART, Part
from preimage.engines.jit.index.taps import Axis, Phase
from preimage.engines.jit.index.terms import Terms
from preimage.engines.jit.request import ConvRequest
from preimage.records import record

__all__ = ["Walk", "Window", "row_axis", "windows"]

_LINE = Axis(1, 1, (Phase(0, 1, 1, 1, 1, ((0, 0),)),))


@record
class Window:
    """Lines that a tile's rows read (or columns that its phases read), in order: position after the tile's base, the
    number of the first member's tap, and the members with their taps after it.
    """

    at: int
    tap: int
    part: Part


def row_axis(axes: list[Axis]) -> Axis:
    """The axis that a tile's rows run along: the last but one."""
    return axes[-2] if len(axes) > 2 else _LINE


def windows(phases: tuple[Phase, ...], members: range, forward: bool) -> list[Window]:
    """What the members (positions 0 .. of an axis, by number) read, in the order in which each of them reads."""
    found: dict[int, list[tuple[int, int]]] = {}
    for k, member in enumerate(members):
        phase, turn = phases[member % len(phases)], member // len(phases)
        for tap, offset in phase.taps:
            found.setdefault(turn * phase.in_step + offset, []).append((k, tap))
    order = sorted(found, reverse=not forward)
    return [Window(at, found[at][0][1], tuple((k, tap - found[at][0][1]) for k, tap in found[at])) for at in order]


#: In place of an input offset, which may be negative: the line lies outside the input.
OUTSIDE = -(1 << 62)


class _Read(NamedTuple):
    """An input line under a step: its offset, the number of its first member's tap among all taps, and which rows read it."""

    source: int
    tap: int
    part: Part


class _Rows(NamedTuple):
    """A step: the offset of its first line of the result, the lines that it reads, and how many lines of the result there are."""

    output: int
    lines: list[_Read]
    exist: int


class _Ring:
    """Which input line lies in which of the scratch lines."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.slot_of: dict[int, int] = {}

    def turn(self, wanted: Iterable[int]) -> list[tuple[int, int]]:
        """Let go of lines that are not wanted any more; those that come in, each with its slot."""
        asked = dict.fromkeys(wanted)
        self.slot_of = {source: slot for source, slot in self.slot_of.items() if source in asked}
        free = iter(sorted(set(range(self._slots)) - set(self.slot_of.values())))
        new = [(source, next(free)) for source in asked if source not in self.slot_of]
        self.slot_of.update(new)
        return new


class Walk:
    """The steps down the outer axes and the rows, and the ring of scratch lines under them."""

    def __init__(self, r: ConvRequest, axes: list[Axis], strides: tuple[list[int], list[int]], rows: int, terms: Terms) -> None:
        """strides: of the input and of the result, in bytes, along each of the axes."""
        self.row_axis, self.rows = row_axis(axes), rows
        self.ends = _Ends(terms, axes)
        self.every_tap, self.forward = r.every_tap, r.contraction == "conv"
        pairs = list(zip(*strides, strict=True))[1:]
        self.in_line, self.out_line = pairs[-2] if len(axes) > 2 else (0, 0)
        self.columns = axes[-1].in_size
        self.outer, self.outer_strides = axes[1:-2], pairs[:-2]
        self.kernel_rows, self.width = row_axis(axes).kernel, axes[-1].kernel
        self.patterns: dict[int, list[Window]] = {}
        self.steps = list(self._steps())
        self.count = len(self.steps)
        self.slots = max(1, *(len({line.source for line in step.lines}) for step in self.steps))

    @staticmethod
    def parts(steps: Array) -> int:
        """Steps for one that brings new lines."""
        return max(1, len(steps) // max(1, int((steps["end_fill"] > steps["first_fill"]).sum())))

    def _steps(self) -> Iterator[_Rows]:
        phases, size = self.row_axis.phases, self.row_axis.out_size
        for position in product(*(range(a.out_size) for a in self.outer)):
            taps, out = self._outer_taps(position)
            for first in range(0, size, self.rows):
                start = first % len(phases)
                if start not in self.patterns:
                    self.patterns[start] = windows(phases, range(start, start + self.rows), self.forward)
                base = first // len(phases) * phases[0].in_step
                lines = [line for at, number in taps for line in self._lines(at, number, base, self.patterns[start])]
                yield _Rows(out + first * self.out_line, lines, min(self.rows, size - first))

    def _outer_taps(self, position: tuple[int, ...]) -> tuple[list[tuple[int, int]], int]:
        """What a position of the outer axes reads: input offsets with the numbers of their taps; and its offset in the result."""
        taps, out = [(0, 0)], 0
        for p, axis, (in_stride, out_stride) in zip(position, self.outer, self.outer_strides, strict=True):
            phase, turn = axis.phases[p % len(axis.phases)], p // len(axis.phases)
            out += p * out_stride
            here = [(turn * phase.in_step + offset, k) for k, offset in phase.taps]
            here = [(at, k) for at, k in here if 0 <= at < axis.in_size or self.every_tap]
            taps = [
                (OUTSIDE if base == OUTSIDE or not 0 <= at < axis.in_size else base + at * in_stride, number * axis.kernel + k)
                for base, number in taps
                for at, k in here
            ]
        return taps, out

    def _lines(self, outer: int, number: int, base: int, pattern: list[Window]) -> Iterator[_Read]:
        """The lines under one tap of the outer axes. outer: the input offset that it reads; base: the step's position along the rows."""
        for window in pattern:
            at = base + window.at
            inside = 0 <= at < self.row_axis.in_size
            if inside or self.every_tap:
                source = outer + at * self.in_line if inside and outer != OUTSIDE else OUTSIDE
                yield _Read(source, (number * self.kernel_rows + window.tap) * self.width, window.part)

    def tables(self, bands: int, line_bytes: int, tap_bytes: int) -> tuple[Array, Array, Array, Array, list[Part]]:
        """Bands, steps, fills and rows as the kernel reads them, and the parts of rows."""
        parts: dict[Part, int] = {}
        edges = [self.count * band // bands for band in range(bands + 1)]
        steps: list[tuple[int, ...]] = []
        fills: list[tuple[int, int, int]] = []
        rows: list[tuple[int, ...]] = []
        for begin, end in pairwise(edges):
            ring = _Ring(self.slots)
            for out, lines, exist in self.steps[begin:end]:
                first_fill, first_row = len(fills), len(rows)
                for source, slot in ring.turn(line.source for line in lines):
                    columns = self.columns if source != OUTSIDE else 0
                    fills.append((source if columns else 0, slot * line_bytes, columns))
                ends = self.ends.of_lines(tuple([(line.tap // self.width, line.part) for line in lines]))
                for (source, tap, part), word in zip(lines, ends, strict=True):
                    slot = ring.slot_of[source]
                    rows.append((slot * line_bytes, tap * tap_bytes, parts.setdefault(part, len(parts)), word))
                steps.append((first_fill, len(fills), first_row, len(rows), out, exist))
        first_step, end_step = np.array(list(pairwise(edges)), np.int64).T
        at, place, filled = np.array(fills, np.int64).reshape(-1, 3).T
        scratch, weight, part_number, ends_before = np.array(rows, np.int64).reshape(-1, 4).T
        return (
            Band(first_step=first_step, end_step=end_step).table(),
            _looking_ahead(steps, edges),
            Fill(input=at, scratch=place, columns=filled).table(),
            Line(scratch=scratch, weight=weight, part=part_number, ends=ends_before).table(),
            list(parts) or [()],
        )


def _looking_ahead(steps: list[tuple[int, ...]], edges: list[int]) -> Array:
    """The table of steps; every step with the fills of the next step that has some, which may be the next unit's."""
    first_fill, end_fill, first_row, end_row, output, lines = np.array(steps, np.int64).T
    ahead = np.zeros((len(steps), 4), np.int64)
    bands = list(pairwise(edges))
    for band, (begin, end) in enumerate(bands):
        following = bands[(band + 1) % len(bands)][0]
        fills, far, beyond = (first_fill[following], end_fill[following]), 0, 1
        for number in range(end - 1, begin - 1, -1):
            far += 1
            ahead[number] = (*fills, far, beyond)
            if first_fill[number] < end_fill[number]:
                fills, far, beyond = (first_fill[number], end_fill[number]), 0, 0
    next_first, next_end, steps_ahead, next_unit = ahead.T
    return Step(
        first_fill=first_fill, end_fill=end_fill, first_row=first_row, end_row=end_row, output=output, lines=lines,
        next_first=next_first, next_end=next_end, steps_ahead=steps_ahead, next_unit=next_unit,
    ).table()  # fmt: skip


class _Ends:
    """Which levels of sums end before a tap: see `across_pixels_kernel.END_BITS`. axes: of the gather, the batch first."""

    def __init__(self, terms: Terms, axes: list[Axis]) -> None:
        self.order, self.axes = terms.order, axes[1:]
        self.ranks = {}
        self._words: dict[tuple[tuple[int, Part], ...], list[int]] = {}
        for axis in self.axes:
            for phase in axis.phases:
                for rank, (tap, _) in enumerate(phase.taps):
                    self.ranks[id(axis), tap] = rank

    def _levels(self, before: list[int], now: list[int]) -> int:
        """How many levels have other members; terms by their index in the order, innermost first."""
        return sum(self.order.member(before, level + 1) != self.order.member(now, level + 1) for level in range(self.order.depth))

    def of_lines(self, lines: tuple[tuple[int, Part], ...]) -> list[int]:
        """A word for every line of a step. Lines by the number of their first member's tap, all axes but the last row-major."""
        found = self._words.get(lines)  # most steps are alike
        if found is None:
            found = self._words[lines] = self._of_lines(lines)
        return found

    def _of_lines(self, lines: tuple[tuple[int, Part], ...]) -> list[int]:
        last: dict[int, list[int]] = {}
        words = []
        for first, part in lines if self.order.depth else ():
            word = 0
            for row, more in part:
                number, index = first + more, [0, 0]
                for axis in reversed(self.axes[:-1]):
                    number, tap = divmod(number, axis.kernel)
                    index.append(self.ranks[id(axis), tap])
                word |= (TAKES_PART | (self._levels(last[row], index) if row in last else 0)) << (END_BITS * row)
                last[row] = index
            words.append(word)
        return words or [0] * len(lines)

    def of_columns(self, columns: list[Window], pieces: list[tuple[int, int]]) -> list[int]:
        """A word for every column and piece of the channels."""
        axis, words = self.axes[-1], []
        last: dict[int, list[int]] = {}
        outer = [0] * (len(self.axes) - 1)
        for window in columns:
            for channel, _ in pieces:
                word = 0
                for phase, more in window.part:
                    index = [channel, self.ranks[id(axis), window.tap + more], *outer]
                    word |= (self._levels(last[phase], index) if phase in last else FIRST) << (END_BITS * phase)
                    last[phase] = index
                words.append(word)
        return words
