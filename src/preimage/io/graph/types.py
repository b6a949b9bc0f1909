"""Which dtype every value of a graph has, known before anything runs.

An op says at its registration what it gives (`graph_op(name, types=...)`); most keep the dtype of their first input. A dtype is a name
("float32", "int64", "bool"), None where it is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preimage.io.graph.graph import Graph
    from preimage.io.graph.nodes import Node, Op

__all__ = ["FLOATS", "LIKE_FIRST", "TypeRule", "Types", "gives", "graph_types", "infer_types", "takes_floats"]

FLOATS = ("float16", "bfloat16", "float32", "float64")
Types = Sequence[str | None]
#: The dtypes of a node's outputs, from its attributes and those of its inputs (None for an absent one).
TypeRule = Callable[[Mapping[str, Any], Types], Types]


def gives(*types: str | int) -> TypeRule:
    """The rule of an op whose outputs have these dtypes: a name, or the number of the input whose dtype it is. The last is that of the rest.

    Example:
        >>> gives(0, "int64")({}, ["float32"])
        ('float32', 'int64')
    """

    def rule(attributes: Mapping[str, Any], inputs: Types) -> Types:
        return tuple(t if isinstance(t, str) else inputs[t] if t < len(inputs) else None for t in types)

    return rule


LIKE_FIRST = gives(0)


def infer_types(nodes: Iterable[Node], known: Mapping[str, str | None], ops: Mapping[str, Op]) -> dict[str, str | None]:
    """The dtypes of all values, from those of the inputs and stored arrays; the nodes in an order in which they can run."""
    found = dict(known)
    for node in nodes:
        types = ops[node.op].types(node.attributes, [found.get(key) if key else None for key in node.inputs])
        for position, key in enumerate(node.outputs):
            if key:
                found[key] = types[min(position, len(types) - 1)] if types else None
    return found


def graph_types(graph: Graph, ops: Mapping[str, Op]) -> dict[str, str | None]:
    """The dtypes of a graph's values."""
    known: dict[str, str | None] = {item.name: item.dtype for item in graph.inputs}
    known |= {key: p.dtype.name for key, p in graph.weights.items()}
    known |= {key: array.dtype.name for key, array in (graph.state | graph.constants).items()}
    return infer_types(graph.nodes, known, ops)


def takes_floats(node: Node, types: Mapping[str, str | None]) -> bool:
    """Whether all inputs of a node, which has some, are known to be floats: what our words take."""
    return bool(node.inputs) and all(types[key] in FLOATS for key in node.inputs if key)
