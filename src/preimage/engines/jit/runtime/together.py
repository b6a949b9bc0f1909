"""Launches that do not depend on each other, made at once (see `together_kernel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.engines.jit.runtime.together_kernel import OneLaunch, TogetherArguments
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
    rows: list[int] = []
    at = len(TogetherArguments.fields) + len(OneLaunch.fields) * len(launches)
    for one in launches:
        rows += [one.kernel, at, one.tasks]
        at += len(one.words)
    words = [len(launches), *rows, *(word for one in launches for word in one.words)]
    launch_arrays(together, words, sum(one.tasks for one in launches), n_threads)
