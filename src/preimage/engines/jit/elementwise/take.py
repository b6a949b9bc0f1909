"""Taking along an axis by indices (take_kernel.py): gathers, embeddings, margins that copy cells. Of any dtype."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.elementwise.copies import densely, in_order
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.elementwise.layout import costs, placed_empty
from preimage.engines.jit.elementwise.take_kernel import TakeArguments, TakeSpec
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.settings import thread_count

__all__ = ["take"]

_INDEX = {np.dtype(np.int64): "i64", np.dtype(np.int32): "i32"}
_ONE_WORD = {1: "i8", 2: "i16", 4: "f32", 8: "f64"}


def take(x: Array, index: Array, axis: int) -> Array | None:
    """x at the indices along an axis, which the index's axes replace; negative ones count from the end. Others must lie inside.

    The result lies in memory as x does. None for indices that are not int64 or int32, and elements that kernels do not move.
    """
    if index.dtype not in _INDEX or x.dtype.hasobject or x.dtype.itemsize not in _ONE_WORD or not (x.size and index.size):
        return None
    found = densely(x)
    if found is None:
        return None
    x, order = found
    if not index.flags.c_contiguous:
        held = in_order(index)
        if held is None:
            return None
        index = held
    at = order.index(axis)
    inner = prod([x.shape[k] for k in order[at + 1 :]])
    outers, count = prod([x.shape[k] for k in order[:at]]), index.size
    memory = tuple([count if k == axis else x.shape[k] for k in order])
    made = placed_empty(memory, tuple([int(k) for k in np.argsort(order)]), x.dtype)
    words, spec = _words(x.dtype.itemsize, inner)
    most = max(1, costs().task_elements // words)
    piece = min(count, most)
    share, pieces = max(1, most // count), -(-count // piece)
    arguments = TakeArguments(
        x=x, result=made, index=index, outers=outers, size=x.shape[axis], count=count, inner=words, share=share, piece=piece,
        pieces=pieces,
    )  # fmt: skip
    tasks = -(-outers // share) * pieces
    kernel = kept_kernel(replace(spec, index=_INDEX[index.dtype]))
    launch_arrays(kernel, arguments.listed(), tasks, thread_count() if tasks > 1 else 1)
    return made.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _words(item: int, inner: int) -> tuple[int, TakeSpec]:
    """How many words the elements of one index are moved as, and the kernel (for indices of 64 bits)."""
    if inner == 1:
        return 1, TakeSpec(_ONE_WORD[item], 1, True)
    size = item * inner
    if size % 4 == 0:
        return size // 4, TakeSpec("f32", kernels.current_target().vector_bytes // 4, False)
    return (
        (size // 2, TakeSpec("i16", 1, False)) if size % 2 == 0 else (size, TakeSpec("i8", 1, False))
    )  # no CPU here masks bytes
