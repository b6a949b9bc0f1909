"""What is computed of whole lines: softmax and its kin, extremes, standardisation, along any axes, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from around_kernels import data, laid, same

import preimage as pre
from preimage import nn, ops
from preimage.engines import around

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)

BOTH = (np.float32, np.float64)
#: Rows, columns, several axes, axes that are no neighbours, one long line.
CASES = [
    ((5, 7, 600), (2,)),
    ((3, 37, 11, 5), (1,)),
    ((3, 37, 11, 5), (2, 3)),
    ((3, 7, 11, 5), (1, 3)),
    ((2, 3000), (1,)),
    ((4, 1, 9), (1,)),
    ((9, 8, 5), (2,)),  # many short rows, which are laid side by side; without the first image they are too few for that
    ((9, 2, 4, 3), (2, 3)),
]
MODES = ("softmax", "log_softmax", "logsumexp", "max", "min", "standardize")


def computed(x, axis, mode):
    """In one dtype by the kernels, the axes kept."""
    if mode == "standardize":
        return around.standardize(x, axis, 1e-3)[0]
    made = around.lines(x, axis, mode)
    return made.reshape([1 if k in axis else n for k, n in enumerate(x.shape)]) if made.ndim < x.ndim else made


def exact(x, axis, mode):
    x = x.astype(np.longdouble)
    top = x.max(axis, keepdims=True)
    total = np.exp(x - top).sum(axis, keepdims=True)
    if mode == "standardize":
        centred = x - x.mean(axis, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis, keepdims=True) + 1e-3)
    plain = {
        "softmax": lambda: np.exp(x - top) / total,
        "log_softmax": lambda: x - top - np.log(total),
        "logsumexp": lambda: np.log(total) + top,
    }
    return plain[mode]() if mode in plain else getattr(x, mode)(axis, keepdims=True)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_near_the_exact_values(shape, axis, mode, dtype):
    x = data(shape, dtype, 21, special=False)
    eps = np.finfo(dtype).eps
    want = exact(x, axis, mode)
    np.testing.assert_allclose(
        computed(x, axis, mode).astype(np.longdouble), want, rtol=8 * eps, atol=8 * eps * float(np.abs(want).max())
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_one_set_of_bits(shape, axis, mode, monkeypatch):
    """Any layout, number of threads, vector width, and place among other lines."""
    from preimage.engines.jit.elementwise import line

    x = data(shape, seed=22, special=False)
    want = computed(x, axis, mode)
    for layout in (laid(x, "channels_last"), np.asfortranarray(x), np.ascontiguousarray(x[::-1])[::-1]):
        for threads in (1, 3):
            with pre.config(threads=threads):
                same(computed(layout, axis, mode), want)
    same(computed(x[1:], axis, mode), want[1:])
    monkeypatch.setattr(line, "lanes_of", lambda dtype: 4)
    same(computed(x, axis, mode), want)


def test_extremes_at_the_edges():
    x = np.full((3, 40, 19), -0.0, np.float32)
    x[0, 3, 5], x[1, 7, :], x[2, 39, 18] = 0.0, np.nan, np.inf
    for axis in ((1,), (2,), (1, 2)):
        for order in (x, np.asfortranarray(x)):
            with np.errstate(all="ignore"):
                np.testing.assert_array_equal(around.lines(order, axis, "max"), x.max(axis))
                np.testing.assert_array_equal(around.lines(order, axis, "min"), x.min(axis))
    top = around.lines(x, (1,), "max")
    assert not np.signbit(top[0, 5])  # +0 is above -0
    assert np.signbit(top[0, 6])


def test_softmaxes_of_infinities():
    x = np.array([[np.inf, 1.0, np.inf], [-np.inf, 2.0, 2.0], [np.nan, 1.0, 2.0], [-np.inf] * 3], np.float32)
    np.testing.assert_allclose(ops.softmax(x, 1), [[0.5, 0, 0.5], [0, 0.5, 0.5], [np.nan] * 3, [np.nan] * 3])
    half = -np.log(2)
    np.testing.assert_allclose(
        ops.log_softmax(x, 1), [[half, -np.inf, half], [-np.inf, half, half], [np.nan] * 3, [np.nan] * 3], rtol=1e-6
    )
    np.testing.assert_allclose(ops.logsumexp(x, 1), [np.inf, 2 - half, np.nan, -np.inf], rtol=1e-6)


@pytest.mark.parametrize("axis", [(2,), (1,), (1, 2)])
def test_gradient_of_standardisation(axis):
    x, g = data((3, 21, 40), np.float64, 23, special=False), data((3, 21, 40), np.float64, 24, special=False)

    def gradient(create_graph):
        t = pre.Tensor(x, requires_grad=True)
        return pre.grad((ops.standardize(t, axis, 1e-3) * g).sum(), t, create_graph=create_graph).data

    made, kept = [], around.log_kernels
    around.log_kernels = lambda what, *a: made.append(what)
    try:
        got = gradient(False)
    finally:
        around.log_kernels = kept
    assert "gradient of standardize" in made
    with pre.config(engine="gemm"):
        want = gradient(False)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gradient(True), want, rtol=1e-12, atol=1e-13)


def test_layer_norm_is_its_steps():
    x = data((4, 9, 300), seed=25, special=False)
    layer = nn.LayerNorm(300)
    layer.weight.data[:], layer.bias.data[:] = data((300,), seed=26, special=False), data((300,), seed=27, special=False)
    weight, bias = layer.weight.data, layer.bias.data
    from preimage.ops.normalise import standardized

    fused = standardized(x, weight, bias, axes=(2,), eps=1e-5)
    same(fused, ops.standardize(x, 2) * weight + bias)
    same(layer(pre.Tensor(x)).data, fused)


def test_slices_that_overflow_do_not_change_the_others():
    x = data((4, 500), seed=28, special=False)
    alone = ops.standardize(x[:1], 1)
    x[2] *= np.float32(1e37)
    got = ops.standardize(x, 1)
    same(got[:1], alone)
    np.testing.assert_allclose(
        got[2], ops.standardize((x[2:3] / np.float32(1e37)).astype(np.float64), 1, 0.0)[0], rtol=1e-5, atol=1e-6
    )


def test_short_rows_have_the_same_gradient_side_by_side(monkeypatch):
    """With scale and shift, and their gradient, of rows whose axes lie in another order."""
    from preimage.engines.jit.elementwise import line

    x, g = (np.moveaxis(data((9, 11, 3, 4), seed=seed, special=False), 1, 2) for seed in (31, 32))
    scale, shift = data((3,), seed=33, special=False), data((3,), seed=34, special=False)
    turned = (np.moveaxis(a, 1, 3) for a in (x, g))
    x, g = (np.ascontiguousarray(a) for a in turned)

    def all_of(x, g):
        y, below = around.standardize(x, (3,), 1e-3, (scale, shift))
        plain, _ = around.standardize(x, (3,), 1e-3)
        return y, below, around.standardize_gradient(g, plain, 1 / np.sqrt(below), (3,))

    made = all_of(x, g)
    other = all_of(x.transpose(0, 2, 1, 3), g.transpose(0, 2, 1, 3))
    monkeypatch.setattr(line, "MANY_ROWS", x.size)
    for short, apart, moved in zip(made, all_of(x, g), other, strict=True):
        same(short, apart)
        same(moved.transpose(0, 2, 1, 3), apart)
