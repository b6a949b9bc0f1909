"""Nodes that stay functions in a stored program: as plain data, and run without the graph that they are from.

    said = said_of(function, number, arrays)           # what JSON can hold; arrays that do not change go to `arrays`
    function = function_of(said, number, arrays, place)

A function of a program (`program.Function`) is a node, where its values lie, and what it takes beside. The node's word is found by its
name and by the module that registers it, one of this package. Attributes are numbers, texts, and lists or tuples of them; a node with
others, one that runs graphs of its own, or one that may give something else each time is not stored.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from preimage.floating_point import in_standard_mode
from preimage.io.graph.nodes import OPS, Node, repeatable
from preimage.io.graph.operation import check, operation
from preimage.io.graph.program import Function
from preimage.io.graph.words import runs_graphs

__all__ = ["function_of", "said_of"]

_PACKAGE = "preimage."


def said_of(item: Function, number: int, arrays: dict[str, Any], said_of_place: Callable[[Any], Any]) -> dict[str, Any]:
    """A function as JSON has it. Raises: ValueError where it cannot be stored."""
    node = item.node
    module = OPS[node.op].function.__module__
    if runs_graphs(node.op) or not repeatable(node) or not module.startswith(_PACKAGE):
        raise ValueError(f"node {node.name!r} ({node.op}) is none that can be stored")
    for k, value in enumerate(item.fixed.values()):
        if not isinstance(value, np.ndarray):
            raise ValueError(f"node {node.name!r} ({node.op}) takes a {type(value).__name__}")
        arrays[f"function{number}.{k}"] = value
    return {
        "module": module, "name": node.name, "op": node.op, "takes": node.inputs, "gives": node.outputs, "layer": node.layer,
        "attributes": {key: _plain(value, node) for key, value in node.attributes.items()}, "why": item.why,
        "inputs": [(key, said_of_place(place)) for key, place in item.inputs], "fixed": list(item.fixed),
        "results": [(key, said_of_place(place)) for key, place in item.results],
    }  # fmt: skip


def function_of(
    said: Mapping[str, Any], number: int, arrays: Mapping[str, Any], place: Callable[[Sequence[Any]], Any]
) -> Function:
    """What `said_of` was given. place: makes a place of what is said of one, or raises.

    Raises: ValueError, KeyError, TypeError or ImportError for what `said_of` does not give.
    """
    module, op = str(said["module"]), str(said["op"])
    if op not in OPS and module.startswith(_PACKAGE):
        importlib.import_module(module)
    if op not in OPS:
        raise ValueError(f"there is no word {op!r}")
    attributes = {str(key): _value(value) for key, value in said["attributes"].items()}
    takes, gives = (tuple(map(str, said[key])) for key in ("takes", "gives"))
    node = Node(str(said["name"]), op, takes, gives, attributes, str(said["layer"]))
    inputs, results = (tuple([(str(key), place(at)) for key, at in said[which]]) for which in ("inputs", "results"))
    fixed = {str(key): arrays[f"function{number}.{k}"] for k, key in enumerate(said["fixed"])}
    if {key for key, _ in inputs} | fixed.keys() != {key for key in takes if key} or not {key for key, _ in results} <= {*gives}:
        raise ValueError(f"node {node.name!r} takes or gives other values")
    return Function(node, inputs, fixed, results, str(said["why"]), run_alone)


@in_standard_mode
@np.errstate(all="ignore")
def run_alone(node: Node, values: Mapping[str, Any]) -> dict[str, Any]:
    """A node's values by name, as its graph would compute them."""
    arguments = [values[key] if key else None for key in node.inputs]
    check(node, arguments)
    made = operation(node, arguments)
    return {key: value for key, value in zip(node.outputs, made, strict=False) if key}


def _plain(value: Any, node: Node) -> Any:
    """An attribute as JSON has it: a tuple becomes an object."""
    if type(value) in (int, float, str, bool, type(None)):
        return value
    if type(value) in (list, tuple):
        plain = [_plain(v, node) for v in value]
        return plain if type(value) is list else {"tuple": plain}
    raise ValueError(f"node {node.name!r} ({node.op}) has an attribute that is a {type(value).__name__}")


def _value(said: Any) -> Any:
    if isinstance(said, dict):
        return tuple([_value(v) for v in said["tuple"]])
    return [_value(v) for v in said] if isinstance(said, list) else said
