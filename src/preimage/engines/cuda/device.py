"""What the engine asks of a device: memory, kernels, launches. `driver.py` has NVIDIA's GPUs, `simulate.py` the CPU in their place.

    kernel = device.load(spec)                             # compiled on first use, then remembered
    x = device.allocate(1 << 20)                           # x.address; freed with `free()`, or when nothing refers to it
    device.upload(x.address, array)
    device.launch(kernel, (grid_x, grid_y, grid_z), words) # words: the argument vector, 64 bits each
    device.download(array, x.address)                      # waits for what was launched on the stream

Addresses are plain integers, so that arrays of other libraries can take part. Every argument of a kernel is one 64-bit word: an
address or a number. A stream is the driver's handle (0: the default one). Failures are EngineError or OutOfMemoryError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from preimage.engines.base import Array, DType
from preimage.records import record

__all__ = ["Arrays", "Device", "Kernel", "KernelSpec", "Memory", "Operand", "Properties", "Target"]

#: What a kernel's text is written for: LLVM's NVPTX back end, or the simulator.
Target = Literal["ptx", "simulator"]


@record
class Properties:
    """What plans depend on. arch: "sm_90" and so on; the bytes of shared memory are those that one block may ask for, and those of a
    whole multiprocessor; registers: 32-bit ones, of a multiprocessor; matrix: products of float64 may run on tensor cores (tensor_cores.py).
    """

    name: str
    arch: str
    multiprocessors: int
    block_shared_bytes: int
    multiprocessor_shared_bytes: int
    registers: int = 65536
    memory_bytes: int = 0
    clock_khz: int = 0
    matrix: bool = False


class KernelSpec(Protocol):
    """What a kernel depends on: a frozen dataclass, whose `repr` stands for the text that `ir` makes.

    arguments: a class of `engines.ir.arguments.Arguments`. The kernel's symbol is "kernel"; its shared memory is dynamic.
    """

    @property
    def arguments(self) -> Any: ...

    @property
    def threads(self) -> int:
        """Of a block, along its first axis."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Of a block; may be more than 48 KiB, which the driver must be asked for."""
        ...

    def ir(self, target: Target) -> str:
        """The module as LLVM IR."""
        ...


class Kernel(Protocol):
    """A kernel that a device has loaded. registers, local_bytes: of a thread, where the device knows them, else 0."""

    @property
    def spec(self) -> KernelSpec: ...

    @property
    def registers(self) -> int: ...

    @property
    def local_bytes(self) -> int: ...


@runtime_checkable
class Memory(Protocol):
    """Memory of a device, freed by `free` or with the object."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int: ...

    def free(self) -> None: ...


class Device(Protocol):
    """One GPU, or the simulator."""

    @property
    def properties(self) -> Properties: ...

    def load(self, spec: KernelSpec) -> Kernel: ...

    def allocate(self, size: int) -> Memory:
        """At least `size` bytes, on a boundary of 256; contents undefined. 0 bytes are allowed."""
        ...

    def upload(self, address: int, array: Array, stream: int = 0) -> None:
        """Copy a C-contiguous array to the device; the array may change once this returns."""
        ...

    def download(self, array: Array, address: int, stream: int = 0) -> None:
        """Copy to a C-contiguous array, after all work that was given to the stream; the array is whole once this returns."""
        ...

    def fill(self, address: int, size: int, byte: int = 0, stream: int = 0) -> None: ...

    def launch(self, kernel: Any, grid: tuple[int, int, int], words: Sequence[int], stream: int = 0) -> None:
        """Blocks of kernel.spec.threads threads, of a kernel that this device has loaded.

        grid: up to 2^31 - 1 blocks along its first axis, 65,535 along the others.
        """
        ...

    def synchronise(self, stream: int = 0) -> None:
        """Wait for the stream; failures of earlier launches are raised here at the latest."""
        ...


@record
class Operand:
    """An array on a device. strides: in bytes, as NumPy's; owner: what keeps the memory alive, and what `Arrays.give` gives back."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType
    owner: object

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize


class Arrays(Protocol):
    """Arrays of one library (NumPy, CuPy, torch), as a device has them for the time of one call."""

    @property
    def device(self) -> Device: ...

    @property
    def stream(self) -> int:
        """On which to launch: the library's current one."""
        ...

    def take(self, array: Any) -> Operand:
        """An array to read, on the device; NumPy's are copied up."""
        ...

    def make(self, shape: tuple[int, ...], dtype: DType, channels_last: bool = False) -> Operand:
        """A new array for a result, (N, C, *space) with channels innermost in memory if `channels_last`; contents undefined."""
        ...

    def give(self, result: Operand) -> Any:
        """A result as an array of the library; NumPy's are copied down."""
        ...
