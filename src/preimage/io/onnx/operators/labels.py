"""ONNX's LabelEncoder (of ai.onnx.ml): values looked up in a table of keys. Strings are arrays of NumPy's dtype str."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import Types
from preimage.io.limits import checked_size
from preimage.io.onnx.model import text_array
from preimage.io.onnx.operators.shapes import data_of

__all__: list[str] = []

_KINDS = {"strings": "str", "int64s": "int64", "floats": "float32"}


def _listed(attributes: Mapping[str, Any], word: str) -> np.ndarray | None:
    """The keys or values of a node, whichever attribute holds them."""
    tensor = attributes.get(f"{word}_tensor")
    if tensor is not None:
        return np.asarray(tensor).reshape(-1)
    for kind, dtype in _KINDS.items():
        if attributes.get(f"{word}_{kind}") is not None:
            given = attributes[f"{word}_{kind}"]
            return text_array(given, "LabelEncoder") if kind == "strings" else np.array(given, dtype)
    return None


def _types(attributes: Mapping[str, Any], inputs: Types) -> Types:
    if attributes.get("classes_strings") is not None:
        return ("int64" if inputs[0] == "str" else "str" if inputs[0] else None,)
    values = _listed(attributes, "values")
    return (None if values is None else "str" if values.dtype.kind == "U" else values.dtype.name,)


def _default(attributes: Mapping[str, Any], values: np.ndarray) -> Any:
    """What a value that is no key becomes."""
    tensor = attributes.get("default_tensor")
    if tensor is not None:
        if np.size(tensor) != 1 or np.asarray(tensor).dtype.kind != values.dtype.kind:
            raise FileFormatError(f"LabelEncoder: default_tensor has shape {np.shape(tensor)}, wanted one value like the others")
        return np.asarray(tensor).reshape(())[()]
    if values.dtype.kind == "U":
        return attributes.get("default_string") or "_Unused"
    word, usual = ("default_int64", -1) if values.dtype.kind in "iu" else ("default_float", -0.0)
    return usual if attributes.get(word) is None else attributes[word]


def _found(x: np.ndarray, keys: np.ndarray, values: np.ndarray, default: Any) -> np.ndarray:
    """The value of the first key that equals, for every element (NaN equals NaN); the default where none does."""
    if len(keys) != len(values):
        raise FileFormatError(f"LabelEncoder: {len(keys)} keys and {len(values)} values")
    if (x.dtype.kind == "U") != (keys.dtype.kind == "U") or x.dtype.kind not in "Ufiu":
        raise FileFormatError(f"LabelEncoder: values of {x.dtype} among keys of {keys.dtype}")
    answers = np.append(
        values, text_array([default], "LabelEncoder") if values.dtype.kind == "U" else np.array(default, values.dtype)
    )
    checked_size((*x.shape, max(answers.dtype.itemsize // 4, 1)), "LabelEncoder")
    order = np.argsort(keys, kind="stable")  # NaN comes last
    ranked = keys[order]
    place = np.minimum(np.searchsorted(ranked, x), max(len(keys) - 1, 0))
    if not len(keys):
        return np.full(x.shape, answers[-1])
    same = ranked[place] == x
    if keys.dtype.kind == "f":
        same |= np.isnan(ranked[place]) & np.isnan(x)
    return np.asarray(answers[np.where(same, order[place], len(values))])


@graph_op("onnx.ai.onnx.ml::LabelEncoder", types=_types)
def _label_encoder(
    x: Any, *, keys_strings: Sequence[str] | None = None, keys_int64s: Sequence[int] | None = None,
    keys_floats: Sequence[float] | None = None, keys_tensor: Any = None, values_strings: Sequence[str] | None = None,
    values_int64s: Sequence[int] | None = None, values_floats: Sequence[float] | None = None, values_tensor: Any = None,
    default_string: str | None = None, default_int64: int | None = None, default_float: float | None = None, default_tensor: Any = None,
    classes_strings: Sequence[str] | None = None,
) -> np.ndarray:  # fmt: skip
    """classes_strings, the form of version 1: strings become their places in the list, and places strings."""
    given = {
        "keys_strings": keys_strings, "keys_int64s": keys_int64s, "keys_floats": keys_floats, "keys_tensor": keys_tensor,
        "values_strings": values_strings, "values_int64s": values_int64s, "values_floats": values_floats, "values_tensor": values_tensor,
        "default_string": default_string, "default_int64": default_int64, "default_float": default_float, "default_tensor": default_tensor,
    }  # fmt: skip
    data = np.asarray(data_of(x))
    data = data.astype(str) if data.dtype == object and all(isinstance(v, str) for v in data.reshape(-1)) else data
    found: tuple[np.ndarray | None, np.ndarray | None]
    if classes_strings is not None:
        classes, places = text_array(classes_strings, "LabelEncoder"), np.asarray(np.arange(len(classes_strings)))
        found = (classes, places) if data.dtype.kind == "U" else (places, classes)
    else:
        found = _listed(given, "keys"), _listed(given, "values")
    keys, values = found
    if keys is None or values is None:
        raise FileFormatError("LabelEncoder: there are no keys, or no values")
    return _found(data, keys, values, _default(given, values))
