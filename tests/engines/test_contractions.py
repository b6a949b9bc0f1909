"""Every engine that runs here, against the oracle: random geometries, memory layouts, dtypes, epilogues, hard values, memory."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from math import prod

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import oracle
import preimage as pre
from geometries import LAYOUTS, laid_out, operands, random_geometry
from preimage.engines import get
from preimage.engines.base import CONTRACTIONS, Epilogue, is_channels_last
from preimage.errors import DTypeError, EngineError
from preimage.geometry import ConvGeometry

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def three(engine, geometry, x, w, y):
    return (
        engine.conv(geometry, x, w),
        engine.conv_transpose(geometry, y, w),
        engine.conv_weight_grad(geometry, x, y),
    )


def truth(geometry, x, w, y):
    s = oracle.sizes_of(geometry)
    return oracle.conv(x, w, s), oracle.conv_transpose(y, w, s), oracle.conv_weight_grad(x, y, s)


@pytest.mark.parametrize("seed", range(6))
def test_random_geometries_in_every_layout(engine, seed):
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    for _ in range(60):
        geometry = random_geometry(rng)
        dtype = rng.choice((np.float32, np.float64))
        x, w, y = operands(geometry, numbers, dtype)
        expected = truth(geometry, x, w, y)
        before = [a.copy() for a in (x, w, y)]
        x, w, y = (laid_out(a, rng.choice(LAYOUTS)) for a in (x, w, y))
        for what, found, right in zip(CONTRACTIONS, three(engine, geometry, x, w, y), expected, strict=True):
            assert found.dtype == dtype
            assert found.shape == right.shape
            assert np.array_equal(found, right), (what, geometry)
            assert found.flags.writeable
            assert not any(np.shares_memory(found, a) for a in (x, w, y))
        for a, b in zip((x, w, y), before, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.simulated
def test_axes_of_one_position_have_no_stride(engine):
    """Whatever number stands for it in memory, also times a stride or dilation that no array reaches."""
    for stride, dilation, kernel in ((1 << 34, 1, 1), (3, 1 << 33, 1), (1 << 20, 2, 2)):
        padding = ((0, 0), (dilation * (kernel - 1), 2))
        geometry = ConvGeometry.from_conv(
            (2, 4, 3, 1), (6, 2, 1, kernel), stride=(1, stride), padding=padding, dilation=(1, dilation), groups=2
        )
        x, w, y = operands(geometry, np.random.default_rng(0))
        odd = [
            as_strided(a, a.shape, [s if n > 1 else 10**9 for n, s in zip(a.shape, a.strides, strict=True)]) for a in (x, w, y)
        ]
        for got, wanted in zip(three(engine, geometry, *odd), truth(geometry, x, w, y), strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("limit", [0, 1, 1000, 40_000])
def test_strips(limit):
    """Any bound on the column buffer gives the same values; the plan keeps to it wherever one position fits."""
    rng, numbers = random.Random(limit), np.random.default_rng(limit)
    engine = get("gemm")
    for _ in range(60):
        geometry = random_geometry(rng)
        x, w, y = (laid_out(a, rng.choice((0, 1))) for a in operands(geometry, numbers))
        expected = truth(geometry, x, w, y)
        with pre.config(workspace_bytes=limit):
            for found, right in zip(three(engine, geometry, x, w, y), expected, strict=True):
                assert np.array_equal(found, right), geometry
            plan = engine.plan(geometry, "conv", np.dtype(np.float32))
            position = geometry.in_channels * prod(geometry.kernel_size) * 4
            assert int(plan.details["columns"].split()[0]) <= max(limit, position)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
def test_narrow_floats_are_summed_in_float32_and_rounded_once(engine, dtype):
    rng, numbers = random.Random(3), np.random.default_rng(3)
    for _ in range(40):
        geometry = random_geometry(rng)
        x, w, y = (a.astype(dtype) for a in operands(geometry, numbers, np.float32))
        if engine.supports(geometry, "conv", dtype):
            pytest.skip(engine.supports(geometry, "conv", dtype))
        for found, right in zip(three(engine, geometry, x, w, y), truth(geometry, x, w, y), strict=True):
            assert found.dtype == dtype
            assert np.array_equal(found.astype(np.float64), right.astype(np.float32).astype(dtype).astype(np.float64))


@pytest.mark.simulated
def test_memory_order_follows_the_first_array(engine):
    geometry = ConvGeometry.from_conv((2, 6, 7, 8), (4, 3, 3, 2), stride=2, padding=1, groups=2)
    x, w, y = operands(geometry, np.random.default_rng(0))
    assert engine.conv(geometry, x, w).flags.c_contiguous
    assert engine.conv_transpose(geometry, y, w).flags.c_contiguous
    assert is_channels_last(engine.conv(geometry, laid_out(x, 1), w))
    assert is_channels_last(engine.conv_transpose(geometry, laid_out(y, 1), w))


EPILOGUES = [
    Epilogue(activation="relu"),
    Epilogue(activation="leaky_relu", slope=0.25),
    Epilogue(activation="clip", lo=-2.0, hi=5.0),
    Epilogue(),
]


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=lambda e: str(e.activation))
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16)], ids=str)
@pytest.mark.simulated
def test_epilogue(engine, epilogue, with_residual, layout, dtype):
    geometry = ConvGeometry.from_conv((2, 6, 7, 8), (4, 3, 3, 2), stride=(2, 1), padding=((1, 0), (0, 2)), groups=2)
    numbers = np.random.default_rng(5)
    x, w, y = (laid_out(a.astype(dtype), layout if a.ndim == 4 else 0) for a in operands(geometry, numbers))
    s = oracle.sizes_of(geometry)
    for call, first, exact, channels in (
        (engine.conv, x, oracle.conv(x, w, s), 4),
        (engine.conv_transpose, y, oracle.conv_transpose(y, w, s), 6),
    ):
        bias = numbers.integers(-5, 6, channels).astype(dtype)
        residual = laid_out(numbers.integers(-9, 10, exact.shape).astype(dtype), 1 - layout) if with_residual else None
        right = exact + bias.astype(np.float64).reshape(-1, 1, 1)
        if residual is not None:
            right = right + residual
        if epilogue.activation == "relu":
            right = np.maximum(right, 0)
        elif epilogue.activation == "leaky_relu":
            right = np.where(right > 0, right, right * epilogue.slope)
        elif epilogue.activation == "clip":
            right = np.clip(right, epilogue.lo, epilogue.hi)
        kept = None if residual is None else residual.copy()
        found = call(geometry, first, w, replace(epilogue, bias=bias, residual=residual))
        assert np.array_equal(found.astype(np.float64), right.astype(dtype).astype(np.float64))
        assert kept is None or np.array_equal(residual, kept)


@pytest.mark.simulated
def test_nan_passes_every_activation(engine):
    geometry = ConvGeometry.from_conv((1, 1, 4), (1, 1, 1))
    x, w = np.array([[[np.nan, -1, 1, np.inf]]], np.float32), np.ones((1, 1, 1), np.float32)
    for epilogue in EPILOGUES[:3]:
        found = engine.conv(geometry, x, w, epilogue)[0, 0]
        assert np.isnan(found[0])
        assert not np.isnan(found[1:]).any()


def test_nan_reaches_exactly_the_outputs_that_use_it(engine):
    rng, numbers = random.Random(8), np.random.default_rng(8)
    for _ in range(60):
        geometry = random_geometry(rng, ndim=rng.choice((1, 2)))
        x, w, y = operands(geometry, numbers)
        s = oracle.sizes_of(geometry)
        if not x.size:
            continue
        x[tuple(rng.randrange(n) for n in x.shape)] = np.nan
        for found, right in (
            (engine.conv(geometry, x, w), oracle.conv(x, w, s)),
            (engine.conv_weight_grad(geometry, x, y), oracle.conv_weight_grad(x, y, s)),
        ):
            assert np.array_equal(np.isnan(found), np.isnan(right)), geometry
        y[tuple(rng.randrange(n) for n in y.shape)] = np.nan
        right = oracle.conv_transpose(y, w, s)
        assert np.array_equal(np.isnan(engine.conv_transpose(geometry, y, w)), np.isnan(right)), geometry


@pytest.mark.simulated
def test_zeros_of_the_padding_take_part(engine):
    """An infinite weight over the padding gives NaN, as with numpy.pad; the transpose writes nothing there."""
    geometry = ConvGeometry.from_conv((1, 1, 5), (1, 1, 3), padding=1)
    x, w = np.ones((1, 1, 5), np.float32), np.array([[[np.inf, 1, 1]]], np.float32)
    assert np.array_equal(np.isnan(engine.conv(geometry, x, w)[0, 0]), [True, False, False, False, False])
    transposed = ConvGeometry.from_conv_transpose((1, 1, 4), (1, 1, 3), stride=2, padding=1)
    found = engine.conv_transpose(transposed, np.ones((1, 1, 4), np.float32), w)[0, 0]
    assert np.array_equal(found, [1, np.inf, 1, np.inf, 1, np.inf, 1])


@pytest.mark.simulated
def test_nothing_of_earlier_calls_shows(engine):
    """Results and scratch memory that held NaN before."""
    geometry = ConvGeometry.from_conv((3, 4, 9, 8), (6, 4, 3, 3), stride=2, padding=1)
    x, w, y = operands(geometry, np.random.default_rng(0))
    expected = truth(geometry, x, w, y)
    for _ in range(5):
        waste = [np.full(a.shape, np.nan, np.float32) for a in (*expected, x, w, y) for _ in range(4)]
        del waste
        for found, right in zip(three(engine, geometry, x, w, y), expected, strict=True):
            assert np.array_equal(found, right)


@pytest.mark.simulated
def test_same_bits_again_and_for_any_place_in_a_batch(engine):
    geometry = ConvGeometry.from_conv((5, 6, 19, 17), (8, 3, 3, 3), stride=2, padding=1, groups=2)
    numbers = np.random.default_rng(0)
    x, w, y = (
        numbers.standard_normal(s).astype(np.float32)
        for s in (geometry.input_shape, geometry.weight_shape, geometry.output_shape)
    )
    first = three(engine, geometry, x, w, y)
    for _ in range(3):
        for a, b in zip(first, three(engine, geometry, x, w, y), strict=True):
            assert np.array_equal(a, b)
    if "batch" in engine.promises:
        one = replace(geometry, batch=1)
        for n in range(5):
            assert np.array_equal(engine.conv(one, x[n : n + 1], w)[0], first[0][n])
            assert np.array_equal(engine.conv_transpose(one, y[n : n + 1], w)[0], first[1][n])


@pytest.mark.simulated
def test_empty_arrays(engine):
    for shape, weight, padding in (
        ((0, 3, 5), (2, 3, 3), 0),
        ((2, 0, 5), (4, 0, 3), 1),
        ((2, 3, 5), (0, 3, 3), 0),
        ((2, 3, 0), (4, 3, 3), 2),
        ((2, 3, 0), (4, 3, 3), 1),
        ((2, 0), (3, 0), 0),
    ):
        try:
            geometry = ConvGeometry.from_conv(shape, weight, padding=padding)
        except pre.errors.GeometryError:
            continue
        x, w, y = operands(geometry, np.random.default_rng(0))
        bias = np.arange(geometry.out_channels, dtype=np.float32)
        for found, right in zip(three(engine, geometry, x, w, y), truth(geometry, x, w, y), strict=True):
            assert found.shape == right.shape
            assert np.array_equal(found, right)
        biased = engine.conv(geometry, x, w, Epilogue(bias=bias))
        spread = bias.reshape(-1, *[1] * geometry.ndim)
        assert np.array_equal(
            biased, np.broadcast_to(spread, geometry.output_shape) + oracle.conv(x, w, oracle.sizes_of(geometry))
        )


@pytest.mark.simulated
def test_plan(engine):
    geometry = ConvGeometry.from_conv((2, 6, 19, 17), (8, 3, 3, 3), stride=2, padding=1, groups=2)
    for contraction in CONTRACTIONS:
        plan = engine.plan(geometry, contraction, np.dtype(np.float32), False)
        assert (plan.engine, plan.contraction, plan.geometry) == (engine.name, contraction, geometry)
        assert plan.work_flop == geometry.work_flop
        assert plan.array_bytes == geometry.array_bytes(4)
        assert plan.workspace_bytes >= 0
        assert contraction in str(plan)
        assert engine.name in str(plan)


@pytest.mark.parametrize("kernel", [(3, 3), (9, 160)], ids=["small", "of many taps"])
@pytest.mark.parametrize(("batch", "inner", "outer"), [(0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 0, 0)])
@pytest.mark.simulated
def test_arrays_without_elements(engine, batch, inner, outer, kernel):
    """Planned and computed as zeros, whatever the kernel: the planner of kernels with many taps divided by the terms of a sum."""
    g = ConvGeometry.from_conv((batch, inner, 12, 170), (outer, inner, *kernel), padding=1)
    shapes = {"conv": g.output_shape, "conv_transpose": g.input_shape, "conv_weight_grad": g.weight_shape}
    x, w, y = (np.ones(shape, np.float32) for shape in (g.input_shape, g.weight_shape, g.output_shape))
    with pre.config(engine=engine.name):
        got = {
            "conv": pre.conv(x, w, padding=1),
            "conv_transpose": pre.conv_transpose(y, w, padding=1),
            "conv_weight_grad": pre.conv_weight_grad(x, y, kernel_size=kernel, padding=1),
        }
        for contraction, shape in shapes.items():
            assert got[contraction].shape == shape
            assert not got[contraction].any()
            said = pre.plan(g, np.float32, contraction)
            assert (said.work_flop, said.workspace_bytes) == (0, 0)
            assert "nothing is multiplied" in str(said)


@pytest.mark.parametrize("kernel", [(3, 3), (9, 160)], ids=["small", "of many taps"])
@pytest.mark.simulated
def test_an_input_that_is_padding_alone(engine, kernel):
    """No positions, and still results: found by a long audit, where the planner of kernels with many taps looked at a phase of none."""
    g = ConvGeometry.from_conv((1, 2, 0, 0), (3, 2, *kernel), padding=tuple((k, 0) for k in kernel))
    x, w, y = (np.ones(shape, np.float32) for shape in (g.input_shape, g.weight_shape, g.output_shape))
    padding = g.padding
    with pre.config(engine=engine.name):
        assert np.array_equal(pre.conv(x, w, padding=padding), np.zeros(g.output_shape))
        assert pre.conv_transpose(y, w, padding=padding, output_size=(0, 0)).shape == g.input_shape
        assert not pre.conv_weight_grad(x, y, kernel_size=kernel, padding=padding).any()


def test_plan_refuses_what_is_no_dtype():
    geometry = ConvGeometry.from_conv((1, 1, 4), (1, 1, 2))
    with pytest.raises(DTypeError, match="dtype must be float32, float64, float16 or bfloat16, got 'conv_transpose'"):
        pre.plan(geometry, "conv_transpose")


def test_a_million_stride_phases_go_to_another_engine():
    y, w = np.arange(1.0, 5.0, dtype=np.float32).reshape(1, 1, 4), np.array([[[1.0, 10.0, 100.0]]], np.float32)
    x = pre.conv_transpose(y, w, stride=1 << 20)
    assert x.shape == (1, 1, 3 * (1 << 20) + 3)
    assert np.array_equal(np.flatnonzero(x), (np.arange(4)[:, None] * (1 << 20) + np.arange(3)).reshape(-1))
    with pre.config(engine="jit"), pytest.raises(EngineError, match="make 1,048,576 stride phases"):
        pre.conv_transpose(y, w, stride=1 << 20)


MEMORY = [
    ConvGeometry.from_conv((2, 16, 40, 41), (24, 16, 3, 3), padding=1),
    ConvGeometry.from_conv((2, 24, 33, 40), (12, 24, 1, 1)),
    ConvGeometry.from_conv((2, 24, 33, 40), (24, 1, 5, 5), padding=2, stride=2, groups=24),
    ConvGeometry.from_conv((1, 1, 200, 210), (32, 1, 11, 11)),
    ConvGeometry.from_conv_transpose((1, 16, 50, 51), (16, 3, 4, 4), stride=2, padding=1),
    ConvGeometry.from_conv((3, 5, 1000), (7, 5, 9), dilation=3, padding=12),
    ConvGeometry.from_conv((1, 32, 9, 9), (16, 32, 9, 9)),
]


@pytest.mark.parametrize("geometry", MEMORY, ids=lambda g: f"{g.input_shape}-{g.kernel_size}")
@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize("name", ["gemm", "reference"])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float16)], ids=str)
def test_peak_memory_is_the_result_and_the_stated_workspace(name, geometry, contraction, dtype):
    """NumPy reports its allocations to tracemalloc: beside the operands, a call holds its result and what its plan says."""
    engine = get(name)
    x, w, y = (a.astype(dtype) for a in operands(geometry, np.random.default_rng(0)))
    arguments = {"conv": (x, w), "conv_transpose": (y, w), "conv_weight_grad": (x, y)}[contraction]
    result = {"conv": y, "conv_transpose": x, "conv_weight_grad": w}[contraction].nbytes
    for layout in (0, 1):
        given = [laid_out(a, layout) if a is not w else a for a in arguments]
        with pre.config(workspace_bytes=200_000, threads=1):
            plan = engine.plan(geometry, contraction, dtype, layout == 1)
            peaks = []
            for _ in range(3):  # the least of three: now and then the interpreter enlarges a table of its own meanwhile
                tracemalloc.start()
                getattr(engine, contraction)(geometry, *given)
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
            peak = min(peaks)
        assert peak <= result + plan.workspace_bytes + 32_768, (layout, peak, result, plan.workspace_bytes)
