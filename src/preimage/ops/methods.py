"""Tensor's operators and methods: the operations under the names that NumPy and PyTorch users expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, as_array, fitted, install_methods
from preimage.errors import GraphError, ShapeError
from preimage.ops import activation, broadcast, exponentials, numpy_functions, pointwise, reduce, shape  # noqa: F401 - numpy_functions installs its own
from preimage.ops.linear import matmul
from preimage.ops.operands import axis_of, entries, integer_of
from preimage.typing import Shape, Value

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
            (pointwise, "abs clip exp log log1p sqrt square"),
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
        "softmax": _along(exponentials.softmax),
        "log_softmax": _along(exponentials.log_softmax),
    }
)

setattr(Tensor, "T", property(shape.transpose, doc="The axes in reverse order, as a view."))  # noqa: B010 - installed, like the methods
