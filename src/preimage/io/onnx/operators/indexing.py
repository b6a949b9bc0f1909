"""ONNX's operators that gather and scatter by indices."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.engines import around
from preimage.engines.recording import constant, recorder
from preimage.errors import FileFormatError, PreimageError
from preimage.io.graph import graph_op
from preimage.io.limits import checked_size
from preimage.io.onnx.operators.moving import recorded, reshape, take
from preimage.io.onnx.operators.shapes import axis_of, data_of

__all__: list[str] = []


def _valid(indices: Any, size: int, what: str) -> np.ndarray:
    index = np.asarray(data_of(indices))
    if index.dtype.kind not in "iu":
        raise FileFormatError(f"{what}: indices are {index.dtype}")
    if index.size and (index.min() < -size or index.max() >= size):
        raise FileFormatError(f"{what}: an index from {index.min()} to {index.max()} into an axis of {size}")
    return np.where(index < 0, index + size, index)


@graph_op("onnx.Gather")
def _gather(x: Any, indices: Any, axis: int = 0) -> Any:
    axis = axis_of(axis, x.ndim, "Gather")
    index = _valid(indices, x.shape[axis], "Gather")
    checked_size((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]), "Gather")
    return take(x, index if recorded(x) or recorded(indices) else np.asarray(indices), axis)  # that which a recorder knows


@graph_op("onnx.GatherElements")
def _gather_elements(x: Any, indices: Any, axis: int = 0) -> Any:
    axis = axis_of(axis, x.ndim, "GatherElements")
    index = _valid(indices, x.shape[axis], "GatherElements")
    if index.ndim != x.ndim or any(a > b for k, (a, b) in enumerate(zip(index.shape, x.shape, strict=True)) if k != axis):
        raise FileFormatError(f"GatherElements: indices of shape {index.shape} into {x.shape}")
    if not recorded(x) and (made := _elements_by_kernels(x, data_of(indices), axis)) is not None:
        return made
    where = [np.arange(n).reshape([-1 if j == k else 1 for j in range(x.ndim)]) for k, n in enumerate(index.shape)]
    where[axis] = index
    return x[tuple(where)]


#: Of an index, the place of its line's first element, 0, the axis's size and elements from one to the next: the place of the element.
_PLACE = (("less", (0, 2)), ("add", (0, 3)), ("where", (5, 6, 0)), ("mul", (7, 4)), ("add", (8, 1)))


def _elements_by_kernels(x: Any, index: Any, axis: int) -> Any:
    """For a recorder, GatherElements as elements of x in one line; the places are exact in float64. None otherwise."""
    here, kernels = recorder(), around.active()
    if here is None or kernels is None or x.dtype not in (np.float32, np.float64) or not index.size or index.dtype.kind != "i":
        return None
    if not here.is_fixed(index):
        here.expect(index, (-x.shape[axis], x.shape[axis] - 1))
    steps = [prod(x.shape[k + 1 :]) for k in range(x.ndim)]
    first = np.zeros((1,) * x.ndim, np.int64)
    for k, size in enumerate(index.shape):
        if k != axis:
            first = first + np.arange(size).reshape([-1 if j == k else 1 for j in range(x.ndim)]) * steps[k]
    numbers = (0.0, float(x.shape[axis]), float(steps[axis]))
    places = around.mixed((index, constant(np.ascontiguousarray(first))), _PLACE, np.float64, np.int64, numbers, least=1)
    return None if places is None else kernels.take(reshape(x, (-1,)), places, 0)


@graph_op("onnx.GatherND")
def _gather_nd(x: Any, indices: Any, batch_dims: int = 0) -> Any:
    index = np.asarray(data_of(indices))
    if index.ndim < 1 or not 0 <= batch_dims < min(x.ndim, index.ndim) or batch_dims + index.shape[-1] > x.ndim:
        raise FileFormatError(f"GatherND: indices of shape {index.shape} into {x.shape} with batch_dims {batch_dims}")
    if index.shape[:batch_dims] != x.shape[:batch_dims]:
        raise FileFormatError(f"GatherND: batch axes of {index.shape} and {x.shape} differ")
    batch = [
        np.arange(n).reshape([-1 if j == k else 1 for j in range(index.ndim - 1)]) for k, n in enumerate(index.shape[:batch_dims])
    ]
    rest = [_valid(index[..., k], x.shape[batch_dims + k], "GatherND") for k in range(index.shape[-1])]
    return x[(*batch, *rest)]


#: So many updates of one place are taken one after the other by steps for all places.
MOST_TURNS = 64
_REDUCE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _recorded_scatter(x: Any, where: tuple[Any, ...], updates: Any, reduction: str, what: str) -> Any:
    """The gradient goes to the updates, and to what they did not replace."""
    times = np.zeros(x.shape, np.int64)
    np.add.at(times, where, 1)
    if reduction == "add":
        return ops.add(x, ops.put(updates, x.shape, where))
    if reduction != "none" or (times > 1).any():
        raise PreimageError(f"{what} has no gradient where several updates meet: run it under no_grad")
    return ops.add(ops.where(times > 0, 0.0, x), ops.put(updates, x.shape, where))


def _scatter(x: Any, where: tuple[Any, ...], updates: Any, reduction: str, what: str) -> Any:
    if recorded(x, updates):
        return _recorded_scatter(x, where, updates, reduction, what)
    result = x.copy()
    if reduction == "none":
        result[where] = updates
    elif reduction not in _REDUCE:
        raise FileFormatError(f"{what}: reduction {reduction!r}")
    elif len(where) == 1 and x.ndim > 1:
        _reduce_lines(result, where[0].reshape(-1), updates.reshape(-1, *x.shape[1:]), _REDUCE[reduction])
    else:
        _REDUCE[reduction].at(result, where, updates)
    return result


def _reduce_lines(into: np.ndarray, at: np.ndarray, lines: np.ndarray, reduce: np.ufunc) -> None:
    """into[at[k]] = reduce(into[at[k]], lines[k]) for k in order: the first line of every place at once, then the second of each."""
    order = np.argsort(at, kind="stable")
    places, turn = at[order], np.empty(len(at), np.int64)
    begins = np.ones(len(at), bool)
    begins[1:] = places[1:] != places[:-1]
    turn[order] = np.arange(len(at)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    ends = np.cumsum(np.bincount(turn)).tolist() if len(at) else []
    if len(ends) > MOST_TURNS:
        reduce.at(into, at, lines)
        return
    order = np.argsort(turn, kind="stable")
    at, lines, begin = at[order], lines[order], 0
    for end in ends:
        now = at[begin:end]
        into[now] = reduce(into[now], lines[begin:end])
        begin = end


def _lines_of(index: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Where whole lines of an array of this shape go along the axis, if indices of elements say that; else None."""
    others = [k for k in range(index.ndim) if k != axis]
    if index.ndim < 2 or any(index.shape[k] != shape[k] for k in others) or not index.size:
        return None
    first = index[tuple(slice(None) if k == axis else slice(1) for k in range(index.ndim))]
    spread = all(index.strides[k] == 0 or index.shape[k] == 1 for k in others)
    return first.reshape(-1) if spread or (index == first).all() else None


@graph_op("onnx.ScatterND")
def _scatter_nd(x: Any, indices: Any, updates: Any, reduction: str = "none") -> Any:
    index = np.asarray(data_of(indices))
    if index.ndim < 1 or index.shape[-1] > x.ndim or updates.shape != index.shape[:-1] + x.shape[index.shape[-1] :]:
        raise FileFormatError(f"ScatterND: indices {index.shape}, updates {updates.shape} into {x.shape}")
    where = tuple(_valid(index[..., k], x.shape[k], "ScatterND") for k in range(index.shape[-1]))
    return _scatter(x, where, updates, reduction, "ScatterND")


@graph_op("onnx.ScatterElements")
def _scatter_elements(x: Any, indices: Any, updates: Any, axis: int = 0, reduction: str = "none") -> Any:
    axis = axis_of(axis, x.ndim, "ScatterElements")
    index = np.asarray(data_of(indices))
    if index.shape != updates.shape or index.ndim != x.ndim:
        raise FileFormatError(f"ScatterElements: indices {index.shape}, updates {updates.shape} into {x.shape}")
    if reduction in _REDUCE and not recorded(x, updates) and (at := _lines_of(index, axis, x.shape)) is not None:
        result = x.copy()
        at = _valid(at, x.shape[axis], "ScatterElements")
        _reduce_lines(np.moveaxis(result, axis, 0), at, np.moveaxis(updates, axis, 0), _REDUCE[reduction])
        return result
    index = _valid(index, x.shape[axis], "ScatterElements")
    where: list[Any] = [np.arange(n).reshape([-1 if j == k else 1 for j in range(x.ndim)]) for k, n in enumerate(index.shape)]
    where[axis] = index
    return _scatter(x, tuple(np.broadcast_arrays(*where)), updates, reduction, "ScatterElements")


graph_op("onnx.Scatter")(_scatter_elements)


@graph_op("onnx.TensorScatter")
def _tensor_scatter(past: Any, update: Any, write_indices: Any = None, *, axis: int = -2, mode: str = "linear") -> Any:
    """A cache with new entries along an axis, from a place of each batch element on; "circular": behind the last place comes the first."""
    if recorded(past, update):
        raise PreimageError("TensorScatter has no gradient: run it under no_grad")
    k = axis_of(axis, past.ndim, "TensorScatter")
    fits = update.ndim == past.ndim and all(
        a == b for j, (a, b) in enumerate(zip(update.shape, past.shape, strict=True)) if j != k
    )
    if k == 0 or mode not in ("linear", "circular") or not fits or update.shape[k] > past.shape[k]:
        raise FileFormatError(f"TensorScatter: an update {update.shape} along axis {axis} of {past.shape}, mode {mode!r}")
    first = np.zeros(past.shape[0], np.int64) if write_indices is None else np.asarray(data_of(write_indices))
    if first.shape != past.shape[:1] or first.dtype.kind not in "iu":
        raise FileFormatError(f"TensorScatter: write_indices of shape {first.shape}, wanted {past.shape[:1]}")
    size = past.shape[k]
    last = size if mode == "circular" else size - update.shape[k] + 1
    if first.size and not (first.min() >= 0 and first.max() < last):
        raise FileFormatError(f"TensorScatter: write_indices from {first.min()} to {first.max()}, wanted 0 to {last - 1}")
    result = np.array(past)
    moved, new = np.moveaxis(result, k, 1), np.moveaxis(update, k, 1)
    moved[np.arange(len(past))[:, None], (first[:, None] + np.arange(update.shape[k])) % max(size, 1)] = new
    return result
