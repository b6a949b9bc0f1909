"""Writing down what a computation launches while it runs, so that the same kernels can be run again without it.

    recorder = Recorder()
    x = recorder.watch(array)                  # the same values in memory that the recorder knows
    with recorder:                             # in this thread
        y = operation(x)                       # computes as ever
    recorder.steps, recorder.place_of(y)       # which kernels ran, with which arrays, in which order

While a recorder is there, whatever launches a kernel gives it the arrays in place of their addresses (`Words`), and `aligned_empty` takes
memory that the recorder knows. An array that is no such memory must be marked as `Fixed`, by whoever knows that it never changes.
What the recorder cannot follow (`broken`) says so in words: then the computation has to be run as it was written.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from preimage.engines.addresses import address_of
from preimage.records import record

__all__ = [
    "Address",
    "Code",
    "Fixed",
    "Guard",
    "Memory",
    "Place",
    "Recorder",
    "Step",
    "Told",
    "Words",
    "apart",
    "constant",
    "constant_of",
    "made_once",
    "recorder",
    "state",
]

Array: TypeAlias = NDArray[Any]
T = TypeVar("T")
LINE_BYTES = 64
#: Elements from which on a sum is the faster way to see whether all are finite.
LARGE_SIZE = 1 << 17


class Code(int):
    """The address of a loaded function. Among the words of an argument vector it stays one, so that a recording knows what they are."""


class Address(int):
    """The address of an array that never changes, and the array; for argument vectors that are made once."""

    array: Array

    def __new__(cls, array: Array) -> Self:
        self = super().__new__(cls, address_of(array))
        self.array = array
        return self


class Fixed(NamedTuple):
    """An array that a kernel reads and that nobody changes: a table, numbers, packed weights."""

    array: Array


#: An argument vector: numbers, and arrays whose addresses are wanted.
Words: TypeAlias = "Sequence[int | Array | Fixed]"


@record
class Place:
    """Where an array lies: in which memory, how many bytes from its beginning, and how."""

    memory: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]


class Told(NamedTuple):
    """A function that hears of results after every run, and what else it is given: it keeps what a computation leaves behind."""

    function: Callable[..., Any]
    places: tuple[Place, ...]
    options: tuple[Any, ...]


class Guard(NamedTuple):
    """What an array must turn out to hold: finite numbers, or (within) integers from the first to the last of these."""

    place: Place
    within: tuple[int, int] | None = None

    def holds(self, array: Array) -> bool:
        """Whether the array is so. Each run asks: a search among bytes takes a quarter of the time of NumPy's reductions of small arrays, and
        the sum of a large one, which is not finite where a number is not, a quarter of that of looking at each.
        """
        if self.within is None:
            return (array.size >= LARGE_SIZE and _sum_is_finite(array)) or b"\0" not in np.isfinite(array).tobytes()
        first, last = self.within
        return b"\0" not in ((array >= first) & (array <= last)).tobytes()


def _sum_is_finite(array: Array) -> bool:
    """Whether the sum of all elements is finite, as they are then."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.add.reduce(array.ravel(order="K"))))


@dataclass(slots=True)
class Step:
    """One launch: the kernel's code, its argument vector with 0 where an address comes in, and its tasks.

    addresses: (word, memory, offset). fixed: the words that are addresses of arrays that never change, and of functions; they must stay
    while the step can run. shared: its tasks may go to several threads.
    """

    code: Any
    words: list[int]
    addresses: list[tuple[int, int, int]]
    tasks: int
    shared: bool
    fixed: list[tuple[int, Array | Code]] = field(default_factory=list)


class Memory:
    """Memory that a recorder knows: what arrays in it refer to in the end."""

    __slots__ = ("__array_interface__", "__weakref__", "_held", "address", "number", "size")

    def __init__(self, number: int, held: Array, address: int, size: int) -> None:
        self.number, self._held, self.address, self.size = number, held, address, size
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


class _Current(threading.local):
    recorder: Recorder | None = None


#: `state.recorder` is the recorder of this thread, or None: for what warm calls run, to which `recorder()` is a call more.
state = _Current()


def recorder() -> Recorder | None:
    """The recorder of this thread, if one is there."""
    return state.recorder


@contextmanager
def apart() -> Iterator[None]:
    """What runs inside the block is made once and kept, and no part of what is recorded."""
    before, state.recorder = state.recorder, None
    try:
        yield
    finally:
        state.recorder = before


def constant(array: Array) -> Array:
    """An array that depends on sizes alone, as kernels are given it: for a recorder a copy that nobody can change."""
    if state.recorder is None:
        return array
    kept = array.copy(order="K")
    kept.flags.writeable = False
    state.recorder.fix(kept)
    return kept


def _root(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def constant_of(array: Array, made: Array) -> Array:
    """What NumPy made of an array alone: for a recorder it never changes where that array does not."""
    here = state.recorder
    if here is not None and here.is_fixed(array):
        made.flags.writeable = False
        here.fix(made)
    return made


def made_once(make: Callable[[], T], *arrays: Any) -> T:
    """What `make` makes of arrays; where these never change, for a recorder, it is made now and never again."""
    here = state.recorder
    if here is None or not all(isinstance(a, np.ndarray) and here.is_fixed(a) for a in arrays):
        return make()
    with apart():
        made = make()
    assert isinstance(made, np.ndarray)
    here.fix(made)
    return made


class Recorder:
    """What this thread launches inside `with recorder:`. `sizes`: the bytes of every memory, by its number.

    strict: only what `fix` was told of never changes, however it is marked (autograd marks results that a step makes anew as read-only), and
    whoever runs the recording looks at its flags.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.steps: list[Step] = []
        self.sizes: list[int] = []
        self.guards: list[Guard] = []  #: without which the computation would go on otherwise
        self.flags: list[
            Array
        ] = []  #: words that are 0 before, and have to be 0 after: else the computation would go on otherwise
        self.told: list[Told] = []
        self.draws: list[tuple[Place, Callable[[], Array]]] = []  #: arrays that are drawn anew for every run, and by what
        self.broken: str | None = None
        self._fixed: dict[int, Array] = {}
        self._memories: list[weakref.ref[Memory]] = []
        self._before: Recorder | None = None

    def __enter__(self) -> Recorder:
        self._before, state.recorder = state.recorder, self
        return self

    def __exit__(self, *_: object) -> None:
        state.recorder = self._before
        self._before = None

    # -- memory

    def take(self, size: int) -> Array:
        """So many new bytes that begin on a cache line."""
        held = np.empty(size + LINE_BYTES, np.uint8)
        return self._known(held, address_of(held) + -address_of(held) % LINE_BYTES, size)

    def _known(self, held: Array, address: int, size: int) -> Array:
        memory = Memory(len(self.sizes), held, address, size)
        self.sizes.append(size)
        self._memories.append(weakref.ref(memory))
        return np.asarray(memory)

    def flag(self) -> Array:
        """A word of its own that kernels set where the computation would go on otherwise; 0 now."""
        if not self.strict:
            self.lost("what kernels find out decides what is computed")
        made = self.take(8).view(np.int64)
        made[0] = 0
        self.flags.append(made)
        return made

    def watch(self, array: Array) -> Array:
        """A view of the array (which must not have negative strides) as memory of its own, by which it is known."""
        low = address_of(array)
        extent = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize if array.size else 0
        bytes_ = self._known(array, low, extent)
        return np.ndarray(array.shape, array.dtype, bytes_, 0, array.strides)

    def place_of(self, array: Any) -> Place | None:
        """Where an array lies, if in memory of this recorder."""
        memory = self._memory_of(array)
        if memory is None:
            return None
        return Place(memory.number, address_of(array) - memory.address, array.shape, array.strides, array.dtype)

    def _memory_of(self, array: Any) -> Memory | None:
        root = array
        while isinstance(root, np.ndarray):
            root = root.base
        if type(root) is Memory and root.number < len(self._memories) and self._memories[root.number]() is root:
            return root
        return None

    def fix(self, array: Array) -> None:
        """Nobody changes this array, nor what it is a view of, as long as the recording is used."""
        root = _root(array)
        self._fixed[id(root)] = root

    def is_fixed(self, array: Array) -> bool:
        """Whether nobody changes an array: one that `fix` was told of, or (unless strict) that nobody can write to."""
        root = _root(array)
        return id(root) in self._fixed or (not self.strict and not root.flags.writeable and root.base is None)

    def drawn(self, draw: Callable[[], Array]) -> Array:
        """What draw() gives, as memory that whoever runs the recording fills by calling it again before each run."""
        made = self.watch(draw())
        place = self.place_of(made)
        if not self.strict or place is None:
            self.lost("numbers are drawn anew")
        else:
            self.draws.append((place, draw))
        return made

    # -- launches

    def launched(self, code: Any, words: Words, tasks: int, threads: int) -> None:
        """Write down a launch. An array that is neither known nor fixed breaks the recording."""
        numbers: list[int] = []
        step = Step(code, numbers, [], tasks, threads > 1 and tasks > 1)
        for slot, word in enumerate(words):
            if isinstance(word, np.ndarray):
                memory = self._memory_of(word)
                if memory is None:
                    if self.is_fixed(word):
                        step.fixed.append((slot, word))
                        numbers.append(address_of(word))
                        continue
                    self.broken = self.broken or f"a kernel reads an array of shape {word.shape} that no kernel made"
                    numbers.append(0)
                    continue
                step.addresses.append((slot, memory.number, address_of(word) - memory.address))
                numbers.append(0)
            elif isinstance(word, Fixed):
                step.fixed.append((slot, word.array))
                numbers.append(address_of(word.array))
            else:
                if isinstance(word, Address | Code):
                    step.fixed.append((slot, word.array if isinstance(word, Address) else word))
                numbers.append(int(word))
        self.steps.append(step)

    def lost(self, what: str) -> None:
        """Something ran that was not written down."""
        self.broken = self.broken or what

    def expect(self, array: Array, within: tuple[int, int] | None = None) -> None:
        """The recorded kernels are the whole computation only where this array is finite, or its integers lie within these."""
        place = self.place_of(array)
        if place is None:
            self.lost("values decide what is computed")
        elif (guard := Guard(place, within)) not in self.guards:
            self.guards.append(guard)

    def tell(self, function: Callable[..., Any], arrays: Sequence[Array], *options: Any) -> None:
        """Whoever runs the recording calls function(*arrays, *options) after each run, with what the arrays hold then. It is not called now, for
        the recorded run is nobody's own; where it is (not strict), it is called now, and the recording is broken.
        """
        places = [self.place_of(array) for array in arrays]
        if not self.strict:
            function(*arrays, *options)
        if not self.strict or None in places:
            self.lost("what is computed changes the state of a layer")
        else:
            self.told.append(Told(function, tuple([p for p in places if p is not None]), options))
