"""ONNX's convolutions, poolings and resizing as graph ops."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.limits import checked_size
from preimage.io.onnx.operators.moving import recorded
from preimage.io.onnx.operators.shapes import ints

__all__ = ["kernel_fits", "padding_of", "pairs_of", "transposed_window"]

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


def padding_of(auto_pad: str, pads: list[int] | None, ndim: int, what: str) -> Any:
    """ONNX's padding as `ops.conv` takes it."""
    if auto_pad in _SAME:
        return _SAME[auto_pad]
    if auto_pad == "VALID":
        return 0
    if auto_pad != "NOTSET":
        raise FileFormatError(f"{what}: auto_pad {auto_pad!r}")
    return pairs_of(pads, ndim, what)


def kernel_fits(w: Any, kernel_shape: list[int] | None, what: str) -> None:
    if kernel_shape is not None and tuple(kernel_shape) != tuple(w.shape[2:]):
        raise FileFormatError(f"{what}: kernel_shape {kernel_shape} but weight shape {w.shape}")


@graph_op("onnx.Conv")
def _conv(x: Any, w: Any, b: Any = None, *, auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None, dilations: Any = None,
          group: int = 1, kernel_shape: Any = None, **epilogue: Any) -> Any:  # fmt: skip
    kernel_fits(w, kernel_shape, "Conv")
    return ops.conv(x, w, b, stride=strides or 1, dilation=dilations or 1, groups=group,
                    padding=padding_of(auto_pad, pads, w.ndim - 2, "Conv"), **epilogue)  # fmt: skip


@graph_op("onnx.ConvTranspose")
def _conv_transpose(x: Any, w: Any, b: Any = None, *, auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None,
                    dilations: Any = None, group: int = 1, kernel_shape: Any = None, output_padding: Any = None,
                    output_shape: Any = None, **epilogue: Any) -> Any:  # fmt: skip
    kernel_fits(w, kernel_shape, "ConvTranspose")
    window = transposed_window(x.shape, w.shape, auto_pad, pads, strides, dilations, group, output_padding, output_shape)
    return ops.conv_transpose(x, w, b, **window, **epilogue)


def transposed_window(
    small: Any, weight: Any, auto_pad: str, pads: Any, strides: Any, dilations: Any, group: int, output_padding: Any, output_shape: Any
) -> dict[str, Any]:  # fmt: skip
    """ONNX's attributes of a transposed convolution of arrays of these shapes, as `ops.conv_transpose` takes them.

    Raises: FileFormatError where they do not belong together.
    """
    ndim = len(weight) - 2
    stride, dilation = strides or [1] * ndim, dilations or [1] * ndim
    extra = output_padding or [0] * ndim
    if len(small) != len(weight) or not len(stride) == len(dilation) == len(extra) == ndim:
        raise FileFormatError(
            f"ConvTranspose: input {small}, weight {weight}, strides {stride}, dilations {dilation}, output_padding {extra}"
        )
    padding = padding_of(auto_pad, pads, ndim, "ConvTranspose")
    common = {"stride": stride, "dilation": dilation, "groups": group}
    if output_shape is None and not isinstance(padding, str):
        return common | {"padding": padding, "output_padding": extra}
    # The result's size is given; what the full result has too much is cropped, what it lacks is output_padding.
    sizes = [n * s for n, s in zip(small[2:], stride, strict=True)] if output_shape is None else list(output_shape)[-ndim:]
    checked_size(sizes, "ConvTranspose")
    return common | {"padding": _crops(small[2:], weight[2:], stride, dilation, extra, sizes, auto_pad), "output_size": sizes}


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
    padding = padding_of(auto_pad, pads, ndim, what)
    if not isinstance(padding, str):
        return [(0, 0)] * ndim if padding == 0 else padding
    pairs = []
    for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        half = total // 2
        pairs.append((half, total - half) if padding == "same" else (total - half, half))
    return pairs


@graph_op("onnx.MaxPool", types=gives(0, "int64"))
def _max_pool(x: Any, *, kernel_shape: list[int], auto_pad: str = "NOTSET", pads: Any = None, strides: Any = None, dilations: Any = None,
              ceil_mode: int = 0, storage_order: int = 0, outputs: int = 1) -> Any:  # fmt: skip
    ndim = len(kernel_shape)
    stride, dilation = strides or [1] * ndim, dilations or [1] * ndim
    padding = _pool_padding(x, kernel_shape, stride, dilation, auto_pad, pads, "MaxPool")
    integers = not recorded(x) and x.dtype.kind in "iu"
    value = x.astype(np.float64) if integers else x
    result: Any = ops.max_pool(value, kernel_shape, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode),
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
    powers = ops.power(ops.abs(x), float(p))
    sums = ops.sum_pool(powers, kernel_shape, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode))
    return ops.power(sums, 1.0 / p)


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
