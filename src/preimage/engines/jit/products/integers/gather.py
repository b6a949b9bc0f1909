"""Which positions of an image each row of a product takes: convolutions, and the phases of transposed ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import gcd
from typing import NamedTuple

from preimage.engines.base import Array
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["Gather", "conv_gather", "transposed_gathers"]


@record
class Gather:
    """Numbers of `ProductArguments`, by the same names. rows: of an image; out_first: where its first result lies, in bytes; axes: 2 or 3."""

    rows: int = 0
    axes: int = 2
    out_first: int = 0
    out_y: int = 1
    out_x: int = 1
    out_step_z: int = 0
    out_step_y: int = 0
    out_step_x: int = 0
    step_z: int = 0
    step_y: int = 0
    step_x: int = 0
    base_z: int = 0
    base_y: int = 0
    base_x: int = 0
    tap_z: int = 0
    tap_y: int = 0
    tap_x: int = 0
    size_z: int = 0
    size_y: int = 0
    size_x: int = 0
    stride_z: int = 0
    stride_y: int = 0
    stride_x: int = 0
    runs_z: int = 0
    runs_y: int = 0
    runs_x: int = 0
    run_taps: int = 0
    channels: int = 0

    def words(self) -> dict[str, int]:
        """All that a kernel reads."""
        return {name: getattr(self, name) for name in _READ}

    def rows_of(self, image: Array, result: Array) -> int:
        """Rows of an image (N, *space, C) where a row is nothing but a position's channels, and all results lie at even distances; 0 otherwise."""
        one_tap = self.runs_z * self.runs_y * self.runs_x * self.run_taps == 1 and self.step_z == self.step_y == self.step_x == 1
        begins = self.base_z == self.base_y == self.base_x == self.out_first == 0
        whole = begins and self.rows * self.stride_x == image[0].size
        lines = self.out_step_y == self.out_x * self.out_step_x and self.out_step_z == self.out_y * self.out_step_y
        even = lines and result[0].nbytes == self.rows * self.out_step_x
        return self.rows if one_tap and whole and even else 0


_READ = [name for name in Gather.__annotations__ if name not in ("rows", "axes", "out_first")]


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


def _gather(axes: tuple[_Axis, ...], image: Array, channels: int, result: Array) -> Gather:
    """image (N, *space, C), of which a row takes so many channels; result (N, *space, C'), dense both."""
    z, y, x = (_ONE, _ONE, *axes)[-3:]
    item = result.shape[-1] * result.itemsize
    line = item * result.shape[-2]
    plane = line * (result.shape[-3] if len(axes) > 1 else 1)
    apart = image.shape[-1]  # strides of axes of one element say nothing, so none is read: the image is dense
    joined = x.taps == 1 or (x.tap == 1 and apart == channels)
    return Gather(
        rows=z.outputs * y.outputs * x.outputs, axes=max(2, len(axes)), out_first=z.place * plane + y.place * line + x.place * item,
        out_y=y.outputs, out_x=x.outputs, out_step_z=z.apart * plane, out_step_y=y.apart * line, out_step_x=x.apart * item,
        step_z=z.step, step_y=y.step, step_x=x.step, base_z=z.base, base_y=y.base, base_x=x.base, tap_z=z.tap, tap_y=y.tap,
        tap_x=x.tap, size_z=z.size, size_y=y.size, size_x=x.size, stride_z=y.size * x.size * apart, stride_y=x.size * apart,
        stride_x=apart, runs_z=z.taps, runs_y=y.taps, runs_x=1 if joined else x.taps, run_taps=x.taps if joined else 1,
        channels=channels,
    )  # fmt: skip


def conv_gather(g: ConvGeometry, image: Array, channels: int, result: Array) -> Gather:
    """Of a convolution."""
    axes = (
        _Axis(small, stride, -lo, kernel, dilation, large)
        for small, stride, (lo, _), kernel, dilation, large in zip(
            g.output_size, g.stride, g.padding, g.kernel_size, g.dilation, g.input_size, strict=True
        )
    )
    return _gather(tuple(axes), image, channels, result)


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


def transposed_gathers(g: ConvGeometry, image: Array, channels: int, result: Array) -> Iterator[tuple[Gather, tuple[range, ...]]]:
    """Of a transposed convolution: every phase, with the taps whose weights it takes."""
    phases = [
        _phases(stride, lo, kernel, dilation, small, large)
        for stride, (lo, _), kernel, dilation, small, large in zip(
            g.stride, g.padding, g.kernel_size, g.dilation, g.output_size, g.input_size, strict=True
        )
    ]
    for phase in product(*phases):
        yield _gather(tuple(axis for axis, _ in phase), image, channels, result), tuple(taps for _, taps in phase)
