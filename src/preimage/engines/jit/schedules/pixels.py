"""Direct convolution with vectors across pixels: for few output channels (an RGB head, the input gradient of a stem).

One tile is `vectors` vectors of neighbouring pixels by all of a few output channels. The input lies in planes, one a channel:

    for row, for tile, for tap (as in `direct`)
        for i in channels of the group
            for o in output channels
                sum[q][o] = fma(input[i, pixels q + tap], weight[tap, i, o], sum[q][o])

A weight is one number, broadcast; the pixels are a vector, loaded from wherever the tap puts them. The sums of a tile are
stored as vectors where the result's pixels are neighbours, and one by one where they are not (channels-last, stride phases).
"""

from __future__ import annotations

from dataclasses import dataclass

from preimage.engines.jit.emit import ELEMENT_BYTES, Kernel, Num, Ptr
from preimage.engines.jit.schedules.epilogue import Finish, finish
from preimage.engines.jit.schedules.tables import ROW_WORDS, TAP_WORDS, TILE_WORDS, Slot

__all__ = ["PixelsSpec", "build"]

UNROLL_PRODUCTS = 48


@dataclass(frozen=True, slots=True)
class PixelsSpec:
    """What the code depends on; run: input channels of a group; together: pixels of the result are neighbours in memory."""

    element: str
    out: str
    lanes: int
    vectors: int
    channels: int
    run: int
    together: bool
    finish: Finish


def build(spec: PixelsSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in Slot}
    x, w = f.ptr_arg(Slot.INPUT, spec.element), f.ptr_arg(Slot.WEIGHT, spec.element)
    rows, tiles = f.ptr_arg(Slot.ROWS, "i64"), f.ptr_arg(Slot.TILES, "i64")
    lists, taps = f.ptr_arg(Slot.LISTS, "i64"), f.ptr_arg(Slot.TAPS, "i64")
    group = f.task // arg[Slot.BLOCK_DIV] % arg[Slot.BLOCKS]
    chunk = f.task // arg[Slot.CHUNK_DIV] % arg[Slot.CHUNKS]
    w_group = w.at_bytes(group * arg[Slot.BLOCK_BYTES])
    x_group = x.at_bytes(group * arg[Slot.GROUP_INPUT_BYTES])
    channel = group * spec.channels
    bounds = f.ptr_arg(Slot.CHUNK_ROWS, "i64").at(chunk)
    kept = None if spec.together else f.stack(spec.element, spec.lanes * spec.vectors * spec.channels)

    with f.loop(bounds.load_int(), bounds.at(1).load_int()) as row:
        line = rows.at(row.index * ROW_WORDS)
        x_row, out_row = x_group.at_bytes(line.load_int()), line.at(1).load_int()
        row_lists = lists.at(line.at(2).load_int() * 2)
        with f.loop(line.at(3).load_int(), line.at(4).load_int()) as tile:
            entry = tiles.at(tile.index * TILE_WORDS)
            here = row_lists.at(entry.at(2).load_int() * 2)
            x_tile = x_row.at_bytes(entry.load_int())
            out_tile = out_row + entry.at(1).load_int() + channel * arg[Slot.CHANNEL_BYTES]
            sums = [f.zeros(spec.element, spec.lanes)] * (spec.vectors * spec.channels)
            with f.loop(here.load_int(), here.at(1).load_int(), carry=sums) as tap:
                offsets = taps.at(tap.index * TAP_WORDS)
                x_tap, w_tap = x_tile.at_bytes(offsets.load_int()), w_group.at_bytes(offsets.at(1).load_int())
                tap.carry = _run(f, spec, x_tap, w_tap, tap.carry)
            for q in range(spec.vectors):
                for o in range(spec.channels):
                    value = tap.result[q * spec.channels + o]
                    at = out_tile + arg[Slot.CHANNEL_BYTES] * o
                    if kept is None:
                        at += q * spec.lanes * ELEMENT_BYTES[spec.out]
                        finish(f, spec.finish, value, spec.out, at, channel + o, None, spread=True)
                    else:
                        kept.at((o * spec.vectors + q) * spec.lanes).store(value)
            if kept is not None:
                with f.loop(0, spec.vectors * spec.lanes) as p:
                    for o in range(spec.channels):
                        value = kept.at(p.index + o * spec.vectors * spec.lanes).load()
                        at = out_tile + arg[Slot.CHANNEL_BYTES] * o + arg[Slot.OUT_PIXEL_BYTES] * p.index
                        finish(f, spec.finish, value, spec.out, at, channel + o, None, spread=True)
    return f.ir()


def _run(f: Kernel, spec: PixelsSpec, x: Ptr, w: Ptr, sums: list[Num]) -> list[Num]:
    """The channels under one tap, some of them unrolled."""
    plane = f.int_arg(Slot.RUN_BYTES)

    def step(at: Ptr, weights: Ptr, sums: list[Num]) -> list[Num]:
        pixels = [at.at(q * spec.lanes).load(spec.lanes) for q in range(spec.vectors)]
        factors = [weights.at(o).splat(spec.lanes) for o in range(spec.channels)]
        return [pixels[q].fma(factors[o], sums[q * spec.channels + o]) for q in range(spec.vectors) for o in range(spec.channels)]

    unroll = min(spec.run, max(1, UNROLL_PRODUCTS // (spec.vectors * spec.channels)))
    whole = spec.run // unroll * unroll
    with f.loop(0, whole, unroll, carry=sums) as i:
        for u in range(unroll):
            i.carry = step(x.at_bytes((i.index + u) * plane), w.at((i.index + u) * spec.channels), i.carry)
    sums = i.result
    for rest in range(whole, spec.run):
        sums = step(x.at_bytes(plane * rest), w.at(rest * spec.channels), sums)
    return sums
