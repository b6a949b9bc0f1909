"""Nodes that came from ONNX go back as they were; those of older forms as what means the same today."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer
from preimage.io.onnx.operators.pointwise import per_channel

__all__ = ["operator"]

#: Attributes of older forms that are inputs today: op -> (attribute, input position, dtype).
_AS_INPUT: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Clip": (("min", 1, "same"), ("max", 2, "same")),
    "Reshape": (("shape", 1, "int64"),),
    "Squeeze": (("axes", 1, "int64"),),
    "Unsqueeze": (("axes", 1, "int64"),),
    "Split": (("split", 1, "int64"),),
    "Pad": (("pads", 1, "int64"), ("constant", 2, "same")),
    "Slice": (("starts", 1, "int64"), ("ends", 2, "int64"), ("axes", 3, "int64"), ("steps", 4, "int64")),
    "TopK": (("k", 1, "int64"),),
    "Tile": (("tiles", 1, "int64"),),
    **{
        f"Reduce{kind}": (("axes", 1, "int64"),)
        for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    },
}
_OURS = {"opset", "outputs", "spatial", "captured"}
_RENAMED = {"Scatter": "ScatterElements", "SimplifiedLayerNormalization": "RMSNormalization"}


def operator(writer: Writer, node: Node, inputs: list[str], changed: dict[str, Any]) -> None:
    """The node as an operator with these inputs; `changed`: attributes in the place of its own."""
    op = node.op.removeprefix("onnx.")
    if op in _OLDER and _OLDER[op](writer, node):
        return
    attributes = {k: v for k, v in node.attributes.items() if k not in _OURS and v is not None} | changed
    if op in ("Conv", "ConvTranspose") and ("activation" in attributes or len(inputs) > 3):
        raise FileFormatError(f"node {node.name!r}: export the graph as it was before fusing")
    for key, position, kind in _AS_INPUT.get(op, ()):
        if key not in attributes:
            continue
        value = attributes.pop(key)
        if position < len(inputs) and inputs[position]:
            continue
        inputs += [""] * (position + 1 - len(inputs))
        inputs[position] = writer.constant(value, _dtype(writer, inputs[0]) if kind == "same" else kind)
    if op == "Split" and "num_outputs" not in attributes and len(inputs) < 2:  # equal parts, as many as there are outputs
        attributes["num_outputs"] = len(node.outputs)
    attributes = {k: writer.tensor(v) if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
    writer.add(_RENAMED.get(op, op), inputs, node.outputs, node.name, **attributes)


def _dtype(writer: Writer, value: str) -> Any:
    fact = writer.facts.get(value)
    return writer.dtype if fact is None or fact.dtype is None else fact.dtype


# -- older forms: each says whether it wrote the node --------------------------------------------------------------------


def _softmax(writer: Writer, node: Node) -> bool:
    """Before opset 13 a softmax ran over everything from its axis on, as one."""
    if node.integer("opset", 13) >= 13:
        return False
    axis = node.integer("axis", 1)
    flat = writer.op("Flatten", node.inputs, axis=axis)
    soft = writer.value()
    writer.add(node.op.removeprefix("onnx."), [flat], [soft], node.name, axis=1)
    writer.add("Reshape", [soft, writer.op("Shape", node.inputs)], node.outputs)
    return True


def _upsample(writer: Writer, node: Node) -> bool:
    scales = node.attributes.get("scales")
    scale_input = node.inputs[1] if scales is None else writer.constant(scales, np.float32)
    mode = {"bilinear": "linear"}.get(word := node.word("mode", "nearest"), word)
    writer.add(
        "Resize", [node.inputs[0], "", scale_input], node.outputs, node.name, mode=mode,
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    return True


def _dropout(writer: Writer, node: Node) -> bool:
    """For inference: what comes in; a mask, where one is asked for, is true everywhere."""
    writer.add("Dropout" if len(node.outputs) > 1 else "Identity", node.inputs[:1], node.outputs, node.name)
    return True


def _old_broadcast(writer: Writer, node: Node) -> bool:
    """Before opset 7 the axes of the second operand could lie at any axis of the first."""
    first, second = (writer.rank(node, key) for key in node.inputs)
    behind = first - second - node.integer("axis") % first
    inputs = list(node.inputs)
    if behind > 0:
        inputs[1] = writer.op("Unsqueeze", [inputs[1], writer.ints(*range(second, second + behind))])
    writer.add(node.word("op"), inputs, node.outputs, node.name)
    return True


def _prelu(writer: Writer, node: Node) -> bool:
    """Before opset 7 a slope of one axis was one per channel, as some files of today have it too."""
    sizes, slope = (writer.sizes(key) for key in node.inputs)
    if sizes is None or slope is None or not per_channel(sizes, slope, node.integer("opset", 7)):
        return False
    column = writer.op("Unsqueeze", [node.inputs[1], writer.ints(*range(1, len(sizes) - 1))])
    writer.add("PRelu", [node.inputs[0], column], node.outputs, node.name)
    return True


def _group_norm(writer: Writer, node: Node) -> bool:
    """Before opset 21 scale and bias were one number for each group."""
    sizes, scale, groups = writer.sizes(node.inputs[0]), writer.sizes(node.inputs[1]), node.integer("num_groups")
    if sizes is None or scale != (groups,) or sizes[1] in (None, groups):
        return False
    inputs = [node.inputs[0]]
    for key in node.inputs[1:]:
        rows = writer.op("Unsqueeze", [key, writer.ints(1)])
        spread = writer.op("Expand", [rows, writer.ints(groups, (sizes[1] or 0) // groups)])
        inputs.append(writer.op("Reshape", [spread, writer.ints(-1)]))
    writer.add(
        "GroupNormalization", inputs, node.outputs, node.name, num_groups=groups, epsilon=node.number("epsilon", 1e-5)
    )  # fmt: skip
    return True


def _roi_align(writer: Writer, node: Node) -> bool:
    """Before opset 16 corners were where they are said to be."""
    if node.integer("opset", 16) >= 16:
        return False
    how = node.word("coordinate_transformation_mode", "output_half_pixel")
    kept = {k: v for k, v in node.attributes.items() if k not in _OURS} | {"coordinate_transformation_mode": how}
    writer.add("RoiAlign", node.inputs, node.outputs, node.name, **kept)
    return True


def _tile(writer: Writer, node: Node) -> bool:
    """Before opset 6 one axis was repeated."""
    if len(node.inputs) < 3:
        return False
    rank = writer.rank(node, node.inputs[0])
    ones = writer.constant([1] * rank, np.int64)
    place, times = (
        writer.op("Cast", [writer.op("Reshape", [key, writer.ints(1)])], to=writer.onnx.TensorProto.INT64)
        for key in (node.inputs[2], node.inputs[1])
    )
    writer.add("Tile", [node.inputs[0], writer.op("ScatterElements", [ones, place, times], axis=0)], node.outputs, node.name)
    return True


def _batch_norm(writer: Writer, node: Node) -> bool:
    """Before opset 9 the numbers could be those of every element."""
    if node.integer("spatial", 1) or node.integer("training_mode", 0) or len(writer.sizes(node.inputs[1]) or ()) < 2:
        return False
    x, scale, bias, mean, variance = node.inputs
    root = writer.op("Sqrt", [writer.op("Add", [variance, writer.constant(node.number("epsilon", 1e-5))])])
    scaled = writer.op("Mul", [writer.op("Div", [writer.op("Sub", [x, mean]), root]), scale])
    writer.add("Add", [scaled, bias], node.outputs[:1], node.name)
    return True


def _label_encoder(writer: Writer, node: Node) -> bool:
    """Before version 2 of ai.onnx.ml a list of strings said what becomes what."""
    classes = node.words("classes_strings", ())
    if not classes:
        return False
    fact, places = writer.facts.get(node.inputs[0]), list(range(len(classes)))
    if fact is None or fact.dtype is None:
        raise FileFormatError(f"node {node.name!r} ({node.op}): whether its input is strings is not known")
    if fact.dtype == "str":
        kept: dict[str, Any] = {
            "keys_strings": list(classes),
            "values_int64s": places,
            "default_int64": node.integer("default_int64", -1),
        }
    else:
        kept = {"keys_int64s": places, "values_strings": list(classes), "default_string": node.word("default_string", "_Unused")}
    writer.add("ai.onnx.ml::LabelEncoder", node.inputs, node.outputs, node.name, **kept)
    return True


_OLDER: dict[str, Callable[[Writer, Node], bool]] = {
    "Softmax": _softmax, "LogSoftmax": _softmax, "Hardmax": _softmax, "Upsample": _upsample, "Dropout": _dropout,
    "OldBroadcast": _old_broadcast, "PRelu": _prelu, "GroupNormalization": _group_norm,
    "RoiAlign": _roi_align, "Tile": _tile, "BatchNormalization": _batch_norm,
    "ai.onnx.ml::LabelEncoder": _label_encoder,
}  # fmt: skip
