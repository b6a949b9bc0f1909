"""Which shapes ONNX's operators give that cut, pad and repeat (`io.graph.facts`).

Where the amounts are computed when the model runs, the number of axes is known all the same.
"""

from __future__ import annotations

from preimage.io.graph.facts import Call, Shapes, shapes_of
from preimage.io.graph.sizes import Dim, Size, UnknownError, broadcast
from preimage.io.graph.word_shapes import of_rank
from preimage.io.onnx.shape_rules import MOST_AXES, axes_of, bounds_of

__all__: list[str] = []


@shapes_of("onnx.Slice")
def _slice(call: Call) -> Shapes:
    x = call.shape(0)
    found: list[Dim | None] = list(x)
    named = axes_of(call, 3)
    count = len(x) if named is None else len(named)  # of computed bounds: with no axes said they may be fewer than that
    first, last = (_unless_computed(call, k, word, count) for k, word in ((1, "starts"), (2, "ends")))
    which = list(range(len(first))) if named is None else named
    steps = _unless_computed(call, 4, "steps", len(first)) if call.has(4) else [1] * len(first)
    for start, end, axis, step in zip(first, last, which, steps, strict=True):
        k = call.axis(axis, len(x))
        found[k] = None if start is None or end is None or step is None else _sliced(x[k], start, end, step)
    return [found]


def _unless_computed(call: Call, position: int, attribute: str, count: int) -> list[Dim] | list[None]:
    """Amounts that the node says or that are known; as many times None where they are computed."""
    try:
        return bounds_of(call, position, attribute)
    except UnknownError:
        return [None] * count


def _sliced(size: Dim, start: Dim, end: Dim, step: Dim) -> Dim | None:
    if isinstance(size, Size) or isinstance(start, Size) or isinstance(end, Size) or isinstance(step, Size):
        whole = start == 0 and (end == size or (not isinstance(end, Size) and end >= 2**31 - 1))
        return size if whole and step == 1 else None
    a, b = (v + size if v < 0 else v for v in (start, end))
    if step > 0:
        return len(range(min(max(a, 0), size), min(max(b, 0), size), step))
    return len(range(min(max(a, 0), size - 1), min(max(b, -1), size - 1), step)) if step and size else 0


@shapes_of("onnx.Expand")
def _expand(call: Call) -> Shapes:
    x = call.shape(0)
    try:
        return [broadcast(x, call.contents(1))]
    except UnknownError:
        (rank,) = call.shape(1)
        if isinstance(rank, Size) or rank > MOST_AXES or call.fact(1).value is not None:
            raise
        return [of_rank(max(rank, len(x)))]


@shapes_of("onnx.Tile")
def _tile(call: Call) -> Shapes:
    if call.has(2):
        x: list[Dim | None] = list(call.shape(0))
        (axis,), (times,) = call.integers(2), call.contents(1)
        axis = call.axis(axis, len(x))
        x[axis] = call.shape(0)[axis] * times
        return [x]
    times_each = _unless_computed(call, 1, "repeats", len(call.shape(0)))
    return [[None if t is None else n * t for n, t in zip(call.shape(0), times_each, strict=True)]]


@shapes_of("onnx.Pad")
def _pad(call: Call) -> Shapes:
    x = call.shape(0)
    found: list[Dim | None] = list(x)
    which = list(range(len(x))) if not call.has(3) else [call.axis(a, len(x)) for a in call.integers(3)]
    amounts = _unless_computed(call, 1, "pads", 2 * len(which))
    if len(amounts) != 2 * len(which):
        raise UnknownError("pads")
    for position, axis in enumerate(which):
        low, high = amounts[position], amounts[position + len(which)]
        found[axis] = None if low is None or high is None else x[axis] + low + high
    return [found]


@shapes_of("onnx.CenterCropPad")
def _center_crop_pad(call: Call) -> Shapes:
    x = call.shape(0)
    found, axes = list(x), call.node.attributes.get("axes")
    which = list(range(len(x))) if axes is None else [call.axis(a, len(x)) for a in call.node.integers("axes")]
    for axis, size in zip(which, call.contents(1), strict=True):
        found[axis] = size
    return [found]
