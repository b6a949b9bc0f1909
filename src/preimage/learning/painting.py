"""What a run shows: which stencils do most, where they stand, and the picture as it is painted stencil by stencil."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.display import Shown
from preimage.learning.dictionary import Coded

__all__ = ["Frame", "Painting", "Strokes", "activation_map", "order_of_use", "paint_by_numbers", "psnr", "shares", "strokes"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, repr=False)
class Frame:
    """The picture (C, H, W) after so many stencils, and its PSNR in dB."""

    count: int
    picture: Array
    psnr: float

    def __repr__(self) -> str:
        return f"Frame(count={self.count}, picture {self.picture.shape}, {self.psnr:.2f} dB)"


@dataclass(frozen=True, slots=True, repr=False)
class Strokes:
    """Every activation that is not zero, the strongest first: `value` times stencil number `stencil`, one entry of each array a stroke.

    row, column: where its corner lies in the picture, also outside of it: what lies beyond the edge is cropped, or comes in on the other side
    where the border is circular (`wraps`). plane: the picture's channel that the stencil's first channel is painted on.
    """

    stencil: Array
    row: Array
    column: Array
    value: Array
    plane: Array
    wraps: bool

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        return f"Strokes({len(self)})"

    @classmethod
    def joined(cls, parts: Sequence[Strokes]) -> Strokes:
        """The strokes of pictures that are the planes of one, together."""
        plane = np.concatenate([np.full(len(s), n, np.int64) for n, s in enumerate(parts)])
        value = np.concatenate([s.value for s in parts])
        order = np.argsort(-np.abs(value), kind="stable")
        stencil, row, column = (np.concatenate([getattr(s, name) for s in parts])[order] for name in ("stencil", "row", "column"))
        return cls(stencil, row, column, value[order], plane[order], parts[0].wraps)


@dataclass(frozen=True, slots=True, repr=False)
class Painting(Shown):
    """One picture's story: its name, the original, its slow part, the rebuilt picture, the frames of the painting, for the
    strongest stencils the activations where they stand in the picture (index, (H, W), signed), and all strokes one by one."""

    name: str
    original: Array
    slow: Array
    rebuilt: Array
    psnr: float
    nonzeros_per_pixel: float
    frames: list[Frame]
    maps: list[tuple[int, Array]]
    strokes: Strokes | None = None

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.original.shape))
        return f"Painting({self.name!r}, {shape}, {self.psnr:.2f} dB, {self.nonzeros_per_pixel:.3f} activations per pixel)"


def psnr(picture: Array, other: Array, known: Array | None = None) -> float:
    """Peak signal to noise ratio in dB for values 0..1; where `known` is given, of its pixels alone."""
    square = np.square(np.subtract(picture, other, dtype=np.float64))
    mean = float(square.mean() if known is None else square[..., known].mean())
    return float(-10.0 * np.log10(max(mean, 1e-20)))


def shares(coded: Coded) -> Array:
    """Each stencil's share of all activation, sum |z_k| / sum |z|: (K,)."""
    absolute = sum(np.abs(z).sum(axis=(1, 2), dtype=np.float64) for z in coded.activations)
    result: Array = np.asarray(absolute) / max(float(np.sum(absolute)), 1e-30)
    return result


def order_of_use(coded: Coded) -> Array:
    """The stencils' numbers, the most used first."""
    result: Array = np.argsort(-shares(coded), kind="stable")
    return result


def activation_map(coded: Coded, picture: int, stencil: int) -> Array:
    """The activations of one stencil (H, W), each at the picture's pixel under the middle of the stencil; 0 elsewhere."""
    model = coded.options.model()
    z = coded.activations[picture][stencil]
    height, width = coded.painted[picture].shape[-2:]
    first = [(k - 1) // 2 - (k - 1 if model.border == "full" else 0) for k in model.kernel]
    result = np.zeros((height, width), np.float32)
    rows, columns = np.nonzero(z)
    down, across = rows * model.strides[0] + first[0], columns * model.strides[1] + first[1]
    inside = (down >= 0) & (down < height) & (across >= 0) & (across < width)
    result[down[inside], across[inside]] = z[rows[inside], columns[inside]]
    return result


def strokes(coded: Coded, picture: int) -> Strokes:
    """The strokes of one picture: their sum is what the activations paint."""
    model, z = coded.options.model(), coded.activations[picture]
    stencil, row, column = np.nonzero(z)
    value = z[stencil, row, column]
    order = np.argsort(-np.abs(value), kind="stable")
    before = [k - 1 if model.border == "full" else 0 for k in model.kernel]
    stencil, row, column, value = (
        stencil[order],
        row[order] * model.strides[0] - before[0],
        column[order] * model.strides[1] - before[1],
        value[order],
    )
    return Strokes(stencil, row, column, value, np.zeros(len(order), np.int64), model.border == "circular")


def paint_by_numbers(
    coded: Coded, picture: int, name: str, original: Array, slow: Array, *, counts: list[int] | None = None, maps: int = 8
) -> Painting:
    """Paint one picture again, the most used stencils first, onto its slow part.

    Cost: one painting, in as many pieces as there are frames.
    """
    model, z = coded.options.model(), coded.activations[picture]
    order = order_of_use(coded)
    height, width = original.shape[-2:]
    counts = counts if counts is not None else _counts(len(order))
    frames = [Frame(0, slow, psnr(original, slow))]
    canvas, done = slow.astype(np.float32), 0
    for count in counts:
        chosen = order[done:count]
        canvas = canvas + model.paint(
            np.ascontiguousarray(z[chosen]), np.ascontiguousarray(coded.stencils[chosen]), height, width
        )
        done = count
        frames.append(Frame(count, canvas, psnr(original, canvas)))
    rebuilt = slow + coded.painted[picture]
    strongest = [(int(k), activation_map(coded, picture, int(k))) for k in order[:maps]]
    nonzeros = np.count_nonzero(z) / (height * width)
    return Painting(name, original, slow, rebuilt, psnr(original, rebuilt), nonzeros, frames, strongest, strokes(coded, picture))


def _counts(stencils: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... and all of them: about twelve frames."""
    steps = [n for p in range(20) for n in (2**p, 3 * 2 ** (p - 1)) if isinstance(n, int) and n < stencils]
    return sorted({*steps, stencils})
