"""Operators that ONNX defines by others (Attention, the losses, HannWindow ...): where we have no word of our own, the definition takes their place.

The definitions are those of the package onnx. Some depend on the dtypes of a node's inputs, which its inference finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from preimage.errors import FileFormatError
from preimage.io.graph import OPS
from preimage.io.onnx.functions import MAX_DEPTH, graphs_of, inlined

__all__ = ["defined", "has_strangers"]

#: Definitions within definitions, at most.
MAX_ROUNDS = 4
#: The domain of the functions that stand for nodes on the way.
_DOMAIN = "preimage.definitions"
#: Stored arrays of more bytes take part in the inference by dtype and shape alone.
_SMALL = 1 << 10


def has_strangers(proto: Any) -> bool:
    """Whether the model has operators that we have no word for."""
    return any(_is_strange(node) for node in _nodes(proto.graph))


def defined(proto: Any, label: str) -> Any:
    """The model with the definitions of such operators in their place. Raises: FileFormatError for definitions that cannot be written down."""
    for _ in range(MAX_ROUNDS):
        opsets = {"" if entry.domain == "ai.onnx" else entry.domain: int(entry.version) for entry in proto.opset_import}
        if not any(_schema(node, opsets) for node in _nodes(proto.graph)):
            return proto
        copy = type(proto)()
        copy.CopyFrom(proto)
        types = None
        for number, node in enumerate(_nodes(copy.graph)):
            schema = _schema(node, opsets)
            if schema is None:
                continue
            if types is None and not schema.has_function:
                types = _types(copy, label)
            _replace(copy, node, schema, opsets, types or {}, number, label)
        proto = inlined(copy, label)
    return proto


def _nodes(graph: Any, depth: int = 0) -> Iterator[Any]:
    if depth > MAX_DEPTH:
        raise FileFormatError(f"graphs inside graphs to a depth of more than {MAX_DEPTH}")
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from _nodes(inner, depth + 1)


def _is_strange(node: Any) -> bool:
    name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    return f"onnx.{name}" not in OPS and name != "Constant"


def _schema(node: Any, opsets: dict[str, int]) -> Any:
    """The definition's place, for a node that we have no word for and ONNX has a definition of."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not _is_strange(node) or domain not in opsets:
        return None
    try:
        from onnx import defs

        schema: Any = defs.get_schema(node.op_type, opsets[domain], domain)
    except Exception:  # the package is not here, or there is no such operator: the importer says what is not supported
        return None
    return schema if schema.has_function or schema.has_context_dependent_function else None


def _replace(proto: Any, node: Any, schema: Any, opsets: dict[str, int], types: dict[str, Any], number: int, label: str) -> None:
    """The node becomes a call of a function of the model, which is its definition."""
    import onnx

    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            node.attribute.add().CopyFrom(attribute.default_value)
    function = onnx.FunctionProto()
    version = opsets.get("", max(opsets.values()))
    try:
        if schema.has_function:
            versions = [v for v in schema.function_opset_versions if v <= version] or schema.function_opset_versions[:1]
            function.ParseFromString(schema.get_function_with_opset_version(max(versions)))
        else:
            kinds = [types[key].SerializeToString() if key in types else b"" for key in node.input]
            versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
            made = schema.get_context_dependent_function_with_opset_version(
                max(versions or schema.context_dependent_function_opset_versions[:1]), node.SerializeToString(), kinds
            )  # fmt: skip
            function.ParseFromString(made)
    except Exception as error:  # of the package's own making
        raise FileFormatError(
            f"{label}: node {node.name!r}: {node.op_type} cannot be defined here: {str(error)[:200]}"
        ) from error
    if not function.node:
        raise FileFormatError(f"{label}: node {node.name!r}: {node.op_type} cannot be defined for what it takes")
    function.domain, function.name = _DOMAIN, f"{node.op_type}_{number}"
    for entry in function.opset_import:
        entry.version = opsets.get(entry.domain, entry.version)
    taken = set(function.attribute) | {attribute.name for attribute in function.attribute_proto}
    function.attribute.extend(sorted({a.name for a in node.attribute} - taken))
    node.domain, node.op_type = function.domain, function.name
    proto.functions.append(function)
    if all(entry.domain != _DOMAIN for entry in proto.opset_import):
        entry = proto.opset_import.add()
        entry.domain, entry.version = _DOMAIN, 1


def _types(proto: Any, label: str) -> dict[str, Any]:
    """The types of all values by name, as far as the package's inference finds them."""
    import onnx

    skeleton = type(proto)()
    skeleton.CopyFrom(proto)
    del skeleton.functions[:]
    graph = skeleton.graph
    stored = list(graph.initializer)
    del graph.initializer[:]
    known = {value.name for value in graph.input}
    found = {}
    for tensor in stored:
        if tensor.ByteSize() <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        found[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception as error:  # of the package's own making
        raise FileFormatError(f"{label}: the types of its values cannot be inferred: {str(error)[:200]}") from error
    return found | dict(_typed(inferred))


def _typed(graph: Any) -> Iterator[tuple[str, Any]]:
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.WhichOneof("value"):
            yield value.name, value.type
    for node in graph.node:
        for inner in graphs_of(node):
            yield from _typed(inner)
