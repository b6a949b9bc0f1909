"""Axes of one position, whose stride NumPy leaves undefined: the values of the definition, whatever number stands there.

The plan of a dense layer once read the distance between neighbouring pixels off such a stride. Where the ends of rows were
copied with their padding, the kernel then stepped through the copy with it: wrong sums, and reads outside the array.
"""

from __future__ import annotations

import random
from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import oracle
from geometries import cases, geometry_of, operands
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.request import little_work, meaningful_strides
from preimage.errors import GeometryError
from preimage.geometry import ConvGeometry

JIT = JitEngine()
pytestmark = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))

#: input size, kernel, stride, padding, dilation, output size, output channels, input channels: wrong before the fix.
REPORTED = [
    (11, 5, 3, (3, 7), 5, 1, 16, 1), (7, 3, 3, (7, 0), 6, 1, 8, 17), (11, 5, 4, (7, 4), 5, 1, 16, 17),
    (6, 4, 3, (6, 4), 5, 1, 16, 16), (5, 4, 1, (1, 4), 3, 1, 16, 8), (9, 3, 3, (1, 4), 6, 1, 16, 17),
    (8, 4, 4, (2, 10), 6, 1, 16, 2), (7, 2, 2, (1, 0), 6, 1, 8, 8), (5, 2, 2, (0, 2), 6, 1, 17, 1),
    (11, 4, 3, (2, 4), 5, 1, 17, 17), (6, 11, 1, (9, 26), 4, 1, 16, 16),
]  # fmt: skip
STRIDES = (0, 1, -4, 8, 64, 10**9, -(10**9))


def reported(n, k, s, padding, d, m, small_channels, large_channels):
    return ConvGeometry(1, large_channels, small_channels, 1, (n,), (m,), (k,), (s,), (padding,), (d,))


def last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def undefined(rng, a):
    """The same array, with any strides along axes of one position."""
    return as_strided(a, a.shape, [rng.choice(STRIDES) if n == 1 else s for n, s in zip(a.shape, a.strides, strict=True)])


def check(g, dtype, place, rng=None):
    """The three contractions of `g` on arrays that lie as `place` says; with rng, axes of one position have any stride."""
    x, w, y = operands(g, np.random.default_rng(g.macs), dtype)
    s = oracle.sizes_of(g)
    wanted = oracle.conv(x, w, s), oracle.conv_transpose(y, w, s), oracle.conv_weight_grad(x, y, s)
    x, y = place(x), place(y)
    if rng is not None:
        x, w, y = undefined(rng, x), undefined(rng, w), undefined(rng, y)
    found = JIT.conv(g, x, w), JIT.conv_transpose(g, y, w), JIT.conv_weight_grad(g, x, y)
    for name, got, right in zip(("conv", "conv_transpose", "conv_weight_grad"), found, wanted, strict=True):
        assert np.array_equal(got, right), (name, g, dtype, x.strides, y.strides)


@pytest.mark.parametrize("place", [np.ascontiguousarray, last], ids=["first", "last"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reported(dtype, place):
    for sizes in REPORTED:
        check(reported(*sizes), dtype, place)


def axis(rng):
    """input size, output size, kernel, stride, padding, dilation: mostly one position on either side."""
    small = 1 if rng.random() < 0.6 else rng.choice((2, 3, 5, 9))
    large = 1 if rng.random() < 0.2 else rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17))
    kernel, stride, dilation = rng.choice((1, 2, 3, 4, 5, 7, 11)), rng.choice((1, 1, 2, 3, 4, 5)), rng.randint(1, 8)
    total = (small - 1) * stride + dilation * (kernel - 1) + 1 - large
    lo = rng.randint(min(0, total) - 2 if rng.random() < 0.1 else 0, max(0, total) + 2)
    rest = rng.randrange(max(stride, dilation)) if rng.random() < 0.3 else 0
    return large, small, kernel, stride, (lo, total - lo + rest), dilation


def family(rng, count, most_flop):
    """Geometries with axes of one position, kernels longer than the input and dilations up to 8."""
    while count:
        groups = rng.choice((1, 1, 1, 1, 2, 3, 8))
        channels = [groups * (1 if groups == 8 else rng.choice((1, 2, 3, 4, 8, 16, 17, 33))) for _ in "io"]
        large, small, *rest = zip(*(axis(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))), strict=True)
        try:
            g = ConvGeometry(rng.choice((1, 1, 2, 3)), *channels, groups, large, small, *rest)
        except GeometryError:
            continue
        if g.work_flop <= most_flop:
            count -= 1
            yield g


@pytest.mark.parametrize("large_work", [False, True], ids=["little work", "large work"])
def test_family(large_work):
    """Large work takes kernels made for a few sizes each, so there are fewer of them."""
    rng = random.Random(1)
    with little_work(0) if large_work else nullcontext():
        for number, g in enumerate(family(rng, 80 if large_work else 450, 1e6)):
            check(g, (np.float32, np.float64)[number % 2], (np.ascontiguousarray, last)[number // 2 % 2], rng)


def neighbours(rng, case):
    """A case with one field changed; sizes of the result follow."""
    for _ in range(2):
        changed = {**case, "batch": 1, "padding": [tuple(p) for p in case["padding"]]}
        name = rng.choice(("input", "kernel", "stride", "padding", "dilation", "in_channels", "out_channels"))
        if name in ("in_channels", "out_channels"):
            changed[name] = case["groups"] * rng.choice((1, 2, 8, 17))
        else:
            values, at = list(changed[name]), rng.randrange(len(case["kernel"]))
            if name == "padding":
                values[at] = (values[at][0], values[at][1] + rng.randint(1, 9))
            else:
                values[at] = 1 if name == "input" else rng.randint(1, 8)
            changed[name] = values
        yield changed


def test_near_the_cases_of_onednn():
    """One field changed at a time, an axis cut to one position among them."""
    rng, count = random.Random(2), 0
    for case in rng.sample([*cases("benchdnn_conv_select"), *cases("benchdnn_deconv")], 140):
        for changed in neighbours(rng, case):
            try:
                g = geometry_of(changed, 1)
            except GeometryError:
                continue
            if 0 < g.macs < 1e6:
                count += 1
                check(g, np.float32, (np.ascontiguousarray, last)[count % 2], rng)
    assert count > 70


def test_one_plan_whatever_the_stride():
    """Strides that mean nothing make no plan of their own."""
    engine, rng = JitEngine(), random.Random(3)
    g = reported(*REPORTED[3])
    _, w, y = operands(g, np.random.default_rng(0))
    for _ in range(6):
        engine.conv_transpose(g, undefined(rng, y), w)
    assert len(engine._programs) == 1


def test_dense_arrays_keep_their_strides():
    for shape in product((1, 2, 3), repeat=4):
        for a in (np.empty(shape, np.float32), np.moveaxis(np.empty((shape[0], *shape[2:], shape[1]), np.float32), -1, 1)):
            if shape[1] > 1 and shape[2] * shape[3] > 1:
                assert meaningful_strides(shape, a.strides, 4) == a.strides
    assert meaningful_strides((1, 5, 1), (7, 4, 0), 4) == (20, 4, 20)
    assert meaningful_strides((1, 5, 1), (7, 12, 0), 4) == (60, 12, 4)
    assert meaningful_strides((2, 1), (40, 0), 4) == (40, 4)
