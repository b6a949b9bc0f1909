"""Contractions between DequantizeLinear and QuantizeLinear, said as contractions of integers.

Files of quantised nets hold them as contractions of floats whose factors were just dequantised from 8 bits, and whose result is quantised at
once (QDQ). What they mean is the sum of products of the integers, which is exact, scaled and rounded once: QLinearMatMul, QLinearConv, QGemm, and
`quantised_conv_transpose`, which ONNX has no operator for. The float sums round more often, so a result may be the next integer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import Quantised, QuantisedLookup
from preimage.io.graph.nodes import Node
from preimage.io.graph.simplify import pruned

__all__ = ["say_integers"]


class _Search(QuantisedLookup):
    """A graph's quantised values, and the constants that its contractions of integers need beside the stored ones."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.constants: dict[str, np.ndarray] = {}

    def inputs(self, q: Quantised) -> tuple[str, str, str]:
        """The names of a quantised value, its scale and its zero point, which is made where it is not written."""
        if q.zeros is not None:
            return q.value, q.scale, q.zero
        zero = f"{q.value}//zero"
        self.constants[zero] = np.zeros(q.scales.shape, q.dtype)
        return q.value, q.scale, zero

    def whole_bias(self, key: str, x: Quantised, w: Quantised, groups: int = 1) -> str | None:
        """The int32 numbers that a bias was dequantised from, in units of the products; an empty name for no bias. groups: that share w's scales."""
        if not key:
            return ""
        node = self.makers.get(key)
        if node is None or node.op != "onnx.DequantizeLinear" or self.types.get(node.inputs[0]) != "int32":
            return None
        scale, zero = self.stored.get((*node.inputs, "")[1]), (*node.inputs, "", "")[2]
        values = self.stored.get(node.inputs[0])
        if scale is None or values is None or values.ndim != 1 or (zero and (zero not in self.stored or self.stored[zero].any())):
            return None
        units = np.tile(x.scales.reshape(()) * w.scales.reshape(-1), groups)
        same = scale.size in (1, units.size) and np.allclose(scale.reshape(-1), units, rtol=1e-5, atol=0)
        return node.inputs[0] if same else None


def say_integers(graph: Graph) -> Graph:
    """The graph with such contractions as those of integers."""
    if not any(node.op in ("onnx.QuantizeLinear", "onnx.MatMulInteger") for node in graph.nodes):
        return graph
    search = _Search(graph)
    found: dict[str, Node] = {}  # by the name of the node that quantises
    gone: set[str] = set()
    for node in graph.nodes:
        scaled = _scaled(search, node)
        if scaled is not None:
            found[node.name] = replace(scaled[0], outputs=node.outputs, name=node.name, layer=node.layer)
            gone |= scaled[1]
            continue
        make = _MAKERS.get(node.op)
        after, idle = _quantised(search, node) if make is not None else (None, set())
        made = make(search, node, after) if make is not None and after is not None and after.scales.size == 1 else None
        if made is not None and after is not None:
            found[after.node.name] = replace(made, outputs=after.node.outputs, name=node.name, layer=node.layer)
            gone |= {node.name} | idle
    if not found:
        return graph
    nodes = [found.get(node.name, node) for node in graph.nodes if node.name not in gone]
    taken = Counter(key for node in nodes for key in node.inputs)
    nodes = [n for n in nodes if n.op != "onnx.DequantizeLinear" or taken[n.outputs[0]] or n.outputs[0] in search.kept]
    return pruned(graph, nodes, graph.constants | search.constants, {"contractions of integers": len(found)})


def _quantised(search: _Search, node: Node) -> tuple[Quantised | None, set[str]]:
    """What a node's result is quantised as, and the names of nodes between that change nothing: Relu before integers that have none below zero."""
    user = search.only_user(node.outputs[0])
    if user is None or user.op not in ("onnx.Relu", "relu") or len(user.inputs) != 1:
        return search.quantised(node.outputs[0]), set()
    after = search.quantised(user.outputs[0])
    if after is None or not (after.scales > 0).all():
        return None, set()
    lowest = 0 if after.zeros is None else after.zeros
    return (after, {user.name}) if np.all(lowest == np.iinfo(after.dtype).min) else (None, set())


def _scaled(search: _Search, node: Node) -> tuple[Node, set[str]] | None:
    """A product of MatMulInteger, cast to float32, with its scale, itself a product of one number and stored ones; the names of the nodes that go."""
    if node.op not in ("onnx.Mul", "mul") or len(node.inputs) != 2:
        return None
    for sums, scale in (node.inputs, node.inputs[::-1]):
        cast, factor = search.makers.get(sums), search.makers.get(scale)
        if cast is None or factor is None or cast.op != "onnx.Cast" or cast.attributes.get("to") != 1:
            continue
        product = search.makers.get(cast.inputs[0])
        once = all(search.only_user(key) is not None for key in (sums, scale, cast.inputs[0]))
        if product is None or product.op != "onnx.MatMulInteger" or not once or factor.op not in ("onnx.Mul", "mul"):
            continue
        own = [key for key in factor.inputs if key in search.stored]
        unit = next((key for key in factor.inputs if key not in search.stored), "")
        maker = search.makers.get(unit)
        if len(own) != 1 or maker is None or maker.op != "onnx.DynamicQuantizeLinear" or unit != maker.outputs[1]:
            continue
        a, b, *zeros = (*product.inputs, "", "")[:4]
        if search.stored[own[0]].ndim > 1 or search.stored[own[0]].dtype != np.float32:
            continue
        inputs = (a, b, unit, own[0], *zeros)
        return Node("", "onnx.com.microsoft::MatMulIntegerToFloat", inputs, (), {}, ""), {cast.name, factor.name, product.name}
    return None


def _factors(search: _Search, node: Node) -> tuple[Quantised, Quantised] | None:
    """Both factors, of which the first has one scale."""
    if len(node.inputs) < 2:
        return None
    x, w = (search.dequantised(key) for key in node.inputs[:2])
    return (x, w) if x is not None and w is not None and x.scales.size == 1 else None


def _is_along(w: Quantised, held: np.ndarray, axis: int) -> bool:
    """Whether stored weights have one scale, or one for each place of an axis."""
    return w.scales.size == 1 or (w.axis % held.ndim == axis and w.scales.shape == (held.shape[axis],))


def _matmul(search: _Search, node: Node, y: Quantised) -> Node | None:
    factors = _factors(search, node)
    if factors is None or len(node.inputs) > 2:
        return None
    a, b = factors
    held = search.stored.get(b.value)
    if b.scales.size > 1 and (held is None or held.ndim != 2 or not _is_along(b, held, 1)):
        return None
    return Node("", "onnx.QLinearMatMul", (*search.inputs(a), *search.inputs(b), *search.inputs(y)[1:]), (), {}, "")


def _convolution(word: str, channels: int) -> Callable[[_Search, Node, Quantised], Node | None]:
    """What makes such a node of integers. channels: the weights' axis of output channels."""

    def make(search: _Search, node: Node, y: Quantised) -> Node | None:
        factors = _factors(search, node)
        if factors is None:
            return None
        x, w = factors
        shared = node.integer("group", 1) if channels else 1  # groups that have the same scales
        held, bias = search.stored.get(w.value), search.whole_bias((*node.inputs, "")[2], x, w, shared)
        if held is None or not 3 <= held.ndim <= 5 or bias is None or not _is_along(w, held, channels):
            return None
        inputs = (*search.inputs(x), *search.inputs(w), *search.inputs(y)[1:], *([bias] if bias else []))
        return Node("", word, inputs, (), dict(node.attributes), "")

    return make


def _gemm(search: _Search, node: Node, y: Quantised) -> Node | None:
    factors, alpha = _factors(search, node), node.attributes.get("alpha", 1.0)
    if factors is None:
        return None
    a, b = factors
    added = (*node.inputs, "")[2]
    held, bias = search.stored.get(b.value), search.whole_bias(added, a, b)
    if held is None or held.ndim != 2 or bias is None or not _is_along(b, held, 0 if node.integer("transB", 0) else 1):
        return None
    if added and (alpha != 1 or node.attributes.get("beta", 1.0) != 1):
        return None
    attributes = {name: node.attributes[name] for name in ("alpha", "transA", "transB") if name in node.attributes}
    inputs = (*search.inputs(a), *search.inputs(b), bias, *search.inputs(y)[1:])
    return Node("", "onnx.com.microsoft::QGemm", inputs, (), attributes, "")


_MAKERS: Mapping[str, Callable[[_Search, Node, Quantised], Node | None]] = {
    "onnx.MatMul": _matmul,
    "matmul": _matmul,
    "onnx.Gemm": _gemm,
    "onnx.Conv": _convolution("onnx.QLinearConv", 0),
    "onnx.ConvTranspose": _convolution("quantised_conv_transpose", 1),
}
