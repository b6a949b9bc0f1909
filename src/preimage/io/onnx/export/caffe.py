"""How words that only Caffe nets use are written as ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, word

__all__: list[str] = []


def _chain(writer: Writer, node: Node, steps: Sequence[tuple[str, float | None]]) -> None:
    """Operators one after the other, each with one more constant operand (or none), ending in the node's output."""
    value = node.inputs[0]
    for position, (op, operand) in enumerate(steps or [("Identity", None)]):
        last = position == max(len(steps), 1) - 1
        result = node.outputs[0] if last else writer.value()
        writer.add(op, [value] if operand is None else [value, writer.constant(operand)], [result], node.name if last else "")
        value = result


@word("dropout")
def _dropout(writer: Writer, node: Node) -> None:
    writer.add("Identity", node.inputs[:1], node.outputs[:1], node.name)


@word("crop_like")
def _crop_like(writer: Writer, node: Node) -> None:
    axis, offsets = node.integer("axis"), list(node.integers("offsets"))
    sizes, ends = writer.value(), writer.value()
    starts = writer.constant(offsets, np.int64)
    writer.add("Shape", [node.inputs[1]], [sizes], start=axis, end=axis + len(offsets))
    writer.add("Add", [sizes, starts], [ends])
    axes = writer.constant([axis + k for k in range(len(offsets))], np.int64)
    writer.add("Slice", [node.inputs[0], starts, ends, axes], node.outputs, node.name)


@word("weighted_sum")
def _weighted_sum(writer: Writer, node: Node) -> None:
    parts = []
    for value, factor in zip(node.inputs, node.numbers("coefficients"), strict=True):
        if factor == 1:
            parts.append(value)
        else:
            parts.append(writer.value())
            writer.add("Mul", [value, writer.constant(factor)], [parts[-1]])
    writer.add("Sum", parts, node.outputs, node.name)


@word("power")
def _power(writer: Writer, node: Node) -> None:
    scale, shift, power = (node.number(k) for k in ("scale", "shift", "power"))
    steps = [("Mul", scale)] * (scale != 1) + [("Add", shift)] * (shift != 0) + [("Pow", power)] * (power != 1)
    _chain(writer, node, steps)


@word("exp_linear")
def _exp(writer: Writer, node: Node) -> None:
    scale, shift = node.number("scale"), node.number("shift")
    _chain(writer, node, [("Mul", scale)] * (scale != 1) + [("Add", shift)] * (shift != 0) + [("Exp", None)])


@word("log_linear")
def _log(writer: Writer, node: Node) -> None:
    scale, shift, factor = (node.number(k) for k in ("scale", "shift", "factor"))
    steps = (
        [("Mul", scale)] * (scale != 1) + [("Add", shift)] * (shift != 0) + [("Log", None)] + [("Mul", factor)] * (factor != 1)
    )
    _chain(writer, node, steps)


@word("stored_statistics")
def _stored_statistics(writer: Writer, node: Node) -> None:
    """Caffe keeps sums and their count: the quotients are stored instead."""
    if any(key not in writer.stored for key in node.inputs):
        raise FileFormatError(f"node {node.name!r}: running statistics that are computed cannot be exported")
    mean, variance, factor = (writer.stored[key] for key in node.inputs)
    count = float(factor.reshape(-1)[0])
    for key, value in zip(node.outputs, (mean, variance), strict=True):
        writer.constants[key] = (value * np.float32(0.0 if count == 0 else 1 / np.float32(count))).astype(value.dtype)
        writer.shapes[key] = value.shape


@word("tile_axis")
def _tile(writer: Writer, node: Node) -> None:
    writer.add("Concat", [node.inputs[0]] * node.integer("tiles"), node.outputs, node.name, axis=node.integer("axis"))
