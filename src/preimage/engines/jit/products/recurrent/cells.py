"""What recurrent cells do with the sums of a vector of units: gates, activations, the new states.

The kernel (`cell_kernel.py`) calls what `finish` gives for each vector of each sequence, while the sums stand in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from preimage.engines.ir.builder import Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.elementwise import WORDS, applied, number_of
from preimage.records import record

if TYPE_CHECKING:
    from preimage.engines.jit.products.recurrent.cell_kernel import CellSpec

__all__ = ["Functions", "Place", "States", "all_lanes", "finish", "finish_n"]


@record
class Place:
    """Where a vector of units of one sequence lies: in the states' arrays, in a row of the products (bytes), among the units (first of them)."""

    state: Int
    product: Ptr
    unit: Int
    mask: Bit
    over: Bit | None


@record
class States:
    """The arrays of a task in the thread's memory: whole panels for each sequence."""

    now: Ptr
    following: Ptr
    c: Ptr
    kept: Ptr  # a gru's z
    reset: Ptr  # r * h


class Functions:
    """The activations, with their numbers in registers where they are used."""

    def __init__(self, f: Kernel, spec: CellSpec, numbers: Ptr) -> None:
        self.f, self.spec, self.numbers = f, spec, numbers

    def bare(self, k: int, value: Num) -> Num:
        """Activation k of a value."""
        f, spec = self.f, self.spec
        at = 2 * spec.clip + sum(count for _, count in spec.activations[:k])
        steps, count = spec.activations[k]
        values: list[Num | Bit] = [value, *(self.numbers.at(at + j).splat(spec.lanes) for j in range(count))]
        for word, places in steps:
            values.append(applied(f, word, [values[p] for p in places], spec.element))
        return number_of(values[-1], spec.element)

    def __call__(self, k: int, value: Num) -> Num:
        """The same of the value held within the clip's bounds."""
        if self.spec.clip:
            low, high = (self.numbers.at(j).splat(self.spec.lanes) for j in range(2))
            value = WORDS["clip"](self.f, value, low, high)
        return self.bare(k, value)


def all_lanes(f: Kernel, holds: Bit, lanes: int) -> Bit:
    """A scalar's answer in every lane."""
    return holds if lanes == 1 else f.lane_mask(lanes, holds.select(f.i64(lanes), f.i64(0)))


def finish(f: Kernel, spec: CellSpec, functions: Functions, states: States) -> Callable[[Place, dict[int, Num]], None]:
    """What the first phase does with the sums of a vector of units."""
    lanes = spec.lanes

    def product(where: Place, gate: int) -> Num:
        return where.product.at(spec.arguments.read(f, spec).hidden * spec.order[gate]).load(lanes, where.mask)

    def keep(array: Ptr, where: Place, new: Num, old: Ptr) -> None:
        place = array.at(where.state)
        if where.over is not None:
            new = all_lanes(f, where.over, lanes).select(old.at(where.state).load(lanes), new)
        place.store(new)

    def rnn(where: Place, sums: dict[int, Num]) -> None:
        keep(states.following, where, functions(0, product(where, 0) + sums[0]), states.now)

    def lstm(where: Place, sums: dict[int, Num]) -> None:
        c = states.c.at(where.state).load(lanes)

        def opened(gate: int, seen: int, state: Num) -> Num:
            value = product(where, gate) + sums[gate]
            if spec.peephole:
                seen_from = spec.arguments.read(f, spec).peephole.at(spec.arguments.read(f, spec).hidden * seen + where.unit)
                value = value + seen_from.load(lanes, where.mask) * state
            return functions(0, value)

        entered = opened(0, 0, c)
        kept = f.const(spec.element, lanes, 1.0) - entered if spec.coupled else opened(1, 1, c)
        new = kept * c + entered * functions(1, product(where, 2) + sums[2])
        h = opened(3, 2, new) * functions.bare(2, new)
        keep(states.c, where, new, states.c)
        keep(states.following, where, h, states.now)

    def gru(where: Place, sums: dict[int, Num]) -> None:
        reset, kept = (functions(0, product(where, gate) + sums[gate]) for gate in (0, 1))
        h = states.now.at(where.state).load(lanes)
        if not spec.reset_after:
            states.kept.at(where.state).store(kept)
            states.reset.at(where.state).store(reset * h)
            return
        value = sums[2] + spec.arguments.read(f, spec).inside.at(where.unit).load(lanes, where.mask) if spec.inside else sums[2]
        new = functions(1, product(where, 2) + reset * value)
        keep(states.following, where, new + kept * (h - new), states.now)

    return {"rnn": rnn, "lstm": lstm, "gru": gru}[spec.kind]


def finish_n(f: Kernel, spec: CellSpec, functions: Functions, states: States) -> Callable[[Place, dict[int, Num]], None]:
    """What the second phase of a gru does with the sums of n."""
    lanes = spec.lanes

    def last(where: Place, sums: dict[int, Num]) -> None:
        new = functions(
            1, where.product.at(spec.arguments.read(f, spec).hidden * spec.order[2]).load(lanes, where.mask) + sums[2]
        )
        h, kept = states.now.at(where.state).load(lanes), states.kept.at(where.state).load(lanes)
        value = new + kept * (h - new)
        if where.over is not None:
            value = all_lanes(f, where.over, lanes).select(h, value)
        states.following.at(where.state).store(value)

    return last
