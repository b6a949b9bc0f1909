"""Rounds of parts with a barrier between them: a part's task begins when all parts have finished the round before.

Task round * parts + part of a kernel; a runner, one for each thread, does

    until all parts are claimed for the last round:
        part = one that is free and furthest behind; the first from this runner's own on, where several are
        if no part is behind it:  task(its round, part)
        else:                     wait a moment

So a thread goes through all rounds of the same part, whose data its caches hold; one that the system has stopped keeps at most one task, and
another takes its part meanwhile. Nobody waits for a thread that has not begun: one runner alone does everything, in order.
A part's counter is twice its round, plus one while a runner has claimed it. The counters are words of the argument vector, which belongs to one
call, and begin as zeros.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Code, Integer
from preimage.engines.ir.functions import Function, module
from preimage.engines.ir.integers import Int
from preimage.engines.ir.values import Ptr
from preimage.engines.jit.runtime.lockstep_kernel import FIRST_COUNTER, LINE_WORDS
from preimage.engines.jit.runtime.pool_ir import pause
from preimage.records import record

__all__ = ["BarrierArguments", "BarrierSpec", "build"]

#: How often a runner looks for work before it yields its CPU.
PATIENCE = 4000


class BarrierArguments(Arguments):
    """What stands before the counters and the kernel's own words."""

    code: Code
    words: Integer  # first word of the kernel's arguments
    parts: Integer
    rounds: Integer


@record
class BarrierSpec:
    """There is one such kernel. triple: LLVM's name of the machine."""

    arguments: ClassVar = BarrierArguments
    controls: ClassVar[bool] = True

    triple: str

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: BarrierSpec) -> str:
    """The kernel's IR text."""
    f = Function("kernel", "void", args="ptr", task="i64", thread="i64")
    f.thread = f.number("thread")
    args = BarrierArguments.read(f, spec, at_entry=True)
    own, counters = f.parameter("args").at(args.words), f.parameter("args").at(FIRST_COUNTER)
    waited, end = f.cell(0), args.rounds * 2
    with f.forever() as runner:
        part, counter, last = _scan(f, args, counters, f.number("task"), end)
        with f.when((part < 0) & (last >= end - 1)):
            runner.leave()
        place = counters.at(part.maximum(0) * LINE_WORDS)
        ready = (part >= 0) & ((counter >> 1) <= (last >> 1))
        with f.when(ready.negated()):
            _wait(f, spec, waited)
        with f.when(ready):
            _claim(f, args, own, place, counter, part, waited)
    return module([f])


def _scan(f: Function, args: BarrierArguments, counters: Ptr, first: Int, end: Int) -> tuple[Int, Int, Int]:
    """The free part that is furthest behind (or -1) and its counter, and the counter of the part that is furthest behind, free or not."""
    with f.loop(0, args.parts, carry=[f.i64(-1), end, end], once=True) as scan:
        part = (first + scan.index) % args.parts
        counter = counters.at(part * LINE_WORDS).atomic_load("acquire")
        better = (counter & 1).equals(0) & (counter < scan.carry[1])
        scan.carry = [better.pick(part, scan.carry[0]), better.pick(counter, scan.carry[1]), counter.minimum(scan.carry[2])]
    part, counter, last = scan.result
    return part, counter, last


def _claim(f: Function, args: BarrierArguments, own: Ptr, place: Ptr, counter: Int, part: Int, waited: Ptr) -> None:
    """Run a part's next task, unless another runner was faster."""
    claimed, _ = place.compare_exchange(counter, counter + 1, "acquire", "monotonic")
    with f.when(claimed):
        waited.store_int(0)
        f.call(args.code, own, (counter >> 1) * args.parts + part)
        place.atomic_store(counter + 2, "release")


def _wait(f: Function, spec: BarrierSpec, waited: Ptr) -> None:
    """A moment; the whole turn of the CPU where that has not helped."""
    tired = waited.load_int() > PATIENCE
    waited.store_int(waited.load_int() + 1)
    with f.when(tired):
        f.call_c("sched_yield", "i32")
    with f.when(tired.negated()):
        pause(f, spec.triple)
