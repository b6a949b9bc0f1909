"""The definition as index loops over the taps: a small engine to audit the audit with, and an example to write one by."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Definition"]

Array = NDArray[Any]


class Definition:
    """The three contractions, gathered tap by tap at explicit index arrays. Its `conv` is what docs/audit.md shows."""

    name: str | None = None  # the name of the class
    dtypes = ("float32", "float64")
    promises = frozenset({"repeat", "batch", "threads"})
    any_strides = True
    must_be_exact = True
    padding_takes_part = None

    def conv(self, geometry: Any, x: Array, w: Array, bias: Array | None = None) -> Array:
        y = np.zeros(geometry.output_shape, x.dtype)
        for k, large, small in _pairs(geometry):
            for o, channels in enumerate(_channels(geometry)):
                y[:, o][(slice(None), *small)] += np.einsum(
                    "nc...,c->n...", x[:, channels][(..., *large)], w[(o, slice(None), *k)]
                )
        return y if bias is None else y + bias.reshape(-1, *[1] * len(geometry.kernel_size))

    def conv_transpose(self, geometry: Any, y: Array, w: Array, bias: Array | None = None) -> Array:
        x = np.zeros(geometry.input_shape, y.dtype)
        for k, large, small in _pairs(geometry):
            for o, channels in enumerate(_channels(geometry)):
                piece = np.einsum("n...,c->nc...", y[:, o][(slice(None), *small)], w[(o, slice(None), *k)])
                x[:, channels][(..., *large)] += piece
        return x if bias is None else x + bias.reshape(-1, *[1] * len(geometry.kernel_size))

    def conv_weight_grad(self, geometry: Any, x: Array, y: Array) -> Array:
        w = np.zeros(geometry.weight_shape, x.dtype)
        for k, large, small in _pairs(geometry):
            for o, channels in enumerate(_channels(geometry)):
                seen = x[:, channels][(..., *large)]
                piece = seen * y[:, o][(slice(None), *small)][:, None]
                w[(o, slice(None), *k)] = piece.sum(axis=(0, *range(2, piece.ndim)))
        return w

    def bias_grad(self, geometry: Any, y: Array) -> Array:
        del geometry
        return np.asarray(y.sum(axis=(0, *range(2, y.ndim))))


def _channels(geometry: Any) -> list[slice]:
    """The slice of large channels that each small channel sees."""
    large, small = geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups
    return [slice(o // small * large, (o // small + 1) * large) for o in range(geometry.out_channels)]


def _pairs(geometry: Any) -> Any:
    """(tap, slices of the large side, slices of the small side): where the tap lies inside."""
    for k in product(*(range(n) for n in geometry.kernel_size)):
        large, small = [], []
        for t, n, m, s, (lo, _), d in zip(
            k, geometry.input_size, geometry.output_size, geometry.stride, geometry.padding, geometry.dilation, strict=True
        ):
            inside = [p for p in range(m) if 0 <= p * s - lo + t * d < n] if m <= 1 << 16 else None
            assert inside is not None
            if not inside:
                break
            first = inside[0] * s - lo + t * d
            large.append(slice(first, first + (len(inside) - 1) * s + 1, s))
            small.append(slice(inside[0], inside[-1] + 1))
        else:
            yield k, large, small
