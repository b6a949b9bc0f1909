"""Vectors across pixels, forward and transposed: for few output channels (an RGB head, the input gradient of a stem), or few input channels under
many that lie channels-first.

A tile is `rows` lines of the result by `vectors` vectors of pixels, all stride phases of the last axis and all channels, or a
block of many: its sums stay in registers. A task walks down a block of columns. The input lines that the next rows of the result need are
brought to scratch of the thread's own first (a ring in the nearer caches), channel by channel, so that neighbouring pixels
are neighbours; arrays that lie channels-last are transposed on the way:

    for unit in this task's units                    # a unit: an image, a group, a block of columns, a band of rows
        for step in the band's steps                 # a step: `rows` lines of the result
            scratch <- input lines that were not needed before
            for block of the output channels, for tile of the block of columns
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

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from typing import ClassVar, Literal

from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueSpec, finish
from preimage.engines.ir.shuffles import interleave
from preimage.engines.jit.conv.across_pixels_arguments import AcrossPixelsArguments, Step
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.records import record

__all__ = ["END_BITS", "FIRST", "MOST_ROWS", "TAKES_PART", "AcrossPixelsSpec", "Part", "build"]

AHEAD_CHANNELS, AHEAD_ELEMENTS = 12, 2048  # how far in front of the copy memory is prefetched
UNROLL_PRODUCTS = 24  # about this many multiply-adds stand in the body of an innermost loop

#: Four bits for each row (phase) of the tile say what ends before its tap in this line (column). Of a row: TAKES_PART, and how many
#: levels of sums. Of a phase: how many levels, or FIRST: as many as the row says, for it is the phase's first tap in the line.
END_BITS, TAKES_PART, FIRST, LEVELS = 4, 8, 8, 7
#: Rows (phases) of a tile at most: what a word of 64 bits has room for beside its sign.
MOST_ROWS = 63 // END_BITS

#: The members (rows of the tile, or phases) that read a line (or column), each with the number of its tap after the first's.
Part = tuple[tuple[int, int], ...]


@record
class AcrossPixelsSpec:
    """What the code depends on.

    run: input channels of a group; piece: of them at a time, 0 where that differs; multiple: what divides it; depth: levels of sums
    above the blocks; channels: output channels of a tile; blocks: of so many in a group, ragged where the last has fewer; phases: of
    the last axis; width: taps of a kernel row; last_in, last_out: the arrays are channels-last; near: a line is prefetched once more
    as it is copied (the L2 cache hardly holds what was prefetched before).
    """

    arguments: ClassVar = AcrossPixelsArguments

    element: str
    out: str
    inner: str
    lanes: int
    vectors: int
    rows: int
    phases: int
    channels: int
    blocks: Literal["one", "whole", "ragged"]
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
    finish: EpilogueSpec

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: AcrossPixelsSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = AcrossPixelsArguments.read(f, spec, at_entry=True)
    step_lanes = spec.lanes * spec.vectors
    scratch = args.scratch.at_bytes(f.thread * args.scratch_bytes)
    kept = f.stack(spec.inner, spec.rows * spec.phases * spec.channels * step_lanes * max(1, spec.depth))
    with f.share(args.units, args.units_per_task) as unit:
        band, left, group, n = _unit(args, unit.index)
        count = (args.line - left).minimum(args.block)
        x = _input(spec, args, left, group, n)
        _, left_next, group_next, n_next = _unit(args, unit.index + 1)
        x_next = _input(spec, args, left_next, group_next, n_next.minimum(args.units - 1))
        w = args.weight.at_bytes(group * args.group_weight_bytes)
        channels = args.group_channels if spec.blocks != "one" else spec.channels
        out = n * args.out_image + group * channels * args.out_channel
        steps = args.bands[band]
        with f.loop(steps.first_step, steps.end_step) as k:
            step = args.steps[k.index]
            with f.loop(step.first_fill, step.end_fill) as number:
                fill = args.fills[number.index]
                source, to = x.at_bytes(fill.input), scratch.at_bytes(fill.scratch).at(args.lead)
                _fill(f, spec, args, source, to, left, count + args.highest, fill.columns)
            ahead = _Ahead(x, x_next, step)  # what the next step copies is prefetched while this step computes
            with _channel_blocks(f, spec, args, w, out + step.output, group) as block, f.loop(0, count, step_lanes) as tile:
                turns = tile.index // step_lanes * args.n_columns
                sums = _sums(f, spec, args, scratch.at(tile.index), block.weight, step, ahead, turns, kept)
                _store(f, spec, args, sums, kept, block, left + tile.index, step.lines)
    return f.ir()


@record
class _Block:
    """Output channels of a tile. channel: the first of them; exist: how many there are, None for all that a tile has."""

    weight: Ptr
    out: Int
    channel: Int
    exist: Int | None


@contextmanager
def _channel_blocks(
    f: Kernel, spec: AcrossPixelsSpec, args: AcrossPixelsArguments, w: Ptr, out: Int, group: Int
) -> Iterator[_Block]:
    """A loop over the blocks of output channels, where there are several."""
    if spec.blocks == "one":
        yield _Block(w, out, group * spec.channels, None)
        return
    with f.loop(0, args.channel_blocks) as number:
        first = number.index * spec.channels
        yield _Block(
            w.at_bytes(number.index * args.block_weight_bytes), out + first * args.out_channel,
            group * args.group_channels + first, args.group_channels - first if spec.blocks == "ragged" else None,
        )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- the scratch


def _unit(args: AcrossPixelsArguments, number: Int) -> tuple[Int, Int, Int, Int]:
    """Band, first position of the block of columns, group and image of a unit."""
    band, rest = number % args.n_bands, number // args.n_bands
    block, rest = rest % args.blocks, rest // args.blocks
    return band, block * args.block, rest % args.groups, rest // args.groups


def _input(spec: AcrossPixelsSpec, args: AcrossPixelsArguments, left: Int, group: Int, n: Int) -> Ptr:
    """Where the input of a unit begins: its block's first column."""
    x = args.input
    return x.at_bytes(n * args.x_image + group * spec.run * args.x_channel + left * args.x_column)


def _fill(
    f: Kernel, spec: AcrossPixelsSpec, args: AcrossPixelsArguments, source: Ptr, to: Ptr, left: Int, count: Int, columns: Int
) -> None:
    """The columns that a block reads of an input line to the scratch; those outside 0 .. columns - 1 become zeros.

    source, to: the block's first column. Before column 0 come whole vectors of zeros, so that the line's own lie aligned.
    """
    pitch, item = args.pitch, ELEMENT_BYTES[spec.inner]
    begin = (left > 0).select(args.begin, 0 - args.lead)
    if not spec.last_in:
        lanes = spec.lanes
        with f.loop(0, spec.run) as i:
            line, there = source.at_bytes(i.index * args.x_channel), to.at_bytes(i.index * pitch)
            with f.loop(begin, count, lanes) as c:
                at = left + c.index
                exist = f.lane_mask(lanes, at.below(columns).select(columns - at, f.i64(0)))
                f.prefetch(line.at_bytes(args.x_channel * AHEAD_CHANNELS).at(c.index))
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
            pixel, rest = source.at_bytes(c.index * args.x_column), columns - at
            exist = f.lane_mask(width, rest)
            pixels = [pixel.at_bytes(args.x_column * (rest - 1).minimum(k)) for k in range(width)]
            far = width * -(-AHEAD_ELEMENTS // (spec.run * width))
            ahead = pixel.at_bytes((c.index + far < count).select(args.x_column * far, f.i64(0)))
            with f.loop(0, whole, side) as i:
                for k in range(0, width * side * ELEMENT_BYTES[spec.element] if spec.near else 0, 64):
                    f.prefetch(ahead.at(i.index * width).at_bytes(k))
                _copy_square(f, spec, there.at_bytes(i.index * pitch), [p.at(i.index).load(side) for p in pixels], exist)
            if whole < spec.run:
                mask = f.lane_mask(side, spec.run - whole)
                _copy_square(f, spec, there.at_bytes(pitch * whole), [p.at(whole).load(side, mask) for p in pixels], exist)


def _copy_square(f: Kernel, spec: AcrossPixelsSpec, to: Ptr, pixels: list[Num], exist: Bit) -> None:
    """Channels of neighbouring pixels to their lines, zeros for pixels that do not exist."""
    for j, value in enumerate(_squares(pixels)):
        to.at_bytes(AcrossPixelsArguments.read(f, spec).pitch * j).store(exist.select(value, f.zeros(value.dtype, value.lanes)))


def _squares(pixels: list[Num]) -> list[Num]:
    """Channels of neighbouring pixels, from pixels of neighbouring channels: one square, or two side by side."""
    side = pixels[0].lanes
    rows = pixels[:side]
    if len(pixels) > side:
        rows = [a.shuffle(b, range(2 * side)) for a, b in zip(rows, pixels[side:], strict=True)]
    return transposed(rows)


# ------------------------------------------------------------------------------------------------------------ the sums


@record
class _Ahead:
    """The input that is needed next, of this unit or the next one; the step says which fills. Under every line of a tile a part of one
    of them is prefetched.
    """

    here: Ptr
    there: Ptr
    step: Step

    def line(self, args: AcrossPixelsArguments, number: Int) -> Ptr:
        """The part of the line that is prefetched under this line of the tile."""
        first, last = self.step.next_first, self.step.next_end
        fill = (first + number).minimum(last - 1).maximum(0)
        start = args.here.fills[fill].input
        beyond = self.step.next_unit > 0
        source = beyond.pick(self.there.address(), self.here.address())
        at = source + start + (self.step.steps_ahead - 1) * args.here.ahead_part
        return at.kernel.pointer(at, self.here.element)


def _sums(
    f: Kernel, spec: AcrossPixelsSpec, args: AcrossPixelsArguments, x: Ptr, w: Ptr, step: Step, ahead: _Ahead, turns: Int, kept: Ptr
) -> list[Num]:  # fmt: skip
    """The sums of a tile, numbered (row, vector, phase, channel); kept: memory for those of the levels above the blocks."""
    members = len(spec.column_parts)
    zeros = [f.zeros(spec.inner, spec.lanes)] * (spec.rows * spec.vectors * spec.phases * spec.channels)
    for place in range(len(zeros) * spec.depth):
        kept.at(place * spec.lanes).store(zeros[0])
    with f.loop(step.first_row, step.end_row, carry=zeros) as row:
        line = args.rows[row.index]
        x_row, w_row, kind = x.at_bytes(line.scratch), w.at_bytes(line.weight), line.part
        later = ahead.line(args, row.index - step.first_row)
        with f.loop(0, args.n_columns, carry=row.carry, once=True) as column:
            later_tap = later.at_bytes((turns + column.index) * args.ahead_column)
            entry = args.columns[column.index]
            x_tap, w_tap = x_row.at_bytes(entry.scratch), w_row.at_bytes(entry.weight)
            number, sums = kind + entry.part, list(column.carry)
            if spec.depth:
                _end_blocks(f, spec, line.ends, entry.ends, sums, kept)
            count = f.i64(spec.piece) if spec.piece else entry.channels
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


def _end_blocks(f: Kernel, spec: AcrossPixelsSpec, line: Int, column: Int, sums: list[Num], kept: Ptr) -> None:
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
    f: Kernel, spec: AcrossPixelsSpec, x: Ptr, w: Ptr, rows: Part, phases: Part, run: Int, sums: list[Num], later: Ptr
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
    pitch = AcrossPixelsArguments.read(f, spec).pitch
    with f.loop(0, run, unroll, carry=[sums[number] for number in picked]) as i:
        for u in range(unroll):
            if spec.last_in:  # planes lie far apart: to read all of them ahead costs more addresses than it hides
                f.prefetch(later.at_bytes((i.index + u) * AcrossPixelsArguments.read(f, spec).ahead_channel), level=2)
            line, weights = x.at_bytes((i.index + u) * pitch), w.at((i.index + u) * channels)
            pixels = [line.at(q * spec.lanes).load(spec.lanes) for q in range(spec.vectors)]
            factors = [weights.at(at + o).splat(spec.lanes) for _, at in taps for o in range(channels)]
            i.carry = [
                total.plus_product(factors[n // spec.vectors], pixels[n % spec.vectors]) for n, total in enumerate(i.carry)
            ]
    for number, value in zip(picked, i.result, strict=True):
        sums[number] = value


# ---------------------------------------------------------------------------------------------------------- the result


def _store(
    f: Kernel, spec: AcrossPixelsSpec, args: AcrossPixelsArguments, sums: list[Num], kept: Ptr, block: _Block, place: Int, lines: Int
) -> None:  # fmt: skip
    """The sums to the lines and columns that exist; kept: memory for them, where some do not."""
    parts, lanes = spec.phases * spec.channels, spec.lanes

    def store(line: Int | int, q: Int | int, values: list[Num], whole: bool) -> None:
        at, first = block.out + args.out_line * line, (place + q * lanes) * spec.phases
        _store_vectors(f, spec, args, values, block, at, first, whole)

    def store_some() -> None:
        for number, value in enumerate(sums):
            kept.at(number * lanes).store(value)
        with f.loop(0, lines) as r, f.loop(0, spec.vectors) as q:
            here = kept.at((r.index * spec.vectors + q.index) * (parts * lanes))
            store(r.index, q.index, [here.at(k * lanes).load(lanes) for k in range(parts)], False)

    if spec.finish.chain:  # its code should stand once
        store_some()
        return
    whole = ((place + lanes * spec.vectors) * spec.phases <= args.out_columns) & lines.equals(spec.rows)
    with f.when(whole):
        for r, q in product(range(spec.rows), range(spec.vectors)):
            first = (r * spec.vectors + q) * parts
            store(r, q, sums[first : first + parts], True)
    with f.when(whole.negated()):
        store_some()


def _store_vectors(
    f: Kernel, spec: AcrossPixelsSpec, args: AcrossPixelsArguments, values: list[Num], block: _Block, at: Int, first: Int, whole: bool
) -> None:  # fmt: skip
    """A vector of every phase and channel: the phases interleaved, and the channels too where they lie together.

    at, first: line and column of the result; whole: all columns exist.
    """
    lanes, item, left = spec.lanes, ELEMENT_BYTES[spec.out], args.out_columns - first
    steps = replace(spec.finish, bias=False)
    if spec.finish.bias:
        known = [block.channel + (o if block.exist is None else (block.exist - 1).minimum(o)) for o in range(spec.channels)]
        bias = [args.bias.at(number).splat(lanes) for number in known]
        values = [value + f.zeros(spec.inner, lanes) + bias[k % spec.channels] for k, value in enumerate(values)]
    if spec.last_out:
        for j, value in enumerate(interleave(values)):
            mask = None if whole else f.lane_mask(lanes, left * spec.channels - j * lanes)
            finish(f, steps, value, spec.out, at + (first * spec.channels + j * lanes) * item, block.channel, mask)
        return
    for o in range(spec.channels):
        line = at + args.out_channel * o + first * item
        with nullcontext() if block.exist is None else f.when(block.exist > o):
            for j, value in enumerate(interleave(values[o :: spec.channels])):
                mask = None if whole else f.lane_mask(lanes, left - j * lanes)
                finish(f, steps, value, spec.out, line + j * lanes * item, block.channel, mask)
