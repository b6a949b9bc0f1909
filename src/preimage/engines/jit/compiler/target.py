"""What a plan and a compiler need to know about a machine; no LLVM here."""

from __future__ import annotations

import os
from dataclasses import field

from preimage.engines.jit.compiler.costs import AVX2, AVX512, NEON, ZEN4, CostModel
from preimage.records import record

__all__ = ["Target", "cache_sizes", "costs_of", "vectors"]


@record
class Target:
    """The machine that code is made for: LLVM's names, and the few figures that a plan needs.

    vector_bytes: width of the widest vector register in bytes; vector_registers: how many there are;
    l1_bytes, l2_bytes, l3_bytes: data caches of one core (defaults where the system does not tell);
    runs_here: whether this process may execute the code; costs: the measured numbers behind plans.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int
    runs_here: bool
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    l3_bytes: int = 8 << 20
    costs: CostModel = field(default=AVX512, repr=False)

    @property
    def key(self) -> str:
        """Everything about the target that decides the machine code."""
        return f"{self.triple}/{self.cpu}/{self.features}"


def cache_sizes() -> dict[str, int]:
    """Data cache sizes of the first CPU from sysfs, where it can be read."""
    sizes: dict[str, int] = {}
    root = "/sys/devices/system/cpu/cpu0/cache"

    def word(index: str, name: str) -> str:
        with open(f"{root}/{index}/{name}", "rb", 0) as file:
            return file.read(64).decode().strip()

    try:
        for index in os.listdir(root):
            if not index.startswith("index") or word(index, "type") == "Instruction":
                continue
            level, text = word(index, "level"), word(index, "size")
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1], 1)
            sizes[f"l{level}_bytes"] = int(text.rstrip("KMG")) * unit
    except (OSError, ValueError):
        return {}
    return {name: size for name, size in sizes.items() if name in ("l1_bytes", "l2_bytes", "l3_bytes") and size > 0}


def costs_of(vector_bytes: int, cpu: str) -> CostModel:
    """The cost model of the family of CPUs whose vector registers are so wide; cpu: as LLVM calls it."""
    return {64: ZEN4 if cpu == "znver4" else AVX512, 32: AVX2}.get(vector_bytes, NEON)


def vectors(triple: str, features: frozenset[str]) -> tuple[int, int]:
    """Bytes and number of the vector registers that have a fused multiply-add; (0, 0) where there is none."""
    if triple.startswith(("aarch64", "arm64")):
        return 16, 32
    if "avx512f" in features and "avx512vl" in features:
        return 64, 32
    if "avx2" in features and "fma" in features:
        return 32, 16
    return 0, 0
