"""Products of arrays: what a call needs is worked out once for shapes and strides, and kept."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from preimage.engines.base import Array, Epilogue, apply_to_columns
from preimage.engines.buffers import aligned
from preimage.engines.decisions import Shortcuts, forget_shortcuts
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.packing.kept_forms import KeptForms
from preimage.engines.jit.products.lower import lower_product
from preimage.engines.jit.products.ready import Ready
from preimage.engines.jit.products.request import ProductRequest, Side, joined_rows, matrix_places
from preimage.engines.jit.program import Program
from preimage.engines.jit.request import ELEMENTS
from preimage.engines.jit.runtime.bound_call import epilogue_arrays, finish_of
from preimage.engines.jit.runtime.interpreter import interpreter
from preimage.engines.jit.runtime.link import address_of, link
from preimage.engines.jit.runtime.program_call import WarmCall
from preimage.engines.jit.runtime.scratch import Scratch
from preimage.engines.prepared import Forms, PreparedWeight, is_fixed
from preimage.engines.recording import apart, recorder, state
from preimage.settings import thread_count

__all__ = ["JitProducts", "product_request"]

MOST_READY = 2048
_PLAIN = EpilogueSpec()


def product_request(
    a: Array, b: Array | PreparedWeight, finish: EpilogueSpec, threads: int, prepared: bool = False
) -> tuple[ProductRequest, bool]:
    """The request for a @ b of arrays with elements, and whether it is that of the transposes: B^T A^T, one column as one row."""
    item = a.itemsize
    b_shape = b.shape[::-1] if prepared else b.shape
    b_strides = b.strides if isinstance(b, np.ndarray) else (item, b.shape[1] * item)
    lead = np.broadcast_shapes(a.shape[:-2], b_shape[:-2])
    (m, k), n = a.shape[-2:], b_shape[-1]
    left = Side(m, k, a.strides[-2], a.strides[-1], matrix_places(a.shape, a.strides, lead))
    right = Side(n, k, b_strides[-1], b_strides[-2], matrix_places(b_shape, b_strides, lead))
    if prod(b_shape[:-2]) == 1 and (joined := joined_rows(a.shape, a.strides)) is not None:
        rows = _meaningful(Side(joined[0], k, joined[1], a.strides[-1], (0,)), item)
        if rows.is_readable(item):  # the rows of all A meet one B
            left, right = rows, Side(n, k, b_strides[-1], b_strides[-2], (0,))
    left, right = (_meaningful(side, item) for side in (left, right))
    swapped = n == 1 and not prepared and left.members > 1 and finish == _PLAIN
    if swapped:
        left, right = right, left
    target, macs = kernels.current_target(), len(left.places) * left.members * right.members * k
    threads = threads if macs >= target.costs.products.least_shared else 1
    return ProductRequest(ELEMENTS[a.dtype.name], left, right, finish, threads, target, prepared), swapped


def _meaningful(side: Side, item: int) -> Side:
    """Strides of axes of one member say nothing: they become those of a dense array."""
    member, term = side.member_stride, side.term_stride
    if side.terms == 1 and side.members == 1:
        member = term = item
    elif side.terms == 1:
        term = item if member != item else side.members * item
    elif side.members == 1:
        member = item if term != item else side.terms * item
    return Side(side.members, side.terms, member, term, side.places)


def _readable(a: Array) -> Array:
    """The array itself, if its elements lie whole numbers of elements apart and one axis of its matrices contiguously; else a copy."""
    item, rows, columns = a.itemsize, a.strides[-2], a.strides[-1]
    if (columns == item or a.shape[-1] == 1 or rows == item or a.shape[-2] == 1) and not any(s % item for s in a.strides):
        return a
    return np.array(a, order="C")


class JitProducts:
    """Matrix products by generated kernels."""

    def __init__(self) -> None:
        self._ready: Shortcuts[tuple[Any, ...], Ready] = Shortcuts(MOST_READY)
        self._scratch = Scratch()

    def matmul(self, a: Array, b: Array, epilogue: Epilogue | None = None) -> Array:
        """a @ b of arrays of one dtype with at least two axes, whose batch axes broadcast."""
        if epilogue is None and state.recorder is None:
            ready = self._ready.get((a.shape, a.strides, b.shape, b.strides, a.dtype.num, id(kernels.current_target())))
            if ready is not None:
                return ready(a, b)
        return self._run(a, b, epilogue, False)

    def linear(self, x: Array, w: Array | PreparedWeight, epilogue: Epilogue | None = None) -> Array:
        """x (..., in) times the transpose of w (out, in)."""
        if type(w) is PreparedWeight:
            return self._run(x, w, epilogue, True)
        assert isinstance(w, np.ndarray)
        return self._run(x, w.T, epilogue, False)

    def _run(self, a: Array, b: Any, epilogue: Epilogue | None, prepared: bool) -> Array:
        """As matmul; b may be a prepared weight (n, k)."""
        if not prepared and (weight := _packed_once(b)) is not None:
            return self._run(a, weight, epilogue, True)
        threads = _threads(a, b.shape[::-1] if prepared else b.shape)
        alone = (a.shape, a.strides, b.shape, None if prepared else b.strides, a.dtype.num, id(kernels.current_target()))
        kind = None if epilogue is None else (epilogue.bias is not None, epilogue.residual is not None, epilogue.activation)
        key = (*alone, threads, kind, prepared)
        ready = self._ready.get(key)
        if ready is None:
            if not (a.size and prod(b.shape)):
                return _empty_sums(a, b.shape[::-1] if prepared else b.shape, epilogue)
            straight, other = _readable(a), b if prepared else _readable(b)
            if straight is not a or other is not b:
                return self._run(straight, other, epilogue, prepared)
            ready = self._make(a, b, epilogue, threads, prepared)
            self._ready.keep(key, ready)
            if ready.threads == 1 and kind is None and not prepared and self._small(ready, a):
                self._ready.keep(alone, ready)  # whatever the number of threads is set to
        packed = packed_weight(b, ready.linked.program) if prepared else None
        if epilogue is None:
            return ready(a, b, packed)
        return ready(a, b, packed, epilogue_arrays(epilogue, ready.dtype, 1))

    def _small(self, ready: Ready, a: Array) -> bool:
        """Whether one thread computes it, however many there are."""
        return bool(prod(ready.shape) * a.shape[-1] < kernels.current_target().costs.products.least_shared)

    def _make(self, a: Array, b: Any, epilogue: Epilogue | None, threads: int, prepared: bool) -> Ready:
        request, swapped = product_request(a, b, finish_of(epilogue), threads, prepared)
        shape = _result_shape(a, b.shape[::-1] if prepared else b.shape)
        linked = link(lower_product(request), request.threads)
        return Ready(linked, self._scratch, shape, a.dtype, swapped, request.threads, request.macs)

    def warm(self, a: Array, b: Array) -> WarmCall | None:
        """Products like one that was made under these settings, and that skip all that it found out; None where there are none."""
        return self._warm(a, b, None, False)

    def warm_linear(self, x: Array, w: Array | PreparedWeight, bias: Array | None) -> WarmCall | None:
        """The same of `linear`, with a bias or without."""
        if bias is not None and not (bias.dtype == x.dtype and bias.flags.c_contiguous):
            return None
        kind = None if bias is None else (True, False, None)
        if isinstance(w, np.ndarray):
            return self._warm(x, w.T, kind, False)
        return self._warm(x, w, kind, True)

    def _warm(self, a: Array, b: Any, kind: tuple[Any, ...] | None, prepared: bool) -> WarmCall | None:
        alone = (a.shape, a.strides, b.shape, None if prepared else b.strides, a.dtype.num, id(kernels.current_target()))
        ready = self._ready.get(alone) if kind is None and not prepared else None
        ready = ready or self._ready.get((*alone, _threads(a, b.shape[::-1] if prepared else b.shape), kind, prepared))
        return None if ready is None else ready.warm()

    def forget(self) -> None:
        """Drop every call that was made ready."""
        forget_shortcuts()


#: Packed forms of factors that nobody can change: every program that is recorded with one takes the same.
_kept: KeptForms[Forms] = KeptForms(lambda forms: sum([memory.nbytes for memory, _ in list(forms.values())]))


def _packed_once(b: Array) -> PreparedWeight | None:
    """For a recorder, a factor that nobody changes and whose columns lie as a weight's rows: packed now, for all later runs."""
    here = state.recorder
    if here is None or b.ndim != 2 or b.flags.c_contiguous or not b.T.flags.c_contiguous or not b.size or not here.is_fixed(b):
        return None
    forms = _kept.of(b).setdefault((address_of(b), b.shape), {}) if is_fixed(b) else {}
    return PreparedWeight.of_fixed(b.T, forms)


def _threads(a: Array, b_shape: tuple[int, ...]) -> int:
    """How many threads may share a @ b: one alone where waking others takes longer than they save, and launches wake them."""
    threads = thread_count()
    if threads == 1 or interpreter() is not None or recorder() is not None:
        return threads
    macs = max(a.size * b_shape[-1], prod(b_shape) * a.shape[-2])
    return threads if macs * a.itemsize > 4 * kernels.current_target().costs.threads.woken_macs else 1


def _result_shape(a: Array, b_shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*np.broadcast_shapes(a.shape[:-2], b_shape[:-2]), a.shape[-2], b_shape[-1])


def _empty_sums(a: Array, b_shape: tuple[int, ...], epilogue: Epilogue | None) -> Array:
    """The product of matrices without elements: sums of nothing, if any."""
    with np.errstate(all="ignore"):
        return apply_to_columns(np.zeros(_result_shape(a, b_shape), a.dtype), epilogue)


def packed_weight(w: PreparedWeight, program: Program) -> Array:
    """The weights as a program wants them."""
    array, forms = w.state
    found = forms.get(program.packed_key)
    if found is None:
        assert program.packing is not None
        memory = aligned(program.packed_bytes)
        once = link(Program("packing", (program.packing,)), 1)
        with apart():
            once.run({"w": address_of(array), "packed": address_of(memory)}, 1)
        found = forms[program.packed_key] = (memory, True)
    return found[0]
