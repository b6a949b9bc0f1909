"""conv and conv_transpose as a user calls them: padding modes, layouts, epilogue, Tensors, debug lines; margins and columns."""

from __future__ import annotations

import doctest
import random
import sys
from importlib import import_module

import numpy as np
import pytest

import oracle
import preimage as pre
from geometries import MODES, laid_out
from preimage.errors import DTypeError, EngineError, GeometryError, OptionError, ShapeError

NUMBERS = np.random.default_rng(0)


def ints(*shape, dtype=np.float64):
    return NUMBERS.integers(-4, 5, shape).astype(dtype)


# -- margins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", [0, 1, 2, 3])
def test_pad_and_its_adjoint_against_the_oracle(mode, how):
    rng = random.Random(how)
    for _ in range(60):
        ndim = rng.choice((1, 2, 3))
        x = ints(2, 3, *[rng.randint(1, 7) for _ in range(ndim)])
        pairs = []
        for n in x.shape[2:]:
            lo = rng.randint(-2, 9)
            pairs.append((lo, rng.randint(max(-2, -n - lo), 9)))
        expected = oracle.pad(x, pairs, mode)
        x = laid_out(x, how)
        found = pre.pad(x, pairs, mode=mode)
        assert np.array_equal(found, expected)
        assert found.flags.writeable
        assert not np.shares_memory(found, x)
        y = laid_out(ints(*expected.shape), how)
        back = pre.fold_margin(y, pairs, mode=mode)
        assert back.shape == x.shape
        assert np.sum(found * y) == np.sum(x * back), (pairs, mode)
        assert not np.shares_memory(back, y)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_pad_is_numpy_pad(mode):
    word = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    x = ints(4, 5)
    found = pre.pad(x, ((3, 9), (0, 2)), mode=mode, axes=(0, 1))
    assert np.array_equal(found, np.pad(x, ((3, 9), (0, 2)), mode=word))


def test_pad_options():
    x = ints(2, 3, 4)
    assert np.array_equal(pre.pad(x, 1, value=7.0), np.pad(x, ((0, 0), (0, 0), (1, 1)), constant_values=7.0))
    assert np.array_equal(pre.pad(x, ((1, 0), (0, -2)), axes=(-3, 2)), np.pad(x, ((1, 0), (0, 0), (0, 0)))[:, :, :-2])
    assert np.array_equal(pre.pad(x, 0), x)
    assert not np.shares_memory(pre.pad(x, 0), x)
    assert pre.pad(x.astype(np.float16), 1, mode="circular").dtype == np.float16
    last = laid_out(ints(2, 3, 4, 5), 1)
    for mode in MODES:
        assert pre.pad(last, 1, mode=mode).strides[1] == 8, "channels stay innermost"
        assert pre.fold_margin(last, 1, mode=mode).strides[1] == 8
    wide = pre.fold_margin(np.ones((1, 1, 3001), np.float16), ((3000, 0),), mode="replicate")
    assert wide[0, 0, 0] == np.float16(3001), "16-bit floats are summed in float32"


def test_pad_errors():
    x = ints(2, 3, 4)
    with pytest.raises(OptionError, match="padding mode must be one of"):
        pre.pad(x, 1, mode="wrap")
    with pytest.raises(OptionError, match="takes numbers of cells, not 'same'"):
        pre.pad(x, "same")
    with pytest.raises(ShapeError, match="axis 2: margins -3 and -3 leave a size below 0"):
        pre.pad(x, -3)
    with pytest.raises(ShapeError, match="axis 2: margins 3 and 3 leave a size below 0"):
        pre.fold_margin(x, 3)
    with pytest.raises(ShapeError, match="axis 2 has no cells that mode 'reflect' could copy"):
        pre.pad(x[:, :, :0], 1, mode="reflect")
    with pytest.raises(ShapeError, match="name one axis twice"):
        pre.pad(x, 1, axes=(2, -1))
    assert pre.pad(x[:, :, :0], 1).shape == (2, 3, 2)


@pytest.mark.parametrize("mode", MODES)
def test_margins_differentiate(mode):
    pre.check_grads(lambda a: pre.pad(a, ((2, 5), (-1, 3)), mode=mode), [NUMBERS.standard_normal((1, 2, 4, 3))])
    pre.check_grads(lambda a: pre.fold_margin(a, ((2, 3), (-1, 3)), mode=mode), [NUMBERS.standard_normal((1, 2, 8, 6))])
    pre.check_adjoint(lambda a: pre.pad(a, 4, mode=mode), np.zeros((1, 2, 3, 5), np.float32))


# -- unfold and fold ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [0, 1, 2, 3])
def test_unfold_makes_conv_a_product(ndim):
    rng = random.Random(ndim)
    for _ in range(30):
        x = ints(2, 3, *[rng.randint(4, 7) for _ in range(ndim)])
        kernel, stride, dilation = ([rng.randint(1, 3) for _ in range(ndim)] for _ in range(3))
        padding = [(rng.randint(0, 3), rng.randint(0, 3)) for _ in range(ndim)]
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        try:
            y = pre.conv(x, w := ints(5, 3, *kernel), **options)
        except GeometryError:
            continue
        columns = pre.unfold(laid_out(x, rng.choice((0, 1, 2, 3))), kernel, **options)
        assert np.array_equal((w.reshape(5, -1) @ columns).reshape(y.shape), y)
        c = ints(*columns.shape)
        back = pre.fold(c, x.shape[2:], kernel, **options)
        assert back.shape == x.shape
        assert np.sum(columns * c) == np.sum(x * back)


def test_unfold_and_fold_differentiate():
    pre.check_grads(lambda a: pre.unfold(a, (2, 3), stride=2, padding=1), [NUMBERS.standard_normal((1, 2, 4, 5))])
    pre.check_grads(lambda a: pre.fold(a, (4, 5), (2, 3), padding=1), [NUMBERS.standard_normal((1, 12, 25))])
    narrow = pre.fold(np.ones((1, 3000, 1), np.float16), (3000,), (3000,))
    assert narrow.dtype == np.float16


def test_fold_errors():
    with pytest.raises(ShapeError, match=r"wanted \(N, C \* 4, positions\)"):
        pre.fold(np.ones((1, 6, 9)), (4, 4), (2, 2))
    with pytest.raises(ShapeError, match=r"columns have 8 positions, but a signal of size \(4, 4\) has \(3, 3\) = 9"):
        pre.fold(np.ones((1, 4, 8)), (4, 4), (2, 2))
    with pytest.raises(GeometryError, match="batch and a channel axis"):
        pre.unfold(np.ones(3), 2)
    with pytest.raises(GeometryError, match="the kernel covers 5"):
        pre.unfold(np.ones((1, 1, 3)), 5)


# -- the contractions as a user calls them -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("recording", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "clip"])
def test_every_option_together(mode, layout, recording, activation):
    """Fused where nothing records, operation by operation where a gradient is wanted: the same values, exactly."""
    last = layout == "channels_last"
    x, w, b, r = ints(2, 4, 6, 7), ints(6, 2, 3, 2), ints(6), ints(2, 6, 3, 8)
    options = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "groups": 2, "padding_mode": mode}
    after = {"activation": activation, "slope": 0.25, "clip_range": (-3, 9)}
    raw = oracle_conv(oracle.pad(x, options["padding"], mode), w, 2, (2, 1)) + b[:, None, None] + r
    expected = activate(raw, activation)
    x, r = (np.moveaxis(a, 1, -1) if last else a for a in (x, r))
    given = [pre.Tensor(a, requires_grad=True) for a in (x, w, b, r)] if recording else [x, w, b, r]
    found = pre.conv(*given[:3], residual=given[3], layout=layout, **options, **after)
    assert isinstance(found, pre.Tensor) == recording
    values = np.asarray(found)
    assert np.array_equal(np.moveaxis(values, -1, 1) if last else values, expected)

    y, bias, rest = ints(2, 6, 3, 8), ints(4), ints(2, 4, 6, 7)
    bare = pre.conv_transpose(y, w, stride=(2, 1), groups=2, output_size=(7, 9))
    raw = pre.fold_margin(bare, options["padding"], mode=mode) + bias[:, None, None] + rest
    expected = activate(raw, activation)
    y, rest = (np.moveaxis(a, 1, -1) if last else a for a in (y, rest))
    given = [pre.Tensor(a, requires_grad=True) for a in (y, w, bias, rest)] if recording else [y, w, bias, rest]
    found = pre.conv_transpose(*given[:3], residual=given[3], layout=layout, output_size=(6, 7), **options, **after)
    values = np.asarray(found)
    assert np.array_equal(np.moveaxis(values, -1, 1) if last else values, expected)


def oracle_conv(x, w, groups, stride):
    small = tuple((n - k) // s + 1 for n, k, s in zip(x.shape[2:], w.shape[2:], stride, strict=True))
    return oracle.conv(x, w, oracle.Sizes(groups, x.shape[2:], small, w.shape[2:], stride, (0, 0), (1, 1)))


def activate(a, activation):
    if activation == "relu":
        return np.maximum(a, 0)
    if activation == "leaky_relu":
        return np.where(a > 0, a, 0.25 * a)
    return np.clip(a, -3, 9) if activation == "clip" else a


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_gradients_of_every_option(mode, layout):
    shapes = ((2, 5, 6, 4), (2, 3, 7, 6)) if layout == "channels_last" else ((2, 4, 5, 6), (2, 6, 3, 7))
    x, r, w, b = (NUMBERS.standard_normal(s) for s in (*shapes, (6, 2, 3, 2), (6,)))
    options = {"stride": (2, 1), "padding": ((2, 0), (0, 2)), "groups": 2, "padding_mode": mode, "layout": layout}

    def forward(x, w, b, r):
        return pre.conv(x, w, b, residual=r, activation="leaky_relu", slope=0.5, **options)

    pre.check_grads(forward, [x, w, b, r])

    def back(y, w, b):
        return pre.conv_transpose(y, w, b, activation="clip", clip_range=(-50, 50), **options)

    small = (2, 4, 5, 6) if layout == "channels_last" else (2, 6, 4, 5)
    pre.check_grads(back, [NUMBERS.standard_normal(small), w, NUMBERS.standard_normal(4)])
    pre.check_grads(
        lambda x, y: pre.conv_weight_grad(x, y, kernel_size=(3, 2), **options),
        [x, pre.conv(x, w, **options)],
    )


def test_the_result_follows_the_arguments():
    x, w = ints(1, 2, 5), ints(3, 2, 2)
    assert isinstance(pre.conv(x, w), np.ndarray)
    assert isinstance(pre.conv(pre.Tensor(x), w), pre.Tensor)
    assert not pre.conv(pre.Tensor(x), w).requires_grad
    assert not pre.conv(pre.Tensor(x), w, activation="relu").requires_grad
    with pre.no_grad():
        quiet = pre.conv(pre.Tensor(x, requires_grad=True), w, activation="relu")
    assert not quiet.requires_grad
    lists = pre.conv(x.tolist(), w.tolist())
    assert np.array_equal(lists, pre.conv(x, w))


def test_which_arguments_the_results_are_linear_in():
    """What the dot test of the table goes by."""
    from preimage.autograd import primitives

    found = {
        name: primitives()[name].linear
        for name in ("pad", "fold_margin", "unfold", "fold", "sum_over_space", "spread_over_space")
    }
    assert found == dict.fromkeys(found, (0,))
    assert all(primitives()[name].linear == (0, 1) for name in ("conv", "conv_transpose", "conv_weight_grad"))


def test_no_spatial_axis():
    x, w, b = ints(3, 4), ints(5, 4), ints(5)
    assert np.array_equal(pre.conv(x, w, b), x @ w.T + b)
    assert np.array_equal(pre.conv_transpose(x @ w.T, w), x @ w.T @ w)
    assert np.array_equal(pre.conv_weight_grad(x, x @ w.T, kernel_size=()), (x @ w.T).T @ x)


def test_the_defaults():
    """What is not said is 1, 0 or nothing: against the oracle, for each contraction."""
    x, w, y = ints(2, 3, 6, 5), ints(4, 3, 2, 3), ints(2, 4, 5, 3)
    s = oracle.Sizes(1, (6, 5), (5, 3), (2, 3), (1, 1), (0, 0), (1, 1))
    assert np.array_equal(pre.conv(x, w), oracle.conv(x, w, s))
    assert np.array_equal(pre.conv_transpose(y, w), oracle.conv_transpose(y, w, s))
    assert np.array_equal(pre.conv_weight_grad(x, y, kernel_size=(2, 3)), oracle.conv_weight_grad(x, y, s))


@pytest.mark.parametrize("call", [pre.conv, pre.conv_transpose])
@pytest.mark.parametrize("mixed", range(3))
def test_one_dtype_with_and_without_a_bias(call, mixed):
    arrays = [ints(1, 3, 5), ints(3, 3, 2), ints(3)]
    arrays[mixed] = arrays[mixed].astype(np.float32)
    with pytest.raises(DTypeError, match="all arrays must have one dtype"):
        call(*arrays)
    if mixed < 2:
        with pytest.raises(DTypeError, match="all arrays must have one dtype"):
            call(*arrays[:2])
    with pytest.raises(DTypeError, match="all arrays must have one dtype"):
        pre.conv_weight_grad(arrays[0].astype(np.float32), ints(1, 3, 4), kernel_size=2)


def test_channels_last_with_few_axes():
    x, w = ints(3, 4), ints(5, 4)
    assert np.array_equal(pre.conv(x, w, layout="channels_last"), x @ w.T)
    x, w = ints(2, 5, 3), ints(4, 3, 2)
    assert np.array_equal(pre.conv(x, w, layout="channels_last"), np.moveaxis(pre.conv(np.moveaxis(x, -1, 1), w), 1, -1))


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_the_bias_gradient_differentiates_in_both_layouts(layout):
    """Its second derivative spreads over space again, along the right axis; sizes differ so that a wrong axis shows."""
    x, w, b = (
        NUMBERS.standard_normal((2, 3, 5, 4)),
        NUMBERS.standard_normal((2, 4 if layout == "channels_last" else 3, 2, 2)),
        NUMBERS.standard_normal(2),
    )

    def square(x, w, b):
        h = pre.conv(x, w, b, layout=layout)
        return h * h * h

    pre.check_grads(square, [x, w, b])


def test_nothing_is_shared_or_written():
    x, w, b, r = ints(1, 1, 4), np.ones((1, 1, 1)), np.zeros(1), np.zeros((1, 1, 4))
    before = x.copy()
    for y in (pre.conv(x, w), pre.conv(x, w, b), pre.conv(x, w, residual=r, activation="relu"), pre.conv_transpose(x, w)):
        assert not any(np.shares_memory(y, a) for a in (x, w, b, r))
        y[...] = 99
    assert np.array_equal(x, before)
    assert not r.any()


# -- choice of engine and debug lines ----------------------------------------------------------------------------------


def test_debug_lines(capfd):
    x, w = ints(1, 2, 5), ints(3, 2, 2)
    pre.conv(x, w)
    assert capfd.readouterr().err == ""
    with pre.config(engine="gemm", debug=1):
        pre.conv(x, w)
    err = capfd.readouterr().err
    assert err == "preimage: conv runs on gemm (asked for by name)\n"
    with pre.config(engine="reference", debug=2):
        pre.conv_transpose(ints(1, 3, 4), w)
    err = capfd.readouterr().err.splitlines()
    assert err[0] == "preimage: conv_transpose runs on reference (asked for by name)"
    assert " ms " in err[1]
    assert "GFLOP/s" in err[1]
    assert "GB/s" in err[1]
    with pre.config(engine="gemm", debug=3):
        pre.conv_weight_grad(x, ints(1, 3, 4), kernel_size=2)
    err = capfd.readouterr().err
    geometry = pre.ConvGeometry.from_conv((1, 2, 5), (3, 2, 2))
    with pre.config(engine="gemm"):
        assert str(pre.plan(geometry, np.float64, "conv_weight_grad")) in err, "the plan that plan() gives"


def test_the_choice_follows_the_settings():
    x, w = ints(1, 2, 5), ints(3, 2, 2)
    with pre.config(engine="reference"):
        a = pre.conv(x, w)
        with pre.config(engine="gemm"):
            assert np.array_equal(pre.conv(x, w), a)
    with pre.config(engine="nothing"), pytest.raises(OptionError, match="no engine is called 'nothing'; there are"):
        pre.conv(x, w)
    with pytest.raises(OptionError, match="contraction must be one of"):
        pre.plan(pre.ConvGeometry.from_conv((1, 2, 5), (3, 2, 2)), contraction="fprop")
    with pytest.raises(OptionError, match="layout must be"):
        pre.plan(pre.ConvGeometry.from_conv((1, 2, 5), (3, 2, 2)), layout="NHWC")


def test_an_engine_that_cannot_is_an_error_not_a_fallback(monkeypatch):
    from preimage import engines as registry

    class Refuses:
        name = "refuses"
        promises = ()

        def unavailable(self):
            return None

        def supports(self, geometry, contraction, dtype):
            return "it never does"

    monkeypatch.setitem(sys.modules, "refusing_module", type(sys)("refusing_module"))
    sys.modules["refusing_module"].Refuses = Refuses
    rows = sys.modules["preimage.engines"]._ROWS
    monkeypatch.setitem(rows, "refuses", "refusing_module:Refuses")
    monkeypatch.setitem(rows, "absent", "no_such_module_here:Engine")
    x, w = ints(1, 2, 5), ints(3, 2, 2)
    with pre.config(engine="refuses"), pytest.raises(EngineError, match="engine 'refuses' cannot take this conv: it never does"):
        pre.conv(x, w)
    with pre.config(engine="absent"), pytest.raises(EngineError, match="engine 'absent' cannot run here: cannot be imported"):
        pre.conv(x, w)
    assert "cannot be imported" in registry()["absent"]
    sys.modules["preimage.engines"]._loaded.pop("absent")
    sys.modules["preimage.engines"]._loaded.pop("refuses")


@pytest.mark.parametrize("slope", ["0.1", None, 1j, np.ones(2), True])
def test_a_slope_is_a_number(slope):
    x, w = np.ones((1, 1, 4)), np.ones((1, 1, 2))
    for contraction in (pre.conv, pre.conv_transpose):
        with pytest.raises(OptionError, match="slope must be a number"):
            contraction(x, w, activation="leaky_relu", slope=slope)
    assert pre.conv(-x, w, activation="leaky_relu", slope=np.array(0.25)).tolist() == [[[-0.5] * 3]]


def test_lists_are_read_as_by_every_other_operation():
    """Numbers and lists are float64; integers are refused in arrays alone, whose dtype says what their owner meant."""
    assert pre.conv([[[1, 2, 4]]], [[[-1, 1]]]).tolist() == [[[1.0, 2.0]]]
    assert pre.conv_transpose([[[1, 10]]], [[[1, 2]]], [0.5]).tolist() == [[[1.5, 12.5, 20.5]]]
    assert pre.conv_weight_grad([[[1, 2, 3]]], [[[1, 10]]], kernel_size=2).tolist() == [[[21.0, 32.0]]]
    with pytest.raises(DTypeError, match="x has dtype int64"):
        pre.conv(np.array([[[1, 2, 4]]]), [[[-1.0, 1.0]]])
    with pytest.raises(DTypeError, match="prepared weight"):
        pre.ops.exp(pre.prepare(np.ones((1, 1, 2))))


def test_many_geometries_do_not_pile_up():
    run = sys.modules["preimage.engines"]
    with pre.config(engine="gemm"):
        for n in range(3, run._MOST_CHOICES + 40):
            pre.conv(np.ones((1, 1, n)), np.ones((1, 1, 2)))
    assert len(run._remembered[1]) <= run._MOST_CHOICES


@pytest.mark.parametrize("module", ["ops.conv", "ops.pad", "ops.unfold", "ops.checks", "linop.conv"])
def test_examples_in_docstrings(module):
    results = doctest.testmod(import_module(f"preimage.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
