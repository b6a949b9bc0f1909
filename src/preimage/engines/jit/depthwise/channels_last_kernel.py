"""Depthwise convolution of channels-last arrays, vectors across channels: forward and transposed.

Every channel has its own stencil, so a lane is a channel and nothing is added across lanes. One tile is `pixels`
neighbouring output pixels of one block of channels; an input pixel is loaded once for all taps of a kernel row that use it:

    for row in this task's rows                        # a line of output pixels
        for block of channels
            for tile in the row's tiles
                for block of the sum's order, group of blocks, ...      # from a table; `ordered_sum`
                    sum[p] = +0
                    for (kd, kh) in the block's taps of outer axes that reach this row      # from a table, row-major
                        for kw in taps of the last axis                                     # unrolled
                            sum[p] = fma(input[p*step + column[kw]], weight[kd, kh, kw], sum[p])
                output[p] = epilogue(total[p])

A transposed convolution is the same with the tables of its stride phases (see `index.taps`); phases whose taps lie alike share
one kernel. An edge tile, whose columns are not all inside the input, reads those outside from a vector of zeros.
Narrow elements are widened as they are loaded. Weights lie packed as [block of channels][tap][vectors * lanes].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from preimage.engines.ir.arguments import Column, Elements, Integer, Record, Records, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.ordered import Node, ordered_sum
from preimage.records import record

__all__ = ["ChannelsLastArguments", "DepthwiseSpec", "Row", "Tap", "Tile", "build"]


class Row(Record):
    """A line of output pixels, and the outer taps that reach it."""

    input: Column  # offset
    output: Column  # offset
    first: Column  # tap, or node where the sums have several blocks
    end: Column  # last + 1
    first_tile: Column
    end_tile: Column  # last tile + 1


class Tile(Record):
    """Neighbouring output pixels of a line."""

    column: Column  # first input column
    output: Column  # offset
    weight: Column  # offset
    edge: Column  # 1 where some columns lie outside the input, else 0


class Tap(Record):
    """A tap of the outer axes."""

    input: Column  # offset
    weight: Column  # offset
    columns: Column  # further


class ChannelsLastArguments(EpilogueArguments):
    """Offsets in bytes."""

    rows: Records[Row]
    tiles: Records[Tile]
    taps: Records[Tap]
    nodes: Records[Node]
    chunk_rows: Words  # first row of every task, and the end
    blocks: Integer
    block_bytes: Integer  # packed weights of a block
    channels: Integer
    columns: Integer  # of the input
    out_pixel_bytes: Integer
    zeros: Elements = elements("element")  # a vector of zeros
    step: Integer  # input columns from one output pixel to the next, where the code does not say
    pixel_bytes: Integer  # of the input, likewise
    ahead: Integer  # bytes to what is prefetched


REUSE_STEP = 2  # with a longer stride too many taps lie between two uses of a column to keep it in a register


@record
class DepthwiseSpec:
    """What the code of one kernel depends on.

    element: of the input; out: of the result; inner: of weights and sums; columns: input column of every tap, counted from
    the lowest; step: input columns from one output pixel to the next; tap_stride: weight vectors from one tap to the next;
    pixel_bytes: of the input (step and pixel_bytes are 0 where only the call knows); repeat: output channels of one input
    channel (a divisor of lanes); ragged: "" if all blocks of channels are full, "last" if the last vector of the only block
    is not, "any" else; depth: levels of sums above the blocks; lone: every block is one outer tap; ahead: whether columns of a
    later line are prefetched.
    """

    arguments: ClassVar = ChannelsLastArguments

    element: str
    out: str
    inner: str
    lanes: int
    vectors: int
    pixels: int
    columns: tuple[int, ...]
    step: int
    tap_stride: int
    pixel_bytes: int
    repeat: int
    ragged: str
    edges: bool
    depth: int
    lone: bool
    finish: EpilogueSpec
    ahead: bool = False

    @property
    def reach(self) -> int:
        """Input columns that a tile spans."""
        return (self.pixels - 1) * self.step + max(self.columns, default=0) + 1

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: DepthwiseSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = ChannelsLastArguments.read(f, spec, at_entry=True)
    x, w, rows, tiles = args.input, args.weight, args.rows, args.tiles
    bounds = args.chunk_rows.at(f.task)
    item, width = ELEMENT_BYTES[spec.element], spec.vectors * spec.lanes
    with f.loop(bounds.load_int(), bounds.at(1).load_int()) as k, f.loop(0, args.blocks) as block:
        row = rows[k.index]
        channel = block.index * width
        masks = _masks(f, spec, args.channels - channel)
        x_channel = channel // spec.repeat if spec.repeat > 1 else channel
        x_row = x.at_bytes(row.input + x_channel * item)
        w_block = w.at_bytes(block.index * args.block_bytes)
        out_row = row.output + channel * ELEMENT_BYTES[spec.out]
        outer = row.first, row.end
        with f.loop(row.first_tile, row.end_tile) as t:
            tile = tiles[t.index]
            column, out_tile = tile.column, out_row + tile.output
            w_tile = w_block.at_bytes(tile.weight)
            x_tile = x_row.at_bytes(column * _pixel_bytes(f, spec))
            edge = tile.edge
            with f.when(edge.equals(0)):
                sums = _inside(f, spec, x_tile, w_tile, outer, masks)
                _store(f, spec, sums, out_tile, channel, masks)
            if spec.edges:
                with f.when(edge.equals(1)):
                    sums = _edge(f, spec, x_tile, w_tile, outer, column, args.columns, masks)
                    _store(f, spec, sums, out_tile, channel, masks)
    return f.ir()


def _args(f: Kernel, spec: DepthwiseSpec) -> ChannelsLastArguments:
    """The arguments, loaded where they are read: what only some tiles want stays in no register meanwhile."""
    return ChannelsLastArguments.read(f, spec)


def _pixel_bytes(f: Kernel, spec: DepthwiseSpec) -> Int | int:
    return spec.pixel_bytes or _args(f, spec).pixel_bytes


Masks = list[Bit | None]


def _masks(f: Kernel, spec: DepthwiseSpec, left: Int) -> Masks:
    """Which lanes of a block exist; of an only block, the vectors before the last are full."""
    masks: Masks = []
    for repeat in (1, spec.repeat) if spec.repeat > 1 else (1,):  # of output channels; of the input channels behind them
        for v in range(spec.vectors):
            full = not spec.ragged or (spec.ragged == "last" and v < spec.vectors - 1)
            lanes = spec.lanes // repeat
            masks.append(None if full else f.lane_mask(lanes, left // repeat - v * lanes if repeat > 1 else left - v * lanes))
    return masks


def _chain(
    f: Kernel,
    spec: DepthwiseSpec,
    w: Ptr,
    outer: tuple[Int, Int],
    masks: Masks,
    read: Callable[[Tap], Callable[[Int | int], list[Num]]],
) -> list[Num]:
    """The sums of a tile: outer taps in a loop, taps of the last axis unrolled; `read` gives an outer tap's columns."""
    args = _args(f, spec)

    def item(number: Int, chains: list[Num]) -> list[Num]:
        outer_tap = args.taps[number]
        w_tap = w.at_bytes(outer_tap.weight)
        load, sums = read(outer_tap), list(chains)
        seen: dict[int, list[Num]] = {}
        for k, first in enumerate(spec.columns):
            at = w_tap.at(k * spec.tap_stride * spec.vectors * spec.lanes)
            weights = [at.at(v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
            for p in range(spec.pixels):
                if spec.step:
                    column = p * spec.step + first
                    values = seen.get(column) or load(column)
                    if spec.step <= REUSE_STEP:
                        seen[column] = values
                else:
                    values = load(args.step * p + first)
                for v in range(spec.vectors):
                    sums[p * spec.vectors + v] = sums[p * spec.vectors + v].plus_product(weights[v], values[v])
        return sums

    zeros = [f.zeros(spec.inner, spec.lanes)] * (spec.pixels * spec.vectors)
    return ordered_sum(f, spec.depth, outer, zeros, item, args.nodes.__getitem__, spec.lone)


def _pixel(f: Kernel, spec: DepthwiseSpec, at: Ptr, masks: Masks) -> list[Num]:
    """An input pixel's channels, each as often as output channels are made of it."""
    if spec.repeat == 1:
        return [at.at(v * spec.lanes).load(spec.lanes, masks[v]) for v in range(spec.vectors)]
    few = spec.lanes // spec.repeat
    if few == 1:
        return [at.at(v).splat(spec.lanes) for v in range(spec.vectors)]
    parts = [at.at(v * few).load(few, masks[spec.vectors + v]) for v in range(spec.vectors)]
    return [part.shuffle(part, [k // spec.repeat for k in range(spec.lanes)]) for part in parts]


def _inside(f: Kernel, spec: DepthwiseSpec, x: Ptr, w: Ptr, outer: tuple[Int, Int], masks: Masks) -> list[Num]:
    """A tile whose columns all lie in the input."""

    pixel_bytes = _pixel_bytes(f, spec)

    def read(outer_tap: Tap) -> Callable[[Int | int], list[Num]]:
        here = x.at_bytes(outer_tap.input)

        def load(column: Int | int) -> list[Num]:
            at = here.at_bytes(column * pixel_bytes)
            if spec.ahead:
                for v in range(spec.vectors):
                    f.prefetch(at.at(v * spec.lanes).at_bytes(_args(f, spec).ahead), level=2)
            return _pixel(f, spec, at, masks)

        return load

    return _chain(f, spec, w, outer, masks, read)


def _edge(
    f: Kernel, spec: DepthwiseSpec, x: Ptr, w: Ptr, outer: tuple[Int, Int], column: Int, columns: Int, masks: Masks
) -> list[Num]:
    """A tile that reaches over an end of the input: columns outside come from the vector of zeros."""
    zeros, pixel_bytes = _args(f, spec).word(ChannelsLastArguments.zeros), _pixel_bytes(f, spec)

    def read(outer_tap: Tap) -> Callable[[Int | int], list[Num]]:
        address, start = x.at_bytes(outer_tap.input).address(), column + outer_tap.columns

        def load(number: Int | int) -> list[Num]:
            inside = (start + number).below(columns)
            at = f.pointer(inside.select(address + number * pixel_bytes, zeros), spec.element)
            return _pixel(f, spec, at, masks)

        return load

    return _chain(f, spec, w, outer, masks, read)


def _store(f: Kernel, spec: DepthwiseSpec, sums: list[Num], out: Int, channel: Int, masks: Masks) -> None:
    pixel_bytes = _args(f, spec).out_pixel_bytes
    for p in range(spec.pixels):
        for v in range(spec.vectors):
            at = out + pixel_bytes * p + v * spec.lanes * ELEMENT_BYTES[spec.out]
            finish(f, spec.finish, sums[p * spec.vectors + v], spec.out, at, channel + v * spec.lanes, masks[v])
