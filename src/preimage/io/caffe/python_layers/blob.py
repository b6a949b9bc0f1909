"""Blob: an array and its gradient, as pycaffe shows them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import ShapeError

__all__ = ["Blob"]

Floats = NDArray[np.float32]


class Blob:
    """`data` and `diff` are float32 arrays that stay the same objects from one forward to the next, so that views of them stay good.

    What a pass computed is copied into `data` when somebody looks, or at once where somebody has looked before.
    """

    def __init__(self, shape: tuple[int, ...], source: Callable[[], Any] | None = None) -> None:
        self._shape = tuple(shape)
        self._data: Floats | None = None
        self._diff: Floats | None = None
        self._pending: Any = None
        self._source = source

    @property
    def data(self) -> Floats:
        """The values; write into them to change them."""
        if self._source is not None:
            return self._source()  # type: ignore[no-any-return]
        if self._data is None:
            self._data = np.zeros(self._shape, np.float32)
        if self._pending is not None:
            self._data[...] = self._pending
            self._pending = None
        return self._data

    @property
    def diff(self) -> Floats:
        """The gradient of the loss with respect to the values."""
        if self._diff is None:
            self._diff = np.zeros(self.shape, np.float32)
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of all axes."""
        return self._shape

    @property
    def count(self) -> int:
        """The number of elements."""
        return prod(self._shape)

    def _legacy(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise ShapeError(f"num, channels, height and width exist for up to 4 axes, this blob has {len(self._shape)}")
        return self._shape[axis] if axis < len(self._shape) else 1

    num = property(lambda self: self._legacy(0), doc="The first size.")
    channels = property(lambda self: self._legacy(1), doc="The second size.")
    height = property(lambda self: self._legacy(2), doc="The third size.")
    width = property(lambda self: self._legacy(3), doc="The fourth size.")

    def reshape(self, *shape: int) -> None:
        """Other sizes; what was in it is lost where the sizes change."""
        sizes: Any = shape[0] if len(shape) == 1 and np.ndim(shape[0]) else shape
        fresh = tuple(int(size) for size in sizes)
        if any(size < 0 for size in fresh):
            raise ShapeError(f"a blob cannot have the shape {fresh}")
        if fresh != self._shape:
            self._shape, self._data, self._diff, self._pending = fresh, None, None, None

    def attach(self, source: Callable[[], Any]) -> None:
        """Show from now on the array that `source` gives."""
        self._data, self._pending, self._source = None, None, source

    def receive(self, value: Any) -> None:
        """Take what a pass computed."""
        self.reshape(*value.shape)
        self._pending = value
        if self._data is not None:
            self._data[...] = value
            self._pending = None

    def receive_diff(self, value: Any, *, add: bool = False) -> None:
        """Take a gradient (None: zeros), or add it to what is there."""
        if add:
            if value is not None:
                self.diff[...] += value
        else:
            self.diff[...] = 0 if value is None else value

    def __repr__(self) -> str:
        return f"<Blob {self._shape}>"
