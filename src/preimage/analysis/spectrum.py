"""Which frequencies an output of a layer holds: a checkerboard is a peak at its period.

The interior (coverage.py) is cut to whole strides, so that a pattern that repeats with the stride falls on frequencies of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.coverage import coverage
from preimage.autograd import array_of
from preimage.errors import OptionError, ShapeError
from preimage.geometry import ConvGeometry

__all__ = ["Spectrum", "spectrum"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Spectrum:
    """One channel's interior, and the amplitude of its frequencies.

    part: the interior, cut to whole strides. amplitude: of the same shape, |DFT| / cells with the mean left out, frequency 0 in
    the middle. frequencies: for each axis, cycles a cell, as `amplitude` has them. peaks: the places of the largest amplitude.
    """

    part: Array
    amplitude: Array
    frequencies: tuple[Array, ...]
    peaks: tuple[tuple[int, ...], ...]

    @property
    def period(self) -> tuple[Fraction | None, ...]:
        """Cells after which the strongest frequency repeats, per axis; None where it is constant along it."""
        if not self.peaks:
            return (None,) * self.part.ndim
        found: list[Fraction | None] = []
        for axis, n in enumerate(self.part.shape):
            cycles = sorted({abs(int(p[axis]) - n // 2) for p in self.peaks} - {0})
            found.append(Fraction(n, cycles[0]) if cycles else None)
        return tuple(found)


def spectrum(geometry: ConvGeometry, large: Any, *, image: int = 0, channel: int = 0) -> Spectrum:
    """The spectrum of one channel of a large side: an output of the deconvolution or an input gradient of the convolution.

    large: (N, in_channels, *input_size). Raises: ShapeError for another shape; OptionError where the interior holds no whole period,
    or the image or channel is not there.
    """
    g, values = geometry, np.asarray(array_of(large)).astype(np.float64)
    if values.shape[1:] != g.input_shape[1:]:
        raise ShapeError(
            f"the large side has shape {values.shape}, the geometry wants (N, {', '.join(map(str, g.input_shape[1:]))})"
        )
    for name, at, most in (("image", image, values.shape[0]), ("channel", channel, values.shape[1])):
        if not 0 <= at < most:
            raise OptionError(f"{name} is {at}; the large side has {most}")
    inside = coverage(g).interior
    if inside is None:
        raise OptionError("the borders reach so far that no whole period lies inside; take a larger input")
    cut = tuple(slice(p.start, p.start + (p.stop - p.start) // s * s) for p, s in zip(inside, g.stride, strict=True))
    part = values[image, channel][cut]
    shifted = np.fft.fftshift(np.abs(np.fft.fftn(part - part.mean())) / part.size)
    frequencies = tuple(np.fft.fftshift(np.fft.fftfreq(n)) for n in part.shape)
    largest, scale = float(shifted.max(initial=0.0)), float(np.abs(part).max(initial=0.0))
    if not largest > 1e-6 * scale:  # rounding is no frequency
        return Spectrum(part, np.zeros_like(shifted), frequencies, ())
    peaks = tuple(tuple(int(i) for i in p) for p in np.argwhere(shifted > largest * (1 - 1e-6)))
    return Spectrum(part, shifted, frequencies, peaks)
