"""Images read at positions that another array says, over any number of spatial axes: grid_sample, and affine_grid, which makes positions.

Written with operations: differentiable by the image and by the positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from preimage.autograd import array_of
from preimage.autograd.traced import whole
from preimage.errors import OptionError, ShapeError
from preimage.ops.broadcast import astype, in_wide
from preimage.ops.linear import matmul
from preimage.ops.operands import check_room, flag_of, operand, sizes_of
from preimage.ops.pointwise import add, multiply, subtract
from preimage.ops.shape import getitem, reshape, swapaxes
from preimage.typing import Operand, Shape, Value

__all__ = ["GRID_PADDING", "REACH", "affine_grid", "grid_sample", "linear_at"]

#: How far the weights of a mode reach: the places beside the cell before a position that take part.
REACH = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}
#: What positions beyond the border read.
GRID_PADDING = ("zeros", "border", "reflection")


def _folded(position: Any, size: int, mode: str, aligned: bool) -> Any:
    """Positions outside brought inside, as border and reflection say, for whole numbers as for others."""
    if mode == "border":
        return np.clip(position, 0, size - 1)
    low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    if mode != "reflection" or high <= low:
        return position if mode != "reflection" else np.zeros_like(position)
    span = high - low
    turns = np.floor((position - low) / span)
    inside = position - low - turns * span
    return np.where(turns % 2 == 0, low + inside, high - inside)


def _slope(position: np.ndarray, size: int, mode: str, aligned: bool) -> np.ndarray:
    """The derivative of `_folded`: 1, -1 where a reflection runs backwards, 0 on the border."""
    if mode == "border":
        return ((position >= 0) & (position <= size - 1)).astype(position.dtype)
    low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    if mode != "reflection":
        return np.ones_like(position)
    if high <= low:
        return np.zeros_like(position)
    return np.where(np.floor((position - low) / (high - low)) % 2 == 0, 1.0, -1.0).astype(position.dtype)


def _cubic(distance: Any, near: bool) -> Any:
    """Keys' cubic weight with a = -0.75 of a distance below 1 (near), or from 1 to 2."""
    a = -0.75
    factors = (a + 2, -(a + 3), 0.0, 1.0) if near else (a, -5 * a, 8 * a, -4 * a)
    value: Any = factors[0]
    for factor in factors[1:]:
        value = add(multiply(distance, value), factor)
    return value


def _weights(mode: str, fraction: Any) -> list[Any]:
    """The weight of every place that `REACH` names, for a position `fraction` behind its cell; none where it is 1."""
    if mode == "nearest":
        return []
    rest = subtract(1.0, fraction)
    if mode == "linear":
        return [rest, fraction]
    return [
        _cubic(add(fraction, 1.0), False), _cubic(fraction, True), _cubic(rest, True), _cubic(add(rest, 1.0), False)
    ]  # fmt: skip


@whole
def grid_sample(
    x: Operand, grid: Operand, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: bool = False
) -> Value:
    """x read at the positions of a grid, and blended between its elements.

    Shapes: x (N, C, *spatial), grid (N, *out, axes) -> (N, C, *out). The grid's last axis holds the position along the last spatial axis first, in
        -1..1 from edge to edge of x, or with align_corners from the centre of its first element to that of its last.
    Definition: mode "nearest", "linear" (between the 2^axes neighbours) or "cubic" (Keys' weights with a = -0.75, 4^axes neighbours); beyond the
        border padding_mode "zeros", "border" (the nearest element) or "reflection".
    Gradient: by x and by the grid.
    Raises: OptionError for another mode; ShapeError for a grid that does not fit.
    """
    x, grid = operand(x, "x"), operand(grid, "grid")
    if mode not in REACH or padding_mode not in GRID_PADDING:
        raise OptionError(
            f"grid_sample: mode is one of {', '.join(map(repr, REACH))}, padding_mode one of {', '.join(map(repr, GRID_PADDING))};"
            f" got {mode!r}, {padding_mode!r}"
        )
    sizes, axes = x.shape[2:], x.ndim - 2
    if axes < 1 or grid.ndim != x.ndim or grid.shape[-1] != axes or grid.shape[0] != x.shape[0]:
        raise ShapeError(
            f"grid_sample: x has shape {x.shape}, the grid {grid.shape}; wanted (N, C, *spatial) and (N, *out, spatial axes)"
        )
    out = grid.shape[1:-1]
    result = (*x.shape[:2], *out)
    check_room("grid_sample", result, x.dtype)
    if not prod(result) or not prod(sizes):
        return np.zeros(result, x.dtype)
    aligned = flag_of(align_corners, "grid_sample: align_corners")

    def run(wide: Value) -> Value:
        positions = astype(grid, wide.dtype)
        cells, weights = zip(
            *(_along(positions[..., axes - 1 - k], sizes[k], mode, padding_mode, aligned) for k in range(axes)), strict=True
        )
        found: Value = _gathered(wide, cells, weights, mode, padding_mode, aligned, out)
        return found

    return astype(run(in_wide(x)), x.dtype)


def _along(at: Any, size: int, mode: str, padding_mode: str, aligned: bool) -> tuple[np.ndarray, list[Any]]:
    """The cell before every position of one axis, and the weights from there on."""
    scale, shift = ((size - 1) / 2, (size - 1) / 2) if aligned else (size / 2, (size - 1) / 2)
    position = add(multiply(at, scale), shift)
    values = np.nan_to_num(np.asarray(array_of(position)), nan=-1e6, posinf=1e6, neginf=-1e6)
    if mode != "cubic":  # cubic weights are those of the position as it is; its places are brought inside
        folded = np.asarray(_folded(values, size, padding_mode, aligned), values.dtype)
        slope = _slope(values, size, padding_mode, aligned)
        position = add(multiply(position, slope), folded - values * slope)
        values = folded
    if mode == "nearest":
        return np.clip(np.rint(values), -2, size + 1).astype(np.int64), _weights(mode, None)
    return _cells(position, values, mode)


def _cells(position: Any, values: np.ndarray, mode: str) -> tuple[np.ndarray, list[Any]]:
    """The cell before every position, whose numbers are `values`, and the weights from there on."""
    cell = np.floor(values)
    return np.clip(cell, -(2.0**31), 2.0**31).astype(np.int64), _weights(mode, subtract(position, cell))


def linear_at(x: Any, positions: Sequence[Any]) -> Any:
    """x (N, C, *spatial) between its elements at positions that count them, zeros beyond the border: (N, C, *out).

    positions: for every spatial axis an array or Tensor (N, *out). Gradient: by x and by the positions.
    """
    found = []
    for at in positions:
        values = np.clip(np.nan_to_num(np.asarray(array_of(at)), nan=-1e6), -1e6, 1e6)
        found.append(_cells(at, values, "linear"))
    cells, weights = zip(*found, strict=True)
    return _gathered(x, cells, weights, "linear", "zeros", True, positions[0].shape[1:])


def _gathered(x: Any, cells: Any, weights: Any, mode: str, padding_mode: str, aligned: bool, out: tuple[int, ...]) -> Any:
    """The weighted sum over the places that each position reads."""
    sizes, (n, c) = x.shape[2:], x.shape[:2]
    flat, lead = reshape(x, (n, c, prod(sizes))), (np.arange(n)[:, None, None], np.arange(c)[None, :, None])
    total: Any = None
    for places in product(range(len(REACH[mode])), repeat=len(sizes)):
        index, valid = np.zeros((n, *out), np.int64), np.ones((n, *out), bool)
        weight: Any = None
        for k, place in enumerate(places):
            at = cells[k] + REACH[mode][place]
            if padding_mode != "zeros":
                at = np.rint(_folded(at.astype(np.float64), sizes[k], padding_mode, aligned)).astype(np.int64)
                at = np.clip(at, 0, sizes[k] - 1)
            valid &= (at >= 0) & (at < sizes[k])
            index = index * sizes[k] + np.clip(at, 0, sizes[k] - 1)
            if weights[k]:
                own = weights[k][place]
                weight = own if weight is None else multiply(weight, own)
        seen = getitem(flat, (*lead, index.reshape(n, 1, -1)))
        mask = valid.reshape(n, 1, -1).astype(array_of(x).dtype)
        factor = mask if weight is None else multiply(reshape(weight, (n, 1, prod(out))), mask)
        part = multiply(seen, factor)
        total = part if total is None else add(total, part)
    return reshape(total, (n, c, *out))


def affine_grid(theta: Operand, size: Shape, *, align_corners: bool = False) -> Value:
    """The positions of an image of this size under affine maps, for grid_sample.

    Shapes: theta (N, axes, axes + 1), size (N, C, *out) -> (N, *out, axes).
    Raises: ShapeError for maps of another shape.
    """
    theta, sizes = operand(theta, "theta"), sizes_of(size, "affine_grid: size")
    out, axes = sizes[2:], len(sizes) - 2
    if axes < 1 or theta.shape != (sizes[0], axes, axes + 1) or min(out) < 1:
        raise ShapeError(f"affine_grid: theta has shape {theta.shape}, wanted (N, axes, axes + 1) for the size {sizes}")
    check_room("affine_grid", (sizes[0], *out, axes + 1), theta.dtype)
    aligned = flag_of(align_corners, "affine_grid: align_corners")
    lines = [
        np.linspace(-1, 1, m) if aligned and m > 1 else np.zeros(1) if aligned else (np.arange(m) * 2 + 1) / m - 1 for m in out
    ]
    places = np.meshgrid(*lines, indexing="ij")
    points = np.stack([*places[::-1], np.ones(out)], -1).reshape(1, -1, axes + 1).astype(theta.dtype)
    return reshape(matmul(points, swapaxes(theta, 1, 2)), (sizes[0], *out, axes))
