"""libcudnn by ctypes: its functions with their C types, its status codes in our words, descriptors that go with their objects.

Source: NVIDIA, cuDNN 9 API (cudnn_ops.h, cudnn_cnn.h), the functions of its classic interface.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from preimage.errors import EngineError, OutOfMemoryError, PreimageError

__all__ = ["DATA_TYPES", "Algorithm", "Descriptor", "Library", "open_library"]

LEAST_VERSION = 90000
_P, _D = c_void_p, c_int
_IS = POINTER(c_int)
#: cudnnDataType_t by the names of NumPy's dtypes.
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 9}
NCHW, CROSS_CORRELATION, PROPAGATE_NAN = 0, 1, 1
OP_MIN, OP_MAX = 2, 3


class Algorithm(ctypes.Structure):
    """cudnnConvolution*AlgoPerf_t: one answer of cuDNN's heuristics."""

    _fields_ = (
        ("number", c_int), ("status", c_int), ("time", ctypes.c_float), ("memory", c_size_t), ("determinism", c_int),
        ("math", c_int), ("reserved", c_int * 3),
    )  # fmt: skip


_CHOICE = (c_int, _IS, POINTER(Algorithm))
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cudnnCreate": (POINTER(_P),),
    "cudnnDestroy": (_P,),
    "cudnnSetStream": (_P, _P),
    "cudnnCreateTensorDescriptor": (POINTER(_P),),
    "cudnnSetTensorNdDescriptor": (_P, _D, c_int, _IS, _IS),
    "cudnnDestroyTensorDescriptor": (_P,),
    "cudnnCreateFilterDescriptor": (POINTER(_P),),
    "cudnnSetFilterNdDescriptor": (_P, _D, _D, c_int, _IS),
    "cudnnDestroyFilterDescriptor": (_P,),
    "cudnnCreateConvolutionDescriptor": (POINTER(_P),),
    "cudnnSetConvolutionNdDescriptor": (_P, c_int, _IS, _IS, _IS, _D, _D),
    "cudnnDestroyConvolutionDescriptor": (_P,),
    "cudnnSetConvolutionMathType": (_P, _D),
    "cudnnSetConvolutionGroupCount": (_P, c_int),
    "cudnnGetConvolutionForwardAlgorithm_v7": (_P, _P, _P, _P, _P, *_CHOICE),
    "cudnnGetConvolutionBackwardDataAlgorithm_v7": (_P, _P, _P, _P, _P, *_CHOICE),
    "cudnnGetConvolutionBackwardFilterAlgorithm_v7": (_P, _P, _P, _P, _P, *_CHOICE),
    "cudnnConvolutionForward": (_P, _P, _P, _P, _P, _P, _P, _D, _P, c_size_t, _P, _P, _P),
    "cudnnConvolutionBackwardData": (_P, _P, _P, _P, _P, _P, _P, _D, _P, c_size_t, _P, _P, _P),
    "cudnnConvolutionBackwardFilter": (_P, _P, _P, _P, _P, _P, _P, _D, _P, c_size_t, _P, _P, _P),
    "cudnnConvolutionBackwardBias": (_P, _P, _P, _P, _P, _P, _P),
    "cudnnAddTensor": (_P, _P, _P, _P, _P, _P, _P),
    "cudnnTransformTensor": (_P, _P, _P, _P, _P, _P, _P),
    "cudnnCreateOpTensorDescriptor": (POINTER(_P),),
    "cudnnSetOpTensorDescriptor": (_P, _D, _D, _D),
    "cudnnDestroyOpTensorDescriptor": (_P,),
    "cudnnOpTensor": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P),
}

_WORDS = {
    1001: "it could not be initialised: no GPU, or a driver that is too old",
    1002: "its parts are of different versions; install it anew",
    1008: "one of its parts could not be loaded; install it anew",
    3005: "the driver is too old for it",
    3007: "it has no kernels for this GPU",
    4003: "it found no memory on the host",
}
_NO_DEVICE_MEMORY = 4004
_NOT_SUPPORTED = 3000


@functools.cache
def open_library() -> Library:
    """libcudnn: one that is loaded already (torch does so), of the system, or of the package nvidia-cudnn-cu12 (or 13).

    Raises: EngineError where there is none, or one before version 9.
    """
    name = "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
    tried = [name, *(str(p) for folder in sys.path for p in Path(folder or ".").glob(f"nvidia/cudnn/*/{name}"))]
    for path in tried:
        try:
            return Library(ctypes.CDLL(path))
        except OSError:
            continue
    raise EngineError(f"cuDNN 9 is not installed: {name} cannot be loaded; pip install nvidia-cudnn-cu12 brings it")


class Library:
    """The functions of a libcudnn, called with errors in our words."""

    def __init__(self, library: Any) -> None:
        """library: ctypes' (tests give a double). Raises: EngineError for a version before 9."""
        try:
            library.cudnnGetVersion.restype = c_size_t
            self.version = int(library.cudnnGetVersion())
            self._text = library.cudnnGetErrorString
            self._text.argtypes, self._text.restype = (c_int,), c_char_p
            self._functions: Mapping[str, Callable[..., int]] = {name: getattr(library, name) for name in _PROTOTYPES}
        except AttributeError as error:
            raise EngineError(f"the libcudnn that was found cannot be used: {error}; version 9 is needed") from None
        if self.version < LEAST_VERSION:
            raise EngineError(f"cuDNN is too old: version {self.version}, wanted {LEAST_VERSION} or later")
        for name, function in self._functions.items():
            function.argtypes, function.restype = _PROTOTYPES[name], c_int  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f"cuDNN {self.version // 10000}.{self.version % 10000 // 100}.{self.version % 100}"

    def status(self, name: str, *arguments: Any) -> int:
        """A call whose status code is the caller's to judge."""
        return self._functions[name](*arguments)

    def call(self, name: str, *arguments: Any) -> None:
        """A call. Raises: EngineError or OutOfMemoryError in our words."""
        code = self._functions[name](*arguments)
        if code:
            raise self.error(name, code)

    def error(self, name: str, code: int, note: str = "") -> PreimageError:
        said = (self._text(code) or b"").decode(errors="replace")
        end = f" [{name}: {code} {said}]"
        if code == _NO_DEVICE_MEMORY:
            return OutOfMemoryError(f"cuDNN found no memory on the GPU{end}")
        if code in _WORDS:
            return EngineError(f"cuDNN: {_WORDS[code]}{end}")
        if _NOT_SUPPORTED <= code < 4000:
            return EngineError(f"cuDNN cannot do this{': ' + note if note else ''}; engine 'cuda' takes every geometry{end}")
        return EngineError(f"cuDNN: the call failed{'; ' + note if note else ''}{end}")


class Descriptor:
    """One of cuDNN's descriptors, destroyed with the object. kind: Tensor, Filter, Convolution or OpTensor."""

    __slots__ = ("_kind", "_library", "axes", "handle")

    def __init__(self, library: Library, kind: str, axes: int = 0) -> None:
        self._library, self._kind, self.axes = library, kind, axes
        handle = c_void_p()
        library.call(f"cudnnCreate{kind}Descriptor", byref(handle))
        self.handle = handle.value

    def __del__(self) -> None:
        if getattr(self, "handle", None) is not None and not sys.is_finalizing():
            self._library.status(f"cudnnDestroy{self._kind}Descriptor", self.handle)

    @classmethod
    def tensor(cls, library: Library, dtype: str, shape: Sequence[int], strides: Sequence[int] | None = None) -> Descriptor:
        """An array of at least 4 axes. strides in elements, dense by default."""
        made = cls(library, "Tensor", len(shape))
        if strides is None:
            dense, step = [], 1
            for size in reversed(shape):
                dense.append(step)
                step *= size
            strides = dense[::-1]
        library.call("cudnnSetTensorNdDescriptor", made.handle, DATA_TYPES[dtype], len(shape), ints(shape), ints(strides))
        return made

    @classmethod
    def filter(cls, library: Library, dtype: str, shape: Sequence[int]) -> Descriptor:
        made = cls(library, "Filter")
        library.call("cudnnSetFilterNdDescriptor", made.handle, DATA_TYPES[dtype], NCHW, len(shape), ints(shape))
        return made

    @classmethod
    def convolution(
        cls, library: Library, compute: str, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int, math: int
    ) -> Descriptor:  # fmt: skip
        made = cls(library, "Convolution")
        library.call(
            "cudnnSetConvolutionNdDescriptor", made.handle, len(stride), ints(padding), ints(stride), ints(dilation), CROSS_CORRELATION,
            DATA_TYPES[compute],
        )  # fmt: skip
        library.call("cudnnSetConvolutionGroupCount", made.handle, groups)
        library.call("cudnnSetConvolutionMathType", made.handle, math)
        return made

    @classmethod
    def operation(cls, library: Library, which: int, compute: str) -> Descriptor:
        """The larger (OP_MAX) or smaller (OP_MIN) of two arrays; NaN if either is."""
        made = cls(library, "OpTensor")
        library.call("cudnnSetOpTensorDescriptor", made.handle, which, DATA_TYPES[compute], PROPAGATE_NAN)
        return made


def ints(values: Sequence[int]) -> Any:
    """A C array."""
    return (c_int * len(values))(*values)
