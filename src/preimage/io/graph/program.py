"""A graph as one program: for inputs of known shapes its kernels are recorded once, and then run without Python between the nodes.

    first run of some shapes      node by node, as ever
    second run                    node by node, while a recorder (engines/recording.py) writes down every kernel that is launched
    later runs                    one call for each stretch of nodes that are kernels alone; the others as functions, between them

What does not depend on the inputs' values is computed while recording and never again: shapes, and whatever is made of shapes and stored
arrays. Branches and loops whose conditions are so are part of it (`inlining.py`). Memory is planned once: values that do not live at the same
time share their place. Results have memory of their own in every run. A node whose values are not made by kernels alone, or may not be
(`words.py`), stays a function. After recording, the program is run once in memory filled with ones and has to give the recorded run's
bits; else it is dropped.

Nothing here is shared between runs but tables that never change: each run has its own memory, so threads, signal handlers and finalisers may
run the same program at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.buffers import LINE_BYTES, aligned_empty
from preimage.engines.recording import Guard, Place
from preimage.io.graph.memory import Runs, raw_bytes

if TYPE_CHECKING:
    from preimage.io.graph.nodes import Node

__all__ = ["WORKSPACE", "Function", "Layout", "Program", "RefusedError", "RunNode", "no_functions"]

#: Runs a node as a function: its values by name.
RunNode = Callable[["Node", Mapping[str, Any]], dict[str, Any]]
#: Places in the memory of a run: the workspace is number 0.
WORKSPACE = 0
_BYTE = np.dtype(np.uint8)


class RefusedError(Exception):
    """Why a graph is not run as a program."""


class Function(NamedTuple):
    """A node that stays a function: where its inputs lie (None: a value that does not change), and the places of its results."""

    node: Node
    inputs: tuple[tuple[str, Place], ...]
    fixed: dict[str, Any]
    results: tuple[tuple[str, Place], ...]
    why: str
    run: RunNode | None  # of the graph inside a node that it is from, or of no graph; None: that of the program's graph


class Layout(NamedTuple):
    """Where everything lies in a run. Memory 0 is the workspace, the others have addresses of their own: Places are of these.

    planned: bytes of the workspace. outer: how many other memories. given: the inputs and their memories. own: (memory, bytes) that are made for
    results. static: results that do not depend on the inputs.
    """

    planned: int
    outer: int
    given: tuple[tuple[str, int], ...]
    own: tuple[tuple[int, int], ...]
    results: tuple[tuple[str, Place], ...]
    guards: tuple[Guard, ...]
    static: tuple[tuple[str, Any], ...]


class Program:
    """A recorded run, ready to be run again. items: stretches of steps (engines' `replay`), and functions."""

    def __init__(self, layout: Layout, items: Sequence[Any]) -> None:
        self.layout, self.items = layout, tuple(items)
        functions = [item for item in items if isinstance(item, Function)]
        stretches = [item for item in items if not isinstance(item, Function)]
        self._vectors_at = layout.planned
        vectors = max([item.bytes for item in stretches])
        self._runs = Runs(layout.planned + -(-vectors // LINE_BYTES) * LINE_BYTES + LINE_BYTES)
        self.kernels = sum([item.count for item in stretches])
        #: The nodes that stayed functions, and why.
        self.functions = [(f.node, f.why) for f in functions]
        #: Whether it runs without the graph that it is from.
        self.stands_alone = all(f.run is not None for f in functions)
        given = {number for _, number in layout.given}
        #: Results that are views of inputs: the caller gets copies.
        self._copied = tuple([key for key, place in layout.results if place.memory in given])
        looked_at = [*(place for f in functions for _, place in f.inputs), *(guard.place for guard in layout.guards)]
        looked_at += [place for _, place in layout.results]
        self._looks = any(place.memory in given for place in looked_at)

    @property
    def bytes(self) -> int:
        """The memory that is held between runs."""
        return self._runs.bytes

    @property
    def run_bytes(self) -> int:
        """The memory that a run takes beside its results."""
        return self._runs.size

    def run(self, feeds: Mapping[str, Any], run: RunNode, threads: int, fill: int | None = None) -> dict[str, Any] | None:
        """The values; None where what the kernels do depends on values, and these are others. fill: what the memory is filled with before."""
        memory, layout = self._runs.take(), self.layout
        if fill is not None:
            memory.raw.fill(fill)
        raws: list[Any] = [memory.raw, *[None] * layout.outer]
        addresses = [memory.address, *[0] * layout.outer]
        for name, at in layout.given:
            addresses[at] = address_of(feeds[name])
            if self._looks:
                raws[at] = raw_bytes(feeds[name])
        for at, size in layout.own:
            made = aligned_empty((max(size, 1),), _BYTE)
            raws[at], addresses[at] = made, address_of(made)
        own = memory.address + self._vectors_at
        for item in self.items:
            if type(item) is not Function:
                item.run(own, addresses, threads)
            elif not self._call(item, run, raws, addresses):
                return None
        for guard in layout.guards:
            if not guard.holds(_view(guard.place, raws)):
                return None
        found = {key: _view(place, raws) for key, place in layout.results}
        found |= {key: np.array(found[key]) for key in self._copied}
        found |= {key: np.array(value) if isinstance(value, np.ndarray) else value for key, value in layout.static}
        self._runs.free.append(memory)
        return found

    def _call(self, item: Function, run: RunNode, raws: list[Any], addresses: list[int]) -> bool:
        values = {key: _view(place, raws) for key, place in item.inputs} | item.fixed
        made = (item.run or run)(item.node, values)
        for key, place in item.results:
            value = made[key]
            if type(value) is not np.ndarray or value.shape != place.shape or value.dtype != place.dtype:
                return False
            first = address_of(value)
            if value.strides == place.strides and not addresses[WORKSPACE] <= first < addresses[WORKSPACE] + self._runs.size:
                raw = raw_bytes(value)
            else:  # it lies otherwise, or in memory that will be written to
                raw = np.empty(max(value.nbytes, 1), np.uint8)
                np.ndarray(place.shape, place.dtype, raw, 0, place.strides)[...] = value
            raws[place.memory], addresses[place.memory] = raw, address_of(raw)
        return True


def no_functions(node: Node, given: Mapping[str, Any]) -> dict[str, Any]:
    """What runs the functions of a program of kernels alone."""
    raise AssertionError(f"node {node.name!r} of a program of kernels alone")


def _view(place: Place, raws: Sequence[Any]) -> Any:
    return np.ndarray(place.shape, place.dtype, raws[place.memory], place.offset, place.strides)
