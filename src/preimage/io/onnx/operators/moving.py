"""Data movement for arrays of any type (shapes and masks are integers in ONNX) and for Tensors, one name each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.engines import moving
from preimage.engines.base import is_channels_last

__all__ = ["is_float", "recorded", "reshape", "take", "tile", "transpose", "typed", "where"]


def recorded(*values: Any) -> bool:
    """Whether one of the values is a Tensor."""
    return any(isinstance(v, Tensor) for v in values)


def is_float(x: Any) -> bool:
    """Whether x is a Tensor or an array of one of our float types."""
    return isinstance(x, Tensor) or x.dtype.kind == "f" or x.dtype.name == "bfloat16"


def reshape(x: Any, shape: Sequence[int]) -> Any:
    """x in another shape; arrays become a copy only where they must."""
    return ops.reshape(x, tuple(shape)) if isinstance(x, Tensor) else moving.reshaped(x, tuple(shape))


def transpose(x: Any, order: Sequence[int]) -> Any:
    """x with its axes in another order."""
    return ops.transpose(x, tuple(order)) if isinstance(x, Tensor) else np.transpose(x, tuple(order))


def tile(x: Any, times: Sequence[int]) -> Any:
    """x several times along every axis."""
    if isinstance(x, Tensor):
        return ops.tile(x, tuple(times))
    made = moving.repeated(
        x.reshape([n for size in x.shape for n in (1, size)]), [n for pair in zip(times, x.shape, strict=True) for n in pair]
    )
    return np.tile(x, tuple(times)) if made is None else made.reshape([t * n for t, n in zip(times, x.shape, strict=True)])


def take(x: Any, index: np.ndarray, axis: int) -> Any:
    """x at `index` along one axis; channels stay innermost in memory where they are."""
    if isinstance(x, Tensor):
        return ops.take(x, index, axis)
    made = moving.take(x, index, axis)
    if made is not None:
        return made
    if axis > 1 and np.ndim(index) == 1 and is_channels_last(x):
        return np.moveaxis(np.take(np.moveaxis(x, 1, -1), index, axis - 1), -1, 1)
    return np.take(x, index, axis)


def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b."""
    ours = recorded(a, b) or (a.dtype == b.dtype and is_float(a) and getattr(condition, "dtype", None) == np.bool_)
    return ops.where(condition, a, b) if ours else np.where(condition, a, b)


def typed(result: Any, like: Any) -> Any:
    """The dtype of `like`: a Python scalar may have widened a narrow array."""
    return result if isinstance(result, Tensor) or result.dtype == like.dtype else result.astype(like.dtype)
