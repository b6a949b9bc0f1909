"""A layer as matrices: im2col and the matrix product, and the layer as one sparse matrix whose transpose is the transposed layer.

    y = W X        X = im2col(x): a column for each output position, a row for each weight of a stencil
    x = col2im(W^T Y)      the transposed layer: the product first, then every cell added up where it lands

Columns of one image and one group at a time, rows in the weight's own order (channel, then taps row-major), positions row-major.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.tracing import LayerTrace
from preimage.errors import OptionError

__all__ = ["Gemm", "SparseMatrix", "gemm", "layer_matrix"]

Array = NDArray[Any]
#: The most entries that are written out one by one.
MOST = 4_000_000


@dataclass(frozen=True)
class Gemm:
    """left @ right = result for one image and group. place: where each cell of the columns lies.

    A convolution: left the weights (filters, channels * taps), right the columns (channels * taps, positions), result y.
    A deconvolution: left the weights transposed, right y (filters, positions), result the columns, which are then added up.
    place: for each cell of the columns the flat index (channel of the group, *spatial) on the large side; -1 in the padding.
    """

    left: Array
    right: Array
    result: Array
    place: Array
    transposed: bool

    def folded(self, size: int) -> Array:
        """The columns added up where they lie: col2im, as a flat array of `size` cells (channels of the group, *spatial)."""
        cells = self.result if self.transposed else self.right
        out = np.zeros(size, cells.dtype)
        inside = self.place >= 0
        np.add.at(out, self.place[inside], cells[inside])
        return out


@dataclass(frozen=True)
class SparseMatrix:
    """Entries (rows, columns, values) of the layer as one matrix on one image: y = A x on flat (channels, *spatial) arrays.

    weights: the flat index into w of every entry. Entries may share a place (padding modes that copy); they add up.
    """

    shape: tuple[int, int]
    rows: Array
    columns: Array
    values: Array
    weights: Array

    @property
    def T(self) -> SparseMatrix:  # noqa: N802 - NumPy's word
        """The matrix of the transposed layer."""
        return SparseMatrix(self.shape[::-1], self.columns, self.rows, self.values, self.weights)

    def dense(self) -> Array:
        """As a full array; for small layers."""
        if prod(self.shape) > MOST:
            raise OptionError(f"the matrix has {self.shape[0]} x {self.shape[1]} cells; written out are at most {MOST}")
        out = np.zeros(self.shape, self.values.dtype)
        np.add.at(out, (self.rows, self.columns), self.values)
        return out


def _refuse_large(count: int, what: str) -> None:
    if count > MOST:
        raise OptionError(
            f"{what} would have {count} entries, at most {MOST} are written out; take a smaller input or fewer channels"
        )


def _places(t: LayerTrace) -> tuple[Array, Array]:
    """Flat positions on the large side (of one channel) for each tap and each small position; -1 in the padding. And the taps."""
    g = t.geometry
    parts = []
    _refuse_large(prod(g.kernel_size) * prod(g.output_size), "the columns")
    for at in product(*map(range, g.output_size)):
        places = t.sides.small((0, 0, *at))
        first = slice(0, None, max(1, g.in_channels_per_group))  # one channel of every tap
        where = places.first[first, 2:]
        flat = (
            np.ravel_multi_index(tuple(np.where(places.outside[first], 0, w) for w in where.T), g.input_size)
            if g.ndim
            else (np.zeros(len(where), np.int64))
        )
        parts.append(np.where(places.outside[first], -1, flat))
    taps = prod(g.kernel_size)
    return (np.stack(parts, axis=1) if parts else np.zeros((taps, 0), np.int64)), np.arange(taps)


def gemm(t: LayerTrace, image: int = 0, group: int = 0) -> Gemm:
    """The layer as im2col and a matrix product (a deconvolution: the product and col2im), on the traced values.

    Raises: OptionError for an image or group that is not there, or columns too large to write out.
    """
    g = t.geometry
    for name, value, most in (("image", image, g.batch), ("group", group, g.groups)):
        if not 0 <= value < most:
            raise OptionError(f"{name} is {value}; the layer has {most}")
    inputs, filters, cells = g.in_channels_per_group, g.out_channels_per_group, prod(g.input_size)
    one, _ = _places(t)
    place = np.concatenate([np.where(one >= 0, one + c * cells, -1) for c in range(inputs)]) if inputs else one[:0]
    weight = t.w[group * filters : (group + 1) * filters].reshape(filters, inputs * prod(g.kernel_size))
    if t.transposed:
        right = t.x[image, group * filters : (group + 1) * filters].reshape(filters, prod(g.output_size))
        with np.errstate(all="ignore"):
            return Gemm(weight.T, right, weight.T @ right, place, True)
    x = t.x[image, group * inputs : (group + 1) * inputs].reshape(-1)
    columns = np.where(place >= 0, x[np.maximum(place, 0)], x.dtype.type(0)) if x.size else np.zeros(place.shape, x.dtype)
    with np.errstate(all="ignore"):
        return Gemm(weight, columns, weight @ columns, place, False)


def layer_matrix(t: LayerTrace) -> SparseMatrix:
    """The layer as one sparse matrix on one image, the bias aside; `.T` is that of its transpose (of the input gradient).

    Raises: OptionError where it would have too many entries.
    """
    g = t.geometry
    inputs, filters, taps = g.in_channels_per_group, g.out_channels_per_group, prod(g.kernel_size)
    small, large = prod(g.output_size), prod(g.input_size)
    _refuse_large(g.out_channels * inputs * taps * small, "the matrix")
    place, tap = _places(t)
    k, p = np.nonzero(place >= 0)
    rows, columns, weights = [], [], []
    for o in range(g.out_channels):
        for i in range(inputs):
            rows.append(o * small + p)
            columns.append((o // filters * inputs + i) * large + place[k, p])
            weights.append((o * inputs + i) * taps + tap[k])
    joined = [np.concatenate(v) if v else np.zeros(0, np.int64) for v in (rows, columns, weights)]
    made = SparseMatrix(
        (g.out_channels * small, g.in_channels * large), joined[0], joined[1], t.w.reshape(-1)[joined[2]], joined[2]
    )
    return made.T if t.transposed else made
