"""Kernels: IR text in, machine code with an address out, compiled once and kept.

    kernel = kernels.compile_module(text)              # an int: the address of the symbol `kernel`
    loaded = kernels.load_all([kernels.wanted(...)])   # many of them; those that nobody has are compiled side by side

A kernel is an address that owns its code: it stays loaded while the `LoadedKernel` object lives, and is unloaded with it.
Compiled code is kept in memory under its key (least recently used ones go first) and on disk (`disk_cache`). LLVM itself: `toolchain`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from preimage.engines import disk_cache
from preimage.engines.jit.compiler import remembered
from preimage.engines.jit.compiler.toolchain import (
    CODEGEN_LEVEL,
    CONTROL_LEVEL,
    LoadedKernel,
    Target,
    Work,
    assembly,
    checked_ir,
    current_target,
    host,
    load_object,
    named_target,
    object_code,
    object_codes,
    toolchain,
    unavailable,
    use_target,
)
from preimage.errors import EngineError
from preimage.locks import LOCK
from preimage.settings import thread_count

__all__ = [
    "CODEGEN_LEVEL",
    "CONTROL_LEVEL",
    "LoadedKernel",
    "Target",
    "Wanted",
    "assembly",
    "checked_ir",
    "compile_module",
    "current_target",
    "forget",
    "host",
    "load_all",
    "load_object",
    "loaded_count",
    "named_target",
    "object_code",
    "unavailable",
    "use_target",
    "wanted",
    "wanted_module",
]

MEMORY_KERNELS = 1024  # kernels kept loaded; a long-lived server with more geometries than this recompiles from disk


def generator_sources() -> list[str]:
    """The files that make the text of a kernel from its spec: `*_kernel.py` and `engines/ir`, which import no other of this engine; and `record`."""
    engines = Path(__file__).parents[2]
    found = [
        *(engines / "ir").glob("*.py"),
        engines.parent / "records.py",
        engines / "order.py",
        engines / "jit/index/tables.py",
        engines / "jit/elementwise/line_joins.py",
        engines / "jit/elementwise/running_tree.py",
        engines / "jit/elementwise/vectors.py",
        engines / "jit/conv/winograd/transforms.py",
        engines / "jit/products/columns.py",
        engines / "jit/products/recurrent/cells.py",
        engines / "jit/products/rows.py",
        engines / "jit/products/transpose.py",
        engines / "jit/runtime/affinity_ir.py",
        engines / "jit/runtime/pool_ir.py",
        *(engines / "jit").rglob("*_arguments.py"),
        *(engines / "jit").rglob("*_kernel.py"),
    ]
    return sorted(map(str, found))


@functools.cache
def generator_digest() -> str:
    """A digest of those files: the version of the text that a kernel spec stands for."""
    digest = hashlib.sha256()
    for path in generator_sources():
        with open(path, "rb", 0) as file:
            digest.update(os.path.basename(path).encode() + b"\0" + file.read())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------ kernels, kept

_kernels: OrderedDict[str, Mapping[str, LoadedKernel]] = OrderedDict()
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kernels))  # at interpreter exit no code is unloaded under a running thread


class Wanted(NamedTuple):
    """A module that somebody wants loaded: the key under which it is kept, and how it is made where nobody has it."""

    key: str
    target: Target
    make_text: Callable[[], str]
    symbols: tuple[str, ...]
    level: int


def wanted_module(
    text: str, symbols: Sequence[str] = ("kernel",), name: str = "", target: Target | None = None, level: int = CODEGEN_LEVEL
) -> Wanted:
    """A module of IR text with some functions. name is only readable: what finds the code is the text itself, the target and the
    versions of the tool chain.
    """
    target = target or current_target()
    digest = hashlib.sha256(text.encode()).hexdigest()
    key = disk_cache.key(name=name, text=digest, target=target.key, tools=toolchain(), level=str(level))
    return Wanted(key, target, lambda: text, tuple(symbols), level)


def wanted(spec: str, make_text: Callable[[], str], target: Target | None = None, level: int = CODEGEN_LEVEL) -> Wanted:
    """The function `kernel` of text that `make_text()` makes from what `spec` says (and this engine's source) alone.

    One that is in memory or on disk makes no text, which is most of the cost of a first call with a full disk cache.
    """
    target = target or current_target()
    return Wanted(_spec_key(spec, target, level), target, make_text, ("kernel",), level)


def compile_module(text: str, key: str = "", target: Target | None = None) -> LoadedKernel:
    """The loaded function `kernel` of a module of IR text: from memory, from disk, or compiled now."""
    return load_all([wanted_module(text, name=key, target=target)])[0]["kernel"]


@functools.lru_cache(maxsize=4096)
def _spec_key(spec: str, target: Target, level: int) -> str:
    return disk_cache.key(
        spec=spec,
        source=generator_digest(),
        target=target.key,
        tools=toolchain(),
        level=str(level),
    )


def load_all(modules: Sequence[Wanted]) -> list[Mapping[str, LoadedKernel]]:
    """The functions of every module, loaded: from memory, from disk; the others are compiled by as many threads as the settings allow.

    Raises: EngineError for code of another CPU.
    """
    found: dict[str, Mapping[str, LoadedKernel]] = {}
    missing: dict[str, Wanted] = {}
    for module in modules:
        kernels = _kernels.get(module.key)
        if kernels is None and not module.target.runs_here:
            raise EngineError(f"code made for {module.target.name} cannot run on this CPU ({host().cpu}); use object_code()")
        if kernels is None:
            with LOCK:
                kernels = _kernels.get(module.key) or _stored(module.key, module.symbols)
        if kernels is None:
            missing[module.key] = module
        else:
            found[module.key] = kernels
    if missing:
        found |= _compile(missing)
    remembered.keep()
    return [found[module.key] for module in modules]


def _stored(full: str, symbols: tuple[str, ...]) -> Mapping[str, LoadedKernel] | None:
    """The code on disk, loaded."""
    code = disk_cache.read(full)
    if code is None:
        return None
    try:
        return _keep(full, load_object(code, symbols))
    except RuntimeError:  # passes its checksum and does not link: as good as corrupt
        return None


def _compile(missing: dict[str, Wanted]) -> dict[str, Mapping[str, LoadedKernel]]:
    """Compile, load, keep and store; what another thread made meanwhile is taken as it is."""
    with LOCK:
        found = {full: _kernels[full] for full in missing if full in _kernels}
        wanted = {full: work for full, work in missing.items() if full not in found}
        works = [Work(work.make_text(), work.target, work.level) for work in wanted.values()]
        codes = object_codes(works, thread_count())
        for (full, work), code in zip(wanted.items(), codes, strict=True):
            found[full] = _keep(full, load_object(code, work.symbols))
            disk_cache.write(full, code)
    return found


def _keep(full: str, kernels: Mapping[str, LoadedKernel]) -> Mapping[str, LoadedKernel]:
    for symbol, kernel in kernels.items():
        kernel.source = full, symbol
    _kernels[full] = kernels
    while len(_kernels) > MEMORY_KERNELS:
        _kernels.popitem(last=False)
    return kernels


def loaded_count() -> int:
    """How many kernels are held in memory."""
    return len(_kernels)


def forget() -> None:
    """Drop every kernel from memory (those still referred to stay loaded)."""
    with LOCK:
        _kernels.clear()
