"""Padding before a convolution as the convolution's own: the zeros that it stands for are the same, and so are the bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import single_users
from preimage.io.graph.match import word_of
from preimage.io.graph.nodes import Node
from preimage.io.graph.simplify import pruned

__all__ = ["take_padding"]


def _zeros_around(node: Node, facts: Mapping[str, Fact]) -> tuple[tuple[int, int], ...] | None:
    """How many zeros a padding puts around each spatial axis; None where it does anything else."""
    if word_of(node) != "Pad" or node.word("mode", "constant") != "constant":
        return None
    given: Any = node.attributes.get("pads")
    if given is None and len(node.inputs) > 1:
        given = facts[node.inputs[1]].known if node.inputs[1] in facts else None
    shape = facts[node.inputs[0]].shape if node.inputs[0] in facts else None
    if given is None or shape is None or node.number("constant", 0.0):
        return None
    if len(node.inputs) > 2 and node.inputs[2]:
        value = facts[node.inputs[2]].known if node.inputs[2] in facts else None
        if value is None or np.any(value):
            return None
    axes = [*range(len(shape))]
    if len(node.inputs) > 3 and node.inputs[3]:
        named = facts[node.inputs[3]].known if node.inputs[3] in facts else None
        if named is None:
            return None
        axes = [int(a) % len(shape) for a in named]
    amounts = [int(v) for v in np.asarray(given).reshape(-1)]
    if len(amounts) != 2 * len(axes) or min(amounts, default=0) < 0:
        return None
    pairs = dict(zip(axes, zip(amounts[: len(axes)], amounts[len(axes) :], strict=True), strict=True))
    if any(any(pairs.get(axis, (0, 0))) for axis in (0, 1)):
        return None
    return tuple(pairs.get(axis, (0, 0)) for axis in range(2, len(shape)))


def take_padding(graph: Graph) -> Graph:
    """Have convolutions pad what was padded with zeros before them."""
    facts, takers = infer(graph), single_users(graph)
    paddings = {node.outputs[0]: node for node in graph.nodes if word_of(node) == "Pad" and node.outputs[0] in takers}
    gone: set[str] = set()
    nodes = []
    for node in graph.nodes:
        before = paddings.get(node.inputs[0]) if node.op == "conv" else None
        extra = None if before is None else _zeros_around(before, facts)
        own = None if extra is None else node.padding(len(extra))
        if before is None or extra is None or (isinstance(own, str) and own != "valid") or "padding_mode" in node.attributes:
            nodes.append(node)
            continue
        pairs = own if isinstance(own, tuple) else ((0, 0),) * len(extra)
        if any(min(pair) < 0 for pair in pairs):
            nodes.append(node)
            continue
        summed = tuple((a + c, b + d) for (a, b), (c, d) in zip(pairs, extra, strict=True))
        gone.add(before.outputs[0])
        nodes.append(
            replace(node, inputs=(before.inputs[0], *node.inputs[1:]), attributes=dict(node.attributes) | {"padding": summed})
        )
    kept = [node for node in nodes if not gone.intersection(node.outputs)]
    return pruned(graph, kept, graph.constants, {"padding into convolutions": len(gone)}) if gone else graph
