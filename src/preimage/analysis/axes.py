"""The relations of grids.py carried through a recorded net: for every value, what each of its axes sees of each input's axes.

An axis is `All` where every position sees the whole of the input's axis (after a global pooling, a matrix product over it) and
None where it is not followed: merged axes, index arrays, ratios without a short period. The exact field of one position is
there in any case (structure.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

from preimage.analysis.grids import Grid, Relation, conv_axis, identity, resize_axis, transpose_axis, window_axis
from preimage.analysis.record import Call, Record
from preimage.analysis.structure import ALONG, ELEMENTWISE, REDUCTIONS
from preimage.ops.windows import Axis as Windows
from preimage.ops.windows import Bins

__all__ = ["All", "Axis", "Join", "relations"]


class Everything(Enum):
    """The whole axis is seen."""

    ALL = "all"


All = Everything.ALL


@dataclass(frozen=True)
class Axis:
    """One axis of a value sees axis `of` of the input as `relation` says."""

    of: int
    relation: Relation | Everything


Axes = tuple[Axis | None, ...]


@dataclass(frozen=True)
class Join:
    """Paths that meet on grids that do not lie on one another: their values are added, multiplied or laid side by side all the same.

    grids: of each path along the input's axis `axis`. offset: by how much the second lies beside the first, in input positions
    (None where the jumps differ: then it changes from place to place).
    """

    name: str
    op: str
    axis: int
    grids: tuple[Grid, ...]

    @property
    def offset(self) -> Fraction | None:
        first = self.grids[0]
        other = next(g for g in self.grids[1:] if g != first)
        return other.start - first.start if other.jump == first.jump else None

    def __str__(self) -> str:
        listed = " and ".join(str(g) for g in self.grids)
        said = "the jumps differ" if self.offset is None else f"{self.offset} apart"
        return f"{self.name or self.op}: paths on the grids {listed} along input axis {self.axis}, {said}"


def relations(record: Record, source: int) -> tuple[dict[int, Axes], list[Join]]:
    """What the axes of every value see of the value `source`, and the joins that are misaligned."""
    ndim = len(record.shape(source))
    known: dict[int, Axes] = {source: tuple(Axis(a, identity()) for a in range(ndim))}
    joins: list[Join] = []
    for call in record.calls:
        paths = [
            _through(call, k, known[argument], record)
            for k, argument in enumerate(call.arguments)
            if argument is not None and argument in known
        ]
        if paths:
            known[call.result] = _joined(call, paths, joins)
    return known, joins


def _joined(call: Call, paths: Sequence[Axes], joins: list[Join]) -> Axes:
    merged = list(paths[0])
    for path in paths[1:]:
        for k, (a, b) in enumerate(zip(merged, path, strict=True)):
            if a is None or b is None or a.of != b.of:
                merged[k] = None
                continue
            if isinstance(a.relation, Everything) or isinstance(b.relation, Everything):
                merged[k] = Axis(a.of, All)
                continue
            if a.relation.grid != b.relation.grid:
                joins.append(Join(call.name, call.op.name, a.of, (a.relation.grid, b.relation.grid)))
            union = a.relation.joined(b.relation)
            merged[k] = None if union is None else Axis(a.of, union)
    return tuple(merged)


def _step(axis: Axis | None, step: Relation | None) -> Axis | None:
    if axis is None or step is None:
        return None
    if isinstance(axis.relation, Everything):
        return axis
    found = step.after(axis.relation)
    return None if found is None else Axis(axis.of, found)


def _binned(axis: Axis | None, bins: Bins) -> Axis | None:
    """Through adaptive windows: known where all are alike."""
    n, m = bins.size, bins.outputs
    if m == 1 or n == m or n % m:
        return _all(axis) if m == 1 else axis if n == m else None
    return _step(axis, window_axis(Windows(n, m, n // m, n // m, 0, 0, 1)))


def _all(axis: Axis | None) -> Axis | None:
    return None if axis is None else Axis(axis.of, All)


def _through(call: Call, k: int, axes: Axes, record: Record) -> Axes:
    """The axes of the result, along the path from argument k."""
    name, shape = call.op.name, record.shape(call.result)
    if name in ELEMENTWISE or name in ("broadcast_to", "astype"):
        return _aligned(axes, call.specs[k].shape, shape)
    if name in ("conv", "conv_transpose"):
        return _contracted(call, axes, len(shape)) if k == 0 else (None,) * len(shape)
    if name in ("max_pool", "sum_pool", "avg_pool"):
        return axes[:2] + tuple(_step(a, window_axis(w)) for a, w in zip(axes[2:], call.params["windows"], strict=True))
    if name in ("adaptive_avg_pool", "adaptive_max_pool"):
        return axes[:2] + tuple(_binned(a, b) for a, b in zip(axes[2:], call.params["bins"], strict=True))
    if name == "upsample":
        return axes[:2] + tuple(_step(a, resize_axis(r)) for a, r in zip(axes[2:], call.params["axes"], strict=True))
    if name == "pad":
        return tuple(_step(a, identity(-lo)) if lo else a for a, (lo, _) in zip(axes, call.params["pairs"], strict=True))
    if name == "transpose":
        return tuple(axes[a] for a in call.params["axes"])
    if name == "reshape":
        return _reshaped(axes, call.specs[0].shape, shape)
    if name == "getitem":
        return _indexed(axes, call.specs[0].shape, call.params["key"], len(shape))
    if name == "concat":
        return tuple(a if j != call.params["axis"] else _laid(a) for j, a in enumerate(axes))
    if name in ("sum", "mean") or name in REDUCTIONS:
        kept = tuple(_all(a) if j in call.params["axis"] else a for j, a in enumerate(axes))
        return kept if call.params["keepdims"] else tuple(a for j, a in enumerate(axes) if j not in call.params["axis"])
    if name in ALONG and k == 0:
        return tuple(_all(a) if j in _along(call, len(axes)) else a for j, a in enumerate(axes))
    if name in ("linear", "matmul") and k == 0 and len(axes) == len(shape):
        return (*axes[:-1], _all(axes[-1]))
    return (None,) * len(shape)


def _along(call: Call, ndim: int) -> tuple[int, ...]:
    if call.op.name == "normalise":
        return (*((0,) if call.params["images"] else ()), *range(2, ndim))
    axis = call.params["axis"]
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _laid(axis: Axis | None) -> Axis | None:
    """Laid side by side, an axis no longer moves with its input, unless all of that is seen."""
    return axis if axis is not None and isinstance(axis.relation, Everything) else None


def _aligned(axes: Axes, shape: tuple[int, ...], result: tuple[int, ...]) -> Axes:
    """Axes under broadcasting: a single element that is repeated is seen from everywhere."""
    extra = len(result) - len(shape)
    made: list[Axis | None] = [None] * extra
    for axis, n, m in zip(axes, shape, result[extra:], strict=True):
        made.append(axis if n == m else _all(axis))
    return tuple(made)


def _contracted(call: Call, axes: Axes, ndim: int) -> Axes:
    g = call.params["geometry"]
    last = call.params["layout"] == "channels_last" and ndim > 2
    space = range(1, ndim - 1) if last else range(2, ndim)
    make = conv_axis if call.op.name == "conv" else transpose_axis
    made = list(axes)
    made[ndim - 1 if last else 1] = _all(axes[ndim - 1 if last else 1])
    for a, j in enumerate(space):
        made[j] = _step(axes[j], make(g, a))
    return tuple(made)


def _reshaped(axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes:
    """Axes that keep their sizes at the front and at the back stay; what lies between is not followed."""
    made: list[Axis | None] = [None] * len(after)
    front = 0
    while front < min(len(before), len(after)) and before[front] == after[front]:
        made[front] = axes[front]
        front += 1
    back = 1
    while back <= min(len(before), len(after)) - front and before[-back] == after[-back]:
        made[-back] = axes[-back]
        back += 1
    return tuple(made)


def _indexed(axes: Axes, shape: tuple[int, ...], key: Any, ndim: int) -> Axes:
    parts = list(key) if isinstance(key, tuple) else [key]
    if any(not (p is None or p is Ellipsis or isinstance(p, slice | int)) for p in parts):
        return (None,) * ndim
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    at = parts.index(Ellipsis)
    missing = len(shape) - sum(p is not None for p in parts) + 1
    parts[at : at + 1] = [slice(None)] * missing
    made: list[Axis | None] = []
    j = 0
    for part in parts:
        if part is None:
            made.append(None)
            continue
        if isinstance(part, slice):
            start, _, step = part.indices(shape[j])
            made.append(_step(axes[j], identity(start, step)) if step > 0 else _laid(axes[j]))
        j += 1
    return tuple(made)
