"""Regions of images brought to one size: RoI pooling, position-sensitive RoI pooling, and RoI align.

Differentiable by the images, not by the regions. Regions come as the number of the image of each, (R,), and its corners (R, 4): x0, y0, x1, y1.
`scale` turns the units of the corners into elements of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import array_of
from preimage.errors import OptionError, ShapeError
from preimage.ops.operands import check_room, operand
from preimage.ops.pointwise import divide, multiply, where
from preimage.ops.reduce import max as max_over
from preimage.ops.reduce import mean
from preimage.ops.reduce import sum as sum_over
from preimage.ops.shape import concat, getitem, moveaxis, reshape, take
from preimage.typing import Operand, Value

__all__ = ["align_samples", "psroi_pool", "roi_align", "roi_pool"]

_Images = NDArray[np.integer[Any]]
#: Elements that are read at once.
_CHUNK = 1 << 22


def _checked(name: str, x: Value, images: _Images, corners: NDArray[Any]) -> None:
    """Raises: ShapeError for what is no image and no regions, an image that is not there, and corners that are not finite."""
    if x.ndim != 4 or corners.shape != (len(images), 4):
        raise ShapeError(f"{name}: x has shape {x.shape}, wanted (N, C, H, W); the corners {corners.shape}, wanted (regions, 4)")
    if len(images) and not (images.min() >= 0 and images.max() < x.shape[0]):
        raise ShapeError(f"{name}: a region of image {images.min()} to {images.max()}; there are {x.shape[0]}")
    if not np.isfinite(corners).all():
        raise ShapeError(f"{name}: a region has corners that are not finite")


# -- the maximum or mean of whole elements -----------------------------------------------------------------------------


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    """To the nearest whole number, halves away from zero, as C's round."""
    rounded: NDArray[Any] = np.copysign(np.floor(np.abs(values) + np.float32(0.5)), values)
    return rounded


def _parts(length: Any, count: int, limit: int, *, within: Any, after: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last (exclusive) element of the `count` parts of each region along an axis, (R, count), within 0 .. limit.

    Regions begin at `within` before their parts are rounded outwards, and at `after` on top of that.
    """
    edges = np.arange(count + 1, dtype=np.float32) * (length / np.float32(count)).astype(np.float32)[:, None] + within[:, None]
    low, high = np.floor(edges[:, :-1]) + after[:, None], np.ceil(edges[:, 1:]) + after[:, None]
    return np.clip(low, 0, limit).astype(np.intp), np.clip(high, 0, limit).astype(np.intp)


def roi_pool(x: Operand, images: _Images, corners: NDArray[np.float32], *, pooled: tuple[int, int], scale: float) -> Value:
    """y[r, c, i, j]: the maximum of x[image of r, c] over part (i, j) of region r, 0 for an empty part.

    A region's corners are rounded to whole elements of x, both belong to it; parts are its length / pooled long, rounded outwards.
    Gradient: to the first maximum; none to the regions.
    """
    x = operand(x, "x")
    _checked("roi_pool", x, images, corners)
    data = np.asarray(array_of(x))
    _, channels, height, width = data.shape
    edges = np.clip(_rounded(corners * np.float32(scale)), -(1 << 30), 1 << 30).astype(np.int64)
    lengths = np.maximum(edges[:, 2:] - edges[:, :2] + 1, 1).astype(np.float32)
    zero = np.zeros(len(images), np.float32)
    left, right = _parts(lengths[:, 0], pooled[1], width, within=zero, after=edges[:, 0])
    top, bottom = _parts(lengths[:, 1], pooled[0], height, within=zero, after=edges[:, 1])
    places = np.zeros((len(images), channels, *pooled), np.intp)
    empty = np.zeros((len(images), 1, *pooled), bool)
    first = np.arange(channels) * (height * width)
    for region, image in enumerate(images):
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
    found = reshape(take(reshape(x, (-1,)), places.reshape(-1), 0), places.shape)
    return where(empty, 0.0, found) if empty.any() else found


def _windows(
    top: NDArray[np.intp], bottom: NDArray[np.intp], left: NDArray[np.intp], right: NDArray[np.intp], channels: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """Parts of one size that hold elements, some at a time: their numbers, region by region and row by row, and the rows and columns that they hold.

    top, bottom (R, rows of parts), left, right (R, columns of parts). Returns (P,), (P, height) and (P, width).
    """
    shape = (len(top), top.shape[1], left.shape[1])
    y0, heights = (np.broadcast_to(v[:, :, None], shape).reshape(-1) for v in (top, bottom - top))
    x0, widths = (np.broadcast_to(v[:, None, :], shape).reshape(-1) for v in (left, right - left))
    filled = np.flatnonzero((heights > 0) & (widths > 0))
    filled = filled[np.lexsort((widths[filled], heights[filled]))]
    if not filled.size:
        return
    changes = np.diff(heights[filled]) | np.diff(widths[filled])
    for alike in np.split(filled, np.flatnonzero(changes) + 1):
        height, width = int(heights[alike[0]]), int(widths[alike[0]])
        step = max(_CHUNK // max(height * width * channels, 1), 1)
        for k in range(0, len(alike), step):
            some = alike[k : k + step]
            yield some, y0[some, None] + np.arange(height), x0[some, None] + np.arange(width)


def psroi_pool(x: Operand, images: _Images, corners: NDArray[np.float32], *, group: int, scale: float) -> Value:
    """y[r, c, i, j]: the mean of channel (c group + i) group + j over part (i, j) of region r, 0 for an empty part.

    A region's corners are rounded, then scaled, the far ones an element further; it is at least 0.1 long. Gradient: none to the regions.
    """
    x = operand(x, "x")
    _checked("psroi_pool", x, images, corners)
    _, channels, height, width = x.shape
    near = _rounded(corners[:, :2]) * np.float32(scale)
    far = (_rounded(corners[:, 2:]) + 1) * np.float32(scale)
    lengths = np.maximum(far - near, np.float32(0.1))
    zero = np.zeros(len(images), np.float32)
    left, right = _parts(lengths[:, 0], group, width, within=near[:, 0], after=zero)
    top, bottom = _parts(lengths[:, 1], group, height, within=near[:, 1], after=zero)
    parts, outputs = len(images) * group**2, channels // group**2
    lines, found = reshape(x, (-1,)), list[Value]([np.zeros((1, outputs), x.dtype)])
    row, filled = np.zeros(parts, np.intp), 1  # of each part among what was found; an empty one is the first
    for part, rows, columns in _windows(top, bottom, left, right, outputs):
        of_group = np.arange(outputs) * group**2 + (part % group**2)[:, None]
        base = (of_group + (images[part // group**2] * channels)[:, None]) * (height * width)
        places = base[:, :, None, None] + rows[:, None, :, None] * width + columns[:, None, None, :]
        found.append(mean(reshape(take(lines, places.reshape(-1), 0), places.shape), axis=(2, 3)))
        row[part] = np.arange(filled, filled + len(part))
        filled += len(part)
    return moveaxis(reshape(take(concat(found, axis=0), row, 0), (len(images), group, group, outputs)), -1, 1)


# -- the mean of values between elements -------------------------------------------------------------------------------


def _spans(corners: NDArray[Any], scale: float, half_pixel: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where regions begin, and how long they are, (R, 2) each, y first, in elements of x."""
    edges = corners * corners.dtype.type(scale) - corners.dtype.type(0.5 if half_pixel else 0)
    lengths = edges[:, 2:] - edges[:, :2]
    return edges[:, 1::-1], (lengths if half_pixel else np.maximum(lengths, corners.dtype.type(1)))[:, ::-1]


def align_samples(
    corners: NDArray[Any], *, pooled: tuple[int, int], scale: float, sampling: int, half_pixel: bool
) -> NDArray[np.int64]:
    """How many samples roi_align takes in a part of each region, (R, 2) along y and x: `sampling`, or where it is 0 one for each element begun."""
    if sampling > 0:
        return np.full((len(corners), 2), sampling, np.int64)
    _, lengths = _spans(corners, scale, half_pixel)
    counts = np.clip(np.ceil(lengths / np.array(pooled, corners.dtype)), 0, 1 << 31)
    return np.asarray(counts, np.int64)


def _lines(start: NDArray[Any], length: NDArray[Any], count: int, parts: int, size: int) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Along one axis: the two elements beside each of `count` samples in each part, and their weights, both (R, parts, 2 count).

    Samples more than an element outside have the weights 0; others outside are those of the border.
    """
    each = length / length.dtype.type(parts)
    at = start[:, None, None] + np.arange(parts, dtype=start.dtype)[:, None] * each[:, None, None]
    at = at + (np.arange(count, dtype=start.dtype) + start.dtype.type(0.5)) * (each / start.dtype.type(count))[:, None, None]
    inside = (at >= -1) & (at <= size)
    at = np.clip(at, 0, size - 1)
    low = np.minimum(at.astype(np.intp), max(size - 2, 0))
    high = np.minimum(low + 1, size - 1)
    fraction = np.where(high > low, at - low, 0).astype(start.dtype)
    places, weights = np.stack([low, high], -1), np.stack([1 - fraction, fraction], -1) * inside[..., None]
    return places.reshape(*at.shape[:2], -1), weights.reshape(*at.shape[:2], -1)


def roi_align(
    x: Operand, images: _Images, corners: NDArray[Any], *, pooled: tuple[int, int], scale: float = 1.0, sampling: int = 0,
    mode: str = "avg", half_pixel: bool = True,
) -> Value:  # fmt: skip
    """y[r, c, i, j]: the mean of x[image of r, c] at samples spread evenly over part (i, j) of region r, each bilinear between four elements.

    Shapes: x (N, C, H, W), images (R,), corners (R, 4) -> (R, C, *pooled).
    Definition: parts are a region's length / pooled long, nothing is rounded. half_pixel: the corners are moved by half an element, so that
        element 0 lies at 0; without it regions are at least one element long. Samples: see `align_samples`; more than an element outside
        of x they are 0. mode "max": of all samples the largest of what one of its four elements adds to it, as ONNX has it.
    Gradient: by x; none by the regions.
    Raises: OptionError for another mode; ShapeError for what does not fit.
    Source: Mask R-CNN (He et al., 2017), section 3; ONNX RoiAlign 16.
    """
    x = operand(x, "x")
    if mode not in ("avg", "max"):
        raise OptionError(f"roi_align: mode is 'avg' or 'max', got {mode!r}")
    _checked("roi_align", x, images, corners)
    wide = corners.astype(np.float64 if x.dtype == np.float64 else np.float32)
    counts = align_samples(wide, pooled=pooled, scale=scale, sampling=sampling, half_pixel=half_pixel)
    result = (len(images), x.shape[1], *pooled)
    check_room("roi_align", result, x.dtype)
    if not prod(result) or not prod(x.shape):
        return np.zeros(result, x.dtype)
    starts, lengths = _spans(wide, scale, half_pixel)
    order: list[NDArray[np.intp]] = []
    found: list[Value] = []
    for which, (tall, broad) in _alike(counts, x.shape[1] * prod(pooled)):
        order.append(which)
        if tall < 1 or broad < 1:  # no sample
            found.append(np.zeros((len(which), *result[1:]), x.dtype))
            continue
        rows = _lines(starts[which, 0], lengths[which, 0], tall, pooled[0], x.shape[2])
        columns = _lines(starts[which, 1], lengths[which, 1], broad, pooled[1], x.shape[3])
        found.append(_sampled(x, images[which], rows, columns, mode, tall * broad))
    whole = found[0] if len(found) == 1 else concat(found, 0)
    places = np.argsort(np.concatenate(order))
    return whole if np.array_equal(places, np.arange(len(places))) else take(whole, places, 0)


def _alike(counts: NDArray[np.int64], elements: int) -> Iterator[tuple[NDArray[np.intp], tuple[int, int]]]:
    """Regions with the same number of samples, as many at once as may be read at once."""
    for pair in sorted({(int(a), int(b)) for a, b in counts}):
        which = np.flatnonzero((counts == pair).all(1))
        each = max(_CHUNK // max(4 * pair[0] * pair[1] * elements, 1), 1)
        for first in range(0, len(which), each):
            yield which[first : first + each], pair


def _sampled(x: Value, images: _Images, rows: Any, columns: Any, mode: str, count: int) -> Value:
    """Regions that have the same number of samples: their elements gathered, weighted, and added up or compared."""
    (at_y, by_y), (at_x, by_x) = rows, columns
    regions, channels, width = len(images), x.shape[1], x.shape[3]
    flat = at_y[:, :, :, None, None] * width + at_x[:, None, None, :, :]  # (R, parts, samples, parts, samples)
    check_room("roi_align", (regions, channels, *flat.shape[1:]), x.dtype)
    planes = reshape(x, (x.shape[0], channels, x.shape[2] * width))
    key = (images.reshape(-1, 1, 1), np.arange(channels)[None, :, None], flat.reshape(regions, 1, -1))
    seen = reshape(getitem(planes, key), (regions, channels, *flat.shape[1:]))
    weights = (by_y[:, :, :, None, None] * by_x[:, None, None, :, :])[:, None].astype(x.dtype)
    parts = multiply(seen, weights)
    return max_over(parts, (3, 5)) if mode == "max" else divide(sum_over(parts, (3, 5)), float(count))
