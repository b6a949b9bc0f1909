"""A slice of a layer over three axes: the outputs at one depth, as a layer over two.

    y[o, d, h, w] = sum over c and k of the layer over (h, w) with x[c, depth that tap k meets] and w[o, c, k]

So the outputs at one depth are those of a layer over two axes whose channels are pairs of a channel and a tap in depth. It adds up the
same products, in another order: whole numbers agree exactly, others within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preimage.errors import GeometryError, OptionError
from preimage.report.explain.contract import Array, Spec, geometry_of

__all__ = ["Slice", "slice_of"]

_PER_AXIS = ("input_size", "output_size", "kernel_size", "stride", "padding", "dilation", "output_padding")


@dataclass(frozen=True, slots=True)
class Slice:
    """A layer over two axes in full, its arrays, which slice it is in words, and what each of its input channels is."""

    spec: Spec
    values: dict[str, Array]
    note: str
    channels: list[str]


def slice_of(spec: Spec, values: dict[str, Array], at: Sequence[int] | None) -> Slice:
    """The slice at an output index (channel, depth, row, column); the middle by default. Of a fully connected layer the whole.

    Raises: OptionError for a place that is not in the output; GeometryError where no input reaches that depth.
    """
    size = spec["output_size"]
    if spec["kind"] == "linear":
        return _linear(spec, values)
    shape = (spec["out_channels"], *size)
    if at is not None and (len(at) != 4 or not all(0 <= i < n for i, n in zip(at, shape, strict=True))):
        raise OptionError(f"at is {tuple(at)}, wanted an index into the output of shape {shape}: channel, depth, row, column")
    met = [_met(spec, depth) for depth in range(size[0])]
    depth = size[0] // 2 if at is None else int(at[1])
    if not met[depth]:
        reached = [d for d in range(size[0]) if met[d]]
        if not reached:
            raise GeometryError("every output of this layer is its bias alone: no weight meets an input")
        nearest = min(reached, key=lambda d: abs(d - depth))
        if at is not None:
            raise GeometryError(f"no input reaches the outputs at depth {depth}; the nearest depth that one reaches is {nearest}")
        depth = nearest
    pairs = met[depth]
    small = {word: value[1:] if word in _PER_AXIS else value for word, value in spec.items()}
    small["in_channels"] = spec["in_channels"] * len(pairs)
    names = [f"{c} d{i} k{k}" for c in range(spec["in_channels"]) for i, k in pairs]
    return Slice(small, _arrays(spec, values, pairs, depth), _words(spec, depth, pairs), names)


def _met(spec: Spec, depth: int) -> list[tuple[int, int]]:
    """The pairs of an input depth and a tap that meet in the outputs at one depth."""
    lo, stride, dilation = spec["padding"][0][0], spec["stride"][0], spec["dilation"][0]
    pairs = [(i, k) for i in range(spec["input_size"][0]) for k in range(spec["kernel_size"][0])]
    if spec["kind"] == "conv_transpose":
        return [(i, k) for i, k in pairs if i * stride - lo + k * dilation == depth]
    return [(i, k) for i, k in pairs if depth * stride - lo + k * dilation == i]


def _arrays(spec: Spec, values: dict[str, Array], pairs: list[tuple[int, int]], depth: int) -> dict[str, Array]:
    inputs, taps = [i for i, _ in pairs], [k for _, k in pairs]
    result = {}
    for name, array in values.items():
        if name == "input":
            made = array[:, inputs].reshape(-1, *array.shape[2:])
        elif name == "grad_output":
            made = array[:, depth]
        elif name == "weight" and spec["kind"] == "conv":
            made = array[:, :, taps].reshape(len(array), -1, *array.shape[3:])
        elif name == "weight":
            made = array[:, :, taps].swapaxes(1, 2).reshape(-1, array.shape[1], *array.shape[3:])
        else:
            made = array
        result[name] = np.ascontiguousarray(made)
    return result


def _words(spec: Spec, depth: int, pairs: list[tuple[int, int]]) -> str:
    left = spec["kernel_size"][0] - len(pairs)
    padded = spec["kind"] == "conv" and left
    rest = f" The other {'tap meets' if left == 1 else f'{left} taps meet'} padding." if padded else ""
    return (
        f"A slice of a layer over three axes: the outputs at depth {depth} of {spec['output_size'][0]}. Its input channels are pairs of"
        f" a channel and a tap in depth, {len(pairs)} for each of the layer's {spec['in_channels']}: 0 d{pairs[0][0]} k{pairs[0][1]} is channel 0"
        f" at depth {pairs[0][0]}, which meets tap {pairs[0][1]}.{rest} The products are those of the"
        " layer, added in another order, so last digits may differ. Gradients are those of this slice alone."
    )


def _linear(spec: Spec, values: dict[str, Array]) -> Slice:
    """Depths side by side as channels: a fully connected layer does not mind."""
    (depth, *size), (rows, *rest) = spec["input_size"], spec["output_size"]
    small = {word: value[1:] if word in _PER_AXIS else value for word, value in spec.items()}
    small |= {"in_channels": spec["in_channels"] * depth, "out_channels": spec["out_channels"] * rows}
    outputs = geometry_of(spec).out_channels
    shapes = {
        "input": (-1, *size), "weight": (outputs, spec["in_channels"] * depth, *size), "bias": (outputs,), "grad_output": (-1, *rest),
    }  # fmt: skip
    made = {name: array.reshape(shapes[name]) for name, array in values.items()}
    names = [f"{c} d{i}" for c in range(spec["in_channels"]) for i in range(depth)]
    return Slice(
        small,
        made,
        "A fully connected layer over three axes, its depths side by side as channels: 0 d1 is channel 0 at depth 1.",
        names,
    )
