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

from functools import partial
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Elements, Integer, Record, Records, Words, elements
from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.index.running_sums_kernel import Levels, Steps, level_bytes
from preimage.records import record

__all__ = ["Block", "DepthwiseGradArguments", "DepthwiseGradSpec", "Position", "Tile", "build"]


class Tile(Record):
    """Some taps. Output columns are of the last axis."""

    first_block: Column
    end_block: Column  # last + 1
    column: Column  # input column of the first tap at ow = 0
    begin: Column  # first output column that any tap reaches
    all_begin: Column  # first that all reach
    all_end: Column  # last + 1 that all reach
    end: Column  # last + 1 that any reaches
    sums: Column  # offset


class Block(Record):
    """A block of positions of a tile, and where its sum goes."""

    first_position: Column
    end_position: Column  # last + 1
    first_column: Column  # output column
    end_column: Column  # last + 1
    first_step: Column
    end_step: Column  # last + 1
    level: Column  # where the sum is stored, or IMAGE, or MORE


class Position(Record):
    """A position of all axes but the last."""

    x: Column  # offset of the first row of taps
    y: Column  # offset
    row: Column  # first row of taps that lies on the input
    rows: Column  # how many do


class DepthwiseGradArguments(Arguments):
    """Offsets and strides are in bytes."""

    x: Elements = elements("x_element")
    y: Elements = elements("y_element")
    sums: Elements = elements("element")  # [tap][channels of all blocks]
    tiles: Records[Tile]
    positions: Records[Position]
    n_tiles: Integer
    units: Integer
    units_per_task: Integer
    images: Integer
    x_image: Integer
    y_image: Integer
    x_row: Integer  # from a row of taps to the next
    sum_row: Integer  # from a row of taps to the next in the sums
    sum_tap: Integer  # from a tap to the next
    channels: Integer
    columns: Integer  # of the input
    zeros: Elements = elements("x_element")  # a vector of zeros
    blocks: Records[Block]
    levels: Elements = elements("element", default=0)  # running sums
    thread_bytes: Integer  # of one thread
    steps: Words  # levels
    image_steps: Integer  # where in it the levels of the images' tree are listed
    last_steps: Integer  # and where those of the last image are; they end the table
    n_steps: Integer
    image_level: Integer  # the first level of the tree


@record
class DepthwiseGradSpec:
    """What the code depends on. columns: input column of every tap of a row, from the first; step: input columns from one
    output column to the next; pixel bytes are those of x and y; repeat: output channels of one input channel (a divisor of
    lanes).
    """

    arguments: ClassVar = DepthwiseGradArguments

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
    args = DepthwiseGradArguments.read(f, spec, at_entry=True)
    first = f.task * args.units_per_task
    last = (first + args.units_per_task).minimum(args.units)
    width = spec.vectors * spec.lanes
    with f.loop(first, last) as unit, f.loop(0, args.images) as n:
        channel = unit.index // args.n_tiles * width
        tile = args.tiles[unit.index % args.n_tiles]
        left = args.channels - channel
        masks: Masks = [f.lane_mask(spec.lanes, left - v * spec.lanes) if spec.ragged else None for v in range(spec.vectors)]
        x_channel = channel // spec.repeat if spec.repeat > 1 else channel
        x = args.x.at(x_channel).at_bytes(n.index * args.x_image)
        y = args.y.at(channel).at_bytes(n.index * args.y_image)
        few = spec.lanes // spec.repeat
        x_masks = masks
        if spec.ragged and spec.repeat > 1:
            x_masks = [f.lane_mask(few, left // spec.repeat - v * few) for v in range(spec.vectors)]
        body = _Body(f, spec, x, y, tile.column, masks, x_masks)
        levels = _levels(f, spec, args)
        zeros = [f.zeros(spec.element, spec.lanes)] * (spec.rows * len(spec.columns) * spec.vectors)
        with f.loop(tile.first_block, tile.end_block, carry=zeros, once=True) as k:
            block = args.blocks[k.index]
            reach = body.reach(tile, block)
            with f.loop(block.first_position, block.end_position, carry=zeros) as position:
                position.carry = body.line(reach, args.positions[position.index], position.carry)
            k.carry = levels.end_block(block.first_step, block.end_step, block.level, position.result)
        levels.end_image(n.index, args.images, k.result, partial(_store, f, spec, tile.sums, channel))
    return f.ir()


def _levels(f: Kernel, spec: DepthwiseGradSpec, args: DepthwiseGradArguments) -> Levels:
    """The running sums of a unit, in memory of the thread."""
    start = args.word(DepthwiseGradArguments.levels) + f.thread * args.thread_bytes
    steps = Steps(
        args.steps, args.image_steps, args.last_steps, args.n_steps, args.image_level
    )  # fmt: skip
    return Levels(f, spec.element, steps, lambda level: level * spec.tile_bytes + start)


Masks = list[Bit | None]


class _Body:
    """One line of output pixels past the tile's taps."""

    def __init__(
        self, f: Kernel, spec: DepthwiseGradSpec, x: Ptr, y: Ptr, column: Int, masks: Masks, x_masks: Masks
    ) -> None:  # fmt: skip
        self.f, self.spec, self.x, self.y, self.column, self.masks, self.x_masks = f, spec, x, y, column, masks, x_masks

    def reach(self, tile: Tile, block: Block) -> tuple[Int, Int, Int, Int]:
        """The columns of a block: first that any tap reaches, first that all reach, last + 1 of both."""
        first, end = block.first_column, block.end_column
        begin = tile.begin.maximum(first).minimum(end)
        all_begin = tile.all_begin.maximum(first).minimum(end)
        all_end = tile.all_end.maximum(first).minimum(end)
        return begin, all_begin, all_end, tile.end.maximum(first).minimum(end)

    def line(self, reach: tuple[Int, Int, Int, Int], position: Position, sums: list[Num]) -> list[Num]:
        f, spec = self.f, self.spec
        begin, all_begin, all_end, end = reach
        x_line = self.x.at_bytes(position.x + self.column * spec.x_pixel)
        y_line = self.y.at_bytes(position.y)
        row, rows = position.row, position.rows
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
            row = here.at_bytes(DepthwiseGradArguments.read(self.f, spec).x_row * r) if r else here
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
        args = DepthwiseGradArguments.read(f, spec)
        zeros = args.word(DepthwiseGradArguments.zeros)
        start = (x.at_bytes(ow * (spec.step * spec.x_pixel))).address()
        pixel = self._load(y.at_bytes(ow * spec.y_pixel))
        first = ow * spec.step + self.column
        inside = [(first + column).below(args.columns) for column in spec.columns]
        for r in range(spec.rows):
            on_input = (f.i64(r) - row).below(rows)
            line = start + args.x_row * r if r else start
            for t, column in enumerate(spec.columns):
                at = f.pointer((on_input & inside[t]).select(line + column * spec.x_pixel, zeros), spec.x_element)
                values = self._load_x(at)
                for v in range(spec.vectors):
                    k = (r * len(spec.columns) + t) * spec.vectors + v
                    sums[k] = values[v].fma(pixel[v], sums[k])
        return sums


def _store(f: Kernel, spec: DepthwiseGradSpec, offset: Int, channel: Int, sums: list[Num]) -> None:
    """The sums of a unit, tap by tap."""
    args = DepthwiseGradArguments.read(f, spec)
    base = args.sums.at(channel).at_bytes(offset)
    cells = [
        base.at_bytes(args.sum_row * r + args.sum_tap * t).at(v * spec.lanes)
        for r in range(spec.rows)
        for t in range(len(spec.columns))
        for v in range(spec.vectors)
    ]
    for cell, total in zip(cells, sums, strict=True):
        cell.store(total)
