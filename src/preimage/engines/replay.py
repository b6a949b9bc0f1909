"""A recorded computation ready to be run again on other arrays: its kernels in stretches, and the memory of all of them planned as one.

replay = Replay(recorder, ends, given, own, make_ready)
run = replay.begin()
run.give(0, x)                  # the first of the given arrays: lies as the one that was recorded
run.stretch(0, threads)         # the steps up to ends[0]
run.own(0)                      # memory of the first result, the caller's from now on
run.holds(1), run.end()         # the guards of the last stretch
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.base import Array
from preimage.engines.buffers import LINE_BYTES, aligned_empty, places_of
from preimage.engines.recording import Place, Recorder
from preimage.engines.run_memory import Runs
from preimage.ownership import Block

__all__ = ["Replay", "Run"]

_BYTE = np.dtype(np.uint8)
#: The numbers of a run's memories. One for the results of each stretch follows, and then those that it is given.
_WORKSPACE, _FLAGS, _RESULTS = range(3)


class Replay:
    """What was recorded. ends: the number of steps up to the end of each stretch; given, own: the places of arrays that a run is given, and of
    results, which have a memory of their own.
    """

    def __init__(
        self,
        recorder: Recorder,
        ends: Sequence[int],
        given: Sequence[Place],
        own: Sequence[Place],
        make_ready: Callable[..., Any],
        guarded: Sequence[int] = (),
    ) -> None:
        """guarded: the number of guards up to the end of each stretch; by default all belong to the last."""
        flags = [recorder.place_of(flag) for flag in recorder.flags]
        places = {place.memory: (number, 0) for number, place in enumerate(given, _RESULTS + len(ends))}
        places |= {place.memory: (_FLAGS, 8 * k) for k, place in enumerate(flags) if place is not None}
        self._results_bytes = [0] * len(ends)
        made_in = _first_uses(recorder, ends)
        for place in own:
            if place.memory not in places:
                k = made_in.get(place.memory, 0)
                places[place.memory] = (_RESULTS + k, self._results_bytes[k])
                self._results_bytes[k] += -(-max(1, recorder.sizes[place.memory]) // LINE_BYTES) * LINE_BYTES
        workspace, self._workspace_bytes = _planned(recorder, places)
        places |= workspace
        times = Counter(place.memory for place in own)
        self._own = [(*places[place.memory], place, times[place.memory] == 1) for place in own]
        edges = [0, *(guarded or [*[0] * (len(ends) - 1), len(recorder.guards)])]
        self._guards = [[(*places[g.place.memory], g) for g in recorder.guards[a:b]] for a, b in pairwise(edges)]
        self._flags = np.zeros(max(1, len(flags)), np.int64)
        edges = [0, *ends]
        self._stretches = [make_ready(recorder.steps[a:b], places) if b > a else None for a, b in pairwise(edges)]
        self.kernels = len(recorder.steps)
        vectors = max([s.bytes for s in self._stretches if s is not None], default=0)
        self._vectors_at = self._workspace_bytes
        self._runs = Runs(self._workspace_bytes + vectors + LINE_BYTES)

    def begin(self, fill: int | None = None) -> Run:
        """Memory for one run. fill: what every byte of it is before."""
        return Run(self, fill)

    @property
    def runs(self) -> Runs:
        """The memories that are kept between runs."""
        return self._runs

    def share(self, runs: Runs) -> None:
        """Keep none of its own from now on. runs: at least as large as its own."""
        assert runs.size >= self._runs.size
        if runs is not self._runs:
            self._runs.clear()
            self._runs = runs

    def clear(self) -> int:
        """Give the memory that is kept between runs back; returns how many bytes."""
        return self._runs.clear()


def _planned(recorder: Recorder, outer: dict[int, tuple[int, int]]) -> tuple[dict[int, tuple[int, int]], int]:
    """Where every other memory lies in the workspace, and how large that is."""
    born: dict[int, int] = {}
    died: dict[int, int] = {}
    uses = [(number, at) for at, step in enumerate(recorder.steps) for _, number, _ in step.addresses]
    uses += [(guard.place.memory, len(recorder.steps)) for guard in recorder.guards]
    for number, at in uses:
        if number not in outer:
            born.setdefault(number, at)
            died[number] = at + 1
    starts, total = places_of([(recorder.sizes[n], born[n], died[n]) for n in born])
    return {number: (_WORKSPACE, at) for number, at in zip(born, starts, strict=True)}, total


def _first_uses(recorder: Recorder, ends: Sequence[int]) -> dict[int, int]:
    """The stretch in which every memory is used first."""
    edges = [0, *ends]
    found: dict[int, int] = {}
    for k, (a, b) in enumerate(pairwise(edges)):
        for step in recorder.steps[a:b]:
            for _, number, _ in step.addresses:
                found.setdefault(number, k)
    return found


class Run:
    """One run: its memory, and the addresses of what it was given. The results of a stretch get theirs when it runs."""

    def __init__(self, replay: Replay, fill: int | None) -> None:
        self._replay, self._memory, self._fill = replay, replay._runs.take(), fill
        if fill is not None:
            self._memory.raw.fill(fill)
        replay._flags[:] = 0
        later = len(replay._results_bytes)
        self._arrays: list[Any] = [self._memory.raw, replay._flags, *[None] * later]
        self._addresses = [self._memory.address, address_of(replay._flags), *[0] * later]

    def give(self, *arrays: Array) -> None:
        """The given arrays, in their order; in as many calls as it takes."""
        self._arrays += arrays
        self._addresses += map(address_of, arrays)

    def stretch(self, k: int, threads: int) -> None:
        """Run the k-th stretch of steps."""
        size = self._replay._results_bytes[k]
        if size:
            results = aligned_empty((size,), _BYTE)
            if self._fill is not None:
                results.fill(self._fill)
            self._arrays[_RESULTS + k] = results
            self._addresses[_RESULTS + k] = address_of(results)
        stretch = self._replay._stretches[k]
        if stretch is not None:
            stretch.run(self._memory.address + self._replay._vectors_at, self._addresses, threads)

    def own(self, k: int) -> Array:
        """The k-th result."""
        number, at, place, alone = self._replay._own[k]
        memory = self._arrays[number]
        if alone and isinstance(
            memory.base, Block
        ):  # a view of the block, not of its array, says: nobody else has this part (`ownership`)
            memory = memory.base
        return np.ndarray(place.shape, place.dtype, memory, at + place.offset, place.strides)

    def flags_hold(self) -> bool:
        """Whether no kernel found that the computation would go on otherwise."""
        return not self._replay._flags.any()

    def holds(self, k: int = -1) -> bool:
        """The same after a stretch, and whether the values that it gave are those for which the kernels are the whole computation."""
        if not self.flags_hold():
            return False
        for number, at, guard in self._replay._guards[k]:
            place = guard.place
            if not guard.holds(np.ndarray(place.shape, place.dtype, self._arrays[number], at + place.offset, place.strides)):
                return False
        return True

    def end(self) -> None:
        """Give the memory back."""
        self._replay._runs.give(self._memory)
