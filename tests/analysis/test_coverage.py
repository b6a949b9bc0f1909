"""Coverage, interiors, checkerboards and their cures, against real outputs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import preimage as pre
from preimage import nn
from preimage.analysis.coverage import coverage, measured_energy, phase_sums, weight_energy
from preimage.analysis.cures import deconv_of_resize, icnr, resize_conv, unity
from preimage.errors import OptionError, PreimageError, ShapeError
from preimage.geometry import ConvGeometry


@pytest.fixture
def rng():
    return np.random.default_rng(53)


def deconv(y, w, g, **extra):
    options = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups, "output_size": g.input_size}
    with pre.config(engine="reference"):
        return pre.conv_transpose(y, w, **(options | extra))


def small_layers():
    """Every deconvolution with 1 to 7 inputs, kernel to 6, stride to 4, padding below the kernel, dilation 1 and 2."""
    for n, k, s, p, d in product(range(1, 8), range(1, 7), range(1, 5), range(6), (1, 2)):
        if p < k:
            try:
                yield ConvGeometry.from_conv_transpose((1, 1, n), (1, 1, k), stride=s, padding=p, dilation=d)
            except PreimageError:
                continue


def seen_interior(g, rng):
    """The cells that stay as they are when the input goes on beyond both ends: found by running a longer layer."""
    n, k, s, d = g.output_size[0], g.kernel_size[0], g.stride[0], g.dilation[0]
    more = k * d
    y = rng.integers(1, 9, (1, 1, n + 2 * more)).astype(float)
    w = np.ones((1, 1, k))
    longer = ConvGeometry.from_conv_transpose(y.shape, w.shape, stride=s, dilation=d, padding=g.padding)
    short = deconv(y[:, :, more : more + n], w, g)[0, 0]
    long = deconv(y, w, longer)[0, 0][more * s :][: len(short)]
    ones = deconv(np.ones_like(y), w, longer)[0, 0][more * s :][: len(short)]
    return short == long, ones


def test_every_small_deconvolution_is_judged_by_its_interior(rng):
    judged = {None: 0, "even": 0, "checkerboard": 0, "gaps": 0}
    count = 0
    for g in small_layers():
        count += 1
        axis = coverage(g).axes[0]
        y = np.ones((1, 1, g.output_size[0]))
        assert tuple(deconv(y, np.ones((1, 1, *g.kernel_size)), g)[0, 0]) == axis.counts
        free, ones = seen_interior(g, rng)
        first, last = axis.interior
        assert free[first:last].all(), g
        runs = "".join("x" if f else " " for f in free).split()
        assert last - first == max((len(r) for r in runs), default=0), g
        judged[axis.verdict] += 1
        if last - first < g.stride[0]:
            assert axis.verdict is None
            continue
        inside = ones[first:last]
        want = "gaps" if 0 in inside else "even" if len(set(inside)) == 1 else "checkerboard"
        assert axis.verdict == want, g
        if g.stride == (1,):
            assert axis.verdict == "even"
    assert count > 881
    assert min(judged.values()) > 100


def test_a_plain_convolution_on_5x5_is_no_checkerboard():
    g = ConvGeometry.from_conv((1, 1, 5, 5), (1, 1, 3, 3))
    assert coverage(g).verdict == "even"
    assert coverage(g).energy == 0
    assert coverage(ConvGeometry.from_conv((1, 1, 3, 3), (1, 1, 3, 3))).verdict is None
    assert coverage(ConvGeometry.from_conv_transpose((1, 1, 4, 4), (1, 1, 4, 4), stride=2, padding=1)).verdict == "even"
    assert coverage(ConvGeometry.from_conv_transpose((1, 1, 9, 9), (1, 1, 3, 3), stride=2)).verdict == "checkerboard"


def test_coverage_in_two_dimensions(rng):
    g = ConvGeometry.from_conv_transpose((1, 1, 7, 6), (1, 1, 3, 5), stride=(2, 3), padding=(1, 0), dilation=(1, 2))
    c = coverage(g)
    out = deconv(np.ones((1, 1, 7, 6)), np.ones((1, 1, 3, 5)), g)[0, 0]
    np.testing.assert_array_equal(c.counts, out)
    inside = out[c.interior]
    cut = inside[: inside.shape[0] // 2 * 2, : inside.shape[1] // 3 * 3]
    np.testing.assert_allclose(c.energy, cut.var() / (cut**2).mean(), rtol=1e-12)
    np.testing.assert_allclose(measured_energy(g, out[None, None]), [c.energy], rtol=1e-12)


TWENTY = [
    (k, s, d) for k, s, d in ((3, 2, 1), (5, 2, 1), (7, 2, 1), (4, 3, 1), (5, 3, 1), (7, 3, 1), (5, 4, 1), (6, 4, 1), (7, 4, 1), (9, 4, 1),
    (6, 5, 1), (7, 5, 1), (8, 5, 1), (12, 5, 1), (8, 6, 1), (9, 6, 1), (3, 2, 3), (5, 3, 2), (5, 4, 3), (11, 8, 1))
]  # fmt: skip


def strongest_period(line):
    """The period of the strongest frequency but 0, over a whole number of periods."""
    spectrum = np.abs(np.fft.rfft(line - line.mean()))
    at = int(np.argmax(spectrum))
    return None if spectrum[at] < 1e-6 * np.abs(line).max() * len(line) else len(line) / at


def fundamental(line):
    """The longest period that the spectrum needs: the length over the gcd of all frequencies that are there."""
    spectrum = np.abs(np.fft.rfft(line - line.mean()))
    there = np.flatnonzero(spectrum > 1e-9 * max(np.abs(line).max(), 1) * len(line))
    return len(line) // int(np.gcd.reduce(there)) if there.size else 1


@pytest.mark.parametrize(("kernel", "stride", "dilation"), TWENTY)
def test_the_predicted_period_is_in_the_spectrum(kernel, stride, dilation, rng):
    """Real layers with random positive weights on noise around a constant: the strongest peak lies on a harmonic of the period."""
    n = 400
    g = ConvGeometry.from_conv_transpose((1, 3, n), (3, 2, kernel), stride=stride, dilation=dilation, padding=1)
    c = coverage(g)
    assert c.verdict == "checkerboard"
    inside = c.interior[0]
    length = (inside.stop - inside.start) // (stride * 12) * stride * 12
    y = 1 + 0.1 * rng.standard_normal((1, 3, n))
    flat = pre.conv_transpose(y, np.ones((3, 2, kernel)), stride=stride, dilation=dilation, padding=1)[0, 0, inside][:length]
    found = strongest_period(flat)
    harmonic = c.period[0] / found
    assert abs(harmonic - round(harmonic)) < 1e-9, (found, c.period)
    constant = deconv(np.ones((1, 3, n)), np.ones((3, 2, kernel)), g)[0, 0, inside][:length]
    assert fundamental(constant) == c.period[0]
    # random weights: the phases differ one from another, and predicted energy is the measured one
    w = rng.random((3, 2, kernel))
    out = deconv(np.ones((1, 3, n)), w, g)
    assert fundamental(out[0, 1, inside][:length]) == stride
    np.testing.assert_allclose(measured_energy(g, out), weight_energy(g, w), rtol=1e-9)
    # the cure: a constant gives a constant
    for how in ("scale", "shift"):
        cured = deconv(rng.random((1, 3, 1)) * np.ones((1, 3, n)), unity(g, w, how=how), g)[0, :, inside]
        np.testing.assert_allclose(cured, cured[:, :1] * np.ones_like(cured), rtol=1e-12)
        assert weight_energy(g, unity(g, w, how=how)).max() < 1e-24


def test_no_period_is_found_where_none_is_predicted(rng):
    for kernel, stride, dilation in ((4, 2, 1), (6, 3, 1), (3, 1, 1), (8, 4, 3), (5, 1, 4), (5, 5, 2)):
        g = ConvGeometry.from_conv_transpose((1, 1, 200), (1, 1, kernel), stride=stride, dilation=dilation)
        c = coverage(g)
        assert c.verdict == "even"
        assert c.period == (1,)
        assert fundamental(deconv(np.ones((1, 1, 200)), np.ones((1, 1, kernel)), g)[0, 0, c.interior[0]]) == 1


def test_unity_says_what_it_cannot_do(rng):
    gaps = ConvGeometry.from_conv_transpose((1, 1, 9), (1, 1, 2), stride=3)
    with pytest.raises(OptionError, match="1 of 3 phases have no taps"):
        unity(gaps, np.ones((1, 1, 2)))
    g = ConvGeometry.from_conv_transpose((1, 1, 9), (1, 1, 3), stride=2)
    mixed = np.array([[[1.0, 4.0, -1.0]]])
    with pytest.raises(OptionError, match="how='shift' does"):
        unity(g, mixed)
    np.testing.assert_allclose(phase_sums(g, unity(g, mixed, how="shift")), [[[2.0, 2.0]]])
    with pytest.raises(OptionError, match="scale' or 'shift"):
        unity(g, mixed, how="wish")
    with pytest.raises(ShapeError, match="wants"):
        unity(g, np.ones((1, 1, 4)))


def test_bilinear_and_icnr_starts_have_no_checkerboard(rng):
    for stride in (2, 3, 4):
        kernel = 2 * stride - stride % 2
        g = ConvGeometry.from_conv_transpose((1, 2, 9, 9), (2, 2, kernel, kernel), stride=stride, padding=stride // 2)
        assert weight_energy(g, nn.init.bilinear((2, 2, kernel, kernel))).max() < 1e-25
        kernel = 2 * stride
        g = ConvGeometry.from_conv_transpose((1, 2, 9, 9), (2, 3, kernel, kernel), stride=stride, padding=stride // 2)
        w = icnr((2, 3, kernel, kernel), stride, rng=1)
        assert weight_energy(g, w).max() < 1e-25
        assert w.std() > 0.1
    with pytest.raises(ShapeError, match="nearest is 4"):
        icnr((1, 1, 3), 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_resize_convolution_and_deconvolution_are_one(groups, rng):
    """Small integers, so that both sums are exact: equal to the last bit, borders too, both ways."""
    for stride, kernel, padding, extra in (
        ((2, 3), (3, 2), ((1, 0), (2, 1)), (0, 1)),
        ((4, 1), (1, 3), ((0, 2), (1, 1)), (1, 0)),
    ):
        v = rng.integers(-4, 5, (4, 6 // groups, *kernel)).astype(float)  # a convolution 6 -> 4
        y = rng.integers(-4, 5, (2, 6, 5, 4)).astype(float)
        wide = pre.ops.upsample(y, scale_factor=stride)
        want = pre.conv(wide, v, padding=padding, groups=groups)
        w, pads = deconv_of_resize(v, stride, groups=groups, padding=padding)
        got = pre.conv_transpose(y, w, stride=stride, padding=pads, groups=groups)
        np.testing.assert_array_equal(got, want)
        g = ConvGeometry.from_conv_transpose(y.shape, w.shape, stride=stride, padding=pads, groups=groups, output_padding=extra)
        back = resize_conv(g, w)
        np.testing.assert_array_equal(back.weight, v)
        np.testing.assert_array_equal(back(y), deconv(y, w, g))


def test_resize_convolution_refuses(rng):
    def g(kernel, stride, dilation=1):
        return ConvGeometry.from_conv_transpose((1, 1, 9), (1, 1, kernel), stride=stride, dilation=dilation)

    for geometry, text in ((g(4, 2), "not a box of 2"), (g(2, 3), "smaller than the stride"), (g(4, 2, 3), "dilation")):
        with pytest.raises(OptionError, match=text):
            resize_conv(geometry, rng.standard_normal(geometry.weight_shape))
    one = g(3, 1, 2)  # without a stride every convolution is one
    y, w = rng.standard_normal((1, 1, 9)), rng.standard_normal((1, 1, 3))
    np.testing.assert_allclose(resize_conv(one, w)(y), deconv(y, w, one), rtol=1e-12, atol=1e-12)
