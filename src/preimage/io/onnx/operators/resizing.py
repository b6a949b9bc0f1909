"""ONNX's Resize and Upsample as graph ops.

Where an output reads its input is a line of exact fractions (ops.sampling), so that every index is decided in integers. A float32 scale
stands for the simplest fraction that rounds to it: 1.6666666 means five thirds.

Where the size of an axis times its scale is no whole number, the result's size is rounded down, and `align_corners` and
`tf_crop_and_resize` spread that many positions from the first element to the last, as PyTorch and onnxruntime do; the text of the
operator divides by the size before rounding, so that the last position would miss the last element.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np

from preimage.engines.axis_matrix import AxisMatrix
from preimage.engines.recording import constant, recorder
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.limits import checked_size
from preimage.io.onnx.operators.moving import recorded, take, where
from preimage.io.onnx.operators.shapes import data_of, ints
from preimage.ops.filters import Filter, along_axes
from preimage.ops.sampling import ROUNDINGS, Positions, simplest_fraction
from preimage.ops.upsample import Resize, resized
from preimage.records import record

__all__: list[str] = []


@record
class Options:
    """How an axis is resampled: the attributes of the operator."""

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool
    antialias: bool


def _line(size: int, out: int, scale: Fraction, coordinates: str, region: tuple[Fraction, Fraction]) -> Positions:
    """The positions of `out` outputs on an axis of `size` elements."""
    zero, step = Fraction(0), 1 / scale
    if coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and out > 1):
        return Positions(out, (step - 1) / 2, step)
    if coordinates == "pytorch_half_pixel":
        return Positions(out, zero, zero)
    if coordinates == "half_pixel_symmetric":  # both margins lose the same where out is not size * scale
        middle = Fraction(size, 2) * (1 - out / (size * scale))
        return Positions(out, middle + (step - 1) / 2, step)
    if coordinates == "align_corners":
        return Positions(out, zero, Fraction(size - 1, out - 1) if out > 1 else zero)
    if coordinates == "asymmetric":
        return Positions(out, zero, step)
    if coordinates == "tf_half_pixel_for_nn":
        return Positions(out, step / 2, step)
    if coordinates == "tf_crop_and_resize":
        start, end = region
        if out > 1:
            return Positions(out, start * (size - 1), (end - start) * Fraction(size - 1, out - 1))
        return Positions(out, (start + end) * (size - 1) / 2, zero)
    raise FileFormatError(f"Resize: coordinate_transformation_mode {coordinates!r}")


def _taps(size: int, line: Positions, scale: Fraction, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Per output position: the input indices (out, T) and their weights (out, T)."""
    if options.mode == "nearest":
        index = np.clip(line.rounded(options.rounding), 0, size - 1)
        return index[:, None], np.ones((line.outputs, 1))
    stretch = max(Fraction(1), 1 / scale) if options.antialias else Fraction(1)  # a wider filter when shrinking
    cubic = None if options.mode == "linear" else options.cubic
    return Filter(size, line, cubic, stretch, options.exclude_outside).taps()


def _outside(size: int, line: Positions) -> np.ndarray:
    """Which positions lie before the first or behind the last element."""
    return (line.rounded("floor") < 0) | (line.rounded("ceil") > size - 1)


def _resize_axis(x: Any, axis: int, index: np.ndarray, weights: np.ndarray) -> Any:
    total = None
    shape = [-1 if k == axis else 1 for k in range(x.ndim)]
    for t in range(index.shape[1]):
        if not weights[:, t].any():
            continue
        part = take(x, constant(np.ascontiguousarray(index[:, t])), axis)
        if not np.all(weights[:, t] == 1):
            part = part * weights[:, t].astype(x.dtype).reshape(shape)
        total = part if total is None else total + part
    return total


def _resize_axes(x: Any, taps: dict[int, tuple[np.ndarray, np.ndarray]]) -> Any:
    """One axis after another."""
    if taps and x.dtype in (np.float32, np.float64):
        return along_axes(
            x, tuple([(axis, AxisMatrix.of_taps(x.shape[axis], i, w.astype(x.dtype))) for axis, (i, w) in taps.items()])
        )
    for axis, (index, weights) in taps.items():
        x = _resize_axis(x, axis, index, weights)
    return x


def _blended(x: Any, lines: dict[int, Positions]) -> Any:
    """Spatial axes, each output a blend of two neighbours."""
    zero, one = Fraction(0), Fraction(1)
    return resized(x, tuple(Resize(n, lines.get(k, Positions(n, zero, one)), True) for k, n in enumerate(x.shape) if k > 1))


@graph_op("onnx.Resize")
def _resize(x: Any, roi: Any = None, scales: Any = None, sizes: Any = None, *, mode: str = "nearest", opset: int = 13,
            coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75,
            exclude_outside: int = 0, extrapolation_value: float = 0.0, antialias: int = 0, axes: list[int] | None = None,
            keep_aspect_ratio_policy: str = "stretch") -> Any:  # fmt: skip
    which = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    factor, target = _scales_and_sizes(x, which, scales, sizes, keep_aspect_ratio_policy)
    checked_size(target, "Resize")
    if mode not in ("nearest", "linear", "cubic") or nearest_mode not in ROUNDINGS:
        raise FileFormatError(f"Resize: mode {mode!r}, nearest_mode {nearest_mode!r}")
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    region = _region(roi, which) if crops else {}
    options = Options(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias) and mode != "nearest",
    )
    integers = not recorded(x) and x.dtype.kind in "iu"
    y = x.astype(np.float64) if integers else x
    margins, taps, lines = [], {}, {}
    for axis in which:
        if x.shape[axis] == target[axis] and factor[axis] == 1 and not crops:
            continue
        if x.shape[axis] == 0:
            raise FileFormatError(f"Resize: axis {axis} is empty")
        line = _line(x.shape[axis], target[axis], factor[axis], options.coordinates, region.get(axis, (Fraction(0), Fraction(1))))
        lines[axis] = line
        taps[axis] = _taps(x.shape[axis], line, factor[axis], options)
        if crops and (outside := _outside(x.shape[axis], line)).any():
            margins.append((axis, outside))
    blended = mode == "linear" and not options.antialias and not options.exclude_outside
    y = _blended(y, lines) if blended and lines and min(lines) > 1 else _resize_axes(y, taps)
    for axis, outside in margins:
        mask = outside.reshape([-1 if k == axis else 1 for k in range(y.ndim)])
        y = where(mask, np.asarray(extrapolation_value, y.dtype), y)
    if integers:
        return np.clip(np.rint(y), np.iinfo(x.dtype).min, np.iinfo(x.dtype).max).astype(x.dtype)
    return np.array(y) if y is x and not recorded(y) and recorder() is None else y  # a recording knows views


def _fractions(values: Any) -> list[Fraction]:
    """What the numbers of a float tensor mean, each the simplest fraction that rounds to it."""
    array = np.asarray(data_of(values)).reshape(-1)
    if not np.all(np.isfinite(array.astype(np.float64))):
        raise FileFormatError(f"Resize: {array.tolist()} are not all finite")
    return [simplest_fraction(v if isinstance(v, np.floating) else float(v)) for v in array]


def _region(roi: Any, which: list[int]) -> dict[int, tuple[Fraction, Fraction]]:
    """Start and end of the crop of each axis, as shares of it."""
    if roi is None or np.size(data_of(roi)) != 2 * len(which):
        raise FileFormatError("Resize: tf_crop_and_resize needs a roi of two values an axis")
    values = _fractions(roi)
    return {axis: (values[k], values[k + len(which)]) for k, axis in enumerate(which)}


def _scales_and_sizes(x: Any, which: list[int], scales: Any, sizes: Any, policy: str) -> tuple[dict[int, Fraction], list[int]]:
    """The scale of each axis that is resized, and the size of every axis."""
    target = list(x.shape)
    if sizes is not None and np.size(data_of(sizes)):
        wanted = ints(sizes, "Resize")
        if len(wanted) != len(which) or any(v < 0 for v in wanted) or policy not in ("stretch", "not_larger", "not_smaller"):
            raise FileFormatError(f"Resize: sizes {wanted} for {len(which)} axes, policy {policy!r}")
        ratios = [Fraction(v, x.shape[a]) if x.shape[a] else Fraction(1) for v, a in zip(wanted, which, strict=True)]
        if policy != "stretch" and which:
            ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(which)
            wanted = [floor(r * x.shape[a] + Fraction(1, 2)) for r, a in zip(ratios, which, strict=True)]
        for a, v in zip(which, wanted, strict=True):
            target[a] = v
        return {a: r or Fraction(1) for a, r in zip(which, ratios, strict=True)}, target
    given = [] if scales is None else _fractions(scales)
    if len(given) != len(which) or any(s <= 0 for s in given):
        raise FileFormatError(f"Resize: scales {[float(s) for s in given]} for {len(which)} axes")
    for a, s in zip(which, given, strict=True):
        checked_size([min(floor(x.shape[a] * s), 2**62)], "Resize")
        target[a] = floor(x.shape[a] * s)
    return dict(zip(which, given, strict=True)), target


@graph_op("onnx.Upsample")
def _upsample(
    x: Any, scales_input: Any = None, *, mode: str = "nearest", scales: list[float] | None = None, opset: int = 9
) -> Any:
    given = data_of(scales_input) if scales is None else np.asarray(scales, np.float32)
    return _resize(x, None, given, mode="linear" if mode == "bilinear" else mode,
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
