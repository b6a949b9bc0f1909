"""cuDNN's calls against a double of it: what is asked, in which shapes, and every failure in our words."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_cudnn import SIGNATURES, FakeCudnn

import preimage as pre
from preimage import audit, ops
from preimage.engines.cuda import devices
from preimage.engines.cuda.driver import Gpu
from preimage.engines.cudnn import choose, library
from preimage.engines.cudnn.engine import CudnnEngine
from preimage.engines.reference import ReferenceEngine
from preimage.errors import EngineError, OutOfMemoryError

sys.path.append(str(Path(__file__).parents[1] / "cuda"))

from fake_arrays import fake_library
from fake_cuda import FakeCuda

RNG = np.random.default_rng(4)
TRUTH = ReferenceEngine()


def small(*shape, dtype=np.float32):
    return RNG.integers(-4, 5, shape).astype(dtype)


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(devices, "_made", {"cuda:0": Gpu(0, library=fake)})
    return fake


@pytest.fixture
def fake(cuda):
    return FakeCudnn(cuda)


@pytest.fixture
def engine(fake, monkeypatch):
    made, engines = CudnnEngine(library.Library(fake)), importlib.import_module("preimage.engines")
    monkeypatch.setitem(engines._ROWS, "cudnn", "none:none")
    monkeypatch.setitem(engines._loaded, "cudnn", made)
    return made


def geometries():
    """Every way in which a geometry differs from what cuDNN takes: unequal padding, cropping, sizes of its own, one to three axes."""
    yield {"x": (2, 4, 9, 8), "w": (6, 2, 3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
    yield {"x": (1, 2, 7, 6), "w": (3, 2, 3, 3), "padding": ((2, 0), (1, 2))}
    yield {"x": (2, 3, 9, 9), "w": (4, 3, 2, 3), "padding": ((-1, 2), (0, -2)), "stride": 2}
    yield {"x": (2, 3, 11), "w": (2, 3, 4), "stride": 3, "padding": ((1, 2),)}
    yield {"x": (3, 5), "w": (4, 5)}
    yield {"x": (1, 2, 4, 5, 6), "w": (3, 2, 2, 3, 2), "padding": ((0, 1), 1, 0), "stride": (1, 2, 1)}


@pytest.mark.parametrize("options", list(geometries()), ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_every_contraction_is_the_definitions(engine, options, last):
    options = dict(options)
    x, w = small(*options.pop("x")), small(*options.pop("w"))
    g = pre.ConvGeometry.from_conv(x.shape, w.shape, **options)
    y = small(*g.output_shape)
    if last:
        x, y = (np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in (x, y))
    for got, want in (
        (engine.conv(g, x, w), TRUTH.conv(g, x, w)),
        (engine.conv_transpose(g, y, w), TRUTH.conv_transpose(g, y, w)),
        (engine.conv_weight_grad(g, x, y), TRUTH.conv_weight_grad(g, x, y)),
    ):
        np.testing.assert_array_equal(got, want)


def test_output_padding_beyond_cudnns_own_size(engine):
    """A large side that cuDNN's formula does not lead to: the rest of the result is 0."""
    y, w = small(1, 2, 3), small(2, 3, 3)
    g = pre.ConvGeometry.from_conv_transpose(y.shape, w.shape, stride=2, dilation=4, output_padding=3)
    assert (g.input_size[0] - 9) // 2 + 1 != 3
    np.testing.assert_array_equal(engine.conv_transpose(g, y, w), TRUTH.conv_transpose(g, y, w))
    x = small(*g.input_shape)
    np.testing.assert_array_equal(engine.conv(g, x, w), TRUTH.conv(g, x, w))
    np.testing.assert_array_equal(engine.conv_weight_grad(g, x, y), TRUTH.conv_weight_grad(g, x, y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "clip"])
def test_the_epilogue(engine, dtype, activation):
    from preimage.engines.base import Epilogue, apply_epilogue

    x, w = small(2, 3, 5, 6, dtype=dtype), small(4, 3, 2, 2, dtype=dtype)
    g = pre.ConvGeometry.from_conv(x.shape, w.shape)
    epilogue = Epilogue(small(4, dtype=dtype), small(*g.output_shape, dtype=dtype), activation, 0.5, -3.0, 7.0)
    np.testing.assert_array_equal(engine.conv(g, x, w, epilogue), apply_epilogue(TRUTH.conv(g, x, w), epilogue))
    y = small(*g.output_shape, dtype=dtype)
    epilogue = Epilogue(small(3, dtype=dtype), None, activation)
    got = engine.conv_transpose(g, y, w, epilogue)
    np.testing.assert_allclose(
        got, apply_epilogue(TRUTH.conv_transpose(g, y, w), epilogue), rtol=1e-3 if dtype == np.float16 else 1e-6
    )


def test_empty_arrays(engine):
    g = pre.ConvGeometry.from_conv((0, 3, 5), (4, 3, 2))
    assert engine.conv(g, small(0, 3, 5), small(4, 3, 2)).shape == (0, 4, 4)
    assert not engine.conv_weight_grad(g, small(0, 3, 5), small(0, 4, 4)).any()
    assert engine.conv_transpose(g, small(0, 4, 4), small(4, 3, 2)).shape == (0, 3, 5)


@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_arrays_of_other_libraries(engine, fake, name, monkeypatch):
    """Forward, back and the bias's gradient, by cuDNN's four calls, on the library's stream."""
    other = fake_library(name)
    monkeypatch.setitem(sys.modules, name, other)
    x, w, b = small(2, 3, 6, 5), small(4, 3, 3, 3), small(4)
    both = []
    for up in (np.array, other.asarray):
        with pre.config(engine="cudnn" if up is not np.array else "reference"):
            leaves = [pre.Tensor(up(v), requires_grad=True) for v in (x, w, b)]
            y = pre.conv(*leaves, padding=1)
            g = np.arange(y.size, dtype=np.float32).reshape(y.shape) % 5
            y.backward(up(g))
        both.append([y, *(leaf.grad for leaf in leaves)])
    for got, want in zip(both[1], both[0], strict=True):
        np.testing.assert_array_equal(other.asnumpy(got.data), want.data)
    names = {c[0] for c in fake.calls}
    assert {f"cudnnConvolution{k}" for k in ("Forward", "BackwardData", "BackwardFilter", "BackwardBias")} <= names
    assert fake.stream == 7
    turned = other.asarray(np.broadcast_to(x[:1], (2, 3, 6, 5)))
    turned._values = np.broadcast_to(x[:1], (2, 3, 6, 5))  # strides of 0
    with pre.config(engine="cudnn"):
        got = pre.conv(turned, other.asarray(w))
    np.testing.assert_array_equal(other.asnumpy(got), pre.conv(np.broadcast_to(x[:1], (2, 3, 6, 5)), w))


# ---- which algorithm


def proposal(number=1, status=0, memory=0, determinism=1, math=3):
    return SimpleNamespace(number=number, status=status, memory=memory, determinism=determinism, math=math)


def test_only_deterministic_plain_algorithms_are_taken():
    bad = [proposal(6), proposal(1, math=0), proposal(0, determinism=0), proposal(2, status=3000), proposal(3, memory=99)]
    chosen, reasons = choose.choose_algorithm("conv", [*bad, proposal(1)], 50, fast=False)
    assert chosen.number == 1
    assert reasons["winograd"].startswith("sums in an order of its own")
    assert reasons["implicit precomputed gemm"].startswith("rounds factors to TF32")
    assert reasons["implicit gemm"] == "not deterministic"
    assert reasons["gemm"] == "not for this geometry (status 3000)"
    assert reasons["direct"] == "wants 99 bytes of workspace, 50 are allowed"
    chosen, _ = choose.choose_algorithm("conv", bad, 50, fast=True)
    assert chosen.number == 6
    assert choose.choose_algorithm("conv", bad[2:], 50, fast=True)[0] is None


def test_none_that_may_run_is_an_error_with_the_reasons(engine, fake):
    fake.proposals = ((6, 0, 0, 1, 3), (0, 0, 0, 0, 3))
    with pytest.raises(
        EngineError, match=r"no algorithm for this conv: winograd: sums in an order.*not deterministic.*Engine 'cuda'"
    ):
        engine.conv(pre.ConvGeometry.from_conv((1, 1, 4, 4), (1, 1, 2, 2)), small(1, 1, 4, 4), small(1, 1, 2, 2))


def test_tf32_only_where_it_is_allowed(engine, fake):
    g = pre.ConvGeometry.from_conv((1, 1, 4, 4), (1, 1, 2, 2))
    engine.conv(g, small(1, 1, 4, 4), small(1, 1, 2, 2))
    assert [c[2] for c in fake.calls if c[0] == "cudnnSetConvolutionMathType"] == [choose.FMA_MATH]


# ---- what it cannot do, and failures


def test_what_is_refused(engine):
    four = pre.ConvGeometry.from_conv((1, 1, 3, 3, 3, 3), (1, 1, 2, 2, 2, 2))
    assert "4 spatial axes" in engine.supports(four, "conv", np.dtype(np.float32))
    wide = pre.ConvGeometry.from_conv((1 << 12, 1 << 10, 1 << 10), (1, 1 << 10, 1))
    assert "at most 2,147,483,647" in engine.supports(wide, "conv", np.dtype(np.float32))
    assert "int32" in engine.supports(four, "conv", np.dtype(np.int32))
    devices._made["simulator"] = SimpleNamespace()
    with pre.config(device="simulator"), pytest.raises(EngineError, match="cuDNN runs on NVIDIA GPUs alone"):
        engine.conv(pre.ConvGeometry.from_conv((1, 1, 4), (1, 1, 2)), small(1, 1, 4), small(1, 1, 2))


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_every_failure_of_every_call_is_ours(cuda, name):
    """The n-th call of each function fails: an error of ours, and nothing is left."""

    def scenario(fake):
        engine = CudnnEngine(library.Library(fake))
        x, w, b = small(1, 2, 6, 5), small(3, 2, 3, 3), small(3)
        g = pre.ConvGeometry.from_conv(x.shape, w.shape, padding=((1, 0), (0, 2)))
        from preimage.engines.base import Epilogue

        y = engine.conv(g, x, w, Epilogue(b, None, "clip"))
        engine.conv_transpose(g, y, w)
        engine.conv_weight_grad(g, x, y)
        engine.kernels.channel_sums(y, "plain", True)

    clean = FakeCudnn(cuda)
    scenario(clean)
    assert ("raised",) not in [c[:1] for c in clean.calls]
    assert not clean.alive
    for n in range(1, clean.seen[name] + 1):
        for code, kind in ((3000, EngineError), (4004, OutOfMemoryError), (5000, EngineError)):
            fake = FakeCudnn(cuda)
            fake.fail(name, n, code)
            if "Destroy" in name:
                scenario(fake)
                continue
            with pytest.raises(kind, match="cuDNN"):
                scenario(fake)
            assert not fake.alive


def test_no_library_or_an_old_one(cuda, monkeypatch):
    with pytest.raises(EngineError, match="cuDNN is too old: version 8900"):
        library.Library(FakeCudnn(cuda, version=8900))
    with pytest.raises(EngineError, match=r"cannot be used: .*version 9 is needed"):
        library.Library(SimpleNamespace())
    library.open_library.cache_clear()
    monkeypatch.setattr(library.ctypes, "CDLL", lambda path: (_ for _ in ()).throw(OSError("no such file")))
    with pytest.raises(EngineError, match="cuDNN 9 is not installed"):
        library.open_library()
    assert "cuDNN 9 is not installed" in CudnnEngine().unavailable()


def test_matrix_products(engine):
    a, b, w = small(3, 4, 5), small(5, 6), small(7, 5)
    with pre.config(engine="cudnn"):
        np.testing.assert_array_equal(ops.matmul(a, b), a @ b)
        np.testing.assert_array_equal(ops.linear(a, w), a @ w.T)


def test_an_audit_of_it(engine):
    """Every check that applies to what promises no more than the same bits again."""
    report = audit.run(["cudnn"], geometries=4, jobs=0, checks=["exact", "identities", "bits"], steer_seconds=0)
    (found,) = report.subjects
    assert found.absent is None
    assert [(f.dtype, f.message) for f in found.findings] == []
    assert found.tally.runs["exact"] > 0


def test_the_plan(engine):
    g = pre.ConvGeometry.from_conv((1, 2, 7, 6), (3, 2, 3, 3), padding=((2, 0), (1, 1)))
    plan = engine.plan(g, "conv_transpose", np.dtype(np.float32))
    assert plan.details["call"] == "cudnnConvolutionBackwardData"
    assert plan.details["large side"] == "by way of a window of (9, 6)"
    assert plan.promises == ("repeat",)
