"""Dataflow scheduling of parts that go through rounds: each part's rounds one after another, on any thread, all parts about as far.

A kernel's task (round, part) continues the task (round - 1, part). A runner, one for each thread, does

    while some part has rounds left and no runner has claimed it:
        part = the one of them that is furthest behind; the first from this thread's own on, where several are
        task(its round, part)

So the threads are in the same round or in neighbouring ones, and read the same data from memory once. Nothing waits: a thread
that the system has stopped keeps one part, the others go on with the rest. A part's counter is twice its round, plus one while
a runner has claimed it. The counters are words of the argument vector, which belongs to one call, and begin as zeros.
"""

from __future__ import annotations

from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Code, Integer
from preimage.engines.ir.functions import Function, module
from preimage.records import record

__all__ = ["FIRST_COUNTER", "LINE_WORDS", "PartsArguments", "PartsSpec", "build"]


class PartsArguments(Arguments):
    """What stands before the counters and the kernel's own words."""

    code: Code
    words: Integer  # first word of the kernel's arguments
    parts: Integer
    rounds: Integer
    own: Integer  # parts that a thread begins with: thread t looks from part t * own on


LINE_WORDS = 8  # a counter has a cache line of its own
FIRST_COUNTER = 2 * LINE_WORDS


@record
class PartsSpec:
    """There is one such kernel."""

    arguments: ClassVar = PartsArguments
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: PartsSpec) -> str:
    """The kernel's IR text."""
    f = Function("kernel", "void", args="ptr", task="i64", thread="i64")
    f.thread = f.number("thread")
    args = PartsArguments.read(f, spec, at_entry=True)
    own, counters = f.parameter("args").at(args.words), f.parameter("args").at(FIRST_COUNTER)
    begin, end = f.thread * args.own, args.rounds * 2
    with f.forever() as runner:
        with f.loop(0, args.parts, carry=[f.i64(-1), end], once=True) as scan:  # the free part that is furthest behind
            part = (begin + scan.index) % args.parts
            counter = counters.at(part * LINE_WORDS).atomic_load("monotonic")
            better = (counter & 1).equals(0) & (counter < scan.carry[1])
            scan.carry = [better.pick(part, scan.carry[0]), better.pick(counter, scan.carry[1])]
        part, counter = scan.result
        with f.when(part < 0):
            runner.leave()
        place = counters.at(part * LINE_WORDS)
        claimed, _ = place.compare_exchange(counter, counter + 1, "acquire", "monotonic")
        with f.when(claimed):
            f.call(args.code, own, (counter >> 1) * args.parts + part)
            place.atomic_store(counter + 2, "release")
    return module([f])
