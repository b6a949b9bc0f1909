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

from dataclasses import dataclass
from typing import ClassVar

from preimage.engines.ir.arguments import Arguments, Code, Integer

__all__ = ["FIRST_COUNTER", "LINE_WORDS", "PartsArguments", "PartsSpec", "build"]


class PartsArguments(Arguments):
    """What stands before the counters and the kernel's own words. (In capitals: the names of the values in the text below.)"""

    code: Code
    words: Integer  # first word of the kernel's arguments
    parts: Integer
    rounds: Integer
    own: Integer  # parts that a thread begins with: thread t looks from part t * own on


LINE_WORDS = 8  # a counter has a cache line of its own
FIRST_COUNTER = 2 * LINE_WORDS


@dataclass(frozen=True, slots=True)
class PartsSpec:
    """There is one such kernel."""

    arguments: ClassVar = PartsArguments
    controls: ClassVar[bool] = True

    def ir(self) -> str:
        """The text of the kernel."""
        return build(self)


def build(spec: PartsSpec) -> str:
    """The kernel's IR text."""
    del spec
    words = "\n".join(
        f"  %p.{name} = getelementptr i64, ptr %args, i64 {slot}\n  %{name} = load i64, ptr %p.{name}"
        for name, slot in ((name.upper(), field.slot) for name, field in PartsArguments.fields.items())
    )
    return f"""
define void @kernel(ptr %args, i64 %task, i64 %thread) nounwind {{
entry:
{words}
  %code = inttoptr i64 %CODE to ptr
  %own = getelementptr i64, ptr %args, i64 %WORDS
  %counters = getelementptr i64, ptr %args, i64 {FIRST_COUNTER}
  %begin = mul i64 %thread, %OWN
  %end = shl i64 %ROUNDS, 1
  br label %look
look:
  br label %scan
scan:  ; the free part that is furthest behind
  %k = phi i64 [ 0, %look ], [ %k.1, %scan ]
  %best = phi i64 [ -1, %look ], [ %best.1, %scan ]
  %least = phi i64 [ %end, %look ], [ %least.1, %scan ]
  %turned = add i64 %begin, %k
  %part = urem i64 %turned, %PARTS
  %part.at = mul i64 %part, {LINE_WORDS}
  %part.p = getelementptr i64, ptr %counters, i64 %part.at
  %counter = load atomic i64, ptr %part.p monotonic, align 8
  %bit = and i64 %counter, 1
  %free = icmp eq i64 %bit, 0
  %behind = icmp slt i64 %counter, %least
  %better = and i1 %free, %behind
  %best.1 = select i1 %better, i64 %part, i64 %best
  %least.1 = select i1 %better, i64 %counter, i64 %least
  %k.1 = add i64 %k, 1
  %more = icmp slt i64 %k.1, %PARTS
  br i1 %more, label %scan, label %chosen
chosen:
  %none = icmp slt i64 %best.1, 0
  br i1 %none, label %done, label %claim
claim:
  %at = mul i64 %best.1, {LINE_WORDS}
  %p = getelementptr i64, ptr %counters, i64 %at
  %taken = or i64 %least.1, 1
  %swap = cmpxchg ptr %p, i64 %least.1, i64 %taken acquire monotonic
  %mine = extractvalue {{i64, i1}} %swap, 1
  br i1 %mine, label %work, label %look
work:
  %round = lshr i64 %least.1, 1
  %first = mul i64 %round, %PARTS
  %number = add i64 %first, %best.1
  call void %code(ptr %own, i64 %number, i64 %thread)
  %after = add i64 %least.1, 2
  store atomic i64 %after, ptr %p release, align 8
  br label %look
done:
  ret void
}}
"""
