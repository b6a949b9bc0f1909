"""One picture with its activations, and the proximal step on them, worked off in pieces that stay in the cache.

The step from the point v, with the gradient -g, a length 1/L_k for every stencil k and the threshold t:

    u = v + g / L_k;    z = u - clip(u, -t / L_k, t / L_k)          (soft threshold: the proximal map of t |z|_1)

Dozens of megabytes pass through NumPy here every step, so all that is needed of z (its sums and the test for a restart) is
taken while a piece is in the cache, and pieces are shared out over threads: NumPy lets go of the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.learning.model import Model

__all__ = ["Canvas", "Sums", "Workers"]

Array = NDArray[Any]
#: Elements of one piece: seven such arrays of float32 fill most of a second-level cache of 1 MiB.
PIECE = 1 << 15


class Workers:
    """A few threads for NumPy work on large arrays; with one thread, none at all."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "preimage-learning") if threads > 1 else None

    def each(self, function: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
        """[function(i) for i in items], in this order."""
        return list(self._pool.map(function, items)) if self._pool else [function(i) for i in items]

    def close(self) -> None:
        """Let the threads go."""
        if self._pool:
            self._pool.shutdown()


@dataclass(slots=True)
class Sums:
    """What one step leaves behind, per stencil: |d|^2 for d = z - v, <v - z, z - z_before>, |z|_1, |z|^2, non-zeros."""

    moved: Array
    turned: Array
    absolute: Array
    energy: Array
    nonzeros: Array

    @classmethod
    def of(cls, rows: list[list[float]]) -> Sums:
        table = np.array(rows, np.float64).reshape(len(rows), 5)
        return cls(*table.T)

    def __add__(self, other: Sums) -> Sums:
        names = self.__slots__
        return Sums(*(getattr(self, n) + getattr(other, n) for n in names))


class Canvas:
    """The detail of one picture (C, H, W), which of its pixels are known, its activations z and those of the step before."""

    def __init__(self, detail: Array, model: Model, count: int, workers: Workers, known: Array | None = None) -> None:
        self.detail = np.ascontiguousarray(detail, np.float32)
        self.known = None if known is None else np.ascontiguousarray(known, np.float32)
        self.model, self.workers = model, workers
        self.height, self.width = self.detail.shape[-2:]
        shape = (count, *model.activation_size(self.height, self.width))
        self.z, self.before, self.next = (np.zeros(shape, np.float32) for _ in range(3))
        self.painted = np.zeros_like(self.detail)
        self.painted_before = self.painted
        self.painted_next = self.painted
        self._point: Array | None = None

    @property
    def pixels(self) -> int:
        """How many numbers of the picture are known (all channels)."""
        if self.known is None:
            return int(self.detail.size)
        return int(self.known.sum()) * int(self.detail.shape[0])

    def paint(self, z: Array, stencils: Array) -> Array:
        """The picture that activations give."""
        return self.model.paint(z, stencils, self.height, self.width)

    def masked(self, picture: Array) -> Array:
        """The picture where it is known, zero elsewhere."""
        return picture if self.known is None else picture * self.known

    def residual(self, painted: Array) -> Array:
        """What is still missing where the picture is known."""
        return self.masked(self.detail - painted)

    def point(self, push: float) -> Array:
        """z + push (z - before), as an array."""
        if not push:
            return self.z
        if self._point is None:
            self._point = np.empty_like(self.z)
        point, z, before = (a.reshape(len(a), -1) for a in (self._point, self.z, self.before))

        def one(k: int) -> None:
            for a in range(0, z.shape[1], PIECE):
                piece = slice(a, a + PIECE)
                out = point[k, piece]
                np.subtract(z[k, piece], before[k, piece], out=out)
                out *= push
                out += z[k, piece]

        self.workers.each(one, range(len(z)))
        return self._point

    def painted_point(self, push: float) -> Array:
        """What `point` paints, while the stencils stay the same: painting is linear."""
        return self.painted + push * (self.painted - self.painted_before) if push else self.painted

    def propose(self, gradient: Array, push: float, curvature: Array, sparsity: float) -> Sums:
        """Take the proximal step into `next`."""
        flat = [a.reshape(len(a), -1) for a in (self.z, self.before, self.next, gradient)]
        size = flat[0].shape[1]

        def one(k: int) -> list[float]:
            z_all, before_all, next_all, gradient_all = (a[k] for a in flat)
            length = np.float32(1.0 / curvature[k])
            threshold = np.float32(sparsity / curvature[k])
            point, scratch = np.empty((2, min(PIECE, size)), np.float32)
            moved = turned = absolute = energy = nonzeros = 0.0
            for a in range(0, size, PIECE):
                z, before, new, g = (w[a : a + PIECE] for w in (z_all, before_all, next_all, gradient_all))
                v, s = point[: len(z)], scratch[: len(z)]
                if push:
                    np.subtract(z, before, out=v)
                    v *= push
                    v += z
                else:
                    v[...] = z
                np.multiply(g, length, out=s)
                s += v
                np.clip(s, -threshold, threshold, out=new)
                np.subtract(s, new, out=new)
                nonzeros += np.count_nonzero(new)
                np.abs(new, out=s)
                absolute += float(s.sum())
                energy += float(np.dot(new, new))
                v -= new
                moved += float(np.dot(v, v))
                if push:
                    np.subtract(new, z, out=s)
                    turned += float(np.dot(v, s))
            return [moved, turned, absolute, energy, nonzeros]

        return Sums.of(self.workers.each(one, range(len(self.z))))

    def accept(self) -> None:
        """The proposed activations are the activations now."""
        self.before, self.z, self.next = self.z, self.next, self.before
        self.painted_before, self.painted = self.painted, self.painted_next

    def forget(self, k: int) -> None:
        """Take the activations of stencil k away (they must be zero already, so nothing that is painted changes)."""
        self.z[k] = 0
        self.before[k] = 0
