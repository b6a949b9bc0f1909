"""Launches that do not depend on each other, made at once (see `together_kernel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.link import launch_arrays, step_tables
from preimage.engines.jit.runtime.steps_kernel import Step
from preimage.engines.jit.runtime.together_kernel import TogetherArguments
from preimage.engines.recording import Words

__all__ = ["Launched", "launch_together"]


class Launched(NamedTuple):
    """A kernel, its argument vector, and its tasks."""

    kernel: kernels.LoadedKernel
    words: Words
    tasks: int


def launch_together(together: kernels.LoadedKernel, launches: Sequence[Launched], n_threads: int) -> None:
    """Run the tasks of all. together: the kernel of a `TogetherSpec`."""
    if len(launches) == 1:
        launch_arrays(launches[0].kernel, launches[0].words, launches[0].tasks, n_threads)
        return
    begin = len(TogetherArguments.fields) + len(Step.fields) * len(launches)
    steps, vectors = step_tables([(one.kernel, one.words, one.tasks) for one in launches], begin)
    launch_arrays(together, [len(launches), *steps, *vectors], sum(one.tasks for one in launches), n_threads)
