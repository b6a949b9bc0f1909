"""What a Graph is made of: the registry of ops, inputs, nodes, and the order in which nodes can run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, SupportsFloat, SupportsIndex, TypeVar, cast

import numpy as np

from preimage.autograd import array_of
from preimage.errors import GraphError
from preimage.geometry import Padding, PaddingWord, PerAxis, normalise_padding, per_axis
from preimage.geometry.sizes import Pairs
from preimage.io.graph.types import LIKE_FIRST, TypeRule
from preimage.records import record

__all__ = ["OPS", "Input", "Node", "Op", "Step", "Values", "graph_op", "last_uses", "ordered", "repeatable", "users_of"]


class Values(list[Any]):
    """A sequence as one value of a graph: arrays or Tensors, each of a shape of its own. Operations make new ones and change none."""

    dtype = np.dtype(object)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many there are."""
        return (len(self),)

    @property
    def ndim(self) -> int:
        """A sequence has one axis."""
        return 1

    @property
    def nbytes(self) -> int:
        """The bytes of all."""
        return sum(int(array_of(value).nbytes) for value in self)

    @property
    def size(self) -> int:
        """The elements of all."""
        return sum(int(array_of(value).size) for value in self)


T = TypeVar("T")


@record
class Op:
    """A registered function: `function(*inputs, **attributes)` gives the value, or a tuple of them where `outputs` > 1.

    `stateful`: the function also takes `training`, and its outputs after the first may feed Graph.updates. `types`: the dtypes of
    its results; by default that of the first input.
    """

    name: str
    function: Callable[..., Any]
    stateful: bool = False
    types: TypeRule = LIKE_FIRST


OPS: dict[str, Op] = {}


def graph_op(
    name: str, *, stateful: bool = False, types: TypeRule | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the op `name` of graphs: the decorator of every row in `ops` and in the importers."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if name in OPS:
            raise GraphError(f"graph op {name!r} is registered already")
        OPS[name] = Op(name, function, stateful, types or LIKE_FIRST)
        return function

    return register


@record
class Input:
    """An input of a graph: its name, and its shape with None (or a name) where a size is open; None for any shape.

    `example`: sizes that the file names without insisting on them, as every Caffe net does. `declared`: the file's shape, where sizes that it fixes
    were opened.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    dtype: str = "float32"
    example: tuple[int, ...] | None = None
    declared: tuple[int | str | None, ...] | None = None


@record
class Node:
    """One step: `outputs = op(inputs, **attributes)`. Inputs and outputs are value names; "" is an absent optional input.

    `layer` is the name that the file gives to what the node belongs to: a layer may need several nodes.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object] = field(default_factory=dict)
    layer: str = ""

    # -- attributes by their types: GraphError for one of another type, and for a missing one without a default

    def _read(self, key: str, default: T | None, wanted: str, read: Callable[[object], T]) -> T:
        if key not in self.attributes or (self.attributes[key] is None and default is not None):
            if default is None:
                raise GraphError(f"node {self.name!r} ({self.op}) has no attribute {key!r}; {wanted} is wanted")
            return default
        value = self.attributes[key]
        try:
            return read(value)
        except (TypeError, ValueError):
            raise GraphError(f"node {self.name!r} ({self.op}): {key} must be {wanted}, got {value!r:.100}") from None

    def number(self, key: str, default: float | None = None) -> float:
        """An attribute that is a real number."""
        return self._read(key, default, "a number", _number)

    def integer(self, key: str, default: int | None = None) -> int:
        """An attribute that is an integer."""
        return self._read(key, default, "an integer", _integer)

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An attribute that is a list of integers; one integer is a list of one."""
        return self._read(key, default, "a list of integers", _integers)

    def numbers(self, key: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """An attribute that is a list of real numbers; one number is a list of one."""
        return self._read(key, default, "a list of numbers", _numbers)

    def per_axis(self, key: str, ndim: int, default: int = 1, least: int = 1) -> tuple[int, ...]:
        """An attribute that is one integer, or one for each of so many spatial axes."""
        return self._read(
            key, (default,) * ndim, f"an integer, or {ndim} of them", lambda v: per_axis(cast(PerAxis, v), ndim, key, least)
        )

    def padding(self, ndim: int) -> Pairs | PaddingWord:
        """The padding of so many spatial axes: pairs, or a word."""
        none: Pairs = ((0, 0),) * ndim
        return self._read("padding", none, "numbers, pairs or a word", lambda v: normalise_padding(cast(Padding, v), ndim))

    def words(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """An attribute that is a list of words."""
        return self._read(key, default, "a list of words", lambda v: tuple(_word(w) for w in cast(Sequence[object], v)))

    def held(self, key: str, kind: type[T]) -> T:
        """An attribute that is an object of this class: a graph, a layer of the caller's."""
        value = self.attributes.get(key)
        if not isinstance(value, kind):
            raise GraphError(f"node {self.name!r} ({self.op}): {key} must be a {kind.__name__}, got {value!r:.100}")
        return value

    def flag(self, key: str, default: bool | None = False) -> bool:
        """An attribute that is True or False, or 1 or 0 as files say it."""
        return self._read(key, default, "True or False", _flag)

    def word(self, key: str, default: str | None = None) -> str:
        """An attribute that is text."""
        return self._read(key, default, "a word", _word)


def repeatable(node: Node) -> bool:
    """Whether a node gives the same whenever it is run."""
    name = node.op.removeprefix("onnx.")
    return not (OPS[node.op].stateful or name.startswith(("Random", "Bernoulli", "Multinomial", "dummy_data")))


def _number(value: object) -> float:
    if isinstance(value, str | bytes | bool | np.bool_) or np.ndim(cast(Any, value)):
        raise TypeError
    return float(cast(SupportsFloat, value))


def _integer(value: object) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError
    return operator.index(cast(SupportsIndex, value))


def _integers(value: object) -> tuple[int, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(_integer(v) for v in value) if isinstance(value, list | tuple) else (_integer(value),)


def _numbers(value: object) -> tuple[float, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(_number(v) for v in value) if isinstance(value, list | tuple) else (_number(value),)


def _flag(value: object) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if (number := _integer(value)) not in (0, 1):
        raise ValueError
    return bool(number)


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


@record
class Step:
    """What running one node was like: for `--profile` and `info`."""

    node: Node
    shapes: tuple[tuple[int, ...], ...]
    time_ns: int
    output_bytes: int


def ordered(nodes: tuple[Node, ...], given: Sequence[str], outputs: Sequence[str]) -> tuple[Node, ...]:
    """The nodes in an order in which every value is made before it is used; the given order where it will do."""
    _check_names(nodes, given, outputs)
    maker = {key: index for index, node in enumerate(nodes) for key in node.outputs if key}
    needs = [{maker[key] for key in node.inputs if key in maker} for node in nodes]
    if all(max(before, default=-1) < index for index, before in enumerate(needs)):
        return nodes
    users: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(needs):
        for other in before:
            users[other].append(index)
    ready = [index for index, before in enumerate(needs) if not before]
    left = [len(before) for before in needs]
    order: list[int] = []
    while ready:
        order.append(index := ready.pop())
        for user in reversed(users[index]):
            left[user] -= 1
            if not left[user]:
                ready.append(user)
    if len(order) < len(nodes):
        stuck = [node.name for node, count in zip(nodes, left, strict=True) if count]
        raise GraphError(f"the nodes form a cycle: {', '.join(stuck[:8])}{' ...' if len(stuck) > 8 else ''}")
    return tuple(nodes[index] for index in order)


def _check_names(nodes: Sequence[Node], given: Sequence[str], outputs: Sequence[str]) -> None:
    known: set[str] = set()
    for key in (*given, *(key for node in nodes for key in node.outputs if key)):
        if key in known:
            raise GraphError(f"value {key!r} is made twice")
        known.add(key)
    for node in nodes:
        for key in node.inputs:
            if key and key not in known:
                raise GraphError(f"node {node.name!r} ({node.op}) takes {key!r}, which nothing makes")
    for key in outputs:
        if key not in known:
            raise GraphError(f"output {key!r} is made by nothing")
    if strangers := [f"{node.name!r} ({node.op})" for node in nodes if node.op not in OPS]:
        raise GraphError(f"{len(strangers)} nodes have an op that is not supported: {', '.join(strangers)}")


def users_of(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """The nodes that take each value, each once, in order."""
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for key in dict.fromkeys(node.inputs):
            users.setdefault(key, []).append(node)
    return users


def last_uses(nodes: Sequence[Node]) -> tuple[tuple[str, ...], ...]:
    """For each node, the values that nothing after it takes (its own outputs too, where nobody takes them)."""
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        last |= dict.fromkeys((key for key in (*node.inputs, *node.outputs) if key), index)
    dead: list[list[str]] = [[] for _ in nodes]
    for key, index in last.items():
        dead[index].append(key)
    return tuple(map(tuple, dead))
