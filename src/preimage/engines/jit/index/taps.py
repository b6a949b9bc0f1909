"""Planning, as pure data: which input positions and taps every output position reads. (`tiling`: how tiles cover them.)

conv and conv_transpose are one thing here, a *gather*. Along one axis, output position p = start + t*step of a phase reads
input position t*in_step + offset[k] for every tap k of the phase, in the order of k:

    conv             one phase: step 1, in_step = stride, offset[k] = k*dilation - lo, all taps
    conv_transpose   `stride` phases r: p = r + t*stride, in_step 1, and only those taps with
                     r + lo - k*dilation = stride * offset[k]: no zero between strided values is ever multiplied

Taps outside the input are left out, row by row exactly; along the axis of the tile's pixels a tile takes every tap that
any of its pixels needs, and reads zeros from a margin for the others.
"""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.engines.jit.index.cached import kept
from preimage.engines.kept_tables import kept_tables
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = [
    "Axis",
    "Folded",
    "Ints",
    "Phase",
    "as_ints",
    "classes",
    "distinct",
    "fold_phases",
    "gather_axes",
    "join_taps",
    "merge_axes",
]

Ints = NDArray[np.int64]


@record(slots=False)
class Phase:
    """The positions of one axis that share their taps: see the module's first lines. taps: (number, offset)."""

    start: int
    step: int
    count: int
    in_step: int
    in_size: int
    taps: tuple[tuple[int, int], ...]
    every_tap: bool = False  # taps over the padding take part (weights that are not finite)
    reach: int = 0  # positions behind a tap's own that it reads as well (joined taps)

    def __hash__(self) -> int:
        return self._hash

    @kept
    def _hash(self) -> int:
        """Worked out once: a phase is looked up for every tile that is weighed."""
        return hash((self.start, self.step, self.count, self.in_step, self.in_size, self.taps, self.every_tap, self.reach))

    @kept
    def offsets(self) -> Ints:
        return np.array([offset for _, offset in self.taps], np.int64)

    @kept
    def valid(self) -> tuple[Ints, Ints]:
        """For every position the range of taps (first, last + 1) whose input lies inside."""
        n = len(self.taps)
        if self.every_tap or n == 0:
            return np.zeros(self.count, np.int64), np.full(self.count, n, np.int64)
        base = np.arange(self.count, dtype=np.int64) * self.in_step
        if n == 1 or self.offsets[0] < self.offsets[-1]:
            return (
                np.searchsorted(self.offsets, -base, "left"),
                np.searchsorted(self.offsets, self.in_size - base, "left"),
            )
        up = self.offsets[::-1]
        first = n - np.searchsorted(up, self.in_size - base, "left")
        return first, n - np.searchsorted(up, -base, "left")

    @kept
    def runs(self) -> list[int]:
        """Where the runs of positions with equal taps begin, and the end."""
        first, last = self.valid
        moves = (first[1:] != first[:-1]) | (last[1:] != last[:-1])
        return [0, *[k + 1 for k in moves.nonzero()[0].tolist()], self.count]

    @kept
    def margins(self) -> tuple[int, int]:
        """How far its taps reach before and behind the input."""
        if not self.count or not self.taps:
            return 0, 0
        last = (self.count - 1) * self.in_step
        ends = self.taps[0][1], self.taps[-1][1]  # offsets rise, or fall
        return max(0, -min(ends)), max(0, max(ends) + self.reach + last - self.in_size + 1)

    @kept
    def classes(self) -> tuple[Ints, list[tuple[int, int]]]:
        """For every position the number of its tap range, and the ranges."""
        return classes(*self.valid)

    @kept
    def tap_total(self) -> int:
        """Taps of all positions together."""
        first, last = self.valid
        return int((last - first).sum())


def distinct(numbers: Ints) -> Ints:
    """The different ones of numbers from 0 on, in order. (np.unique would import numpy.ma, which takes longer than a plan.)"""
    ordered = np.sort(numbers)
    new = np.empty(len(ordered), bool)
    new[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def classes(first: Ints, last: Ints) -> tuple[Ints, list[tuple[int, int]]]:
    """Pairs (first, last), numbered: the number of each, and the pairs that there are."""
    wide = int(last.max(initial=0)) + 1
    codes = first * wide + last
    if len(codes) and (codes == codes[0]).all():  # mostly
        return np.zeros(len(codes), np.int64), [divmod(int(codes[0]), wide)]
    found = distinct(codes)
    return found.searchsorted(codes), [divmod(code, wide) for code in found.tolist()]


@record
class Axis:
    """One axis of the gather: spatial, or the batch (one tap)."""

    in_size: int
    out_size: int
    phases: tuple[Phase, ...]
    kernel: int = 1
    most: int = 1  # taps of the phase that has most of them, if it had positions: see docs/contract.md

    @property
    def plain(self) -> bool:
        """Whether output position p reads input position p alone."""
        only = self.phases[0]
        return (
            self.kernel == 1
            and len(self.phases) == 1
            and only.taps == ((0, 0),)
            and only.reach == 0
            and only.in_step == only.step == 1
            and (self.in_size == self.out_size)
        )

    @property
    def margins(self) -> tuple[int, int]:
        reach = [phase.margins for phase in self.phases]
        return max((lo for lo, _ in reach), default=0), max((hi for _, hi in reach), default=0)


def gather_axes(g: ConvGeometry, contraction: str, every_tap: bool = False) -> list[Axis]:
    """The batch axis and the spatial axes of conv (x -> y) or conv_transpose (y -> x)."""
    axes = [Axis(g.batch, g.batch, (Phase(0, 1, g.batch, 1, g.batch, ((0, 0),)),))]
    for axis in range(g.ndim):
        sizes = g.kernel_size[axis], g.stride[axis], g.dilation[axis], g.padding[axis][0], g.input_size[axis], g.output_size[axis]
        axes.append(_spatial_axis(contraction == "conv", every_tap, *sizes))
    return axes


def _axis_bytes(axis: Axis) -> int:
    """What an axis holds when all is known of it: ranges of taps and their classes, three numbers a position."""
    return 512 + sum(24 * phase.count + 64 * len(phase.taps) for phase in axis.phases)


@partial(kept_tables, size=_axis_bytes)  # one layer is planned for several memory orders and batches
def _spatial_axis(
    forward: bool, every_tap: bool, kernel: int, stride: int, dilation: int, lo: int, large: int, small: int
) -> Axis:  # fmt: skip
    if forward:
        taps = tuple((k, k * dilation - lo) for k in range(kernel))
        return Axis(large, small, (Phase(0, 1, small, stride, large, taps, every_tap),), kernel, kernel)
    phases = []
    for r in range(min(stride, large)):
        taps = tuple((k, (r + lo - k * dilation) // stride) for k in range(kernel) if (r + lo - k * dilation) % stride == 0)
        phases.append(Phase(r, stride, -(-(large - r) // stride), 1, small, taps))
    return Axis(small, large, tuple(phases), kernel, -(-kernel // (stride // gcd(stride, dilation))))


def join_taps(g: ConvGeometry) -> Axis:
    """The last axis of a conv with its taps joined to the channels: every position reads one run that starts at its tap 0.

    In a channels-last input the taps of a line (without dilation) and their channels are one run of numbers.
    """
    kernel, lo = g.kernel_size[-1], g.padding[-1][0]
    phase = Phase(0, 1, g.output_size[-1], g.stride[-1], g.input_size[-1], ((0, -lo),), every_tap=True, reach=kernel - 1)
    return Axis(g.input_size[-1], g.output_size[-1], (phase,), 1)


@record
class Folded:
    """The last axis of a transposed convolution with its `stride` phases laid side by side as channels.

    In a channels-last result the values of `stride` neighbouring pixels are one run of stride * channels numbers: position
    u holds ih = u*stride + q - lo for all q, and tap j of q is k = q + j*stride, which reads u - j whatever q is. So few
    channels (an RGB head, 21 classes) fill whole vectors. first_cut, last_end: the phases that exist at the first position
    (q >= first_cut) and at the last (q < last_end); phases_of_tap[j]: how many phases have tap j.
    """

    axis: Axis
    stride: int
    first_cut: int
    last_end: int
    phases_of_tap: tuple[int, ...]


def fold_phases(g: ConvGeometry) -> Folded | None:
    """The last axis folded, where that is possible: stride above 1, no dilation."""
    kernel, stride, lo = g.kernel_size[-1], g.stride[-1], g.padding[-1][0]
    large, small = g.input_size[-1], g.output_size[-1]
    if stride == 1 or (g.dilation[-1] != 1 and kernel > 1) or kernel < 2:
        return None
    first = lo // stride
    last = (large - 1 + lo) // stride
    taps = tuple((j, first - j) for j in range(-(-kernel // stride)))
    phase = Phase(first * stride - lo, stride, last - first + 1, 1, small, taps)
    existing = tuple(min(stride, kernel - j * stride) for j, _ in taps)
    return Folded(
        Axis(small, large, (phase,), len(taps), len(taps)), stride, lo - first * stride, large + lo - last * stride, existing
    )


MOST_MERGED = 1 << 18  # positions: of a longer row its table would be the memory that counts, and its end wastes nothing


def merge_axes(axes: list[Axis], in_strides: list[int], out_strides: list[int]) -> tuple[list[Axis], list[int], list[int]]:
    """Neighbouring plain axes that lie contiguously in both arrays, as one (1x1 layers become one long row)."""
    out: list[Axis] = []
    ins: list[int] = []
    outs: list[int] = []
    for axis, a, b in zip(axes, in_strides, out_strides, strict=True):
        size = out[-1].in_size * axis.in_size if out else 0
        near = out and ins[-1] == a * axis.in_size and outs[-1] == b * axis.out_size
        if near and out[-1].plain and axis.plain and size <= MOST_MERGED:
            out[-1] = Axis(size, size, (Phase(0, 1, size, 1, size, ((0, 0),)),))
            ins[-1], outs[-1] = a, b
        else:
            out.append(axis)
            ins.append(a)
            outs.append(b)
    return out, ins, outs


def as_ints(rows: Any) -> Ints:
    return np.ascontiguousarray(np.array(rows, dtype=np.int64))
