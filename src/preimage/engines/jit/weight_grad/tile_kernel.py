"""Weight gradient: a matrix of weights kept in registers while the pixels of an image run past it.

grad_w[o, i, k] = sum over n, oh, ow of  x[n, i, oh*stride - lo + k*dilation] * y[n, o, oh, ow]  is, for one tap, a product
of two matrices with pixels as the inner index. One of the operands gives `rows` scalars a pixel, the other `vectors`
vectors; which is which, and whether the taps of a kernel row (a *run*, neighbours in memory) belong to the scalars, to the
vectors or to the loop, is the plan's choice (`tiling`). The loops of one task:

    for n in images (groups of `images per turn`)
        for band in bands                            # blocks of positions whose operands fit the cache
            for tile in this task's part of the tiles    # columns, taps, rows; rows fastest (a run: columns before taps)
                for n in this turn's images
                    for block in the band's blocks
                        sum[r][v] = +0
                        for segment in the block's segments that this tap reaches    # part of one row of output pixels
                            for ow in segment
                                sum[r][v] = fma(scalar[ow][r], vector[ow][v], sum[r][v])
                        sum <- levels[level] + sum, for each of the block's steps     # `index.running_sums`
                        levels[place of the block] <- sum
                    after the last band: the same with the levels of the images' tree; after the last image: total <- +0 + sum

The first two loops are one here: a *round* is a band of one turn's images. With more than one thread a task is a part of the
tiles in some rounds, after the same part's task before it; `runtime.lockstep` keeps the threads in step, so that
they read the same band at about the same time, once from memory.

A level is the running sums of one tile, side by side: those that live no longer than a round stand in memory of the thread, the others in
memory of the tile. The order of a sum is the contract's, whatever the tile. Positions where x is padding are left out by the segments and by
the range of the tap; `call` says when that may be done. The last tile of a matrix whose size the tile does not divide lies over its
neighbour; each weight is stored by one tile.

Where an image is a single position (`together`), the products of several images are added as their tree in registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.index.running_sums_kernel import Levels, Steps, level_bytes

__all__ = ["BLOCK_WORDS", "KW_WORDS", "SEGMENT_WORDS", "SPAN_WORDS", "TOGETHER", "Arg", "TileSpec", "build"]

PIXELS_AHEAD = 24
TOGETHER = 8  # images of one position whose products are added in registers: a power of two
BLOCK_WORDS = 5  # first segment, last + 1, first step, last + 1, level in which the sum is put down (-1: the image ends here)
SEGMENT_WORDS = 4  # scalar offset, vector offset (bytes, of ow = 0), first ow, last ow + 1
SPAN_WORDS = 3  # 0 for the scalar operand and 1 for the vector operand, offset in the image, lines
KW_WORDS = 5  # scalar offset, vector offset, result offset (bytes), first valid ow, last valid ow + 1


class Arg(IntEnum):
    """Where an argument lies in the vector. Offsets and strides are in bytes."""

    SCALARS = 0  # addresses
    VECTORS = 1
    TOTAL = 2
    LEVELS = 3  # levels of every thread, then those of the tiles
    SEGMENTS = 4  # table: SEGMENT_WORDS words each
    BANDS = 5  # table: first block of (outer tap, band), bands + 1 entries an outer tap
    TAPS = 6  # table: KW_WORDS words for each tap of the last axis
    IMAGES = 7
    IMAGES_PER_TURN = 8
    N_BANDS = 9
    TILES = 10  # in all
    TILES_PER_PART = 11
    N_TAPS = 12  # taps of the last axis that are loop turns
    N_OUTER = 13  # taps of the other axes
    N_ROWS = 14  # row tiles
    N_COLS = 15  # column tiles
    ROW_STEP = 16  # scalar operand: from a row tile to the next, and the offset of the last one
    ROW_LAST = 17
    COL_STEP = 18  # vector operand, the same
    COL_LAST = 19
    ROWS = 20  # rows and columns of the matrix
    COLS = 21
    SCALAR_PIXEL = 22  # from ow to ow + 1
    VECTOR_PIXEL = 23
    SCALAR_IMAGE = 24
    VECTOR_IMAGE = 25
    SCALAR_GROUP = 26
    VECTOR_GROUP = 27
    OUT_ROW = 28  # result: from a row to the next, and so on; columns are neighbours
    OUT_OUTER = 29
    OUT_GROUP = 30
    ROUNDS = 31  # ceil(images / images per turn) * bands
    BLOCKS = 32  # table: BLOCK_WORDS words each
    PARTS = 33
    ROUNDS_PER_TASK = 34
    SPANS = 35  # table: SPAN_WORDS words each, what a band reads that the one before did not
    SPAN_BOUNDS = 36  # table: first span of each band, bands + 1 entries
    OUTER_EVERY = 37  # tiles of one row tile and last tap until the next outer tap, and until the next column tile
    COL_EVERY = 38
    SCALAR_ROW = 39  # scalar operand: from a row to the next, where they are no neighbours
    STEPS = 40  # table: levels
    IMAGE_STEPS = 41  # where in it the levels of the images' tree stand in a row
    LAST_STEPS = 42  # and where those of the last image do; they end the table
    N_STEPS = 43
    IMAGE_LEVEL = 44  # the first level of the tree
    THREAD_LEVELS = 45  # so many levels are the thread's
    THREAD_BYTES = 46  # of one thread
    TILE_LEVELS = 47  # offset of the tiles' levels
    LEVEL_BYTES = 48  # from a level of the tiles to the next


@dataclass(frozen=True, slots=True)
class TileSpec:
    """What the code of one tile depends on.

    element: f32 or f64; rows: scalars a pixel; lanes: width of each vector (a narrower last one wastes fewer lanes);
    valid: lanes of the last vector that exist (its width unless the matrix is narrower than the tile; 0 where only the call
    knows how wide the matrix is: with ragged_rows and ragged_cols); ragged_rows,
    ragged_cols: the last tile overlaps; together: images are single positions, TOGETHER of them are summed in registers;
    ahead: cache lines of the scalar and of the vector operand asked for PIXELS_AHEAD pixels before they are read;
    early: every tile asks for a share of what the next round reads (into the second cache); far: the weights are so many that
    each tile asks for the lines that it will write before it computes; apart: a pixel's scalars are SCALAR_ROW bytes apart.
    """

    arguments: ClassVar[type[IntEnum]] = Arg

    element: str
    rows: int
    lanes: tuple[int, ...]
    valid: int
    ragged_rows: bool
    ragged_cols: bool
    together: bool = False
    ahead: tuple[int, int] = (0, 0)
    early: bool = False
    far: bool = False
    apart: bool = False

    @property
    def columns(self) -> int:
        """Columns of the matrix that a tile covers."""
        return sum(self.lanes[:-1]) + (self.valid or self.lanes[-1])

    @property
    def tile_bytes(self) -> int:
        """A tile's sums in a level: whole vectors, whole cache lines."""
        return level_bytes(self.element, self.lanes * self.rows)

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: TileSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    arg = {slot: f.int_arg(slot) for slot in Arg}
    part, number = f.task % arg[Arg.PARTS], f.task // arg[Arg.PARTS]
    first = part * arg[Arg.TILES_PER_PART]
    last = (first + arg[Arg.TILES_PER_PART]).minimum(arg[Arg.TILES])
    begun = number * arg[Arg.ROUNDS_PER_TASK]
    ended = (begun + arg[Arg.ROUNDS_PER_TASK]).minimum(arg[Arg.ROUNDS])
    with f.loop(begun, ended) as round_:
        band = round_.index % arg[Arg.N_BANDS]
        begin = round_.index // arg[Arg.N_BANDS] * arg[Arg.IMAGES_PER_TURN]
        end = (begin + arg[Arg.IMAGES_PER_TURN]).minimum(arg[Arg.IMAGES])
        with f.loop(first, last) as tile:
            if spec.early:
                _ask(f, arg, round_.index + 1, tile.index - first, last - first)
            place = _Place(f, spec, arg, tile.index)
            bounds = f.ptr_arg(Arg.BANDS, "i64").at(place.outer * (arg[Arg.N_BANDS] + 1) + band)
            blocks = bounds.load_int(), bounds.at(1).load_int()
            store = partial(_store, f, spec, place)
            levels = _levels(f, spec, arg, tile.index)
            if spec.far:
                for r in range(spec.rows):
                    for line in range(0, spec.columns * ELEMENT_BYTES[spec.element], LINE_BYTES):
                        f.prefetch(place.total.at_bytes(place.out_row * r).at_bytes(line), write=True)
            alone = begin
            if spec.together:
                alone = (end - begin) // TOGETHER * TOGETHER + begin
                with f.loop(begin, alone, TOGETHER) as n:
                    sums = _together(f, spec, arg, place, n.index, blocks[0])
                    levels.end_image(n.index + (TOGETHER - 1), arg[Arg.IMAGES], sums, store, TOGETHER.bit_length() - 1)
            with f.loop(alone, end) as n:
                scalars = place.scalars.at_bytes(n.index * arg[Arg.SCALAR_IMAGE])
                vectors = place.vectors.at_bytes(n.index * arg[Arg.VECTOR_IMAGE])
                sums = _blocks(f, spec, arg, place, levels, scalars, vectors, blocks)
                with f.when(band.equals(arg[Arg.N_BANDS] - 1)):
                    levels.end_image(n.index, arg[Arg.IMAGES], sums, store)
    return f.ir()


def _ask(f: Kernel, arg: dict[Arg, Int], number: Int, share: Int, shares: Int) -> None:
    """Ask for a share of the lines that a round will read first."""
    with f.when(number < arg[Arg.ROUNDS]):
        n, band = number // arg[Arg.N_BANDS], number % arg[Arg.N_BANDS]
        bounds = f.ptr_arg(Arg.SPAN_BOUNDS, "i64").at(band)
        images = n * arg[Arg.SCALAR_IMAGE] + arg[Arg.SCALARS], n * arg[Arg.VECTOR_IMAGE] + arg[Arg.VECTORS]
        with f.loop(bounds.load_int(), bounds.at(1).load_int()) as span:
            words = f.ptr_arg(Arg.SPANS, "i64").at(span.index * SPAN_WORDS)
            start = words.load_int().equals(0).pick(*images) + words.at(1).load_int()
            lines = words.at(2).load_int()
            with f.loop(lines * share // shares, lines * (share + 1) // shares) as line:
                f.prefetch(f.pointer(start + line.index * LINE_BYTES, "i64"), 2)


class _Place:
    """Where a tile reads and writes."""

    def __init__(self, f: Kernel, spec: TileSpec, arg: dict[Arg, Int], tile: Int) -> None:
        size = ELEMENT_BYTES[spec.element]
        row, tile = tile % arg[Arg.N_ROWS], tile // arg[Arg.N_ROWS]
        tap, tile = tile % arg[Arg.N_TAPS], tile // arg[Arg.N_TAPS]
        self.outer, col = tile // arg[Arg.OUTER_EVERY] % arg[Arg.N_OUTER], tile // arg[Arg.COL_EVERY] % arg[Arg.N_COLS]
        group = tile // (arg[Arg.N_OUTER] * arg[Arg.N_COLS])
        words = f.ptr_arg(Arg.TAPS, "i64").at(tap * KW_WORDS)
        self.begin, self.end = words.at(3).load_int(), words.at(4).load_int()
        row_offset = (row * arg[Arg.ROW_STEP]).minimum(arg[Arg.ROW_LAST])
        col_offset = (col * arg[Arg.COL_STEP]).minimum(arg[Arg.COL_LAST])
        self.scalars = f.ptr_arg(Arg.SCALARS, spec.element).at_bytes(
            group * arg[Arg.SCALAR_GROUP] + row_offset + words.load_int()
        )
        self.vectors = f.ptr_arg(Arg.VECTORS, spec.element).at_bytes(
            group * arg[Arg.VECTOR_GROUP] + col_offset + words.at(1).load_int()
        )
        top, left = row * spec.rows, col * spec.columns
        self.rows_owned = self.columns_owned = self.columns_read = None
        if spec.ragged_rows:
            lowest = arg[Arg.ROWS] - spec.rows
            self.rows_owned = (top < lowest).select((lowest - top).minimum(spec.rows), f.i64(spec.rows))
            top = top.minimum(lowest)
        if spec.ragged_cols:
            rightmost, width = arg[Arg.COLS] - spec.columns, f.i64(spec.columns)
            if not spec.valid:
                rightmost, width = rightmost.maximum(0), width.minimum(arg[Arg.COLS])
            self.columns_read = width
            self.columns_owned = (left < rightmost).select((rightmost - left).minimum(spec.columns), width)
            left = left.minimum(rightmost)
        offset = (
            group * arg[Arg.OUT_GROUP]
            + self.outer * arg[Arg.OUT_OUTER]
            + words.at(2).load_int()
            + top * arg[Arg.OUT_ROW]
            + left * size
        )
        self.total = f.ptr_arg(Arg.TOTAL, spec.element).at_bytes(offset)
        self.out_row = arg[Arg.OUT_ROW]

    def masks(self, f: Kernel, spec: TileSpec, owned: bool) -> list[Bit | None]:
        """One mask a vector: lanes that exist and, if asked, that this tile owns; None for all."""
        masks: list[Bit | None] = []
        left = 0
        for number, lanes in enumerate(spec.lanes):
            narrow = number == len(spec.lanes) - 1 and spec.valid != lanes
            if owned and self.columns_owned is not None:
                masks.append(f.lane_mask(lanes, self.columns_owned - left))
            elif not spec.valid:
                assert self.columns_read is not None
                masks.append(f.lane_mask(lanes, self.columns_read - left))
            else:
                masks.append(f.lane_mask(lanes, spec.valid) if narrow else None)
            left += lanes
        return masks


def _levels(f: Kernel, spec: TileSpec, arg: dict[Arg, Int], tile: Int) -> Levels:
    """The running sums of a tile: some levels are the thread's, those above are the tile's own."""
    of_thread = arg[Arg.LEVELS] + f.thread * arg[Arg.THREAD_BYTES]
    of_tile = arg[Arg.LEVELS] + arg[Arg.TILE_LEVELS] + tile * spec.tile_bytes - arg[Arg.THREAD_LEVELS] * arg[Arg.LEVEL_BYTES]

    def base(level: Int) -> Int:
        own = level * spec.tile_bytes + of_thread
        return (level < arg[Arg.THREAD_LEVELS]).pick(own, level * arg[Arg.LEVEL_BYTES] + of_tile)

    steps = Steps(
        f.ptr_arg(Arg.STEPS, "i64"), arg[Arg.IMAGE_STEPS], arg[Arg.LAST_STEPS], arg[Arg.N_STEPS], arg[Arg.IMAGE_LEVEL]
    )  # fmt: skip
    return Levels(f, spec.element, steps, base)


def _zeros(f: Kernel, spec: TileSpec) -> list[Num]:
    return [f.zeros(spec.element, lanes) for _ in range(spec.rows) for lanes in spec.lanes]


def _blocks(
    f: Kernel, spec: TileSpec, arg: dict[Arg, Int], place: _Place, levels: Levels, scalars: Ptr, vectors: Ptr,
    blocks: tuple[Int, Int],
) -> list[Num]:  # fmt: skip
    """The blocks of one band of one image run through the tile; the last block's sum, with what it was added to."""
    table = f.ptr_arg(Arg.BLOCKS, "i64")
    with f.loop(blocks[0], blocks[1], carry=_zeros(f, spec)) as block:
        words = table.at(block.index * BLOCK_WORDS)
        sums = _chain(f, spec, arg, place, scalars, vectors, (words.load_int(), words.at(1).load_int()))
        block.carry = levels.end_block(words.at(2).load_int(), words.at(3).load_int(), words.at(4).load_int(), sums)
    return block.result


def _chain(
    f: Kernel, spec: TileSpec, arg: dict[Arg, Int], place: _Place, scalars: Ptr, vectors: Ptr, segments: tuple[Int, Int]
) -> list[Num]:  # fmt: skip
    """The pixels of one block, one chain a sum."""
    pixel = _Pixel(f, spec, arg, place)
    steps_ahead = arg[Arg.SCALAR_PIXEL] * PIXELS_AHEAD, arg[Arg.VECTOR_PIXEL] * PIXELS_AHEAD
    table = f.ptr_arg(Arg.SEGMENTS, "i64")
    with f.loop(segments[0], segments[1], carry=_zeros(f, spec)) as segment:
        words = table.at(segment.index * SEGMENT_WORDS)
        begin = words.at(2).load_int().maximum(place.begin)
        end = words.at(3).load_int().minimum(place.end)
        s_row, v_row = scalars.at_bytes(words.load_int()), vectors.at_bytes(words.at(1).load_int())
        with f.loop(begin, end, carry=segment.carry) as ow:
            scalar = s_row.at_bytes(ow.index * arg[Arg.SCALAR_PIXEL])
            vector = v_row.at_bytes(ow.index * arg[Arg.VECTOR_PIXEL])
            for operand, step, lines in zip((scalar, vector), steps_ahead, spec.ahead, strict=True):
                for line in range(lines):
                    f.prefetch(operand.at_bytes(step + line * LINE_BYTES))
            ow.carry = pixel.added(scalar, vector, ow.carry)
        segment.carry = ow.result
    return segment.result


class _Pixel:
    """One position of one image: a row of vectors, a column of scalars."""

    def __init__(self, f: Kernel, spec: TileSpec, arg: dict[Arg, Int], place: _Place) -> None:
        self.spec, self.row, self.masks = spec, arg[Arg.SCALAR_ROW], place.masks(f, spec, owned=False)

    def vectors(self, at: Ptr) -> list[Num]:
        values, left = [], 0
        for lanes, mask in zip(self.spec.lanes, self.masks, strict=True):
            values.append(at.at(left).load(lanes, mask))
            left += lanes
        return values

    def scalars(self, at: Ptr) -> Iterator[Num]:
        for r in range(self.spec.rows):
            yield at.load() if self.spec.apart else at.at(r).load()
            if self.spec.apart and r + 1 < self.spec.rows:
                at = at.at_bytes(self.row)

    def added(self, scalars: Ptr, vectors: Ptr, sums: list[Num]) -> list[Num]:
        """Each product on top of a chain, in one rounding."""
        values = self.vectors(vectors)
        out: list[Num] = []
        for one in self.scalars(scalars):
            for value in values:
                out.append(one.splat(value.lanes).fma(value, sums[len(out)]))
        return out

    def products(self, scalars: Ptr, vectors: Ptr) -> list[Num]:
        values = self.vectors(vectors)
        return [one.splat(value.lanes) * value for one in self.scalars(scalars) for value in values]


def _together(f: Kernel, spec: TileSpec, arg: dict[Arg, Int], place: _Place, first: Int, block: Int) -> list[Num]:
    """The sum of TOGETHER images of one position, as their tree; zeros where the position is left out."""
    pixel = _Pixel(f, spec, arg, place)
    words = f.ptr_arg(Arg.BLOCKS, "i64").at(block * BLOCK_WORDS)
    table = f.ptr_arg(Arg.SEGMENTS, "i64")
    with f.loop(words.load_int(), words.at(1).load_int(), carry=_zeros(f, spec)) as segment:  # one, or none
        words = table.at(segment.index * SEGMENT_WORDS)
        scalars = place.scalars.at_bytes(words.load_int() + first * arg[Arg.SCALAR_IMAGE])
        vectors = place.vectors.at_bytes(words.at(1).load_int() + first * arg[Arg.VECTOR_IMAGE])

        def tree(image: int, images: int) -> list[Num]:
            if images == 1:
                return pixel.products(
                    scalars.at_bytes(arg[Arg.SCALAR_IMAGE] * image), vectors.at_bytes(arg[Arg.VECTOR_IMAGE] * image)
                )
            half = images // 2
            return [a + b for a, b in zip(tree(image, half), tree(image + half, half), strict=True)]

        with f.loop(place.begin, place.end, carry=segment.carry) as ow:  # one, or none
            ow.carry = tree(0, TOGETHER)
        segment.carry = ow.result
    return segment.result


def _store(f: Kernel, spec: TileSpec, place: _Place, sums: list[Num]) -> None:
    """The weights that are this tile's."""
    masks, width = place.masks(f, spec, owned=True), len(spec.lanes)
    for r in range(spec.rows):
        row, left = place.total.at_bytes(place.out_row * r), 0
        cells = []
        for lanes in spec.lanes:
            cells.append(row.at(left))
            left += lanes
        line = list(zip(cells, sums[r * width : (r + 1) * width], masks, strict=True))
        if place.rows_owned is None:
            for cell, value, mask in line:
                cell.store(value, mask)
            continue
        with f.when(place.rows_owned > r):
            for cell, value, mask in line:
                cell.store(value, mask)
