"""Transpositions moved behind what does not mind the order of axes, so that those that undo one another meet and go.

Frameworks that have channels last write a transposition before and after every layer. Here each is held back: an elementwise node, a concatenation, a
padding or a reduction of a transposed value is that of the value itself with its axes renamed, transposed afterwards. A transposition of a
transposed value is one; where both undo one another it is none. Whoever minds the order gets the transposed value. The graph is taken only if it has
fewer of them than before. All bits are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import kept_in
from preimage.io.graph.match import word_of
from preimage.io.graph.nodes import Node
from preimage.io.graph.simplify import order_of, pruned

__all__ = ["cancel_transposes"]

_UNARY = frozenset(
    (
        "abs", "exp", "log", "relu", "sigmoid", "softplus", "sqrt", "tanh", "identity", "leaky_relu", "elu", "clip", "swish", "celu", "gelu",
        "hard_sigmoid", "hard_swish", "log_sigmoid", "mish", "neg", "reciprocal", "rsqrt", "selu", "softsign", "square", "erf", "HardSwish", "cast",
        "Elu", "Selu", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Not", "Swish", "Mish", "Gelu", "Softsign",
        "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh",
    )
)  # fmt: skip
_BINARY = frozenset(("add", "sub", "mul", "div", "maximum", "minimum", "pow", "where", "Equal", "Less", "Greater", "And", "Or"))


class _Held(NamedTuple):
    """A value that is `source` transposed."""

    source: str
    order: tuple[int, ...]


class _Pass:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.facts: Mapping[str, Fact] = infer(graph)
        self.held: dict[str, _Held] = {}
        self.made: set[str] = set()
        self.nodes: list[Node] = []
        self.constants = dict(graph.constants)
        self.stored = {*graph.weights, *graph.state, *graph.constants}
        self.fixed = kept_in(graph)

    def rank(self, key: str) -> int | None:
        """How many axes a value has."""
        shape = self.facts.get(key, Fact()).shape
        return None if shape is None else len(shape)

    def materialise(self, key: str) -> None:
        """Transpose a held value for those that mind."""
        if key in self.held and key not in self.made:
            source, order = self.held[key]
            self.made.add(key)
            self.nodes.append(Node(f"{key}:transposed", "transpose", (source,), (key,), {"axes": order}))

    def keep(self, node: Node) -> None:
        """A node as it is."""
        for key in dict.fromkeys(node.inputs):
            self.materialise(key)
        self.nodes.append(node)

    def move(self, node: Node, inputs: Sequence[str], order: tuple[int, ...], **attributes: Any) -> None:
        """A node on the values that are held back; its result is held back in its turn."""
        inner = tuple(f"{key}:in other order" if key else "" for key in node.outputs)
        self.nodes.append(replace(node, inputs=tuple(inputs), outputs=inner, attributes=dict(node.attributes) | attributes))
        for key, source in zip(node.outputs, inner, strict=True):
            if key:
                self.held[key] = _Held(source, order)
                if key in self.fixed:
                    self.materialise(key)

    def renamed(self, key: str, order: tuple[int, ...]) -> str | None:
        """A single number or stored array beside a held value, in the order of that value's source; None where it has none."""
        if key in self.held:
            return self.held[key].source if self.held[key].order == order else None
        fact = self.facts.get(key, Fact())
        if fact.shape is not None and all(n == 1 for n in fact.shape) and len(fact.shape) <= len(order):
            return key
        if key not in self.stored or fact.value is None or fact.value.nbytes > 1 << 20:
            return None
        array = fact.value.reshape((1,) * (len(order) - fact.value.ndim) + fact.value.shape)
        name = f"{key}:{','.join(map(str, order))}"
        self.constants[name] = np.ascontiguousarray(np.transpose(array, np.argsort(order)))
        return name

    # -- nodes that do not mind; each gives whether it was moved

    def transpose(self, node: Node) -> bool:
        """Two transpositions as one."""
        source = node.inputs[0]
        order = order_of(node, self.facts.get(source, Fact()))
        if order is None or sorted(order) != list(range(len(order))):
            return False
        before = self.held.get(source)
        if before is not None and len(before.order) != len(order):
            return False  # what makes no sense stays, and the run will say so
        if before is not None:
            source, order = before.source, tuple(before.order[a] for a in order)
        key = node.outputs[0]
        if key in self.fixed:
            self.nodes.append(replace(node, op="transpose", inputs=(source,), attributes={"axes": order}))
        else:
            self.held[key] = _Held(source, order)
        return True

    def elementwise(self, node: Node) -> bool:
        orders = {self.held[key].order for key in node.inputs if key in self.held}
        if len(orders) != 1:
            return False
        (order,) = orders
        if self.rank(node.outputs[0]) != len(order):
            return False
        inputs = [self.renamed(key, order) if key else "" for key in node.inputs]
        if any(key is None for key in inputs):
            return False
        self.move(node, [key for key in inputs if key is not None], order)
        return True

    def clip(self, node: Node) -> bool:
        """Bounds stay: they are single numbers."""
        held = self.held.get(node.inputs[0])
        if held is None or any(key in self.held for key in node.inputs[1:]):
            return False
        self.move(node, (held.source, *node.inputs[1:]), held.order)
        return True

    def along_axis(self, node: Node) -> bool:
        """Concatenation, softmax: an attribute names an axis."""
        order = self.held[node.inputs[0]].order if node.inputs[0] in self.held else None
        if order is None or not all(key in self.held and self.held[key].order == order for key in node.inputs):
            return False
        axis = node.attributes.get("axis")
        if not isinstance(axis, int) or not -len(order) <= axis < len(order) or node.attributes.get("opset", 13) < 13:  # type: ignore[operator]
            return False
        self.move(node, [self.held[key].source for key in node.inputs], order, axis=order[axis % len(order)])
        return True

    def pad(self, node: Node) -> bool:
        held = self.held.get(node.inputs[0])
        if held is None or node.attributes.get("pads") is not None or len(node.inputs) > 3 or len(node.inputs) < 2:
            return False
        amounts = self.facts.get(node.inputs[1], Fact()).known
        rank = len(held.order)
        if amounts is None or amounts.size != 2 * rank:
            return False
        pairs = amounts.reshape(2, rank)
        moved = np.empty_like(pairs)
        moved[:, list(held.order)] = pairs
        name = f"{node.outputs[0]}:pads"
        self.constants[name] = moved.reshape(-1)
        self.move(node, (held.source, name, *node.inputs[2:]), held.order)
        return True

    def reduce(self, node: Node) -> bool:
        """A reduction that keeps its axes as 1."""
        held = self.held.get(node.inputs[0])
        axes: Any = node.attributes.get("axes")
        if held is None or not node.flag("keepdims", True) or not axes or len(node.inputs) > 1:
            return False
        rank = len(held.order)
        if any(not -rank <= a < rank for a in axes):
            return False
        self.move(node, (held.source,), held.order, axes=[held.order[a % rank] for a in axes])
        return True


_MOVES: dict[str, Callable[[_Pass, Node], bool]] = {
    "transpose": _Pass.transpose, "clip": _Pass.clip, "Pad": _Pass.pad,
    **dict.fromkeys(("concat", "Concat", "softmax", "log_softmax"), _Pass.along_axis),
    **dict.fromkeys(("mean", "total", "highest", "ReduceMin", "ReduceProd", "length", "ReduceL1", "total_squares"), _Pass.reduce),
    **dict.fromkeys((*_UNARY, *_BINARY), _Pass.elementwise),
}  # fmt: skip


def cancel_transposes(graph: Graph) -> Graph:
    """The graph with transpositions moved down and cancelled, where that leaves fewer."""
    before = sum(word_of(node) == "transpose" for node in graph.nodes)
    if not before:
        return graph
    work = _Pass(graph)
    for node in graph.nodes:
        move = _MOVES.get(word_of(node))
        if move is None or not node.inputs or len(node.outputs) != 1 or not move(work, node):
            work.keep(node)
    for key in work.fixed:
        work.materialise(key)
    nodes = [_without(n) for n in work.nodes]
    after = sum(word_of(node) == "transpose" and not _is_plain(node) for node in nodes)
    return pruned(graph, nodes, work.constants, {"transpositions": before - after}) if after < before else graph


def _is_plain(node: Node) -> bool:
    axes: Any = node.attributes.get("axes", ())
    return tuple(axes) == tuple(range(len(axes)))


def _without(node: Node) -> Node:
    """A transposition that changes nothing as another name."""
    return replace(node, op="identity", attributes={}) if node.op == "transpose" and _is_plain(node) else node
