"""Arrays whose making is written down, for who records a computation as a graph of its own (io.onnx.tracing).

A Tensor that holds a TracedArray is as any other to the operations: they compute with the plain values (`plain`), and who observes them
(`modes.observe`) puts the result's own TracedArray in its place. What NumPy computes on such an array between two operations (a mask
`x > 0`, an index, a sum) is told to the array's writer, too. `whole` marks the functions that are one thing to such a writer, whatever
operations they are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["TracedArray", "Writer", "plain", "whole", "writing"]

P = ParamSpec("P")
R = TypeVar("R")


class Writer(Protocol):
    """Who writes down what NumPy does with TracedArrays: each gives the result as one, or as it is where it has no word for it."""

    def ufunc(self, ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:
        """A universal function, or one of its methods ("reduce", ...)."""

    def function(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:
        """Another function of NumPy."""

    def index(self, array: TracedArray, key: Any, result: Any) -> Any:
        """array[key]."""

    def cast(self, array: TracedArray, result: Any) -> Any:
        """The array in another dtype."""

    def truth(self, array: TracedArray) -> None:
        """Python asks whether the array is true."""


class TracedArray(np.ndarray[Any, Any]):
    """An array that a writer knows by a name. A view that NumPy makes of one without saying so has neither."""

    writer: Writer | None
    name: str

    def __array_finalize__(self, source: object) -> None:
        self.writer, self.name = None, ""

    @classmethod
    def of(cls, values: NDArray[Any], writer: Writer, name: str) -> TracedArray:
        """The values under a name."""
        made = values.view(cls)
        made.writer, made.name = writer, name
        return made

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(not isinstance(v, np.ndarray) and hasattr(v, "__array_ufunc__") and not isinstance(v, np.generic) for v in inputs):
            return NotImplemented  # a Tensor's own
        result = getattr(ufunc, method)(*plain(inputs), **plain(options))
        writer = _writer_of((*inputs, *options.values()))
        return result if writer is None else writer.ufunc(ufunc, method, inputs, options, result)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        if any(not issubclass(kind, np.ndarray) for kind in types):
            return NotImplemented  # a Tensor's own
        result = function(*plain(args), **plain(kwargs))
        writer = _writer_of((*args, *kwargs.values()))
        return result if writer is None else writer.function(function, args, kwargs, result)

    def __getitem__(self, key: Any) -> Any:
        result = plain(self)[plain(key)]
        return result if self.writer is None else self.writer.index(self, key, result)

    def __setitem__(self, key: Any, value: Any) -> None:
        plain(self)[plain(key)] = plain(value)
        self.writer, self.name = None, ""  # it holds other values now, of which nothing is written down

    def __bool__(self) -> bool:
        if self.writer is not None:
            self.writer.truth(self)
        return bool(plain(self))

    def astype(self, dtype: Any, *args: Any, **options: Any) -> Any:
        """The values in another dtype."""
        result = plain(self).astype(dtype, *args, **options)
        return result if self.writer is None else self.writer.cast(self, result)

    def copy(self, order: Any = "C") -> Any:
        """The array itself: nothing is written into one."""
        return self if self.writer is not None else plain(self).copy(order)

    def reshape(self, *shape: Any, **options: Any) -> Any:
        """The values in another shape."""
        return np.reshape(self, shape[0] if len(shape) == 1 else shape, **options)

    def ravel(self, order: Any = "C") -> Any:
        """The values along one axis."""
        return np.reshape(self, -1) if order == "C" else plain(self).ravel(order)

    flatten = ravel

    def transpose(self, *axes: Any) -> Any:
        """The axes in another order."""
        return np.transpose(self, axes[0] if len(axes) == 1 else axes or None)

    T = property(transpose)


def plain(value: Any) -> Any:
    """The value with plain arrays in the place of TracedArrays, in tuples, lists and dicts too."""
    kind = type(value)
    if kind is TracedArray:
        return value.view(np.ndarray)
    if kind is tuple or kind is list:
        return kind([plain(v) for v in value])
    if kind is dict:
        return {k: plain(v) for k, v in value.items()}
    return value


def _writer_of(values: tuple[Any, ...]) -> Writer | None:
    for value in values:
        kind = type(value)
        found: Writer | None = None
        if kind is TracedArray:
            found = value.writer
        elif kind is tuple or kind is list:
            found = _writer_of(tuple(value))
        if found is not None:
            return found
    return None


#: Called as whole_call(function, args, options) in the place of a function that `whole` marks.
WholeCall = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_whole_call: ContextVar[WholeCall | None] = ContextVar("preimage_whole_call", default=None)


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function as one thing to who writes computations down."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        instead = _whole_call.get()
        if instead is None:
            return function(*args, **options)
        made: R = instead(function, args, dict(options))
        return made

    return call


@contextmanager
def writing(instead: WholeCall | None) -> Iterator[None]:
    """A `with` block in which functions that are marked as a whole are called by this one; None: as they are."""
    token = _whole_call.set(instead)
    try:
        yield
    finally:
        _whole_call.reset(token)
