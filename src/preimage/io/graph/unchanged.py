"""Values that a loop hands from trip to trip and never changes: they are taken from outside instead.

TensorFlow's loops carry their weights so. As values from outside they become constants of the body, where what is computed of them alone (casts,
parts) is computed once, and products have them packed. All bits are kept.
"""

from __future__ import annotations

from dataclasses import replace

from preimage.io.graph.graph import Graph
from preimage.io.graph.nodes import Node
from preimage.io.graph.simplify import pruned

__all__ = ["take_unchanged"]

#: Where the values that are handed on begin: among the inputs of the node and of its body, and the results of the body; those of the node begin at 0.
_BEGIN = {"onnx.Loop": (2, 1), "onnx.Scan": (0, 0)}


def take_unchanged(graph: Graph) -> Graph:
    """Take what loops hand on unchanged out of what they hand on."""
    nodes, count = list[Node](), 0
    for node in graph.nodes:
        found = _parts(node) if node.op in _BEGIN else [node]
        count += len(found) - 1
        nodes += found
    return pruned(graph, nodes, graph.constants, {"loop values that do not change": count}) if count else graph


def _parts(node: Node) -> list[Node]:
    """The node without the values that it hands on unchanged, and a node for each of those, under the name of its last value."""
    body, captured = node.held("body", Graph), node.words("captured", ())
    first, result = _BEGIN[node.op]
    own = len(node.inputs) - len(captured)
    handed = [item.name for item in body.inputs if item.name not in captured]
    count = own - first - (node.integer("num_scan_inputs") if node.op == "onnx.Scan" else 0)
    if count < 1 or len(handed) != own or len(body.outputs) < result + count or len(node.outputs) < count:
        return [node]
    other = {each.outputs[0]: each.inputs[0] for each in body.nodes if each.op == "identity"}
    kept = [_origin(body.outputs[result + k], other) != handed[first + k] for k in range(count)]
    if all(kept):
        return [node]

    def left(values: tuple[str, ...], begin: int) -> tuple[str, ...]:
        return tuple(value for k, value in enumerate(values) if not begin <= k < begin + count or kept[k - begin])

    gone = [k for k in range(count) if not kept[k]]
    attributes = dict(node.attributes) | {
        "body": body.replaced(outputs=list(left(tuple(body.outputs), result))),
        "captured": (*(handed[first + k] for k in gone), *captured),
    }
    if "outputs" in attributes:  # how many the operator gives
        attributes["outputs"] = len(node.outputs) - len(gone)
    inputs = (*left(node.inputs[:own], first), *(node.inputs[first + k] for k in gone), *node.inputs[own:])
    rest = replace(node, inputs=inputs, outputs=left(node.outputs, 0), attributes=attributes)
    same = [Node(f"{node.name}:{k}", "identity", (node.inputs[first + k],), (node.outputs[k],)) for k in gone if node.outputs[k]]
    return [rest, *same] if any(rest.outputs) else [node]


def _origin(key: str, other: dict[str, str]) -> str:
    while key in other:
        key = other[key]
    return key
