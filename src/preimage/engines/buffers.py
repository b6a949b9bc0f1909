"""Memory for the intermediate results of a computation that is run again and again.

    with arena:                    # in this thread, aligned_empty takes memory from the arena
        ...                        # operations as ever

The first run is watched: which arrays are asked for, in which order, and when each one dies. From that the arena plans one block
of memory in which arrays that do not live at the same time share their place, and later runs find their memory there,
its pages mapped already. Arrays that outlive the run (its results) always get memory of their own.

The plan is a guess that is checked: an array owns its place until nothing refers to it, views included, and a place that overlaps
one still owned is not given out; new memory is taken instead. A run that asks otherwise than planned is planned anew.

Outside arenas too, the memory of a large array that has died is kept for the next one of its size.

Whatever is only kept is given back where memory runs out (`resources.release_memory`), and what asked for it asks again.

A signal handler, a finaliser or a trace function may use all this in the middle of any function here, on the same thread. So an arena
serves one request at a time (the others get memory of their own), and everything shared is taken and stored in single steps.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from preimage.engines.addresses import address_of
from preimage.engines.places import LINE_BYTES, conflicts, places_of
from preimage.engines.recording import state
from preimage.engines.spare import Spare
from preimage.ownership import Block
from preimage.resources import register_keeper, release_memory

__all__ = [
    "LINE_BYTES",
    "SMALL_BYTES",
    "Arena",
    "Arenas",
    "aligned",
    "aligned_empty",
    "maker_of",
    "makers_of",
    "places_of",
    "retrying",
    "trim",
]

T = TypeVar("T")
Array = NDArray[Any]
DType = np.dtype[Any]

SMALL_BYTES = 4096
#: Aligning smaller arrays takes longer (0.9 us) than reading lines that are crossed: of what the first cache holds 5 %, of what it does not nothing
#: that can be measured.
ALIGNED_BYTES = 128 << 10
#: An arena whose runs never ask the same twice stops planning after so many.
MOST_PLANS = 4
#: A run that asks for more than so many arrays is not planned: the time to plan grows with their square.
MOST_REQUESTS = 1 << 12
#: From this size on the C library may give memory back to the system when an array dies (a training step frees all of its arrays at its end),
#: and has it mapped anew for the next. Blocks are rounded up, so that similar sizes can share them: to an eighth of their size or less.
LARGE_BYTES = 1 << 20
#: The keys under which Arenas keep memory.
MOST_KEYS = 4


class _Current(threading.local):
    arena: Arena | None = None


class _Nowhere:
    """Where no arena ever is."""

    __slots__ = ()
    arena = None


_current, _NOWHERE = _Current(), _Nowhere()


def aligned_empty(shape: tuple[int, ...], dtype: DType) -> Array:
    """np.empty whose data begin on a cache line (64 bytes): vectors that cross lines load at half the speed.

    Small arrays, which the first cache holds, are left as NumPy makes them. Inside `with arena:` the memory is the arena's but for those
    that fit a few lines; for a recorder it is what that one knows.
    """
    size = prod(shape) * dtype.itemsize
    if size and (here := state.recorder) is not None:
        return here.take(size).view(dtype).reshape(shape)
    if size < SMALL_BYTES:
        return np.empty(shape, dtype)
    arena = _current.arena
    if arena is not None:
        return arena.take(size).view(dtype).reshape(shape)
    if size < ALIGNED_BYTES:
        return np.empty(shape, dtype)
    if size >= LARGE_BYTES:
        return np.ndarray(shape, dtype, _large(size))
    memory = _with_room(size)
    return np.ndarray(shape, dtype, memory, -address_of(memory) % LINE_BYTES)


def maker_of(shape: tuple[int, ...], dtype: DType) -> Callable[[], Array]:
    """`aligned_empty` of always this shape and dtype, for calls that come again and that no recorder looks on."""
    plain, where, other = makers_of(shape, dtype)

    def make() -> Array:
        return plain() if where.arena is None else other()

    return plain if where is _NOWHERE else make


def makers_of(shape: tuple[int, ...], dtype: DType) -> tuple[Callable[[], Array], Any, Callable[[], Array]]:
    """The same for callers that look for an arena themselves: what makes it where `where.arena` is None, where, and what makes it elsewhere."""
    size, other = prod(shape) * dtype.itemsize, partial(aligned_empty, shape, dtype)
    if size >= ALIGNED_BYTES:
        return other, _NOWHERE, other
    return partial(np.empty, shape, dtype), _NOWHERE if size < SMALL_BYTES else _current, other


def retrying(make: Callable[[], T]) -> T:
    """make(); where memory runs out, what is only kept for later calls is given back and make() tried once more."""
    try:
        return make()
    except MemoryError:
        if not release_memory():
            raise
    return make()


def aligned(size: int) -> Array:
    """So many bytes that begin on a cache line."""
    memory = _with_room(size)
    start = -address_of(memory) % LINE_BYTES
    return memory[start : start + size]


def _with_room(size: int) -> Array:
    """Memory in which so many bytes can begin on a cache line."""
    try:
        return np.empty(size + LINE_BYTES, np.uint8)
    except MemoryError:
        release_memory()
        return np.empty(size + LINE_BYTES, np.uint8)


def _fresh(size: int) -> Array:
    return aligned(size) if size < LARGE_BYTES else np.ndarray((size,), np.uint8, _large(size))


def _large(size: int) -> Any:
    """A large block in use, of at least so many bytes."""
    rounded = _block_bytes(size)
    memory = _spare.take(rounded)
    if memory is None:
        _spare.make_room(rounded)
        memory = aligned(rounded)
    block = _large_kind(rounded).from_buffer(memory)
    block.memory = memory
    _spare.count(rounded)
    return block


def _block_bytes(size: int) -> int:
    """The size of the block that an array of this size gets."""
    step = 1 << max(size.bit_length() - 4, 0)
    return -(-size // step) * step


class _Large(Block):
    """A large block of memory in use: when the last view of it is gone, it is kept for the next array of about its size.

    The system gives memory of this size page by page, each set to zero as it is first touched, and takes it back at once when it is
    freed: for a call that runs at the speed of memory, that costs as much as the call.
    """

    memory: Array

    def __del__(self) -> None:
        try:  # noqa: SIM105 - `suppress` would cost more than all else here
            _spare.put(self.memory)
        except (AttributeError, MemoryError, RecursionError):  # it was never made; or there is no memory to keep it
            pass


@cache
def _large_kind(size: int) -> Any:
    """The class of blocks of a size: an array of ctypes, whose memory NumPy takes over in a third of the time that an interface takes it."""
    return type("_LargeBlock", (_Large, ctypes.c_ubyte * size), {})


_spare = Spare()


def trim() -> int:
    """Give the memory of large results that nobody uses any more back to the system; returns how many bytes.

    The C library keeps what is freed, too, for arrays to come: glibc is asked to give that back.
    """
    given = _spare.clear()
    free = _heap_trimmer()
    if free is not None:
        free(0)
    return given


@cache
def _heap_trimmer() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
    return found


class _Place:
    """What an array from an arena refers to: when the last of its views is gone, so is this, and the place is free."""

    __slots__ = ("__array_interface__", "_arena", "_memory", "_number", "_run")

    def __init__(self, arena: Arena, number: int, run: int, memory: Array, start: int, size: int) -> None:
        self._arena, self._number, self._run, self._memory = arena, number, run, memory
        address = memory.__array_interface__["data"][0] + start
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self) -> None:
        try:  # noqa: SIM105
            self._arena.released(self._number, self._run, self._memory)
        except (AttributeError, MemoryError, RecursionError):  # it was never made; or the place stays taken
            pass


class Arena:
    """Memory for one run at a time of one computation on arrays of the same shapes; see this module's text."""

    def __init__(self) -> None:
        self._memory: Array | None = None
        self._total = 0  # bytes that the plan wants
        self._starts: list[int] = []  # -1: memory of its own
        self._conflicts: list[tuple[int, ...]] = []  # the requests whose places overlap this one's, itself included
        self._sizes: list[int] = []
        self._taken: set[int] = set()  # requests whose planned places are in use
        self._idle = [True]  # empty while a request is served
        self._run = 0
        self._plans = 0
        self._clock = 0
        self._asked: list[int] = []
        self._born: list[int] = []
        self._died: dict[int, int] = {}
        self._before: Arena | None = None
        self.fresh_bytes = 0  #: What the last run took anew, results included.

    @property
    def bytes(self) -> int:
        """The memory that is held between runs."""
        return 0 if self._memory is None else self._memory.nbytes

    def __enter__(self) -> Arena:
        if self._memory is None and self._total:  # planned by the run before: a computation that runs once needs none
            try:
                self._memory = _fresh(self._total)
            except MemoryError:
                self._total = 0  # every array gets memory of its own
        self._run += 1
        self._clock = self.fresh_bytes = 0
        self._asked, self._born, self._died = [], [], {}
        self._idle = [True]
        self._before, _current.arena = _current.arena, self
        return self

    def __exit__(self, *failure: object) -> None:
        _current.arena = self._before
        self._before = None
        if failure[0] is None and self._asked != self._sizes and self._plans < MOST_PLANS and len(self._asked) <= MOST_REQUESTS:
            self._plan()

    def take(self, size: int) -> Array:
        """So many bytes for the next request of this run."""
        idle = self._idle
        try:
            idle.pop()
        except IndexError:  # asked from within this function: by a signal handler or the like
            return _fresh(size)
        try:
            number = len(self._asked)
            self._born[number:] = [self._clock]  # number and time belong together, whichever step fails for want of memory
            self._asked.append(size)
            self._clock += 1
            memory, start = self._memory, -1
            if number < len(self._sizes) and self._sizes[number] == size:
                start = self._starts[number]
            if memory is None or start < 0 or not self._taken.isdisjoint(self._conflicts[number]):
                self.fresh_bytes += size
                return np.asarray(_Place(self, number, self._run, _fresh(size), 0, size))
            place = _Place(self, number, self._run, memory, start, size)
            self._taken.add(number)
            return np.asarray(place)
        finally:
            idle.append(True)

    def released(self, number: int, run: int, memory: Array) -> None:
        """The array of a request is gone, and so it needs its place in `memory` no more."""
        if memory is self._memory:
            self._taken.discard(number)
        if run == self._run:
            self._died[number] = self._clock

    def _plan(self) -> None:
        """Places for the requests of the run that has just ended: the largest first, each as low as those alive beside it allow."""
        self._plans += 1
        requests = [(size, self._born[k], self._died.get(k)) for k, size in enumerate(self._asked)]
        starts, total = places_of(requests)
        self._conflicts = [conflicts(k, requests, starts) for k in range(len(requests))]
        self._sizes, self._starts = self._asked, starts
        self._memory, self._total, self._taken = None, total, set()


class Arenas:
    """Arenas of one computation: one for each key (the shapes of its inputs) and each thread that runs it at the time."""

    def __init__(self) -> None:
        self._free: dict[Any, list[Arena]] = {}
        register_keeper(self)

    @contextmanager
    def arena(self, key: Any) -> Iterator[Arena]:
        """An arena to run in: that of an earlier run under the key, unless another thread is in it."""
        try:
            arena = self._free[key].pop()
        except (KeyError, IndexError):
            arena = Arena()
        try:
            with arena:
                yield arena
        finally:
            self._free.setdefault(key, []).append(arena)
            for oldest in tuple(self._free)[:-MOST_KEYS]:
                self._free.pop(oldest, None)

    @property
    def bytes(self) -> int:
        """The memory that is held between runs."""
        return sum(arena.bytes for arenas in list(self._free.values()) for arena in list(arenas))

    def clear(self) -> int:
        """Let go of it; returns how many bytes."""
        held, self._free = self.bytes, {}
        return held

    def __reduce__(self) -> tuple[Any, ...]:  # copies of what holds them begin anew
        return (Arenas, ())
