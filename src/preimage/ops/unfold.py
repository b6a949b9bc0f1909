"""unfold (im2col) and fold (col2im): the patches of a signal as columns, and the adjoint, which adds them up.

unfold  c[n, (i, kh..), (oh..)] = x[n, i, oh*stride - lo + kh*dilation]
fold    x[n, i, ih..] = sum of c[n, (i, kh..), (oh..)] over all oh, kh with oh*stride - lo + kh*dilation = ih
"""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.autograd import Primitive, primitive
from preimage.engines.base import Array
from preimage.engines.columns import Columns
from preimage.errors import ShapeError
from preimage.geometry import ConvGeometry, Padding, PerAxis, per_axis
from preimage.ops.operands import entries, operand
from preimage.ops.sums import sum_dtype
from preimage.typing import Operand, Value

__all__ = ["fold", "unfold"]


def _unfold(x: Array, *, geometry: ConvGeometry) -> Array:
    g = geometry
    columns = np.empty((g.batch, g.in_channels * prod(g.kernel_size), prod(g.output_size)), x.dtype)
    if columns.size:
        block = tuple((0, n) for n in g.output_size)
        for n in range(g.batch):
            Columns(g, x.dtype, False, buffer=columns[n].reshape(-1)).gather(x[n], block)
    return columns


def _fold(columns: Array, *, geometry: ConvGeometry) -> Array:
    g, sums = geometry, sum_dtype(columns.dtype)
    x = np.zeros(g.input_shape, sums)
    if columns.size:
        block = tuple((0, n) for n in g.output_size)
        for n in range(g.batch):
            flat = np.ascontiguousarray(columns[n], sums).reshape(-1)
            Columns(g, sums, False, buffer=flat).scatter(x[n], block)
    return x.astype(columns.dtype, copy=False)


_unfold_op: Primitive = primitive(
    "unfold",
    _unfold,
    [lambda g, ans, x, geometry: _fold_op(g, geometry=geometry)],
    saves=(),
    linear=(0,),
)

_fold_op: Primitive = primitive(
    "fold",
    _fold,
    [lambda g, ans, c, geometry: _unfold_op(g, geometry=geometry)],
    saves=(),
    linear=(0,),
)


def unfold(x: Operand, kernel_size: PerAxis, *, stride: PerAxis = 1, padding: Padding = 0, dilation: PerAxis = 1) -> Value:
    """Every patch of x that a kernel of that size would see, as a column (im2col).

    Shapes: x (N, C, *spatial), any number of spatial axes; the result (N, C * taps, positions), rows ordered (channel, taps),
        as in PyTorch.
    Definition: c[n, (i, kh..), (oh..)] = x[n, i, oh*stride - lo + kh*dilation], zero outside x.
    Gradient: fold.
    Cost: one copy; the result is about `taps` times as large as x.
    Raises: GeometryError where the kernel does not fit.

    Example:
        >>> import numpy as np, preimage as pre
        >>> pre.ops.unfold(np.array([[[1.0, 2.0, 3.0, 4.0]]]), 2)[0].tolist()
        [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    """
    x = operand(x, "x")
    kernel = per_axis(kernel_size, x.ndim - 2, "kernel_size") if x.ndim >= 2 else ()
    channels = x.shape[1] if x.ndim >= 2 else 0
    geometry = ConvGeometry.from_conv(x.shape, (1, channels, *kernel), stride=stride, padding=padding, dilation=dilation)
    return _unfold_op(x, geometry=geometry)


def fold(
    columns: Operand,
    output_size: PerAxis,
    kernel_size: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
) -> Value:
    """The adjoint of `unfold`: every entry of the columns added to the cell that it was read from (col2im).

    Shapes: columns (N, C * taps, positions); the result (N, C, *output_size), the size of what was unfolded. An integer size
        or kernel stands for one spatial axis; give tuples for more.
    Definition: <unfold(x), c> = <x, fold(c)>. 16-bit floats are summed exactly and rounded once.
    Gradient: unfold.
    Cost: one addition per entry of the columns.
    Raises: ShapeError where the columns have another number of rows or positions than the sizes give.

    Example:
        >>> import numpy as np, preimage as pre
        >>> pre.ops.fold(np.ones((1, 2, 3)), 4, 2)[0].tolist()
        [[1.0, 2.0, 2.0, 1.0]]
    """
    columns = operand(columns, "columns")
    lengths = [len(v) for v in (entries(output_size), entries(kernel_size)) if v is not None]
    ndim = lengths[0] if lengths else 1
    size = per_axis(output_size, ndim, "output_size", least=0)
    kernel = per_axis(kernel_size, ndim, "kernel_size")
    taps = prod(kernel)
    if columns.ndim != 3 or columns.shape[1] % taps:
        raise ShapeError(f"fold: columns have shape {columns.shape}, wanted (N, C * {taps}, positions)")
    batch, channels = columns.shape[0], columns.shape[1] // taps
    geometry = ConvGeometry.from_conv(
        (batch, channels, *size), (1, channels, *kernel), stride=stride, padding=padding, dilation=dilation
    )
    positions = prod(geometry.output_size)
    if columns.shape[2] != positions:
        raise ShapeError(
            f"fold: columns have {columns.shape[2]} positions, but a signal of size {size} has {geometry.output_size}"
            f" = {positions} of them"
        )
    return _fold_op(columns, geometry=geometry)
