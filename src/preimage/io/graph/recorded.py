"""Recording one run of a graph: which kernels its nodes launch, which nodes stay functions, and where every value lies.

What does not depend on the inputs' values is computed while recording and never again: shapes, and whatever is made of shapes and stored
arrays. Branches and loops whose conditions are so are part of it (`inlining.py`). A node whose values are not made by kernels alone, or may not be
(`words.py`), stays a function. `program.py` runs what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.engines.buffers import places_of
from preimage.engines.recording import Place, Recorder, Step
from preimage.io.graph.inlining import UndecidedError, inlining
from preimage.io.graph.memory import dense
from preimage.io.graph.program import WORKSPACE, Function, Layout, Program, RefusedError, RunNode
from preimage.io.graph.words import may_record, only_shapes, runs_graphs, same_order

if TYPE_CHECKING:
    from preimage.io.graph.graph import Graph
    from preimage.io.graph.nodes import Node

__all__ = ["program_of", "record"]

#: What a program may keep of values that do not depend on its inputs.
MOST_STATIC_BYTES = 64 << 20
#: Nodes of branches and bodies that become part of one.
MOST_INLINED = 1 << 14


class Recording:
    """The state of one recorded run."""

    def __init__(self, feeds: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        self.recorder = Recorder()
        self.values: dict[str, Any] = dict(stored)
        self.items: list[list[Step] | Function] = []
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
        self.items.append(Function(node, tuple(inputs), fixed, tuple(results), why, self._run_inside))
        return known


def record(
    nodes: Sequence[tuple[Node, Sequence[str]]], feeds: Mapping[str, Any], stored: Mapping[str, Any], wanted: Sequence[str], run: RunNode
) -> tuple[dict[str, Any], Recording]:  # fmt: skip
    """Run the nodes once, writing down what they launch: the wanted values, and what was written down.

    nodes: each with the values that nothing after it takes.
    """
    state = Recording(feeds, stored)
    return state.walk(nodes, wanted, run), state


def program_of(state: Recording, kept: Mapping[str, Any], make_ready: Callable[..., Any]) -> Program:
    """What was recorded, with its memory planned. Raises: RefusedError where it cannot be run again."""
    recorder = state.recorder
    if not any(isinstance(item, list) for item in state.items):
        raise RefusedError("no node is made of kernels alone")
    results: list[tuple[str, Place]] = []
    static: list[tuple[str, Any]] = []
    for key, value in kept.items():
        place = recorder.place_of(value) if key in state.moving else None
        if place is None:
            static.append((key, value))
        else:
            results.append((key, place))
    own = dict.fromkeys(p.memory for _, p in results if p.memory not in state.by_functions and p.memory not in state.given)
    outer = {number: k + 1 for k, number in enumerate([*state.given, *state.by_functions, *own])}
    starts, planned = _plan(state, set(outer))
    places = {number: (k, 0) for number, k in outer.items()}
    places |= {number: (WORKSPACE, at) for number, at in starts.items()}

    def moved(place: Place) -> Place:
        number, at = places[place.memory]
        return replace(place, memory=number, offset=at + place.offset)

    def all_moved(pairs: Iterable[tuple[str, Place]]) -> tuple[tuple[str, Place], ...]:
        return tuple([(key, moved(place)) for key, place in pairs])

    items: list[Any] = []
    for item in state.items:
        if isinstance(item, list):
            items.append(make_ready(item, places))
        else:
            items.append(item._replace(inputs=all_moved(item.inputs), results=all_moved(item.results)))
    layout = Layout(
        planned, len(outer), tuple([(name, outer[number]) for number, name in state.given.items()]),
        tuple([(outer[number], recorder.sizes[number]) for number in own]), all_moved(results),
        tuple([guard._replace(place=moved(guard.place)) for guard in recorder.guards]), tuple(static),
    )  # fmt: skip
    return Program(layout, items)


def _plan(state: Recording, outer: set[int]) -> tuple[dict[int, int], int]:
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
