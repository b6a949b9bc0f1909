"""The order in which every sum is taken, as plain NumPy that an engine can be checked against (docs/contract.md says it in words).

    preimage.contract.conv(x, w, stride=2, padding=1)        # the bits that every engine that promises "bits" must give

Written to be read and to be right, for small arrays; nothing in the package computes with it. Every multiplication and addition
of a chain is one fused multiply-add, rounded once, to nearest, ties to even. It shares no code with the engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import gcd, prod
from typing import Any

import numpy as np

from preimage.geometry import ConvGeometry

__all__ = [
    "BLOCK_LEAST",
    "BLOCK_MOST",
    "GROUP",
    "Axes",
    "block_limit",
    "conv",
    "conv_transpose",
    "conv_weight_grad",
    "cut",
    "fma",
    "fma_exact",
    "image_tree",
    "matmul",
    "ordered_sum",
    "sum_over",
]

#: Bounds of the number of terms in a block, and the most block sums (or group sums) in a group.
BLOCK_LEAST, BLOCK_MOST, GROUP = 32, 128, 9

Array = np.ndarray[Any, Any]
#: Sizes of the axes that a sum runs over, the innermost first.
Axes = tuple[int, ...]


def block_limit(terms: int) -> int:
    """The most terms of a block, of a sum of so many: the largest power of two up to 2 sqrt(terms), within 32 to 128."""
    limit = BLOCK_LEAST
    while limit < BLOCK_MOST and (2 * limit) ** 2 <= 4 * terms:
        limit *= 2
    return limit


def cut(axes: Axes, limit: int) -> tuple[list[tuple[int, int]], Axes]:
    """Cut the index space of `axes` into consecutive pieces of at most `limit` members; the pieces, and the axes that number them.

    The innermost axes that fit together stay whole; the next one is cut into as few pieces as can be, as equal as can be (the last
    may be shorter); every index of the axes further out begins a new piece.
    """
    whole = 1
    for place, size in enumerate(axes):
        if whole * size > limit:
            pieces = -(-size // max(1, limit // whole))
            row, step = whole * size, whole * -(-size // pieces)
            starts = [r + s for r in range(0, prod(axes), row) for s in range(0, row, step)]
            ends = [min(s + step, s - s % row + row) for s in starts]
            return list(zip(starts, ends, strict=True)), (-(-row // step), *axes[place + 1 :])
        whole *= size
    return [(0, whole)], ()


def ordered_sum(term: Callable[[int, Array], Array], axes: Axes, zero: Array, limit: int | None = None) -> Array:
    """The sum over the index space of `axes`, whose member number t is added to a running sum s by `term(t, s)`.

    Blocks are chains that begin at +0. Block sums are added in groups, one after another, each group beginning at +0; group sums
    likewise, until one number is left. limit: the most terms of a block (by default by their number).
    """
    blocks, outer = cut(axes, limit or block_limit(prod(axes)))
    sums = []
    for first, end in blocks:
        total = zero
        for t in range(first, end):
            total = term(t, total)
        sums.append(total)
    while True:
        groups, outer = cut(outer, GROUP)
        totals = []
        for first, end in groups:
            total = zero
            for value in sums[first:end]:
                total = total + value
            totals.append(total)
        if len(totals) == 1:
            return totals[0]
        sums = totals


def image_tree(sums: Sequence[Array]) -> Array:
    """Sums of images, added by the aligned binary tree: image i with i ^ 1, pairs with pairs; one without a partner goes up as it is."""
    level = list(sums)
    while len(level) > 1:
        level = [level[k] + level[k + 1] if k + 1 < len(level) else level[k] for k in range(0, len(level), 2)]
    return level[0]


def conv(
    x: Array, w: Array, b: Array | None = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Array:  # fmt: skip
    """`preimage.conv`, by the definition: terms by tap (row-major), then input channel of the group; the bias last."""
    g = ConvGeometry.from_conv(x.shape, w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    n, space = g.batch, g.output_size
    padded = _padded(x, g)
    padded = padded.reshape(n, groups, 1, g.in_channels_per_group, *padded.shape[2:])
    weight = w.reshape(1, groups, g.out_channels_per_group, g.in_channels_per_group, *g.kernel_size)
    taps = list(product(*map(range, g.kernel_size)))

    def term(t: int, total: Array) -> Array:
        tap, i = taps[t // g.in_channels_per_group], t % g.in_channels_per_group
        at = tuple(
            slice(k * d, k * d + (out - 1) * s + 1, s)
            for k, d, s, out in zip(tap, g.dilation, g.stride, space, strict=True)
        )  # fmt: skip
        return fma(
            padded[(slice(None),) * 3 + (i, *at)], weight[(slice(None),) * 3 + (i, *tap)][(...,) + (None,) * g.ndim], total
        )

    zero = np.zeros((n, groups, g.out_channels_per_group, *space), x.dtype)
    out = ordered_sum(term, (g.in_channels_per_group, *g.kernel_size[::-1]), zero)
    return _biased(out.reshape(n, g.out_channels, *space), b)


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
    """`preimage.conv_transpose`, by the definition: terms by tap, in row-major order, among those that reach the position, then channel of y.

    Along an axis the taps k with k * dilation = position + padding (modulo stride) reach a position; tap number j of them is the
    j-th in rising order. Every position counts as many of them as the one that has most, and as if y went on with zeros.
    """
    g = ConvGeometry.from_conv_transpose(
        y.shape, w.shape, stride=stride, padding=padding, dilation=dilation, output_padding=output_padding, groups=groups
    )  # fmt: skip
    n, channels, space = g.batch, g.out_channels_per_group, g.input_size
    reach = [_reach(g, axis) for axis in range(g.ndim)]
    y = np.pad(y, ((0, 0), (0, 0), *((0, 1),) * g.ndim)).reshape(n, groups, channels, 1, *(size + 1 for size in g.output_size))
    weight = np.pad(w.reshape(1, groups, channels, g.in_channels_per_group, *g.kernel_size), ((0, 0),) * 4 + ((0, 1),) * g.ndim)
    most = [len(sources) for sources, _ in reach]
    taps = list(product(*map(range, most)))

    def term(t: int, total: Array) -> Array:
        tap, o = taps[t // channels], t % channels
        sources = np.ix_(*(reach[axis][0][j] for axis, j in enumerate(tap)))
        numbers = np.ix_(*(reach[axis][1][j] for axis, j in enumerate(tap)))
        return fma(y[:, :, o][(slice(None),) * 3 + sources], weight[:, :, o][(slice(None),) * 3 + numbers], total)

    zero = np.zeros((n, groups, g.in_channels_per_group, *space), y.dtype)
    out = ordered_sum(term, (channels, *most[::-1]), zero)
    return _biased(out.reshape(n, g.in_channels, *space), b)


def conv_weight_grad(
    x: Array, y: Array, kernel_size: Sequence[int], *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Array:  # fmt: skip
    """`preimage.conv_weight_grad`, by the definition: of each image, terms by output position (row-major); images by their tree."""
    in_channels = x.shape[1] // groups
    g = ConvGeometry.from_conv(
        x.shape, (y.shape[1], in_channels, *kernel_size), stride=stride, padding=padding, dilation=dilation, groups=groups
    )  # fmt: skip
    padded = _padded(x, g)
    places = list(product(*map(range, g.output_size)))
    per_group = g.out_channels_per_group

    def one_image(image: int) -> Array:
        a = padded[image].reshape(groups, 1, in_channels, *padded.shape[2:])
        c = y[image].reshape(groups, per_group, 1, *y.shape[2:])

        def term(t: int, total: Array) -> Array:
            at = tuple(
                slice(p * s, p * s + (k - 1) * d + 1, d)
                for p, s, k, d in zip(places[t], g.stride, g.kernel_size, g.dilation, strict=True)
            )  # fmt: skip
            return fma(a[(slice(None),) * 3 + at], c[(slice(None),) * 3 + places[t]][(...,) + (None,) * g.ndim], total)

        return ordered_sum(term, g.output_size[::-1], np.zeros((groups, per_group, in_channels, *g.kernel_size), x.dtype))

    return image_tree([one_image(image) for image in range(g.batch)]).reshape(g.out_channels, in_channels, *g.kernel_size)


def matmul(a: Array, b: Array) -> Array:
    """`a @ b`, by the definition: one axis of terms, the inner one. Batch axes broadcast as NumPy's do."""
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    return ordered_sum(
        lambda t, total: fma(a[..., :, t, None], b[..., t, None, :], total), (a.shape[-1],), np.zeros(shape, a.dtype)
    )


def sum_over(x: Array, axis: Sequence[int], y: Array | None = None) -> Array:
    """Pure sums (means, norms, losses, bias gradients): the sum over the axes, which are dropped; with y, of the products x y.

    The first axis, where it is summed over, counts images; the terms of an image run in row-major order over the other axes, in blocks
    of 512. Term t of a block is added to partial sum t % 16, each from +0; partial sums j and j + 8 are added, then 4, 2 and 1 apart.
    Blocks of an image are added by the tree of images, and so are the images.
    """
    axes = sorted(axis)
    kept = tuple(n for k, n in enumerate(x.shape) if k not in axes)
    given = [np.moveaxis(a, axes, range(len(axes))) for a in (x, y) if a is not None]
    images = x.shape[0] if 0 in axes else 1
    terms = [a.reshape(images, prod(x.shape[k] for k in axes if k), *kept) for a in given]

    def block(image: int, first: int) -> Array:
        partials = np.zeros((16, *kept), x.dtype)
        for t in range(first, min(first + 512, terms[0].shape[1])):
            first_factor, total = terms[0][image, t], partials[t % 16]
            partials[t % 16] = total + first_factor if y is None else fma(first_factor, terms[1][image, t], total)
        for half in (8, 4, 2, 1):
            partials = partials[:half] + partials[half:]
        sum_of_block: Array = partials[0]
        return sum_of_block

    sums = [image_tree([block(i, first) for first in range(0, terms[0].shape[1], 512)]) for i in range(images) if terms[0].size]
    return image_tree(sums) if sums else np.zeros(kept, x.dtype)


def fma(x: Array, y: Array, z: Array) -> Array:
    """x * y + z, rounded once."""
    x, y, z = np.broadcast_arrays(x, y, z)
    with np.errstate(all="ignore"):
        return _fma32(x, y, z) if z.dtype == np.float32 else _fma64(x, y, z)


def _fma32(x: Array, y: Array, z: Array) -> Array:
    """In float64 the product is exact, and the sum, rounded to odd, rounds to float32 as the exact sum would."""
    product, other = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    return _odd_sum(product, other).astype(np.float32)


def _odd_sum(a: Array, b: Array) -> Array:
    """a + b in float64, rounded to odd: where it is not exact, towards the neighbour whose last bit is 1."""
    total = a + b
    rest = total - a
    error = (a - (total - rest)) + (b - rest)
    inexact = np.isfinite(total) & (error != 0)
    bits = total.view(np.int64)
    even = inexact & (bits & 1 == 0)
    away = (error > 0) == (total > 0)  # the exact sum lies on the far side of `total` from zero
    return np.where(even, np.where(away, bits + 1, bits - 1), bits).view(np.float64)


def _fma64(x: Array, y: Array, z: Array) -> Array:
    """Element by element, with whole numbers: float64 has no wider type here."""
    out = x * y + z
    flat = [np.ascontiguousarray(a).ravel() for a in (x, y, z)]
    result = out.ravel()
    for k in np.flatnonzero(np.isfinite(flat[0]) & np.isfinite(flat[1]) & np.isfinite(flat[2])):
        result[k] = fma_exact(float(flat[0][k]), float(flat[1][k]), float(flat[2][k]))
    return result.reshape(out.shape)


def fma_exact(x: float, y: float, z: float) -> float:
    """x * y + z of finite numbers, rounded once, by whole numbers."""
    (xn, xd), (yn, yd), (zn, zd) = x.as_integer_ratio(), y.as_integer_ratio(), z.as_integer_ratio()
    top, bottom = xn * yn * zd + zn * xd * yd, xd * yd * zd
    if top == 0:
        return x * y + z  # the sign of zero, or of a product that is zero
    try:
        return top / bottom  # division of whole numbers rounds correctly
    except OverflowError:
        return float("inf") if top > 0 else float("-inf")


def _padded(x: Array, g: ConvGeometry) -> Array:
    """x with zeros at both ends of every axis, as many as the last window needs; a negative padding crops."""
    wide = [(0, 0), (0, 0)]
    for axis, (out, s, extent, size) in enumerate(zip(g.output_size, g.stride, g.kernel_extent, g.input_size, strict=True)):
        lo = g.padding[axis][0]
        wide.append((max(lo, 0), max(0, (out - 1) * s + extent - lo - size)))
    return np.pad(x, wide)[(slice(None), slice(None), *(slice(max(-lo, 0), None) for lo, _ in g.padding))]


def _reach(g: ConvGeometry, axis: int) -> tuple[list[Array], list[Array]]:
    """For tap number j of a position: which element of y it takes (one beyond the end: a zero), and which tap of the kernel it is."""
    s, d, k_size, out = g.stride[axis], g.dilation[axis], g.kernel_size[axis], g.output_size[axis]
    most = -(-k_size // (s // gcd(s, d)))
    sources = np.full((most, g.input_size[axis]), out)
    numbers = np.full((most, g.input_size[axis]), k_size)
    for position in range(g.input_size[axis]):
        taps = [k for k in range(k_size) if (position + g.padding[axis][0] - k * d) % s == 0]
        for j, k in enumerate(taps):
            source = (position + g.padding[axis][0] - k * d) // s
            numbers[j, position] = k
            if 0 <= source < out:
                sources[j, position] = source
    return list(sources), list(numbers)


def _biased(out: Array, b: Array | None) -> Array:
    return out if b is None else out + b.reshape(-1, *(1,) * (out.ndim - 2))
