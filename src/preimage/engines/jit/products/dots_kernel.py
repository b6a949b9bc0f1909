"""One row of A times a B whose columns are contiguous: dot products, whose blocks lie in the lanes of a vector.

    turn the row: vector k of chunk c has term k of every block of the chunk
    for lanes columns of the task
        for a few of them at a time
            for chunk of lanes blocks
                sum[column] = +0
                for k in the block                   # squares of B are transposed in registers
                    sum[column] = fma(A[chunk, k], B[column, chunk, k], sum[column])
            the last block, if it is shorter: a chain of scalars
        the sums of the blocks, transposed: vectors across the columns, added in groups, groups of groups, ...

With columns in the lanes (`tile_kernel`) as many columns as a vector has lanes are read at once, and in a large matrix each lies on a page of
its own, in the same sets of the caches. Here a few columns are read from end to end. The last chunk overlaps the one before it.
"""

from __future__ import annotations

from typing import ClassVar, cast

from preimage.engines.ir.arguments import Elements, Integer, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.engines.jit.products.rows import row_places
from preimage.engines.jit.products.transpose import across, across_lines
from preimage.records import record

__all__ = ["DotsArguments", "DotsSpec", "build"]


class DotsArguments(EpilogueArguments):
    """A task is share columns of one product. whole: blocks of full length, at least as many as lanes; strides in bytes.

    A thread has thread_bytes at totals: the turned row (chunk_pitch elements for each chunk), the sums of a vector of columns (pitch for each),
    these transposed, the levels.
    """

    input: Elements = elements("element")
    weight: Elements = elements("element")
    totals: Elements = elements("sums")
    thread_bytes: Integer
    columns: Integer
    terms: Integer
    block: Integer
    blocks: Integer
    whole: Integer
    chunks: Integer
    chunk_pitch: Integer
    pitch: Integer
    levels: Integer
    groups: Words
    a_term: Integer
    b_column: Integer
    out_product: Integer
    a_places: Words
    b_places: Words
    share: Integer
    shares: Integer
    ahead: Integer  # bytes from what is read to what is fetched


@record
class DotsSpec:
    """element: of A, B and the result; lanes: of a vector; together: columns that are read at a time; ahead: the cache into which the
    next columns are fetched, or 0; few: there are few registers, so the row is read anew for each column.
    """

    arguments: ClassVar = DotsArguments

    element: str
    lanes: int
    together: int
    ahead: int
    few: bool
    finish: EpilogueSpec

    @property
    def sums(self) -> str:
        """The type of the sums."""
        return "f64" if self.element == "f64" else "f32"

    @property
    def whole_lines(self) -> bool:
        """Whether a vector is a cache line."""
        return self.lanes * ELEMENT_BYTES[self.element] == LINE_BYTES

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: DotsSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = DotsArguments.read(f, spec, at_entry=True)
    product, share = f.task // args.shares, f.task % args.shares
    a = args.input.at_bytes(args.a_places.at(product).load_int())
    b = args.weight.at_bytes(args.b_places.at(product).load_int())
    row = args.totals.at_bytes(f.thread * args.thread_bytes)
    kept = row.at(args.chunks * args.chunk_pitch)
    _turn_row(f, spec, a, row)
    begin = share * args.share
    end = (begin + args.share).minimum(args.columns)
    with f.loop(begin, end, spec.lanes) as first:
        with f.loop(0, spec.lanes, spec.together) as n:
            columns = [(first.index + n.index + j).minimum(args.columns - 1) for j in range(spec.together)]
            places = [b.at_bytes(args.b_column * column) for column in columns]
            sums = [kept.at((n.index + j) * args.pitch) for j in range(spec.together)]
            with f.loop(0, args.chunks) as chunk:
                _chunk(f, spec, row, places, sums, chunk.index)
            _last_block(f, spec, a, places, sums)
        total = _total(f, spec, kept)
        at = product * args.out_product + first.index * ELEMENT_BYTES[spec.element]
        finish(f, spec.finish, total, spec.element, at, first.index, f.lane_mask(spec.lanes, args.columns - first.index))
    return f.ir()


def _args(f: Kernel, spec: DotsSpec) -> DotsArguments:
    """The arguments, loaded where they are read."""
    return DotsArguments.read(f, spec)


def _first_block(f: Kernel, spec: DotsSpec, chunk: Int) -> Int:
    return (chunk * spec.lanes).minimum(_args(f, spec).whole - spec.lanes)


def _turn_row(f: Kernel, spec: DotsSpec, a: Ptr, row: Ptr) -> None:
    """The row as the chunks read it; zeros behind the end of a block."""
    args, zero = _args(f, spec), f.zeros(spec.sums, spec.lanes)
    with f.loop(0, args.chunks) as chunk:
        first, to = _first_block(f, spec, chunk.index), row.at(chunk.index * args.chunk_pitch)
        with f.loop(0, args.chunk_pitch, spec.lanes) as n:
            to.at(n.index).store(zero)
        with f.loop(0, spec.lanes) as lane:
            source = a.at_bytes((first + lane.index) * args.block * args.a_term)
            with f.loop(0, args.block) as k:
                to.at(k.index * spec.lanes + lane.index).store(source.at_bytes(k.index * args.a_term).load())


def _chunk(f: Kernel, spec: DotsSpec, row: Ptr, places: list[Ptr], sums: list[Ptr], chunk: Int) -> None:
    """The sums of a vector of blocks, of a few columns."""
    args, lanes = _args(f, spec), spec.lanes
    first, block = _first_block(f, spec, chunk), args.block
    line, stride = row.at(chunk * args.chunk_pitch), block * ELEMENT_BYTES[spec.element]
    starts = [place.at(first * block) for place in places]
    group = min(lanes, 8)  # of blocks that share their addresses
    blocks = [[row_places(start.at_bytes(stride * n), stride, group) for n in range(0, lanes, group)] for start in starts]

    def terms(k: Int, before: list[Num], is_last: bool) -> list[Num]:
        shared = None if spec.few or spec.whole_lines else [line.at((k + j) * lanes).load(lanes) for j in range(lanes)]
        after = []
        for start, places_of, total in zip(starts, blocks, before, strict=True):
            here = [place for places in places_of for place in places(k)]
            if spec.ahead and not is_last:  # as many bytes of what is read next, from its first to its last
                ahead = start.at(k * lanes).at_bytes(args.ahead)
                for offset in range(0, lanes * lanes * ELEMENT_BYTES[spec.element], LINE_BYTES):
                    f.prefetch(ahead.at_bytes(offset), level=spec.ahead)
            own = line.hidden() if spec.few else line
            for j, value in enumerate(_turned(f, spec, here, block - k if is_last else None)):
                left = own.at((k + j) * lanes).load(lanes) if shared is None else shared[j]
                total = total.plus_product(left, value)
            after.append(total)
        return after

    whole = block - block % lanes
    zeros = [f.zeros(spec.sums, lanes)] * len(places)
    with f.loop(0, whole, lanes, carry=zeros) as k:
        k.carry = terms(k.index, k.carry, False)
    with f.loop(whole, block, lanes, carry=k.result) as k:
        k.carry = terms(k.index, k.carry, True)
    for place, total in zip(sums, k.result, strict=True):
        place.at(first).store(total)


def _turned(f: Kernel, spec: DotsSpec, places: list[Ptr], left: Int | None) -> list[Num]:
    """Vectors across the blocks of as many terms as there are lanes. left: terms from there on are zero."""
    lanes, side = spec.lanes, min(spec.lanes, 16 // ELEMENT_BYTES[spec.sums])
    if spec.whole_lines:
        halves = None if left is None else (f.lane_mask(2 * side, left), f.lane_mask(2 * side, left - 2 * side))
        return across_lines(places, halves, side)
    masks: list[Bit | None] = [None if left is None else f.lane_mask(side, left - s) for s in range(0, lanes, side)]
    return across(places, lanes, masks, side)


def _last_block(f: Kernel, spec: DotsSpec, a: Ptr, places: list[Ptr], sums: list[Ptr]) -> None:
    """The block that has fewer terms, if there is one."""
    args = _args(f, spec)
    begin = args.whole * args.block
    with f.when(begin < args.terms):
        with f.loop(begin, args.terms, carry=[f.zeros(spec.sums, 1)] * len(places)) as k:
            left = a.at_bytes(k.index * args.a_term).load()
            k.carry = [left.fma(place.at(k.index).load(), total) for place, total in zip(places, k.carry, strict=True)]
        for place, total in zip(sums, k.result, strict=True):
            place.at(args.whole).store(total)


def _total(f: Kernel, spec: DotsSpec, kept: Ptr) -> Num:
    """The sums of all blocks of a vector of columns, in groups, groups of groups, ..."""
    args, lanes = _args(f, spec), spec.lanes
    pitch, blocks, zero = args.pitch, args.blocks, f.zeros(spec.sums, lanes)
    turned = kept.at(pitch * lanes)
    levels = turned.at(pitch * lanes)
    side = min(lanes, 16 // ELEMENT_BYTES[spec.sums])
    with f.loop(0, blocks, lanes, once=True) as first:
        places = [kept.at(pitch * n + first.index) for n in range(lanes)]
        for n, value in enumerate(across(places, lanes, [None] * (lanes // side), side)):
            turned.at((first.index + n) * lanes).store(value)
    with f.loop(1, args.levels) as level:
        levels.at(level.index * lanes).store(zero)
    size = args.groups.load_int()
    with f.loop(0, blocks, size, carry=[zero], once=True) as group:
        end = (group.index + size).minimum(blocks)
        with f.loop(group.index, end, carry=[zero], once=True) as block:
            block.carry = [block.carry[0] + turned.at(block.index * lanes).load(lanes)]
        group.carry = block.result
        with f.when(end < blocks):
            above = levels.at(lanes)
            above.store(above.load(lanes) + block.result[0])
            with f.loop(2, args.levels) as level, f.when((end % args.groups.at(level.index - 1).load_int()).equals(0)):
                lower, upper = levels.at((level.index - 1) * lanes), levels.at(level.index * lanes)
                upper.store(upper.load(lanes) + lower.load(lanes))
                lower.store(zero)
    with f.loop(1, args.levels, carry=group.result) as level:
        level.carry = [levels.at(level.index * lanes).load(lanes) + level.carry[0]]
    (total,) = level.result
    return cast(Num, total)
