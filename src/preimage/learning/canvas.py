"""One picture with its activations, and the proximal step on them.

The step from the point v = z + push (z - before), with minus the gradient g, a length 1/L_k for every stencil k and the
sparsity t:

    u = v + g / L_k;    z = u - clip(u, -t / L_k, t / L_k)          (soft threshold: the proximal map of t |z|_1)

Hardly one activation in a hundred is not zero, and where v is zero the step leaves it so unless |g| > t, whatever L_k is. So
one pass over g finds the few places that matter, and all else works on those: the arrays are whole (the contractions want
them so), and beside each lies the list of its places that are not zero. The stencils are shared out over threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.learning.model import Model
from preimage.ops.sums import dot

__all__ = ["Canvas", "Sums", "Workers"]

Array = NDArray[Any]
#: From this share of the places on, a plane is worked off whole: picking places costs more than the arithmetic saved.
MANY = 0.02


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
        self._now, self._before, self._next, self._point = (_Sparse(shape) for _ in range(4))
        self._places: list[Array | slice] = []
        self.painted = np.zeros_like(self.detail)
        self.painted_before = self.painted
        self.painted_next = self.painted

    @property
    def z(self) -> Array:
        """The activations (K, h, w)."""
        return self._now.values

    @property
    def next(self) -> Array:
        """The activations that were proposed last."""
        return self._next.values

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

    def start(self, z: Array, before: Array) -> None:
        """Set the activations and those of the step before."""
        self._now.fill(z)
        self._before.fill(before)

    def point(self, push: float) -> Array:
        """z + push (z - before), as an array."""
        if not push:
            return self.z

        def one(k: int) -> None:
            places = [self._before.places[k], self._now.places[k]]
            if sum(map(len, places)) > MANY * self._now.flat.shape[1]:
                self._point.put_all(k, self._pushed(k, slice(None), push))
            else:
                self._point.put(k, places, [self._pushed(k, p, push) for p in places])

        self.workers.each(one, range(len(self.z)))
        return self._point.values

    def _pushed(self, k: int, places: Array | slice, push: float) -> Array:
        z = self._now.flat[k][places]
        pushed: Array = z + np.float32(push) * (z - self._before.flat[k][places]) if push else z
        return pushed

    def painted_point(self, push: float) -> Array:
        """What `point` paints, while the stencils stay the same: painting is linear."""
        return self.painted + push * (self.painted - self.painted_before) if push else self.painted

    def look(self, gradient: Array, push: float, sparsity: float) -> None:
        """Find the places that the next steps can leave other than zero: where |gradient| > sparsity, or z or before are not 0."""
        flat = gradient.reshape(len(gradient), -1)
        limit = np.float32(sparsity)

        def one(k: int) -> Array | slice:
            matters = np.abs(flat[k]) > limit
            matters[self._now.places[k]] = True
            if push:
                matters[self._before.places[k]] = True
            return slice(None) if np.count_nonzero(matters) > MANY * len(matters) else np.flatnonzero(matters)

        self._places = self.workers.each(one, range(len(flat)))

    def propose(self, gradient: Array, push: float, curvature: Array, sparsity: float) -> Sums:
        """Take the proximal step at the places that `look` found, into `next`."""
        flat = gradient.reshape(len(gradient), -1)

        def one(k: int) -> list[float]:
            places = self._places[k]
            threshold = np.float32(sparsity / curvature[k])
            v = self._pushed(k, places, push)
            new = v + flat[k][places] * np.float32(1.0 / curvature[k])
            new -= np.clip(new, -threshold, threshold)
            if isinstance(places, slice):
                nonzeros = self._next.put_all(k, new)
            else:
                kept = new != 0
                nonzeros = int(np.count_nonzero(kept))
                self._next.put(k, [places[kept]], [new[kept]])
            back = v - new
            turned = dot(back, new - self._now.flat[k][places]) if push else 0.0
            return [dot(back, back), turned, float(np.abs(new).sum()), dot(new, new), nonzeros]

        return Sums.of(self.workers.each(one, range(len(flat))))

    def accept(self) -> None:
        """The proposed activations are the activations now."""
        self._before, self._now, self._next = self._now, self._next, self._before
        self.painted_before, self.painted = self.painted, self.painted_next

    def forget(self, k: int) -> None:
        """Take the activations of stencil k away (they must be zero already, so nothing that is painted changes)."""
        self._now.put(k, [], [])
        self._before.put(k, [], [])


class _Sparse:
    """A whole array (K, h, w) that is zero but at the listed places of every plane."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.values = np.zeros(shape, np.float32)
        self.flat = self.values.reshape(shape[0], -1)
        self.places: list[Array] = [np.zeros(0, np.intp)] * shape[0]

    def put(self, k: int, places: list[Array], values: list[Array]) -> None:
        """Plane k becomes these values at these places; where two lists share a place, the later one holds."""
        plane = self.flat[k]
        plane[self.places[k]] = 0
        for where, what in zip(places, values, strict=True):
            plane[where] = what
        self.places[k] = places[0] if len(places) == 1 else np.concatenate([np.zeros(0, np.intp), *places])

    def put_all(self, k: int, values: Array) -> int:
        """Plane k becomes these values, one for every place; how many of them are not zero."""
        self.flat[k] = values
        self.places[k] = np.flatnonzero(values)
        return len(self.places[k])

    def fill(self, values: Array) -> None:
        """Take over a whole array."""
        for k, plane in enumerate(values.reshape(len(values), -1)):
            places = np.flatnonzero(plane)
            self.put(k, [places], [plane[places]])
