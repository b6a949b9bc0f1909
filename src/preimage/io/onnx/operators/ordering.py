"""ONNX's TopK: the first of a sorted line, without sorting the rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.onnx.operators.shapes import axis_of, data_of

__all__: list[str] = []


@graph_op("onnx.TopK", types=gives(0, "int64"))
def _top_k(x: Any, k: Any, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    data, count = data_of(x), int(np.asarray(k).reshape(-1)[0])
    axis = axis_of(axis, data.ndim, "TopK")
    if not 0 <= count <= data.shape[axis]:
        raise FileFormatError(f"TopK: {count} of {data.shape[axis]}")
    narrow = data.dtype.kind == "f" and data.dtype.itemsize >= 4
    keys = data if not largest else -(data if narrow else data.astype(np.float64 if data.dtype.kind == "f" else np.int64))
    lines = np.moveaxis(keys, axis, -1)
    if count and 4 * count <= lines.shape[-1] >= 64:
        first = [_smallest(line, count) for line in lines.reshape(-1, lines.shape[-1])]
        index = np.moveaxis(np.reshape(first, (*lines.shape[:-1], count)), -1, axis)
    else:
        index = np.take(np.argsort(keys, axis, kind="stable"), np.arange(count), axis)
    return np.take_along_axis(data, index, axis), index.astype(np.int64)


def _smallest(line: np.ndarray, count: int) -> np.ndarray:
    """The first `count` places of a stable sort, without sorting the rest."""
    last = np.partition(line, count - 1)[count - 1]
    places = np.flatnonzero(line <= last)
    if places.size < count:  # NaN, which stands behind all numbers
        places = np.arange(line.size)
    return np.asarray(places[np.argsort(line[places], kind="stable")][:count])
