"""LLVM's code generator: IR text in, object code out, and object code into the process. The only file that imports llvmlite.binding.

It is imported to compile. Code that comes from disk is linked without it (`object_loader`), and what it says of the CPU is remembered there.

    target = host()                     # what this CPU is, as LLVM names it
    code = object_code(text)            # the object file of a module of IR text
    codes = object_codes(works, 2)      # of several, by so many threads
    kernels = load_object(code)         # its functions, by name

What keeps the numbers right: no fast-math flag is ever set here, the code generator does not contract a product and a
sum (fused multiply-adds come from `llvm.fma` in the IR alone), and no optimising pass runs: the schedules are the optimiser.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Self

from preimage.engines.decisions import forget_shortcuts
from preimage.engines.ir.accumulate import with_accumulations
from preimage.engines.jit.compiler import object_loader
from preimage.engines.jit.compiler.costs import AVX2, AVX512, NEON
from preimage.engines.jit.compiler.helpers import Helpers, held_signals
from preimage.engines.jit.compiler.remembered import Answer, answer
from preimage.engines.jit.compiler.room import LOAD_BYTES, MODULE_BYTES, THREAD_BYTES, check_mapping, check_room, compiling_bytes
from preimage.engines.jit.compiler.target import Target, cache_sizes, costs_of, vectors
from preimage.engines.recording import Code
from preimage.errors import EngineError, OutOfMemoryError
from preimage.locks import LOCK, hold_over_fork, import_apart
from preimage.resources import available_memory

__all__ = [
    "CODEGEN_LEVEL", "CONTROL_LEVEL", "LoadedKernel", "Target", "Work", "assembly", "checked_ir", "chosen_target", "current_target", "host",
    "load_object", "named_target", "object_code", "object_codes", "toolchain", "unavailable", "use_target",
]  # fmt: skip

CODEGEN_LEVEL = 1  # measured: 2 and 3, or passes before, give no faster kernels and compile a third slower
CONTROL_LEVEL = 0  # for code that only calls others: a quarter of the time to compile


class LoadedKernel(Code):
    """The address of a loaded function; the code is unloaded when the last reference to this object goes.

    source: the key under which its object code is kept on disk, and its name in it.
    """

    code_bytes: int
    source: tuple[str, str] | None = None
    _tracker: Any

    def __new__(cls, address: int, tracker: Any, code_bytes: int) -> Self:
        self = super().__new__(cls, address)
        self._tracker = tracker
        self.code_bytes = code_bytes
        return self


# --------------------------------------------------------------------------------------------------- llvmlite itself


@functools.cache
def _binding() -> Any:
    try:
        binding = import_apart("llvmlite.binding")
    except ImportError as error:  # pragma: no cover - llvmlite is a dependency of the package
        raise EngineError(f"the jit engine needs llvmlite, which cannot be imported: {error}") from error
    with LOCK:
        if sys.maxsize < 2**32:
            raise EngineError("the jit engine needs a 64-bit process")
        check_mapping(MODULE_BYTES)
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        binding.initialize_native_asmparser()
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
def _answer() -> Answer:
    return answer(_asked)


def _asked() -> Answer:
    """What LLVM says of this CPU and of itself."""
    binding = _binding()
    binding.check_jit_execution()
    version = ".".join(map(str, binding.llvm_version_info))
    return {
        "cpu": binding.get_host_cpu_name(),
        "triple": binding.get_process_triple(),
        "features": binding.get_host_cpu_features().flatten(),
        "tools": f"llvmlite {sys.modules['llvmlite'].__version__}, llvm {version}",
    }


def toolchain() -> str:
    """Versions of everything between the text and the code."""
    return _answer()["tools"]


# ------------------------------------------------------------------------------------------------------------ targets


@functools.cache
def host() -> Target:
    """The CPU that this process runs on."""
    said = _answer()
    have = frozenset(word[1:] for word in said["features"].split(",") if word.startswith("+"))
    width, registers = vectors(said["triple"], have)
    costs = costs_of(width, said["cpu"])
    return Target(
        said["cpu"], said["triple"], said["cpu"], said["features"], width, registers, True, **cache_sizes(), costs=costs
    )


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
                       vector_registers=32, runs_here=runs, costs=AVX512)  # fmt: skip
    if name == "avx2":
        triple = here.triple if intel else "x86_64-unknown-linux-gnu"
        return replace(here, name=name, triple=triple, cpu="x86-64-v3", features="", vector_bytes=32,
                       vector_registers=16, runs_here=intel and {"avx2", "fma", "f16c"} <= have, costs=AVX2)  # fmt: skip
    if name == "neon":
        arm = here.triple.startswith(("aarch64", "arm64"))
        triple = here.triple if arm else "aarch64-unknown-linux-gnu"
        return replace(here, name=name, triple=triple, cpu="generic", features="+neon", vector_bytes=16,
                       vector_registers=32, runs_here=arm, costs=NEON)  # fmt: skip
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


def chosen_target() -> str:
    """The key of the target that `use_target` chose; empty where it is the environment's."""
    if _chosen is None or _chosen == named_target(os.environ.get("PREIMAGE_JIT_TARGET") or "host"):
        return ""
    return _chosen.key


@contextmanager
def use_target(target: Target | str) -> Iterator[Target]:
    """Compile for another target inside the block, in the whole process (tests of narrower vectors)."""
    global _chosen
    previous = _chosen
    wanted = named_target(target) if isinstance(target, str) else target
    if not wanted.runs_here:
        raise EngineError(f"this CPU ({host().cpu}) cannot run code made for {wanted.name}")
    _chosen = wanted
    forget_shortcuts()
    try:
        yield wanted
    finally:
        _chosen = previous
        forget_shortcuts()


_machines: dict[tuple[Target, int], list[Any]] = {}  # those that no thread uses just now


@contextmanager
def _machine(target: Target, level: int = CODEGEN_LEVEL) -> Iterator[Any]:
    """LLVM's target machine, for one thread at a time."""
    kept = _machines.setdefault((target, level), [])
    try:
        made = kept.pop()  # one step: several threads compile
    except IndexError:
        made = _new_machine(target, level)
    try:
        yield made
    finally:
        kept.append(made)


def _new_machine(target: Target, level: int) -> Any:
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


def _x86(target: Target) -> bool:
    """Whether instructions may be named (LLVM reads them only for the machine that it runs on)."""
    return target.triple.startswith("x86_64") and host().triple.startswith("x86_64")


@contextmanager
def _parsed(text: str, target: Target, machine: Any, verify: bool) -> Iterator[Any]:
    """The module, in a context of its own, so that all its memory goes with it.

    Parsing checks types and that values are defined before they are used; the verifier's further checks are for who changes
    a schedule: the tests ask for them, and PREIMAGE_DEBUG=4.
    """
    binding = _binding()
    source, module = with_accumulations(text, _x86(target), target.vector_bytes), None
    context = binding.create_context()
    try:
        module = binding.parse_assembly(source, context)
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        if verify:
            module.verify()
        yield module
    finally:  # in this order: after an error both may be garbage, and the collector may free the context that a module lies in first
        if module is not None:
            module.close()
        context.close()


def _emit(machine: Any, module: Any) -> bytes:
    """As `machine.emit_object(module)`, but without llvmlite's lock, which all its calls hold to their end.

    LLVM needs none: machine and context are this thread's own. So threads can generate code side by side.
    """
    ffi = _binding().ffi
    call = getattr(getattr(ffi.lib, "LLVMPY_TargetMachineEmitToMemory", None), "_cfn", None)
    if call is None:  # pragma: no cover - a llvmlite that is made otherwise: one thread at a time
        code: bytes = machine.emit_object(module)
        return code
    with ffi.OutputString() as error:
        memory = call(machine, module, 1, error)
        if not memory:
            raise RuntimeError(str(error))
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(memory), ffi.lib.LLVMPY_GetBufferSize(memory))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


class Work(NamedTuple):
    """A module to compile."""

    text: str
    target: Target
    level: int = CODEGEN_LEVEL
    verify: bool = False

    def object_code(self) -> bytes:
        with _machine(self.target, self.level) as machine, _parsed(self.text, self.target, machine, self.verify) as module:
            return _emit(machine, module)


def object_code(text: str, target: Target | None = None, level: int = CODEGEN_LEVEL, verify: bool = True) -> bytes:
    """The object file that LLVM makes of IR text for a target; nothing is cached or loaded."""
    return object_codes([Work(text, target or current_target(), level, verify)], 1)[0]


def object_codes(works: Sequence[Work], n_threads: int) -> list[bytes]:
    """The object files of several modules, made side by side by up to n_threads threads, this one among them.

    Raises: OutOfMemoryError where there is not enough memory, before LLVM finds out: it would end the process.
    """
    codes = [b""] * len(works)
    turns = iter(sorted(range(len(works)), key=lambda k: -len(works[k].text)))  # the longest first
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for k in turns:
                codes[k] = works[k].object_code()
        except BaseException as error:  # raised again below, once nobody compiles any more
            failed.append(error)

    wanted = compiling_bytes(sum([len(work.text) for work in works]))
    _binding()  # a helper that had to import it would wait for LOCK, whose owner waits for the helper
    with LOCK, held_signals():
        check_room(wanted)
        helpers = Helpers(run, min(n_threads, len(works), 1 + max(0, available_memory() - wanted) // THREAD_BYTES) - 1)
        run()
        helpers.wait()
    if failed:
        raise failed[0]
    if not all(codes):  # a thread found no memory, not even to say so
        raise OutOfMemoryError("there is not enough memory to compile a kernel")
    return codes


def checked_ir(text: str, target: Target | None = None) -> str:
    """The IR as LLVM reads it, verified (PREIMAGE_DEBUG=4). No pass runs on it: the code generator takes it as it is."""
    target = target or current_target()
    with LOCK, held_signals(), _machine(target) as machine, _parsed(text, target, machine, verify=True) as module:
        return str(module)


def assembly(text: str, target: Target | None = None) -> str:
    """The assembly of IR text (PREIMAGE_DEBUG=5)."""
    target = target or current_target()
    with LOCK, held_signals(), _machine(target) as machine, _parsed(text, target, machine, verify=False) as module:
        listing: str = machine.emit_assembly(module)
        return listing


@functools.cache
def _linker() -> Any:
    """One LLJIT for the process. It is never disposed of: workers and daemon threads may run its code until the end."""
    binding = _binding()
    machine = binding.Target.from_triple(host().triple).create_target_machine(
        cpu=host().cpu, features=host().features, opt=CODEGEN_LEVEL, reloc="pic", codemodel="small", jit=True
    )
    linker = binding.create_lljit_compiler(machine, use_jit_link=True)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(linker))
    return linker


_serial = itertools.count(1)  # LLJIT never lets a library's name be used again


def load_object(code: bytes, symbols: Sequence[str] = ("kernel",)) -> dict[str, LoadedKernel]:
    """Link an object file into the process; the addresses of its functions, each of which keeps all of it loaded."""
    with LOCK, held_signals():
        try:
            pages = object_loader.load(code, symbols)
        except (OSError, MemoryError) as error:
            check_room(LOAD_BYTES)
            raise OutOfMemoryError("there is not enough memory to load a kernel") from error
        if pages is not None:
            return {symbol: LoadedKernel(address, pages.memory, len(code)) for symbol, address in pages.addresses.items()}
        check_mapping(LOAD_BYTES + 2 * len(code))
        builder = _binding().JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            builder.export_symbol(symbol)
        tracker = builder.link(_linker(), f"preimage.{next(_serial)}")
        return {symbol: LoadedKernel(tracker[symbol], tracker, len(code)) for symbol in symbols}


# ---------------------------------------------------------------------------------------------------------------- fork


def _llvmlites_lock() -> Any:
    """What every call of llvmlite takes, also those that free a module or a kernel when its last reference goes."""
    ffi = getattr(sys.modules.get("llvmlite.binding"), "ffi", None)
    return getattr(getattr(ffi, "lib", None), "_lock", None)


hold_over_fork(_llvmlites_lock)
