"""What operators said before opset 6, and those of the first releases that ONNX dropped, in the words of opset 6 and later.

Source: onnx/defs/*/old.cc, and for the dropped ones onnx/defs/experiments/experiments_defs.cc of onnx 1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.onnx.model import CODES, STRING, OnnxNode

__all__ = ["OLDEST_AS_IT_IS", "modern"]

#: From this opset on nodes are read as they are.
OLDEST_AS_IT_IS = 6

_TYPES = {name.upper(): code for code, name in CODES.items()} | {"FLOAT": 1, "DOUBLE": 11, "STRING": STRING}
#: Attributes that told an implementation what it might overwrite, or whether it trains.
_HINTS = ("consumed_inputs", "is_test", "output_sequence")

#: The nodes and stored arrays that one node becomes.
Modern = tuple[list[OnnxNode], dict[str, np.ndarray]]
Numbers = Iterator[int]


def modern(node: OnnxNode, opset: int, numbers: Numbers) -> Modern:
    """The node as it is written today. numbers: for the names of what stands between nodes, each given once.

    Raises: FileFormatError for attributes that are not what the old form has.
    """
    dropped = _DROPPED.get(node.op)
    if dropped is not None:
        return _spelled(node, dropped(node), numbers)
    if opset >= OLDEST_AS_IT_IS:
        return [node], {}
    attributes = {key: value for key, value in node.attributes.items() if key not in _HINTS}
    change = _CHANGED.get(node.op)
    if change is not None:
        change(node, opset, attributes)
    return [replace(node, attributes=attributes)], {}


def _wrong(node: OnnxNode, key: str, wanted: str) -> FileFormatError:
    return FileFormatError(f"node {node.name!r}: {node.op}: attribute {key!r} is {node.attributes.get(key)!r}, wanted {wanted}")


# -- attributes that changed: each changes a copy of the node's -------------------------------------------------------

Change = Callable[[OnnxNode, int, dict[str, Any]], None]


def _cast(node: OnnxNode, opset: int, attributes: dict[str, Any]) -> None:
    word = attributes.get("to")
    if not isinstance(word, str) or word.upper() not in _TYPES:
        raise _wrong(node, "to", "the name of a type")
    attributes["to"] = _TYPES[word.upper()]


def _pad(node: OnnxNode, opset: int, attributes: dict[str, Any]) -> None:
    if opset < 2 and "paddings" in attributes:
        attributes["pads"] = attributes.pop("paddings")


def _concat(node: OnnxNode, opset: int, attributes: dict[str, Any]) -> None:
    if opset < 4:
        attributes.setdefault("axis", 1)


def _whole_power(node: OnnxNode, opset: int, attributes: dict[str, Any]) -> None:
    """p was a float in the first opset."""
    p = attributes.get("p", 2)
    if not isinstance(p, (int, float)) or p != int(p):
        raise _wrong(node, "p", "a whole number")
    attributes["p"] = int(p)


def _upsample(node: OnnxNode, opset: int, attributes: dict[str, Any]) -> None:
    if "scales" in attributes:
        return
    sides = [attributes.pop(key, None) for key in ("height_scale", "width_scale")]
    if not all(isinstance(side, (int, float)) for side in sides):
        raise _wrong(node, "height_scale", "a number, and width_scale beside it")
    attributes["scales"] = [1.0, 1.0, *map(float, sides)]


_CHANGED: dict[str, Change] = {
    "Cast": _cast, "Pad": _pad, "Concat": _concat, "LpPool": _whole_power, "GlobalLpPool": _whole_power, "Upsample": _upsample,
}  # fmt: skip

# -- operators that are no more ----------------------------------------------------------------------------------------

#: One after another: an operator, its second input (an array, or None), and its attributes.
Spelling = list[tuple[str, np.ndarray | None, dict[str, Any]]]


def _spelled(node: OnnxNode, spelling: Spelling, numbers: Numbers) -> Modern:
    nodes: list[OnnxNode] = []
    stored: dict[str, np.ndarray] = {}
    value = node.inputs[0] if node.inputs else ""
    for position, (op, second, attributes) in enumerate(spelling):
        inputs: tuple[str, ...] = (value,) if value else ()
        if second is not None:
            name = f"preimage_older_{next(numbers)}"
            stored[name] = second
            inputs = (*inputs, name)
        last = position == len(spelling) - 1
        outputs = node.outputs if last else (f"preimage_older_{next(numbers)}",)
        nodes.append(OnnxNode(node.name if last else f"{node.name}_{position}", op, inputs, outputs, attributes))
        value = outputs[0] if outputs else ""
    return nodes, stored


def _number(node: OnnxNode, key: str, usual: float) -> np.ndarray:
    value = node.attributes.get(key, usual)
    if not isinstance(value, (int, float)):
        raise _wrong(node, key, "a number")
    return np.array(value, np.float32)


def _list(node: OnnxNode, key: str, count: int | None = None) -> list[Any]:
    value = node.attributes.get(key)
    if not isinstance(value, list) or (count is not None and len(value) != count) or any(isinstance(v, str) for v in value):
        raise _wrong(node, key, "a list of numbers" if count is None else f"{count} numbers")
    return value


def _affine(node: OnnxNode) -> Spelling:
    return [("Mul", _number(node, "alpha", 1.0), {}), ("Add", _number(node, "beta", 0.0), {})]


def _image_scaler(node: OnnxNode) -> Spelling:
    bias = np.array(_list(node, "bias"), np.float32).reshape(-1, 1, 1)
    return [("Mul", _number(node, "scale", 1.0), {}), ("Add", bias, {})]


def _scaled_tanh(node: OnnxNode) -> Spelling:
    return [("Mul", _number(node, "beta", 1.0), {}), ("Tanh", None, {}), ("Mul", _number(node, "alpha", 1.0), {})]


def _parametric_softplus(node: OnnxNode) -> Spelling:
    return [("Mul", _number(node, "beta", 1.0), {}), ("Softplus", None, {}), ("Mul", _number(node, "alpha", 1.0), {})]


def _crop(node: OnnxNode) -> Spelling:
    """border: left, top, right, bottom; scale: height and width, which then count from the border on."""
    left, top, right, bottom = _list(node, "border", 4)
    if node.attributes.get("scale") is not None:
        tall, wide = _list(node, "scale", 2)
        ends = [top + tall, left + wide]
    else:
        most = np.iinfo(np.int64).max
        ends = [-bottom if bottom else most, -right if right else most]
    return [("Slice", None, {"starts": [top, left], "ends": ends, "axes": [2, 3]})]


_DROPPED: Mapping[str, Callable[[OnnxNode], Spelling]] = {
    "Affine": _affine, "ImageScaler": _image_scaler, "ScaledTanh": _scaled_tanh, "ParametricSoftplus": _parametric_softplus, "Crop": _crop,
    "Scale": lambda node: [("Mul", _number(node, "scale", 1.0), {})],
}  # fmt: skip
