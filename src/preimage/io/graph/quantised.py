"""Contractions between DequantizeLinear and QuantizeLinear, said as contractions of integers.

Files of quantised nets hold them as contractions of floats whose factors were just dequantised from 8 bits, and whose result is quantised at
once (QDQ). What they mean is the sum of products of the integers, which is exact, scaled and rounded once: QLinearMatMul, QLinearConv, and
`quantised_conv_transpose`, which ONNX has no operator for. The float sums round more often, so a result may be the next integer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from preimage.io.graph.graph import Graph
from preimage.io.graph.nodes import OPS, Node, users_of
from preimage.io.graph.simplify import pruned, stored_in
from preimage.io.graph.types import graph_types

__all__ = ["say_integers"]

_BYTES = ("int8", "uint8")


class _Quantised(NamedTuple):
    """A value of 8 bits with the names of its scale and zero point, and what these hold."""

    value: str
    scale: str
    zero: str
    scales: np.ndarray
    axis: int


class _Search:
    """A graph's nodes by what they make."""

    def __init__(self, graph: Graph) -> None:
        self.stored = stored_in(graph)
        self.types = graph_types(graph, OPS)
        self.makers = {key: node for node in graph.nodes for key in node.outputs}
        self.users, self.outputs = users_of(graph.nodes), frozenset(graph.outputs)
        self.constants: dict[str, np.ndarray] = {}

    def dequantised(self, key: str) -> _Quantised | None:
        """The 8-bit integers that a value was dequantised from, with a stored scale and zero point."""
        node = self.makers.get(key)
        return None if node is None or node.op != "onnx.DequantizeLinear" else self._said(node, node.inputs[0])

    def quantised(self, key: str) -> tuple[Node, _Quantised] | None:
        """The only node that takes a value, if it quantises it to 8 bits with one stored scale and zero point."""
        users = self.users.get(key, ())
        if len(users) != 1 or key in self.outputs or users[0].op != "onnx.QuantizeLinear" or users[0].inputs[0] != key:
            return None
        said = self._said(users[0], users[0].outputs[0])
        return (users[0], said) if said is not None and said.scales.size == 1 else None

    def _said(self, node: Node, value: str) -> _Quantised | None:
        scale, zero = (*node.inputs, "", "")[1:3]
        dtype = self.types.get(value)
        held = self.stored.get(scale)
        extra = node.attributes.get("block_size") or node.attributes.get("output_dtype")
        if dtype not in _BYTES or held is None or held.dtype != np.float32 or extra or (zero and zero not in self.stored):
            return None
        if zero and (self.stored[zero].dtype != dtype or self.stored[zero].size not in (1, held.size)):
            return None
        if not zero:
            zero = f"{value}//zero"
            self.constants[zero] = np.zeros(held.shape, dtype)
        return _Quantised(value, scale, zero, held, node.integer("axis", 1))

    def whole_bias(self, key: str, x: _Quantised, w: _Quantised) -> str | None:
        """The int32 numbers that a bias was dequantised from, in units of the products; an empty name for no bias."""
        if not key:
            return ""
        node = self.makers.get(key)
        if node is None or node.op != "onnx.DequantizeLinear" or self.types.get(node.inputs[0]) != "int32":
            return None
        scale, zero = self.stored.get((*node.inputs, "")[1]), (*node.inputs, "", "")[2]
        values = self.stored.get(node.inputs[0])
        if scale is None or values is None or values.ndim != 1 or (zero and (zero not in self.stored or self.stored[zero].any())):
            return None
        units = x.scales.reshape(()) * w.scales.reshape(-1)
        same = scale.size in (1, units.size) and np.allclose(scale.reshape(-1), units, rtol=1e-5, atol=0)
        return node.inputs[0] if same else None

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name


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
        after = search.quantised(node.outputs[0]) if make is not None else None
        made = make(search, node, after[1]) if make is not None and after is not None else None
        if made is not None and after is not None:
            found[after[0].name] = replace(made, outputs=after[0].outputs, name=node.name, layer=node.layer)
            gone.add(node.name)
    if not found:
        return graph
    nodes = [found.get(node.name, node) for node in graph.nodes if node.name not in gone]
    taken = Counter(key for node in nodes for key in node.inputs)
    nodes = [n for n in nodes if n.op != "onnx.DequantizeLinear" or taken[n.outputs[0]] or n.outputs[0] in search.outputs]
    return pruned(graph, nodes, graph.constants | search.constants, {"contractions of integers": len(found)})


def _scaled(search: _Search, node: Node) -> tuple[Node, set[str]] | None:
    """A product of MatMulInteger, cast to float32, with its scale, itself a product of one number and stored ones; the names of the nodes that go."""
    if node.op not in ("onnx.Mul", "mul") or len(node.inputs) != 2:
        return None
    for sums, scale in (node.inputs, node.inputs[::-1]):
        cast, factor = search.makers.get(sums), search.makers.get(scale)
        if cast is None or factor is None or cast.op != "onnx.Cast" or cast.attributes.get("to") != 1:
            continue
        product = search.makers.get(cast.inputs[0])
        once = all(len(search.users.get(key, ())) == 1 and key not in search.outputs for key in (sums, scale, cast.inputs[0]))
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


def _factors(search: _Search, node: Node) -> tuple[_Quantised, _Quantised] | None:
    """Both factors, of which the first has one scale."""
    if len(node.inputs) < 2:
        return None
    x, w = (search.dequantised(key) for key in node.inputs[:2])
    return (x, w) if x is not None and w is not None and x.scales.size == 1 else None


def _is_along(w: _Quantised, held: np.ndarray, axis: int) -> bool:
    """Whether stored weights have one scale, or one for each place of an axis."""
    return w.scales.size == 1 or (w.axis % held.ndim == axis and w.scales.shape == (held.shape[axis],))


def _matmul(search: _Search, node: Node, y: _Quantised) -> Node | None:
    factors = _factors(search, node)
    if factors is None or len(node.inputs) > 2:
        return None
    a, b = factors
    held = search.stored.get(b.value)
    if b.scales.size > 1 and (held is None or held.ndim != 2 or not _is_along(b, held, 1)):
        return None
    return Node("", "onnx.QLinearMatMul", (a.value, a.scale, a.zero, b.value, b.scale, b.zero, y.scale, y.zero), (), {}, "")


def _conv(search: _Search, node: Node, y: _Quantised) -> Node | None:
    factors = _factors(search, node)
    if factors is None or node.integer("group", 1) != 1:
        return None
    x, w = factors
    held, bias = search.stored.get(w.value), search.whole_bias((*node.inputs, "")[2], x, w)
    if held is None or not 3 <= held.ndim <= 4 or bias is None or not _is_along(w, held, 0):
        return None
    inputs = (x.value, x.scale, x.zero, w.value, w.scale, w.zero, y.scale, y.zero, *([bias] if bias else []))
    return Node("", "onnx.QLinearConv", inputs, (), dict(node.attributes), "")


def _conv_transpose(search: _Search, node: Node, y: _Quantised) -> Node | None:
    factors = _factors(search, node)
    if factors is None or node.integer("group", 1) != 1:
        return None
    x, w = factors
    held, bias = search.stored.get(w.value), search.whole_bias((*node.inputs, "")[2], x, w)
    if held is None or not 3 <= held.ndim <= 4 or bias is None or not _is_along(w, held, 1):
        return None
    inputs = (x.value, x.scale, x.zero, w.value, w.scale, w.zero, y.scale, y.zero, *([bias] if bias else []))
    return Node("", "quantised_conv_transpose", inputs, (), dict(node.attributes), "")


_MAKERS: Mapping[str, Callable[[_Search, Node, _Quantised], Node | None]] = {
    "onnx.MatMul": _matmul,
    "matmul": _matmul,
    "onnx.Conv": _conv,
    "onnx.ConvTranspose": _conv_transpose,
}
