"""Which positions of an image each row of a product takes: convolutions, and the phases of transposed ones."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import NamedTuple

from preimage.engines.base import Array
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["Gather", "conv_gather", "transposed_gathers"]


@record
class Gather:
    """Numbers of `ProductArguments`, by the same names. rows: of an image; out_first: where its first result lies, in bytes."""

    rows: int = 0
    out_first: int = 0
    out_x: int = 1
    out_step_y: int = 0
    out_step_x: int = 0
    step_y: int = 0
    step_x: int = 0
    base_y: int = 0
    base_x: int = 0
    tap_y: int = 0
    tap_x: int = 0
    size_y: int = 0
    size_x: int = 0
    stride_y: int = 0
    stride_x: int = 0
    runs_y: int = 0
    runs_x: int = 0
    run_taps: int = 0
    channels: int = 0

    def words(self) -> dict[str, int]:
        """All that a kernel reads."""
        return {name: getattr(self, name) for name in _READ}

    def rows_of(self, image: Array, result: Array) -> int:
        """Rows of an image (N, *space, C) where a row is nothing but a position's channels, and all results lie at even distances; 0 otherwise."""
        one_tap = self.runs_y * self.runs_x * self.run_taps == 1 and (self.step_y, self.step_x) == (1, 1)
        whole = self.rows * self.channels == image[0].size and self.base_y == self.base_x == 0 and self.out_first == 0
        even = self.out_step_y == self.out_x * self.out_step_x and result[0].nbytes == self.rows * self.out_step_x
        return self.rows if one_tap and whole and even else 0


_READ = [name for name in Gather.__annotations__ if name not in ("rows", "out_first")]


class _Axis(NamedTuple):
    """Along one axis: how many outputs; output k takes input positions k * step + base + t * tap for its taps t; place: of output 0; apart: of the
    next, in positions of the result.
    """

    outputs: int
    step: int
    base: int
    taps: int
    tap: int
    size: int
    place: int = 0
    apart: int = 1


_ONE = _Axis(1, 1, 0, 1, 1, 1)


def _gather(y: _Axis, x: _Axis, image: Array, result_line: int, result_item: int) -> Gather:
    """image (N, *space, C); result_line: positions of a line of the result; result_item: bytes of one."""
    channels = image.shape[-1]  # strides of axes of one element say nothing, so none is read: the image is dense
    joined = x.tap == 1 or x.taps == 1
    return Gather(
        rows=y.outputs * x.outputs, out_first=(y.place * result_line + x.place) * result_item, out_x=x.outputs,
        out_step_y=y.apart * result_line * result_item, out_step_x=x.apart * result_item, step_y=y.step, step_x=x.step,
        base_y=y.base, base_x=x.base, tap_y=y.tap, tap_x=x.tap, size_y=y.size, size_x=x.size, stride_y=x.size * channels,
        stride_x=channels, runs_y=y.taps, runs_x=1 if joined else x.taps, run_taps=x.taps if joined else 1, channels=channels,
    )  # fmt: skip


def conv_gather(g: ConvGeometry, image: Array, item: int) -> Gather:
    """Of a convolution; item: bytes of an element of the result."""
    axes = [
        _Axis(small, stride, -lo, kernel, dilation, large)
        for small, stride, (lo, _), kernel, dilation, large in zip(
            g.output_size, g.stride, g.padding, g.kernel_size, g.dilation, g.input_size, strict=True
        )
    ]
    y, x = (_ONE, *axes)[-2:]
    return _gather(y, x, image, g.output_size[-1], g.out_channels * item)


def _phases(stride: int, lo: int, kernel: int, dilation: int, small: int, large: int) -> list[tuple[_Axis, range]]:
    """The phases of a transposed convolution along an axis, with the taps of each in the order of its input positions.

    Output p + s j takes tap k at input j + (p + lo - k d) / s, where that is a whole number.
    """
    found = []
    for phase in range(min(stride, large)):
        taps = [k for k in range(kernel) if (phase + lo - k * dilation) % stride == 0]
        outputs = -(-(large - phase) // stride)
        if taps:
            base, apart = (phase + lo - taps[-1] * dilation) // stride, dilation // gcd(dilation, stride)
            picked = range(taps[-1], taps[0] - 1, taps[0] - taps[1] if len(taps) > 1 else -1)
            found.append((_Axis(outputs, 1, base, len(taps), apart, small, phase, stride), picked))
        else:  # nothing is added up: a tap that lies outside everywhere
            found.append((_Axis(outputs, 1, -outputs - small, 1, 1, small, phase, stride), range(0, -1, -1)))
    return found


def transposed_gathers(g: ConvGeometry, image: Array, item: int) -> Iterator[tuple[Gather, tuple[range, ...]]]:
    """Of a transposed convolution: every phase, with the taps whose weights it takes; item: bytes of an element of the result."""
    axes = [
        _phases(stride, lo, kernel, dilation, small, large)
        for stride, (lo, _), kernel, dilation, small, large in zip(
            g.stride, g.padding, g.kernel_size, g.dilation, g.output_size, g.input_size, strict=True
        )
    ]
    for y, *first in [(phase[0], phase[1]) for phase in axes[0]] if len(axes) == 2 else [(_ONE,)]:
        for x, last in axes[-1]:
            yield _gather(y, x, image, g.input_size[-1], g.in_channels * item), (*first, last)
