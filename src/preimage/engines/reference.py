"""The definition in index loops: the engine that the others are measured against. It shares no code with them.

    y[n, g*O + o, oh..]  =  sum over kh.., i of   x[n, g*I + i, oh*stride - lo + kh*dilation] * w[g*O + o, i, kh..]

x is zero outside its range, and those zeros take part: an infinite weight over the padding gives NaN, as with numpy.pad. The
loops run over taps (and, where a channel is summed over, over the channels of a group); what NumPy vectorises is never part
of the sum, so every output element of `conv` and `conv_transpose` is one chain of products and additions over (taps in
row-major order, then channels), whatever the batch, the layout or the machine. Any dtype that NumPy can multiply and add,
any number of spatial axes, none included. float64 is the truth.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from preimage.engines.base import PROMISES, Array, DType, Epilogue, Plan, apply_epilogue, apply_to_columns, empty_like_order
from preimage.geometry import ConvGeometry
from preimage.reduction import TreeSum

__all__ = ["ReferenceEngine"]

Index = tuple[Any, ...]


def _key(*parts: Any) -> Index:
    """An index into an array, written as arguments."""
    return parts


def _sum_dtype(dtype: DType) -> DType:
    """What sums are kept in: float32 for 16-bit floats, else the dtype itself."""
    return np.dtype(np.float32) if dtype.name in ("float16", "bfloat16") else dtype


def _frame_size(g: ConvGeometry) -> tuple[int, ...]:
    """How much of the padded large side the kernel touches: (output - 1)*stride + extent, counted from -lo."""
    return tuple(
        max((out - 1) * s + d * (k - 1) + 1, 0)
        for out, s, d, k in zip(g.output_size, g.stride, g.dilation, g.kernel_size, strict=True)
    )


def _overlap(g: ConvGeometry) -> tuple[Index, Index]:
    """Where the frame and the large side are the same cells: slices of the frame, slices of the large side."""
    in_frame: list[Any] = [...]
    in_large: list[Any] = [...]
    for (lo, _), length, size in zip(g.padding, _frame_size(g), g.input_size, strict=True):
        first, last = max(0, -lo), min(size, length - lo)
        last = max(first, last)
        in_frame.append(slice(first + lo, last + lo))
        in_large.append(slice(first, last))
    return tuple(in_frame), tuple(in_large)


def _positions(g: ConvGeometry, tap: tuple[int, ...]) -> Index:
    """The cells of the frame that the tap reads, one per output position."""
    steps = zip(tap, g.dilation, g.output_size, g.stride, strict=True)
    return (..., *(slice(k * d, k * d + (out - 1) * s + 1, s) for k, d, out, s in steps))


class ReferenceProducts:
    """Matrix products by the definition: one chain of products and additions over the inner axis."""

    def matmul(self, a: Array, b: Array, epilogue: Epilogue | None = None) -> Array:
        sums = _sum_dtype(a.dtype)
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        total = np.zeros(shape, sums)
        left, right = a.astype(sums, copy=False), b.astype(sums, copy=False)
        with np.errstate(all="ignore"):
            for k in range(a.shape[-1]):
                total += left[..., :, k, None] * right[..., k, None, :]
            return apply_to_columns(total, epilogue).astype(a.dtype, copy=False)

    def linear(self, x: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        return self.matmul(x, w.T, epilogue)


class ReferenceEngine:
    """The three contractions in loops over taps; any dtype, any dimension; slow and plain."""

    name = "reference"
    takes_prepared = False
    kernels = None
    products = ReferenceProducts()
    promises = PROMISES

    def unavailable(self) -> str | None:
        """It always runs."""
        return None

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        """It takes everything."""
        return None

    @np.errstate(all="ignore")
    def conv(self, geometry: ConvGeometry, x: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        g = geometry
        sums, channels, filters = _sum_dtype(x.dtype), g.in_channels_per_group, g.out_channels_per_group
        y = np.zeros((g.batch, g.groups, filters, *g.output_size), sums)
        if y.size:
            in_frame, in_large = _overlap(g)
            frame = np.zeros((g.batch, g.groups, channels, *_frame_size(g)), sums)
            grouped = x.reshape(g.batch, g.groups, channels, *g.input_size)
            frame[in_frame] = grouped[in_large]
            weights = w.astype(sums).reshape(g.groups, filters, channels, *g.kernel_size)
            for tap in product(*map(range, g.kernel_size)):
                cells = frame[_positions(g, tap)]
                for i in range(channels):
                    weight = weights[_key(slice(None), slice(None), i, *tap)].reshape(1, g.groups, filters, *[1] * g.ndim)
                    y += cells[:, :, i, None] * weight
        return _finish(y.reshape(g.output_shape), x, epilogue)

    @np.errstate(all="ignore")
    def conv_transpose(self, geometry: ConvGeometry, y: Array, w: Array, epilogue: Epilogue | None = None) -> Array:
        g = geometry
        sums, channels, filters = _sum_dtype(y.dtype), g.in_channels_per_group, g.out_channels_per_group
        x = np.zeros((g.batch, g.groups, channels, *g.input_size), sums)
        if x.size and y.size:
            # One value per output cell is added at a time, so every cell of the frame is one chain over (taps, filters).
            in_frame, in_large = _overlap(g)
            frame = np.zeros((g.batch, g.groups, channels, *_frame_size(g)), sums)
            grouped = y.astype(sums).reshape(g.batch, g.groups, filters, *g.output_size)
            weights = w.astype(sums).reshape(g.groups, filters, channels, *g.kernel_size)
            for tap in product(*map(range, g.kernel_size)):
                cells = frame[_positions(g, tap)]
                for o in range(filters):
                    weight = weights[_key(slice(None), o, slice(None), *tap)].reshape(1, g.groups, channels, *[1] * g.ndim)
                    cells += grouped[:, :, o, None] * weight
            x[in_large] = frame[in_frame]
        return _finish(x.reshape(g.input_shape), y, epilogue)

    @np.errstate(all="ignore")
    def conv_weight_grad(self, geometry: ConvGeometry, x: Array, y: Array) -> Array:
        g = geometry
        sums, channels, filters = _sum_dtype(x.dtype), g.in_channels_per_group, g.out_channels_per_group
        w, images = np.zeros((g.groups, filters, channels, *g.kernel_size), sums), TreeSum()
        if w.size and y.size:
            in_frame, in_large = _overlap(g)
            for image in range(g.batch):
                frame = np.zeros((g.groups, channels, *_frame_size(g)), sums)
                frame[in_frame] = x[image].reshape(g.groups, channels, *g.input_size)[in_large]
                grouped = np.array(y[image], sums, order="C").reshape(g.groups, filters, -1)
                total = np.zeros_like(w)
                for tap in product(*map(range, g.kernel_size)):
                    cells = np.array(frame[_positions(g, tap)], order="C").reshape(g.groups, channels, -1)
                    total[_key(..., *tap)] += np.einsum("gop,gip->goi", grouped, cells)
                images.add(total, image)
            w = images.total()
        return w.reshape(g.weight_shape).astype(x.dtype, copy=False)

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan:
        g, sums = geometry, _sum_dtype(dtype)
        frame = sums.itemsize * prod((*g.input_shape[:2], *_frame_size(g)))
        weights = sums.itemsize * prod(g.weight_shape)
        small, large = sums.itemsize * prod(g.output_shape), sums.itemsize * prod(g.input_shape)
        if contraction == "conv":
            workspace = frame + weights + 3 * small
        elif contraction == "conv_transpose":
            workspace = frame + weights + 2 * large + small + sums.itemsize * g.batch * g.in_channels * prod(g.output_size)
        else:
            cells = sums.itemsize * g.in_channels * prod(g.output_size)
            workspace = frame + (3 + g.batch.bit_length()) * weights + small + large + cells
        promises = PROMISES if contraction != "conv_weight_grad" else tuple(p for p in PROMISES if p != "cpu")
        return Plan(
            self.name, contraction, "loops over taps", g, dtype.name, g.work_flop, g.array_bytes(dtype.itemsize), workspace, 1,
            promises, {"sums": sums.name, "taps": prod(g.kernel_size)},
        )  # fmt: skip


def _finish(result: Array, like: Array, epilogue: Epilogue | None) -> Array:
    """The epilogue in the dtype of the sums, then one rounding, into an array of the memory order of `like`."""
    if epilogue is not None and epilogue.residual is not None:
        epilogue = replace(epilogue, residual=epilogue.residual.astype(result.dtype, copy=False))
    apply_epilogue(result, epilogue)
    out = empty_like_order(result.shape, like)
    out[...] = result
    return out
