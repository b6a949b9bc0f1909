"""Strides and dilations taken apart: every convolution as one of stride 1 and dilation 1, along one axis.

A position j of the large side, o of the small one and tap k meet where j + lo = o s + k d. With q = gcd(s, d), s = q s', d = q d', and

    o = o1 d' + residue      (residue < d')        k = k1 s' + phase      (phase < s')

they meet where j + lo = q s' d' (o1 + k1) + q (residue s' + phase d'): for each residue and phase the positions t of a part of the large
side, a stride-1 convolution t = o1 + k1. Since s' and d' have no common factor, each position of the large side belongs to at most one
such part, so nothing is transformed twice. Residues are more images; phases are more channels.

This is less work than transforms of the whole followed by decimation: the products are the same, the transforms shorter.
"""

from __future__ import annotations

from math import gcd

from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["UnitAxis", "unit_axes"]

#: Which elements of an array go where in a frame: array[first::step] is frame[begin:end].
Part = tuple[slice, slice]


@record
class UnitAxis:
    """One spatial axis with its parts.

    taps, outputs: of the stride-1 convolution. begin, end: the positions t that carry data in any part; others are padding.
    """

    large: int
    small: int
    kernel: int
    stride: int  # s'
    dilation: int  # d'
    common: int  # q
    lo: int

    @property
    def residues(self) -> int:
        return min(self.dilation, self.small)

    @property
    def phases(self) -> int:
        return min(self.stride, self.kernel)

    @property
    def taps(self) -> int:
        return -(-self.kernel // self.stride)

    @property
    def outputs(self) -> int:
        return -(-self.small // self.dilation)

    @property
    def step(self) -> int:
        """Between neighbouring positions of a part, on the large side."""
        return self.common * self.stride * self.dilation

    def offset(self, residue: int, phase: int) -> int:
        """Where position t = 0 of a part lies on the large side; it may lie on padding."""
        return self.common * (residue * self.stride + phase * self.dilation) - self.lo

    def _range(self, residue: int, phase: int) -> tuple[int, int]:
        offset, positions = self.offset(residue, phase), self.outputs + self.taps - 1
        first = max(0, -(offset // self.step))
        return first, max(first, min(positions, (self.large - 1 - offset) // self.step + 1))

    @property
    def span(self) -> tuple[int, int]:
        """The positions t that carry data, of all parts together: (begin, end)."""
        found = [self._range(r, p) for r in range(self.residues) for p in range(self.phases)]
        begin = min((a for a, b in found if b > a), default=0)
        return begin, max((b for a, b in found if b > a), default=begin)

    def large_part(self, residue: int, phase: int, begin: int, end: int) -> Part | None:
        """What of the large side lies at positions begin..end of a part; None if nothing does."""
        first, last = self._range(residue, phase)
        return _part(self.offset(residue, phase), self.step, max(first, begin), min(last, end), begin)

    def small_part(self, residue: int, begin: int, end: int) -> Part | None:
        """Likewise of the small side."""
        last = (self.small - 1 - residue) // self.dilation + 1
        return _part(residue, self.dilation, max(0, begin), min(last, end), begin)

    def kernel_part(self, phase: int) -> Part:
        """The taps of a phase."""
        last = (self.kernel - 1 - phase) // self.stride + 1
        return slice(phase, None, self.stride), slice(last)


def _part(offset: int, step: int, first: int, last: int, begin: int) -> Part | None:
    if last <= first:
        return None
    start = offset + step * first
    return slice(start, start + step * (last - first - 1) + 1, step), slice(first - begin, last - begin)


def unit_axes(g: ConvGeometry) -> tuple[UnitAxis, ...]:
    """The axes of a geometry."""
    found = []
    for n, m, k, s, d, (lo, _) in zip(
        g.input_size, g.output_size, g.kernel_size, g.stride, g.dilation, g.padding, strict=True
    ):  # fmt: skip
        q = gcd(s, d)
        found.append(UnitAxis(n, m, k, s // q, d // q, q, lo))
    return tuple(found)
