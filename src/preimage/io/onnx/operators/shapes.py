"""ONNX's operators that move data: reshaping, slicing, gathering, padding, counting. One path for arrays and Tensors.

Results whose size a model's data decide are checked against the limits of io.limits before they are allocated.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil, prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.engines import moving
from preimage.engines.base import is_channels_last
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.limits import checked_size
from preimage.io.onnx.model import CODES, dtype_of
from preimage.io.onnx.operators.moving import is_float, recorded, reshape, tile, transpose, where
from preimage.typing import PaddingMode

__all__ = ["axis_of", "data_of", "ints"]


def ints(value: Any, what: str) -> list[int]:
    """A 1-D tensor of integers (or an attribute's list) as a list.

    Raises: FileFormatError for anything else.
    """
    array = np.asarray(value.data if isinstance(value, Tensor) else value)
    if array.ndim > 1 or (array.dtype.kind not in "iu" and array.size):
        raise FileFormatError(f"{what}: wanted a list of integers, got {array.dtype} of shape {array.shape}")
    return [int(v) for v in array.reshape(-1)]


def data_of(x: Any) -> Any:
    return x.data if isinstance(x, Tensor) else x


def axis_of(axis: int, ndim: int, what: str) -> int:
    if not -ndim <= axis < ndim:
        raise FileFormatError(f"{what}: axis {axis} of a value with {ndim} axes")
    return axis % ndim


@graph_op("onnx.Shape", types=gives("int64"))
def _shape(x: Any, start: int = 0, end: int | None = None) -> np.ndarray:
    return np.array(np.shape(data_of(x))[start:end], np.int64)


@graph_op("onnx.Size", types=gives("int64"))
def _size(x: Any) -> np.ndarray:
    return np.array(prod(np.shape(data_of(x))), np.int64)


@graph_op("onnx.Reshape")
def _reshape(x: Any, shape: Any = None, *, allowzero: int = 0) -> Any:
    wanted = ints(shape, "Reshape")
    if not allowzero:
        if any(v == 0 and k >= x.ndim for k, v in enumerate(wanted)):
            raise FileFormatError(f"Reshape: shape {wanted} copies a size that {x.shape} does not have")
        wanted = [x.shape[k] if v == 0 else v for k, v in enumerate(wanted)]
    if wanted.count(-1) > 1 or any(v < -1 for v in wanted):
        raise FileFormatError(f"Reshape: impossible shape {wanted}")
    known, size = prod(v for v in wanted if v != -1), prod(x.shape)
    if -1 in wanted:
        if known == 0 or size % known:
            raise FileFormatError(f"Reshape: {x.shape} does not fit into {wanted}")
        wanted[wanted.index(-1)] = size // known
    elif known != size:
        raise FileFormatError(f"Reshape: {x.shape} does not fit into {wanted}")
    return reshape(x, tuple(wanted))


@graph_op("onnx.Flatten")
def _flatten(x: Any, axis: int = 1) -> Any:
    if not -x.ndim <= axis <= x.ndim:
        raise FileFormatError(f"Flatten: axis {axis} of a value with {x.ndim} axes")
    axis = axis + x.ndim if axis < 0 else axis
    return reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@graph_op("onnx.Transpose")
def _transpose(x: Any, perm: list[int] | None = None) -> Any:
    order = tuple(range(x.ndim))[::-1] if perm is None else tuple(perm)
    if sorted(order) != list(range(x.ndim)):
        raise FileFormatError(f"Transpose: perm {list(order)} is no order of {x.ndim} axes")
    return transpose(x, order)


@graph_op("onnx.Squeeze")
def _squeeze(x: Any, axes: Any = None) -> Any:
    which = (
        [k for k, v in enumerate(x.shape) if v == 1]
        if axes is None
        else [axis_of(a, x.ndim, "Squeeze") for a in ints(axes, "Squeeze")]
    )
    if any(x.shape[k] != 1 for k in which):
        raise FileFormatError(f"Squeeze: axes {which} of shape {x.shape} are not all 1")
    return reshape(x, tuple(v for k, v in enumerate(x.shape) if k not in which))


@graph_op("onnx.Unsqueeze")
def _unsqueeze(x: Any, axes: Any = None) -> Any:
    given = ints(axes, "Unsqueeze")
    total = np.ndim(data_of(x)) + len(given)
    which = {axis_of(a, total, "Unsqueeze") for a in given}
    if len(which) != len(given) or total > 32:
        raise FileFormatError(f"Unsqueeze: axes {given} are not distinct")
    sizes = iter(np.shape(data_of(x)))
    return reshape(x, tuple(1 if k in which else next(sizes) for k in range(total)))


@graph_op("onnx.Concat")
def _concat(*values: Any, axis: int) -> Any:
    axis = axis_of(axis, values[0].ndim, "Concat")
    first = values[0].shape
    for v in values[1:]:
        if v.ndim != len(first) or any(a != b for k, (a, b) in enumerate(zip(v.shape, first, strict=True)) if k != axis):
            raise FileFormatError(f"Concat along axis {axis}: shapes {first} and {v.shape} differ elsewhere")
    floats = all(v.dtype.kind == "f" and v.dtype == values[0].dtype for v in values)
    return ops.concat(list(values), axis) if recorded(*values) or floats else np.concatenate(values, axis)


@graph_op("onnx.Split")
def _split(x: Any, split: Any = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1) -> Any:
    axis = axis_of(axis, x.ndim, "Split")
    size = x.shape[axis]
    if split is not None:
        parts = ints(split, "Split")
    else:
        count = num_outputs or outputs
        if count < 1 or (num_outputs is None and size % count):
            raise FileFormatError(f"Split: axis {axis} of size {size} does not divide into {count}")
        each = ceil(size / count)
        parts = [max(0, min(each, size - k * each)) for k in range(count)]
    if sum(parts) != size or any(p < 0 for p in parts) or len(parts) != outputs:
        raise FileFormatError(f"Split: {parts} do not add up to the size {size} in {outputs} parts")
    edges = np.concatenate([[0], np.cumsum(parts)]).astype(int).tolist()
    cut = [slice(None)] * x.ndim
    results = []
    for a, b in pairwise(edges):
        cut[axis] = slice(a, b)
        results.append(x[tuple(cut)])
    return tuple(results) if outputs > 1 else results[0]


@graph_op("onnx.Slice")
def _slice(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    first, last = ints(starts, "Slice"), ints(ends, "Slice")
    which = list(range(len(first))) if axes is None else ints(axes, "Slice")
    stride = [1] * len(first) if steps is None else ints(steps, "Slice")
    if not len(first) == len(last) == len(which) == len(stride) or 0 in stride:
        raise FileFormatError(f"Slice: starts {first}, ends {last}, axes {which}, steps {stride} do not belong together")
    cut: list[slice] = [slice(None)] * x.ndim
    for a, b, axis, step in zip(first, last, which, stride, strict=True):
        k = axis_of(axis, x.ndim, "Slice")
        size = x.shape[k]
        a, b = (v + size if v < 0 else v for v in (a, b))
        if step > 0:
            cut[k] = slice(min(max(a, 0), size), min(max(b, 0), size), step)
        else:
            a, b = min(max(a, 0), size - 1), min(max(b, -1), size - 1)
            cut[k] = slice(a, None if b < 0 else b, step)
            if size == 0 or a <= b:
                cut[k] = slice(0, 0)
    return x[tuple(cut)]


@graph_op("onnx.Expand")
def _expand(x: Any, shape: Any) -> Any:
    wanted = checked_size(ints(shape, "Expand"), "Expand")
    try:
        full = np.broadcast_shapes(np.shape(data_of(x)), wanted)
    except ValueError:
        raise FileFormatError(f"Expand: {x.shape} does not broadcast with {wanted}") from None
    checked_size(full, "Expand")
    if recorded(x):
        return ops.broadcast_to(x, full)
    made = moving.repeated(x, full)
    return np.broadcast_to(x, full).copy() if made is None else made


@graph_op("onnx.Tile")
def _tile(x: Any, repeats: Any, axis: Any = None) -> Any:
    """axis, before opset 6: the one that is repeated."""
    if axis is not None:
        given = [np.reshape(data_of(v), -1) for v in (repeats, axis)]
        if any(v.size != 1 or not np.isfinite(v[0]) for v in given):
            raise FileFormatError(f"Tile: tiles {given[0].tolist()} and axis {given[1].tolist()}, wanted one number each")
        repeats = [int(given[0][0]) if k == axis_of(int(given[1][0]), x.ndim, "Tile") else 1 for k in range(x.ndim)]
    times = ints(repeats, "Tile")
    if len(times) != x.ndim:
        raise FileFormatError(f"Tile: {len(times)} repeats for {x.ndim} axes")
    checked_size([n * t for n, t in zip(x.shape, times, strict=True)], "Tile")
    return tile(x, times)


@graph_op(
    "onnx.ConstantOfShape",
    types=lambda attributes, _: ("float32" if attributes.get("value") is None else attributes["value"].dtype.name,),
)
def _constant_of_shape(shape: Any, value: Any = None) -> np.ndarray:
    fill = np.zeros(1, np.float32) if value is None else value
    if fill.size != 1:
        raise FileFormatError(f"ConstantOfShape: a value of shape {fill.shape}")
    return np.full(checked_size(ints(shape, "ConstantOfShape"), "ConstantOfShape"), fill.reshape(())[()], fill.dtype)


@graph_op("onnx.Range")
def _range(start: Any, limit: Any, delta: Any) -> np.ndarray:
    a, b, d = (np.asarray(data_of(v)).reshape(-1) for v in (start, limit, delta))
    if not a.size == b.size == d.size == 1 or d[0] == 0:
        raise FileFormatError("Range: start, limit and delta must be single values, delta not 0")
    count = max(ceil((b[0].item() - a[0].item()) / d[0].item()), 0)
    checked_size([count], "Range")
    return np.asarray((a[0] + np.arange(count).astype(a.dtype) * d[0]).astype(a.dtype))


@graph_op("onnx.NonZero", types=gives("int64"))
def _nonzero(x: Any) -> np.ndarray:
    return np.array(np.nonzero(np.atleast_1d(data_of(x))), np.int64).reshape(max(np.ndim(data_of(x)), 1), -1)


@graph_op("onnx.Trilu")
def _trilu(x: Any, k: Any = None, *, upper: int = 1) -> Any:
    if x.ndim < 2:
        raise FileFormatError(f"Trilu needs 2 axes, got shape {x.shape}")
    mask: Any = np.tri(
        x.shape[-2], x.shape[-1], k=(int(np.asarray(k).reshape(())) if k is not None else 0) - (1 if upper else 0), dtype=bool
    )
    mask = ~mask if upper else mask
    return where(mask, x, np.zeros((), x.dtype))


@graph_op(
    "onnx.EyeLike", types=lambda attributes, inputs: (CODES.get(attributes["dtype"]) if attributes.get("dtype") else inputs[0],)
)
def _eye_like(x: Any, dtype: int | None = None, k: int = 0) -> np.ndarray:
    if np.ndim(data_of(x)) != 2:
        raise FileFormatError(f"EyeLike needs 2 axes, got shape {x.shape}")
    return np.eye(x.shape[0], x.shape[1], k=k, dtype=x.dtype if dtype is None else dtype_of(dtype, "EyeLike"))


@graph_op("onnx.OneHot", types=gives(2))
def _one_hot(indices: Any, depth: Any, values: Any, axis: int = -1) -> np.ndarray:
    index, count = np.asarray(data_of(indices)), int(np.asarray(depth).reshape(-1)[0])
    axis = axis_of(axis, index.ndim + 1, "OneHot")
    checked_size((*index.shape, count), "OneHot")
    index = index.astype(np.int64)
    index = np.where(index < 0, index + count, index)
    hot = np.expand_dims(index, axis) == np.arange(count).reshape([-1 if k == axis else 1 for k in range(index.ndim + 1)])
    return np.asarray(np.where(hot, values[1], values[0]).astype(values.dtype))


@graph_op("onnx.Compress")
def _compress(x: Any, condition: Any, axis: int | None = None) -> Any:
    flags = np.asarray(data_of(condition)).astype(bool).reshape(-1)
    data = reshape(x, (-1,)) if axis is None else x
    k = 0 if axis is None else axis_of(axis, x.ndim, "Compress")
    if flags.size > data.shape[k]:
        raise FileFormatError(f"Compress: {flags.size} flags for an axis of {data.shape[k]}")
    return data[(slice(None),) * k + (np.flatnonzero(flags),)]


_MODES: dict[str, PaddingMode] = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@graph_op("onnx.Pad")
def _pad(x: Any, pads: Any = None, value: Any = None, axes: Any = None, *, mode: str = "constant", constant: float = 0.0) -> Any:
    amounts = ints(pads, "Pad")
    which = list(range(x.ndim)) if axes is None else [axis_of(a, x.ndim, "Pad") for a in ints(axes, "Pad")]
    if len(amounts) != 2 * len(which) or mode not in _MODES:
        raise FileFormatError(f"Pad: {len(amounts)} amounts for {len(which)} axes, mode {mode!r}")
    pairs = [(0, 0)] * x.ndim
    for position, axis in enumerate(which):
        pairs[axis] = (amounts[position], amounts[position + len(which)])
    sizes = [n + a + b for n, (a, b) in zip(x.shape, pairs, strict=True)]
    checked_size([max(abs(s), abs(a), abs(b)) for s, (a, b) in zip(sizes, pairs, strict=True)], "Pad")
    checked_size(sizes, "Pad")
    fill = constant if value is None else np.asarray(data_of(value)).reshape(-1)[0].item() if np.size(data_of(value)) else 0
    if recorded(x):
        everywhere = range(x.ndim)
        if mode == "constant":
            return ops.pad(x, pairs, value=float(fill), axes=everywhere)
        return ops.pad(x, pairs, mode=_MODES[mode], axes=everywhere)
    keep = x[tuple(slice(max(-a, 0), n + min(b, 0)) for n, (a, b) in zip(x.shape, pairs, strict=True))]
    grow = [(max(a, 0), max(b, 0)) for a, b in pairs]
    if mode == "constant":
        made = moving.padded(keep, grow, np.asarray(fill).astype(x.dtype))
        return np.pad(keep, grow, constant_values=np.asarray(fill).astype(x.dtype)) if made is None else made
    if any((a or b) and n == 0 for n, (a, b) in zip(keep.shape, grow, strict=True)):
        raise FileFormatError(f"Pad: mode {mode!r} of the empty shape {keep.shape}")
    if is_float(x):
        return ops.pad(keep, grow, mode=_MODES[mode], axes=range(x.ndim))
    names: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    return np.pad(keep, grow, mode=names[mode])


@graph_op("onnx.DepthToSpace")
def _depth_to_space(x: Any, blocksize: int, mode: str = "DCR") -> Any:
    if x.ndim != 4 or blocksize < 1 or x.shape[1] % blocksize**2:
        raise FileFormatError(f"DepthToSpace: blocksize {blocksize} of shape {x.shape}")
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    if isinstance(x, np.ndarray) and is_channels_last(x):
        last = np.moveaxis(x, 1, -1)
        if mode == "DCR":
            cells = last.reshape(n, h, w, b, b, depth).transpose(0, 1, 3, 2, 4, 5)
        else:
            cells = last.reshape(n, h, w, depth, b, b).transpose(0, 1, 4, 2, 5, 3)
        return np.moveaxis(moving.reshaped(cells, (n, h * b, w * b, depth)), -1, 1)
    if mode == "DCR":
        y = transpose(reshape(x, (n, b, b, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = transpose(reshape(x, (n, depth, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return reshape(y, (n, depth, h * b, w * b))


@graph_op("onnx.SpaceToDepth")
def _space_to_depth(x: Any, blocksize: int, mode: str = "DCR") -> Any:
    if x.ndim != 4 or blocksize < 1 or x.shape[2] % blocksize or x.shape[3] % blocksize:
        raise FileFormatError(f"SpaceToDepth: blocksize {blocksize} of shape {x.shape}")
    n, c, h, w = x.shape
    b = blocksize
    split = reshape(x, (n, c, h // b, b, w // b, b))
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return reshape(transpose(split, order), (n, c * b * b, h // b, w // b))


@graph_op("onnx.CenterCropPad")
def _center_crop_pad(x: Any, shape: Any, axes: list[int] | None = None) -> Any:
    wanted = checked_size(ints(shape, "CenterCropPad"), "CenterCropPad")
    which = list(range(x.ndim)) if axes is None else [axis_of(a, x.ndim, "CenterCropPad") for a in axes]
    if len(wanted) != len(which):
        raise FileFormatError(f"CenterCropPad: {len(wanted)} sizes for {len(which)} axes")
    amounts = [0] * (2 * x.ndim)
    for axis, size in zip(which, wanted, strict=True):
        extra = size - x.shape[axis]
        before = extra // 2 if extra >= 0 else -((-extra) // 2)
        amounts[axis], amounts[x.ndim + axis] = before, extra - before
    return _pad(x, amounts)


@graph_op("onnx.ReverseSequence")
def _reverse_sequence(x: Any, lengths: Any, batch_axis: int = 1, time_axis: int = 0) -> Any:
    counts = ints(lengths, "ReverseSequence")
    if (
        {batch_axis, time_axis} != {0, 1}
        or x.ndim < 2
        or len(counts) != x.shape[batch_axis]
        or any(not 0 <= c <= x.shape[time_axis] for c in counts)
    ):
        raise FileFormatError(f"ReverseSequence: lengths {counts} for shape {x.shape}")
    time = np.tile(np.arange(x.shape[time_axis]), (x.shape[batch_axis], 1))
    for row, count in enumerate(counts):
        time[row, :count] = time[row, :count][::-1]
    batch = np.arange(x.shape[batch_axis])[:, None]
    return x[batch, time] if batch_axis == 0 else x[time.T, batch.T]
