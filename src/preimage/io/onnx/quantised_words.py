"""Convolutions of integers with stored weights that integer kernels do not take (groups, three spatial axes), said in our words for inference:
values less their zero point, a convolution in float32, the sums scaled and rounded.

Only where no sum can leave the integers that float32 holds, so that the results are those of the operators themselves, to the last bit; what that
takes is known from the weights (operators/quantised_products.py). A graph is rewritten so by `optimise`, and files are written as they came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from preimage.io.graph import Node
from preimage.io.graph.stored_words import STORED_SPELLINGS, Spelling
from preimage.io.onnx.canonical import conv_word
from preimage.io.onnx.operators.quantised_products import FLOAT32, bound_of, centred, per_output

__all__: list[str] = []

_Stored = Mapping[str, np.ndarray]
_ONE = np.ones((), np.float32)
#: The largest difference of two numbers of 8 bits.
_SPAN = 255
_Types = Mapping[str, str | None]


class _Parts:
    """The nodes and arrays that take a node's place."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, what: str, array: np.ndarray) -> str:
        name = f"{self.node.outputs[0]}//{what}"
        self.constants[name] = array
        return name

    def add(self, node: Node, what: str) -> str:
        """A node whose result gets a name; the last one's is that of the node replaced."""
        name = self.node.outputs[0] if what == "" else f"{self.node.outputs[0]}//{what}"
        self.nodes.append(replace(node, outputs=(name,), name=self.node.name if what == "" else name, layer=self.node.layer))
        return name

    def centred(self, x: str, zero: str) -> str:
        inputs = (x, self.constant("one", _ONE), *([zero] if zero else ()))
        return self.add(Node("", "onnx.DequantizeLinear", inputs, (), {}, ""), "centred")

    def spelled(self) -> Spelling:
        return self.nodes, self.constants


def _known(node: Node, stored: _Stored, positions: Mapping[int, bool]) -> dict[int, np.ndarray | None] | None:
    """The stored arrays at these positions, None for an absent one that need not be there; None altogether where one is not stored."""
    found: dict[int, np.ndarray | None] = {}
    for position, must in positions.items():
        key = node.inputs[position] if position < len(node.inputs) else ""
        if (key and key not in stored) or (must and not key):
            return None
        found[position] = stored[key] if key else None
    return found


def _zero_name(node: Node) -> str:
    return node.inputs[2] if len(node.inputs) > 2 else ""


def _conv(parts: _Parts, x: str, x_zero: str, w: np.ndarray, w_zero: np.ndarray | None, bias: np.ndarray | None) -> str | None:
    """The sums of a convolution, as a value; None where they may leave float32, or where integer kernels take it as it is."""
    zero = per_output(w_zero, w)
    if (parts.node.integer("group", 1) == 1 and w.ndim < 5) or bound_of(w, zero, _SPAN, bias) > FLOAT32:
        return None
    weight = parts.constant("weight", centred(w, zero).astype(np.float32))
    word = conv_word(replace(parts.node, inputs=("", weight)), parts.constants)
    if word is None:
        return None
    added = (parts.constant("bias", bias.astype(np.float32)),) if bias is not None else ()
    inputs = (parts.centred(x, x_zero), weight, *added)
    return parts.add(replace(word, inputs=inputs, attributes=dict(word.attributes) | {"accuracy": "exact"}), "sums")


def _qlinear_conv(node: Node, stored: _Stored) -> Spelling | None:
    known = _known(node, stored, {1: True, 2: True, 3: True, 4: True, 5: True, 6: True, 7: True, 8: False})
    if known is None:
        return None
    x_scale, w, w_scale, scale, zero = (v for k in (1, 3, 4, 6, 7) if (v := known[k]) is not None)
    if w.ndim < 3 or w.dtype.itemsize > 1 or zero.size != 1 or zero.dtype.itemsize > 1 or w_scale.size not in (1, len(w)):
        return None
    parts = _Parts(node)
    sums = _conv(parts, node.inputs[0], node.inputs[2], w, known[5], known[8])
    if sums is None:
        return None
    each = w_scale.reshape((-1, *(1,) * (w.ndim - 2)) if w_scale.size > 1 else ())
    factor = parts.constant("factor", np.asarray(np.asarray(x_scale * each) / scale, np.float32))
    parts.add(Node("", "rescaled", (sums, factor, node.inputs[7]), (), {}, ""), "")
    return parts.spelled()


def _conv_integer(node: Node, stored: _Stored) -> Spelling | None:
    known = _known(node, stored, {1: True, 3: False})
    if known is None or (w := known[1]) is None or w.ndim < 3 or w.dtype.itemsize > 1:
        return None
    parts = _Parts(node)
    sums = _conv(parts, node.inputs[0], _zero_name(node), w, known[3], None)
    if sums is None:
        return None
    parts.add(Node("", "onnx.Cast", (sums,), (), {"to": 6}, ""), "")
    return parts.spelled()


def _of_8_bits(spell: Callable[[Node, _Stored], Spelling | None]) -> Callable[[Node, _Stored, _Types], Spelling | None]:
    return lambda node, stored, types: spell(node, stored) if types.get(node.inputs[0]) in ("int8", "uint8") else None


_WORDS: dict[str, Callable[[Node, _Stored], Spelling | None]] = {
    "onnx.QLinearConv": _qlinear_conv,
    "onnx.ConvInteger": _conv_integer,
}
STORED_SPELLINGS.update({name: _of_8_bits(spell) for name, spell in _WORDS.items()})
