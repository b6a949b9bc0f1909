"""Little work: kernels whose sizes are all arguments. The same bits as those of large work, and only a few of them."""

from __future__ import annotations

import random

import ml_dtypes
import numpy as np
import pytest

from geometries import operands, random_geometry
from preimage.engines import Epilogue
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.request import is_little, little_work
from preimage.engines.reference import ReferenceEngine
from preimage.geometry import ConvGeometry

JIT, REFERENCE = JitEngine(), ReferenceEngine()
pytestmark = pytest.mark.skipif(JIT.unavailable() is not None, reason=str(JIT.unavailable()))
DTYPES = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]


def three(engine, geometry, x, w, y):
    return engine.conv(geometry, x, w), engine.conv_transpose(geometry, y, w), engine.conv_weight_grad(geometry, x, y)


def last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def geometries(count, seed):
    rng = random.Random(seed)
    while count:
        geometry = random_geometry(rng)
        if is_little(geometry):
            count -= 1
            yield geometry


@pytest.mark.parametrize("layout", [np.ascontiguousarray, last], ids=["first", "last"])
def test_integers_exactly(layout):
    for geometry in geometries(60, 1):
        x, w, y = operands(geometry, np.random.default_rng(1))
        wanted = three(REFERENCE, geometry, x, w, y)
        for found, right in zip(three(JIT, geometry, layout(x), w, layout(y)), wanted, strict=True):
            assert np.array_equal(found, right), geometry


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_of_large_work(dtype):
    numbers = np.random.default_rng(2)
    for geometry in geometries(12, 3):
        x, w, y = (
            numbers.standard_normal(s).astype(dtype) for s in (geometry.input_shape, geometry.weight_shape, geometry.output_shape)
        )
        for given in ((x, w, y), (last(x), w, last(y))):
            little = three(JIT, geometry, *given)
            with little_work(0):
                large = three(JIT, geometry, *given)
            for a, b in zip(little, large, strict=True):
                assert a.tobytes() == b.tobytes(), geometry


@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_the_bits_of_other_vectors(target):
    if not kernels.named_target(target).runs_here:
        pytest.skip(f"{target} code does not run here")
    numbers = np.random.default_rng(4)
    for geometry in geometries(10, 5):
        x, w, y = (
            numbers.standard_normal(s).astype(np.float32)
            for s in (geometry.input_shape, geometry.weight_shape, geometry.output_shape)
        )
        wanted = three(JIT, geometry, x, w, y)
        with kernels.use_target(target):
            for a, b in zip(wanted, three(JIT, geometry, x, w, y), strict=True):
                assert a.tobytes() == b.tobytes(), geometry


def test_an_infinite_weight_reaches_what_lies_on_padding():
    geometry = ConvGeometry.from_conv((1, 3, 5, 6), (4, 3, 3, 3), padding=1)
    x, w, y = operands(geometry, np.random.default_rng(0))
    w[1, 2, 0, 0] = np.inf
    for found, right in zip(three(JIT, geometry, x, w, y)[:2], three(REFERENCE, geometry, x, w, y)[:2], strict=True):
        np.testing.assert_array_equal(found, right)


def test_epilogues():
    geometry = ConvGeometry.from_conv((2, 5, 7, 9), (6, 5, 3, 2), padding=1, stride=(1, 2))
    x, w, _ = operands(geometry, np.random.default_rng(0))
    residual = np.random.default_rng(1).integers(-9, 9, geometry.output_shape).astype(np.float32)
    for epilogue in (Epilogue(np.arange(6, dtype=np.float32)), Epilogue(None, residual, "relu"), Epilogue(activation="clip")):
        np.testing.assert_array_equal(JIT.conv(geometry, x, w, epilogue), REFERENCE.conv(geometry, x, w, epilogue))


def test_a_few_kernels_serve_every_size(monkeypatch):
    """Three contractions of 150 geometries, no two alike, in two layouts: fewer kernels than geometries, and ever fewer new ones."""
    made: list[str] = []
    wanted = kernels.wanted

    def noted(spec, make_text, *rest):
        return wanted(spec, lambda: (made.append(spec), make_text())[1], *rest)

    monkeypatch.setattr(kernels, "wanted", noted)
    monkeypatch.setenv("PREIMAGE_CACHE_DIR", "off")
    kernels.forget()
    engine, count = JitEngine(), []
    for geometry in geometries(150, 7):
        x, w, y = operands(geometry, np.random.default_rng(0))
        three(engine, geometry, x, w, y)
        three(engine, geometry, last(x), w, last(y))
        count.append(len(made))
    assert count[-1] == len(set(made))
    assert count[-1] < 150
    assert count[-1] - count[99] < 15


def test_the_tables_that_are_kept_are_bounded(monkeypatch):
    """Ever new sizes: programs go when their tables hold more than the limit, and a call that comes back is right again."""
    from preimage.engines.jit.runtime import kept_programs as module

    monkeypatch.setattr(module, "TABLE_BYTES", 1 << 16)
    engine, w = JitEngine(), np.ones((4, 3, 3, 3), np.float32)
    for size in [*range(5, 60), 5]:
        geometry = ConvGeometry.from_conv((2, 3, size, 9), w.shape, padding=1)
        x = np.ones(geometry.input_shape, np.float32)
        np.testing.assert_array_equal(engine.conv(geometry, x, w), REFERENCE.conv(geometry, x, w))
        assert sum(linked.program.table_bytes for linked in engine._programs.values()) <= 1 << 16
    assert 1 < len(engine._programs) < 50
