"""ONNX's convolutions, poolings and resizing as graph ops."""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.engines import around
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.limits import checked_size
from preimage.io.onnx.moving import recorded, take, where
from preimage.io.onnx.shapes import ints

__all__ = ["pairs_of"]

_SAME = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower"}


def pairs_of(pads: list[int] | None, ndim: int, what: str) -> list[tuple[int, int]]:
    """ONNX's [lo..., hi...] as (lo, hi) pairs.

    Raises: FileFormatError for another count.
    """
    if pads is None:
        return [(0, 0)] * ndim
    if len(pads) != 2 * ndim:
        raise FileFormatError(f"{what}: {len(pads)} pads for {ndim} spatial axes")
    return [(pads[k], pads[k + ndim]) for k in range(ndim)]


def _padding(auto_pad: str, pads: list[int] | None, ndim: int, what: str) -> Any:
    if auto_pad in _SAME:
        return _SAME[auto_pad]
    if auto_pad == "VALID":
        return 0
    if auto_pad != "NOTSET":
        raise FileFormatError(f"{what}: auto_pad {auto_pad!r}")
    return pairs_of(pads, ndim, what)


def _kernel(w: Any, kernel_shape: list[int] | None, what: str) -> None:
    if kernel_shape is not None and tuple(kernel_shape) != tuple(w.shape[2:]):
        raise FileFormatError(f"{what}: kernel_shape {kernel_shape} but weight shape {w.shape}")


@graph_op("onnx.Conv")
def _conv(x: Any, w: Any, b: Any = None, *, auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None, dilations: Any = None,
          group: int = 1, kernel_shape: Any = None, **epilogue: Any) -> Any:  # fmt: skip
    _kernel(w, kernel_shape, "Conv")
    return ops.conv(x, w, b, stride=strides or 1, dilation=dilations or 1, groups=group,
                    padding=_padding(auto_pad, pads, w.ndim - 2, "Conv"), **epilogue)  # fmt: skip


@graph_op("onnx.ConvTranspose")
def _conv_transpose(x: Any, w: Any, b: Any = None, *, auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None,
                    dilations: Any = None, group: int = 1, kernel_shape: Any = None, output_padding: Any = None,
                    output_shape: Any = None, **epilogue: Any) -> Any:  # fmt: skip
    _kernel(w, kernel_shape, "ConvTranspose")
    ndim = w.ndim - 2
    stride, dilation = strides or [1] * ndim, dilations or [1] * ndim
    extra = output_padding or [0] * ndim
    if x.ndim != w.ndim or not len(stride) == len(dilation) == len(extra) == ndim:
        raise FileFormatError(
            f"ConvTranspose: input {x.shape}, weight {w.shape}, strides {stride}, dilations {dilation}, output_padding {extra}"
        )
    padding = _padding(auto_pad, pads, ndim, "ConvTranspose")
    if output_shape is not None or isinstance(padding, str):
        # The result's size is given; what the full result has too much is cropped, what it lacks is output_padding.
        sizes = [n * s for n, s in zip(x.shape[2:], stride, strict=True)] if output_shape is None else list(output_shape)[-ndim:]
        padding, extra = _crops(x.shape[2:], w.shape[2:], stride, dilation, extra, sizes, auto_pad), None
        checked_size(sizes, "ConvTranspose")
        return ops.conv_transpose(
            x, w, b, stride=stride, dilation=dilation, groups=group, padding=padding, output_size=sizes, **epilogue
        )
    return ops.conv_transpose(
        x, w, b, stride=stride, dilation=dilation, groups=group, padding=padding, output_padding=extra, **epilogue
    )


def _crops(small: Any, kernel: Any, stride: Any, dilation: Any, extra: Any, sizes: Any, auto_pad: str) -> list[tuple[int, int]]:
    pairs = []
    for n, k, s, d, e, size in zip(small, kernel, stride, dilation, extra, sizes, strict=True):
        full = (n - 1) * s + (k - 1) * d + 1
        total = max(full + e - size, 0)
        half = total // 2
        lo, hi = (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)
        # output_padding counts at the end: taken back there first, so that the margin is a plain crop of the full result
        pairs.append((lo, full - lo - size if full - lo - size < hi else hi))
    return pairs


# -- poolings ----------------------------------------------------------------------------------------------------------


def _pool_padding(
    x: Any, kernel: list[int], strides: list[int], dilations: list[int], auto_pad: str, pads: Any, what: str
) -> Any:
    ndim = len(kernel)
    if x.ndim != ndim + 2:
        raise FileFormatError(f"{what}: kernel_shape {kernel} for an input of shape {x.shape}")
    padding = _padding(auto_pad, pads, ndim, what)
    if not isinstance(padding, str):
        return [(0, 0)] * ndim if padding == 0 else padding
    pairs = []
    for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        half = total // 2
        pairs.append((half, total - half) if padding == "same" else (total - half, half))
    return pairs


@graph_op("onnx.MaxPool")
def _max_pool(x: Any, *, kernel_shape: list[int], auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None, dilations: Any = None,
              ceil_mode: int = 0, storage_order: int = 0, outputs: int = 1) -> Any:  # fmt: skip
    ndim = len(kernel_shape)
    stride, dilation = strides or [1] * ndim, dilations or [1] * ndim
    padding = _pool_padding(x, kernel_shape, stride, dilation, auto_pad, pads, "MaxPool")
    integers = not recorded(x) and x.dtype.kind in "iu"
    value = x.astype(np.float64) if integers else x
    result = ops.max_pool(value, kernel_shape, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode),
                          return_switches=outputs > 1)  # fmt: skip
    if outputs == 1:
        return result.astype(x.dtype) if integers else result
    pooled, switches = result
    index = np.asarray(switches.data if isinstance(switches, Tensor) else switches).astype(np.int64)
    n, c = x.shape[:2]
    size = int(np.prod(x.shape[2:], dtype=np.int64))
    if storage_order:  # column-major inside an image
        index = np.ravel_multi_index(np.unravel_index(index, x.shape[2:])[::-1], x.shape[2:][::-1])
    index = index + (np.arange(n * c) * size).reshape((n, c) + (1,) * ndim)
    return (pooled.astype(x.dtype) if integers else pooled), index


@graph_op("onnx.AveragePool")
def _average_pool(x: Any, *, kernel_shape: list[int], auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None,
                  dilations: Any = None, ceil_mode: int = 0, count_include_pad: int = 0) -> Any:  # fmt: skip
    ndim = len(kernel_shape)
    stride, dilation = strides or [1] * ndim, dilations or [1] * ndim
    padding = _pool_padding(x, kernel_shape, stride, dilation, auto_pad, pads, "AveragePool")
    return ops.avg_pool(x, kernel_shape, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode),
                        count_include_pad=bool(count_include_pad))  # fmt: skip


@graph_op("onnx.LpPool")
def _lp_pool(x: Any, *, kernel_shape: list[int], auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None, dilations: Any = None,
             ceil_mode: int = 0, p: int = 2) -> Any:  # fmt: skip
    ndim = len(kernel_shape)
    stride, dilation = strides or [1] * ndim, dilations or [1] * ndim
    padding = _pool_padding(x, kernel_shape, stride, dilation, auto_pad, pads, "LpPool")
    power = ops.power(ops.abs(x), float(p))
    mean = ops.avg_pool(power, kernel_shape, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode),
                        count_include_pad=True)  # fmt: skip
    return ops.power(mean * float(np.prod(kernel_shape)), 1.0 / p)


@graph_op("onnx.MaxUnpool")
def _max_unpool(
    x: Any, indices: Any, output_shape: Any = None, *, kernel_shape: list[int], pads: Any = None, strides: Any = None
) -> Any:
    ndim = len(kernel_shape)
    stride = strides or [1] * ndim
    pairs = pairs_of(pads, ndim, "MaxUnpool")
    plain = [(n - 1) * s + k - lo - hi for n, s, k, (lo, hi) in zip(x.shape[2:], stride, kernel_shape, pairs, strict=True)]
    sizes = plain if output_shape is None else list(checked_size(ints(output_shape, "MaxUnpool"), "MaxUnpool"))[2:]
    checked_size([*x.shape[:2], *sizes], "MaxUnpool")
    index = np.asarray(indices.data if isinstance(indices, Tensor) else indices)
    if index.shape != x.shape or len(sizes) != ndim:
        raise FileFormatError(f"MaxUnpool: indices of shape {index.shape} for {x.shape}, output sizes {sizes}")
    n, c = x.shape[:2]
    # The file counts over the whole pooled array of `plain` sizes; the switches count inside one image.
    local = index - (np.arange(n * c) * int(np.prod(plain, dtype=np.int64))).reshape((n, c) + (1,) * ndim)
    if local.size and (
        local.min() < 0 or local.max() >= np.prod(plain, dtype=np.int64) or any(a > b for a, b in zip(plain, sizes, strict=True))
    ):
        raise FileFormatError("MaxUnpool: an index lies outside its image")
    if sizes != plain:  # the same positions, counted in the larger image
        local = np.ravel_multi_index(np.unravel_index(local, plain), sizes)
    return ops.max_unpool(x, local, output_size=tuple(sizes))


@graph_op("onnx.GlobalAveragePool")
def _global_average(x: Any) -> Any:
    return ops.mean(x, tuple(range(2, x.ndim)), keepdims=True)


@graph_op("onnx.GlobalMaxPool")
def _global_max(x: Any) -> Any:
    return ops.max(x, tuple(range(2, x.ndim)), keepdims=True)


@graph_op("onnx.GlobalLpPool")
def _global_lp(x: Any, p: int = 2) -> Any:
    return ops.power(ops.sum(ops.power(ops.abs(x), float(p)), tuple(range(2, x.ndim)), keepdims=True), 1.0 / p)


@graph_op("onnx.Col2Im")
def _col2im(x: Any, image_shape: Any, block_shape: Any, *, dilations: Any = None, pads: Any = None, strides: Any = None) -> Any:
    image, block = ints(image_shape, "Col2Im"), ints(block_shape, "Col2Im")
    ndim = len(image)
    return ops.fold(
        x,
        output_size=image,
        kernel_size=block,
        stride=strides or 1,
        dilation=dilations or 1,
        padding=pairs_of(pads, ndim, "Col2Im"),
    )


# -- resizing ----------------------------------------------------------------------------------------------------------


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    t = np.abs(t)
    return np.where(t <= 1, ((a + 2) * t - (a + 3)) * t * t + 1, np.where(t < 2, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a, 0))


def _coordinates(size: int, out: int, scale: float, mode: str, roi: tuple[float, float]) -> np.ndarray:
    p = np.arange(out, dtype=np.float64)
    if mode == "half_pixel":
        return (p + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":  # both margins lose the same where out is not size*scale
        adjustment = out / (size * scale)
        return size / 2 * (1 - adjustment) + (p + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (p + 0.5) / scale - 0.5 if out > 1 else np.zeros(out)
    if mode == "align_corners":
        return p * (size - 1) / (size * scale - 1) if size * scale != 1 else np.zeros(out)
    if mode == "asymmetric":
        return p / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if size * scale == 1:
            return np.full(out, 0.5 * (start + end) * (size - 1))
        return start * (size - 1) + p * (end - start) * (size - 1) / (size * scale - 1)
    raise FileFormatError(f"Resize: coordinate_transformation_mode {mode!r}")


def _taps(
    size: int, out: int, scale: float, options: dict[str, Any], roi: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per output position: input indices (out, T), weights (out, T), and whether the position lies outside the input."""
    at = _coordinates(size, out, scale, options["coordinates"], roi)
    outside = (at < 0) | (at > size - 1) if options["coordinates"] == "tf_crop_and_resize" else np.zeros(out, bool)
    mode = options["mode"]
    if mode == "nearest":
        rounding = options["nearest"]
        if rounding == "round_prefer_floor":
            index = np.ceil(at - 0.5)
        elif rounding == "round_prefer_ceil":
            index = np.floor(at + 0.5)
        else:
            index = np.floor(at) if rounding == "floor" else np.ceil(at)
        return np.clip(index, 0, size - 1).astype(np.int64)[:, None], np.ones((out, 1)), outside
    reach = 1 if mode == "linear" else 2
    stretch = max(1.0, 1 / scale) if options["antialias"] else 1.0  # a wider filter when shrinking
    width = ceil(reach * stretch)
    first = np.floor(at).astype(np.int64) - width + 1
    index = first[:, None] + np.arange(2 * width)
    distance = (index - at[:, None]) / stretch
    weights = np.maximum(0, 1 - np.abs(distance)) if mode == "linear" else _cubic(distance, options["cubic"])
    if options["exclude_outside"]:
        weights = np.where((index >= 0) & (index < size), weights, 0)
    if options["exclude_outside"] or options["antialias"]:
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    return np.clip(index, 0, size - 1), weights, outside


def _resize_axis(x: Any, axis: int, index: np.ndarray, weights: np.ndarray) -> Any:
    total = None
    shape = [-1 if k == axis else 1 for k in range(x.ndim)]
    for t in range(index.shape[1]):
        if not weights[:, t].any():
            continue
        part = take(x, index[:, t], axis)
        if not np.all(weights[:, t] == 1):
            part = part * weights[:, t].astype(x.dtype).reshape(shape)
        total = part if total is None else total + part
    return total


def _resize_axes(x: Any, taps: dict[int, tuple[np.ndarray, np.ndarray]]) -> Any:
    """Axis by axis; all spatial axes at once where each output is one input, and generated code takes it."""
    if isinstance(x, np.ndarray) and x.ndim > 2 and taps and min(taps) > 1 and all(i.shape[1] == 1 for i, _ in taps.values()):
        none = np.zeros(1, x.dtype)
        places = [np.ascontiguousarray(taps[k][0][:, 0]) if k in taps else np.arange(x.shape[k]) for k in range(2, x.ndim)]
        made = around.resize(x, [(place, place, none, none) for place in places], linear=False)
        if made is not None:
            return made
    for axis, (index, weights) in taps.items():
        x = _resize_axis(x, axis, index, weights)
    return x


@graph_op("onnx.Resize")
def _resize(x: Any, roi: Any = None, scales: Any = None, sizes: Any = None, *, mode: str = "nearest", opset: int = 13,
            coordinate_transformation_mode: str = "half_pixel", nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75,
            exclude_outside: int = 0, extrapolation_value: float = 0.0, antialias: int = 0, axes: list[int] | None = None,
            keep_aspect_ratio_policy: str = "stretch") -> Any:  # fmt: skip
    which = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    factor, target = _scales_and_sizes(x, which, scales, sizes, keep_aspect_ratio_policy)
    checked_size(target, "Resize")
    if mode not in ("nearest", "linear", "cubic"):
        raise FileFormatError(f"Resize: mode {mode!r}")
    region = (
        np.asarray(roi.data if isinstance(roi, Tensor) else roi, np.float64).reshape(-1)
        if roi is not None and np.size(roi)
        else None
    )
    if coordinate_transformation_mode == "tf_crop_and_resize" and (region is None or region.size != 2 * len(which)):
        raise FileFormatError("Resize: tf_crop_and_resize needs a roi of two values an axis")
    options = {
        "mode": mode, "coordinates": coordinate_transformation_mode, "nearest": nearest_mode, "cubic": cubic_coeff_a,
        "exclude_outside": exclude_outside, "antialias": antialias,
    }  # fmt: skip
    integers = not recorded(x) and x.dtype.kind in "iu"
    y = x.astype(np.float64) if integers else x
    margins, taps = [], {}
    for position, axis in enumerate(which):
        crop = (0.0, 1.0) if region is None else (float(region[position]), float(region[position + len(which)]))
        same = x.shape[axis] == target[axis] and factor[axis] == 1.0
        if same and coordinate_transformation_mode != "tf_crop_and_resize":
            continue
        if x.shape[axis] == 0:
            raise FileFormatError(f"Resize: axis {axis} is empty")
        index, weights, outside = _taps(x.shape[axis], target[axis], factor[axis], options, crop)
        taps[axis] = (index, weights)
        if outside.any():
            margins.append((axis, outside))
    y = _resize_axes(y, taps)
    for axis, outside in margins:
        mask = outside.reshape([-1 if k == axis else 1 for k in range(y.ndim)])
        fill = np.asarray(extrapolation_value, y.dtype)
        y = where(mask, fill, y)
    if integers:
        return np.clip(np.rint(y), np.iinfo(x.dtype).min, np.iinfo(x.dtype).max).astype(x.dtype)
    return y if recorded(y) else np.array(y) if y is x else y


def _scales_and_sizes(x: Any, which: list[int], scales: Any, sizes: Any, policy: str) -> tuple[list[float], list[int]]:
    factor, target = [1.0] * x.ndim, list(x.shape)
    if sizes is not None and np.size(sizes):
        wanted = ints(sizes, "Resize")
        if len(wanted) != len(which) or any(v < 0 for v in wanted):
            raise FileFormatError(f"Resize: sizes {wanted} for {len(which)} axes")
        ratios = [v / x.shape[a] if x.shape[a] else 1.0 for v, a in zip(wanted, which, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(which)
            wanted = [floor(ratio * x.shape[a] + 0.5) for a in which]
        for a, v, r in zip(which, wanted, ratios, strict=True):
            factor[a], target[a] = r, v
        return factor, target
    given = (
        np.asarray(scales.data if isinstance(scales, Tensor) else scales, np.float64).reshape(-1)
        if scales is not None
        else np.zeros(0)
    )
    if given.size != len(which) or not np.all(np.isfinite(given)) or np.any(given <= 0):
        raise FileFormatError(f"Resize: scales {given.tolist()} for {len(which)} axes")
    for a, s in zip(which, given.tolist(), strict=True):
        factor[a] = s
        checked_size([max(0, floor(x.shape[a] * s))] if x.shape[a] * s < 2**62 else [2**62], "Resize")
        target[a] = floor(x.shape[a] * s)
    return factor, target


@graph_op("onnx.Upsample")
def _upsample(
    x: Any, scales_input: Any = None, *, mode: str = "nearest", scales: list[float] | None = None, opset: int = 9
) -> Any:
    given = scales if scales_input is None else scales_input
    return _resize(x, None, np.asarray(given, np.float32), mode="linear" if mode == "bilinear" else mode,
                   coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
