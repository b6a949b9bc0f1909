"""How a kernel walks the running sums of one tile: see `running_sums`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from preimage.engines.ir.builder import ELEMENT_BYTES, LINE_BYTES, Int, Kernel, Num, Ptr
from preimage.records import record

__all__ = ["IMAGE", "MORE", "Levels", "Steps", "level_bytes"]

#: In place of a level: the block ends an image; it is added to level 0 and stays there, as most are.
IMAGE, MORE = -1, -2


def level_bytes(element: str, lanes: Sequence[int]) -> int:
    """A tile's sums in a level, vectors of so many lanes side by side: whole cache lines."""
    return -(-sum(lanes) * ELEMENT_BYTES[element] // LINE_BYTES) * LINE_BYTES


@record
class Steps:
    """The table of steps and its parts (`RunningSums.with_images`): where the levels of the images' tree stand in a row, where those of
    the last image do, which end the table. image_level: the first level of the tree.
    """

    table: Ptr
    images: Int
    last: Int
    end: Int
    image_level: Int


class Levels:
    """The running sums of one tile in memory. base: the address of a level, as a number."""

    def __init__(self, f: Kernel, element: str, steps: Steps, base: Callable[[Int], Int]) -> None:
        self.f, self.element, self.steps, self.base = f, element, steps, base
        self.lowest = base(f.i64(0))

    def _cells(self, address: Int, sums: list[Num]) -> list[Ptr]:
        start, cells, left = self.f.pointer(address, self.element), [], 0
        for value in sums:
            cells.append(start.at(left))
            left += value.lanes
        return cells

    def add(self, first: Int, end: Int, sums: list[Num]) -> list[Num]:
        """The sums with those levels before them that a stretch of the steps names."""
        with self.f.loop(first, end, carry=sums) as step:
            cells = self._cells(self.base(self.steps.table.at(step.index).load_int()), step.carry)
            step.carry = [cell.load(s.lanes) + s for cell, s in zip(cells, step.carry, strict=True)]
        return step.result

    def store(self, level: Int, sums: list[Num]) -> None:
        for cell, value in zip(self._cells(self.base(level), sums), sums, strict=True):
            cell.store(value)

    def end_block(self, first: Int, end: Int, place: Int, sums: list[Num]) -> list[Num]:
        """A block's sums go up and are put down, unless its place says that an image ends here; then gives the image's sums."""
        with self.f.when(place.equals(MORE)):
            for cell, value in zip(self._cells(self.lowest, sums), sums, strict=True):
                cell.store(cell.load(value.lanes) + value)
        sums = self.add(first, end, sums)
        with self.f.when(place >= 0):
            self.store(place, sums)
        return sums

    def end_image(self, n: Int, images: Int, sums: list[Num], store: Callable[[list[Num]], None], height: int = 0) -> None:
        """The sum of image n, or of the node of this height that image n ends, goes up the tree. After the last image `store` takes
        the total; +0 + total is never -0.
        """
        f, steps = self.f, self.steps
        is_last, level = n.equals(images - 1), n.trailing_ones()
        first = is_last.pick(steps.last, steps.images) + height
        sums = self.add(first, is_last.pick(steps.end, steps.images + level), sums)
        with f.when(is_last.negated()):
            self.store(steps.image_level + level, sums)
        with f.when(is_last):
            store([f.zeros(s.dtype, s.lanes) + s for s in sums])
