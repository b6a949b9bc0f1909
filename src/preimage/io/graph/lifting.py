"""Elementwise steps behind a reshape that only adds or drops axes of size 1, moved before it: to the contraction that they belong to.

Frameworks without 1-D convolutions write them as 2-D ones between two reshapes, and put bias and activation behind the second. Before it,
`fold_affine` and `fuse_epilogues` find them. All bits are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from preimage.io.graph.calls import CONTRACTIONS
from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import single_users, stored_in
from preimage.io.graph.match import word_of
from preimage.io.graph.nodes import Node
from preimage.io.graph.simplify import pruned, target_of
from preimage.io.graph.sizes import Dim, Shape

__all__ = ["lift_steps"]

_STEPS = frozenset(
    (
        "add",
        "sub",
        "mul",
        "div",
        "relu",
        "clip",
        "leaky_relu",
        "sigmoid",
        "tanh",
        "swish",
        "hard_swish",
        "hard_sigmoid",
        "gelu",
        "elu",
    )
)


def unit_axes(source: Shape | None, out: Shape | None) -> list[int | None] | None:
    """For each axis of the source the axis of the result that it is, None for one of size 1 that is dropped; None where more than axes of
    size 1 differ."""
    if source is None or out is None:
        return None
    wide: list[tuple[int, Dim]] = [(k, dim) for k, dim in enumerate(out) if dim != 1]
    found: list[int | None] = []
    for dim in source:
        if dim == 1:
            found.append(None)
        elif not wide or wide[0][1] != dim:
            return None
        else:
            found.append(wide.pop(0)[0])
    return None if wide else found


def _moved(value: np.ndarray, axes: Sequence[int | None], rank: int) -> np.ndarray | None:
    """An operand of the reshaped value as one of the value before; None where it has sizes on axes that are not there."""
    if value.ndim > rank:
        return None
    sizes = (1,) * (rank - value.ndim) + value.shape
    if any(n != 1 and k not in axes for k, n in enumerate(sizes)):
        return None
    return value.reshape([1 if axis is None else sizes[axis] for axis in axes])


def lift_steps(graph: Graph) -> Graph:
    """Move elementwise steps with stored operands from behind such reshapes of contractions before them."""
    facts, takers = dict(infer(graph)), single_users(graph)
    constants = dict(graph.constants)
    stored = stored_in(graph)
    made_by: dict[str, Node] = {node.outputs[0]: node for node in graph.nodes if len(node.outputs) == 1}
    gone: set[str] = set()
    instead: dict[str, list[Node]] = {}
    for node in graph.nodes:
        varying = [key for key in node.inputs if key and key not in stored]
        shaped = made_by.get(varying[0]) if word_of(node) in _STEPS and len(varying) == 1 and len(node.outputs) == 1 else None
        if shaped is None or not _is_lifted(shaped, made_by, takers):
            continue
        before, between = facts.get(shaped.inputs[0], Fact()), facts.get(shaped.outputs[0], Fact())
        axes, out = unit_axes(before.shape, between.shape), facts.get(node.outputs[0], Fact())
        if axes is None or out.shape != between.shape or out.dtype != before.dtype or out.shape is None:
            continue
        moved = _on(node, shaped, axes, len(out.shape), stored, constants)
        target = target_of(before.shape, out.shape)
        if moved is None or target is None:
            continue
        last = replace(
            shaped, name=f"{node.name}:reshaped", inputs=moved.outputs, outputs=node.outputs, attributes={"target": target}
        )
        instead[node.outputs[0]] = [moved, last]
        made_by |= {moved.outputs[0]: moved, node.outputs[0]: last}
        facts[moved.outputs[0]] = Fact(before.dtype, before.shape)
        takers |= {moved.outputs[0]: last, shaped.inputs[0]: moved}
        gone.add(shaped.outputs[0])
    if not gone:
        return graph
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += instead.get(node.outputs[0], [node])
    nodes = [node for node in nodes if not gone.intersection(node.outputs)]
    return pruned(graph, nodes, constants, {"steps moved before reshapes": len(gone)})


def _is_lifted(shaped: Node, made_by: Mapping[str, Node], takers: Mapping[str, Node]) -> bool:
    """Whether a node is the reshape of what a contraction, or a step lifted to one, makes for it alone."""
    if shaped.op != "reshape" or shaped.outputs[0] not in takers or shaped.inputs[0] not in takers:
        return False
    maker = made_by.get(shaped.inputs[0])
    return maker is not None and (maker.op in CONTRACTIONS or maker.name.endswith(":lifted"))


def _on(
    node: Node, shaped: Node, axes: Sequence[int | None], rank: int, stored: Mapping[str, np.ndarray], constants: dict[str, np.ndarray]
) -> Node | None:  # fmt: skip
    """The step on what is reshaped."""
    inputs = []
    for position, key in enumerate(node.inputs):
        if key not in stored:
            inputs.append(shaped.inputs[0] if key else "")
            continue
        value = _moved(np.asarray(stored[key]), axes, rank)
        if value is None:
            return None
        name = f"{node.outputs[0]}:operand {position}"
        constants[name] = value
        inputs.append(name)
    return replace(node, name=f"{node.name}:lifted", inputs=tuple(inputs), outputs=(f"{node.outputs[0]}:before",))
