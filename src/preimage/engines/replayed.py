"""Functions of arrays that are several kernels, as one call where their like came before.

    statistics = Replayed(function)           # function(*arrays, **options) gives a tuple of arrays that kernels made
    mean, variance = statistics(x, eps=1e-5)

A call is known by how its arrays lie and by its options. The first ones run the function; then one is recorded (engines/recording.py), and from
then on the kernels run one after another without Python between them, with the same bits. Where something besides kernels works, the function
goes on being called; so it is where a guard does not hold (a value that is not finite), while somebody records, and for large arrays, whose
kernels take longer than Python does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preimage.autograd.device_arrays import DeviceArray
from preimage.engines import replayer
from preimage.engines.base import Array
from preimage.engines.decisions import Shortcuts
from preimage.engines.recording import Recorder, state
from preimage.engines.replay import Replay
from preimage.settings import current, thread_count

__all__ = ["Replayed"]

#: Calls of the function before it is recorded.
BEFORE = 3
MOST = 512
#: Elements of all arrays together above which nothing is recorded, unless somebody says otherwise: passes over so much memory take longer than
#: what is saved.
MOST_ELEMENTS = 1 << 19


_NEW = object()


class _Replay:
    """What was recorded of one kind of call."""

    __slots__ = ("_guarded", "_replay", "_results")

    def __init__(self, function: Callable[..., tuple[Array, ...]], arrays: tuple[Array, ...], options: dict[str, Any]) -> None:
        """Raises: LookupError where there is more to it than kernels."""
        make_ready = replayer()
        if isinstance(make_ready, str):
            raise LookupError
        recorder = Recorder(strict=True)
        given = [recorder.watch(a) for a in arrays]
        with recorder:
            made = function(*given, **options)
        if recorder.broken or recorder.flags or recorder.told or recorder.draws or not recorder.steps:
            raise LookupError
        places = [place for a in given if (place := recorder.place_of(a)) is not None]
        inputs = {place.memory for place in places}
        own = [place for a in made if (place := recorder.place_of(a)) is not None and place.memory not in inputs]
        if len(own) < len(made):
            raise LookupError
        self._replay = Replay(recorder, [len(recorder.steps)], places, own, make_ready)
        self._guarded, self._results = bool(recorder.guards), range(len(made))

    def __call__(self, arrays: tuple[Array, ...]) -> tuple[Array, ...] | None:
        run = self._replay.begin()
        run.give(*arrays)
        run.stretch(0, thread_count())
        if self._guarded and not run.holds():
            return None
        made = tuple([run.own(k) for k in self._results])
        run.end()
        return made


class Replayed:
    """A function of NumPy's arrays. See this module's text."""

    def __init__(self, function: Callable[..., tuple[Array, ...]], most_elements: int = MOST_ELEMENTS) -> None:
        """most_elements: of all arrays together above which nothing is recorded."""
        self.function, self._most = function, most_elements
        self._calls: Shortcuts[Any, Any] = Shortcuts(MOST)
        self._came: Shortcuts[Any, int] = Shortcuts(MOST)

    def __call__(self, *arrays: Array, **options: Any) -> tuple[Array, ...]:
        settings = current()
        if state.recorder is not None or settings.debug or DeviceArray in map(type, arrays):
            return self.function(*arrays, **options)
        key = (id(settings), *[(a.shape, a.strides, a.dtype) for a in arrays], *map(repr, options.values()))  # -0.0 is not 0.0
        call = self._calls.get(key, _NEW)
        if call is _NEW:
            came = self._came.get(key, 0)
            if came < BEFORE:
                self._came.keep(key, came + 1)
                return self.function(*arrays, **options)
            call = self._begin(key, arrays, options)
        made: tuple[Array, ...] | None = None if call is None else call(arrays)
        return self.function(*arrays, **options) if made is None else made

    def _begin(self, key: Any, arrays: tuple[Array, ...], options: dict[str, Any]) -> _Replay | None:
        try:
            large = sum([a.size for a in arrays]) > self._most or any(min(a.strides, default=0) < 0 or not a.size for a in arrays)
            call = None if large else _Replay(self.function, arrays, options)
        except LookupError:
            call = None
        self._calls.keep(key, call)
        return call
