"""Direct convolution with vectors across output channels: the schedule of every dense layer, forward and transposed.

One tile is `pixels` output pixels by `vectors` vectors of output channels, all kept in registers while the whole chain of
one sum runs through them:

    for row in this task's rows                      # a row: one line of output pixels (any image, any outer position)
        for tile in the row's tiles                  # `pixels` neighbouring output pixels
            total[p][v] = +0
            for block in the sum's blocks            # one level of blocks, or groups of blocks, or groups of groups
                sum[p][v] = +0
                for tap in the block's taps that reach this tile    # row-major; offsets come from a table
                    for i in channels of the block
                        sum[p][v] = fma(input[p, tap, i], weight[tap, i, v], sum[p][v])
                total[p][v] += sum[p][v]
            output[p, v] = epilogue(total[p][v])

Where a call has only some of the taps (`pieced`), sums begin with what the call before has stored, and are stored in turn.
Conv and conv_transpose differ in the tables alone (see `index.taps`): a row of a transposed convolution belongs to one stride
phase and lists only the taps that hit it, so no zero is multiplied. All sizes are arguments; the code depends on the tile,
the number of channels, the pixel stride and the epilogue. Tiles may overlap: the same sums are then written twice.
Weights lie packed as [block of channels][tap][i][vectors * lanes].
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

from preimage.engines.ir.arguments import Elements, Integer, Records, Rows, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.ir.ordered import Kept, Node, ordered_sum
from preimage.engines.jit.index.tables import PieceList, Row, Tap, TapList, Tile
from preimage.engines.jit.packing.copy_kernel import transposed
from preimage.records import record

__all__ = ["DirectArguments", "DirectSpec", "build", "transposed_side"]

UNROLL_PRODUCTS = 64  # about this many multiply-adds stand in the body of the innermost loop, or
UNROLL_FEW = 96  # this many, where a tile has no more than FEW_PRODUCTS
FEW_PRODUCTS = 16


class DirectArguments(EpilogueArguments):
    """A task is a chunk of rows and a block of output channels. Offsets and strides are in bytes."""

    weight: Elements = elements("element")
    rows: Records[Row]
    tiles: Records[Tile]
    lists: Records[TapList]
    taps: Records[Tap]
    chunk_rows: Words  # first row of every chunk, and the end
    chunks: Integer
    chunk_div: Integer  # chunk = task / chunk_div % chunks
    blocks: Integer  # blocks of output channels, all groups
    block_div: Integer
    group_blocks: Integer  # blocks in a group
    block_bytes: Integer  # packed weights of a block
    group_input_bytes: Integer  # from a group's input channels to the next group's
    group_channels: Integer  # output channels of a group
    out_pixel_bytes: Integer
    pixel_bytes: Integer
    channel_bytes: Integer  # between output channels, of a channels-first result
    nodes: Records[Node]  # blocks of the sums' order as ranges of taps, groups as ranges of blocks, ...
    partial: Elements = elements("element", default=0)  # sums that are stored between pieces of the taps, tile by tile
    row_tiles: Integer  # tiles of the longest row


@record
class DirectSpec:
    """What the code of one direct kernel depends on.

    element: type of the packed input and weights (f32, f64); out: element type of the result; run: channels under one entry of the
    table of taps, 0 where they differ or only the call knows; multiple: what divides them; depth: levels of sums above the blocks;
    lone: every block is one entry;
    pixel_stride: elements between the inputs of neighbouring pixels, 0 where only the call knows; ragged: the last block of
    channels is not full; folded: the channels are those of several stride phases (`plan.Folded`), and the
    first and the last pixel of a row are stored in part; partial: some taps exist in the first phases only;
    transposed: the result is channels-first: a tile is transposed in registers before it is stored; pieced: a call has some of the
    taps only, and sums are stored in memory between calls (see `streamed_weights`).
    """

    arguments: ClassVar = DirectArguments

    element: str
    out: str
    lanes: int
    vectors: int
    pixels: int
    run: int
    multiple: int
    depth: int
    lone: bool
    pixel_stride: int
    ragged: bool
    folded: bool
    partial: bool
    transposed: bool
    finish: EpilogueSpec
    pieced: bool = False

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: DirectSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    lanes = spec.lanes
    args = DirectArguments.read(f, spec, at_entry=True)
    x, w, rows, tiles = args.input, args.weight, args.rows, args.tiles
    lists: Rows[TapList] = args.lists.of(PieceList) if spec.pieced else args.lists

    # Which block of output channels, and which rows.
    block = f.task // args.block_div % args.blocks
    chunk = f.task // args.chunk_div % args.chunks
    group, block_in_group = block // args.group_blocks, block % args.group_blocks
    first = block_in_group * (spec.vectors * lanes)  # first output channel, inside the group
    w_block = w.at_bytes(block * args.block_bytes)
    x_group = x.at_bytes(group * args.group_input_bytes)
    channel = group * args.group_channels + first
    left = args.group_channels - first
    bounds = args.chunk_rows.at(chunk)

    with f.loop(bounds.load_int(), bounds.at(1).load_int()) as k:
        row = rows[k.index]
        x_row, out_row = x_group.at_bytes(row.input), row.output
        row_lists = lists.at(row.first_list)
        with f.loop(row.first_tile, row.end_tile) as t:
            tile = tiles[t.index]
            here = row_lists[tile.list]
            x_tile = x_row.at_bytes(tile.input)
            out_tile = out_row + tile.output
            out_tile += channel * (args.channel_bytes if spec.transposed else ELEMENT_BYTES[spec.out])
            state = here.state if isinstance(here, PieceList) else None
            with nullcontext() if state is None else f.when(state > 0):
                with nullcontext() if state is None else f.when(state > 1):
                    _prefetch_result(f, spec, out_tile)
                zeros = [f.zeros(spec.element, lanes)] * (spec.pixels * spec.vectors)
                kept = _kept(f, spec, k.index, t.index - row.first_tile, zeros)
                sums = _sums(f, spec, here, x_tile, w_block, first, zeros, kept)
                if state is not None and kept is not None:
                    with f.when(state.equals(1)):
                        kept.store(spec.depth, sums)
                with nullcontext() if state is None else f.when(state > 1):
                    if spec.transposed:
                        _store_turned(f, spec, sums, out_tile, channel, left)
                    else:
                        cut, end = tile.cut_lanes - first, tile.end_lanes - first
                        _store(f, spec, sums, out_tile, channel, left, cut, end)
    return f.ir()


def _prefetch_result(f: Kernel, spec: DirectSpec, out_tile: Int) -> None:
    """Prefetch the lines of the result that the tile will write, before its sums are computed: stores that miss the cache wait
    for one another, and a few dozen fill the CPU's queue.
    """
    if spec.transposed:  # half a line to each of many channels: the prefetches cost what they save (measured)
        return
    args = DirectArguments.read(f, spec)
    result = args.output.at_bytes(out_tile)
    for p in range(spec.pixels):
        for v in range(0, spec.vectors * spec.lanes * ELEMENT_BYTES[spec.out], 64):
            f.prefetch(result.at_bytes(args.out_pixel_bytes * p + v), write=True)


def _masks(f: Kernel, spec: DirectSpec, count: Int) -> list[Bit]:
    """For each vector of a block, the lanes below `count`."""
    return [f.lane_mask(spec.lanes, count - v * spec.lanes) for v in range(spec.vectors)]


def _sums(
    f: Kernel, spec: DirectSpec, members: TapList, x: Ptr, w: Ptr, first: Int, zeros: list[Num], kept: Kept | None
) -> list[Num]:  # fmt: skip
    """The sums of one tile over a list. first: the tile's first output channel."""
    args = DirectArguments.read(f, spec)

    def item(number: Int, sums: list[Num]) -> list[Num]:
        tap = args.taps[number]
        x_tap, w_tap = x.at_bytes(tap.input), w.at_bytes(tap.weight)
        having = _masks(f, spec, tap.channels - first) if spec.partial else None
        return _run(f, spec, x_tap, w_tap, sums, having, None if spec.run else tap.terms)

    goes_on = members.begins.equals(0) if isinstance(members, PieceList) else None
    bounds = members.first, members.end
    return ordered_sum(f, spec.depth, bounds, zeros, item, lambda number: args.nodes[number], spec.lone, kept, goes_on)


def _kept(f: Kernel, spec: DirectSpec, row: Int, tile: Int, zeros: list[Num]) -> Kept | None:
    """Where the sums of a tile wait between calls."""
    if not spec.pieced:
        return None
    sums = len(zeros) * spec.lanes * (spec.depth + 1)
    args = DirectArguments.read(f, spec)
    return Kept(args.partial.at((row * args.row_tiles + tile) * sums), zeros)


def _run(
    f: Kernel, spec: DirectSpec, x: Ptr, w: Ptr, sums: list[Num], having: list[Bit] | None, count: Int | None
) -> list[Num]:  # fmt: skip
    """The terms under one entry of the table of taps: an unrolled loop, and what is left over after it. count: where the code does not say."""
    products = spec.pixels * spec.vectors
    most = max(1, (UNROLL_PRODUCTS if products > FEW_PRODUCTS else UNROLL_FEW) // products)
    strides = [DirectArguments.read(f, spec).pixel_bytes * p for p in range(spec.pixels)] if not spec.pixel_stride else None
    # Where windows of neighbouring pixels overlap, each step reads anew: LLVM would hold what it has read, in registers that the sums need.
    overlap = 0 < spec.pixel_stride < most

    def steps(x: Ptr, w: Ptr, count: int, sums: list[Num]) -> list[Num]:
        """The terms of `count` channels, from here on."""
        pixel = [x.at(p * spec.pixel_stride) for p in range(spec.pixels)] if strides is None else [x.at_bytes(s) for s in strides]
        for u in range(count):
            if overlap:
                again = x.hidden()
                pixel = [again.at(p * spec.pixel_stride) for p in range(spec.pixels)]
            weight = [w.at((u * spec.vectors + v) * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
            out = []
            for p in range(spec.pixels):
                value = pixel[p].at(u).splat(spec.lanes)
                for v in range(spec.vectors):
                    before = sums[p * spec.vectors + v]
                    after = before.plus_product(weight[v], value)
                    out.append(after if having is None else having[v].select(after, before))
            sums = out
        return sums

    def loop(first: Int | int, end: Int | int, unroll: int, sums: list[Num]) -> list[Num]:
        with f.loop(first, end, unroll, carry=sums) as i:
            i.carry = steps(x.at(i.index), w.at(i.index * (spec.vectors * spec.lanes)), unroll, i.carry)
        return i.result

    if count is not None:
        unroll = max(n for n in range(1, most + 1) if spec.multiple % n == 0) if spec.multiple > 1 else min(4, most)
        even = count if spec.multiple > 1 or unroll == 1 else count // unroll * unroll
        sums = loop(0, even, unroll, sums)
        return sums if even is count else loop(even, count, 1, sums)
    unroll = next((n for n in range(most, most // 2, -1) if spec.run % n == 0), min(spec.run, most))
    whole = spec.run // unroll * unroll
    if whole > unroll:
        sums = loop(0, whole, unroll, sums)
    else:
        whole = 0
    return steps(x.at(whole), w.at(whole * spec.vectors * spec.lanes), spec.run - whole, sums)


def _store(f: Kernel, spec: DirectSpec, sums: list[Num], out_tile: Int, channel: Int, left: Int, cut: Int, end: Int) -> None:
    """The tile's sums to memory; of the last block of channels only those lanes that exist."""
    lanes, pixel_bytes = spec.lanes, DirectArguments.read(f, spec).out_pixel_bytes
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


def transposed_side(vector_bytes: int, item: int) -> int:
    """Pixels (and channels) of the squares in which a tile is transposed."""
    return min(32, vector_bytes) // item


def _store_turned(f: Kernel, spec: DirectSpec, sums: list[Num], out_tile: Int, channel: Int, left: Int) -> None:
    """The tile's sums to a channels-first result: squares of side x side are transposed, a store writes pixels of a channel."""
    side = min(transposed_side(1 << 20, 8 if spec.element == "f64" else 4), spec.lanes)
    step = DirectArguments.read(f, spec).channel_bytes
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
