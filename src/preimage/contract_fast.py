"""The order of operations where accuracy="fast" allows Winograd's algorithms, as plain NumPy (docs/contract.md says it in words).

    preimage.contract_fast.conv(x, w, padding=1)        # the bits that `preimage.conv(x, w, padding=1, accuracy="fast")` must give

As `preimage.contract`: to be read and to be right, for small arrays, every fused multiply-add rounded once. Which convolutions are computed
so, and with which tiles, is part of it (`tiles`): a function of the sizes, but of the batch. It shares no code with the engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

import numpy as np

from preimage import contract
from preimage.contract import Array
from preimage.geometry import ConvGeometry

__all__ = ["conv", "conv_transpose", "conv_weight_grad", "matrices", "tiles"]

#: The finite points of the algorithms, by how many points they have with infinity.
FINITE = {4: ("0", "1", "-1"), 6: ("0", "5/8", "-5/8", "3/2", "-3/2")}
Matrix = list[list[Fraction]]
Tile = tuple[tuple[int, int], ...]  # outputs and taps along each axis


def tiles(g: ConvGeometry, contraction: str, dtype: Any) -> Tile | None:
    """The tile of a contraction; None where the contract's own order is taken.

    A tile of a points along every axis with r > 1 taps has a + 1 - r outputs there; a is 4 or 6, whichever is less work. An image's
    work, in multiply-adds: for every point of every tile one for each pair of channels and 10 for each channel of input and
    result, and 10 for every transformed weight (8 for every sum at a point of a weight gradient).
    Without transforms: what lies inside, and 10 for every weight (2 of a weight gradient). Less by a fifth must it be.
    """
    taps, (inner, outer) = g.kernel_size, (g.in_channels_per_group, g.out_channels_per_group)
    if np.dtype(dtype) not in (np.float32, np.float64) or not 1 <= len(taps) <= 3 or not 2 <= max(taps) <= 5:
        return None
    if {1} != {*g.stride, *g.dilation} or min(inner, outer) < 16 or inner % 8 or outer % 8:
        return None
    macs = g.inside_macs // g.batch if g.batch else 0
    if macs // g.groups < 1 << 18:
        return None
    gradient, space = contraction == "conv_weight_grad", g.input_size if contraction == "conv_transpose" else g.output_size
    summed = outer if contraction == "conv_transpose" else inner
    each = 8 if gradient else 10
    found = []
    for a in (4, 6):
        if max(taps) > 3 if a == 4 else 2 in taps or sum(r > 1 for r in taps) > 2:
            continue
        tile = tuple((1, 1) if r == 1 else (a + 1 - r, r) for r in taps)
        points = prod(m + r - 1 for m, r in tile)
        count = prod(-(-n // m) for n, (m, _) in zip(space, tile, strict=True))
        if a == 4 or (count if gradient else summed) >= 48:
            work = g.groups * points * (count * (inner * outer + 10 * (inner + outer)) + each * inner * outer)
            found.append((work, tile))
    if not found:
        return None
    work, tile = min(found)
    return None if 1.25 * work > macs + (2 if gradient else 10) * g.groups * inner * outer * prod(taps) else tile


def matrices(m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T, G and B^T of F(m, r): with E the evaluation of a polynomial of a coefficients at the a points, A^T and G are columns of E, those of G
    divided by f(p) = prod(p - q), and B^T = diag(f) E^-T.
    """
    a = m + r - 1
    points = [Fraction(p) for p in FINITE[a]]
    factors = [prod((p - q for q in points if q != p), start=Fraction(1)) for p in points] + [Fraction(1)]
    evaluation = [[p**k for k in range(a)] for p in points] + [[Fraction(int(k == a - 1)) for k in range(a)]]
    inverse = _inverse(evaluation)
    by_point = [[p**k for p in points] for k in range(max(m, r))]
    out = [[*by_point[k], Fraction(int(k == m - 1))] for k in range(m)]
    weights = [[by_point[k][j] / factors[j] for k in range(r)] for j in range(a - 1)] + [
        [Fraction(int(k == r - 1)) for k in range(r)]
    ]
    inputs = [[factors[j] * inverse[k][j] for k in range(a)] for j in range(a)]
    return out, weights, inputs


def _inverse(matrix: Matrix) -> Matrix:
    """By elimination, in fractions."""
    n = len(matrix)
    rows = [[*row, *(Fraction(int(i == k)) for k in range(n))] for i, row in enumerate(matrix)]
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [v / rows[k][k] for v in rows[k]]
        for i in range(n):
            if i != k:
                rows[i] = [v - rows[i][k] * w for v, w in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


def fma(x: Array, y: Array, z: Array) -> Array:
    """x y + z, rounded once: as `contract.fma`, whose float64 takes Python's whole numbers, but for numbers of ordinary size in arrays.

    Source: Boldo and Melquiond, Emulation of FMA and correctly rounded sums (2008): the last sum but one is rounded to odd.
    """
    if z.dtype != np.float64:
        return contract.fma(x, y, z)
    for a in (x, y, z):
        size = np.abs(a[a != 0]) if a.ndim else np.abs(a)
        if not np.all((size > 1e-60) & (size < 1e60)):
            return contract.fma(x, y, z)
    high, low = _two_product(x, y)
    t, t_low = _two_sum(z, low)
    v, v_low = _two_sum(high, t)
    total, rest = _two_sum(t_low, v_low)
    bits = np.ascontiguousarray(total).view(np.int64)
    even = (rest != 0) & (bits & 1 == 0)
    odd = np.where(even, np.where((rest > 0) == (total > 0), bits + 1, bits - 1), bits).view(np.float64)
    result: Array = v + odd
    return result


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and what is missing."""
    total = a + b
    rest = total - a
    return total, (a - (total - rest)) + (b - rest)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a b rounded, and what is missing, by halves of 26 and 27 bits."""

    def halves(v: Array) -> tuple[Array, Array]:
        scaled = v * 134217729.0
        high = scaled - (scaled - v)
        return high, v - high

    (a1, a2), (b1, b2), total = halves(a), halves(b), a * b
    return total, ((a1 * b1 - total) + a1 * b2 + a2 * b1) + a2 * b2


def _chain(terms: list[tuple[Fraction, Array]]) -> Array:
    """c v of the first term, rounded; the others are added by fused multiply-adds. Of float32, what constants leave out comes first."""
    if terms[0][1].dtype == np.float32:
        left = [(c - Fraction(float(np.float32(float(c)))), v) for c, v in terms]
        terms = [*((c, v) for c, v in left if c), *terms]
    (c, v), *rest = terms
    total: Array = v * v.dtype.type(float(c))
    for c, v in rest:
        total = fma(v, np.asarray(float(c), v.dtype), total)
    return total


def _by_rows(matrix: Matrix, values: list[Array]) -> list[Array]:
    """matrix @ values for B^T and G: the points p and -p share the sums of their even and of their odd columns."""
    columns = list(enumerate(values))
    out = [_chain([(matrix[0][k], v) for k, v in columns if matrix[0][k]])]
    for j in range(1, len(matrix) - 1, 2):
        even, odd = (_chain([(matrix[j][k], v) for k, v in columns[parity::2] if matrix[j][k]]) for parity in (0, 1))
        out += [even + odd, even - odd]
    return [*out, _chain([(matrix[-1][k], v) for k, v in columns if matrix[-1][k]])]


def _by_columns(matrix: Matrix, values: list[Array]) -> list[Array]:
    """matrix @ values for A^T: sums (even rows) or differences (odd rows) of the values at p and -p are taken first."""
    out = []
    for number, row in enumerate(matrix):
        terms = [(row[0], values[0])]
        for j in range(1, len(values) - 1, 2):
            terms.append((row[j], values[j] - values[j + 1] if number % 2 else values[j] + values[j + 1]))
        out.append(_chain([(c, v) for c, v in [*terms, (row[-1], values[-1])] if c]))
    return out


def _along(axis: int, array: Array, apply: Any, matrix: Matrix) -> Array:
    """The matrix applied along an axis."""
    return np.stack(apply(matrix, list(np.moveaxis(array, axis, 0))), axis)


def _behind(slices: Iterable[slice]) -> tuple[Any, ...]:
    """An index: these slices of the last axes."""
    return (..., *slices)


def _cut(x: Array, lo: Sequence[int], counts: Sequence[int], step: Sequence[int], size: Sequence[int]) -> Array:
    """The tiles of an array, (N, tile, channels, *size): tile t begins at t step - lo, and what lies outside is zero."""
    every = list(zip(lo, counts, step, size, x.shape[2:], strict=True))
    wide = [(before, (count - 1) * m + n - before - extent) for before, count, m, n, extent in every]
    padded = np.pad(x, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in wide)])
    padded = padded[_behind(slice(max(-a, 0), None) for a, _ in wide)]
    places = product(*map(range, counts))
    return np.stack(
        [padded[_behind(slice(t * m, t * m + n) for t, m, n in zip(at, step, size, strict=True))] for at in places], 1
    )


@np.errstate(all="ignore")
def _transformed(x: Array, w: Array, lo: Sequence[int], space: Sequence[int], tile: Tile, groups: int) -> Array:
    """y[n, o, p] = sum over i, k of x[n, i, p - lo + k] w[o, i, k], by tiles: w is (O, I / groups, *kernel), the result (N, O, *space)."""
    per_group = w.shape[1]
    counts = [-(-n // m) for n, (m, _) in zip(space, tile, strict=True)]
    size = [m + r - 1 for m, r in tile]
    inputs = _cut(x, lo, counts, [m for m, _ in tile], size)  # (N, tile, I, *points)
    weights = w.astype(np.float64)
    long = [axis for axis, (_, r) in enumerate(tile) if r > 1]
    for axis in long:
        inputs = _along(3 + axis, inputs, _by_rows, matrices(*tile[axis])[2])
        weights = _along(2 + axis, weights, _by_rows, matrices(*tile[axis])[1])
    weights = weights.astype(x.dtype)
    inputs = inputs.reshape(*inputs.shape[:2], groups, 1, per_group, *size)
    weights = weights.reshape(1, 1, groups, -1, per_group, *size)
    zero = np.zeros((*inputs.shape[:3], weights.shape[3], *size), x.dtype)
    sums = contract.ordered_sum(
        lambda i, s: fma(inputs[:, :, :, :, i], weights[:, :, :, :, i], s), (per_group,), zero, _limit(per_group)
    )
    sums = sums.reshape(*inputs.shape[:2], -1, *size)
    for axis in long:
        sums = _along(3 + axis, sums, _by_columns, matrices(*tile[axis])[0])
    out = np.zeros((x.shape[0], w.shape[0], *(c * m for c, (m, _) in zip(counts, tile, strict=True))), x.dtype)
    for number, at in enumerate(product(*map(range, counts))):
        out[_behind(slice(t * m, t * m + m) for t, (m, _) in zip(at, tile, strict=True))] = sums[:, number]
    result: Array = out[_behind(slice(n) for n in space)] + x.dtype.type(0)
    return result


def _limit(terms: int) -> int:
    """The most terms of a block at one point: the largest power of two up to 2 sqrt(terms), within 16 to 128."""
    limit = 16
    while limit < 128 and (2 * limit) ** 2 <= 4 * terms:
        limit *= 2
    return limit


def _biased(out: Array, b: Array | None) -> Array:
    return out if b is None else out + b.reshape(-1, *(1,) * (out.ndim - 2))


def conv(
    x: Array, w: Array, b: Array | None = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Array:
    """`preimage.conv` where accuracy="fast"; the bias is added last."""
    g = ConvGeometry.from_conv(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    tile = tiles(g, "conv", x.dtype)
    if tile is None:
        return contract.conv(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _biased(_transformed(x, w, [lo for lo, _ in g.padding], g.output_size, tile, groups), b)


def conv_transpose(
    y: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    output_padding: Any = 0,
    groups: int = 1,
) -> Array:
    """`preimage.conv_transpose` where accuracy="fast": of a stride of 1 it is the convolution with the kernel read backwards."""
    g = ConvGeometry.from_conv_transpose(
        y.shape, w.shape, stride=stride, padding=padding, dilation=dilation, output_padding=output_padding, groups=groups
    )  # fmt: skip
    tile = tiles(g, "conv_transpose", y.dtype)
    if tile is None:
        return contract.conv_transpose(
            y, w, b, stride=stride, padding=padding, dilation=dilation, output_padding=output_padding, groups=groups
        )
    split = w.reshape(groups, g.out_channels_per_group, g.in_channels_per_group, *g.kernel_size).swapaxes(1, 2)
    flipped = np.flip(split, tuple(range(3, split.ndim))).reshape(-1, g.out_channels_per_group, *g.kernel_size)
    lo = [r - 1 - before for r, (before, _) in zip(g.kernel_size, g.padding, strict=True)]
    return _biased(_transformed(y, flipped, lo, g.input_size, tile, groups), b)


@np.errstate(all="ignore")
def conv_weight_grad(
    x: Array, y: Array, kernel_size: Sequence[int], *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Array:  # fmt: skip
    """`preimage.conv_weight_grad` where accuracy="fast": the convolution's algorithm transposed, G^T [(A y) * (B^T x)], image by image.

    The products of the tiles of an image, row-major, are summed in blocks, and those one after another; images by their tree.
    """
    shape = (y.shape[1], x.shape[1] // groups, *kernel_size)
    g = ConvGeometry.from_conv(x.shape, shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    tile = tiles(g, "conv_weight_grad", x.dtype)
    if tile is None:
        return contract.conv_weight_grad(x, y, kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups)
    outputs, long = [m for m, _ in tile], [axis for axis, (_, r) in enumerate(tile) if r > 1]
    counts = [-(-n // m) for n, m in zip(g.output_size, outputs, strict=True)]
    large = _cut(x, [lo for lo, _ in g.padding], counts, outputs, [m + r - 1 for m, r in tile])
    small = _cut(y, [0] * g.ndim, counts, outputs, outputs)
    for axis in long:
        out, _, inputs = matrices(*tile[axis])
        large, small = _along(3 + axis, large, _by_rows, inputs), _along(3 + axis, small, _by_rows, _turned(out))
    points = large.shape[3:]
    large = large.reshape(*large.shape[:2], groups, 1, -1, *points)
    small = small.reshape(*small.shape[:2], groups, -1, 1, *points)
    images = [_gradient(a, b, tile) + x.dtype.type(0) for a, b in zip(large, small, strict=True)]
    return contract.image_tree([gradient.reshape(g.weight_shape) for gradient in images])


def _gradient(large: Array, small: Array, tile: Tile) -> Array:
    """G^T of the sums of one image."""
    total = np.zeros(np.broadcast_shapes(large.shape[1:], small.shape[1:]), large.dtype)
    for first, end in contract.cut((len(large),), _limit(len(large)))[0]:
        block = np.zeros_like(total)
        for t in range(first, end):
            block = fma(large[t], small[t], block)
        total = total + block
    gradient = total
    for axis, (m, r) in enumerate(tile):
        if r > 1:
            gradient = _along(3 + axis, gradient, _by_columns, _turned(matrices(m, r)[1]))
    return gradient


def _turned(matrix: Matrix) -> Matrix:
    return [list(column) for column in zip(*matrix, strict=True)]
