"""Weight gradient of a depthwise convolution, vectors across channels: a few taps kept in registers while pixels pass.

grad_w[c, kd, kh, kw] = sum over n, od, oh, ow of  x[n, c, od.., oh*s - lo + kh*d, ow*s - lo + kw*d] * y[n, c, od, oh, ow],
in the contract's order: blocks of positions, groups of them, images as their tree (`index.running_sums`). A tile is `rows` taps of
the second last axis by len(columns) taps of the last, for one block of channels; it passes over all pixels of an image:

    for unit in this task's units                      # a unit: block of channels, tile of taps
        for n in images
            for block in the image's blocks
                sum[r][t] = +0
                for position in the tile's positions of the block   # (od, oh) with at least one row of taps on the input; a table
                    for ow in columns that any tap reaches
                        for r, t:  sum[r][t] = fma(x[row + r, ow*step + column[t]], y[ow], sum[r][t])
                sum goes up, and is put down
            sum goes up the tree;  total <- +0 + sum after the last image

The middle of a line, where every tap lies on the input, runs in turns of `turn` pixels that load each column once; its
ends, and positions where a row of taps lies outside, read what is outside from a vector of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import ClassVar

from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.index.running_sums_kernel import Levels, Steps, level_bytes

__all__ = ["BLOCK_WORDS", "POSITION_WORDS", "TILE_WORDS", "Arg", "DepthwiseGradSpec", "build"]


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
    BLOCKS = 17  # see BLOCK_WORDS
    N_BLOCKS = 18  # of an image
    LEVELS = 19  # running sums
    THREAD_BYTES = 20  # of one thread
    STEPS = 21  # table: levels
    IMAGE_STEPS = 22  # where in it the levels of the images' tree stand in a row
    LAST_STEPS = 23  # and where those of the last image do; they end the table
    N_STEPS = 24
    IMAGE_LEVEL = 25  # the first level of the tree


# first block, input column of the first tap at ow = 0, then output columns: first that any tap reaches, first
# that all reach, last + 1 that all reach, last + 1 that any reaches; offset of the sums
TILE_WORDS = 7
# first position, last + 1, first output column, last + 1, first step, last + 1, level of the sum (-1: the image ends here)
BLOCK_WORDS = 7
POSITION_WORDS = 4  # x offset of the first row of taps, y offset, first row on the input, how many rows


@dataclass(frozen=True, slots=True)
class DepthwiseGradSpec:
    """What the code depends on. columns: input column of every tap of a row, from the first; step: input columns from one
    output column to the next; pixel bytes are those of x and y; repeat: output channels of one input channel (a divisor of
    lanes).
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

    @property
    def tile_bytes(self) -> int:
        """A tile's sums in a level."""
        return level_bytes(self.element, (self.lanes,) * (self.rows * len(self.columns) * self.vectors))

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
        body = _Body(f, spec, x, y, tile.at(1).load_int(), masks, x_masks)
        levels = _levels(f, spec, arg)
        zeros = [f.zeros(spec.element, spec.lanes)] * (spec.rows * len(spec.columns) * spec.vectors)
        first_block = tile.load_int()
        with f.loop(first_block, first_block + arg[Arg.N_BLOCKS], carry=zeros, once=True) as block:
            words = f.ptr_arg(Arg.BLOCKS, "i64").at(block.index * BLOCK_WORDS)
            reach = body.reach(tile, words)
            with f.loop(words.load_int(), words.at(1).load_int(), carry=zeros) as position:
                entry = f.ptr_arg(Arg.POSITIONS, "i64").at(position.index * POSITION_WORDS)
                position.carry = body.line(reach, entry, position.carry)
            ends = words.at(4).load_int(), words.at(5).load_int(), words.at(6).load_int()
            block.carry = levels.end_block(*ends, position.result)
        levels.end_image(n.index, arg[Arg.IMAGES], block.result, partial(_store, f, spec, tile.at(6).load_int(), channel))
    return f.ir()


def _levels(f: Kernel, spec: DepthwiseGradSpec, arg: dict[Arg, Int]) -> Levels:
    """The running sums of a unit, in memory of the thread."""
    start = arg[Arg.LEVELS] + f.thread * arg[Arg.THREAD_BYTES]
    steps = Steps(
        f.ptr_arg(Arg.STEPS, "i64"), arg[Arg.IMAGE_STEPS], arg[Arg.LAST_STEPS], arg[Arg.N_STEPS], arg[Arg.IMAGE_LEVEL]
    )  # fmt: skip
    return Levels(f, spec.element, steps, lambda level: level * spec.tile_bytes + start)


Masks = list[Bit | None]


class _Body:
    """One line of output pixels past the tile's taps."""

    def __init__(
        self, f: Kernel, spec: DepthwiseGradSpec, x: Ptr, y: Ptr, column: Int, masks: Masks, x_masks: Masks
    ) -> None:  # fmt: skip
        self.f, self.spec, self.x, self.y, self.column, self.masks, self.x_masks = f, spec, x, y, column, masks, x_masks

    def reach(self, tile: Ptr, block: Ptr) -> tuple[Int, Int, Int, Int]:
        """The columns of a block: first that any tap reaches, first that all reach, last + 1 of both."""
        first, end = block.at(2).load_int(), block.at(3).load_int()
        begin, middle, after, last = (tile.at(k).load_int().maximum(first).minimum(end) for k in range(2, 6))
        return begin, middle, after, last

    def line(self, reach: tuple[Int, Int, Int, Int], entry: Ptr, sums: list[Num]) -> list[Num]:
        f, spec = self.f, self.spec
        begin, all_begin, all_end, end = reach
        x_line = self.x.at_bytes(entry.load_int() + self.column * spec.x_pixel)
        y_line = self.y.at_bytes(entry.at(1).load_int())
        row, rows = entry.at(2).load_int(), entry.at(3).load_int()
        whole = rows.equals(spec.rows)
        middle, after = whole.select(all_begin, end), whole.select(all_end, end)
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


def _store(f: Kernel, spec: DepthwiseGradSpec, offset: Int, channel: Int, sums: list[Num]) -> None:
    """The sums of a unit, tap by tap."""
    base = f.ptr_arg(Arg.SUMS, spec.element).at(channel).at_bytes(offset)
    cells = [
        base.at_bytes(f.int_arg(Arg.SUM_ROW) * r + f.int_arg(Arg.SUM_TAP) * t).at(v * spec.lanes)
        for r in range(spec.rows)
        for t in range(len(spec.columns))
        for v in range(spec.vectors)
    ]
    for cell, total in zip(cells, sums, strict=True):
        cell.store(total)
