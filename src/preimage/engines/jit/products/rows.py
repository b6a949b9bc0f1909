"""Where the rows of a tile of A are: many rows from few registers."""

from __future__ import annotations

from collections.abc import Callable

from preimage.engines.ir.builder import Int, Ptr

__all__ = ["row_places"]

#: Rows behind a base that an address reaches with the stride, or three times the stride, times 1, 2, 4 or 8.
REACHED = (0, 1, 2, 3, 4, 6, 8, 12)
SECOND_BASE = 5


def row_places(a: Ptr, stride: Int, count: int) -> Callable[[Int], list[Ptr]]:
    """The addresses of `count` (up to 14) rows at a term; a: the first row, stride: in bytes.

    On x86 an address is a register plus another one times 1, 2, 4 or 8. So two bases and one, three and five strides reach every row,
    where a base for each row would need more registers than there are. To be asked for outside the loop that uses it.
    """
    triple = stride * 3 if count > 3 else stride
    five = stride * SECOND_BASE if count > SECOND_BASE else stride

    def places(k: Int) -> list[Ptr]:
        first = a.at(k)
        second = first.at_bytes(five) if count > SECOND_BASE else first
        found = []
        for r in range(count):
            base, rest = (first, r) if r in REACHED else (second, r - SECOND_BASE)
            if rest == 0:
                found.append(base)
            elif rest == SECOND_BASE:
                found.append(base.at_bytes(five))
            elif rest % 3:
                found.append(base.at_bytes(stride * rest))
            else:
                found.append(base.at_bytes(triple * (rest // 3)))
        return found

    return places
