"""From the text of a kernel to PTX, NVIDIA's assembly language, by LLVM's NVPTX back end; the driver makes machine code of it.

    listing = to_ptx(spec.ir("ptx"), "sm_90")

Only architectures of the table are asked for: of an instruction that an architecture lacks, LLVM ends the process. For a newer GPU the
PTX of the newest known one before it is made, which every later driver takes.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from preimage.engines.cuda.device import KernelSpec
from preimage.engines.cuda.llvm import binding_with
from preimage.errors import EngineError
from preimage.locks import LOCK, import_apart

__all__ = ["ARCHITECTURES", "architecture", "compile_ptx", "foreign_operations", "to_ptx", "toolchain", "unavailable"]

#: What kernels are compiled for, oldest first. Older ones lack asynchronous copies (cp.async), which the kernels use.
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

#: Operations on floating-point numbers that PTX of ours may hold: IEEE's, rounded to nearest even (rcp.rn is 1 / x), roundings to whole numbers,
#: conversions, what moves bits, and products on tensor cores, which only run where a device was found to round as the others do.
_ALLOWED = re.compile(
    r"^(?:(?:fma|add|sub|mul|div|rcp|sqrt)\.rn\.f(?:32|32x2|64)|neg\.f(?:32|64)|abs\.f(?:32|64)|setp\.\w+\.f(?:32|64)|selp\.f(?:32|64)"
    r"|cvt\.f32\.f16|cvt\.rn\.f16\.f32|cvt\.f64\.f32|cvt\.rn\.f32\.f64|cvt\.r[mnpz]i\.f(?P<same>32|64)\.f(?P=same)|copysign\.f(?:32|64)|mov\.f(?:32|64)"
    r"|mma\.sync\.aligned\.m8n8k4\.row\.col\.f64\.f64\.f64\.f64|(?:ld|st)\.(?:global|shared)(?:\.nc)?(?:\.v[24])?\.f(?:32|64))$"
)


@functools.cache
def _binding() -> Any:
    return binding_with("the cuda engine", "initialize_all_targets", "initialize_all_asmprinters")


@functools.cache
def unavailable() -> str | None:
    """Why no PTX can be made here, or None."""
    try:
        _binding().Target.from_triple("nvptx64-nvidia-cuda")
    except (EngineError, RuntimeError) as error:
        return f"llvmlite cannot make PTX: {error}"
    return None


@functools.cache
def toolchain() -> str:
    """The versions that PTX depends on."""
    llvmlite = import_apart("llvmlite")
    return f"llvmlite {llvmlite.__version__}, llvm {'.'.join(map(str, _binding().llvm_version_info))}"


def architecture(capability: tuple[int, int]) -> str:
    """What to compile for, for a GPU of that compute capability. Raises: EngineError for one that is older than the kernels can run on."""
    return _known(f"sm_{capability[0]}{capability[1]}")


def compile_ptx(spec: KernelSpec, arch: str) -> str:
    """PTX of a kernel."""
    return to_ptx(spec.ir("ptx"), arch)


def _known(arch: str) -> str:
    """What to compile for: the newest known architecture that is not newer."""
    number = re.fullmatch(r"sm_(\d+)", arch)
    known = [name for name in ARCHITECTURES if number and int(name[3:]) <= int(number[1])]
    if not known:
        raise EngineError(f"the kernels need a GPU of architecture {ARCHITECTURES[0]} (Ampere) or later, this one is {arch!r}")
    return known[-1]


def to_ptx(text: str, arch: str) -> str:
    """PTX of a kernel's text for a GPU of that architecture.

    Raises: EngineError for one that is older than the kernels can run on.
    """
    known, binding = _known(arch), _binding()
    with LOCK:
        machine = binding.Target.from_triple("nvptx64-nvidia-cuda").create_target_machine(cpu=known, opt=3)
        module = binding.parse_assembly(f'target datalayout = "{machine.target_data}"\n{text}', binding.create_context())
        module.verify()
        listing: str = machine.emit_assembly(module)
    return listing


def foreign_operations(ptx: str) -> list[str]:
    """What stands in PTX that a kernel of ours must not hold: operations that round otherwise or flush denormals, local memory."""
    found = []
    for line in ptx.splitlines():
        words = line.split("//")[0].split()
        operation = next((w.rstrip(";") for w in words if not w.startswith("@")), "")
        if operation.startswith(".") and not operation.startswith(".local"):
            continue  # a declaration
        foreign = operation.startswith((".local", "ld.local", "st.local")) or ".ftz" in operation or ".approx" in operation
        if foreign or (re.search(r"\.b?f(?:16|32|64)", operation) and not _ALLOWED.match(operation)):
            found.append(line.strip())
    return found
