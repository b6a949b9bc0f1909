"""Arrays of other libraries that lie on a GPU: where they lie, of what shape and type. Nothing is computed here, and no library is imported.

An operation sees each as a DeviceArray. Where the caller gave one (`given`), what comes back is an array of the caller's library again.

Source: the CUDA Array Interface, version 3; DLPack's device types.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Self

import numpy as np

from preimage.errors import DTypeError

__all__ = ["DeviceArray", "device_array", "given_back", "place_of"]

_DLPACK_CUDA = (2, 13)  # memory of a device, managed memory
_LIBRARIES = {"cupy": "ndarray", "torch": "Tensor"}
_NAMES = {"cupy": "CuPy", "torch": "torch"}
_TO_HOST = {"cupy": "cupy.asnumpy(x)", "torch": "x.cpu()"}


class _MissingError(DTypeError, AttributeError):
    """An attribute that NumPy's arrays have and DeviceArrays have not."""


class DeviceArray:
    """Where an array lies that another library has on a GPU. strides in bytes; device: "cuda:0"; owner: the library's own array."""

    __slots__ = ("__weakref__", "address", "device", "dtype", "given", "library", "owner", "shape", "strides")

    def __init__(
        self, owner: Any, library: str, device: str, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any],
        given: bool = False,
    ) -> None:  # fmt: skip
        self.owner, self.library, self.device, self.given = owner, library, device, given
        self.address, self.shape, self.strides, self.dtype = address, shape, strides, dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def version(self) -> int | None:
        """A number that changes with every change in place, where the library counts them (torch does)."""
        found = getattr(self.owner, "_version", None)
        return found if isinstance(found, int) else None

    def kept(self) -> DeviceArray:
        """The same array as a graph keeps it: no longer the caller's."""
        if not self.given:
            return self
        return DeviceArray(self.owner, self.library, self.device, self.address, self.shape, self.strides, self.dtype)

    def moved_axis(self, source: int, destination: int) -> Self:
        """As numpy.moveaxis: a view."""
        order = [k for k in range(self.ndim) if k != source % self.ndim]
        order.insert(destination % self.ndim, source % self.ndim)
        owner = self.owner.permute(order) if hasattr(self.owner, "permute") else self.owner.transpose(order)
        shape, strides = tuple([self.shape[k] for k in order]), tuple([self.strides[k] for k in order])
        return type(self)(owner, self.library, self.device, self.address, shape, strides, self.dtype, self.given)

    def copied(self) -> DeviceArray:
        """A copy with the axes in memory in their order, by the library, on its current stream."""
        owner = self.owner
        made = owner.detach().clone().contiguous() if self.library == "torch" else owner.copy(order="C")
        found = device_array(made, "a copy")
        assert found is not None
        return found.kept()

    def refused(self, what: str) -> DTypeError:
        return DTypeError(
            f"{what}: this array is on {place_of(self)}, where contractions, bias, residual, activations, arithmetic and channel sums are"
            f" computed; for the rest bring it to the host: {_TO_HOST.get(self.library, 'numpy.asarray(x)')}"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise self.refused("numpy.asarray")

    def __array_ufunc__(self, ufunc: Any, *args: Any, **kwargs: Any) -> Any:
        raise self.refused(f"numpy.{ufunc.__name__}")

    def __array_function__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        raise self.refused(f"numpy.{function.__name__}")

    def __getattr__(self, name: str) -> Any:
        raise _MissingError(str(self.refused(f"array.{name}")))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, on {place_of(self)})"


def place_of(value: object) -> str:
    """Where an array lies, and whose it is, in words."""
    if isinstance(value, DeviceArray):
        return f"{value.device} ({_NAMES.get(value.library, value.library)})"
    return "the CPU (NumPy)"


def given_back(value: Any) -> Any:
    """A result as the caller's library has it; what is no DeviceArray as it is."""
    return value.owner if type(value) is DeviceArray else value


def device_array(value: Any, name: str = "an argument") -> DeviceArray | None:
    """The array as a DeviceArray that the caller gave, or None where it lies on no NVIDIA GPU.

    Raises: DTypeError for a torch tensor that requires grad, and for what its library cannot describe (sparse, masked).
    """
    kind = type(value)
    if kind is DeviceArray:
        return value  # type: ignore[no-any-return]
    if not hasattr(kind, "__cuda_array_interface__") or not hasattr(kind, "__dlpack_device__"):
        return None
    where, number = value.__dlpack_device__()
    if int(where) not in _DLPACK_CUDA:
        return None
    library = next(
        (n for n, c in _LIBRARIES.items() if n in sys.modules and isinstance(value, getattr(sys.modules[n], c, ()))), ""
    )
    if getattr(value, "requires_grad", False):
        raise DTypeError(
            f"{name} is a torch tensor that requires grad, and torch's graph cannot go on here; pass {name}.detach()"
        )
    try:
        found = value.__cuda_array_interface__
    except Exception as error:  # sparse and the like: each library has its own
        raise DTypeError(f"{name} ({kind.__module__}.{kind.__qualname__}) cannot be used on the GPU: {error}") from None
    if found.get("mask") is not None:
        raise DTypeError(f"{name} is a masked array, and its mask would be lost; fill what is masked first")
    shape = tuple(found["shape"])
    dtype = _dtype(value, found["typestr"], name)
    strides = found.get("strides")
    if strides is None:
        strides, step = [0] * len(shape), dtype.itemsize
        for k in reversed(range(len(shape))):
            strides[k], step = step, step * shape[k]
    return DeviceArray(
        value, library or kind.__module__.partition(".")[0], f"cuda:{int(number)}", int(found["data"][0]), shape, tuple(strides), dtype, True
    )  # fmt: skip


def _dtype(value: Any, typestr: str, name: str) -> np.dtype[Any]:
    if "bfloat16" in str(value.dtype):
        try:
            from ml_dtypes import bfloat16
        except ImportError:
            raise DTypeError(f"{name} is bfloat16, which needs the package ml_dtypes: pip install 'preimage[bfloat16]'") from None
        found: np.dtype[Any] = np.dtype(bfloat16)
        return found
    return np.dtype(typestr)
