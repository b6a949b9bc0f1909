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

Where an image is a single position (`together`), the products of several images are added as their tree in registers. Where it has few (`abreast`),
several images run past the tile side by side, each with sums of its own, and their tree is added in registers: a sum is put down once for so many
images, which takes as long as two multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.jit.index.running_sums_kernel import Levels, Steps, level_bytes
from preimage.engines.jit.weight_grad.tile_arguments import TileArguments
from preimage.records import record

__all__ = ["TOGETHER", "TileSpec", "build"]

PIXELS_AHEAD = 24
TOGETHER = 8  # images of one position whose products are added in registers: a power of two


@record
class TileSpec:
    """What the code of one tile depends on.

    element: f32 or f64; rows: scalars a pixel; lanes: width of each vector (a narrower last one wastes fewer lanes);
    valid: lanes of the last vector that exist (its width unless the matrix is narrower than the tile; 0 where only the call
    knows how wide the matrix is: with ragged_rows and ragged_cols); ragged_rows,
    ragged_cols: the last tile overlaps; together: images are single positions, TOGETHER of them are summed in registers; abreast: so many
    images (a power of two) run past the tile at once, of one block of positions each;
    ahead: cache lines of the scalar and of the vector operand prefetched PIXELS_AHEAD pixels before they are read;
    prefetch: every tile prefetches a share of what the next round reads (into the second cache); far: each tile prefetches the
    lines that it will write before it computes; apart: a pixel's scalars are `scalar_row` bytes apart.
    """

    arguments: ClassVar = TileArguments

    element: str
    rows: int
    lanes: tuple[int, ...]
    valid: int
    ragged_rows: bool
    ragged_cols: bool
    together: bool = False
    abreast: int = 0
    ahead: tuple[int, int] = (0, 0)
    prefetch: bool = False
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
    args = TileArguments.read(f, spec, at_entry=True)
    part, number = f.task % args.parts, f.task // args.parts
    first = part * args.tiles_per_part
    last = (first + args.tiles_per_part).minimum(args.tiles)
    begun = number * args.rounds_per_task
    ended = (begun + args.rounds_per_task).minimum(args.rounds)
    with f.loop(begun, ended) as round_:
        band = round_.index % args.n_bands
        begin = round_.index // args.n_bands * args.images_per_turn
        end = (begin + args.images_per_turn).minimum(args.images)
        with f.loop(first, last) as tile:
            if spec.prefetch:
                _prefetch_round(f, args, round_.index + 1, tile.index - first, last - first)
            place = _Place(f, spec, args, tile.index)
            bounds = args.bands.at(place.outer * (args.n_bands + 1) + band)
            blocks = bounds.load_int(), bounds.at(1).load_int()
            store = partial(_store, f, spec, place)
            levels = _levels(f, spec, args, tile.index)
            if spec.far:
                for r in range(spec.rows):
                    for line in range(0, spec.columns * ELEMENT_BYTES[spec.element], LINE_BYTES):
                        f.prefetch(place.total.at_bytes(place.out_row * r).at_bytes(line), write=True)
            alone = begin
            if spec.together or spec.abreast:
                sum_of, count = (_together, TOGETHER) if spec.together else (_abreast, spec.abreast)
                alone = (end - begin) // count * count + begin
                with f.loop(begin, alone, count) as n:
                    sums = sum_of(f, spec, args, place, n.index, blocks[0])
                    levels.end_image(n.index + (count - 1), args.images, sums, store, count.bit_length() - 1)
            with f.loop(alone, end) as n:
                scalars = place.scalars.at_bytes(n.index * args.scalar_image)
                vectors = place.vectors.at_bytes(n.index * args.vector_image)
                sums = _blocks(f, spec, args, place, levels, scalars, vectors, blocks)
                with f.when(band.equals(args.n_bands - 1)):
                    levels.end_image(n.index, args.images, sums, store)
    return f.ir()


def _prefetch_round(f: Kernel, args: TileArguments, number: Int, share: Int, shares: Int) -> None:
    """Prefetch a share of the lines that a round will read first."""
    with f.when(number < args.rounds):
        n, band = number // args.n_bands, number % args.n_bands
        bounds = args.span_bounds.at(band)
        images = (
            n * args.scalar_image + args.word(TileArguments.scalars),
            n * args.vector_image + args.word(TileArguments.vectors),
        )
        with f.loop(bounds.load_int(), bounds.at(1).load_int()) as span:
            memory = args.spans[span.index]
            start = memory.operand.equals(0).pick(*images) + memory.offset
            lines = memory.lines
            with f.loop(lines * share // shares, lines * (share + 1) // shares) as line:
                f.prefetch(f.pointer(start + line.index * LINE_BYTES, "i64"), 2)


class _Place:
    """Where a tile reads and writes."""

    def __init__(self, f: Kernel, spec: TileSpec, args: TileArguments, tile: Int) -> None:
        size = ELEMENT_BYTES[spec.element]
        row, tile = tile % args.n_rows, tile // args.n_rows
        tap, tile = tile % args.n_taps, tile // args.n_taps
        self.outer, col = tile // args.outer_every % args.n_outer, tile // args.col_every % args.n_cols
        group = tile // (args.n_outer * args.n_cols)
        entry = args.taps[tap]
        self.begin, self.end = entry.first, entry.end
        row_offset = (row * args.row_step).minimum(args.row_last)
        col_offset = (col * args.col_step).minimum(args.col_last)
        self.scalars = args.scalars.at_bytes(group * args.scalar_group + row_offset + entry.scalars)
        self.vectors = args.vectors.at_bytes(group * args.vector_group + col_offset + entry.vectors)
        top, left = row * spec.rows, col * spec.columns
        self.rows_owned = self.columns_owned = self.columns_read = None
        if spec.ragged_rows:
            lowest = args.rows - spec.rows
            self.rows_owned = (top < lowest).select((lowest - top).minimum(spec.rows), f.i64(spec.rows))
            top = top.minimum(lowest)
        if spec.ragged_cols:
            rightmost, width = args.cols - spec.columns, f.i64(spec.columns)
            if not spec.valid:
                rightmost, width = rightmost.maximum(0), width.minimum(args.cols)
            self.columns_read = width
            self.columns_owned = (left < rightmost).select((rightmost - left).minimum(spec.columns), width)
            left = left.minimum(rightmost)
        offset = group * args.out_group + self.outer * args.out_outer + entry.result + top * args.out_row + left * size
        self.total = args.total.at_bytes(offset)
        self.out_row = args.out_row

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


def _levels(f: Kernel, spec: TileSpec, args: TileArguments, tile: Int) -> Levels:
    """The running sums of a tile: some levels are the thread's, those above are the tile's own."""
    of_thread = args.word(TileArguments.levels) + f.thread * args.thread_bytes
    of_tile = args.word(TileArguments.levels) + args.tile_levels + tile * spec.tile_bytes - args.thread_levels * args.level_bytes

    def base(level: Int) -> Int:
        own = level * spec.tile_bytes + of_thread
        return (level < args.thread_levels).pick(own, level * args.level_bytes + of_tile)

    steps = Steps(
        args.steps, args.image_steps, args.last_steps, args.n_steps, args.image_level
    )  # fmt: skip
    return Levels(f, spec.element, steps, base)


def _zeros(f: Kernel, spec: TileSpec) -> list[Num]:
    return [f.zeros(spec.element, lanes) for _ in range(spec.rows) for lanes in spec.lanes]


def _blocks(
    f: Kernel, spec: TileSpec, args: TileArguments, place: _Place, levels: Levels, scalars: Ptr, vectors: Ptr,
    blocks: tuple[Int, Int],
) -> list[Num]:  # fmt: skip
    """The blocks of one band of one image run through the tile; the last block's sum, with what it was added to."""
    table = args.blocks
    with f.loop(blocks[0], blocks[1], carry=_zeros(f, spec)) as k:
        block = table[k.index]
        sums = _chain(f, spec, args, place, scalars, vectors, (block.first_segment, block.end_segment))
        k.carry = levels.end_block(block.first_step, block.end_step, block.level, sums)
    return k.result


def _chain(
    f: Kernel, spec: TileSpec, args: TileArguments, place: _Place, scalars: Ptr, vectors: Ptr, segments: tuple[Int, Int]
) -> list[Num]:  # fmt: skip
    """The pixels of one block, one chain a sum."""
    pixel = _Pixel(f, spec, args, place)
    steps_ahead = args.scalar_pixel * PIXELS_AHEAD, args.vector_pixel * PIXELS_AHEAD
    table = args.segments
    with f.loop(segments[0], segments[1], carry=_zeros(f, spec)) as k:
        segment = table[k.index]
        begin, end = segment.first.maximum(place.begin), segment.end.minimum(place.end)
        s_row, v_row = scalars.at_bytes(segment.scalars), vectors.at_bytes(segment.vectors)
        with f.loop(begin, end, carry=k.carry) as ow:
            scalar = s_row.at_bytes(ow.index * args.scalar_pixel)
            vector = v_row.at_bytes(ow.index * args.vector_pixel)
            for operand, step, lines in zip((scalar, vector), steps_ahead, spec.ahead, strict=True):
                for line in range(lines):
                    f.prefetch(operand.at_bytes(step + line * LINE_BYTES))
            ow.carry = pixel.added(scalar, vector, ow.carry)
        k.carry = ow.result
    return k.result


class _Pixel:
    """One position of one image: a row of vectors, a column of scalars."""

    def __init__(self, f: Kernel, spec: TileSpec, args: TileArguments, place: _Place) -> None:
        self.spec, self.row, self.masks = spec, args.scalar_row, place.masks(f, spec, owned=False)

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


def _together(f: Kernel, spec: TileSpec, args: TileArguments, place: _Place, first: Int, block: Int) -> list[Num]:
    """The sum of TOGETHER images of one position, as their tree; zeros where the position is left out."""
    pixel = _Pixel(f, spec, args, place)
    only = args.blocks[block]
    table = args.segments
    with f.loop(only.first_segment, only.end_segment, carry=_zeros(f, spec)) as k:  # one, or none
        segment = table[k.index]
        scalars = place.scalars.at_bytes(segment.scalars + first * args.scalar_image)
        vectors = place.vectors.at_bytes(segment.vectors + first * args.vector_image)

        def tree(image: int, images: int) -> list[Num]:
            if (
                image == 0 and images == 1
            ):  # on top of what the loop carries: else LLVM moves all sums behind it, and runs out of registers
                return pixel.added(scalars, vectors, ow.carry)
            if images == 1:
                return pixel.products(scalars.at_bytes(args.scalar_image * image), vectors.at_bytes(args.vector_image * image))
            half = images // 2
            return [a + b for a, b in zip(tree(image, half), tree(image + half, half), strict=True)]

        with f.loop(place.begin, place.end, carry=k.carry) as ow:  # one, or none
            ow.carry = tree(0, TOGETHER)
        k.carry = ow.result
    return k.result


def _abreast(f: Kernel, spec: TileSpec, args: TileArguments, place: _Place, first: Int, block: Int) -> list[Num]:
    """The sum of `spec.abreast` images of one block, as their tree: each image a chain of its own."""
    pixel, images = _Pixel(f, spec, args, place), range(spec.abreast)
    only = args.blocks[block]
    table = args.segments
    each = spec.rows * len(spec.lanes)
    zeros = [zero for _ in images for zero in _zeros(f, spec)]
    with f.loop(only.first_segment, only.end_segment, carry=zeros) as k:
        segment = table[k.index]
        begin, end = segment.first.maximum(place.begin), segment.end.minimum(place.end)
        s_row = place.scalars.at_bytes(segment.scalars + first * args.scalar_image)
        v_row = place.vectors.at_bytes(segment.vectors + first * args.vector_image)
        with f.loop(begin, end, carry=k.carry) as ow:
            scalar = s_row.at_bytes(ow.index * args.scalar_pixel)
            vector = v_row.at_bytes(ow.index * args.vector_pixel)
            made: list[Num] = []
            for n in images:
                own = ow.carry[n * each : (n + 1) * each]
                made += pixel.added(scalar.at_bytes(args.scalar_image * n), vector.at_bytes(args.vector_image * n), own)
            ow.carry = made
        k.carry = ow.result
    nodes = [k.result[n * each : (n + 1) * each] for n in images]
    while len(nodes) > 1:
        nodes = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


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
