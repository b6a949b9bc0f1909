"""Deformable convolution: a convolution whose every tap reads x at a place of its own, between its elements."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from preimage.errors import ShapeError
from preimage.geometry import ConvGeometry
from preimage.ops.broadcast import astype
from preimage.ops.conv import conv
from preimage.ops.grids import linear_at
from preimage.ops.operands import check_room, count_of, operand
from preimage.ops.pointwise import add, multiply
from preimage.ops.shape import reshape
from preimage.typing import Operand, Padding, PerAxis, Value

__all__ = ["deform_conv"]


def deform_conv(
    x: Operand, w: Operand, offset: Operand, mask: Operand | None = None, b: Operand | None = None, *, stride: PerAxis = 1,
    padding: Padding = 0, dilation: PerAxis = 1, groups: int = 1, offset_groups: int = 1,
) -> Value:  # fmt: skip
    """Convolution of x with w whose taps are moved by `offset` and multiplied by `mask`.

    Shapes: x (N, C, *size), w (O, C / groups, *kernel), offset (N, offset_groups * taps * axes, *out), mask (N, offset_groups * taps, *out) ->
        (N, O, *out), out as convolution has it. Taps lie in row-major order, and behind each of them its axes; channels in offset_groups equal parts.
    Definition: y[n, o, p] = b[o] + sum over c, t of w[o, c, t] mask[n, g, t, p] x[n, c, p stride + t dilation - padding + offset[n, g, t, :, p]],
        where x between its elements is linear along every axis, and 0 beyond its border.
    Gradient: by all five, of every order (by the offset where no place lies on an element).
    Cost: 2^axes elements read for each channel, tap and output position, then a convolution with a kernel of 1 over channels * taps.
    Raises: ShapeError for shapes that do not belong together.
    Source: Deformable ConvNets v2 (Zhu et al., 2019); ONNX DeformConv 19.
    """
    x, w, offset = operand(x, "x"), operand(w, "w"), operand(offset, "offset")
    geometry = ConvGeometry.from_conv(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    parts, axes, taps = count_of(offset_groups, "deform_conv: offset_groups", 1), x.ndim - 2, prod(w.shape[2:])
    images, channels, out = x.shape[0], x.shape[1], geometry.output_size
    if channels % parts:
        raise ShapeError(f"deform_conv: {channels} channels do not divide into {parts} offset groups")
    wanted = (images, parts * taps * axes, *out)
    if offset.shape != wanted:
        raise ShapeError(f"deform_conv: offset has shape {offset.shape}, wanted {wanted}")
    columns = (images, channels * taps, *out)
    check_room("deform_conv", columns, x.dtype)
    moved = reshape(astype(offset, x.dtype), (images * parts, taps, axes, *out))
    places = [add(moved[:, :, k], start) for k, start in enumerate(_places(geometry, x.dtype))]
    seen = linear_at(reshape(x, (images * parts, channels // parts, *x.shape[2:])), places)
    if mask is not None:
        factors = operand(mask, "mask")
        if factors.shape != (images, parts * taps, *out):
            raise ShapeError(f"deform_conv: mask has shape {factors.shape}, wanted {(images, parts * taps, *out)}")
        seen = multiply(seen, reshape(astype(factors, x.dtype), (images * parts, 1, taps, *out)))
    kernel = reshape(w, (w.shape[0], w.shape[1] * taps, *(1,) * axes))
    return conv(reshape(seen, columns), kernel, b, groups=groups)


def _places(geometry: ConvGeometry, dtype: np.dtype[Any]) -> list[np.ndarray]:
    """Where taps read without an offset: along each axis (1, taps, *out)."""
    axes = len(geometry.kernel_size)
    taps = np.indices(geometry.kernel_size).reshape(axes, -1)
    found = []
    for k in range(axes):
        out = np.arange(geometry.output_size[k]) * geometry.stride[k] - geometry.padding[k][0]
        line = out.reshape([-1 if j == k else 1 for j in range(axes)])
        tap = (taps[k] * geometry.dilation[k]).reshape(-1, *(1,) * axes)
        found.append((line + tap)[None].astype(dtype))
    return found
