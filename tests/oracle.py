"""The truth for the tests: the three contractions from the definition, tap by tap, by index lists. It imports nothing of ours.

Integers (or float64) in, integers (or float64) out. Every tap says by index arithmetic which output positions it has, and
np.ix_ picks them: no strides, no slices, no padding, no frame, unlike every engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np


@dataclass(frozen=True)
class Sizes:
    """One convolution, large side -> small side, as plain numbers; `lo` is the padding before the first element."""

    groups: int
    large: tuple[int, ...]
    small: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    lo: tuple[int, ...]
    dilation: tuple[int, ...]


def sizes_of(geometry) -> Sizes:
    """The numbers of a ConvGeometry, read field by field."""
    return Sizes(
        geometry.groups, geometry.input_size, geometry.output_size, geometry.kernel_size, geometry.stride,
        tuple(pair[0] for pair in geometry.padding), geometry.dilation,
    )  # fmt: skip


def _taps(s: Sizes, small_only=None, large_only=None, taps_only=None):
    """(tap, index lists into the small side, index lists into the large side) of every tap that meets the input.

    The last three narrow the positions, or the taps, that are looked at: one list per axis.
    """
    per_axis = []
    for axis, (n, m, k, step, lo, d) in enumerate(zip(s.large, s.small, s.kernel, s.stride, s.lo, s.dilation, strict=True)):
        wanted = None if large_only is None else set(large_only[axis])
        entries = []
        for tap in range(k) if taps_only is None else taps_only[axis]:
            positions = range(m) if small_only is None else small_only[axis]
            pairs = [(p, p * step - lo + tap * d) for p in positions if 0 <= p * step - lo + tap * d < n]
            pairs = [(p, q) for p, q in pairs if wanted is None or q in wanted]
            entries.append((tap, [p for p, _ in pairs], [q for _, q in pairs]))
        per_axis.append(entries)
    for combination in product(*per_axis):
        if all(small for _, small, _ in combination):
            yield tuple(c[0] for c in combination), [c[1] for c in combination], [c[2] for c in combination]


def _pick(a, indices):
    picked = a  # converted after picking: what is not looked at costs nothing
    for axis, index in enumerate(indices):
        picked = np.take(picked, index, axis=2 + axis)
    return np.asarray(picked, np.float64)


def _grouped(a, groups):
    return a.reshape(a.shape[0], groups, a.shape[1] // groups, prod(a.shape[2:]))


def _size(size, only):
    return size if only is None else tuple(map(len, only))


def _places(only, indices):
    """Where the indices lie among the positions that are wanted."""
    if only is None:
        return indices
    return [[positions.index(p) for p in index] for positions, index in zip(only, indices, strict=True)]


def _matrix(weights, tap):
    """The weights of one tap, in one piece: NumPy multiplies matrices in pieces by loops of its own, a hundred times slower."""
    return np.ascontiguousarray(weights[(slice(None),) * 3 + tap])


def conv(x, w, s: Sizes, only=None):
    """y[n, o, oh..]; `only` names the output positions wanted, one list per axis."""
    w = np.asarray(w, np.float64)
    y = np.zeros((x.shape[0], w.shape[0], *_size(s.small, only)))
    weights = w.reshape(s.groups, w.shape[0] // s.groups, *w.shape[1:])
    for tap, small, large in _taps(s, small_only=only):
        part = np.matmul(_matrix(weights, tap), _grouped(_pick(x, large), s.groups))
        here = _places(only, small)
        y[(slice(None), slice(None), *np.ix_(*here))] += part.reshape(x.shape[0], w.shape[0], *map(len, small))
    return y


def conv_transpose(y, w, s: Sizes, only=None):
    """x[n, i, ih..]; `only` names the positions of x wanted, one list per axis."""
    w = np.asarray(w, np.float64)
    channels = w.shape[1] * s.groups
    x = np.zeros((y.shape[0], channels, *_size(s.large, only)))
    weights = w.reshape(s.groups, w.shape[0] // s.groups, *w.shape[1:])
    for tap, small, large in _taps(s, large_only=only):
        matrix = _matrix(weights, tap).transpose(0, 2, 1)
        part = np.matmul(matrix, _grouped(_pick(y, small), s.groups))
        here = _places(only, large)
        x[(slice(None), slice(None), *np.ix_(*here))] += part.reshape(y.shape[0], channels, *map(len, large))
    return x


def conv_weight_grad(x, y, s: Sizes, only=None):
    """w[o, i, kh..]; `only` names the taps wanted, one list per axis."""
    w = np.zeros((y.shape[1], x.shape[1] // s.groups, *_size(s.kernel, only)))
    for tap, small, large in _taps(s, taps_only=only):
        left, right = _grouped(_pick(y, small), s.groups), _grouped(_pick(x, large), s.groups)
        part = np.matmul(left, right.transpose(0, 1, 3, 2)).sum(axis=0)
        here = tap if only is None else tuple(positions.index(t) for t, positions in zip(tap, only, strict=True))
        w[(slice(None), slice(None), *here)] = part.reshape(w.shape[:2])
    return w


def bias_grad(g):
    """b[o], the sum over batch and space."""
    g = np.asarray(g, np.float64)
    return np.array([g[:, o].sum() for o in range(g.shape[1])])


def margin(n, lo, hi, mode):
    """The source cell of every cell of a padded axis, one by one (None: zero)."""
    sources = []
    for p in range(-lo, n + hi):
        if 0 <= p < n:
            sources.append(p)
        elif mode == "zeros":
            sources.append(None)
        elif mode == "replicate":
            sources.append(0 if p < 0 else n - 1)
        elif mode == "circular":
            sources.append(p % n)
        else:
            while not 0 <= p < n:
                p = 0 if n == 1 else -p if p < 0 else 2 * (n - 1) - p
            sources.append(p)
    return sources


def pad(x, pairs, mode):
    """x with a margin along its spatial axes (pairs for axes 2, 3, ...), cell by cell along every axis."""
    for axis, (lo, hi) in enumerate(pairs):
        sources = margin(x.shape[2 + axis], lo, hi, mode)
        nothing = np.zeros((*x.shape[: 2 + axis], 1, *x.shape[3 + axis :]), x.dtype)
        cells = [nothing if q is None else np.take(x, [q], axis=2 + axis) for q in sources]
        x = np.concatenate([np.take(x, [], axis=2 + axis), *cells], axis=2 + axis)
    return x
