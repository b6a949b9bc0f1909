"""The part of a large layer that a page can hold: a window of outputs, with all inputs and weights that they are made of.

Every output of the part has exactly the terms that it has in the whole layer, so it has the same bits. Gradients are those of
the part alone: what flows back from outputs outside of it is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from preimage.errors import GeometryError, OptionError
from preimage.geometry import extent_of
from preimage.report.explain.contract import MOST_SIZE, Array, Spec, geometry_of, shapes_of, too_large

__all__ = ["Part", "part_of"]

#: What a part aims at: quick to step through and small to send.
PART_MACS, PART_ELEMENTS, PART_OUTPUTS, PART_CHANNELS = 500_000, 60_000, 24, 8


@dataclass(frozen=True, slots=True)
class Part:
    """A layer in full, its arrays, in words which part of the whole it is, and which of the input channels it has."""

    spec: Spec
    values: dict[str, Array]
    note: str
    inputs: range


@dataclass(frozen=True, slots=True)
class _Axis:
    """A window along one axis: outputs first..last (not included), the inputs that make them, their padding."""

    first: int
    last: int
    input_first: int
    input_last: int
    padding: tuple[int, int]
    output_padding: int


def part_of(spec: Spec, values: dict[str, Array], at: Sequence[int] | None) -> Part:
    """The part around an output index (channel, then space; the middle by default).

    Raises: OptionError for a place that is not in the output; GeometryError where a single output is too large for the page.
    """
    shape = (spec["out_channels"], *spec["output_size"])
    place = tuple(n // 2 for n in shape) if at is None else tuple(int(i) for i in at)
    if len(place) != len(shape) or not all(0 <= i < n for i, n in zip(place, shape, strict=True)):
        raise OptionError(f"at is {tuple(at or ())}, wanted an index into the output of shape {shape}: channel, then space")
    if spec["kind"] == "linear":
        return _rows(spec, values, place)
    channels = _channels(spec, place[0])
    small: Spec = {**spec, "out_channels": len(channels[1]), "in_channels": len(channels[0]), "groups": channels[2]}
    side = min(PART_OUTPUTS, max(spec["output_size"]))
    while True:
        axes = [_axis(spec, axis, place[axis + 1], side) for axis in range(len(spec["input_size"]))]
        _cut(small, axes)
        if _fits(small):
            break
        if side == 1:
            raise GeometryError(f"one output of this layer has {geometry_of(small).macs} products: more than the page shows")
        side -= 1
    return Part(small, _arrays(spec, values, channels, axes), _words(shape, channels[1], axes), channels[0])


def _cut(small: Spec, axes: list[_Axis]) -> None:
    small["input_size"] = [a.input_last - a.input_first for a in axes]
    small["output_size"] = [a.last - a.first for a in axes]
    small["padding"] = [list(a.padding) for a in axes]
    small["output_padding"] = [a.output_padding for a in axes]


def _fits(spec: Spec) -> bool:
    sizes = {name: prod(shape) for name, shape in shapes_of(spec).items() if name != "weight"}
    return too_large(spec) is None and geometry_of(spec).macs <= PART_MACS and max(sizes.values()) <= PART_ELEMENTS


def _channels(spec: Spec, middle: int) -> tuple[range, range, int]:
    """Input channels, output channels and groups to keep: whole groups, or with one group all inputs and some outputs."""
    outputs, inputs, groups = spec["out_channels"], spec["in_channels"], spec["groups"]
    taps = prod(spec["kernel_size"])
    if groups == 1:
        keep = max(1, min(outputs, PART_CHANNELS, PART_ELEMENTS // max(inputs * taps, 1)))
        first = min(max(0, middle - keep // 2), outputs - keep)
        return range(inputs), range(first, first + keep), 1
    per_in, per_out = inputs // groups, outputs // groups
    keep = max(1, min(groups, PART_CHANNELS, PART_ELEMENTS // max(per_in * per_out * taps, 1)))
    first = min(max(0, middle // per_out - keep // 2), groups - keep)
    return range(first * per_in, (first + keep) * per_in), range(first * per_out, (first + keep) * per_out), keep


def _axis(spec: Spec, axis: int, middle: int, side: int) -> _Axis:
    """The window of about `side` outputs around one place."""
    size, outputs, stride = spec["input_size"][axis], spec["output_size"][axis], spec["stride"][axis]
    extent, lo = extent_of(spec["kernel_size"][axis], spec["dilation"][axis]), spec["padding"][axis][0]
    first = min(max(0, middle - side // 2), max(0, outputs - side))
    last = min(outputs, first + side)
    if spec["kind"] == "conv":
        begin, end = first * stride - lo, (last - 1) * stride - lo + extent  # the places that the windows cover
        input_first, input_last = min(max(begin, 0), size - 1), max(min(end, size), 1)
        input_last = max(input_last, input_first + 1)
        return _Axis(first, last, input_first, input_last, (input_first - begin, end - input_last), 0)
    # output q gets input p through tap k where q = p*stride - lo + k*dilation: from p = ceil((q + lo - extent + 1) / stride) to (q + lo) // stride
    input_first = min(max(0, -(-(first + lo - extent + 1) // stride)), size - 1)
    input_last = max(min(size, (last - 1 + lo) // stride + 1), input_first + 1)
    whole = (input_last - input_first - 1) * stride + extent  # what these inputs paint, from input_first*stride - lo on
    before = first - (input_first * stride - lo)
    after = whole - before - (last - first)
    return _Axis(first, last, input_first, input_last, (before, after), 0)


def _arrays(spec: Spec, values: dict[str, Array], channels: tuple[range, range, int], axes: list[_Axis]) -> dict[str, Array]:
    inputs, outputs, _ = channels
    into = tuple(slice(a.input_first, a.input_last) for a in axes)
    out = tuple(slice(a.first, a.last) for a in axes)
    result = {}
    for name, array in values.items():
        if name == "input":
            kept = array[(slice(inputs.start, inputs.stop), *into)]
        elif name == "grad_output":
            kept = array[(slice(outputs.start, outputs.stop), *out)]
        elif name == "bias" or spec["kind"] == "conv":
            kept = array[outputs.start : outputs.stop]
        elif spec["groups"] == 1:
            kept = array[:, outputs.start : outputs.stop]
        else:
            kept = array[inputs.start : inputs.stop]
        result[name] = np.ascontiguousarray(kept)
    return result


def _rows(spec: Spec, values: dict[str, Array], place: tuple[int, ...]) -> Part:
    """Some outputs of a fully connected layer, in a row."""
    outputs, inputs = spec["out_channels"] * prod(spec["output_size"]), spec["in_channels"] * prod(spec["input_size"])
    keep = min(outputs, PART_OUTPUTS, PART_ELEMENTS // max(inputs, 1))
    if keep < 1:
        raise GeometryError(f"one output of this layer has {inputs} weights: more than the page shows")
    middle = int(np.ravel_multi_index(place, (spec["out_channels"], *spec["output_size"])))
    first = min(max(0, middle - keep // 2), outputs - keep)
    rows = slice(first, first + keep)
    small = {**spec, "out_channels": 1, "output_size": [1] * (len(spec["output_size"]) - 1) + [keep]}
    if max(spec["input_size"]) > MOST_SIZE:
        small.update({word: [n, n] for word, n in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("output_padding", 0))})
        small.update(input_size=_rectangle(prod(spec["input_size"])), output_size=[1, keep], padding=[[0, 0], [0, 0]])
    kept = {name: array if name == "input" else array.reshape(outputs, -1)[rows] for name, array in values.items()}
    shapes = shapes_of(small)
    result = {name: np.ascontiguousarray(array).reshape(shapes[name]) for name, array in kept.items()}
    note = f"Outputs {first} to {first + keep - 1} of {outputs}, each with all its inputs."
    return Part(small, result, note, range(small["in_channels"]))


def _rectangle(count: int) -> list[int]:
    """So many inputs of a fully connected layer laid out for the eye: in as near a square as there is."""
    for rows in range(int(count**0.5), 0, -1):
        if count % rows == 0 and count // rows <= MOST_SIZE:
            return [rows, count // rows]
    raise GeometryError(
        f"the {count} inputs of this layer cannot be laid out in rows of at most {MOST_SIZE}, and the page shows no longer ones"
    )


def _words(shape: tuple[int, ...], channels: range, axes: list[_Axis]) -> str:
    space = " x ".join(f"{a.first} to {a.last - 1}" for a in axes)
    return (
        f"A part of a larger layer: outputs {space} of {' x '.join(map(str, shape[1:]))},"
        f" channels {channels.start} to {channels.stop - 1} of {shape[0]},"
        " each with all its inputs and weights, so with the bits that it has in the whole. Gradients are those of this part alone."
    )
