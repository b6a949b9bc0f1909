"""Lines of memory transposed in registers: neighbours of several lines become vectors across the lines."""

from __future__ import annotations

from preimage.engines.ir.builder import Bit, Num, Ptr
from preimage.engines.jit.packing.copy_kernel import transposed

__all__ = ["across", "across_lines"]


def across(places: list[Ptr], count: int, masks: list[Bit | None], side: int) -> list[Num]:
    """`count` vectors, one for each neighbour: vector i has element i of every place.

    The lines are loaded in pieces of `side` elements (16 bytes, or less), which loads put into parts of a vector: so only squares
    of side x side are left to transpose. masks: which elements of each piece are read; the others are zero.
    """
    found: list[Num] = []
    lanes = len(places)
    for piece, first in enumerate(range(0, count, side)):
        rows = []
        for j in range(side):
            row = places[j].at(first).load(side, masks[piece])
            for other in range(j + side, lanes, side):
                part = places[other].at(first).load(side, masks[piece])
                row = _joined(row, part)
            rows.append(row)
        found += transposed(rows)
    return found[:count]


def _joined(left: Num, right: Num) -> Num:
    """The lanes of both, one after another; the right one may be shorter."""
    if left.lanes == right.lanes:
        return left.shuffle(right, range(2 * left.lanes))
    wide = right.shuffle(right, [k % right.lanes for k in range(left.lanes)])
    return left.shuffle(wide, [*range(left.lanes), *range(left.lanes, left.lanes + right.lanes)])


def across_lines(places: list[Ptr], masks: tuple[Bit, Bit] | None, side: int) -> list[Num]:
    """As `across` for as many neighbours as places, four times side: lines are loaded in halves, and their quarters are put together by shuffles.

    Loads of 16 bytes would be twice as many, and those of lines a power of two apart meet in the banks of the first cache. masks: which elements of
    each half are read; the others are zero.
    """
    half = 2 * side
    quarters: list[list[Num]] = [[], [], [], []]
    for first in (0, half):
        mask = None if masks is None else masks[first // half]
        rows = [place.at(first).load(half, mask) for place in places]
        for j in range(side):
            a, b, c, d = rows[j::side]
            low, high = (x.shuffle(y, range(2 * half)) for x, y in ((a, b), (c, d)))
            for odd in range(2):
                picked = [(2 * k + odd) * side + i for k in range(4) for i in range(side)]
                quarters[first // side + odd].append(low.shuffle(high, picked))
    return [value for quarter in quarters for value in transposed(quarter)]
