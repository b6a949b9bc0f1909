"""One recurrent layer in one direction, all its steps in one call; a task is some sequences of the batch, or some panels of units.

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

Where there are fewer sequences than threads (`shared`), all tasks have the same states, and each has some of the panels. Then a task is one part of
one round, and a round begins when all parts of the one before are done (`runtime/barrier_kernel.py`):

    round 0           the first states, each part's own units
    rounds 1, 2, ...  a step, or one time through the panels where it takes two
    the last round    the last states
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Elements, Integer, Words, elements
from preimage.engines.ir.builder import ELEMENT_BYTES, Bit, Int, Kernel, Num, Ptr
from preimage.engines.ir.elementwise import Step
from preimage.engines.jit.products.recurrent.cells import Functions, Place, States, all_lanes, finish, finish_n
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
    parts: Integer  # of the panels, where tasks share the states


@record
class CellSpec:
    """What the code depends on. depth: levels of sums above the blocks; activations: their steps, and how many numbers each takes; shared:
    whether tasks share the states, and have panels each; the rest as in `engines.recurrent`.
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
    shared: bool = False

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
    finish: Callable[[Place, dict[int, Num]], None]


@record
class _Span:
    """What a task has of the units: the panels from first to stop, and the units in them from begin to end."""

    first: Int
    stop: Int
    begin: Int
    end: Int


def build(spec: CellSpec) -> str:
    """The kernel's IR text."""
    f = Kernel()
    if spec.shared:
        _part_of_round(f, spec)
    else:
        _whole(f, spec)
    return f.ir()


def _whole(f: Kernel, spec: CellSpec) -> None:
    """All steps of some sequences."""
    args = CellArguments.read(f, spec)
    own = args.scratch.at_bytes(f.thread * args.thread_bytes)
    places = [own.at_bytes(args.array_bytes * k) for k in range(ARRAYS)]
    first = f.task * args.share
    rows = args.share.minimum(args.batch - first)
    span = _Span(f.i64(0), args.padded // spec.width, f.i64(0), args.hidden)
    _begin(f, spec, span, places, first, rows)
    with f.loop(0, args.steps, carry=[places[0], places[1]], once=True) as step:
        states = States(step.carry[0], step.carry[1], places[2], places[3], places[4])
        for phase in _phases(f, spec, states):
            _step(f, spec, phase, span, step.index, first, rows)
        _give(f, spec, span, step.index, first, rows, states.following)
        step.carry = [step.carry[1], step.carry[0]]
    _end(f, spec, span, [step.result[0], places[2]], first, rows)


def _part_of_round(f: Kernel, spec: CellSpec) -> None:
    """One round of some panels, of all sequences."""
    args = CellArguments.read(f, spec)
    turn, part, panels = f.task // args.parts, f.task % args.parts, args.padded // spec.width
    first, stop = panels * part // args.parts, panels * (part + 1) // args.parts
    span = _Span(first, stop, first * spec.width, (stop * spec.width).minimum(args.hidden))
    places = [args.scratch.at_bytes(args.array_bytes * k) for k in range(ARRAYS)]
    begin, rows, phases = f.i64(0), args.batch, len(spec.phases)
    with f.when(turn.equals(0)):
        _begin(f, spec, span, places, begin, rows)
    step, last = (turn - 1) // phases, args.steps * phases
    odd = (step & 1).equals(1)
    one, other = (
        args.scratch.at_bytes(odd.pick(args.array_bytes, f.i64(0))),
        args.scratch.at_bytes(odd.pick(f.i64(0), args.array_bytes)),
    )
    states = States(one, other, places[2], places[3], places[4])
    for k, phase in enumerate(_phases(f, spec, states)):
        with f.when((turn > 0) & (turn <= last) & ((turn - 1) % phases).equals(k)):
            _step(f, spec, phase, span, step, begin, rows)
            if k == phases - 1:
                _give(f, spec, span, step, begin, rows, states.following)
    with f.when(turn > last):
        _end(f, spec, span, [one, places[2]], begin, rows)


def _args(f: Kernel, spec: CellSpec) -> CellArguments:
    """The arguments, loaded where they are read."""
    return CellArguments.read(f, spec)


def _begin(f: Kernel, spec: CellSpec, span: _Span, places: list[Ptr], first: Int, rows: Int) -> None:
    """Copy the first states to their places."""
    args = _args(f, spec)
    pitch = args.padded * ELEMENT_BYTES[spec.element]
    _copy_rows(f, spec, span, args.h.at_bytes(first * args.h_row), args.h_row, places[0], pitch, rows)
    if spec.kind == "lstm":
        _copy_rows(f, spec, span, args.c.at_bytes(first * args.c_row), args.c_row, places[2], pitch, rows)


def _end(f: Kernel, spec: CellSpec, span: _Span, states: list[Ptr], first: Int, rows: Int) -> None:
    """Give the last h, and c."""
    args = _args(f, spec)
    pitch = args.padded * ELEMENT_BYTES[spec.element]
    _copy_rows(f, spec, span, states[0], pitch, args.last_h.at_bytes(first * args.last_h_row), args.last_h_row, rows)
    if spec.kind == "lstm":
        _copy_rows(f, spec, span, states[1], pitch, args.last_c.at_bytes(first * args.last_c_row), args.last_c_row, rows)


def _copy_rows(
    f: Kernel, spec: CellSpec, span: _Span, source: Ptr, source_row: Int, target: Ptr, target_row: Int, rows: Int
) -> None:  # fmt: skip
    """The states of some sequences."""
    with f.loop(0, rows) as row:
        _copy_row(f, spec, span, source.at_bytes(row.index * source_row), target.at_bytes(row.index * target_row), None)


def _copy_row(f: Kernel, spec: CellSpec, span: _Span, source: Ptr, target: Ptr, over: Bit | None) -> None:
    """The units of one state, or zeros where the sequence is over."""
    lanes = spec.lanes
    whole = span.end - (span.end - span.begin) % lanes

    def copied(at: Int, mask: Bit | None) -> None:
        value = source.at(at).load(lanes, mask)
        if over is not None:
            value = all_lanes(f, over, lanes).select(f.zeros(spec.element, lanes), value)
        target.at(at).store(value, mask)

    with f.loop(span.begin, whole, lanes) as k:
        copied(k.index, None)
    with f.when(whole < span.end):
        copied(whole, f.lane_mask(lanes, span.end - whole))


def _over(f: Kernel, spec: CellSpec, step: Int, sequence: Int) -> Bit:
    """Whether a sequence has no such step."""
    args = _args(f, spec)
    return args.lengths.at(sequence).load_int() <= args.first + step * args.along


def _give(f: Kernel, spec: CellSpec, span: _Span, step: Int, first: Int, rows: Int, h: Ptr) -> None:
    """y of one step."""
    args = _args(f, spec)
    result = args.result.at_bytes(step * args.result_step + first * args.result_row)
    with f.loop(0, rows) as row:
        over = _over(f, spec, step, first + row.index) if spec.lengths else None
        source = h.at(row.index * _args(f, spec).padded)
        _copy_row(f, spec, span, source, result.at_bytes(row.index * _args(f, spec).result_row), over)


def _phases(f: Kernel, spec: CellSpec, states: States) -> list[Phase]:
    """The parts of a step, one after another."""
    args, functions = _args(f, spec), Functions(f, spec, _args(f, spec).numbers)
    phases = [Phase(spec.phases[0], args.weight, states.now, finish(f, spec, functions, states))]
    if len(spec.phases) > 1:
        after = finish_n(f, spec, functions, states)
        phases.append(Phase(spec.phases[1], args.weight.at_bytes(args.second), states.reset, after))
    return phases


def _step(f: Kernel, spec: CellSpec, phase: Phase, span: _Span, step: Int, first: Int, rows: Int) -> None:
    """A phase of one step, of all sequences of the task."""
    backwards = (step & 1).equals(1)
    with f.loop(span.first, span.stop, once=True) as turn:
        panel = backwards.pick(span.first + span.stop - 1 - turn.index, turn.index)
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
            where = Place((row + r) * args.padded + unit, line.at_bytes(unit * item), unit, mask, over)
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
