"""What a Gpu hands out: memory, kernels, events. Each goes back to the driver with the object that holds it."""

from __future__ import annotations

from ctypes import byref, c_float, c_int, c_void_p
from typing import TYPE_CHECKING, Any

from preimage.engines.cuda.device import KernelSpec

if TYPE_CHECKING:
    from preimage.engines.cuda.driver import Gpu

__all__ = ["Event", "GpuKernel", "GpuMemory"]

#: Shared memory that a launch may ask for without leave.
PLAIN_SHARED_BYTES = 48 << 10
_LOCAL_BYTES, _REGISTERS, _DYNAMIC_SHARED = 3, 4, 8  # CU_FUNC_ATTRIBUTE_*


class GpuMemory:
    """Bytes on the device. `free()` keeps them for a later call; they go to the driver with the object otherwise."""

    __slots__ = ("__weakref__", "_gpu", "address", "size")

    def __init__(self, gpu: Gpu, address: int, size: int) -> None:
        self._gpu: Gpu | None = gpu
        self.address, self.size = address, size

    def free(self) -> None:
        """Give the memory back: what used it last was work of this thread on the stream that the thread used last."""
        gpu, self._gpu = self._gpu, None
        if gpu is not None:
            gpu.take_back(self.address, self.size)

    def __del__(self) -> None:
        gpu = getattr(self, "_gpu", None)
        if gpu is not None:
            gpu.release("cuMemFree_v2", self.address)


class Event:
    """A mark in a stream, with its time."""

    __slots__ = ("_gpu", "handle")

    def __init__(self, gpu: Gpu, handle: Any) -> None:
        self._gpu, self.handle = gpu, handle

    def record(self, stream: int = 0) -> None:
        self._gpu.call("cuEventRecord", self.handle, stream or None)

    def since(self, earlier: Event) -> float:
        """Milliseconds between two recorded events that have passed."""
        ms = c_float()
        self._gpu.call("cuEventElapsedTime", byref(ms), earlier.handle, self.handle)
        return ms.value

    def __del__(self) -> None:
        self._gpu.release("cuEventDestroy_v2", self.handle, wait=False)


class GpuKernel:
    """The function `kernel` of a module, which stays loaded while this object lives.

    registers: of a thread. local_bytes: memory of a thread that its registers do not hold: 0, or the compiler spilled.
    """

    __slots__ = ("_gpu", "_module", "function", "local_bytes", "registers", "spec")

    def __init__(self, gpu: Gpu, spec: KernelSpec, module: Any) -> None:
        self._gpu, self._module, self.spec = gpu, module, spec
        function = c_void_p()
        gpu.call("cuModuleGetFunction", byref(function), module, b"kernel")
        self.function = function.value
        if spec.shared_bytes > PLAIN_SHARED_BYTES:
            gpu.call("cuFuncSetAttribute", self.function, _DYNAMIC_SHARED, spec.shared_bytes)
        self.registers, self.local_bytes = self.attribute(_REGISTERS), self.attribute(_LOCAL_BYTES)

    def attribute(self, number: int) -> int:
        """One of CU_FUNC_ATTRIBUTE_*."""
        value = c_int()
        self._gpu.call("cuFuncGetAttribute", byref(value), number, self.function)
        return value.value

    def __del__(self) -> None:
        self._gpu.release("cuModuleUnload", self._module)
