"""The memory that runs of recorded steps write to, kept between them."""

from __future__ import annotations

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.buffers import LINE_BYTES, retrying
from preimage.resources import register_keeper

__all__ = ["Runs"]


class _RunMemory:
    """What one run writes to."""

    __slots__ = ("address", "raw")

    def __init__(self, size: int) -> None:
        whole = retrying(lambda: np.empty(size + LINE_BYTES, np.uint8))
        start = -address_of(whole) % LINE_BYTES
        self.raw = whole[start : start + size]
        self.address = address_of(self.raw)


class Runs:
    """Memories that no run uses just now. A run takes one out, so nobody else meets it; one that fails gives nothing back."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free: list[_RunMemory] = []
        register_keeper(self)

    @property
    def bytes(self) -> int:
        """What is held between runs."""
        return self.size * len(self.free)

    def take(self) -> _RunMemory:
        """Memory of a run of its own."""
        try:
            return self.free.pop()  # one step: no two runs get the same
        except IndexError:
            return _RunMemory(self.size)

    def give(self, memory: _RunMemory) -> None:
        """One that a run has done with; too small a one, from before others shared these, goes."""
        if len(memory.raw) >= self.size:
            self.free.append(memory)

    def clear(self) -> int:
        """Let go of them; returns how many bytes."""
        free, self.free = self.free, []
        return self.size * len(free)
