"""Contractions of integers with stored weights, said in our words for inference: values less their zero point, a contraction in float32, the sums
scaled and rounded.

Only where no sum can leave the integers that float32 holds, so that the results are those of the operators themselves, to the last bit; what that
takes is known from the weights (operators/quantised_products.py). A graph is rewritten so by `optimise`, and files are written as they came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from preimage.io.graph import Node
from preimage.io.graph.stored_words import STORED_SPELLINGS, Spelling
from preimage.io.onnx.canonical import conv_word
from preimage.io.onnx.operators.quantised_products import FLOAT32, bound_of, centred, divided, per_output

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


def _conv(parts: _Parts, x: str, x_zero: str, w: np.ndarray, w_zero: np.ndarray | None, bias: np.ndarray | None) -> list[str]:
    """The sums of a convolution, as one value, or as two to be added; none where they may leave float32."""
    zero = per_output(w_zero, w)
    whole = centred(w, zero).astype(np.float32)
    weight = parts.constant("weight", whole)
    word = conv_word(replace(parts.node, inputs=("", weight)), parts.constants)
    if bound_of(w, zero, _SPAN, bias) <= FLOAT32:
        ends: list[int] | None = [0, w.shape[1]]
    else:
        ends = divided(w, zero, _SPAN, bias) if parts.node.integer("group", 1) == 1 else None
    if word is None or ends is None or len(ends) > 3:
        return []
    values, sums = parts.centred(x, x_zero), []
    word = replace(word, attributes=dict(word.attributes) | {"accuracy": "exact"})
    for k, (start, stop) in enumerate(pairwise(ends)):
        own = values
        if len(ends) > 2:
            own = parts.add(Node("", "slice_axis", (values,), (), {"axis": 1, "start": start, "stop": stop}, ""), f"values {k}")
            weight = parts.constant(f"weight {k}", whole[:, start:stop].copy())
        added = (parts.constant("bias", bias.astype(np.float32)),) if bias is not None and not k else ()
        sums.append(parts.add(replace(word, inputs=(own, weight, *added)), f"sums {k}"))
    return sums


def _finish(parts: _Parts, sums: str, unit: np.ndarray, scale: np.ndarray, zero: str) -> Spelling:
    factor = parts.constant("factor", np.asarray(unit / scale, np.float32))
    parts.add(Node("", "rescaled", (sums, factor, zero), (), {}, ""), "")
    return parts.spelled()


def _qlinear_conv(node: Node, stored: _Stored) -> Spelling | None:
    known = _known(node, stored, {1: True, 2: True, 3: True, 4: True, 5: True, 6: True, 7: True, 8: False})
    if known is None:
        return None
    x_scale, w, w_scale, scale, zero = (v for k in (1, 3, 4, 6, 7) if (v := known[k]) is not None)
    if w.ndim < 3 or w.dtype.itemsize > 1 or zero.size != 1 or zero.dtype.itemsize > 1 or w_scale.size not in (1, len(w)):
        return None
    parts = _Parts(node)
    sums = _conv(parts, node.inputs[0], node.inputs[2], w, known[5], known[8])
    if not sums:
        return None
    # of two sums the total is rounded once, as the operator itself rounds it
    total = sums[0] if len(sums) == 1 else parts.add(Node("", "add", tuple(sums), (), {}, ""), "sums")
    each = w_scale.reshape((-1, *(1,) * (w.ndim - 2)) if w_scale.size > 1 else ())
    return _finish(parts, total, np.asarray(x_scale * each), scale, node.inputs[7])


def _conv_integer(node: Node, stored: _Stored) -> Spelling | None:
    known = _known(node, stored, {1: True, 3: False})
    if known is None or (w := known[1]) is None or w.ndim < 3 or w.dtype.itemsize > 1:
        return None
    parts = _Parts(node)
    sums = _conv(parts, node.inputs[0], _zero_name(node), w, known[3], None)
    return _as_int32(parts, sums) if sums else None


def _as_int32(parts: _Parts, sums: list[str]) -> Spelling:
    """Each as integers, which are then added."""
    last = len(sums) - 1
    whole = [
        parts.add(Node("", "onnx.Cast", (key,), (), {"to": 6}, ""), f"integers {k}" if last else "") for k, key in enumerate(sums)
    ]
    if last:
        parts.add(Node("", "onnx.Add", tuple(whole), (), {}, ""), "")
    return parts.spelled()


def _product(parts: _Parts, a: str, a_zero: str, b: np.ndarray, b_zero: np.ndarray | None, stored: _Stored) -> str | None:
    """The sums of a matrix product, as a value; None where they may leave float32, or the left side has a zero point for each row."""
    rows = b_zero if b_zero is None or not b_zero.ndim else b_zero.reshape(-1, 1)
    single = not a_zero or (a_zero in stored and stored[a_zero].size == 1)
    if b.ndim != 2 or b.dtype.itemsize > 1 or not single or bound_of(b.T, rows, _SPAN, None) > FLOAT32:
        return None
    right = parts.constant("weight", centred(b, b_zero).astype(np.float32))
    return parts.add(Node("", "matmul", (parts.centred(a, a_zero), right), (), {}, ""), "sums")


def _matmul_integer(node: Node, stored: _Stored) -> Spelling | None:
    known = _known(node, stored, {1: True, 3: False})
    if known is None or (b := known[1]) is None:
        return None
    parts = _Parts(node)
    sums = _product(parts, node.inputs[0], _zero_name(node), b, _flat(known[3]), stored)
    return None if sums is None else _as_int32(parts, [sums])


def _qlinear_matmul(node: Node, stored: _Stored) -> Spelling | None:
    known = _known(node, stored, {1: True, 2: True, 3: True, 4: True, 5: True, 6: True, 7: True})
    if known is None:
        return None
    a_scale, b, b_scale, scale, zero = (v for k in (1, 3, 4, 6, 7) if (v := known[k]) is not None)
    if a_scale.size != 1 or scale.size != 1 or zero.size != 1 or zero.dtype.itemsize > 1:
        return None
    parts = _Parts(node)
    sums = _product(parts, node.inputs[0], node.inputs[2], b, _flat(known[5]), stored)
    return None if sums is None else _finish(parts, sums, np.asarray(a_scale * b_scale), scale, node.inputs[7])


def _flat(zero: np.ndarray | None) -> np.ndarray | None:
    return zero.reshape(()) if zero is not None and zero.size == 1 else zero


def _of_8_bits(spell: Callable[[Node, _Stored], Spelling | None]) -> Callable[[Node, _Stored, _Types], Spelling | None]:
    return lambda node, stored, types: spell(node, stored) if types.get(node.inputs[0]) in ("int8", "uint8") else None


_WORDS: dict[str, Callable[[Node, _Stored], Spelling | None]] = {
    "onnx.QLinearConv": _qlinear_conv, "onnx.ConvInteger": _conv_integer, "onnx.MatMulInteger": _matmul_integer,
    "onnx.QLinearMatMul": _qlinear_matmul,
}  # fmt: skip
STORED_SPELLINGS.update({name: _of_8_bits(spell) for name, spell in _WORDS.items()})
