"""Programs are data: made without compiling, for any target, printable, comparable; and strategies are rows of one table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import numpy as np
import pytest

import preimage as pre
from preimage import audit
from preimage.bench.suite import builtin_suite
from preimage.engines.base import CONTRACTIONS
from preimage.engines.ir.arguments import Arguments, Elements, Integer, elements
from preimage.engines.jit import select
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.program import Program, Table, kernel_call
from preimage.engines.jit.runtime.link import link

kernels = pytest.importorskip("preimage.engines.jit.compiler.kernels")
toolchain = pytest.importorskip("preimage.engines.jit.compiler.toolchain")
pytestmark = pytest.mark.skipif(JitEngine().unavailable() is not None, reason=str(JitEngine().unavailable()))
F32 = np.dtype(np.float32)
LAYER = pre.ConvGeometry.from_conv((2, 24, 30, 31), (40, 24, 3, 3), padding=1)
DEPTHWISE = pre.ConvGeometry.from_conv((2, 24, 30, 31), (24, 1, 3, 3), padding=1, groups=24)


@pytest.mark.parametrize("geometry", [LAYER, DEPTHWISE], ids=["dense", "depthwise"])
@pytest.mark.parametrize("contraction", CONTRACTIONS)
def test_a_program_is_data(geometry, contraction):
    one, same = (JitEngine().program(geometry, contraction, F32) for _ in range(2))
    assert one == same
    assert hash(one.calls) == hash(same.calls)
    other = JitEngine().program(replace(geometry, batch=3), contraction, F32)
    assert one != other
    text = str(one)
    assert text.startswith(one.algorithm)
    for call in one.calls:
        assert f"{call.name}: {type(call.spec).__name__}(" in text
    assert all(buffer.name in text for buffer in one.buffers)
    for table in (table for call in one.calls for _, table in call.tables):
        with pytest.raises(ValueError, match="read-only"):
            table.array[...] = 0


def test_planning_compiles_and_loads_nothing(tmp_path):
    """In a new process with an empty folder of kernels: all contractions are planned, nothing is loaded or written."""
    code = """
import numpy as np, preimage as pre
from preimage.engines import get
from preimage.engines.jit.compiler import kernels
for groups in (1, 24):
    for contraction in ("conv", "conv_transpose", "conv_weight_grad"):
        g = pre.ConvGeometry.from_conv((2, 24, 30, 31), (24, 24 // groups, 3, 3), padding=1, groups=groups)
        print(get("jit").plan(g, contraction, np.dtype(np.float32)).algorithm)
assert kernels.loaded_count() == 0
"""
    environment = {**os.environ, "PREIMAGE_CACHE_DIR": str(tmp_path / "kernels")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\n")) == 7
    assert not list(tmp_path.rglob("*.obj"))


@pytest.mark.parametrize("name", ["avx2", "avx512", "neon"])
def test_a_program_can_be_made_for_another_cpu(name, monkeypatch):
    target = kernels.named_target(name)
    monkeypatch.setattr(toolchain, "_chosen", target)
    program = JitEngine().program(LAYER, "conv", F32)
    lanes = target.vector_bytes // 4
    assert f"vectors of {lanes}" in program.details["tile"] or f"vectors of {lanes // 2}" in program.details["tile"]
    if not target.runs_here:
        with pytest.raises(pre.EngineError, match="cannot run on this CPU"):
            link(program, 1)


def test_a_cpu_with_other_costs_has_other_plans():
    """The numbers behind plans are the target's: where copies are dear, the stem is not copied first; elsewhere it is."""
    g = pre.ConvGeometry.from_conv((1, 64, 56, 56), (64, 64, 3, 3), padding=1)
    host = kernels.named_target("avx2")
    dear = replace(host, costs=replace(host.costs, direct=replace(host.costs.direct, scratch_cycles=1e6)))
    cheap = replace(host, costs=replace(host.costs, direct=replace(host.costs.direct, scratch_cycles=0.0)))
    plans = [JitEngine().program(g, "conv", F32, target=target).details["result"] for target in (dear, cheap)]
    assert plans == ["transposed in registers, stored in place", "transposed back from a channels-last scratch"]
    assert hash(dear) == hash(cheap)
    assert dear != cheap
    small = replace(host, costs=replace(host.costs, depthwise=replace(host.costs.depthwise, dense=0)))
    depthwise = pre.ConvGeometry.from_conv((1, 64, 56, 56), (64, 1, 3, 3), padding=1, groups=64)
    names = [JitEngine().program(depthwise, "conv", F32, target=target).algorithm for target in (host, small)]
    assert names == ["depthwise, channels first", "depthwise"]


def test_every_plan_says_why_the_other_strategies_were_refused():
    for fast, layer in product((False, True), builtin_suite()[::5]):
        rows = {c: sum(c in s.contractions and (fast or s.exact) for s in select.STRATEGIES) for c in CONTRACTIONS}
        for contraction in CONTRACTIONS:
            with pre.config(accuracy="fast" if fast else "exact"):
                plan = JitEngine().plan(layer.geometry, contraction, F32)
            assert len(plan.refused) == rows[contraction] - 1, (layer.name, contraction, plan.refused)
            assert all(len(why) > 10 for why in plan.refused.values())


def test_kernels_as_large_as_their_pictures_are_left_to_another_engine():
    """Padding makes a list of taps for every position: gigabytes of tables (found by a memory limit: MemoryError while planning)."""
    g = pre.ConvGeometry.from_conv((1, 16, 256, 256), (16, 16, 255, 255), padding=127)
    for contraction in CONTRACTIONS[:2]:
        (taps,) = re.findall(r"lists of ([\d,]+) taps", JitEngine().supports(g, contraction, F32))
        assert int(taps.replace(",", "")) > 100_000_000  # how many depends on the tile, and so on the CPU
        assert pre.plan(g, contraction=contraction).engine == "gemm"
    small = pre.ConvGeometry.from_conv((1, 16, 96, 96), (16, 16, 65, 65), padding=32)
    assert JitEngine().supports(small, "conv", F32) is None


def test_tables_are_equal_by_content():
    a, b = np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)
    assert Table(a) == Table(b)
    assert hash(Table(a)) == hash(Table(b))
    assert Table(a) != Table(b.reshape(3, 2))
    assert Table(a) != Table(b.astype(np.float64))


# ------------------------------------------------------------------------------------------------------- a new strategy
# What somebody writes who adds one: a kernel with the names of its arguments, a function that considers a request, and one row.


class ScaleArguments(Arguments):
    input: Elements = elements("element")
    output: Elements = elements("element")
    weight: Elements = elements("element")
    count: Integer


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """A task multiplies an image by the one weight that there is."""

    arguments: ClassVar = ScaleArguments

    def ir(self) -> str:
        return SCALE


SCALE = """
define void @kernel(ptr %args, i64 %task, i64 %thread) {
entry:
  %px = load ptr, ptr %args
  %ay = getelementptr i64, ptr %args, i64 1
  %py = load ptr, ptr %ay
  %aw = getelementptr i64, ptr %args, i64 2
  %pw = load ptr, ptr %aw
  %an = getelementptr i64, ptr %args, i64 3
  %n = load i64, ptr %an
  %w = load float, ptr %pw
  %first = mul i64 %task, %n
  %last = add i64 %first, %n
  br label %loop
loop:
  %k = phi i64 [ %first, %entry ], [ %next, %loop ]
  %x = getelementptr float, ptr %px, i64 %k
  %y = getelementptr float, ptr %py, i64 %k
  %v = load float, ptr %x
  %product = fmul float %v, %w
  store float %product, ptr %y
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %last
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


def consider_scale(r):
    g = r.geometry
    if r.element != "f32" or r.finish.bias or r.prepared:
        return "only float32 without an epilogue or prepared weights"
    if not (g.in_channels == g.out_channels == 1 and set(g.kernel_size) <= {1} and g.input_size == g.output_size):
        return "not one channel scaled by one weight"
    count = int(np.prod(g.input_size))
    values = ScaleArguments(input="x", output="out", weight="w", count=count)
    return select.Candidate(
        lambda: Program("scaling", (kernel_call("scale", ScaleSpec(), values, g.batch),)), 0.1 * g.batch * count
    )


def test_a_strategy_is_added_with_a_row(monkeypatch):
    row = select.Strategy("scaling", ("conv",), consider_scale)
    plain = JitEngine().plan(replace(LAYER, in_channels=1, out_channels=1), "conv", F32)
    assert "scaling" not in plain.refused
    monkeypatch.setattr(select, "STRATEGIES", (*select.STRATEGIES, row))
    engine = JitEngine()
    assert engine.plan(LAYER, "conv", F32).refused["scaling"] == "not one channel scaled by one weight"
    g = pre.ConvGeometry.from_conv((3, 1, 40, 50), (1, 1, 1, 1))
    plan = engine.plan(g, "conv", F32)
    assert plan.algorithm == "scaling"
    assert any("cycles by the model" in why for why in plan.refused.values())
    x, w = np.random.default_rng(0).standard_normal(g.input_shape).astype(np.float32), np.full((1, 1, 1, 1), 3, np.float32)
    np.testing.assert_array_equal(engine.conv(g, x, w), x * 3)
    report = audit.run([engine], geometries=40, jobs=1, seed=1, checks=["exact", "bits"])
    assert report.ok, [f.message for f in report.findings]
