"""The pass that finds the patterns of the table in a graph."""

from __future__ import annotations

from preimage.errors import PreimageError
from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.match import View, find, root_words, word_of
from preimage.io.graph.moving_patterns import MOVING
from preimage.io.graph.nodes import Node
from preimage.io.graph.patterns import PATTERNS

__all__ = ["rewrite_patterns"]


def rewrite_patterns(graph: Graph) -> Graph:
    """The graph with every expression of the table as the word that it means."""
    stored = {key: p.data for key, p in graph.weights.items()} | graph.state | graph.constants
    nodes, facts = list(graph.nodes), infer(graph)
    kept = (*graph.outputs, *graph.updates.values())
    changes: dict[str, int] = {}
    for each in (*PATTERNS, *MOVING):
        words = root_words(each.text)
        if not any(word_of(node) in words for node in nodes):
            continue
        view = View(nodes, kept, facts, stored)
        gone: set[int] = set()
        instead: dict[int, Node] = {}
        for node in nodes:
            if word_of(node) not in words or not (each.any_dtype or facts.get(node.outputs[0], Fact()).is_float):
                continue
            found = find(each.text, node, view)
            if found is None or any(id(n) in gone or id(n) in instead for n in found.nodes):
                continue
            try:
                made = each.change(found, view)
            except PreimageError:  # an attribute that makes no sense: the run decides on it
                continue
            if made is not None:
                instead[id(node)] = made
                gone |= {id(n) for n in found.nodes if n is not node}
        if instead:
            changes[each.name] = changes.get(each.name, 0) + len(instead)
            nodes = [instead.get(id(n), n) for n in nodes if id(n) not in gone]
    return graph.replaced(nodes=nodes).noted(changes) if changes else graph
