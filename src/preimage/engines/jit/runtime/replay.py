"""Recorded steps made ready to run again: one table, one kernel, and the memory of one call.

    ready = ReplaySteps.recorded(steps, places)     # places: memory -> (number of the call's memory, offset)
    ready.run(own, addresses, threads)              # own: room for `ready.bytes`; addresses of the call's memories

`stored_steps.py` writes such tables down and reads them; so nothing is imported here but what a run needs.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.base import Array
from preimage.engines.recording import Code, Step

__all__ = ["HEAD_WORDS", "ReplaySteps", "Tables"]

_Entry = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
#: Words of the kernel's vector before the addresses of the call's memories (`ReplayArguments`).
HEAD_WORDS = 10


@functools.cache
def _packer(words: int) -> Callable[..., bytes]:
    return struct.Struct(f"{words}q").pack


class Tables(NamedTuple):
    """What the kernel reads, as rows of 64-bit integers (`ReplayPatch`, `RecordedStep`), and all argument vectors one after another.

    fixed: (word, array or function) of the words that are addresses of what never changes. codes: the function of each step.
    """

    vectors: Array
    patches: Array
    steps: Array
    fixed: tuple[tuple[int, Array | Code], ...]
    codes: tuple[Code, ...]


class ReplaySteps:
    """Steps that follow one another without Python. Threads may share it: each call brings its memory.

    kernel: that of a `ReplaySpec`. held: what must stay while it can run.
    """

    __slots__ = ("_entry", "_head", "_held", "_shared", "bytes", "count", "kernel", "tables")

    def __init__(self, tables: Tables, kernel: int, held: Any = None) -> None:
        self.tables, self.kernel, self._held = tables, kernel, held
        self._entry: Any = _Entry(int(kernel))
        vectors, patches, steps, *_ = tables
        self._head = (
            address_of(vectors), len(vectors), address_of(patches), len(patches), address_of(steps), len(steps),
        )  # fmt: skip
        self._shared = int(steps[:, 3].max(initial=0))
        self.bytes, self.count = 8 * len(vectors), len(steps)

    @classmethod
    def recorded(cls, steps: Sequence[Step], places: Mapping[int, tuple[int, int]]) -> Self:
        """Steps that were written down just now."""
        from preimage.engines.jit.compiler import kernels
        from preimage.engines.jit.runtime.link import compiled
        from preimage.engines.jit.runtime.replay_kernel import ReplaySpec

        vectors: list[int] = []
        patches: list[tuple[int, int, int]] = []
        rows: list[tuple[int, int, int, int]] = []
        fixed: list[tuple[int, Array | Code]] = []
        for step in steps:
            first = len(vectors)
            for word, memory, offset in step.addresses:
                number, at = places[memory]
                patches.append((first + word, number, at + offset))
            rows.append((int(step.code), first, step.tasks, step.tasks - 1 if step.shared else 0))
            fixed += [(first + word, what) for word, what in step.fixed]
            vectors += step.words
        tables = Tables(
            np.array(vectors, np.int64), np.array(patches, np.int64).reshape(-1, 3), np.array(rows, np.int64).reshape(-1, 4),
            tuple(fixed), tuple([step.code for step in steps]),
        )  # fmt: skip
        return cls(tables, compiled(ReplaySpec(kernels.current_target().triple)))

    def run(self, own: int, addresses: Sequence[int], threads: int) -> None:
        """Run the steps. own: the address of room for their vectors; addresses: those of the call's memories, by number."""
        workers = min(threads - 1, self._shared)
        run, address = _pool(workers) if workers > 0 else (0, 0)
        self._entry(_packer(HEAD_WORDS + len(addresses))(*self._head, own, run, address, workers, *addresses), 0, 0)


def _pool(workers: int) -> tuple[int, int]:
    from preimage.engines.jit.runtime import pool

    return pool.shared(workers)
