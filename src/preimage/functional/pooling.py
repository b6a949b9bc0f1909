"""Pooling and unpooling over one, two and three axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import array_of
from preimage.errors import OptionError
from preimage.functional.checks import batched
from preimage.geometry import per_axis
from preimage.ops.operands import entries, flag_of, operand
from preimage.typing import Array, Integers, Operand, OutputSize, Padding, PerAxis, Value

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d",
    "max_unpool2d", "max_unpool3d",
]  # fmt: skip

MaxPooled = Value | tuple[Value, Array]


def _max_pool(
    ndim: int, x: Operand, kernel_size: PerAxis, stride: PerAxis | None, padding: Padding, dilation: PerAxis, ceil_mode: bool, indices: bool
) -> MaxPooled:  # fmt: skip
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    name = f"max_pool{ndim}d"
    places: list[Array] = []

    def run(x: Any) -> Value:
        if not flag_of(indices, f"{name}: return_indices"):
            largest: Value = ops.max_pool(x, kernel_size, **options)
            return largest
        found: Value
        found, where = ops.max_pool(x, kernel_size, return_switches=True, **options)
        places.append(where)
        return found

    found = batched(name, x, ndim, run)
    return (found, places[0].reshape(found.shape)) if places else found


def max_pool1d(
    input: Operand,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaxPooled:
    """The largest value of every window of (N, C, L); with return_indices also where it was."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Operand,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaxPooled:
    """The largest value of every window of (N, C, H, W); with return_indices also where it was."""
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Operand,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaxPooled:
    """The largest value of every window of (N, C, D, H, W); with return_indices also where it was."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(ndim: int, x: Operand, kernel_size: PerAxis, **options: Any) -> Value:
    return batched(f"avg_pool{ndim}d", x, ndim, lambda x: ops.avg_pool(x, kernel_size, **options))


def avg_pool1d(
    input: Operand,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    """The mean of every window of (N, C, L)."""
    return _avg_pool(
        1, input, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode, count_include_pad=count_include_pad
    )


def avg_pool2d(
    input: Operand,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Value:
    """The mean of every window of (N, C, H, W)."""
    return _avg_pool(
        2, input, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )  # fmt: skip


def avg_pool3d(
    input: Operand,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: float | None = None,
) -> Value:
    """The mean of every window of (N, C, D, H, W)."""
    return _avg_pool(
        3, input, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )  # fmt: skip


def adaptive_avg_pool1d(input: Operand, output_size: OutputSize) -> Value:
    """The mean of as many windows as output_size says, of (N, C, L)."""
    return batched("adaptive_avg_pool1d", input, 1, lambda x: ops.adaptive_avg_pool(x, output_size))


def adaptive_avg_pool2d(input: Operand, output_size: OutputSize) -> Value:
    """The mean of as many windows as output_size says, of (N, C, H, W)."""
    return batched("adaptive_avg_pool2d", input, 2, lambda x: ops.adaptive_avg_pool(x, output_size))


def adaptive_avg_pool3d(input: Operand, output_size: OutputSize) -> Value:
    """The mean of as many windows as output_size says, of (N, C, D, H, W)."""
    return batched("adaptive_avg_pool3d", input, 3, lambda x: ops.adaptive_avg_pool(x, output_size))


def _adaptive_max_pool(ndim: int, x: Operand, output_size: OutputSize, return_indices: bool) -> Value:
    name = f"adaptive_max_pool{ndim}d"
    if return_indices:
        raise OptionError(f"{name}: return_indices is not supported; max_pool{ndim}d gives indices")
    return batched(name, x, ndim, lambda x: ops.adaptive_max_pool(x, output_size))


def adaptive_max_pool1d(input: Operand, output_size: OutputSize, return_indices: bool = False) -> Value:
    """The largest value of as many windows as output_size says, of (N, C, L)."""
    return _adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Operand, output_size: OutputSize, return_indices: bool = False) -> Value:
    """The largest value of as many windows as output_size says, of (N, C, H, W)."""
    return _adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Operand, output_size: OutputSize, return_indices: bool = False) -> Value:
    """The largest value of as many windows as output_size says, of (N, C, D, H, W)."""
    return _adaptive_max_pool(3, input, output_size, return_indices)


def _max_unpool(
    ndim: int,
    x: Operand,
    indices: Integers,
    kernel_size: PerAxis,
    stride: PerAxis | None,
    padding: PerAxis,
    output_size: PerAxis | None,
) -> Value:
    name = f"max_unpool{ndim}d"
    value, where = operand(x, "input"), np.asarray(array_of(indices))
    kernel, pads = per_axis(kernel_size, ndim, "kernel_size"), per_axis(padding, ndim, "padding", least=0)
    steps = kernel if stride is None else per_axis(stride, ndim, "stride")
    if output_size is None:
        size = tuple((n - 1) * s - 2 * p + k for n, s, p, k in zip(value.shape[-ndim:], steps, pads, kernel, strict=True))
    else:
        given = entries(output_size)
        listed: list[Any] = [output_size] * ndim if given is None else given
        size = per_axis(tuple(listed[-ndim:]), ndim, "output_size")  # torch takes whole shapes, too
    return batched(name, value, ndim, lambda x: ops.max_unpool(x, where[None] if x.ndim > where.ndim else where, size))


def max_unpool1d(
    input: Operand,
    indices: Integers,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    output_size: PerAxis | None = None,
) -> Value:
    """Every value of (N, C, L) put where its maximum was, zeros elsewhere."""
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Operand,
    indices: Integers,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    output_size: PerAxis | None = None,
) -> Value:
    """Every value of (N, C, H, W) put where its maximum was, zeros elsewhere."""
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Operand,
    indices: Integers,
    kernel_size: PerAxis,
    stride: PerAxis | None = None,
    padding: PerAxis = 0,
    output_size: PerAxis | None = None,
) -> Value:
    """Every value of (N, C, D, H, W) put where its maximum was, zeros elsewhere."""
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
