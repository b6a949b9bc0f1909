"""Bound calls: what a contraction needs to run again on arrays of the same shapes and strides.

`Ready` remembers the program and where its scratch lies; `Bound` also has prepared weights and the epilogue's arrays, so that a
call only writes down the addresses of its input and result and launches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines.base import Array, Chain, Epilogue, aligned_empty
from preimage.engines.buffers import retrying
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit.program import ALIGN
from preimage.engines.jit.request import ConvRequest
from preimage.engines.jit.runtime.link import Launch, LinkedProgram, address_of
from preimage.engines.recording import Fixed, state
from preimage.resources import register_keeper

__all__ = ["Bound", "Ready", "Scratch", "Workspace", "epilogue_arrays", "finish_of"]


class Workspace:
    """Memory that one call writes to. Its first bytes, `flag`, are the word that packing sets where a weight is not finite."""

    __slots__ = ("address", "flag", "memory", "size")

    def __init__(self, size: int) -> None:
        self.memory = retrying(lambda: np.empty(size + ALIGN, np.uint8))
        start = -address_of(self.memory) % ALIGN
        self.address, self.size = address_of(self.memory) + start, size
        self.flag = self.memory[start : start + 8].view(np.int64)


class Scratch:
    """Workspaces that no call uses just now, the latest last.

        workspace = scratch.take(size)
        ...                               # kernels run in it
        scratch.free.append(workspace)

    A call takes its workspace out, so nobody else meets it: neither another thread, nor a call that a signal handler, a finaliser or a
    trace function makes in the middle of this one. A call that fails on its way gives nothing back; its workspace is freed.
    """

    def __init__(self) -> None:
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
        free, self.free = self.free, []
        return sum([workspace.size for workspace in free])


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


class Ready:
    """What a call needs once its program is known: the shape of the result in memory, and where the scratch lies."""

    __slots__ = ("axes", "dtype", "geometry", "launch", "linked", "request", "shape", "size", "threads")

    def __init__(self, request: ConvRequest, linked: LinkedProgram, out: Array, n_threads: int) -> None:
        self.request, self.linked, self.geometry, self.threads = request, linked, request.geometry, n_threads
        self.dtype, self.size = out.dtype, linked.workspace_bytes
        last = not out.flags.c_contiguous
        self.shape = (out.shape[0], *out.shape[2:], out.shape[1]) if last else out.shape
        self.axes = (0, out.ndim - 1, *range(1, out.ndim - 1)) if last else None
        weights = ("packed",) if request.prepared else ("w", "flag")
        self.launch = Launch(linked, ("x", "out", "bias", "residual", "limits", *weights), n_threads)

    def empty(self) -> Array:
        memory = aligned_empty(self.shape, self.dtype)
        return memory if self.axes is None else memory.transpose(self.axes)


class Bound:
    """One contraction with its weights packed and its bias in place: called with an array of the shape and strides that it was
    made for (and the residual, where it has one), it gives the result. Threads may share it.
    """

    __slots__ = ("_addresses", "_kept", "_launch", "_ready", "_scratch")

    def __init__(self, ready: Ready, fixed: dict[str, Array], scratch: Scratch) -> None:
        self._ready, self._kept, self._scratch = ready, fixed, scratch
        self._addresses = [address_of(array) for array in fixed.values()]
        self._launch = Launch(ready.linked, ("x", "out", "residual", *fixed), ready.threads)

    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        ready = self._ready
        out = ready.empty()
        if (here := state.recorder) is not None:
            moving = {"x": x, "out": out} | ({} if residual is None else {"residual": residual})
            ready.linked.run_recorded(here, moving | {k: Fixed(a) for k, a in self._kept.items()}, ready.threads)
            return out
        workspace = self._scratch.take(ready.size + ALIGN)
        rest = 0 if residual is None else address_of(residual)
        self._launch([workspace.address, address_of(x), address_of(out), rest, *self._addresses])
        self._scratch.free.append(workspace)
        return out
