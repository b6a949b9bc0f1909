"""Depthwise convolution of channels-first arrays, vectors across the pixels of a line: forward and transposed.

A channel's plane is small, so a task first copies a band of its rows to scratch of its thread (where it stays in the cache):
widened, with margins of zeros, and each row split by the stride (column s*i + q goes to place i of part q). Then every load
is one of neighbouring elements:

    for unit in this task's units                        # a unit: a plane (n, c) and a band of its rows
        scratch <- rows of the band
        for tile of `rows` output rows
            for ow in vectors of the line
                for every part of the result (stride phases of a transposed convolution; else one)
                    for block of the sum's order, group of blocks, ...
                        sum[r] = +0
                        for kh, kw of the block:
                            sum[r] = fma(scratch[row(r, kh), part(kw), place(kw) + ow], weight[c, kh, kw], sum[r])
                output[r, ow] = epilogue(totals, the parts interleaved)

An input row is loaded once for all output rows of the tile that read it. Kernels of many rows run kh as a loop. Weights are
single numbers, read as they lie: [c][kh][kw].
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Column, Elements, Integer, Record, Records, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.ordered import StaticSum, added
from preimage.engines.ir.shuffles import deinterleave, interleave
from preimage.engines.order import Order
from preimage.records import record

__all__ = [
    "Band",
    "ChannelsFirstArguments",
    "ChannelsFirstSpec",
    "RowPattern",
    "Tile",
    "WeightCopyArguments",
    "WeightCopySpec",
    "build",
    "build_weights",
]


class Band(Record):
    """Neighbouring input rows that are in the scratch together, and the tiles that read them."""

    first_row: Column
    rows: Column
    first_tile: Column
    end_tile: Column  # last tile + 1


class Tile(Record):
    """Output rows that are computed together."""

    pattern: Column
    lowest_row: Column  # input row, after the band's first
    output: Column  # offset
    weight: Column  # offset


class ChannelsFirstArguments(EpilogueArguments):
    """Offsets and strides in bytes."""

    scratch: Elements = elements("inner")
    scratch_bytes: Integer  # of one thread
    units: Integer
    units_per_task: Integer
    n_bands: Integer
    channels: Integer
    x_image: Integer
    x_channel: Integer
    x_row: Integer
    out_image: Integer
    out_channel: Integer
    bands: Records[Band]
    tiles: Records[Tile]
    row_pitch: Integer  # of the scratch
    part_pitch: Integer
    in_rows: Integer
    in_columns: Integer
    out_columns: Integer
    out_step: Integer  # from an output row of a tile to the next
    weight_bytes: Integer  # of a channel


@record
class RowPattern:
    """The taps of the row axis for one kind of output row: scratch rows from the lowest, and rows of weights from tap to tap."""

    offsets: tuple[int, ...]
    tap_stride: int


@record
class ChannelsFirstSpec:
    """What the code depends on.

    rows: output rows of a tile; row_step: scratch rows from one to the next; split: parts of an input row; columns: for
    every part of the result its taps (number, part, place); width: taps of a kernel row; margin: places before column 0;
    looped: kh is a loop (one pattern, evenly spaced); order: of one sum (1, taps of a row, rows).
    """

    arguments: ClassVar = ChannelsFirstArguments

    element: str
    out: str
    inner: str
    lanes: int
    rows: int
    row_step: int
    split: int
    columns: tuple[tuple[tuple[int, int, int], ...], ...]
    patterns: tuple[RowPattern, ...]
    width: int
    margin: int
    vectors: int
    looped: bool
    order: Order
    finish: EpilogueSpec

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: ChannelsFirstSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = ChannelsFirstArguments.read(f, spec, at_entry=True)
    item, out_item = ELEMENT_BYTES[spec.inner], ELEMENT_BYTES[spec.out]
    scratch = args.scratch.at_bytes(f.thread * args.scratch_bytes)
    zero = f.zeros(spec.inner, spec.lanes)
    with f.loop(0, args.scratch_bytes, spec.lanes * item) as at:
        scratch.at_bytes(at.index).store(zero)
    with f.share(args.units, args.units_per_task) as unit:
        plane, band_number = unit.index // args.n_bands, unit.index % args.n_bands
        n, c = plane // args.channels, plane % args.channels
        x = args.input.at_bytes(n * args.x_image + c * args.x_channel)
        w = args.weight.at_bytes(c * args.weight_bytes)
        out = n * args.out_image + c * args.out_channel
        band = args.bands[band_number]
        _fill(f, spec, args, scratch, x, band.first_row, band.rows)
        with f.loop(band.first_tile, band.end_tile) as k:
            tile = args.tiles[k.index]
            pattern, base = tile.pattern, scratch.at_bytes(tile.lowest_row * args.row_pitch)
            out_tile, w_tile = out + tile.output, w.at_bytes(tile.weight)
            step = spec.lanes * spec.vectors
            for number, rows in enumerate(spec.patterns):
                with f.when(pattern.equals(number)):
                    parts = len(spec.columns)
                    with f.loop(0, (args.out_columns + (parts - 1)) // parts, step) as t:
                        sums = _looped(f, spec, rows, base.at(t.index), w_tile) if spec.looped else None
                        if sums is None:
                            sums = _unrolled(f, spec, rows, base.at(t.index), w_tile)
                        left = args.out_columns - t.index * parts
                        _store(f, spec, args, sums, out_tile + t.index * (parts * out_item), c, left)
    return f.ir()


# -------------------------------------------------------------------------------------------------------- the scratch


def _fill(f: Kernel, spec: ChannelsFirstSpec, args: ChannelsFirstArguments, scratch: Ptr, x: Ptr, first: Int, rows: Int) -> None:
    """The band's input rows, split; rows outside the input are zeros."""
    columns, lanes, item = args.in_columns, spec.lanes, ELEMENT_BYTES[spec.inner]
    wide = lanes * spec.split
    with f.loop(0, rows) as slot:
        row = first + slot.index
        to = scratch.at_bytes(slot.index * args.row_pitch).at(spec.margin)
        whole = row.below(args.in_rows).select(columns // wide * wide, f.i64(0))
        source = x.at_bytes(row * args.x_row)
        with f.loop(0, whole, wide) as at:
            start = source.at(at.index)
            _split(
                f, spec, to.at_bytes(at.index // spec.split * item), [start.at(v * lanes).load(lanes) for v in range(spec.split)]
            )
        rest = row.below(args.in_rows).select(columns, f.i64(0))
        with f.loop(whole, columns, wide) as at:  # the tail; or all of a row outside, as zeros
            start, left = source.at(at.index), rest - at.index
            values = [start.at(v * lanes).load(lanes, f.lane_mask(lanes, left - v * lanes)) for v in range(spec.split)]
            _split(f, spec, to.at_bytes(at.index // spec.split * item), values)


def _split(f: Kernel, spec: ChannelsFirstSpec, to: Ptr, values: list[Num]) -> None:
    for part, value in enumerate(deinterleave(values)):
        to.at_bytes(ChannelsFirstArguments.read(f, spec).part_pitch * part if part else 0).store(value)


# ------------------------------------------------------------------------------------------------------------ the sums

Sums = list[list[list[Num]]]  # [part of the result][row][vector]


def _place(f: Kernel, spec: ChannelsFirstSpec, row: Ptr, part: int, place: int, v: int) -> Num:
    """A vector of the scratch."""
    at = row.at_bytes(ChannelsFirstArguments.read(f, spec).part_pitch * part) if part else row
    return at.at(spec.margin + place + v * spec.lanes).load(spec.lanes)


def _unrolled(f: Kernel, spec: ChannelsFirstSpec, pattern: RowPattern, base: Ptr, w: Ptr) -> Sums:
    """Scratch rows in the order in which every output row wants them; each loaded vector serves all output rows."""
    pitch, zero = ChannelsFirstArguments.read(f, spec).row_pitch, f.zeros(spec.inner, spec.lanes)
    users: dict[int, list[tuple[int, int]]] = {}
    for r in range(spec.rows):
        for j, offset in enumerate(pattern.offsets):
            users.setdefault(r * spec.row_step + offset, []).append((r, j))
    falling = len(pattern.offsets) > 1 and pattern.offsets[0] > pattern.offsets[-1]
    numbers: dict[tuple[int, int], Num] = {}

    def weight(j: int, k: int) -> Num:
        if (j, k) not in numbers:
            numbers[j, k] = w.at(j * pattern.tap_stride * spec.width + k).splat(spec.lanes)
        return numbers[j, k]

    if len(pattern.offsets) * sum(map(len, spec.columns)) <= 9:  # few enough to stay in registers
        for j in range(len(pattern.offsets)):
            for taps in spec.columns:
                for k, _, _ in taps:
                    weight(j, k)
    result = []
    for taps in spec.columns:
        sums = [StaticSum([zero] * spec.vectors, spec.order.depth) for _ in range(spec.rows)]
        for slot in sorted(users, reverse=falling):
            row = base.at_bytes(pitch * slot) if slot else base
            for rank, (k, part, place) in enumerate(taps):
                values = [_place(f, spec, row, part, place, v) for v in range(spec.vectors)]
                for r, j in users[slot]:
                    number = (
                        weight(j, k) if (j, k) in numbers else w.at(j * pattern.tap_stride * spec.width + k).splat(spec.lanes)
                    )
                    sums[r].add(_blocks(spec, rank, j), partial(_plus, values, number))
        result.append([total.total() for total in sums])
    return result


def _plus(values: list[Num], factor: Num, chains: list[Num]) -> list[Num]:
    return [chain.plus_product(value, factor) for value, chain in zip(values, chains, strict=True)]


def _blocks(spec: ChannelsFirstSpec, column: int, row: int) -> tuple[int, ...]:
    """The numbers of a tap's block, its group, ..."""
    return tuple(int(spec.order.member((0, column, row), level + 1)) for level in range(spec.order.depth))


def _looped(f: Kernel, spec: ChannelsFirstSpec, pattern: RowPattern, base: Ptr, w: Ptr) -> Sums:
    """Kernel rows as turns of a loop."""
    pitch, zero = ChannelsFirstArguments.read(f, spec).row_pitch, f.zeros(spec.inner, spec.lanes)
    count = len(pattern.offsets)
    step = pattern.offsets[1] - pattern.offsets[0] if count > 1 else 0
    zeros = [zero] * (len(spec.columns) * spec.rows * spec.vectors)
    top = base.at_bytes(pitch * pattern.offsets[0])

    def kernel_row(number: Int, chains: list[Num]) -> list[Num]:
        line = top.at_bytes(pitch * step * number)
        here = w.at(number * (pattern.tap_stride * spec.width))
        sums = list(chains)
        for q, taps in enumerate(spec.columns):
            for k, part, place in taps:
                factor = here.at(k).splat(spec.lanes)
                for r in range(spec.rows):
                    row = line.at_bytes(pitch * (r * spec.row_step)) if r else line
                    for v in range(spec.vectors):
                        at = (q * spec.rows + r) * spec.vectors + v
                        sums[at] = sums[at].plus_product(_place(f, spec, row, part, place, v), factor)
        return sums

    def level(depth: int, first: Int | int, end: Int | int) -> list[Num]:
        rows = (
            prod(cut.step for cut in spec.order.levels[:depth]) if depth else 1
        )  # of a member; blocks are whole rows of the kernel
        with f.loop(first, end, rows, carry=zeros) as member:
            if depth == 0:
                member.carry = kernel_row(member.index, member.carry)
            elif depth == 1 and rows == 1:
                member.carry = added(member.carry, kernel_row(member.index, zeros))
            else:
                member.carry = added(member.carry, level(depth - 1, member.index, (member.index + rows).minimum(f.i64(end))))
        return member.result

    whole = iter(level(spec.order.depth, 0, count))
    return [[[next(whole) for _ in range(spec.vectors)] for _ in range(spec.rows)] for _ in spec.columns]


def _store(
    f: Kernel, spec: ChannelsFirstSpec, args: ChannelsFirstArguments, sums: Sums, out: Int, channel: Int, left: Int
) -> None:
    """The tile's sums to memory; of the line's last vectors only the lanes that exist."""
    lanes, parts, item = spec.lanes, len(spec.columns), ELEMENT_BYTES[spec.out]
    full = left >= lanes * parts * spec.vectors
    for whole in (True, False):
        with f.when(full if whole else left < lanes * parts * spec.vectors):
            for r in range(spec.rows):
                for v in range(spec.vectors):
                    for q, value in enumerate(interleave([sums[part][r][v] for part in range(parts)])):
                        place = (v * parts + q) * lanes
                        mask = None if whole else f.lane_mask(lanes, left - place)
                        at = out + args.out_step * r + place * item
                        finish(f, spec.finish, value, spec.out, at, channel, mask, True)


# --------------------------------------------------------------------------------------------------------- the weights


class WeightCopyArguments(Arguments):
    """One task copies all."""

    source: Elements = elements("element")
    result: Elements = elements("inner")
    flag: Words  # set to 1 if a weight is not finite
    count: Integer


@record
class WeightCopySpec:
    """Weights widened, in their order; the flag is set where one is not finite."""

    arguments: ClassVar = WeightCopyArguments

    element: str
    inner: str
    lanes: int

    def ir(self) -> str:
        """The text of the kernel."""
        return build_weights(self)


def build_weights(spec: WeightCopySpec) -> str:
    f = Kernel()
    args = WeightCopyArguments.read(f, spec)
    source, result = args.source, args.result
    count, lanes = args.count, spec.lanes
    zero = f.zeros(spec.inner, lanes)
    with f.loop(0, count, lanes, carry=[zero]) as at:
        mask = f.lane_mask(lanes, count - at.index)
        value = source.at(at.index).load(lanes, mask)
        result.at(at.index).store(value, mask)
        at.carry = [value.fma(zero, at.carry[0])]  # NaN from the first weight on that is not finite
    total = at.result[0].lane(0)
    for lane in range(1, lanes):
        total = total + at.result[0].lane(lane)
    with f.when(total.is_nan()):
        args.flag.store_int(1)
    return f.ir()
