"""Recurrent layers by one kernel a direction: which tile it takes, its weights packed by panels, and its argument vector.

Directions that do not depend on each other are one launch: their tasks are shared among the threads. Of a direction with fewer sequences
than threads the panels of units are shared, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.decisions import Shortcuts
from preimage.engines.ir.builder import LINE_BYTES
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.compiler.target import Target
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.products.recurrent.cell_kernel import ARRAYS, GATES, CellArguments, CellSpec
from preimage.engines.jit.products.recurrent.weights import packed_weight
from preimage.engines.jit.request import ELEMENTS, SMALL_MACS
from preimage.engines.jit.runtime.barrier import with_barriers
from preimage.engines.jit.runtime.barrier_kernel import BarrierSpec
from preimage.engines.jit.runtime.together import Launched, launch_together
from preimage.engines.jit.runtime.together_kernel import TogetherSpec
from preimage.engines.order import Order
from preimage.engines.recording import constant
from preimage.engines.recurrent import Direction
from preimage.settings import thread_count

__all__ = ["run_directions"]


#: Multiply-adds of a step from which threads that share it gain more than they wait for each other.
LEAST_SHARED_STEP = 1 << 16


class _Tile(NamedTuple):
    rows: int
    units: int


def run_directions(directions: Sequence[Direction]) -> None:
    """Fill y and the last states of every direction; they must not depend on each other."""
    macs = sum(d.products.shape[0] * d.products.shape[1] * d.weight_hh.size for d in directions)
    threads = thread_count() if macs > SMALL_MACS else 1
    launches = [_launch(d, threads, max(1, threads // len(directions))) for d in directions]
    launch_together(kept_kernel(TogetherSpec()), launches, threads)


def _tile(gates: int, rows: int, hidden: int, target: Target, lanes: int, parts: int) -> _Tile:
    """The tile for which all of a part together take the least time: two products or loads in a cycle, eight products on the way."""
    most = target.vector_registers - (4 if target.vector_registers > 16 else 3)
    vectors = -(-hidden // lanes)
    choices = [
        _Tile(r, u) for r in range(1, min(rows, 6) + 1) for u in range(1, min(vectors, 8) + 1) if r * u * gates <= most
    ]  # fmt: skip

    def cost(tile: _Tile) -> tuple[float, int]:
        sums = tile.rows * tile.units * gates
        one = max(sums, tile.units * gates + tile.rows, 8) + 1
        panels = -(-vectors // tile.units)
        return -(-rows // tile.rows) * -(-panels // parts) * one, sums

    return min(choices, key=cost)


def _spec(d: Direction, rows: int, depth: int, parts: int) -> CellSpec:
    """The kernel of a direction whose tasks have so many sequences, and their panels in so many parts."""
    target, cell = kernels.current_target(), d.cell
    lanes = target.vector_bytes // d.products.itemsize
    gates = 2 if cell.kind == "gru" and not cell.reset_after else GATES[cell.kind]
    tile = _tile(gates, rows, d.weight_hh.shape[1], target, lanes, parts)
    activations = tuple([(steps, len(numbers)) for steps, numbers in cell.activations])
    return CellSpec(
        kind=cell.kind, element=ELEMENTS[d.products.dtype.name], order=cell.order, lanes=lanes, rows=tile.rows, units=tile.units,
        depth=depth, activations=activations, clip=cell.clip is not None, coupled=cell.coupled, reset_after=cell.reset_after,
        peephole=d.peephole is not None, inside=d.inside is not None, lengths=d.lengths is not None, shared=parts > 1,
    )  # fmt: skip


class _Ready(NamedTuple):
    """What launches alike share."""

    spec: CellSpec
    kernel: kernels.LoadedKernel
    gates: tuple[int, ...]  # of each phase
    numbers: Array
    sizes: Array
    share: int  # sequences of a task
    parts: int  # of the panels
    padded: int
    array_bytes: int
    target: Target  # it is held, so that its id stays its own


_ready: Shortcuts[Any, _Ready] = Shortcuts(256)


def _made_ready(d: Direction, parts: int) -> _Ready:
    """The kernel of a direction whose batch goes to so many parts, or whose panels do where it has fewer sequences and large steps."""
    target, (_, batch, _), hidden = kernels.current_target(), d.products.shape, d.weight_hh.shape[1]
    key = (
        d.cell, batch, hidden, d.products.dtype, parts, d.peephole is None, d.inside is None, d.lengths is None, id(target)
    )  # fmt: skip
    found = _ready.get(key)
    if found is None:
        cell, order = d.cell, Order.of((hidden,))
        shares = parts if batch < parts and batch * d.weight_hh.size >= LEAST_SHARED_STEP else 1
        share = batch if shares > 1 else -(-batch // parts)
        spec = _spec(d, share, order.depth, shares)
        room, padded = (
            -(-share // spec.rows) * spec.rows,
            -(-hidden // spec.width) * spec.width,
        )  # the last tile may be of fewer sequences
        bounds = () if cell.clip is None else (-cell.clip, cell.clip)
        numbers = np.array([*bounds, *(n for _, own in cell.activations for n in own)], d.products.dtype)
        sizes = np.cumprod(np.array([cut.step for cut in order.levels] or [hidden], np.int64))
        found = _Ready(
            spec, kept_kernel(spec), tuple(map(len, spec.phases)), numbers, sizes, share, min(shares, padded // spec.width), padded,
            -(-room * padded * d.products.itemsize // LINE_BYTES) * LINE_BYTES, target,
        )  # fmt: skip
        _ready.keep(key, found)
    return found


def _launch(d: Direction, threads: int, parts: int) -> Launched:
    """One direction as a launch for so many threads."""
    r = _made_ready(d, parts)
    spec, hidden, (steps, batch, _), item = r.spec, d.weight_hh.shape[1], d.products.shape, d.products.itemsize
    weight = packed_weight(d.weight_hh, r.gates, spec.width)
    products, y = (d.products[::-1], d.y[::-1]) if d.reverse else (d.products, d.y)
    values = CellArguments(
        products=products, product_step=products.strides[0], product_row=products.strides[1], weight=weight,
        second=r.gates[0] * hidden * r.padded * item, result=y, result_step=y.strides[0], result_row=y.strides[1],
        h=d.states[0], h_row=d.states[0].strides[0], c=d.states[-1], c_row=d.states[-1].strides[0],
        last_h=d.last[0], last_h_row=d.last[0].strides[0], last_c=d.last[-1], last_c_row=d.last[-1].strides[0],
        peephole=_or_none(d.peephole), inside=_or_none(d.inside), numbers=constant(r.numbers), lengths=_or_none(d.lengths),
        first=steps - 1 if d.reverse else 0, along=-1 if d.reverse else 1, steps=steps, batch=batch, share=r.share, hidden=hidden,
        padded=r.padded, sizes=constant(r.sizes), scratch=aligned_empty((threads * ARRAYS * r.array_bytes,), np.dtype(np.uint8)),
        thread_bytes=ARRAYS * r.array_bytes, array_bytes=r.array_bytes, parts=r.parts,
    )  # fmt: skip
    launched = Launched(r.kernel, values.listed(), -(-batch // r.share))
    if not spec.shared:
        return launched
    barrier = kept_kernel(BarrierSpec(kernels.current_target().triple))
    return with_barriers(barrier, launched, 2 + steps * len(spec.phases), r.parts)


def _or_none(array: Array | None) -> Array | int:
    return 0 if array is None else array
