"""Moving elements without changing them: every operation here is linear, and its adjoint puts them back where they were.

getitem(x, key)        takes elements          put(g, shape, key)  adds them up at their places
concat([x0, x1, ..])   lays side by side       getitem             takes each its part
reshape, transpose     are permutations        and their own inverses, transposed
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.autograd import Primitive, Tensor, array_of, primitive
from preimage.autograd.traced import TracedArray
from preimage.engines import around, moving
from preimage.errors import OptionError, ShapeError
from preimage.ops.operands import Array, axes_of, axis_of, check_room, count_of, entries, operand, parts_of, regular, sizes_of
from preimage.ops.sums import sum_dtype
from preimage.typing import Axes, Index, Integers, Operand, Shape, Value

__all__ = [
    "concat", "expand_dims", "flatten", "flip", "getitem", "moveaxis", "put", "repeat", "reshape", "roll", "split", "squeeze",
    "stack", "swapaxes", "take", "tile", "transpose",
]  # fmt: skip


# -- the same elements under another shape -----------------------------------------------------------------------------


def _listed(value: Any) -> list[Any]:
    held = entries(value)
    return [value] if held is None else held


_reshape_op = primitive(
    "reshape",
    lambda x, shape: moving.reshaped(x, shape),
    [lambda g, ans, x, shape: reshape(g, x.shape)],
    saves=(),
    linear=(0,),
    silent=True,
)


def reshape(x: Operand, *shape: Shape) -> Value:
    """The elements in row-major order under another shape; one size may be -1 (what is left). `reshape(x, (2, 3))` or
    `reshape(x, 2, 3)`.

    Raises: ShapeError where the number of elements differs.
    """
    x = operand(x, "x")
    given: Any = shape[0] if len(shape) == 1 else shape
    wanted = sizes_of(given, "reshape")
    known = math.prod([n for n in wanted if n != -1])
    if wanted.count(-1) == 1 and known > 0 and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    if any(n < 0 for n in wanted) or math.prod(wanted) != x.size:
        raise ShapeError(f"reshape: {x.size} elements of shape {x.shape} do not fit {wanted}")
    return x if x.shape == wanted else _reshape_op(x, shape=wanted)


def flatten(x: Operand, start_axis: int = 0, end_axis: int = -1) -> Value:
    """The axes start_axis..end_axis as one."""
    x = operand(x, "x")
    if not x.ndim:
        return reshape(x, (1,))
    first, last = axis_of(start_axis, x.ndim, "flatten"), axis_of(end_axis, x.ndim, "flatten")
    if first > last:
        raise ShapeError(f"flatten: start_axis {start_axis} comes after end_axis {end_axis} in {x.ndim} dimensions")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


def unflatten(x: Operand, dim: int, sizes: Shape) -> Value:
    """An axis as several, of which one may be -1. Raises: ShapeError where their product is another."""
    x = operand(x, "x")
    axis, listed = axis_of(dim, x.ndim, "unflatten"), sizes_of(sizes, "unflatten")
    known = math.prod([n for n in listed if n != -1])
    if listed.count(-1) == 1 and known > 0 and x.shape[axis] % known == 0:
        listed = tuple([x.shape[axis] // known if n == -1 else n for n in listed])
    if math.prod(listed) != x.shape[axis] or min(listed, default=0) < 0:
        raise ShapeError(f"unflatten: {tuple(listed)} do not make up axis {axis} of size {x.shape[axis]}")
    return reshape(x, (*x.shape[:axis], *listed, *x.shape[axis + 1 :]))


def expand_dims(x: Operand, axis: Shape) -> Value:
    """New axes of size 1, at these places of the result."""
    x = operand(x, "x")
    given = _listed(axis)
    ndim = x.ndim + len(given)
    axes = axes_of(given, ndim, "expand_dims")
    sizes = iter(x.shape)
    return reshape(x, tuple(1 if k in axes else next(sizes) for k in range(ndim)))


def squeeze(x: Operand, axis: Axes = None) -> Value:
    """Without these axes, which must have size 1 (None: every axis of size 1).

    Raises: ShapeError for an axis of another size.
    """
    x = operand(x, "x")
    axes = tuple(k for k, n in enumerate(x.shape) if n == 1) if axis is None else axes_of(axis, x.ndim, "squeeze")
    for k in axes:
        if x.shape[k] != 1:
            raise ShapeError(f"squeeze: axis {k} of shape {x.shape} has size {x.shape[k]}, not 1")
    return reshape(x, tuple(n for k, n in enumerate(x.shape) if k not in axes))


_transpose_op = primitive(
    "transpose",
    lambda x, axes: np.transpose(x, axes),
    [lambda g, ans, x, axes: transpose(g, tuple(axes.index(k) for k in range(len(axes))))],
    saves=(),
    linear=(0,),
    silent=True,
)


def transpose(x: Operand, *axes: Axes) -> Value:
    """The axes in another order (none given: reversed). A view. Two of more than two axes change places, as in PyTorch.

    Raises: ShapeError where `axes` is not a permutation.
    """
    x = operand(x, "x")
    if not axes or (len(axes) == 1 and axes[0] is None):
        order = tuple(reversed(range(x.ndim)))
    else:
        given: Sequence[Any] = _listed(axes[0]) if len(axes) == 1 else axes
        order = tuple(axis_of(a, x.ndim, "transpose") for a in given)
    if len(axes) == 2 < x.ndim:
        there = {order[0]: order[1], order[1]: order[0]}
        order = tuple(there.get(k, k) for k in range(x.ndim))
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"transpose: {order} is no order of the {x.ndim} axes of shape {x.shape}")
    return x if order == tuple(range(x.ndim)) else _transpose_op(x, axes=order)


def moveaxis(x: Operand, source: Shape, destination: Shape) -> Value:
    """Axes moved to other places, the others staying in order."""
    x = operand(x, "x")
    origin = [axis_of(a, x.ndim, "moveaxis") for a in _listed(source)]
    target = [axis_of(a, x.ndim, "moveaxis") for a in _listed(destination)]
    if len(origin) != len(target) or len(set(origin)) < len(origin) or len(set(target)) < len(target):
        raise ShapeError(f"moveaxis: {source!r} to {destination!r} does not pair distinct axes")
    order = [k for k in range(x.ndim) if k not in origin]
    for to, k in sorted(zip(target, origin, strict=True)):
        order.insert(to, k)
    return transpose(x, order)


def swapaxes(x: Operand, axis1: int, axis2: int) -> Value:
    """Two axes exchanged."""
    x = operand(x, "x")
    order = list(range(x.ndim))
    a, b = axis_of(axis1, x.ndim, "swapaxes"), axis_of(axis2, x.ndim, "swapaxes")
    order[a], order[b] = b, a
    return transpose(x, order)


# -- taking and putting ------------------------------------------------------------------------------------------------


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return all(k is None or k is Ellipsis or isinstance(k, slice | int) for k in parts)


def _margins(key: Any, shape: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """What a basic index leaves out before and behind on every axis, where it takes one range of each; None where it does not."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    parts += [slice(None)] * (len(shape) - len(parts))
    found = []
    for part, n in zip(parts, shape, strict=True):
        if not isinstance(part, slice) or part.step not in (None, 1):
            return None
        start, stop, _ = part.indices(n)
        if stop <= start:
            return None
        found.append((start, n - stop))
    return found


def _put(g: Array, *, shape: tuple[int, ...], key: Any) -> Array:
    if _is_basic(key):
        margins = None if None in (key if isinstance(key, tuple) else (key,)) else _margins(key, shape)
        made = moving.placed(g, shape, key) if margins is None else moving.padded(g, margins, 0.0)
        if made is not None:
            return made
        out = np.zeros(shape, g.dtype)
        out[key] = g
        return out
    out = np.zeros(shape, sum_dtype(g.dtype))
    np.add.at(out, key, g.astype(out.dtype, copy=False))
    return out.astype(g.dtype, copy=False)


_getitem_op = primitive(
    "getitem",
    lambda x, key: np.asarray(x[key]),
    [lambda g, ans, x, key: _put_op(g, shape=x.shape, key=key)],
    saves=(),
    linear=(0,),
    silent=True,
)

_put_op: Primitive = primitive("put", _put, [lambda g, ans, y, shape, key: _getitem_op(g, key=key)], saves=(), linear=(0,))


def index_of(key: Any) -> Any:
    """An index that nobody else can change: index arrays copied, Tensors refused by NumPy as floats are."""
    if isinstance(key, tuple):
        return tuple(index_of(k) for k in key)
    if isinstance(key, bool | np.bool_):
        return np.asarray(key)
    if isinstance(key, int | np.integer):
        return operator.index(key)
    if isinstance(key, list | np.ndarray | Tensor):
        array = regular(array_of(key)).copy()
        return array if array.size else array.astype(np.intp)
    return key


def getitem(x: Operand, key: Index) -> Value:
    """x[key] with NumPy's indexing: numbers, slices, None, ..., index arrays and boolean masks.

    Gradient: added up at the places that were taken, once per time that they were.
    Raises: ShapeError for an index outside x, OptionError for what is no index.

    Example:
        >>> import numpy as np, preimage as pre
        >>> t = pre.Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
        >>> pre.grad(t[[0, 0, 2]].sum(), t).data
        array([2., 0., 1.])
    """
    x = operand(x, "x")
    key = index_of(key)
    try:
        if not isinstance(x, Tensor) and any(isinstance(k, TracedArray) for k in (key if isinstance(key, tuple) else (key,))):
            return array_of(_getitem_op(Tensor(x), key=key))  # so that it is observed
        return _getitem_op(x, key=key)
    except IndexError as error:
        no_index = str(error).startswith(("only integers", "arrays used as indices"))
        raise (OptionError if no_index else ShapeError)(f"getitem: {error}; shape {x.shape}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"getitem: {error}; shape {x.shape}") from None


def put(y: Operand, shape: Shape, key: Index) -> Value:
    """Zeros of `shape`, with y added at [key]: the adjoint of getitem.

    Raises: ShapeError where y is not of the shape that [key] takes.

    Example:
        >>> from preimage import ops
        >>> ops.put([1.0, 2.0, 4.0], (4,), [1, 1, 3])
        array([0., 3., 0., 4.])
    """
    y, shape, key = operand(y, "y"), sizes_of(shape, "put"), index_of(key)
    if any(n < 0 for n in shape):
        raise ShapeError(f"put: a shape has no negative sizes, got {shape}")
    check_room("put", shape, y.dtype)
    taken = getitem(np.broadcast_to(np.zeros((), y.dtype), shape), key).shape
    if taken != y.shape:
        raise ShapeError(f"put: y has shape {y.shape}, but this index of shape {shape} takes {taken}")
    return _put_op(y, shape=shape, key=key)


def take(x: Operand, indices: Integers, axis: int) -> Value:
    """The slices of x at these integer indices along one axis."""
    x = operand(x, "x")
    key = (slice(None),) * axis_of(axis, x.ndim, "take") + (regular(array_of(indices)),)
    return getitem(x, key)


def flip(x: Operand, axis: Axes = None) -> Value:
    """Reversed along the axes (None: all)."""
    x = operand(x, "x")
    axes = axes_of(axis, x.ndim, "flip")
    return getitem(x, tuple(slice(None, None, -1 if k in axes else 1) for k in range(x.ndim)))


# -- putting side by side ----------------------------------------------------------------------------------------------


def _concat_rule(k: int) -> Callable[..., Any]:
    def rule(g: Any, ans: Any, *parts: Any, axis: int) -> Any:
        start = sum(p.shape[axis] for p in parts[:k])
        return getitem(g, (slice(None),) * axis + (slice(start, start + parts[k].shape[axis]),))

    return rule


def concatenated(*parts: Array, axis: int) -> Array:
    """Arrays of one dtype side by side."""
    made = around.concat(parts, axis)
    return np.concatenate(parts, axis) if made is None else made


_concat_op = primitive("concat", concatenated, _concat_rule, saves=(), silent=True)


def concat(parts: Sequence[Operand], axis: int = 0) -> Value:
    """Arrays side by side along an axis; all other sizes must agree.

    Raises: ShapeError for none at all, or where the other sizes differ.
    """
    ready = parts_of(parts, "concat")
    k = axis_of(axis, ready[0].ndim, "concat")
    for part in ready[1:]:
        if part.ndim != ready[0].ndim or any(
            a != b for j, (a, b) in enumerate(zip(part.shape, ready[0].shape, strict=True)) if j != k
        ):
            raise ShapeError(f"concat along axis {k}: shapes {ready[0].shape} and {part.shape} differ elsewhere")
    if len({p.dtype for p in ready}) > 1:
        raise ShapeError("concat: all parts must have one dtype, got " + ", ".join(sorted({str(p.dtype) for p in ready})))
    return _concat_op(*ready, axis=k)


def stack(parts: Sequence[Operand], axis: int = 0) -> Value:
    """Arrays of one shape along a new axis."""
    ready = parts_of(parts, "stack")
    for part in ready[1:]:
        if part.shape != ready[0].shape:
            raise ShapeError(f"stack: shapes {ready[0].shape} and {part.shape} differ")
    k = axis_of(axis, ready[0].ndim + 1, "stack")
    return concat([expand_dims(p, k) for p in ready], axis=k)


def chunk(x: Operand, chunks: int, axis: int = 0) -> list[Value]:
    """Up to so many pieces of one size along an axis; the last may be smaller."""
    x, count = operand(x, "input"), count_of(chunks, "chunk: chunks", 1)
    size = x.shape[axis_of(axis, x.ndim, "chunk")]
    return split(x, max(1, -(-size // count)), axis) or [x]  # an empty axis is one empty piece


def split(x: Operand, sizes: Shape, axis: int = 0) -> list[Value]:
    """Pieces along an axis: of one size (the last may be shorter), or of the sizes listed, which must add up.

    Raises: ShapeError where they do not.
    """
    x = operand(x, "x")
    k = axis_of(axis, x.ndim, "split")
    length = x.shape[k]
    if entries(sizes) is not None:
        lengths = list(sizes_of(sizes, "split"))
    else:
        size = count_of(sizes, "split: the size of a piece", 1)
        lengths = [size] * (length // size) + ([length % size] if length % size else [])
    if any(n < 0 for n in lengths) or sum(lengths) != length:
        raise ShapeError(f"split: sizes {lengths} do not add up to {length}, the size of axis {k}")
    edges = np.cumsum([0, *lengths]).tolist()
    return [getitem(x, (slice(None),) * k + (slice(a, b),)) for a, b in itertools.pairwise(edges)]


def tile(x: Operand, repeats: Shape) -> Value:
    """The whole array repeated along its axes, as numpy.tile."""
    x, counts = operand(x, "x"), sizes_of(repeats, "tile")
    if any(n < 0 for n in counts):
        raise OptionError(f"tile: repeats must not be negative, got {counts}")
    ndim = max(x.ndim, len(counts))
    counts = (1,) * (ndim - len(counts)) + counts
    shape = (1,) * (ndim - x.ndim) + x.shape
    check_room("tile", tuple(n * c for n, c in zip(shape, counts, strict=True)), x.dtype)
    return _repeated(reshape(x, shape), shape, counts, whole=True)


def repeat(x: Operand, repeats: int, axis: int) -> Value:
    """Each slice along an axis `repeats` times in a row."""
    x = operand(x, "x")
    count = count_of(repeats, "repeat: repeats", 0)
    k = axis_of(axis, x.ndim, "repeat")
    check_room("repeat", (*x.shape, count), x.dtype)
    return _repeated(x, x.shape, tuple(count if j == k else 1 for j in range(x.ndim)), whole=False)


def _repeated(x: Value, shape: tuple[int, ...], counts: tuple[int, ...], whole: bool) -> Value:
    """Every axis n as a pair (count, n) or (n, count), the count a broadcast axis of size 1 before."""
    from preimage.ops.broadcast import broadcast_to

    pairs = [((1, n), (c, n)) if whole else ((n, 1), (n, c)) for n, c in zip(shape, counts, strict=True)]
    before = [size for pair, _ in pairs for size in pair]
    after = [size for _, pair in pairs for size in pair]
    return reshape(broadcast_to(reshape(x, before), after), tuple(n * c for n, c in zip(shape, counts, strict=True)))


def roll(x: Operand, shift: int, axis: int) -> Value:
    """Rolled along an axis: what leaves at one end comes in at the other."""
    x = operand(x, "x")
    k = axis_of(axis, x.ndim, "roll")
    n = x.shape[k]
    if entries(shift) is not None:
        raise OptionError(f"roll: shift must be an integer, got {shift!r}")
    (by,) = sizes_of(shift, "roll")
    if not n or not by % n:
        return x
    lead = (slice(None),) * k
    return concat([getitem(x, (*lead, slice(n - by % n, None))), getitem(x, (*lead, slice(0, n - by % n)))], axis=k)
