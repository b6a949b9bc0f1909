"""Launches that are made round after round, as one launch (see `rounds_kernel`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from preimage.engines.base import aligned_empty
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.link import step_tables
from preimage.engines.jit.runtime.rounds_kernel import RoundsArguments
from preimage.engines.jit.runtime.together import Launched

__all__ = ["launch_of_rounds"]


def launch_of_rounds(
    kernel: kernels.LoadedKernel, rounds: int, launches: Sequence[Launched], along: Mapping[int, int]
) -> Launched:
    """So many rounds of the launches as one, of one task. kernel: that of a `RoundsSpec`.

    along: how many bytes further an array begins in every next round, by the array's `id`; the others stay where they are. What the launches use as
    scratch must be for one thread, and theirs alone.
    """
    steps, vectors = step_tables([(one.kernel, one.words, one.tasks) for one in launches], 0)
    moving = [(at, word) for at, word in enumerate(vectors) if isinstance(word, np.ndarray) and id(word) in along]
    advances = [number for at, word in moving for number in (at, along[id(word)])]
    own = aligned_empty((len(vectors),), np.dtype(np.int64))
    head = RoundsArguments(rounds=rounds, launches=len(launches), advances=len(moving), words=len(vectors), own=own).listed()
    return Launched(kernel, [*head, *steps, *advances, *vectors], 1)
