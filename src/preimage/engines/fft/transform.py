"""Real Fourier transforms by NumPy's pocketfft, over some axes of an array, each line of it alike.

    spectrum = forward(a, axes, periods)             # a: zeros beyond its end, along all but the last of the axes
    result = inverse(spectrum, axes, periods, keep)  # keep: which positions along each axis are wanted

Both are scaled by 1 / sqrt(positions): NumPy computes float32 in float32 only where it is given a scale. A line gives the same bits alone as
among others (`tests/engines/test_fft.py`): pocketfft does the same operations on each lane of a vector as on one number. NumPy before 2 has
no float32 transforms: there all is computed in float64.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from preimage.engines.base import Array, DType

__all__ = ["complex_dtype", "forward", "good_size", "inverse", "real_dtype", "spectrum_size"]

_FLOAT32 = int(np.__version__.split(".", 1)[0]) >= 2


def real_dtype(dtype: DType) -> DType:
    """In which type transforms of arrays of that dtype are computed."""
    return np.dtype(np.float32) if _FLOAT32 and dtype.name != "float64" else np.dtype(np.float64)


def complex_dtype(real: DType) -> DType:
    return np.dtype(np.complex64 if real == np.float32 else np.complex128)


@lru_cache(maxsize=4096)
def good_size(least: int) -> int:
    """The least number of at least `least` without prime factors above 7: transforms of such lengths are fast."""
    n = max(least, 1)
    while True:
        rest = n
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 1


def spectrum_size(periods: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the spectrum of a real array: half of the last axis."""
    return (*periods[:-1], periods[-1] // 2 + 1)


def _into(function: Any, a: Array, out: Array, **how: Any) -> None:
    if _FLOAT32:
        function(a, norm="ortho", out=out, **how)
    else:
        out[...] = function(a, norm="ortho", **how)


def forward(a: Array, axes: tuple[int, ...], periods: tuple[int, ...]) -> Array:
    """The transform of a real array, whose last of the `axes` has its full period; along the others zeros follow it up to the period."""
    shape = list(a.shape)
    for axis, size in zip(axes, spectrum_size(periods), strict=True):
        shape[axis] = size
    inside = [slice(None)] * a.ndim
    for axis in axes[:-1]:
        inside[axis] = slice(a.shape[axis])
    whole = all(a.shape[axis] == shape[axis] for axis in axes[:-1])
    spectrum = (np.empty if whole else np.zeros)(shape, complex_dtype(a.dtype))
    _into(np.fft.rfft, a, spectrum[tuple(inside)], axis=axes[-1])
    for axis in reversed(axes[:-1]):
        inside[axis] = slice(None)
        lines = spectrum[tuple(inside)]
        _into(np.fft.fft, lines, lines, axis=axis)
    return spectrum


def inverse(spectrum: Array, axes: tuple[int, ...], periods: tuple[int, ...], keep: tuple[slice, ...]) -> Array:
    """The real array of a spectrum, which is overwritten; only the positions `keep` of it."""
    for axis, part in zip(axes[:-1], keep[:-1], strict=True):
        _into(np.fft.ifft, spectrum, spectrum, axis=axis)
        spectrum = spectrum[(slice(None),) * axis + (part,)]
    real = np.fft.irfft(spectrum, n=periods[-1], axis=axes[-1], norm="ortho")
    return real[(slice(None),) * axes[-1] + (keep[-1],)]
