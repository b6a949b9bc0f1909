"""Large blocks of memory that nothing uses now, kept for arrays of their sizes to come.

No more is kept than a share of the memory that the process may have. And before memory is taken from the system, blocks of other sizes are given back
until all blocks together, used and spare, are little more than were ever in use at one time: a step whose arrays differ in size would otherwise
come to hold the sum of what its parts need. A block that is missed after it was given back raises what may be kept, so that a computation that goes
round among many sizes soon gives nothing back any more.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from preimage.resources import kept_memory, register_keeper

__all__ = ["Spare"]

Array = NDArray[Any]
#: All blocks may be so many bytes more than were ever in use at one time.
SLACK_BYTES = 64 << 20


class Spare:
    """The blocks, by size. Counts are changed in single steps, without a lock: a finaliser may come at any time."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit, self._blocks = limit, dict[int, list[Array]]()
        self._room = 0  # bytes that may come, at least, until blocks must go; what is taken meanwhile is not counted
        self._in_use, self._most = 0, 0
        self._slack, self._given_back = SLACK_BYTES, dict[int, int]()
        register_keeper(self)

    @property
    def limit(self) -> int:
        """In bytes; looked up when the first block is kept."""
        if self._limit is None:
            self._limit = kept_memory()
        return self._limit

    @property
    def bytes(self) -> int:
        return sum([size * len(held) for size, held in list(self._blocks.copy().items())])

    def take(self, size: int) -> Array | None:
        """A block of just this size."""
        held = self._blocks.get(size)
        try:
            return held.pop() if held else None
        except IndexError:  # another thread was quicker
            return None

    def count(self, size: int) -> None:
        """A block of this size is in use from now on."""
        self._in_use += size
        if self._in_use > self._most:
            self._most = self._in_use

    def make_room(self, size: int) -> None:
        """Before a block of this size is taken from the system: give back others."""
        missed = self._given_back.get(size, 0)
        if missed:
            self._given_back[size] = missed - 1
            self._slack += size
        needed = self._in_use + size
        excess = self.bytes + needed - max(self._most, needed) - self._slack
        while excess > 0:
            sizes = sorted([other for other, held in list(self._blocks.copy().items()) if held])
            if not sizes:
                return
            gone = next((other for other in sizes if other >= excess), sizes[-1])
            with suppress(IndexError, KeyError):  # another thread took it
                self._blocks[gone].pop(0)
                self._given_back[gone] = self._given_back.get(gone, 0) + 1
            excess -= gone

    def put(self, block: Array) -> None:
        size = block.nbytes
        self._in_use -= size
        if size > self.limit:
            return
        self._blocks.setdefault(size, []).append(block)
        self._room -= size
        if self._room < 0:
            self._drop(size)

    def _drop(self, size: int) -> None:
        """Give up blocks beyond the limit, of other sizes first."""
        while self.bytes > self.limit:
            others = [held for other, held in list(self._blocks.copy().items()) if held and other != size]
            with suppress(IndexError, KeyError):  # another thread took it
                (others or [self._blocks[size]])[0].pop(0)
        self._room = self.limit - self.bytes

    def clear(self) -> int:
        """Let go of them, and begin to count anew; returns how many bytes."""
        blocks, self._blocks = self._blocks, {}
        self._slack, self._given_back, self._most = SLACK_BYTES, {}, self._in_use
        return sum([size * len(held) for size, held in list(blocks.items())])
