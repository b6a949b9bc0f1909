"""Moving elements by generated kernels: taking by indices, margins, copies in another order of memory. Of any dtype.

Every function gives None where NumPy has to do the work, as those of `around` do: nothing is computed, so the results are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage.engines import around
from preimage.engines.around import LEAST_CHAIN, active
from preimage.engines.axis_matrix import AxisMatrix
from preimage.engines.base import Array, aligned_empty, memory_order
from preimage.engines.kept_tables import kept_tables
from preimage.engines.recording import constant, recorder

__all__ = ["exchanged", "laid", "padded", "placed", "repeated", "reshaped", "running_sums", "take"]

Pairs = Sequence[tuple[int, int]]
#: Of an axis whose running sums are kernels, one a place.
MOST_PLACES = 64


def _wanted(size: int) -> Any:
    """The kernels, where so many elements are worth their call; for a recorder any are."""
    return active() if size >= LEAST_CHAIN or (size and recorder() is not None) else None


def take(x: Array, index: Array, axis: int) -> Array | None:
    """x at the indices (int32 or int64) along an axis, which the index's axes replace; the result lies in memory as x does.

    Negative indices count from the end. None for an index outside, which is not looked for where an index is known to be right.
    """
    size = x.shape[axis]
    kernels = _wanted(index.size * (x.size // size)) if size else None
    if kernels is None or index.dtype.kind != "i" or index.min() < -size or index.max() >= size:
        return None
    here = recorder()
    if here is not None and not here.is_fixed(index):
        here.expect(index, (-size, size - 1))
    made: Array | None = kernels.take(x, index, axis)
    return made


def _empty(shape: Sequence[int], order: Sequence[int], dtype: np.dtype[Any]) -> Array:
    return aligned_empty(tuple([shape[k] for k in order]), dtype).transpose([int(k) for k in np.argsort(order)])


@kept_tables
def _margins(size: int, lo: int, hi: int) -> AxisMatrix:
    return AxisMatrix.of_margins(size, lo, hi)


def padded(x: Array, pairs: Pairs, value: Any) -> Array | None:
    """x with `value` around it; pairs, before and behind, of every axis, not negative. It lies in memory as x does."""
    shape = tuple([n + lo + hi for n, (lo, hi) in zip(x.shape, pairs, strict=True)])
    kernels = _wanted(int(np.prod(shape))) if x.size else None
    if kernels is None:
        return None
    if (
        value == 0
        and around.fits(x) is not None
        and any(map(any, pairs))
        and x.transpose(memory_order(x)).flags.c_contiguous
        and not np.signbit(value)
    ):
        return around.along_axes(x, [(k, _margins(x.shape[k], *pair)) for k, pair in enumerate(pairs) if any(pair)])
    made = _empty(shape, memory_order(x), x.dtype)
    inner = tuple([slice(lo, lo + n) for n, (lo, _) in zip(x.shape, pairs, strict=True)])
    if kernels.run_chain((x,), (), out=(made[inner],)) is None:
        return None
    fill = constant(np.asarray(value, x.dtype))
    for k, (lo, hi) in enumerate(pairs):  # the slabs before and behind; along later axes they are whole
        for amount, place in ((lo, slice(0, lo)), (hi, slice(lo + x.shape[k], None))):
            if amount:
                slab = made[(*inner[:k], place)]
                kernels.run_chain((np.broadcast_to(fill, slab.shape),), (), out=(slab,))
    return made


def placed(x: Array, shape: Sequence[int], key: Any) -> Array | None:
    """Zeros with x at a basic index: for a recorder, by kernels."""
    here, kernels = recorder(), active()
    if here is None or kernels is None or not x.size:
        return None
    made = _empty(shape, range(len(shape)), x.dtype)
    place = made[key]
    zeros = np.broadcast_to(constant(np.zeros((), x.dtype)), made.shape)
    if kernels.run_chain((zeros,), (), out=(made,)) is None or kernels.run_chain((x,), (), out=(place,)) is None:
        return None
    return made


def laid(x: Array, order: Sequence[int]) -> Array | None:
    """A dense copy of x, not empty, whose axes lie in memory in this order, the outermost first."""
    kernels = active() if x.size else None
    copied = None if kernels is None else kernels.in_order(x.transpose(order))
    return None if copied is None else copied.transpose([int(k) for k in np.argsort(order)])


def exchanged(x: Array, groups: int) -> Array | None:
    """Channels (axis 1), which lie innermost, in `groups` rows, read by columns."""
    kernels = _wanted(x.size)
    last = np.moveaxis(x, 1, -1)
    view = last.reshape(*last.shape[:-1], groups, -1)
    copied = None if kernels is None else kernels.in_order(view.swapaxes(-1, -2))
    return None if copied is None else np.moveaxis(copied.reshape(last.shape), -1, 1)


def repeated(x: Array, shape: Sequence[int]) -> Array | None:
    """x broadcast to a shape, every element written, in row-major order."""
    kernels = _wanted(int(np.prod(shape)))
    made: Array | None = None if kernels is None else kernels.in_order(np.broadcast_to(x, shape))
    return made


def reshaped(x: Array, shape: Sequence[int]) -> Array:
    """x in another shape; where it must be copied, for a recorder by a kernel."""
    made = np.reshape(x, shape)
    here = recorder()
    if here is None or not x.size or here.place_of(x) is None or here.place_of(made) is not None:
        return made
    kernels = active()
    copied = None if kernels is None else kernels.in_order(x)
    return made if copied is None else np.reshape(copied, shape)


def running_sums(x: Array, axis: int) -> Array | None:
    """Every place of a short axis with those before it, one addition after another: for a recorder, by a kernel a place."""
    here, kernels = recorder(), active()
    if here is None or kernels is None or not x.size or x.dtype not in (np.float32, np.float64) or x.shape[axis] > MOST_PLACES:
        return None
    made = _empty(x.shape, memory_order(x), x.dtype)
    values, sums = np.moveaxis(x, axis, 0), np.moveaxis(made, axis, 0)
    kernels.run_chain((values[:1],), (), out=(sums[:1],))
    for k in range(1, len(values)):
        kernels.run_chain((sums[k - 1 : k], values[k : k + 1]), (("add", (0, 1)),), out=(sums[k : k + 1],))
    return made
