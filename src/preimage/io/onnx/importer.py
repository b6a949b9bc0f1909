"""ONNX model -> Graph: constants apart from parameters apart from running statistics, every unsupported node named at once.

A stored array is a parameter (trainable, under the file's name) where it is float and stands where a layer has its
weights; the running statistics of BatchNormalization are buffers; everything else (shapes, indices, bounds) is a constant.
"""

from __future__ import annotations

import functools
import inspect
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, GraphError
from preimage.io.graph import OPS, Graph, Input, Node
from preimage.io.onnx import operators, part_rules, shape_rules, window_rules  # noqa: F401 - they register themselves
from preimage.io.onnx.canonical import in_our_words
from preimage.io.onnx.definitions import attribute_type, most_inputs
from preimage.io.onnx.model import CODES, PARAMETERS, OnnxGraph, OnnxModel, OnnxNode, read_model
from preimage.io.onnx.older import OLDEST_AS_IT_IS, modern

__all__ = ["load", "supported_ops", "to_graph"]

#: Where an op's stored inputs are weights to train, by position (None: any position).
_WEIGHTS: dict[str, tuple[int, ...] | None] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2), "PRelu": (1,),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "LayerNormalization": (1, 2), "RMSNormalization": (1,),
    "RNN": (1, 2, 3), "GRU": (1, 2, 3), "LSTM": (1, 2, 3, 7), "DeformConv": (1, 3),
    "OldBroadcast": None, "Add": None, "Sub": None, "Mul": None, "Div": None,
}  # fmt: skip
#: Ops that move elements of their first input, or of all: an exporter may write them between a stored weight and the layer that takes it.
_MOVES_ALL = {"onnx.Concat"}
_MOVES = {f"onnx.{op}" for op in ("Transpose", "Unsqueeze", "Squeeze", "Reshape", "Split", "Identity", "Flatten")} | _MOVES_ALL
_BUFFERS = {"BatchNormalization": (3, 4)}
#: Ops whose meaning depends on the opset beyond what their attributes say.
_NEED_OPSET = {"Softmax", "LogSoftmax", "Hardmax", "Resize", "Upsample", "PRelu", "DFT", "RoiAlign"}
_OLD_BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater"}
#: Ops that draw random numbers: one without a seed gets one of its own, made of the name of its result.
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}
_RENAMED = {("Pad", "value"): "constant"}
_IGNORED = {
    ("BatchNormalization", "is_test"),
    ("Dropout", "is_test"),
    ("BatchNormalization", "consumed_inputs"),
    ("MaxPool", "storage_order"),
    ("Gemm", "broadcast"),
}


def supported_ops() -> tuple[str, ...]:
    """The ONNX operators that an imported model may use."""
    return ("Constant", *sorted(name.removeprefix("onnx.") for name in OPS if name.startswith("onnx.")))


def load(source: Any, *, input_shapes: Mapping[str, Sequence[int | str | None]] | None = None, open_sizes: bool = False) -> Graph:
    """The network of an ONNX file (a path, bytes, or a ModelProto) as a Graph: a Module to run, train, inspect and save.

    input_shapes replaces what the file says of its inputs' shapes; open_sizes opens all their sizes, for files that fix
    a size which the network itself does not need.

    Raises: FileFormatError for a damaged file, and one that lists every node whose op is not supported, before anything runs.
    """
    return to_graph(read_model(source), input_shapes=input_shapes, open_sizes=open_sizes)


def to_graph(
    model: OnnxModel, *, input_shapes: Mapping[str, Sequence[int | str | None]] | None = None, open_sizes: bool = False
) -> Graph:
    """The Graph of a model that was read."""
    problems: list[str] = []
    nodes, stored = _built(model.nodes, model.initializers, model.opset, problems, count(1))
    if problems:
        raise FileFormatError(f"{len(problems)} nodes of the model are not supported: {', '.join(problems)}")
    parameters, buffers, constants = _sort_stored(stored, nodes, {v.name for v in model.outputs}, _named_parameters(model))
    inputs = _inputs(model, nodes, input_shapes, open_sizes)
    try:
        unused = {v.name for v in model.inputs} - {item.name for item in inputs}
        declared = {v.name: v.shape for v in model.outputs if v.shape is not None}
        graph = Graph(
            nodes, inputs, [v.name for v in model.outputs], parameters, buffers, constants, name=model.name, unused=unused,
            declared=declared,
        )  # fmt: skip
        return in_our_words(graph)
    except GraphError as error:
        raise FileFormatError(f"the model's graph is not sound: {error}") from error


def _named_parameters(model: OnnxModel) -> frozenset[str]:
    """The arrays that the file, where it is one of ours, says to be trained."""
    try:
        names = json.loads(model.metadata.get(PARAMETERS, "[]"))
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _modern(given: Sequence[OnnxNode], stored: dict[str, np.ndarray], opset: int, numbers: Iterator[int]) -> Iterator[OnnxNode]:
    """The nodes as they are written today; arrays that they need are added to those stored."""
    for node in given:
        nodes, arrays = modern(node, opset, numbers)
        stored.update(arrays)
        yield from nodes


def _built(
    given: Sequence[OnnxNode], initializers: Mapping[str, np.ndarray], opset: int, problems: list[str], numbers: Iterator[int]
) -> tuple[list[Node], dict[str, np.ndarray]]:
    """The nodes of a graph, and its stored arrays; what is not supported is added to the problems."""
    nodes: list[Node] = []
    stored = dict(initializers)
    for node in _modern(given, stored, opset, numbers):
        if node.op == "Constant":
            if len(node.outputs) != 1 or node.outputs[0] in stored:
                problems.append(f"{node.name!r} (Constant: its value is made twice)")
                continue
            value = _constant(node)
            if value is None:
                problems.append(f"{node.name!r} (Constant without a supported value)")
            else:
                stored[node.outputs[0]] = value
            continue
        if "captured" in node.attributes:  # our own word for what graphs inside nodes take from outside
            problems.append(f"{node.name!r} ({node.op}: attribute 'captured')")
            continue
        if any(isinstance(value, OnnxGraph) for value in node.attributes.values()):
            before = len(problems)
            node = _with_graphs(node, opset, problems, numbers)
            if len(problems) > before:
                continue
        built = _node(node, max(opset, OLDEST_AS_IT_IS))
        if isinstance(built, str):
            problems.append(f"{node.name!r} ({built})")
        else:
            nodes.append(built)
    return nodes, stored


def _with_graphs(node: OnnxNode, opset: int, problems: list[str], numbers: Iterator[int]) -> OnnxNode:
    """A node with its OnnxGraphs as Graphs.

    The values of outer graphs that they take, named by the attribute `captured`, become the node's last inputs. A Graph takes its own
    inputs first, then those of `captured` that it needs, by name.
    """
    attributes, parts = dict(node.attributes), {}
    captured: dict[str, None] = {}
    for key, value in node.attributes.items():
        if isinstance(value, OnnxGraph):
            nodes, stored = _built(value.nodes, value.initializers, opset, problems, numbers)
            own = {v.name for v in value.inputs} | stored.keys() | {key for n in nodes for key in n.outputs}
            taken = [key for n in nodes for key in n.inputs] + [v.name for v in value.outputs]
            parts[key] = value, nodes, stored, own
            captured |= dict.fromkeys(name for name in taken if name and name not in own)
    for key, (value, nodes, stored, own) in parts.items():
        outputs = [v.name for v in value.outputs]
        outer = [name for name in captured if name not in own]
        inputs = [Input(v.name, None, v.dtype) for v in value.inputs] + [Input(name, None, "") for name in outer]
        try:
            attributes[key] = Graph(nodes, inputs, outputs, *_sort_stored(stored, nodes, set(outputs)), name=value.name)
        except GraphError as error:
            problems.append(f"{node.name!r} ({node.op}: its graph {key} is not sound: {error})")
    attributes["captured"] = tuple(captured)
    return replace(node, inputs=(*node.inputs, *captured), attributes=attributes)


def _constant(node: OnnxNode) -> np.ndarray | None:
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in node.attributes:
            return np.array(node.attributes[key], dtype)
    value = node.attributes.get("value")
    return value if isinstance(value, np.ndarray) else None


_signature = functools.cache(inspect.signature)


def _node(node: OnnxNode, opset: int) -> Node | str:
    """The graph's node, or what is wrong with it."""
    op = OPS.get(f"onnx.{node.op}")
    if op is None:
        return node.op
    if node.op == "Scan" and opset < 9:
        return "Scan before opset 9, over batches"
    attributes: dict[str, Any] = {}
    for key, value in node.attributes.items():
        if value is NotImplemented:
            return f"{node.op}: attribute {key!r} is of a kind that is not supported"
        if key != "captured" and not _right_kind(node.op, opset, key, value):
            return f"{node.op}: attribute {key!r} is {value!r}"
        attributes[_RENAMED.get((node.op, key), key)] = value
    inputs = list(node.inputs)
    while inputs and not inputs[-1]:
        inputs.pop()
    if "captured" in node.attributes:  # positions count
        inputs = list(node.inputs)
    outputs = list(node.outputs)
    while outputs and not outputs[-1]:
        outputs.pop()
    if not outputs:
        return f"{node.op}: no output"
    given = len(inputs) - len(node.attributes.get("captured", ()))
    if given > most_inputs(node.op, opset) + (node.op == "Tile"):  # further ones would stand in the place of attributes
        return f"{node.op} with {given} inputs"
    if node.op == "Resize" and opset < 11:  # scales was the second input, and the mode the oldest one
        inputs.insert(1, "")
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    signature = _signature(op.function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if opset < 7 and node.op in _OLD_BROADCAST:
        axis, spread = attributes.pop("axis", None), attributes.pop("broadcast", 0)
        if spread and axis is not None:
            return Node(node.name, "onnx.OldBroadcast", tuple(inputs), tuple(outputs), {"op": node.op, "axis": axis}, node.name)
    if (
        node.op in ("Cast", "EyeLike", *_RANDOM)
        and (code := attributes.get("to", attributes.get("dtype"))) is not None
        and code not in CODES
    ):
        return f"{node.op} to the ONNX data type {code}"
    if node.op in _NEED_OPSET:
        attributes["opset"] = opset
    if node.op in _RANDOM:
        attributes.setdefault("seed", float(zlib.crc32(outputs[0].encode()) & 0xFFFFFF))
    if "outputs" in signature.parameters:
        attributes["outputs"] = len(outputs)
    elif len(outputs) > 1 and node.op not in ("TopK",):
        return f"{node.op} with {len(outputs)} outputs"
    known = {name for name, p in signature.parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    for key in list(attributes):
        if key not in known and not takes_any:
            if (node.op, key) not in _IGNORED:
                return f"{node.op}: attribute {key!r}"
            del attributes[key]
    try:
        signature.bind(*inputs, **attributes)
    except TypeError as error:
        return f"{node.op}: {error}"
    return Node(node.name, op.name, tuple(inputs), tuple(outputs), attributes, layer=node.name)


def _right_kind(op: str, opset: int, key: str, value: Any) -> bool:
    """Whether an attribute has the type that ONNX's own definition of the operator gives it."""
    wanted = attribute_type(op, opset, key)
    if wanted is None:
        return True  # an attribute of an older form; the function's own signature decides
    if isinstance(value, list):
        return wanted in (6, 7, 8) and (not value or {float: 6, int: 7, str: 8}[type(value[0])] == wanted)
    return {float: 1, int: 2, str: 3, np.ndarray: 4, Graph: 5}.get(type(value)) == wanted


def _sort_stored(
    stored: dict[str, np.ndarray], nodes: Sequence[Node], outputs: set[str], named: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Stored arrays as parameters (those named are), buffers and constants."""
    weights: set[str] = set()
    statistics: set[str] = set()
    other: set[str] = set(outputs)
    several = {key for key, value in stored.items() if value.size > 1}  # and those whose elements were moved
    for node in nodes:
        if node.op in _MOVES and several.issuperset(node.inputs if node.op in _MOVES_ALL else node.inputs[:1]):
            several.update(node.outputs)
        if node.op in _MOVES:
            other |= set(node.inputs[1:] if node.op not in _MOVES_ALL else ())
            continue
        name = node.op.removeprefix("onnx.")
        wanted, running = _WEIGHTS.get(name, ()), _BUFFERS.get(name, ())
        for position, key in enumerate(node.inputs):
            if position in running:
                statistics.add(key)
            elif (wanted is None and key in several) or (wanted is not None and position in wanted):
                weights.add(key)
            else:
                other.add(key)
    weights |= _moved_to_weights(nodes, weights, other)
    parameters, buffers, constants = {}, {}, {}
    for key, value in stored.items():
        is_float = value.dtype.kind == "f" or value.dtype.name == "bfloat16"
        if key in named and is_float and value.ndim:
            parameters[key] = value
        elif key in statistics and key not in weights:
            buffers[key] = value
        elif key in weights and key not in other and is_float and value.ndim:
            parameters[key] = value
        else:
            constants[key] = value
    return parameters, buffers, constants


def _moved_to_weights(nodes: Sequence[Node], weights: set[str], other: set[str]) -> set[str]:
    """The values whose elements, moved about, are weights and nothing else; what else moved values are for is added to `other`."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op in _MOVES:
            sources = node.inputs if node.op in _MOVES_ALL else node.inputs[:1]
            made = [key for key in node.outputs if key]
            if made and all(key in weights or key in found for key in made) and not other.intersection(made):
                found.update(sources)
            else:
                other.update(sources)
    return found


def _inputs(
    model: OnnxModel, nodes: Sequence[Node], input_shapes: Mapping[str, Sequence[int | str | None]] | None, open_sizes: bool
) -> list[Input]:
    used = {key for node in nodes for key in node.inputs} | {v.name for v in model.outputs}
    result = []
    shapes_given = dict(input_shapes or {})
    for value in model.inputs:
        if value.name not in used and len(model.inputs) > 1:
            continue  # files of old exporters list inputs that nothing takes
        if not value.dtype:
            raise FileFormatError(f"input {value.name!r} is no tensor of a supported type")
        shape: Any = shapes_given.pop(value.name, value.shape)
        declared = None if shape is None else tuple(shape)
        opened = (None,) * len(declared) if declared is not None and open_sizes else declared
        result.append(Input(value.name, opened, value.dtype, declared=declared if open_sizes else None))
    if shapes_given:
        raise FileFormatError(f"the model has no input {next(iter(shapes_given))!r}; its inputs: {[v.name for v in result]}")
    return result
