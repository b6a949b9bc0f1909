"""Means, variances and normalisation where a plain computation loses its digits: large means, sums and squares that overflow.

The oracle works in float64 on values that float32 holds exactly, and in scaled float64 for float64 itself.
"""

import math

import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops

ENGINES = ["jit", "gemm"]


def layers(channels, kind, eps=1e-5):
    """Name -> a layer over (4, channels, 6, 5), the axes that it takes statistics over, and the shape in which it sees them."""
    return {
        "batch": (nn.BatchNorm2d(channels, eps, dtype=kind), (0, 2, 3), None),
        "instance": (nn.InstanceNorm2d(channels, eps, affine=True, dtype=kind), (2, 3), None),
        "group": (nn.GroupNorm(2, channels, eps, dtype=kind), (2,), (4, 2, channels * 15)),
        "layer": (nn.LayerNorm((6, 5), eps, dtype=kind), (2, 3), None),
    }


def unit_of(x, axes, shape, eps):
    seen = x if shape is None else x.reshape(shape)
    centred = seen - seen.mean(axes, keepdims=True)
    centred -= centred.mean(axes, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axes, keepdims=True) + eps)
    return (centred / deviation).reshape(x.shape), deviation


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mean", [0.0, 1e3, -3e4, 1e6])
def test_large_means(engine, mean):
    """float32 values whose distances from the mean are multiples of 1/8, which the sums of a million lose."""
    rng = np.random.default_rng(0)
    x = mean + rng.integers(-16, 17, (4, 6, 6, 5)) / 8.0
    g = rng.standard_normal(x.shape)
    with pre.config(engine=engine):
        for name, (layer, axes, shape) in layers(6, np.float32).items():
            unit, deviation = unit_of(x, axes, shape, 1e-5)
            t = pre.Tensor(x.astype(np.float32), requires_grad=True)
            y = layer(t)
            np.testing.assert_allclose(y.data, unit, rtol=0, atol=4e-6, err_msg=name)
            found = pre.grad(y, [t, layer.weight], g.astype(np.float32))
            a, u = (v if shape is None else v.reshape(shape) for v in (g, unit))
            gx = (a - a.mean(axes, keepdims=True) - u * (a * u).mean(axes, keepdims=True)) / deviation
            np.testing.assert_allclose(found[0].data, gx.reshape(x.shape), rtol=0, atol=6e-6, err_msg=name)
            over = (0, 1) if name == "layer" else (0, 2, 3)
            np.testing.assert_allclose(found[1].data, (g * unit).sum(over), rtol=0, atol=2e-4, err_msg=name)
            if name == "batch":
                np.testing.assert_allclose(layer.running_mean, 0.1 * x.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
                np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * x.var((0, 2, 3), ddof=1), rtol=2e-6)
                layer.running_mean, layer.running_var = x.mean((0, 2, 3)).astype("f"), x.var((0, 2, 3)).astype("f")
                layer.eval()
                for given in (t, t.data):
                    got = np.asarray(layer(given))
                    column = (slice(None), None, None)
                    wanted = (x - layer.running_mean[column].astype(float)) / np.sqrt(
                        layer.running_var[column].astype(float) + 1e-5
                    )
                    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)
        for axes in ((2, 3), None, 0):
            exact = np.asarray(x.var(axes))
            np.testing.assert_allclose(ops.var(x.astype(np.float32), axes), exact, rtol=2e-6)
        np.testing.assert_allclose(ops.var(x.astype(np.float32), 1, correction=1), x.var(1, ddof=1), rtol=2e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_constant_has_no_variance(engine, kind):
    """Whatever it is: never below 0, and never NaN."""
    with pre.config(engine=engine):
        for value in (0.1, 1.7, 1e5 / 3, -1e30, 3e38):
            x = np.full((4, 6, 6, 5), value, kind)
            assert not np.asarray(ops.var(x)).any()
            for name, (layer, _, _) in layers(6, kind).items():
                t = pre.Tensor(x, requires_grad=True)
                y = layer(t)
                np.testing.assert_array_equal(y.data, 0.0, err_msg=f"{name} {value}")
                (g,) = pre.grad(y, [t], np.ones(x.shape, kind))
                assert np.isfinite(g.data).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("kind", "sizes"), [(np.float32, (1e18, 1e25, 3e37)), (np.float64, (1e150, 1e200, 1e307))])
def test_squares_that_overflow(engine, kind, sizes):
    """A normalised value is of the order of 1, however large the values are; other channels and images keep their bits."""
    rng = np.random.default_rng(1)
    plain = rng.standard_normal((4, 6, 6, 5)).astype(kind)
    g = rng.standard_normal(plain.shape).astype(kind)
    wide = plain.astype(np.float64)
    with pre.config(engine=engine):
        for size in sizes:
            whole = plain * kind(size)
            mixed = np.where(np.arange(6)[:, None, None] == 2, whole, plain)
            for name, (layer, axes, shape) in layers(6, kind).items():
                layer.weight.assign(rng.standard_normal(layer.weight.shape).astype(kind))
                w = layer.weight.data.astype(np.float64)
                w = w if name == "layer" else w[:, None, None]
                unit, deviation = unit_of(wide, axes, shape, 0.0)
                t = pre.Tensor(whole, requires_grad=True)
                y = layer(t)
                np.testing.assert_allclose(y.data, unit * w, rtol=0, atol=2e-5, err_msg=f"{name} {size}")
                found = pre.grad(y, [t, layer.weight], g)
                a, u = (v if shape is None else v.reshape(shape) for v in (g * w, unit))
                gx = ((a - a.mean(axes, keepdims=True) - u * (a * u).mean(axes, keepdims=True)) / deviation).reshape(wide.shape)
                np.testing.assert_allclose(
                    found[0].data * size, gx, rtol=0, atol=1e-4 * np.abs(gx).max(), err_msg=f"{name} {size}"
                )
                over = (0, 1) if name == "layer" else (0, 2, 3)
                np.testing.assert_allclose(found[1].data, (g * unit).sum(over), rtol=0, atol=1e-3, err_msg=f"{name} {size}")
                if name in ("batch", "instance"):
                    others = [0, 1, 3, 4, 5]
                    two = pre.Tensor(mixed, requires_grad=True), pre.Tensor(plain, requires_grad=True)
                    ys = [layer(v) for v in two]
                    gs = [pre.grad(y, [v, layer.weight], g) for y, v in zip(ys, two, strict=True)]
                    assert ys[0].data[:, others].tobytes() == ys[1].data[:, others].tobytes()
                    assert gs[0][0].data[:, others].tobytes() == gs[1][0].data[:, others].tobytes()
                    assert gs[0][1].data[others].tobytes() == gs[1][1].data[others].tobytes()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_squares_that_vanish(kind):
    """Without an eps, tiny values are standardised like any others."""
    x = np.array([[1.0, 2.0, 4.0, -3.0]])
    unit = (x - x.mean()) / x.std()
    size = 1e-30 if kind is np.float32 else 1e-200
    np.testing.assert_allclose(ops.standardize((x * size).astype(kind), 1, 0.0), unit, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_means_whose_sums_overflow(engine, kind):
    top = np.finfo(kind).max
    x = np.full((2, 3, 12, 10), top, kind)
    x[0, 1] = -top
    x[1, 2, ::2] *= -1
    wanted = np.sign(x.astype(np.float64)).mean((2, 3))
    with pre.config(engine=engine):
        for got in (
            ops.mean(x, (2, 3)),
            ops.global_avg_pool(x)[..., 0, 0],
            ops.avg_pool(x, (12, 10))[..., 0, 0],
            ops.adaptive_avg_pool(x, 1)[..., 0, 0],
        ):
            np.testing.assert_allclose(np.asarray(got) / top, wanted, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ops.avg_pool(x[:1, :1], 3, stride=2, padding=1, count_include_pad=False) / top, 1.0, rtol=1e-6)
        np.testing.assert_allclose(ops.mean(x[0]) / top, 1 / 3, rtol=1e-6)
        np.testing.assert_allclose(nn.l1_loss(x[0, :1], np.zeros_like(x[0, :1])) / top, 1.0, rtol=1e-6)
        np.testing.assert_allclose(ops.sum(np.array([top, top, -top], kind)) / top, 1.0, rtol=1e-6)
        assert ops.sum(np.array([top, top], kind)) == np.inf
        assert np.isnan(ops.mean(np.array([np.inf, -np.inf], kind)))
        assert ops.mean(np.array([top, np.inf, top], kind)) == np.inf
        t = pre.Tensor(x, requires_grad=True)
        (g,) = pre.grad(ops.avg_pool(t, 2), [t], np.ones((2, 3, 6, 5), kind))
        np.testing.assert_array_equal(g.data, 0.25)


def test_one_element_is_an_error():
    for layer, shape in (
        (nn.InstanceNorm1d(2), (3, 2, 1)),
        (nn.InstanceNorm2d(2), (3, 2, 1, 1)),
        (nn.InstanceNorm3d(2), (3, 2, 1, 1, 1)),
        (nn.GroupNorm(2, 2), (1, 2)),
    ):
        for mode in (layer.train(), layer.eval()):
            with pytest.raises(pre.errors.ShapeError, match="more than one value per"):
                mode(np.ones(shape, np.float32))
    with pytest.raises(pre.errors.ShapeError, match="more than one value per channel"):
        nn.InstanceNorm2d(2, layout="channels_last")(np.ones((3, 1, 1, 2), np.float32))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("make", [nn.Dropout, nn.Dropout2d])
def test_dropout_drops_infinities(kind, make):
    x = np.full((40, 5, 2, 2), np.inf, kind)
    x[::2] = -np.inf
    t = pre.Tensor(x, requires_grad=True)
    y = make(0.5, rng=0)(t)
    dropped = y.data == 0
    assert 0.3 < dropped.mean() < 0.7
    np.testing.assert_array_equal(y.data[~dropped], x[~dropped])
    (g,) = pre.grad(y, [t], np.full(x.shape, np.inf, kind))
    np.testing.assert_array_equal(g.data, np.where(dropped, 0.0, np.inf))
    np.testing.assert_array_equal(make(1.0)(t).data, 0.0)
    kept = make(0.1, rng=0)(np.full((40, 5, 2, 2), 3.0, kind))
    np.testing.assert_allclose(np.unique(np.asarray(kept)).astype(float), [0.0, 3 / 0.9], rtol=float(np.finfo(kind).eps))


def test_long_sums_of_a_bias():
    """Two million images, one number each: the tree is as good as the numbers."""
    g = np.full((1 << 21, 1), 0.1, np.float32)
    b = pre.Tensor(np.zeros(1, np.float32), requires_grad=True)
    y = ops.linear(np.zeros((1 << 21, 1), np.float32), np.zeros((1, 1), np.float32), b)
    (got,) = pre.grad(y, [b], g)
    assert math.isclose(float(got.data[0]), float(np.float32(0.1)) * (1 << 21), rel_tol=1e-6)
