"""Caffe's way: im2col, a matrix product by BLAS, col2im; one image at a time. NumPy only.

With W[g] the weights of a group as a matrix (O, I*taps) and C[n, g] the columns (I*taps, positions) of an image:

    conv               Y[n, g] = W[g] C[n, g]                 1x1 kernels need no columns: C is the image
    conv_transpose     D = W[g]^T Y[n, g],  then col2im adds every entry of D to where im2col would have read it
    conv_weight_grad   W[g] = sum over n of  Y[n, g] C[n, g]^T         images are added as their tree

Groups are separate products. The column buffer is bounded by the setting `workspace_bytes`: where the columns of an image
would be larger, the output is worked off in strips. Channels-last arrays are multiplied in their own order.
Source: the matrix formulation of Chellapilla, Puri and Simard (2006), as used by Caffe's base convolution layer.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from preimage.engines.base import (
    Array,
    DType,
    Epilogue,
    Plan,
    accumulator_dtype,
    apply_epilogue,
    apply_to_columns,
    empty_like_order,
    is_channels_last,
    supported_dtype,
)
from preimage.engines.blas import blas_thread_count, blas_threads, multiply
from preimage.engines.columns import Columns, blocks, is_pointwise, with_places
from preimage.engines.decisions import declare_all, is_recording
from preimage.geometry import ConvGeometry
from preimage.reduction import TreeSum
from preimage.settings import current

__all__ = ["GemmEngine"]

take = declare_all(
    "gemm",
    {
        "empty": "an array has no elements: nothing is multiplied",
        "product": "a 1x1 kernel: the image is its own columns",
        "columns": "the columns of an image are written out (im2col, col2im)",
        "columns.one_strip": "the columns of an image fit in one strip",
        "columns.several_strips": "an image is worked off in strips of columns",
        "channels_first": "channels-first arrays are multiplied in their own order",
        "channels_last": "channels-last arrays are multiplied in their own order",
        "sums.own": "sums are kept in the arrays' own type",
        "sums.widened": "sums of a 16-bit type are kept in float32, image by image",
        "groups.one": "one product an image or strip",
        "groups.several": "a product for each group",
        "epilogue": "the epilogue is applied to each image",
    },
)

#: Columns are best while they stay in the second-level cache, also where the user allows more.
CACHE_BYTES = 2 << 20
#: Below this many columns a product is bound by memory (weights, or the sum of a weight gradient, are read again each time).
LEAST_POSITIONS = 256
#: What NumPy itself takes to iterate over strided arrays.
NUMPY_BYTES = 96 << 10


def _positions(g: ConvGeometry, itemsize: int) -> int:
    """How many output positions one strip holds: within the workspace and the cache, at least one."""
    row = max(1, g.in_channels * prod(g.kernel_size) * itemsize)
    best = max(CACHE_BYTES // row, LEAST_POSITIONS)
    return max(1, min(prod(g.output_size), current().workspace_bytes // row, best))


def _matrices(a: Array, groups: int, rows: int, dtype: DType) -> Array:
    """(groups * rows, *space) as a stack of matrices that BLAS takes as they are; copied only where it must be."""
    m = a.reshape(groups, rows, prod(a.shape[1:]))
    item, (r, c) = m.itemsize, m.strides[1:]
    fine = (c == item and r >= item * m.shape[2]) or (r == item and c >= item * rows)
    return m if fine and m.dtype == dtype else np.array(m, dtype, order="C")


class GemmProducts:
    """Matrix products by BLAS; 16-bit factors are widened to float32, and the result is rounded once."""

    def matmul(self, a: Array, b: Array, epilogue: Epilogue | None = None) -> Array:
        sums = accumulator_dtype(a.dtype)
        work = 2 * a.size * b.shape[-1]
        with blas_threads(current().threads, work), np.errstate(all="ignore"):
            made = multiply(a.astype(sums, copy=False), b.astype(sums, copy=False))
            return apply_to_columns(made, epilogue).astype(a.dtype, copy=False)

    def linear(self, x: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        return self.matmul(x, w.T, epilogue)


class GemmEngine:
    """The three contractions as matrix products."""

    name = "gemm"
    takes_prepared = False
    kernels = None
    products = GemmProducts()
    promises = ("repeat", "batch")

    def unavailable(self) -> str | None:
        """It always runs."""
        return None

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        """Every geometry; the four float types."""
        return None if supported_dtype(dtype) else f"dtype {dtype} is not float32, float64, float16 or bfloat16"

    def conv(self, geometry: ConvGeometry, x: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        g, sums, last = geometry, accumulator_dtype(x.dtype), is_channels_last(x)
        y = empty_like_order(g.output_shape, x)
        if not y.size:
            take("empty")
            return y
        weights = _weights(g, w, sums, last)
        skip = is_pointwise(g)
        columns = None if skip else Columns(g, sums, last, _positions(g, sums.itemsize))
        boxes = () if skip else blocks(g.output_size, _positions(g, sums.itemsize))
        narrow = None if sums == x.dtype else empty_like_order((1, *g.output_shape[1:]), y, sums)
        _take(g, x.dtype, last, len(boxes), epilogue)
        with blas_threads(current().threads, g.work_flop), np.errstate(all="ignore"):
            for n in range(g.batch):
                image = y[n] if narrow is None else narrow[0]
                # (groups, filters, positions) or, channels last, (groups, positions, filters): a view of the result
                out = _stack(image, g.groups, g.out_channels_per_group, last)
                if columns is None:
                    source = _matrices(x[n], g.groups, g.in_channels_per_group, sums)
                    _product(weights, source.transpose(0, 2, 1) if last else source, out, last)
                    del source
                else:
                    for box, place in with_places(boxes):
                        part = columns.gather(x[n], box)
                        _product(weights, part, out[:, place] if last else out[:, :, place], last)
                _finish(y[n : n + 1], narrow, epilogue, n)
        return y

    def conv_transpose(self, geometry: ConvGeometry, y: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        g, sums, last = geometry, accumulator_dtype(y.dtype), is_channels_last(y)
        x = empty_like_order(g.input_shape, y)
        if not x.size:
            take("empty")
            return x
        weights = _weights(g, w, sums, last).transpose(0, 2, 1)
        skip = is_pointwise(g)
        columns = None if skip else Columns(g, sums, last, _positions(g, sums.itemsize))
        boxes = () if skip else blocks(g.output_size, _positions(g, sums.itemsize))
        narrow = None if sums == y.dtype else empty_like_order((1, *g.input_shape[1:]), x, sums)
        _take(g, y.dtype, last, len(boxes), epilogue)
        with blas_threads(current().threads, g.work_flop), np.errstate(all="ignore"):
            for n in range(g.batch):
                image = x[n] if narrow is None else narrow[0]
                source = _matrices(y[n], g.groups, g.out_channels_per_group, sums) if y.size else None
                if source is not None and last:
                    source = source.transpose(0, 2, 1)
                if source is not None and skip:
                    _product(weights, source, _stack(image, g.groups, g.in_channels_per_group, last), last)
                else:
                    image[...] = 0
                if source is not None and columns is not None:
                    for box, place in with_places(boxes):
                        part = columns.matrix(box)
                        _product(weights, source[:, place] if last else source[:, :, place], part, last)
                        columns.scatter(image, box)
                del source
                _finish(x[n : n + 1], narrow, epilogue, n)
        return x

    def conv_weight_grad(self, geometry: ConvGeometry, x: Array, y: Array) -> Array:
        g, sums, last = geometry, accumulator_dtype(x.dtype), is_channels_last(x)
        rows = g.in_channels_per_group * prod(g.kernel_size)
        shape, images = (g.groups, g.out_channels_per_group, rows), TreeSum()
        if prod(shape) and y.size:
            skip = is_pointwise(g)
            columns = None if skip else Columns(g, sums, last, _positions(g, sums.itemsize))
            boxes = () if skip else blocks(g.output_size, _positions(g, sums.itemsize))
            part = np.empty(shape, sums)
            _take(g, x.dtype, last, len(boxes), None)
            with blas_threads(current().threads, g.work_flop), np.errstate(all="ignore"):
                for n in range(g.batch):
                    grad = _matrices(y[n], g.groups, g.out_channels_per_group, sums)
                    image = np.zeros(shape, sums)
                    if columns is None:
                        source = _matrices(x[n], g.groups, g.in_channels_per_group, sums)
                        multiply(grad, source.transpose(0, 2, 1), part)
                        image += part
                        del source
                    for box, place in with_places(boxes if columns is not None else ()):
                        assert columns is not None
                        patches = columns.gather(x[n], box)
                        multiply(grad[:, :, place], patches if last else patches.transpose(0, 2, 1), part)
                        image += part
                    images.add(image, n)
                    del grad, image
        total = images.total() if images.nodes else np.zeros(shape, sums)
        if last:
            total = total.reshape(g.out_channels, *g.kernel_size, g.in_channels_per_group)
            total = np.moveaxis(total, -1, 1)
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(total.reshape(g.weight_shape), x.dtype)

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan:
        g, sums = geometry, accumulator_dtype(dtype)
        item, skip = sums.itemsize, is_pointwise(geometry)
        positions = 0 if skip else _positions(g, item)
        strips = 1 if skip else len(blocks(g.output_size, positions))
        column_bytes = g.in_channels * prod(g.kernel_size) * positions * item
        workspace = _workspace_bytes(g, contraction, dtype, positions)
        return Plan(
            self.name, contraction, "matrix product" if skip else "im2col + matrix product", g, dtype.name, g.work_flop,
            g.array_bytes(dtype.itemsize), workspace, blas_thread_count(current().threads), self.promises,
            {"columns": f"{column_bytes} bytes", "strips an image": strips, "products": g.batch * g.groups * strips,
             "layout": "channels last" if channels_last else "channels first"},
        )  # fmt: skip


def _take(g: ConvGeometry, dtype: DType, last: bool, strips: int, epilogue: Epilogue | None) -> None:
    """Name the decisions of a call, for whoever records them."""
    if not is_recording():
        return
    take("product" if is_pointwise(g) else "columns")
    if not is_pointwise(g):
        take("columns.one_strip" if strips < 2 else "columns.several_strips")
    take("channels_last" if last else "channels_first")
    take("sums.own" if accumulator_dtype(dtype) == dtype else "sums.widened")
    take("groups.one" if g.groups == 1 else "groups.several")
    if epilogue is not None:
        take("epilogue")


def _workspace_bytes(g: ConvGeometry, contraction: str, dtype: DType, positions: int) -> int:
    """What a call holds at most beside its operands (contiguous, in either layout) and its result."""
    sums, skip, narrow = accumulator_dtype(dtype), is_pointwise(g), dtype.itemsize == 2
    weights, large, small = prod(g.weight_shape), prod(g.input_shape[1:]), prod(g.output_shape[1:])
    elements = g.in_channels * prod(g.kernel_size) * positions  # the columns of a strip
    # Reordered; or of the gradient a part, an image and the nodes of the images' tree, one of them just being made.
    elements += weights if contraction != "conv_weight_grad" else weights * (3 + g.batch.bit_length())
    if narrow and contraction == "conv":  # one image of what is multiplied or summed, in float32
        elements += small + (large if skip else 0)
    elif narrow:
        elements += small + (large if skip or contraction == "conv_transpose" else 0)
    margin = 0
    if contraction != "conv_transpose" and not skip:  # the part of the image that a strip reads, with its margin
        box = next(iter(blocks(g.output_size, positions)), ())
        spans = ((b - a - 1) * s + e for (a, b), s, e in zip(box, g.stride, g.kernel_extent, strict=False))
        margin = g.in_channels * prod(spans) * dtype.itemsize
    return elements * sums.itemsize + margin + NUMPY_BYTES


def _weights(g: ConvGeometry, w: Array, dtype: DType, last: bool) -> Array:
    """The weights as (groups, filters, rows): rows ordered (channel, taps) or, channels last, (taps, channel)."""
    if last:
        w = np.moveaxis(w, 1, -1)
    return np.ascontiguousarray(w, dtype).reshape(g.groups, g.out_channels_per_group, prod(w.shape[1:]))


def _stack(image: Array, groups: int, channels: int, last: bool) -> Array:
    """A contiguous result image as a stack of matrices, a view: (groups, channels, positions), positions first if `last`."""
    if last:
        flat = np.moveaxis(image, 0, -1).reshape(prod(image.shape[1:]), groups, channels).transpose(1, 0, 2)
    else:
        flat = image.reshape(groups, channels, prod(image.shape[1:]))
    assert np.may_share_memory(flat, image) or not image.size
    return flat


def _product(weights: Array, source: Array, out: Array, last: bool) -> None:
    """out = weights @ source, or its transpose where positions come first."""
    if last:
        multiply(source, weights.transpose(0, 2, 1), out)
    else:
        multiply(weights, source, out)


def _finish(result: Array, narrow: Array | None, epilogue: Epilogue | None, n: int) -> None:
    """The epilogue of image n, in the dtype of the sums; then one rounding for narrow results."""
    if epilogue is not None and epilogue.residual is not None:
        epilogue = replace(epilogue, residual=epilogue.residual[n : n + 1])
    apply_epilogue(result if narrow is None else narrow, epilogue)
    if narrow is not None:
        result[...] = narrow
