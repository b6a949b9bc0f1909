"""The programs of one graph: one for each set of input shapes and settings, the latest few; and in words why there is none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from preimage.engines.recording import recorder
from preimage.errors import PreimageError
from preimage.io import limits
from preimage.io.graph.program import Program, no_functions
from preimage.io.graph.stored_programs import ProgramStore
from preimage.resources import register_keeper
from preimage.settings import Settings, current, thread_count

__all__ = ["MOST_PROGRAMS", "NEW", "Programs", "RunKey", "decides_alone", "mark_of_now", "program_key"]

#: Programs that a graph keeps. Their memory is given back where it runs out.
MOST_PROGRAMS = 8
#: Reasons that are remembered.
MOST_REFUSED = 64
#: Elements of an input whose values a program may be for.
MOST_DECIDING = 16
#: What is said of a first run.
NEW = "its shapes are new: the second run of some shapes is recorded, later ones are the program's"


class Programs:
    """What is known of runs by key: the program, or why there is none. store: where programs are kept for later processes."""

    def __init__(self, store: ProgramStore | None = None) -> None:
        self._found: dict[Any, Program] = {}
        self._refused: dict[Any, str] = {}
        self._sought: set[Any] = set()
        self.store = store
        self._latest: _Latest | None = None
        self.last: str | None = None  #: why the latest run was no program's; None where it was one
        register_keeper(self)

    def find(self, key: Any, feeds: Mapping[str, Any]) -> Program | None:
        """The program of a key, from memory or from disk; None where there is none, or none yet."""
        found = self._found.get(key)
        if found is not None:
            return found
        self.last = self._refused.get(key, NEW)
        if self.store is None or key in self._refused or key in self._sought:
            return None
        if len(self._sought) >= MOST_REFUSED:
            self._sought.clear()
        self._sought.add(key)
        found = self.store.find(words_of(key), feeds)
        if found is not None:
            try:
                limits.check_bytes(found.run_bytes, "a run")
            except PreimageError:  # the run as it was written says what is too much
                return None
            self._keep(key, found)
        return found

    def is_refused(self, key: Any) -> bool:
        """Whether there is to be no program of a key."""
        return key in self._refused

    def note_run(self, program: Program, wanted: Sequence[str], run: RunKey) -> None:
        """A run was a program's: one like it is found again by `again`."""
        if not program.functions:
            arrays = tuple([(name, a.shape, a.strides, a.dtype, run.decided.get(name)) for name, a in run.given.items()])
            settings, threads, budget = run.key[2]
            self._latest = _Latest(program, settings, threads, budget, tuple(wanted), arrays)

    def again(self, given: Any, wanted: Sequence[str], settings: Settings) -> dict[str, Any] | None:
        """The wanted values where a run is like the latest one; None where it is not, or may not be."""
        latest = self._latest
        if latest is None or type(given) is not dict or len(given) != len(latest.arrays) or tuple(wanted) != latest.wanted:
            return None
        for name, shape, strides, dtype, value in latest.arrays:
            array = given.get(name)
            if type(array) is not np.ndarray or array.shape != shape or array.strides != strides or array.dtype != dtype:
                return None
            if not array.flags.aligned or (value is not None and array.tobytes() != value.tobytes()):
                return None
        if settings != latest.settings or thread_count(settings) != latest.threads or limits.current() != latest.budget:
            return None
        if settings.debug or limits.is_metered() or limits.deadline() is not None or recorder() is not None:
            return None
        return latest.program.run(given, no_functions, latest.threads)

    def has_noted(self, key: Any) -> bool:
        """Whether an earlier process found out why no program of a key can be stored."""
        return self.store is not None and self.store.said(words_of(key)) is not None

    def keep(self, key: Any, program: Program, feeds: Mapping[str, Any]) -> None:
        """Keep a program that was recorded just now, on disk too where there is a store."""
        self._keep(key, program)
        if self.store is not None and not self.store.keep(words_of(key), feeds, program) and self.store.why is not None:
            self.store.note(words_of(key), self.store.why)

    def _keep(self, key: Any, program: Program) -> None:
        self._found[key] = program
        for oldest in list(self._found)[:-MOST_PROGRAMS]:  # the oldest goes where there are too many
            self._found.pop(oldest, None)

    def refuse(self, key: Any, why: str) -> None:
        """Do not try again."""
        self._found.pop(key, None)
        if len(self._refused) >= MOST_REFUSED:
            self._refused.clear()
        self._refused[key] = self.last = why
        if self.store is not None:
            self.store.note(words_of(key), why)

    @property
    def kept(self) -> list[Program]:
        """The programs that are there, the latest last."""
        return list(self._found.values())

    @property
    def bytes(self) -> int:
        """The memory that is held between runs."""
        return sum([program.bytes for program in self.kept])

    def clear(self) -> int:
        """Let go of all; returns how many bytes of memory."""
        held, self._found, self._latest = self.bytes, {}, None
        self._sought = set()
        return held

    def __reduce__(self) -> tuple[Any, ...]:  # copies of what holds them begin anew
        return (Programs, ())


class _Latest(NamedTuple):
    """A run that was a program's. arrays: name, shape, strides, type, and the values where they are part of the key."""

    program: Program
    settings: Settings
    threads: int
    budget: limits.Budget
    wanted: tuple[str, ...]
    arrays: tuple[tuple[str, tuple[int, ...], tuple[int, ...], Any, Any], ...]


class RunKey(NamedTuple):
    """What a run's program is found by (key); the inputs that are part of it by their values, the others, and all."""

    key: tuple[Any, ...]
    decided: dict[str, Any]
    feeds: dict[str, Any]
    given: Mapping[str, Any]


def program_key(feeds: Mapping[str, Any], wanted: Iterable[str], deciding: Collection[str]) -> RunKey | None:
    """What a run's program is found by; None for inputs that none takes. deciding: inputs whose values decide what is computed."""
    lies: list[Any] = []
    decided: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, array in feeds.items():
        if type(array) is not np.ndarray or not array.flags.aligned or not array.dtype.isnative or array.dtype.hasobject:
            return None
        if not array.size or min(array.strides, default=0) < 0:
            return None
        values = None
        if name in deciding and decides_alone(array):
            decided[name] = np.array(array)
            values = array.tobytes()
        else:
            others[name] = array
        lies.append((name, array.shape, array.strides, array.dtype.name, values))
    return RunKey((tuple(lies), frozenset(wanted), mark_of_now()), decided, others, feeds)


def decides_alone(value: Any) -> bool:
    """Whether a deciding input is small enough, and of few values, so that a program may be for one of them."""
    return bool(value.size <= MOST_DECIDING and value.dtype.kind in "biu")


def words_of(key: tuple[Any, ...]) -> str:
    """A key in words: the same in every process."""
    lies, wanted, mark = key
    return repr((lies, sorted(wanted), mark))


def mark_of_now() -> tuple[Any, ...]:
    """What bound calls and programs depend on beside their arrays."""
    return current(), thread_count(), limits.current()
