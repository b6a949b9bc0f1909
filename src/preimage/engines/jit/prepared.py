"""Weights packed once and used by many calls: said by the caller, never guessed from an address."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines.base import Array
from preimage.engines.jit.locks import ForkLock

__all__ = ["PreparedWeight"]


class PreparedWeight:
    """A weight array as the kernels want it. Calls that are given it pack nothing.

    The array must not change while this object is in use: whoever changes it makes a new one (or calls `refresh`). The
    packed forms are made on first use, one for each order that a kernel asks for (forward and transposed differ).
    """

    __slots__ = ("_lock", "_packed", "array", "version")

    def __init__(self, array: Array, version: Any = None) -> None:
        self.array = np.ascontiguousarray(array)
        self.version = version  # the owner's own mark, such as a count of optimiser steps
        self._packed: dict[Any, tuple[Array, bool]] = {}
        self._lock = ForkLock()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def refresh(self, array: Array, version: Any = None) -> None:
        """Take over changed values."""
        with self._lock:
            self.array, self.version, self._packed = np.ascontiguousarray(array), version, {}

    @property
    def packed_bytes(self) -> int:
        """Memory held by the packed forms."""
        return sum(memory.nbytes for memory, _ in self._packed.values())

    def find(self, key: Any) -> tuple[Array, bool] | None:
        """The packed form under a key, and whether all weights are finite."""
        return self._packed.get(key)

    def keep(self, key: Any, memory: Array, finite: bool) -> None:
        with self._lock:
            self._packed[key] = (memory, finite)
