"""Weights packed once and used by many calls: said by the caller, never guessed from an address."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.autograd.device_arrays import device_array
from preimage.engines.addresses import address_of
from preimage.engines.base import Array

__all__ = ["Forms", "PreparedWeight", "is_fixed", "same_bits"]

#: The packed forms: under the engine's own key, the packed memory and whether all weights are finite.
Forms = dict[Any, tuple[Array, bool]]


class PreparedWeight:
    """The values that a weight array has now, kept as the kernels want them: calls that are given it pack nothing.

    It holds a copy, so a later change of the array does not reach it: `refresh` takes over new values. The packed forms are made
    on first use, one for each order that a kernel asks for (forward and transposed differ). Engines that pack nothing read `array`.
    """

    __slots__ = ("_state",)

    def __init__(self, array: Array) -> None:
        self.refresh(array)

    def refresh(self, array: Array) -> None:
        """Take over new values. Calls that run meanwhile, and gradients recorded before, keep the old ones."""
        copy: Any = device_array(array, "w")
        if copy is not None:
            copy = copy.copied()  # an engine of its device takes it where others take arrays
        else:
            copy = np.array(array, order="C")
            copy.flags.writeable = False
        forms: Forms = {}
        state: tuple[Array, Forms] = (copy, forms)
        self._state = state  # one assignment: threads see both or neither

    def fixed(self) -> PreparedWeight:
        """These values and packed forms, which no later `refresh` of this object changes."""
        other = PreparedWeight.__new__(PreparedWeight)
        other._state = self._state
        return other

    @classmethod
    def of_fixed(cls, array: Array, forms: Forms) -> PreparedWeight:
        """An array that nobody changes, itself and not a copy, with packed forms that the caller keeps."""
        made = cls.__new__(cls)
        made._state = (array, forms)
        return made

    @property
    def array(self) -> Array:
        """The values, read-only."""
        return self._state[0]

    @property
    def state(self) -> tuple[Array, Forms]:
        """The values and their packed forms, which belong together; engines add to the forms."""
        return self._state

    @property
    def shape(self) -> tuple[int, ...]:
        return self._state[0].shape

    @property
    def ndim(self) -> int:
        return self._state[0].ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._state[0].dtype

    @property
    def packed_bytes(self) -> int:
        """Memory held by the packed forms, beside `array`."""
        return sum(memory.nbytes for memory, _ in list(self._state[1].values()))

    def __reduce__(self) -> tuple[Any, ...]:  # packed forms belong to this process and CPU
        return (PreparedWeight, (self.array,))

    def __repr__(self) -> str:
        return f"PreparedWeight(shape={self.shape}, dtype={self.dtype}, packed_bytes={self.packed_bytes})"


def _memory_compare() -> Callable[[int, int, int], int] | None:
    """The C library's memcmp, which takes half of NumPy's time; None where it is not to be had."""
    try:
        return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(("memcmp", ctypes.CDLL(None)))
    except (AttributeError, OSError, TypeError):
        return None


_compare = _memory_compare()


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same shape, dtype and bits."""
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if _compare is not None and a.flags.c_contiguous and b.flags.c_contiguous:
        return not _compare(address_of(a), address_of(b), a.nbytes)
    bits = f"u{a.itemsize}"
    return bool((a.view(bits) == b.view(bits)).all())


def is_fixed(array: Array) -> bool:
    """Whether nobody can write to an array: neither through it nor through the one that holds its memory."""
    while isinstance(array.base, np.ndarray) and not array.flags.writeable:
        array = array.base
    return not array.flags.writeable and array.base is None
