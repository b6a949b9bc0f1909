"""ONNX's sequences: arrays of different shapes as one value (`Values`). No operator changes one; each makes another."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage import ops
from preimage.errors import FileFormatError
from preimage.io.graph import Values, graph_op
from preimage.io.graph.types import gives
from preimage.io.onnx.operators.moving import recorded
from preimage.io.onnx.operators.shapes import axis_of, data_of

__all__: list[str] = []

_UNKNOWN = gives()


def _sequence(value: Any, what: str) -> Values:
    if not isinstance(value, Values):
        raise FileFormatError(f"{what}: an array of shape {value.shape} where a sequence is wanted")
    return value


def _position(value: Any, count: int, what: str, *, end: bool = False) -> int:
    """A place in a sequence, negative ones from its end; `end`: also the place behind the last."""
    given = np.asarray(data_of(value))
    if given.size != 1 or given.dtype.kind not in "iu":
        raise FileFormatError(f"{what}: the position is {given.dtype} of shape {given.shape}, wanted one integer")
    place = int(given.reshape(()))
    if not -count <= place < count + end:
        raise FileFormatError(f"{what}: position {place} in a sequence of {count}")
    return place + count if place < 0 else place


@graph_op("onnx.SequenceEmpty", types=_UNKNOWN)
def _empty(*, dtype: int = 1) -> Values:
    return Values()


@graph_op("onnx.SequenceConstruct", types=_UNKNOWN)
def _construct(*parts: Any) -> Values:
    return Values(parts)


@graph_op("onnx.SequenceLength", types=gives("int64"))
def _length(sequence: Any) -> Any:
    return np.asarray(len(_sequence(sequence, "SequenceLength")), np.int64)


@graph_op("onnx.SequenceAt", types=_UNKNOWN)
def _at(sequence: Any, position: Any) -> Any:
    values = _sequence(sequence, "SequenceAt")
    return values[_position(position, len(values), "SequenceAt")]


@graph_op("onnx.SequenceErase", types=_UNKNOWN)
def _erase(sequence: Any, position: Any = None) -> Values:
    values = _sequence(sequence, "SequenceErase")
    place = _position(np.asarray(-1) if position is None else position, len(values), "SequenceErase")
    return Values([*values[:place], *values[place + 1 :]])


@graph_op("onnx.SequenceInsert", types=_UNKNOWN)
def _insert(sequence: Any, value: Any, position: Any = None) -> Values:
    values = _sequence(sequence, "SequenceInsert")
    place = len(values) if position is None else _position(position, len(values), "SequenceInsert", end=True)
    return Values([*values[:place], value, *values[place:]])


@graph_op("onnx.SplitToSequence", types=_UNKNOWN)
def _split(x: Any, split: Any = None, *, axis: int = 0, keepdims: int = 1) -> Values:
    """Pieces of one size (the last may be shorter), or of the sizes listed; without sizes each place of the axis, which keepdims=0 drops."""
    axis = axis_of(axis, x.ndim, "SplitToSequence")
    size = x.shape[axis]
    given = np.ones((), np.int64) if split is None else np.asarray(data_of(split))
    if given.dtype.kind not in "iu" or given.ndim > 1 or (given.size and given.min() < (given.ndim == 0)):
        raise FileFormatError(f"SplitToSequence: split is {given.tolist()} ({given.dtype})")
    if given.ndim:
        ends = np.cumsum(given).tolist()
        if (ends[-1] if ends else 0) != size:
            raise FileFormatError(f"SplitToSequence: sizes that add up to {ends[-1] if ends else 0}, the axis has {size}")
    else:
        ends = [min(end, size) for end in range(int(given), size + int(given), int(given))] if size else []
    cuts = zip([0, *ends[:-1]], ends, strict=True)
    if split is None and not keepdims:
        return Values([x[(slice(None),) * axis + (start,)] for start, _ in cuts])
    return Values([x[(slice(None),) * axis + (slice(start, end),)] for start, end in cuts])


@graph_op("onnx.ConcatFromSequence", types=_UNKNOWN)
def _concat(sequence: Any, *, axis: int, new_axis: int = 0) -> Any:
    values = _sequence(sequence, "ConcatFromSequence")
    if not values:
        raise FileFormatError("ConcatFromSequence: the sequence is empty")
    shapes = sorted({v.shape for v in values})
    axis = axis_of(axis, values[0].ndim + bool(new_axis), "ConcatFromSequence")
    fits = len(shapes) == 1 or (not new_axis and len({(*s[:axis], *s[axis + 1 :]) for s in shapes if len(s) > axis}) == 1)
    if not fits or len({len(s) for s in shapes}) > 1:
        raise FileFormatError(f"ConcatFromSequence: arrays of the shapes {shapes[:4]} along axis {axis}")
    if recorded(*values):
        return ops.stack(values, axis) if new_axis else ops.concat(values, axis)
    return np.stack(values, axis) if new_axis else np.concatenate(values, axis)
