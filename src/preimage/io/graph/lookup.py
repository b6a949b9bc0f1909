"""What passes look up in a graph: which arrays are stored, what a run gives back, which node makes a value and which nodes take it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from preimage.io.graph.nodes import OPS, Node, users_of
from preimage.io.graph.types import graph_types

if TYPE_CHECKING:
    from preimage.io.graph.graph import Graph

__all__ = ["Lookup", "Quantised", "QuantisedLookup", "kept_in", "single_users", "stored_in"]


def stored_in(graph: Graph) -> dict[str, np.ndarray]:
    """The arrays of weights, state and constants, by name."""
    return {key: p.data for key, p in graph.weights.items()} | graph.state | graph.constants


def kept_in(graph: Graph) -> frozenset[str]:
    """Values that are seen after a run: its outputs, and what buffers are renewed with. Their names must stay."""
    return frozenset((*graph.outputs, *graph.updates.values()))


class Lookup:
    """Nodes by the values that they make and take.

    makers: the node that makes a value. users: the nodes that take it, each once, in order. kept: values that are seen after a run.
    """

    def __init__(self, nodes: Sequence[Node], kept: Collection[str]) -> None:
        self.makers = {key: node for node in nodes for key in node.outputs if key}
        self.users, self.kept = users_of(nodes), frozenset(kept)

    def only_user(self, key: str) -> Node | None:
        """The node that alone takes a value which is not seen after a run; None where there is no such node. It may take it twice."""
        users = self.users.get(key, ())
        return users[0] if len(users) == 1 and key not in self.kept else None


def single_users(graph: Graph) -> dict[str, Node]:
    """Values that one node alone takes, once, and that are not seen after a run; and that node."""
    found = Lookup(graph.nodes, kept_in(graph))
    users = {key: found.only_user(key) for key in found.users}
    return {key: node for key, node in users.items() if node is not None and node.inputs.count(key) == 1}


class Quantised(NamedTuple):
    """A value of 8 bits that a node dequantises, or makes by quantising: the names of value, scale and zero point, and what the last two hold.

    zero is empty, and zeros None, where the zero point is not written.
    """

    node: Node
    value: str
    dtype: str
    scale: str
    zero: str
    scales: np.ndarray
    zeros: np.ndarray | None
    axis: int


class QuantisedLookup(Lookup):
    """The quantised values of a graph whose scales and zero points are stored."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.nodes, kept_in(graph))
        self.stored, self.types = stored_in(graph), graph_types(graph, OPS)

    def dequantised(self, key: str) -> Quantised | None:
        """The 8-bit integers that a value was dequantised from."""
        return self.said_by(self.makers.get(key), "onnx.DequantizeLinear")

    def quantised(self, key: str) -> Quantised | None:
        """The 8-bit integers that a value becomes, where nothing else takes it."""
        user = self.only_user(key)
        return self.said_by(user, "onnx.QuantizeLinear") if user is not None and user.inputs[0] == key else None

    def said_by(self, node: Node | None, op: str) -> Quantised | None:
        """What a node says of its integers, if it is this operator between float32 and 8 bits."""
        if node is None or node.op != op or node.attributes.get("block_size") or node.attributes.get("output_dtype"):
            return None
        scale, zero = (*node.inputs, "", "")[1:3]
        value = node.inputs[0] if op == "onnx.DequantizeLinear" else node.outputs[0]
        dtype, scales, zeros = self.types.get(value), self.stored.get(scale), self.stored.get(zero)
        if dtype not in ("int8", "uint8") or scales is None or scales.dtype != np.float32 or (zero and zeros is None):
            return None
        if zeros is not None and (zeros.dtype != dtype or zeros.size not in (1, scales.size)):
            return None
        return Quantised(node, value, dtype, scale, zero, scales, zeros, node.integer("axis", 1))
