"""Words spelled out in steps that generated kernels run as parts of longer chains.

A word that stands alone says what is meant; but a chain of steps takes the whole of it, and so does the epilogue of the contraction before it. So the
last pass before fusing writes such words as their steps, each of which rounds as the word's own function does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.io.graph.facts import Fact, infer
from preimage.io.graph.graph import Graph
from preimage.io.graph.lookup import stored_in
from preimage.io.graph.match import word_of
from preimage.io.graph.nodes import Node

__all__ = ["spell_out"]


class _Writer:
    """Steps that are written in the place of one node."""

    def __init__(self, node: Node, dtype: Any, rank: int) -> None:
        self.node, self.dtype, self.rank = node, dtype, rank
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def number(self, value: float) -> str:
        """A single number."""
        return self.array(np.asarray(value, self.dtype))

    def array(self, value: np.ndarray) -> str:
        key = f"{self.node.outputs[0]}:number {len(self.constants)}"
        self.constants[key] = value
        return key

    def step(self, op: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        """One step; its value."""
        key = self.node.outputs[0] if last else f"{self.node.outputs[0]}:step {len(self.nodes)}"
        name = self.node.name if last else f"{self.node.name}:step {len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs, (key,), attributes, self.node.layer))
        return key


def _hard_sigmoid(w: _Writer, x: str, last: bool = True) -> str:
    own = (0.2, 0.5) if w.node.op.startswith("onnx.") else (1 / 6, 0.5)
    slope, offset = (
        own[k] if w.node.attributes.get(name) is None else w.node.number(name) for k, name in enumerate(("alpha", "beta"))
    )
    line = w.step("add", w.step("mul", x, w.number(slope)), w.number(offset))
    return w.step("clip", line, last=last, lo=0.0, hi=1.0)


def _hard_swish(w: _Writer, x: str) -> None:
    line = w.step("add", w.step("mul", x, w.number(1 / 6)), w.number(0.5))
    w.step("mul", x, w.step("clip", line, lo=0.0, hi=1.0), last=True)


def _swish(w: _Writer, x: str) -> None:
    beta = w.node.number("beta", w.node.number("alpha", 1.0))
    w.step("mul", x, w.step("sigmoid", x if beta == 1 else w.step("mul", x, w.number(beta))), last=True)


#: Words by which expressions name nodes (`match.word_of`), with the steps that they are.
_SPELLED: dict[str, Callable[[_Writer, str], object]] = {
    "hard_sigmoid": _hard_sigmoid, "hard_swish": _hard_swish, "HardSwish": _hard_swish, "swish": _swish, "Swish": _swish,
}  # fmt: skip


#: Words of any number of operands, with the step that takes two.
_FOLDED = {"onnx.Sum": "add", "onnx.Max": "maximum", "onnx.Min": "minimum", "onnx.Mean": "add"}


def _folded(w: _Writer) -> None:
    """The operands one after the other, the first two first."""
    mean, (value, *others) = w.node.op == "onnx.Mean", w.node.inputs
    for k, other in enumerate(others):
        value = w.step(_FOLDED[w.node.op], value, other, last=not mean and k + 1 == len(others))
    if mean:
        w.step("div", value, w.number(len(others) + 1), last=True)


def _batch_norm(w: _Writer, stored: Mapping[str, np.ndarray]) -> None:
    """(x - mean) * factor + bias: the mean is taken off first, so that a large one costs no digits."""
    scale, bias, mean, variance = (stored.get(key) if key else None for key in (*w.node.inputs[1:], "", "", "")[:4])
    assert mean is not None
    assert variance is not None
    spread = (-1, *(1,) * (w.rank - 2))
    factor = 1 / np.sqrt(variance + variance.dtype.type(w.node.number("eps")))
    factor = factor if scale is None else scale * factor
    value = w.step("sub", w.node.inputs[0], w.array(mean.reshape(spread)))
    value = w.step("mul", value, w.array(np.asarray(factor).reshape(spread)), last=bias is None)
    if bias is not None:
        w.step("add", value, w.array(bias.reshape(spread)), last=True)


def spell_out(graph: Graph) -> Graph:
    """The graph with such words, and batch normalisations that no weights took in, as their steps."""
    facts, constants = infer(graph), dict(graph.constants)
    stored = stored_in(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        fact = facts.get(node.inputs[0], Fact()) if node.inputs else Fact()
        wide = fact.dtype in ("float32", "float64") and fact.shape is not None
        writer = _Writer(node, fact.dtype, len(fact.shape or ()))
        if wide and len(node.inputs) == 1 and (spelled := _SPELLED.get(word_of(node))) is not None:
            spelled(writer, node.inputs[0])
        elif wide and writer.rank > 1 and node.op == "batch_norm" and _stored_alike(node, stored, fact.dtype):
            _batch_norm(writer, stored)
        elif wide and len(node.inputs) > 1 and node.op in _FOLDED and _all_alike(node, facts):
            _folded(writer)
        nodes += writer.nodes or [replace(node)]
        constants |= writer.constants
    return graph.replaced(nodes=nodes, constants=constants) if len(nodes) > len(graph.nodes) else graph


def _all_alike(node: Node, facts: Mapping[str, Fact]) -> bool:
    return len({facts.get(key, Fact()).dtype for key in node.inputs}) == 1


def _stored_alike(node: Node, stored: Mapping[str, np.ndarray], dtype: str | None) -> bool:
    keys = [key for key in node.inputs[1:] if key]
    return len(node.inputs) == 5 and all(key in stored and stored[key].ndim == 1 and stored[key].dtype == dtype for key in keys)
