"""Arrays as images: stencils as tiles and sheets, activations as glowing dots, differences; all bytes (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.pictures import to_bytes

__all__ = ["difference", "glow", "rgb", "sheet", "stencil_tile", "stencil_tiles"]

Array = NDArray[Any]
PAPER = (250, 249, 246)
#: Positive and negative activations.
WARM, COLD = np.array([255, 138, 30], np.float32), np.array([64, 150, 255], np.float32)


def rgb(values: Array) -> Array:
    """A picture (C, H, W) of 0..1, or bytes (H, W), as bytes (H, W, 3)."""
    pixels = values if values.dtype == np.uint8 else to_bytes(values)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def stencil_tile(stencil: Array, scale: int = 1) -> Array:
    """One stencil (C, k, k): zero is mid-grey, the largest value of either sign black or white."""
    largest = max(float(np.abs(stencil).max()), 1e-12)
    tile = rgb((0.5 + 0.5 * stencil / largest).astype(np.float32))
    return tile.repeat(scale, axis=0).repeat(scale, axis=1)


def stencil_tiles(stencils: Array, scale: int = 6, columns: int | None = None) -> Array:
    """All stencils (K, C, k, k) on one sheet, in the order given."""
    return sheet([stencil_tile(s, scale) for s in stencils], columns or max(1, round(len(stencils) ** 0.5)), gap=scale)


def sheet(tiles: Sequence[Array], columns: int, gap: int = 8) -> Array:
    """Images on paper, row by row; each cell is as large as the largest image."""
    pictures = [rgb(t) for t in tiles]
    height, width = max(p.shape[0] for p in pictures), max(p.shape[1] for p in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    page = np.empty((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), np.uint8)
    page[...] = PAPER
    for n, picture in enumerate(pictures):
        a, b = gap + n // columns * (height + gap), gap + n % columns * (width + gap)
        page[a : a + picture.shape[0], b : b + picture.shape[1]] = picture
    return page


def glow(activations: Array, picture: Array) -> Array:
    """Activations (H, W) as dots over the dimmed picture: warm where positive, cold where negative, brighter where stronger."""
    base = 0.28 * rgb(picture).astype(np.float32)
    size = np.abs(activations)
    full = float(np.quantile(size[size > 0], 0.95)) if np.any(size) else 1.0
    strength = np.sqrt(np.minimum(size / max(full, 1e-12), 1.0))
    reach = 1 + min(activations.shape) // 400
    strength, sign = _spread(strength, np.sign(activations), reach)
    colour = np.where((sign >= 0)[..., None], WARM, COLD)
    mixed = base + strength[..., None] * (colour - base)
    return np.asarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _spread(strength: Array, sign: Array, reach: int) -> tuple[Array, Array]:
    """Every dot widened to a disc of that radius, fading outwards; the strongest wins."""
    out, out_sign = strength.copy(), sign.copy()
    height, width = strength.shape
    padded, padded_sign = np.pad(strength, reach), np.pad(sign, reach)
    for a in range(-reach, reach + 1):
        for b in range(-reach, reach + 1):
            far = (a * a + b * b) ** 0.5
            if not 0 < far <= reach + 0.5:
                continue
            moved = padded[reach + a : reach + a + height, reach + b : reach + b + width] * (1.0 - 0.45 * far / reach)
            wins = moved > out
            out = np.where(wins, moved, out)
            out_sign = np.where(wins, padded_sign[reach + a : reach + a + height, reach + b : reach + b + width], out_sign)
    return out, out_sign


def difference(picture: Array, other: Array, gain: float = 8.0) -> Array:
    """picture - other around mid-grey, `gain` times as strong."""
    return rgb((0.5 + gain * (picture - other)).astype(np.float32))
