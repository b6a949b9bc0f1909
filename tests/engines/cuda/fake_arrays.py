"""Stand-ins for CuPy and torch: arrays whose memory is a fake device's (the host's own), with the protocols that the real ones offer.

    cupy, torch = fake_library("cupy"), fake_library("torch")      # modules; put them into sys.modules
    x = cupy.asarray(numpy_array);  cupy.asnumpy(x)

`HostEngine` computes on such arrays by the addresses that `arrays_for` gives it, with the reference engine: a test of the way there and back.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np

from preimage.engines.base import Plan
from preimage.engines.cuda.arrays import arrays_for
from preimage.engines.prepared import PreparedWeight
from preimage.engines.reference import ReferenceEngine


class DeviceMemory:
    """What both libraries' arrays are: a NumPy array that stands for memory of a device."""

    def __init__(self, values, ordinal=0):
        self._values, self._ordinal = values, ordinal

    @property
    def shape(self):
        return self._values.shape

    def __dlpack_device__(self):
        return 2, self._ordinal

    @property
    def __cuda_array_interface__(self):
        a = self._values
        strides = None if a.flags.c_contiguous else a.strides
        return {"shape": a.shape, "strides": strides, "typestr": a.dtype.str, "data": (a.ctypes.data, False), "version": 3}

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


class CupyArray(DeviceMemory):
    @property
    def dtype(self):
        return self._values.dtype

    def transpose(self, order):
        return CupyArray(self._values.transpose(order), self._ordinal)

    def copy(self, order="C"):
        return CupyArray(self._values.copy(order), self._ordinal)


class TorchTensor(DeviceMemory):
    def __init__(self, values, ordinal=0, cuda=True, requires_grad=False):
        super().__init__(values, ordinal)
        self.is_cuda, self.requires_grad, self._version = cuda, requires_grad, 0

    @property
    def dtype(self):
        return f"torch.{self._values.dtype.name}"

    def __dlpack_device__(self):
        return (2, self._ordinal) if self.is_cuda else (1, 0)

    def permute(self, order):
        return TorchTensor(self._values.transpose(order), self._ordinal)

    def detach(self):
        return TorchTensor(self._values, self._ordinal, self.is_cuda)

    def clone(self):
        return TorchTensor(self._values.copy("K"), self._ordinal, self.is_cuda)

    def contiguous(self):
        return TorchTensor(np.ascontiguousarray(self._values), self._ordinal, self.is_cuda)

    def cpu(self):
        return self.detach()

    def resolve_conj(self):
        return self

    resolve_neg = resolve_conj

    def numpy(self):
        return self._values

    def add_(self, value):
        self._values += value
        self._version += 1


def fake_library(name):
    """The module. `stream`: what its current stream is."""
    library = ModuleType(name)
    library.stream = 7
    library.made = []

    def remember(made):
        library.made.append(made)
        return made

    if name == "cupy":

        @contextmanager
        def on(number):
            before, library.current = library.current, number
            yield
            library.current = before

        library.current = 0
        library.ndarray = CupyArray
        library.asarray = lambda a, ordinal=0: CupyArray(np.array(a), ordinal)
        library.asnumpy = lambda a: a._values
        library.empty = lambda shape, dtype: remember(CupyArray(np.full(shape, np.nan, dtype), library.current))
        library.cuda = SimpleNamespace(
            Device=on, get_current_stream=lambda: SimpleNamespace(ptr=library.stream + library.current)
        )
    else:
        library.Tensor = TorchTensor
        library.asarray = lambda a, ordinal=0, **more: TorchTensor(np.array(a), ordinal, **more)
        library.asnumpy = lambda a: a._values
        library.float32, library.float64, library.float16 = np.float32, np.float64, np.float16
        library.empty = lambda shape, dtype, device: remember(
            TorchTensor(np.full(shape, np.nan, dtype), int(device.partition(":")[2]))
        )
        library.cuda = SimpleNamespace(current_stream=lambda number: SimpleNamespace(cuda_stream=library.stream + number))
    return library


def view(operand):
    """The memory of an Operand as a NumPy array: a fake device's memory is the host's."""
    span = 1 + sum((n - 1) * s for n, s in zip(operand.shape, operand.strides, strict=True) if n)
    size = (span - 1 + operand.dtype.itemsize) if all(operand.shape) else 0
    if not size:
        return np.empty(operand.shape, operand.dtype)
    held = np.frombuffer((ctypes.c_ubyte * size).from_address(operand.address), np.uint8)
    return np.ndarray(operand.shape, operand.dtype, held, 0, operand.strides)


class HostKernels:
    """Chains and sums by NumPy, on device arrays."""

    WORDS: ClassVar = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "maximum": np.maximum, "minimum": np.minimum,
        "abs": np.abs, "exp": np.exp, "sqrt": np.sqrt, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "relu": lambda x: np.maximum(x, 0), "leaky_relu": lambda x, s: np.where(x > 0, x, x * s), "clip": np.clip,
        "if_positive": lambda x, yes, no: np.where(x > 0, yes, no),
    }  # fmt: skip

    def run_chain(self, operands, steps, numbers=(), results=None):
        arrays = arrays_for(operands[0])
        values = [*(view(arrays.take(a)) for a in operands), *(operands[0].dtype.type(n) for n in numbers)]
        with np.errstate(all="ignore"):
            for word, places in steps:
                values.append(self.WORDS[word](*[values[p] for p in places]))
        given = []
        for place in [len(values) - 1] if results is None else results:
            out = arrays.make(values[place].shape, operands[0].dtype)
            view(out)[...] = values[place]
            given.append(arrays.give(out))
        return tuple(given)

    def channel_sums(self, x, mode, images, g=None, m=None):
        assert (mode, images, g, m) == ("plain", True, None, None)
        arrays = arrays_for(x)
        values = view(arrays.take(x))
        out = arrays.make((x.shape[1],), x.dtype)
        view(out)[...] = values.sum((0, *range(2, x.ndim)))
        return (arrays.give(out),)


class HostEngine:
    """An engine of a device whose memory is the host's."""

    name = "cuda"
    promises = ("repeat",)
    takes_prepared = True
    products = None
    kernels = HostKernels()
    truth = ReferenceEngine()

    def __init__(self):
        self.streams = []

    def unavailable(self):
        return None

    def supports(self, geometry, contraction, dtype):
        return self.truth.supports(geometry, contraction, dtype)

    def _run(self, geometry, contraction, a, b, epilogue=None):
        arrays = arrays_for(a)
        self.streams.append(arrays.stream)
        b = b.array if isinstance(b, PreparedWeight) else b
        values = [view(arrays.take(v)) for v in (a, b)]
        if contraction == "conv_weight_grad":
            made = self.truth.conv_weight_grad(geometry, *values)
        else:
            if epilogue is not None:
                parts = {k: view(arrays.take(v)) for k in ("bias", "residual") if (v := getattr(epilogue, k)) is not None}
                epilogue = type(epilogue)(
                    **parts, activation=epilogue.activation, slope=epilogue.slope, lo=epilogue.lo, hi=epilogue.hi
                )
            made = getattr(self.truth, contraction)(geometry, *values, epilogue)
        out = arrays.make(made.shape, made.dtype, channels_last=a.ndim > 2 and a.strides[1] == a.itemsize and a.shape[1] > 1)
        view(out)[...] = made
        return arrays.give(out)

    def conv(self, geometry, x, w, epilogue=None):
        return self._run(geometry, "conv", x, w, epilogue)

    def conv_transpose(self, geometry, y, w, epilogue=None):
        return self._run(geometry, "conv_transpose", y, w, epilogue)

    def conv_weight_grad(self, geometry, x, y):
        return self._run(geometry, "conv_weight_grad", x, y)

    def plan(self, geometry, contraction, dtype, channels_last=False):
        return Plan("cuda", contraction, "host", geometry, dtype.name, 0, 0, 0, 1, self.promises)
