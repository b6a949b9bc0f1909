"""An imported network: named values, nodes that compute them with our ops, run in order with each value dropped after its last use.

A Graph is data (nodes, stored arrays, inputs, outputs) and one way to run it. Importers (io.onnx, io.caffe) build it,
passes (`passes`) rewrite it, exporters read it. A node names its op by a word of the registry OPS; the function behind
it takes arrays or Tensors, so that a Graph differentiates as any other composition of ops does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from preimage.autograd import Tensor, is_grad_enabled
from preimage.engines import PreparedWeight
from preimage.engines.base import supported_dtype
from preimage.engines.buffers import Arenas
from preimage.errors import GraphError, ShapeError
from preimage.floating_point import in_standard_mode
from preimage.io import limits
from preimage.io.graph.by_program import StoredArrays, run_by_program
from preimage.io.graph.calls import CONTRACTIONS, NodeCall
from preimage.io.graph.changes import Changes
from preimage.io.graph.inlining import deciding_inputs
from preimage.io.graph.nodes import Input, Node, Step, Values, last_uses, ordered
from preimage.io.graph.operation import check, operation
from preimage.io.graph.program import Program, RunNode
from preimage.io.graph.programs import Programs, mark_of_now, program_key
from preimage.nn import Module, Parameter
from preimage.nn.kept import KeptWeight
from preimage.settings import Settings, current

__all__ = ["Graph"]

Value = Any  # an ndarray or a Tensor


class Graph(Module):
    """A network as a DAG of named values.

    parameters are trained (they keep the file's names), buffers are stored state that is not (running statistics),
    constants belong to the structure. All three are values that nodes may take by name. `updates` maps a buffer to the value that
    replaces it after a run in training mode. `unused`: inputs that the file declares and nothing takes; they may be fed, and need not.
    `declared`: the shapes that the file says of outputs; nothing relies on them but what is written again.

    Raises: GraphError if a value is made twice, a node takes a value that nothing makes, the nodes form a cycle or an
    op is not registered (all such nodes in one message).
    """

    _own_kinds = True  # its run plans the memory of arrays

    def __init__(
        self,
        nodes: Iterable[Node],
        inputs: Sequence[Input],
        outputs: Sequence[str],
        parameters: Mapping[str, Any] | None = None,
        buffers: Mapping[str, Any] | None = None,
        constants: Mapping[str, Any] | None = None,
        updates: Mapping[str, str] | None = None,
        name: str = "",
        unused: Iterable[str] = (),
        declared: Mapping[str, Sequence[int | str | None]] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.unused, self.declared = name, frozenset(unused), dict(declared or {})
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.constants: dict[str, Any] = {key: np.asarray(value) for key, value in (constants or {}).items()}
        self.updates = dict(updates or {})
        self.changes = Changes()
        given = [*(item.name for item in self.inputs), *(parameters or {}), *(buffers or {}), *self.constants]
        self.nodes = ordered(tuple(nodes), given, self.outputs)
        self._made = frozenset(key for node in self.nodes for key in node.outputs)
        self._calls = {node.outputs: NodeCall(node) for node in self.nodes if node.op in CONTRACTIONS}
        self._kept: dict[str, KeptWeight] = {}
        self._arenas = Arenas()
        self.known_programs = Programs()  #: what is known of programs of its runs
        self.stored_arrays = StoredArrays()
        self._passed: dict[tuple[str, ...], tuple[Any, ...]] = {}
        self._metered: set[Any] = set()
        self.graphs = {
            f"{node.name}.{key}": g for node in self.nodes for key, g in node.attributes.items() if isinstance(g, Graph)
        }
        # The file's names may hold dots, or be those of attributes, so they go into Module's tables directly.
        self._modules.update(self.graphs)
        self.deciding = deciding_inputs(self) if self.graphs else frozenset()
        inside: list[Graph] = [holder for graph in self.graphs.values() for holder in graph.holders]
        self.holders: list[Graph] = [
            self,
            *(graph for graph in inside if graph._parameters or graph._buffers or graph.constants),
        ]
        self._parameters.update({key: _parameter(value) for key, value in (parameters or {}).items()})
        self._buffers.update({key: np.asarray(value) for key, value in (buffers or {}).items()})

    @cached_property
    def _last(self) -> tuple[tuple[str, ...], ...]:
        """What each node uses last; a graph between two passes is never asked."""
        return last_uses(self.nodes)

    @property
    def weights(self) -> dict[str, Any]:
        """The parameters by name."""
        return self._parameters

    @property
    def state(self) -> dict[str, Any]:
        """The buffers by name."""
        return self._buffers

    def forward(self, *inputs: Value, **feeds: Value) -> Any:
        """The outputs (one value, or a tuple) for inputs by position or by name."""
        if len(inputs) > len(self.inputs):
            raise ShapeError(f"graph {self.name!r} takes {len(self.inputs)} inputs, got {len(inputs)}")
        named = {item.name: value for item, value in zip(self.inputs, inputs, strict=False)} | feeds
        found = self.run(named)
        values = tuple(found[key] for key in self.outputs)
        return values[0] if len(values) == 1 else values

    def run(
        self,
        feeds: Mapping[str, Value],
        fetch: Sequence[str] | None = None,
        *,
        steps: list[Step] | None = None,
    ) -> dict[str, Value]:
        """The values named in `fetch` (default: the outputs); every other value is dropped after its last use.

        Recording (grad enabled) uses the parameters as Tensors and gives Tensors; otherwise arrays give arrays. `steps` receives one Step
        for each node. What takes more memory, work or time than
        io.limits allows is refused, where it can be foreseen.
        """
        names = self.outputs if fetch is None else tuple(fetch)
        found = None if steps is not None else self.again(feeds, names, current())
        return self._run(feeds, names, steps) if found is None else found

    def again(self, feeds: Mapping[str, Value], names: Sequence[str], settings: Settings) -> dict[str, Value] | None:
        """The values by the program of the latest run, where this one is like it; else None. Little is looked at, so that it takes little time."""
        if self.training or not self.stored_arrays.are_fixed(self):
            return None
        return self.known_programs.again(feeds, names, settings)

    @in_standard_mode
    @np.errstate(all="ignore")
    def _run(self, feeds: Mapping[str, Value], names: Sequence[str], steps: list[Step] | None) -> dict[str, Value]:
        wanted = set(names)
        values = self._start(feeds)
        if missing := [key for key in wanted if key not in values and key not in self._made]:
            raise GraphError(f"graph {self.name!r} has no value {missing[0]!r}")
        differentiated = any(isinstance(value, Tensor) for value in values.values())
        run_key = (
            None if differentiated else program_key({item.name: values[item.name] for item in self.inputs}, wanted, self.deciding)
        )
        shapes = tuple((a.shape, a.dtype.char) for a in (_array(values[item.name]) for item in self.inputs))
        like = (shapes, frozenset(wanted), current())  # runs that are alike: they need the same memory, and pass the same limits
        key = (like if run_key is None else run_key.key, differentiated)
        if steps is None and not differentiated and not limits.is_metered():
            passed = limits.has_passed(self._metered, key)
            if (found := run_by_program(self, values, names, run_key, passed)) is not None:
                return found
        with limits.metered(
            self._metered, key, self._stored_bytes, always=bool(self.graphs)
        ) as meter:  # bodies run as values say
            if differentiated:  # what a gradient needs outlives the run: nothing to plan
                return self._sweep(values, wanted, steps, meter)
            with self._arenas.arena(like):
                return self._sweep(values, wanted, steps, meter)

    def use_programs(self, programs: Programs) -> None:
        """Take over what is known of this graph's programs, in memory and on disk. Its stored arrays are those that they were recorded with."""
        self.known_programs = programs
        self.stored_arrays.are_fixed(self)

    def runner(self, values: Mapping[str, Value]) -> RunNode:
        """How one node is run: on its inputs' values, by name."""
        mark, weights = mark_of_now(), self._weights(values)
        return lambda node, given: self._step(node, given, None, mark, weights)

    def run_parts(self, values: Mapping[str, Value], wanted: Iterable[str]) -> tuple[list[tuple[Node, tuple[str, ...]]], RunNode]:
        """The nodes, each with the values that are not needed after it, and how to run one."""
        dead = [tuple(k for k in names if k not in wanted) for names in self._last]
        return list(zip(self.nodes, dead, strict=True)), self.runner(values)

    def parts(self, feeds: Mapping[str, Value]) -> tuple[dict[str, Value], list[tuple[Node, tuple[str, ...]]], RunNode]:
        """For who runs the nodes one by one: the values to begin with, the nodes with what is not needed after each, and how to run one."""
        values = self._start(feeds)
        return values, *self.run_parts(values, self.outputs)

    @property
    def buffer_bytes(self) -> int:
        """Memory that is kept between runs for intermediate values."""
        return self._arenas.bytes + self.known_programs.bytes

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that are kept: one for each set of shapes and settings, the latest last."""
        return tuple(self.known_programs.kept)

    @property
    def why_no_program(self) -> str | None:
        """Why the latest run was no program's; None where it was one."""
        return self.known_programs.last

    @property
    def packed_bytes(self) -> int:
        """Memory held to run contractions without packing: a copy of their weights and the packed forms."""
        return sum(kept.packed_bytes for kept in self._kept.values())

    def release(self) -> None:
        """Give up the memory that is kept for later runs: buffers and packed weights."""
        self._arenas.clear()
        self.known_programs.clear()
        self._kept = {}

    def _stored_bytes(self) -> int:
        return sum(int(_array(v).nbytes) for table in (self.weights, self.state, self.constants) for v in table.values())

    def _sweep(
        self, values: dict[str, Value], wanted: set[str], steps: list[Step] | None, meter: limits.Meter | None
    ) -> dict[str, Value]:
        """Run every node, in order."""
        kept = {key: values[key] for key in wanted if key in values}
        fresh: dict[str, Value] = {}
        renewed = {value: key for key, value in self.updates.items()} if self.training else {}
        mark, weights, end = mark_of_now(), self._weights(values), limits.deadline()
        for node, dead in zip(self.nodes, self._last, strict=True):
            if end is not None:
                limits.check_deadline(end, f"node {node.name!r} ({node.op})")
            made = self._step(node, values, steps, mark, weights)
            if meter is not None:
                meter.made(made, f"node {node.name!r} ({node.op})")
            for key, value in made.items():
                if key in wanted:
                    kept[key] = value
                if key in renewed:
                    fresh[renewed[key]] = value
            values |= made
            del made
            for key in dead:
                values.pop(key, None)
                if meter is not None and key not in wanted:
                    meter.dropped(key)
        self._renew(fresh)
        return kept

    def extra_repr(self) -> str:
        """Its name, how many nodes it has, and what goes in and comes out."""
        name = f"{self.name!r}, " if self.name else ""
        inputs = ", ".join(f"{item.name}: {item.shape or 'any shape'}" for item in self.inputs)
        return f"{name}{len(self.nodes)} nodes, ({inputs}) -> {', '.join(self.outputs)}"

    def _weights(self, values: Mapping[str, Value]) -> dict[str, PreparedWeight]:
        """Weights of contractions, packed by an earlier run while they have not changed."""
        found: dict[str, PreparedWeight] = {}
        for call in self._calls.values():
            key = call.node.inputs[1]
            value = values.get(key)
            if key in found or not isinstance(value, np.ndarray) or value.ndim < 2 or not supported_dtype(value.dtype):
                continue
            kept = self._kept.get(key)
            if kept is None:
                kept = self._kept[key] = KeptWeight()
            found[key] = kept.of(value)
        return found

    @in_standard_mode
    @np.errstate(all="ignore")
    def run_nodes(self, nodes: Sequence[Node], values: Mapping[str, Value]) -> dict[str, Value]:
        """Run some of the nodes on given values; gives every value that they make."""
        known = self._stored() | dict(values)
        made: dict[str, Value] = {}
        mark: tuple[Any, ...] = mark_of_now()
        for node in nodes:
            fresh = self._step(node, known, None, mark, {})
            known |= fresh
            made |= fresh
        if self.training:
            self._renew({key: made[value] for key, value in self.updates.items() if value in made})
        return made

    def _step(
        self, node: Node, values: Mapping[str, Value], steps: list[Step] | None, mark: tuple[Any, ...],
        weights: Mapping[str, PreparedWeight],
    ) -> dict[str, Value]:  # fmt: skip
        """One node: its outputs by name."""
        arguments = [values[key] if key else None for key in node.inputs]
        start = time.perf_counter_ns() if steps is not None else 0
        call = self._calls.get(node.outputs)
        try:
            result = None if call is None else call(arguments, weights.get(node.inputs[1]), mark)
        except MemoryError:  # the operation needs less than the bound call, or says in our words that it cannot run
            result = None
        made = (result,) if result is not None else self._operation(node, arguments)
        if steps is not None:
            elapsed = time.perf_counter_ns() - start
            shapes = tuple(tuple(np.shape(_array(v))) for v in made)
            steps.append(Step(node, shapes, elapsed, sum(_array(v).nbytes for v in made)))
        named = {key: value for key, value in zip(node.outputs, made, strict=False) if key}
        if any(value is None for value in named.values()):
            raise GraphError(f"node {node.name!r} ({node.op}) gives no value: an input that it needs is absent")
        return named

    def _operation(self, node: Node, arguments: list[Value]) -> tuple[Value, ...]:
        """One node by its registered function."""
        mark = (limits.current(), *(getattr(v, "shape", None) for v in arguments))
        if self._passed.get(node.outputs) != mark:  # the same shapes need no second look
            check(node, arguments)
            self._passed[node.outputs] = mark
        return operation(node, arguments, self.training)

    def _renew(self, fresh: Mapping[str, Value]) -> None:
        for key, value in fresh.items():
            np.copyto(self.state[key], _array(value))

    def _stored(self) -> dict[str, Value]:
        record = is_grad_enabled()
        values: dict[str, Value] = {key: p if record and p.requires_grad else p.data for key, p in self.weights.items()}
        return values | self.state | self.constants

    def _start(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        values = self._stored()
        for item in self.inputs:
            if item.name not in feeds:
                raise ShapeError(f"input {item.name!r} of shape {item.shape} was not given")
            value = feeds[item.name]
            shape = np.shape(_array(value))
            fits = item.shape is None or (
                len(shape) == len(item.shape)
                and all(not isinstance(w, int) or w == s for w, s in zip(item.shape, shape, strict=True))
            )
            if not fits:
                raise ShapeError(f"input {item.name!r} has shape {shape}, wanted {item.shape}")
            values[item.name] = value
        if unknown := [key for key in feeds if key not in self.unused and key not in {item.name for item in self.inputs}]:
            raise ShapeError(f"graph {self.name!r} has no input {unknown[0]!r}; its inputs: {[i.name for i in self.inputs]}")
        return values

    def astype(self, dtype: Any) -> Graph:
        """All parameters, float buffers and float constants in another float dtype."""
        super().astype(dtype)
        for graph in self.graphs.values():
            graph.astype(dtype)
        self.constants = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in self.constants.items()}
        return self

    def replaced(self, **changes: Any) -> Graph:
        """The same graph with some of its pieces exchanged; parameters that stay are shared, not copied."""
        pieces: dict[str, Any] = {
            "nodes": self.nodes,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "parameters": self.weights,
            "buffers": self.state,
            "constants": self.constants,
            "updates": self.updates,
            "name": self.name,
            "unused": self.unused,
            "declared": self.declared,
        }
        out = Graph(**(pieces | changes))
        out.train(self.training)
        out.changes = self.changes.copy()
        return out

    def noted(self, changes: Mapping[str, int]) -> Graph:
        """This graph, with what a pass changed added to `changes`: a name for each kind of change, and how often it was made."""
        for name, count in changes.items():
            self.changes[name] = self.changes.get(name, 0) + count
        return self


def _parameter(value: Any) -> Parameter:
    return value if isinstance(value, Parameter) else Parameter(np.array(value))


def _array(value: Value) -> Any:
    if isinstance(value, Values):
        return value
    return value.data if isinstance(value, Tensor) else np.asarray(value)
