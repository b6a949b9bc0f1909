"""float64 on tensor cores: whether a device's products keep the contract's chain, sum = fma(a[k], b[k], sum) for k = 0, 1, ... (docs/contract.md)

    properties_for(device, np.dtype("float64")).matrix       # found out on the device, once; then kernels take `mma.m8n8k4.f64`

Models of the tensor cores say that they do so; no one has promised it. So a device computes sums in which another order, a wider sum or another
rounding shows, and only where every bit is the chain's do its kernels use them.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np

from preimage.contract import fma
from preimage.engines.base import Array, DType
from preimage.engines.cuda.device import Device, Properties, Target
from preimage.engines.cuda.driver import Gpu
from preimage.errors import EngineError
from preimage.locks import LOCK
from preimage.records import record

__all__ = ["CASES", "Product", "chain", "operands", "properties_for", "same"]

#: GPUs whose tensor cores multiply float64 faster than other instructions do.
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
TERMS = 256
CASES = ("normal", "wide exponents", "cancelling", "denormal", "zeros", "infinite")
_kept: weakref.WeakKeyDictionary[Device, bool] = weakref.WeakKeyDictionary()


@record
class Product:
    """c (8 x 8) = a (8 x terms) times b (terms x 8), by one warp: four terms an instruction, the sums carried from one to the next."""

    threads: int = 32
    shared_bytes: int = 0
    arguments: Any = None

    def ir(self, target: Target) -> str:
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


def operands(case: str) -> tuple[Array, Array]:
    """a and b. Each case is one in which another order, a wider sum or another rounding shows."""
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
    elif case == "zeros":  # sums that end as either zero, by products that are zero or underflow to it
        a, b = rng.choice([0.0, -0.0, 2.0**-600, -(2.0**-600)], a.shape), rng.choice([0.0, -0.0, 2.0**-600], b.shape)
    elif case == "infinite":
        a[::2, rng.integers(TERMS)] = np.inf
        b[rng.integers(TERMS), ::3] = -np.inf
    return a, b


def chain(a: Array, b: Array) -> Array:
    """The contract's: one fused multiply-add a term, in order, from +0."""
    sums: Array = np.zeros((8, 8))
    with np.errstate(all="ignore"):
        for k in range(a.shape[1]):
            sums = fma(np.repeat(a[:, k, None], 8, 1), np.repeat(b[None, k], 8, 0), sums)
    return sums


def on_device(device: Any, a: Array, b: Array) -> Array:
    """The same sums by the tensor cores."""
    kernel, made = device.load(Product()), np.full((8, 8), np.nan)
    memory = [device.allocate(array.nbytes) for array in (a, b, made)]
    for held, array in zip(memory, (a, b, made), strict=True):
        device.upload(held.address, np.ascontiguousarray(array))
    device.launch(kernel, (1, 1, 1), (*(held.address for held in memory), a.shape[1]))
    device.download(made, memory[2].address)
    for held in memory:
        held.free()
    return made


def same(device: Any) -> dict[str, int]:
    """By case, how many of the 64 sums have the bits of the chain; NaN as NaN."""
    found = {}
    for case in CASES:
        a, b = operands(case)
        got, wanted = on_device(device, a, b), chain(a, b)
        found[case] = int(((got.view(np.int64) == wanted.view(np.int64)) | (np.isnan(got) & np.isnan(wanted))).sum())
    return found


def properties_for(device: Device, dtype: DType) -> Properties:
    """The device's properties as plans for a dtype take them: `matrix` where float64's tensor cores were found to keep the chain."""
    known = device.properties
    if dtype != np.float64 or known.arch not in ARCHITECTURES or not isinstance(device, Gpu):
        return known
    found = _kept.get(device)
    if found is None:
        try:
            found = min(same(device).values()) == 64
        except EngineError:
            found = False
        with LOCK:
            found = _kept.setdefault(device, found)
    return replace(known, matrix=True) if found else known
