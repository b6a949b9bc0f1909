"""Weight gradient: a matrix of weights kept in registers while the pixels of an image run past it.

grad_w[o, i, k] = sum over n, oh, ow of  x[n, i, oh*stride - lo + k*dilation] * y[n, o, oh, ow]  is, for one tap, a product
of two matrices with pixels as the inner index. One of the operands gives `rows` scalars a pixel, the other `vectors`
vectors; which is which, and whether the taps of a kernel row (a *run*, neighbours in memory) belong to the scalars, to the
vectors or to the loop, is the plan's choice (`weight_grad_plan`). The loops of one task:

    for n in images (groups of `images per turn`)
        for band in bands                            # output rows that fit the cache; a chain is put down and taken up
            for tile in this task's part of the tiles    # columns, taps, rows; rows fastest (a run: columns before taps)
                for n in this turn's images
                    sum[r][v] = +0, or the chain so far
                    for segment in the band's segments that this tap reaches    # part of one row of output pixels
                        for ow in segment
                            sum[r][v] = fma(scalar[ow][r], vector[ow][v], sum[r][v])
                    chain or total <- sum

The first two loops are one here: a *round* is a band of one turn's images. With more than one thread a task is a part of the
tiles in some rounds, after the same part's task before it, whose sums it takes up; `runtime.lockstep` keeps the threads in step, so that
they read the same band at about the same time, once from memory.

The order of one sum is (image, oh, ow), whatever the tile: images are separate chains, added in order. Positions where x
is padding are left out by the segments and by the range of the tap; `weight_grad_run` says when that may be done.
The last tile of a matrix whose size the tile does not divide lies over its neighbour; each weight is stored by one tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Bit, Int, Kernel, Num, Ptr

__all__ = ["KW_WORDS", "SEGMENT_WORDS", "SPAN_WORDS", "Arg", "TileSpec", "build"]

PIXELS_AHEAD = 24
SEGMENT_WORDS = 4  # scalar offset, vector offset (bytes, of ow = 0), first ow, last ow + 1
SPAN_WORDS = 3  # 0 for the scalar operand and 1 for the vector operand, offset in the image, lines
KW_WORDS = 5  # scalar offset, vector offset, result offset (bytes), first valid ow, last valid ow + 1


class Arg(IntEnum):
    """Where an argument lies in the vector. Offsets and strides are in bytes."""

    SCALARS = 0  # addresses
    VECTORS = 1
    TOTAL = 2
    CHAIN = 3
    SEGMENTS = 4  # table: SEGMENT_WORDS words each
    BANDS = 5  # table: first segment of (outer tap, band), bands + 1 entries an outer tap
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
    BEGUN = 32  # 1 if images before these were summed already, else 0
    PARTS = 33
    ROUNDS_PER_TASK = 34
    SPANS = 35  # table: SPAN_WORDS words each, what a band reads that the one before did not
    SPAN_BOUNDS = 36  # table: first span of each band, bands + 1 entries
    OUTER_EVERY = 37  # tiles of one row tile and last tap until the next outer tap, and until the next column tile
    COL_EVERY = 38
    SCALAR_ROW = 39  # scalar operand: from a row to the next, where they are no neighbours


@dataclass(frozen=True, slots=True)
class TileSpec:
    """What the code of one tile depends on.

    element: f32 or f64; rows: scalars a pixel; lanes: width of each vector (a narrower last one wastes fewer lanes);
    valid: lanes of the last vector that exist (its width unless the matrix is narrower than the tile; 0 where only the call
    knows how wide the matrix is: with ragged_rows and ragged_cols); ragged_rows,
    ragged_cols: the last tile overlaps; single: one image, one band, so that nothing is taken up or added;
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
    single: bool
    ahead: tuple[int, int] = (0, 0)
    early: bool = False
    far: bool = False
    apart: bool = False

    @property
    def columns(self) -> int:
        """Columns of the matrix that a tile covers."""
        return sum(self.lanes[:-1]) + (self.valid or self.lanes[-1])

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
            segments = bounds.load_int(), bounds.at(1).load_int()
            if spec.far:
                for r in range(spec.rows):
                    for line in range(0, spec.columns * ELEMENT_BYTES[spec.element], LINE_BYTES):
                        f.prefetch(place.total.at_bytes(place.out_row * r).at_bytes(line), write=True)
            with f.loop(begin, end) as n:
                sums = _start(f, spec, place, band)
                scalars = place.scalars.at_bytes(n.index * arg[Arg.SCALAR_IMAGE])
                vectors = place.vectors.at_bytes(n.index * arg[Arg.VECTOR_IMAGE])
                sums = _band(f, spec, arg, place, scalars, vectors, segments, sums)
                _finish(f, spec, arg, place, n.index, band, sums)
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
        self.offset = offset
        self.total = f.ptr_arg(Arg.TOTAL, spec.element).at_bytes(offset)
        self.chain = f.ptr_arg(Arg.CHAIN, spec.element).at_bytes(offset)
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


def _cells(spec: TileSpec, base: Ptr, out_row: Int) -> list[Ptr]:
    """Addresses of a tile's vectors in memory, row by row."""
    cells = []
    for r in range(spec.rows):
        row, left = base.at_bytes(out_row * r), 0
        for lanes in spec.lanes:
            cells.append(row.at(left))
            left += lanes
    return cells


def _start(f: Kernel, spec: TileSpec, place: _Place, band: Int) -> list[Num]:
    """+0 in the first band of an image, else the chain that the band before put down."""
    zeros = [f.zeros(spec.element, lanes) for _ in range(spec.rows) for lanes in spec.lanes]
    if spec.single:
        return zeros
    masks = place.masks(f, spec, owned=False)
    with f.loop(0, band.minimum(1), carry=zeros) as later:  # one turn, or none in the first band
        later.carry = [
            cell.load(spec.lanes[number % len(spec.lanes)], masks[number % len(spec.lanes)])
            for number, cell in enumerate(_cells(spec, place.chain, place.out_row))
        ]
    return later.result


def _band(
    f: Kernel, spec: TileSpec, arg: dict[Arg, Int], place: _Place, scalars: Ptr, vectors: Ptr,
    segments: tuple[Int, Int], sums: list[Num],
) -> list[Num]:  # fmt: skip
    """The pixels of one band of one image run through the tile."""
    masks = place.masks(f, spec, owned=False)

    def pixel(scalar: Ptr, vector: Ptr, sums: list[Num]) -> list[Num]:
        values, left = [], 0
        for lanes, mask in zip(spec.lanes, masks, strict=True):
            values.append(vector.at(left).load(lanes, mask))
            left += lanes
        out = []
        for r in range(spec.rows):
            one = scalar.load() if spec.apart else scalar.at(r).load()
            for v, lanes in enumerate(spec.lanes):
                out.append(one.splat(lanes).fma(values[v], sums[r * len(spec.lanes) + v]))
            if spec.apart and r + 1 < spec.rows:
                scalar = scalar.at_bytes(row)
        return out

    row = arg[Arg.SCALAR_ROW]
    steps_ahead = arg[Arg.SCALAR_PIXEL] * PIXELS_AHEAD, arg[Arg.VECTOR_PIXEL] * PIXELS_AHEAD
    table = f.ptr_arg(Arg.SEGMENTS, "i64")
    with f.loop(segments[0], segments[1], carry=sums) as segment:
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
            ow.carry = pixel(scalar, vector, ow.carry)
        segment.carry = ow.result
    return segment.result


def _finish(f: Kernel, spec: TileSpec, arg: dict[Arg, Int], place: _Place, n: Int, band: Int, sums: list[Num]) -> None:
    """The sums to the chain's memory, or after the last band to the total: as they are for image 0, added for the others."""
    masks = place.masks(f, spec, owned=True)
    where = place.total
    reads = place.masks(f, spec, owned=False)
    if not spec.single:
        ended = band.equals(arg[Arg.N_BANDS] - 1)
        again = ended.select((n + arg[Arg.BEGUN]).minimum(1), f.i64(0))
        with f.loop(0, again, carry=sums) as more:  # one turn at the end of every image but the first
            more.carry = [
                total.load(s.lanes, reads[number % len(spec.lanes)]) + s
                for number, (total, s) in enumerate(zip(_cells(spec, place.total, place.out_row), more.carry, strict=True))
            ]
        sums = more.result
        base = ended.select(arg[Arg.TOTAL], arg[Arg.CHAIN])
        where = f.pointer(base, spec.element).at_bytes(place.offset)
    cells = _cells(spec, where, place.out_row)
    width = len(spec.lanes)
    for r in range(spec.rows):
        line = list(zip(cells, sums, masks * spec.rows, strict=True))[r * width : (r + 1) * width]
        if place.rows_owned is None:
            for cell, value, mask in line:
                cell.store(value, mask)
            continue
        with f.when(place.rows_owned > r):
            for cell, value, mask in line:
                cell.store(value, mask)
