"""The aligned binary tree over values that come one after another: value i with value i ^ 1, pairs with pairs (docs/contract.md).

It holds one value a level, as a binary counter holds its digits: a value that meets one of its level is added to it and goes up.
"""

from __future__ import annotations

from preimage.engines.ir.builder import Int, Kernel, Num

__all__ = ["RunningTree"]

LEVELS = 48


class RunningTree:
    """levels: how many are used, the bits of the number of values."""

    def __init__(self, f: Kernel, element: str, lanes: int, levels: Int) -> None:
        self._f, self._element, self._lanes, self._levels = f, element, lanes, levels
        self._slots = f.stack(element, LEVELS * lanes)

    def _weight(self, level: Int) -> Int:
        return self._f.i64(1) << level

    def add(self, number: Int, value: Num) -> None:
        """Add value `number`; they come in order, from 0."""
        with self._f.loop(0, self._levels, carry=[value]) as level:
            below = self._weight(level.index) - 1
            slot = self._slots.at(level.index * self._lanes)
            held = slot.load(self._lanes)
            # Whoever reaches a level leaves its sum there, and takes what was there further up, if it gets there.
            slot.store((number & below).equals(below).select(level.carry[0], held))
            level.carry = [held + level.carry[0]]

    def total(self, count: Int, rest: Num | None = None) -> Num:
        """The sum of all `count` values; rest: what comes after them in the tree, with too few values to be one of them."""
        start = self._f.zeros(self._element, self._lanes) if rest is None else rest
        with self._f.loop(0, self._levels, carry=[start]) as level:
            here = (count & self._weight(level.index)) > 0
            sum_ = self._slots.at(level.index * self._lanes).load(self._lanes) + level.carry[0]
            level.carry = [here.select(sum_, level.carry[0])]
        total: Num = level.result[0]
        return total
