"""A step whose tasks are rounds of parts, as runners that keep the threads in step (see `lockstep_kernel`)."""

from __future__ import annotations

from preimage.engines.jit.program import Step, compiled
from preimage.engines.jit.runtime.lockstep_kernel import FIRST_COUNTER, LINE_WORDS, Parts, PartsSpec

__all__ = ["in_step"]


def in_step(step: Step, parts: int, threads: int) -> Step:
    """The same work: task round * parts + part after task (round - 1) * parts + part, on any of the threads."""
    at = FIRST_COUNTER + LINE_WORDS * parts
    words = [0] * at
    words[Parts.CODE], words[Parts.WORDS], words[Parts.PARTS] = int(step.kernel), at, parts
    words[Parts.ROUNDS], words[Parts.OWN] = step.tasks // parts, max(1, parts // threads)
    patches = tuple((at + slot, name) for slot, name in step.patches)
    kept = (*step.tables, step.kernel)
    return Step(step.name, compiled(PartsSpec()), (*words, *step.template), patches, min(threads, parts), kept)
