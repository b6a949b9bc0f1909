"""Sparse matrices along axes by kernels (axis_matrix_kernel.py)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from preimage.engines.axis_matrix import AxisMatrix
from preimage.engines.base import Array
from preimage.engines.jit.elementwise.axis_matrix_kernel import (
    HELD_BYTES,
    PIECE,
    BehindArguments,
    BehindSpec,
    InnermostArguments,
    InnermostSpec,
    Kind,
    Piece,
    PlaneArguments,
    PlaneSpec,
    Run,
    RunsArguments,
    RunsSpec,
)
from preimage.engines.jit.elementwise.copies import densely
from preimage.engines.jit.elementwise.kept import launch_spec
from preimage.engines.jit.elementwise.layout import ELEMENTS, costs, lanes_of, placed_empty
from preimage.engines.recording import constant

__all__ = ["along_axes"]

_NONE = np.zeros(0)


def along_axes(x: Array, matrices: Sequence[tuple[int, AxisMatrix]]) -> Array | None:
    """Every line of x along an axis times its matrix, one axis after another; the result lies in memory as x does.

    matrices: axis and matrix. None where x cannot be read.
    """
    found = densely(x)
    if found is None:
        return None
    x, order = found
    value = x.transpose(order)
    todo = [(order.index(axis), matrix) for axis, matrix in matrices]
    while todo:
        (axis, matrix), *todo = todo
        following = todo[0][1] if todo and todo[0][0] == axis + 1 else None
        if following is not None and matrix.moves and (runs := _runs(following, value, axis + 1)) is not None:
            value = _copied(value, axis + 1, runs, following, matrix)
        elif following is not None and _fits(value, axis + 1):
            value = _plane(value, axis, matrix, following)
        else:
            runs = _runs(matrix, value, axis)
            value = _axis(value, axis, matrix) if runs is None else _copied(value, axis, runs, matrix)
            continue
        del todo[0]
    return value.transpose([int(k) for k in np.argsort(order)])


def _fits(value: Array, axis: int) -> bool:
    """Whether lines along an axis, with what lies behind it, are done together with those along the axis before it."""
    return prod(value.shape[axis + 1 :]) >= costs().least_width and prod(value.shape[axis:]) * value.itemsize <= HELD_BYTES


def _tables(matrix: AxisMatrix) -> tuple[Kind, Array, Array, Array]:
    weights = _NONE if matrix.weights is None else matrix.weights
    starts, index, weights = (constant(a) for a in (matrix.starts, matrix.index, weights))
    return Kind(matrix.weights is not None, matrix.single, matrix.gaps), starts, index, weights


def _made(value: Array, axis: int, *outputs: int) -> Array:
    return placed_empty((*value.shape[:axis], *outputs, *value.shape[axis + len(outputs) :]), None, value.dtype)


def _plane(value: Array, axis: int, rows: AxisMatrix, columns: AxisMatrix) -> Array:
    """Two axes at once of an array that lies in C order."""
    inner = prod(value.shape[axis + 2 :])
    total = prod(value.shape[:axis]) * rows.outputs
    made = _made(value, axis, rows.outputs, columns.outputs)
    row, row_starts, row_index, row_weights = _tables(rows)
    column, column_starts, column_index, column_weights = _tables(columns)
    share = max(1, costs().task_elements // (inner * columns.outputs))
    arguments = PlaneArguments(
        x=value, result=made, row_starts=row_starts, row_index=row_index, row_weights=row_weights, column_starts=column_starts,
        column_index=column_index, column_weights=column_weights, rows_in=rows.inputs, rows=rows.outputs, columns_in=columns.inputs,
        columns=columns.outputs, inner=inner, total=total, share=share,
    )  # fmt: skip
    launch_spec(PlaneSpec(ELEMENTS[value.dtype], lanes_of(value.dtype), row, column), arguments, -(-total // share))
    return made


def _axis(value: Array, axis: int, matrix: AxisMatrix) -> Array:
    """One axis of an array that lies in C order."""
    inner, outer = prod(value.shape[axis + 1 :]), prod(value.shape[:axis])
    made = _made(value, axis, matrix.outputs)
    element, lanes = ELEMENTS[value.dtype], lanes_of(value.dtype)
    kind, starts, index, weights = _tables(matrix)
    pieces = _pieces(matrix, lanes) if inner == 1 and 2 * outer >= lanes else None
    if pieces is not None:
        across = InnermostArguments(
            x=value, result=made, starts=starts, index=index, weights=weights, pieces=constant(pieces), count=len(pieces),
            size=matrix.inputs, outputs=matrix.outputs, outer=outer,
        )  # fmt: skip
        launch_spec(InnermostSpec(element, lanes, kind), across, -(-outer // lanes) * len(pieces))
        return made
    rows, share = outer * matrix.outputs, max(1, costs().task_elements // inner)
    arguments = BehindArguments(
        x=value, result=made, starts=starts, index=index, weights=weights, size=matrix.inputs, outputs=matrix.outputs, inner=inner,
        rows=rows, share=share,
    )  # fmt: skip
    launch_spec(BehindSpec(element, 1 if inner == 1 else lanes, kind), arguments, -(-rows // share))
    return made


def _runs(matrix: AxisMatrix, value: Array, axis: int) -> Array | None:
    """Neighbours that stay neighbours, and zeros side by side, where the matrix moves elements alone, and enough of them at a time."""
    if not matrix.moves:
        return None
    if "runs" not in matrix.prepared:
        sources = matrix.sources()
        a, b = sources[:-1], sources[1:]
        together = np.where(a < 0, b < 0, (b >= 0) & (b - a == 1))
        firsts = np.flatnonzero(np.concatenate(([True], ~together)))
        matrix.prepared["runs"] = Run(source=sources[firsts], to=firsts, length=np.diff(firsts, append=matrix.outputs)).table()
    runs: Array = matrix.prepared["runs"]
    return runs if matrix.outputs * prod(value.shape[axis + 1 :]) >= len(runs) * costs().least_width else None


def _sources(matrix: AxisMatrix) -> Array:
    if "sources" not in matrix.prepared:
        matrix.prepared["sources"] = matrix.index if matrix.single else matrix.sources()
    found: Array = matrix.prepared["sources"]
    return found


_FIRST = np.zeros(1, np.int64)


def _copied(value: Array, axis: int, runs: Array, matrix: AxisMatrix, rows: AxisMatrix | None = None) -> Array:
    """One axis, and the one before it if there is a matrix for that, of an array that lies in C order, in runs."""
    first = axis if rows is None else axis - 1
    rows_in, n_rows, row_index = (1, 1, _FIRST) if rows is None else (rows.inputs, rows.outputs, _sources(rows))
    made = _made(value, first, *(() if rows is None else (rows.outputs,)), matrix.outputs)
    inner, total = prod(value.shape[axis + 1 :]), prod(value.shape[:first]) * n_rows
    share = max(1, costs().task_elements // (inner * matrix.outputs))
    arguments = RunsArguments(
        x=value, result=made, row_index=constant(row_index), runs=constant(runs), count=len(runs), rows_in=rows_in, rows=n_rows,
        columns_in=matrix.inputs, columns=matrix.outputs, inner=inner, total=total, share=share,
    )  # fmt: skip
    launch_spec(RunsSpec(ELEMENTS[value.dtype], lanes_of(value.dtype)), arguments, -(-total // share))
    return made


def _pieces(matrix: AxisMatrix, lanes: int) -> Array | None:
    """The outputs in pieces whose inputs lie close together, each but the last a multiple of the lanes; None where some lie too far apart."""
    if lanes not in matrix.prepared:
        matrix.prepared[lanes] = _cut(matrix, lanes)
    found: Array | None = matrix.prepared[lanes]
    return found


def _cut(matrix: AxisMatrix, lanes: int) -> Array | None:
    firsts = np.arange(0, matrix.outputs, lanes)
    ends = np.minimum(firsts + lanes, matrix.outputs)
    pieces: list[tuple[int, int, int, int]] = []
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        read = matrix.index[matrix.starts[first] : matrix.starts[end]]
        low, high = (int(read.min()), int(read.max()) + 1) if read.size else (matrix.inputs, 0)
        if high - low > PIECE:
            return None
        if pieces:
            before = pieces[-1]
            joined = before[0], end, min(before[2], low), max(before[3], high)
            if joined[3] - joined[2] <= PIECE and end - before[0] <= PIECE:
                pieces[-1] = joined
                continue
        pieces.append((first, end, low, high))
    first, end, low, high = np.array(pieces, np.int64).T
    return Piece(first=first, end=end, low=np.minimum(low, high), high=high).table()
