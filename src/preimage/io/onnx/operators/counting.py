"""ONNX's operators that run along an axis, tell values apart, or look at their bits: CumSum, CumProd, Unique, Det, BitShift, BitCast."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.engines import moving
from preimage.errors import FileFormatError, PreimageError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.limits import check_work
from preimage.io.onnx.model import CODES, dtype_of
from preimage.io.onnx.operators.moving import recorded
from preimage.io.onnx.operators.shapes import axis_of, data_of

__all__: list[str] = []


def _without_gradient(what: str, x: Any) -> Any:
    if recorded(x) and x.requires_grad:
        raise PreimageError(f"{what} has no gradient: run it under no_grad")
    return np.asarray(data_of(x))


def _accumulated(function: np.ufunc, data: Any, axis: int) -> Any:
    """Every place of an axis with those before it; whole slices at a time where the axis has gaps, which NumPy is slow at."""
    by_kernels = moving.running_sums(data, axis) if function is np.add else None
    if by_kernels is not None:
        return by_kernels
    if abs(data.strides[axis]) <= data.itemsize or not data.size:
        return function.accumulate(data, axis, dtype=data.dtype)
    found = np.empty_like(data)
    values, made = np.moveaxis(data, axis, 0), np.moveaxis(found, axis, 0)
    made[0] = values[0]
    for before, value, after in zip(made, values[1:], made[1:], strict=False):
        function(before, value, out=after)
    return found


def _running(name: str, function: np.ufunc, nothing: int) -> None:
    """Every place of an axis with those before it; exclusive: without itself, reverse: with those behind it."""

    def call(x: Any, axis: Any, exclusive: int = 0, reverse: int = 0) -> Any:
        data, where = _without_gradient(name, x), np.asarray(data_of(axis))
        if where.size != 1 or where.dtype.kind not in "iu":
            raise FileFormatError(f"{name}: the axis is {where.dtype} of shape {where.shape}, wanted one integer")
        k = axis_of(int(where.reshape(())), data.ndim, name)
        data = np.flip(data, k) if reverse else data
        found = _accumulated(function, data, k)
        if exclusive:
            first = np.full_like(data[(slice(None),) * k + (slice(0, 1),)], nothing)
            found = np.concatenate([first, found[(slice(None),) * k + (slice(0, -1),)]], k)[
                (slice(None),) * k + (slice(0, data.shape[k]),)
            ]
        return np.flip(found, k).copy() if reverse else found

    graph_op(f"onnx.{name}")(call)


_running("CumSum", np.add, 0)
_running("CumProd", np.multiply, 1)


@graph_op("onnx.Unique", types=gives(0, "int64", "int64", "int64"))
def _unique(x: Any, *, axis: int | None = None, sorted: int = 1, outputs: int = 1) -> tuple[Any, ...]:
    """The different values, or slices of an axis; where each lies first, which of them each value is, and how often each is there.

    In rising order, or with sorted=0 in that of their first places.
    """
    data = np.asarray(data_of(x))
    if axis is None:
        data, k = data.reshape(-1), 0
    else:
        k = axis_of(axis, data.ndim, "Unique")
    if not data.size and data.shape[k]:
        raise FileFormatError(f"Unique: slices of an array of shape {data.shape} along axis {k} have no elements")
    found, first, inverse, counts = np.unique(data, True, True, True, axis=k)
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        found, first, counts, inverse = np.take(found, order, k), first[order], counts[order], place[inverse]
    return (found, *(v.astype(np.int64) for v in (first, inverse, counts)))[:outputs]


@graph_op("onnx.Det")
def _det(x: Any) -> Any:
    """Determinants of square matrices: the product of what elimination with the largest pivots leaves on the diagonal, in float64."""
    data = _without_gradient("Det", x)
    if data.ndim < 2 or data.shape[-1] != data.shape[-2]:
        raise FileFormatError(f"Det: matrices of shape {data.shape[-2:]} are not square")
    n = data.shape[-1]
    left = data.astype(np.float64).reshape(-1, n, n)
    check_work(len(left) * n**3, "Det")
    found, rows = np.ones(len(left)), np.arange(len(left))
    with np.errstate(all="ignore"):
        for k in range(n):
            pivot = k + np.argmax(np.abs(left[:, k:, k]), axis=1)
            here, there = left[rows, k].copy(), left[rows, pivot].copy()
            left[rows, pivot], left[rows, k] = here, there
            found = found * there[:, k] * np.where(pivot == k, 1, -1)
            factor = np.divide(
                left[:, k + 1 :, k], there[:, None, k], where=there[:, None, k] != 0, out=np.zeros((len(left), n - k - 1))
            )
            left[:, k + 1 :] -= factor[..., None] * there[:, None]
        return found.reshape(data.shape[:-2]).astype(data.dtype)


@graph_op("onnx.BitShift")
def _bit_shift(x: Any, by: Any, *, direction: str) -> np.ndarray:
    """Bits moved to the left or right. Those that leave are lost; to the right copies of the sign come in. By less than 0, or by the width or more:
    what moving all of them leaves.
    """
    data, steps = np.asarray(data_of(x)), np.asarray(data_of(by))
    if direction not in ("LEFT", "RIGHT") or data.dtype.kind not in "iu" or steps.dtype != data.dtype:
        raise FileFormatError(f"BitShift: direction {direction!r} of {data.dtype} by {steps.dtype}")
    last = data.dtype.itemsize * 8 - 1
    all_of_them = (steps < 0) | (steps > last)
    some = np.where(all_of_them, 0, steps).astype(data.dtype)
    moved = np.left_shift(data, some) if direction == "LEFT" else np.right_shift(data, some)
    left = np.where((data < 0) & (direction == "RIGHT"), -1, 0).astype(data.dtype)
    return np.asarray(np.where(all_of_them, left, moved), data.dtype)


@graph_op("onnx.BitCast", types=lambda attributes, _: (CODES.get(attributes["to"]),))
def _bit_cast(x: Any, *, to: int) -> np.ndarray:
    """The same bytes seen as another type of the same width."""
    data, dtype = _without_gradient("BitCast", x), dtype_of(to, "BitCast")
    if data.dtype.itemsize != dtype.itemsize or data.dtype.kind == "U":
        raise FileFormatError(f"BitCast from {data.dtype} to {dtype}: they differ in width")
    return np.ascontiguousarray(data).view(dtype).reshape(data.shape)
