"""One recurrent layer in one direction, all its steps in one call; a task is some sequences of the batch.

    h, c = the first states
    for step in the sequence                             # the order of memory: strides are negative for the other direction
        for panel of units                               # `units` vectors of hidden units, with all their gates
            for `rows` sequences side by side
                sums[gate] = +0 + R[gate] h              # blocks of terms, groups of blocks: the order of the contract
                c', h' = cell(products[step] + sums, c)  # in registers
        y[step] = h'; h = h'

The states wait in the thread's own memory, whole panels wide, h in two places. R is packed by panels: what a panel reads lies in one piece.
Where a gru's r comes before the product, the panels are gone through twice: for r and z, then for n. Every second step goes through the
panels backwards: what the caches still hold of R is read first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.elementwise import WORDS, Step, applied, number_of
from preimage.records import record

__all__ = ["ARRAYS", "GATES", "CellArguments", "CellSpec", "Phase", "build"]

#: About this many multiply-adds stand in the body of the innermost loop.
UNROLL_PRODUCTS = 48
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
#: The arrays of states in a thread's memory: h twice, c, a gru's z and r * h.
ARRAYS = 5


class CellArguments(Arguments):
    """Steps, rows, places and sizes in memory are in bytes, all others are counts.

    products: of the inputs, at the first step. weight: R's panels; those of the second phase begin at `second`. sizes: terms of a block, a group, ...
    length, first, along: a sequence is over at its step number `length`; the first step is number `first`, the next `first + along`.
    padded: hidden units in whole panels.
    """

    products: Elements = elements("element")
    product_step: Integer
    product_row: Integer
    weight: Elements = elements("element")
    second: Integer
    result: Elements = elements("element")
    result_step: Integer
    result_row: Integer
    h: Elements = elements("element")
    h_row: Integer
    c: Elements = elements("element")
    c_row: Integer
    last_h: Elements = elements("element")
    last_h_row: Integer
    last_c: Elements = elements("element")
    last_c_row: Integer
    peephole: Elements = elements("element")
    inside: Elements = elements("element")
    numbers: Elements = elements("element")
    lengths: Words
    first: Integer
    along: Integer
    steps: Integer
    batch: Integer
    share: Integer  # sequences of a task
    hidden: Integer
    padded: Integer
    sizes: Words
    scratch: Elements = elements("element")
    thread_bytes: Integer
    array_bytes: Integer  # of one state of all sequences of a task


@record
class CellSpec:
    """What the code depends on. depth: levels of sums above the blocks; activations: their steps, and how many numbers each takes; the rest as
    in `engines.recurrent`.
    """

    arguments: ClassVar = CellArguments

    kind: str
    element: str
    order: tuple[int, ...]
    lanes: int
    rows: int
    units: int
    depth: int
    activations: tuple[tuple[tuple[Step, ...], int], ...]
    clip: bool
    coupled: bool
    reset_after: bool
    peephole: bool
    inside: bool
    lengths: bool

    @property
    def width(self) -> int:
        """Units of a panel."""
        return self.units * self.lanes

    @property
    def phases(self) -> tuple[tuple[int, ...], ...]:
        """The gates whose products are taken together, in the order of R's rows."""
        gates = sorted(range(len(self.order)), key=self.order.__getitem__)
        if self.kind == "gru" and not self.reset_after:
            return tuple(gates[:2]), tuple(gates[2:])
        return (tuple(gates),)

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


@record
class Phase:
    """A part of a step: the gates whose products it takes, their panels of R, what they are multiplied by, and what is done with the sums."""

    gates: tuple[int, ...]
    weight: Ptr
    factor: Ptr
    finish: Callable[[_Place, dict[int, Num]], None]


@record
class _Place:
    """Where a vector of units of one sequence lies: in the states' arrays, in a row of the products (bytes), among the units (first of them)."""

    state: Int
    product: Ptr
    unit: Int
    mask: Bit
    over: Bit | None


@record
class _States:
    """The arrays of a task in the thread's memory: whole panels for each sequence."""

    now: Ptr
    following: Ptr
    c: Ptr
    kept: Ptr  # a gru's z
    reset: Ptr  # r * h


class _Functions:
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


def build(spec: CellSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    args = CellArguments.read(f, spec)
    own = args.scratch.at_bytes(f.thread * args.thread_bytes)
    places = [own.at_bytes(args.array_bytes * k) for k in range(ARRAYS)]
    first = f.task * args.share
    rows = args.share.minimum(args.batch - first)
    _copy_rows(
        f, spec, args.h.at_bytes(first * args.h_row), args.h_row, places[0], args.padded * ELEMENT_BYTES[spec.element], rows
    )
    if spec.kind == "lstm":
        _copy_rows(
            f, spec, args.c.at_bytes(first * args.c_row), args.c_row, places[2], args.padded * ELEMENT_BYTES[spec.element], rows
        )
    with f.loop(0, args.steps, carry=[places[0], places[1]], once=True) as step:
        states = _States(step.carry[0], step.carry[1], places[2], places[3], places[4])
        _step(f, spec, args, step.index, first, rows, states)
        result = args.result.at_bytes(step.index * args.result_step + first * args.result_row)
        _give(f, spec, args, step.index, first, rows, states.following, result)
        step.carry = [step.carry[1], step.carry[0]]
    pitch = args.padded * ELEMENT_BYTES[spec.element]
    _copy_rows(f, spec, step.result[0], pitch, args.last_h.at_bytes(first * args.last_h_row), args.last_h_row, rows)
    if spec.kind == "lstm":
        _copy_rows(f, spec, places[2], pitch, args.last_c.at_bytes(first * args.last_c_row), args.last_c_row, rows)
    return f.ir()


def _args(f: Kernel, spec: CellSpec) -> CellArguments:
    """The arguments, loaded where they are read."""
    return CellArguments.read(f, spec)


def _copy_rows(f: Kernel, spec: CellSpec, source: Ptr, source_row: Int, target: Ptr, target_row: Int, rows: Int) -> None:
    """The states of some sequences."""
    with f.loop(0, rows) as row:
        _copy_row(f, spec, source.at_bytes(row.index * source_row), target.at_bytes(row.index * target_row), None)


def _copy_row(f: Kernel, spec: CellSpec, source: Ptr, target: Ptr, over: Bit | None) -> None:
    """One state, or zeros where the sequence is over."""
    hidden, lanes = _args(f, spec).hidden, spec.lanes
    whole = hidden - hidden % lanes

    def copied(at: Int, mask: Bit | None) -> None:
        value = source.at(at).load(lanes, mask)
        if over is not None:
            value = _all_lanes(f, over, lanes).select(f.zeros(spec.element, lanes), value)
        target.at(at).store(value, mask)

    with f.loop(0, whole, lanes) as k:
        copied(k.index, None)
    with f.when(whole < hidden):
        copied(whole, f.lane_mask(lanes, hidden - whole))


def _all_lanes(f: Kernel, holds: Bit, lanes: int) -> Bit:
    """A scalar's answer in every lane."""
    return holds if lanes == 1 else f.lane_mask(lanes, holds.select(f.i64(lanes), f.i64(0)))


def _over(f: Kernel, spec: CellSpec, step: Int, sequence: Int) -> Bit:
    """Whether a sequence has no such step."""
    args = _args(f, spec)
    return args.lengths.at(sequence).load_int() <= args.first + step * args.along


def _give(f: Kernel, spec: CellSpec, args: CellArguments, step: Int, first: Int, rows: Int, h: Ptr, result: Ptr) -> None:
    """y of one step."""
    with f.loop(0, rows) as row:
        over = _over(f, spec, step, first + row.index) if spec.lengths else None
        source = h.at(row.index * _args(f, spec).padded)
        _copy_row(f, spec, source, result.at_bytes(row.index * _args(f, spec).result_row), over)


def _step(f: Kernel, spec: CellSpec, args: CellArguments, step: Int, first: Int, rows: Int, states: _States) -> None:
    """One step of all sequences of the task."""
    functions = _Functions(f, spec, args.numbers)
    phases = [Phase(spec.phases[0], args.weight, states.now, _finish(f, spec, functions, states))]
    if len(spec.phases) > 1:
        after = _finish_n(f, spec, functions, states)
        phases.append(Phase(spec.phases[1], args.weight.at_bytes(args.second), states.reset, after))
    panels = args.padded // spec.width
    backwards = (step & 1).equals(1)
    for phase in phases:
        with f.loop(0, panels, once=True) as turn:
            panel = backwards.pick(panels - 1 - turn.index, turn.index)
            with f.loop(0, rows, spec.rows, once=True) as row:
                _tile(f, spec, phase, step, panel, first, row.index, rows)


def _tile(f: Kernel, spec: CellSpec, phase: Phase, step: Int, panel: Int, first: Int, row: Int, rows: Int) -> None:
    """A panel of units of some sequences. Of sequences behind the last one the last is computed again, into places that nobody reads."""
    args = _args(f, spec)
    gates, item = len(phase.gates), ELEMENT_BYTES[spec.element]
    lines = phase.weight.at(panel * (args.hidden * (gates * spec.width)))
    factors = [phase.factor.at((row + r) * args.padded) for r in range(spec.rows)]
    sums = _total(f, spec, spec.depth, gates, lines, factors, f.i64(0), args.hidden)
    if not spec.depth:
        sums = [f.zeros(spec.element, spec.lanes) + value for value in sums]
    for r in range(spec.rows):
        sequence = first + (row + r if r == 0 else (row + r).minimum(rows - 1))
        line = args.products.at_bytes(step * args.product_step + sequence * args.product_row)
        over = _over(f, spec, step, sequence) if spec.lengths else None
        for u in range(spec.units):
            unit = panel * spec.width + u * spec.lanes
            mask = f.lane_mask(spec.lanes, args.hidden - unit)
            where = _Place((row + r) * args.padded + unit, line.at_bytes(unit * item), unit, mask, over)
            own = {gate: sums[(r * gates + g) * spec.units + u] for g, gate in enumerate(phase.gates)}
            phase.finish(where, own)


def _total(
    f: Kernel, spec: CellSpec, level: int, gates: int, lines: Ptr, factors: list[Ptr], start: Int, end: Int
) -> list[Num]:  # fmt: skip
    """The sums over the terms from start to end, whose parts are blocks, groups of blocks, ..."""
    zeros = [f.zeros(spec.element, spec.lanes)] * (spec.rows * gates * spec.units)
    if level == 0:
        return _chain(f, spec, gates, lines, factors, start, end, zeros)
    size = _args(f, spec).sizes.at(level - 1).load_int()
    with f.loop(start, end, size, carry=zeros, once=True) as part:
        inner = _total(f, spec, level - 1, gates, lines, factors, part.index, (part.index + size).minimum(end))
        part.carry = [total + value for total, value in zip(part.carry, inner, strict=True)]
    return part.result


def _chain(
    f: Kernel, spec: CellSpec, gates: int, lines: Ptr, factors: list[Ptr], start: Int, end: Int, sums: list[Num]
) -> list[Num]:  # fmt: skip
    """One block."""
    vectors = gates * spec.units
    unroll = max(1, UNROLL_PRODUCTS // len(sums))
    whole = end - (end - start) % unroll

    def terms(k: Int, count: int, sums: list[Num]) -> list[Num]:
        for j in range(count):
            line = lines.at((k + j) * (vectors * spec.lanes))
            left = [factor.at(k + j).splat(spec.lanes) for factor in factors]
            found = list(sums)
            for v in range(vectors):
                right = line.at(v * spec.lanes).load(spec.lanes)
                for r, value in enumerate(left):
                    found[r * vectors + v] = sums[r * vectors + v].plus_product(value, right)
            sums = found
        return sums

    with f.loop(start, whole, unroll, carry=sums) as k:
        k.carry = terms(k.index, unroll, k.carry)
    with f.loop(whole, end, carry=k.result) as k:
        k.carry = terms(k.index, 1, k.carry)
    return k.result


# -- cells ---------------------------------------------------------------------------------------------------------------------


def _finish(f: Kernel, spec: CellSpec, functions: _Functions, states: _States) -> Callable[[_Place, dict[int, Num]], None]:
    """What the first phase does with the sums of a vector of units."""
    lanes = spec.lanes

    def product(where: _Place, gate: int) -> Num:
        return where.product.at(_args(f, spec).hidden * spec.order[gate]).load(lanes, where.mask)

    def keep(array: Ptr, where: _Place, new: Num, old: Ptr) -> None:
        place = array.at(where.state)
        if where.over is not None:
            new = _all_lanes(f, where.over, lanes).select(old.at(where.state).load(lanes), new)
        place.store(new)

    def rnn(where: _Place, sums: dict[int, Num]) -> None:
        keep(states.following, where, functions(0, product(where, 0) + sums[0]), states.now)

    def lstm(where: _Place, sums: dict[int, Num]) -> None:
        c = states.c.at(where.state).load(lanes)

        def opened(gate: int, seen: int, state: Num) -> Num:
            value = product(where, gate) + sums[gate]
            if spec.peephole:
                seen_from = _args(f, spec).peephole.at(_args(f, spec).hidden * seen + where.unit)
                value = value + seen_from.load(lanes, where.mask) * state
            return functions(0, value)

        entered = opened(0, 0, c)
        kept = f.const(spec.element, lanes, 1.0) - entered if spec.coupled else opened(1, 1, c)
        new = kept * c + entered * functions(1, product(where, 2) + sums[2])
        h = opened(3, 2, new) * functions.bare(2, new)
        keep(states.c, where, new, states.c)
        keep(states.following, where, h, states.now)

    def gru(where: _Place, sums: dict[int, Num]) -> None:
        reset, kept = (functions(0, product(where, gate) + sums[gate]) for gate in (0, 1))
        h = states.now.at(where.state).load(lanes)
        if not spec.reset_after:
            states.kept.at(where.state).store(kept)
            states.reset.at(where.state).store(reset * h)
            return
        value = sums[2] + _args(f, spec).inside.at(where.unit).load(lanes, where.mask) if spec.inside else sums[2]
        new = functions(1, product(where, 2) + reset * value)
        keep(states.following, where, new + kept * (h - new), states.now)

    return {"rnn": rnn, "lstm": lstm, "gru": gru}[spec.kind]


def _finish_n(f: Kernel, spec: CellSpec, functions: _Functions, states: _States) -> Callable[[_Place, dict[int, Num]], None]:
    """What the second phase of a gru does with the sums of n."""
    lanes = spec.lanes

    def finish(where: _Place, sums: dict[int, Num]) -> None:
        new = functions(1, where.product.at(_args(f, spec).hidden * spec.order[2]).load(lanes, where.mask) + sums[2])
        h, kept = states.now.at(where.state).load(lanes), states.kept.at(where.state).load(lanes)
        value = new + kept * (h - new)
        if where.over is not None:
            value = _all_lanes(f, where.over, lanes).select(h, value)
        states.following.at(where.state).store(value)

    return finish
