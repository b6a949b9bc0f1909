"""Dequantising and quantising as steps of the elementwise nodes between them: one pass over memory that reads and writes bytes.

    q -> DequantizeLinear -> gelu -> QuantizeLinear -> q'        three passes become one

Scales and zero points must be single stored numbers. Every step rounds as the operators do, so the bits are theirs. Before that, reshapes and
transpositions of what was dequantised become those of the integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.engines import around
from preimage.io.graph.calls import compiled_steps
from preimage.io.graph.graph import Graph
from preimage.io.graph.nodes import OPS, Node, graph_op, users_of
from preimage.io.graph.pointwise import Step, one_by_one, steps_of
from preimage.io.graph.simplify import pruned, stored_in
from preimage.io.graph.types import Types, graph_types

__all__ = ["join_quantising"]

_BYTES = ("int8", "uint8")
#: Words that move the elements of their first input, of any dtype.
_MOVES = frozenset(("reshape", "transpose", "onnx.Transpose", "onnx.Reshape", "flatten", "onnx.Squeeze", "onnx.Unsqueeze"))


def _types(attributes: Mapping[str, Any], inputs: Types) -> Types:
    return (str(attributes["dtype"]),)


@graph_op("quantised_pointwise", types=_types)
def quantised_pointwise(*values: Any, steps: Sequence[Step], dtype: str, whole: Sequence[int] = ()) -> Any:
    """Elementwise steps in float32 of floats and 8-bit integers (`whole`: their positions), as `dtype`: float32, int8 or uint8."""
    arrays = [np.asarray(value) for value in values]
    words, numbers = compiled_steps(steps, len(arrays))
    made = around.mixed(arrays, words, np.float32, dtype, numbers)
    if made is not None:
        return made
    found = np.asarray(one_by_one([a.astype(np.float32) for a in arrays], steps))
    return found if dtype == "float32" else np.nan_to_num(found).astype(dtype)


class _Join:
    """One node and the quantising around it, as steps."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.whole: list[int] = []
        self.steps: list[Step] = []

    def place(self, key: str, whole: bool = False) -> int:
        if key not in self.inputs:
            self.inputs.append(key)
            if whole:
                self.whole.append(len(self.inputs) - 1)
        return self.inputs.index(key)

    def step(self, word: str, *at: int, **attributes: Any) -> int:
        self.steps.append((word, at, attributes))
        return -len(self.steps)

    def dequantise(self, node: Node) -> int:
        value = self.place(node.inputs[0], True)
        if len(node.inputs) > 2 and node.inputs[2]:
            value = self.step("sub", value, self.place(node.inputs[2], True))
        return self.step("mul", value, self.place(node.inputs[1]))

    def quantise(self, value: int, node: Node, dtype: str) -> None:
        value = self.step("onnx.Round", self.step("div", value, self.place(node.inputs[1])))
        if len(node.inputs) > 2 and node.inputs[2]:
            value = self.step("add", value, self.place(node.inputs[2], True))
        span = np.iinfo(dtype)
        self.step("clip", value, lo=float(span.min), hi=float(span.max))


class _Search:
    """A graph's quantising nodes, by the values that they make and take."""

    def __init__(self, graph: Graph) -> None:
        self.stored, self.types = stored_in(graph), graph_types(graph, OPS)
        self.users, self.outputs = users_of(graph.nodes), frozenset(graph.outputs)
        self.makers = {key: node for node in graph.nodes for key in node.outputs}

    def single(self, node: Node | None, op: str, at: int) -> bool:
        """Whether a node is this operator between float32 and 8 bits, with one stored number for scale and zero point."""
        if node is None or node.op != f"onnx.{op}" or node.attributes.get("block_size") or node.attributes.get("output_dtype"):
            return False
        scale, zero = (self.stored.get(key) for key in (*node.inputs, "", "")[1:3])
        whole = node.outputs[0] if at else node.inputs[0]
        plain = scale is not None and scale.size == 1 and scale.dtype == np.float32 and scale.ndim <= 1
        return plain and self.types.get(whole) in _BYTES and (zero is None) == (len(node.inputs) < 3 or not node.inputs[2])

    def same_numbers(self, before: Node, after: Node) -> bool:
        """Whether quantising undoes dequantising: with the same scale, of an ordinary size, zero point and type the integers come back."""
        scale = float(np.abs(self.stored[before.inputs[1]]).reshape(-1)[0])
        pairs = [[self.stored.get(key) for key in (*node.inputs, "", "")[1:3]] for node in (before, after)]
        same = all(
            (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
            for a, b in zip(*pairs, strict=True)
        )
        return same and 1e-30 < scale < 1e30 and self.types.get(before.inputs[0]) == self.types.get(after.outputs[0])

    def dequantiser(self, key: str) -> Node | None:
        node = self.makers.get(key)
        return node if self.single(node, "DequantizeLinear", 0) else None

    def quantiser(self, key: str) -> Node | None:
        """The only node that takes a value, if it quantises it."""
        users = self.users.get(key, ())
        if len(users) != 1 or key in self.outputs or users[0].inputs[0] != key:
            return None
        return users[0] if self.single(users[0], "QuantizeLinear", 1) else None


def join_quantising(graph: Graph) -> Graph:
    """The graph with dequantising and quantising as steps of elementwise nodes, and of one another."""
    if not any(node.op in ("onnx.QuantizeLinear", "onnx.DequantizeLinear") for node in graph.nodes):
        return graph
    graph = _moved_as_integers(graph)
    search = _Search(graph)
    made: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph.nodes:
        joined = _joined(search, node)
        if joined is not None:
            made[joined.name] = joined
            gone |= {node.name} - {joined.name}
    if not made:
        return graph
    nodes = [made.get(node.name, node) for node in graph.nodes if node.name not in gone]
    return pruned(graph, _without_idle(nodes, search.outputs), graph.constants, {"quantising as steps": len(made)})


def _joined(search: _Search, node: Node) -> Node | None:
    """An elementwise node, or one that quantises what was dequantised, with the quantising around it; under the name of the last node of them."""
    steps = steps_of(node)
    join = _Join()
    if steps is None:
        maker = search.dequantiser(node.inputs[0]) if node.inputs else None
        after: Node | None = node
        if maker is None or not search.single(node, "QuantizeLinear", 1):
            return None
        if search.same_numbers(maker, node):
            return Node(node.name, "identity", maker.inputs[:1], node.outputs, {}, node.layer)
        value = join.dequantise(maker)
    else:
        names = list(dict.fromkeys(node.inputs)) if node.op != "pointwise" else list(node.inputs)
        before, after = [search.dequantiser(key) for key in names], search.quantiser(node.outputs[0])
        floats = all(search.types.get(key) == "float32" for key in names)
        if not floats or (after is None and not any(before)):
            return None
        places = [join.place(key) if maker is None else join.dequantise(maker) for key, maker in zip(names, before, strict=True)]
        first = len(join.steps)
        for word, at, attributes in steps:
            join.step(word, *[places[k] if k >= 0 else k - first for k in at], **attributes)
        value = -len(join.steps)
    dtype = "float32"
    if after is not None:
        dtype = str(search.types[after.outputs[0]])
        join.quantise(value, after, dtype)
    last = node if after is None else after
    attributes = {"steps": tuple(join.steps), "dtype": dtype, "whole": tuple(join.whole)}
    return Node(last.name, "quantised_pointwise", tuple(join.inputs), last.outputs, attributes, last.layer)


def _moved_as_integers(graph: Graph) -> Graph:
    """The graph with reshapes and transpositions of dequantised values before the dequantising."""
    search = _Search(graph)
    nodes: list[Node] = []
    before: dict[str, Node] = {}  # the nodes that dequantise, by what they make
    for node in graph.nodes:
        if search.single(node, "DequantizeLinear", 0):
            before[node.outputs[0]] = node
        maker = before.get(node.inputs[0]) if node.inputs and node.op in _MOVES else None
        if maker is None:
            nodes.append(node)
            continue
        integers = f"{node.outputs[0]}//integers"
        nodes.append(replace(node, inputs=(maker.inputs[0], *node.inputs[1:]), outputs=(integers,)))
        after = replace(maker, name=f"{maker.name} of {node.name}", inputs=(integers, *maker.inputs[1:]), outputs=node.outputs)
        before[node.outputs[0]] = after
        nodes.append(after)
    return graph.replaced(nodes=_without_idle(nodes, search.outputs))


def _without_idle(nodes: Sequence[Node], outputs: frozenset[str]) -> list[Node]:
    """The nodes without those that dequantise for nobody."""
    taken = {key for node in nodes for key in node.inputs} | outputs
    return [node for node in nodes if node.op != "onnx.DequantizeLinear" or node.outputs[0] in taken]
