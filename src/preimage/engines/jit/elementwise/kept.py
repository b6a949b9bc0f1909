"""The kernels of specs, found again without writing the specs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.base import Array
from preimage.engines.ir.arguments import Arguments
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.link import compiled, launch_arrays, step_tables
from preimage.engines.jit.runtime.native_function import Function, native_function
from preimage.engines.recording import Fixed
from preimage.settings import thread_count

__all__ = ["HELD_ELEMENTS", "function_of", "kept_kernel", "lanes_for", "launch_spec"]

#: With more elements than this (a heavy step's count for several) other Python threads run while one thread computes them.
HELD_ELEMENTS = 1 << 15
_kept: dict[tuple[Any, int], tuple[kernels.LoadedKernel, Any]] = {}
_MOST_KEPT = 1024


def kept_kernel(spec: Any) -> kernels.LoadedKernel:
    """The kernel of a spec for the current target."""
    target = kernels.current_target()
    found = _kept.get((spec, id(target)))
    if found is None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        found = _kept[spec, id(target)] = (compiled(spec), target)  # the target is held, so that its id stays its own
    return found[0]


def launch_spec(spec: Any, arguments: Arguments, tasks: int) -> None:
    """Run the kernel of a spec."""
    launch_arrays(kept_kernel(spec), arguments.listed(), tasks, thread_count() if tasks > 1 else 1)


def function_of(spec: Any, arguments: Arguments, tasks: int, arrays: Sequence[Array], elements: int) -> Function | None:
    """The launch of a spec's kernel on one thread as a function of None and arrays like these, which are among the arguments; None where
    there can be none. elements: about how many are computed.
    """
    places = {id(array): k for k, array in enumerate(arrays, 1)}
    kernel, words, patches = kept_kernel(spec), arguments.listed(), []
    kept: list[Any] = [kernel]
    for at, word in enumerate(words):
        array = word.array if isinstance(word, Fixed) else word
        if id(array) in places:
            patches.append((places[id(array)], at, 0, array.itemsize - 1))
            words[at] = 0
        elif isinstance(array, np.ndarray):
            kept.append(array)
            words[at] = address_of(array)
    steps, vectors = step_tables([(int(kernel), words, tasks)], 0)
    return native_function(steps, vectors, patches, elements > HELD_ELEMENTS, kept)


def lanes_for(target: kernels.Target, itemsize: int, heavy: bool) -> int:
    """Elements of a vector. Heavy steps work on 64 bytes at a time: narrower registers then share the constants that they load."""
    return max(target.vector_bytes, 64 if heavy else 0) // itemsize
