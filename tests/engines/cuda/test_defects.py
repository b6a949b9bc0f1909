"""What the simulator and the checks of PTX find: each on a planted defect, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest

import preimage as pre
from preimage.engines import get
from preimage.engines.cuda import plan as plans
from preimage.engines.cuda import ptx
from preimage.engines.cuda.engine import CudaEngine
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.pipeline import Pipeline
from preimage.engines.cuda.schedules.weights_kernel import _Weights
from preimage.engines.cuda.simulate import SimulatedKernel, Simulator
from preimage.engines.cuda.tile import Tile
from preimage.engines.ir.types import constant
from preimage.errors import EngineError

RNG = np.random.default_rng(0)
G = pre.ConvGeometry.from_conv((2, 24, 6, 5), (20, 24, 3, 3), padding=1)
REVERSED = Simulator(lambda n: np.arange(n)[::-1], lazy=True)


def results(monkeypatch, simulator) -> bool:
    """Whether conv has the bits of jit, its kernels made anew."""
    monkeypatch.setattr(simulator, "load", SimulatedKernel)
    x, w = RNG.standard_normal(G.input_shape, np.float32), RNG.standard_normal(G.weight_shape, np.float32)
    got, wanted = CudaEngine(simulator).conv(G, x, w), get("jit").conv(G, x, w)
    return bool((got.view(np.uint32) == wanted.view(np.uint32)).all())


def test_nothing_is_found_where_nothing_is_wrong(monkeypatch):
    assert results(monkeypatch, REVERSED)


@pytest.mark.parametrize("defect", ["no barrier", "waits for one group too few", "never waits", "a stage that is still read"])
def test_a_race_is_seen_in_the_bits(monkeypatch, defect):
    wait, after = GpuKernel.wait_group, Pipeline._after
    if defect == "no barrier":
        monkeypatch.setattr(GpuKernel, "barrier", lambda self: None)
    elif defect == "waits for one group too few":
        monkeypatch.setattr(GpuKernel, "wait_group", lambda self, left: wait(self, left + 1))
    elif defect == "never waits":
        monkeypatch.setattr(GpuKernel, "wait_group", lambda self, left: None)
    else:
        monkeypatch.setattr(Pipeline, "_after", lambda self, stage: after(self, after(self, stage)))
    assert not results(monkeypatch, REVERSED)


@pytest.mark.parametrize("defect", [None, "no tap lies outside", "the next position is one too far", "a block's end is not seen"])
def test_wrong_places_in_a_weight_gradient_are_seen(monkeypatch, defect):
    if defect == "no tap lies outside":
        monkeypatch.setattr(_Weights, "_outside", lambda self, index: [self.f.i32(0)])
    elif defect == "the next position is one too far":
        after = _Weights._after
        monkeypatch.setattr(_Weights, "_after", lambda self, index: [*after(self, index)[:-1], after(self, index)[-1] + 1])
    elif defect:
        begin = _Weights._begin
        monkeypatch.setattr(_Weights, "_begin", lambda self, block: [(b := begin(self, block))[0], b[1] + 1, *b[2:]])
    simulator = Simulator()
    monkeypatch.setattr(simulator, "load", SimulatedKernel)
    monkeypatch.setitem(plans.TILES, 4, ((Tile(4, 4, 1, 1, 8, 4, 8), 0.5),))
    x, y = RNG.standard_normal(G.input_shape, np.float32), RNG.standard_normal(G.output_shape, np.float32)
    got, wanted = CudaEngine(simulator).conv_weight_grad(G, x, y), get("jit").conv_weight_grad(G, x, y)
    assert bool((got.view(np.uint32) == wanted.view(np.uint32)).all()) is (defect is None)


def test_writing_beyond_an_array_is_seen(monkeypatch):
    original = GpuKernel.number
    monkeypatch.setattr(GpuKernel, "number", lambda self, name: original(self, name) + (1 if name == "outs" else 0))
    with pytest.raises(EngineError, match="wrote beyond an array's memory"):
        results(monkeypatch, Simulator())


def test_an_access_that_is_not_aligned_is_seen(monkeypatch):
    original = Pipeline.__post_init__

    def moved(self):
        original(self)
        self.n_side = self.n_side.at(1)

    monkeypatch.setattr(Pipeline, "__post_init__", moved)
    with pytest.raises(EngineError, match="not aligned as it claims"):
        results(monkeypatch, Simulator())


def test_shared_memory_that_nobody_wrote_is_nan(monkeypatch):
    monkeypatch.setattr(GpuKernel, "copy_async", lambda *_: None)
    simulator = Simulator()
    monkeypatch.setattr(simulator, "load", SimulatedKernel)
    x, w = np.ones(G.input_shape, np.float32), np.ones(G.weight_shape, np.float32)
    assert np.isnan(CudaEngine(simulator).conv(G, x, w)).all()


@pytest.mark.parametrize(
    "line",
    ["fma.rn.ftz.f32 %f1, %f2, %f3, %f4;", "add.rz.f32 %f1, %f2, %f3;", "ex2.approx.f32 %f1, %f2;", "ld.local.f32 %f1, [%r1];"],
)
def test_a_foreign_operation_is_seen(line):
    assert ptx.foreign_operations("\t" + line) == [line]


def test_a_gpu_that_is_too_old_is_refused_in_words():
    with pytest.raises(EngineError, match="sm_80"):
        ptx.to_ptx("", "sm_75")


def test_the_two_zeros_are_two_constants():
    assert constant("f32", 1, -0.0) == "0x8000000000000000"
    assert constant("f32", 1, 0.0) == "0.0"
    assert constant("f32", 1, -0.0) == "0x8000000000000000"
