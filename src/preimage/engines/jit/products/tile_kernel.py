"""Matrix products C = A B (+ bias, activation): tiles of `rows` x `vectors` vectors of columns whose sums stay in registers.

    for chunk of blocks of terms                 # so many that a panel of B is a small part of the second cache
        for panel of columns in this task        # vectors * lanes columns of B
            for tile of rows in this task
                for group of blocks in the chunk
                    for block in the group       # a block: a chain from +0 (docs/contract.md); a few side by side in small tiles
                        sum[r][v] = +0
                        for k in the block
                            sum[r][v] = fma(A[r, k], B[k, v], sum[r][v])
                        total[r][v] += sum[r][v]
                    total[level 1] += total      # levels above wait in memory: a sum of groups, of groups of groups, ...
                    where those are complete     total[next level] += total[level]; total[level] = 0
                after the last chunk             C[r, v] = epilogue(totals, from the innermost level out)

A and B are read where they lie, or packed beforehand (`pack_kernel`), or a thread copies the chunk's part of its panels of B
for itself ("local"). A's elements are broadcast, so either of its axes may be
contiguous. B's columns fill vectors: neighbours in memory ("panel"), or rows of memory that are transposed in registers
("transposed"). Tiles and panels at the end overlap those before them: the same sums are then written twice. All sizes are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueSpec, finish
from preimage.engines.ir.ordered import added
from preimage.engines.jit.products.columns import column_starts, copy_lines, copy_transposed, first_column, line_of
from preimage.engines.jit.products.rows import row_places
from preimage.engines.jit.products.tile_arguments import TileArguments
from preimage.engines.jit.products.transpose import across
from preimage.records import record

__all__ = ["TileSpec", "build"]

Rows = Callable[[Int], list[Ptr]]

UNROLL_PRODUCTS = 48  # about this many multiply-adds stand in the body of the innermost loop: a block is a few turns of it
PANEL_AHEAD = 1024  # bytes: a packed panel that a single tile reads comes as fast as it is asked for


@record
class TileSpec:
    """What the code depends on.

    a, b, out: element types; rows, vectors, lanes: the tile; by_rows: A's terms are contiguous (else its rows are);
    a_step, b_step: elements from one term to the next, where they are known (packed), else 0; transposed: B's terms are contiguous;
    masked: there are fewer columns than a panel has; ahead: B comes from far, and is prefetched;
    local: the chunk's part of the task's panels is copied first; depth: levels of sums above the blocks, at most 2 (of groups and
    all above them); chunked: there are several chunks; far_out: C is prefetched, since it comes from far; bias_of_rows: it is one
    number for a row, not for a column; along_rows: all panels of a tile come before the next tile.
    """

    arguments: ClassVar = TileArguments

    a: str
    b: str
    out: str
    lanes: int
    rows: int
    vectors: int
    by_rows: bool
    a_step: int
    transposed: bool
    b_step: int
    masked: bool
    ahead: bool
    local: bool
    finish: EpilogueSpec
    depth: int
    chunked: bool
    far_out: bool
    bias_of_rows: bool = False
    along_rows: bool = False

    @property
    def together(self) -> int:
        """Blocks whose chains run side by side, so that none waits for itself: a multiply-add takes 4 cycles, and two begin in each."""
        if self.transposed and not self.local:
            return 2
        most = 4 if not self.ahead else 1 if self.b_step else 2  # memory gives fewer streams of lines best
        return min(most, max(1, 8 // (self.rows * self.vectors)))

    @property
    def sums(self) -> str:
        """The type of the sums."""
        return "f64" if self.a == "f64" else "f32"

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def line(self) -> int:
        """Terms that are transposed one after another: those of a cache line, so that it is read at once."""
        return max(self.lanes, LINE_BYTES // ELEMENT_BYTES[self.b])

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: TileSpec) -> str:
    """The kernel's IR text. Tasks: products of the batch x shares of the columns x shares of the rows."""
    f = Kernel()
    args = TileArguments.read(f, spec, at_entry=True)
    row_task, rest = f.task % args.row_tasks, f.task // args.row_tasks
    column_task, product = rest % args.column_tasks, rest // args.column_tasks
    a = args.input.at_bytes(args.a_places.at(product).load_int())
    b = args.weight.at_bytes(args.b_places.at(product).load_int())
    out = product * args.out_product
    totals = args.totals.at_bytes(f.thread * args.thread_bytes)
    local = totals.at_bytes(args.local)
    tile_0, panel_0 = row_task * args.task_tiles, column_task * args.task_panels
    tile_1 = (tile_0 + args.task_tiles).minimum(args.tiles)
    panel_1 = (panel_0 + args.task_panels).minimum(args.panels)
    with f.loop(0, args.chunks) as chunk:
        first = chunk.index * args.chunk
        last = (first + args.chunk).minimum(args.blocks)
        if spec.local:
            end = (last * args.block).minimum(args.terms)
            (copy_transposed if spec.transposed else copy_lines)(f, spec, b, local, first * args.block, end, panel_0, panel_1)

        def panel_of(number: Int) -> tuple[Int, Ptr]:
            column = first_column(f, spec, number)
            if spec.local:
                return column, local.at_bytes((number - panel_0) * args.local_panel).at(first * args.block * -spec.width)
            return column, b.at_bytes(number * args.b_panel + column * args.b_start)

        ranges = [(panel_0, panel_1), (tile_0, tile_1)]
        outer, inner = ranges[::-1] if spec.along_rows else ranges
        with f.loop(*outer) as around:
            place = None if spec.along_rows else panel_of(around.index)
            with f.loop(*inner) as within:
                panel, tile = (within, around) if place is None else (around, within)
                column, b_panel = place or panel_of(panel.index)
                row = (tile.index * spec.rows).minimum(args.rows - spec.rows)
                a_tile = a.at_bytes(tile.index * args.a_tile + row * args.a_start)
                at = out + row * args.out_row + column * ELEMENT_BYTES[spec.out]
                first_row = product % args.bias_cycle * args.rows + row if spec.bias_of_rows else None
                kept = totals
                if spec.chunked:
                    number = (panel.index - panel_0) * args.task_tiles + (tile.index - tile_0)
                    kept = totals.at_bytes(number * args.tile_bytes)
                if spec.far_out:
                    for r in range(spec.rows):
                        f.prefetch(args.output.at_bytes(at + args.out_row * r), write=True)
                sums = _sums(f, spec, a_tile, b_panel, kept, first, last)
                with f.when(last.equals(args.blocks)) if spec.chunked else nullcontext():
                    _store(f, spec, _folded(f, spec, sums, kept), at, column, first_row)
    return f.ir()


def _args(f: Kernel, spec: TileSpec) -> TileArguments:
    """The arguments, loaded where they are read."""
    return TileArguments.read(f, spec)


def _level(spec: TileSpec, kept: Ptr, level: Int | int) -> list[Ptr]:
    """Where the sums of a level wait."""
    count = spec.rows * spec.vectors
    start = kept.at(level * (count * spec.lanes))
    return [start.at(k * spec.lanes) for k in range(count)]


def _sums(f: Kernel, spec: TileSpec, a: Ptr, b: Ptr, kept: Ptr, first: Int, last: Int) -> list[Num]:
    """The sums over the last group of a chunk's blocks; those of the groups before it are added to the levels above, in memory."""
    args, zeros = _args(f, spec), [f.zeros(spec.sums, spec.lanes)] * (spec.rows * spec.vectors)
    if spec.depth == 0:
        return _chain(f, spec, a, b, [f.i64(0)], args.terms, zeros)
    if spec.depth == 1 and not spec.chunked:
        return _blocks(f, spec, a, b, first, last, zeros)
    size = args.groups.load_int()
    with f.loop(first // size, (last + (size - 1)) // size, carry=zeros, once=True) as group:
        whole = group.index * size
        begin, end = whole.maximum(first), (whole + size).minimum(last)
        start = zeros
        if spec.chunked:
            with f.when(begin > whole, carry=zeros) as going_on:
                going_on.carry = [place.load(spec.lanes) for place in _level(spec, kept, 0)]
            start = going_on.result
        group.carry = _blocks(f, spec, a, b, begin, end, start)
        with f.when(end < args.blocks):
            _keep(f, spec, kept, group.carry, end, whole + size)
    return group.result


def _blocks(f: Kernel, spec: TileSpec, a: Ptr, b: Ptr, first: Int, last: Int, totals: list[Num]) -> list[Num]:
    """The totals with blocks of one group added in order. The very last block may have fewer terms."""
    args, count, together = _args(f, spec), len(totals), spec.together
    zeros = [f.zeros(spec.sums, spec.lanes)] * count
    if together > 1:
        end = first + (last.minimum(args.blocks - 1) - first) // together * together
        with f.loop(first, end, together, carry=totals) as block:
            starts = [(block.index + n) * args.block for n in range(together)]
            sums = _chain(f, spec, a, b, starts, args.block, zeros * together)
            for n in range(together):
                block.carry = added(block.carry, sums[n * count : (n + 1) * count])
        first, totals = end, block.result
    with f.loop(first, last, carry=totals, once=together == 1) as block:
        start = block.index * args.block
        block.carry = added(block.carry, _chain(f, spec, a, b, [start], args.block.minimum(args.terms - start), zeros))
    return block.result


def _keep(f: Kernel, spec: TileSpec, kept: Ptr, sums: list[Num], end: Int, whole: Int) -> None:
    """Put down the sums of a group whose blocks up to `end` are done: as they are where it goes on, else added to the level above."""
    if spec.chunked:
        with f.when(end < whole):
            for place, value in zip(_level(spec, kept, 0), sums, strict=True):
                place.store(value)
    if spec.depth > 1:
        with f.when(end.equals(whole)):
            _add_group(f, spec, kept, sums, end)


def _add_group(f: Kernel, spec: TileSpec, kept: Ptr, sums: list[Num], end: Int) -> None:
    """Add a group to the level above, whatever is complete there to the next one, and so on."""
    args, zero = _args(f, spec), f.zeros(spec.sums, spec.lanes)
    is_first = end.equals(args.groups.load_int())
    with f.when(is_first):
        for place in _level(spec, kept, 1):
            place.store(zero)
        with f.loop(2, args.levels) as level:
            for place in _level(spec, kept, level.index):
                place.store(zero)
    for place, value in zip(_level(spec, kept, 1), sums, strict=True):
        place.store(place.load(spec.lanes) + value)
    with f.loop(2, args.levels) as level:
        below = level.index - 1
        with f.when((end % args.groups.at(below).load_int()).equals(0)):
            for upper, lower in zip(_level(spec, kept, level.index), _level(spec, kept, below), strict=True):
                upper.store(upper.load(spec.lanes) + lower.load(spec.lanes))
                lower.store(zero)


def _folded(f: Kernel, spec: TileSpec, sums: list[Num], kept: Ptr) -> list[Num]:
    """The last group's sums to the totals of every level above, from the innermost out."""
    if spec.depth < 2:
        return sums
    with f.loop(1, _args(f, spec).levels, carry=sums, once=True) as level:
        level.carry = [
            place.load(spec.lanes) + value for place, value in zip(_level(spec, kept, level.index), level.carry, strict=True)
        ]
    return level.result


def _chain(f: Kernel, spec: TileSpec, a: Ptr, b: Ptr, starts: list[Int], count: Int, sums: list[Num]) -> list[Num]:
    """`count` terms from each start on, chains side by side: an unrolled loop, and what is left over after it."""
    transposed = spec.transposed and not spec.local
    step = spec.line if transposed else min(16, max(1, UNROLL_PRODUCTS // (spec.rows * spec.vectors)))
    rest = spec.lanes if transposed else 1
    whole = count - count % step
    rows = row_places(a, _args(f, spec).a_row, spec.rows) if spec.by_rows else None
    body, size = _transposed_body if transposed else _panel_body, len(sums) // len(starts)

    def all_chains(k: Int, terms: int, before: list[Num], is_last: bool) -> list[Num]:
        after: list[Num] = []
        for n, start in enumerate(starts):
            own = before[n * size : (n + 1) * size]
            after += body(f, spec, a, rows, b, start + k, terms, own, start + count if is_last else None)
        return after

    with f.loop(0, whole, step, carry=sums) as k:
        k.carry = all_chains(k.index, step, k.carry, False)
    if step == 1:
        return k.result
    with f.loop(whole, count, rest, carry=k.result) as k:
        k.carry = all_chains(k.index, rest, k.carry, True)
    return k.result


def _elements(f: Kernel, spec: TileSpec, a: Ptr, rows: Rows | None, k: Int, further: int = 0) -> list[Ptr]:
    """Where A's elements of term k + further are, one for each row of the tile; those of one k share their addresses."""
    if rows is not None:
        return [row.at(further) for row in rows(k)]
    if spec.a_step:
        column = a.at(k * spec.a_step).at(further * spec.a_step)
    else:
        column = a.at_bytes((k + further) * _args(f, spec).a_term)
    return [column.at(r) for r in range(spec.rows)]


def _panel_body(
    f: Kernel, spec: TileSpec, a: Ptr, rows: Rows | None, b: Ptr, k: Int, count: int, sums: list[Num], last: Int | None
) -> list[Num]:
    del last
    step = spec.width if spec.local else spec.b_step
    lines = b.at(k * step)
    for j in range(count):
        if step:
            line = lines.at(j * step)
            if spec.ahead and spec.b_step:
                for offset in range(0, spec.width * ELEMENT_BYTES[spec.b], LINE_BYTES):
                    f.prefetch(line.at_bytes(PANEL_AHEAD + offset))
            right = [line.at(v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        else:
            right = line_of(f, spec, b, k, j)
        after: list[Num] = []
        for place in _elements(
            f, spec, a, rows, k, j
        ):  # loaded where it is used: LLVM keeps the order, and has registers for few
            left = place.splat(spec.lanes)
            own = sums[len(after) : len(after) + spec.vectors]
            after += [total.plus_product(left, value) for total, value in zip(own, right, strict=True)]
        sums = after
    return sums


def _transposed_body(
    f: Kernel, spec: TileSpec, a: Ptr, rows: Rows | None, b: Ptr, k: Int, count: int, sums: list[Num], last: Int | None
) -> list[Num]:
    """`count` terms of every column: squares are transposed in registers. last: terms from there on count as zero."""
    side = min(spec.lanes, 16 // ELEMENT_BYTES[spec.sums])
    sums, scalars = list(sums), _scalars(f, spec, a, rows, k, count, last)
    for v in range(spec.vectors):
        places = [place.at(k) for place in column_starts(f, spec, b, v)]
        masks: list[Bit | None] = [None if last is None else f.lane_mask(side, last - k - s) for s in range(0, count, side)]
        for j, right in enumerate(across(places, count, masks, side)):
            for r, left in enumerate(scalars[j]):
                at = r * spec.vectors + v
                sums[at] = sums[at].plus_product(left.splat(spec.lanes), right)
    return sums


def _scalars(f: Kernel, spec: TileSpec, a: Ptr, rows: Rows | None, k: Int, count: int, last: Int | None) -> list[list[Num]]:
    """A's elements of `count` terms, by term; zeros from term `last` on."""
    if last is None:
        return [[place.load() for place in _elements(f, spec, a, rows, k + j)] for j in range(count)]
    if rows is not None:
        vectors = [row.load(count, f.lane_mask(count, last - k)) for row in rows(k)]
        return [[vector.lane(j) for vector in vectors] for j in range(count)]
    found = []
    for j in range(count):
        inside = k + j < last
        values = [place.load() for place in _elements(f, spec, a, rows, inside.pick(k + j, last - 1))]
        found.append([inside.select(value, f.zeros(spec.sums, 1)) for value in values])
    return found


def _store(f: Kernel, spec: TileSpec, sums: list[Num], at: Int, column: Int, row: Int | None) -> None:
    """row: number of the first row's bias, where it is one for a row."""
    for r in range(spec.rows):
        for v in range(spec.vectors):
            first = column + v * spec.lanes
            mask = f.lane_mask(spec.lanes, _args(f, spec).columns - v * spec.lanes) if spec.masked else None
            place = at + _args(f, spec).out_row * r + v * spec.lanes * ELEMENT_BYTES[spec.out]
            channel = first if row is None else row + r
            finish(f, spec.finish, sums[r * spec.vectors + v], spec.out, place, channel, mask, row is not None)
