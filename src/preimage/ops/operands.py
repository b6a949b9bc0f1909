"""What the operations take: Tensors and float arrays as they are, plain numbers and lists in the dtype of the others."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import Tensor, array_of, as_array
from preimage.autograd.device_arrays import DeviceArray
from preimage.autograd.traced import TracedArray
from preimage.engines import PreparedWeight, around
from preimage.engines.base import accumulator_dtype, supported_dtype
from preimage.engines.recording import recorder
from preimage.errors import DTypeError, OptionError, OutOfMemoryError, ShapeError
from preimage.geometry.sizes import MAX_ELEMENTS
from preimage.resources import memory_limit
from preimage.typing import Axes, DTypeLike, Operand, Shape, Value

__all__ = [
    "Array", "Axes", "axes_of", "axis_of", "broadcast_shape", "check_room", "common_dtype",
    "count_of", "entries", "flag_of", "float_dtype", "integer_of", "narrow", "number_of", "operand", "operands", "parts_of", "regular",
    "shape_of", "shape_sizes", "sizes_of", "widened",
]  # fmt: skip

Array = NDArray[Any]
_PLAIN = frozenset(
    np.dtype(t) for t in (np.float32, np.float64, np.float16)
)  # these are native; a foreign byte order is not equal


#: What an array may be here.
_STORED: Any = (np.ndarray, DeviceArray)
_TYPED: Any = (Tensor, np.ndarray, DeviceArray)


def _float_array(array: Array, name: str) -> Array:
    if isinstance(array, DeviceArray) and supported_dtype(array.dtype):
        return array
    if array.dtype.kind == "O" or not supported_dtype(array.dtype):
        raise DTypeError(
            f"{name} has dtype {array.dtype}; use float32, float64, float16 or bfloat16, e.g. {name}.astype(np.float32)"
        )
    array = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


def regular(value: object, name: str = "an argument") -> Array:
    """The value as an array. Raises: ShapeError for a list of rows of different lengths; DTypeError where a mask or a graph would be lost."""
    return as_array(value, name)


def _is_array(value: object) -> bool:
    """Whether it is an array of NumPy or of another library, which has a dtype of its own; a number or list takes that of the others."""
    return isinstance(value, np.ndarray | DeviceArray) or (
        hasattr(type(value), "__array__") and not isinstance(value, np.generic | Tensor)
    )


def operand(value: Operand, name: str) -> Value:
    """One argument as operations and engines take it: a Tensor as it is; an array of floats made native and aligned, copied only where it must
    be; a number or list as float64.

    Raises: DTypeError for integers, booleans, complex numbers and objects in an array, and for prepared weights.
    """
    if isinstance(value, Tensor):
        return value  # its array was made native and aligned when the Tensor was
    if type(value) is np.ndarray and value.dtype in _PLAIN and value.flags.aligned:
        return value
    if isinstance(value, PreparedWeight):
        raise DTypeError(f"{name} is a prepared weight; only w of conv and conv_transpose may be one, {name} must be an array")
    if isinstance(value, np.generic) or _is_array(value):
        return _float_array(regular(value, name), name)
    return _number(value, np.dtype(np.float64), name)


def _number(value: object, dtype: np.dtype[Any], name: str) -> Array:
    array = regular(value, name)
    if array.dtype.kind not in "fiub" and not (array.dtype.kind != "O" and supported_dtype(array.dtype)):
        raise DTypeError(f"{name} must be an array of floats or a number, got {type(value).__name__}")
    if isinstance(array, TracedArray):  # a mask that is written down
        cast: Array = array.astype(dtype)
        return cast
    with np.errstate(all="ignore"):
        array = np.array(array, dtype)
    array.flags.writeable = False  # made here: the graph need not watch it for changes
    if type(value) in (float, int) and (here := recorder()) is not None:
        here.fix(array)
    return array


def _counts_as_floats(values: Sequence[Any]) -> tuple[Any, ...]:
    """Where computations are written down, a count (`mask.sum()`) is an array without axes; elsewhere it is a number."""
    floats = [v.dtype for v in values if isinstance(v, _TYPED) and v.dtype.kind not in "biu"]
    dtype = np.result_type(*floats) if floats else np.dtype(np.float64)
    return tuple(v.astype(dtype) if type(v) is TracedArray and not v.ndim and v.dtype.kind in "iu" else v for v in values)


def operands(name: str, *values: Operand) -> tuple[Value, ...]:
    """The arguments of one operation. Numbers, lists and boolean masks take the dtype of the arrays beside them, so
    `float32_tensor * 2.0` stays float32; arrays of different float dtypes promote as in NumPy.

    Raises: DTypeError for integers in an array (a silent change of their values would follow).
    """
    first: Any = values[0]
    if (type(first) is np.ndarray or isinstance(first, Tensor)) and first.dtype in _PLAIN:
        dtype = first.dtype
        if all((type(v) is np.ndarray or isinstance(v, Tensor)) and v.dtype is dtype for v in values[1:]):
            return cast("tuple[Value, ...]", values)
    what = f"an argument of {name}"
    if TracedArray in map(type, values):
        values = _counts_as_floats(values)
    plain: list[Any] = [regular(v, what) if _is_array(v) else v for v in values]
    ready: list[Any] = [_float_array(v, what) if isinstance(v, _STORED) and v.dtype.kind != "b" else v for v in plain]
    dtypes = [v.dtype for v in ready if isinstance(v, _TYPED) and v.dtype.kind != "b"]
    if not dtypes:
        dtypes = [v.dtype for v in ready if isinstance(v, np.floating)]
    dtype = dtypes[0] if dtypes else np.dtype(np.float64)
    if any(other != dtype for other in dtypes[1:]):
        dtype = _promoted(name, dtypes)
    return tuple(
        v if isinstance(v, Tensor) or (isinstance(v, _STORED) and v.dtype.kind != "b") else _number(v, dtype, what) for v in ready
    )


def common_dtype(name: str, *values: Value | None) -> np.dtype[Any]:
    """The dtype that arrays and Tensors (None: left out) promote to. Raises: DTypeError for those that do not mix."""
    return _promoted(name, [v.dtype for v in values if v is not None])


def _promoted(name: str, dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    try:
        return np.dtype(np.result_type(*dtypes))
    except TypeError:
        listed = " and ".join(str(d) for d in dtypes)
        raise DTypeError(f"{name} cannot mix {listed}; convert one of them with .astype") from None


@lru_cache(maxsize=4096)
def _broadcast(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return np.broadcast_shapes(*shapes)


def broadcast_shape(name: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape under broadcasting. Raises: ShapeError with both shapes."""
    if all(s == shapes[0] for s in shapes[1:]):
        return shapes[0]
    try:
        return _broadcast(shapes)
    except ValueError:
        listed = " and ".join(str(s) for s in shapes)
        raise ShapeError(f"{name}: shapes {listed} do not broadcast; from the last axis, sizes must be equal or 1") from None


def shape_of(value: object) -> tuple[int, ...]:
    """The shape of what may be a Tensor, an array or a list of numbers."""
    given: Any = array_of(value)
    return np.shape(given)


def entries(value: object) -> list[Any] | None:
    """The entries of a sequence; None for a single value (a word is one, and so is an array without axes)."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable | Tensor):
        return None
    if isinstance(value, Tensor | np.ndarray):
        array: Any = array_of(value)
        return list(array) if array.ndim else None
    return list(value)


def parts_of(parts: Sequence[Operand], name: str) -> tuple[Value, ...]:
    """The arguments of an operation over a list of arrays. Raises: ShapeError for none, or for what is no list."""
    listed = None if isinstance(parts, Tensor | np.ndarray) else entries(parts)
    if not listed:
        raise ShapeError(f"{name}: give a list of at least one array")
    return operands(name, *listed)


def count_of(value: object, name: str, least: int) -> int:
    """One integer of at least `least`. Raises: OptionError for anything else."""
    try:
        count = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise OptionError(f"{name} must be an integer, got {value!r}") from None
    if count < least:
        raise OptionError(
            f"{name} must not be {'negative' if not least else f'less than {least}'}, got {count}; at least {least}"
        )
    return count


def flag_of(value: object, name: str) -> bool:
    """True or False, also as NumPy's, as 0 or 1. Raises: OptionError for anything else."""
    plain = (
        value.item() if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 and value.dtype.kind in "biu" else value
    )
    if not isinstance(plain, int) or plain not in (0, 1):
        raise OptionError(f"{name} must be True or False, got {value!r}")
    return bool(plain)


def integer_of(value: object, name: str, least: int) -> int:
    """One integer of at least `least`, and no truth value. Raises: OptionError for anything else."""
    try:
        count = least - 1 if isinstance(value, bool) else operator.index(cast(SupportsIndex, value))
    except TypeError:
        count = least - 1
    if count < least:
        raise OptionError(f"{name} must be an integer of at least {least}, got {value!r}")
    return count


def number_of(value: object, name: str, least: float | None = None, most: float | None = None) -> float:
    """One real number, also as an array without axes, as a Python float. Raises: OptionError for anything else, NaN included where bounds
    are given, and what lies outside them.
    """
    if (type(value) is float or type(value) is int) and least is None and most is None:
        try:
            return float(value)
        except OverflowError:
            pass
    plain: Any = array_of(value)
    if not isinstance(plain, str | bytes | bool | complex) and np.ndim(plain if isinstance(plain, np.ndarray) else 0) == 0:
        try:
            number = float(plain)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is not None:
            bounded = (least is None or number >= least) and (most is None or number <= most)
            if bounded:
                return number
            span = f"at least {least}" if most is None else f"at most {most}" if least is None else f"between {least} and {most}"
            raise OptionError(f"{name} must be {span}, got {value!r}")
    raise OptionError(f"{name} must be a number, got {value!r}")


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """One of the four float types, in this machine's byte order. Raises: DTypeError for anything else."""
    try:
        wanted: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        raise DTypeError(f"{dtype!r} is no dtype; use float32, float64, float16 or bfloat16") from None
    if wanted.kind == "O" or not supported_dtype(wanted):
        raise DTypeError(f"dtype {wanted} is not supported; use float32, float64, float16 or bfloat16")
    return wanted if wanted.isnative else np.dtype(wanted.newbyteorder("="))


def shape_sizes(shape: Shape, name: str) -> tuple[int, ...]:
    """A shape as `sizes_of` reads it, with no size below 0 and no more elements than an array can have."""
    sizes = sizes_of(shape, name)
    if any(n < 0 for n in sizes):
        raise ShapeError(f"{name}: sizes are not negative, got {sizes}")
    if len(sizes) > 32 or math.prod(max(n, 1) for n in sizes) > MAX_ELEMENTS:
        raise ShapeError(f"{name}: {sizes} is more than an array can hold")
    return sizes


def axis_of(axis: SupportsIndex, ndim: int, name: str) -> int:
    """One axis as 0..ndim-1. Raises: ShapeError where there is no such axis."""
    try:
        k = operator.index(axis)
    except TypeError:
        raise OptionError(f"{name}: an axis is an integer, got {axis!r}") from None
    if not -ndim <= k < ndim:
        raise ShapeError(f"{name}: axis {k} does not exist in {ndim} dimensions")
    return k % ndim


def axes_of(axis: Axes, ndim: int, name: str) -> tuple[int, ...]:
    """The axes that `axis` names (None: all), in rising order. Raises: ShapeError for one that does not exist or comes twice."""
    if axis is None:
        return tuple(range(ndim))
    listed = entries(axis)
    given: list[Any] = [axis] if listed is None else listed
    axes = sorted(axis_of(a, ndim, name) for a in given)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{name}: axis given twice in {axis!r}")
    return tuple(axes)


def sizes_of(shape: Shape, name: str) -> tuple[int, ...]:
    """A shape as a tuple of Python ints, from one int or a sequence. Raises: OptionError for anything else."""
    listed: list[Any] | None = entries(shape)
    given: Any = shape
    try:
        return tuple(operator.index(n) for n in ([given] if listed is None else listed))
    except TypeError:
        raise OptionError(f"{name}: sizes are integers, got {shape!r}") from None


def check_room(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raises: ShapeError for a result of more elements than an array can have; OutOfMemoryError for more bytes than the process may take."""
    count = math.prod(shape)
    if count > MAX_ELEMENTS or any(n > MAX_ELEMENTS for n in shape):
        raise ShapeError(
            f"{name}: the result would have shape {shape}: more than the {MAX_ELEMENTS} elements that can be indexed"
        )
    if count > 1 << 24 and count * dtype.itemsize > memory_limit():
        raise OutOfMemoryError(
            f"{name}: the result of shape {shape} would take {count * dtype.itemsize >> 20} MiB; there are {memory_limit() >> 20} MiB"
        )


def widened(array: Array) -> Array:
    """The array in the dtype that it is computed with: float32 for the narrow floats, else as it is."""
    if array.dtype.itemsize > 2:
        return array
    wide = accumulator_dtype(array.dtype)
    made = around.cast(array, wide)
    return array.astype(wide) if made is None else made


def narrow(result: Any, like: Any) -> Array:
    """A result in the dtype of `like`, as an array (never a NumPy scalar)."""
    array = np.asarray(array_of(result))
    if array.dtype == like.dtype:
        return array
    made = around.cast(array, like.dtype)
    if made is not None:
        return made
    with np.errstate(all="ignore"):
        return array.astype(like.dtype)
