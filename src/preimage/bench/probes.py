"""What the machine can do, measured in the run itself: the peak of fused multiply-adds, and the speed of memory.

The peak comes from a generated kernel that only multiplies and adds, in registers: as many independent sums as hide the
latency of the unit. Where no code can be generated, NumPy's matrix product stands in, and the name says so. The memory
speed is that of a generated kernel that reads one array and writes another, for working sets of several sizes, because a
layer whose arrays stay in a cache is bounded by that cache. Bytes moved are counted as read + written.

Times of a virtual machine wander; so the probes run before, between and after the layers, and the best of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Probes", "memory_probe", "peak_probe"]

_CHAINS = 24  # sums at once: more than latency times units of any known core, few enough for 32 registers
_SIZES = tuple(1 << k for k in (15, 18, 20, 22, 24, 28))  # bytes of both arrays together


def _lanes(dtype: str) -> int:
    from preimage.engines.jit.compiler import kernels

    return kernels.current_target().vector_bytes // (4 if dtype == "f32" else 8)


def _peak_text(dtype: str, lanes: int, chains: int) -> str:
    """for n turns: s[k] = fma(a, b, s[k]) for every k; the sums are stored at the end so that they are computed."""
    from preimage.engines.ir.builder import Kernel

    f = Kernel()
    turns, values = f.int_arg(0), f.ptr_arg(1, dtype)
    out = f.ptr_arg(2, dtype).at(f.task * (chains * lanes))
    a, b = values.splat(lanes), values.at(1).splat(lanes)
    sums = [values.at(2 + k).splat(lanes) for k in range(chains)]
    with f.loop(0, turns, carry=sums, once=True) as loop:
        loop.carry = [a.fma(b, s) for s in loop.carry]
    for k, s in enumerate(loop.result):
        out.at(k * lanes).store(s)
    return f.ir()


def _copy_text(lanes: int) -> str:
    """Read, add, write: y[i] = x[i] + 1 over the task's share, `turns` times."""
    from preimage.engines.ir.builder import Kernel

    f = Kernel()
    count, turns = f.int_arg(2), f.int_arg(3)
    x, y = f.ptr_arg(0, "f32").at(f.task * count), f.ptr_arg(1, "f32").at(f.task * count)
    one = f.const("f32", lanes, 1.0)
    with f.loop(0, turns), f.loop(0, count, 4 * lanes) as i:
        for k in range(4):
            at = i.index + k * lanes
            y.at(at).store(x.at(at).load(lanes) + one)
    return f.ir()


def _best(call: Callable[[], Any], repeats: int) -> float:
    """Least time of a call, in ns."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter_ns()
        call()
        best = min(best, time.perf_counter_ns() - begin)
    return best


def peak_probe(dtype: str, threads: int, seconds: float = 0.02) -> tuple[float, str]:
    """GFLOP/s of fused multiply-adds on so many threads, and how that was measured. dtype: float32 or float64."""
    try:
        from preimage.engines.jit.compiler import kernels
        from preimage.engines.jit.runtime import pool as pool

        if kernels.unavailable():
            raise ImportError(kernels.unavailable())
    except ImportError:
        n = 768
        a = np.ones((n, n), dtype)
        b = np.ones((n, n), dtype)
        return 2 * n**3 / _best(lambda: a @ b, 5), f"matrix product of NumPy, {n} x {n} (no generated code here)"
    short = {"float32": "f32", "float64": "f64"}[dtype]
    lanes = _lanes(short)
    chains = _CHAINS if kernels.current_target().vector_registers >= 32 else 12
    kernel = kernels.compile_module(_peak_text(short, lanes, chains), f"bench peak {short}")
    data = np.full(64, 0.5, dtype)
    out = np.empty(threads * chains * lanes, dtype)
    turns = 100_000
    args = pool.pack_args(turns, data.ctypes.data, out.ctypes.data)
    rounds = max(3, int(seconds / 1e-3) // 2)
    best = _best(lambda: pool.launch(kernel, args, threads, threads), rounds)
    return 2.0 * turns * chains * lanes * threads / best, f"generated kernel, {chains} sums of {lanes} lanes a thread"


def memory_probe(size_bytes: int, threads: int) -> float:
    """GB/s read + written by a kernel whose two arrays fill size_bytes together."""
    try:
        from preimage.engines.jit.compiler import kernels
        from preimage.engines.jit.runtime import pool as pool

        if kernels.unavailable():
            raise ImportError(kernels.unavailable())
    except ImportError:
        x = np.ones(size_bytes // 8, np.float32)
        y = np.empty_like(x)
        return 2 * x.nbytes / _best(lambda: np.add(x, 1, out=y), 5)
    lanes = _lanes("f32")
    step = 4 * lanes
    count = max(step, size_bytes // 8 // threads // step * step)
    kernel = kernels.compile_module(_copy_text(lanes), "bench copy")
    x = np.ones(count * threads + 16, np.float32)
    y = np.zeros_like(x)
    turns = max(1, (1 << 22) // (8 * count * threads))
    args = pool.pack_args(x.ctypes.data, y.ctypes.data, count, turns)
    best = _best(lambda: pool.launch(kernel, args, threads, threads), 4)
    return 8.0 * count * threads * turns / best


@dataclass(slots=True)
class Probes:
    """The probes of one (dtype, threads): best figures so far, all peaks seen, and how."""

    dtype: str
    threads: int
    peak_gflops: float = 0.0
    peaks: list[float] | None = None
    how: str = ""
    memory: dict[int, float] | None = None

    def again(self, memory: bool = False) -> None:
        """Measure once more; the best counts."""
        peak, self.how = peak_probe(self.dtype, self.threads)
        self.peaks = [*(self.peaks or []), round(peak, 2)]
        self.peak_gflops = max(self.peak_gflops, peak)
        if memory or self.memory is None:
            for size in _SIZES:
                speed = memory_probe(size, self.threads)
                self.memory = {**(self.memory or {}), size: max(speed, (self.memory or {}).get(size, 0.0))}

    def as_data(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "threads": self.threads,
            "peak_gflops": self.peak_gflops,
            "peaks": self.peaks or [],
            "how": self.how,
            "memory_gbytes": {str(k): v for k, v in (self.memory or {}).items()},
        }
