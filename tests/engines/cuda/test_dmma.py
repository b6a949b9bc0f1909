"""tools/dmma_check.py: its kernel compiles, its chain is the contract's, and a tensor core that sums otherwise is seen."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated_driver import simulated_gpu

import preimage as pre
from preimage.engines.cuda import ptx

TOOL = Path(__file__).parents[3] / "tools/dmma_check.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("dmma_check", TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dmma_check", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TERMS", 16)
    return module


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_the_kernel_compiles(tool, arch):
    assert "mma.sync.aligned.m8n8k4.row.col.f64" in ptx.to_ptx(tool.Product().ir("ptx"), arch)


def on_the_host(tool, multiply):
    """What the fake driver runs in place of the kernel."""

    def run(text, grid, threads, words, shared):
        k = words[3]
        a, b, c = (
            np.ctypeslib.as_array((ctypes.c_double * n).from_address(at)).reshape(shape)
            for at, n, shape in ((words[0], 8 * k, (8, k)), (words[1], 8 * k, (k, 8)), (words[2], 64, (8, 8)))
        )
        c[...] = multiply(a, b)

    return run


def test_a_core_that_keeps_the_chain_and_one_that_does_not(tool, monkeypatch, capsys):
    gpu, fake = simulated_gpu(monkeypatch, compiled=True)
    fake.run = on_the_host(tool, tool.chain)
    assert tool.main(gpu) == 0
    assert "cancelling: 64 of 64 sums" in capsys.readouterr().out
    fake.run = on_the_host(tool, lambda a, b: (a[:, :, None] * b).sum(1))  # two roundings a term
    assert tool.main(gpu) == 1
    assert "cancelling: 64" not in capsys.readouterr().out


def test_where_there_is_no_gpu(tool, monkeypatch, capsys):
    def none(name):
        raise pre.EngineError("no GPU")

    monkeypatch.setattr(tool, "device_of", none)
    assert tool.main() == 2
    assert "nothing to check: no GPU" in capsys.readouterr().err
