"""Shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import pytest


@pytest.fixture(params=["avx512", "avx2"])
def width(request):
    """Vectors of 64 and of 32 bytes, where this CPU has them."""
    llvm = pytest.importorskip("preimage.engines.jit.compiler.kernels")
    target = llvm.named_target(request.param)
    if not target.runs_here:
        pytest.skip(f"no {request.param} here")
    with llvm.use_target(target):
        yield request.param


@pytest.fixture
def change_costs(monkeypatch):
    """change_costs(direct={"copy_cycles": 9.0}): plans are made with other numbers of the cost model, until the test ends."""
    from preimage.engines.jit.compiler import toolchain

    def change(**groups):
        target = toolchain.current_target()
        changed = {name: replace(getattr(target.costs, name), **values) for name, values in groups.items()}
        monkeypatch.setattr(toolchain, "_chosen", replace(target, costs=replace(target.costs, **changed)))

    return change
