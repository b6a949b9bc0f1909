"""ONNX's operators that read images at regions and moved places: RoiAlign, MaxRoiPool, DeformConv, by ops/regions.py and ops/deformable.py."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.limits import check_work, checked_size
from preimage.io.onnx.operators.contractions import kernel_fits, pairs_of
from preimage.io.onnx.operators.shapes import data_of
from preimage.ops.deformable import deform_conv
from preimage.ops.regions import align_samples, roi_align, roi_pool

__all__: list[str] = []


def _images(values: np.ndarray, what: str) -> np.ndarray:
    """Which image each region lies in. Raises: FileFormatError for what is no whole number."""
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all() or np.any(values != np.rint(values)):
        raise FileFormatError(f"{what}: the images of regions are whole numbers, got {values.reshape(-1)[:4].tolist()}")
    return np.asarray(np.clip(values, -1, 1 << 31), np.int64)


@graph_op("onnx.RoiAlign")
def _roi_align(
    x: Any, rois: Any, batch_indices: Any, *, coordinate_transformation_mode: str | None = None, mode: str = "avg", opset: int = 16,
    output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Any:  # fmt: skip
    """Before opset 16 corners were not moved by half an element."""
    how = coordinate_transformation_mode or ("half_pixel" if opset >= 16 else "output_half_pixel")
    if how not in ("half_pixel", "output_half_pixel") or mode not in ("avg", "max") or sampling_ratio < 0:
        raise FileFormatError(f"RoiAlign: mode {mode!r}, coordinate_transformation_mode {how!r}, sampling_ratio {sampling_ratio}")
    corners, which = np.asarray(data_of(rois)), np.asarray(data_of(batch_indices))
    pooled = (output_height, output_width)
    if corners.ndim != 2 or corners.shape[1] != 4 or which.shape != corners.shape[:1] or x.ndim != 4 or min(pooled) < 1:
        raise FileFormatError(f"RoiAlign: x {x.shape}, regions {corners.shape} of the images {which.shape}, made to {pooled}")
    checked_size((len(corners), x.shape[1], *pooled), "RoiAlign")
    options: dict[str, Any] = {
        "pooled": pooled,
        "scale": spatial_scale,
        "sampling": sampling_ratio,
        "half_pixel": how == "half_pixel",
    }
    images = _images(which, "RoiAlign")
    if not np.isfinite(corners).all():
        raise FileFormatError("RoiAlign: a region has corners that are not finite")
    with np.errstate(all="ignore"):
        samples = align_samples(corners, **options)
    read = [4 * int(a) * int(b) * x.shape[1] * prod(pooled) for a, b in samples]
    checked_size((max(read, default=0),), "RoiAlign: the samples of a region")
    check_work(2 * sum(read), "RoiAlign")
    return roi_align(x, images, corners, mode=mode, **options)


@graph_op("onnx.MaxRoiPool")
def _max_roi_pool(x: Any, rois: Any, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0) -> Any:
    rows = np.asarray(data_of(rois))
    if rows.ndim != 2 or rows.shape[1] != 5 or x.ndim != 4 or len(pooled_shape) != 2 or min(pooled_shape) < 1:
        raise FileFormatError(f"MaxRoiPool: x {x.shape}, regions {rows.shape}, pooled_shape {list(pooled_shape)}")
    tall, wide = checked_size((len(rows), x.shape[1], *pooled_shape), "MaxRoiPool")[2:]
    check_work(2 * prod(x.shape[1:]) * len(rows) + (len(rows) * tall * wide << 12), "MaxRoiPool")
    with np.errstate(all="ignore"):
        return roi_pool(
            x, _images(rows[:, 0], "MaxRoiPool"), rows[:, 1:].astype(np.float32), pooled=(tall, wide), scale=spatial_scale
        )


@graph_op("onnx.DeformConv")
def _deform_conv(
    x: Any, w: Any, offset: Any, b: Any = None, mask: Any = None, *, dilations: Any = None, group: int = 1, kernel_shape: Any = None,
    offset_group: int = 1, pads: Any = None, strides: Any = None,
) -> Any:  # fmt: skip
    kernel_fits(w, kernel_shape, "DeformConv")
    axes = w.ndim - 2
    if x.ndim != w.ndim or axes < 1 or offset.ndim != w.ndim or offset_group < 1:
        raise FileFormatError(f"DeformConv: x {x.shape}, w {w.shape}, offset {offset.shape}, offset_group {offset_group}")
    columns = checked_size((*x.shape[:2], prod(w.shape[2:]), *offset.shape[2:]), "DeformConv")
    check_work(prod(columns) * (4 * 2**axes + 2 * w.shape[0]), "DeformConv")
    return deform_conv(
        x, w, offset, mask, b, stride=strides or 1, padding=pairs_of(pads, axes, "DeformConv"), dilation=dilations or 1,
        groups=group, offset_groups=offset_group,
    )  # fmt: skip
