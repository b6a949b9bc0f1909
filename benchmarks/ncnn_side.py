"""ncnn's side of fast_vs_ncnn.py: one dense 3x3 layer of stride 1 and padding 1, in a process and an environment of its own.

    python ncnn_side.py CHANNELS SIZE WEIGHT.npy INPUT.npy THREADS CLOCK ANSWER.npy

Input and result lie in ncnn's own packing (8 channels together where it has them), float32 throughout, with its pools of memory. Of its
algorithms (as it chooses, without F(6x6), without Winograd) the fastest in a first trial is taken; the second line says which. For every line
on its standard input it runs the layer for about 50 ms and says how many nanoseconds a run took, the median. CLOCK: wall, or cpu (of one thread).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import ncnn
import numpy as np
from contestants import burst, clock_of, serve

CHOICES: dict[str, dict[str, bool]] = {
    "as it chooses": {},
    "without F(6x6)": {"use_winograd63_convolution": False},
    "without Winograd": {"use_winograd_convolution": False},
}
kept: list[Any] = []  # what ncnn points into


def layer(w: np.ndarray, x: np.ndarray, threads: int, choice: dict[str, bool]) -> Callable[[], Any]:
    """A function that runs the layer and gives its packed result."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    for name, value in choice.items():
        setattr(net.opt, name, value)
    pools = ncnn.PoolAllocator(), ncnn.PoolAllocator()
    net.opt.blob_allocator, net.opt.workspace_allocator = pools
    model = bytes(4) + w.tobytes()  # four zeros: float32 follows
    net.load_param_mem(f"7767517\n2 2\nInput data 0 1 data\nConvolution conv 1 1 data out 0={len(w)} 1=3 4=1 5=0 6={w.size}\n")
    net.load_model_mem(model)
    packed = ncnn.Mat()
    source = ncnn.Mat(x)
    ncnn.convert_packing(source, packed, 8 if len(x) % 8 == 0 else 1, ncnn.Option())
    kept.append((net, pools, model, source, packed))

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("data", packed)
        return extractor.extract("out", 1)[1]  # 1: as it is packed

    return run


def main() -> None:
    """As the module says."""
    channels, size, weight, data, threads, clock_name, answer = sys.argv[1:8]
    w, x = np.load(weight), np.load(data)
    assert w.shape == (int(channels), int(channels), 3, 3)
    assert x.shape == (int(channels), int(size), int(size))
    runs = {name: layer(w, x, int(threads), choice) for name, choice in CHOICES.items()}
    turns = {name: burst(run, clock_of(clock_name == "cpu")) for name, run in runs.items()}
    best = min(runs, key=lambda name: min(turns[name]() for _ in range(3)))
    plain = ncnn.Mat()
    ncnn.convert_packing(runs[best](), plain, 1, ncnn.Option())
    np.save(answer, np.array(plain))
    serve(turns[best], best)
    os._exit(0)  # its pools do not like the order in which Python frees


if __name__ == "__main__":
    main()
