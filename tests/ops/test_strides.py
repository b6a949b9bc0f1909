"""Arrays however they lie in memory: every operation gives what it gives for contiguous copies.

Negative, zero and overlapping strides, gaps full of NaN, permuted axes, any number as the stride of an axis of one position, foreign byte
order, addresses that are not aligned, read-only memory; also as cotangents. The contractions are given integers, whose sums are exact:
there all bits must be equal.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from table import ROWS

import preimage as pre
from preimage import ops
from preimage.engines import around
from preimage.ops.normalise import normalise


def negative(a, rng):
    key = tuple(slice(None, None, rng.choice([-1, 1])) for _ in a.shape)
    return a[key].copy()[key]


def permuted(a, rng):
    order = rng.permutation(a.ndim)
    return a.transpose(order).copy().transpose(np.argsort(order))


def with_gaps(a, rng):
    steps, starts = rng.integers(1, 4, a.ndim), rng.integers(0, 3, a.ndim)
    key = tuple(slice(b, b + n * s, s) for n, s, b in zip(a.shape, steps, starts, strict=True))
    memory = np.full([n * s + b + 1 for n, s, b in zip(a.shape, steps, starts, strict=True)], np.nan).astype(a.dtype)
    memory[key] = a
    return memory[key]


def repeated(a, rng):
    """Strides of zero: some axes hold one value again and again."""
    return np.broadcast_to(a[tuple(slice(0, 1) if rng.random() < 0.5 else slice(None) for _ in a.shape)].copy(), a.shape)


def overlapping(a, rng):
    """All axes advance by one element."""
    count = sum(n - 1 for n in a.shape) + 1
    return as_strided(np.resize(a.ravel(), count).copy(), a.shape, [a.itemsize] * a.ndim) if a.size else a


def foreign(a, rng):
    return a.astype(a.dtype.newbyteorder())


def not_aligned(a, rng):
    b = np.ndarray(a.shape, a.dtype, np.zeros(a.nbytes + 1, np.uint8), 1)
    b[...] = a
    return b


def read_only(a, rng):
    b = a.view()
    b.flags.writeable = False
    return b


WAYS = [negative, permuted, with_gaps, repeated, overlapping, foreign, not_aligned, read_only]


def laid(array, rng):
    """The array under two of the ways (its values may change), with odd strides where an axis has one position."""
    a = np.asarray(array)
    if a.ndim:
        for way in rng.choice(np.array(WAYS, object), 2):
            a = way(a, rng)
        odd = [0, -8, 7, -3, 1 << 40, -(1 << 40), 12345]
        a = as_strided(a, a.shape, [rng.choice(odd) if n == 1 else s for s, n in zip(a.strides, a.shape, strict=True)])
    return a


def plain(a):
    return np.array(np.asarray(a).astype(a.dtype.newbyteorder("=")), order="C")


def gradients(op, arrays, wanted, cotangent):
    inputs = [pre.Tensor(a, requires_grad=k in wanted) for k, a in enumerate(arrays)]
    return [g.data for g in pre.grad(op(*inputs), [inputs[k] for k in wanted], cotangent)]


@pytest.mark.parametrize("name", ["auto", "gemm"])  # generated kernels, and NumPy alone
def test_every_operation(name, monkeypatch):
    monkeypatch.setattr(around, "LEAST_CHAIN", 1)
    rng = np.random.default_rng(3)
    with pre.config(engine=name):
        for row in ROWS:
            for dtype in (np.float64, np.float32):
                arrays = [laid(np.asarray(a).astype(dtype), rng) for a in row.inputs(rng)]
                copies = [plain(a) for a in arrays]
                tolerance = 1e-11 if dtype == np.float64 else 2e-4
                want = row.op(*copies)
                note = f"{row.name} {[(a.dtype.str, a.shape, a.strides) for a in arrays]}"
                np.testing.assert_allclose(row.op(*arrays), want, rtol=tolerance, atol=tolerance, err_msg=note)
                cotangent = laid(rng.standard_normal(want.shape), rng).astype(dtype)
                found = gradients(row.op, arrays, row.diff, cotangent)
                for g, h in zip(found, gradients(row.op, copies, row.diff, plain(cotangent)), strict=True):
                    np.testing.assert_allclose(g, h, rtol=tolerance, atol=tolerance, err_msg=note)


FUNCTIONS = {
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "relu": ops.relu,
    "softmax": lambda x: ops.softmax(x, 1),
    "add": lambda x: ops.add(x, x[:, :1]),
    "sum": lambda x: ops.sum(x, (0, *range(2, x.ndim))),
    "concat": lambda x: ops.concat([x, x], 1),
    "max_pool": lambda x: ops.max_pool(x, 2, stride=1, padding=1),
    "avg_pool": lambda x: ops.avg_pool(x, 2, stride=1, padding=1),
    "upsample": lambda x: ops.upsample(x, scale_factor=2, mode="linear"),
    "normalise": lambda x: normalise(x, None, None, images=True, eps=1e-5)[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_axes_of_one_position(name, monkeypatch):
    """Where strides mean nothing they may be anything."""
    monkeypatch.setattr(around, "LEAST_CHAIN", 1)
    rng, op = np.random.default_rng(4), FUNCTIONS[name]
    for shape in ((1, 8, 9), (4, 1, 17), (4, 9, 1), (1, 1, 9), (1, 9, 1), (1, 1, 1), (1, 8, 1, 9), (2, 1, 1, 9)):
        for _ in range(3):
            x = laid(rng.standard_normal(shape), rng)
            want = op(plain(x))
            np.testing.assert_allclose(op(x), want, rtol=1e-11, atol=1e-13, err_msg=f"{shape} {x.strides}")
            g = laid(rng.standard_normal(want.shape), rng)
            for got, right in zip(gradients(op, [x], (0,), g), gradients(op, [plain(x)], (0,), plain(g)), strict=True):
                np.testing.assert_allclose(got, right, rtol=1e-11, atol=1e-11, err_msg=f"{shape} {x.strides}")


def contractions(a, options, size, kernel, prepared):
    """Every contraction, with its epilogue, and its gradients."""
    w = pre.prepare(a["w"]) if prepared else a["w"]
    yield ops.conv(a["x"], w, a["b"], activation="relu", residual=a["y"], **options)
    yield ops.conv_transpose(a["y"], w, a["c"], output_size=size, activation="leaky_relu", residual=a["x"], **options)
    yield ops.conv_weight_grad(a["x"], a["y"], kernel_size=kernel, **options)
    yield from gradients(lambda *t: ops.conv(*t, **options), [a["x"], a["w"], a["b"]], (0, 1, 2), a["y"])


@pytest.mark.parametrize("trial", range(30))
def test_contractions(engine, trial):
    rng = np.random.default_rng(trial)
    dtype, ndim = rng.choice([np.float32, np.float64, np.float16]), 1 + trial % 2
    groups, i, o = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 16])), int(rng.choice([1, 3, 17]))
    size = tuple(int(n) for n in rng.choice([1, 2, 5, 8], ndim))
    kernel = tuple(int(rng.integers(1, min(3, n) + 1)) for n in size)
    stride, dilation = tuple(int(n) for n in rng.integers(1, 4, ndim)), (1,) * ndim
    padding = tuple((k, k - 1) if rng.random() < 0.5 else (0, 0) for k in kernel)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    options["padding_mode"] = str(rng.choice(["zeros", "circular"]))
    x, w = rng.integers(-3, 4, (2, groups * i, *size)), rng.integers(-3, 4, (groups * o, i, *kernel))
    y = rng.integers(-3, 4, np.shape(ops.conv(x.astype(float), w.astype(float), **options)))
    arrays = {"x": x, "w": w, "y": y, "b": rng.integers(-3, 4, groups * o), "c": rng.integers(-3, 4, groups * i)}
    laid_arrays = {name: laid(a.astype(dtype), rng) for name, a in arrays.items()}
    copies = {name: plain(a) for name, a in laid_arrays.items()}
    prepared = bool(trial % 3)
    found = contractions(laid_arrays, options, size, kernel, prepared)
    for got, want in zip(found, contractions(copies, options, size, kernel, prepared), strict=True):
        assert got.dtype == dtype
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, want)


def test_a_dtype_of_foreign_byte_order_means_the_native_one():
    x = np.arange(6.0).reshape(1, 1, 6)
    wrong_way = np.dtype(np.float32).newbyteorder()
    narrow = ops.astype(pre.Tensor(x), wrong_way)
    np.testing.assert_array_equal(pre.conv(narrow, np.ones((1, 1, 2), np.float32)).data, [[[1, 3, 5, 7, 9]]])
    layer = pre.nn.Conv1d(1, 2, 2).astype(wrong_way)
    assert layer(x.astype(np.float32)).shape == (1, 2, 5)
    np.testing.assert_array_equal(pre.linop.Identity((2,), wrong_way) @ np.ones(2, np.float32), [1, 1])
