"""One call's work on the GPU by cuDNN: arrays made dense and put into windows, the contraction, what follows it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_int, c_void_p
from math import prod
from typing import Any

import numpy as np

from preimage.autograd.device_arrays import DeviceArray
from preimage.engines.base import DType, Epilogue
from preimage.engines.cuda.device import Arrays, Memory, Operand
from preimage.engines.cudnn.choose import Shapes
from preimage.engines.cudnn.library import OP_MAX, OP_MIN, Algorithm, Descriptor, Library

__all__ = ["Handle", "Session"]

MOST_PROPOSALS = 10


class Handle:
    """cuDNN's handle: of one device and one thread."""

    __slots__ = ("_gpu", "_library", "handle")

    def __init__(self, gpu: Any, library: Library) -> None:
        self._gpu, self._library, self.handle = gpu, library, None
        handle = c_void_p()
        with gpu.inside():
            library.call("cudnnCreate", byref(handle))
        self.handle = handle.value

    def __del__(self) -> None:
        if self.handle is not None and self._gpu.usable():
            with self._gpu.inside():
                self._library.status("cudnnDestroy", self.handle)


class Session:
    """Dense channels-first arrays of one dtype, on one stream. Memory that it takes is given back by `close`."""

    def __init__(self, library: Library, handle: Handle, arrays: Arrays, dtype: DType) -> None:
        self.library, self.arrays, self.name = library, arrays, dtype.name
        self.itemsize = dtype.itemsize
        self._dtype, self._handle = dtype, handle.handle
        self._device: Any = arrays.device
        self._stream = arrays.stream
        self._held: list[Memory] = []
        self._operands: list[Operand] = []
        self._number = ctypes.c_double if dtype.itemsize == 8 else ctypes.c_float
        library.call("cudnnSetStream", self._handle, self._stream or None)

    @property
    def compute(self) -> str:
        """The dtype that is computed in."""
        return "float32" if self.itemsize == 2 else self.name

    def close(self) -> None:
        for memory in self._held:
            memory.free()
        self._held.clear()
        self._operands.clear()

    def memory(self, size: int) -> int:
        """The address of memory for this call."""
        held: Memory = self._device.allocate(size)
        self._held.append(held)
        self._device.order(self._stream)  # cuDNN's launches come after what used the memory before
        return held.address

    def take(self, array: Any) -> Operand:
        """An array to read, held until the call is over; a copy where it repeats or reverses elements, which cuDNN's strides cannot say."""
        if isinstance(array, DeviceArray) and any(
            step <= 0 and n > 1 for step, n in zip(array.strides, array.shape, strict=True)
        ):
            array = array.copied()
        operand = self.arrays.take(array)
        self._operands.append(operand)
        return operand

    def number(self, value: float) -> Any:
        return byref(self._number(value))

    def tensor(self, shape: Sequence[int], strides: Sequence[int] | None = None) -> Any:
        return Descriptor.tensor(self.library, self.name, shape, strides)

    # ---- moving

    def move(
        self, source: int, source_strides: Sequence[int], target: int, target_strides: Sequence[int], shape: Sequence[int]
    ) -> None:
        """Copy elements; strides in elements."""
        if prod(shape):
            a, b = self.tensor(shape, source_strides), self.tensor(shape, target_strides)
            self.library.call(
                "cudnnTransformTensor", self._handle, self.number(1), a.handle, source, self.number(0), b.handle, target
            )

    def dense(self, operand: Operand) -> int:
        """The address of the operand's elements, dense and channels first; copied where it does not lie so."""
        shape, strides = self._padded(operand)
        wanted = _dense(shape)
        if all(s == w for s, w, n in zip(strides, wanted, shape, strict=True) if n > 1):
            return operand.address
        address = self.memory(prod(shape) * self.itemsize)
        self.move(operand.address, strides, address, wanted, shape)
        return address

    def _padded(self, operand: Operand) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides in elements, with axes of size 1 before the spatial ones where there are less than two. Of an axis of size 1 an
        array may say any stride, and cuDNN takes none below 1.
        """
        missing = max(0, 4 - len(operand.shape))
        strides = tuple([s // self.itemsize if n > 1 else 1 for s, n in zip(operand.strides, operand.shape, strict=True)])
        shape = (*operand.shape[:2], *(1,) * missing, *operand.shape[2:])
        return shape, (*strides[:2], *(1,) * missing, *strides[2:])

    def into_window(self, address: int, shapes: Shapes, batch: int, channels: int) -> int:
        """The dense large side at `address` laid into its window."""
        if shapes.plain:
            return address
        size = batch * channels * prod(shapes.window) * self.itemsize
        window = self.memory(size)
        self._device.fill(window, size, 0, self._stream)
        self._between(address, window, shapes, batch, channels, into=True)
        return window

    def out_of_window(self, window: int, shapes: Shapes, batch: int, channels: int) -> int:
        """The dense large side taken out of its window; what lies beyond the window is 0."""
        if shapes.plain:
            return window
        size = batch * channels * prod(shapes.caller) * self.itemsize
        address = self.memory(size)
        self._device.fill(address, size, 0, self._stream)
        self._between(address, window, shapes, batch, channels, into=False)
        return address

    def _between(self, address: int, window: int, shapes: Shapes, batch: int, channels: int, into: bool) -> None:
        here, there, sizes = shapes.overlap()
        inside, outside = _dense((batch, channels, *shapes.window)), _dense((batch, channels, *shapes.caller))
        first = window + self.itemsize * sum([a * s for a, s in zip(here, inside[2:], strict=True)])
        other = address + self.itemsize * sum([a * s for a, s in zip(there, outside[2:], strict=True)])
        shape = (batch, channels, *sizes)
        if into:
            self.move(other, outside, first, inside, shape)
        else:
            self.move(first, inside, other, outside, shape)

    def give(self, address: int, out: Operand) -> Any:
        """The dense result at `address`, in `out`, as an array of the caller's library."""
        if address != out.address:
            shape, strides = self._padded(out)
            self.move(address, _dense(shape), out.address, strides, shape)
        return self.arrays.give(out)

    # ---- computing

    def proposals(self, name: str, *descriptors: Any) -> list[Algorithm]:
        """What cuDNN's heuristics propose, best first."""
        count, found = c_int(), (Algorithm * MOST_PROPOSALS)()
        self.library.call(f"cudnnGet{name}Algorithm_v7", self._handle, *descriptors, MOST_PROPOSALS, byref(count), found)
        return list(found[: count.value])

    def run(self, name: str, a: Any, first: int, b: Any, second: int, convolution: Any, chosen: Any, c: Any, result: int) -> None:
        """One of the three contractions; a, b, c: descriptors."""
        workspace = self.memory(chosen.memory) if chosen.memory else None
        self.library.call(
            f"cudnn{name}", self._handle, self.number(1), a, first, b, second, convolution, chosen.number, workspace, chosen.memory,
            self.number(0), c, result,
        )  # fmt: skip

    def bias_gradient(self, address: int, shape: Sequence[int], result: int) -> None:
        a, b = self.tensor(shape), self.tensor((1, shape[1], *(1,) * (len(shape) - 2)))
        self.library.call(
            "cudnnConvolutionBackwardBias", self._handle, self.number(1), a.handle, address, self.number(0), b.handle, result
        )

    def finish(self, address: int, shape: Sequence[int], epilogue: Epilogue | None) -> None:
        """Bias, residual and activation, in place on a dense result."""
        if epilogue is None or not prod(shape):
            return
        whole = self.tensor(shape)
        if epilogue.bias is not None:
            bias = self.take(epilogue.bias)
            self._add(self.tensor((1, shape[1], *(1,) * (len(shape) - 2))), self.dense_vector(bias), whole, address)
        if epilogue.residual is not None:
            self._add(whole, self.dense(self.take(epilogue.residual)), whole, address)
        if epilogue.activation == "relu":
            self._with_number(OP_MAX, 0.0, whole, address, address)
        elif epilogue.activation == "clip":
            self._with_number(OP_MAX, epilogue.lo, whole, address, address)
            self._with_number(OP_MIN, epilogue.hi, whole, address, address)
        elif epilogue.activation == "leaky_relu":
            negative = self.memory(prod(shape) * self.itemsize)
            self._with_number(OP_MIN, 0.0, whole, address, negative)
            self._with_number(OP_MAX, 0.0, whole, address, address)
            self._add(whole, negative, whole, address, epilogue.slope)

    def dense_vector(self, operand: Operand) -> int:
        """The address of a vector whose elements lie side by side."""
        if operand.strides[0] == self.itemsize or operand.shape[0] == 1:
            return operand.address
        count, step = operand.shape[0], operand.strides[0] // self.itemsize
        address = self.memory(count * self.itemsize)
        self.move(operand.address, (count * step, step, 1, 1), address, (count, 1, 1, 1), (1, count, 1, 1))
        return address

    def _add(self, a: Any, source: int, c: Any, target: int, scale: float = 1.0) -> None:
        self.library.call("cudnnAddTensor", self._handle, self.number(scale), a.handle, source, self.number(1), c.handle, target)

    def _with_number(self, which: int, value: float, whole: Any, source: int, target: int) -> None:
        """target = the larger or smaller of source and a number."""
        operation = Descriptor.operation(self.library, which, self.compute)
        held = self.memory(self.itemsize)
        self._device.upload(held, np.array([value], self._dtype), self._stream)
        one = self.tensor((1,) * 5 if whole.axes == 5 else (1,) * 4)
        self.library.call(
            "cudnnOpTensor", self._handle, operation.handle, self.number(1), whole.handle, source, self.number(1), one.handle, held,
            self.number(0), whole.handle, target,
        )  # fmt: skip


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a dense array."""
    strides, step = [0] * len(shape), 1
    for k in reversed(range(len(shape))):
        strides[k], step = step, step * shape[k]
    return tuple(strides)
