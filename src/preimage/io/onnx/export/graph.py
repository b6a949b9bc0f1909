"""Graph -> ONNX model: nodes that came from ONNX go back as they were (`operators`), our own words become the operators that mean the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, OptionError
from preimage.host import write_file
from preimage.io.graph import Graph, Input, Node
from preimage.io.graph.facts import infer
from preimage.io.graph.types import FLOATS
from preimage.io.onnx.export import caffe, caffe_forks, caffe_layers, caffe_losses, fused, layers, ssd  # noqa: F401 - words register themselves
from preimage.io.onnx.export.operators import operator
from preimage.io.onnx.export.words import OPSET, WORDS, Writer
from preimage.io.onnx.model import CODES, PARAMETERS, STRING, dtype_of, require_onnx
from preimage.io.onnx.tracing import trace

__all__ = ["OPSET", "from_graph", "save", "to_bytes"]

_CODES = {name: code for code, name in CODES.items()} | {"str": STRING}
#: The versions of other domains that are written, where they are not the first.
_VERSIONS = {"ai.onnx.ml": 4}


def from_graph(graph: Graph) -> Any:
    """The ModelProto of a graph. Its parameters, buffers and constants keep their names and their bits.

    Raises: FileFormatError that lists every node which ONNX cannot say.
    """
    onnx = require_onnx()
    graph = _with_utf8_names(graph)
    if unknown := _unknown(graph):
        raise FileFormatError(f"{len(unknown)} nodes cannot be written as ONNX: {', '.join(unknown)}")
    stored = _stored(graph)
    named = [i.dtype for i in graph.inputs if i.dtype in FLOATS]
    floats = [v.dtype for v in stored.values() if v.dtype.name in FLOATS]
    dtype = next(iter(floats), dtype_of(_CODES[(named or ["float32"])[0]], "the model"))
    writer = Writer(dtype, stored, infer(graph), _names(graph))
    proto = _written(writer, graph, [_value_info(onnx, i.name, i.dtype, _open_names(i)) for i in graph.inputs])
    domains = [
        onnx.helper.make_opsetid("", writer.opset),
        *(onnx.helper.make_opsetid(d, _VERSIONS.get(d, 1)) for d in sorted(writer.domains)),
    ]
    model = onnx.helper.make_model(proto, opset_imports=domains, producer_name="preimage")
    model.ir_version = 10
    if graph.weights:  # a reader would take those for constants that stand where no layer has its weights
        onnx.helper.set_model_props(model, {PARAMETERS: json.dumps(list(graph.weights))})
    try:
        _describe_outputs(onnx, model, graph, writer)
        if all(o.type.WhichOneof("value") != "tensor_type" or o.type.tensor_type.HasField("shape") for o in model.graph.output):
            onnx.checker.check_model(model)  # which insists on shapes
    except Exception as error:
        raise FileFormatError(f"the exported model is not valid ONNX: {error}") from error
    return model


def _unknown(graph: Graph) -> list[str]:
    """The nodes that ONNX has no words for, those of graphs inside nodes too."""
    own = [f"{n.name!r} ({n.op})" for n in graph.nodes if not (n.op.startswith("onnx.") or n.op in WORDS)]
    return own + [each for inner in graph.graphs.values() for each in _unknown(inner)]


def _stored(graph: Graph) -> dict[str, np.ndarray]:
    stored: dict[str, np.ndarray] = {k: np.asarray(p.data) for k, p in graph.weights.items()}
    return stored | {k: np.asarray(v) for k, v in (graph.state | graph.constants).items()}


def _names(graph: Graph) -> set[str]:
    """Every name of a value, of graphs inside nodes too."""
    own = {i.name for i in graph.inputs} | _stored(graph).keys() | {key for n in graph.nodes for key in (*n.inputs, *n.outputs)}
    return own.union(*map(_names, graph.graphs.values()))


def _value_info(onnx: Any, name: str, dtype: str | None, shape: Sequence[int | str | None] | None) -> Any:
    """A value of this dtype and shape; without a dtype, its name alone."""
    if not dtype or dtype not in _CODES:
        return onnx.ValueInfoProto(name=name)
    return onnx.helper.make_tensor_value_info(name, _CODES[dtype], shape)


def _written(writer: Writer, graph: Graph, inputs: Sequence[Any]) -> Any:
    """The GraphProto of a graph with these inputs."""
    onnx = writer.onnx
    for node in graph.nodes:
        WORDS.get(node.op, _from_onnx)(writer, node)
    taken = _taken(writer.nodes) | set(graph.outputs)
    stored = {k: v for k, v in (writer.stored | writer.constants).items() if k in taken or k in graph.weights}
    initializers = [writer.tensor(v, k) for k, v in stored.items()]
    outputs = [
        _value_info(onnx, key, fact.dtype if (fact := writer.facts.get(key)) else None, writer.sizes(key))
        for key in graph.outputs
    ]
    return onnx.helper.make_graph(writer.nodes, graph.name or "preimage", inputs, outputs, initializers)


def _from_onnx(writer: Writer, node: Node) -> None:
    """A node that came from ONNX, with the graphs inside it."""
    inputs = list(node.inputs)
    graphs: dict[str, Any] = {}
    if any(isinstance(value, Graph) for value in node.attributes.values()):
        inputs, graphs = _with_graphs(writer, node)
    operator(writer, node, inputs, graphs)


def _with_graphs(writer: Writer, node: Node) -> tuple[list[str], dict[str, Any]]:
    """The inputs of a node without those that its graphs take by name, and the graphs as GraphProtos."""
    names = node.words("captured", ())
    own, outer = (
        node.inputs[: len(node.inputs) - len(names)],
        dict(zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True)),
    )
    written = {}
    for key, graph in node.attributes.items():
        if isinstance(graph, Graph):
            facts = infer(graph, {name: fact for name, key in outer.items() if (fact := writer.facts.get(key)) is not None})
            inner = writer.inside(_stored(graph), facts)
            inputs = [i for i in graph.inputs if i.name not in outer]
            for name, source in outer.items():  # a pass may have given the value another name outside
                if name != source and any(i.name == name for i in graph.inputs):
                    inner.add("Identity", [source], [name])
            single = (
                2 if node.op == "onnx.Loop" else 0
            )  # the trip's number and the condition: onnxruntime wants to read that they are single values
            shapes = [() if k < single else item.shape for k, item in enumerate(inputs)]
            values = [_value_info(writer.onnx, i.name, i.dtype, shape) for i, shape in zip(inputs, shapes, strict=True)]
            written[key] = _written(inner, graph, values)
            writer.opset = max(writer.opset, inner.opset)
    return list(own), written


def _taken(nodes: Sequence[Any]) -> set[str]:
    """The values that nodes take, and the graphs inside them."""
    inner = [a.g for n in nodes for a in n.attribute if a.type == 5]
    return {key for n in nodes for key in n.input}.union(*(_taken(g.node) | {o.name for o in g.output} for g in inner))


def _describe_outputs(onnx: Any, model: Any, graph: Graph, writer: Writer) -> None:
    """Dtype and shape of every output, as ONNX infers them, or as we know them."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {v.name: v for v in (*inferred.value_info, *inferred.output)}
    del model.graph.output[:]
    for key in graph.outputs:
        value, fact = known.get(key), writer.facts.get(key)
        kind = "" if value is None else value.type.WhichOneof("value")
        if value is None or not kind or (kind == "tensor_type" and not value.type.tensor_type.HasField("shape")):
            sizes = writer.sizes(key) or ((None,) * len(graph.declared[key]) if key in graph.declared else None)
            shape = None if sizes is None else [f"{key}_{k}" if n is None else n for k, n in enumerate(sizes)]
            value = _value_info(onnx, key, (fact and fact.dtype) or writer.dtype.name, shape)
        model.graph.output.append(value)


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
