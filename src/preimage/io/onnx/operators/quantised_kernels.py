"""Quantised contractions on an engine's integer kernels (`engines.integers`), where it has some that take them; None otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from preimage.engines import integers
from preimage.engines.integers import Finish
from preimage.engines.recording import made_once, recorder
from preimage.geometry import ConvGeometry
from preimage.io.onnx.operators.contractions import kernel_fits, padding_of

__all__ = ["convolved", "deconvolved", "multiplied", "requantised", "scaled", "takes_products"]

#: No sum of so few products of differences of 8-bit numbers leaves int32.
MOST_TERMS = ((1 << 31) - 1) // (255 * 255)


def _whole_sums(terms: int, bias: np.ndarray | None) -> bool:
    """Whether all sums, the bias added, are int32 numbers; as far as is known."""
    if bias is None:
        return terms <= MOST_TERMS
    here = recorder()
    if bias.dtype != np.int32 or not (here is None or here.is_fixed(bias)):
        return False
    return terms * 255 * 255 + int(np.abs(bias.astype(np.int64)).max(initial=0)) < 1 << 31


def requantised(scale_in: np.ndarray, scale: np.ndarray, zero: np.ndarray, bias: np.ndarray | None = None) -> Finish | None:
    """Sums in units of scale_in (one number, or one for each output channel) as 8-bit integers in units of scale."""
    if scale.size != 1 or zero.size != 1 or zero.dtype not in integers.BYTES:
        return None
    factor = made_once(lambda: np.asarray(scale_in / scale, np.float32).reshape(-1), scale_in, scale)
    return Finish("requantised", factor, zero, bias)


def scaled(factor: np.ndarray, bias: np.ndarray | None = None) -> Finish | None:
    """Sums times a factor, one number or one for each output channel, as float32."""
    if factor.dtype != np.float32 or (bias is not None and bias.dtype != np.float32):
        return None
    return Finish("scaled", factor.reshape(-1), None, bias)


def _fits(finish: Finish, columns: int, terms: int) -> bool:
    """Whether factors and bias are as many as the output channels, and sums that are not int32 numbers are not scaled."""
    factor, bias = finish.factor, finish.bias
    if (factor is not None and factor.size not in (1, columns)) or (bias is not None and bias.shape != (columns,)):
        return False
    return finish.way == "int32" or _whole_sums(terms, bias if finish.way == "requantised" else None)


def _zero(zero: np.ndarray | None, columns: int) -> tuple[np.ndarray | None, bool]:
    """B's zero point as kernels take it, and whether they do."""
    if zero is None or zero.size == 1:
        return zero, True
    return zero, zero.shape == (columns,)


def takes_products(b: np.ndarray, b_zero: np.ndarray | None) -> bool:
    """Whether products with the matrix B, scaled, are kernels'."""
    return b.ndim == 2 and _whole_sums(b.shape[0], None) and _zero(b_zero, b.shape[1])[1]


def multiplied(
    a: np.ndarray, a_zero: np.ndarray | None, b: np.ndarray, b_zero: np.ndarray | None, finish: Finish | None
) -> np.ndarray | None:
    """The matrix product of (a - a_zero) and (b - b_zero), finished."""
    if finish is None or min(a.ndim, b.ndim) < 2 or not _fits(finish, b.shape[-1], b.shape[-2]):
        return None
    zero, taken = _zero(b_zero, b.shape[-1])
    return integers.matmul(a, a_zero, b, zero, finish) if taken else None


def convolved(
    x: np.ndarray, x_zero: np.ndarray | None, w: np.ndarray, w_zero: np.ndarray | None, finish: Finish | None, window: Mapping[str, Any]
) -> np.ndarray | None:  # fmt: skip
    """The convolution of (x - x_zero) with (w - w_zero), finished. window: ONNX's attributes."""
    if finish is None or w.ndim < 3 or not _fits(finish, w.shape[0], w[0].size) or (x_zero is not None and x_zero.size != 1):
        return None
    kernel_fits(w, window["kernel_shape"], "a quantised convolution")
    geometry = ConvGeometry.from_conv(
        x.shape, w.shape, stride=window["strides"] or 1, dilation=window["dilations"] or 1, groups=window["group"],
        padding=padding_of(window["auto_pad"], window["pads"], w.ndim - 2, "a quantised convolution"),
    )  # fmt: skip
    zero, taken = _zero(w_zero, w.shape[0])
    return integers.conv(geometry, x, x_zero, w, zero, finish) if taken else None


def deconvolved(
    y: np.ndarray, y_zero: np.ndarray | None, w: np.ndarray, w_zero: np.ndarray | None, finish: Finish | None, window: Mapping[str, Any]
) -> np.ndarray | None:  # fmt: skip
    """The transposed convolution of (y - y_zero) with (w - w_zero), finished. window: as `ops.conv_transpose` takes it."""
    groups = int(window["groups"])
    columns = w.shape[1] * groups
    if (
        finish is None
        or w.ndim < 3
        or not _fits(finish, columns, w[:, 0].size // groups)
        or (y_zero is not None and y_zero.size != 1)
    ):
        return None
    geometry = ConvGeometry.from_conv_transpose(y.shape, w.shape, **window)
    zero, taken = _zero(w_zero, columns)
    return integers.conv_transpose(geometry, y, y_zero, w, zero, finish) if taken else None
