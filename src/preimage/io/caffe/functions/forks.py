"""Graph words of the layers that forks of Caffe added, written with preimage.ops; gradients follow.

Source: see layers/forks.py; formulas stand at each function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage import ops
from preimage.errors import ShapeError
from preimage.io.caffe.functions.basic import constant, indices
from preimage.io.graph import graph_op

__all__: list[str] = []

Value = Any


@graph_op("crop_center")
def crop_center(x: Value, *, crop: tuple[int, ...]) -> Value:
    """x without the first and last crop[k] elements of each axis k."""
    return x[tuple(slice(n, size - n) for n, size in zip(crop, np.shape(constant(x)), strict=True))]


@graph_op("reorg")
def reorg(x: Value, *, stride: int, reverse: bool) -> Value:
    """Space to channels: y[n, c] of (N, C s^2, H/s, W/s), where x is first seen as (N, C/s^2, H s, W s), as Darknet's first program does.

    In that view y[n, (a s + b) C/s^2 + c, i, j] = x[n, c, i s + a, j s + b]; y is then seen as its own shape. `reverse` is the inverse
    of the middle step alone: (N, C, H, W) to (N, C/s^2, H s, W s).
    """
    n, c, h, w = np.shape(constant(x))
    inner = c // stride**2
    if reverse:
        parts = ops.reshape(x, (n, stride, stride, inner, h, w))
        return ops.reshape(ops.transpose(parts, (0, 3, 4, 1, 5, 2)), (n, inner, h * stride, w * stride))
    parts = ops.reshape(x, (n, inner, h, stride, w, stride))
    return ops.reshape(ops.transpose(parts, (0, 3, 5, 1, 2, 4)), (n, c * stride**2, h // stride, w // stride))


@graph_op("unpool_mask")
def unpool_mask(
    x: Value,
    mask: Value,
    *,
    size: tuple[int, int] | None,
    scale: tuple[int, int] = (1, 1),
    less: tuple[int, int] = (0, 0),
) -> Value:
    """Every value of x put at its place in the plane, zeros elsewhere; of several for one place the last."""
    tall, wide = np.shape(constant(x))[2:]
    height, width = size or (tall * scale[0] - less[0], wide * scale[1] - less[1])
    places, _ = indices(mask, height * width)
    return ops.max_unpool(x, places, (height, width))


@graph_op("interp")
def interp(x: Value, *, pad: tuple[int, int], zoom: int, shrink: int, size: tuple[int, int] | None) -> Value:
    """x without -pad[0] rows and columns at the beginning and -pad[1] at the end, resized bilinearly with aligned corners."""
    begin, end = pad
    if begin or end:
        tall, wide = np.shape(constant(x))[2:]
        x = x[:, :, -begin : tall + end, -begin : wide + end]
    height, width = (((n - 1) // shrink) * zoom + 1 for n in np.shape(constant(x))[2:])
    return ops.upsample(x, size=size or (height, width), mode="linear", align_corners=True)


@graph_op("bn_batch")
def bn_batch(x: Value, *, eps: float) -> tuple[Value, Any, Any]:
    """(x - mean) / sqrt(variance + eps) per channel, and the batch's mean and variance as (1, C, 1, 1), which take no gradient."""
    data, axes = constant(x), (0, 2, 3)
    return ops.standardize(x, axes, eps), ops.mean(data, axes, keepdims=True), ops.var(data, axes, keepdims=True)


# -- regions -----------------------------------------------------------------------------------------------------------


def _rows(rois: Value, images: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Images and corners of the regions. Raises: ShapeError for an image that is not there, and for corners that are not finite."""
    rows = np.asarray(constant(rois), np.float32).reshape(-1, 5)
    which, _ = indices(rows[:, 0], max(images, 1))
    if len(which) and not images:
        raise ShapeError("regions of an empty batch")
    if not np.isfinite(rows).all():
        raise ShapeError("a region has corners that are not finite")
    return which, rows[:, 1:]


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    """To the nearest whole number, halves away from zero, as C's round."""
    rounded: NDArray[Any] = np.copysign(np.floor(np.abs(values) + np.float32(0.5)), values)
    return rounded


def _parts(length: Any, count: int, limit: int, *, within: Any, after: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last (exclusive) pixel of the `count` parts of each region along an axis, (R, count), within 0 .. limit.

    Regions begin at `within` before their parts are rounded outwards, and at `after` on top of that.
    """
    edges = np.arange(count + 1, dtype=np.float32) * (length / np.float32(count)).astype(np.float32)[:, None] + within[:, None]
    low, high = np.floor(edges[:, :-1]) + after[:, None], np.ceil(edges[:, 1:]) + after[:, None]
    return np.clip(low, 0, limit).astype(np.intp), np.clip(high, 0, limit).astype(np.intp)


@graph_op("roi_pool")
def roi_pool(x: Value, rois: Value, *, pooled: tuple[int, int], scale: float) -> Value:
    """y[r, c, i, j]: the maximum of x[image of r, c] over part (i, j) of region r, 0 for an empty part.

    A region's corners are rounded to whole pixels of x, both belong to it; parts are its length / pooled long, rounded outwards.
    Gradient: to the first maximum; none to the regions.
    """
    data = constant(x)
    images, channels, height, width = data.shape
    which, corners = _rows(rois, images)
    edges = np.clip(_rounded(corners * np.float32(scale)), -(1 << 30), 1 << 30).astype(np.int64)
    lengths = np.maximum(edges[:, 2:] - edges[:, :2] + 1, 1).astype(np.float32)
    zero = np.zeros(len(which), np.float32)
    left, right = _parts(lengths[:, 0], pooled[1], width, within=zero, after=edges[:, 0])
    top, bottom = _parts(lengths[:, 1], pooled[0], height, within=zero, after=edges[:, 1])
    places = np.zeros((len(which), channels, *pooled), np.intp)
    empty = np.zeros((len(which), 1, *pooled), bool)
    first = np.arange(channels) * (height * width)
    for region, image in enumerate(which):
        base = first + image * channels * height * width
        for i, j in np.ndindex(*pooled):
            y0, y1, x0, x1 = top[region, i], bottom[region, i], left[region, j], right[region, j]
            if y1 <= y0 or x1 <= x0:
                empty[region, 0, i, j] = True
                continue
            best = data[image, :, y0:y1, x0:x1].reshape(channels, -1).argmax(axis=1)
            places[region, :, i, j] = base + (y0 + best // (x1 - x0)) * width + x0 + best % (x1 - x0)
    if not data.size:
        return np.zeros(places.shape, data.dtype)
    found = ops.reshape(ops.take(ops.reshape(x, (-1,)), places.reshape(-1), 0), places.shape)
    return ops.where(empty, 0.0, found) if empty.any() else found


@graph_op("psroi_pool")
def psroi_pool(x: Value, rois: Value, *, group: int, scale: float) -> Value:
    """y[r, c, i, j]: the mean of channel (c group + i) group + j over part (i, j) of region r, 0 for an empty part.

    A region's corners are rounded, then scaled, the far ones a pixel further; it is at least 0.1 long. Gradient: none to the regions.
    """
    images, channels, height, width = np.shape(constant(x))
    which, corners = _rows(rois, images)
    near = _rounded(corners[:, :2]) * np.float32(scale)
    far = (_rounded(corners[:, 2:]) + 1) * np.float32(scale)
    lengths = np.maximum(far - near, np.float32(0.1))
    zero = np.zeros(len(which), np.float32)
    left, right = _parts(lengths[:, 0], group, width, within=near[:, 0], after=zero)
    top, bottom = _parts(lengths[:, 1], group, height, within=near[:, 1], after=zero)
    maps = ops.reshape(x, (images, channels // group**2, group, group, height, width))
    regions = []
    for region, image in enumerate(which):
        cells: list[Value] = []
        for i, j in np.ndindex(group, group):
            y0, y1, x0, x1 = top[region, i], bottom[region, i], left[region, j], right[region, j]
            if y1 <= y0 or x1 <= x0:
                cells.append(np.zeros(channels // group**2, constant(x).dtype))
            else:
                cells.append(ops.mean(maps[int(image), :, i, j, y0:y1, x0:x1], axis=(1, 2)))
        regions.append(ops.reshape(ops.stack(cells, axis=1), (channels // group**2, group, group)))
    if not regions:
        return np.zeros((0, channels // group**2, group, group), constant(x).dtype)
    return ops.stack(regions, axis=0)
