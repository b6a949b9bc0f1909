"""The depthwise schedules of the jit engine: exact on integer data, and the same bits for everything that must not matter."""

from itertools import product

import numpy as np
import pytest

from preimage.engines import Epilogue
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.request import little_work
from preimage.geometry import ConvGeometry
from preimage.settings import config

JIT = JitEngine()
pytestmark = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))
CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")


@pytest.fixture(autouse=True)
def _schedules_of_large_work():
    """These geometries are small, so that every edge is met; here they take the kernels that large ones would."""
    with little_work(0):
        yield


def geometry(channels, size, kernel, *, batch=1, stride=1, padding=0, dilation=1, multiplier=1):
    return ConvGeometry.from_conv(
        (batch, channels, *size),
        (channels * multiplier, 1, *kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=channels,
    )


# Sizes that meet: full and ragged blocks of channels, fewer channels than lanes, tiles that overlap, edges on both sides and
# on one, lines shorter than a vector, rows without taps, kernels longer than the input, kernels too long to unroll, long
# strides, three axes, phases of a transposed convolution with different taps.
CASES = {
    "3x3": geometry(32, (13, 17), (3, 3), batch=2, padding=1),
    "3x3 s2, four vectors": geometry(192, (9, 17), (3, 3), stride=2, padding=1),
    "3x3 s2": geometry(48, (16, 16), (3, 3), batch=3, stride=2, padding=((0, 1), (1, 0))),
    "21 channels": geometry(21, (11, 23), (3, 5), stride=(1, 2), padding=((1, 2), (3, 0))),
    "5 channels": geometry(5, (12, 40), (5, 5), padding=2),
    "two channels": geometry(2, (6, 7), (2, 3)),
    "7x7 on 7x7": geometry(24, (7, 7), (7, 7), padding=3),
    "9x3, dilated": geometry(17, (30, 20), (9, 3), padding=((4, 9), (2, 2)), dilation=(2, 3)),
    "13x13": geometry(16, (14, 14), (13, 13), padding=6),
    "kernel 4 stride 2": geometry(20, (18, 34), (4, 4), batch=2, stride=2, padding=1),
    "stride 3, kernel 2": geometry(16, (14, 20), (2, 2), stride=3),
    "stride 5 by 7": geometry(18, (21, 36), (6, 9), stride=(5, 7), padding=2),
    "stride and dilation": geometry(16, (20, 27), (3, 4), stride=(2, 3), dilation=(3, 2), padding=(2, 3)),
    "FCN up-sampling": geometry(3, (160, 160), (64, 64), stride=32),
    "FCN up-sampling, cut": geometry(2, (99, 108), (16, 16), stride=8, padding=((2, 5), (3, 4)), batch=2),
    "long strides, three taps a run": geometry(3, (40, 150), (3, 36), stride=(2, 12), dilation=(3, 1), padding=((4, 1), (25, 0))),
    "1-D stride 48": geometry(4, (333,), (48,), stride=48, padding=((7, 0),), batch=3),
    "kernel over 64": geometry(19, (3, 90), (2, 70), padding=((0, 0), (5, 9))),
    "1-D dilated": geometry(40, (300,), (3,), batch=2, padding=64, dilation=64),
    "1-D stride 8": geometry(33, (100,), (16,), stride=8, padding=((0, 4),)),
    "1-D, one output": geometry(16, (9,), (9,)),
    "3-D": geometry(18, (6, 7, 9), (3, 2, 3), stride=(1, 2, 1), padding=((1, 1), (0, 1), (2, 0))),
    "3-D s2": geometry(34, (5, 8, 8), (3, 3, 3), batch=2, stride=2, padding=1),
    "multiplier 2": geometry(24, (9, 20), (3, 3), batch=2, padding=1, multiplier=2),
    "multiplier 3": geometry(7, (9, 12), (3, 2), stride=2, multiplier=3),
    "multiplier 4": geometry(5, (8, 13), (3, 5), padding=2, stride=(2, 1), multiplier=4),
    "multiplier 16": geometry(3, (6, 9), (2, 3), multiplier=16),
    "padding beyond the kernel": geometry(16, (5, 6), (2, 2), padding=((3, 4), (5, 3))),
    "cropping": geometry(16, (12, 12), (3, 3), padding=((-2, 1), (1, -3))),
}


def arrays(g, dtype=np.float32, seed=0, integers=True):
    rng = np.random.default_rng(seed)

    def draw(shape):
        return (rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)).astype(dtype)

    return draw(g.input_shape), draw(g.weight_shape), draw(g.output_shape)


def ordered(a, last):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if last else np.ascontiguousarray(a)


def run(g, contraction, x, w, y, last=False, **options):
    if contraction == "conv":
        return JIT.conv(g, ordered(x, last), w, **options)
    if contraction == "conv_transpose":
        return JIT.conv_transpose(g, ordered(y, last), w, **options)
    return JIT.conv_weight_grad(g, ordered(x, last), ordered(y, last))


def by_definition(g, contraction, x, w, y):
    """The trilinear form, tap by tap, over positions that are looked up one axis at a time."""
    x, w, y = (a.astype(np.float64) for a in (x, w, y))
    result = np.zeros({"conv": y, "conv_transpose": x, "conv_weight_grad": w}[contraction].shape)
    for tap in product(*map(range, g.kernel_size)):
        small, large = [], []
        for axis, k in enumerate(tap):
            at = np.arange(g.output_size[axis])
            reads = at * g.stride[axis] - g.padding[axis][0] + k * g.dilation[axis]
            inside = (reads >= 0) & (reads < g.input_size[axis])
            small.append(at[inside])
            large.append(reads[inside])
        m = g.out_channels_per_group
        s, b = np.ix_(range(g.batch), range(g.out_channels), *small), np.ix_(range(g.batch), range(g.groups), *large)
        weight = w[(slice(None), 0, *tap)].reshape(1, -1, *[1] * g.ndim)
        if contraction == "conv":
            result[s] += np.repeat(x[b], m, axis=1) * weight
        elif contraction == "conv_transpose":
            parts = y[s] * weight
            result[b] += parts.reshape(g.batch, g.groups, m, *parts.shape[2:]).sum(axis=2)
        else:
            result[(slice(None), 0, *tap)] += (np.repeat(x[b], m, axis=1) * y[s]).sum(axis=(0, *range(2, 2 + g.ndim)))
    return result


@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize("name", CASES)
def test_exact_on_integers_for_every_layout_and_number_of_threads(name, contraction):
    g = CASES[name]
    x, w, y = arrays(g)
    want = by_definition(g, contraction, x, w, y)
    for last, threads in product((False, True), (1, 3)):
        with config(threads=threads):
            np.testing.assert_array_equal(run(g, contraction, x, w, y, last), want, err_msg=f"last={last} threads={threads}")


@pytest.mark.parametrize("multiplier", [2, 3, 8, 16, 17, 32])
@pytest.mark.parametrize("little", [0, 1 << 16])
def test_many_outputs_of_one_input_channel(multiplier, little):
    """A whole vector of outputs of one input channel, and more, with the kernels of large and of little work."""
    for channels, contraction, last in product((2, 3, 5), CONTRACTIONS, (False, True)):
        g = geometry(channels, (5,), (3,), batch=2, multiplier=multiplier)
        x, w, y = arrays(g)
        with little_work(little):
            np.testing.assert_array_equal(run(g, contraction, x, w, y, last), by_definition(g, contraction, x, w, y))


@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["3x3", "21 channels", "kernel 4 stride 2", "1-D dilated"])
def test_exact_in_other_dtypes(name, contraction, dtype):
    kind = np.dtype(dtype) if dtype != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16
    g = CASES[name]
    x, w, y = arrays(g, kind)
    want = by_definition(g, contraction, x, w, y).astype(kind)  # exact sums, one rounding
    for last in (False, True):
        got = run(g, contraction, x, w, y, last)
        assert got.dtype == kind
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))


@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_whatever_must_not_matter(name, contraction):
    """Layout, threads, batch, and vectors of half the width."""
    g = CASES[name]
    x, w, y = arrays(g, seed=1, integers=False)
    with config(threads=1):
        first = run(g, contraction, x, w, y)
    bits = np.ascontiguousarray(first).view(np.uint32)
    for last, threads in ((True, 1), (False, 2), (True, 2)):
        with config(threads=threads):
            np.testing.assert_array_equal(np.ascontiguousarray(run(g, contraction, x, w, y, last)).view(np.uint32), bits)
    if kernels.named_target("avx2").runs_here:
        with kernels.use_target("avx2"), config(threads=2):
            for last in (False, True):
                np.testing.assert_array_equal(np.ascontiguousarray(run(g, contraction, x, w, y, last)).view(np.uint32), bits)


@pytest.mark.parametrize("contraction", ["conv", "conv_transpose"])
@pytest.mark.parametrize("name", ["3x3", "3x3 s2", "kernel 4 stride 2"])
def test_position_in_the_batch_changes_no_bit(name, contraction):
    g = CASES[name]
    x, w, y = arrays(g, seed=2, integers=False)
    whole = run(g, contraction, x, w, y)
    one = ConvGeometry(1, *(getattr(g, f) for f in ("in_channels", "out_channels", "groups", "input_size", "output_size",
                                                    "kernel_size", "stride", "padding", "dilation")))  # fmt: skip
    for n in range(g.batch):
        np.testing.assert_array_equal(run(one, contraction, x[n : n + 1], w, y[n : n + 1])[0], whole[n])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize("where", ["x", "w", "y"])
@pytest.mark.parametrize("name", ["3x3", "3x3 s2", "1-D stride 8", "stride 3, kernel 2"])
def test_infinities_go_where_the_definition_sends_them(name, where, contraction, last):
    """In conv and conv_weight_grad the padding takes part (0 * inf is NaN); conv_transpose multiplies no zero that is not data."""
    g = CASES[name]
    data = dict(zip("xwy", arrays(g, seed=3), strict=True))
    data[where].flat[[0, data[where].size // 2 + 1]] = np.inf, np.nan
    x, w, y = (data[k].astype(np.float64) for k in "xwy")
    with np.errstate(invalid="ignore"):
        if contraction == "conv_transpose":
            want = by_definition(g, contraction, x, w, y)
        else:
            sizes = tuple((o - 1) * s + e for o, s, e in zip(g.output_size, g.stride, g.kernel_extent, strict=True))
            padded = np.zeros((*x.shape[:2], *sizes))
            here = tuple(slice(lo, lo + n) for (lo, _), n in zip(g.padding, g.input_size, strict=True))
            here = tuple(slice(h.start, min(h.stop, n)) for h, n in zip(here, sizes, strict=True))
            padded[(..., *here)] = x[(..., *(slice(0, h.stop - h.start) for h in here))]
            wide = ConvGeometry.from_conv(padded.shape, w.shape, stride=g.stride, dilation=g.dilation, groups=g.groups)
            want = by_definition(wide, contraction, padded, w, y)
        got = run(g, contraction, *(data[k] for k in "xwy"), last)
    np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("contraction", ["conv", "conv_transpose"])
@pytest.mark.parametrize("name", ["3x3", "21 channels", "kernel 4 stride 2", "1-D dilated", "13x13"])
def test_epilogue(name, contraction, last):
    g = CASES[name]
    x, w, y = arrays(g, seed=4)
    plain = by_definition(g, contraction, x, w, y)
    rng = np.random.default_rng(5)
    bias = rng.integers(-9, 10, g.groups).astype(np.float32)
    residual = rng.integers(-9, 10, plain.shape).astype(np.float32)
    got = run(g, contraction, x, w, y, last, epilogue=Epilogue(bias, residual, "relu"))
    np.testing.assert_array_equal(got, np.maximum(plain + bias.reshape(1, -1, *[1] * g.ndim) + residual, 0))


def test_the_plan_names_the_schedule():
    g = CASES["3x3"]
    for contraction, last in product(CONTRACTIONS, (False, True)):
        plan = JIT.plan(g, contraction, np.dtype(np.float32), last)
        assert plan.algorithm.startswith("depthwise"), plan


def test_long_strides_make_vectors_of_their_phases():
    for name in ("FCN up-sampling", "FCN up-sampling, cut", "long strides, three taps a run", "1-D stride 8", "1-D stride 48"):
        plan = JIT.plan(CASES[name], "conv_transpose", np.dtype(np.float32))
        assert plan.algorithm == "depthwise, channels first, vectors across stride phases", name


def test_the_definition_here_can_fail():
    """A flipped stencil, and padding moved by one, differ from what the engine gives."""
    g = CASES["21 channels"]
    x, w, y = arrays(g)
    got = run(g, "conv", x, w, y)
    assert not np.array_equal(got, by_definition(g, "conv", x, w[..., ::-1, ::-1], y))
    moved = ConvGeometry(g.batch, g.in_channels, g.out_channels, g.groups, g.input_size, g.output_size, g.kernel_size, g.stride,
                         ((2, 1), (3, 0)), g.dilation)  # fmt: skip
    assert not np.array_equal(got, by_definition(moved, "conv", x, w, y))
