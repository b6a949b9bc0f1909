"""Does a float64 product on a GPU's tensor cores keep the contract's chain? sum = fma(a[k], b[k], sum) for k = 0, 1, ... (docs/contract.md)

    python tools/dmma_check.py           # needs an NVIDIA GPU of compute capability 8.0 or newer

If all sums have the bits of the chain, kernels for float64 may use `mma.m8n8k4.f64`, at twice the rate of single multiply-adds, and keep the
contract. Models of the tensor cores say that they do so; no one has promised it. The exit status is 1 where a bit differs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from preimage.contract import fma
from preimage.engines.cuda.devices import device_of
from preimage.errors import PreimageError

TERMS = 256
CASES = ("normal", "wide exponents", "cancelling", "denormal")


@dataclass(frozen=True)
class Product:
    """c (8 x 8) = a (8 x terms) times b (terms x 8), by one warp: four terms an instruction, the sums carried from one to the next."""

    threads: int = 32
    shared_bytes: int = 0
    arguments: Any = None

    def ir(self, target: str) -> str:
        return """target triple = "nvptx64-nvidia-cuda"
declare { double, double } @llvm.nvvm.mma.m8n8k4.row.col.f64(double, double, double, double)
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
define ptx_kernel void @kernel(i64 %aw, i64 %bw, i64 %cw, i64 %terms) {
entry:
  %a = inttoptr i64 %aw to ptr addrspace(1)
  %b = inttoptr i64 %bw to ptr addrspace(1)
  %c = inttoptr i64 %cw to ptr addrspace(1)
  %k = trunc i64 %terms to i32
  %lane = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %row = udiv i32 %lane, 4
  %part = urem i32 %lane, 4
  %line = mul i32 %row, %k
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %next, %loop ]
  %s0 = phi double [ 0.0, %entry ], [ %n0, %loop ]
  %s1 = phi double [ 0.0, %entry ], [ %n1, %loop ]
  %term = add i32 %i, %part
  %ai = add i32 %line, %term
  %ap = getelementptr double, ptr addrspace(1) %a, i32 %ai
  %av = load double, ptr addrspace(1) %ap
  %b0 = mul i32 %term, 8
  %bi = add i32 %b0, %row
  %bp = getelementptr double, ptr addrspace(1) %b, i32 %bi
  %bv = load double, ptr addrspace(1) %bp
  %r = call { double, double } @llvm.nvvm.mma.m8n8k4.row.col.f64(double %av, double %bv, double %s0, double %s1)
  %n0 = extractvalue { double, double } %r, 0
  %n1 = extractvalue { double, double } %r, 1
  %next = add i32 %i, 4
  %more = icmp slt i32 %next, %k
  br i1 %more, label %loop, label %end
end:
  %c0 = mul i32 %row, 8
  %c1 = mul i32 %part, 2
  %ci = add i32 %c0, %c1
  %cp = getelementptr double, ptr addrspace(1) %c, i32 %ci
  store double %n0, ptr addrspace(1) %cp
  %cq = getelementptr double, ptr addrspace(1) %cp, i32 1
  store double %n1, ptr addrspace(1) %cq
  ret void
}"""


def operands(case: str) -> tuple[Any, Any]:
    """a and b. Each case is one in which another order, or a wider sum, shows."""
    rng = np.random.default_rng(CASES.index(case))
    a, b = rng.standard_normal((8, TERMS)), rng.standard_normal((TERMS, 8))
    if case == "wide exponents":
        a *= 2.0 ** rng.integers(-200, 200, a.shape)
    elif case == "cancelling":
        a[:, 1::2] = -a[:, ::2] * (1 + 2.0**-50 * rng.standard_normal((8, TERMS // 2)))
        b[1::2] = b[::2]
    elif case == "denormal":
        a *= 2.0**-540
        b *= 2.0**-530
    return a, b


def chain(a: Any, b: Any) -> Any:
    """The contract's: one fused multiply-add a term, in order, from +0."""
    sums = np.zeros((8, 8))
    for k in range(a.shape[1]):
        sums = fma(np.repeat(a[:, k, None], 8, 1), np.repeat(b[None, k], 8, 0), sums)
    return sums


def on_device(gpu: Any, a: Any, b: Any) -> Any:
    """The same sums by the tensor cores."""
    kernel, made = gpu.load(Product()), np.full((8, 8), np.nan)
    memory = [gpu.allocate(array.nbytes) for array in (a, b, made)]
    for held, array in zip(memory, (a, b, made), strict=True):
        gpu.upload(held.address, np.ascontiguousarray(array))
    gpu.launch(kernel, (1, 1, 1), (*(held.address for held in memory), a.shape[1]))
    gpu.download(made, memory[2].address)
    return made


def same(gpu: Any) -> dict[str, int]:
    """By case, how many of the 64 sums have the bits of the chain."""
    found = {}
    for case in CASES:
        a, b = operands(case)
        found[case] = int((on_device(gpu, a, b).view(np.int64) == chain(a, b).view(np.int64)).sum())
    return found


def main(gpu: Any = None) -> int:
    """gpu: a device that is open already; by default the first."""
    try:
        found = same(device_of("cuda:0") if gpu is None else gpu)
    except PreimageError as error:
        print(f"nothing to check: {error}", file=sys.stderr)
        return 2
    for case, count in found.items():
        print(f"{case}: {count} of 64 sums have the bits of the chain")
    return int(min(found.values()) < 64)


if __name__ == "__main__":
    sys.exit(main())
