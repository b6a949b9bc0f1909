"""Memory that calls write to and no caller sees."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.buffers import retrying
from preimage.engines.jit.program import ALIGN
from preimage.resources import register_keeper

__all__ = ["Scratch", "Workspace"]


class Workspace:
    """Memory that one call writes to. Its first bytes, `flag`, are the word that packing sets where a weight is not finite."""

    __slots__ = ("address", "array", "flag", "size")

    def __init__(self, size: int) -> None:
        memory = retrying(lambda: np.empty(size + ALIGN, np.uint8))
        self.array = memory[-address_of(memory) % ALIGN :][:size]
        self.address, self.size = address_of(self.array), size
        self.flag = self.array[:8].view(np.int64)


class Scratch:
    """Workspaces that no call uses just now, the latest last.

        workspace = scratch.take(size)
        ...                               # kernels run in it
        scratch.free.append(workspace)

    A call takes its workspace out, so nobody else meets it: neither another thread, nor a call that a signal handler, a finaliser or a
    trace function makes in the middle of this one. A call that fails on its way gives nothing back; its workspace is freed.
    """

    def __init__(self) -> None:
        #: One list as long as this lives: calls know it.
        self.free: list[Workspace] = []
        register_keeper(self)

    def take(self, size: int) -> Workspace:
        """A workspace of at least `size` bytes, whose flag is 0."""
        try:
            found = self.free.pop()  # one step: no two callers get the same
        except IndexError:
            found = Workspace(size)
        if found.size < size:
            del found  # before the larger one is made
            found = Workspace(size)
        found.flag[0] = 0
        return found

    def clear(self) -> int:
        """Let go of them; returns how many bytes."""
        given = 0
        with suppress(IndexError):
            while True:
                given += self.free.pop().size
        return given
