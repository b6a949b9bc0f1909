"""The jit engine's kernels as a ladder, from the naive loop to the real one: writes docs/ladder.md.

    python benchmarks/ladder.py [--write]

Every rung adds one idea; each result is compared with the first rung's, bit by bit, before it is timed.
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("PREIMAGE_THREADS", "1")

import numpy as np

from preimage.bench.machine import describe
from preimage.engines.ir.builder import Kernel
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.engine import JitEngine
from preimage.engines.jit.runtime import pool
from preimage.engines.prepared import PreparedWeight
from preimage.geometry import ConvGeometry

LAYERS = {
    "conv 3x3, 64 -> 64 channels, 56 x 56": ("conv", ConvGeometry.from_conv((1, 64, 56, 56), (64, 64, 3, 3), padding=1)),
    "conv_transpose 4x4 stride 2, 64 -> 64 channels, 28 x 28": (
        "conv_transpose",
        ConvGeometry.from_conv_transpose((1, 64, 28, 28), (64, 64, 4, 4), stride=2, padding=1),
    ),
    "conv_transpose 4x4 stride 2, 64 -> 3 channels, 64 x 64": (
        "conv_transpose",
        ConvGeometry.from_conv_transpose((1, 64, 64, 64), (64, 3, 4, 4), stride=2, padding=1),
    ),
}


#: What stands behind the tables.
TAIL = """\
The stride phases are in every step: position t of phase r of a transposed convolution reads only the taps that hit it,
so a 4x4 kernel with stride 2 is four 2x2 convolutions, and no zero between strided values is multiplied.

A planned kernel may stand a few percent behind a tile above it: the plan chooses by a model of the machine, not by trying, and on
these small layers several tiles are about equally fast. `preimage tune` measures the tiles instead.

## The code of a step

Each of the first four steps is the same kernel with another tile: `JitEngine((lanes, vectors, pixels))` in `benchmarks/ladder.py`. The
sums of the tile are plain values that LLVM keeps in registers; one step of their chains is, without its special cases
(`_run` in `engines/jit/conv/direct_kernel.py`):

```
for p in range(spec.pixels):
    value = pixel[p].at(i).splat(spec.lanes)                    # one input, broadcast to all lanes
    for v in range(spec.vectors):
        sums[p, v] = sums[p, v].plus_product(weight[v], value)  # one product for each lane's output channel
```

- lanes = vectors = pixels = 1: one chain, each product waits for the one before.
- lanes of a whole vector: one broadcast and one multiply-add serve that many output channels.
- pixels = 4: a loaded weight serves four pixels, and four independent chains fill the time that one would wait.
- vectors = 2, pixels = 8: sixteen chains; a broadcast serves two vectors.
- planned: `select.py` asks each strategy what it would cost; with few output channels the pixels lie across the lanes (`across_pixels_kernel.py`).
- packed once: the copy of the weights into the order `[block][tap][i][vectors * lanes]` is made before, not in each call.
"""


def last(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def best_seconds(call, seconds: float = 0.6) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def fma_peak(lanes: int) -> float:
    """GFLOP/s of 16 independent chains of vector fused multiply-adds."""
    f = Kernel()
    numbers = f.ptr_arg(0, "f32")
    a = numbers.splat(lanes)
    with f.loop(0, 1_000_000, carry=[a] * 16) as i:
        i.carry = [a.fma(a, c) for c in i.carry]
    total = i.result[0]
    for value in i.result[1:]:
        total = total + value
    numbers.store(total)
    kernel = kernels.compile_module(f.ir(), "peak")
    memory = np.zeros(64, np.float32)
    args = pool.pack_args(memory.ctypes.data)
    return 16 * 2 * lanes * 1e6 / best_seconds(lambda: pool.launch(kernel, args, 1, 1)) / 1e9


def rungs(full: int):
    """(what the rung is, engine, weights are prepared)."""
    return [
        ("one output at a time: scalar chain over taps and channels", JitEngine((1, 1, 1)), False),
        ("one vector of output channels: every lane its own chain", JitEngine((full, 1, 1)), False),
        ("four pixels share each loaded weight; four chains hide part of the latency", JitEngine((full, 1, 4)), False),
        ("a tile of 8 pixels x 2 vectors: 16 chains in registers, a pixel is broadcast once for two vectors", JitEngine((full, 2, 8)), False),
        ("the planned kernel: tile by measured cost, phases folded into channels or vectors across pixels for few channels", JitEngine(), False),
        ("weights packed once (`PreparedWeight`)", JitEngine(), True),
    ]  # fmt: skip


def measure() -> str:
    full = kernels.current_target().vector_bytes // 4
    peak, machine = fma_peak(full), describe()
    lines = [
        "# A ladder of kernels",
        "",
        "The same convolution, one idea a step. All steps give the same bits (checked before the clock runs): the order of",
        "summation is the contract's, so each idea may only change *which* sums are worked on together, never a sum.",
        "",
        f"float32, channels-last, one thread, {machine['cpu']} ({machine['target']}). The measured FMA peak of one core: {peak:.0f} GFLOP/s.",
        "Work is counted without the taps that fall on padding. Made by `python benchmarks/ladder.py --write`.",
    ]
    rng = np.random.default_rng(0)
    for title, (contraction, geometry) in LAYERS.items():
        shape = geometry.input_shape if contraction == "conv" else geometry.output_shape
        a = last(rng.standard_normal(shape).astype(np.float32))
        w = rng.standard_normal(geometry.weight_shape).astype(np.float32)
        lines += ["", f"## {title}", "", "| step | ms | GFLOP/s | of the peak |", "|---|---|---|---|"]
        first = None
        for what, engine, prepared in rungs(full):
            weight = PreparedWeight(w) if prepared else w
            call = partial(getattr(engine, contraction), geometry, a, weight)
            result = call()
            first = result if first is None else first
            if not np.array_equal(first, result):
                raise SystemExit(f"{title}: {what}: other bits")
            seconds = best_seconds(call)
            rate = 2 * geometry.inside_macs / seconds / 1e9
            lines.append(f"| {what} | {seconds * 1e3:.3f} | {rate:.1f} | {100 * rate / peak:.0f} % |")
    lines += [
        "",
        *TAIL.splitlines(),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/ladder.md instead of printing")
    text = measure()
    if parser.parse_args().write:
        (Path(__file__).parent.parent / "docs" / "ladder.md").write_text(text)
    else:
        print(text)
