"""The updates of many parameters in few calls: recorded once for arrays of their shapes, then run without Python between them.

An optimiser writes the update of a parameter down as elementwise steps (`Written`), the same for all parameters of a group. Numbers that change from
step to step (the rate, Adam's corrections) lie in an array that the recorded kernels read; so do parameters, gradients and state, wherever they lie.

New values are new arrays. Where nobody else refers to the old ones (`ownership.py`), they lie in the memory of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from preimage.autograd import Tensor
from preimage.engines import around, replayer
from preimage.engines.base import Array, aligned_empty
from preimage.engines.recording import Place, Recorder
from preimage.engines.replay import Replay
from preimage.ownership import is_sole
from preimage.settings import current, thread_count

__all__ = ["Chain", "Job", "Together", "Written"]

#: Old and new values of the parameters of one call may be there at the same time: so many bytes of new ones.
CALL_BYTES = 4 << 20
#: Sets of shapes that are remembered.
MOST_KNOWN = 64
_FLOATS = frozenset(np.dtype(t) for t in (np.float32, np.float64))


class Written(NamedTuple):
    """An update of (parameter, gradient, states): what is computed, as `around.chain` takes it. Its results are the new states and, last, the
    new parameter.
    """

    steps: tuple[tuple[str, tuple[int, ...]], ...]
    numbers: tuple[float, ...]
    results: tuple[int, ...]
    states: tuple[str, ...]


class Chain:
    """Elementwise steps written down one by one.

    A place is an operand's number; a number's is 100 and more, a step's 1000 and more, until their counts are known.
    """

    def __init__(self) -> None:
        self._numbers: list[float] = []
        self._steps: list[tuple[str, tuple[int, ...]]] = []

    def number(self, value: float) -> int:
        """The place of a number."""
        self._numbers.append(float(value))
        return 99 + len(self._numbers)

    def step(self, word: str, *places: int) -> int:
        """The place of a step's result."""
        self._steps.append((word, places))
        return 999 + len(self._steps)

    def scaled(self, value: float, place: int) -> int:
        """The place of a number times what is there."""
        return self.step("mul", self.number(value), place)

    def plus(self, place: int, value: float, other: int) -> int:
        """The place of what is there, plus a number times something else; what is there itself, where the number is 0."""
        return self.step("add", place, self.scaled(value, other)) if value else place

    def running(self, share: float, mean: int, fresh: int) -> int:
        """The place of a running mean of which so large a share stays."""
        return self.step("add", self.scaled(share, mean), self.scaled(1 - share, fresh))

    def written(self, states: tuple[str, ...], *results: int) -> Written:
        """What was written down, of a parameter, its gradient and these states."""
        n, m = 2 + len(states), len(self._numbers)

        def place(k: int) -> int:
            return k if k < 100 else k - 100 + n if k < 1000 else k - 1000 + n + m

        steps = tuple([(word, tuple([place(k) for k in places])) for word, places in self._steps])
        return Written(steps, tuple(self._numbers), tuple([place(k) for k in results]), states)


class Job(NamedTuple):
    """A parameter to be updated. operands: the parameter, its gradient and its states."""

    parameter: Tensor
    state: dict[str, Any]
    written: Written
    operands: list[Array]

    @classmethod
    def of(cls, parameter: Tensor, gradient: Tensor, state: dict[str, Any], written: Written) -> Job | None:
        """The job; None where kernels do not update these arrays in their own dtype."""
        states = [np.asarray(state[name]) for name in written.states]  # NumPy gives numbers for results without axes
        operands, dtype = [parameter._data, gradient._data, *states], parameter._data.dtype
        if dtype not in _FLOATS:
            return None
        for a in operands:
            if type(a) is not np.ndarray or a.dtype != dtype or not a.size or min(a.strides, default=0) < 0:
                return None
        return cls(parameter, state, written, operands)

    def outputs(self, places: Sequence[Place]) -> list[Array]:
        """Arrays for the new states and, last, the new parameter, which lie as these places say."""
        made, operands = [], self.operands
        for place, k in zip(places, (*range(2, len(operands)), 0), strict=True):
            # its keeper, the parameter or the state, is the only other one that may refer to it
            if operands[k].strides == place.strides and is_sole(operands, k, 1):
                made.append(operands[k].view())
            else:
                made.append(_empty(place))
        return made

    def assign(self, values: Sequence[Array]) -> None:
        """Take over what came out."""
        for name, value in zip(self.written.states, values, strict=False):
            self.state[name] = value
        self.parameter.assign(values[-1])


class Together:
    """Runs jobs, several in a call."""

    def __init__(self) -> None:
        self._known: dict[Any, _Update | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Together:
        return Together()  # what it knows can be found out again

    def __reduce__(self) -> tuple[Any, ...]:
        return Together, ()

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """Update the parameters; gives the jobs that no kernels do."""
        left: list[Job] = []
        for part in _parts(jobs):
            key = current().engine, *[_kind(job) for job in part]
            numbers = _numbers(part)
            if key not in self._known:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[key] = _recorded(part, numbers)
            update = self._known[key]
            if update is None or current().debug:
                left += part
            else:
                _replayed(update, part, numbers)
        return left


def _numbers(jobs: Sequence[Job]) -> list[Array]:
    """The numbers of every job; one array for those that follow one another with the same."""
    made: list[Array] = []
    last: tuple[Any, ...] = ()
    for job in jobs:
        own = job.written, job.operands[0].dtype
        if not made or own[0] is not last[0] or own[1] is not last[1]:
            last, array = own, np.array(job.written.numbers, own[1])
        made.append(array)
    return made


def _kind(job: Job) -> tuple[Any, ...]:
    return job.written.steps, job.written.results, *[(a.shape, a.strides, a.dtype) for a in job.operands]


def _parts(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    part: list[Job] = []
    size = 0
    for job in jobs:
        own = job.parameter._data.nbytes * len(job.written.results)
        if part and size + own > CALL_BYTES:
            yield part
            part, size = [], 0
        part.append(job)
        size += own
    if part:
        yield part


class _Update(NamedTuple):
    """Recorded updates. places: of the results of every job, which a run is given like its operands."""

    replay: Replay
    places: list[list[Place]]


def _recorded(jobs: Sequence[Job], numbers: Sequence[Array]) -> _Update | None:
    """The updates as steps to be run again; None where they are not one kernel each, which reads an element before it writes it."""
    make_ready = replayer()
    if isinstance(make_ready, str):
        return None
    recorder = Recorder(strict=True)
    seen = [[recorder.watch(a) for a in (values, *job.operands)] for job, values in zip(jobs, numbers, strict=True)]
    with recorder:
        made = [
            around.chain(own[1:], job.written.steps, own[0], job.written.results) for job, own in zip(jobs, seen, strict=True)
        ]
    given = [place for own in seen for a in own if (place := recorder.place_of(a)) is not None]
    places = [[place for a in values or () if (place := recorder.place_of(a)) is not None] for values in made]
    if recorder.broken is not None or len(recorder.steps) != len(jobs):
        return None
    if [len(of_job) for of_job in places] != [len(job.written.results) for job in jobs]:
        return None
    given += [place for of_job in places for place in of_job]
    return _Update(Replay(recorder, [len(recorder.steps)], given, (), make_ready), places)


def _replayed(update: _Update, jobs: Sequence[Job], numbers: Sequence[Array]) -> None:
    outputs = [job.outputs(places) for job, places in zip(jobs, update.places, strict=True)]
    run = update.replay.begin()
    run.give(*[a for job, values in zip(jobs, numbers, strict=True) for a in (values, *job.operands)])
    run.give(*[a for values in outputs for a in values])
    run.stretch(0, thread_count())
    for job, values in zip(jobs, outputs, strict=True):
        job.assign(values)
    run.end()


def _empty(place: Place) -> Array:
    """An array that fills memory of its own and lies like this."""
    memory = aligned_empty((prod(place.shape) * place.dtype.itemsize,), np.dtype(np.uint8))
    return np.ndarray(place.shape, place.dtype, memory, 0, place.strides)
