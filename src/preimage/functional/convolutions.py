"""Convolutions, transposed convolutions, and their columns."""

from __future__ import annotations

from typing import Any

from preimage import ops
from preimage.engines import PreparedWeight
from preimage.functional.checks import batched
from preimage.ops.operands import entries
from preimage.typing import Operand, Padding, PerAxis, Value

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "fold", "linear", "unfold"]

Weight = Operand | PreparedWeight


def _conv(
    ndim: int, x: Operand, w: Any, b: Operand | None, stride: PerAxis, padding: Padding, dilation: PerAxis, groups: int
) -> Value:
    return batched(
        f"conv{ndim}d", x, ndim, lambda x: ops.conv(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups)
    )


def conv1d(
    input: Operand,
    weight: Weight,
    bias: Operand | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Value:
    """`preimage.conv` of (N, C, L) or (C, L), by torch's name."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Operand,
    weight: Weight,
    bias: Operand | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Value:
    """`preimage.conv` of (N, C, H, W) or (C, H, W), by torch's name."""
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Operand,
    weight: Weight,
    bias: Operand | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Value:
    """`preimage.conv` of (N, C, D, H, W) or (C, D, H, W), by torch's name."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    ndim: int,
    x: Operand,
    w: Any,
    b: Operand | None,
    stride: PerAxis,
    padding: Padding,
    output_padding: PerAxis,
    groups: int,
    dilation: PerAxis,
) -> Value:
    def run(x: Any) -> Value:
        return ops.conv_transpose(
            x, w, b, stride=stride, padding=padding, output_padding=output_padding, groups=groups, dilation=dilation
        )

    return batched(f"conv_transpose{ndim}d", x, ndim, run)


def conv_transpose1d(
    input: Operand,
    weight: Weight,
    bias: Operand | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
) -> Value:
    """`preimage.conv_transpose` of (N, C, L) or (C, L), by torch's name."""
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Operand,
    weight: Weight,
    bias: Operand | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
) -> Value:
    """`preimage.conv_transpose` of (N, C, H, W) or (C, H, W), by torch's name."""
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Operand,
    weight: Weight,
    bias: Operand | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
) -> Value:
    """`preimage.conv_transpose` of (N, C, D, H, W) or (C, D, H, W), by torch's name."""
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def linear(input: Operand, weight: Weight, bias: Operand | None = None) -> Value:
    """input @ weight.T + bias over the last axis."""
    given: Any = weight
    return ops.linear(input, given, bias)


def unfold(input: Operand, kernel_size: PerAxis, dilation: PerAxis = 1, padding: Padding = 0, stride: PerAxis = 1) -> Value:
    """The patches of a picture (N, C, H, W) as columns (N, C * taps, positions)."""
    return batched("unfold", input, 2, lambda x: ops.unfold(x, kernel_size, stride=stride, padding=padding, dilation=dilation))


def _both(size: Any) -> Any:
    """One number, for both axes of a picture."""
    return (size, size) if entries(size) is None else size


def fold(
    input: Operand,
    output_size: PerAxis,
    kernel_size: PerAxis,
    dilation: PerAxis = 1,
    padding: Padding = 0,
    stride: PerAxis = 1,
) -> Value:
    """The adjoint of `unfold`: columns (N, C * taps, positions) added up to pictures of output_size."""
    size, kernel = (_both(v) for v in (output_size, kernel_size))
    return batched("fold", input, 1, lambda c: ops.fold(c, size, kernel, stride=stride, padding=padding, dilation=dilation))
