"""ONNX's GridSample and AffineGrid: images read at positions that another array says, over any number of spatial axes."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.limits import checked_size
from preimage.io.onnx.operators.shapes import data_of, ints

__all__: list[str] = []

#: How far the weights of a mode reach: the places beside the cell before a position that take part.
_REACH = {"nearest": (0,), "linear": (0, 1), "bilinear": (0, 1), "cubic": (-1, 0, 1, 2), "bicubic": (-1, 0, 1, 2)}


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
        value = ops.add(ops.multiply(distance, value), factor)
    return value


def _weights(mode: str, fraction: Any) -> list[Any]:
    """The weight of every place that `_REACH` names, for a position `fraction` behind its cell; none where it is 1."""
    if mode == "nearest":
        return []
    rest = ops.subtract(1.0, fraction)
    if mode in ("linear", "bilinear"):
        return [rest, fraction]
    return [
        _cubic(ops.add(fraction, 1.0), False), _cubic(fraction, True), _cubic(rest, True), _cubic(ops.add(rest, 1.0), False)
    ]  # fmt: skip


@graph_op("onnx.GridSample")
def _grid_sample(x: Any, grid: Any, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0) -> Any:
    """x (N, C, *size) read at grid (N, *out, axes), whose last axis holds the position along the last spatial axis first, in -1..1."""
    if mode not in _REACH or padding_mode not in ("zeros", "border", "reflection"):
        raise FileFormatError(f"GridSample: mode {mode!r}, padding_mode {padding_mode!r}")
    sizes, axes = x.shape[2:], x.ndim - 2
    if axes < 1 or grid.ndim != x.ndim or grid.shape[-1] != axes or grid.shape[0] != x.shape[0]:
        raise FileFormatError(f"GridSample: X has shape {x.shape}, the grid {grid.shape}")
    out = grid.shape[1:-1]
    result = (*x.shape[:2], *out)
    checked_size((*result, len(_REACH[mode]) ** axes), "GridSample")
    if not prod(result) or not prod(sizes):
        return np.zeros(result, data_of(x).dtype)
    aligned, grid = bool(align_corners), ops.astype(grid, x.dtype)
    cells, weights = zip(
        *(_along(grid[..., axes - 1 - k], sizes[k], mode, padding_mode, aligned) for k in range(axes)), strict=True
    )
    return _gathered(x, cells, weights, mode, padding_mode, aligned, out)


def _along(at: Any, size: int, mode: str, padding_mode: str, aligned: bool) -> tuple[np.ndarray, list[Any]]:
    """The cell before every position of one axis, and the weights from there on."""
    scale, shift = ((size - 1) / 2, (size - 1) / 2) if aligned else (size / 2, (size - 1) / 2)
    position = ops.add(ops.multiply(at, scale), shift)
    values = np.nan_to_num(np.asarray(data_of(position)), nan=-1e6, posinf=1e6, neginf=-1e6)
    if mode not in ("cubic", "bicubic"):  # cubic weights are those of the position as it is; its places are brought inside
        folded = np.asarray(_folded(values, size, padding_mode, aligned), values.dtype)
        slope = _slope(values, size, padding_mode, aligned)
        position = ops.add(ops.multiply(position, slope), folded - values * slope)
        values = folded
    if mode == "nearest":
        return np.clip(np.rint(values), -2, size + 1).astype(np.int64), _weights(mode, None)
    cell = np.floor(values)
    return np.clip(cell, -(2.0**31), 2.0**31).astype(np.int64), _weights(mode, ops.subtract(position, cell))


def _gathered(x: Any, cells: Any, weights: Any, mode: str, padding_mode: str, aligned: bool, out: tuple[int, ...]) -> Any:
    """The weighted sum over the places that each position reads."""
    sizes, (n, c) = x.shape[2:], x.shape[:2]
    flat, lead = ops.reshape(x, (n, c, prod(sizes))), (np.arange(n)[:, None, None], np.arange(c)[None, :, None])
    total: Any = None
    for places in product(range(len(_REACH[mode])), repeat=len(sizes)):
        index, valid = np.zeros((n, *out), np.int64), np.ones((n, *out), bool)
        weight: Any = None
        for k, place in enumerate(places):
            at = cells[k] + _REACH[mode][place]
            if padding_mode != "zeros":
                at = np.rint(_folded(at.astype(np.float64), sizes[k], padding_mode, aligned)).astype(np.int64)
                at = np.clip(at, 0, sizes[k] - 1)
            valid &= (at >= 0) & (at < sizes[k])
            index = index * sizes[k] + np.clip(at, 0, sizes[k] - 1)
            if weights[k]:
                own = weights[k][place]
                weight = own if weight is None else ops.multiply(weight, own)
        seen = ops.getitem(flat, (*lead, index.reshape(n, 1, -1)))
        mask = valid.reshape(n, 1, -1).astype(data_of(x).dtype)
        factor = mask if weight is None else ops.multiply(ops.reshape(weight, (n, 1, prod(out))), mask)
        part = ops.multiply(seen, factor)
        total = part if total is None else ops.add(total, part)
    return ops.reshape(total, (n, c, *out))


@graph_op("onnx.AffineGrid")
def _affine_grid(theta: Any, size: Any, *, align_corners: int = 0) -> Any:
    """The positions of an image of this size (N, C, *out) under the maps theta (N, axes, axes + 1)."""
    n, _, *out = ints(size, "AffineGrid")
    axes = len(out)
    if theta.shape != (n, axes, axes + 1) or min(out, default=0) < 1:
        raise FileFormatError(f"AffineGrid: theta has shape {theta.shape}, the size is {(n, _, *out)}")
    checked_size((n, *out, axes + 1), "AffineGrid")
    lines = [np.linspace(-1, 1, m) if align_corners and m > 1 else (np.arange(m) * 2 + 1) / m - 1 if not align_corners else np.zeros(1)
             for m in out]  # fmt: skip
    places = np.meshgrid(*lines, indexing="ij")
    points = np.stack([*places[::-1], np.ones(tuple(out))], -1).reshape(1, -1, axes + 1).astype(theta.dtype)
    moved = ops.matmul(points, ops.swapaxes(theta, 1, 2))
    return ops.reshape(moved, (n, *out, axes))
