"""Axes of a case by the numbers that can change alone: the large size follows from them. What draws and what shrinks uses these."""

from __future__ import annotations

from dataclasses import dataclass

from preimage.audit.case import Case

__all__ = ["Axis", "axes_of", "with_axes"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: positions of the small side, kernel, stride, padding, dilation, and the remainder past the last tap."""

    small: int
    kernel: int
    stride: int
    lo: int
    hi: int
    dilation: int
    remainder: int

    @property
    def extent(self) -> int:
        """What a dilated kernel covers."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def span(self) -> int:
        """How far the taps of all positions reach."""
        return (self.small - 1) * self.stride + self.extent if self.small else 0

    @property
    def large(self) -> int:
        """The large size."""
        return (self.small - 1) * self.stride + self.extent - self.lo - self.hi + self.remainder

    @property
    def sound(self) -> bool:
        """Whether a geometry can have this axis."""
        least = min(self.kernel, self.stride, self.dilation) >= 1 and min(self.small, self.large) >= 0
        return least and 0 <= self.remainder < max(self.stride, self.dilation)


def axes_of(case: Case) -> list[Axis]:
    """The axes of a case."""
    rows = zip(case.output_size, case.kernel_size, case.stride, case.padding, case.dilation, case.remainder, strict=True)
    return [Axis(m, k, s, lo, hi, d, r) for m, k, s, (lo, hi), d, r in rows]


def with_axes(case: Case, axes: list[Axis]) -> Case:
    """The case with other axes (which must be sound)."""
    return case.with_(
        input_size=tuple(a.large for a in axes),
        output_size=tuple(a.small for a in axes),
        kernel_size=tuple(a.kernel for a in axes),
        stride=tuple(a.stride for a in axes),
        padding=tuple((a.lo, a.hi) for a in axes),
        dilation=tuple(a.dilation for a in axes),
    )
