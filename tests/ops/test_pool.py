"""Pooling beside the table: Caffe's cases, switches, NaN, memory order, errors, and PyTorch on random geometries."""

import numpy as np
import pytest

import preimage as pre
from preimage import ops


def test_caffe_max_pooling_with_padding():
    """Caffe's TestForwardMaxPadded: kernel 3, stride 2, padding 2, outputs rounded up."""
    image = np.array([[1, 2, 4], [2, 3, 2], [4, 2, 1.0]]).reshape(1, 1, 3, 3)
    got = ops.max_pool(image, 3, stride=2, padding=2, ceil_mode=True)
    assert got[0, 0].tolist() == [[1, 4, 4], [4, 4, 4], [4, 4, 1]]


def test_caffe_average_counts_the_padding():
    """Caffe's TestForwardAve: kernel 3, stride 1, padding 1 over a constant 2."""
    got = ops.avg_pool(np.full((1, 1, 3, 3), 2.0), 3, stride=1, padding=1)
    np.testing.assert_allclose(got[0, 0], [[8 / 9, 4 / 3, 8 / 9], [4 / 3, 2, 4 / 3], [8 / 9, 4 / 3, 8 / 9]], rtol=1e-15)


@pytest.mark.parametrize("engine", ["jit", "gemm"])
def test_a_window_may_be_far_larger_than_what_it_lies_over(engine):
    """Only taps that reach an element are visited: a billion of them would take minutes."""
    x = np.random.default_rng(0).integers(-9, 9, (1, 2, 3, 4)).astype(np.float32)
    many = 10**9
    with pre.config(engine=engine):
        total = ops.sum_pool(x, (1, many), stride=1, padding=((0, 0), (many // 2, many // 2 - 1)))
        most = ops.max_pool(x, (1, many), stride=1, padding=((0, 0), (many - 1, 0)))
        t = pre.Tensor(x, requires_grad=True)
        ops.sum_pool(t, (1, many), stride=1, padding=((0, 0), (many - 1, 0))).sum().backward()
        back = t.grad
        switches = pre.Tensor(x, requires_grad=True)
        ops.max_pool(switches, (1, many), stride=1, padding=((0, 0), (many - 1, 0))).sum().backward()
    assert (total == x.sum(-1, keepdims=True)).all()
    assert (most == np.maximum.accumulate(x, -1)).all()
    assert (back == np.broadcast_to([4, 3, 2, 1], x.shape)).all()
    assert switches.grad.sum() == x.size


@pytest.mark.parametrize(("padding", "size"), [(0, (3, 2)), (1, (4, 3))])
def test_caffe_sizes_round_up(padding, size):
    """Caffe's TestSetup and TestSetupPadded: 6 x 5, kernel 3, stride 2."""
    x = np.zeros((2, 3, 6, 5))
    for pool in (ops.max_pool, ops.avg_pool):
        assert pool(x, 3, stride=2, padding=padding, ceil_mode=True).shape == (2, 3, *size)


def test_fcn_sizes():
    """FCN on a 500 x 500 image: five poolings that round up, 698 -> 349, 175, 88, 44, 22."""
    x = np.zeros((1, 1, 698, 698), np.float32)
    sizes = []
    for _ in range(5):
        x = ops.max_pool(x, 2, stride=2, ceil_mode=True)
        sizes.append(x.shape[-1])
    assert sizes == [349, 175, 88, 44, 22]


def test_switches_are_the_first_maximum_and_unpooling_puts_it_back():
    x = np.array([[5.0, 5.0, 1.0, 2.0], [0.0, 5.0, 2.0, 2.0]]).reshape(1, 1, 2, 4)
    pooled, switches = ops.max_pool(x, 2, return_switches=True)
    assert switches.tolist() == [[[[0, 3]]]]
    back = ops.max_unpool(pooled, switches, (2, 4))
    assert back[0, 0].tolist() == [[5, 0, 0, 2], [0, 0, 0, 0]]


def test_unpooling_where_windows_overlap():
    x = np.array([1.0, 9.0, 1.0]).reshape(1, 1, 3)
    t = pre.Tensor(x, requires_grad=True)
    pooled, switches = ops.max_pool(t, 2, stride=1, return_switches=True)
    assert switches.tolist() == [[[1, 1]]]
    last = ops.max_unpool(pooled * np.array([1.0, 2.0]), switches, 3)
    assert last.data.tolist() == [[[0, 18, 0]]]
    assert pre.grad(last.sum(), t).data.tolist() == [[[0, 2, 0]]]
    assert ops.max_unpool(pooled, switches, 3, overlap="add").data.tolist() == [[[0, 18, 0]]]


def test_nan_wins_and_takes_the_gradient():
    x = np.array([[1.0, np.nan, 3.0, 0.0, 5.0, 6.0]])[None]
    t = pre.Tensor(x, requires_grad=True)
    pooled = ops.max_pool(t, 3)
    assert np.isnan(pooled.data[0, 0, 0])
    assert pooled.data[0, 0, 1] == 6
    assert pre.grad(pooled, t, np.ones((1, 1, 2))).data.tolist() == [[[0, 1, 0, 0, 0, 1]]]
    _, switches = ops.max_pool(x, 3, return_switches=True)
    assert switches.tolist() == [[[1, 5]]]


def test_minus_infinity_is_a_value_and_padding_is_none():
    x = np.full((1, 1, 4), -np.inf)
    pooled, switches = ops.max_pool(x, 3, stride=2, padding=1, return_switches=True)
    assert (pooled == -np.inf).all()
    assert switches.tolist() == [[[0, 1]]]
    # a dilated window may step over all of a short axis: the maximum of nothing, from nowhere
    t = pre.Tensor(np.ones((1, 1, 1)), requires_grad=True)
    pooled, switches = ops.max_pool(t, 2, padding=1, dilation=2, return_switches=True)
    assert switches.tolist() == [[[-1]]]
    assert ops.max_pool(t, 2, padding=1, dilation=2).data.tolist() == [[[-np.inf]]]
    assert pre.grad(pooled.sum(), t).data.tolist() == [[[0]]]


@pytest.mark.parametrize(
    "op",
    [
        lambda x: ops.max_pool(x, 2),
        lambda x: ops.avg_pool(x, 3, padding=1),
        lambda x: ops.upsample(x, scale_factor=2, mode="linear"),
    ],
)
def test_memory_order_is_kept(op):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 5, 6, 7))
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    a, b = op(x), op(last)
    np.testing.assert_array_equal(a, b)
    assert a.flags.c_contiguous
    assert np.moveaxis(b, 1, -1).flags.c_contiguous
    t, u = pre.Tensor(x, requires_grad=True), pre.Tensor(last, requires_grad=True)
    np.testing.assert_array_equal(pre.grad(op(t).sum(), t).data, pre.grad(op(u).sum(), u).data)


def test_no_result_is_a_view_of_its_input():
    x = np.ones((1, 2, 4, 4))
    for result in (ops.max_pool(x, 1), ops.avg_pool(x, 1), ops.sum_pool(x, 1), ops.upsample(x, size=4), ops.relu(x), ops.clip(x)):
        assert not np.shares_memory(result, x)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: ops.max_pool(x, 9), "at least 9 is needed"),
        (lambda x: ops.max_pool(x, 0), "least is 1"),
        (lambda x: ops.max_pool(x, (2, 2, 2)), "3 entries"),
        (lambda x: ops.max_pool(x, 2, stride=0), "least is 1"),
        (lambda x: ops.max_pool(x, 2, padding=2), "must lie in 0..1"),
        (lambda x: ops.max_pool(x, 2, padding=-1), "must lie in 0..1"),
        (lambda x: ops.max_pool(x, 2, padding=((0, 2), (0, 0))), "must lie in 0..1"),
        (lambda x: ops.avg_pool(x, 2, padding="half"), "padding"),
        (lambda x: ops.avg_pool(x, 2, divisor_override=0), "must not be 0"),
        (lambda x: ops.max_pool(x[0, 0, 0], 2), "wanted \\(N, C"),
        (lambda x: ops.max_unpool(x, np.zeros(x.shape), (9, 9)), "must be integers"),
        (lambda x: ops.max_unpool(x, np.zeros(x.shape, int), 9), "does not fit"),
        (lambda x: ops.max_unpool(x, np.zeros((1, 2), int), (9, 9)), "switches have shape"),
        (lambda x: ops.max_unpool(x, np.full(x.shape, 81), (9, 9)), "81 places"),
        (lambda x: ops.max_unpool(x, np.zeros(x.shape, int), (9, 9), overlap="mean"), "overlap must be"),
        (lambda x: ops.adaptive_avg_pool(x, (1, 2, 3)), "does not fit"),
        (lambda x: ops.adaptive_max_pool(x, 0), "cannot make 0 windows"),
        (lambda x: ops.upsample(x), "either size or scale_factor"),
        (lambda x: ops.upsample(x, size=3, scale_factor=2), "either size or scale_factor"),
        (lambda x: ops.upsample(x, size=3, mode="bicubic"), "mode must be one of"),
        (lambda x: ops.upsample(x, size=3, align_corners=True), "an option of the modes 'linear'"),
        (lambda x: ops.upsample(x, scale_factor=0), "positive number"),
        (lambda x: ops.upsample(x, scale_factor="x"), "must be a number"),
        (lambda x: ops.upsample(x, scale_factor=(1, 2, 3)), "positive number"),
        (lambda x: ops.upsample(x, scale_factor=0.1), "cannot be resized to 0"),
        (lambda x: ops.upsample(x[0, 0], size=3), "wanted \\(N, C"),
        (lambda x: ops.pixel_shuffle(x, 2), "3 channels do not divide by 4"),
        (lambda x: ops.pixel_shuffle(x[0, 0], 2), "wanted \\(N, C"),
        (lambda x: ops.pixel_unshuffle(x, 4), "do not divide"),
        (lambda x: ops.pixel_unshuffle(x[0, 0], 4), "wanted \\(N, C"),
    ],
)
def test_wrong_calls_name_what_is_wrong(call, text):
    with pytest.raises(pre.PreimageError, match=text):
        call(np.zeros((2, 3, 5, 6)))


# -- beside PyTorch ----------------------------------------------------------------------------------------------------


def _compare(torch, got, want, t, T, rng, exact=False):
    assert got.shape == tuple(want.shape)
    (np.testing.assert_array_equal if exact else np.testing.assert_allclose)(got.data, want.detach().numpy())
    g = rng.standard_normal(got.shape)
    (G,) = torch.autograd.grad(want, T, torch.tensor(g), retain_graph=True)
    np.testing.assert_allclose(pre.grad(got, t, g).data, G.numpy(), atol=1e-13)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_random_geometries_equal_torch(ndim):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(ndim)
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[ndim]
    for _ in range(25):
        size = tuple(int(n) for n in rng.integers(3, 9, ndim))
        x = rng.standard_normal((2, 3, *size))
        t, T = pre.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        k, s, d = (tuple(int(v) for v in rng.integers(1, n, ndim)) for n in (4, 4, 3))
        p = tuple(int(rng.integers(0, v // 2 + 1)) for v in k)
        ceil, include = bool(rng.integers(2)), bool(rng.integers(2))
        try:
            Y, indices = getattr(F, f"max_pool{ndim}d")(T, k, s, p, d, ceil_mode=ceil, return_indices=True)
        except RuntimeError:
            with pytest.raises(pre.GeometryError):
                ops.max_pool(t, k, stride=s, padding=p, dilation=d, ceil_mode=ceil)
        else:
            y, switches = ops.max_pool(t, k, stride=s, padding=p, dilation=d, ceil_mode=ceil, return_switches=True)
            np.testing.assert_array_equal(switches, indices.numpy())
            _compare(torch, y, Y, t, T, rng, exact=True)
            y2 = ops.max_pool(t, k, stride=s, padding=p, dilation=d, ceil_mode=ceil)
            np.testing.assert_array_equal(y2.data, y.data)
            if k == s and not ceil and d == (1,) * ndim:  # no overlap: unpooling is the same in both
                U = getattr(F, f"max_unpool{ndim}d")(Y, indices, k, s, p, output_size=size)
                _compare(torch, ops.max_unpool(y2, switches, size), U, t, T, rng, exact=True)
        Y = getattr(F, f"avg_pool{ndim}d")(T, k, s, p, ceil_mode=ceil, count_include_pad=include)
        _compare(torch, ops.avg_pool(t, k, stride=s, padding=p, ceil_mode=ceil, count_include_pad=include), Y, t, T, rng)
        out = tuple(int(rng.integers(1, n + 3)) for n in size)
        for kind in ("avg", "max"):
            Y = getattr(F, f"adaptive_{kind}_pool{ndim}d")(T, out)
            _compare(torch, getattr(ops, f"adaptive_{kind}_pool")(t, out), Y, t, T, rng)
        factors = tuple(float(v) for v in rng.choice([0.5, 1.5, 2.0, 2.5, 3.0, 4.0], ndim))
        for how in ({"size": out}, {"scale_factor": factors}):
            for mode in ("nearest", "nearest-exact"):
                _compare(torch, ops.upsample(t, mode=mode, **how), F.interpolate(T, mode=mode, **how), t, T, rng)
            for align in (False, True):
                Y = F.interpolate(T, mode=linear, align_corners=align, **how)
                _compare(torch, ops.upsample(t, mode="linear", align_corners=align, **how), Y, t, T, rng)
