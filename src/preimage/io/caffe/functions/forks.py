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
from preimage.ops import regions

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


@graph_op("roi_pool")
def roi_pool(x: Value, rois: Value, *, pooled: tuple[int, int], scale: float) -> Value:
    """ops.regions.roi_pool; a region is a row of five: its image, then its corners."""
    which, corners = _rows(rois, len(constant(x)))
    return regions.roi_pool(x, which, corners, pooled=pooled, scale=scale)


@graph_op("psroi_pool")
def psroi_pool(x: Value, rois: Value, *, group: int, scale: float) -> Value:
    """ops.regions.psroi_pool; regions as in roi_pool."""
    which, corners = _rows(rois, len(constant(x)))
    return regions.psroi_pool(x, which, corners, group=group, scale=scale)
