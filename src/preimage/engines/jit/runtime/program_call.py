"""Programs as built-in functions (`function_kernel`), and calls that skip all that one with the same shapes found out.

function = _function(linked, ("x", "w", "out"), item, releases)
function(workspace, x, w, out)         # arrays, or None for one that is absent; 0, or the flag that the program set
                                       # -1: nothing was computed, since an array does not begin on a multiple of its elements' size
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.base import Array
from preimage.engines.buffers import makers_of
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime import pool
from preimage.engines.jit.runtime.function_kernel import OWN_BYTES
from preimage.engines.jit.runtime.link import Launch, LinkedProgram
from preimage.engines.jit.runtime.native_function import SHARED_BYTES, Function, native_function
from preimage.engines.jit.runtime.pool_ir import MOST_WORKERS, WHOLE_WORK
from preimage.engines.jit.runtime.scratch import Scratch
from preimage.engines.prepared import PreparedWeight
from preimage.engines.recording import Fixed, Recorder, state
from preimage.resources import release_memory
from preimage.settings import current

__all__ = ["ProgramCall", "WarmCall", "packed_call"]

#: A call under the same settings with arrays of the same shapes, strides and dtypes as one before it, one of them maybe a bias.
#: It gives None, and has done nothing, where it must be made as the first one was: where a recorder looks on, where memory runs out, for
#: arrays that lie oddly or numbers that are not finite.
WarmCall = Callable[..., Array | None]

#: With more work than this other Python threads run meanwhile: to let them costs 0.1 us, not to let them as long as the call takes.
HELD_MACS = 1 << 16


def _function(
    linked: LinkedProgram, arguments: Sequence[str], item: int, releases: bool, threads: int, macs: int
) -> Function | None:
    """The function of a program; None where there can be none. arguments, item, threads, macs: as of `ProgramCall`."""
    steps, words, wanted = linked.steps(0)
    patches: list[tuple[int, int, int, int]] = []
    for word, name in wanted:
        if name in linked.places or name == "flag":
            patches.append((0, word, linked.places.get(name, 0), item - 1))
        elif name in arguments:
            patches.append((1 + arguments.index(name), word, 0, item - 1))
        else:
            words[word] = 0
    shared = (0, 0, 0, 0)
    if threads > 1 and any(call.tasks > 1 for call in linked.calls):
        workers = min(threads - 1, MOST_WORKERS)
        shared = (*pool.shared_place(workers), workers, _work(macs, item, len(linked.calls)))
    flagged, own = any(name == "flag" for _, name in wanted), linked.workspace_bytes <= OWN_BYTES
    return native_function(steps, words, patches, releases, linked, flagged, shared, own)


def _work(macs: int, item: int, steps: int) -> int:
    """How much each step of a program has to do, as the pool counts: more than the whole of what wakes workers, or a part of that."""
    whole = kernels.current_target().costs.threads.woken_macs
    work = macs * item * WHOLE_WORK // (4 * whole)
    return WHOLE_WORK if work >= WHOLE_WORK else work // steps


class _Launched:
    """A program on several threads, called as the function of one is, where there can be none."""

    __slots__ = ("_below", "_launch", "_names")

    def __init__(self, linked: LinkedProgram, names: tuple[str, ...], n_threads: int, item: int) -> None:
        """names: of the arguments, the flag last."""
        self._launch, self._names, self._below = Launch(linked, names, n_threads), len(names) - 1, item - 1

    def __call__(self, workspace: Array, *arrays: Array | None) -> int:
        places = [0 if a is None else address_of(a) for a in arrays]
        for place in places:
            if place & self._below:
                return -1
        start = address_of(workspace)
        ctypes.c_int64.from_address(start).value = 0  # the flag
        self._launch([start, *places, *[0] * (self._names - len(places)), start])
        return ctypes.c_int64.from_address(start).value


class ProgramCall:
    """A program made ready for calls whose arrays come in one order.

        call = ProgramCall(linked, ("x", "w", "bias", "out"), scratch, n_threads, item, macs)
        call(x, w, None, out)                  # None: there is none. The flag that the program set, or 0

    item: bytes of an element; macs: multiply-adds of a call.
    """

    __slots__ = ("_brings", "_function", "_given", "_launch", "_scratch", "_size")

    def __init__(
        self, linked: LinkedProgram, arguments: tuple[str, ...], scratch: Scratch, n_threads: int, item: int, macs: int
    ) -> None:
        self._scratch, self._size = scratch, linked.workspace_bytes
        held = n_threads <= 1 and macs <= HELD_MACS and self._size <= SHARED_BYTES
        self._function = _function(linked, arguments, item, not held, n_threads, macs)
        self._brings = self._function is None or not (held or self._size <= OWN_BYTES)
        self._launch: Launch | None = None
        self._given = linked, (*arguments, "flag"), n_threads

    def record(self, here: Recorder, arrays: Mapping[str, Array | Fixed]) -> None:
        """Run it for a recorder, with arrays by name, and a workspace that the recorder knows."""
        linked, _, n_threads = self._given
        linked.run_recorded(here, arrays, n_threads)

    def __call__(self, *arrays: Array | None) -> int:
        if (here := state.recorder) is not None:
            names = self._given[1]
            self.record(here, {name: array for name, array in zip(names, arrays, strict=False) if array is not None})
            return 0
        if self._function is not None:
            if not self._brings:
                found = self._function(None, *arrays)
            else:
                workspace = self._scratch.take(self._size)
                found = self._function(workspace.array, *arrays)
                self._scratch.free.append(workspace)
            if found >= 0:
                return found
        launch = self._launch = self._launch or Launch(*self._given)
        workspace = self._scratch.take(self._size)
        launch([workspace.address, *[0 if a is None else address_of(a) for a in arrays], workspace.address])
        flag = int(workspace.flag[0])
        self._scratch.free.append(workspace)
        return flag

    def warm(self, shape: tuple[int, ...], axes: tuple[int, ...] | None, dtype: np.dtype[Any]) -> WarmCall | None:
        """Calls of two arrays and a bias; the result's shape in memory and the order in which it has these axes."""
        function: Function | None = self._function
        if function is None:
            linked, names, n_threads = self._given
            if n_threads <= 1:
                return None
            function = _Launched(linked, names, n_threads, dtype.itemsize)
        return _warm_call(function, shape, axes, dtype, self._scratch if self._brings else None, self._size)


def _warm_call(
    function: Function, shape: tuple[int, ...], axes: tuple[int, ...] | None, dtype: np.dtype[Any],
    scratch: Scratch | None, workspace_bytes: int,
) -> WarmCall:  # fmt: skip
    """shape: of the result in memory; axes: the order in which it has them, or None; scratch: where its workspace comes from, if it needs one.

    A function that knows all this, not an object that is asked for it: that takes half of the time, which is a tenth of a small product's.
    """
    empty, where, elsewhere = makers_of(shape, dtype)
    free = None if scratch is None else scratch.free

    def call(a: Array, b: Array, bias: Array | None = None, _settings: object = current()) -> Array | None:
        # while the settings live, no others are told from them by their place in memory
        if state.recorder is not None:
            return None
        try:
            out = empty() if where.arena is None else elsewhere()
            if free is None:
                failed = function(None, a, b, bias, out)
            else:
                try:
                    workspace = free.pop()
                except IndexError:
                    workspace = scratch.take(workspace_bytes)  # type: ignore[union-attr]
                if workspace.size < workspace_bytes:
                    workspace = scratch.take(workspace_bytes)  # type: ignore[union-attr]
                failed = function(workspace.array, a, b, bias, out)
                free.append(workspace)
        except MemoryError:
            release_memory()  # what is only kept for later calls
            return None
        if failed:
            return None
        return out if axes is None else out.transpose(axes)

    return call


def packed_call(call: WarmCall, key: object, finite: bool) -> WarmCall:
    """A warm call whose weights are prepared. key: of the packed form; finite: whether it serves weights that are finite alone."""

    def packed(a: Array, w: PreparedWeight, bias: Array | None = None) -> Array | None:
        found = w.state[1].get(key)
        if found is None or (finite and not found[1]):
            return None
        return call(a, found[0], bias)

    return packed
