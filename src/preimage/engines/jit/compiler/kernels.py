"""Kernels: IR text in, machine code with an address out, compiled once and kept.

    kernel = kernels.compile_module(text)              # an int: the address of the symbol `kernel`
    kernel = kernels.compile_cached(spec, make_text)   # the same, without making the text when the disk has the code
    result = kernels.together(make)                    # what make() makes; the kernels that it asks for are compiled side by side

A kernel is an address that owns its code: it stays loaded while the `LoadedKernel` object lives, and is unloaded with it.
Compiled code is kept in memory under its key (least recently used ones go first) and on disk (`disk_cache`). LLVM itself: `toolchain`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from preimage.engines.jit.compiler import disk_cache
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
from preimage.settings import current, thread_count

__all__ = [
    "CODEGEN_LEVEL",
    "CONTROL_LEVEL",
    "LoadedKernel",
    "Target",
    "assembly",
    "at_once",
    "checked_ir",
    "compile_cached",
    "compile_many",
    "compile_module",
    "current_target",
    "forget",
    "host",
    "load_object",
    "loaded_count",
    "named_target",
    "nothing_compiled",
    "object_code",
    "together",
    "unavailable",
    "use_target",
]

MEMORY_KERNELS = 1024  # kernels kept loaded; a long-lived server with more geometries than this recompiles from disk
T = TypeVar("T")


def generator_sources() -> list[str]:
    """The files that make the text of a kernel from its spec: `*_kernel.py` and `engines/ir`, which import no other of this engine."""
    engines = Path(__file__).parents[2]
    found = [*(engines / "ir").glob("*.py"), engines / "jit/index/tables.py", *(engines / "jit").rglob("*_kernel.py")]
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


def compile_module(text: str, key: str = "", target: Target | None = None) -> LoadedKernel:
    """The loaded function `kernel` of a module of IR text: from memory, from disk, or compiled now.

    key is only a readable name: what finds the code is the text itself, the target and the versions of the tool chain.
    """
    return compile_many(text, ("kernel",), key, target)["kernel"]


def compile_many(
    text: str, symbols: Sequence[str], key: str = "", target: Target | None = None, level: int = CODEGEN_LEVEL
) -> Mapping[str, LoadedKernel]:
    """As compile_module, for a module with several functions."""
    target = target or current_target()
    digest = hashlib.sha256(text.encode()).hexdigest()
    full = disk_cache.key(
        name=key,
        text=digest,
        target=target.key,
        tools=toolchain(),
        level=str(level),
    )
    return _find(full, target, lambda: text, tuple(symbols), level)


def compile_cached(
    spec: str, make_text: Callable[[], str], target: Target | None = None, level: int = CODEGEN_LEVEL
) -> LoadedKernel:
    """As compile_module, for text that `make_text()` makes from what `spec` says (and this engine's source) alone.

    A hit makes no text, which is most of the cost of a first call with a full disk cache.
    """
    if _asked.nothing:
        return LoadedKernel(0, None, 0)
    target = target or current_target()
    if (debug := current().debug) >= 4:
        _print_once(spec, make_text, target, debug)
    return _find(_spec_key(spec, target, level), target, make_text, ("kernel",), level)["kernel"]


_printed: set[tuple[str, str]] = set()  # specs and targets


def _print_once(spec: str, make_text: Callable[[], str], target: Target, debug: int) -> None:
    """Show a kernel on stderr as a plan first asks for it: its IR, from 5 on its assembly too."""
    if (spec, target.key) in _printed:
        return
    _printed.add((spec, target.key))
    text = make_text()
    print(f"preimage: kernel {spec}\n{text}", file=sys.stderr)
    if debug >= 5:
        print(f"preimage: its assembly for {target.name}\n{assembly(text, target)}", file=sys.stderr)


@functools.lru_cache(maxsize=4096)
def _spec_key(spec: str, target: Target, level: int) -> str:
    return disk_cache.key(
        spec=spec,
        source=generator_digest(),
        target=target.key,
        tools=toolchain(),
        level=str(level),
    )


class _Missing(NamedTuple):
    """Code that was asked for and is neither in memory nor on disk."""

    target: Target
    make_text: Callable[[], str]
    symbols: tuple[str, ...]
    level: int


class _Asked(threading.local):
    """What is missing, by key, while this thread is inside `together`."""

    missing: dict[str, _Missing] | None = None
    nothing = False


_asked = _Asked()


@contextmanager
def _collected(missing: dict[str, _Missing] | None) -> Iterator[None]:
    outer = _asked.missing, _asked.nothing
    _asked.missing, _asked.nothing = missing, False
    try:
        yield
    finally:
        _asked.missing, _asked.nothing = outer


def at_once() -> AbstractContextManager[None]:
    """Inside the block, kernels are compiled as they are asked for, although the thread may be inside `together`.

    Whoever asks for a kernel to run it must have it so: a signal handler, a finaliser or a trace function that calls the library may
    find its thread there, and must not be given the 0 that was meant for another call.
    """
    return _collected(None)


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """In this thread every kernel is 0 inside the block, and neither made nor loaded: for plans that are looked at and dropped."""
    before, _asked.nothing = _asked.nothing, True
    try:
        yield
    finally:
        _asked.nothing = before


def together(make: Callable[[], T]) -> T:
    """make(), the kernels that it asks for being compiled side by side, by as many threads as the settings allow.

    Where some must be compiled, make is called twice: first it gets 0 for their addresses and its result is dropped. So it must do
    nothing but make.
    """
    missing: dict[str, _Missing] = {}
    with _collected(missing):
        made = make()
    if not missing:
        return made
    _compile(missing)
    return make()


def _find(
    full: str, target: Target, make_text: Callable[[], str], symbols: tuple[str, ...], level: int
) -> Mapping[str, LoadedKernel]:
    kernels = _kernels.get(full)
    if kernels is not None:
        return kernels
    if not target.runs_here:
        raise EngineError(f"code made for {target.name} cannot run on this CPU ({host().cpu}); use object_code()")
    missing = _Missing(target, make_text, symbols, level)
    with LOCK:
        kernels = _kernels.get(full) or _stored(full, symbols)
    if kernels is None and _asked.missing is not None:
        _asked.missing[full] = missing
        return {symbol: LoadedKernel(0, None, 0) for symbol in symbols}
    return kernels or _compile({full: missing})[full]


def _stored(full: str, symbols: tuple[str, ...]) -> Mapping[str, LoadedKernel] | None:
    """The code on disk, loaded."""
    code = disk_cache.read(full)
    if code is None:
        return None
    try:
        return _keep(full, load_object(code, symbols))
    except RuntimeError:  # passes its checksum and does not link: as good as corrupt
        return None


def _compile(missing: dict[str, _Missing]) -> dict[str, Mapping[str, LoadedKernel]]:
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
