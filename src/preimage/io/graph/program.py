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

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from preimage.engines.addresses import address_of
from preimage.engines.buffers import LINE_BYTES, aligned_empty, places_of
from preimage.engines.recording import Place, Recorder, Step
from preimage.io.graph.inlining import UndecidedError, inlining
from preimage.io.graph.memory import Runs, dense, raw_bytes
from preimage.io.graph.words import may_record, only_shapes, runs_graphs, same_order

if TYPE_CHECKING:
    from preimage.io.graph.graph import Graph
    from preimage.io.graph.nodes import Node

__all__ = ["Program", "RefusedError", "record"]

#: Runs a node as a function: its values by name.
RunNode = Callable[["Node", Mapping[str, Any]], dict[str, Any]]
#: What a program may keep of values that do not depend on its inputs.
MOST_STATIC_BYTES = 64 << 20
#: Nodes of branches and bodies that become part of one.
MOST_INLINED = 1 << 14
#: Places in the memory of a run: the workspace is number 0.
WORKSPACE = 0
_BYTE = np.dtype(np.uint8)


class RefusedError(Exception):
    """Why a graph is not run as a program."""


class _Function(NamedTuple):
    """A node that stays a function: where its inputs lie (None: a value that does not change), and the places of its results."""

    node: Node
    inputs: tuple[tuple[str, Place], ...]
    fixed: dict[str, Any]
    results: tuple[tuple[str, Place], ...]
    why: str
    run: RunNode | None  # of the graph inside a node that it is from; None: that of the program's graph


class _Recording:
    """The state of one recorded run."""

    def __init__(self, feeds: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        self.recorder = Recorder()
        self.values: dict[str, Any] = dict(stored)
        self.items: list[list[Step] | _Function] = []
        self.given: dict[int, str] = {}  # the memories of the inputs
        self.by_functions: dict[int, str] = {}  # those of values that functions made
        self.moving: set[str] = set()  # values that depend on the inputs
        self.static_bytes = 0
        self.inlined = 0  # nodes of graphs inside nodes
        self._run_inside: RunNode | None = None
        self._fix(stored.values())
        for name, array in feeds.items():
            self.given[len(self.recorder.sizes)] = name
            self.values[name] = self.recorder.watch(array)
            self.moving.add(name)

    def _fix(self, values: Iterable[Any]) -> None:
        for array in values:
            if isinstance(array, np.ndarray):
                self.recorder.fix(array)

    def walk(self, nodes: Sequence[tuple[Node, Sequence[str]]], wanted: Sequence[str], run: RunNode) -> dict[str, Any]:
        """Record nodes, each with the values that nothing after it takes: the wanted values."""
        kept = {key: self.values[key] for key in wanted if key in self.values}
        for node, gone in nodes:
            made = self.add(node, run)
            self.values |= made
            kept |= {key: made[key] for key in wanted if key in made}
            del made
            for key in gone:
                self.values.pop(key, None)
        return kept

    def add(self, node: Node, run: RunNode) -> dict[str, Any]:
        moving = [k for k, key in enumerate(node.inputs) if key in self.moving]
        if not moving or only_shapes(node.op):
            return self._static(node, run)
        made, why = None, "it may look at values"
        if runs_graphs(node.op):
            found = self._opened(node, run)
            if isinstance(found, dict):
                return found
            why = found
        elif may_record(node, moving):
            made = self._recorded(node, run)
            why = self.recorder.broken or "NumPy computes it"
        if made is None:
            made = self._function(node, run, why)
        self.moving.update(made)
        return made

    # -- nodes that run graphs (`inlining.Inliner`)

    def _opened(self, node: Node, run: RunNode) -> dict[str, Any] | str:
        """The values of a node whose graphs' nodes are recorded; why not, where they are not."""
        recorder = self.recorder
        items = [list(item) if isinstance(item, list) else item for item in self.items]
        before, guards, known = len(recorder.steps), len(recorder.guards), len(self.by_functions)
        try:
            with inlining(self):
                made = run(node, self.values)
        except UndecidedError as undecided:
            del recorder.steps[before:], recorder.guards[guards:]
            self.items = items
            self.by_functions = dict(list(self.by_functions.items())[:known])
            return str(undecided)
        moving = {key for key, value in made.items() if recorder.place_of(value) is not None}
        self._fix(value for key, value in made.items() if key not in moving)
        self.moving |= moving
        return made

    def run(self, graph: Graph, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs of a graph inside a node, its nodes recorded."""
        self.inlined += len(graph.nodes)
        if self.inlined > MOST_INLINED:
            raise UndecidedError(f"its graphs would be more than {MOST_INLINED} nodes")
        outer = self.values, self.moving, self._run_inside
        values, nodes, run = graph.parts(feeds)
        self.moving = {key for key, value in values.items() if self.recorder.place_of(value) is not None}
        self._fix(value for key, value in values.items() if key not in self.moving)
        self.values, self._run_inside = values, run
        try:
            with inlining(None):
                return self.walk(nodes, graph.outputs, run)
        finally:
            self.values, self.moving, self._run_inside = outer

    def check_decided(self, value: Any) -> None:
        """Raises: UndecidedError where the value may be another one in the next run."""
        if self.recorder.place_of(value) is not None:
            raise UndecidedError("a condition or a number of trips depends on values")

    def made(self, make: Callable[[], Any], parts: Sequence[Any]) -> Any:
        """What kernels make of values; computed now where these do not change."""
        if all(self.recorder.place_of(part) is None for part in parts):
            return make()
        made = self._by_kernels(lambda: {"": make()})
        if made is None:
            raise UndecidedError("what its graphs give is not put together by kernels")
        return made[""]

    # -- other nodes

    def _static(self, node: Node, run: RunNode) -> dict[str, Any]:
        made = run(node, self.values)
        for value in made.values():
            if isinstance(value, np.ndarray):
                value = np.asarray(value)
                self.recorder.fix(value)
                self.static_bytes += value.nbytes
        if self.static_bytes > MOST_STATIC_BYTES:
            raise RefusedError("values that do not depend on the inputs would take too much memory")
        return made

    def _recorded(self, node: Node, run: RunNode) -> dict[str, Any] | None:
        """The node's values where kernels alone made them, or where they are views; None otherwise."""

        def make() -> dict[str, Any]:
            made = run(node, self.values)
            return self._in_order(node, made) if same_order(node.op) else made

        return self._by_kernels(make)

    def _by_kernels(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        recorder = self.recorder
        before, guards = len(recorder.steps), len(recorder.guards)
        recorder.broken = None
        with recorder:
            made = make()
        if recorder.broken is None and all(recorder.place_of(value) is not None for value in made.values()):
            steps = recorder.steps[before:]
            if steps:
                if not (self.items and isinstance(self.items[-1], list)):
                    self.items.append([])
                last = self.items[-1]
                assert isinstance(last, list)
                last += steps
            return made
        del recorder.steps[before:], recorder.guards[guards:]
        return None

    def _in_order(self, node: Node, made: dict[str, Any]) -> dict[str, Any]:
        """Where a reshaped value had to be copied, the copy by a kernel."""
        ((name, value),) = made.items()
        if self.recorder.place_of(value) is not None or not isinstance(value, np.ndarray):
            return made
        from preimage.engines.around import in_order

        copied = in_order(self.values[node.inputs[0]])
        return made if copied is None else {name: copied.reshape(value.shape)}

    def _function(self, node: Node, run: RunNode, why: str) -> dict[str, Any]:
        made = run(node, self.values)
        inputs, fixed = [], {}
        for key in dict.fromkeys(k for k in node.inputs if k):
            value = self.values[key]
            place = self.recorder.place_of(value) if key in self.moving else None
            if place is not None:
                inputs.append((key, place))
            else:
                fixed[key] = value
        known: dict[str, Any] = {}
        results = []
        for key, value in made.items():
            if type(value) is not np.ndarray or value.dtype.hasobject:
                raise RefusedError(f"node {node.name!r} ({node.op}) gives a {type(value).__name__}")
            self.by_functions[len(self.recorder.sizes)] = key
            known[key] = self.recorder.watch(dense(value))
            place = self.recorder.place_of(known[key])
            assert place is not None
            results.append((key, place))
        self.items.append(_Function(node, tuple(inputs), fixed, tuple(results), why, self._run_inside))
        return known


def record(
    nodes: Sequence[tuple[Node, Sequence[str]]], feeds: Mapping[str, Any], stored: Mapping[str, Any], wanted: Sequence[str], run: RunNode
) -> tuple[dict[str, Any], _Recording]:  # fmt: skip
    """Run the nodes once, writing down what they launch: the wanted values, and what was written down.

    nodes: each with the values that nothing after it takes.
    """
    state = _Recording(feeds, stored)
    return state.walk(nodes, wanted, run), state


class Program:
    """A recorded run, ready to be run again. Raises: RefusedError where it cannot be."""

    def __init__(self, state: _Recording, kept: Mapping[str, Any], make_ready: Callable[..., Any]) -> None:
        recorder = state.recorder
        if not any(isinstance(item, list) for item in state.items):
            raise RefusedError("no node is made of kernels alone")
        self._results: list[tuple[str, Place]] = []
        self._static: list[tuple[str, Any]] = []
        for key, value in kept.items():
            place = recorder.place_of(value) if key in state.moving else None
            if place is None:
                self._static.append((key, value))
            elif place.memory in state.given:
                raise RefusedError(f"output {key!r} is a view of an input")
            else:
                self._results.append((key, place))
        own = dict.fromkeys(p.memory for _, p in self._results if p.memory not in state.by_functions)
        #: Numbers of the memories of a run that are not its workspace: in the order in which addresses are given.
        outer = [*state.given, *state.by_functions, *own]
        self._outer = {number: k + 1 for k, number in enumerate(outer)}
        self._own = [(self._outer[number], recorder.sizes[number]) for number in own]
        self._given = [(name, self._outer[number]) for number, name in state.given.items()]
        starts, self._planned = _plan(state, set(outer))
        places = {number: (k, 0) for number, k in self._outer.items()}
        places |= {number: (WORKSPACE, at) for number, at in starts.items()}
        self._places = places
        self._items: list[Any] = []
        vectors = 0
        for item in state.items:
            if isinstance(item, list):
                self._items.append(make_ready(item, places))
                vectors = max(vectors, self._items[-1].bytes)
            else:
                self._items.append(item)
        self._vectors_at = self._planned
        self._guards = tuple(recorder.guards)
        self._runs = Runs(self._planned + -(-vectors // LINE_BYTES) * LINE_BYTES + LINE_BYTES)
        functions = [item for item in self._items if isinstance(item, _Function)]
        self.kernels = sum(item.count for item in self._items if not isinstance(item, _Function))
        #: The nodes that stayed functions, and why.
        self.functions = [(f.node, f.why) for f in functions]
        looked_at = [*(place for f in functions for _, place in f.inputs), *(guard.place for guard in self._guards)]
        self._looks = any(place.memory in state.given for place in looked_at)

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
        memory = self._runs.take()
        if fill is not None:
            memory.raw.fill(fill)
        raws: list[Any] = [memory.raw, *[None] * len(self._outer)]
        addresses = [memory.address, *[0] * len(self._outer)]
        for name, at in self._given:
            addresses[at] = address_of(feeds[name])
            if self._looks:
                raws[at] = raw_bytes(feeds[name])
        for at, size in self._own:
            made = aligned_empty((max(size, 1),), _BYTE)
            raws[at], addresses[at] = made, address_of(made)
        own = memory.address + self._vectors_at
        for item in self._items:
            if type(item) is not _Function:
                item.run(own, addresses, threads)
            elif not self._call(item, run, raws, addresses):
                return None
        for guard in self._guards:
            if not guard.holds(self._view(guard.place, raws)):
                return None
        found = {key: self._view(place, raws) for key, place in self._results}
        found |= {key: np.array(value) if isinstance(value, np.ndarray) else value for key, value in self._static}
        self._runs.free.append(memory)
        return found

    def _view(self, place: Place, raws: Sequence[Any]) -> Any:
        number, at = self._places[place.memory]
        return np.ndarray(place.shape, place.dtype, raws[number], at + place.offset, place.strides)

    def _call(self, item: _Function, run: RunNode, raws: list[Any], addresses: list[int]) -> bool:
        values = {key: self._view(place, raws) for key, place in item.inputs} | item.fixed
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
            number = self._outer[place.memory]
            raws[number], addresses[number] = raw, address_of(raw)
        return True


def _plan(state: _Recording, outer: set[int]) -> tuple[dict[int, int], int]:
    """Where every other memory lies in the workspace, and how large that is."""
    born: dict[int, int] = {}
    died: dict[int, int] = {}

    def used(number: int, at: int) -> None:
        if number not in outer:
            born.setdefault(number, at)
            died[number] = at + 1

    at = 0
    for item in state.items:
        if isinstance(item, list):
            for step in item:
                for _, number, _ in step.addresses:
                    used(number, at)
                at += 1
        else:
            for _, place in item.inputs:
                used(place.memory, at)
            at += 1
    for guard in state.recorder.guards:
        used(guard.place.memory, at)
    numbers = list(born)
    starts, total = places_of([(state.recorder.sizes[n], born[n], died[n]) for n in numbers])
    return dict(zip(numbers, starts, strict=True)), total
