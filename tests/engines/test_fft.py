"""The fft engine against integers, the definition and SciPy; its bits, its bounds, its memory and its choice."""

from __future__ import annotations

import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import preimage as pre
from preimage.audit.case import Case
from preimage.audit.oracle import Truth, operands
from preimage.engines import get
from preimage.engines.prepared import PreparedWeight
from preimage.geometry import ConvGeometry

RNG = np.random.default_rng(0)
FFT, REFERENCE = get("fft"), get("reference")
CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")
plans = sys.modules["preimage.engines.fft.plan"]
contractions = sys.modules["preimage.engines.fft.contractions"]
engine_module = sys.modules["preimage.engines.fft.engine"]


def geometry(n, channels, size, kernel, **options):
    inner, outer = channels
    return ConvGeometry.from_conv((n, inner, *size), (outer, inner // options.get("groups", 1), *kernel), **options)


#: Unequal sizes throughout: strides with and without common factors with the dilation, crops, residues and phases that are cut short.
GEOMETRIES = {
    "1-D": geometry(2, (3, 4), (41,), (9,), padding=((2, 5),)),
    "1-D, stride 6, dilation 4": geometry(2, (2, 3), (97,), (7,), padding=((3, 8),), stride=6, dilation=4),
    "2-D": geometry(3, (3, 2), (17, 22), (7, 5), padding=((1, 4), (3, 0))),
    "depthwise": geometry(2, (6, 6), (15, 18), (9, 7), padding=((4, 3), (2, 5)), groups=6),
    "depthwise, two filters each, stride 2": geometry(2, (3, 6), (15, 18), (8, 7), padding=(4, 3), groups=3, stride=(2, 3)),
    "groups, stride 3, dilation 2": geometry(
        2, (4, 6), (23, 19), (4, 5), padding=((2, 3), (1, 5)), groups=2, stride=3, dilation=2
    ),
    "a crop": geometry(2, (2, 3), (23, 21), (6, 4), padding=((-2, 3), (1, -3)), stride=(1, 2)),
    "as large as the picture": geometry(1, (1, 1), (32, 27), (32, 27), padding=((15, 16), (13, 13))),
    "a kernel over padding alone": geometry(1, (1, 2), (3, 2), (2, 9), padding=((9, 0), (20, 31)), stride=(1, 5)),
    "3-D": geometry(2, (2, 3), (7, 9, 8), (3, 5, 4), padding=((1, 2), (0, 3), (2, 2)), stride=(1, 2, 1), dilation=(2, 1, 1)),
}


@pytest.fixture(params=["whole", "tiles"])
def tiles(request, monkeypatch):
    """Plans as they are, and such that cut pictures and weights into small parts."""
    if request.param == "tiles":
        monkeypatch.setattr(plans, "TILE_BYTES", 1 << 12)
    forget()
    yield request.param
    monkeypatch.undo()
    forget()


def forget():
    for cache in (plans.plan_for, plans._plan, engine_module._contractions):
        cache.cache_clear()


def arrays(g, dtype=np.float64, integers=False):
    draw = (lambda shape: RNG.integers(-9, 10, shape)) if integers else RNG.standard_normal
    return tuple(draw(shape).astype(dtype) for shape in (g.input_shape, g.weight_shape, g.output_shape))


def given(contraction, x, w, y):
    return operands(contraction, x, w, y)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_rounded_results_are_the_integers_of_the_oracle(name, tiles):
    g = GEOMETRIES[name]
    x, w, y = arrays(g, np.int64, integers=True)
    case = Case.of_conv(
        g.batch, g.in_channels, g.out_channels, g.groups, g.input_size, g.kernel_size, g.stride, g.padding, g.dilation
    )  # fmt: skip
    truth = Truth(case, x, w, y)
    for contraction in CONTRACTIONS:
        for dtype, most in ((np.float64, 1e-9), (np.float32, 0.2)):
            got = getattr(FFT, contraction)(g, *(a.astype(dtype) for a in given(contraction, x, w, y)))
            assert got.dtype == dtype
            assert np.abs(got - np.rint(got)).max() < most
            np.testing.assert_array_equal(np.rint(got).astype(np.int64), truth[contraction], err_msg=contraction)


def test_a_period_too_short_by_one_is_noticed(monkeypatch):
    """The check above can fail: with one position less, taps meet the wrong positions."""
    g = GEOMETRIES["1-D"]
    least = plans._whole
    monkeypatch.setattr(plans, "_whole", lambda axis: least(axis) - 1)
    monkeypatch.setattr(plans, "good_size", lambda least: least)
    forget()
    x, w, y = arrays(g)
    for contraction in CONTRACTIONS:
        operands = given(contraction, x, w, y)
        error = np.abs(getattr(FFT, contraction)(g, *operands) - getattr(REFERENCE, contraction)(g, *operands)).max()
        assert error > 1e-3, contraction
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_errors_are_within_the_stated_bound_and_1e_14_of_the_largest(name, tiles):
    g = GEOMETRIES[name]
    x, w, y = arrays(g)
    for contraction in CONTRACTIONS:
        a, b = given(contraction, x, w, y)
        got, want = getattr(FFT, contraction)(g, a, b), getattr(REFERENCE, contraction)(g, a, b)
        assert np.abs(got - want).max() <= 1e-14 * max(np.abs(want).max(), np.abs(a).max() * np.abs(b).max())
        narrow = getattr(FFT, contraction)(g, a.astype(np.float32), b.astype(np.float32))
        want = getattr(REFERENCE, contraction)(g, *(v.astype(np.float32).astype(np.float64) for v in (a, b)))
        bound = FFT.error_bound(g, contraction, np.dtype(np.float32)) * np.linalg.norm(a) * np.abs(b).sum()
        assert np.abs(narrow - want).max() <= bound


def test_the_dot_test():
    for g in GEOMETRIES.values():
        x, w, y = arrays(g)
        forms = np.vdot(y, FFT.conv(g, x, w)), np.vdot(FFT.conv_transpose(g, y, w), x), np.vdot(FFT.conv_weight_grad(g, x, y), w)
        size = np.linalg.norm(x) * np.linalg.norm(w) * np.linalg.norm(y)
        assert np.ptp(forms) <= 1e-12 * size


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
def test_scipy_gives_the_same(mode):
    signal = pytest.importorskip("scipy.signal")
    for size, kernel in (((64, 50), (64, 50)), ((90, 71), (31, 17)), ((3000,), (333,)), ((12, 14, 13), (9, 8, 7))):
        x, w = RNG.standard_normal(size), RNG.standard_normal(kernel)
        lo = {"full": [k - 1 for k in kernel], "same": [k - 1 - (k - 1) // 2 for k in kernel], "valid": [0] * len(size)}[mode]
        hi = {"full": [k - 1 for k in kernel], "same": [(k - 1) // 2 for k in kernel], "valid": [0] * len(size)}[mode]
        g = ConvGeometry.from_conv((1, 1, *size), (1, 1, *kernel), padding=tuple(zip(lo, hi, strict=True)))
        got = FFT.conv(g, x[None, None], np.flip(w)[None, None])[0, 0]
        for peer in (signal.fftconvolve, signal.oaconvolve):
            want = peer(x, w, mode=mode)
            assert np.abs(got - want).max() <= 1e-13 * np.abs(want).max()


# ------------------------------------------------------------------------------------------------------------- bits


def test_a_line_has_the_same_transform_alone_and_among_others():
    for dtype in (np.float32, np.float64):
        for n in (8, 15, 45, 72, 97, 280, 384):
            for rows in (1, 2, 3, 4, 5, 8, 9, 17):
                x = RNG.standard_normal((n, rows)).astype(dtype)
                X = np.fft.rfft(x, axis=0, norm="ortho")
                for function, a, how in (
                    (np.fft.rfft, x, {}), (np.fft.fft, X, {}), (np.fft.ifft, X, {}), (np.fft.irfft, X, {"n": n})
                ):  # fmt: skip
                    all_at_once = function(a, axis=0, norm="ortho", **how)
                    for r in range(rows):
                        alone = function(a[:, r].copy(), norm="ortho", **how)
                        assert alone.tobytes() == np.ascontiguousarray(all_at_once[:, r]).tobytes()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_bits_do_not_depend_on_batch_layout_threads_memory_and_preparation(name, tiles):
    g = GEOMETRIES[name]
    one = replace(g, batch=1)
    for dtype in (np.float32, np.float64):
        x, w, y = arrays(g, dtype)
        for contraction in CONTRACTIONS:
            a, b = given(contraction, x, w, y)
            run = getattr(FFT, contraction)
            bits = run(g, a, b).tobytes()
            last = np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
            others = [(run, last, b)]
            if contraction != "conv_weight_grad":
                prepared = PreparedWeight(b)
                others += [(run, a, prepared), (run, last, prepared)]
                alone = [run(one, image[None], prepared if k % 2 else b) for k, image in enumerate(a)]
                assert np.concatenate(alone).tobytes() == bits, contraction
            for workspace in (0, 1 << 14):
                with pre.config(workspace_bytes=workspace, threads=1):
                    for call, *operands in others:
                        assert np.ascontiguousarray(call(g, *operands)).tobytes() == bits, contraction


def test_parts_of_a_batch_give_the_weight_gradient_of_the_whole():
    g = geometry(5, (2, 3), (19, 18), (9, 7), padding=3)
    x, _, y = arrays(g, np.float32)
    whole = FFT.conv_weight_grad(g, x, y)
    part = pre.reduction.part_sum(lambda i: FFT.conv_weight_grad(replace(g, batch=len(x[i])), x[i], y[i]), 5)
    assert part.total(5).tobytes() == whole.tobytes()


# ---------------------------------------------------------------------------------------------------- types, ends, memory


def test_narrow_floats_are_rounded_once_after_the_epilogue():
    g = geometry(2, (2, 3), (19, 18), (9, 7), padding=3)
    x, w, y = arrays(g, np.float16)
    bias, residual = RNG.standard_normal(3).astype(np.float16), y
    epilogue = engine_module.Epilogue(bias=bias, residual=residual, activation="relu")
    got = FFT.conv(g, x, w, epilogue)
    want = FFT.conv(g, x.astype(np.float32), w.astype(np.float32)) + bias.astype(np.float32)[:, None, None] + residual
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, np.maximum(want, 0).astype(np.float16))


def test_empty_arrays_and_padding_alone_give_zeros():
    for shape, weight, padding in (((0, 2, 9), (3, 2, 7), 0), ((1, 0, 9), (3, 0, 7), 0), ((1, 1, 1), (2, 1, 2), ((9, -3),))):
        g = ConvGeometry.from_conv(shape, weight, padding=padding)
        x, w, y = arrays(g)
        for contraction in CONTRACTIONS:
            np.testing.assert_array_equal(
                getattr(FFT, contraction)(g, *given(contraction, x, w, y)),
                getattr(REFERENCE, contraction)(g, *given(contraction, x, w, y)),
            )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_its_block_and_nothing_else(bad):
    g = geometry(2, (4, 4), (20, 20), (9, 9), padding=4, groups=2)
    x, w, _ = arrays(g)
    x[1, 2, 3, 4] = bad
    y, exact = FFT.conv(g, x, w), REFERENCE.conv(g, x, w)
    assert np.isfinite(y[0]).all()
    assert np.isfinite(y[1, :2]).all()
    assert np.isnan(y[1, 2:]).all()  # the whole picture, where the definition spoils only what the kernel reaches
    assert np.isfinite(exact[1, 2:, -5:]).all()


def test_memory_is_within_the_stated_workspace():
    for g in (
        geometry(1, (1, 1), (256, 256), (64, 64), padding=31),
        geometry(2, (16, 24), (40, 40), (15, 15), padding=7),
        geometry(2, (32, 32), (40, 40), (15, 15), padding=7, groups=32),
    ):
        x, w, y = arrays(g)
        for contraction in CONTRACTIONS:
            a, b = given(contraction, x, w, y)
            for workspace in (0, 16 << 20):
                with pre.config(workspace_bytes=workspace):
                    stated = FFT.plan(g, contraction, a.dtype).workspace_bytes
                    result = getattr(FFT, contraction)(g, a, b)
                    tracemalloc.start()
                    getattr(FFT, contraction)(g, a, b)
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                    assert peak - result.nbytes <= stated, (contraction, workspace)


# ------------------------------------------------------------------------------------------------------------- the choice

BLUR = geometry(1, (1, 1), (256, 256), (256, 256), padding=127)
LESS = geometry(1, (1, 1), (64, 64), (64, 64), padding=31)


def test_fast_takes_it_for_large_kernels_and_says_what_it_does():
    assert pre.plan(LESS).engine == "jit"
    assert "accuracy='fast'" in pre.plan(LESS).details["large kernel"]
    with pre.config(accuracy="fast"):
        for contraction in CONTRACTIONS:
            plan = pre.plan(BLUR, contraction=contraction)
            assert plan.engine == "fft"
            assert "384 x 384" in plan.details["transforms"]
            assert {"predicted", "error", "products"} <= set(plan.details)
            assert "direct" in plan.refused
        small = pre.plan(geometry(1, (8, 8), (56, 56), (3, 3), padding=1))
        assert small.engine == "jit"
        assert "at most 5" in small.refused["fft"]
    with pre.config(engine="fft"), pytest.raises(pre.EngineError, match="accuracy='fast'"):
        pre.plan(BLUR)


def test_the_choice_knows_neither_the_batch_nor_the_machine():
    from preimage.engines.jit.compiler import kernels

    names = {}
    with pre.config(accuracy="fast"):
        for target in filter(lambda target: target.runs_here, map(kernels.named_target, ("avx2", "avx512"))):
            with kernels.use_target(target):
                for batch in (1, 64):
                    for threads in (1, 8):
                        for size in (9, 15, 17, 21, 31):
                            with pre.config(threads=threads):
                                g = geometry(batch, (1, 1), (200, 200), (size, size))
                                names.setdefault(size, set()).add(get_name(g))
    assert all(len(found) == 1 for found in names.values())
    assert len(set.union(*names.values())) == 2


def get_name(g):
    return sys.modules["preimage.engines"].choose(g, "conv", np.dtype(np.float32)).name


def test_gradients_of_every_order_go_the_same_way():
    x, w = (pre.Tensor(RNG.standard_normal(shape), requires_grad=True) for shape in ((1, 1, 50, 48), (1, 1, 49, 47)))
    found = {}
    for accuracy in ("exact", "fast"):
        y = pre.conv(x, w, padding=24, accuracy=accuracy)
        gx, gw = pre.grad((y * y).sum(), [x, w], create_graph=True)
        found[accuracy] = [gx.numpy(), gw.numpy(), *(g.numpy() for g in pre.grad((gx * gx).sum() + (gw * gw).sum(), [x, w]))]
    for exact, fast in zip(found["exact"], found["fast"], strict=True):
        assert exact.tobytes() != fast.tobytes()
        assert np.abs(exact - fast).max() <= 1e-12 * np.abs(exact).max()


def test_linop_conv_takes_it_where_asked():
    psf = RNG.random((1, 1, 64, 64))
    for mode in ("zeros", "reflect", "circular"):
        options = {"input_size": (90, 80), "padding": ((31, 32), (30, 33)), "padding_mode": mode}
        fast, exact = pre.linop.Conv(psf, accuracy="fast", **options), pre.linop.Conv(psf, **options)
        x, y = RNG.standard_normal(fast.input_shape), RNG.standard_normal(fast.output_shape)
        assert abs(np.vdot(fast @ x, y) - np.vdot(x, fast.T @ y)) <= 1e-12 * np.linalg.norm(fast @ x) * np.linalg.norm(y)
        for a, b, v in ((fast, exact, x), (fast.T, exact.T, y)):
            assert (a @ v).tobytes() != (b @ v).tobytes()
            assert np.abs(a @ v - b @ v).max() <= 1e-13 * np.abs(b @ v).max()
