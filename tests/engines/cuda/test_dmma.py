"""float64 on tensor cores: what a device is asked before its kernels take them, tools/dmma_check.py, and the kernels in simulation."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import arrays, differing
from simulated_driver import simulated_gpu

import preimage as pre
from preimage.engines.cuda import plan as plans
from preimage.engines.cuda import ptx, tensor_cores
from preimage.engines.cuda.engine import CudaEngine
from preimage.engines.cuda.gpu import GpuKernel
from preimage.engines.cuda.schedules.gather_kernel import GatherSpec
from preimage.engines.cuda.schedules.weights_kernel import WeightSpec
from preimage.engines.cuda.simulate import SimulatedKernel, Simulator
from preimage.engines.cuda.tile import Tile

TOOL = Path(__file__).parents[3] / "tools/dmma_check.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("dmma_check", TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dmma_check", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(tensor_cores, "TERMS", 16)
    return module


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_the_kernel_compiles(tool, arch):
    listing = ptx.to_ptx(tensor_cores.Product().ir("ptx"), arch)
    assert "mma.sync.aligned.m8n8k4.row.col.f64" in listing
    assert ptx.foreign_operations(listing) == []


def on_the_host(multiply):
    """What the fake driver runs in place of the kernel."""

    def run(text, grid, threads, words, shared):
        k = words[3]
        a, b, c = (
            np.ctypeslib.as_array((ctypes.c_double * n).from_address(at)).reshape(shape)
            for at, n, shape in ((words[0], 8 * k, (8, k)), (words[1], 8 * k, (k, 8)), (words[2], 64, (8, 8)))
        )
        c[...] = multiply(a, b)

    return run


def two_roundings(a, b):
    with np.errstate(all="ignore"):
        return (a[:, :, None] * b).sum(1)


def otherwise(case):
    """Sums that differ from the chain's in the ways that a tensor core's might."""

    def multiply(a, b):
        sums = tensor_cores.chain(a, b)
        if case == "reversed":
            return tensor_cores.chain(a[:, ::-1], b[::-1])
        if case == "denormals flushed":
            return np.where(np.abs(sums) < np.finfo(np.float64).tiny, 0.0, sums)
        if case == "zeros without a sign":
            return sums + 0.0
        return np.where(np.isinf(sums), np.nan, sums)

    return multiply


@pytest.mark.parametrize("case", ["reversed", "denormals flushed", "zeros without a sign", "no infinity"])
def test_every_other_way_to_sum_is_seen(monkeypatch, case):
    gpu, fake = simulated_gpu(monkeypatch, compiled=True)
    fake.run = on_the_host(otherwise(case))
    assert min(tensor_cores.same(gpu).values()) < 64


@pytest.mark.parametrize(("multiply", "keeps"), [(tensor_cores.chain, True), (two_roundings, False)])
def test_plans_take_tensor_cores_where_the_device_kept_the_chain(monkeypatch, multiply, keeps):
    """Asked once, for float64 alone; the engine's results are jit's either way."""
    monkeypatch.setattr(tensor_cores, "TERMS", 16)
    gpu, fake = simulated_gpu(monkeypatch)
    run, asked = fake.run, []

    def both(text, grid, threads, words, shared):
        if "Product" in text:
            asked.append(text)
            return on_the_host(multiply)(text, grid, threads, words, shared)
        return run(text, grid, threads, words, shared)

    fake.run = both
    tile = Tile(2, 4, 1, 1, 8, 3, 8, True)
    monkeypatch.setattr(plans, "MATRIX", ((tile, 9.0),))
    g, rng = pre.ConvGeometry.from_conv((1, 17, 5, 4), (18, 17, 2, 2), padding=1), np.random.default_rng(4)
    assert not tensor_cores.properties_for(gpu, np.dtype(np.float32)).matrix
    assert not asked
    for _ in range(2):
        assert tensor_cores.properties_for(gpu, np.dtype(np.float64)).matrix is keeps
    assert len(asked) == len(tensor_cores.CASES)
    assert not tensor_cores.properties_for(Simulator(), np.dtype(np.float64)).matrix
    engine = CudaEngine(gpu)
    assert ("on tensor cores" in str(engine.plan(g, "conv_weight_grad", np.dtype(np.float64)))) is keeps
    assert differing(engine, g, arrays(rng, g, np.float64)) == []


G = pre.ConvGeometry.from_conv((2, 24, 6, 5), (20, 12, 3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), groups=2)
FEW = pre.ConvGeometry.from_conv((2, 3, 9, 8), (20, 3, 5, 3), padding=1)
VOLUME = pre.ConvGeometry.from_conv((1, 10, 4, 5, 3), (12, 10, 2, 3, 2), padding=1, dilation=(1, 1, 2))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("g", [G, FEW, VOLUME], ids=["strides", "few channels", "3-D"])
@pytest.mark.parametrize("tile", [Tile(2, 4, 1, 1, 8, 3, 8, True), Tile(4, 8, 2, 2, 8, 3, 2, True)], ids=["small", "large"])
def test_bits_on_simulated_tensor_cores(monkeypatch, g, last, tile):
    monkeypatch.setitem(plans.TILES, 8, ((tile, 0.5),))
    monkeypatch.setattr(plans, "DIRECT", ())
    monkeypatch.setattr(plans, "DIRECT_WEIGHTS", ())
    rng = np.random.default_rng(5)
    made = [rng.standard_normal(s) for s in (g.input_shape, g.weight_shape, g.output_shape)]
    if last:
        made[0], made[2] = (np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in (made[0], made[2]))
    assert differing(CudaEngine(Simulator(lambda n: np.arange(n)[::-1], lazy=True)), g, made) == []
    made[1][1, 2, 0, 1] = np.inf  # terms of a transpose are left out one by one
    assert differing(CudaEngine(Simulator()), g, made) == []


@pytest.mark.parametrize("arch", tensor_cores.ARCHITECTURES)
def test_kernels_hold_nothing_foreign(arch):
    tile = plans.MATRIX[0][0]
    for spec in (GatherSpec(2, tile, 1, 1, "f64", "f64", vector="positions"), WeightSpec(2, tile, 1, "f64", "f64")):
        listing = ptx.to_ptx(spec.ir("ptx"), arch)
        assert listing.count("mma.sync.aligned.m8n8k4") >= 2 * tile.tm * tile.tn // 2
        assert "fma.rn.f64" not in listing
        assert ptx.foreign_operations(listing) == []


def test_a_thread_that_takes_another_line_is_seen(monkeypatch):
    multiplied = GpuKernel._multiplied
    monkeypatch.setattr(GpuKernel, "_multiplied", lambda self, rows, columns, sums: multiplied(self, rows[::-1], columns, sums))
    monkeypatch.setitem(plans.TILES, 8, ((Tile(2, 4, 1, 1, 8, 3, 8, True), 0.5),))
    simulator = Simulator()
    monkeypatch.setattr(simulator, "load", SimulatedKernel)
    made = arrays(np.random.default_rng(6), G, np.float64)
    assert differing(CudaEngine(simulator), G, made) == ["conv", "conv_transpose", "conv_weight_grad"]


def test_a_core_that_keeps_the_chain_and_one_that_does_not(tool, monkeypatch, capsys):
    gpu, fake = simulated_gpu(monkeypatch, compiled=True)
    fake.run = on_the_host(tensor_cores.chain)
    assert tool.main(gpu) == 0
    assert "cancelling: 64 of 64 sums" in capsys.readouterr().out
    fake.run = on_the_host(two_roundings)
    assert tool.main(gpu) == 1
    assert "cancelling: 64" not in capsys.readouterr().out


def test_where_there_is_no_gpu(tool, monkeypatch, capsys):
    def none(name):
        raise pre.EngineError("no GPU")

    monkeypatch.setattr(tool, "device_of", none)
    assert tool.main() == 2
    assert "nothing to check: no GPU" in capsys.readouterr().err
