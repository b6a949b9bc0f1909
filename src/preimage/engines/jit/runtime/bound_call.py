"""Bound calls: what a contraction needs to run again on arrays of the same shapes and strides.

`Ready` remembers the program and where its scratch lies; `Bound` also has prepared weights and the epilogue's arrays, so that a
call only writes down the addresses of its input and result and launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from preimage.engines.base import Array, Chain, Epilogue, aligned_empty, is_channels_last
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.request import ConvRequest, little_macs
from preimage.engines.jit.runtime.link import LinkedProgram
from preimage.engines.jit.runtime.program_call import ProgramCall, WarmCall, packed_call
from preimage.engines.jit.runtime.scratch import Scratch
from preimage.engines.prepared import PreparedWeight
from preimage.engines.recording import Fixed, Recorder, state
from preimage.geometry import ConvGeometry
from preimage.settings import Settings

__all__ = ["Bound", "Ready", "call_key", "epilogue_arrays", "example_result", "finish_of", "lies_like"]


def finish_of(epilogue: Epilogue | None, chain: Chain | None = None) -> EpilogueSpec:
    """What the code of an epilogue, and of the chain of steps after it, must do."""
    steps, numbers = chain or ((), ())
    if epilogue is None:
        return EpilogueSpec(chain=steps, numbers=len(numbers))
    return EpilogueSpec(epilogue.bias is not None, epilogue.residual is not None, epilogue.activation, steps, len(numbers))


def epilogue_arrays(
    epilogue: Epilogue | None, dtype: np.dtype[Any], bias_repeat: int, chain: Chain | None = None
) -> dict[str, Array]:
    """The arrays whose addresses an epilogue's code reads, converted as it expects them; they must live until the call is over."""
    arrays: dict[str, Array] = {}
    wide = np.float64 if dtype == np.float64 else np.float32
    if chain is not None:
        arrays["limits"] = np.array(chain[1], wide)
    if epilogue is None:
        return arrays
    if epilogue.bias is not None:
        bias = np.ascontiguousarray(epilogue.bias, dtype)
        arrays["bias"] = bias if bias_repeat == 1 else np.tile(bias, bias_repeat)
    if epilogue.residual is not None:
        arrays["residual"] = epilogue.residual
    if epilogue.activation in ("leaky_relu", "clip"):
        pair = (epilogue.slope, 0.0) if epilogue.activation == "leaky_relu" else (epilogue.lo, epilogue.hi)
        arrays["limits"] = np.array(pair, wide)
    return arrays


def call_key(
    geometry: ConvGeometry, contraction: str, x: Array, w: object, epilogue: Epilogue | None, settings: Settings, threads: int
) -> tuple[Any, ...]:
    """What a call made ready is known by."""
    return (
        id(geometry), contraction, x.strides, x.dtype.num, threads, type(w) is PreparedWeight, id(kernels.current_target()),
        settings.workspace_bytes, settings.accuracy, little_macs(), None if epilogue is None else _kind(epilogue),
    )  # fmt: skip


def _kind(epilogue: Epilogue) -> tuple[Any, ...]:
    """What of an epilogue the code depends on, and how the residual lies."""
    added = epilogue.residual
    return epilogue.bias is not None, epilogue.activation, None if added is None else (added.strides, added.dtype.num)


def example_result(shape: tuple[int, ...], like: Array, channels_last: bool) -> Array:
    """An array that lies in memory as a result would; its own memory is never touched."""
    if is_channels_last(like) or (channels_last and len(shape) > 2):
        return np.moveaxis(np.empty((shape[0], *shape[2:], shape[1]), like.dtype), -1, 1)
    return np.empty(shape, like.dtype)


def lies_like(residual: Array, out: Array) -> bool:
    """Whether the residual can be read where the result is written."""
    return residual.strides == out.strides and residual.dtype == out.dtype


class Ready:
    """What a call needs once its program is known: the shape of the result in memory, and where the scratch lies."""

    __slots__ = ("_axes", "_call", "dtype", "geometry", "linked", "request", "shape")

    def __init__(self, request: ConvRequest, linked: LinkedProgram, out: Array, n_threads: int, scratch: Scratch) -> None:
        self.request, self.linked, self.geometry = request, linked, request.geometry
        self.dtype = out.dtype
        last = not out.flags.c_contiguous
        self.shape = (out.shape[0], *out.shape[2:], out.shape[1]) if last else out.shape
        self._axes = (0, out.ndim - 1, *range(1, out.ndim - 1)) if last else None
        arguments = ("x", "packed" if request.prepared else "w", "bias", "out", "residual", "limits")
        self._call = ProgramCall(linked, arguments, scratch, n_threads, out.itemsize, request.geometry.inside_macs)

    def empty(self) -> Array:
        memory = aligned_empty(self.shape, self.dtype)
        return memory if self._axes is None else memory.transpose(self._axes)

    def run(self, x: Array, w: Array, out: Array, more: dict[str, Array]) -> bool:
        """Compute `out`; w: the weights as the program wants them; more: the epilogue's arrays. Whether a weight is not finite, if that is seen."""
        return bool(self._call(x, w, more.get("bias"), out, more.get("residual"), more.get("limits")))

    def record(self, here: Recorder, arrays: Mapping[str, Array | Fixed]) -> None:
        """Run it for a recorder, with arrays by name."""
        self._call.record(here, arrays)

    def warm(self, channels_last: bool) -> WarmCall | None:
        """Calls of x, weights and a bias, without looking at them; channels_last: of the result's axes."""
        axes = self._axes
        if channels_last:
            axes = None if axes is not None else (0, *range(2, len(self.shape)), 1)
        call = self._call.warm(self.shape, axes, self.dtype)
        if call is None or not self.request.prepared:
            return call
        return packed_call(call, self.linked.program.packed_key, self.linked.skips_padding)


class Bound:
    """One contraction with its weights packed and its bias in place: called with an array of the shape and strides that it was
    made for (and the residual, where it has one), it gives the result. Threads may share it.
    """

    __slots__ = ("_more", "_packed", "_ready")

    def __init__(self, ready: Ready, packed: Array, more: dict[str, Array]) -> None:
        """more: the epilogue's arrays but for the residual."""
        self._ready, self._packed, self._more = ready, packed, more

    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        ready = self._ready
        out = ready.empty()
        if (here := state.recorder) is not None:
            moving = {"x": x, "out": out} | ({} if residual is None else {"residual": residual})
            fixed = {"packed": self._packed} | self._more
            ready.record(here, moving | {k: Fixed(a) for k, a in fixed.items()})
            return out
        more = self._more if residual is None else self._more | {"residual": residual}
        ready.run(x, self._packed, out, more)
        return out
