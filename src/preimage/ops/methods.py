"""Tensor's operators and methods: the operations under the names that NumPy and PyTorch users expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from preimage.autograd import Tensor, array_of, install_methods
from preimage.errors import ShapeError
from preimage.ops import activation, broadcast, linear, pointwise, reduce, shape

__all__: list[str] = []


def _reflected(op: Any) -> Any:
    return lambda self, other: op(other, self)


def _iterate(self: Tensor) -> Iterator[Tensor]:
    if not self.ndim:
        raise ShapeError("a Tensor without axes cannot be iterated over")
    return (self[k] for k in range(self.shape[0]))


_comparisons = {
    "__lt__": lambda self, other: self._data < array_of(other),
    "__le__": lambda self, other: self._data <= array_of(other),
    "__gt__": lambda self, other: self._data > array_of(other),
    "__ge__": lambda self, other: self._data >= array_of(other),
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
        "__matmul__": linear.matmul,
        "__rmatmul__": _reflected(linear.matmul),
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
            (reduce, "sum mean max min prod var logsumexp softmax log_softmax"),
            (shape, "reshape transpose moveaxis swapaxes flatten squeeze expand_dims"),
            (broadcast, "astype broadcast_to"),
            (activation, "relu sigmoid tanh"),
            (linear, "matmul"),
        )
        for name in names.split()
    }
)

setattr(Tensor, "T", property(shape.transpose, doc="The axes in reverse order, as a view."))  # noqa: B010 - installed, like the methods
