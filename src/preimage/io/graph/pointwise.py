"""Chains of elementwise nodes as one node, whose steps a generated kernel runs in one pass over memory.

    x -> add 3 -> clip 0..6 -> mul x -> div 6        four passes over memory become one

Every step rounds as the separate nodes do, so the bits are theirs. Operands may be arrays
of the result's shape, single values, or one value per channel; anything else, and Tensors, run node by node, as does
everything without the jit engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.engines import around
from preimage.io.graph.calls import CONTRACTIONS, NodeChain, compiled_steps
from preimage.io.graph.facts import infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import Lookup, kept_in
from preimage.io.graph.nodes import OPS, Node, graph_op
from preimage.io.graph.sizes import Shape

__all__ = ["Step", "fuse_chains", "fuse_pointwise", "one_by_one", "pointwise", "steps_of"]

#: Smaller arrays run node by node: a call costs more than their passes.
LEAST = 1 << 10
_BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
_UNARY = (
    "relu", "clip", "leaky_relu", "sqrt", "abs", "neg", "reciprocal", "rsqrt", "square", "softsign", "sigmoid", "tanh", "exp", "log", "softplus",
    "mish", "gelu", "onnx.Erf",
)  # fmt: skip
#: Steps that contractions take into their epilogue: the code of the others is long.
_SHORT = ("add", "sub", "mul", "div", "relu", "clip", "leaky_relu", "sqrt")
#: One step of a chain: the word, its operands (an input's number, or -1 - the number of an earlier step), its attributes.
Step = tuple[str, tuple[int, ...], Mapping[str, Any]]


def fuse_pointwise(graph: Graph) -> Graph:
    """Put elementwise nodes that only feed one another into one node each."""
    users: dict[str, set[int]] = {}
    for position, node in enumerate(graph.nodes):
        for key in node.inputs:
            users.setdefault(key, set()).add(position)
    fixed = kept_in(graph)
    facts = infer(graph)
    shapes = [facts[node.outputs[0]].shape if node.outputs and node.outputs[0] in facts else None for node in graph.nodes]
    taken: set[int] = set()
    chains: dict[int, Node] = {}
    for start, node in enumerate(graph.nodes):
        if start in taken or not _is_step(node):
            continue
        members = _chain(graph.nodes, start, users, fixed, taken, shapes)
        if len(members) > 1:
            taken.update(members)
            chains[members[-1]] = _joined([graph.nodes[m] for m in members])
    if not chains:
        return graph
    nodes = [chains.get(p, node) for p, node in enumerate(graph.nodes) if p not in taken or p in chains]
    return graph.replaced(nodes=nodes)


def _is_step(node: Node) -> bool:
    if node.op in _BINARY:
        return len(node.inputs) == 2 and all(node.inputs)
    return node.op in _UNARY and len(node.inputs) == 1


def _smaller(a: Shape | None, b: Shape | None) -> bool:
    """Whether a value of shape a is certainly repeated to give one of shape b: a gate, which is computed once, not at every pixel."""
    if a is None or b is None:
        return False
    return len(a) < len(b) or any(m == 1 != n for m, n in zip(a, b, strict=False))


def _chain(
    nodes: Sequence[Node], start: int, users: Mapping[str, set[int]], fixed: Collection[str], taken: set[int], shapes: Sequence[Shape | None]
) -> list[int]:  # fmt: skip
    """The longest run of steps from `start` on of which only the last one's value is used elsewhere. shapes: of the nodes' values."""
    members, made, best = [start], {nodes[start].outputs[0]}, [start]
    for position in range(start + 1, len(nodes)):
        if position > members[-1] + 16:
            break
        node = nodes[position]
        if (
            position in taken
            or not _is_step(node)
            or not made.intersection(node.inputs)
            or _smaller(shapes[start], shapes[position])
        ):
            continue
        members.append(position)
        made.add(node.outputs[0])
        inner = made - {node.outputs[0]}
        if inner.isdisjoint(fixed) and all(users.get(key, set()) <= set(members) for key in inner):
            best = list(members)
    return best


def _joined(members: Sequence[Node]) -> Node:
    inputs: list[str] = []
    where: dict[str, int] = {}
    steps: list[Step] = []
    for number, node in enumerate(members):
        operands = []
        for key in node.inputs:
            if key not in where:
                where[key] = len(inputs)
                inputs.append(key)
            operands.append(where[key])
        where[node.outputs[0]] = -1 - number
        steps.append((node.op, tuple(operands), dict(node.attributes)))
    last = members[-1]
    return Node(last.name, "pointwise", tuple(inputs), last.outputs, {"steps": tuple(steps)}, last.layer)


@graph_op("pointwise")
def pointwise(*values: Any, steps: Sequence[Step]) -> Any:
    """The steps, one after the other: in one pass where the operands allow it."""
    if all(isinstance(v, np.ndarray) for v in values):
        words, numbers = compiled_steps(steps, len(values))
        made = around.chain(values, words, numbers, least=LEAST)
        if made is not None:
            return made[0]
    return one_by_one(values, steps)


def fuse_chains(graph: Graph) -> Graph:
    """Give contractions the elementwise steps that follow them, where the other operands are stored single values.

    The bits of 32- and 64-bit floats stay; 16-bit floats are rounded once at the end.
    """
    found = Lookup(graph.nodes, kept_in(graph))
    makers = {node.outputs[0]: node for node in graph.nodes if node.op in CONTRACTIONS}
    renewed: dict[str, Node] = {}
    swallowed: set[str] = set()
    for node in graph.nodes:
        steps = _as_chain(node)
        sources = [key for key in node.inputs if key in makers]
        if steps is None or len(set(sources)) != 1 or found.only_user(sources[0]) is None:
            continue
        maker = makers[sources[0]]
        others = [graph.constants.get(key) for key in node.inputs if key != sources[0]]
        if {"activation", "chain"} & maker.attributes.keys() or any(v is None or v.size != 1 or v.ndim > 3 for v in others):
            continue
        order = [sources[0], *(key for key in node.inputs if key != sources[0])]
        moved = [order.index(key) for key in node.inputs]
        chain: NodeChain = (
            tuple((word, tuple(moved[k] if k >= 0 else k for k in at), options) for word, at, options in steps),
            tuple(float(v.reshape(())) for v in others if v is not None),
        )
        renewed[node.name] = replace(maker, outputs=node.outputs, attributes=dict(maker.attributes) | {"chain": chain})
        swallowed.add(maker.name)
    nodes = [renewed.get(n.name, n) for n in graph.nodes if n.name not in swallowed]
    return graph.replaced(nodes=nodes) if renewed else graph


def steps_of(node: Node) -> Sequence[Step] | None:
    """The steps of a pointwise node, or a single step as a chain, of its inputs without repetitions; None for other nodes."""
    if node.op == "pointwise":
        steps: Sequence[Step] = node.held("steps", tuple)
        return steps
    if not _is_step(node):
        return None
    names = list(dict.fromkeys(node.inputs))
    return ((node.op, tuple(names.index(key) for key in node.inputs), dict(node.attributes)),)


def _as_chain(node: Node) -> Sequence[Step] | None:
    """Such steps; None for functions whose code is long."""
    steps = steps_of(node)
    return None if steps is None or any(word not in _SHORT for word, _, _ in steps) else steps


def one_by_one(values: Sequence[Any], steps: Sequence[Step]) -> Any:
    """The last step's value, every step by its own word."""
    made: list[Any] = []
    for word, at, attributes in steps:
        made.append(OPS[word].function(*(values[k] if k >= 0 else made[-1 - k] for k in at), **attributes))
    return made[-1]
