"""Nodes that a reader could not say in our words, said so once what they need is stored: weights that other nodes computed from stored arrays.

A file may keep weights as integers with a scale (DequantizeLinear), transposed, or in parts. When the file is read, its convolution has a
weight that a node makes; after `fold_constants` it is an array like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import stored_in
from preimage.io.graph.nodes import OPS, Node
from preimage.io.graph.simplify import pruned
from preimage.io.graph.types import graph_types, takes_floats

__all__ = ["STORED_SPELLINGS", "STORED_WORDS", "Spelling", "say_stored"]

#: Nodes in the place of one, and the constants that they take beside what is there.
Spelling: TypeAlias = tuple[list[Node], dict[str, np.ndarray]]

#: By a reader's word: the node in our words, given the stored arrays; None where it cannot be said.
STORED_WORDS: dict[str, Callable[[Node, Mapping[str, np.ndarray]], Node | None]] = {}


#: By a reader's word: the nodes that say the same in our words, of integers too.
STORED_SPELLINGS: dict[str, Callable[[Node, Mapping[str, np.ndarray], Mapping[str, str | None]], Spelling | None]] = {}


def say_stored(graph: Graph) -> Graph:
    """The graph with such nodes in our words."""
    if not any(node.op in STORED_WORDS or node.op in STORED_SPELLINGS for node in graph.nodes):
        return graph
    types, stored = graph_types(graph, OPS), stored_in(graph)
    nodes: list[Node] = []
    constants, said = dict(graph.constants), 0
    for node in graph.nodes:
        rewrite, spell = STORED_WORDS.get(node.op), STORED_SPELLINGS.get(node.op)
        word = rewrite(node, stored) if rewrite is not None and takes_floats(node, types) else None
        spelled = spell(node, stored, types) if spell is not None else None
        if spelled is not None:
            nodes += spelled[0]
            constants |= spelled[1]
        else:
            nodes.append(word or node)
        said += word is not None or spelled is not None
    return pruned(graph, nodes, constants, {"nodes whose weights became known": said}) if said else graph
