"""The three contractions by Fourier transforms, chunk by chunk and row by row within a workspace.

Chunks (groups, then channels of the result) and passes (rows of tiles, images) only share out the work: each spectrum, product and sum is
the same whichever others are computed beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil, prod, sqrt
from typing import Any

import numpy as np

from preimage.engines.base import Array
from preimage.engines.fft.frames import ALL, Chunk, Index, Row, Side, empty_frames
from preimage.engines.fft.plan import KERNEL_COPIES, SLACK_BYTES, FftPlan
from preimage.engines.fft.products import Matmul, matrix, multiply, pairs, sum_of_products
from preimage.engines.fft.transform import complex_dtype, forward, inverse, spectrum_size
from preimage.engines.prepared import PreparedWeight
from preimage.reduction import TreeSum
from preimage.settings import current

__all__ = ["Contractions"]

#: Element by element, so much memory is worked on at a time, by the plan's generous count: it stays in the caches.
CACHE_BYTES = 5 << 20


class Contractions:
    """The contractions of one plan. real: the type of the transforms. matmul: in the contract's order."""

    def __init__(self, plan: FftPlan, real: np.dtype[Any], matmul: Matmul) -> None:
        self.plan, self.real, self.matmul = plan, real, matmul
        self.complex = complex_dtype(real)
        self.planes = plan.elementwise
        self.scale = sqrt(prod(plan.periods))
        self.rows: list[Row] = list(product(plan.tiles, plan.residues))
        self.large, self.small = Side(plan, True, self.planes, real), Side(plan, False, self.planes, real)

    # -- what is worked off at a time ------------------------------------------------------------------------------

    def _chunks(self, prepared: bool) -> Iterator[Chunk]:
        """Groups and, where the spectra of the weights would be too many, channels of the result."""
        g, parts = self.plan.geometry, 1 if prepared else self.plan.chunks
        inner, outer = g.in_channels_per_group, g.out_channels_per_group
        if self.planes:
            parts = max(parts, min(g.groups, self.plan.row_bytes // CACHE_BYTES))
        size = max(1, g.groups // parts)
        split = -(-parts // -(-g.groups // size)) if size == 1 else 1
        transposed = self.plan.contraction == "conv_transpose"
        written = inner if transposed else outer
        each = -(-written // min(split, written))
        for g0, c0 in product(range(0, g.groups, size), range(0, written, each)):
            c1, g1 = min(c0 + each, written), min(g0 + size, g.groups)
            yield Chunk(g0, g1, c0, c1, 0, outer) if transposed else Chunk(g0, g1, 0, inner, c0, c1)

    def _at_once(self, chunk: Chunk) -> int:
        """How many rows are transformed at a time, of one image or of several."""
        budget = current().workspace_bytes - self._kernel_bytes(chunk)
        return max(1, (min(budget, CACHE_BYTES) if self.planes else budget) // self._row_bytes(chunk))

    def _kernel_bytes(self, chunk: Chunk) -> int:
        """Of the weights' spectra, while those of a chunk are made."""
        g, transposed = self.plan.geometry, self.plan.contraction == "conv_transpose"
        written, whole = (chunk.i1 - chunk.i0, g.in_channels) if transposed else (chunk.o1 - chunk.o0, g.out_channels)
        return ceil(KERNEL_COPIES * self.plan.kernel_bytes * chunk.groups * written / whole)

    def _row_bytes(self, chunk: Chunk) -> int:
        return max(1, self.plan.row_bytes * chunk.groups // self.plan.geometry.groups)

    def _passes(self, batch: int, chunk: Chunk) -> Iterator[tuple[slice, Sequence[Row]]]:
        """Images and rows that are transformed at a time."""
        most, rows = self._at_once(chunk), self.rows
        if most >= len(rows):
            images = most // len(rows)
            for n in range(0, batch, images):
                yield slice(n, min(n + images, batch)), rows
            return
        for n in range(batch):
            for k in range(0, len(rows), most):
                yield slice(n, n + 1), rows[k : k + most]

    def workspace_bytes(self, batch: int) -> int:
        """Scratch memory of a call on so many images, at most, under the settings of now."""
        plan, chunks = self.plan, list(self._chunks(prepared=False))
        kernels = self._kernel_bytes(chunks[0])
        if plan.contraction == "conv_weight_grad":
            rows = min(len(self.rows), plan.grad_rows)
            nodes = (batch.bit_length() + 3) * prod(plan.geometry.weight_shape) * self.real.itemsize
        else:
            rows, nodes = min(self._at_once(chunks[0]), len(self.rows) * batch), 0
        return rows * self._row_bytes(chunks[0]) + kernels + nodes + SLACK_BYTES

    # -- weights ---------------------------------------------------------------------------------------------------

    def _kernel(self, w: Array, chunk: Chunk) -> Array:
        """Spectra of weights: planes (G, O, J, *F), or matrices (F, G, 2K, N), K: what is summed, N: channels of the result."""
        plan, g = self.plan, self.plan.geometry
        source = w.reshape(g.groups, g.out_channels_per_group, g.in_channels_per_group, *g.kernel_size)
        source = source[chunk.g0 : chunk.g1, chunk.o0 : chunk.o1, chunk.i0 : chunk.i1]
        lead = (*source.shape[:2], len(plan.phases), source.shape[2])
        space = (*(a.taps for a in plan.axes[:-1]), plan.periods[-1])
        memory, axes = empty_frames(lead, space, self.real, self.planes)
        frames = np.moveaxis(memory, axes, range(-len(axes), 0))
        for p, phase in enumerate(plan.phases):
            there, here = self._taps(phase)
            frames[(ALL, ALL, p, ALL, *here)] = source[(..., *there)]
        merged = (*lead[:2], lead[2] * lead[3])
        if self.planes:
            spectrum = forward(memory.reshape(*merged, *space), tuple(range(3, 3 + len(space))), plan.periods)
            spectrum *= self.real.type(self.scale)
            return spectrum
        spectrum = forward(memory.reshape(*space, *merged), axes, plan.periods).reshape(plan.frequencies, *merged)
        if plan.contraction == "conv":
            spectrum = spectrum.transpose(0, 1, 3, 2)  # (F, G, J, O)
        return pairs(spectrum, self.scale, 2)

    def _taps(self, phase: tuple[int, ...]) -> tuple[Index, Index]:
        """Where the taps of a phase lie: in the kernel, and in a frame."""
        parts = [a.kernel_part(k) for a, k in zip(self.plan.axes, phase, strict=True)]
        return tuple(part[0] for part in parts), tuple(part[1] for part in parts)

    def _prepared(self, w: PreparedWeight) -> Array:
        """The spectra of prepared weights, made once."""
        plan = self.plan
        values, forms = w.state
        key = ("fft", plan.contraction == "conv_transpose", self.planes, plan.periods, plan.axes, self.real.name)
        found = forms.get(key)
        if found is None:
            parts = [(chunk, self._kernel(values, chunk)) for chunk in self._chunks(prepared=False)]
            found = forms[key] = (self._joined(parts), True)
        return found[0]

    def _joined(self, parts: list[tuple[Chunk, Array]]) -> Array:
        """The spectra of all weights as one array."""
        if len(parts) == 1:
            return parts[0][1]
        g, (chunk, first) = self.plan.geometry, parts[0]
        shape = list(first.shape)
        groups, written = (0, 1) if self.planes else (1, 3)
        shape[groups] = g.groups
        transposed = self.plan.contraction == "conv_transpose"
        shape[written] = g.in_channels_per_group * len(self.plan.phases) if transposed else g.out_channels_per_group
        whole = np.empty(shape, first.dtype)
        for chunk, part in parts:
            self._part_of(whole, chunk)[...] = part.reshape(self._part_of(whole, chunk).shape)
        return whole

    def _part_of(self, whole: Array, chunk: Chunk) -> Array:
        """The spectra of a chunk's weights: a view."""
        phases, inner = len(self.plan.phases), self.plan.geometry.in_channels_per_group
        transposed = self.plan.contraction == "conv_transpose"
        if self.planes:
            own = whole[chunk.g0 : chunk.g1]
            if transposed:
                own = own.reshape(*own.shape[:2], phases, inner, *own.shape[3:])
                return own[:, :, :, chunk.i0 : chunk.i1]
            return own[:, chunk.o0 : chunk.o1]
        own = whole[:, chunk.g0 : chunk.g1]
        if transposed:
            return own.reshape(*own.shape[:3], phases, inner)[..., chunk.i0 : chunk.i1]
        return own[..., chunk.o0 : chunk.o1]

    def _weights(self, w: Array | PreparedWeight, chunk: Chunk) -> Array:
        if not isinstance(w, PreparedWeight):
            return self._kernel(w, chunk)
        part = self._part_of(self._prepared(w), chunk)
        if self.plan.contraction != "conv_transpose":
            return part
        return part.reshape(*part.shape[:2], -1, *part.shape[4:]) if self.planes else part.reshape(*part.shape[:3], -1)

    # -- the contractions ------------------------------------------------------------------------------------------

    def conv(self, x: Array, w: Array | PreparedWeight, out: Array) -> None:
        self._through(x, w, out, self.large, self.small, conjugate=True)

    def conv_transpose(self, y: Array, w: Array | PreparedWeight, out: Array) -> None:
        """`out` holds zeros: positions that no tap reaches are not written."""
        self._through(y, w, out, self.small, self.large, conjugate=False)

    def _through(
        self, a: Array, w: Array | PreparedWeight, out: Array, read: Side, written: Side, *, conjugate: bool
    ) -> None:  # fmt: skip
        prepared = isinstance(w, PreparedWeight)
        frequencies = spectrum_size(self.plan.periods)
        for chunk in self._chunks(prepared):
            weights = self._weights(w, chunk)
            for images, rows in self._passes(a.shape[0], chunk):
                spectra = read.spectra(a[images], rows, chunk)
                if self.planes:
                    result = self._planes(spectra, weights, conjugate)
                else:
                    flat = spectra.reshape(self.plan.frequencies, *spectra.shape[-3:])
                    factor = matrix(flat, conjugate=conjugate)
                    del spectra, flat
                    result = sum_of_products(factor, weights, self.matmul, self.complex)
                    del factor
                    result = result.reshape(*frequencies, *result.shape[1:])
                written.write(result, out[images], rows, chunk)

    def _planes(self, spectra: Array, weights: Array, conjugate: bool) -> Array:
        """(R, G, N, *F) of spectra (R, G, 1, *F) and weights (G, O, J, *F), one of O and J being 1."""
        n = weights.shape[1] * weights.shape[2]
        space = spectra.shape[3:]
        out = np.empty((*spectra.shape[:2], n, prod(space)), self.complex)
        multiply(
            spectra.reshape(*spectra.shape[:3], -1), weights.reshape(1, weights.shape[0], n, -1), out, conjugate=conjugate
        )  # fmt: skip
        return out.reshape(*out.shape[:3], *space)

    def conv_weight_grad(self, x: Array, y: Array, out: Array) -> None:
        """Images one by one, each back in space before they are added as their tree: parts of a batch give the bits of the whole."""
        for chunk in self._chunks(prepared=False):
            images = TreeSum()
            for n in range(x.shape[0]):
                images.add(self._image_grad(x[n : n + 1], y[n : n + 1], chunk), n)
            g = self.plan.geometry
            target = out.reshape(g.groups, g.out_channels_per_group, g.in_channels_per_group, *g.kernel_size)
            target[chunk.g0 : chunk.g1, chunk.o0 : chunk.o1] = images.total()

    def _image_grad(self, x: Array, y: Array, chunk: Chunk) -> Array:
        plan, g = self.plan, self.plan.geometry
        spectrum: Array | None = None
        for k in range(0, len(self.rows), plan.grad_rows):
            rows = self.rows[k : k + plan.grad_rows]
            a, b = self.large.spectra(x, rows, chunk), self.small.spectra(y, rows, chunk)
            part = self._grad_planes(a, b) if self.planes else self._grad_matrix(a, b)
            spectrum = part if spectrum is None else np.add(spectrum, part, out=spectrum)
        assert spectrum is not None
        spectrum *= self.real.type(self.scale)
        n = len(plan.axes)
        keep = tuple(slice(0, a.taps) for a in plan.axes)
        shape = spectrum_size(plan.periods)
        groups, outer, inner = chunk.groups, chunk.o1 - chunk.o0, g.in_channels_per_group
        if self.planes:
            spectrum = spectrum.reshape(*spectrum.shape[:3], *shape)
            real = inverse(spectrum, tuple(range(3, 3 + n)), plan.periods, keep)  # (G, O, J, *taps)
            real = real.reshape(groups, outer, len(plan.phases), inner, *real.shape[3:])
        else:
            spectrum = spectrum.reshape(*shape, *spectrum.shape[1:])
            real = inverse(spectrum, tuple(range(n)), plan.periods, keep)  # (*taps, J, G, O)
            real = np.moveaxis(real, range(n), range(-n, 0)).transpose(1, 2, 0, *range(3, 3 + n))
            real = real.reshape(groups, outer, len(plan.phases), inner, *real.shape[3:])
        found = np.zeros((groups, outer, inner, *g.kernel_size), self.real)
        for p, phase in enumerate(plan.phases):
            there, here = self._taps(phase)
            found[(..., *there)] = real[(ALL, ALL, p, ALL, *here)]
        return found

    def _grad_planes(self, x: Array, y: Array) -> Array:
        """(G, O, J, F): rows one after another."""
        x, y = (a.reshape(*a.shape[:3], -1) for a in (x, y))
        out = np.empty((x.shape[1], y.shape[2], x.shape[2], x.shape[3]), self.complex)
        for r in range(x.shape[0]):
            multiply(x[r][:, None], y[r][:, :, None], out, conjugate=True, add=r > 0)
        return out

    def _grad_matrix(self, x: Array, y: Array) -> Array:
        """(F, J, G, O), the rows summed on the inner axis of a matrix product."""
        f = self.plan.frequencies
        a = x.reshape(f, *x.shape[-3:]).transpose(0, 3, 2, 1)  # (F, J, G, R)
        b = pairs(y.reshape(f, *y.shape[-3:]).transpose(0, 2, 1, 3), 1.0, 2)  # (F, G, 2R, O)
        return sum_of_products(matrix(a, conjugate=True), b, self.matmul, self.complex)
