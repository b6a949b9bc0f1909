"""Steps of a sequence without Python between their kernels: one step is recorded, and its kernels run for all others.

    steps = RecordedSteps.of(step, products[0], states, fixed)      # None where a step is more than kernels
    steps.run(products, states, y)                                  # y[t], states = step(products[t], states) for every t

A recording holds for arrays of the same shapes and strides. It depends on no value: `step` may only look at shapes and at what is
`fixed`. The table of up to `MOST_STEPS` steps is made once, with the address of every array of every step in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.engines import replayer
from preimage.engines.addresses import address_of
from preimage.engines.buffers import LINE_BYTES, aligned
from preimage.engines.recording import Place, Recorder, Step
from preimage.errors import PreimageError
from preimage.resources import register_keeper
from preimage.settings import current, thread_count

__all__ = ["LEAST_STEPS", "RecordedSteps", "cached", "keep", "key_of"]

Array = NDArray[Any]
#: Fewer steps are not worth a recording.
LEAST_STEPS = 6
#: Steps in one table: a longer one would not stay in the caches.
MOST_STEPS = 32
#: The memories of a call, by number: the workspace, the products, y; then the states as they come in, and as they go out.
WORKSPACE, PRODUCTS, RESULT, STATES = 0, 1, 2, 3


class RecordedSteps:
    """The kernels of one step, and tables of several steps made of them."""

    def __init__(self, recorder: Recorder, inputs: list[int], outputs: list[Place], make_ready: Callable[..., Any]) -> None:
        """inputs: the memories of the product and of the states before; outputs: where the states after the step lie, h first."""
        self._steps, self._make_ready = recorder.steps, make_ready
        self._inputs, self._outputs = inputs, [place.memory for place in outputs]
        self._state_bytes = [recorder.sizes[place.memory] for place in outputs]
        self._starts: dict[int, int] = {}
        at = 0
        for number, size in enumerate(recorder.sizes):
            if number not in inputs and number not in self._outputs:
                self._starts[number] = at
                at += -(-size // LINE_BYTES) * LINE_BYTES
        #: Two places for every state but h, in which it waits from one step to the next.
        self._waiting: list[tuple[int, int]] = []
        for size in self._state_bytes:
            room = -(-size // LINE_BYTES) * LINE_BYTES
            self._waiting.append((at, at + room))
            at += 2 * room
        self._bytes = at
        self._tables: dict[tuple[int, int, int], Any] = {}

    @classmethod
    def of(
        cls, step: Callable[..., Any], product: Array, states: Sequence[Array], fixed: Sequence[Array]
    ) -> tuple[RecordedSteps, tuple[Array, ...]] | None:
        """The recording of step(product, states), and what it gave; None where it is more than kernels that can be recorded."""
        make_ready = replayer()
        if isinstance(make_ready, str) or not all(a.size and a.flags.c_contiguous for a in (product, *states)):
            return None
        recorder = Recorder()
        for array in fixed:
            recorder.fix(array)
        inputs = list(range(1 + len(states)))
        given = [recorder.watch(a) for a in (product, *states)]
        try:
            with recorder:
                made = step(given[0], tuple(given[1:]))
        except PreimageError:
            return None  # the step as it is written says what is wrong
        places = [recorder.place_of(value) for value in made]
        found = [p for p, value in zip(places, made, strict=True) if p is not None and p.offset == 0 and value.flags.c_contiguous]
        if recorder.broken or recorder.guards or len(found) < len(made) or {p.memory for p in found} & set(inputs):
            return None
        if len({p.memory for p in found}) < len(found):
            return None
        return cls(recorder, inputs, found, make_ready), tuple(np.array(value) for value in made)

    def run(self, products: Array, states: Sequence[Array], y: Array, order: Sequence[int]) -> tuple[Array, ...]:
        """Fill y[t] for the t of `order` (neighbours, rising or falling), and give the states after the last one."""
        sign = 1 if len(order) < 2 or order[1] > order[0] else -1
        workspace = aligned(self._bytes)
        now = [np.ascontiguousarray(s) for s in states]
        tables = -(-len(order) // MOST_STEPS)
        most, first = len(order) // max(tables, 1), 0  # tables of one length, and what is left over one by one
        while first < len(order):
            count = most if first + most <= len(order) else 1
            t = order[first]
            table = self._table(count, sign * products.strides[0], sign * y.strides[0])
            vectors = aligned(max(table.bytes, 1))
            after = [np.empty_like(s) for s in now]
            memories = [workspace, products[t], y[t], *now, *after]
            table.run(address_of(vectors), [address_of(a) for a in memories], thread_count())
            first += count
            after[0] = y[order[first - 1]]
            now = after
        return tuple(np.array(s) for s in now)

    @property
    def bytes(self) -> int:
        """What its tables hold."""
        return sum([table.bytes for table in self._tables.values()])

    def _table(self, count: int, product_step: int, y_step: int) -> Any:
        """`count` steps one after another, whose products and results lie so many bytes apart."""
        key = (count, product_step, y_step)
        if key not in self._tables:
            memories = 1 + max([*self._starts, *self._inputs, *self._outputs])
            steps: list[Step] = []
            places: dict[int, tuple[int, int]] = {}
            for j in range(count):
                base = j * memories
                places |= {base + number: (WORKSPACE, at) for number, at in self._starts.items()}
                places[base + self._inputs[0]] = (PRODUCTS, j * product_step)
                for k, (before, after) in enumerate(zip(self._inputs[1:], self._outputs, strict=True)):
                    places[base + before] = self._state(k, j - 1, count, y_step) if j else (STATES + k, 0)
                    places[base + after] = self._state(k, j, count, y_step)
                steps += [
                    replace(step, addresses=[(word, base + memory, at) for word, memory, at in step.addresses])
                    for step in self._steps
                ]
            self._tables[key] = self._make_ready(steps, places)
        return self._tables[key]

    def _state(self, k: int, j: int, count: int, y_step: int) -> tuple[int, int]:
        """Where state k lies after step j of a table."""
        if k == 0:
            return RESULT, j * y_step
        if j == count - 1:
            return STATES + len(self._outputs) + k, 0
        return WORKSPACE, self._waiting[k][j % 2]


class _Kept:
    """Recordings whose fixed arrays nobody can write to, with those arrays: so long as they live their ids are theirs."""

    def __init__(self) -> None:
        self.found: dict[tuple[Any, ...], tuple[RecordedSteps, list[Array], Any]] = {}
        register_keeper(self)

    def clear(self) -> int:
        """Let go of them; returns how many bytes of their tables."""
        found, self.found = self.found, {}
        return sum([steps.bytes for steps, *_ in found.values()])


_kept = _Kept()
MOST_KEPT = 64


def key_of(options: tuple[Any, ...], product: Array, states: Sequence[Array], fixed: Sequence[Array]) -> tuple[Any, ...] | None:
    """What a recording is kept under (options: all that a step depends on beside arrays); None where a fixed array may change."""
    places = []
    for array in fixed:
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if root.flags.writeable or root.base is not None:
            return None
        places.append((id(root), address_of(array), array.shape, array.strides))
    shapes = tuple((a.shape, a.strides, a.dtype) for a in (product, *states))
    return (options, id(current()), *places, *shapes)


def cached(key: tuple[Any, ...] | None) -> RecordedSteps | None:
    """The recording that was kept under a key."""
    found = None if key is None else _kept.found.get(key)
    return None if found is None else found[0]


def keep(key: tuple[Any, ...] | None, steps: RecordedSteps, fixed: Sequence[Array]) -> None:
    """Keep a recording for later calls."""
    if key is not None:
        if len(_kept.found) >= MOST_KEPT:
            _kept.clear()
        _kept.found[key] = steps, list(fixed), current()
