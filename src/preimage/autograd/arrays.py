"""What callers give as arrays, as NumPy arrays: lists, arrays of other libraries, values for what exists already.

What would be lost on the way is refused: a mask, a graph that another library recorded, a gradient inside a list, an imaginary part.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd.device_arrays import DeviceArray, device_array
from preimage.autograd.traced import TracedArray
from preimage.errors import DTypeError, ShapeError

__all__ = ["as_array", "fitted", "is_real", "refuse_masked"]

Array = NDArray[Any]


def refuse_masked(value: object, name: str) -> None:
    """Raises: DTypeError for a masked array, or a list with one in it: no operation here would mind the mask."""
    kind = type(value)
    if kind is np.ndarray or "numpy.ma" not in sys.modules:  # numpy.ma is imported by whoever makes such an array
        return
    masked = np.ma.MaskedArray
    if isinstance(value, masked) or (isinstance(value, list | tuple) and any(isinstance(v, masked) for v in value)):
        raise DTypeError(f"{name} is a masked array, and its mask would be lost; fill what is masked first: {name}.filled(0)")


def _from_torch(value: Any, name: str, values_only: bool) -> Any:
    """A torch tensor as an array, bit for bit; anything else as it is."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "Tensor") or not isinstance(value, torch.Tensor):
        return value
    if value.requires_grad and not values_only:
        raise DTypeError(
            f"{name} is a torch tensor that requires grad, and torch's graph cannot go on here; pass {name}.detach()"
        )
    try:
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has no such type: the same bits as integers, seen as what they are
            return value.contiguous().view(torch.int16).numpy().view(_bfloat16(name))
        return value.numpy()
    except DTypeError:
        raise
    except Exception as error:  # sparse, quantised, meta: each has its own
        raise DTypeError(f"{name} is a torch tensor that NumPy cannot hold ({value.dtype}, {value.layout}): {error}") from None


def _bfloat16(name: str) -> Any:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise DTypeError(f"{name} is bfloat16, which needs the package ml_dtypes: pip install 'preimage[bfloat16]'") from None
    return bfloat16


def as_array(value: object, name: str = "an argument", *, values_only: bool = False) -> Array:
    """The value as an array, not copied where that can be: of numbers, lists, and arrays of NumPy, torch, JAX or others. One that lies on a
    GPU comes as a DeviceArray.

    values_only: a torch tensor may require grad, since only its values are asked for.
    Raises: DTypeError for a masked array, a torch tensor that requires grad, and what cannot be read as an array; ShapeError for a list
        of rows of different lengths.
    """
    if type(value) is np.ndarray or type(value) is TracedArray:
        return value
    refuse_masked(value, name)
    on_device: Any = device_array(value, name)
    if on_device is not None:
        return on_device  # type: ignore[no-any-return]
    value = _from_torch(value, name, values_only)
    if not values_only and isinstance(value, (list, tuple)) and any(getattr(v, "requires_grad", False) is True for v in value):
        raise DTypeError(
            f"{name} is a list of Tensors that require gradients, which would be lost; join them with ops.stack or ops.concat"
        )
    try:
        return np.asarray(value)
    except ValueError:
        raise ShapeError(f"{name} is no regular array: all rows of one length are wanted; a list must be regular") from None
    except MemoryError:
        raise
    except Exception as error:  # the value's own __array__
        raise DTypeError(f"{name} ({type(value).__name__}) cannot be read as an array: {error}") from None


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether it is a type of real numbers: booleans, integers, floats (bfloat16 and its like among them)."""
    return dtype.kind in "biuf" or (dtype.kind == "V" and "float" in dtype.name)


def fitted(value: object, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    """The value as an aligned array of this dtype and shape, rounded to it; for what replaces an array that exists.

    Raises: ShapeError for another shape; DTypeError for what holds no real numbers, fractions where integers are wanted, and finite
        values that the dtype cannot hold.
    """
    array = as_array(value, name, values_only=True)
    if not is_real(array.dtype):
        raise DTypeError(f"{name} has dtype {array.dtype}, wanted real numbers for {dtype}")
    if array.shape != shape:
        raise ShapeError(f"{name} has shape {array.shape}, wanted {shape}")
    if isinstance(array, DeviceArray):
        if array.dtype != dtype:
            raise DTypeError(f"{name} has dtype {array.dtype}, wanted {dtype}, as it lies on {array.device}")
        return array
    if array.dtype == dtype and array.dtype.isnative:
        return array if array.flags.aligned else np.require(array, dtype, "A")
    with np.errstate(all="ignore"):
        made = np.require(array, dtype, "A")
        if dtype.kind in "biu":
            lost = array.dtype.kind not in "biu" or not np.can_cast(array.dtype, dtype)
            if lost and not (np.asarray(made, array.dtype) == array).all():
                raise DTypeError(f"{name} has values that {dtype} cannot hold")
        elif array.dtype.kind != "b":
            over = ~np.isfinite(made) & (np.isfinite(array) if array.dtype.kind not in "iu" else True)
            if over.any():
                raise DTypeError(f"{name} has the value {array[over].flat[0]}, which {dtype} cannot hold")
    return made
