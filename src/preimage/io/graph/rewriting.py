"""The pass that finds the patterns of the table in a graph."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from preimage.errors import PreimageError
from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import kept_in, stored_in
from preimage.io.graph.match import View, find, root_words, word_of
from preimage.io.graph.moving_patterns import MOVING
from preimage.io.graph.nodes import Node
from preimage.io.graph.patterns import PATTERNS

__all__ = ["rewrite_patterns"]


def _by_word(nodes: Sequence[Node]) -> dict[str, list[tuple[int, Node]]]:
    """The nodes of each word, with their places."""
    found: dict[str, list[tuple[int, Node]]] = {}
    for place, node in enumerate(nodes):
        found.setdefault(word_of(node), []).append((place, node))
    return found


def rewrite_patterns(graph: Graph) -> Graph:
    """The graph with every expression of the table as the word that it means."""
    stored = stored_in(graph)
    nodes, facts = list(graph.nodes), infer(graph)
    kept = kept_in(graph)
    changes: dict[str, int] = {}
    by_word, view = _by_word(nodes), View(nodes, kept, facts, stored)
    for each in (*PATTERNS, *MOVING):
        roots = [node for word in root_words(each.text) for node in by_word.get(word, ())]
        if not roots:
            continue
        gone: set[int] = set()
        instead: dict[int, Node] = {}
        for _, node in sorted(roots, key=itemgetter(0)):
            if not (each.any_dtype or facts.get(node.outputs[0], Fact()).is_float):
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
            by_word, view = _by_word(nodes), View(nodes, kept, facts, stored)
    return graph.replaced(nodes=nodes).noted(changes) if changes else graph
