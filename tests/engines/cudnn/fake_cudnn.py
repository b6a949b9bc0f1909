"""A double of libcudnn over a fake device whose memory is the host's: NumPy does the arithmetic, descriptors are checked as cuDNN does.

It is called through the C calling convention, by ctypes callbacks with the types of cuDNN's headers, written here a second time.
"""

# ruff: noqa: N802, N815 - cuDNN's own names

from __future__ import annotations

import ctypes
import itertools
from collections import Counter
from math import prod

import numpy as np

from preimage import ConvGeometry
from preimage.engines.reference import ReferenceEngine

_LETTERS = {"i": ctypes.c_int, "P": ctypes.c_void_p, "Z": ctypes.c_size_t}
_CONTRACTION, _MOVE, _CHOICE = "PPPPPPPiPZPPP", "PPPPPPP", "PPPPPiPP"
SIGNATURES = {
    "cudnnCreate": "P", "cudnnDestroy": "P", "cudnnSetStream": "PP",
    "cudnnCreateTensorDescriptor": "P", "cudnnSetTensorNdDescriptor": "PiiPP", "cudnnDestroyTensorDescriptor": "P",
    "cudnnCreateFilterDescriptor": "P", "cudnnSetFilterNdDescriptor": "PiiiP", "cudnnDestroyFilterDescriptor": "P",
    "cudnnCreateConvolutionDescriptor": "P", "cudnnSetConvolutionNdDescriptor": "PiPPPii", "cudnnDestroyConvolutionDescriptor": "P",
    "cudnnSetConvolutionMathType": "Pi", "cudnnSetConvolutionGroupCount": "Pi",
    "cudnnGetConvolutionForwardAlgorithm_v7": _CHOICE, "cudnnGetConvolutionBackwardDataAlgorithm_v7": _CHOICE,
    "cudnnGetConvolutionBackwardFilterAlgorithm_v7": _CHOICE, "cudnnConvolutionForward": _CONTRACTION,
    "cudnnConvolutionBackwardData": _CONTRACTION, "cudnnConvolutionBackwardFilter": _CONTRACTION, "cudnnConvolutionBackwardBias": _MOVE,
    "cudnnAddTensor": _MOVE, "cudnnTransformTensor": _MOVE, "cudnnCreateOpTensorDescriptor": "P", "cudnnSetOpTensorDescriptor": "Piii",
    "cudnnDestroyOpTensorDescriptor": "P", "cudnnOpTensor": "PPPPPPPPPPP",
}  # fmt: skip
_DTYPES = {0: np.float32, 1: np.float64, 2: np.float16}
BAD_PARAM, NOT_SUPPORTED = 2000, 3000


class Perf(ctypes.Structure):
    _fields_ = (("algo", ctypes.c_int), ("status", ctypes.c_int), ("time", ctypes.c_float), ("memory", ctypes.c_size_t),
                ("determinism", ctypes.c_int), ("mathType", ctypes.c_int), ("reserved", ctypes.c_int * 3))  # fmt: skip


def _ints(address, n):
    return tuple((ctypes.c_int * n).from_address(address))


class FakeCudnn:
    """proposals: (algo, status, memory, determinism, math) in the order in which the heuristics give them."""

    proposals = ((4, 0, 0, 1, 3), (1, 0, 0, 1, 0), (0, 0, 0, 0, 3), (1, 3000, 0, 1, 3), (1, 0, 1 << 40, 1, 3), (1, 0, 512, 1, 3))

    def __init__(self, fake, version=92400):
        self._cuda, self.version = fake, version
        self.seen, self.calls = Counter(), []
        self.alive: dict[int, list] = {}
        self.stream = None
        self._failures: dict[str, dict[int, int]] = {}
        self._handles = itertools.count(0x9000, 16)
        self._truth = ReferenceEngine()
        self._functions = {"cudnnGetVersion": ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: self.version)}
        texts = {0: b"ok"}
        text = lambda code: ctypes.cast(texts.setdefault(code, b"CUDNN_STATUS"), ctypes.c_void_p).value  # noqa: E731
        self._functions["cudnnGetErrorString"] = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)(text)
        for name, letters in SIGNATURES.items():
            self._functions[name] = ctypes.CFUNCTYPE(ctypes.c_int, *[_LETTERS[k] for k in letters])(self._called(name))

    def __getattr__(self, name):
        try:
            return self.__dict__["_functions"][name]
        except KeyError:
            raise AttributeError(name) from None

    def fail(self, name, n, code):
        self._failures.setdefault(name, {})[self.seen[name] + n] = code

    def _called(self, name):
        for kind in ("Tensor", "Filter", "Convolution", "OpTensor"):
            if name == f"cudnnCreate{kind}Descriptor":
                method = lambda to, kind=kind: self._create(to, kind)  # noqa: E731
                break
            if name == f"cudnnDestroy{kind}Descriptor":
                method = self._destroy
                break
        else:
            method = getattr(self, f"_{name}")

        def call(*arguments):
            arguments = [a or 0 for a in arguments]
            self.seen[name] += 1
            self.calls.append((name, *arguments))
            code = self._failures.get(name, {}).get(self.seen[name], 0)
            if code:
                return code
            if not name.startswith(("cudnnCreate", "cudnnDestroy", "cudnnSet")) or name in ("cudnnCreate", "cudnnSetStream"):
                assert self._cuda.stack(), "no context is current"
            try:
                return method(*arguments) or 0
            except Exception as error:
                self.calls.append(("raised", name, repr(error)))
                return 4000

        return call

    # ---- objects

    def _create(self, to, kind):
        handle = next(self._handles)
        self.alive[handle] = [kind]
        ctypes.c_void_p.from_address(to).value = handle

    def _destroy(self, handle):
        del self.alive[handle]

    def _cudnnCreate(self, to):
        self._create(to, "handle")

    def _cudnnDestroy(self, handle):
        del self.alive[handle]

    def _cudnnSetStream(self, handle, stream):
        assert self.alive[handle] == ["handle"]
        self.stream = stream

    def _set(self, handle, kind, *values):
        assert self.alive[handle][0] == kind
        self.alive[handle] = [kind, *values]

    def _cudnnSetTensorNdDescriptor(self, handle, dtype, n, dims, strides):
        dims, strides = _ints(dims, n), _ints(strides, n)
        if not 4 <= n <= 8 or min(dims) < 1 or min(strides) < 1 or dtype not in _DTYPES:
            return BAD_PARAM
        return self._set(handle, "Tensor", dtype, dims, strides)

    def _cudnnSetFilterNdDescriptor(self, handle, dtype, layout, n, dims):
        if n < 4 or layout != 0 or min(_ints(dims, n)) < 1:
            return BAD_PARAM
        return self._set(handle, "Filter", dtype, _ints(dims, n))

    def _cudnnSetConvolutionNdDescriptor(self, handle, n, pads, strides, dilations, mode, compute):
        pads, strides, dilations = (_ints(v, n) for v in (pads, strides, dilations))
        if n not in (2, 3) or min(pads) < 0 or min(strides) < 1 or min(dilations) < 1 or mode != 1 or compute not in (0, 1):
            return BAD_PARAM
        return self._set(handle, "Convolution", pads, strides, dilations, 1, 0)

    def _cudnnSetConvolutionMathType(self, handle, math):
        self.alive[handle][5] = math

    def _cudnnSetConvolutionGroupCount(self, handle, groups):
        self.alive[handle][4] = groups

    def _cudnnSetOpTensorDescriptor(self, handle, op, compute, nan):
        assert nan == 1
        self._set(handle, "OpTensor", op)

    # ---- arrays

    def _array(self, descriptor, address):
        _, dtype, dims, *strides = self.alive[descriptor]
        item = np.dtype(_DTYPES[dtype]).itemsize
        steps = strides[0] if strides else [prod(dims[k + 1 :]) for k in range(len(dims))]
        span = item * (1 + sum((n - 1) * s for n, s in zip(dims, steps, strict=True)))
        held = np.frombuffer((ctypes.c_ubyte * span).from_address(address), np.uint8)
        return np.ndarray(dims, _DTYPES[dtype], held, 0, tuple(s * item for s in steps))

    def _number(self, descriptor, address):
        wide = self.alive[descriptor][1] == 1
        return (ctypes.c_double if wide else ctypes.c_float).from_address(address).value

    def _geometry(self, large, weight, convolution, small):
        x, w, y = (self.alive[d][2] for d in (large, weight, small))
        _, pads, strides, dilations, groups, _ = self.alive[convolution]
        made = ConvGeometry.from_conv(x, w, stride=strides, padding=pads, dilation=dilations, groups=groups)
        assert made.output_shape == y, "cuDNN finds another size of the result"
        return made

    def _propose(self, handle, a, b, c, d, most, count, found):
        rows = self.proposals
        ctypes.c_int.from_address(count).value = len(rows)
        table = (Perf * len(rows)).from_address(found)
        for k, (algo, status, memory, determinism, math) in enumerate(rows):
            table[k] = Perf(algo, status, 1.0, memory, determinism, math)

    _cudnnGetConvolutionForwardAlgorithm_v7 = _cudnnGetConvolutionBackwardDataAlgorithm_v7 = _propose
    _cudnnGetConvolutionBackwardFilterAlgorithm_v7 = _propose

    def _workspace(self, address, size):
        assert size == 512
        assert self._cuda._inside(address, size)

    def _cudnnConvolutionForward(self, h, alpha, xd, x, wd, w, cd, algo, work, size, beta, yd, y):
        self._workspace(work, size)
        g = self._geometry(xd, wd, cd, yd)
        self._array(yd, y)[...] = self._truth.conv(g, self._array(xd, x), self._array(wd, w))

    def _cudnnConvolutionBackwardData(self, h, alpha, wd, w, yd, y, cd, algo, work, size, beta, xd, x):
        self._workspace(work, size)
        g = self._geometry(xd, wd, cd, yd)
        self._array(xd, x)[...] = self._truth.conv_transpose(g, self._array(yd, y), self._array(wd, w))

    def _cudnnConvolutionBackwardFilter(self, h, alpha, xd, x, yd, y, cd, algo, work, size, beta, wd, w):
        self._workspace(work, size)
        g = self._geometry(xd, wd, cd, yd)
        self._array(wd, w)[...] = self._truth.conv_weight_grad(g, self._array(xd, x), self._array(yd, y))

    def _cudnnConvolutionBackwardBias(self, h, alpha, yd, y, beta, bd, b):
        a = self._array(yd, y)
        self._array(bd, b)[...] = a.sum((0, *range(2, a.ndim)), keepdims=True)

    def _cudnnAddTensor(self, h, alpha, ad, a, beta, cd, c):
        out = self._array(cd, c)
        out[...] = self._number(cd, alpha) * self._array(ad, a) + self._number(cd, beta) * out

    def _cudnnTransformTensor(self, h, alpha, xd, x, beta, yd, y):
        self._array(yd, y)[...] = self._array(xd, x)

    def _cudnnOpTensor(self, h, op, alpha1, ad, a, alpha2, bd, b, beta, cd, c):
        function = {2: np.minimum, 3: np.maximum}[self.alive[op][1]]
        self._array(cd, c)[...] = function(self._array(ad, a), self._array(bd, b))
