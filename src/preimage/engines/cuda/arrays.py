"""Arrays as a device has them for the time of one call: NumPy's copied up and down, those of CuPy and torch as they lie.

A launch goes into the stream that the library has current, and results are made by the library itself, so its own work before and after
needs no waiting, and its memory goes back to its own pool.
"""

from __future__ import annotations

import sys
from math import prod
from typing import Any

import numpy as np

from preimage.autograd.device_arrays import DeviceArray, device_array, place_of
from preimage.engines.base import Array, DType
from preimage.engines.cuda.device import Arrays, Device, Memory, Operand
from preimage.engines.cuda.devices import device_of
from preimage.engines.on_device import one_place
from preimage.errors import EngineError
from preimage.settings import current

__all__ = ["HostArrays", "LibraryArrays", "arrays_for"]


def arrays_for(example: Any, device: Device | None = None) -> Arrays:
    """The arrays of the library that `example` is of. device: for NumPy arrays, by default that of the setting.

    Raises: EngineError where the device is not there, or nobody here knows how the library makes arrays.
    """
    if not isinstance(example, DeviceArray):
        return HostArrays(device_of(current().device) if device is None else device)
    wanted = current().device
    if wanted not in ("auto", example.device):
        raise EngineError(
            f"the setting device is {wanted!r}, and the arrays are on {place_of(example)}; leave it at 'auto' for them"
        )
    kind = _KINDS.get(example.library)
    if kind is None:
        raise EngineError(
            f"arrays of {example.library or 'this library'} cannot be made here; pass arrays of CuPy or torch (cupy.asarray(x) copies nothing)"
        )
    return kind(example, device)


class HostArrays:
    """NumPy's arrays: up before a call, down after it."""

    stream = 0

    def __init__(self, device: Device) -> None:
        self.device = device
        self._held: list[Memory] = []
        #: Bytes copied to the device and back.
        self.moved_bytes = 0

    def take(self, array: Any) -> Operand:
        """The array on the device, in its own order in memory where that is dense, else in C order."""
        host: Array = array
        order = sorted(range(host.ndim), key=lambda k: (-abs(host.strides[k]), k))
        dense = np.ascontiguousarray(host.transpose(order))
        strides = [0] * host.ndim
        for k, step in zip(order, dense.strides, strict=True):
            strides[k] = step
        memory = self._allocate(dense.nbytes)
        if dense.nbytes:
            self.device.upload(memory.address, dense, self.stream)
            self.moved_bytes += dense.nbytes
        return Operand(memory.address, host.shape, tuple(strides), host.dtype, memory)

    def make(self, shape: tuple[int, ...], dtype: DType, channels_last: bool = False) -> Operand:
        memory = self._allocate(prod(shape) * dtype.itemsize)
        return Operand(memory.address, shape, _dense_strides(shape, dtype.itemsize, channels_last), dtype, memory)

    def give(self, result: Operand) -> Array:
        """The result on the host; what was taken for the call is given back to the device."""
        last = result.strides != _dense_strides(result.shape, result.dtype.itemsize, False)
        shape = result.shape
        flat: Array = np.empty((shape[0], *shape[2:], shape[1]) if last else shape, result.dtype)
        self.device.download(flat, result.address, self.stream)
        self.moved_bytes += flat.nbytes
        for memory in self._held:
            memory.free()
        self._held.clear()
        return np.moveaxis(flat, -1, 1) if last else flat

    def _allocate(self, size: int) -> Memory:
        memory = self.device.allocate(size)
        self._held.append(memory)
        return memory


class LibraryArrays:
    """Arrays of a library that has its own on the GPU; what differs between libraries is in the classes below."""

    def __init__(self, example: DeviceArray, device: Device | None = None) -> None:
        self.device = device_of(example.device) if device is None else device
        self._example = example
        self._number = int(example.device.partition(":")[2])
        self.library: Any = sys.modules[example.library]
        self.stream = self._current_stream()

    def _current_stream(self) -> int:
        raise NotImplementedError

    def _empty(self, shape: tuple[int, ...], dtype: DType) -> Any:
        raise NotImplementedError

    def take(self, array: Any) -> Operand:
        found = array if isinstance(array, DeviceArray) else device_array(array)
        if found is None or found.device != self._example.device or found.library != self._example.library:
            one_place(this=self._example, another=found)
        assert found is not None
        return Operand(found.address, found.shape, found.strides, found.dtype, found.owner)

    def make(self, shape: tuple[int, ...], dtype: DType, channels_last: bool = False) -> Operand:
        memory = (shape[0], *shape[2:], shape[1]) if channels_last and len(shape) > 2 else shape
        made = device_array(self._empty(memory, dtype), "a result")
        assert made is not None
        if memory is not shape:
            made = made.moved_axis(-1, 1)
        return Operand(made.address, made.shape, made.strides, made.dtype, made.owner)

    def give(self, result: Operand) -> DeviceArray:
        example = self._example
        return DeviceArray(
            result.owner, example.library, example.device, result.address, result.shape, result.strides, result.dtype
        )


class CupyArrays(LibraryArrays):
    """CuPy's."""

    def _current_stream(self) -> int:
        with self.library.cuda.Device(self._number):
            return int(self.library.cuda.get_current_stream().ptr)

    def _empty(self, shape: tuple[int, ...], dtype: DType) -> Any:
        with self.library.cuda.Device(self._number):
            return self.library.empty(shape, dtype)


class TorchArrays(LibraryArrays):
    """torch's."""

    def _current_stream(self) -> int:
        return int(self.library.cuda.current_stream(self._number).cuda_stream)

    def _empty(self, shape: tuple[int, ...], dtype: DType) -> Any:
        return self.library.empty(shape, dtype=getattr(self.library, dtype.name), device=self._example.device)


_KINDS: dict[str, type[LibraryArrays]] = {"cupy": CupyArrays, "torch": TorchArrays}


def _dense_strides(shape: tuple[int, ...], itemsize: int, channels_last: bool) -> tuple[int, ...]:
    """Strides in bytes of a dense array, with channels (axis 1) innermost in memory if `channels_last`."""
    order = [0, *range(2, len(shape)), 1] if channels_last and len(shape) > 2 else list(range(len(shape)))
    strides, step = [0] * len(shape), itemsize
    for k in reversed(order):
        strides[k] = step
        step *= shape[k]
    return tuple(strides)
