"""ONNX nodes in our own words, wherever they say the same: what passes and reports then see is one vocabulary.

Our words take floats only, ONNX's arithmetic any type; so the words are used where values are known to be float (io.graph.types).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.io.graph import OPS, Graph, Node
from preimage.io.graph.lookup import stored_in
from preimage.io.graph.stored_words import STORED_WORDS
from preimage.io.graph.types import graph_types, takes_floats
from preimage.io.onnx.operators.contractions import pairs_of

__all__ = ["conv_word", "in_our_words"]

_POINTWISE = {
    "Abs": "abs", "Add": "add", "Div": "div", "Exp": "exp", "Log": "log", "Mul": "mul", "Relu": "relu", "Sigmoid": "sigmoid",
    "Softplus": "softplus", "Sqrt": "sqrt", "Sub": "sub", "Tanh": "tanh", "Identity": "identity",
    "GlobalAveragePool": "global_avg_pool", "GlobalMaxPool": "global_max_pool", "Neg": "neg", "Reciprocal": "reciprocal", "Mish": "mish",
}  # fmt: skip


def in_our_words(graph: Graph, outside: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph with ONNX's operators replaced by our words where all their inputs are known to be float.

    outside: stored arrays of the graphs around it, by the names of its inputs.
    """
    types = graph_types(graph, OPS)
    stored = dict(outside or {}) | stored_in(graph)
    nodes = []
    for node in graph.nodes:
        node = _with_typed_graphs(node, types, stored) if graph.graphs else node
        op = node.op.removeprefix("onnx.")
        if takes_floats(node, types):
            if op in _POINTWISE:
                node = replace(node, op=_POINTWISE[op])
            elif op in _REWRITE:
                node = _REWRITE[op](node, stored) or node
        nodes.append(node)
    return graph.replaced(nodes=nodes)


def _with_typed_graphs(node: Node, types: Mapping[str, str | None], stored: Mapping[str, np.ndarray]) -> Node:
    """A node whose graphs know the dtypes of what they take from outside, and what is stored there, in our words too."""

    def inner(graph: Graph) -> Graph:
        captured = node.words("captured")
        inputs = [replace(i, dtype=types.get(i.name) or "") if i.name in captured else i for i in graph.inputs]
        outside = {i.name: stored[i.name] for i in inputs if i.name in captured and i.name in stored}
        return in_our_words(graph.replaced(inputs=inputs), outside)

    return replace(node, attributes={k: inner(v) if isinstance(v, Graph) else v for k, v in node.attributes.items()})


_WORDS = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower"}


def _window(node: Node, ndim: int) -> dict[str, Any] | None:
    auto_pad = node.word("auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID", *_WORDS):
        return None
    strides, dilations = (node.integers(k, ()) or (1,) * ndim for k in ("strides", "dilations"))
    pads = node.integers("pads", ()) if auto_pad == "NOTSET" else ()
    if len(strides) != ndim or len(dilations) != ndim or len(pads) not in (0, 2 * ndim):
        return None
    padding = _WORDS.get(auto_pad) or tuple(pairs_of(list(pads) or None, ndim, node.op))
    return {"stride": strides, "padding": padding, "dilation": dilations}


def conv_word(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    weight = stored.get(node.inputs[1])
    given = node.attributes.get("kernel_shape") is not None
    if weight is None or weight.ndim < 2 or (given and node.integers("kernel_shape") != weight.shape[2:]):
        return None
    window = _window(node, weight.ndim - 2)
    if window is None:
        return None
    return replace(node, op="conv", attributes=window | {"groups": node.integer("group", 1)})


def _conv_transpose(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    plain = conv_word(node, stored)
    extra = node.integers("output_padding", ())
    if plain is None or node.attributes.get("output_shape") is not None or isinstance(plain.attributes["padding"], str):
        return None
    if extra and len(extra) != stored[node.inputs[1]].ndim - 2:
        return None
    return replace(plain, op="conv_transpose", attributes=dict(plain.attributes) | ({"output_padding": extra} if extra else {}))


def _max_pool(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    kernel = node.integers("kernel_shape")
    window = _window(node, len(kernel))
    if window is None or len(node.outputs) > 1:
        return None
    return replace(node, op="max_pool", attributes=window | {"kernel_size": kernel, "ceil_mode": node.flag("ceil_mode")})


def _avg_pool(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    plain = _max_pool(node, stored)
    if plain is None:
        return None
    counted = node.flag("count_include_pad")
    return replace(plain, op="avg_pool", attributes=dict(plain.attributes) | {"count_include_pad": counted})


def _batch_norm(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    if (
        node.attributes.get("training_mode")
        or not node.integer("spatial", 1)
        or len(node.outputs) > 1
        or any(key not in stored for key in node.inputs[1:])
    ):
        return None
    return replace(node, op="batch_norm", attributes={"eps": node.number("epsilon", 1e-5)})


def _leaky_relu(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    return replace(node, op="leaky_relu", attributes={"slope": node.number("alpha", 0.01)})


def _lrn(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    names = {
        "size": node.integer("size"),
        "alpha": node.number("alpha", 1e-4),
        "beta": node.number("beta", 0.75),
        "k": node.number("bias", 1.0),
    }
    return replace(node, op="lrn", attributes=names) if names["size"] > 0 else None


def _clip(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    bounds: list[float | None] = []
    for position, key in ((1, "min"), (2, "max")):
        name = node.inputs[position] if position < len(node.inputs) else ""
        if name and (name not in stored or stored[name].size != 1):
            return None
        if name:
            bounds.append(float(stored[name].reshape(()).item()))
        else:
            bounds.append(None if node.attributes.get(key) is None else node.number(key))
    if None not in bounds and bounds[0] > bounds[1]:  # type: ignore[operator]
        return None
    return replace(node, op="clip", inputs=node.inputs[:1], attributes={"lo": bounds[0], "hi": bounds[1]})


def _of_two(word: str) -> Callable[[Node, Mapping[str, np.ndarray]], Node | None]:
    return lambda node, stored: replace(node, op=word) if len(node.inputs) == 2 else None


def _elu(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    return replace(node, op="elu", attributes={"alpha": node.number("alpha", 1.0)})


def _gelu(node: Node, stored: Mapping[str, np.ndarray]) -> Node | None:
    how = node.word("approximate", "none")
    return replace(node, op="gelu", attributes={"approximate": how}) if how in ("none", "tanh") else None


_REWRITE: dict[str, Callable[[Node, Mapping[str, np.ndarray]], Node | None]] = {
    "Conv": conv_word,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "BatchNormalization": _batch_norm,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "LRN": _lrn,
    "Max": _of_two("maximum"),
    "Min": _of_two("minimum"),
    "Sum": _of_two("add"),
    "Elu": _elu,
    "Gelu": _gelu,
}
STORED_WORDS.update({f"onnx.{word}": _REWRITE[word] for word in ("Conv", "ConvTranspose", "BatchNormalization", "Clip")})
