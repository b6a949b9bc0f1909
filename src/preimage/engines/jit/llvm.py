"""LLVM, behind one door: IR text in, machine code with an address out. The only file that imports llvmlite.binding.

    target = llvm.host()                            # what this CPU is, as LLVM names it
    kernel = llvm.compile_module(text)              # an int: the address of the symbol `kernel`
    kernel = llvm.compile_cached(spec, make_text)   # the same, without making the text when the disk has the code

A kernel is an address that owns its code: it stays loaded while the `LoadedKernel` object lives, and is unloaded with it.
Compiled code is kept in memory under its key (least recently used ones go first) and on disk (`cache`).

What keeps the numbers right: no fast-math flag is ever set here, the code generator does not contract a product and a
sum (fused multiply-adds come from `llvm.fma` in the IR alone), and no optimising pass runs: the schedules are the optimiser.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from preimage.engines.jit import cache
from preimage.engines.jit.targets import Target, cache_sizes, vectors
from preimage.errors import EngineError

__all__ = [
    "LoadedKernel",
    "Target",
    "assembly",
    "checked_ir",
    "compile_cached",
    "compile_many",
    "compile_module",
    "current_target",
    "forget",
    "host",
    "loaded_count",
    "named_target",
    "object_code",
    "unavailable",
    "use_target",
]

MEMORY_KERNELS = 1024  # kernels kept loaded; a long-lived server with more geometries than this recompiles from disk
CODEGEN_LEVEL = 1  # measured: 2 and 3, or passes before, give no faster kernels and compile a third slower
CONTROL_LEVEL = 0  # for code that only calls others: a quarter of the time to compile
_LOCK = threading.RLock()  # llvmlite releases the GIL; the code generator is used by one thread at a time


class LoadedKernel(int):
    """The address of a loaded function; the code is unloaded when the last reference to this object goes."""

    code_bytes: int
    _tracker: Any

    def __new__(cls, address: int, tracker: Any, code_bytes: int) -> Self:
        self = super().__new__(cls, address)
        self._tracker = tracker
        self.code_bytes = code_bytes
        return self


# --------------------------------------------------------------------------------------------------- llvmlite itself


@functools.cache
def _binding() -> Any:
    with _LOCK:  # a child forked in the middle of an import would wait for ever for the module's lock
        try:
            from llvmlite import binding
        except ImportError as error:  # pragma: no cover - llvmlite is a dependency of the package
            raise EngineError(f"the jit engine needs llvmlite, which cannot be imported: {error}") from error
        if sys.maxsize < 2**32:
            raise EngineError("the jit engine needs a 64-bit process")
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
    return binding


@functools.cache
def unavailable() -> str | None:
    """Why no code can be compiled and run here, or None."""
    try:
        target = host()
    except (EngineError, RuntimeError, OSError) as error:
        return str(error)
    if target.vector_bytes == 0:
        return f"the CPU {target.cpu} ({platform.machine()}) has no fused multiply-add vectors that this engine knows"
    return None


@functools.cache
def _toolchain() -> str:
    """Versions of everything between the text and the code."""
    import llvmlite

    return f"llvmlite {llvmlite.__version__}, llvm {'.'.join(map(str, _binding().llvm_version_info))}"


def generator_sources() -> list[Path]:
    """The files that make the text of a kernel from its spec: the schedules and the emitter, which import no other of this engine."""
    here = Path(__file__).parent
    schedules = sorted(name for name in os.listdir(here / "schedules") if name.endswith(".py"))
    return [here / "emit.py", here / "values.py", *(here / "schedules" / name for name in schedules)]


@functools.cache
def generator_digest() -> str:
    """A digest of those files: the version of the text that a kernel spec stands for."""
    digest = hashlib.sha256()
    for path in generator_sources():
        with open(path, "rb") as file:
            digest.update(path.name.encode() + b"\0" + file.read())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ targets


@functools.cache
def host() -> Target:
    """The CPU that this process runs on."""
    binding = _binding()
    binding.check_jit_execution()
    flags = binding.get_host_cpu_features()
    have = frozenset(name for name, present in flags.items() if present)
    triple = binding.get_process_triple()
    width, registers = vectors(triple, have)
    cpu = binding.get_host_cpu_name()
    return Target(cpu, triple, cpu, flags.flatten(), width, registers, True, **cache_sizes())


@functools.cache
def named_target(name: str) -> Target:
    """ "host", "avx512", "avx2" (x86-64 levels 4 and 3; run here where the CPU has them) or "neon" (object code only)."""
    if name == "host":
        return host()
    here = host()
    have = frozenset(f[1:] for f in here.features.split(",") if f.startswith("+"))
    intel = here.triple.startswith("x86_64")
    if name == "avx512":
        runs = intel and {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx2", "fma"} <= have
        triple = here.triple if intel else "x86_64-unknown-linux-gnu"
        return replace(here, name=name, triple=triple, cpu="x86-64-v4", features="", vector_bytes=64,
                       vector_registers=32, runs_here=runs)  # fmt: skip
    if name == "avx2":
        triple = here.triple if intel else "x86_64-unknown-linux-gnu"
        return replace(here, name=name, triple=triple, cpu="x86-64-v3", features="", vector_bytes=32,
                       vector_registers=16, runs_here=intel and {"avx2", "fma", "f16c"} <= have)  # fmt: skip
    if name == "neon":
        arm = here.triple.startswith(("aarch64", "arm64"))
        triple = here.triple if arm else "aarch64-unknown-linux-gnu"
        return replace(here, name=name, triple=triple, cpu="generic", features="+neon", vector_bytes=16,
                       vector_registers=32, runs_here=arm)  # fmt: skip
    raise EngineError(f"no target is called {name!r}; there are host, avx512, avx2, neon")


_chosen: Target | None = None


def current_target() -> Target:
    """The target that kernels are compiled for: PREIMAGE_JIT_TARGET (host, avx512, avx2), by default the host."""
    global _chosen
    if _chosen is None:
        target = named_target(os.environ.get("PREIMAGE_JIT_TARGET") or "host")
        if not target.runs_here:
            raise EngineError(f"PREIMAGE_JIT_TARGET={target.name}: this CPU ({host().cpu}) cannot run such code")
        _chosen = target
    return _chosen


@contextmanager
def use_target(target: Target | str) -> Iterator[Target]:
    """Compile for another target inside the block, in the whole process (tests of narrower vectors)."""
    global _chosen
    previous = _chosen
    wanted = named_target(target) if isinstance(target, str) else target
    if not wanted.runs_here:
        raise EngineError(f"this CPU ({host().cpu}) cannot run code made for {wanted.name}")
    _chosen = wanted
    try:
        yield wanted
    finally:
        _chosen = previous


@functools.cache
def _machine(target: Target, level: int = CODEGEN_LEVEL) -> Any:
    binding = _binding()
    if not target.triple.startswith(host().triple.split("-")[0]):
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
    made = binding.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=level,
        reloc="pic",
        codemodel="small",
    )
    made.set_asm_verbosity(False)
    return made


# ------------------------------------------------------------------------------------------------- from text to code


def _parse(text: str, target: Target, verify: bool = False) -> tuple[Any, Any]:
    """The module and the context that owns it: a context of its own, so that all its memory goes with it.

    Parsing checks types and that values are defined before they are used; the verifier's further checks are for who changes
    a schedule: the tests ask for them, and PREIMAGE_DEBUG=4.
    """
    binding = _binding()
    context = binding.create_context()
    module = binding.parse_assembly(text, context)
    module.triple = target.triple
    module.data_layout = str(_machine(target).target_data)
    if verify:
        module.verify()
    return module, context


def object_code(text: str, target: Target | None = None, level: int = CODEGEN_LEVEL, verify: bool = True) -> bytes:
    """The object file that LLVM makes of IR text for a target; nothing is cached or loaded."""
    target = target or current_target()
    with _LOCK:
        machine = _machine(target, level)
        module, _context = _parse(text, target, verify)
        code: bytes = machine.emit_object(module)
        return code


def checked_ir(text: str, target: Target | None = None) -> str:
    """The IR as LLVM reads it, verified (PREIMAGE_DEBUG=4). No pass runs on it: the code generator takes it as it is."""
    target = target or current_target()
    with _LOCK:
        module, _context = _parse(text, target, verify=True)
        return str(module)


def assembly(text: str, target: Target | None = None) -> str:
    """The assembly of IR text (PREIMAGE_DEBUG=5)."""
    target = target or current_target()
    with _LOCK:
        machine = _machine(target)
        module, _context = _parse(text, target)
        listing: str = machine.emit_assembly(module)
        return listing


@functools.cache
def _linker() -> Any:
    """One LLJIT for the process. It is never disposed of: workers and daemon threads may run its code until the end."""
    binding = _binding()
    machine = binding.Target.from_triple(host().triple).create_target_machine(
        cpu=host().cpu,
        features=host().features,
        opt=CODEGEN_LEVEL,
        reloc="pic",
        codemodel="small",
        jit=True,
    )
    linker = binding.create_lljit_compiler(machine, use_jit_link=True)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(linker))
    return linker


_serial = 0


def load_object(code: bytes, symbols: Sequence[str] = ("kernel",)) -> dict[str, LoadedKernel]:
    """Link an object file into the process; the addresses of its functions, each of which keeps all of it loaded."""
    global _serial
    with _LOCK:
        _serial += 1  # LLJIT never lets a library's name be used again
        builder = _binding().JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            builder.export_symbol(symbol)
        tracker = builder.link(_linker(), f"preimage.{_serial}")
        return {symbol: LoadedKernel(tracker[symbol], tracker, len(code)) for symbol in symbols}


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
    full = cache.key(
        name=key,
        text=digest,
        target=target.key,
        tools=_toolchain(),
        level=str(level),
    )
    return _find(full, target, lambda: text, tuple(symbols), level)


def compile_cached(
    spec: str, make_text: Callable[[], str], target: Target | None = None, level: int = CODEGEN_LEVEL
) -> LoadedKernel:
    """As compile_module, for text that `make_text()` makes from what `spec` says (and this engine's source) alone.

    A hit makes no text, which is most of the cost of a first call with a full disk cache.
    """
    target = target or current_target()
    return _find(_spec_key(spec, target, level), target, make_text, ("kernel",), level)["kernel"]


@functools.lru_cache(maxsize=4096)
def _spec_key(spec: str, target: Target, level: int) -> str:
    return cache.key(
        spec=spec,
        source=generator_digest(),
        target=target.key,
        tools=_toolchain(),
        level=str(level),
    )


def _find(
    full: str, target: Target, make_text: Callable[[], str], symbols: tuple[str, ...], level: int
) -> Mapping[str, LoadedKernel]:
    kernels = _kernels.get(full)
    if kernels is not None:
        return kernels
    if not target.runs_here:
        raise EngineError(f"code made for {target.name} cannot run on this CPU ({host().cpu}); use object_code()")
    with _LOCK:
        kernels = _kernels.get(full)
        if kernels is not None:
            return kernels
        code = cache.read(full)
        if code is not None:
            try:
                kernels = load_object(code, symbols)
            except RuntimeError:  # passes its checksum and does not link: as good as corrupt
                code = None
        if kernels is None:
            code = object_code(make_text(), target, level, verify=False)
            kernels = load_object(code, symbols)
            cache.write(full, code)
        _kernels[full] = kernels
        while len(_kernels) > MEMORY_KERNELS:
            _kernels.popitem(last=False)
        return kernels


def loaded_count() -> int:
    """How many kernels are held in memory."""
    return len(_kernels)


def forget() -> None:
    """Drop every kernel from memory (those still referred to stay loaded)."""
    with _LOCK:
        _kernels.clear()


# ---------------------------------------------------------------------------------------------------------------- fork

_held_over_fork: list[Any] = []


def _before_fork() -> None:
    """A fork must not catch LLVM in the middle of its work, in any thread: hold our lock and llvmlite's own.

    llvmlite's is taken by every call, also by those that free a module or a kernel when its last reference goes.
    """
    _LOCK.acquire()
    ffi = getattr(sys.modules.get("llvmlite.binding"), "ffi", None)
    inner = getattr(getattr(ffi, "lib", None), "_lock", None)
    if inner is not None:
        inner.__enter__()
        _held_over_fork.append(inner)


def _after_fork() -> None:
    if _held_over_fork:
        _held_over_fork.pop().__exit__(None, None, None)
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
