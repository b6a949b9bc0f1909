"""ONNX's GridSample and AffineGrid, by the operations of ops/grids.py."""

from __future__ import annotations

from typing import Any

from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.limits import checked_size
from preimage.io.onnx.operators.shapes import ints
from preimage.ops.grids import GRID_PADDING, REACH, affine_grid, grid_sample

__all__: list[str] = []


@graph_op("onnx.GridSample")
def _grid_sample(x: Any, grid: Any, *, mode: str = "linear", padding_mode: str = "zeros", align_corners: int = 0) -> Any:
    kind = mode.removeprefix("bi")  # as it was called before opset 20
    if kind not in REACH or padding_mode not in GRID_PADDING:
        raise FileFormatError(f"GridSample: mode {mode!r}, padding_mode {padding_mode!r}")
    checked_size((*x.shape[:2], *grid.shape[1:-1], len(REACH[kind]) ** max(x.ndim - 2, 0)), "GridSample")
    return grid_sample(x, grid, mode=kind, padding_mode=padding_mode, align_corners=bool(align_corners))


@graph_op("onnx.AffineGrid")
def _affine_grid(theta: Any, size: Any, *, align_corners: int = 0) -> Any:
    shape = ints(size, "AffineGrid")
    checked_size((shape[0], *shape[2:], len(shape) - 1), "AffineGrid")
    return affine_grid(theta, shape, align_corners=bool(align_corners))
