"""Chains of elementwise steps on arrays, compiled into one pass over memory (fused_kernel.py).

Arrays may lie in any dense order of their axes, all in the same one; smaller operands broadcast where they lie as one number, one
a row or one a column of that order. What lies otherwise is refused (None).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.ir.elementwise import Step
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.compiler.costs import ElementwiseCosts
from preimage.engines.jit.elementwise.fused_kernel import ChainSpec
from preimage.engines.jit.runtime import pool
from preimage.engines.jit.runtime.link import address_of, compiled
from preimage.settings import thread_count

__all__ = ["ELEMENTS", "costs", "dense_order", "kept_kernel", "placed_empty", "run_chain"]

_HEAVY = frozenset(("exp", "sigmoid", "tanh"))
ELEMENTS = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}

Shape = tuple[int, ...]


_kept: dict[tuple[Any, int], tuple[kernels.LoadedKernel, Any]] = {}
_MOST_KEPT = 1024


def kept_kernel(spec: Any) -> kernels.LoadedKernel:
    """The kernel of a spec for the current target, found without writing the spec out."""
    target = kernels.current_target()
    found = _kept.get((spec, id(target)))
    if found is None:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        found = _kept[spec, id(target)] = (compiled(spec), target)  # the target is held, so that its id stays its own
    return found[0]


def costs() -> ElementwiseCosts:
    """Those of the current target."""
    return kernels.current_target().costs.elementwise


def lanes_of(dtype: np.dtype[Any]) -> int:
    """Elements of a vector register."""
    return kernels.current_target().vector_bytes // dtype.itemsize


@lru_cache(maxsize=4096)
def dense_order(shape: Shape, strides: Shape, item: int) -> tuple[int, ...] | None:
    """The axes from the outermost in memory to the innermost, if the array fills its memory without gaps; axes of one element
    keep their places among the others as far as that goes."""
    if all(a >= 0 for a, n in zip(strides, shape, strict=True) if n != 1):
        axes = sorted((k for k in range(len(shape)) if shape[k] != 1), key=lambda k: -strides[k])
        step = item
        for k in reversed(axes):
            if strides[k] != step:
                return None
            step *= shape[k]
        order = list(axes)
        for k in range(len(shape)):
            if shape[k] == 1:
                order.insert(order.index(k - 1) + 1 if k else 0, k)
        return tuple(order)
    return None


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the operands of a chain lie: the memory's axes, the result's shape there, kinds, rows, and (divisor, modulus) each."""

    order: tuple[int, ...]
    back: tuple[int, ...] | None
    memory: Shape
    kinds: tuple[str, ...]
    width: int
    lines: tuple[tuple[int, int], ...]


@lru_cache(maxsize=4096)
def _layout(shapes: tuple[Shape, ...], strides: tuple[Shape, ...], item: int, costs: ElementwiseCosts) -> _Layout | None:
    full = max(range(len(shapes)), key=lambda k: (prod(shapes[k]), len(shapes[k])))
    whole = shapes[full]
    order = dense_order(whole, strides[full], item)
    if order is None or not prod(whole):
        return None
    long = [k for k in order if whole[k] != 1]  # memory axes that count
    sizes = [whole[k] for k in long]
    places: list[tuple[int, int, int] | str] = []  # (i, j, t): varies along the memory axes i..j-1 and t..
    for shape, stride in zip(shapes, strides, strict=True):
        missing = len(whole) - len(shape)
        if missing < 0:
            return None
        own = (1,) * missing + shape
        steps = (0,) * missing + stride
        if prod(shape) == 1:
            places.append("one")
            continue
        if any(own[k] not in (1, whole[k]) for k in range(len(whole))):
            return None
        step = item
        for k in reversed(long):
            if own[k] != 1:
                if steps[k] != step:
                    return None
                step *= own[k]
        varies = [own[k] != 1 for k in long]
        if all(varies):
            places.append("full")
            continue
        t = len(long)
        while t and varies[t - 1]:
            t -= 1
        lead = [k for k in range(t) if varies[k]]
        if lead and lead != list(range(lead[0], lead[-1] + 1)):
            return None
        places.append((lead[0], lead[-1] + 1, t) if lead else (0, 0, t))
    cut = max((p[2] if p[2] < len(long) else p[1] for p in places if not isinstance(p, str)), default=-1)
    kinds: list[str] = []
    lines: list[tuple[int, int]] = []
    for p in places:
        if isinstance(p, str):
            kinds.append(p)
            lines.append((1, 1))
            continue
        i, j, t = p
        trails = t < len(long)
        if trails and t < cut:
            if j:
                return None
            i, j = t, cut
        kinds.append("row" if not trails else "columns" if j else "column")
        lines.append((prod(sizes[j:cut]), prod(sizes[i:j])) if j else (1, 1))
    width = costs.row_elements if cut < 0 else prod(sizes[cut:])
    if width < costs.least_width:
        return None
    back = tuple(int(k) for k in np.argsort(order)) if order != tuple(range(len(order))) else None
    return _Layout(order, back, tuple(whole[k] for k in order), tuple(kinds), width, tuple(lines))


def placed_empty(memory: Shape, back: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Array:
    """A new array whose axes lie in memory as `memory` says; `back` puts them into their logical order."""
    made = aligned_empty(memory, dtype)
    return made if back is None else made.transpose(back)


def run_chain(
    operands: Sequence[Array], steps: tuple[Step, ...], numbers: Sequence[float] = (), results: tuple[int, ...] | None = None
) -> tuple[Array, ...] | None:
    """The values of the steps named by `results` (places; by default the last step's), as new arrays in the memory order of the
    largest operand; None where the operands do not lie alike.

    operands: arrays of one dtype, float32 or float64. Numbers are rounded to it. Nothing depends on the number of threads.
    """
    dtype = operands[0].dtype
    key = (
        tuple([a.shape for a in operands]), tuple([a.strides for a in operands]), dtype.num, steps, len(numbers), results,
        id(kernels.current_target()),
    )  # fmt: skip
    ready = _ready.get(key)
    if ready is None:
        numbers_of = costs()
        layout = _layout(key[0], key[1], dtype.itemsize, numbers_of)
        if layout is None:
            return None
        stored = (len(operands) + len(numbers) + len(steps) - 1,) if results is None else results
        spec = ChainSpec(ELEMENTS[dtype], lanes_of(dtype), layout.kinds, len(numbers), steps, stored)
        if len(_ready) >= _MOST_READY:
            _ready.clear()
        heavy = any(word in _HEAVY for word, _ in steps)
        ready = _ready[key] = _Ready(layout, kept_kernel(spec), len(stored), heavy, numbers_of)
    layout = ready.layout
    made = [placed_empty(layout.memory, layout.back, dtype) for _ in range(ready.results)]
    given = np.array(numbers, dtype)
    words = [*ready.head, address_of(given), *[address_of(a) for a in made]]  # `ChainArguments`, the results, then each `Operand`
    for operand, line in zip(operands, layout.lines, strict=True):
        words += (address_of(operand), *line)
    pool.launch(ready.kernel, pool.pack_args(*words), ready.tasks, thread_count() if ready.shared else 1)
    return tuple(made)


class _Ready:
    """A chain on operands of known shapes, strides and dtype."""

    __slots__ = ("head", "kernel", "layout", "results", "shared", "tasks")

    def __init__(self, layout: _Layout, kernel: kernels.LoadedKernel, results: int, heavy: bool, costs: ElementwiseCosts) -> None:
        self.layout, self.kernel, self.results = layout, kernel, results
        total, width = prod(layout.memory), layout.width
        share = max(1, costs.task_elements // width)
        self.head = (total, width, share)
        self.tasks = -(-total // (width * share))
        self.shared = self.tasks > 1 and total * (costs.heavy if heavy else 1) >= costs.least_shared


_ready: dict[tuple[Any, ...], _Ready] = {}
_MOST_READY = 4096
