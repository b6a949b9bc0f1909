"""A product made ready: what is left of a call once its program is known."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.products.entry_kernel import MOST_WORDS, EntrySpec
from preimage.engines.jit.runtime.bound_call import Scratch
from preimage.engines.jit.runtime.link import DATA_FIELD, Launch, LinkedProgram, address_of, compiled
from preimage.engines.recording import Fixed, Recorder, recorder

__all__ = ["Ready"]

#: The objects of a call, in the order in which the entry kernel is given them.
OBJECTS = ("a", "b", "out", "packed", "bias", "residual", "limits")
_Entry = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
_pack = struct.Struct(f"{2 + len(OBJECTS)}q").pack


class Ready:
    """A product of arrays of known shapes and strides. swapped: it is computed as B^T A^T, whose result lies in memory alike."""

    __slots__ = ("_entry", "_given", "_kept", "_launch", "_scratch", "_table", "dtype", "linked", "shape", "swapped", "threads")

    def __init__(
        self, linked: LinkedProgram, scratch: Scratch, shape: tuple[int, ...], dtype: np.dtype[Any], swapped: bool, threads: int
    ) -> None:
        self.linked, self.shape, self.dtype, self.swapped, self.threads = linked, shape, dtype, swapped, threads
        self._scratch = scratch
        self._entry: Any = None
        if threads == 1 and DATA_FIELD is not None:
            self._make_entry(DATA_FIELD)
        if self._entry is None:
            self._given = tuple(name for name in OBJECTS if name not in linked.places)
            self._launch = Launch(linked, self._given, threads)

    def _make_entry(self, field: int) -> None:
        places = self.linked.places
        words: list[int] = []
        patches: list[int] = []
        steps: list[int] = []
        for call in self.linked.calls:
            begin = len(words)
            for slot, name in call.arrays:
                patches += [-1 if name in places else OBJECTS.index(name), begin + slot, places.get(name, 0)]
            steps += [int(call.kernel), begin, call.tasks]
            words += call.words
        if len(words) > MOST_WORDS:
            return
        kernel = compiled(EntrySpec(field, kernels.current_target().triple))
        table = np.array([len(words), len(patches) // 3, len(steps) // 3, *patches, *steps, *words], np.int64)
        self._kept, self._table = (kernel, table), address_of(table)
        self._entry = _Entry(int(kernel))

    def _run_recorded(self, here: Recorder, arrays: dict[str, Any], packed: Array | None, more: dict[str, Array] | None) -> None:
        given = arrays | {name: Fixed(array) if name == "limits" else array for name, array in (more or {}).items()}
        if packed is not None:
            given["packed"] = Fixed(packed)
            del given["b"]
        self.linked.run_recorded(here, given, self.threads)

    def __call__(self, a: Array, b: Any, packed: Array | None = None, more: dict[str, Array] | None = None) -> Array:
        """The product; more: the epilogue's arrays by name."""
        out = aligned_empty(self.shape, self.dtype)
        if self.swapped:
            a, b = b, a
        if (here := recorder()) is not None:
            self._run_recorded(here, {"a": a, "b": b, "out": out}, packed, more)
            return out
        workspace = self._scratch.take(self.linked.workspace_bytes)
        if self._entry is not None:
            rest = (0, 0, 0) if more is None else [id(more[name]) if name in more else 0 for name in OBJECTS[4:]]
            self._entry(
                _pack(self._table, workspace.address, id(a), id(b), id(out), 0 if packed is None else id(packed), *rest), 0, 0
            )
        else:
            given = {"a": a, "b": b if packed is None else None, "out": out, "packed": packed, **(more or {})}
            arrays = [given.get(name) for name in self._given]
            self._launch([workspace.address, *[0 if array is None else address_of(array) for array in arrays]])
        self._scratch.free.append(workspace)
        return out
