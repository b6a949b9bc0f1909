"""The vectors of a stretch of neighbours, the last, shorter one under a mask."""

from __future__ import annotations

from collections.abc import Callable

from preimage.engines.ir.builder import Bit, Int, Kernel

__all__ = ["Vectors"]


class Vectors:
    """for the vectors of columns first .. last - 1: body(column, mask of the last, shorter one or None)"""

    def __init__(self, f: Kernel, lanes: int) -> None:
        self.f, self.lanes = f, lanes

    def run(self, first: Int | int, last: Int, body: Callable[[Int, Bit | None], None]) -> None:
        if self.lanes == 1:
            with self.f.loop(first, last) as i:
                body(i.index, None)
            return
        edge = last - (last - first) % self.lanes
        with self.f.loop(first, edge, self.lanes) as i:
            body(i.index, None)
        with self.f.when(edge < last):
            body(edge, self.f.lane_mask(self.lanes, last - edge))
