"""Initialisers: their moments, shapes and seeds, bilinear and ICNR by what they are for."""

import math

import numpy as np
import pytest

import preimage as pre
from preimage import nn, ops
from preimage.nn import init

SHAPE = (64, 32, 3, 5)


def test_fans_and_gains():
    assert init.fans(SHAPE) == (480, 960)
    assert init.gain("relu") == math.sqrt(2)
    assert init.gain("leaky_relu", 1.0) == 1.0
    assert init.gain("tanh") == 5 / 3
    with pytest.raises(pre.ShapeError, match="two axes"):
        init.fans((3,))
    with pytest.raises(pre.OptionError, match="nonlinearity"):
        init.gain("cubic")


@pytest.mark.parametrize(
    ("weight", "std"),
    [
        (init.kaiming_normal(SHAPE, rng=0), math.sqrt(2 / 480)),
        (init.kaiming_normal(SHAPE, mode="fan_out", nonlinearity="linear", rng=0), math.sqrt(1 / 960)),
        (init.kaiming_uniform(SHAPE, nonlinearity="relu", rng=0), math.sqrt(2 / 480)),
        (init.xavier_normal(SHAPE, rng=0), math.sqrt(2 / 1440)),
        (init.xavier_uniform(SHAPE, scale=3.0, rng=0), 3 * math.sqrt(2 / 1440)),
        (init.normal(SHAPE, 0, 0.7, rng=0), 0.7),
        (init.uniform(SHAPE, -1, 1, rng=0), 1 / math.sqrt(3)),
    ],
)
def test_spread(weight, std):
    assert weight.shape == SHAPE
    assert weight.std() == pytest.approx(std, rel=0.02)
    assert abs(weight.mean()) < 0.02 * std * 3


def test_seeds_repeat_and_the_default_starts_the_same_everywhere():
    np.testing.assert_array_equal(init.kaiming_normal(SHAPE, rng=5), init.kaiming_normal(SHAPE, rng=np.random.default_rng(5)))
    init.manual_seed(0)
    a = nn.Conv2d(3, 4, 3).state_dict()
    init.manual_seed(0)
    b = nn.Conv2d(3, 4, 3).state_dict()
    np.testing.assert_array_equal(a["weight"], b["weight"])
    assert not np.array_equal(a["weight"], nn.Conv2d(3, 4, 3).weight.data)
    np.testing.assert_array_equal(nn.Linear(3, 4, rng=1).weight.data, nn.Linear(3, 4, rng=1).weight.data)
    for bad in ("seed", True, 1.5):
        with pytest.raises(pre.OptionError, match="rng must be"):
            init.generator(bad)


def test_layers_start_within_pytorch_s_bounds():
    layer = nn.Conv2d(32, 64, (3, 5), rng=0)
    bound = 1 / math.sqrt(480)
    assert np.abs(layer.weight.data).max() == pytest.approx(bound, rel=1e-3)
    assert np.abs(layer.bias.data).max() <= bound
    deconvolution = nn.ConvTranspose2d(64, 32, (3, 5), rng=0)
    assert np.abs(deconvolution.weight.data).max() == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("shape", [(6, 4, 2), (3, 4, 5), (5, 5)])
def test_orthogonal(shape):
    matrix = init.orthogonal(shape, scale=2.0, rng=0).reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)


def test_dirac_passes_on():
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6))
    np.testing.assert_array_equal(ops.conv(x, init.dirac((4, 4, 3, 3)), padding=1), x)
    np.testing.assert_array_equal(ops.conv(x, init.dirac((4, 2, 3, 3), groups=2), padding=1, groups=2), x)
    with pytest.raises(pre.ShapeError, match="dirac"):
        init.dirac((4, 4))


@pytest.mark.parametrize("kernel", [6, 7])
def test_bilinear_is_caffe_s_filler(kernel):
    """Caffe's TestFillOdd and TestFillEven: kernels 7 and 6, the same in every pair."""
    f = math.ceil(kernel / 2)
    c = (kernel - 1) / (2 * f)
    want = [[(1 - abs(x / f - c)) * (1 - abs(y / f - c)) for x in range(kernel)] for y in range(kernel)]
    weight = init.bilinear((2, 3, kernel, kernel), pairs="all")
    for pair in weight.reshape(6, kernel, kernel):
        np.testing.assert_allclose(pair, want, rtol=1e-15)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_bilinear_deconvolution_up_samples(factor):
    """Away from the border it is linear interpolation with half-pixel centres, dense (FCN) and depthwise."""
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 7))
    kernel, padding = 2 * factor - factor % 2, (factor - factor % 2) // 2 if factor % 2 == 0 else (factor - 1) // 2
    want = ops.upsample(x, scale_factor=factor, mode="linear")
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    for shape, groups in (((3, 3, kernel, kernel), 1), ((3, 1, kernel, kernel), 3)):
        y = ops.conv_transpose(x, init.bilinear(shape), stride=factor, padding=padding, groups=groups)
        assert y.shape == want.shape
        np.testing.assert_allclose(y[inner], want[inner], atol=1e-12)


def test_bilinear_refuses_what_has_no_diagonal():
    with pytest.raises(pre.ShapeError, match="as many channels"):
        init.bilinear((3, 2, 4, 4))
    with pytest.raises(pre.ShapeError, match="bilinear needs"):
        init.bilinear((3, 2))
    with pytest.raises(pre.OptionError, match="pairs must be"):
        init.bilinear((3, 3, 4, 4), pairs="some")


def test_icnr_starts_as_nearest():
    weight = init.icnr((12, 5, 3, 3), 2, rng=0)
    x = np.random.default_rng(1).standard_normal((1, 5, 6, 6))
    shuffled = ops.pixel_shuffle(ops.conv(x, weight), 2)
    np.testing.assert_array_equal(shuffled, ops.upsample(shuffled[..., ::2, ::2], scale_factor=2))
    with pytest.raises(pre.ShapeError, match="do not divide"):
        init.icnr((10, 5, 3, 3), 2)


def test_the_underscored_ones_set_a_parameter():
    layer = nn.Conv2d(4, 4, 4, dtype=np.float32)
    for name in init.__all__:
        if name.endswith("_"):
            extra = (2,) if name == "icnr_" else ()
            before = layer.weight.data
            assert getattr(init, name)(layer.weight, *extra) is layer.weight
            assert layer.weight.data is not before
            assert layer.weight.dtype == np.float32
    assert init.kaiming_normal_(layer.weight, rng=2).shape == (4, 4, 4, 4)
    with pytest.raises(pre.OptionError, match="mode must be"):
        init.kaiming_normal((2, 2), mode="fan")
    with pytest.raises(pre.ShapeError, match="orthogonal needs"):
        init.orthogonal((2,))
