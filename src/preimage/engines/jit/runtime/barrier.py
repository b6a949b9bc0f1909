"""A launch whose tasks are rounds of parts, as runners that wait for each other between rounds (see `barrier_kernel`)."""

from __future__ import annotations

from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.barrier_kernel import BarrierArguments
from preimage.engines.jit.runtime.lockstep_kernel import FIRST_COUNTER, LINE_WORDS
from preimage.engines.jit.runtime.together import Launched

__all__ = ["with_barriers"]


def with_barriers(barrier: kernels.LoadedKernel, launch: Launched, rounds: int, parts: int) -> Launched:
    """The same kernel's tasks round * parts + part, each after all those of the round before; a task of the launch is a runner.

    barrier: the kernel of a `BarrierSpec`.
    """
    words = FIRST_COUNTER + LINE_WORDS * parts
    head = BarrierArguments(code=launch.kernel, words=words, parts=parts, rounds=rounds).listed()
    return Launched(barrier, [*head, *[0] * (words - len(head)), *launch.words], parts)
