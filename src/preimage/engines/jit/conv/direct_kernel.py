"""Direct convolution with vectors across output channels: the schedule of every dense layer, forward and transposed.

One tile is `pixels` output pixels by `vectors` vectors of output channels, all kept in registers while the whole chain of
one sum runs through them:

    for row in this task's rows                      # a row: one line of output pixels (any image, any outer position)
        for tile in the row's tiles                  # `pixels` neighbouring output pixels
            sum[p][v] = +0
            for tap in the taps that reach this tile # row-major; offsets come from a table
                for i in channels of the group
                    sum[p][v] = fma(input[p, tap, i], weight[tap, i, v], sum[p][v])
            output[p, v] = epilogue(sum[p][v])

Where a call has only some of the taps (`pieced`), a sum begins with what the call before put down, and is put down in turn.
Conv and conv_transpose differ in the tables alone (see `index.taps`): a row of a transposed convolution belongs to one stride
phase and lists only the taps that hit it, so no zero is multiplied. All sizes are arguments; the code depends on the tile,
the number of channels, the pixel stride and the epilogue. Tiles may overlap: the same sums are then written twice.
Weights lie packed as [block of channels][tap][i][vectors * lanes].
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import Finish, finish
from preimage.engines.jit.index.tables import ROW_WORDS, TAP_WORDS, TILE_WORDS, Slot
from preimage.engines.jit.packing.copy_kernel import transposed

__all__ = ["DirectSpec", "build", "turned_side"]

UNROLL_PRODUCTS = 64  # about this many multiply-adds stand in the body of the innermost loop


@dataclass(frozen=True, slots=True)
class DirectSpec:
    """What the code of one direct kernel depends on.

    element: type of the packed input and weights (f32, f64); out: element type of the result; run: channels under one tap, 0
    where only the call knows;
    pixel_stride: elements between the inputs of neighbouring pixels, 0 where only the call knows; ragged: the last block of
    channels is not full; folded: the channels are those of several stride phases (`plan.Folded`), and the
    first and the last pixel of a row are stored in part; partial: some taps exist in the first phases only;
    turned: the result is channels-first: a tile is transposed in registers before it is stored; pieced: a call has some of the
    taps only, and sums are put down in memory between calls (see `sequence`).
    """

    arguments: ClassVar[type[IntEnum]] = Slot

    element: str
    out: str
    lanes: int
    vectors: int
    pixels: int
    run: int
    pixel_stride: int
    ragged: bool
    folded: bool
    partial: bool
    turned: bool
    finish: Finish
    pieced: bool = False

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: DirectSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    lanes = spec.lanes
    arg = {slot: f.int_arg(slot) for slot in Slot}
    x, w = f.ptr_arg(Slot.INPUT, spec.element), f.ptr_arg(Slot.WEIGHT, spec.element)
    rows, tiles = f.ptr_arg(Slot.ROWS, "i64"), f.ptr_arg(Slot.TILES, "i64")
    lists, taps = f.ptr_arg(Slot.LISTS, "i64"), f.ptr_arg(Slot.TAPS, "i64")

    # Which block of output channels, and which rows.
    block = f.task // arg[Slot.BLOCK_DIV] % arg[Slot.BLOCKS]
    chunk = f.task // arg[Slot.CHUNK_DIV] % arg[Slot.CHUNKS]
    group, block_in_group = block // arg[Slot.GROUP_BLOCKS], block % arg[Slot.GROUP_BLOCKS]
    first = block_in_group * (spec.vectors * lanes)  # first output channel, inside the group
    w_block = w.at_bytes(block * arg[Slot.BLOCK_BYTES])
    x_group = x.at_bytes(group * arg[Slot.GROUP_INPUT_BYTES])
    channel = group * arg[Slot.GROUP_CHANNELS] + first
    left = arg[Slot.GROUP_CHANNELS] - first
    bounds = f.ptr_arg(Slot.CHUNK_ROWS, "i64").at(chunk)
    list_words = 4 if spec.pieced else 2

    with f.loop(bounds.load_int(), bounds.at(1).load_int()) as row:
        line = rows.at(row.index * ROW_WORDS)
        x_row, out_row = x_group.at_bytes(line.load_int()), line.at(1).load_int()
        row_lists = lists.at(line.at(2).load_int() * list_words)
        with f.loop(line.at(3).load_int(), line.at(4).load_int()) as tile:
            entry = tiles.at(tile.index * TILE_WORDS)
            here = row_lists.at(entry.at(2).load_int() * list_words)
            x_tile = x_row.at_bytes(entry.load_int())
            out_tile = out_row + entry.at(1).load_int()
            out_tile += channel * (arg[Slot.CHANNEL_BYTES] if spec.turned else ELEMENT_BYTES[spec.out])
            state = here.at(3).load_int() if spec.pieced else None
            with nullcontext() if state is None else f.when(state > 0):
                with nullcontext() if state is None else f.when(state > 1):
                    _ask_for_lines(f, spec, out_tile)
                sums = [f.zeros(spec.element, lanes)] * (spec.pixels * spec.vectors)
                if spec.pieced:
                    number = row.index * arg[Slot.ROW_TILES] + (tile.index - line.at(3).load_int())
                    kept = f.ptr_arg(Slot.PARTIAL, spec.element).at(number * (len(sums) * lanes))
                    begins = here.at(2).load_int() > 0
                    sums = [begins.select(zero, kept.at(k * lanes).load(lanes)) for k, zero in enumerate(sums)]
                with f.loop(here.load_int(), here.at(1).load_int(), carry=sums) as tap:
                    offsets = taps.at(tap.index * TAP_WORDS)
                    x_tap, w_tap = x_tile.at_bytes(offsets.load_int()), w_block.at_bytes(offsets.at(1).load_int())
                    having = _masks(f, spec, offsets.at(2).load_int() - first) if spec.partial else None
                    tap.carry = _run(f, spec, x_tap, w_tap, tap.carry, having)
                if state is not None:
                    with f.when(state.equals(1)):
                        for k, total in enumerate(tap.result):
                            kept.at(k * lanes).store(total)
                with nullcontext() if state is None else f.when(state > 1):
                    if spec.turned:
                        _store_turned(f, spec, tap.result, out_tile, channel, left)
                    else:
                        cut, end = entry.at(3).load_int() - first, entry.at(4).load_int() - first
                        _store(f, spec, tap.result, out_tile, channel, left, cut, end)
    return f.ir()


def _ask_for_lines(f: Kernel, spec: DirectSpec, out_tile: Int) -> None:
    """The lines of the result that the tile will write, asked for before its sums are computed: stores that miss the cache wait
    for one another, and a few dozen fill the CPU's queue.
    """
    if spec.turned:  # half a line to each of many channels: asking costs what it saves (measured)
        return
    result = f.ptr_arg(Slot.OUTPUT, spec.out).at_bytes(out_tile)
    for p in range(spec.pixels):
        for v in range(0, spec.vectors * spec.lanes * ELEMENT_BYTES[spec.out], 64):
            f.prefetch(result.at_bytes(f.int_arg(Slot.OUT_PIXEL_BYTES) * p + v), write=True)


def _masks(f: Kernel, spec: DirectSpec, count: Int) -> list[Bit]:
    """For each vector of a block, the lanes below `count`."""
    return [f.lane_mask(spec.lanes, count - v * spec.lanes) for v in range(spec.vectors)]


def _run(f: Kernel, spec: DirectSpec, x: Ptr, w: Ptr, sums: list[Num], having: list[Bit] | None) -> list[Num]:
    """The channels under one tap: an unrolled loop, and what is left over after it."""
    pixel = [
        x.at(p * spec.pixel_stride) if spec.pixel_stride else x.at_bytes(f.int_arg(Slot.PIXEL_BYTES) * p)
        for p in range(spec.pixels)
    ]

    def step(i: Int | int, sums: list[Num]) -> list[Num]:
        weight = [w.at((i * spec.vectors + v) * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        out = []
        for p in range(spec.pixels):
            value = pixel[p].at(i).splat(spec.lanes)
            for v in range(spec.vectors):
                before = sums[p * spec.vectors + v]
                after = value.fma(weight[v], before)
                out.append(after if having is None else having[v].select(after, before))
        return out

    if not spec.run:
        with f.loop(0, f.int_arg(Slot.RUN), carry=sums) as i:
            i.carry = step(i.index, i.carry)
        return i.result
    unroll = min(spec.run, max(1, UNROLL_PRODUCTS // (spec.pixels * spec.vectors)))
    whole = spec.run // unroll * unroll
    if whole > unroll:
        with f.loop(0, whole, unroll, carry=sums) as i:
            for u in range(unroll):
                i.carry = step(i.index + u, i.carry)
        sums = i.result
    else:
        whole = 0
    for i_left in range(whole, spec.run):
        sums = step(i_left, sums)
    return sums


def _store(f: Kernel, spec: DirectSpec, sums: list[Num], out_tile: Int, channel: Int, left: Int, cut: Int, end: Int) -> None:
    """The tile's sums to memory; of the last block of channels only those lanes that exist."""
    lanes, pixel_bytes = spec.lanes, f.int_arg(Slot.OUT_PIXEL_BYTES)
    inside: list[Bit] | None = _masks(f, spec, left) if spec.ragged else None
    for p in range(spec.pixels):
        masks = inside
        if spec.folded and p in (0, spec.pixels - 1):
            masks = _masks(f, spec, left.minimum(end) if p == spec.pixels - 1 else left)
            if p == 0:
                masks = [m.but_not(c) for m, c in zip(masks, _masks(f, spec, cut), strict=True)]
        for v in range(spec.vectors):
            at = out_tile + pixel_bytes * p + v * lanes * ELEMENT_BYTES[spec.out]
            mask = masks[v] if masks is not None else None
            finish(f, spec.finish, sums[p * spec.vectors + v], spec.out, at, channel + v * lanes, mask)


def turned_side(vector_bytes: int, item: int) -> int:
    """Pixels (and channels) of the squares in which a tile is turned."""
    return min(32, vector_bytes) // item


def _store_turned(f: Kernel, spec: DirectSpec, sums: list[Num], out_tile: Int, channel: Int, left: Int) -> None:
    """The tile's sums to a channels-first result: squares of side x side are transposed, a store writes pixels of a channel."""
    side = min(turned_side(1 << 20, 8 if spec.element == "f64" else 4), spec.lanes)
    step = f.int_arg(Slot.CHANNEL_BYTES)
    for v in range(spec.vectors):
        for lane in range(0, spec.lanes, side):
            number = v * spec.lanes + lane
            for p in range(0, spec.pixels, side):
                rows = [sums[(p + k) * spec.vectors + v] for k in range(side)]
                if side < spec.lanes:
                    rows = [row.shuffle(row, range(lane, lane + side)) for row in rows]
                for j, value in enumerate(transposed(rows)):
                    at = out_tile + step * (number + j) + p * ELEMENT_BYTES[spec.out]
                    with f.when(left > number + j) if spec.ragged else nullcontext():
                        finish(f, spec.finish, value, spec.out, at, channel + (number + j), None, spread=True)
