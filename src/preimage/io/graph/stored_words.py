"""Nodes that a reader could not say in our words, said so once what they need is stored: weights that other nodes computed from stored arrays.

A file may keep weights as integers with a scale (DequantizeLinear), transposed, or in parts. When the file is read, its convolution has a
weight that a node makes; after `fold_constants` it is an array like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import stored_in
from preimage.io.graph.nodes import OPS, Node
from preimage.io.graph.simplify import pruned
from preimage.io.graph.types import graph_types, takes_floats

__all__ = ["STORED_WORDS", "say_stored"]

#: By a reader's word: the node in our words, given the stored arrays; None where it cannot be said.
STORED_WORDS: dict[str, Callable[[Node, Mapping[str, np.ndarray]], Node | None]] = {}


def say_stored(graph: Graph) -> Graph:
    """The graph with such nodes in our words."""
    if not any(node.op in STORED_WORDS for node in graph.nodes):
        return graph
    types, stored = graph_types(graph, OPS), stored_in(graph)
    nodes: list[Node] = []
    said = 0
    for node in graph.nodes:
        rewrite = STORED_WORDS.get(node.op)
        word = rewrite(node, stored) if rewrite is not None and takes_floats(node, types) else None
        nodes.append(word or node)
        said += word is not None
    return pruned(graph, nodes, graph.constants, {"nodes whose weights became known": said}) if said else graph
