"""Nested dicts, lists and numbers around arrays, as named arrays and one line of text: how an optimiser's state lies in a weights file.

    {"state": {0: {"step": 3, "mean": array}}, "groups": [{"lr": 0.1}]}   ->   {"state.0.mean": array},  text

The text is JSON: numbers, words, true, false and null as they are; {"array": name}; {"dict": [[key, value], ...]}, {"list": [...]},
{"tuple": [...]}. Reading gives back equal values of the same types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from preimage.autograd import array_of, as_array
from preimage.errors import DTypeError, FileFormatError

__all__ = ["TREE", "flattened", "is_flat", "plain_array", "rebuilt"]

#: The name under which the text stands in a file.
TREE = "preimage.tree"

_PLAIN = (str, int, float, bool, type(None))


def plain_array(value: Any, name: str) -> NDArray[Any]:
    """The value as an array that a file gives back. Raises: DTypeError for Python objects, masked arrays, and what is no array."""
    array = as_array(array_of(value), name, values_only=True)
    if array.dtype.hasobject:
        raise DTypeError(
            f"{name!r} holds Python objects ({type(value).__name__}), which are never loaded again; save numbers, words or arrays"
        )
    return array


def is_flat(tree: Mapping[Any, Any]) -> bool:
    """Whether it is names and arrays alone (lists of numbers are arrays too), which needs no text."""

    def nested(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return any(nested(v) for v in value)
        return isinstance(value, Mapping | str | bytes | None)

    return all(isinstance(k, str) and not nested(v) for k, v in tree.items())


def flattened(tree: Mapping[Any, Any]) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays by place, and the text that says where each belongs.

    Raises: DTypeError for what is neither array, number, word, dict, list nor tuple, and for a dict that holds itself.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def put(value: Any, place: str, depth: int) -> Any:
        if depth > 100:
            raise DTypeError(f"{place[:60]!r} lies deeper than 100 levels, or holds itself")
        if type(value) in _PLAIN:
            return value
        if isinstance(value, Mapping):
            wrong = [k for k in value if type(k) not in (str, int)]
            if wrong:
                raise DTypeError(f"{place or 'the dict'}: keys are words or integers, got {wrong[0]!r}")
            return {"dict": [[k, put(v, f"{place}.{k}" if place else str(k), depth + 1)] for k, v in value.items()]}
        if type(value) in (list, tuple):
            return {type(value).__name__: [put(v, f"{place}.{k}", depth + 1) for k, v in enumerate(value)]}
        array, name = plain_array(value, place), place
        while name in arrays or name == TREE:
            name += "_"
        arrays[name] = array
        return {"array": name}

    return arrays, json.dumps(put(tree, "", 0), separators=(",", ":"))


def rebuilt(arrays: Mapping[str, NDArray[Any]], text: str) -> Any:
    """What `flattened` was given. Raises: FileFormatError for a text that does not fit the arrays."""

    def get(node: Any) -> Any:
        if type(node) in _PLAIN:
            return node
        if isinstance(node, dict) and len(node) == 1:
            (kind, held), *_ = node.items()
            if kind == "array" and held in arrays:
                return arrays[held]
            if kind == "dict" and all(isinstance(e, list) and len(e) == 2 and type(e[0]) in (str, int) for e in held):
                return {key: get(value) for key, value in held}
            if kind in ("list", "tuple") and isinstance(held, list):
                return (list if kind == "list" else tuple)(get(value) for value in held)
        raise FileFormatError(f"the description of nested values does not fit the arrays: {str(node)[:60]!r}")

    try:
        return get(json.loads(text))
    except (json.JSONDecodeError, RecursionError, TypeError) as error:
        raise FileFormatError(f"the description of nested values is damaged: {error}") from None
