"""Few output channels (an RGB head, the input gradient of a stem): vectors across pixels, forward and transposed.

A tile is `rows` lines of the result by `vectors` vectors of pixels, all stride phases of the last axis and all channels: its
sums stay in registers. A task walks down a block of columns. The input lines that the next rows of the result need are
brought to scratch of the thread's own first (a ring in the nearer caches), channel by channel, so that neighbouring pixels
are neighbours; arrays that lie channels-last are transposed on the way:

    for unit in this task's units                    # a unit: an image, a group, a block of columns, a band of rows
        for step in the band's steps                 # a step: `rows` lines of the result
            scratch <- input lines that were not needed before
            for tile of the block's columns
                sum[...] = +0, and likewise the sums of each level above the blocks
                for line in input lines that any row reads, in the order in which each row reads its own
                    for column in offsets that any phase reads, in that order; a piece of the channels at a time
                        for every row, phase of which a block ends before this tap: its sum is added to the level above
                        for i in channels of the piece
                            for every row, phase of which (line, column) is a tap, and channel o:
                                sum[row, phase, o] = fma(scratch[line, i, pixels + column], weight[tap, i, o], sum[...])
                output = epilogue(sums), phases (and channels) interleaved

So a vector that is loaded serves all taps of all sums that want it next, and every sum still has its one order. Which rows
and phases take part (a `Part`) is known to the code; which line and column it is stands in tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import product
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import Finish, finish
from preimage.engines.ir.shuffles import interleave
from preimage.engines.jit.packing.copy_kernel import transposed

__all__ = [
    "COLUMN_WORDS",
    "END_BITS",
    "FILL_WORDS",
    "FIRST",
    "ROW_WORDS",
    "STEP_WORDS",
    "TAKES_PART",
    "Arg",
    "FewSpec",
    "Part",
    "build",
]

AHEAD_CHANNELS, AHEAD_ELEMENTS = 12, 2048  # how far in front of the copying memory is asked for
UNROLL_PRODUCTS = 24  # about this many multiply-adds stand in the body of an innermost loop


class Arg(IntEnum):
    """Where an argument lies in the vector; the first six are those of `tables.Slot`. Offsets and strides are in bytes."""

    INPUT = 0
    WEIGHT = 1
    OUTPUT = 2
    BIAS = 3
    RESIDUAL = 4
    LIMITS = 5
    SCRATCH = 6
    SCRATCH_BYTES = 7  # of one thread
    UNITS = 8
    UNITS_PER_TASK = 9
    BANDS = 10  # first step, last + 1
    N_BANDS = 11
    BLOCKS = 12  # of columns
    GROUPS = 13
    STEPS = 14  # fills from, to; rows from, to; output offset; lines of the result that exist; the fills to come, in how many
    # steps, and whether in the next unit
    FILLS = 15  # input offset, scratch offset, columns of the input (0: a line of zeros)
    ROWS = 16  # scratch offset, weight offset, number of the part times the number of column parts, ends of blocks (END_BITS)
    COLUMNS = 17  # offset in a line, weight offset, number of the part, channels, ends of blocks (END_BITS)
    N_COLUMNS = 18
    X_IMAGE = 19
    X_CHANNEL = 20
    X_COLUMN = 21
    LEAD = 22  # columns in a line of the scratch before the block's first (not in bytes)
    HIGHEST = 23  # columns that are read behind the block's last
    LINE = 24  # positions of a line, one for all phases
    BLOCK = 25  # positions of a block
    OUT_COLUMNS = 26
    OUT_IMAGE = 27
    OUT_CHANNEL = 28
    OUT_LINE = 29
    PITCH = 30  # of a channel in the scratch
    GROUP_WEIGHT_BYTES = 31
    AHEAD_CHANNEL = 32  # reading ahead: bytes from a channel's turn to the next
    AHEAD_COLUMN = 33  # and from one turn of all channels to the next
    AHEAD_PART = 34  # and in a step
    BEGIN = 35  # the first column that is brought, after the block's own (negative or 0), in blocks behind the first


STEP_WORDS = 10
FILL_WORDS = 3
ROW_WORDS = 4
COLUMN_WORDS = 5

#: Four bits for each row (phase) of the tile say what ends before its tap in this line (column). Of a row: TAKES_PART, and how many
#: levels of sums. Of a phase: how many levels, or FIRST: as many as the row says, for it is the phase's first tap in the line.
END_BITS, TAKES_PART, FIRST, LEVELS = 4, 8, 8, 7

#: The members (rows of the tile, or phases) that read a line (or column), each with the number of its tap after the first's.
Part = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class FewSpec:
    """What the code depends on.

    run: input channels of a group; piece: of them at a time, 0 where that differs; multiple: what divides it; depth: levels of sums
    above the blocks; channels: output channels of a group; phases: of the last axis; width: taps of a kernel
    row; last_in, last_out: the arrays are channels-last; near: a line is asked for once more as it is copied (the L2 cache
    hardly holds what was asked for before).
    """

    arguments: ClassVar[type[IntEnum]] = Arg

    element: str
    out: str
    inner: str
    lanes: int
    vectors: int
    rows: int
    phases: int
    channels: int
    run: int
    piece: int
    multiple: int
    depth: int
    width: int
    row_parts: tuple[Part, ...]
    column_parts: tuple[Part, ...]
    last_in: bool
    last_out: bool
    near: bool
    finish: Finish

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: FewSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in Arg}
    step_lanes = spec.lanes * spec.vectors
    scratch = f.ptr_arg(Arg.SCRATCH, spec.inner).at_bytes(f.thread * arg[Arg.SCRATCH_BYTES])
    kept = f.stack(spec.inner, spec.rows * spec.phases * spec.channels * step_lanes * max(1, spec.depth))
    with f.share(arg[Arg.UNITS], arg[Arg.UNITS_PER_TASK]) as unit:
        band, left, group, n = _unit(arg, unit.index)
        count = (arg[Arg.LINE] - left).minimum(arg[Arg.BLOCK])
        x = _input(f, spec, arg, left, group, n)
        _, left_next, group_next, n_next = _unit(arg, unit.index + 1)
        x_next = _input(f, spec, arg, left_next, group_next, n_next.minimum(arg[Arg.UNITS] - 1))
        w = f.ptr_arg(Arg.WEIGHT, spec.inner).at_bytes(group * arg[Arg.GROUP_WEIGHT_BYTES])
        out = n * arg[Arg.OUT_IMAGE] + group * spec.channels * arg[Arg.OUT_CHANNEL]
        steps = f.ptr_arg(Arg.BANDS, "i64").at(band * 2)
        with f.loop(steps.load_int(), steps.at(1).load_int()) as turn:
            step = f.ptr_arg(Arg.STEPS, "i64").at(turn.index * STEP_WORDS)
            with f.loop(step.load_int(), step.at(1).load_int()) as number:
                line = f.ptr_arg(Arg.FILLS, "i64").at(number.index * FILL_WORDS)
                source, to = x.at_bytes(line.load_int()), scratch.at_bytes(line.at(1).load_int()).at(arg[Arg.LEAD])
                _fill(f, spec, arg, source, to, left, count + arg[Arg.HIGHEST], line.at(2).load_int())
            out_step = out + step.at(4).load_int()
            # What will be brought to the scratch next is asked for while this step computes.
            ahead = _Ahead(x, x_next, step.at(6))
            with f.loop(0, count, step_lanes) as tile:
                turns = tile.index // step_lanes * arg[Arg.N_COLUMNS]
                sums = _sums(f, spec, arg, scratch.at(tile.index), w, step, ahead, turns, kept)
                for number_of_sum, value in enumerate(sums):
                    kept.at(number_of_sum * spec.lanes).store(value)
                _store(f, spec, arg, kept, out_step, left + tile.index, group * spec.channels, step.at(5).load_int())
    return f.ir()


# -------------------------------------------------------------------------------------------------------- the scratch


def _unit(arg: dict[Arg, Int], number: Int) -> tuple[Int, Int, Int, Int]:
    """Band, first position of the block of columns, group and image of a unit."""
    band, rest = number % arg[Arg.N_BANDS], number // arg[Arg.N_BANDS]
    block, rest = rest % arg[Arg.BLOCKS], rest // arg[Arg.BLOCKS]
    return band, block * arg[Arg.BLOCK], rest % arg[Arg.GROUPS], rest // arg[Arg.GROUPS]


def _input(f: Kernel, spec: FewSpec, arg: dict[Arg, Int], left: Int, group: Int, n: Int) -> Ptr:
    """Where the input of a unit begins: its block's first column."""
    x = f.ptr_arg(Arg.INPUT, spec.element)
    return x.at_bytes(n * arg[Arg.X_IMAGE] + group * spec.run * arg[Arg.X_CHANNEL] + left * arg[Arg.X_COLUMN])


def _fill(f: Kernel, spec: FewSpec, arg: dict[Arg, Int], source: Ptr, to: Ptr, left: Int, count: Int, columns: Int) -> None:
    """The columns that a block reads of an input line to the scratch; those outside 0 .. columns - 1 become zeros.

    source, to: the block's first column. Before column 0 come whole vectors of zeros, so that the line's own lie aligned.
    """
    pitch, item = arg[Arg.PITCH], ELEMENT_BYTES[spec.inner]
    begin = (left > 0).select(arg[Arg.BEGIN], 0 - arg[Arg.LEAD])
    if not spec.last_in:
        lanes = spec.lanes
        with f.loop(0, spec.run) as i:
            line, there = source.at_bytes(i.index * arg[Arg.X_CHANNEL]), to.at_bytes(i.index * pitch)
            with f.loop(begin, count, lanes) as c:
                at = left + c.index
                exist = f.lane_mask(lanes, at.below(columns).select(columns - at, f.i64(0)))
                f.prefetch(line.at_bytes(arg[Arg.X_CHANNEL] * AHEAD_CHANNELS).at(c.index))
                there.at(c.index).store(line.at(c.index).load(lanes, exist))
        return
    side = min(32 // item, spec.lanes)  # channels of a block; of its pixels two such squares make a vector, if it is wide enough
    width = min(2 * side, spec.lanes)
    whole = spec.run // side * side
    with f.loop(begin, count, width) as c:
        at, there = left + c.index, to.at(c.index)
        inside = at.below(columns)
        with f.when(inside.negated()), f.loop(0, spec.run) as i:
            there.at_bytes(i.index * pitch).store(f.zeros(spec.inner, width))
        with f.when(inside):
            pixel, rest = source.at_bytes(c.index * arg[Arg.X_COLUMN]), columns - at
            exist = f.lane_mask(width, rest)
            pixels = [pixel.at_bytes(arg[Arg.X_COLUMN] * (rest - 1).minimum(k)) for k in range(width)]
            far = width * -(-AHEAD_ELEMENTS // (spec.run * width))
            ahead = pixel.at_bytes((c.index + far < count).select(arg[Arg.X_COLUMN] * far, f.i64(0)))
            with f.loop(0, whole, side) as i:
                for k in range(0, width * side * ELEMENT_BYTES[spec.element] if spec.near else 0, 64):
                    f.prefetch(ahead.at(i.index * width).at_bytes(k))
                _turn(f, there.at_bytes(i.index * pitch), [p.at(i.index).load(side) for p in pixels], exist)
            if whole < spec.run:
                mask = f.lane_mask(side, spec.run - whole)
                _turn(f, there.at_bytes(pitch * whole), [p.at(whole).load(side, mask) for p in pixels], exist)


def _turn(f: Kernel, to: Ptr, pixels: list[Num], exist: Bit) -> None:
    """Channels of neighbouring pixels to their lines, zeros for pixels that do not exist."""
    for j, value in enumerate(_squares(pixels)):
        to.at_bytes(f.int_arg(Arg.PITCH) * j).store(exist.select(value, f.zeros(value.dtype, value.lanes)))


def _squares(pixels: list[Num]) -> list[Num]:
    """Channels of neighbouring pixels, from pixels of neighbouring channels: one square, or two side by side."""
    side = pixels[0].lanes
    rows = pixels[:side]
    if len(pixels) > side:
        rows = [a.shuffle(b, range(2 * side)) for a, b in zip(rows, pixels[side:], strict=True)]
    return transposed(rows)


# ------------------------------------------------------------------------------------------------------------ the sums


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The input that is needed next: of this unit or the next one, and which fills (words of the step). Every line of a tile reads
    one of them ahead.
    """

    here: Ptr
    there: Ptr
    words: Ptr

    def line(self, f: Kernel, number: Int) -> Ptr:
        """The part of the line that is read ahead under this line of the tile."""
        first, last = self.words.load_int(), self.words.at(1).load_int()
        fill = (first + number).minimum(last - 1).maximum(0)
        start = f.ptr_arg(Arg.FILLS, "i64").at(fill * FILL_WORDS).load_int()
        beyond = self.words.at(3).load_int() > 0
        source = beyond.select(self.there.address(), self.here.address())
        return f.pointer(source + start + (self.words.at(2).load_int() - 1) * f.int_arg(Arg.AHEAD_PART), self.here.element)


def _sums(
    f: Kernel, spec: FewSpec, arg: dict[Arg, Int], x: Ptr, w: Ptr, step: Ptr, ahead: _Ahead, turns: Int, kept: Ptr
) -> list[Num]:  # fmt: skip
    """The sums of a tile, numbered (row, vector, phase, channel); kept: memory for those of the levels above the blocks."""
    members = len(spec.column_parts)
    zeros = [f.zeros(spec.inner, spec.lanes)] * (spec.rows * spec.vectors * spec.phases * spec.channels)
    for place in range(len(zeros) * spec.depth):
        kept.at(place * spec.lanes).store(zeros[0])
    with f.loop(step.at(2).load_int(), step.at(3).load_int(), carry=zeros) as row:
        line = f.ptr_arg(Arg.ROWS, "i64").at(row.index * ROW_WORDS)
        x_row, w_row, kind = x.at_bytes(line.load_int()), w.at_bytes(line.at(1).load_int()), line.at(2).load_int()
        later = ahead.line(f, row.index - step.at(2).load_int())
        with f.loop(0, arg[Arg.N_COLUMNS], carry=row.carry, once=True) as column:
            later_tap = later.at_bytes((turns + column.index) * arg[Arg.AHEAD_COLUMN])
            entry = f.ptr_arg(Arg.COLUMNS, "i64").at(column.index * COLUMN_WORDS)
            x_tap, w_tap = x_row.at_bytes(entry.load_int()), w_row.at_bytes(entry.at(1).load_int())
            number, sums = kind + entry.at(2).load_int(), list(column.carry)
            if spec.depth:
                _end_blocks(f, spec, line.at(3).load_int(), entry.at(4).load_int(), sums, kept)
            count = f.i64(spec.piece) if spec.piece else entry.at(3).load_int()
            for a, rows in enumerate(spec.row_parts):
                for b, phases in enumerate(spec.column_parts):
                    if not rows or not phases:
                        continue
                    only = len(spec.row_parts) * members == 1
                    run = count if only else number.equals(a * members + b).select(count, f.i64(0))
                    _run(f, spec, x_tap, w_tap, rows, phases, run, sums, later_tap)
            column.carry = sums
        row.carry = column.result
    totals = row.result
    for level in range(spec.depth):
        totals = [kept.at((level * len(zeros) + k) * spec.lanes).load(spec.lanes) + value for k, value in enumerate(totals)]
    return totals


def _end_blocks(f: Kernel, spec: FewSpec, line: Int, column: Int, sums: list[Num], kept: Ptr) -> None:
    """Of every row and phase whose block ends before this tap, the sum goes to the level above; so with groups that end."""
    zero = f.zeros(spec.inner, spec.lanes)
    for r, p in product(range(spec.rows), range(spec.phases)):
        mine, its = line // (1 << END_BITS * r) % (1 << END_BITS), column // (1 << END_BITS * p) % (1 << END_BITS)
        levels = its.equals(FIRST).select(mine % (LEVELS + 1), its)
        levels = (mine > LEVELS).select(levels, f.i64(0))
        picked = [
            ((r * spec.vectors + q) * spec.phases + p) * spec.channels + o
            for q in range(spec.vectors)
            for o in range(spec.channels)
        ]
        with f.loop(0, levels.minimum(1), carry=[sums[k] for k in picked]) as end:
            for k, value in zip(picked, end.carry, strict=True):
                place = kept.at(k * spec.lanes)
                place.store(place.load(spec.lanes) + value)
            for level in range(1, spec.depth):
                with f.when(levels > level):
                    for k in picked:
                        below, above = (kept.at(((level - 1 + j) * len(sums) + k) * spec.lanes) for j in (0, 1))
                        above.store(above.load(spec.lanes) + below.load(spec.lanes))
                        below.store(zero)
            end.carry = [zero] * len(picked)
        for k, value in zip(picked, end.result, strict=True):
            sums[k] = value


def _run(
    f: Kernel, spec: FewSpec, x: Ptr, w: Ptr, rows: Part, phases: Part, run: Int, sums: list[Num], later: Ptr
) -> None:  # fmt: skip
    """The channels of a piece under one line and column, for the sums of these rows and phases; run: how many, or none."""
    tap = spec.run * spec.channels  # elements of the weights
    taps = [
        (((r * spec.vectors) * spec.phases + p) * spec.channels, (j * spec.width + k) * tap) for r, j in rows for p, k in phases
    ]
    channels, apart = spec.channels, spec.phases * spec.channels
    picked = [at + q * apart + o for at, _ in taps for o in range(channels) for q in range(spec.vectors)]
    wanted = max(1, UNROLL_PRODUCTS // len(picked))
    unroll = max(u for u in (1, 2, 4) if u <= wanted and spec.multiple % u == 0)
    pitch = f.int_arg(Arg.PITCH)
    with f.loop(0, run, unroll, carry=[sums[number] for number in picked]) as i:
        for u in range(unroll):
            if spec.last_in:  # planes lie far apart: to read all of them ahead costs more addresses than it hides
                f.prefetch(later.at_bytes((i.index + u) * f.int_arg(Arg.AHEAD_CHANNEL)), level=2)
            line, weights = x.at_bytes((i.index + u) * pitch), w.at((i.index + u) * channels)
            pixels = [line.at(q * spec.lanes).load(spec.lanes) for q in range(spec.vectors)]
            factors = [weights.at(at + o).splat(spec.lanes) for _, at in taps for o in range(channels)]
            i.carry = [
                total.plus_product(factors[n // spec.vectors], pixels[n % spec.vectors]) for n, total in enumerate(i.carry)
            ]
    for number, value in zip(picked, i.result, strict=True):
        sums[number] = value


# ---------------------------------------------------------------------------------------------------------- the result


def _store(f: Kernel, spec: FewSpec, arg: dict[Arg, Int], kept: Ptr, out: Int, place: Int, channel: Int, lines: Int) -> None:
    """The sums to the lines that exist; the phases interleaved, and the channels too where they lie together."""
    lanes, parts, item = spec.lanes, spec.phases * spec.channels, ELEMENT_BYTES[spec.out]
    steps = replace(spec.finish, bias=False)
    with f.loop(0, lines) as r, f.loop(0, spec.vectors) as q:
        here = kept.at((r.index * spec.vectors + q.index) * (parts * lanes))
        values = [here.at(k * lanes).load(lanes) for k in range(parts)]
        if spec.finish.bias:
            bias = [f.ptr_arg(Arg.BIAS, spec.out).at(channel + o).splat(lanes) for o in range(spec.channels)]
            values = [value + f.zeros(spec.inner, lanes) + bias[k % spec.channels] for k, value in enumerate(values)]
        first = (place + q.index * lanes) * spec.phases
        left, at = arg[Arg.OUT_COLUMNS] - first, out + r.index * arg[Arg.OUT_LINE]
        if spec.last_out:
            for j, value in enumerate(interleave(values)):
                mask = f.lane_mask(lanes, left * spec.channels - j * lanes)
                finish(f, steps, value, spec.out, at + (first * spec.channels + j * lanes) * item, channel, mask)
        else:
            for o in range(spec.channels):
                line = at + arg[Arg.OUT_CHANNEL] * o + first * item
                for j, value in enumerate(interleave(values[o :: spec.channels])):
                    mask = f.lane_mask(lanes, left - j * lanes)
                    finish(f, steps, value, spec.out, line + j * lanes * item, channel, mask)
