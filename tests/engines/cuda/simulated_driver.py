"""A fake driver whose launches run: the PTX that is loaded stands for a spec, whose text the simulator runs on the fake device's memory.

gpu = simulated_gpu(monkeypatch)       # a Gpu over FakeCuda; all of driver.py is used, and results are real
"""

from __future__ import annotations

import re

import numpy as np
from fake_cuda import FakeCuda

from preimage.engines.cuda import cache, devices, simulate
from preimage.engines.cuda.driver import Gpu


def simulated_gpu(monkeypatch, compiled=False, **fake):
    """The device, as cuda:0 of this process until the test ends, and its driver. compiled: kernels come as the PTX that a GPU would get."""
    specs, driver, compile_it = {}, FakeCuda(**fake), cache.ptx

    def text_of(spec, capability):
        """PTX with a parameter a word, and the spec's own text as a comment."""
        if compiled:
            text = f"{compile_it(spec, capability)}\n// {spec!r}"
            specs[text] = spec
            return text
        if spec.arguments is not None:
            names = list(spec.arguments.fields)
        else:
            names = re.findall(r"%(\w+)", re.search(r"@kernel\((.*?)\)", spec.ir("ptx"))[1])
        parameters = ",\n".join(f".param .u64 {name}" for name in names)
        text = f".version 7.8\n.target sm_90\n.visible .entry kernel(\n{parameters}\n)\n{{ ret; }} // {spec!r}"
        specs[text] = spec
        return text

    def run(text, grid, threads, words, shared):
        spec = specs[text]
        assert (threads, shared) == (spec.threads, spec.shared_bytes)
        if spec.arguments is None:
            return  # a tool's own kernel, which has no simulation
        signed = [w - (1 << 64) if w >> 63 else w for w in words]
        simulate._compiled(spec).run(grid, signed, np.arange(spec.threads), False)

    monkeypatch.setattr(cache, "ptx", text_of)
    driver.run = run
    gpu = Gpu(0, library=driver)
    gpu_of = {"cuda:0": gpu}
    monkeypatch.setattr(devices, "_made", gpu_of)
    return gpu, driver
