"""Products of spectra: real arithmetic in one fixed order.

For each frequency, with x and y the spectra of the two sides and w that of the weights (J: phases x channels of the large side):

    conv               y[o] = sum over J of  x[J] conj(w[o, J])
    conv_transpose     x[J] = sum over o of  y[o] w[o, J]
    conv_weight_grad   w[o, J] = sum over rows of  x[J] conj(y[o])

Where nothing is summed over channels, these are two real products and one sum for each number, by NumPy: multiplied and added apart,
so that CPUs with and without fused multiply-adds give the same bits (its complex product differs). Else they are matrix products of the
engine that computes the exact path, in the contract's order: the two real terms of each complex one lie side by side on the inner axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.engines.base import Array

__all__ = ["matrix", "multiply", "pairs", "sum_of_products"]

#: Numbers that are multiplied at a time: they stay in the nearest caches.
CHUNK = 1 << 13
Matmul = Callable[[Array, Array], Array]


def multiply(a: Array, b: Array, out: Array, *, conjugate: bool, add: bool = False) -> None:
    """out = a b, or a conj(b); with `add`, out += that. Shapes broadcast to that of out."""
    _share_out(np.broadcast_to(a, out.shape), np.broadcast_to(b, out.shape), out, conjugate, add)


def _share_out(a: Array, b: Array, out: Array, conjugate: bool, add: bool) -> None:
    """Piece by piece along the first axis on which pieces are small enough."""
    if out.size <= CHUNK:
        _product(a, b, out, conjugate, add)
        return
    inner = out.size // len(out)
    if inner > CHUNK:
        for k in range(len(out)):
            _share_out(a[k], b[k], out[k], conjugate, add)
        return
    n = CHUNK // inner
    for k in range(0, len(out), n):
        _product(a[k : k + n], b[k : k + n], out[k : k + n], conjugate, add)


def _product(a: Array, b: Array, out: Array, conjugate: bool, add: bool) -> None:
    real = a.real * b.real
    other = a.imag * b.imag
    (np.add if conjugate else np.subtract)(real, other, out=real)
    imaginary = a.imag * b.real
    np.multiply(a.real, b.imag, out=other)
    (np.subtract if conjugate else np.add)(imaginary, other, out=imaginary)
    if add:
        real += out.real
        imaginary += out.imag
    out.real, out.imag = real, imaginary


# ------------------------------------------------------------------------------------------------------ as matrices


def pairs(w: Array, scale: float, axis: int) -> Array:
    """The real matrix of complex factors: real and imaginary part side by side along `axis`, times `scale`."""
    shape = list(w.shape)
    shape.insert(axis + 1, 2)
    found = np.empty(shape, w.real.dtype)
    here: tuple[Any, ...] = (slice(None),) * (axis + 1)
    factor = w.real.dtype.type(scale)
    np.multiply(w.real, factor, out=found[(*here, 0)])
    np.multiply(w.imag, factor, out=found[(*here, 1)])
    shape[axis : axis + 2] = [2 * w.shape[axis]]
    return found.reshape(shape)


def matrix(a: Array, *, conjugate: bool) -> Array:
    """Real matrices (F, G, 2R, 2K) of complex ones (F, R, G, K): rows that give the real parts of a b^T (of a conj(b)^T), then rows that
    give the imaginary ones, against `pairs` of b.
    """
    f, r, g, k = a.shape
    found = np.empty((f, g, 2, r, k), a.dtype)
    a = a.transpose(0, 2, 1, 3)
    upper, lower = found[:, :, 0], found[:, :, 1]
    upper.real, lower.real = a.real, a.imag
    if conjugate:
        upper.imag = a.imag
        np.negative(a.real, out=lower.imag)
    else:
        np.negative(a.imag, out=upper.imag)
        lower.imag = a.real
    return found.view(a.real.dtype).reshape(f, g, 2 * r, 2 * k)


def sum_of_products(a: Array, b: Array, matmul: Matmul, dtype: np.dtype[Any]) -> Array:
    """The complex (F, R, G, N) of real matrices (F, G, 2R, 2K) and (F, G, 2K, N)."""
    product = matmul(a, b)
    f, g, rows, n = product.shape
    found = np.empty((f, rows // 2, g, n), dtype)
    found.real = product[:, :, : rows // 2].transpose(0, 2, 1, 3)
    found.imag = product[:, :, rows // 2 :].transpose(0, 2, 1, 3)
    return found
