"""float16 and bfloat16: sums, means, pooling, norms, resizing and losses equal the exact result rounded once.

The oracle is exact: fractions of whole numbers where it is rational, float64 beside it; it shares no code with the library.
"""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops

NARROW = [np.float16, ml_dtypes.bfloat16]
ENGINES = ["jit", "gemm"]


def once(value, dtype):
    """An exact fraction, rounded once to the dtype: float64 is rounded to odd first, so that no tie is made on the way."""
    near = float(value)
    if Fraction(near) != value and math.isfinite(near):
        other = math.nextafter(near, math.inf if Fraction(near) < value else -math.inf)
        odd = [v for v in (near, other) if np.float64(v).view(np.int64) & 1]
        near = odd[0]
    with np.errstate(all="ignore"):
        return np.float64(near).astype(dtype)


def exact(x):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x, np.float64))


def equal(got, wanted, dtype, what=""):
    """Equal in every element to the exact values, rounded once."""
    assert got.dtype == dtype
    wanted = np.vectorize(lambda v: float(once(v, dtype)), otypes=[float])(wanted)
    np.testing.assert_array_equal(np.asarray(got, np.float64).reshape(wanted.shape), wanted, str(what))


def nearly(got, wanted, dtype, share=0.01):
    """Equal to float64 values rounded once, but for a few that lie within its own error of a tie."""
    assert got.dtype == dtype
    with np.errstate(all="ignore"):
        wanted = np.asarray(wanted, np.float64).astype(dtype)
    got = np.asarray(got).reshape(wanted.shape)
    assert (got != wanted).mean() <= share, (got != wanted).mean()
    np.testing.assert_allclose(
        got.astype(np.float64), wanted.astype(np.float64), rtol=1.01 * float(ml_dtypes.finfo(dtype).eps), atol=1e-7
    )


def draw(rng, shape, dtype, scale=1.0):
    return (rng.standard_normal(shape) * scale * np.exp2(rng.integers(-6, 7, shape))).astype(dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("engine", ENGINES)
def test_sums_and_means(dtype, engine):
    rng = np.random.default_rng(0)
    with pre.config(engine=engine):
        for shape, axis in (
            ((3, 5, 7, 6), (2, 3)),
            ((3, 5, 7, 6), (0, 2, 3)),
            ((40, 9), 0),
            ((9, 300), 1),
            ((5, 60), None),
            ((2, 3, 400), -1),
        ):
            x = draw(rng, shape, dtype)
            axes = tuple(range(len(shape))) if axis is None else tuple(a % len(shape) for a in np.atleast_1d(axis))
            total = exact(x).sum(axes)
            count = math.prod(shape[a] for a in axes)
            equal(ops.sum(x, axis), total, dtype)
            equal(ops.mean(x, axis), total / Fraction(count), dtype)
            centred = exact(x) - np.expand_dims(total / Fraction(count), axes)
            nearly(ops.var(x, axis), np.asarray((centred * centred).sum(axes) / Fraction(count), float), dtype)
            t = pre.Tensor(x, requires_grad=True)
            g = draw(rng, np.shape(total), dtype)
            (gx,) = pre.grad(ops.mean(t, axis), [t], g)
            equal(gx.data, np.broadcast_to(np.expand_dims(exact(g) / Fraction(count), axes), shape), dtype)


def windows(size, kernel, stride, lo, outputs):
    for o in range(outputs):
        yield [i for i in range(o * stride - lo, o * stride - lo + kernel) if 0 <= i < size]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_pooling_means(dtype, engine, layout):
    """Windows of every size, the padding counted or not, a divisor of one's own; and the gradient."""
    rng = np.random.default_rng(1)
    x = draw(rng, (2, 3, 9, 11), dtype)
    laid = np.moveaxis(x, 1, -1).copy() if layout == "channels_last" else x
    back = (lambda y: np.moveaxis(y, -1, 1)) if layout == "channels_last" else (lambda y: y)
    wide = exact(x)
    with pre.config(engine=engine):
        for kernel, stride, pad, counted, divisor in (
            (3, 2, 1, True, None),
            (3, 1, 1, False, None),
            ((2, 5), (2, 3), 0, True, None),
            (3, 3, 0, True, 7),
        ):
            k, s = (v if isinstance(v, tuple) else (v, v) for v in (kernel, stride))
            got = ops.avg_pool(
                laid, kernel, stride=stride, padding=pad, count_include_pad=counted, divisor_override=divisor, layout=layout
            )
            got = back(np.asarray(got))
            rows, columns = (
                list(windows(n, kk, ss, pad, m)) for n, kk, ss, m in zip(x.shape[2:], k, s, got.shape[2:], strict=True)
            )
            wanted = np.empty(got.shape, object)
            spread = np.zeros(x.shape, object)
            g = draw(rng, got.shape, dtype)
            for i, r in enumerate(rows):
                for j, c in enumerate(columns):
                    count = Fraction(divisor or (k[0] * k[1] if counted else len(r) * len(c)))
                    wanted[:, :, i, j] = wide[:, :, r][:, :, :, c].sum((2, 3)) / count
                    for a in r:
                        for b in c:
                            spread[:, :, a, b] += exact(g[:, :, i, j]) / count
            equal(got, wanted, dtype, (kernel, stride))
            t = pre.Tensor(laid, requires_grad=True)
            y = ops.avg_pool(
                t, kernel, stride=stride, padding=pad, count_include_pad=counted, divisor_override=divisor, layout=layout
            )
            (gx,) = pre.grad(y, [t], np.moveaxis(g, 1, -1).copy() if layout == "channels_last" else g)
            nearly(back(gx.data), np.asarray(spread, float), dtype, 0.0)
        for name, size in (("adaptive_avg_pool", (4, 3)), ("adaptive_avg_pool", 1)):
            got = back(np.asarray(getattr(ops, name)(laid, size, layout=layout)))
            wanted = np.empty(got.shape, object)
            for i, j in np.ndindex(got.shape[2:]):
                r, c = (
                    slice(o * n // m, -(-(o + 1) * n // m)) for o, n, m in zip((i, j), x.shape[2:], got.shape[2:], strict=True)
                )
                part = wide[:, :, r, c]
                wanted[:, :, i, j] = part.sum((2, 3)) / Fraction(part.shape[2] * part.shape[3])
            equal(got, wanted, dtype, name)
        equal(back(np.asarray(ops.global_avg_pool(laid, layout=layout))), wide.sum((2, 3), keepdims=True) / Fraction(99), dtype)
        equal(
            back(np.asarray(ops.sum_pool(laid, 3, layout=layout))),
            sum(wide[:, :, a : a + 7 : 3, b : b + 9 : 3] for a in range(3) for b in range(3)),
            dtype,
        )


@pytest.mark.parametrize("dtype", NARROW)
def test_means_whose_sums_do_not_fit(dtype):
    top = float(ml_dtypes.finfo(dtype).max)
    x = np.full((1, 2, 8, 8), top, dtype)
    for got in (
        ops.mean(x),
        ops.avg_pool(x, 4),
        ops.adaptive_avg_pool(x, 3),
        ops.global_avg_pool(x),
        ops.upsample(x, size=5, mode="linear"),
    ):
        np.testing.assert_array_equal(np.asarray(got, float), np.full(np.shape(got), top))
    np.testing.assert_array_equal(np.asarray(nn.l1_loss(x, -x * dtype(0.0)), float), top)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("engine", ENGINES)
def test_resizing(dtype, engine):
    rng = np.random.default_rng(2)
    x = draw(rng, (1, 2, 5, 6), dtype)
    wide = exact(x)
    with pre.config(engine=engine):
        got = ops.upsample(x, size=(7, 4), mode="linear")
        for k, (n, m) in enumerate(((5, 7), (6, 4)), 2):
            places = [
                min(max(Fraction(2 * o + 1, 2) * Fraction(n, m) - Fraction(1, 2), Fraction(0)), Fraction(n - 1)) for o in range(m)
            ]
            low = [min(int(p), n - 2) for p in places]
            t = np.array([p - a for p, a in zip(places, low, strict=True)], object).reshape(
                [-1 if j == k else 1 for j in range(4)]
            )
            a, b = wide.take(low, k), wide.take([v + 1 for v in low], k)
            wide = a * (1 - t) + b * t
        equal(got, wide, dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("engine", ENGINES)
def test_norms_and_their_gradients(dtype, engine):
    """Against float64 all the way."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 6, 5, 7)) * 3 + 5
    w, b, g = rng.standard_normal(6), rng.standard_normal(6), rng.standard_normal(x.shape)
    x, w, b, g = (v.astype(dtype).astype(np.float64) for v in (x, w, b, g))
    layers = {
        "batch": (lambda kind: nn.BatchNorm2d(6, dtype=kind), (0, 2, 3), None),
        "instance": (lambda kind: nn.InstanceNorm2d(6, affine=True, dtype=kind), (2, 3), None),
        "group": (lambda kind: nn.GroupNorm(2, 6, dtype=kind), 2, (4, 2, 105)),
        "layer": (lambda kind: nn.LayerNorm(7, dtype=kind), 3, None),
    }
    with pre.config(engine=engine):
        for name, (make, axes, shape) in layers.items():
            layer = make(dtype)
            per = (w, b) if name != "layer" else (w[[0, 1, 2, 3, 4, 5, 0]], b[[0, 1, 2, 3, 4, 5, 0]])
            for p, v in zip((layer.weight, layer.bias), per, strict=True):
                p.assign(v.astype(dtype))
            t = pre.Tensor(x.astype(dtype), requires_grad=True)
            y = layer(t)
            found = pre.grad(y, [t, layer.weight, layer.bias], g.astype(dtype))
            seen = x if shape is None else x.reshape(shape)
            axis = axes if isinstance(axes, tuple) else (axes,)
            mean, var = seen.mean(axis, keepdims=True), seen.var(axis, keepdims=True)
            unit = ((seen - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
            column = (lambda v: v) if name == "layer" else (lambda v: v[:, None, None])
            nearly(y.data, unit * column(per[0]) + column(per[1]), dtype)
            gw = g * column(per[0])
            shaped = [v if shape is None else v.reshape(shape) for v in (gw, unit)]
            gx = (
                shaped[0] - shaped[0].mean(axis, keepdims=True) - shaped[1] * (shaped[0] * shaped[1]).mean(axis, keepdims=True)
            ) / np.sqrt(var + 1e-5)
            nearly(found[0].data, gx.reshape(x.shape), dtype)
            over = (0, 1, 2) if name == "layer" else (0, 2, 3)
            nearly(found[1].data, (g * unit).sum(over), dtype, 0.2)
            nearly(found[2].data, g.sum(over), dtype, 0.2)
            if name == "batch":
                layer.eval()
                moments = (np.asarray(v, float)[:, None, None] for v in (layer.running_mean, layer.running_var))
                middle, spread = moments
                nearly(layer(t).data, (x - middle) / np.sqrt(spread + 1e-5) * column(per[0]) + column(per[1]), dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_losses(dtype):
    """Squares and exponentials that do not fit 16 bits; many terms."""
    rng = np.random.default_rng(4)
    x, t = (rng.standard_normal((500, 6)) * 2).astype(dtype), (rng.standard_normal((500, 6)) * 2).astype(dtype)
    a, b = x.astype(float), t.astype(float)
    p = rng.uniform(0.1, 0.9, x.shape).astype(dtype)
    q, labels = p.astype(float), rng.integers(0, 6, 500)
    low = a - np.log(np.exp(a).sum(1, keepdims=True))
    cases = [
        (nn.mse_loss(x, t), ((a - b) ** 2).mean()), (nn.mse_loss(x, t, reduction="none"), (a - b) ** 2), (nn.l1_loss(x, t), np.abs(a - b).mean()),
        (nn.huber_loss(x, t), np.where(np.abs(a - b) <= 1, (a - b) ** 2 / 2, np.abs(a - b) - 0.5).mean()),
        (nn.bce_with_logits_loss(x, p), (np.logaddexp(0, a) - a * q).mean()), (nn.bce_loss(p, p), -(q * np.log(q) + (1 - q) * np.log1p(-q)).mean()),
        (nn.cross_entropy(x, labels), -low[np.arange(500), labels].mean()), (nn.cross_entropy(x, p), -(low * q).sum(1).mean()),
        (nn.cross_entropy(x, labels, label_smoothing=0.25), (-0.75 * low[np.arange(500), labels] - 0.25 * low.mean(1)).mean()),
    ]  # fmt: skip
    for got, wanted in cases:
        nearly(got, wanted, dtype)
    big = np.array([300.0, 0.0, 0.0, 0.0, 0.0, 0.0], dtype)
    assert float(nn.mse_loss(big, big * dtype(0))) == float(np.float64(15000).astype(dtype))
    leaf = pre.Tensor(x, requires_grad=True)
    (g,) = pre.grad(nn.mse_loss(leaf, t), [leaf])
    nearly(g.data, 2 * (a - b) / 3000, dtype)
    (g,) = pre.grad(nn.cross_entropy(leaf, labels), [leaf])
    hot = np.eye(6)[labels]
    nearly(g.data, (np.exp(low) - hot) / 500, dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("engine", ENGINES)
def test_softmax_and_its_relatives(dtype, engine):
    rng = np.random.default_rng(5)
    x, g = (rng.standard_normal((40, 33)) * 3).astype(dtype), rng.standard_normal((40, 33)).astype(dtype)
    a, c = x.astype(float), g.astype(float)
    soft = np.exp(a) / np.exp(a).sum(1, keepdims=True)
    lse = np.log(np.exp(a).sum(1, keepdims=True))
    with pre.config(engine=engine):
        t = pre.Tensor(x, requires_grad=True)
        nearly(ops.softmax(x, 1), soft, dtype)
        nearly(ops.log_softmax(x, 1), a - lse, dtype)
        nearly(ops.logsumexp(x, 1), lse[:, 0], dtype)
        for op, wanted in (
            (ops.softmax, soft * (c - (c * soft).sum(1, keepdims=True))),
            (ops.log_softmax, c - soft * c.sum(1, keepdims=True)),
        ):
            (gx,) = pre.grad(op(t, 1), [t], g)
            # the saved answer is 16 bits wide, so the slope is not that of x to the last bit
            assert np.abs(gx.data.astype(float) - wanted).max() < 3 * float(ml_dtypes.finfo(dtype).eps) * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", NARROW)
def test_gradients_of_what_was_broadcast(dtype):
    """Products are not rounded before they are added up."""
    rng = np.random.default_rng(6)
    x, g = draw(rng, (400, 5), dtype), draw(rng, (400, 5), dtype)
    w = pre.Tensor(np.ones(5, dtype), requires_grad=True)
    (gw,) = pre.grad(ops.multiply(x, w), [w], g)
    nearly(gw.data, (x.astype(float) * g.astype(float)).sum(0), dtype, 0.0)
    b = pre.Tensor(np.zeros(5, dtype), requires_grad=True)
    (gb,) = pre.grad(ops.linear(np.zeros((400, 3), dtype), np.zeros((5, 3), dtype), b), [b], g)
    equal(gb.data, exact(g).sum(0), dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_margins_that_fold_back(dtype, mode):
    """The transposed convolution and what its margin brings back: one sum, rounded once."""
    rng = np.random.default_rng(7)
    y, w = rng.integers(-9, 10, (1, 2, 6)).astype(dtype), rng.integers(-9, 10, (2, 3, 3)).astype(dtype)
    y, w = y * dtype(1.09375), w * dtype(0.890625)
    got = pre.conv_transpose(y, w, padding=1, padding_mode=mode)
    wanted = pre.conv_transpose(y.astype(np.float64), w.astype(np.float64), padding=1, padding_mode=mode)
    assert got.tobytes() == wanted.astype(dtype).tobytes()
