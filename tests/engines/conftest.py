"""Shared by the tests of this folder."""

from __future__ import annotations

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
