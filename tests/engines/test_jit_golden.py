"""Golden plans and kernels: what the planners of `jit` decide for each layer of the suite, and a digest of every kernel's IR text.

A refactoring changes none of them; a change that means to change one says so in its message:

    pytest tests/engines/test_jit_golden.py --update-golden     # write tests/golden/ anew, all layers
    pytest tests/engines/test_jit_golden.py --all-golden        # compare all layers (without: every seventh)

Nothing is compiled: planners get kernels that are only remembered, for AVX2, AVX-512 and NEON with caches of fixed sizes, whatever
machine this is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import preimage as pre
from preimage.bench.suite import builtin_suite
from preimage.engines.base import CONTRACTIONS

toolchain = pytest.importorskip("preimage.engines.jit.compiler.toolchain")
from preimage.engines.jit.compiler import kernels  # noqa: E402
from preimage.engines.jit.conv.direct_kernel import DirectSpec  # noqa: E402
from preimage.engines.jit.engine import JitEngine  # noqa: E402
from preimage.engines.jit.runtime import pool  # noqa: E402
from preimage.engines.jit.weight_grad import lower  # noqa: E402

FOLDER = Path(__file__).parents[1] / "golden"
TARGETS = ("avx2", "avx512", "neon")
LAYOUTS = {"channels_first": False, "channels_last": True}
CACHES = {"l1_bytes": 48 << 10, "l2_bytes": 1 << 20, "l3_bytes": 32 << 20}
EVERY = 7


class Kernels:
    """Stands for the compiler: makes and remembers the text of each kernel that a plan asks for."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.asked: list[str] = []

    def compile_cached(self, spec, make_text, target=None, level=None):
        if spec not in self.digests:
            name = spec.partition("(")[0]
            self.digests[spec] = f"{name} {hashlib.sha256(make_text().encode()).hexdigest()[:16]}"
        self.asked.append(self.digests[spec])
        return toolchain.LoadedKernel(0, None, 0)


@pytest.fixture
def compiler(monkeypatch, request):
    """A compiler that only remembers, for the target that the test names."""
    found = Kernels()
    target = replace(kernels.named_target(request.param), runs_here=True, **CACHES)
    monkeypatch.setattr(toolchain, "_chosen", target)
    monkeypatch.setattr(kernels, "compile_cached", found.compile_cached)
    monkeypatch.setattr(pool, "ask", lambda: None)
    forget()
    yield found
    forget()


def forget() -> None:
    """Drop the plans that are kept outside of an engine."""
    lower.weight_grad_recipe.cache_clear()


def described(compiler: Kernels, layer) -> dict[str, dict[str, object]]:
    """The plans of one layer, by contraction and layout: what `pre.plan` says of it, and the kernels in the order asked for."""
    found: dict[str, dict[str, object]] = {}
    for contraction in CONTRACTIONS:
        for layout, last in LAYOUTS.items():
            compiler.asked.clear()
            plan = JitEngine(tuned=False).plan(layer.geometry, contraction, np.dtype(np.float32), last)
            names = list(dict.fromkeys(compiler.asked))
            words = [f"{plan.algorithm}, workspace {plan.workspace_bytes}"]
            words += [f"{key}: {value}" for key, value in plan.details.items()]
            words += [f"not {key}: {why}" for key, why in plan.refused.items()]
            found[f"{contraction} {layout}"] = {"plan": words, "kernels": names}
    return found


@pytest.mark.parametrize("compiler", TARGETS, indirect=True)
def test_plans_and_kernels_are_the_golden_ones(compiler, request):
    name = request.node.callspec.params["compiler"]
    path, update = FOLDER / f"jit_{name}.json", request.config.getoption("--update-golden")
    step = 1 if update or request.config.getoption("--all-golden") else EVERY
    with pre.config(threads=2):
        found = {layer.name: described(compiler, layer) for layer in builtin_suite()[::step]}
    if update:
        path.write_text(json.dumps(found, indent=0) + "\n")
    golden = json.loads(path.read_text())
    for layer, calls in found.items():
        for call, wanted in calls.items():
            assert wanted == golden[layer][call], f"{name}, {layer}, {call}"
    assert step > 1 or set(found) == set(golden)


@pytest.mark.parametrize("compiler", TARGETS[:1], indirect=True)
def test_a_changed_kernel_is_seen(compiler, monkeypatch):
    """The comparison above can fail: one more blank in the text of one kind of kernel changes the digests."""
    layer = next(layer for layer in builtin_suite() if layer.geometry.groups == 1)
    with pre.config(threads=2):
        before = described(compiler, layer)
        monkeypatch.setattr(DirectSpec, "ir", lambda spec, ir=DirectSpec.ir: ir(spec) + " ")
        compiler.digests.clear()
        forget()
        assert described(compiler, layer) != before
