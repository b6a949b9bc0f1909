"""The slowly varying part of a picture, split off before stencils are learned and added back afterwards.

The slow part s of a picture x minimises  1/2 |x - s|^2 + weight/2 |grad s|^2  (Tikhonov), where grad holds the differences of
neighbours down and across. On a circle the Fourier transform solves it exactly: S = X / (1 + weight |G|^2) with
|G|^2 = (2 - 2 cos a) + (2 - 2 cos b); the picture is mirrored outwards by `margin` pixels first, so that its two ends do not
touch. Where only some pixels are known, the data term counts those alone and conjugate gradients solve the equations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import OptionError, ShapeError
from preimage.ops.sums import dot

__all__ = ["fill_in", "noise_level", "split_slow"]

Array = NDArray[Any]


def split_slow(picture: Array, weight: float = 5.0, margin: int = 16) -> tuple[Array, Array]:
    """The picture as (slow, detail), slow + detail = picture; slow is the Tikhonov-smoothed picture.

    Shapes: picture (..., H, W) of any float type; both results likewise.
    Cost: one Fourier transform of the picture and its margin and back, in float64.
    Raises: OptionError for a negative weight or margin; ShapeError for an array without two axes.
    Source: Wohlberg's SPORCO splits in this way (tikhonov_filter); the numbers agree.
    """
    picture = _floats(picture)
    if not weight >= 0 or margin < 0:
        raise OptionError(f"weight and margin must not be negative, got weight={weight!r}, margin={margin!r}")
    if not picture.size:
        return picture.copy(), picture.copy()
    sides = [(0, 0)] * (picture.ndim - 2) + [(margin, margin)] * 2
    mirrored = np.pad(np.asarray(picture, np.float64), sides, "symmetric")
    spectrum = np.fft.rfft2(mirrored)
    spectrum /= 1.0 + weight * _laplacian(mirrored.shape[-2], mirrored.shape[-1])
    smooth = np.fft.irfft2(spectrum, s=mirrored.shape[-2:])
    height, width = picture.shape[-2:]
    slow = smooth[..., margin : margin + height, margin : margin + width].astype(picture.dtype)
    return slow, picture - slow


def fill_in(picture: Array, known: Array, weight: float = 5.0, tolerance: float = 1e-5, steps: int = 2000) -> Array:
    """The slow part of a picture of which only the pixels in `known` count: smooth where they are, harmonic in the holes.

    Minimises 1/2 sum over known pixels of (x - s)^2 + weight/2 |grad s|^2, with no flow over the border, by conjugate
    gradients from the mean of the known pixels.

    Shapes: picture (..., H, W), known (H, W) of bool; the result as the picture.
    Cost: two differences along each axis a step; at most `steps` of them.
    Raises: ShapeError for a mask of another size; OptionError where no pixel is known.
    """
    picture, known = _floats(picture), np.asarray(known, bool)
    if known.shape != picture.shape[-2:]:
        raise ShapeError(f"the mask is {known.shape}, the picture {picture.shape[-2:]}: both must have the same height and width")
    if not known.any():
        raise OptionError("the mask leaves no pixel known: nothing to fill in from")
    x, data = np.asarray(picture, np.float64), known.astype(np.float64)

    def apply(s: Array) -> Array:
        result = data * s
        for axis in (-2, -1):
            flow = weight * np.diff(s, axis=axis)
            before, after = [slice(None)] * s.ndim, [slice(None)] * s.ndim
            before[axis], after[axis] = slice(None, -1), slice(1, None)
            result[tuple(before)] -= flow
            result[tuple(after)] += flow
        return result

    s = np.empty_like(x)
    s[...] = x[..., known].mean(axis=-1)[..., None, None]
    residual = data * x - apply(s)
    direction, square = residual.copy(), dot(residual, residual)
    goal = tolerance**2 * max(dot(data * x, data * x), 1e-30)
    for _ in range(steps):
        if square <= goal:
            break
        image = apply(direction)
        length = square / dot(direction, image)
        s += length * direction
        residual -= length * image
        square, last = dot(residual, residual), square
        direction = residual + (square / last) * direction
    return s.astype(picture.dtype)


def noise_level(picture: Array, known: Array | None = None) -> float:
    """The standard deviation of white noise in a picture (..., H, W), as its finest diagonal differences tell.

    A difference (a - b - c + d) / 2 of four neighbours has the deviation of one pixel's noise, and where the picture is smooth
    nothing else; the median over all places, divided by 0.6745, is that deviation in spite of edges.
    Source: Donoho and Johnstone (1994), median absolute deviation of the finest details.
    """
    x = np.asarray(picture, np.float64)
    if min(x.shape[-2:]) < 2:
        return 0.0
    fine = np.abs(x[..., :-1, :-1] - x[..., 1:, :-1] - x[..., :-1, 1:] + x[..., 1:, 1:]) / 2.0
    if known is not None:
        whole = known[:-1, :-1] & known[1:, :-1] & known[:-1, 1:] & known[1:, 1:]
        fine = fine[..., whole]
    return float(np.median(fine)) / 0.6745 if fine.size else 0.0


def _floats(picture: Array) -> Array:
    picture = np.asarray(picture)
    if picture.ndim < 2:
        raise ShapeError(f"a picture has a height and a width, got shape {picture.shape}")
    return picture if picture.dtype.kind == "f" else picture.astype(np.float64)


def _laplacian(height: int, width: int) -> Array:
    """|G|^2, the eigenvalues of minus the circular Laplacian, at the frequencies of rfft2."""
    down = 2.0 - 2.0 * np.cos(2.0 * np.pi * np.arange(height) / height)
    across = 2.0 - 2.0 * np.cos(2.0 * np.pi * np.arange(width // 2 + 1) / width)
    return down[:, None] + across[None, :]
