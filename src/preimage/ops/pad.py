"""Margins: `pad` extends a signal beyond its borders, `fold_margin` is its adjoint: what lies in the margin goes back to
the cells that it was copied from.

    pad          y[p] = x[m(p)]          for p = -lo .. n + hi - 1
    fold_margin  x[q] = sum of y[p] over all p with m(p) = q

with the map m of the mode, for a signal of n cells:

    zeros      m(p) = p inside, nothing outside (a constant takes its place)
    replicate  m(p) = min(max(p, 0), n - 1)
    circular   m(p) = p mod n
    reflect    m(p) = |((p + n - 1) mod 2(n - 1)) - (n - 1)|, the border cell itself not repeated

A negative lo or hi leaves cells of the extended signal out. Margins may be wider than the signal, as in numpy.pad.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import Primitive, primitive
from preimage.engines import around, moving
from preimage.engines.axis_matrix import AxisMatrix
from preimage.engines.base import Array, memory_order
from preimage.engines.kept_tables import kept_tables
from preimage.engines.recording import constant
from preimage.errors import OptionError, ShapeError
from preimage.geometry import Padding, normalise_padding
from preimage.ops.operands import axis_of, check_room, entries, number_of, operand
from preimage.ops.sums import sum_dtype
from preimage.typing import Axes, Operand, PaddingMode, Value

__all__ = ["MODES", "check_mode", "fold_margin", "pad"]

MODES = ("zeros", "reflect", "replicate", "circular")
Pairs = tuple[tuple[int, int], ...]


def check_mode(mode: str) -> None:
    """Raises: OptionError for a mode that is not one of MODES."""
    if not isinstance(mode, str) or mode not in MODES:
        raise OptionError(f"padding mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")


@kept_tables
def _sources(n: int, lo: int, hi: int, mode: str) -> NDArray[np.intp]:
    """m(p) for p = -lo .. n + hi - 1 in a mode that copies cells."""
    p = np.arange(-lo, n + hi)
    if mode == "replicate" or n == 1:
        m = np.clip(p, 0, n - 1)
    elif mode == "circular":
        m = p % n
    else:
        m = np.abs((p + n - 1) % (2 * (n - 1)) - (n - 1))
    m.flags.writeable = False
    return m


@kept_tables
def _matrix(n: int, lo: int, hi: int, mode: str) -> AxisMatrix:
    """The margins of one axis, in a mode that copies cells, as a matrix."""
    return AxisMatrix(n, np.arange(n + lo + hi + 1), _sources(n, lo, hi, mode), None)


@kept_tables
def _folded(n: int, lo: int, hi: int, mode: str) -> AxisMatrix:
    """Its transpose: of a cell first what lies in its place, then its copies in the margin, in order."""
    if mode == "zeros":
        return AxisMatrix.of_margins(n + lo + hi, -lo, -hi)
    p = np.arange(n + lo + hi)
    _, there = _inner(n, lo, hi)
    inside = (p >= there.start) & (p < there.stop)
    p = np.concatenate((p[inside], p[~inside]))
    cells = _sources(n, lo, hi, mode)[p]
    order = np.argsort(cells, kind="stable")
    return AxisMatrix(n + lo + hi, np.searchsorted(cells[order], np.arange(n + 1)), p[order], None)


def _same_order(shape: tuple[int, ...], like: Array) -> Array:
    order = memory_order(like)
    memory = np.empty([shape[k] for k in order], like.dtype)
    return memory.transpose(np.argsort(order))


def _inner(size: int, lo: int, hi: int) -> tuple[slice, slice]:
    """The cells that signal and padded signal share: a slice of the signal, one of the padded signal."""
    first, last = max(0, -lo), min(size, size + hi)
    last = max(first, last)
    return slice(first, last), slice(first + lo, last + lo)


def _pad(x: Array, *, pairs: Pairs, mode: str, value: float) -> Array:
    shape = tuple(n + lo + hi for n, (lo, hi) in zip(x.shape, pairs, strict=True))
    if mode == "zeros":
        kept = x[tuple(slice(max(-lo, 0), n + min(hi, 0)) for n, (lo, hi) in zip(x.shape, pairs, strict=True))]
        made = moving.padded(kept, [(max(lo, 0), max(hi, 0)) for lo, hi in pairs], value)
        if made is not None:
            return made
        y = _same_order(shape, x)
        y.fill(value)
        inner = [_inner(n, lo, hi) for n, (lo, hi) in zip(x.shape, pairs, strict=True)]
        y[tuple(there for _, there in inner)] = x[tuple(here for here, _ in inner)]
        return y
    if x.dtype in (np.float32, np.float64) and any(map(any, pairs)):
        return around.along_axes(x, [(k, _matrix(x.shape[k], *pair, mode)) for k, pair in enumerate(pairs) if any(pair)])
    order = memory_order(x)
    y = x.transpose(order)
    for axis, k in enumerate(order):
        lo, hi = pairs[k]
        if lo or hi:
            sources = _sources(x.shape[k], lo, hi, mode)
            taken = moving.take(y, constant(sources), axis)
            y = np.take(y, sources, axis=axis) if taken is None else taken
    if not any(lo or hi for lo, hi in pairs):
        y = y.copy()
    return y.transpose(np.argsort(order))


def _fold_margin(y: Array, *, shape: tuple[int, ...], pairs: Pairs, mode: str) -> Array:
    wide = y.astype(sum_dtype(y.dtype), copy=False)
    matrices = [(k, _folded(shape[k], *pair, mode)) for k, pair in reversed(list(enumerate(pairs))) if any(pair)]
    return (around.along_axes(wide, matrices) if matrices else wide).astype(y.dtype, copy=not matrices)


_pad_op: Primitive = primitive(
    "pad",
    _pad,
    [lambda g, ans, x, pairs, mode, value: _fold_margin_op(g, shape=x.shape, pairs=pairs, mode=mode)],
    saves=(),
    linear=(0,),
)

_fold_margin_op: Primitive = primitive(
    "fold_margin",
    _fold_margin,
    [lambda g, ans, y, shape, pairs, mode: _pad_op(g, pairs=pairs, mode=mode, value=0.0)],
    saves=(),
    linear=(0,),
)


def _all_pairs(ndim: int, padding: Padding, axes: Axes, name: str) -> Pairs:
    """(lo, hi) of every axis from the padding of `axes` (None: all axes after batch and channels)."""
    if axes is None:
        chosen = tuple(range(2, ndim))
    else:
        listed = entries(axes)
        given_axes: list[Any] = [axes] if listed is None else listed
        chosen = tuple(axis_of(a, ndim, name) for a in given_axes)
        if len(set(chosen)) != len(chosen):
            raise ShapeError(f"{name}: axes {axes!r} name one axis twice")
    given = normalise_padding(padding, len(chosen))
    if isinstance(given, str):
        raise OptionError(f"{name} takes numbers of cells, not {padding!r}")
    pairs = [(0, 0)] * ndim
    for axis, pair in zip(chosen, given, strict=True):
        pairs[axis] = pair
    return tuple(pairs)


def _check_sizes(shape: tuple[int, ...], pairs: Pairs, mode: str, name: str) -> None:
    for axis, (n, (lo, hi)) in enumerate(zip(shape, pairs, strict=True)):
        if n < 0 or n + lo + hi < 0:
            raise ShapeError(f"{name}: axis {axis}: margins {lo} and {hi} leave a size below 0 ({n} without, {n + lo + hi} with)")
        if mode != "zeros" and n == 0 and n + lo + hi:
            raise ShapeError(f"{name}: axis {axis} has no cells that mode {mode!r} could copy")


def pad_pairs(x: Value, pairs: Pairs, mode: str, value: float = 0.0) -> Value:
    """`pad` for checked arguments: one pair for every axis."""
    _check_sizes(x.shape, pairs, mode, "pad")
    check_room("pad", tuple(n + lo + hi for n, (lo, hi) in zip(x.shape, pairs, strict=True)), x.dtype)
    return _pad_op(x, pairs=pairs, mode=mode, value=value)


def fold_pairs(y: Value, pairs: Pairs, mode: str) -> Value:
    """`fold_margin` for checked arguments: one pair for every axis."""
    shape = tuple(n - lo - hi for n, (lo, hi) in zip(y.shape, pairs, strict=True))
    _check_sizes(shape, pairs, mode, "fold_margin")
    return _fold_margin_op(y, shape=shape, pairs=pairs, mode=mode)


def pad(x: Operand, padding: Padding, *, mode: PaddingMode = "zeros", value: float = 0.0, axes: Axes = None) -> Value:
    """The signal extended beyond its borders by a margin: linear in x (where `value` is 0).

    Shapes: x any; the result has size + lo + hi along the padded axes. `axes` are those that `padding` speaks of; None means
        all after batch and channels. `padding` is an integer, one per axis, or (lo, hi) pairs; negative ones crop.
    Definition: y[p] = x[m(p)] along every axis, with the map m of the mode as in this module's text; where mode "zeros" has
        no cell, `value` stands.
    Gradient: fold_margin, the adjoint.
    Cost: one copy; for the modes that copy cells at most one per padded axis.
    Raises: OptionError for another mode; ShapeError where a size would fall below 0, or an axis without cells is to be copied.

    Example:
        >>> import numpy as np, preimage as pre
        >>> pre.ops.pad(np.array([1.0, 2.0, 3.0]), 2, mode="reflect", axes=(0,)).tolist()
        [3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]
    """
    check_mode(mode)
    x = operand(x, "x")
    return pad_pairs(x, _all_pairs(x.ndim, padding, axes, "pad"), mode, number_of(value, "pad: value"))


def fold_margin(y: Operand, padding: Padding, *, mode: PaddingMode = "zeros", axes: Axes = None) -> Value:
    """The adjoint of `pad`: the margin is taken off and added to the cells that it was copied from.

    Shapes: y as `pad` gives it; the result has size - lo - hi along the padded axes.
    Definition: x[q] = sum of y[p] over all p with m(p) = q; cells that a negative padding left out are 0. So
        <pad(x), y> = <x, fold_margin(y)>. 16-bit floats are summed exactly and rounded once.
    Gradient: pad.
    Cost: at most one copy an axis, and one addition per cell of the margin.
    Raises: OptionError for another mode; ShapeError where the margins are larger than y.

    Example:
        >>> import numpy as np, preimage as pre
        >>> pre.ops.fold_margin(np.array([10.0, 1.0, 2.0, 3.0, 40.0]), 1, mode="replicate", axes=(0,)).tolist()
        [11.0, 2.0, 43.0]
    """
    check_mode(mode)
    y = operand(y, "y")
    return fold_pairs(y, _all_pairs(y.ndim, padding, axes, "fold_margin"), mode)
