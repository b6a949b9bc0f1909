"""LSTMs with 8-bit weights: every step is five launches, and all steps of a direction are one (`runtime/rounds.py`).

find, quantise      the state h as uint8 over its range in all sequences
factor              its scale times the weights'
multiply            sums of integers, exact, scaled as they are stored
cell                gates, c and h in one chain of elementwise steps, into the result too
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.integers import Finish, QuantisedLstm
from preimage.engines.ir.elementwise import Step
from preimage.engines.jit.elementwise.chain import Chain as ReadyChain
from preimage.engines.jit.elementwise.chain import run_chain
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.products.integers.call import product_launch
from preimage.engines.jit.products.integers.range import range_launches
from preimage.engines.jit.runtime.rounds import launch_of_rounds
from preimage.engines.jit.runtime.rounds_kernel import RoundsSpec
from preimage.engines.jit.runtime.together import Launched, launch_together
from preimage.engines.jit.runtime.together_kernel import TogetherSpec
from preimage.engines.recurrent import Cell
from preimage.settings import thread_count

__all__ = ["run_lstm"]

_FLOAT, _BYTE = np.dtype(np.float32), np.dtype(np.uint8)


def run_lstm(directions: Sequence[QuantisedLstm]) -> None:
    """Fill y and the last states; each direction is a task, so that threads share them."""
    for d in directions:
        for state, own in zip(d.states, d.last, strict=True):
            run_chain((state,), (), out=(own,))
    launches = [_launch(d) for d in directions]
    launch_together(kept_kernel(TogetherSpec()), launches, thread_count() if len(launches) > 1 else 1)


def _launch(d: QuantisedLstm) -> Launched:
    """All steps of a direction. The states wait in the arrays that take the last ones."""
    (steps, batch, columns), (h, _) = d.products.shape, d.last
    q, sums = aligned_empty(h.shape, _BYTE), aligned_empty((batch, columns), _FLOAT)
    scale, zero, factor = aligned_empty((1,), _FLOAT), aligned_empty((), _BYTE), aligned_empty((d.scale.size,), _FLOAT)
    scales = (scale, d.scale.reshape(-1))
    times: tuple[Step, ...] = (("mul", (0, 1)),)
    launches = [
        *range_launches(h, q, scale, zero),
        ReadyChain(scales, times, 0, (2,), _FLOAT, (_FLOAT,), (factor,)).launched(scales, (), (factor,)),
        product_launch(q, zero, d.weight, d.zero, Finish("scaled", factor), sums),
    ]
    first, along = (steps - 1, -1) if d.reverse else (0, 1)
    products, y = d.products[first], d.y[first]
    cell, moving = _cell_launch(d, products, sums, y)
    moved = {id(array): along * d.products.strides[0] for array in moving} | {id(y): along * d.y.strides[0]}
    return launch_of_rounds(kept_kernel(RoundsSpec()), steps, [*launches, cell], moved)


def _cell_launch(d: QuantisedLstm, products: Array, sums: Array, y: Array) -> tuple[Launched, list[Array]]:
    """The chain of a step, and those of its operands that lie elsewhere in the next step."""
    h, c = d.last
    hidden, order = h.shape[1], d.cell.order
    gates = [[array[:, k * hidden : (k + 1) * hidden] for k in order] for array in (products, sums)]
    operands = [*gates[0], *gates[1], c, *([] if d.peephole is None else list(d.peephole))]
    steps, numbers, (new_c, new_h) = _cell_steps(d.cell, len(operands), d.peephole is not None)
    out = (c, h, y)
    chain = ReadyChain(operands, steps, len(numbers), (new_c, new_h, new_h), _FLOAT, (_FLOAT,) * len(out), out)
    return chain.launched(operands, numbers, out), gates[0]


def _cell_steps(cell: Cell, operands: int, peephole: bool) -> tuple[tuple[Step, ...], tuple[float, ...], tuple[int, int]]:
    """The steps, their numbers, and where c and h stand. Operands: products and sums of i, f, g, o, then c, then peepholes of i, f, o."""
    bounds = () if cell.clip is None else (-cell.clip, cell.clip)
    numbers = (*bounds, 1.0, *(n for _, own in cell.activations for n in own))
    steps: list[Step] = []
    one, c = operands + len(bounds), 8
    first_step = operands + len(numbers)

    def step(word: str, *places: int) -> int:
        steps.append((word, places))
        return first_step + len(steps) - 1

    def applied(k: int, value: int) -> int:
        own, count = cell.activations[k]
        at = one + 1 + sum(len(n) for _, n in cell.activations[:k])
        made: list[int] = [value, *range(at, at + len(count))]
        for word, places in own:
            made.append(step(word, *(made[p] for p in places)))
        return made[-1]

    def held(value: int) -> int:
        return step("clip", value, operands, operands + 1) if bounds else value

    def opened(gate: int, seen: int, state: int) -> int:
        value = step("add", gate, 4 + gate)
        if peephole:
            value = step("add", value, step("mul", 9 + seen, state))
        return applied(0, held(value))

    entered = opened(0, 0, c)
    kept = step("sub", one, entered) if cell.coupled else opened(1, 1, c)
    fresh = applied(1, held(step("add", 2, 6)))
    new_c = step("add", step("mul", kept, c), step("mul", entered, fresh))
    new_h = step("mul", opened(3, 2, new_c), applied(2, new_c))
    return tuple(steps), numbers, (new_c, new_h)
