"""What ran where, in words: CPU, caches, affinity, floating-point mode, versions."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["describe"]

_PACKAGES = ("numpy", "llvmlite", "torch", "onnxruntime", "jax", "preimage")


def describe() -> dict[str, Any]:
    """Plain data about the machine and the process, for the head of a report."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return {
        "cpu": _cpu_name(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "affinity": affinity,
        "pinning": "none: the system may move threads between the CPUs of the affinity mask",
        "caches": _caches(),
        "target": _target(),
        "denormals": _denormals(),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    found: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level = (index / "type").read_text().strip(), (index / "level").read_text().strip()
            if kind != "Instruction":
                found[f"L{level}"] = (index / "size").read_text().strip()
        except OSError:
            continue
    return found


def _target() -> str:
    """The CPU as the code generator names it."""
    try:
        from preimage.engines.jit.compiler import kernels

        target = kernels.current_target()
    except Exception as error:
        return f"no code generator: {error}"
    return f"{target.cpu}, {target.vector_registers} vector registers of {target.vector_bytes} bytes"


def _denormals() -> str:
    """Whether this process keeps denormal results (x86's flush modes would make them zero)."""
    tiny = np.float32(1e-38) * np.ones(1, np.float32)
    return "kept" if float((tiny * np.float32(0.1))[0]) != 0.0 else "flushed to zero"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
