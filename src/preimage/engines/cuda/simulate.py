"""The simulator: a device whose kernels run on the CPU, each thread of a block a coroutine. Slow, with the bits of a GPU.

    simulator = Simulator()                                  # threads in order, copies at once
    Simulator(order=numpy.random.default_rng(1).permutation, lazy=True)

It finds, where `order` shuffles the threads of a block and `lazy` copies come as late as they may:
- races: the result depends on the order, or on when copies come;
- accesses that are not aligned as they claim, barriers that some threads of a block never reach,
  blocks that write beyond their shared memory: EngineError;
- writes beyond an array's memory: EngineError when it is freed, downloaded or checked (`check_margins`);
- shared memory or results that were never written: both begin as NaN.
It does not see what happens between threads of one warp finer than from barrier to barrier, nor a defect of NVIDIA's compiler.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.engines.base import Array
from preimage.engines.cuda.coroutines import DIVERGED, STATE_BYTES, for_host
from preimage.engines.cuda.device import Kernel, KernelSpec, Properties
from preimage.engines.cuda.llvm import binding_with
from preimage.errors import EngineError
from preimage.locks import LOCK

__all__ = ["Simulator", "unavailable"]

#: Before and after every allocation lie so many bytes that nobody may write to.
MARGIN, CANARY = 4096, 0xA5
#: Contents of new memory: NaN as float32, float64 and float16.
NEW = 0xFF


@functools.cache
def _binding() -> Any:
    return binding_with("the simulator", "initialize_native_target", "initialize_native_asmprinter")


@functools.cache
def unavailable() -> str | None:
    """Why nothing can be simulated here, or None."""
    try:
        _binding().check_jit_execution()
    except (EngineError, RuntimeError, OSError) as error:
        return str(error)
    return None if sys.maxsize > 2**32 else "the simulator needs a 64-bit process"


class SimulatedKernel:
    """A kernel's text as code of this CPU."""

    registers = local_bytes = 0
    _serial = itertools.count(1)

    def __init__(self, spec: KernelSpec) -> None:
        self.spec = spec
        binding = _binding()
        triple = binding.get_process_triple()
        text = for_host(spec.ir("simulator"), triple, binding.llvm_version_info[0])
        with LOCK:
            machine = binding.Target.from_triple(triple).create_target_machine(
                cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=0
            )
            module = binding.parse_assembly(text, binding.create_context())
            module.verify()
            builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=0))
            builder.getModulePassManager().run(
                module, builder
            )  # makes functions of the coroutine; more passes take longer than most calls
            library = binding.JITLibraryBuilder().add_ir(module).add_current_process().export_symbol("launch")
            self._code = library.link(binding.create_lljit_compiler(machine), f"preimage.simulator.{next(self._serial)}")
        pointer, word = ctypes.c_void_p, ctypes.c_int32
        signature = ctypes.CFUNCTYPE(ctypes.c_int64, pointer, word, word, word, pointer, pointer, pointer, pointer)
        self._launch = signature(self._code["launch"])

    def run(self, grid: tuple[int, int, int], words: Sequence[int], order: Array, lazy: bool) -> None:
        """All blocks, one by one; the threads of a block in this order. Raises EngineError for what a GPU would not forgive."""
        threads, shared_bytes = self.spec.threads, self.spec.shared_bytes
        arguments = np.array(words, np.int64)
        shared = np.full(shared_bytes + 64 + MARGIN, CANARY, np.uint8)
        start = -shared.ctypes.data % 64
        order = np.ascontiguousarray(order, np.int32)
        frames = np.zeros(threads, np.int64)
        states = np.zeros((threads, STATE_BYTES // 4), np.int32)
        states[:, 0] = lazy
        places = [a.ctypes.data for a in (order, frames, states)]
        code = self._launch(arguments.ctypes.data, *grid, shared.ctypes.data + start, *places)
        name = type(self.spec).__name__
        if code == DIVERGED:
            raise EngineError(f"simulator: some threads of a block of {name} ended while others waited at a barrier")
        if states[:, 3].any():
            raise EngineError(f"simulator: an access of {name} is not aligned as it claims")
        if (shared[start + shared_bytes :] != CANARY).any():
            raise EngineError(f"simulator: {name} wrote beyond its {shared_bytes} bytes of shared memory")


class SimulatedMemory:
    """Memory with margins that nobody may write to."""

    def __init__(self, size: int, owner: Simulator) -> None:
        self.size = size
        self._held = np.full(size + 2 * MARGIN + 256, CANARY, np.uint8)
        first = -self._held.ctypes.data % 256 + (MARGIN - MARGIN % 256)
        self._first, self._end = first, first + size
        self.address = self._held.ctypes.data + first
        self._held[first : first + size] = NEW
        owner.register(self)

    def damaged(self) -> bool:
        """Whether something was written beyond it."""
        held = self._held  # none once it was freed, which another thread may do now
        return bool((held[: self._first] != CANARY).any() or (held[self._end :] != CANARY).any())

    def free(self) -> None:
        if self._held.size:
            damaged = self.damaged()
            self._held = np.empty(0, np.uint8)
            self.size = 0
            if damaged:
                raise EngineError("simulator: a kernel wrote beyond an array's memory")


class Simulator:
    """The device. order: the numbers of a block's threads -> the order in which they run; lazy: copies come when they are waited for."""

    properties = Properties("simulator", "sm_90", 4, 232448, 233472)

    def __init__(self, order: Callable[[int], Array] = np.arange, lazy: bool = False) -> None:
        self._order, self._lazy = order, lazy
        self._memory: weakref.WeakSet[SimulatedMemory] = weakref.WeakSet()
        self._lock = threading.Lock()  # several threads of the process may compute here at a time

    def register(self, memory: SimulatedMemory) -> None:
        """Memory whose margins are checked with the others."""
        with self._lock:
            self._memory.add(memory)

    def load(self, spec: Any) -> SimulatedKernel:
        return _compiled(spec)

    def allocate(self, size: int) -> SimulatedMemory:
        return SimulatedMemory(size, self)

    def upload(self, address: int, array: Array, stream: int = 0) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: Array, address: int, stream: int = 0) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def fill(self, address: int, size: int, byte: int = 0, stream: int = 0) -> None:
        ctypes.memset(address, byte, size)

    def launch(self, kernel: Kernel, grid: tuple[int, int, int], words: Sequence[int], stream: int = 0) -> None:
        assert isinstance(kernel, SimulatedKernel)
        if min(grid) > 0:
            kernel.run(grid, words, self._order(kernel.spec.threads), self._lazy)
        self.check_margins()

    def check_margins(self) -> None:
        """Raise EngineError if a kernel wrote beyond an array's memory."""
        with self._lock:
            held = list(self._memory)
        if any(memory.damaged() for memory in held):
            raise EngineError("simulator: a kernel wrote beyond an array's memory")

    def synchronise(self, stream: int = 0) -> None:
        self.check_margins()


@functools.lru_cache(maxsize=256)
def _compiled(spec: Any) -> SimulatedKernel:
    return SimulatedKernel(spec)
