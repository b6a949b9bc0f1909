"""Tables of vectors, and the functions of the module torch itself that a net's forward takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preimage import ops
from preimage.autograd import array_of
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.functional.checks import unsupported
from preimage.ops import shape
from preimage.ops.operands import count_of, integer_of, number_of, operand, regular
from preimage.typing import Array, Integers, Operand, Shape, Value

__all__ = ["cat", "chunk", "clamp", "embedding", "flatten", "one_hot", "permute", "stack"]


def _indices(values: Integers, name: str) -> Array:
    array = regular(array_of(values), name)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{name}: wanted integers, got {array.dtype}")
    return array


def embedding(
    input: Integers,
    weight: Operand,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    """The rows of weight (count, width) at integer positions; the row padding_idx gets no gradient.

    Raises: ShapeError for a position outside the table; OptionError for max_norm, scale_grad_by_freq and sparse.
    """
    unsupported("embedding", max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)
    rows, table = _indices(input, "embedding: input"), operand(weight, "weight")
    if table.ndim != 2:
        raise ShapeError(f"embedding: weight has shape {table.shape}, wanted (count, width)")
    if rows.size and not 0 <= rows.min() <= rows.max() < table.shape[0]:
        raise ShapeError(f"embedding: positions reach from {rows.min()} to {rows.max()}; the table has {table.shape[0]} rows")
    found = ops.take(table, rows, 0)
    if padding_idx is None:
        return found
    idle = integer_of(padding_idx, "embedding: padding_idx", -table.shape[0])
    if idle >= table.shape[0]:
        raise OptionError(f"embedding: padding_idx {idle} is outside the table of {table.shape[0]} rows")
    held = ops.take(array_of(table), rows, 0)
    return ops.where((rows == idle % table.shape[0])[..., None], held, found)


def one_hot(tensor: Integers, num_classes: int = -1) -> Array:
    """int64 rows with a one at each class and zeros elsewhere; num_classes -1: as many as the largest class asks for."""
    labels = _indices(tensor, "one_hot: tensor")
    count = int(labels.max(initial=-1)) + 1 if num_classes == -1 else count_of(num_classes, "one_hot: num_classes", 1)
    if labels.size and (labels.min() < 0 or labels.max() >= count):
        raise ShapeError(f"one_hot: classes reach from {labels.min()} to {labels.max()}; there are {count}")
    if not count:
        raise OptionError("one_hot: no class is there; give num_classes")
    return np.equal(labels[..., None], np.arange(count)).astype(np.int64)


def cat(tensors: Sequence[Operand], dim: int = 0) -> Value:
    """Arrays side by side along an axis."""
    return ops.concat(tensors, dim)


def stack(tensors: Sequence[Operand], dim: int = 0) -> Value:
    """Arrays of one shape along a new axis."""
    return ops.stack(tensors, dim)


def chunk(input: Operand, chunks: int, dim: int = 0) -> list[Value]:
    """Up to so many pieces of equal size along an axis; the last may be smaller."""
    return shape.chunk(input, chunks, dim)


def flatten(input: Operand, start_dim: int = 0, end_dim: int = -1) -> Value:
    """The axes from start_dim to end_dim as one."""
    return ops.flatten(input, start_dim, end_dim)


def permute(input: Operand, dims: Shape) -> Value:
    """The axes in another order."""
    return ops.transpose(input, dims)


def clamp(input: Operand, min: float | None = None, max: float | None = None) -> Value:
    """x, held in min..max."""
    low, high = (None if v is None else number_of(v, "clamp") for v in (min, max))
    if low is None and high is None:
        raise OptionError("clamp: give min, max or both")
    return ops.clip(input, low, high)
