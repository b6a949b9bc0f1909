"""A GPU by NVIDIA's driver alone: context, kernels, launches, memory, events. With `libcuda.py` (its functions and result
codes) and `handles.py` (what it hands out) all that knows it.

    gpu = Gpu(0)                                    # EngineError with the reason where there is no driver or device
    kernel = gpu.load(spec)                         # PTX from disk or made now; the driver's words about it go into the error
    memory = gpu.allocate(1 << 20)                  # freed with the object, or by free()
    gpu.launch(kernel, (8, 1, 1), (memory.address, 7), stream)

The context is the device's primary one, which CuPy and torch use too. It is made current for each call alone, so the device that they have
current stays what it was. After some faults of a kernel the driver refuses whatever this process asks of the device: the Gpu remembers why,
and says so at every later call. A child made by fork cannot use what its parent had: it is told so, and frees nothing of its parent's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from ctypes import addressof, byref, c_int, c_size_t, c_uint64, c_void_p
from typing import Any

from preimage.engines.base import Array
from preimage.engines.cuda import cache
from preimage.engines.cuda.device import Kernel, KernelSpec, Properties
from preimage.engines.cuda.handles import Event, GpuKernel, GpuMemory
from preimage.engines.cuda.libcuda import LOST, OUT_OF_MEMORY, bind, driver_error, hidden_devices, open_library, too_old
from preimage.engines.cuda.pool import Pool
from preimage.errors import EngineError, OutOfMemoryError

__all__ = ["LEAST_DRIVER", "Gpu"]

#: CUDA 11.8 (2022): the first whose compiler takes the PTX 7.8 that sm_90 wants.
LEAST_DRIVER = 11080
#: The largest grid: x, y and z.
MOST_BLOCKS = ((1 << 31) - 1, 65535, 65535)
LOG_BYTES = 8192
#: Bytes of memory kept for later calls.
KEPT_BYTES = 256 << 20

_ERROR_LOG, _ERROR_LOG_BYTES = 5, 6  # CU_JIT_*
_DEVICE_ORDINAL = 9  # CU_POINTER_ATTRIBUTE_*
_ATTRIBUTES = {  # CU_DEVICE_ATTRIBUTE_*
    "multiprocessors": 16, "block_shared_bytes": 97, "multiprocessor_shared_bytes": 81, "registers": 82, "clock_khz": 13,
}  # fmt: skip
_CAPABILITY = (75, 76)


class Gpu:
    """One NVIDIA device (`device.Device`)."""

    def __init__(self, ordinal: int = 0, library: Any = None) -> None:
        """library: what stands for libcuda, by default libcuda itself; tests give a double.

        Raises: EngineError with the reason where there is no driver, one that is too old, or no such device.
        """
        self._process, self._lost, self._context = os.getpid(), None, None
        self.ordinal, self._where = ordinal, f"GPU {ordinal}"
        self._functions = bind(open_library() if library is None else library)
        self._plain("cuInit", 0)
        self.driver_version = version = self._integer("cuDriverGetVersion")
        if version < LEAST_DRIVER:
            raise EngineError(too_old(f"it knows CUDA {version // 1000}.{version % 1000 // 10}"))
        count = self._integer("cuDeviceGetCount")
        if not 0 <= ordinal < count:
            raise EngineError(f"there is no GPU {ordinal}: the driver sees {count}{hidden_devices()}")
        self._device = self._integer("cuDeviceGet", ordinal)
        self.properties = self._described()
        self._where = f"GPU {ordinal} ({self.properties.name})"
        context = c_void_p()
        self._plain("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._context = context.value
        self._pool = Pool(min(KEPT_BYTES, self.properties.memory_bytes // 16))
        self._kernels: cache.Kept[KernelSpec, GpuKernel] = cache.Kept()
        self._thread = threading.local()

    _lost: str | None
    _context: int | None

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None and self.usable():
            for address in self._pool.emptied():
                self.release("cuMemFree_v2", address, wait=False)
            self._functions["cuDevicePrimaryCtxRelease_v2"](self._device)

    def __str__(self) -> str:
        known = self.properties
        return f"{known.name}, {known.arch}, driver for CUDA {self.driver_version // 1000}.{self.driver_version % 1000 // 10}"

    def _described(self) -> Properties:
        name = ctypes.create_string_buffer(256)
        self._plain("cuDeviceGetName", addressof(name), 255, self._device)
        size = c_size_t()
        self._plain("cuDeviceTotalMem_v2", byref(size), self._device)
        self.capability = major, minor = self.device_attribute(_CAPABILITY[0]), self.device_attribute(_CAPABILITY[1])
        read: dict[str, Any] = {key: self.device_attribute(number) for key, number in _ATTRIBUTES.items()}
        return Properties(name.value.decode(errors="replace"), f"sm_{major}{minor}", memory_bytes=size.value, **read)

    def device_attribute(self, number: int) -> int:
        """One of CU_DEVICE_ATTRIBUTE_*."""
        return self._integer("cuDeviceGetAttribute", number, self._device)

    # ---- calls

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This device's context is current, for another library's calls."""
        self._refuse_if_gone()
        self._plain("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._functions["cuCtxPopCurrent_v2"](byref(c_void_p()))

    def usable(self, ending: Callable[[], bool] = sys.is_finalizing, process: Callable[[], int] = os.getpid) -> bool:
        """Whether the driver can be asked for anything: not after a fault, in a forked child, nor as the interpreter ends (when the names of
        modules are gone, hence the two parameters).
        """
        return not ending() and self._lost is None and process() == self._process

    def _plain(self, name: str, *arguments: Any) -> None:
        """A call that needs no context."""
        code = self._functions[name](*arguments)
        if code:
            raise self._failed(name, code)

    def _integer(self, name: str, *arguments: Any) -> int:
        value = c_int()
        self._plain(name, byref(value), *arguments)
        return value.value

    def _refuse_if_gone(self) -> None:
        if self._lost is not None:
            raise EngineError(self._lost)
        if os.getpid() != self._process:
            raise EngineError(
                f"{self._where} was in use before this process was forked, and a child cannot use it;"
                ' start workers with multiprocessing\'s "spawn", or use the GPU in the child alone'
            )

    def call(self, name: str, *arguments: Any) -> None:
        """A call with this device's context current. Raises: EngineError or OutOfMemoryError in our words."""
        self._refuse_if_gone()
        functions, current, popped = self._functions, c_void_p(), 0
        self._plain("cuCtxGetCurrent", byref(current))
        if current.value == self._context:
            code = functions[name](*arguments)
        else:
            self._plain("cuCtxPushCurrent_v2", self._context)
            try:
                code = functions[name](*arguments)
            finally:
                popped = functions["cuCtxPopCurrent_v2"](byref(current))
        if code:
            raise self._failed(name, code)
        if popped:
            raise self._failed("cuCtxPopCurrent_v2", popped)

    def _failed(self, name: str, code: int, note: str = "") -> Exception:
        error = driver_error(self._where, name, code, note)
        if code in LOST:
            self._lost = str(error)
        return error

    def release(self, name: str, handle: Any, wait: bool = True) -> None:
        """Give something back to the driver in a finaliser, after all work (`wait`), which may still use it. Nothing is raised; where the
        context or the process is gone, so is what it held.
        """
        if self.usable():
            failures = (
                EngineError,
                OutOfMemoryError,
            )  # of an earlier launch; a lost context is remembered, and whoever calls next is told
            if wait:
                with contextlib.suppress(*failures):
                    self.call("cuCtxSynchronize")
            with contextlib.suppress(*failures):
                self.call(name, handle)

    # ---- kernels

    def load(self, spec: KernelSpec) -> GpuKernel:
        """The kernel of a spec, remembered. Raises: EngineError with the driver's own words about its PTX."""
        return self._kernels.get(spec, self._loaded)

    def _loaded(self, spec: KernelSpec) -> GpuKernel:
        return self.load_ptx(cache.ptx(spec, self.capability), spec)

    def load_ptx(self, ptx: str, spec: KernelSpec) -> GpuKernel:
        """The kernel of a text of PTX that stands for a spec; not remembered."""
        log = ctypes.create_string_buffer(LOG_BYTES)
        options = (c_int * 2)(_ERROR_LOG, _ERROR_LOG_BYTES)
        values = (c_void_p * 2)(addressof(log), LOG_BYTES)
        module = c_void_p()
        try:
            self.call("cuModuleLoadDataEx", byref(module), ptx.encode(), 2, addressof(options), addressof(values))
        except EngineError as error:
            words = log.value.decode(errors="replace").strip()
            raise EngineError(f"{error}; the compiler says: {words}" if words else str(error)) from None
        return GpuKernel(self, spec, module.value)  # which unloads the module, however its making ends

    def launch(self, kernel: Kernel, grid: tuple[int, int, int], words: Sequence[int], stream: int = 0) -> None:
        """Put a launch into a stream. It runs later, and its failure comes later: at the next synchronisation at the latest.

        Raises: EngineError for a grid that no device takes, and for what the driver refuses.
        """
        assert isinstance(kernel, GpuKernel)
        x, y, z = grid
        if x == 0 or y == 0 or z == 0:
            return
        if not (0 < x <= MOST_BLOCKS[0] and 0 < y <= MOST_BLOCKS[1] and 0 < z <= MOST_BLOCKS[2]):
            raise EngineError(f"a grid of {x} x {y} x {z} blocks cannot be launched; at most {MOST_BLOCKS}")
        spec, count = kernel.spec, len(words)
        cells = (c_uint64 * max(1, count))(*words)  # negative numbers as their bits
        base = addressof(cells)
        pointers = (c_void_p * max(1, count))(*range(base, base + 8 * count, 8))
        self.order(stream)
        self.call(
            "cuLaunchKernel",
            kernel.function,
            x,
            y,
            z,
            spec.threads,
            1,
            1,
            spec.shared_bytes,
            stream or None,
            addressof(pointers),
            None,
        )

    # ---- memory

    def allocate(self, size: int) -> GpuMemory:
        """Memory on a boundary of 256 bytes. Raises: OutOfMemoryError that says how much there is."""
        size = Pool.rounded(size)
        found = self._pool.take(size)
        if found is not None:
            address, stream = found
            if stream is not None:
                self._streams().add(stream)
            return GpuMemory(self, address, size)
        try:
            return self._allocated(size)
        except OutOfMemoryError:
            kept = self._pool.emptied()
            for address in kept:
                self.release("cuMemFree_v2", address)
            if kept:
                try:
                    return self._allocated(size)
                except OutOfMemoryError:
                    pass
        raise self._failed("cuMemAlloc_v2", OUT_OF_MEMORY, self._room(size))

    def _allocated(self, size: int) -> GpuMemory:
        address = c_uint64()
        self.call("cuMemAlloc_v2", byref(address), size)
        return GpuMemory(self, address.value, size)

    def _room(self, size: int) -> str:
        try:
            free, total = self.memory()
        except (EngineError, OutOfMemoryError):
            return f"{size} bytes were wanted"
        return f"{size} bytes were wanted, {free} of {total} are free"

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def take_back(self, address: int, size: int) -> None:
        """Keep freed memory for a later call, where there is room."""
        if self.usable() and not self._pool.keep(address, size, getattr(self._thread, "stream", None)):
            self.release("cuMemFree_v2", address)

    def trim(self) -> None:
        """Give back to the driver what is only kept for later calls: memory and kernels."""
        for address in self._pool.emptied():
            self.release("cuMemFree_v2", address)
        self._kernels.forget()

    def upload(self, address: int, array: Array, stream: int = 0) -> None:
        """Copy a C-contiguous array to the device; the array may change once this returns."""
        if array.nbytes:
            self.order(stream)
            self.call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream or None)
            self.synchronise(stream)

    def download(self, array: Array, address: int, stream: int = 0) -> None:
        """Copy to a C-contiguous array, after all work that was given to the stream; the array is whole once this returns."""
        if array.nbytes:
            self.order(stream)
            self.call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream or None)
        self.synchronise(stream)

    def copy(self, target: int, source: int, size: int, stream: int = 0) -> None:
        """Copy within the device."""
        if size:
            self.order(stream)
            self.call("cuMemcpyDtoDAsync_v2", target, source, size, stream or None)

    def fill(self, address: int, size: int, byte: int = 0, stream: int = 0) -> None:
        if size:
            self.order(stream)
            self.call("cuMemsetD8Async", address, byte, size, stream or None)

    def ordinal_of(self, address: int) -> int:
        """Which device an address belongs to. Raises: EngineError for memory of no device."""
        value = c_int()
        self.call("cuPointerGetAttribute", addressof(value), _DEVICE_ORDINAL, address)
        return value.value

    # ---- order and time

    def _streams(self) -> set[int]:
        """The streams on which memory that this thread has taken from the pool was last used."""
        found: set[int] | None = getattr(self._thread, "earlier", None)
        if found is None:
            found = self._thread.earlier = set()
        return found

    def order(self, stream: int) -> None:
        """Before work is given to a stream: it waits for the last work on memory that was kept from another stream."""
        earlier = self._streams()
        while earlier:
            other = earlier.pop()
            if other != stream:
                mark = self.event()
                mark.record(other)
                self.call("cuStreamWaitEvent", stream or None, mark.handle, 0)
        self._thread.stream = stream

    def event(self) -> Event:
        handle = c_void_p()
        self.call("cuEventCreate", byref(handle), 0)
        return Event(self, handle.value)

    def synchronise(self, stream: int = 0) -> None:
        """Wait for a stream. Raises: EngineError for a kernel that failed meanwhile."""
        self.call("cuStreamSynchronize", stream or None)

    def times_ms(self, run: Callable[[], object], repeat: int = 20, warm: int = 3, stream: int = 0) -> list[float]:
        """Device times of run(), in milliseconds, sorted: by events around each of `repeat` calls."""
        for _ in range(warm):
            run()
        marks = [(self.event(), self.event()) for _ in range(repeat)]
        for begin, end in marks:
            begin.record(stream)
            run()
            end.record(stream)
        self.synchronise(stream)
        return sorted([end.since(begin) for begin, end in marks])
