"""Recorded steps made ready to run again: one table, one kernel, and the memory of one call.

ready = ReplaySteps(steps, places)          # places: memory -> (number of the call's memory, offset)
ready.run(own, addresses, threads)          # own: room for `ready.bytes`; addresses of the call's memories
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime import pool
from preimage.engines.jit.runtime.link import address_of, compiled
from preimage.engines.jit.runtime.replay_kernel import RecordedStep, ReplayArguments, ReplayPatch, ReplaySpec
from preimage.engines.recording import Step

__all__ = ["ReplaySteps"]

_Entry = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)


class ReplaySteps:
    """Steps that follow one another without Python. Threads may share it: each call brings its memory."""

    __slots__ = ("_entry", "_head", "_kept", "_shared", "bytes", "count")

    def __init__(self, steps: Sequence[Step], places: Mapping[int, tuple[int, int]]) -> None:
        vectors: list[int] = []
        patches: list[tuple[int, int, int]] = []
        rows: list[tuple[int, int, int, int]] = []
        for step in steps:
            first = len(vectors)
            for word, memory, offset in step.addresses:
                number, at = places[memory]
                patches.append((first + word, number, at + offset))
            rows.append((int(step.code), first, step.tasks, step.tasks - 1 if step.shared else 0))
            vectors += step.words
        table = np.array(vectors or [0], np.int64)
        patch_table = ReplayPatch.of_rows(np.array(patches or [(0, 0, 0)]))
        step_table = RecordedStep.of_rows(np.array(rows or [(0, 0, 0, 0)]))
        kernel = compiled(ReplaySpec(kernels.current_target().triple))
        self._entry: Any = _Entry(int(kernel))
        self._kept = (kernel, table, patch_table, step_table, [(step.code, step.kept) for step in steps])
        self._head = (
            address_of(table), len(vectors), address_of(patch_table), len(patches), address_of(step_table), len(rows),
        )  # fmt: skip
        self._shared = max((row[3] for row in rows), default=0)
        self.bytes, self.count = 8 * len(vectors), len(rows)

    def run(self, own: int, addresses: Sequence[int], threads: int) -> None:
        """Run the steps. own: the address of room for their vectors; addresses: those of the call's memories, by number."""
        workers = min(threads - 1, self._shared)
        run, address = pool.shared(workers) if workers > 0 else (0, 0)
        self._entry(_pack(*self._head, own, run, address, workers) + struct.pack(f"{len(addresses)}q", *addresses), 0, 0)


_pack = struct.Struct(f"{len(ReplayArguments.fields)}q").pack
