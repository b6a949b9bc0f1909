"""Traces: every sum equals the engine's element to the last bit; fused multiply-adds against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest

import preimage as pre
from preimage import analysis, nn
from preimage.analysis.order import fma
from preimage.errors import DTypeError, OptionError, ShapeError


@pytest.fixture
def rng():
    return np.random.default_rng(41)


def rounded32(exact: Fraction) -> np.float32:
    """A fraction rounded to float32 by halving intervals: shares nothing with the emulation."""
    sign, exact = (-1, -exact) if exact < 0 else (1, exact)
    if not exact:
        return np.float32(0)
    exponent = max(math.floor(math.log2(float(exact))) if float(exact) else -149, -126)
    while Fraction(2) ** (exponent + 1) <= exact:
        exponent += 1
    while exponent > -126 and Fraction(2) ** exponent > exact:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    count, rest = divmod(exact, unit)
    if rest * 2 > unit or (rest * 2 == unit and count % 2):
        count += 1
    return np.float32(sign * float(count * unit))


def test_fma_in_float32_rounds_once(rng):
    for scale in (1.0, 1e-20, 1e-37, 1e15):
        a, b = rng.standard_normal((2, 400)).astype(np.float32)
        b *= np.float32(scale)
        c = (-(a.astype(np.float64) * b) * (1 + rng.integers(-3, 4, 400) * 2.0**-24)).astype(np.float32)
        c[::3] = rng.standard_normal(c[::3].size).astype(np.float32) * np.float32(scale)
        for x, y, z in zip(a, b, c, strict=True):
            assert fma(x, y, z, np.float32) == rounded32(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))


def test_fma_where_rounding_twice_is_wrong():
    """1 + 2^-24 + 2^-70: float64 loses the last term, and the tie that is left goes to the even side."""
    a, b = np.float32(8384513 * 2.0**-40), np.float32(8392705 * 2.0**-30)
    assert Fraction(float(a)) * Fraction(float(b)) == Fraction(2) ** -24 + Fraction(2) ** -70
    assert np.float32(float(a) * float(b) + 1.0) == 1
    assert fma(a, b, np.float32(1), np.float32) == np.float32(1 + 2.0**-23)
    assert fma(-a, b, np.float32(-1), np.float32) == np.float32(-1 - 2.0**-23)


def test_fma_in_float64_and_hard_values():
    assert fma(1 + 2.0**-52, 1 - 2.0**-53, -1.0, np.float64) == float(Fraction(1 + 2.0**-52) * Fraction(1 - 2.0**-53) - 1)
    assert np.isnan(fma(np.inf, 0.0, 1.0, np.float64))
    assert np.isnan(fma(np.inf, 0.0, 1.0, np.float32))
    assert fma(1e200, 1e200, -np.inf, np.float64) == -np.inf
    assert fma(1e308, 10.0, 0.0, np.float64) == np.inf
    assert np.signbit(fma(-0.0, 1.0, -0.0, np.float64))
    assert not np.signbit(fma(-1.0, 1.0, 1.0, np.float64))
    assert fma(3e38, 2.0, 0.0, np.float32) == np.inf


CASES = [
    # ndim, N, C_in, C_out, groups, kernel, stride, padding, dilation
    (1, 2, 4, 6, 2, (3,), (2,), ((1, 2),), (2,)),
    (2, 1, 3, 4, 1, (3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2)),
    (2, 2, 4, 4, 4, (2, 3), (1, 2), ((0, 1), (1, 1)), (1, 1)),
    (3, 1, 2, 3, 1, (2, 1, 2), (1, 2, 2), ((0, 1), (0, 0), (1, 0)), (2, 1, 1)),
    (2, 1, 2, 2, 1, (2, 2), (3, 3), ((-1, 0), (0, 0)), (1, 1)),
]
SIZES = {1: (9,), 2: (6, 5), 3: (4, 3, 4)}
MODES = ("zeros", "reflect", "replicate", "circular")


def random_array(rng, shape, dtype):
    decades = 1 if dtype == "float16" else 3  # so that no sum of float16 overflows
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-decades, decades + 1, shape)).astype(dtype)


def traced(case, mode, transposed, dtype, rng):
    ndim, n, c, o, groups, kernel, stride, padding, dilation = case
    w = random_array(rng, (o, c // groups, *kernel), dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
    x = random_array(rng, (n, c, *SIZES[ndim]), dtype)
    if not transposed:
        b = random_array(rng, (o,), dtype)
        return analysis.trace_conv(x, w, b, **options), pre.conv, options, (x, w, b)
    g = pre.ConvGeometry.from_conv(x.shape, w.shape, **{k: v for k, v in options.items() if k != "padding_mode"})
    y = random_array(rng, g.output_shape, dtype)
    b = random_array(rng, (c,), dtype)
    options["output_padding"] = g.output_padding
    return analysis.trace_conv_transpose(y, w, b, **options), pre.conv_transpose, options, (y, w, b)


def same(a, b):
    return a == b or (np.isnan(a) and np.isnan(b))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "deconv"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_sums_have_the_engines_bits(case, transposed, dtype, rng):
    """Forward, input gradient and weight gradient, every padding mode; some elements of each."""
    for mode in MODES if min(min(p) for p in CASES[case][7]) >= 0 else MODES[:1]:
        t, run, options, arrays = traced(CASES[case], mode, transposed, dtype, rng)
        tensors = [pre.Tensor(a, requires_grad=True) for a in arrays]
        y = run(*tensors, **options)
        g = random_array(rng, y.shape, dtype)
        gx, gw, gb = (v.data for v in pre.grad(y, tensors, g))
        plain = run(*arrays, **options)
        for what, want in (("slide", plain), ("grad_input", gx), ("grad_weight", gw)):
            make = getattr(t, what) if what == "slide" else partial(getattr(t, what), grad_output=g)
            shape = want.shape
            indices = list(product(*map(range, shape)))
            for at in rng.permutation(len(indices))[:25]:
                index = indices[int(at)]
                found = make(index)
                assert found.promised
                assert same(found.value, want[index]), (mode, found.what, index)
        np.testing.assert_allclose(t.grad_bias(1, g).value, gb[1], rtol=2e-2 if dtype == "float16" else 1e-4)
        assert not t.grad_bias(1, g).promised


def test_another_order_has_other_bits(rng):
    """The check above can fail: the terms backwards give other last bits somewhere."""
    from preimage.analysis.order import chain

    t, _, _, _ = traced(CASES[1], "zeros", False, "float32", rng)
    different = 0
    for index in list(product(*map(range, t.output_shape)))[:40]:
        s = t.slide(index)
        backwards = chain(s.inputs[::-1], s.weights[::-1], np.float32)[-1] + np.float32(s.bias)
        different += bool(backwards != s.value)
    assert different > 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "deconv"])
def test_painting_grows_to_the_output(mode, transposed, rng):
    t, run, options, arrays = traced(CASES[0], mode, transposed, "float64", rng)
    frames = list(t.painting())
    assert len(frames) == np.prod(t.input_shape) + 1
    assert frames[-1].stroke is None
    np.testing.assert_allclose(frames[-1].output, run(*arrays, **options), rtol=1e-9)
    grown = frames[1].output - frames[0].output
    assert set(zip(*np.nonzero(grown), strict=True)) <= set(map(tuple, frames[1].stroke.outputs.tolist()))


def test_terms_name_the_numbers_and_the_padding():
    x = np.arange(1.0, 6.0).reshape(1, 1, 5)
    w = np.array([[[1.0, -2.0, 3.0]]])
    t = analysis.trace_conv(x, w, np.array([0.5]), padding=1)
    s = t.slide((0, 0, 0))
    assert [term.input_index for term in s.terms] == [None, (0, 0, 0), (0, 0, 1)]
    assert [term.product for term in s.terms] == [0.0, -2.0, 6.0]
    assert s.running.tolist() == [0.0, -2.0, 4.0]
    assert s.value == 4.5
    assert [term.product for term in s.largest] == [6.0, -2.0]
    circular = analysis.trace_conv(x, w, padding=1, padding_mode="circular").slide((0, 0, 0))
    assert circular.terms[0].input_index == (0, 0, 4)
    assert circular.terms[0].margin
    assert "y[0, 0, 0] = 4.5" in str(s)
    stroke = t.paint((0, 0, 0))
    assert stroke.outputs[:, 2].tolist() == [1, 0]  # tap 0 reaches output 1, tap 1 output 0
    assert stroke.products.tolist() == [1.0, -2.0]


def test_an_infinite_weight_over_the_padding_gives_nan():
    x = np.ones((1, 1, 3), np.float32)
    w = np.array([[[np.inf, 1.0, 1.0]]], np.float32)
    t = analysis.trace_conv(x, w, padding=1)
    assert np.isnan(t.slide((0, 0, 0)).value)
    assert np.isnan(t.output[0, 0, 0])


def test_layers(rng):
    x = rng.standard_normal((3, 8, 9)).astype(np.float32)
    for layer in (
        nn.Conv2d(3, 4, 3, stride=2, padding=1, rng=1),
        nn.ConvTranspose2d(3, 5, 4, 2, 1, output_padding=1, rng=1),
        nn.Conv2d(3, 4, 3, padding="same", bias=False, rng=2),
    ):
        t = analysis.trace(layer, x)
        with pre.no_grad():
            y = layer(x[None]).data
        assert t.output_shape == y.shape
        assert t.slide((0, 1, 2, 3)).value == y[0, 1, 2, 3]
        assert t.slide((0, -1, -1, -1)).value == y[0, -1, -1, -1]
    last = nn.Conv2d(3, 4, 3, layout="channels_last", rng=2)
    t = analysis.trace(last, np.moveaxis(x, 0, -1))
    with pre.no_grad():
        assert t.slide((0, 3, 1, 2)).value == last(np.moveaxis(x, 0, -1)[None]).data[0, 1, 2, 3]


def test_fully_connected(rng):
    """Every input feeds every output, and an image uses every weight once; the same bits as the layer and its gradients."""
    layer = nn.Linear(50, 7, rng=0)
    x = rng.standard_normal((4, 50)).astype(np.float32)
    t = analysis.trace(layer, x)
    tensors = [pre.Tensor(x, requires_grad=True), layer.weight, layer.bias]
    y = pre.ops.linear(*tensors)
    g = rng.standard_normal(y.shape).astype(np.float32)
    gx, gw, _ = (v.data for v in pre.grad(y, tensors, g))
    for n, i, o in product(range(4), (0, 31, 49), range(7)):
        assert t.slide((n, o)).value == y.data[n, o]
        assert t.grad_input((n, i), g).value == gx[n, i]
        assert t.grad_weight((o, i), g).value == gw[o, i]
    assert len(t.slide((1, 2))) == 50
    assert len(t.paint((1, 0))) == 7
    assert len(t.grad_weight((2, 4), g)) == 4


def test_refusals(rng):
    x, w = np.ones((1, 2, 5), np.float32), np.ones((3, 2, 3), np.float32)
    t = analysis.trace_conv(x, w)
    for call, error, text in (
        (lambda: t.slide((0, 3, 0)), ShapeError, "axis 1 takes -3 to 2"), (lambda: t.slide((0, 0)), ShapeError, "wanted 3"),
        (lambda: t.paint("abc"), ShapeError, "no index"), (lambda: t.grad_weight((0, 0, 0), x), ShapeError, "grad_output"),
        (lambda: t.grad_bias(0, t.output), OptionError, "no bias"),
        (lambda: analysis.trace(nn.ReLU(), x), OptionError, "ReLU"),
        (lambda: analysis.trace_conv(x, w.astype(np.float64)), DTypeError, "one dtype"),
        (lambda: analysis.trace_conv(x, w, np.ones(2, np.float32)), ShapeError, "wanted (3,)"),
        (lambda: analysis.trace_linear(x, w), ShapeError, "fully connected"),
    ):  # fmt: skip
        with pytest.raises(error, match=text.replace("(", r"\(").replace(")", r"\)")):
            call()
