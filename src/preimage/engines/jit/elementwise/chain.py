"""Chains of elementwise steps on arrays of any strides, shapes that broadcast, and any element types, in one pass (chain_kernel.py).

The axes are put into the order of the results' memory, neighbours that lie alike are joined, and the last becomes the line. Where an operand
has its neighbours along another axis, lines are cut into pieces, so that what a cache line brings is used before it goes. Small operands
that would make lines of a few elements are repeated first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.base import Array, aligned_empty
from preimage.engines.buffers import maker_of
from preimage.engines.ir.elementwise import HEAVY, Step
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.compiler.costs import ElementwiseCosts
from preimage.engines.jit.elementwise.chain_kernel import ChainSpec
from preimage.engines.jit.elementwise.exchange import Exchange, exchange
from preimage.engines.jit.elementwise.kept import HELD_ELEMENTS, kept_kernel, lanes_for
from preimage.engines.jit.elementwise.layout import Shape
from preimage.engines.jit.runtime.link import launch_arrays, step_tables
from preimage.engines.jit.runtime.native_function import Function, native_function
from preimage.engines.jit.runtime.together import Launched
from preimage.engines.recording import Fixed, constant_of, recorder, state
from preimage.resources import release_memory
from preimage.settings import current, thread_count

__all__ = ["Chain", "chain_of", "element_of", "ready_chain", "run_chain"]

DType = np.dtype[Any]
_NAMES = {
    "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "bool": "bit", "int8": "i8", "uint8": "u8",
    "int16": "i16", "uint16": "u16", "int32": "i32", "uint32": "u32", "int64": "i64",
}  # fmt: skip
_RAW = {1: "i8", 2: "i16", 4: "f32", 8: "f64"}
#: Elements of a piece of a line, where an operand's neighbours lie along the rows: so many cache lines are open at a time.
PIECE = 64
#: Lines of fewer elements are mostly overhead; an operand is repeated to make longer ones, where it stays this much smaller than the whole.
SHORT, SHARE = 64, 8


def element_of(dtype: DType) -> str | None:
    """The element type of a dtype in this machine's byte order; None for others."""
    return _NAMES.get(dtype.name) if dtype.isnative else None


def _memory_order(shape: Shape, arrays: Sequence[Array]) -> list[int]:
    """The axes from the outermost to the innermost, as the arrays of the whole shape lie; C order if there is none."""
    whole = [a.strides for a in arrays if a.shape == shape]
    long = [k for k, n in enumerate(shape) if n != 1]
    if whole:
        long.sort(key=lambda k: tuple([-abs(strides[k]) for strides in whole]))
    order = list(long)
    for k, n in enumerate(shape):
        if n == 1:  # axes of one element keep their places as far as that goes
            order.insert(order.index(k - 1) + 1 if k else 0, k)
    return order


def _joined(sizes: Sequence[int], strides: Sequence[tuple[int, ...]]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Axes that lie alike in every array as one. strides: of each axis, per array."""
    kept_sizes: list[int] = []
    kept: list[tuple[int, ...]] = []
    for size, steps in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if kept and all(outer == inner * size for outer, inner in zip(kept[-1], steps, strict=True)):
            kept_sizes[-1] *= size
            kept[-1] = steps
        else:
            kept_sizes.append(size)
            kept.append(steps)
    return kept_sizes, kept


class Chain:
    """A chain made ready for operands of known shapes, strides and dtypes: called with arrays, it gives the results' arrays."""

    __slots__ = (
        "_places",
        "_repeated",
        "_table",
        "asleep",
        "back",
        "computed",
        "elements",
        "head",
        "kernel",
        "kinds",
        "memory",
        "shared",
        "tasks",
    )

    def __init__(
        self, operands: Sequence[Array], steps: tuple[Step, ...], numbers: int, stored: tuple[int, ...], computed: DType,
        kinds: tuple[DType, ...], out: Sequence[Array] | None,
    ) -> None:  # fmt: skip
        """computed: the dtype of the numbers; kinds: of the results; out: what they will be written to. Raises: KeyError for dtypes that
        kernels do not know.
        """
        shape = np.broadcast_shapes(*[a.shape for a in operands])
        order = _memory_order(shape, operands if out is None else out)
        self.computed, self.kinds = computed, kinds
        self.memory = tuple([shape[k] for k in order])
        self.back = None if order == list(range(len(shape))) else tuple([int(k) for k in np.argsort(order)])
        self._repeated: dict[int, tuple[Shape, Sequence[int]]] = {}
        self.tasks = 0
        self.head: tuple[Any, ...] = ()
        dtypes = [*[a.dtype for a in operands], *kinds]
        if steps or len(set(dtypes)) > 1:
            names, dtype = [_NAMES[d.name] for d in dtypes], {"float32": "f32", "float64": "f64"}[computed.name]
            if dtype == "f64" and {"f16", "bf16"} & set(names[len(operands) :]):
                raise KeyError("a 64-bit float is not rounded to 16 bits at once")
        else:
            names, dtype = [_RAW[d.itemsize] for d in dtypes], _RAW[computed.itemsize]
        if not all(d.isnative for d in dtypes):
            raise KeyError("foreign byte order")
        if prod(shape):
            strides = self._strides(shape, order, operands, out)
            arrays = [(name, d.itemsize, s) for name, d, s in zip(names, dtypes, strides, strict=True)]
            self._plan(shape, order, arrays, len(operands), dtype, numbers, steps, stored)

    def _strides(self, shape: Shape, order: Sequence[int], operands: Sequence[Array], out: Sequence[Array] | None) -> list[Shape]:
        """Bytes along every axis of the whole shape, of each operand and result."""
        found: list[Shape] = []
        for a in operands:
            own = [s if n > 1 else 0 for s, n in zip(a.strides, a.shape, strict=True)]
            found.append((*[0] * (len(shape) - a.ndim), *own))
        for k, kind in enumerate(self.kinds):
            found.append(_dense(shape, order, kind.itemsize) if out is None else out[k].strides)
        size = prod(shape)
        for k in range(len(operands)):
            repeated = _repeated(shape, order, found, k, SHORT, size // SHARE)
            if repeated is not None:
                self._repeated[k] = repeated, order
                dense = _dense(repeated, order, operands[k].itemsize)
                found[k] = tuple([s if n > 1 else 0 for s, n in zip(dense, repeated, strict=True)])
        return found

    def _plan(
        self, shape: Shape, order: Sequence[int], arrays: Sequence[tuple[str, int, Shape]], given: int, dtype: str, numbers: int,
        steps: tuple[Step, ...], stored: tuple[int, ...],
    ) -> None:  # fmt: skip
        """arrays: element type, bytes of an element, and strides of each operand (given of them) and result; order: of the axes."""
        target = kernels.current_target()
        costs, heavy = target.costs.elementwise, any(word in HEAVY for word, _ in steps)
        sizes, strides = _joined([shape[k] for k in order], [tuple([a[2][k] for a in arrays]) for k in order])
        if not sizes:
            sizes, strides = [1], [(0,) * len(arrays)]
        if not steps and given == 1 and arrays[0][:2] == arrays[1][:2] and arrays[0][1] >= 4:
            found = exchange(sizes, strides, arrays[0][1], target.vector_bytes // arrays[0][1])
            if found is not None:
                self._exchange(found, costs)
                return
        width, inner = sizes[-1], strides[-1]
        axes = list(range(len(sizes) - 1))
        rows_axis, piece = (axes[-1] if axes else None), width
        for k, (_, size, _) in enumerate(arrays):
            near = [a for a in axes if abs(strides[a][k]) == size] if inner[k] not in (0, size) else []
            if near:
                rows_axis, piece = near[0], min(width, PIECE)
                break
        rows = 1 if rows_axis is None else sizes[rows_axis]
        outer = [a for a in reversed(axes) if a != rows_axis]
        lines = prod(sizes[a] for a in outer) * rows
        most = max(1, costs.task_elements // (costs.heavy if heavy else 1))
        if piece == width and lines < 16 and width > 2 * most:
            piece = -(-most // 64) * 64
        pieces = -(-width // piece)
        share = max(1, most // piece)
        self.tasks = -(-lines * pieces // share)
        self._share_out(prod(sizes) * (costs.heavy if heavy else 1), costs)
        self._table = np.array([[sizes[a], *strides[a]] for a in outer], np.int64)
        self.head = (width, piece, pieces, rows, lines * pieces, share, len(outer), Fixed(self._table) if outer else 0)
        row = (0,) * len(arrays) if rows_axis is None else strides[rows_axis]
        self._places = list(zip(inner, row, strict=True))
        lies = tuple(
            (name, "near" if step == size or width == 1 else "one" if not step else "apart")
            for (name, size, _), step in zip(arrays, inner, strict=True)
        )
        lanes = lanes_for(target, 8 if dtype == "f64" else 4, heavy)
        self.kernel = kept_kernel(ChainSpec(dtype, lanes, lies[:given], numbers, steps, stored, lies[given:]))

    def _share_out(self, elements: int, costs: ElementwiseCosts) -> None:
        """Say whether threads share the tasks: where they are awake, as in a recorded program, and where they may be asleep."""
        self.elements = elements
        self.shared = self.tasks > 1 and elements >= costs.least_shared
        self.asleep = self.tasks > 1 and elements >= costs.least_woken

    def _exchange(self, found: Exchange, costs: ElementwiseCosts) -> None:
        """The copy as a kernel of its own."""
        size = found.spec.parts * found.length
        share = max(1, costs.task_elements // size)
        self.tasks = -(-found.lines // share)
        self._share_out(found.lines * size, costs)
        self._table = found.offsets
        self.head = (found.length, found.lines, found.second, *found.strides, share, Fixed(self._table))
        self._places = [(0, 0), (0, 0)]
        self.kernel = kept_kernel(found.spec)

    def __call__(
        self, operands: Sequence[Array], numbers: Sequence[float] | Array = (), out: Sequence[Array] | None = None
    ) -> tuple[Array, ...]:
        """The results, in `out` where it is given. numbers: or an array of them, in the dtype of the computation, that is read where it lies."""
        if out is None:
            memory, back = self.memory, self.back
            if back is None:
                out = tuple([aligned_empty(memory, kind) for kind in self.kinds])
            else:
                out = tuple([aligned_empty(memory, kind).transpose(back) for kind in self.kinds])
        if self.tasks:
            one = self.launched(operands, numbers, out)
            shared = self.asleep if recorder() is None else self.shared
            launch_arrays(one.kernel, one.words, one.tasks, thread_count() if shared else 1)
        return tuple(out)

    @property
    def repeats(self) -> bool:
        """Whether an operand is repeated before the kernel runs."""
        return bool(self._repeated)

    def whole(self, operands: Sequence[Array]) -> Sequence[Array]:
        """The operands, those repeated that the kernel reads so."""
        return [_copied(a, *self._repeated[k]) if k in self._repeated else a for k, a in enumerate(operands)]

    def function(self, numbers: Array, items: Sequence[int]) -> Function | None:
        """The chain on one thread as a function of None, the operands and the result. numbers: for all calls, in the dtype of the
        computation; items: bytes of an element of each array.
        """
        words = [int(address_of(w.array)) if isinstance(w, Fixed) else w for w in self.head]
        words.append(address_of(numbers) if numbers.size else 0)
        patches = []
        for k, (item, place) in enumerate(zip(items, self._places, strict=True)):
            patches.append((k + 1, len(words), 0, item - 1))
            words += (0, *place)
        steps, words = step_tables([(int(self.kernel), words, self.tasks)], 0)
        return native_function(steps, words, patches, self.elements > HELD_ELEMENTS, (self, numbers))

    def launched(self, operands: Sequence[Array], numbers: Sequence[float] | Array, out: Sequence[Array]) -> Launched:
        """The launch of a call on arrays that have elements."""
        if self._repeated:
            operands = self.whole(operands)
        if isinstance(numbers, np.ndarray):
            given: Any = numbers
        else:
            given = Fixed(np.array(numbers, self.computed)) if numbers else 0
        words: list[Any] = [*self.head, given]
        for array, place in zip((*operands, *out), self._places, strict=True):
            words += (array, *place)
        return Launched(self.kernel, words, self.tasks)


def _dense(shape: Shape, order: Sequence[int], item: int) -> Shape:
    """The strides of an array that fills its memory in this order of axes."""
    strides, step = [0] * len(shape), item
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def _repeated(shape: Shape, order: Sequence[int], strides: Sequence[Shape], k: int, short: int, most: int) -> Shape | None:
    """A larger shape for an operand that breaks up lines that all other arrays have: None where that wins nothing."""
    own, width, split = [1 if not strides[k][axis] else shape[axis] for axis in range(len(shape))], 1, False
    long = [axis for axis in reversed(order) if shape[axis] > 1]
    for at, axis in enumerate(long):
        if at:
            inner = long[at - 1]
            lie = [s[axis] == s[inner] * shape[inner] for j, s in enumerate(strides) if j != k]
            if not all(lie) or width >= short:
                break
            split = split or strides[k][axis] != strides[k][inner] * shape[inner]
        own[axis] = shape[axis]
        width *= shape[axis]
    return tuple(own) if split and prod(own) <= most else None


def _copied(a: Array, shape: Shape, order: Sequence[int]) -> Array:
    """Repeated to a shape; dense, its axes in this order. For a recorder by a kernel, where the array is none that never changes."""
    own = a[tuple([slice(None, n) for n in shape[len(shape) - a.ndim :]])]  # which may be repeated already, with strides of 0
    view = np.broadcast_to(own, shape).transpose(order)
    here = recorder()
    if here is None or here.is_fixed(a):
        return constant_of(a, view.copy())
    made = aligned_empty(view.shape, a.dtype)
    run_chain((view,), (), out=(made,))
    return made


_ready: dict[tuple[Any, ...], Chain | None] = {}
_MOST_READY = 4096


def chain_of(
    operands: Sequence[Array], steps: tuple[Step, ...], numbers: int, results: tuple[int, ...] | None, dtype: DType | None,
    dtypes: tuple[DType, ...] | None, out: Sequence[Array] | None = None,
) -> Chain | None:  # fmt: skip
    """The chain of a call like this (see `run_chain`), of so many numbers, made ready or made."""
    key = (
        tuple([(a.shape, a.strides, a.dtype) for a in operands]), steps, numbers, results, dtype, dtypes,
        None if out is None else tuple([(a.shape, a.strides, a.dtype) for a in out]), id(kernels.current_target()),
    )  # fmt: skip
    try:
        return _ready[key]
    except KeyError:
        stored = (len(operands) + numbers + len(steps) - 1,) if results is None else results
        computed = operands[0].dtype if dtype is None else dtype
        kinds = tuple([a.dtype for a in out]) if out is not None else dtypes or (computed,) * len(stored)
        try:
            chain = Chain(operands, steps, numbers, stored, computed, kinds, out)
        except KeyError:
            chain = None
        if len(_ready) >= _MOST_READY:
            _ready.clear()
        _ready[key] = chain
    return chain


def run_chain(
    operands: Sequence[Array], steps: tuple[Step, ...], numbers: Sequence[float] | Array = (), results: tuple[int, ...] | None = None,
    dtype: DType | None = None, dtypes: tuple[DType, ...] | None = None, out: Sequence[Array] | None = None,
) -> tuple[Array, ...] | None:  # fmt: skip
    """The values of the steps named by `results` (places; by default the last step's), for operands that broadcast, of any strides.

    dtype: float32 or float64, what is computed in (default: that of the first operand; numbers are rounded to it); dtypes: of the results
    (default: the same); out: arrays of the whole shape that take them, by default new ones in the memory order of the operands of the
    whole shape. None where a dtype is none of those of `ir/elements.py`. Nothing depends on the number of threads.
    """
    chain = chain_of(operands, steps, len(numbers), results, dtype, dtypes, out)
    return None if chain is None else chain(operands, numbers, out)


def ready_chain(
    operands: Sequence[Array], steps: tuple[Step, ...], numbers: Sequence[float], dtype: DType, kind: DType
) -> Callable[..., Array | None] | None:
    """What a call of `run_chain` with one result runs, for more operands of the same shapes, strides and dtypes under the same settings;
    None where each has to be looked at.

    It gives None, and has done nothing, where the call must be made as the first one was: where a recorder looks on, where memory runs
    out, for arrays that lie oddly.
    """
    chain = chain_of(operands, steps, len(numbers), None, dtype, (kind,))
    if chain is None or not chain.tasks:
        return None
    given, settings = np.array(numbers, dtype), current()
    function = chain.function(given, [*[a.itemsize for a in operands], kind.itemsize])
    if function is None or (chain.asleep and thread_count() > 1):
        return lambda *operands: None if state.recorder is not None else chain(operands, given)[0]
    shape, back, repeated = chain.memory, chain.back, chain.repeats
    empty = maker_of(shape, kind)

    def call(
        *operands: Array, _kept: object = settings
    ) -> Array | None:  # while settings live, no others are told from them by their place
        if state.recorder is not None:
            return None
        try:
            out = empty()
        except MemoryError:
            release_memory()  # what is only kept for later calls
            return None
        if function(None, *(chain.whole(operands) if repeated else operands), out):
            return None
        return out if back is None else out.transpose(back)

    return call
