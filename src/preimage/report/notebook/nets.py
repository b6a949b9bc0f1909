"""Tensors, modules, imported graphs and analyses of nets in notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage.analysis.network import Layer, Network
from preimage.autograd import Tensor
from preimage.io.graph import Graph, Input
from preimage.io.inspection import ModelInfo
from preimage.nn import Module, Summary
from preimage.report.notebook.parts import block, card, count, facts, more, shape, table

__all__ = ["graph", "layer", "model_info", "module", "network", "summary", "tensor"]


def tensor(t: Tensor) -> str:
    """Shape, dtype, where it came from, its range, and its first values."""
    data = t.data
    made = f"from {t._node.op.name}" if t._node is not None else "a leaf that gets a gradient" if t.requires_grad else "a leaf"
    rows: list[tuple[str, object]] = []
    if data.size > 1:
        with np.errstate(all="ignore"):
            wide = data.astype(np.float64)
            finite = wide[np.isfinite(wide)]
        if finite.size:
            rows.append(("least, mean, most", f"{finite.min():.6g}, {finite.mean():.6g}, {finite.max():.6g}"))
        if finite.size < data.size:
            rows.append(("not finite", f"{data.size - finite.size:,} of {data.size:,} (left out above)"))
    if t.grad is not None:
        rows.append(("grad", f"there, of norm {float(np.sqrt(np.sum(np.square(t.grad.data, dtype=np.float64)))):.6g}"))
    text = np.array2string(data, separator=", ", threshold=40, edgeitems=2, max_line_width=100, precision=5)
    title = f"Tensor {t.name or ''}".strip()
    return card(title, facts(rows) if rows else "", block(text), note=f"{shape(t.shape)}, {t.dtype}, {made}")


def module(m: Module) -> str:
    """The parameters with their shapes and costs; the tree of modules opens with a click."""
    owners = {full: (owner, name) for full, owner, name, _ in m._entries("_parameters")}
    rows = []
    for full, parameter in m.named_parameters():
        owner, name = owners[full]
        flop = getattr(owner, "position_flop", None)
        cost = f"{flop:,}" if flop is not None and name == "weight" else ""
        rows.append((full, str(parameter.shape), str(parameter.dtype), f"{parameter.size:,}", cost))
    total = ("total", "", "", f"{sum(p.size for p in m.parameters()):,}", "")
    head = ("parameter", "shape", "dtype", "elements", "flop per output position")
    tree = more("its modules", block(repr(m))) if list(m.named_children()) else ""
    return card(type(m).__name__, table(head, rows, numbers=2, total=total), tree, note=m.extra_repr())


def summary(s: Summary) -> str:
    """One row per module that was run."""
    *rows, total = s.cells()
    head = ("module", "kind", "output", "parameters", "flop")
    return card("Summary", table(head, rows, numbers=2, total=total), note=f"input {s.input_shape}")


def graph(g: Graph) -> str:
    """Inputs, outputs, what operations there are, and every node with its weights."""
    ops = Counter(node.op.removeprefix("onnx.") for node in g.nodes)
    size = sum(p.size for p in g.parameters())
    rows = [
        ("inputs", "; ".join(f"{i.name} {_sizes(i)}" for i in g.inputs)),
        ("outputs", "; ".join(g.outputs)),
        ("operations", ", ".join(f"{n} {op}" for op, n in ops.most_common())),
        ("parameters", f"{size:,} in {len(g.weights)} arrays"),
    ]
    nodes = [
        (n.layer or n.name, n.op.removeprefix("onnx."), ", ".join(k for k in n.inputs if k and k not in g.weights and k not in g.constants
         and k not in g.state), ", ".join(f"{k} {shape(g.weights[k].shape)}" for k in n.inputs if k in g.weights), ", ".join(filter(None, n.outputs)))
        for n in g.nodes
    ]  # fmt: skip
    return card(
        f"Graph {g.name}".strip(), facts(rows),
        more(f"its {len(nodes):,} nodes", table(("node", "operation", "takes", "parameters", "makes"), nodes)),
        note=f"{len(nodes):,} nodes",
    )  # fmt: skip


def _sizes(item: Input) -> str:
    return "of any shape" if item.shape is None else f"({shape(item.shape)})"


def network(n: Network) -> str:
    """The analysis of a net, a row for each layer."""
    head = ("layer", "operation", "output", "sees", "jump", "flop", "parameters", "bytes")
    rows = [
        (
            l.name,
            l.op,
            shape(l.shape),
            _axes(l.field),
            _axes(l.jump),
            f"{l.cost.flop:,}",
            f"{l.parameters:,}",
            f"{l.output_bytes:,}",
        )
        for l in n.layers
    ]
    total = ("total", "", "", "", "", f"{n.cost.flop:,}", f"{sum(l.parameters for l in n.layers):,}", "")
    m = n.memory
    more_facts = [
        ("gradients", f"{count(n.cost.backward_flop)}flop"),
        ("memory", f"parameters {count(m.parameter_bytes)}B; forward {count(m.forward_peak_bytes)}B and training"
         f" {count(m.training_peak_bytes)}B at most"),
        *(("grids do not meet", str(join)) for join in n.misaligned),
    ]  # fmt: skip
    if n.gaps:
        more_facts.append(("not followed beyond", ", ".join(n.gaps)))
    return card("Network", table(head, rows, numbers=3, total=total), facts(more_facts), note=f"{count(n.cost.flop)}flop")


def layer(l: Layer) -> str:
    """One layer of an analysis."""
    rows = [
        ("output", f"{shape(l.shape)}, {count(l.output_bytes)}B"),
        ("one output sees", _axes(l.field)),
        ("one input reaches", _axes(l.projective)),
        ("jump, start", f"{_axes(l.jump)}; {_axes(l.start)}"),
        ("parameters", f"{l.parameters:,}"),
        ("forward, gradients", f"{count(l.cost.flop)}flop; {count(l.cost.backward_flop)}flop"),
    ]
    if l.coverage is not None:
        rows.append(("coverage of the output", l.coverage.verdict or "too small to tell"))
    return card(f"Layer {l.name}", facts(rows), note=l.op)


def _axes(values: Sequence[Any]) -> str:
    words = ["not followed" if v is None else str(v) for v in values]
    return "" if not words else words[0] if len(set(words)) == 1 else ", ".join(words)


def model_info(info: ModelInfo) -> str:
    """A model after one run: its layers, and what it holds."""
    head = ("layer", "operation", "output", "schedule", "sees", "parameters", "flop", "ms")
    rows = [
        (l.name, l.op.removeprefix("onnx."), "; ".join(shape(s) for s in l.shapes), l.schedule, shape(l.field) if l.field else "",
         f"{l.parameters:,}" if l.parameters else "", f"{l.work_flop:,}" if l.work_flop else "", f"{l.time_ns / 1e6:.2f}")
        for l in info.layers
    ]  # fmt: skip
    totals = [
        *((f"input {name}", shape(s)) for name, s in info.inputs.items()),
        *((f"output {name}", shape(s)) for name, s in info.outputs.items()),
        ("parameters", f"{info.parameters:,}, {count(info.stored_bytes)}B"),
        ("values alive at once", f"{count(info.peak_bytes)}B"),
        ("held between runs", f"packed weights {count(info.packed_bytes)}B, buffers {count(info.buffer_bytes)}B"),
    ]
    return card(f"Model {info.name}".strip(), facts(totals), table(head, rows, numbers=4), note=f"{count(info.work_flop)}flop")
