"""Functions that a model defines itself: every call replaced by the nodes of the function, before anything else is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from preimage.errors import FileFormatError

__all__ = ["graphs_of", "inlined"]

#: Nodes that all calls together may become.
MAX_NODES = 1 << 17
#: Functions that call functions, at most.
MAX_DEPTH = 32

_Key = tuple[str, str, str]


def _key(domain: str, name: str, overload: str) -> _Key:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def graphs_of(node: Any) -> Iterator[Any]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.type == 5:
            yield attribute.g
        elif attribute.type == 10:
            yield from attribute.graphs


def _calls(nodes: Any, depth: int = 0) -> Iterator[_Key]:
    """What nodes call, those of graphs inside them included."""
    if depth > MAX_DEPTH:
        raise FileFormatError(f"graphs inside graphs to a depth of more than {MAX_DEPTH}")
    for node in nodes:
        yield _key(node.domain, node.op_type, getattr(node, "overload", ""))
        for graph in graphs_of(node):
            yield from _calls(graph.node, depth + 1)


def _checked(proto: Any, label: str) -> None:
    """Refuse functions that call themselves, and calls that become too many nodes: a few lines can name billions.

    Raises: FileFormatError.
    """
    functions: dict[_Key, Any] = {}
    for function in proto.functions:
        key = _key(function.domain, function.name, getattr(function, "overload", ""))
        if key in functions:
            raise FileFormatError(f"{label} defines the function {function.name!r} twice")
        functions[key] = function
    sizes: dict[_Key, int] = {}

    def size(key: _Key, above: tuple[_Key, ...]) -> int:
        if key not in functions:
            return 1
        if key in above or len(above) > MAX_DEPTH:
            raise FileFormatError(f"{label}: the function {key[1]!r} calls itself, or lies deeper than {MAX_DEPTH} calls")
        if key not in sizes:
            sizes[key] = sum(size(each, (*above, key)) for each in _calls(functions[key].node))
            _few_enough(sizes[key], label)
        return sizes[key]

    _few_enough(sum(size(key, ()) for key in _calls(proto.graph.node)), label)


def _few_enough(count: int, label: str) -> None:
    if count > MAX_NODES:
        raise FileFormatError(f"{label}: its functions become {count} nodes; {MAX_NODES} are allowed")


def _with_defaults(proto: Any) -> Any:
    """The model with the functions' default attributes written into the calls that lack them; the inliner of onnx does not know them."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    defaults = {_key(f.domain, f.name, getattr(f, "overload", "")): list(f.attribute_proto) for f in copy.functions}

    def fill(nodes: Any) -> None:
        for node in nodes:
            given = {attribute.name for attribute in node.attribute}
            for attribute in defaults.get(_key(node.domain, node.op_type, getattr(node, "overload", "")), ()):
                if attribute.name not in given:
                    node.attribute.add().CopyFrom(attribute)
            for graph in graphs_of(node):
                fill(graph.node)

    fill(copy.graph.node)
    for function in copy.functions:
        fill(function.node)
    return copy


def inlined(proto: Any, label: str) -> Any:
    """The model without functions. Raises: FileFormatError for those that call themselves, become too much, or are not sound."""
    if not proto.functions:
        return proto
    from onnx import inliner

    _checked(proto, label)
    try:
        found = inliner.inline_local_functions(_with_defaults(proto))
    except Exception as error:  # of the package's own making, and protobuf's
        raise FileFormatError(f"{label}: its functions cannot be put in the place of their calls: {str(error)[:200]}") from error
    if found.functions:
        names = ", ".join(f.name for f in list(found.functions)[:8])
        raise FileFormatError(f"{label} defines functions that are not called as they are defined: {names}")
    return found
