"""Chains of elementwise nodes as one node, whose steps a generated kernel runs in one pass over memory.

    x -> add 3 -> clip 0..6 -> mul x -> div 6        four passes over memory become one

Every step rounds as the separate nodes do, so the bits are theirs. Operands may be arrays
of the result's shape, single values, or one value per channel; anything else, and Tensors, run node by node, as does
everything without the jit engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.engines import engines
from preimage.engines.base import is_channels_last
from preimage.io.graph import OPS, Graph, Node, graph_op

__all__ = ["fuse_pointwise", "pointwise"]

Array = NDArray[Any]
#: Smaller arrays run node by node: a call costs more than their passes.
LEAST = 1 << 10
_BINARY = ("add", "sub", "mul", "div")
_UNARY = ("relu", "clip", "leaky_relu", "sqrt")
#: One step of a chain: the word, its operands (an input's number, or -1 - the number of an earlier step), its attributes.
Step = tuple[str, tuple[int, ...], Mapping[str, Any]]


def fuse_pointwise(graph: Graph) -> Graph:
    """Put elementwise nodes that only feed one another into one node each."""
    users: dict[str, set[int]] = {}
    for position, node in enumerate(graph.nodes):
        for key in node.inputs:
            users.setdefault(key, set()).add(position)
    fixed = set(graph.outputs) | set(graph.updates.values())
    taken: set[int] = set()
    chains: dict[int, Node] = {}
    for start, node in enumerate(graph.nodes):
        if start in taken or not _is_step(node):
            continue
        members = _chain(graph.nodes, start, users, fixed, taken)
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


def _chain(nodes: Sequence[Node], start: int, users: Mapping[str, set[int]], fixed: set[str], taken: set[int]) -> list[int]:
    """The longest run of steps from `start` on of which only the last one's value is used elsewhere."""
    members, made, best = [start], {nodes[start].outputs[0]}, [start]
    for position in range(start + 1, len(nodes)):
        if position > members[-1] + 16:
            break
        node = nodes[position]
        if position in taken or not _is_step(node) or not made.intersection(node.inputs):
            continue
        members.append(position)
        made.add(node.outputs[0])
        inner = made - {node.outputs[0]}
        if not inner & fixed and all(users.get(key, set()) <= set(members) for key in inner):
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
    alike = _as_rows(values)
    if alike is None or engines()["jit"] != "available":
        return _one_by_one(values, steps)
    from preimage.engines.jit import chain

    operands, kinds, rows, width, shape, last = alike
    made = chain.run_chain(operands, kinds, [_compiled_step(s, len(operands)) for s in steps], rows, width)
    result = made.reshape(shape)
    return np.moveaxis(result, -1, 1) if last else result


def _compiled_step(step: Step, inputs: int) -> tuple[str, tuple[int, ...], tuple[float | None, ...]]:
    word, at, attributes = step
    places = tuple(k if k >= 0 else inputs - 1 - k for k in at)
    if word == "leaky_relu":
        return word, places, (float(attributes["slope"]),)
    if word == "clip":
        return word, places, (attributes.get("lo"), attributes.get("hi"))
    return word, places, ()


def _one_by_one(values: Sequence[Any], steps: Sequence[Step]) -> Any:
    made: list[Any] = []
    for word, at, attributes in steps:
        made.append(OPS[word].function(*(values[k] if k >= 0 else made[-1 - k] for k in at), **attributes))
    return made[-1]


def _as_rows(values: Sequence[Any]) -> tuple[list[Array], list[str], int, int, tuple[int, ...], bool] | None:
    """The operands, how each lies, rows, width, the shape in memory, and whether channels are innermost; None where they are not alike."""
    arrays = [v for v in values if isinstance(v, np.ndarray)]
    if len(arrays) != len(values):
        return None
    full = max(arrays, key=lambda a: a.size)
    if (
        full.ndim < 3
        or full.size < LEAST
        or full.dtype.name not in ("float32", "float64")
        or any(a.dtype != full.dtype for a in arrays)
    ):
        return None
    last, channels = is_channels_last(full), full.shape[1]
    operands: list[Array] = []
    kinds: list[str] = []
    for a in arrays:
        if a.shape == full.shape:
            memory = np.moveaxis(a, 1, -1) if last else a
            if not memory.flags.c_contiguous:
                return None
            operands.append(memory)
            kinds.append("full")
        elif a.size == 1 or _per_channel(a, full):
            operands.append(np.ascontiguousarray(a.reshape(-1)))
            kinds.append("one" if a.size == 1 else "column" if last else "row")
        else:
            return None
    shape = (full.shape[0], *full.shape[2:], channels) if last else full.shape
    rows = full.size // channels if last else full.shape[0] * channels
    return operands, kinds, rows, full.size // rows, shape, last


def _per_channel(a: Array, full: Array) -> bool:
    """Whether `a` broadcasts along the channels of `full` alone."""
    shape = (1,) * (full.ndim - a.ndim) + a.shape
    return len(shape) == full.ndim and shape[1] == full.shape[1] and all(n == 1 for k, n in enumerate(shape) if k != 1)
