"""How many taps land on each cell of the large side, whether that makes a checkerboard, and how much of one an output shows.

Along one axis the cell i of the large side is met by every tap k with (i + lo - k*dilation) divisible by the stride. Without
borders the count depends on i modulo the stride alone: the *phases*. The layer is even where all phases have the same count.
The *interior* are the cells that the border does not touch: every tap of their phase meets an existing position of the small
side. Borders always thin out; only an interior that holds a whole period says something about the layer, so there is no verdict
without one.

    from geometry     counts of taps: what all-ones weights make of a constant
    from weights      sums of the weights of each phase: what these weights make of a constant
    measured          means of an output over each phase: the part of its energy that repeats with the stride

In each case the *energy* is the variance over the phases, relative to the mean square.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import array_of
from preimage.display import Shown
from preimage.errors import ShapeError
from preimage.geometry import ConvGeometry

__all__ = ["AxisCoverage", "Coverage", "coverage", "measured_energy", "phase_sums", "weight_energy"]

Array = NDArray[Any]


@dataclass(frozen=True, repr=False)
class AxisCoverage(Shown):
    """One axis of the large side.

    counts: taps on every cell. phases: taps that a cell i with i % stride = r would meet without borders, for r = 0, 1, ...
    period: of that sequence, 1 where it is even. interior: first and last cell (exclusive) that no border touches.
    """

    counts: tuple[int, ...]
    phases: tuple[int, ...]
    period: int
    interior: tuple[int, int]

    @property
    def has_period(self) -> bool:
        """Whether the interior holds every phase."""
        return self.interior[1] - self.interior[0] >= len(self.phases)

    @property
    def verdict(self) -> str | None:
        """ "even", "checkerboard" (some cells meet more taps than others), "gaps" (some meet none); None without an interior period."""
        if not self.has_period:
            return None
        if 0 in self.phases:
            return "gaps"
        return "even" if self.period == 1 else "checkerboard"

    @property
    def energy(self) -> float | None:
        """Variance over the phases relative to the mean square; None without an interior period."""
        return _relative_variance(np.array(self.phases, float), 0) if self.has_period else None

    def __repr__(self) -> str:
        return f"AxisCoverage({len(self.counts)} cells, phases {self.phases}, period {self.period}, {self.verdict})"


@dataclass(frozen=True)
class Coverage(Shown):
    """The coverage of the large side along every axis; in several dimensions a cell meets the product."""

    axes: tuple[AxisCoverage, ...]

    @property
    def counts(self) -> Array:
        """How many taps land on each cell of the large side, for one pair of channels."""
        counts: Any = np.ones((), np.int64)
        for axis in self.axes:
            counts = np.multiply.outer(counts, np.array(axis.counts, np.int64))
        return np.asarray(counts)

    @property
    def interior(self) -> tuple[slice, ...] | None:
        """The cells that no border touches; None where they do not hold a whole period."""
        return tuple(slice(*axis.interior) for axis in self.axes) if all(axis.has_period for axis in self.axes) else None

    @property
    def period(self) -> tuple[int, ...]:
        """The period along every axis, borders aside; 1 where it is even."""
        return tuple(axis.period for axis in self.axes)

    @property
    def verdict(self) -> str | None:
        """The worst verdict of the axes; None where one axis has no interior period."""
        found = [axis.verdict for axis in self.axes]
        if any(v is None for v in found):
            return None
        return next((word for word in ("gaps", "checkerboard") if word in found), "even")

    @property
    def energy(self) -> float | None:
        """Variance of the taps a cell over the phases, relative to the mean square; None without an interior period."""
        left = 1.0
        for axis in self.axes:
            if axis.energy is None:
                return None
            left *= 1 - axis.energy
        return 1 - left


def _period(sequence: tuple[int, ...]) -> int:
    n = len(sequence)
    return next(p for p in range(1, n + 1) if not n % p and sequence == sequence[:p] * (n // p))


def coverage_of_axis(size: int, small: int, kernel: int, stride: int, lo: int, dilation: int) -> AxisCoverage:
    """The coverage along one axis of `size` cells, from `small` positions."""
    counts = np.zeros(size, np.int64)
    touched = np.zeros(size, bool)  # cells that a position beyond the ends of the small side would meet, were it there
    cells = np.arange(size)
    phases = [0] * stride
    for k in range(kernel):
        phases[(k * dilation - lo) % stride] += 1
        position, rest = np.divmod(cells + lo - k * dilation, stride)
        inside = (position >= 0) & (position < small)
        counts += (rest == 0) & inside
        touched |= (rest == 0) & ~inside
    free = np.flatnonzero(~touched)
    # the longest stretch that no border touches; cells that nothing meets belong to it where they lie between
    best = (0, 0)
    if free.size:
        breaks = np.flatnonzero(np.diff(free) > 1)
        starts, ends = np.r_[0, breaks + 1], np.r_[breaks, free.size - 1]
        longest = int(np.argmax(ends - starts))
        best = (int(free[starts[longest]]), int(free[ends[longest]]) + 1)
    return AxisCoverage(tuple(counts.tolist()), tuple(phases), _period(tuple(phases)), best)


def coverage(geometry: ConvGeometry) -> Coverage:
    """How many taps land on each cell of the large side: of a deconvolution's output, or of a convolution's input."""
    g = geometry
    return Coverage(tuple(
        coverage_of_axis(g.input_size[a], g.output_size[a], g.kernel_size[a], g.stride[a], g.padding[a][0], g.dilation[a])
        for a in range(g.ndim)
    ))  # fmt: skip


# -- from weights ------------------------------------------------------------------------------------------------------


def phase_of_tap(geometry: ConvGeometry, axis: int) -> Array:
    """The phase (cell modulo stride) that each tap of an axis lands on."""
    g = geometry
    return (np.arange(g.kernel_size[axis]) * g.dilation[axis] - g.padding[axis][0]) % g.stride[axis]


def phase_sums(geometry: ConvGeometry, w: Any) -> Array:
    """The sums of the weights of each phase: (out_channels, in_channels // groups, *stride), in float64.

    A small side that is 1 in one channel and 0 in the others gives just these values inside the large side.
    """
    g, weights = geometry, np.asarray(array_of(w)).astype(np.float64)
    if weights.shape != g.weight_shape:
        raise ShapeError(f"w has shape {weights.shape}, the geometry wants {g.weight_shape}")
    for axis in range(g.ndim):
        moved = np.moveaxis(weights, 2 + axis, 0)
        sums = np.zeros((g.stride[axis], *moved.shape[1:]))
        np.add.at(sums, phase_of_tap(g, axis), moved)
        weights = np.moveaxis(sums, 0, 2 + axis)
    return weights


def weight_energy(geometry: ConvGeometry, w: Any) -> Array | None:
    """The checkerboard energy that these weights make of a constant, for each channel of the large side.

    All small channels are 1. None without an interior period; NaN where a channel's answer is 0 at every phase.
    """
    if coverage(geometry).interior is None:
        return None
    g = geometry
    sums = phase_sums(g, w).reshape(g.groups, g.out_channels_per_group, *g.weight_shape[1:2], *g.stride)
    per_channel = sums.sum(axis=1).reshape(g.in_channels, prod(g.stride))
    return np.asarray(_relative_variance(per_channel, 1))


def _relative_variance(values: Array, axis: int) -> Any:
    """Variance relative to the mean square; NaN for nothing but zeros."""
    square = np.mean(np.square(values), axis=axis)
    with np.errstate(all="ignore"):
        found = np.var(values, axis=axis) / square
    return float(found) if np.ndim(found) == 0 else found


# -- measured ----------------------------------------------------------------------------------------------------------


def measured_energy(geometry: ConvGeometry, large: Any) -> Array | None:
    """The part of a large side's energy (mean square, in the interior) that repeats with the stride, for each channel.

    large: (N, in_channels, *input_size), an output of the deconvolution or an input gradient of the convolution. The interior is
    cut to whole strides; its mean over each phase is taken, and the variance of these means set against the mean square of all.
    None without an interior period.
    """
    g, values = geometry, np.asarray(array_of(large)).astype(np.float64)
    if values.shape[1:] != g.input_shape[1:]:
        raise ShapeError(
            f"the large side has shape {values.shape}, the geometry wants (N, {', '.join(map(str, g.input_shape[1:]))})"
        )
    inside = coverage(g).interior
    if inside is None:
        return None
    cut = tuple(slice(p.start, p.start + (p.stop - p.start) // s * s) for p, s in zip(inside, g.stride, strict=True))
    part = values[(slice(None), slice(None), *cut)]
    means = np.stack([
        part[(slice(None), slice(None), *(slice(r, None, s) for r, s in zip(phase, g.stride, strict=True)))].mean(
            axis=(0, *range(2, part.ndim))
        )
        for phase in product(*map(range, g.stride))
    ])  # fmt: skip
    with np.errstate(all="ignore"):
        found: Array = np.var(means, axis=0) / np.mean(np.square(part), axis=(0, *range(2, part.ndim)))
    return found
