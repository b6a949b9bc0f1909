"""A layer's real computation, step by step, as data: slide, paint, and the three gradients.

    t = trace(layer, x)                    a convolution, deconvolution or fully connected layer of preimage.nn
    t = trace_conv(x, w, b, stride=2)      or arrays, as preimage.conv takes them; trace_conv_transpose, trace_linear

    t.slide((0, 3, 5, 5))        one output: the window times the stencil, term by term
    t.paint((0, 1, 2, 2))        one activation: its stencil scaled, and where it lands
    t.painting()                 the output growing, one activation after the other
    t.grad_weight((3, 1, 0, 0), g), t.grad_input(index, g), t.grad_bias(3, g)      which terms meet in one gradient

`slide` and the gradients are sums in the order of the numerics contract: the value is the engine's, to the last bit. A fully
connected layer is the geometry without spatial axes: every input meets every output, and no weight is used twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.sums import Sum, sum_of
from preimage.analysis.terms import Places, Sides
from preimage.autograd import array_of, no_grad
from preimage.display import Shown
from preimage.errors import OptionError, ShapeError
from preimage.geometry import ConvGeometry
from preimage.nn import Linear
from preimage.ops import conv as run_conv
from preimage.ops import conv_transpose as run_conv_transpose
from preimage.ops import linear as run_linear
from preimage.ops.contraction import one_dtype
from preimage.ops.operands import operand
from preimage.ops.pad import check_mode
from preimage.typing import PaddingMode

__all__ = ["Frame", "LayerTrace", "Stroke", "trace", "trace_conv", "trace_conv_transpose", "trace_linear"]

Array = NDArray[Any]
Index = tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Stroke(Shown):
    """What one input activation adds to the output: value * weights[k] at outputs[k], for every k.

    outputs, weight_index: (terms, axes) indices into the output and the weight; an output may appear more than once where a
    padding mode copies the activation.
    """

    index: Index
    value: float
    outputs: Array
    weight_index: Array
    weights: Array

    @property
    def products(self) -> Array:
        with np.errstate(all="ignore"):
            return self.weights.astype(np.float64) * float(self.value)

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        return f"Stroke({list(self.index)} = {self.value:.8g} reaches {len(self)} outputs)"


@dataclass(frozen=True, repr=False)
class Frame(Shown):
    """One step of the painting: the stroke, and the output (in float64) after it; the bias comes in the last frame."""

    stroke: Stroke | None
    output: Array

    def __repr__(self) -> str:
        return f"Frame(after {self.stroke or 'the bias'}, output {self.output.shape})"


class LayerTrace(Shown):
    """One layer on one input. `x`, `w`, `b` are the layer's input, weight and bias; the geometry reads from large to small side.

    names: what the arrays are called in sums ("x", "w", "y"). Built by `trace`, `trace_conv`, `trace_conv_transpose`,
    `trace_linear`.
    """

    def __init__(
        self, geometry: ConvGeometry, transposed: bool, x: Array, w: Array, b: Array | None, mode: PaddingMode = "zeros",
        fully_connected: bool = False, name: str = "",
    ) -> None:  # fmt: skip
        self.geometry, self.transposed, self.padding_mode = geometry, transposed, mode
        self.x, self.w, self.b = x, w, b
        self.fully_connected, self.name = fully_connected, name
        self.sides = Sides(geometry, mode)
        self._output: Array | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.geometry.output_shape if self.transposed else self.geometry.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.geometry.input_shape if self.transposed else self.geometry.output_shape

    @property
    def output(self) -> Array:
        """The layer's result, as the engine in force gives it."""
        if self._output is None:
            with no_grad():
                self._output = np.asarray(array_of(self._run()))
        return self._output

    def _run(self) -> Any:
        if self.fully_connected:
            return run_linear(self.x, self.w, self.b)
        g = self.geometry
        options: dict[str, Any] = {
            "stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups, "padding_mode": self.padding_mode,
        }  # fmt: skip
        if self.transposed:
            return run_conv_transpose(self.x, self.w, self.b, output_size=g.input_size, **options)
        return run_conv(self.x, self.w, self.b, **options)

    # -- forward ---------------------------------------------------------------------------------------------------

    def slide(self, index: Any) -> Sum:
        """One output as the sum that it is: the window of the input under it times the stencil.

        Raises: ShapeError for an index outside the output.
        """
        at = checked(index, self.output_shape, "the output")
        places = self.sides.large(at) if self.transposed else self.sides.small(at)
        bias = None if self.b is None else float(self.b[at[1]])
        contraction = "matmul" if self.fully_connected else "conv_transpose" if self.transposed else "conv"
        return sum_of("y", at, ("x", "w"), places, self.x, self.w, bias, contraction, wide=True)

    def paint(self, index: Any) -> Stroke:
        """One activation of the input: its stencil scaled, and the outputs that it lands on.

        Raises: ShapeError for an index outside the input.
        """
        at = checked(index, self.input_shape, "the input")
        places = self.sides.small(at) if self.transposed else self.sides.large(at)
        inside = ~places.outside
        outputs, where = places.first[inside], places.second[inside]
        return Stroke(at, self.x[at].item(), outputs, where, np.asarray(self.w[tuple(where.T)]))

    reach = paint

    def painting(self) -> Iterator[Frame]:
        """The output growing: a frame after each activation, in row-major order, then one with the bias.

        The frames are in float64 and sum by activations, so the last one agrees with `output` up to rounding.
        """
        output = np.zeros(self.output_shape)
        for index in product(*map(range, self.input_shape)):
            stroke = self.paint(index)
            with np.errstate(all="ignore"):
                np.add.at(output, tuple(stroke.outputs.T), stroke.products)
            yield Frame(stroke, output.copy())
        if self.b is not None:
            output += self.b.astype(np.float64).reshape(-1, *[1] * self.geometry.ndim)
            yield Frame(None, output.copy())

    # -- gradients -------------------------------------------------------------------------------------------------

    def grad_input(self, index: Any, grad_output: Any) -> Sum:
        """The gradient of one input cell: the cotangents of all outputs that it fed, each times the weight on the way."""
        at, g = checked(index, self.input_shape, "the input"), self._cotangent(grad_output)
        places = self.sides.small(at) if self.transposed else self.sides.large(at)
        contraction = "matmul" if self.fully_connected else "conv" if self.transposed else "conv_transpose"
        return sum_of("grad_x", at, ("grad_y", "w"), places, g, self.w, None, contraction)

    def grad_weight(self, index: Any, grad_output: Any) -> Sum:
        """The gradient of one weight: a sum over every position at which it was used (the weight is shared)."""
        at, g = checked(index, self.w.shape, "the weight"), self._cotangent(grad_output)
        places = self.sides.weight(at)
        large, small = (g, self.x) if self.transposed else (self.x, g)
        names = ("grad_y", "x") if self.transposed else ("x", "grad_y")
        return sum_of("grad_w", at, names, places, large, small, None, "conv_weight_grad")

    def grad_bias(self, channel: int, grad_output: Any) -> Sum:
        """The gradient of one bias: the cotangents of its channel, summed. No order is promised for it."""
        if self.b is None:
            raise OptionError("this layer has no bias")
        (at,) = checked((channel,), (self.output_shape[1],), "the bias")
        g = self._cotangent(grad_output)
        cells = [(n, at, *p) for n in range(g.shape[0]) for p in product(*map(range, g.shape[2:]))]
        where = np.array(cells, np.int64).reshape(len(cells), g.ndim)
        none = np.zeros(len(cells), bool)
        ones = Places(where, np.zeros((len(cells), 1), np.int64), none, none)
        return sum_of("grad_b", (at,), ("grad_y", "one"), ones, g, np.ones(1, g.dtype), None, "conv", promised=False)

    def _cotangent(self, grad_output: Any) -> Array:
        g = np.asarray(array_of(grad_output))
        if g.shape != self.output_shape:
            raise ShapeError(f"grad_output has shape {g.shape}, wanted the output's, {self.output_shape}")
        return g.astype(self.w.dtype, copy=False)

    def __repr__(self) -> str:
        kind = "fully connected" if self.fully_connected else "transposed convolution" if self.transposed else "convolution"
        return f"LayerTrace({kind}, {self.input_shape} -> {self.output_shape}, weight {self.w.shape}, {self.w.dtype})"


def checked(index: Any, shape: tuple[int, ...], what: str) -> Index:
    """An index as non-negative integers. Raises: ShapeError for another number of axes, or a place outside `shape`."""
    try:
        at = tuple(int(i) for i in (index if hasattr(index, "__iter__") else (index,)))
    except (TypeError, ValueError):
        raise ShapeError(f"{index!r} is no index: wanted {len(shape)} integers, one per axis of shape {shape}") from None
    if len(at) != len(shape):
        raise ShapeError(f"index {at} has {len(at)} numbers; {what} has shape {shape}: wanted {len(shape)}")
    for axis, (i, n) in enumerate(zip(at, shape, strict=True)):
        if not -n <= i < n:
            raise ShapeError(f"index {at} lies outside {what} of shape {shape}: axis {axis} takes {-n} to {n - 1}")
    return tuple(i % n for i, n in zip(at, shape, strict=True))


# -- from layers and arrays --------------------------------------------------------------------------------------------


def _plain(value: Any, name: str) -> Array:
    return np.asarray(array_of(operand(value, name)))


def _operands(x: Any, w: Any, b: Any) -> tuple[Array, Array, Array | None]:
    arrays = _plain(x, "x"), _plain(w, "w"), None if b is None else _plain(b, "b")
    one_dtype(x=arrays[0], w=arrays[1], b=arrays[2])
    return arrays


def _check_bias(b: Array | None, channels: int) -> None:
    if b is not None and b.shape != (channels,):
        raise ShapeError(f"b has shape {b.shape}, wanted ({channels},): one value per channel of the output")


def trace_conv(x: Any, w: Any, b: Any = None, *, padding_mode: PaddingMode = "zeros", **options: Any) -> LayerTrace:
    """The trace of `preimage.conv(x, w, b, **options)`: stride, padding, dilation, groups, padding_mode."""
    check_mode(padding_mode)
    x, w, b = _operands(x, w, b)
    g = ConvGeometry.from_conv(x.shape, w.shape, **options)
    _check_bias(b, g.out_channels)
    return LayerTrace(g, False, x, w, b, padding_mode)


def trace_conv_transpose(y: Any, w: Any, b: Any = None, *, padding_mode: PaddingMode = "zeros", **options: Any) -> LayerTrace:
    """The trace of `preimage.conv_transpose(y, w, b, **options)`: also output_padding or output_size."""
    check_mode(padding_mode)
    y, w, b = _operands(y, w, b)
    g = ConvGeometry.from_conv_transpose(y.shape, w.shape, **options)
    _check_bias(b, g.in_channels)
    return LayerTrace(g, True, y, w, b, padding_mode)


def trace_linear(x: Any, w: Any, b: Any = None) -> LayerTrace:
    """The trace of a fully connected layer, `preimage.ops.linear(x, w, b)`: x (N, in) and w (out, in)."""
    x, w, b = _operands(x, w, b)
    if x.ndim != 2 or w.ndim != 2:
        raise ShapeError(f"a fully connected layer is traced on x (N, in) with w (out, in), got shapes {x.shape} and {w.shape}")
    g = ConvGeometry.from_conv(x.shape, w.shape)
    _check_bias(b, g.out_channels)
    return LayerTrace(g, False, x, w, b, fully_connected=True)


def trace(layer: Any, x: Any, *, name: str = "") -> LayerTrace:
    """The trace of one layer of preimage.nn (Conv1d..3d, ConvTranspose1d..3d, Linear) on an input.

    An input without a batch axis is given one. Layers over channels-last activations are traced channels first.

    Raises: OptionError for a module that is none of these; ShapeError for an input that does not fit.
    """
    x = _plain(x, "x")
    weight = getattr(layer, "weight", None)
    bias = getattr(layer, "bias", None)
    if isinstance(layer, Linear):
        made = trace_linear(x[None] if x.ndim == 1 else x, weight, bias)
    elif hasattr(layer, "transposed") and weight is not None:
        if x.ndim == layer.ndim + 1:
            x = x[None]
        if layer.layout == "channels_last" and x.ndim == layer.ndim + 2:
            x = np.moveaxis(x, -1, 1)
        options = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups", "padding_mode")}
        if layer.transposed:
            made = trace_conv_transpose(x, weight, bias, output_padding=layer.output_padding, **options)
        else:
            made = trace_conv(x, weight, bias, **options)
    else:
        raise OptionError(
            f"trace takes a convolution, deconvolution or Linear layer of preimage.nn, got {type(layer).__name__};"
            " for a whole network use why(y, index), reach(x, index, y) or first_nan(net, x)"
        )
    made.name = name
    return made
