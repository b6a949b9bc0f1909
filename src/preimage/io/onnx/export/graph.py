"""Graph -> ONNX model: nodes that came from ONNX go back as they were, our own words become the operators that mean the same.

Operators whose older forms kept sizes in attributes are written in today's form, with the sizes
as constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, OptionError
from preimage.host import write_file
from preimage.io.graph import Graph, Input, Node, trace
from preimage.io.graph.types import FLOATS
from preimage.io.onnx.export import caffe, layers, ssd  # noqa: F401 - words register themselves
from preimage.io.onnx.export.words import OPSET, WORDS, Writer
from preimage.io.onnx.model import CODES, dtype_of, require_onnx

__all__ = ["OPSET", "from_graph", "save", "to_bytes"]

_CODES = {name: code for code, name in CODES.items()}
#: Attributes of older forms that are inputs today: op -> (attribute, input position, dtype).
_AS_INPUT: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Clip": (("min", 1, "same"), ("max", 2, "same")),
    "Squeeze": (("axes", 1, "int64"),),
    "Unsqueeze": (("axes", 1, "int64"),),
    "Split": (("split", 1, "int64"),),
    "Pad": (("pads", 1, "int64"), ("constant", 2, "same")),
    "Slice": (("starts", 1, "int64"), ("ends", 2, "int64"), ("axes", 3, "int64"), ("steps", 4, "int64")),
    "TopK": (("k", 1, "int64"),),
    **{
        f"Reduce{kind}": (("axes", 1, "int64"),)
        for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
    },
}
_OURS = {"opset", "outputs", "spatial", "seed"}


# -- nodes that came from ONNX -----------------------------------------------------------------------------------------


def _from_onnx(writer: Writer, node: Node) -> None:
    op = node.op.removeprefix("onnx.")
    attributes = {k: v for k, v in node.attributes.items() if k not in _OURS and v is not None}
    inputs = list(node.inputs)
    if op in ("Softmax", "LogSoftmax", "Hardmax") and node.integer("opset", 13) < 13:
        _old_softmax(writer, node, op)
        return
    if op == "Upsample":
        scales = attributes.pop("scales", None)
        scale_input = inputs[1] if scales is None else writer.constant(scales, np.float32)
        mode = "linear" if attributes.get("mode") == "bilinear" else attributes.get("mode", "nearest")
        writer.add("Resize", [inputs[0], "", scale_input], node.outputs, node.name, mode=mode,
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
        return
    if op in ("Conv", "ConvTranspose") and ("activation" in attributes or len(inputs) > 3):
        raise FileFormatError(f"node {node.name!r}: export the graph as it was before fusing")
    for key, position, kind in _AS_INPUT.get(op, ()):
        if key not in attributes:
            continue
        value = attributes.pop(key)
        if position < len(inputs) and inputs[position]:
            continue
        while len(inputs) <= position:
            inputs.append("")
        inputs[position] = writer.constant(value, writer.dtype if kind == "same" else kind)
    if op == "Dropout":
        inputs, attributes = inputs[:1], {}
    if op == "Scatter":
        op = "ScatterElements"
    attributes = {k: (writer.onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v) for k, v in attributes.items()}
    writer.add(op, inputs, node.outputs, node.name, **attributes)


def _old_softmax(writer: Writer, node: Node, op: str) -> None:
    """Before opset 13 a softmax ran over everything from its axis on, as one."""
    flat, soft, shape = writer.value(), writer.value(), writer.value()
    writer.add("Flatten", node.inputs, [flat], axis=node.integer("axis", 1) or 1)
    writer.add(op, [flat], [soft], node.name, axis=1)
    writer.add("Shape", node.inputs, [shape])
    writer.add("Reshape", [soft, shape], node.outputs)


# -- the model ---------------------------------------------------------------------------------------------------------


def from_graph(graph: Graph) -> Any:
    """The ModelProto of a graph. Its parameters, buffers and constants keep their names and their bits.

    Raises: FileFormatError that lists every node which ONNX cannot say.
    """
    onnx = require_onnx()
    graph = _with_utf8_names(graph)
    stored: dict[str, np.ndarray] = {k: np.asarray(p.data) for k, p in graph.weights.items()}
    stored |= {k: np.asarray(v) for k, v in (graph.state | graph.constants).items()}
    named = [i.dtype for i in graph.inputs if i.dtype in FLOATS]
    floats = [v.dtype for v in stored.values() if v.dtype.name in FLOATS]
    writer = Writer(dtype := next(iter(floats), dtype_of(_CODES[(named or ["float32"])[0]], "the model")))
    writer.stored, writer.shapes = stored, {k: v.shape for k, v in stored.items()}
    inner = {n.name for n in graph.nodes if any(isinstance(v, Graph) for v in n.attributes.values())}
    if unknown := [
        f"{n.name!r} ({n.op})" for n in graph.nodes if n.name in inner or not (n.op.startswith("onnx.") or n.op in WORDS)
    ]:
        raise FileFormatError(f"{len(unknown)} nodes cannot be written as ONNX: {', '.join(unknown)}")
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info(i.name, _CODES[i.dtype], _open_names(i)) for i in graph.inputs]
    writer.inputs = inputs
    for node in graph.nodes:
        WORDS.get(node.op, _from_onnx)(writer, node)
    taken = {key for node in writer.nodes for key in node.input} | set(graph.outputs)
    stored = {key: value for key, value in (stored | writer.constants).items() if key in taken or key in graph.weights}
    initializers = [onnx.numpy_helper.from_array(np.ascontiguousarray(v).reshape(v.shape), k) for k, v in stored.items()]
    outputs = [onnx.ValueInfoProto(name=key) for key in graph.outputs]
    proto = helper.make_graph(writer.nodes, graph.name or "preimage", inputs, outputs, initializers)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="preimage")
    model.ir_version = 10
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        del model.graph.output[:]
        known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
        for key in graph.outputs:
            value = known.get(key)
            if value is None or not value.type.HasField("tensor_type"):
                value = helper.make_tensor_value_info(key, _CODES[dtype.name], None)
            model.graph.output.append(value)
        if all(o.type.tensor_type.HasField("shape") for o in model.graph.output):  # the checker insists on them
            onnx.checker.check_model(model)
    except Exception as error:
        raise FileFormatError(f"the exported model is not valid ONNX: {error}") from error
    return model


def _with_utf8_names(graph: Graph) -> Graph:
    """The graph with names that protobuf takes: bytes of another encoding in them (see io.caffe.wire.text) as \\xNN."""

    def name(text: str) -> str:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def named(table: Mapping[str, Any]) -> dict[str, Any]:
        return {name(key): value for key, value in table.items()}

    given = [graph.name, *(i.name for i in graph.inputs), *(key for n in graph.nodes for key in (n.name, *n.inputs, *n.outputs))]
    if all(text.isascii() or name(text) == text for text in given):
        return graph
    nodes = [
        replace(n, name=name(n.name), inputs=tuple(map(name, n.inputs)), outputs=tuple(map(name, n.outputs))) for n in graph.nodes
    ]
    return Graph(
        nodes, [replace(i, name=name(i.name)) for i in graph.inputs], list(map(name, graph.outputs)),
        named(graph.weights), named(graph.state), named(graph.constants), name=name(graph.name),
    )  # fmt: skip


def _open_names(item: Input) -> list[int | str] | None:
    """An input's shape with a name for every open size."""
    return None if item.shape is None else [d if d is not None else f"{item.name}_{k}" for k, d in enumerate(item.shape)]


def save(network: Any, path: Any, *, example: Any = None, overwrite: bool = True) -> None:
    """Write a Graph (or a Module, traced on an example input) as an ONNX file, whole or not at all.

    Raises: FileFormatError for what ONNX cannot say; OptionError for a Module without an example; OutputError where the file
    cannot be written, or is there and overwrite is False.
    """
    if not isinstance(network, Graph):
        if example is None:
            raise OptionError("a Module is exported by tracing: give example=, an array of the input's shape")
        network = trace(network, example)
    write_file(path, to_bytes(network), overwrite=overwrite)


def to_bytes(graph: Graph) -> bytes:
    """The bytes of an ONNX file. Raises: FileFormatError for what ONNX cannot say, and for more than protobuf puts in one message."""
    model = from_graph(graph)
    try:
        data: bytes = model.SerializeToString()
    except Exception as error:  # protobuf's own kinds
        raise FileFormatError(f"the model does not fit one ONNX file of at most 2 GiB: {error}") from error
    return data
