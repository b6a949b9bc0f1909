"""A call whose tasks are rounds of parts, as runners that keep the threads in step (see `lockstep_kernel`)."""

from __future__ import annotations

from preimage.engines.jit.program import KernelCall, kernel_call
from preimage.engines.jit.runtime.lockstep_kernel import FIRST_COUNTER, LINE_WORDS, PartsArguments, PartsSpec

__all__ = ["in_step"]


def in_step(call: KernelCall, parts: int, threads: int) -> KernelCall:
    """The same work: task round * parts + part after task (round - 1) * parts + part, on any of the threads."""
    at = FIRST_COUNTER + LINE_WORDS * parts
    rounds = call.tasks // parts
    values = PartsArguments(code=call.spec, words=at, parts=parts, rounds=rounds, own=max(1, parts // threads))
    return kernel_call(call.name, PartsSpec(), values, min(threads, parts), [call], room=at)
