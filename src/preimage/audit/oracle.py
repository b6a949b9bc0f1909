"""The truth: each result from the definition, in integer arithmetic, sharing no code with any engine.

Taps are walked one by one over a copy of x that has its padding in it; for one tap the definition is a product of
matrices of int64. Integers wrap modulo 2**64, so an equality of these results is an equality modulo 2**64, which is an
equality, because what is compared stays far below.

    conv             y[n, o, p]  = sum_k  sum_i  w[o, i, k] X[n, i, p*s + k*d]          X = x with its padding
    conv_transpose   X[n, i, p*s + k*d] += sum_o w[o, i, k] y[n, o, p], then the padding is cut off
    conv_weight_grad w[o, i, k]  = sum_n sum_p  y[n, o, p] X[n, i, p*s + k*d]

`fingerprint` is for cases too large for that. A result of a bilinear contraction, folded over batch and channels with
random 64-bit multipliers r, is the same contraction of folded operands:

    sum_n sum_o r_n r_o y[n, o, p]  =  sum_k sum_c (sum_n r_n X[n, c, p*s + k*d]) (sum_o r_o w[o, c, k])

so every element of the engine's result takes part in an equality that costs 1 / (batch * channels) of the work, and a
wrong element goes unnoticed with a probability of about 2**-60. Source: Freivalds, "Probabilistic machines can use less
running time" (1977), for products of matrices.

In float64 the same walk gives the truth for rounding errors (`values`), and, with NaN and infinity in the data, where they
must go: padding is zeros that take part, what a transpose writes into the padding is cut off.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.audit.case import Case

__all__ = ["Truth", "contract", "conv_at", "fingerprint", "fold", "operands", "padded"]

Array = NDArray[Any]


def padded(case: Case, x: Array) -> Array:
    """x with its padding: the part of the padded large side that the taps reach (negative padding cuts)."""
    result = np.zeros((*x.shape[:2], *case.span), x.dtype)
    target, source = [], []
    for axis, (n, reach, (lo, _)) in enumerate(zip(case.input_size, case.span, case.padding, strict=True)):
        del axis
        first, last = max(0, lo), min(reach, n + lo)  # x[j] lies at j + lo
        target.append(slice(first, max(first, last)))
        source.append(slice(first - lo, max(first, last) - lo))
    result[_cut(target)] = x[_cut(source)]
    return result


def _cut(slices: list[slice]) -> Any:
    """The slices of the spatial axes as an index."""
    return (..., *slices)


def _tap(case: Case, wide: Array, k: tuple[int, ...]) -> Array:
    """The view of a padded array that tap k sees, one entry per position of the small side."""
    cut = []
    for t, m, s, d in zip(k, case.output_size, case.stride, case.dilation, strict=True):
        first = t * d
        cut.append(slice(first, first + (m - 1) * s + 1 if m else first, s))
    seen: Array = wide[_cut(cut)]
    return seen


def _taps(case: Case) -> Any:
    return product(*(range(k) for k in case.kernel_size))


def contract(case: Case, result: str, first: Array, second: Array | None = None, *, inside: bool = False) -> Array:
    """One of RESULTS in the dtype of its operands: (x, w), (y, w), (x, y), or (y,) for the bias gradient.

    inside: leave out the taps that lie on the padding, which changes something only where NaN or infinity would meet it.
    """
    if result == "bias_grad":
        return np.asarray(first.sum(axis=(0, *range(2, first.ndim)), dtype=first.dtype))
    assert second is not None
    with np.errstate(all="ignore"):
        if result == "conv":
            return _conv(case, first, second, inside)
        if result == "conv_transpose":
            return _conv_transpose(case, first, second)
        return _conv_weight_grad(case, first, second, inside)


def _product(a: Array, b: Array) -> Array:
    """a @ b over the last two axes, never through BLAS (which `gemm` uses, and which need not let NaN through)."""
    return np.asarray(np.matmul(a, b) if a.dtype.kind == "i" else np.einsum("...ij,...jk->...ik", a, b))


def _lies_inside(case: Case, k: tuple[int, ...]) -> Array:
    """For each position of the small side, flattened: whether tap k lies on x and not on its padding."""
    whole: Array = np.ones((), bool)
    rows = zip(k, case.output_size, case.input_size, case.stride, case.padding, case.dilation, strict=True)
    for t, m, size, s, (lo, _), d in rows:
        place = np.arange(m) * s - lo + t * d
        whole = whole[..., None] & ((place >= 0) & (place < size))
    return whole.reshape(-1)


def _conv(case: Case, x: Array, w: Array, inside: bool) -> Array:
    n, g = case.batch, case.groups
    points = int(np.prod(case.output_size, dtype=np.int64))
    wide = padded(case, x)
    weights = w.reshape(g, case.group_out, case.group_in, *case.kernel_size)
    y: Array = np.zeros((n, g, case.group_out, points), x.dtype)
    for k in _taps(case):
        seen = _tap(case, wide, k).reshape(n, g, case.group_in, points)
        if inside:
            here = _lies_inside(case, k)
            y[..., here] += _product(weights[(..., *k)], seen[..., here])
        else:
            y += _product(weights[(..., *k)], seen)
    return y.reshape(case.y_shape)


def _conv_transpose(case: Case, y: Array, w: Array) -> Array:
    n, g = case.batch, case.groups
    points = int(np.prod(case.output_size, dtype=np.int64))
    wide = np.zeros((n, case.in_channels, *case.span), y.dtype)
    small = y.reshape(n, g, case.group_out, points)
    weights = w.reshape(g, case.group_out, case.group_in, *case.kernel_size)
    for k in _taps(case):
        piece = _product(np.swapaxes(weights[(..., *k)], -1, -2), small)
        _tap(case, wide, k)[...] += piece.reshape(n, case.in_channels, *case.output_size)
    x = np.zeros(case.x_shape, y.dtype)
    target, source = [], []
    for size, reach, (lo, _) in zip(case.input_size, case.span, case.padding, strict=True):
        first, last = max(0, -lo), min(size, reach - lo)
        target.append(slice(first, max(first, last)))
        source.append(slice(first + lo, max(first, last) + lo))
    x[_cut(target)] = wide[_cut(source)]
    return x


def _conv_weight_grad(case: Case, x: Array, y: Array, inside: bool) -> Array:
    n, g = case.batch, case.groups
    points = int(np.prod(case.output_size, dtype=np.int64))
    wide = padded(case, x)
    small = np.moveaxis(y.reshape(n, g, case.group_out, points), 0, 2).reshape(g, case.group_out, n * points)
    w = np.zeros((g, case.group_out, case.group_in, *case.kernel_size), x.dtype)
    for k in _taps(case):
        seen: Array = _tap(case, wide, k).reshape(n, g, case.group_in, points)
        seen = np.moveaxis(seen, 0, -2).reshape(g, case.group_in, n * points)
        here = np.tile(_lies_inside(case, k), n) if inside else slice(None)
        w[(..., *k)] = _product(small[..., here], np.swapaxes(seen[..., here], -1, -2))
    return w.reshape(case.w_shape)


class Truth:
    """The results of one case for one set of operands, each computed when first asked for."""

    def __init__(self, case: Case, x: Array, w: Array, y: Array) -> None:
        self.case, self.x, self.w, self.y = case, x, w, y
        self._known: dict[str, Array] = {}

    def operands(self, result: str) -> tuple[Array, ...]:
        """The arrays that a result is made from, in the order in which engines take them."""
        return operands(result, self.x, self.w, self.y)

    def __getitem__(self, result: str) -> Array:
        if result not in self._known:
            self._known[result] = contract(self.case, result, *self.operands(result))
        return self._known[result]


def operands(result: str, x: Array, w: Array, y: Array) -> tuple[Array, ...]:
    """(x, w), (y, w), (x, y) or (y,)."""
    return {"conv": (x, w), "conv_transpose": (y, w), "conv_weight_grad": (x, y), "bias_grad": (y,)}[result]


# -- fingerprints ------------------------------------------------------------------------------------------------------


def _multipliers(rng: np.random.Generator, count: int) -> Array:
    return rng.integers(-(2**63), 2**63 - 1, size=count, dtype=np.int64) | np.int64(1)


class _Folding:
    """The random multipliers of one fingerprint: one per image, large channel and small channel."""

    def __init__(self, case: Case, seed: int) -> None:
        rng = np.random.default_rng((seed, 0xF01D))
        self.n, self.c, self.o = (_multipliers(rng, k) for k in (case.batch, case.in_channels, case.out_channels))


def fold(case: Case, result: str, value: Array, seed: int) -> Array:
    """A result (of int64) folded over batch and channels: conv -> (*out), conv_transpose -> (*in), weights -> (*kernel)."""
    r = _Folding(case, seed)
    if result == "conv":
        return np.tensordot(r.o, np.tensordot(r.n, value, (0, 0)), (0, 0))
    if result == "conv_transpose":
        return np.tensordot(r.c, np.tensordot(r.n, value, (0, 0)), (0, 0))
    if result == "bias_grad":
        return np.asarray(value)
    split = value.reshape(case.groups, case.group_out, case.group_in, *case.kernel_size)
    both = r.o.reshape(case.groups, -1, 1) * r.c.reshape(case.groups, 1, -1)
    return np.tensordot(both, split, ((0, 1, 2), (0, 1, 2)))


def fingerprint(case: Case, result: str, x: Array, w: Array, y: Array, seed: int) -> Array:
    """What `fold` must give for the true result, computed from folded operands (all int64)."""
    r, g = _Folding(case, seed), case.groups
    if result == "bias_grad":
        return contract(case, result, y)
    weights = w.reshape(g, case.group_out, case.group_in, *case.kernel_size)
    if result == "conv":
        # One image, one small channel that sees every large channel: groups fall away.
        folded = np.einsum("go,goi...->gi...", r.o.reshape(g, -1), weights).reshape(1, case.in_channels, *case.kernel_size)
        one = case.with_(batch=1, out_channels=1, groups=1)
        return np.asarray(contract(one, result, np.tensordot(r.n, x, (0, 0))[None], folded)[0, 0])
    if result == "conv_transpose":
        folded = np.einsum("gi,goi...->go...", r.c.reshape(g, -1), weights).reshape(case.out_channels, 1, *case.kernel_size)
        one = case.with_(batch=1, in_channels=1, groups=1)
        return np.asarray(contract(one, result, np.tensordot(r.n, y, (0, 0))[None], folded)[0, 0])
    # Each group becomes one large and one small channel; the sum over groups is taken last.
    large = np.einsum("gi,ngi...->ng...", r.c.reshape(g, -1), x.reshape(case.batch, g, case.group_in, *case.input_size))
    small = np.einsum("go,ngo...->ng...", r.o.reshape(g, -1), y.reshape(case.batch, g, case.group_out, *case.output_size))
    one = case.with_(in_channels=g, out_channels=g)
    return np.asarray(contract(one, result, large, small).sum(axis=(0, 1)))


def conv_at(case: Case, x: Array, w: Array, where: tuple[int, ...]) -> int:
    """One element y[n, o, p...] of a convolution with Python integers and index loops: the definition, word for word."""
    n, o, *p = where
    g = o // case.group_out
    total = 0
    for i in range(case.group_in):
        for k in _taps(case):
            place = [
                q * s - lo + t * d for q, s, (lo, _), t, d in zip(p, case.stride, case.padding, k, case.dilation, strict=True)
            ]
            if all(0 <= j < size for j, size in zip(place, case.input_size, strict=True)):
                total += int(x[(n, g * case.group_in + i, *place)]) * int(w[(o, i, *k)])
    return total
