"""Golden plans and kernels: what the planners of `jit` decide for each layer of the suite, and a digest of every kernel's IR text.

A refactoring changes none of them; a change that means to change one says so in its message:

    pytest tests/engines/test_jit_golden.py --update-golden     # write tests/golden/ anew, all layers
    pytest tests/engines/test_jit_golden.py --all-golden        # compare all layers (without: every seventh)

Planning compiles and loads nothing (asserted here); so plans are made for AVX2, AVX-512 and NEON with caches of fixed sizes, whatever
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

FOLDER = Path(__file__).parents[1] / "golden"
TARGETS = ("avx2", "avx512", "neon")
LAYOUTS = {"channels_first": False, "channels_last": True}
CACHES = {"l1_bytes": 48 << 10, "l2_bytes": 1 << 20, "l3_bytes": 32 << 20}
EVERY = 7


class Digests:
    """The text of each kernel that a program needs, as a digest; each is made once."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def of(self, program) -> list[str]:
        specs = {*program.specs, *(program.packing.specs if program.packing else ())}
        for spec in specs:
            if repr(spec) not in self.known:
                digest = hashlib.sha256(spec.ir().encode()).hexdigest()
                self.known[repr(spec)] = f"{type(spec).__name__} {digest[:16]}"
        return sorted({self.known[repr(spec)] for spec in specs})


@pytest.fixture
def digests(monkeypatch, request):
    """Planning for the target that the test names, whatever machine this is."""
    target = replace(kernels.named_target(request.param), **CACHES)
    monkeypatch.setattr(toolchain, "_chosen", target)
    loaded = kernels.loaded_count()
    yield Digests()
    assert kernels.loaded_count() == loaded, "planning has loaded a kernel"


def described(digests: Digests, layer) -> dict[str, dict[str, object]]:
    """The plans of one layer, by contraction and layout: what `pre.plan` says of it, and the kernels that it needs."""
    found: dict[str, dict[str, object]] = {}
    for contraction in CONTRACTIONS:
        for layout, last in LAYOUTS.items():
            engine, asked = JitEngine(tuned=False), (layer.geometry, contraction, np.dtype(np.float32), last)
            plan = engine.plan(*asked)
            words = [f"{plan.algorithm}, workspace {plan.workspace_bytes}"]
            words += [f"{key}: {value}" for key, value in plan.details.items()]
            words += [f"not {key}: {why}" for key, why in plan.refused.items()]
            found[f"{contraction} {layout}"] = {"plan": words, "kernels": digests.of(engine.program(*asked))}
    return found


@pytest.mark.parametrize("digests", TARGETS, indirect=True)
def test_plans_and_kernels_are_the_golden_ones(digests, request):
    name = request.node.callspec.params["digests"]
    path, update = FOLDER / f"jit_{name}.json", request.config.getoption("--update-golden")
    step = 1 if update or request.config.getoption("--all-golden") else EVERY
    with pre.config(threads=2):
        found = {layer.name: described(digests, layer) for layer in builtin_suite()[::step]}
    if update:
        path.write_text(json.dumps(found, indent=0) + "\n")
    golden = json.loads(path.read_text())
    for layer, calls in found.items():
        for call, wanted in calls.items():
            assert wanted == golden[layer][call], f"{name}, {layer}, {call}"
    assert step > 1 or set(found) == set(golden)


@pytest.mark.parametrize("digests", TARGETS[:1], indirect=True)
def test_a_changed_kernel_is_seen(digests, monkeypatch):
    """The comparison above can fail: one more blank in the text of one kind of kernel changes the digests."""
    layer = next(layer for layer in builtin_suite() if layer.geometry.groups == 1)
    with pre.config(threads=2):
        before = described(digests, layer)
        monkeypatch.setattr(DirectSpec, "ir", lambda spec, ir=DirectSpec.ir: ir(spec) + " ")
        digests.known.clear()
        assert described(digests, layer) != before
