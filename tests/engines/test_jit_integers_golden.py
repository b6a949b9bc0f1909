"""Golden plans and kernels of contractions of 8-bit integers, as in test_jit_golden.py: for CPUs with and without the instruction of VNNI.

pytest tests/engines/test_jit_integers_golden.py --update-golden     # write tests/golden/integers.json anew
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import preimage as pre
from preimage.engines import integers
from preimage.engines.integers import Finish
from preimage.geometry import ConvGeometry

toolchain = pytest.importorskip("preimage.engines.jit.compiler.toolchain")
from preimage.engines.jit.compiler import kernels  # noqa: E402
from preimage.engines.jit.products.integers import blocks, call  # noqa: E402
from preimage.engines.jit.products.integers.product_arguments import ProductSpec  # noqa: E402

PATH = Path(__file__).parents[1] / "golden" / "integers.json"
CACHES = {"l1_bytes": 48 << 10, "l2_bytes": 1 << 20, "l3_bytes": 32 << 20}
TARGETS = {
    "avx2": ("avx2", ""), "avx2 with VNNI": ("avx2", "+avxvnni"), "avx512": ("avx512", ""), "avx512 with VNNI": ("avx512", "+avx512vnni"),
    "neon": ("neon", "+neon"),
}  # fmt: skip
FACTOR = np.full(1, 0.01, np.float32)
FINISHES = {
    "int32": Finish(),
    "scaled": Finish("scaled", FACTOR),
    "requantised": Finish("requantised", FACTOR, np.array(3, np.uint8)),
}
#: Input, weights, and what is said of the convolution beside them.
CONVOLUTIONS = {
    "7x7 of 3 channels": ((1, 3, 64, 64), (32, 3, 7, 7), {"stride": 2, "padding": 3}),
    "3x3": ((2, 64, 28, 28), (48, 64, 3, 3), {"padding": 1}),
    "1x1": ((2, 96, 14, 14), (40, 96, 1, 1), {}),
    "groups": ((1, 64, 28, 28), (64, 4, 3, 3), {"padding": 1, "groups": 16}),
    "depthwise": ((1, 72, 28, 28), (72, 1, 3, 3), {"padding": 1, "groups": 72}),
    "depthwise, one axis": ((1, 24, 200), (24, 1, 9), {"padding": ((8, 0),), "groups": 24}),
    "three axes": ((1, 8, 9, 10, 11), (12, 8, 3, 3, 3), {"stride": 2}),
}


class Launches:
    """What would be launched: the kernels' texts as digests, the tasks; nothing is compiled, and no result computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[str] = []
        self.known: dict[str, str] = {}
        monkeypatch.setattr(call, "kept_kernel", lambda spec: spec)
        monkeypatch.setattr(call, "launch_arrays", self.launch)
        monkeypatch.setattr(call, "_copied", np.ascontiguousarray)
        monkeypatch.setattr(blocks, "in_order", np.ascontiguousarray)

    def launch(self, spec, words, tasks: int, threads: int) -> None:
        if repr(spec) not in self.known:
            self.known[repr(spec)] = hashlib.sha256(spec.ir().encode()).hexdigest()[:16]
        self.found.append(f"{type(spec).__name__} {self.known[repr(spec)]}, {tasks} tasks on {threads} threads")

    def of(self, run) -> list[str]:
        self.found.clear()
        assert run() is not None
        return list(self.found)


def described(launches: Launches) -> dict[str, list[str]]:
    """The launches of every case, by its name."""
    found = {}
    zero = np.array(7, np.uint8)
    for way, finish in FINISHES.items():
        a, b = np.zeros((100, 72), np.uint8), np.zeros((72, 130), np.int8)
        found[f"product, {way}"] = launches.of(lambda a=a, b=b, f=finish: integers.matmul(a, zero, b, None, f))
        for name, (shape, weights, given) in CONVOLUTIONS.items():
            x, w = np.zeros(shape, np.uint8), np.zeros(weights, np.int8)
            g = ConvGeometry.from_conv(shape, weights, **given)
            found[f"{name}, {way}"] = launches.of(lambda g=g, x=x, w=w, f=finish: integers.conv(g, x, zero, w, None, f))
            y = np.zeros(g.output_shape, np.int8)
            across = np.zeros(weights, np.uint8)
            found[f"{name} transposed, {way}"] = launches.of(
                lambda g=g, y=y, w=across, f=finish: integers.conv_transpose(g, y, None, w, None, f)
            )
    return found


@pytest.fixture
def launches(monkeypatch):
    loaded = kernels.loaded_count()
    yield Launches(monkeypatch)
    assert kernels.loaded_count() == loaded, "planning has loaded a kernel"


def chosen(monkeypatch, name: str) -> None:
    base, features = TARGETS[name]
    monkeypatch.setattr(toolchain, "_chosen", replace(kernels.named_target(base), features=features, **CACHES))


def test_plans_and_kernels_are_the_golden_ones(launches, monkeypatch, request):
    found = {}
    with pre.config(threads=2):
        for name in TARGETS:
            chosen(monkeypatch, name)
            found[name] = described(launches)
    if request.config.getoption("--update-golden"):
        PATH.write_text(json.dumps(found, indent=0) + "\n")
    golden = json.loads(PATH.read_text())
    assert set(found) == set(golden)
    for name, cases in found.items():
        assert cases == golden[name], name


def test_a_changed_kernel_is_seen(launches, monkeypatch):
    """The comparison above can fail: one more blank in the text of products changes all of them, and no depthwise convolution."""
    chosen(monkeypatch, "avx512 with VNNI")
    with pre.config(threads=2):
        before = described(launches)
        launches.known.clear()
        monkeypatch.setattr(ProductSpec, "ir", lambda spec, ir=ProductSpec.ir: ir(spec) + " ")
        after = described(launches)
    assert {name for name in before if before[name] != after[name]} == {name for name in before if "depthwise" not in name}
