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
from preimage.io.graph.lookup import Quantised, QuantisedLookup
from preimage.io.graph.nodes import Node, graph_op
from preimage.io.graph.pointwise import Step, one_by_one, steps_of
from preimage.io.graph.simplify import pruned
from preimage.io.graph.types import Types

__all__ = ["join_quantising"]

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

    def dequantise(self, q: Quantised) -> int:
        value = self.place(q.value, True)
        if q.zero:
            value = self.step("sub", value, self.place(q.zero, True))
        return self.step("mul", value, self.place(q.scale))

    def quantise(self, value: int, q: Quantised) -> None:
        value = self.step("onnx.Round", self.step("div", value, self.place(q.scale)))
        if q.zero:
            value = self.step("add", value, self.place(q.zero, True))
        span = np.iinfo(q.dtype)
        self.step("clip", value, lo=float(span.min), hi=float(span.max))


def _single(q: Quantised | None) -> Quantised | None:
    """A quantised value that has one scale."""
    return q if q is not None and q.scales.size == 1 and q.scales.ndim <= 1 else None


def _undoes(before: Quantised, after: Quantised) -> bool:
    """Whether quantising undoes dequantising: with the same scale, of an ordinary size, zero point and type the integers come back."""
    if before.zeros is None or after.zeros is None:
        same = before.zeros is after.zeros
    else:
        same = np.array_equal(before.zeros, after.zeros)
    scale = float(np.abs(before.scales).reshape(-1)[0])
    return same and np.array_equal(before.scales, after.scales) and 1e-30 < scale < 1e30 and before.dtype == after.dtype


def join_quantising(graph: Graph) -> Graph:
    """The graph with dequantising and quantising as steps of elementwise nodes, and of one another."""
    if not any(node.op in ("onnx.QuantizeLinear", "onnx.DequantizeLinear") for node in graph.nodes):
        return graph
    graph = _moved_as_integers(graph)
    search = QuantisedLookup(graph)
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
    return pruned(graph, _without_idle(nodes, search.kept), graph.constants, {"quantising as steps": len(made)})


def _joined(search: QuantisedLookup, node: Node) -> Node | None:
    """An elementwise node, or one that quantises what was dequantised, with the quantising around it; under the name of the last node of them."""
    steps = steps_of(node)
    join = _Join()
    if steps is None:
        before = _single(search.dequantised(node.inputs[0])) if node.inputs else None
        after = _single(search.said_by(node, "onnx.QuantizeLinear"))
        if before is None or after is None:
            return None
        if _undoes(before, after):
            return Node(node.name, "identity", (before.value,), node.outputs, {}, node.layer)
        value = join.dequantise(before)
    else:
        names = list(dict.fromkeys(node.inputs)) if node.op != "pointwise" else list(node.inputs)
        givers, after = [_single(search.dequantised(key)) for key in names], _single(search.quantised(node.outputs[0]))
        floats = all(search.types.get(key) == "float32" for key in names)
        if not floats or (after is None and not any(givers)):
            return None
        places = [join.place(key) if q is None else join.dequantise(q) for key, q in zip(names, givers, strict=True)]
        first = len(join.steps)
        for word, at, attributes in steps:
            join.step(word, *[places[k] if k >= 0 else k - first for k in at], **attributes)
        value = -len(join.steps)
    if after is not None:
        join.quantise(value, after)
    last, dtype = (node, "float32") if after is None else (after.node, after.dtype)
    attributes = {"steps": tuple(join.steps), "dtype": dtype, "whole": tuple(join.whole)}
    return Node(last.name, "quantised_pointwise", tuple(join.inputs), last.outputs, attributes, last.layer)


def _moved_as_integers(graph: Graph) -> Graph:
    """The graph with reshapes and transpositions of dequantised values before the dequantising."""
    search = QuantisedLookup(graph)
    nodes: list[Node] = []
    before: dict[str, Node] = {}  # the nodes that dequantise, by what they make
    for node in graph.nodes:
        if _single(search.said_by(node, "onnx.DequantizeLinear")) is not None:
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
    return graph.replaced(nodes=_without_idle(nodes, search.kept))


def _without_idle(nodes: Sequence[Node], kept: frozenset[str]) -> list[Node]:
    """The nodes without those that dequantise for nobody."""
    taken = {key for node in nodes for key in node.inputs} | kept
    return [node for node in nodes if node.op != "onnx.DequantizeLinear" or node.outputs[0] in taken]
