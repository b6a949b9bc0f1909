"""The GPU's kernels in simulation: the bits of the CPU's engine, for random geometries, orders of threads and moments of copies."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
import sweep
from cases import arrays, differing, geometry, same_bits

import preimage as pre
from preimage.engines import get
from preimage.engines.base import Epilogue
from preimage.engines.cuda.engine import CudaEngine
from preimage.engines.cuda.simulate import Simulator

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_random_geometries_have_the_bits_of_jit(dtype):
    engine = CudaEngine(Simulator(RNG.permutation, lazy=True))
    g = geometry(RNG, 2)
    assert differing(engine, g, arrays(RNG, g, dtype)) == []


def test_two_orders_of_threads_agree_with_jit():
    g = pre.ConvGeometry.from_conv((2, 70, 6, 5), (9, 70, 3, 3), stride=(2, 1), padding=((1, 0), (2, 1)))
    made = arrays(RNG, g, np.float32)
    for simulator in (Simulator(), Simulator(lambda n: np.arange(n)[::-1], lazy=True)):
        assert differing(CudaEngine(simulator), g, made) == []


def test_a_single_channel_is_taken_in_either_layout():
    g = pre.ConvGeometry.from_conv((2, 1, 6, 5), (3, 1, 3, 3), padding=1)
    made = arrays(RNG, g, np.float32)
    assert differing(CudaEngine(Simulator()), g, made) == []


def test_a_sweep_goes_on_where_it_ended(tmp_path, monkeypatch, capsys):
    path, seen = tmp_path / "sweep.json", []
    monkeypatch.setattr(sweep, "case", lambda seed, number: seen.append(number) or (["differs"] if number == 2 else []))
    for cases, status in ((2, 0), (4, 1)):
        monkeypatch.setattr(sys, "argv", ["sweep", "--cases", str(cases), "--state", str(path)])
        assert sweep.main() == status
    assert seen == [0, 1, 2, 3]
    assert "4 geometries, 3 contractions each: 1 results differ" in capsys.readouterr().out
    path.write_text(path.read_text().replace(sweep.source_digest(), "another"))
    assert sweep.begun(path, 1)["done"] == 0


def test_bias_residual_and_activation_are_fused():
    g = pre.ConvGeometry.from_conv((2, 5, 6, 7), (6, 5, 3, 3), padding=1)
    x, w, _ = arrays(RNG, g, np.float32)
    e = Epilogue(RNG.standard_normal(6, np.float32), RNG.standard_normal(g.output_shape, np.float32), "clip", lo=-0.5, hi=2.0)
    assert same_bits(CudaEngine(Simulator()).conv(g, x, w, e), get("jit").conv(g, x, w, e))


def test_infinite_weights_meet_nothing_outside_a_transposed_input():
    g = pre.ConvGeometry.from_conv((1, 3, 7, 6), (4, 3, 3, 2), stride=(2, 1), padding=1)
    _, w, y = arrays(RNG, g, np.float32)
    w[1, 2, 0, 1] = np.inf
    got, wanted = (engine.conv_transpose(g, y, w) for engine in (CudaEngine(Simulator()), get("jit")))
    assert np.isfinite(wanted).any()
    assert same_bits(got, wanted)


def test_the_setting_takes_the_simulator_and_engines_say_why_there_is_no_gpu():
    x, w = RNG.standard_normal((1, 2, 5), np.float32), RNG.standard_normal((3, 2, 3), np.float32)
    with pre.config(engine="cuda", device="simulator"):
        assert pre.engines()["cuda"] == "available"
        got = pre.conv(x, w)
    assert same_bits(got, pre.conv(x, w))
    state = pre.engines()["cuda"]
    assert state == "available" or "simulator" in state
