"""Tensor's operators and methods: the operations under the names that NumPy and PyTorch users expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, as_array, fitted, install_methods
from preimage.errors import GraphError, OptionError, ShapeError
from preimage.ops import activation, broadcast, exponentials, numpy_functions, pointwise, reduce, shape  # noqa: F401 - numpy_functions installs its own
from preimage.ops.linear import matmul
from preimage.ops.operands import axis_of, entries, integer_of, number_of, operand
from preimage.typing import Axes, Shape, Value

__all__: list[str] = []


def _reflected(op: Any) -> Any:
    return lambda self, other: op(other, self)


def _iterate(self: Tensor) -> Iterator[Tensor]:
    if not self.ndim:
        raise ShapeError("a Tensor without axes cannot be iterated over")
    return (self[k] for k in range(self.shape[0]))


def _comparison(ufunc: np.ufunc) -> Any:
    """Element by element, as in NumPy: an array of booleans, which no gradient goes through."""

    def compare(self: Tensor, other: Any) -> Any:
        value = array_of(other)
        if not isinstance(value, np.ndarray | np.generic | int | float | list | tuple):
            return NotImplemented  # None, words, other objects: Python compares identities, or refuses an order
        try:
            with np.errstate(all="ignore"):  # comparing with NaN counts as invalid
                return ufunc(self._data, value)
        except ValueError:
            raise ShapeError(f"{ufunc.__name__}: shapes {self.shape} and {np.shape(value)} do not broadcast") from None

    return compare


_comparisons = {
    "__eq__": _comparison(np.equal),
    "__ne__": _comparison(np.not_equal),
    "__lt__": _comparison(np.less),
    "__le__": _comparison(np.less_equal),
    "__gt__": _comparison(np.greater),
    "__ge__": _comparison(np.greater_equal),
}

install_methods(
    {
        "__add__": pointwise.add,
        "__radd__": pointwise.add,
        "__sub__": pointwise.subtract,
        "__rsub__": _reflected(pointwise.subtract),
        "__mul__": pointwise.multiply,
        "__rmul__": pointwise.multiply,
        "__truediv__": pointwise.divide,
        "__rtruediv__": _reflected(pointwise.divide),
        "__pow__": pointwise.power,
        "__rpow__": _reflected(pointwise.power),
        "__neg__": pointwise.negative,
        "__abs__": pointwise.abs,
        "__matmul__": matmul,
        "__rmatmul__": _reflected(matmul),
        "__getitem__": shape.getitem,
        "__iter__": _iterate,
        **_comparisons,
    }
)

install_methods(
    {
        name: getattr(module, name)
        for module, names in (
            (pointwise, "abs clip cos exp expm1 log log1p reciprocal rsqrt sign sin sqrt square"),
            (shape, "reshape transpose moveaxis swapaxes flatten squeeze expand_dims"),
            (broadcast, "astype broadcast_to"),
            (activation, "relu sigmoid tanh"),
        )
        for name in names.split()
    }
)


# -- what changes or looks inside ---------------------------------------------------------------------------------------


def _set(self: Tensor, key: Any, value: Any) -> None:
    """t[key] = value on a leaf: new values are assigned, so that a graph that needs the old ones says so."""
    if not self.is_leaf:
        raise GraphError("only a leaf can be assigned to; choose between values with ops.where, or change a copy: np.array(t)")
    if isinstance(value, Tensor) and value.requires_grad:
        raise GraphError("the gradient of what is assigned would be lost; use ops.where, or assign value.detach()")
    data = np.array(self.data)
    place = shape.getitem(data, key).shape  # what is no index is an error there
    values = as_array(array_of(value), "the value to assign")
    values = fitted(values, self.dtype, values.shape, "the value to assign")
    try:
        data[shape.index_of(key)] = values
    except ValueError:
        raise ShapeError(f"cannot assign shape {values.shape} to elements of shape {place}") from None
    self.assign(data)


def _permute(self: Tensor, *dims: Shape) -> Value:
    """The axes in another order: `transpose` under PyTorch's name. A view."""
    given = entries(dims[0]) if len(dims) == 1 else None
    order: Any = dims if given is None else given
    return shape.transpose(self, order) if len(order) or self.ndim else self


install_methods(
    {
        "matmul": matmul,
        "__pos__": lambda self: self,
        "__contains__": lambda self, value: bool(np.any(self == value)),
        "__setitem__": _set,
        "permute": _permute,
        "view": shape.reshape,
        "ravel": lambda self: shape.reshape(self, -1),
        "unsqueeze": shape.expand_dims,
    }
)


# -- under PyTorch's names, for nets whose imports alone were changed ---------------------------------------------------


def _split(self: Tensor, split_size: Shape, dim: int = 0) -> list[Value]:
    """Pieces of these sizes along an axis; of one number: of that size each, the last may be smaller."""
    made = shape.split(self, split_size, dim)
    return made if made or entries(split_size) is not None else [self]  # an empty axis is one empty piece


def _unbind(self: Tensor, dim: int = 0) -> list[Value]:
    """The parts at every place of an axis, without it."""
    axis = axis_of(dim, self.ndim, "unbind")
    return [self[(slice(None),) * axis + (k,)] for k in range(self.shape[axis])]


def _clamp(self: Tensor, min: float | None = None, max: float | None = None) -> Value:
    """x held between min and max, of which one may be None."""
    return pointwise.clip(self, min, max)


def _expand(self: Tensor, *sizes: Shape) -> Value:
    """x repeated along axes of size 1 and new ones in front; -1: as it is. A view."""
    given: Any = entries(sizes[0]) if len(sizes) == 1 else None
    wanted = [integer_of(n, "expand: a size", -1) for n in (sizes if given is None else given)]
    new = len(wanted) - self.ndim
    return broadcast.broadcast_to(self, [self.shape[k - new] if n == -1 and k >= new else n for k, n in enumerate(wanted)])


def _repeat(self: Tensor, *sizes: Shape, axis: int | None = None) -> Value:
    """The whole of x so many times along its axes, new ones in front, as in PyTorch; with an axis NumPy's: every slice so many times in a row."""
    if axis is not None:
        if len(sizes) != 1:
            raise OptionError(f"repeat: along an axis there is one number, got {len(sizes)}")
        return shape.repeat(self, integer_of(sizes[0], "repeat: repeats", 0), axis)
    given: Any = entries(sizes[0]) if len(sizes) == 1 else sizes
    if given is None:
        raise OptionError(
            f"repeat({sizes[0]}) repeats the whole in PyTorch and every element in NumPy: call ops.tile, or give an axis"
        )
    if len(given) < self.ndim:
        raise ShapeError(f"repeat: {len(given)} numbers for {self.ndim} axes; give one for every axis")
    return shape.tile(self, [integer_of(n, "repeat: a size", 0) for n in given])


def _roll(self: Tensor, shifts: Shape, dims: Axes = None) -> Value:
    """Rolled along axes, each by a number of its own; without axes the elements in row-major order."""
    if dims is None:
        return shape.reshape(shape.roll(shape.reshape(self, -1), integer_of(shifts, "roll: shifts", -(2**62)), 0), self.shape)
    by, axes = (list[Any]([v] if (held := entries(v)) is None else held) for v in (shifts, dims))
    if len(by) != len(axes):
        raise OptionError(f"roll: {len(by)} shifts for {len(axes)} axes")
    made: Value = self
    for shift, axis in zip(by, axes, strict=True):
        made = shape.roll(made, shift, axis)
    return made


def _narrow(self: Tensor, dim: int, start: int, length: int) -> Value:
    """So many slices along an axis, from a place on. Raises: ShapeError where they are not there."""
    axis = axis_of(dim, self.ndim, "narrow")
    first, count = integer_of(start, "narrow: start", -self.shape[axis]), integer_of(length, "narrow: length", 0)
    first += self.shape[axis] if first < 0 else 0
    if first + count > self.shape[axis]:
        raise ShapeError(f"narrow: {count} slices from {first} on of an axis of size {self.shape[axis]}")
    return self[(slice(None),) * axis + (slice(first, first + count),)]


def _over(function: Any) -> Any:
    """An extreme over axes under PyTorch's names of the arguments."""
    return lambda self, dim=None, keepdim=False: function(self, None if entries(dim) == [] else dim, keepdim)


def _scaled(function: Any, name: str) -> Any:
    def call(self: Tensor, other: Any, *, alpha: float = 1) -> Value:
        factor = number_of(alpha, f"{name}: alpha")
        made: Value = function(self, other if factor == 1 else pointwise.multiply(other, factor))
        return made

    return call


def _shape_of(other: Any) -> tuple[int, ...]:
    return operand(other, "other").shape


def _along(function: Any) -> Any:
    return lambda self, axis=-1, *, dim=None: function(self, axis if dim is None else dim)


install_methods(
    {
        "split": _split,
        "chunk": lambda self, chunks, dim=0: shape.chunk(self, chunks, dim),
        "unbind": _unbind,
        "clamp": _clamp,
        "pow": pointwise.power,
        "masked_fill": lambda self, mask, value: pointwise.where(mask, value, self),
        "expand": _expand,
        "contiguous": lambda self: self,
        "clone": lambda self: pointwise.multiply(self, 1.0),
        "repeat": _repeat,
        "tile": lambda self, *sizes: shape.tile(self, sizes[0] if len(sizes) == 1 else sizes),
        "flip": lambda self, *dims: shape.flip(self, dims[0] if len(dims) == 1 else dims),
        "roll": _roll,
        "narrow": _narrow,
        "unflatten": shape.unflatten,
        "expand_as": lambda self, other: broadcast.broadcast_to(self, _shape_of(other)),
        "view_as": lambda self, other: shape.reshape(self, _shape_of(other)),
        "reshape_as": lambda self, other: shape.reshape(self, _shape_of(other)),
        "movedim": shape.moveaxis,
        "amax": _over(reduce.max),
        "amin": _over(reduce.min),
        "add": _scaled(pointwise.add, "add"),
        "sub": _scaled(pointwise.subtract, "sub"),
        "mul": pointwise.multiply,
        "div": pointwise.divide,
        "neg": pointwise.negative,
        "maximum": pointwise.maximum,
        "minimum": pointwise.minimum,
        "bmm": matmul,
        "mm": matmul,
        "softmax": _along(exponentials.softmax),
        "log_softmax": _along(exponentials.log_softmax),
    }
)

setattr(Tensor, "T", property(shape.transpose, doc="The axes in reverse order, as a view."))  # noqa: B010 - installed, like the methods
