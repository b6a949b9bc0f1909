"""A layer as matrices: one matrix whose transpose is the transposed layer; im2col and the product; weights that are shared or not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis import LayerTrace, gemm, layer_matrix
from preimage.report.draw.film import Drawing, beside, spread, stacked
from preimage.report.draw.parts import Grid, card, fitting, number, refuse_large, summed
from preimage.report.draw.scene import Scene

__all__ = ["columns", "matrix", "shared"]

Array = NDArray[Any]


def matrix(trace: LayerTrace, *, transpose: bool = True, cell: float = 26.0) -> Drawing:
    """The layer as one matrix on the flat input; below it the transpose, which is the transposed layer. A row for each frame.

    A row of the matrix gives one output; it is a column of the transpose, which one number scales and adds to the result.
    transpose: whether the second is drawn. Of a batch the first image; the bias is left out. Raises: OptionError for a matrix
    too large to draw.
    """
    sparse = layer_matrix(trace)
    refuse_large(sparse.shape, "the layer's matrix")
    dense = sparse.dense().astype(np.float64)
    x = trace.x[0].reshape(-1).astype(np.float64)
    y = dense @ x
    word, back = ("deconvolution", "convolution") if trace.transposed else ("convolution", "deconvolution")
    cell = min(fitting(parts, cell) for parts in (_gathered(dense, x, y, 0), _scattered(dense, y, dense.T @ y, 0)))
    frames = []
    for row in spread(list(range(len(dense))), 48):
        filled = np.flatnonzero(dense[row]).tolist()
        products = [(float(dense[row, k]), float(x[k])) for k in filled]
        title = f"The {word} is a matrix"
        scene = card(title, _gathered(dense, x, y, row), [summed(products, float(y[row]))], f"{title}: row {row}", cell=cell)
        if transpose:
            title = f"Its transpose is the {back}: the way back for gradients"
            added = " ".join(number(float(dense[row, k])) for k in filled[:9]) + " …" * (len(filled) > 9)
            said = [f"the same row is a column here: {number(float(y[row]))} times ({added}) is added to the marked cells"]
            below = card(title, _scattered(dense, y, dense.T @ y, row), said, f"{title}: column {row}", cell=cell)
            scene = stacked([scene, below])
        frames.append(scene)
    return Drawing(tuple(frames), still=len(frames) // 2)


def _gathered(dense: Array, x: Array, y: Array, row: int) -> list[Grid | str]:
    """A row times the vector: one number."""
    lit = {(row, k) for k in range(dense.shape[1])}
    return [
        Grid(dense, "A", lit=lit, pale=0.55, zeros=False), "×",
        Grid(x[:, None], "x", lit={(k, 0) for k in np.flatnonzero(dense[row]).tolist()}), "=",
        Grid(y[:, None], "y = A x", marked={(row, 0)}),
    ]  # fmt: skip


def _scattered(dense: Array, y: Array, back: Array, row: int) -> list[Grid | str]:
    """A number times a column: a part of the whole vector."""
    lit = {(k, row) for k in range(dense.shape[1])}
    return [
        Grid(dense.T, "A transposed", lit=lit, pale=0.55, zeros=False), "×",
        Grid(y[:, None], "y", lit={(row, 0)}), "=",
        Grid(back[:, None], "Aᵀ y", marked={(k, 0) for k in np.flatnonzero(dense[row]).tolist()}),
    ]  # fmt: skip


def columns(trace: LayerTrace, *, cell: float = 28.0) -> Drawing:
    """im2col and the matrix product, a column for each frame; of a deconvolution the product and col2im.

    The first image and group. Raises: OptionError for columns too large to draw.
    """
    found = gemm(trace)
    for array, what in ((found.left, "the weights"), (found.right, "the columns"), (found.result, "the result")):
        refuse_large(array.shape, what)
    frames = []
    size = int(np.prod(trace.output_shape[2:])) * (trace.geometry.in_channels_per_group if trace.transposed else 0)
    for k in spread(list(range(found.right.shape[1])), 48):
        row = min(len(found.left) - 1, k)
        names = ("w transposed", "activations", "columns") if trace.transposed else ("stencils, flat", "im2col(x)", "y, flat")
        marked = {(i, k) for i in range(len(found.result))} if trace.transposed else {(row % len(found.left), k)}
        grids: list[Grid | str] = [
            Grid(found.left, names[0], lit=None if trace.transposed else {(row, i) for i in range(found.left.shape[1])}),
            "×",
            Grid(found.right, names[1], lit={(i, k) for i in range(len(found.right))}),
            "=",
            Grid(found.result, names[2], marked=marked),
        ]
        title = (
            "A deconvolution as one matrix product, then col2im" if trace.transposed else "A convolution as one matrix product"
        )
        scene = card(title, grids, (), f"{title}: position {k}", cell=cell)
        if trace.transposed:
            scene = stacked([scene, _folding(trace, found.result, found.folded(size), found.place, k, cell)])
        else:
            scene = stacked([scene, _window(trace, found.place[:, k], cell)])
        frames.append(scene)
    return Drawing(tuple(frames), still=len(frames) // 2)


def _window(trace: LayerTrace, place: Array, cell: float) -> Scene:
    """Where the column comes from."""
    g = trace.geometry
    x = trace.x[0, : g.in_channels_per_group]
    lit = {tuple(int(i) for i in np.unravel_index(p, x.shape)) for p in place.tolist() if p >= 0}
    column = np.where(place >= 0, x.reshape(-1)[np.maximum(place, 0)], 0)[:, None]
    return card("", [Grid(x, "the window on x …", lit=lit, marked=lit), "→", Grid(column, "… becomes this column")], cell=cell)


def _folding(trace: LayerTrace, result: Array, folded: Array, place: Array, k: int, cell: float) -> Scene:
    """Where the column goes."""
    g = trace.geometry
    y = folded.reshape(g.in_channels_per_group, *g.input_size)
    marked = {tuple(int(i) for i in np.unravel_index(p, y.shape)) for p in place[:, k].tolist() if p >= 0}
    return card(
        "", [Grid(result[:, k : k + 1], "the column …"), "→", Grid(y, "… is added here: col2im", marked=marked)], cell=cell
    )


def shared(conv: LayerTrace, full: LayerTrace, *, cell: float = 22.0) -> Drawing:
    """A convolution's matrix beside a fully connected layer's: few weights, used again and again, against one for each pair."""
    scenes = []
    for trace, title in ((conv, "Convolution: local, shared"), (full, "Fully connected: all, each its own")):
        sparse = layer_matrix(trace)
        refuse_large(sparse.shape, "the layer's matrix")
        note = f"{trace.w.size} weights make {len(sparse.values)} entries of {sparse.shape[0] * sparse.shape[1]}"
        scenes.append(card(title, [Grid(sparse.dense(), note, zeros=False)], cell=cell))
    return Drawing((beside(scenes),))
