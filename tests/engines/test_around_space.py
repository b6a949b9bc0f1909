"""Generated kernels that move over space against NumPy: copies side by side, pooling and its gradients, resizing."""

from __future__ import annotations

import numpy as np
import pytest
from around_kernels import SHAPE, beside, data, laid, same

import preimage as pre
from preimage import ops

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
if kernels.unavailable():
    pytest.skip(kernels.unavailable(), allow_module_level=True)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concatenation(axis, layout, width):
    shapes = [[2, 5, 23, 29] for _ in range(3)]
    shapes[1][axis], shapes[2][axis] = 19, 1
    parts = [laid(data(tuple(s), seed=k), layout) for k, s in enumerate(shapes)]
    got, want = beside(lambda *p: ops.concat(list(p), axis), *parts)
    same(got, want)
    assert got.strides == want.strides


POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 5, "stride": 1, "padding": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 5), "stride": (1, 3), "padding": ((1, 0), (2, 3)), "dilation": (2, 1)},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": (2, 3), "stride": (3, 4), "padding": (1, 1)},
    {"kernel_size": (1, 4), "stride": (1, 5)},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("options", POOLS)
def test_pooling(options, layout, dtype, width):
    x = laid(data(dtype=dtype), layout)
    for op in (ops.max_pool, ops.sum_pool, ops.avg_pool):
        got, want = beside(lambda v, op=op: op(v, **options), x)
        same(got, want)
        assert got.strides == want.strides


@pytest.mark.parametrize("spatial", [(977,), (1, 31), (61, 1), (7, 9, 11)])
@pytest.mark.parametrize("order", ["nc", "cn"])
def test_pooling_of_small_maps_and_axes_in_any_order(spatial, order, width):
    """Maps that vectors do not fill; memory whose order is neither of the two layouts; one and three axes."""
    channels = 101
    x = data((channels, 3, *spatial)).swapaxes(0, 1) if order == "cn" else data((3, channels, *spatial))
    x.flat[:3] = [np.nan, -0.0, np.inf]
    taps = tuple(min(n, k) for n, k in zip(spatial, (3, 2, 3), strict=False))
    options = {"kernel_size": taps, "stride": tuple(min(2, k) for k in taps), "padding": tuple(k // 2 for k in taps)}
    for op in (ops.max_pool, ops.avg_pool):
        same(*beside(lambda v, op=op: op(v, **options), x))


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("options", [*POOLS, {"kernel_size": 5, "stride": 2, "padding": 2}, {"kernel_size": 2, "stride": 3}])
def test_gradient_of_average_pooling(options, layout, width):
    """Windows apart, side by side and overlapping; NaN and infinity go to the positions that their window covers."""

    def gradient(v):
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            y = ops.avg_pool(t, **options)
            return pre.grad(y, t, laid(data(y.shape, seed=19), layout)).data

    got, want = beside(gradient, laid(data((2, 40, 66, 58)), layout))
    same(got, want)


def test_pooling_of_one_and_three_axes():
    for shape in ((3, 10, 700), (2, 9, 7, 20, 11)):
        got, want = beside(lambda v: ops.max_pool(v, 3, stride=2, padding=1), laid(data(shape), "channels_last"))
        same(got, want)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("values", ["ties", "special"])
@pytest.mark.parametrize("options", POOLS)
def test_gradient_of_max_pooling(options, values, layout, width):
    """Ties go to the first element in row-major order, of NaNs to the first; overlapping windows add up in order."""
    rng = np.random.default_rng(10)
    x = laid(data() if values == "special" else rng.integers(0, 4, SHAPE).astype(np.float32), layout)

    def gradient(v):
        t = pre.Tensor(v, requires_grad=True)
        with pre.enable_grad():
            y = ops.max_pool(t, **options)
            g = np.random.default_rng(11).standard_normal(y.shape).astype(np.float32)
            return pre.grad(y, t, g).data

    got, want = beside(gradient, x)
    same(got, want)


def test_second_gradient_of_max_pooling():
    x = pre.Tensor(np.random.default_rng(12).standard_normal((2, 3, 60, 50)), requires_grad=True)

    def second():
        (g,) = pre.grad((ops.max_pool(x, 2) ** 3).sum(), [x], create_graph=True)
        return pre.grad((g * g).sum(), x).data

    got = second()
    with pre.config(engine="gemm"):
        np.testing.assert_allclose(got, second(), rtol=1e-12)


RESIZES = [
    {"scale_factor": 2},
    {"scale_factor": (3, 1)},
    {"size": (50, 17)},
    {"scale_factor": 1.5, "mode": "nearest-exact"},
    {"scale_factor": 2, "mode": "linear"},
    {"size": (50, 17), "mode": "linear", "align_corners": True},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("options", RESIZES)
def test_resizing(options, layout, dtype, width):
    if layout == "channels_first" and options.get("mode") != "linear":
        return  # NumPy's
    got, want = beside(lambda v: ops.upsample(v, **options), laid(data(dtype=dtype), layout))
    same(got, want)
    assert got.strides == want.strides


def test_resizing_of_one_and_three_axes():
    for shape in ((3, 10, 400), (2, 9, 7, 10, 11)):
        for mode, layout in (("nearest", "channels_last"), ("linear", "channels_last"), ("linear", "channels_first")):
            x = laid(data(shape), layout)
            got, want = beside(lambda v, mode=mode: ops.upsample(v, scale_factor=2.5, mode=mode), x)
            same(got, want)
