"""A network as the list of operations that it really runs: what every analysis of a whole net starts from.

The net is run once, in evaluation mode, on Tensors that record, and every operation is written down with the values that it
takes and makes. So any composition of operations can be analysed: modules, functions, imported graphs. What leaves the
Tensors on the way (indices, sorting, a step in plain NumPy) is listed in `gaps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import Primitive, Spec, Tensor, enable_grad, is_tensor, observe
from preimage.errors import OptionError, ShapeError
from preimage.nn import Module, Sequential

__all__ = ["Call", "GraphLike", "Record", "Value", "record"]

Array = NDArray[Any]


@runtime_checkable
class GraphLike(Protocol):
    """What is read of an imported graph (io.graph.Graph): its nodes, its inputs and outputs, and a run that gives named values."""

    nodes: Any
    inputs: Any
    outputs: Any

    def run(self, feeds: Mapping[str, Any], fetch: Any = None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Value:
    """One array of the run. kind: "input", "parameter", "constant" or "made"; storage: values with one number share memory.

    depends: whether it depends on an input.
    """

    number: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str
    storage: int
    depends: bool
    name: str = ""

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@dataclass(slots=True)
class Call:
    """One operation: `arguments` holds the number of a value for each argument that is a Tensor, else None.

    specs: shape and dtype of every array argument, the argument itself where it is none.
    """

    op: Primitive
    arguments: tuple[int | None, ...]
    specs: tuple[Any, ...]
    params: dict[str, Any]
    result: int
    name: str = ""


@dataclass
class Record:
    """The run: values by number, calls in order, inputs and outputs as numbers. gaps: names of nodes that left the Tensors."""

    values: list[Value]
    calls: list[Call]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    gaps: tuple[str, ...] = ()
    parameters: tuple[int, ...] = ()
    tensors: list[Tensor] = field(default_factory=list, repr=False)

    def shape(self, number: int) -> tuple[int, ...]:
        return self.values[number].shape


class _Writer:
    """Writes operations down as they run."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.numbers: dict[int, int] = {}
        self.held: list[Tensor] = []  # alive, so that no id is used twice
        self.storages: dict[int, int] = {}
        self.roots: list[Array] = []
        self.maker: dict[int, int] = {}

    def add(self, tensor: Tensor, kind: str, depends: bool, name: str = "") -> int:
        number = len(self.values)
        root = tensor.data
        while isinstance(root.base, np.ndarray):
            root = root.base
        storage = self.storages.get(id(root))
        if storage is None:
            storage = self.storages[id(root)] = len(self.roots)
            self.roots.append(root)
        self.values.append(Value(number, tensor.shape, tensor.dtype, kind, storage, depends, name))
        self.numbers[id(tensor)] = number
        self.held.append(tensor)
        return number

    def number(self, tensor: Tensor) -> int:
        found = self.numbers.get(id(tensor))
        if found is not None:
            return found
        return self.add(tensor, "parameter" if tensor.requires_grad else "constant", False, tensor.name or "")

    def watch(self, op: Primitive, args: tuple[Any, ...], params: dict[str, Any], result: Any) -> None:
        arguments = tuple(self.number(a) if is_tensor(a) else None for a in args)
        specs = tuple(Spec(a.shape, a.dtype) if isinstance(a, np.ndarray) or is_tensor(a) else a for a in args)
        depends = any(self.values[k].depends for k in arguments if k is not None)
        if id(result) in self.numbers:
            return
        number = self.add(result, "made", depends)
        self.maker[number] = len(self.calls)
        self.calls.append(Call(op, arguments, specs, dict(params), number))

    def label(self, name: str, result: Any, sources: Sequence[Any]) -> None:
        """Give the name to the operations between `sources` and the result."""
        ends = {self.numbers.get(id(s)) for s in sources if is_tensor(s)}
        stack = [self.numbers.get(id(r)) for r in (result if isinstance(result, tuple | list) else (result,)) if is_tensor(r)]
        while stack:
            number = stack.pop()
            if number is None or number in ends or number not in self.maker:
                continue
            call = self.calls[self.maker[number]]
            if not call.name:
                call.name = name
                stack += [k for k in call.arguments if k is not None]


def _inputs(given: Sequence[Any], dtype: Any) -> list[Tensor]:
    """Tensors that record, from shapes (filled with numbers between 0 and 1) or arrays."""
    rng = np.random.default_rng(0)
    made = []
    for item in given:
        if isinstance(item, tuple | list) and all(isinstance(n, int | np.integer) for n in item):
            if any(n < 0 for n in item):
                raise ShapeError(f"an input's shape has no negative sizes, got {tuple(item)}")
            made.append(Tensor(rng.random(tuple(item)).astype(dtype), requires_grad=True))
        else:
            data = np.asarray(item.data if is_tensor(item) else item)
            made.append(Tensor(data, requires_grad=True))
    return made


def record(net: Any, *inputs: Any, dtype: Any = None) -> Record:
    """Run a net once and write down its operations.

    net: a Module, a list of Modules (a chain), an imported Graph, or a function of Tensors. inputs: a shape (N, C, *spatial) or an
    array for each input. dtype: of inputs given by their shapes;
    None: that of the net's first parameter, else float32. Modules are run in evaluation mode and left as they were.

    Raises: OptionError for a net that is none of these, or without inputs.
    """
    if isinstance(net, list | tuple):
        net = Sequential(*net)
    if not callable(net) and not isinstance(net, GraphLike):
        raise OptionError(f"a net is a Module, a list of Modules, a Graph or a function, got {type(net).__name__}")
    if not inputs:
        raise OptionError("say the inputs: a shape such as (1, 3, 224, 224), or an array, for each")
    if dtype is None:
        first = next(iter(net.parameters()), None) if isinstance(net, Module) else None
        dtype = np.float32 if first is None else first.dtype
    given = _inputs(inputs, dtype)
    writer = _Writer()
    for k, tensor in enumerate(given):
        writer.add(tensor, "input", True, f"input {k}" if len(given) > 1 else "input")
    modules = list(net.named_modules()) if isinstance(net, Module) else []
    modes = [(part, part.training) for _, part in modules]
    try:
        if isinstance(net, Module):
            net.eval()
        with enable_grad(), observe(writer.watch):
            if isinstance(net, GraphLike):
                outputs, gaps = _run_graph(net, given, writer)
            else:
                outputs, gaps = _run_module(net, given, writer, modules), ()
    finally:
        for part, training in modes:
            object.__setattr__(part, "training", training)
    ends = tuple(writer.numbers[id(v)] for v in outputs if is_tensor(v) and id(v) in writer.numbers)
    stored = {id(p): p for p in net.parameters()}.values() if isinstance(net, Module) else ()
    numbers = tuple(writer.number(p) for p in stored)
    made = Record(writer.values, writer.calls, tuple(range(len(given))), ends, gaps, numbers)
    made.tensors = writer.held
    return made


def _run_module(net: Any, given: Sequence[Tensor], writer: _Writer, modules: Sequence[tuple[str, Module]]) -> tuple[Any, ...]:
    undo: list[Callable[[], None]] = []
    for name, part in modules:
        if not list(part.named_children()):

            def hook(layer: Any, args: tuple[Any, ...], result: Any, name: str = name) -> None:
                writer.label(name or type(layer).__name__, result, args)

            undo.append(part.register_forward_hook(hook))
    try:
        result = net(*given)
    finally:
        for remove in undo:
            remove()
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _run_graph(net: GraphLike, given: Sequence[Tensor], writer: _Writer) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    names = [item.name for item in net.inputs]
    if len(given) != len(names):
        raise ShapeError(f"the graph takes {len(names)} inputs ({', '.join(names)}), got {len(given)}")
    feeds: dict[str, Any] = {
        item.name: t if str(item.dtype).startswith("float") else t.data.astype(item.dtype)
        for item, t in zip(net.inputs, given, strict=True)
    }
    found = net.run(feeds, fetch=[key for node in net.nodes for key in node.outputs if key]) | feeds
    gaps = []
    tainted: set[str] = set()  # values that depend on an input outside the Tensors
    for node in net.nodes:
        sources = [found.get(key) for key in node.inputs]
        results = [found[key] for key in node.outputs if key in found]
        writer.label(node.name or node.op, tuple(results), sources)
        inside = any(is_tensor(s) and writer.values[writer.numbers[id(s)]].depends for s in sources if id(s) in writer.numbers)
        lost = [k for k in node.outputs if k in found and not is_tensor(found[k])]
        if lost and (inside or any(k in tainted for k in node.inputs)):
            tainted.update(lost)
            if inside and not str(node.op).lower().endswith("shape"):
                gaps.append(node.name or node.op)
    return tuple(found[key] for key in net.outputs if key in found), tuple(gaps)
