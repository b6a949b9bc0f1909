"""What the jit engine costs around its kernels: the first call of a process, a tiny call, a hand-off to a thread, many sizes.

    python benchmarks/overheads.py [--rounds 9]

First calls are measured in processes of their own, from the call to its result: with an empty folder of kernels, and with one that
holds what the call needs. The import of the engine's modules and of llvmlite, which the first call would do, is done before and shown
beside. Medians; milliseconds and microseconds as said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

FIRST = """
import sys, time
import numpy as np, preimage as pre
name, layout = sys.argv[1], sys.argv[2]
shape, weight, options = {layers}[name]
x = np.ones(shape, np.float32)
if layout == "channels_last":
    x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    x = np.moveaxis(x, -1, 1)
w = np.ones(weight, np.float32)
call = pre.conv_transpose if name.startswith("deconv") else pre.conv
begin = time.perf_counter()
import llvmlite.binding, preimage.engines.jit.engine
loaded = time.perf_counter()
call(x, w, **options)
print(1e3 * (loaded - begin), 1e3 * (time.perf_counter() - loaded))
"""
LAYERS = {
    "conv 64x56x56, 3x3": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "deconv 64x28x28, 2x2, stride 2": ((1, 64, 28, 28), (64, 32, 2, 2), {"stride": 2}),
    "conv depthwise 64x56x56, 3x3": ((1, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    "conv 3x224x224, 7x7, stride 2": ((1, 3, 224, 224), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
}


def first_call(name: str, layout: str, folder: str) -> tuple[float, float]:
    """Milliseconds in a new process: to import the engine and LLVM, and of the first call then."""
    run = subprocess.run(
        [sys.executable, "-c", FIRST.replace("{layers}", repr(LAYERS)), name, layout],
        env={**os.environ, "PREIMAGE_CACHE_DIR": folder, "PREIMAGE_ENGINE": "jit"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imports, call = map(float, run.stdout.split())
    return imports, call


def first_calls(rounds: int) -> None:
    print(
        "| first call of a process | layout | import of the engine, ms | empty cache, ms | full cache, ms |\n|---|---|---|---|---|"
    )
    for name in LAYERS:
        for layout in ("channels_last", "channels_first"):
            imports, empty, full = [], [], []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as folder:
                    for times in (empty, full):
                        loading, call = first_call(name, layout, folder)
                        imports.append(loading)
                        times.append(call)
            print(f"| {name} | {layout} | {median(imports):.0f} | {median(empty):.0f} | {median(full):.1f} |", flush=True)


def per_call(call: object, seconds: float = 0.5) -> float:
    """Median microseconds of a call, in turns of 100."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(100):
            call()  # type: ignore[operator]
        times.append((time.perf_counter() - begin) / 100)
    return 1e6 * median(times)


def small_things() -> None:
    import numpy as np

    import preimage as pre
    from preimage.engines.jit.compiler import kernels
    from preimage.engines.jit.runtime import pool

    x, w = np.ones((1, 8, 8, 8), np.float32), np.ones((8, 8, 3, 3), np.float32)
    with pre.config(engine="jit", threads=1):
        print(f"tiny call, 1x8x8x8, 3x3, one thread: {per_call(lambda: pre.conv(x, w)):.1f} us")
    kernel, args = kernels.compile_module("define void @kernel(ptr %a, i64 %t) {\n  ret void\n}", "nothing"), pool.pack_args(0)
    alone = per_call(lambda: pool.launch(kernel, args, 2, 1))
    shared = per_call(lambda: pool.launch(kernel, args, 2, 2))
    print(f"hand-off of two empty tasks: {shared:.1f} us on two threads, {alone:.1f} us on one")


def many_sizes(sizes: int = 500) -> None:
    import resource

    import numpy as np

    import preimage as pre
    from preimage.engines.jit.compiler import kernels

    rng = np.random.default_rng(0)
    w, v = np.ones((16, 24, 3, 3), np.float32), np.ones((24, 16, 4, 4), np.float32)
    marks = []
    with pre.config(engine="jit"):
        for k in range(sizes):
            x = np.ones((int(rng.integers(1, 4)), 24, int(rng.integers(5, 80)), int(rng.integers(5, 80))), np.float32)
            pre.conv(x, w, padding=1)
            pre.conv_transpose(x, v, stride=2, padding=1)
            if k + 1 in (sizes // 10, sizes // 2, sizes):
                marks.append((k + 1, kernels.loaded_count(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    for done, count, memory in marks:
        print(f"after {done} random sizes and batches, conv and conv_transpose: {count} kernels, peak memory {memory:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    first_calls(parser.parse_args().rounds)
    small_things()
    many_sizes()


if __name__ == "__main__":
    main()
