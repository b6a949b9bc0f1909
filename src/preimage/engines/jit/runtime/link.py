"""Linking: a program's kernels, compiled side by side and loaded, and the addresses in its argument vectors filled in.

    linked = link(program, n_threads)
    linked.run({"x": address, ...}, n_threads)

A linked program is kept and never changes: threads share it. A call copies the words of each kernel, writes the addresses of its own
arrays among them, and launches.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from preimage.engines.addresses import DATA_FIELD, address_of
from preimage.engines.base import Array
from preimage.engines.buffers import aligned
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.program import ALIGN, KernelCall, KernelSpec, Program
from preimage.engines.jit.runtime import pool
from preimage.engines.jit.runtime.function_kernel import FunctionSpec
from preimage.engines.jit.runtime.interpreter import interpreter
from preimage.engines.jit.runtime.program_kernel import HEAD, Counts, Patch, ProgramSpec
from preimage.engines.jit.runtime.steps_kernel import Step
from preimage.engines.recording import Address, Fixed, Recorder, Words, state
from preimage.errors import EngineError
from preimage.settings import current

__all__ = [
    "DATA_FIELD",
    "Launch",
    "LinkedCall",
    "LinkedProgram",
    "address_of",
    "compiled",
    "launch_arrays",
    "link",
    "step_tables",
]


W = TypeVar("W")


class LinkedCall(NamedTuple):
    """A kernel call with its addresses; `arrays` are (slot, name of the array whose address a call puts there)."""

    kernel: kernels.LoadedKernel
    words: tuple[int, ...]
    arrays: tuple[tuple[int, str], ...]
    tasks: int
    others: tuple[kernels.LoadedKernel, ...]  # whose addresses are among the words: they stay loaded with this


class LinkedProgram:
    """A program that can run. What a warm call reads is a plain attribute here."""

    __slots__ = ("_whole", "bias_repeat", "calls", "places", "program", "skips_padding", "workspace_bytes")

    def __init__(self, program: Program, calls: tuple[LinkedCall, ...]) -> None:
        self.program, self.calls = program, calls
        self.bias_repeat, self.skips_padding = program.bias_repeat, program.skips_padding
        self.places, self.workspace_bytes = program.places, program.workspace_bytes
        self._whole: tuple[Any, tuple[str, ...], bytes] | None = None

    def whole(self) -> tuple[Any, tuple[str, ...], bytes]:
        """All calls as one: the function, the names of the addresses it begins with, and the rest of its words."""
        if self._whole is not None:
            return self._whole
        names = tuple(dict.fromkeys(name for call in self.calls for _, name in call.arrays))
        if len(names) > HEAD:
            raise EngineError(f"a program may use {HEAD} arrays, this one uses {len(names)}")
        count = sum(len(call.arrays) for call in self.calls)
        begin = HEAD + len(Counts.fields) + len(Patch.fields) * count + len(Step.fields) * len(self.calls)
        steps, vectors, wanted = self.steps(begin)
        patches = [number for word, name in wanted for number in (names.index(name), word)]
        rest = pool.pack_args(count, len(self.calls), *patches, *steps, *vectors)
        kernel = compiled(ProgramSpec(kernels.current_target().triple))
        entry = _Entry(kernel)
        entry.kernel = kernel  # type: ignore[attr-defined]  # stays loaded while it can be called
        self._whole = entry, names, rest
        return self._whole

    def steps(self, begin: int) -> tuple[list[int], list[int], list[tuple[int, str]]]:
        """`step_tables` of the calls, and each word that is to hold the address of an array, with the array's name."""
        steps, vectors = step_tables([(int(call.kernel), call.words, call.tasks) for call in self.calls], begin)
        firsts = steps[1 :: len(Step.fields)]
        wanted = [(at + slot, name) for at, call in zip(firsts, self.calls, strict=True) for slot, name in call.arrays]
        return steps, vectors, wanted

    def run(self, addresses: dict[str, int], n_threads: int) -> None:
        """Launch the calls with these addresses, once: see `Launch` for calls that come again."""
        Launch(self, tuple(addresses), n_threads)([0, *addresses.values()])

    def run_recorded(self, here: Recorder, arrays: Mapping[str, Array | Fixed], n_threads: int) -> None:
        """The same for a recorder, with the arrays themselves; one that is not given has the address 0."""
        scratch = here.take(self.workspace_bytes + ALIGN)
        scratch[:8] = 0  # the flag
        given: dict[str, Array | Fixed] = {name: scratch[at:] for name, at in self.places.items()}
        given |= arrays
        factor = arrays.get("b")
        for call, planned in zip(self.calls, self.program.calls, strict=True):
            if planned.name == "pack B" and isinstance(factor, np.ndarray) and here.is_fixed(factor):
                given["packed"] = _packed_once(call, self.program, factor)
                continue
            words: list[int | Array | Fixed] = list(call.words)
            for slot, name in call.arrays:
                words[slot] = given.get(name, 0)
            launch_arrays(call.kernel, words, call.tasks, n_threads)


def _packed_once(call: LinkedCall, program: Program, factor: Array) -> Fixed:
    """The factor of a product that never changes, packed now."""
    (size,) = (buffer.size for buffer in program.buffers if buffer.name == "packed")
    memory = aligned(size)
    words = list(call.words)
    for slot, name in call.arrays:
        words[slot] = address_of(factor if name == "b" else memory)
    pool.launch_known(call.kernel, pool.pack_args(*words), call.tasks, 1)
    return Fixed(memory)


class Launch:
    """A linked program made ready for calls whose arrays come in one order: what a warm call runs.

        launch = Launch(linked, ("x", "w", "out"), n_threads)
        launch([workspace.address, address_of(x), address_of(w), address_of(out)])

    Every array that a kernel reads begins somewhere in the workspace or in one of the given ones; where neither has it, its address is 0.
    """

    __slots__ = ("_entry", "_linked", "_order", "_rest", "_steps", "_threads")

    def __init__(self, linked: LinkedProgram, given: tuple[str, ...], n_threads: int) -> None:
        base_of = {name: (k + 1, 0) for k, name in enumerate(given)} | {name: (0, at) for name, at in linked.places.items()}
        nothing = (len(given) + 1, 0)
        self._threads, self._entry = n_threads, None
        self._linked = linked  # its kernels stay loaded while they can be launched
        if n_threads <= 1:
            self._entry, names, self._rest = linked.whole()
            self._order = [base_of.get(name, nothing) for name in names] + [nothing] * (HEAD - len(names))
            return
        self._steps = [
            (call.kernel, call.words, [(slot, *base_of.get(name, nothing)) for slot, name in call.arrays], call.tasks)
            for call in linked.calls
        ]

    def __call__(self, bases: list[int]) -> None:
        """bases: the addresses of the workspace and of the given arrays (0: absent)."""
        if (here := state.recorder) is not None:
            here.lost("a program runs whose arrays are not known")
        bases.append(0)
        if self._entry is not None:
            self._entry(_pack_head(*[bases[k] + at for k, at in self._order]) + self._rest, 0, 0)  # without the pool
            return
        for kernel, words, arrays, tasks in self._steps:
            own = list(words)
            for slot, k, at in arrays:
                own[slot] = bases[k] + at
            pool.launch(kernel, pool.pack_args(*own), tasks, self._threads)


_pack_head = struct.Struct(f"{HEAD}q").pack
_Entry = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)


def step_tables(steps: Sequence[tuple[int, Sequence[W], int]], begin: int) -> tuple[list[int], list[W]]:
    """Kernels, their argument vectors and tasks, as kernels that call others read them: rows of `Step`, and all vectors one after another.

    begin: the word where the first vector lies.
    """
    rows: list[int] = []
    vectors: list[W] = []
    for code, words, tasks in steps:
        rows += (code, begin + len(vectors), tasks)
        vectors += words
    return rows, vectors


def link(program: Program, n_threads: int) -> LinkedProgram:
    """The program with its kernels loaded; what runs them (the pool, or the kernel that runs a whole program) is compiled beside them."""
    specs = list(program.specs)
    target = kernels.current_target()
    if DATA_FIELD is not None and interpreter() is not None:
        specs.append(FunctionSpec(DATA_FIELD, target.triple))
    elif n_threads <= 1:
        specs.append(ProgramSpec(target.triple))
    modules = [_wanted(spec, target) for spec in specs]
    if n_threads > 1 and not pool.is_loaded():
        modules.append(pool.wanted())
    loaded = kernels.load_all(modules)
    codes = {spec: found["kernel"] for spec, found in zip(specs, loaded, strict=False)}
    return LinkedProgram(program, tuple([_linked(call, codes) for call in program.calls]))


def _linked(call: KernelCall, codes: dict[KernelSpec, kernels.LoadedKernel]) -> LinkedCall:
    words = list(call.words)
    for slot, table in call.tables:
        words[slot] = Address(table.array)
    for slot, spec in call.kernels:
        words[slot] = codes[spec]
    return LinkedCall(codes[call.spec], tuple(words), call.arrays, call.tasks, tuple([codes[spec] for _, spec in call.kernels]))


def _wanted(spec: KernelSpec, target: kernels.Target) -> kernels.Wanted:
    text = repr(spec)
    if (debug := current().debug) >= 4:
        _print_once(text, spec.ir, target, debug)
    return kernels.wanted(text, spec.ir, target, kernels.CONTROL_LEVEL if is_control(spec) else kernels.CODEGEN_LEVEL)


_printed: set[tuple[str, str]] = set()  # specs and targets


def _print_once(spec: str, make_text: Callable[[], str], target: kernels.Target, debug: int) -> None:
    """Print a kernel on stderr the first time that it is linked: its IR, from 5 on its assembly too."""
    if (spec, target.key) in _printed:
        return
    _printed.add((spec, target.key))
    text = make_text()
    print(f"preimage: kernel {spec}\n{text}", file=sys.stderr)
    if debug >= 5:
        print(f"preimage: its assembly for {target.name}\n{kernels.assembly(text, target)}", file=sys.stderr)


def is_control(spec: KernelSpec) -> bool:
    """Whether the kernel does nothing but call others: compiled at the lowest level."""
    return getattr(spec, "controls", False)


def compiled(spec: KernelSpec) -> kernels.LoadedKernel:
    """The kernel of a spec, compiled or from the cache."""
    return kernels.load_all([_wanted(spec, kernels.current_target())])[0]["kernel"]


def launch_arrays(kernel: kernels.LoadedKernel, words: Words, n_tasks: int, n_threads: int) -> None:
    """`pool.launch` with an argument vector that holds arrays in place of their addresses; a recorder, if one is there, writes it down."""
    if (here := state.recorder) is not None:
        here.launched(kernel, words, n_tasks, n_threads)
    args = [address_of(w) if isinstance(w, np.ndarray) else address_of(w.array) if isinstance(w, Fixed) else w for w in words]
    pool.launch_known(kernel, pool.pack_args(*args), n_tasks, n_threads)
