"""Tables about models: what `preimage info` and `preimage run` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from preimage.io.graph import Step
from preimage.io.graph.changes import Changes
from preimage.io.inspection import Layer, ModelInfo
from preimage.report.terminal import Terminal

__all__ = ["print_changes", "print_info", "print_profile", "print_results"]

#: Layers named beside a reason; the others are counted.
SHOWN_LAYERS = 4


def _count(n: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:.0f}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _fitting(console: Console) -> Console:
    """A console wide enough for a table when the output is no terminal."""
    return console if console.is_terminal else Terminal(width=150, file=console.file)


def print_info(info: ModelInfo, console: Console) -> None:
    """A model's layers and totals."""
    table = Table(title=info.name or None, title_justify="left", box=None, header_style="bold")
    for name, justify in (("layer", "left"), ("op", "left"), ("output", "left"), ("parameters", "right"), ("flop", "right"),
                          ("ms", "right"), ("sees", "right"), ("schedule", "left")):  # fmt: skip
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for layer in info.layers:
        table.add_row(
            layer.name, layer.op, " ".join(map(_shape, layer.shapes)), f"{layer.parameters:,}" if layer.parameters else "",
            _count(layer.work_flop) if layer.work_flop else "", f"{layer.time_ns / 1e6:.2f}",
            _shape(layer.field) if layer.field else "", layer.schedule,
        )  # fmt: skip
    out = _fitting(console)
    out.print(table)
    out.print("")
    for kind, shapes in (("input", info.inputs), ("output", info.outputs)):
        for name, shape in shapes.items():
            out.print(f"{kind:<7} {name}  {_shape(shape)}")
    out.print(
        f"{len(info.layers)} layers  {info.parameters:,} parameters ({_count(info.stored_bytes)}B)  {_count(info.work_flop)}flop"
        f"  values alive at once: {_count(info.peak_bytes)}B",
    )
    _print_refusals(info.layers, out)
    out.print(
        f"held between runs: packed weights {_count(info.packed_bytes)}B, buffers {_count(info.buffer_bytes)}B",
    )


def print_changes(changes: Changes, console: Console) -> None:
    """What the passes do to a model before it runs for inference."""
    if changes:
        console.print(f"\nfor inference {changes!s}")


def _print_refusals(layers: Sequence[Layer], out: Console) -> None:
    """The strategies that the plans refused: each reason once, with the layers that it concerns."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        for strategy, reason in layer.refused.items():
            reasons.setdefault((strategy, reason), []).append(layer.name)
    if not reasons:
        return
    table = Table(title="strategies refused", title_justify="left", box=None, header_style="bold")
    for name in ("strategy", "reason", "layers"):
        table.add_column(name, overflow="fold")
    for (strategy, reason), names in sorted(reasons.items()):
        more = f" and {len(names) - SHOWN_LAYERS} more" if len(names) > SHOWN_LAYERS else ""
        table.add_row(strategy, reason, ", ".join(names[:SHOWN_LAYERS]) + more)
    out.print(table)
    out.print("")


def print_profile(steps: Sequence[Step], console: Console) -> None:
    """The time of every node, the slowest first."""
    total = sum(step.time_ns for step in steps) or 1
    table = Table(box=None, header_style="bold")
    for name, justify in (("layer", "left"), ("op", "left"), ("output", "left"), ("ms", "right"), ("share", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for step in sorted(steps, key=lambda s: -s.time_ns):
        shapes = " ".join(map(_shape, step.shapes))
        op = step.node.op.removeprefix("onnx.")
        table.add_row(step.node.name, op, shapes, f"{step.time_ns / 1e6:.3f}", f"{100 * step.time_ns / total:.1f} %")
    table.add_row("all", "", "", f"{total / 1e6:.3f}", "")
    _fitting(console).print(table)


def print_results(rows: Sequence[tuple[str, str, np.ndarray]], console: Console) -> None:
    """One row per input and output: shape, range, mean, and the largest value's place."""
    table = Table(box=None, header_style="bold")
    for name in ("input", "output", "shape", "least", "most", "mean", "largest at"):
        table.add_column(name, overflow="fold")
    for source, key, value in rows:
        if not value.size:
            table.add_row(source, key, _shape(value.shape), "", "", "", "")
            continue
        place: Any = np.unravel_index(int(np.argmax(value)), value.shape)
        numbers = [f"{float(v):.5g}" for v in (value.min(), value.max(), value.mean(dtype=np.float64))]
        table.add_row(source, key, _shape(value.shape), *numbers, ",".join(str(int(p)) for p in place))
    _fitting(console).print(table)
