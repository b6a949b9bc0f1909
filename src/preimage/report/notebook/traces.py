"""Traces in notebooks: a layer's real arrays, and single numbers with the products that made them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from preimage.analysis.numbers import Born, Entries, Why
from preimage.analysis.sums import Sum
from preimage.analysis.tracing import Frame, LayerTrace, Stroke
from preimage.report import draw
from preimage.report.notebook.parts import card, drawing, facts, pictures, planes, shape, table

__all__ = ["born", "entries", "frame", "layer_trace", "stroke", "total", "why"]

#: Cells of the largest array of a trace whose numbers are drawn.
MOST_CELLS = 300


def layer_trace(t: LayerTrace) -> str:
    """The arrays of one layer on one input."""
    g = t.geometry
    kind = "Fully connected layer" if t.fully_connected else "Transposed convolution" if t.transposed else "Convolution"
    rows = [("weight", f"{shape(t.w.shape)}, {t.w.dtype}{', with a bias' if t.b is not None else ''}")]
    if not t.fully_connected:
        mode = "" if t.padding_mode == "zeros" else f", {t.padding_mode}"
        rows.append(("stride, padding, dilation, groups", f"{g.stride}; {g.padding}{mode}; {g.dilation}; {g.groups}"))
    shown = _step(t) or pictures([planes(t.x, "input"), planes(t.w, "weight"), planes(t.output, "output")])
    name = f"{kind} {t.name}" if t.name else kind
    return card(name, facts(rows), shown, note=f"{shape(t.input_shape)} → {shape(t.output_shape)}")


def _step(t: LayerTrace) -> str:
    """One step of the layer, drawn with its numbers, where the arrays are small."""
    if max(prod(t.input_shape[1:]), prod(t.output_shape[1:]), t.w.size) > MOST_CELLS or not t.input_shape[0]:
        return ""
    return drawing(lambda: draw.paint(t) if t.transposed else draw.slide(t))


def stroke(s: Stroke) -> str:
    """One activation and the outputs that it reaches, the largest products first."""
    products = s.products
    order = abs(products).argsort()[::-1]
    rows = [(_at(s.outputs[k]), _at(s.weight_index[k]), f"{s.weights[k]:+.6g}", f"{products[k]:+.6g}") for k in order]
    head = ("output", "weight", "its value", f"times {s.value:.6g}")
    return card(f"Activation {_at(s.index)}", table(head, rows, numbers=2), note=f"{s.value:.8g} reaches {len(s)} outputs")


def frame(f: Frame) -> str:
    """The output after one step of the painting."""
    title = "After the bias" if f.stroke is None else f"After activation {_at(f.stroke.index)}"
    return card(title, pictures([planes(f.output, "output")]))


def total(s: Sum) -> str:
    """One number as the sum that it is, the largest products first."""
    order = "in the order of the numerics contract" if s.promised else "in no order that is promised"
    note = f"{len(s)} products, summed {order}"
    return card(f"{s.what}{_at(s.index)} = {s.value:.8g}", _terms(s), note=note)


def _terms(s: Sum) -> str:
    a, b = s.operands
    rows: list[tuple[str, str, str, str, str]] = [
        (
            f"{a}{_at(t.input_index or ())}",
            f"{t.input:+.6g}",
            f"{b}{_at(t.weight_index)}",
            f"{t.weight:+.6g}",
            f"{t.product:+.6g}",
        )
        for t in s.largest
    ]
    if s.bias is not None:
        rows.append(("bias", "", "", "", f"{s.bias:+.6g}"))
    return table((a, "value", b, "value", "product"), rows, numbers=1, total=("sum", "", "", "", f"{s.value:+.8g}"))


def why(w: Why) -> str:
    """What made one number: the nearest contractions, and what led from them to it."""
    parts = []
    for path, s in zip(w.paths, w.sums, strict=True):
        way = f"through {' < '.join(path)}: " if path else ""
        parts.append(facts([(f"{s.what}{_at(s.index)} = {s.value:.8g}", f"{way}{len(s)} products")]) + _terms(s))
    if w.leaves:
        parts.append(table(("given", "at", "value"), [(name, _at(i), f"{v:.8g}") for name, i, v in w.leaves], numbers=1))
    return card(f"{_at(w.index)} = {w.value:.8g}", *parts)


def entries(e: Entries) -> str:
    """Entries of a Jacobian, the largest first."""
    if e.values is None:
        rows: list[Sequence[str]] = [(_at(i), f"{f:+.6g}") for i, f in zip(e.indices, e.factors, strict=True)]
        return card("Entries of a Jacobian's column", table(("index", "factor"), rows, numbers=1), note=f"{len(e)}")
    rows = [(_at(i), f"{f:+.6g}", f"{v:+.6g}", f"{f * v:+.6g}") for i, f, v in zip(e.indices, e.factors, e.values, strict=True)]
    return card("Entries of a Jacobian's row", table(("index", "factor", "value", "product"), rows, numbers=3), note=f"{len(e)}")


def born(b: Born) -> str:
    """Where the first NaN or infinity of a run appeared."""
    rows = [(f"argument {k}", _at(i), f"{v:.8g}") for k, i, v in b.inputs]
    made = table(("made from", "at", "value"), rows, numbers=1) if rows else ""
    return card(f"{b.value} was born in {b.layer or b.op}", made, note=f"{b.op}, at {_at(b.index)}")


def _at(index: Sequence[int]) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]"
