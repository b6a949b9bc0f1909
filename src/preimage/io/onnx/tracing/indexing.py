"""`x[key]` as words: numbers, slices, None, ..., arrays of integers, and masks that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.autograd import array_of
from preimage.autograd.traced import TracedArray, plain
from preimage.io.onnx.tracing.rows import DTYPE_CODES, expanded

if TYPE_CHECKING:
    from preimage.io.onnx.tracing.recorder import Recorder

__all__ = ["written_index"]

_LEAST, _MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def _is_array(part: Any) -> bool:
    return isinstance(part, np.ndarray | list | np.bool_ | bool)


def _axes_taken(part: Any) -> int:
    """How many axes of x a part of the key is about."""
    if part is None or part is Ellipsis:
        return 0
    return np.ndim(part) if _is_array(part) and np.asarray(plain(part)).dtype == bool else 1


def written_index(w: Recorder, x: Any, key: Any) -> str | None:
    """The name of x[key]; None where there is no word for it: a mask that depends on the input makes a result of unknown size."""
    parts = list(key) if isinstance(key, tuple) else [key]
    ndim = array_of(x).ndim
    left = ndim - sum(map(_axes_taken, parts))
    if any(part is Ellipsis for part in parts):
        at = next(k for k, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = [slice(None)] * left
    else:
        parts += [slice(None)] * left
    listed: list[Any] = []
    for part in parts:
        if not _is_array(part):
            listed.append(part)
        elif np.asarray(plain(part)).dtype != bool:
            listed.append(part if isinstance(part, np.ndarray) else np.asarray(part))
        elif isinstance(part, TracedArray) or not np.ndim(part):
            return None
        else:
            listed += np.nonzero(part)
    if any(isinstance(part, np.ndarray) for part in listed):
        return _by_arrays(w, x, listed)
    return _by_slices(w, w.name(x), listed)


def _by_slices(w: Recorder, value: str, parts: list[Any]) -> str:
    """Slices, then axes taken away and put in."""
    axis = 0
    gone: list[int] = []
    new: list[int] = []
    for part in parts:
        if part is None:
            new.append(axis - len(gone) + len(new))
            continue
        if isinstance(part, slice):
            value = _sliced(w, value, axis, part)
        else:
            value = w.put("slice_axis", value, axis=axis, start=int(part), stop=int(part) + 1 if part != -1 else None)
            gone.append(axis)
        axis += 1
    if gone:
        value = w.put("onnx.Squeeze", value, w.ints(*gone))
    if new:
        value = w.put("onnx.Unsqueeze", value, w.ints(*new))
    return value if gone or new or any(p != slice(None) for p in parts) else w.put("identity", value)


def _sliced(w: Recorder, value: str, axis: int, part: slice) -> str:
    step = 1 if part.step is None else int(part.step)
    start, stop = (None if v is None else int(v) for v in (part.start, part.stop))
    if step == 1:
        made: str = (
            value if start in (None, 0) and stop is None else w.put("slice_axis", value, axis=axis, start=start, stop=stop)
        )
        return made
    first = (0 if step > 0 else _MOST) if start is None else start
    last = (_MOST if step > 0 else _LEAST) if stop is None else stop
    return w.put("onnx.Slice", value, w.ints(first), w.ints(last), w.ints(axis), w.ints(step))


def _by_arrays(w: Recorder, x: Any, parts: list[Any]) -> str | None:
    """Arrays of integers (numbers beside them are such arrays too), along one axis or several."""
    if any(part is None for part in parts):
        return None
    value = w.name(x)
    for axis, part in enumerate(parts):
        if isinstance(part, slice):
            value = _sliced(w, value, axis, part)
    places = [k for k, part in enumerate(parts) if not isinstance(part, slice)]
    if len(places) == 1:
        return w.put("onnx.Gather", value, _indices(w, parts[places[0]], np.int32), axis=places[0])
    rest = [k for k in range(len(parts)) if k not in places]
    if places != list(range(len(places))):
        value = w.put("transpose", value, axes=(*places, *rest))
    arrays = [part if isinstance(part, np.ndarray) else np.asarray(part) for part in (parts[k] for k in places)]
    shape = np.broadcast_shapes(*(np.shape(a) for a in arrays))
    columns = [_column(w, a, shape) for a in arrays]
    value = w.put("onnx.GatherND", value, w.put("onnx.Concat", *columns, axis=-1))
    beside = places == list(range(places[0], places[-1] + 1))
    if beside and places[0]:  # between the axes that stood before them and those behind
        n, first = len(shape), places[0]
        value = w.put("transpose", value, axes=(*range(n, n + first), *range(n), *range(n + first, n + len(rest))))
    return value


def _indices(w: Recorder, array: Any, *others: Any) -> str:
    """An array of indices in int64, or in one of the other dtypes where it has that."""
    if not isinstance(array, TracedArray):
        return w.name(array if array.dtype == np.int64 else np.asarray(array, np.int64))
    return w.name(array) if array.dtype in (np.int64, *others) else w.put("onnx.Cast", w.name(array), to=DTYPE_CODES["int64"])


def _column(w: Recorder, array: Any, shape: tuple[int, ...]) -> str:
    """An array of indices, broadcast to a shape, with one more axis."""
    name = _indices(w, array)
    if array.shape != shape:
        name = expanded(w, name, array.shape, shape)
    return w.put("onnx.Unsqueeze", name, w.ints(len(shape)))
