"""ONNX's TopK, the first of a sorted line, without sorting the rest; ArgMax and ArgMin."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage import ops
from preimage.engines import around
from preimage.engines.recording import constant
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


# -- places of the largest and the smallest ----------------------------------------------------------------------------

#: Of x, the extreme of its line, places along the line and a number: the place where x is the extreme or NaN, else the number.
_MET = (("equal", (0, 1)), ("is_nan", (0,)), ("or", (4, 5)), ("where", (6, 2, 3)))


def _by_kernels(x: Any, axis: int, largest: bool, last: bool) -> Any:
    """For a recorder, the place of the extreme along an axis, which stays with size 1: the first that meets it, or the last. None otherwise."""
    size = x.shape[axis]
    if not around.records() or x.dtype not in (np.float32, np.float64) or size >= 1 << 24:
        return None
    extreme = (ops.max if largest else ops.min)(x, axis, keepdims=True)
    places = constant(np.arange(size, dtype=x.dtype).reshape([-1 if k == axis else 1 for k in range(x.ndim)]))
    met = around.chain((x, extreme, places), _MET, (-1.0 if last else float(size),))
    if met is None:
        return None
    return around.mixed(((ops.max if last else ops.min)(met[0], axis, keepdims=True),), (), x.dtype, np.int64)


def _arg(name: str, function: Any) -> None:
    def call(x: Any, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> np.ndarray:
        data = data_of(x)
        axis = axis_of(axis, data.ndim, name)
        if data.shape[axis] == 0:
            raise FileFormatError(f"{name} over an empty axis")
        found = _by_kernels(data, axis, name == "ArgMax", bool(select_last_index))
        if found is None and select_last_index:
            found = data.shape[axis] - 1 - np.expand_dims(function(np.flip(data, axis), axis=axis), axis)
        elif found is None:
            found = np.expand_dims(function(data, axis=axis), axis)
        return np.asarray(found if keepdims else np.squeeze(found, axis), np.int64)

    graph_op(f"onnx.{name}", types=gives("int64"))(call)


_arg("ArgMax", np.argmax)
_arg("ArgMin", np.argmin)
