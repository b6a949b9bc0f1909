"""A product made ready: what is left of a call once its program is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.jit.runtime.link import LinkedProgram
from preimage.engines.jit.runtime.program_call import ProgramCall, WarmCall, packed_call
from preimage.engines.jit.runtime.scratch import Scratch
from preimage.engines.recording import Fixed, Recorder, state

__all__ = ["Ready"]

_NOTHING: dict[str, Array] = {}


class Ready:
    """A product of arrays of known shapes and strides. swapped: it is computed as B^T A^T, whose result lies in memory alike."""

    __slots__ = ("_call", "dtype", "linked", "shape", "swapped", "threads")

    def __init__(
        self, linked: LinkedProgram, scratch: Scratch, shape: tuple[int, ...], dtype: np.dtype[Any], swapped: bool, threads: int,
        macs: int,
    ) -> None:  # fmt: skip
        self.linked, self.shape, self.dtype, self.swapped, self.threads = linked, shape, dtype, swapped, threads
        factors = ("b", "a") if swapped else ("a", "b" if linked.program.packing is None else "packed")
        arguments = (*factors, "bias", "out", "residual", "limits")
        self._call = ProgramCall(linked, arguments, scratch, threads, dtype.itemsize, macs)

    def _run_recorded(self, here: Recorder, arrays: dict[str, Any], packed: Array | None, more: dict[str, Array]) -> None:
        given = arrays | {name: Fixed(array) if name == "limits" else array for name, array in more.items()}
        if packed is not None:
            given["packed"] = Fixed(packed)
            del given["b"]
        self.linked.run_recorded(here, given, self.threads)

    def __call__(self, a: Array, b: Any, packed: Array | None = None, more: dict[str, Array] = _NOTHING) -> Array:
        """The product; more: the epilogue's arrays by name. b is not looked at where it is packed."""
        out = aligned_empty(self.shape, self.dtype)
        if (here := state.recorder) is not None:
            self._run_recorded(here, {"a": b, "b": a, "out": out} if self.swapped else {"a": a, "b": b, "out": out}, packed, more)
            return out
        self._call(a, b if packed is None else packed, more.get("bias"), out, more.get("residual"), more.get("limits"))
        return out

    def warm(self) -> WarmCall | None:
        """Calls of a, b and a bias, if there is one, without looking at them."""
        call = self._call.warm(self.shape, None, self.dtype)
        if call is None or self.linked.program.packing is None:
            return call
        return packed_call(call, self.linked.program.packed_key, False)
