"""Nodes that need not run: what is known before, what changes nothing, what is computed twice or for nobody.

    take_branches     an If whose condition is known is the nodes of its branch
    fold_known        shape arithmetic and other small values that follow from what is known (`facts`) are constants
    drop_idle         nodes whose result is their input: casts to the same dtype, reshapes to the same shape, whole slices, products with 1 ...
    join_reshapes     reshapes, squeezes and flattenings become one `reshape` whose target is known, and chains of them one
    merge_twins       nodes that compute the same from the same, and constants that are the same, are one
    drop_dead         nodes whose results nobody takes

All of them keep every bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import kept_in
from preimage.io.graph.match import word_of
from preimage.io.graph.nodes import Node, repeatable
from preimage.io.graph.sizes import Shape, Size

__all__ = [
    "drop_dead",
    "drop_idle",
    "fold_known",
    "join_reshapes",
    "merge_twins",
    "pruned",
    "repeatable",
    "take_branches",
]

NOTHING = Fact()


def pruned(graph: Graph, nodes: Sequence[Node], constants: Mapping[str, Any], changes: Mapping[str, int] | None = None) -> Graph:
    """The graph of these nodes and constants, without stored arrays that nothing takes any more."""
    taken = {key for node in nodes for key in node.inputs} | kept_in(graph)
    return graph.replaced(
        nodes=nodes,
        constants={key: value for key, value in constants.items() if key in taken},
        parameters={key: value for key, value in graph.weights.items() if key in taken},
        buffers={key: value for key, value in graph.state.items() if key in taken},
    ).noted(changes or {})


def renamed(nodes: Sequence[Node], names: Mapping[str, str]) -> list[Node]:
    """The nodes with values called by other names where they are taken; names may lead on to names."""

    def last(key: str) -> str:
        while key in names:
            key = names[key]
        return key

    return [
        replace(n, inputs=tuple(map(last, n.inputs))) if any(key in names for key in n.inputs) else n for n in nodes
    ]  # fmt: skip


# -- what is known -----------------------------------------------------------------------------------------------------


def take_branches(graph: Graph) -> Graph:
    """Put the nodes of the branch that is taken in the place of an If whose condition is known."""
    if not any(node.op == "onnx.If" for node in graph.nodes):
        return graph
    facts, constants, count = infer(graph), dict(graph.constants), 0
    stored: dict[str, Any] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        condition = facts[node.inputs[0]].known if node.op == "onnx.If" and node.inputs[0] in facts else None
        if condition is None or condition.size != 1:
            nodes.append(node)
            continue
        branch = node.held("then_branch" if condition.reshape(()) else "else_branch", Graph)
        captured = node.words("captured", ())
        outer = dict(zip(captured, node.inputs[1:], strict=True))
        if (
            branch.state
            or branch.updates
            or len(branch.outputs) < len(node.outputs)
            or not {item.name for item in branch.inputs} <= set(outer)
        ):
            nodes.append(node)
            continue
        names = {key: f"{node.name}:{key}" for key in (*branch.weights, *branch.constants)} | outer
        names |= {key: f"{node.name}:{key}" for each in branch.nodes for key in each.outputs if key}
        stored |= {names[key]: p for key, p in branch.weights.items()}
        constants |= {names[key]: array for key, array in branch.constants.items()}
        for each in branch.nodes:
            inner = tuple(names[key] if key else "" for key in each.inputs)
            made = tuple(names[key] if key else "" for key in each.outputs)
            nodes.append(replace(each, name=f"{node.name}:{each.name}", inputs=inner, outputs=made))
        for key, source in zip(node.outputs, branch.outputs, strict=False):
            if key:
                nodes.append(Node(f"{node.name}:{key}", "identity", (names[source],), (key,), {}, node.layer))
        count += 1
    if not count:
        return graph
    whole = graph.replaced(nodes=nodes, constants=constants, parameters=graph.weights | stored)
    return take_branches(whole.noted({"branches taken": count}))


def fold_known(graph: Graph) -> Graph:
    """Make values whose contents are known constants: shapes, axes, scales, and what is computed of them."""
    facts, constants, fixed = infer(graph), dict(graph.constants), kept_in(graph)
    kept, count = [], 0
    for node in graph.nodes:
        values = [facts[key].known if key else None for key in node.outputs]
        if all(v is not None or not key for v, key in zip(values, node.outputs, strict=True)) and not fixed & set(node.outputs):
            constants |= {key: v for key, v in zip(node.outputs, values, strict=True) if key and v is not None}
            count += 1
        else:
            kept.append(node)
    return pruned(graph, kept, constants, {"values known before": count}) if count else graph


# -- what changes nothing ----------------------------------------------------------------------------------------------

Idle = Callable[[Node, Sequence[Fact], Fact], bool]


def _same_shape(a: Fact, b: Fact) -> bool:
    return a.shape is not None and a.shape == b.shape


def _number(fact: Fact) -> float | None:
    value = fact.known
    return None if value is None or value.size != 1 or value.dtype.kind not in "fiu" else float(value.reshape(()))


def _by_one(node: Node, inputs: Sequence[Fact], out: Fact) -> bool:
    return len(inputs) == 2 and _number(inputs[1]) == 1 and inputs[0].is_float and _same_shape(inputs[0], out)


def _shape_alone(node: Node, inputs: Sequence[Fact], out: Fact) -> bool:
    return _same_shape(inputs[0], out)


def _no_padding(node: Node, inputs: Sequence[Fact], out: Fact) -> bool:
    given: Any = node.attributes.get("pads")
    amounts = given if given is not None else inputs[1].known if len(inputs) > 1 else None
    return amounts is not None and not np.any(amounts)


def _whole_slice(node: Node, inputs: Sequence[Fact], out: Fact) -> bool:
    steps = inputs[4].known if len(inputs) > 4 else None
    forward = len(inputs) < 5 or (steps is not None and bool(np.all(steps > 0)))
    return forward and _same_shape(inputs[0], out)


_IDLE: dict[str, Idle] = {
    "identity": lambda node, inputs, out: True,
    "Dropout": lambda node, inputs, out: len(inputs) < 3,
    "cast": lambda node, inputs, out: inputs[0].dtype is not None and inputs[0].dtype == out.dtype,
    "CastLike": lambda node, inputs, out: inputs[0].dtype is not None and inputs[0].dtype == out.dtype,
    "reshape": _shape_alone, "Flatten": _shape_alone, "flatten": _shape_alone, "Squeeze": _shape_alone, "Unsqueeze": _shape_alone,
    "Expand": _shape_alone,
    "Tile": lambda node, inputs, out: len(inputs) > 1 and inputs[1].known is not None and bool(np.all(inputs[1].known == 1)),
    "Slice": _whole_slice,
    "Pad": _no_padding,
    "mul": _by_one, "div": _by_one, "pow": _by_one,
    **dict.fromkeys(("Concat", "concat", "Sum", "Mean", "maximum", "minimum"), lambda node, inputs, out: len(inputs) == 1),
    "transpose": lambda node, inputs, out: order_of(node, inputs[0]) == tuple(range(len(inputs[0].shape or ()))) != (),
}  # fmt: skip


def order_of(node: Node, fact: Fact) -> tuple[int, ...] | None:
    """The order of axes of a transposition; None where it is not known."""
    given: Any = node.attributes.get("axes" if node.op == "transpose" else "perm")
    if given is None:
        return None if fact.shape is None else tuple(range(len(fact.shape)))[::-1]
    return tuple(int(a) for a in given)


def drop_idle(graph: Graph) -> Graph:
    """Take out nodes that hand their first input on, and whose other results nobody takes."""
    facts, fixed = infer(graph), kept_in(graph)
    taken = fixed.union(*(node.inputs for node in graph.nodes))
    names: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        idle = _IDLE.get(word_of(node))
        if idle is not None and node.inputs and node.outputs[0] not in fixed and not taken & set(node.outputs[1:]):
            inputs = [facts.get(key, NOTHING) for key in node.inputs]
            if idle(node, inputs, facts.get(node.outputs[0], NOTHING)):
                names[node.outputs[0]] = node.inputs[0]
                continue
        kept.append(node)
    return pruned(graph, renamed(kept, names), graph.constants, {"idle nodes": len(names)}) if names else graph


# -- reshapes ----------------------------------------------------------------------------------------------------------

_RESHAPES = ("reshape", "Flatten", "flatten", "Squeeze", "Unsqueeze")


def target_of(source: Shape | None, shape: Shape | None) -> tuple[int, ...] | None:
    """The shape as the target of a reshape from `source`: 0 copies a size, one -1 takes what is left; None where that cannot say it."""
    if shape is None or source is None:
        return None
    found: list[int] = []
    for k, dim in enumerate(shape):
        if not isinstance(dim, Size):
            if dim == 0:
                return None
            found.append(dim)
        else:
            found.append(0 if k < len(source) and source[k] == dim else -1)
    if found.count(-1) > 1 or (found.count(-1) == 1 and 0 in source):
        return None
    return tuple(found)


def join_reshapes(graph: Graph) -> Graph:
    """Name the target of every reshape where it is known, and reshape what the first of a chain takes at once."""
    facts = infer(graph)
    source: dict[str, str] = {}
    nodes, count = [], 0
    for node in graph.nodes:
        out = facts.get(node.outputs[0], NOTHING) if node.outputs else NOTHING
        if word_of(node) not in _RESHAPES or len(node.outputs) != 1 or not node.inputs:
            nodes.append(node)
            continue
        first = source.get(node.inputs[0], node.inputs[0])
        target = target_of(facts.get(first, NOTHING).shape, out.shape)
        if target is None:
            first = node.inputs[0]
            target = target_of(facts.get(first, NOTHING).shape, out.shape)
        source[node.outputs[0]] = first
        if target is None:
            nodes.append(node)
            continue
        made = replace(node, op="reshape", inputs=(first,), attributes={"target": target})
        count += made.op != node.op or made.inputs != node.inputs
        nodes.append(made)
    return drop_dead(pruned(graph, nodes, graph.constants, {"reshapes with a known target": count})) if count else graph


# -- twice, and for nobody ---------------------------------------------------------------------------------------------

#: Constants that are compared.
MOST_BYTES = 1 << 16


def _sign(value: Any) -> Any:
    """An attribute as something that equals only what is the same."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes() if value.nbytes <= MOST_BYTES else id(value)
    if isinstance(value, list | tuple):
        return type(value).__name__, tuple(map(_sign, value))
    if isinstance(value, dict):
        return tuple((key, _sign(v)) for key, v in sorted(value.items()))
    return (type(value).__name__, repr(value)) if isinstance(value, float | int | str | bool | type(None)) else id(value)


def merge_twins(graph: Graph) -> Graph:
    """Compute what is computed twice once."""
    names: dict[str, str] = {}
    seen: dict[Any, str] = {}
    fixed = kept_in(graph)
    for key, array in graph.constants.items():
        if array.nbytes <= MOST_BYTES and key not in fixed and array.dtype != object:
            first = seen.setdefault(_sign(array), key)
            if first != key:
                names[key] = first
    made: dict[Any, Node] = {}
    kept, count = [], 0
    for node in renamed(graph.nodes, names):
        inputs = tuple(names.get(key, key) for key in node.inputs)
        node = replace(node, inputs=inputs) if inputs != node.inputs else node
        absent = tuple(not key for key in node.outputs)
        key_ = (node.op, node.inputs, absent, tuple((k, _sign(v)) for k, v in sorted(node.attributes.items())))
        twin = made.get(key_)
        if twin is None or fixed & set(node.outputs) or not repeatable(node):
            made.setdefault(key_, node)
            kept.append(node)
            continue
        names |= {mine: its for mine, its in zip(node.outputs, twin.outputs, strict=True) if mine}
        count += 1
    if not names:
        return graph
    return pruned(graph, renamed(kept, names), graph.constants, {"computed twice": count} if count else {})


def drop_dead(graph: Graph) -> Graph:
    """Take out nodes whose results nobody takes."""
    wanted = set(kept_in(graph))
    kept = []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    if len(kept) == len(graph.nodes):
        return graph
    return pruned(graph, kept[::-1], graph.constants, {"for nobody": len(graph.nodes) - len(kept)})
