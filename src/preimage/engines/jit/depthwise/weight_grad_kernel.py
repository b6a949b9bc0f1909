"""Weight gradient of a depthwise convolution, vectors across channels: a few taps kept in registers while pixels pass.

grad_w[c, kd, kh, kw] = sum over n, od, oh, ow of  x[n, c, od.., oh*s - lo + kh*d, ow*s - lo + kw*d] * y[n, c, od, oh, ow],
one chain over (od, oh, ow) for each image, images added in order. A tile is `rows` taps of the second last axis by
len(columns) taps of the last, for one block of channels; it passes over all pixels of an image:

    for unit in this task's units                      # a unit: block of channels, tile of taps
        for n in images
            sum[r][t] = +0
            for position in the tile's positions       # (od, oh) with at least one row of taps on the input; a table
                for ow in columns that any tap reaches
                    for r, t:  sum[r][t] = fma(x[row + r, ow*step + column[t]], y[ow], sum[r][t])
            total <- sum, or total + sum

The middle of a line, where every tap lies on the input, runs in turns of `turn` pixels that load each column once; its
ends, and positions where a row of taps lies outside, read what is outside from a vector of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr

__all__ = ["POSITION_WORDS", "TILE_WORDS", "Arg", "DepthwiseGradSpec", "build"]


class Arg(IntEnum):
    """Where an argument lies in the vector. Offsets and strides are in bytes."""

    X = 0
    Y = 1
    SUMS = 2  # [tap][channels of all blocks]
    TILES = 3  # see TILE_WORDS
    POSITIONS = 4  # see POSITION_WORDS
    N_TILES = 5
    UNITS = 6
    UNITS_PER_TASK = 7
    IMAGES = 8
    X_IMAGE = 9
    Y_IMAGE = 10
    X_ROW = 11  # from a row of taps to the next
    SUM_ROW = 12  # from a row of taps to the next in the sums
    SUM_TAP = 13  # from a tap to the next
    CHANNELS = 14
    COLUMNS = 15  # input columns
    ZEROS = 16  # address of a vector of zeros


# first position, last + 1, input column of the first tap at ow = 0, then output columns: first that any tap reaches, first
# that all reach, last + 1 that all reach, last + 1 that any reaches; offset of the sums
TILE_WORDS = 8
POSITION_WORDS = 4  # x offset of the first row of taps, y offset, first row on the input, how many rows


@dataclass(frozen=True, slots=True)
class DepthwiseGradSpec:
    """What the code depends on. columns: input column of every tap of a row, from the first; step: input columns from one
    output column to the next; pixel bytes are those of x and y; repeat: output channels of one input channel (a divisor of
    lanes); more: there are images after the first.
    """

    arguments: ClassVar[type[IntEnum]] = Arg

    element: str
    x_element: str
    y_element: str
    lanes: int
    vectors: int
    rows: int
    columns: tuple[int, ...]
    step: int
    turn: int
    x_pixel: int
    y_pixel: int
    repeat: int
    ragged: bool
    more: bool

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: DepthwiseGradSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in Arg}
    first = f.task * arg[Arg.UNITS_PER_TASK]
    last = (first + arg[Arg.UNITS_PER_TASK]).minimum(arg[Arg.UNITS])
    width = spec.vectors * spec.lanes
    with f.loop(first, last) as unit, f.loop(0, arg[Arg.IMAGES]) as n:
        channel = unit.index // arg[Arg.N_TILES] * width
        tile = f.ptr_arg(Arg.TILES, "i64").at(unit.index % arg[Arg.N_TILES] * TILE_WORDS)
        left = arg[Arg.CHANNELS] - channel
        masks: Masks = [f.lane_mask(spec.lanes, left - v * spec.lanes) if spec.ragged else None for v in range(spec.vectors)]
        x_channel = channel // spec.repeat if spec.repeat > 1 else channel
        x = f.ptr_arg(Arg.X, spec.x_element).at(x_channel).at_bytes(n.index * arg[Arg.X_IMAGE])
        y = f.ptr_arg(Arg.Y, spec.y_element).at(channel).at_bytes(n.index * arg[Arg.Y_IMAGE])
        few = spec.lanes // spec.repeat
        x_masks = masks
        if spec.ragged and spec.repeat > 1:
            x_masks = [f.lane_mask(few, left // spec.repeat - v * few) for v in range(spec.vectors)]
        body = _Body(f, spec, x, y, tile.at(2).load_int(), masks, x_masks)
        sums = [f.zeros(spec.element, spec.lanes)] * (spec.rows * len(spec.columns) * spec.vectors)
        with f.loop(tile.load_int(), tile.at(1).load_int(), carry=sums) as position:
            entry = f.ptr_arg(Arg.POSITIONS, "i64").at(position.index * POSITION_WORDS)
            position.carry = body.line(tile, entry, position.carry)
        _finish(f, spec, n.index, tile.at(7).load_int(), channel, position.result)
    return f.ir()


Masks = list[Bit | None]


class _Body:
    """One line of output pixels past the tile's taps."""

    def __init__(
        self, f: Kernel, spec: DepthwiseGradSpec, x: Ptr, y: Ptr, column: Int, masks: Masks, x_masks: Masks
    ) -> None:  # fmt: skip
        self.f, self.spec, self.x, self.y, self.column, self.masks, self.x_masks = f, spec, x, y, column, masks, x_masks

    def line(self, tile: Ptr, entry: Ptr, sums: list[Num]) -> list[Num]:
        f, spec = self.f, self.spec
        begin, end = tile.at(3).load_int(), tile.at(6).load_int()
        x_line = self.x.at_bytes(entry.load_int() + self.column * spec.x_pixel)
        y_line = self.y.at_bytes(entry.at(1).load_int())
        row, rows = entry.at(2).load_int(), entry.at(3).load_int()
        whole = rows.equals(spec.rows)
        middle = whole.select(tile.at(4).load_int(), end)
        after = whole.select(tile.at(5).load_int(), end)
        with f.loop(begin, middle, carry=sums) as ow:
            ow.carry = self._edge(x_line, y_line, ow.index, row, rows, ow.carry)
        turns = (after - middle) // spec.turn * spec.turn + middle
        with f.loop(middle, turns, spec.turn, carry=ow.result) as ow:
            ow.carry = self._inside(x_line, y_line, ow.index, spec.turn, ow.carry)
        with f.loop(turns, after, carry=ow.result) as ow:
            ow.carry = self._inside(x_line, y_line, ow.index, 1, ow.carry)
        with f.loop(after, end, carry=ow.result) as ow:
            ow.carry = self._edge(x_line, y_line, ow.index, row, rows, ow.carry)
        return ow.result

    def _load(self, at: Ptr) -> list[Num]:
        lanes = self.spec.lanes
        return [at.at(v * lanes).load(lanes, self.masks[v]) for v in range(self.spec.vectors)]

    def _load_x(self, at: Ptr) -> list[Num]:
        """As _load, of the input channel of every output channel."""
        spec = self.spec
        if spec.repeat == 1:
            return self._load(at)
        few = spec.lanes // spec.repeat
        if few == 1:
            return [at.at(v).splat(spec.lanes) for v in range(spec.vectors)]
        parts = [at.at(v * few).load(few, self.x_masks[v]) for v in range(spec.vectors)]
        return [part.shuffle(part, [k // spec.repeat for k in range(spec.lanes)]) for part in parts]

    def _inside(self, x: Ptr, y: Ptr, ow: Int, turn: int, sums: list[Num]) -> list[Num]:
        """`turn` pixels whose taps all lie on the input: every column of x is loaded once."""
        spec, sums = self.spec, list(sums)
        taps, vectors = len(spec.columns), spec.vectors
        here = x.at_bytes(ow * (spec.step * spec.x_pixel))
        pixels = [self._load(y.at_bytes((ow + u) * spec.y_pixel)) for u in range(turn)]
        for r in range(spec.rows):
            row = here.at_bytes(self.f.int_arg(Arg.X_ROW) * r) if r else here
            uses: dict[int, list[tuple[int, int]]] = {}
            for u in range(turn):
                for t, column in enumerate(spec.columns):
                    uses.setdefault(u * spec.step + column, []).append((u, t))
            for column in sorted(uses):
                values = self._load_x(row.at_bytes(column * spec.x_pixel))
                for u, t in sorted(uses[column]):
                    for v in range(vectors):
                        k = (r * taps + t) * vectors + v
                        sums[k] = values[v].fma(pixels[u][v], sums[k])
        return sums

    def _edge(self, x: Ptr, y: Ptr, ow: Int, row: Int, rows: Int, sums: list[Num]) -> list[Num]:
        """One pixel, some of whose taps lie outside."""
        f, spec, sums = self.f, self.spec, list(sums)
        zeros = f.int_arg(Arg.ZEROS)
        start = (x.at_bytes(ow * (spec.step * spec.x_pixel))).address()
        pixel = self._load(y.at_bytes(ow * spec.y_pixel))
        first = ow * spec.step + self.column
        inside = [(first + column).below(f.int_arg(Arg.COLUMNS)) for column in spec.columns]
        for r in range(spec.rows):
            on_input = (f.i64(r) - row).below(rows)
            line = start + f.int_arg(Arg.X_ROW) * r if r else start
            for t, column in enumerate(spec.columns):
                at = f.pointer((on_input & inside[t]).select(line + column * spec.x_pixel, zeros), spec.x_element)
                values = self._load_x(at)
                for v in range(spec.vectors):
                    k = (r * len(spec.columns) + t) * spec.vectors + v
                    sums[k] = values[v].fma(pixel[v], sums[k])
        return sums


def _finish(f: Kernel, spec: DepthwiseGradSpec, n: Int, offset: Int, channel: Int, sums: list[Num]) -> None:
    """The chain of the first image as it is; those of later images are added to what is there."""
    base = f.ptr_arg(Arg.SUMS, spec.element).at(channel).at_bytes(offset)
    cells = [
        base.at_bytes(f.int_arg(Arg.SUM_ROW) * r + f.int_arg(Arg.SUM_TAP) * t).at(v * spec.lanes)
        for r in range(spec.rows)
        for t in range(len(spec.columns))
        for v in range(spec.vectors)
    ]
    if not spec.more:
        for cell, total in zip(cells, sums, strict=True):
            cell.store(total)
        return
    with f.when(n.equals(0)):
        for cell, total in zip(cells, sums, strict=True):
            cell.store(total)
    with f.when(n > 0):
        for cell, total in zip(cells, sums, strict=True):
            cell.store(cell.load(spec.lanes) + total)
