"""What the tests of generated kernels around the contractions share: data, and the same call beside NumPy."""

from __future__ import annotations

import numpy as np

import preimage as pre
from preimage.engines import around
from preimage.engines.decisions import forget_shortcuts

SHAPE = (2, 21, 33, 29)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38]


def data(shape=SHAPE, dtype=np.float32, seed=0, special=True):
    x = (np.random.default_rng(seed).standard_normal(shape) * 4).astype(dtype)
    if special:
        x.reshape(-1)[5 : 5 + len(SPECIAL)] = SPECIAL
    return x


def laid(x, layout):
    if layout == "channels_last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return x


def same(got, want):
    """The same numbers and signs of zeros; NaN where NaN is."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert np.array_equal(np.isnan(got), np.isnan(want))
    there = ~np.isnan(want)
    np.testing.assert_array_equal(got[there], want[there])
    assert np.array_equal(np.signbit(got[there]), np.signbit(want[there]))


def beside(function, *arrays, threads=2):
    """What the jit engine's kernels give and what NumPy gives; the first must have been asked."""
    made, kept = [], around.log_kernels
    around.log_kernels = lambda what, *a: made.append(what)
    forget_shortcuts()  # a call that came before says nothing
    try:
        with pre.no_grad(), pre.config(threads=threads), np.errstate(all="ignore"):
            got = function(*arrays)
    finally:
        around.log_kernels = kept
    assert made, "no generated kernel ran"
    with pre.no_grad(), pre.config(engine="gemm"), np.errstate(all="ignore"):
        return got, function(*arrays)
