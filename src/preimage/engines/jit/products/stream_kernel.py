"""A few rows of A times a B that comes from far: B is read once, from its first byte to its last, several lines at a time.

    for block of terms
        for a few lines of B in the block            # so many that their elements of A fill the registers
            for vector of the task's columns
                sum[r] = fma(A[r, k], B[k, vector], sum[r]) for each line k, each row r
        totals[level 1] += sum; sum = +0             # the sums of a row wait in the first cache, as do the totals
        at the end of a group: totals[next level] += totals[level]; totals[level] = 0

The same chains as those of `tile_kernel`, put down in memory between lines.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Elements, Integer, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.epilogue import EpilogueArguments, EpilogueSpec, finish
from preimage.records import record

__all__ = ["StreamArguments", "StreamSpec", "build"]


class StreamArguments(EpilogueArguments):
    """A task is share columns of one product. totals has pitch elements for each row of each level, a vector more than columns."""

    input: Elements = elements("element")
    weight: Elements = elements("element")
    totals: Elements = elements("sums")
    thread_bytes: Integer
    columns: Integer
    terms: Integer
    block: Integer
    blocks: Integer
    levels: Integer
    groups: Words
    a_row: Integer
    a_term: Integer
    b_term: Integer
    out_row: Integer
    out_product: Integer
    a_places: Words
    b_places: Words
    share: Integer
    shares: Integer
    pitch: Integer
    bias_cycle: Integer  # products after which a bias of rows begins anew


@record
class StreamSpec:
    """element: of A, B and the result; lanes: of a vector; rows: of A; lines: of B that are read side by side."""

    arguments: ClassVar = StreamArguments

    element: str
    lanes: int
    rows: int
    lines: int
    finish: EpilogueSpec
    bias_of_rows: bool = False  # one number for a row, not for a column

    @property
    def sums(self) -> str:
        """The type of the sums."""
        return "f64" if self.element == "f64" else "f32"

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: StreamSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = StreamArguments.read(f, spec, at_entry=True)
    product, share = f.task // args.shares, f.task % args.shares
    first = share * args.share
    count = args.share.minimum(args.columns - first)
    a = args.input.at_bytes(args.a_places.at(product).load_int())
    b = args.weight.at_bytes(args.b_places.at(product).load_int()).at(first)
    sums = args.totals.at_bytes(f.thread * args.thread_bytes)
    pitch, levels, blocks = args.pitch, args.levels, args.blocks
    level_pitch = pitch * spec.rows
    zero = f.zeros(spec.sums, spec.lanes)
    head = _head(f, spec, b)
    shifted = sums.at((0 - head) & (spec.lanes - 1))
    with f.loop(0, level_pitch * (levels + 1), spec.lanes) as n:
        sums.at(n.index).store(zero)
    with f.loop(0, blocks) as block:
        start = block.index * args.block
        end = (start + args.block).minimum(args.terms)
        whole = end - (end - start) % spec.lines
        with f.loop(start, whole, spec.lines) as k:
            _lines(f, spec, a, b, shifted, k.index, spec.lines, count, head)
        with f.loop(whole, end) as k:
            _lines(f, spec, a, b, shifted, k.index, 1, count, head)
        done = block.index + 1
        with f.when(done < blocks):
            _add(f, spec, sums, sums.at(level_pitch), level_pitch)
            with f.loop(1, levels) as level:
                size = args.groups.at(level.index - 1).load_int()
                with f.when((done % size).equals(0)):
                    _add(f, spec, sums.at(level_pitch * level.index), sums.at(level_pitch * (level.index + 1)), level_pitch)
    out = product * args.out_product + first * ELEMENT_BYTES[spec.element]
    for r in range(spec.rows):
        row = shifted.at(pitch * r)
        with f.loop(0, count, spec.lanes) as n:
            with f.loop(0, levels, carry=[row.at(n.index).load(spec.lanes)]) as level:
                above = row.at(level_pitch * (level.index + 1) + n.index).load(spec.lanes)
                level.carry = [above + level.carry[0]]
            mask = f.lane_mask(spec.lanes, count - n.index)
            at = out + args.out_row * r + n.index * ELEMENT_BYTES[spec.element]
            channel = product % args.bias_cycle * spec.rows + r if spec.bias_of_rows else first + n.index
            finish(f, spec.finish, level.result[0], spec.element, at, channel, mask, spec.bias_of_rows)
    return f.ir()


def _args(f: Kernel, spec: StreamSpec) -> StreamArguments:
    """The arguments, loaded where they are read."""
    return StreamArguments.read(f, spec)


def _add(f: Kernel, spec: StreamSpec, lower: Ptr, upper: Ptr, count: Int) -> None:
    """Add sums to those of the level above, and begin them anew."""
    with f.loop(0, count, spec.lanes) as n:
        place = upper.at(n.index)
        place.store(place.load(spec.lanes) + lower.at(n.index).load(spec.lanes))
        lower.at(n.index).store(f.zeros(spec.sums, spec.lanes))


def _head(f: Kernel, spec: StreamSpec, b: Ptr) -> Int:
    """How many columns lie before the first whole vector of memory, where the lines of B all lie alike; else 0.

    Vectors that cross lines of the cache take two loads. The sums begin so that theirs cross none either.
    """
    size = ELEMENT_BYTES[spec.element]
    alike = (_args(f, spec).b_term & (spec.lanes * size - 1)).equals(0)
    return alike.pick((f.i64(0) - (b.address() >> size.bit_length() - 1)) & (spec.lanes - 1), f.i64(0))


def _lines(f: Kernel, spec: StreamSpec, a: Ptr, b: Ptr, sums: Ptr, k: Int, lines: int, count: Int, head: Int) -> None:
    """A few lines of B, along all columns, of which head come before the first whole vector."""
    lanes, pitch = spec.lanes, _args(f, spec).pitch
    rows = [a.at_bytes(_args(f, spec).a_row * r) for r in range(spec.rows)]
    left = [[row.at_bytes((k + j) * _args(f, spec).a_term).splat(lanes) for j in range(lines)] for row in rows]
    right = [b.at_bytes((k + j) * _args(f, spec).b_term) for j in range(lines)]

    def vector(n: Int | int, mask: Bit | None, kept: Bit | None = None) -> None:
        """kept: lanes of the sums that are stored; the others belong to the next vector."""
        places = [sums.at(pitch * r + n) for r in range(spec.rows)]
        totals: list[Num] = [place.load(lanes) for place in places]
        for j in range(lines):
            value = right[j].at(n).load(lanes, mask)
            totals = [left[r][j].fma(value, total) for r, total in enumerate(totals)]
        for place, total in zip(places, totals, strict=True):
            place.store(total, kept)

    first = head.minimum(count)
    with f.when(first > 0):
        own = f.lane_mask(lanes, first)
        vector(0, own, own)
    whole = count - (count - first) % lanes
    with f.loop(first, whole, lanes) as n:
        vector(n.index, None)
    with f.loop(whole, count, lanes) as n:
        vector(n.index, f.lane_mask(lanes, count - n.index))
