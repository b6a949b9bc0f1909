"""Up-sampling and any other resizing of the spatial axes: nearest, linear, cubic (in `filters`), and the pixel shuffle.

Of the first two every output position is a blend of two input positions along each axis,

    y[o] = (1 - t[o]) x[low[o]] + t[o] x[high[o]],      nearest: t = 0

which is linear in x, separable over the axes, and whose adjoint adds every y[o] back to the two with the same weights. Every
operation here also takes layout="channels_last".
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from preimage.autograd import Primitive, primitive
from preimage.autograd.traced import whole
from preimage.engines import around
from preimage.engines.axis_matrix import AxisMatrix
from preimage.engines.kept_tables import kept_tables
from preimage.errors import OptionError, PreimageError, ShapeError
from preimage.geometry import per_axis
from preimage.ops.filters import Filter, filtered
from preimage.ops.layout import laid_out
from preimage.ops.operands import Array, check_room, entries, flag_of, narrow, operand, sizes_of
from preimage.ops.sampling import Positions, simplest_fraction
from preimage.ops.shape import reshape, transpose
from preimage.ops.sums import exactly
from preimage.records import record
from preimage.typing import Operand, PerAxis, ResizeMode, ScaleFactor, Value

__all__ = ["Resize", "pixel_shuffle", "pixel_unshuffle", "resized", "upsample"]

MODES = ("nearest", "nearest-exact", "linear", "cubic")


@record
class Resize:
    """How one axis of `size` elements is resized: the position that every output has on it, and whether neighbours are blended."""

    size: int
    positions: Positions
    blended: bool

    def __hash__(self) -> int:  # of every call; fractions take long
        return hash((self.size, self.positions.outputs, self.blended))

    @property
    def outputs(self) -> int:
        return self.positions.outputs

    def weights(self) -> tuple[Array, Array, Array]:
        """low, high and t of every output; positions before the first element or behind the last are held to these.

        Where t = 0, high is low: nothing is blended, and what lies beside (an infinity) is not read.
        """
        last = self.size - 1
        if not self.blended:
            low = np.clip(self.positions.rounded("floor"), 0, last)
            return low, low, np.zeros(self.outputs)
        low, t = self.positions.blended()
        t = np.where((low < 0) | (low >= last), 0.0, t)
        low = np.clip(low, 0, last)
        return low, low + (t > 0), t


def line(n: int, m: int, factor: Fraction | None, mode: str, align_corners: bool) -> Positions:
    """The positions of m outputs on n elements; the factor is m / n where none is given."""
    if align_corners:
        return Positions(m, Fraction(0), Fraction(n - 1, m - 1) if m > 1 else Fraction(0))
    step = Fraction(n, m) if factor is None else 1 / factor
    start = {"nearest": Fraction(0), "nearest-exact": step / 2}.get(mode, (step - 1) / 2)
    return Positions(m, start, step)


@lru_cache(maxsize=1024, typed=True)  # a float32 of the same value means another fraction
def _axis(n: int, m: int, factor: Any, mode: str, align_corners: bool, antialias: bool) -> Any:
    """How an axis of n elements becomes one of m; factor: as it was given, or None."""
    if n == m and (mode == "linear" or antialias):
        factor = None
    positions = line(n, m, None if factor is None else simplest_fraction(factor), mode, align_corners)
    by_filter = mode == "cubic" or antialias
    return _filter_of(n, positions, mode, antialias) if by_filter else Resize(n, positions, mode == "linear")


def _filter_of(n: int, positions: Positions, mode: str, antialias: bool) -> Filter:
    """Cubic with PyTorch's coefficients: -0.75, and -0.5 of the filter that widens (as Pillow's). That one's positions are centres of pixels,
    with aligned corners too.
    """
    if not antialias:
        return Filter(n, positions, -0.75)
    step = positions.step
    centred = Positions(positions.outputs, (step - 1) / 2, step)
    return Filter(n, centred, -0.5 if mode == "cubic" else None, max(step, Fraction(1)), inside=True)


@kept_tables
def _matrix(axis: Resize, dtype: np.dtype[Any]) -> AxisMatrix:
    """The blend of two elements that every output is, as a matrix."""
    low, high, t = axis.weights()
    part = t.astype(dtype)
    weights = np.stack([1 - part, np.where(t > 0, part, 0)], 1)
    return AxisMatrix.of_taps(axis.size, np.stack([low, high], 1), weights.astype(dtype))


def _resize(x: Array, *, axes: tuple[Resize, ...]) -> Array:
    value = exactly(x)
    return narrow(around.along_axes(value, [(k, _matrix(axis, value.dtype)) for k, axis in enumerate(axes, 2)]), x)


def _resize_back(y: Array, *, axes: tuple[Resize, ...]) -> Array:
    value = exactly(y)
    return narrow(around.along_axes(value, [(k, _matrix(axis, value.dtype).transposed()) for k, axis in enumerate(axes, 2)]), y)


_resize_op = primitive("upsample", _resize, [lambda g, ans, x, axes: _resize_back_op(g, axes=axes)], saves=(), linear=(0,))
_resize_back_op: Primitive = primitive(
    "upsample_back", _resize_back, [lambda g, ans, y, axes: _resize_op(g, axes=axes)], saves=(), linear=(0,)
)


def resized(x: Value, axes: tuple[Resize, ...]) -> Value:
    """x (N, C, *spatial) with every spatial axis resized as it says: all of them blended, or none."""
    return _resize_op(operand(x, "x"), axes=axes)


def _factors(scale_factor: Any, ndim: int) -> tuple[Any, ...]:
    listed = entries(scale_factor)
    values = (scale_factor,) * ndim if listed is None else tuple(listed)
    try:
        factors = tuple(v if isinstance(v, np.floating) else float(v) for v in values)
    except (TypeError, ValueError, PreimageError):
        raise OptionError(f"upsample: scale_factor must be a number or {ndim} of them, got {scale_factor!r}") from None
    if len(factors) != ndim or any(not (0 < f < math.inf) for f in factors):
        raise OptionError(f"upsample: scale_factor must be a positive number or {ndim} of them, got {scale_factor!r}")
    return factors


@laid_out
@whole
def upsample(
    x: Operand,
    *,
    size: PerAxis | None = None,
    scale_factor: ScaleFactor | None = None,
    mode: ResizeMode = "nearest",
    align_corners: bool = False,
    recompute_scale_factor: bool = False,
    antialias: bool = False,
) -> Value:
    """Resizing of the spatial axes to `size`, or by `scale_factor` (the sizes rounded down): linear in x.

    Shapes: x (N, C, *spatial) -> (N, C, *size).
    Definition: along each axis y[o] is x at the position p(o), in "linear" mode blended from the two neighbours:
        "nearest" floor(o / scale); "nearest-exact" floor((o + 1/2) / scale), the pixel whose centre is nearest; "linear"
        (o + 1/2) / scale - 1/2 (half-pixel centres, not below 0), with align_corners o (n - 1) / (m - 1), which maps first
        and last elements on each other. Linear in two dimensions is bilinear, in three trilinear. "cubic" has the positions of
        "linear" and weighs four elements by Keys' cubic (a = -0.75), the border's standing for what lies outside. With scale_factor
        the factor itself is the scale, as in PyTorch, unless recompute_scale_factor; in the linear and antialiased modes an axis that
        keeps its size is left as it is, whatever its factor, as there.
    antialias: where an axis shrinks, the linear or cubic filter (then a = -0.5) is widened by the scale, so that every input counts; the
        weights of what lies inside add up to 1. As in PyTorch and Pillow.
    Gradient: the exact adjoint.
    Raises: OptionError for an unknown mode or both or neither of size and scale_factor; ShapeError for an empty axis.

    Example:
        >>> import numpy as np
        >>> from preimage import ops
        >>> ops.upsample(np.array([[[0.0, 4.0]]]), scale_factor=2)
        array([[[0., 0., 4., 4.]]])
        >>> ops.upsample(np.array([[[0.0, 4.0]]]), scale_factor=2, mode="linear")
        array([[[0., 1., 3., 4.]]])
    """
    x = operand(x, "x")
    if x.ndim < 3:
        raise ShapeError(f"upsample: wanted (N, C, *spatial), got shape {x.shape}")
    ndim = x.ndim - 2
    if not isinstance(mode, str) or mode not in MODES:
        raise OptionError(f"upsample: mode must be one of {', '.join(repr(m) for m in MODES)}, got {mode!r}")
    align_corners, antialias = flag_of(align_corners, "upsample: align_corners"), flag_of(antialias, "upsample: antialias")
    recompute = recompute_scale_factor is not None and flag_of(recompute_scale_factor, "upsample: recompute_scale_factor")
    for name, value in (("align_corners", align_corners), ("antialias", antialias)):
        if value and mode not in ("linear", "cubic"):
            raise OptionError(f"upsample: {name} is an option of the modes 'linear' and 'cubic', got mode {mode!r}")
    if (size is None) == (scale_factor is None):
        raise OptionError("upsample: give either size or scale_factor")
    factors: tuple[Any, ...] = (None,) * ndim
    if size is not None:
        sizes = per_axis(size, ndim, "size")
    else:
        factors = _factors(scale_factor, ndim)
        sizes = tuple(math.floor(n * float(f)) for n, f in zip(x.shape[2:], factors, strict=True))
        if recompute:
            factors = (None,) * ndim
    axes: list[Any] = []
    for k, (n, m, factor) in enumerate(zip(x.shape[2:], sizes, factors, strict=True)):
        if n < 1 or m < 1:
            raise ShapeError(f"upsample: spatial axis {k} of size {n} cannot be resized to {m}")
        check_room("upsample", (*x.shape[:2], *sizes[: k + 1], *x.shape[k + 3 :]), x.dtype)
        axes.append(_axis(n, m, factor, mode, align_corners, antialias))
    return filtered(x, tuple(axes)) if mode == "cubic" or antialias else _resize_op(x, axes=tuple(axes))


# -- pixel shuffle -----------------------------------------------------------------------------------------------------


@laid_out
def pixel_shuffle(x: Operand, factor: PerAxis) -> Value:
    """Channels rearranged into space: (N, C * prod(factor), *spatial) -> (N, C, *(spatial * factor)) (Shi et al. 2016).

    Raises: ShapeError where the channels do not divide.

    Example:
        >>> import numpy as np
        >>> from preimage import ops
        >>> ops.pixel_shuffle(np.array([[[1.0, 2.0], [10.0, 20.0]]]), 2)
        array([[[ 1., 10.,  2., 20.]]])
    """
    x = operand(x, "x")
    ndim = x.ndim - 2
    if ndim < 1:
        raise ShapeError(f"pixel_shuffle: wanted (N, C, *spatial), got shape {x.shape}")
    factors = per_axis(factor, ndim, "factor")
    n, channels, *spatial = x.shape
    if channels % math.prod(factors):
        raise ShapeError(f"pixel_shuffle: {channels} channels do not divide by {math.prod(factors)} (factor {factor!r})")
    apart = reshape(x, (n, channels // math.prod(factors), *factors, *spatial))
    pairs = [a for k in range(ndim) for a in (2 + ndim + k, 2 + k)]
    return reshape(transpose(apart, (0, 1, *pairs)), (n, apart.shape[1], *(s * f for s, f in zip(spatial, factors, strict=True))))


@laid_out
def pixel_unshuffle(x: Operand, factor: PerAxis) -> Value:
    """Space gathered into channels, the inverse of pixel_shuffle: (N, C, *spatial) -> (N, C * prod(factor), *(spatial / factor)).

    Raises: ShapeError where the sizes do not divide.
    """
    x = operand(x, "x")
    ndim = x.ndim - 2
    if ndim < 1:
        raise ShapeError(f"pixel_unshuffle: wanted (N, C, *spatial), got shape {x.shape}")
    factors = per_axis(factor, ndim, "factor")
    n, channels, *spatial = x.shape
    if any(s % f for s, f in zip(spatial, factors, strict=True)):
        raise ShapeError(f"pixel_unshuffle: spatial sizes {tuple(spatial)} do not divide by {factors}")
    small = sizes_of([s // f for s, f in zip(spatial, factors, strict=True)], "pixel_unshuffle")
    apart = reshape(x, (n, channels, *(a for pair in zip(small, factors, strict=True) for a in pair)))
    order = (0, 1, *(3 + 2 * k for k in range(ndim)), *(2 + 2 * k for k in range(ndim)))
    return reshape(transpose(apart, order), (n, channels * math.prod(factors), *small))
