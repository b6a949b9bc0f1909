"""`preimage draw`: pictures of one layer at work, on numbers of yours or small random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from preimage.analysis import LayerTrace, analyse
from preimage.analysis.spectrum import spectrum
from preimage.cli import one_layer
from preimage.cli.output import check_outputs
from preimage.errors import OptionError, ShapeError
from preimage.geometry import ConvGeometry
from preimage.host import printable
from preimage.io.weights import read_npy
from preimage.ops import conv, conv_transpose
from preimage.report import draw as pictures

__all__ = ["KINDS", "draw"]

KINDS = {
    "slide": "each output: a window times the stencil",
    "paint": "each input: its stencil added to the output as it grows",
    "gradients": "of a weight, an input, the bias: which terms meet",
    "matrix": "the layer as one matrix, and its transpose",
    "columns": "im2col and the matrix product; of a deconvolution the product and col2im",
    "taps": "one axis as wires: stride, padding, dilation, output_padding",
    "groups": "which channels are joined",
    "checkerboard": "how many taps land on each cell",
    "spectrum": "the frequencies of what a constant input gives",
    "field": "what one output sees and one input reaches, through --depth layers",
}


def draw(
    kind: Annotated[str, typer.Argument(help=", ".join(KINDS))],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file: .svg, .png (one frame), .gif or .apng (all frames).")],
    kernel: one_layer.Kernel = "",
    size: Annotated[str, typer.Option(help="The input's spatial size: 8 or 8,8.")] = "",
    channels: Annotated[str, typer.Option(help="Input and output channels: 2,1.")] = "",
    transposed: one_layer.Transposed = False,
    stride: one_layer.Stride = "1",
    padding: one_layer.Padding = "0",
    dilation: one_layer.Dilation = "1",
    groups: one_layer.Groups = 1,
    output_padding: one_layer.OutputPadding = "0",
    spelling: Annotated[
        str, typer.Option("--from", help='A layer in a library\'s words: "ConvTranspose2d(1, 1, 4, 2, 1)".')
    ] = "",
    given: Annotated[Path | None, typer.Option("--input", help="The input, an .npy file of the layer's input shape.")] = None,
    weight: Annotated[Path | None, typer.Option(help="The weight, an .npy file of the layer's weight shape.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random whole numbers that stand where no file is given.")] = 0,
    bias: Annotated[bool, typer.Option(help="Add a bias.")] = False,
    axis: Annotated[int, typer.Option(help="With taps: which axis.")] = 0,
    depth: Annotated[int, typer.Option(help="With field: so many such layers, one behind the other.")] = 3,
    frame: Annotated[int | None, typer.Option(help="Of .svg and .png: which frame, from 0; -1 is the last.")] = None,
    scale: Annotated[int | None, typer.Option(help="Of pixels: how many for each unit, 1 to 8.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file.")] = False,
) -> None:
    """Draw one layer at work. Without options: the deconvolution that doubles a picture."""
    if kind not in KINDS:
        raise OptionError(f"no kind of picture is called {kind!r}; there are {', '.join(KINDS)}")
    if output.suffix.lower() not in pictures.ENDINGS:
        raise OptionError(f"{output}: the name must end in one of {', '.join(pictures.ENDINGS)}")
    if seed < 0:
        raise OptionError(f"--seed must not be negative, got {seed}")
    check_outputs(output, overwrite=overwrite)
    words = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "output_padding": output_padding}
    geometry, is_transposed, _ = one_layer.layer_of(spelling, kernel, size, channels, transposed, None, None, words)
    values = Values(geometry, is_transposed, given, weight, seed, bias)
    made = _drawing(kind, values, axis, depth)
    made.write(output, frame=frame, scale=scale, overwrite=overwrite)
    moving = output.suffix.lower() in (".gif", ".apng")
    frames = f": {len(made)} frames" if moving else f": one of {len(made)} frames (--frame)" if len(made) > 1 else ""
    Console(soft_wrap=True).print(f"{printable(str(output))}{frames}", highlight=False, markup=False)


class Values:
    """The layer's numbers: from files, else small whole ones, the same for the same seed. Made when they are asked for."""

    def __init__(
        self, geometry: ConvGeometry, transposed: bool, given: Path | None, weight: Path | None, seed: int, bias: bool
    ) -> None:  # fmt: skip
        self.geometry, self.transposed = geometry, transposed
        self._given, self._weight, self._bias = given, weight, bias
        self._rng = np.random.default_rng(seed)

    def whole(self, shape: tuple[int, ...]) -> Any:
        """Whole numbers from -3 to 3. Raises: OptionError for more than can be drawn."""
        pictures.refuse_large(shape[1:], "an array of the layer")
        return self._rng.integers(-3, 4, shape).astype(np.float32)

    def trace(self) -> LayerTrace:
        g = self.geometry
        shape, channels = (g.output_shape, g.in_channels) if self.transposed else (g.input_shape, g.out_channels)
        x = self.whole(shape) if self._given is None else _read(self._given, shape, "input")
        w = self.whole(g.weight_shape) if self._weight is None else _read(self._weight, g.weight_shape, "weight")
        return LayerTrace(g, self.transposed, x, w, self.whole((1, channels))[0] if self._bias else None)


def _read(path: Path, shape: tuple[int, ...], what: str) -> Any:
    array = read_npy(path)
    if array.shape == shape[1:]:
        array = array[None]
    if array.shape != shape:
        raise ShapeError(f"{path}: has shape {array.shape}; the layer's {what} has {shape}")
    if array.dtype.kind not in "fiub":
        raise OptionError(f"{path}: holds {array.dtype}; wanted real numbers")
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def _drawing(kind: str, values: Values, axis: int, depth: int) -> pictures.Drawing:
    g = values.geometry
    of_geometry: dict[str, Callable[[], pictures.Drawing]] = {
        "taps": lambda: pictures.taps(g, values.transposed, axis=axis),
        "groups": lambda: pictures.groups(g, values.transposed),
        "checkerboard": lambda: pictures.checkerboard(g),
        "field": lambda: _field(values, depth),
    }
    if kind in of_geometry:
        return of_geometry[kind]()
    trace = values.trace()
    if kind == "gradients":
        return pictures.gradients(trace, values.whole(trace.output_shape))
    if kind == "spectrum":
        return _spectrum(trace)
    of_trace = {"slide": pictures.slide, "paint": pictures.paint, "matrix": pictures.matrix, "columns": pictures.columns}
    return of_trace[kind](trace)


def _spectrum(trace: LayerTrace) -> pictures.Drawing:
    """What a constant becomes: on the output of a deconvolution, on the input gradient of a convolution."""
    g = trace.geometry
    large = conv_transpose(
        np.ones(g.output_shape, trace.w.dtype), trace.w, stride=g.stride, padding=g.padding, dilation=g.dilation, groups=g.groups,
        output_size=g.input_size,
    )  # fmt: skip
    return pictures.spectrum(spectrum(g, large), title="What a constant becomes")


def _field(values: Values, depth: int) -> pictures.Drawing:
    g = values.geometry
    if not 1 <= depth <= 20:
        raise OptionError(f"--depth must be from 1 to 20, got {depth}")
    if depth > 1 and g.in_channels != g.out_channels:
        raise OptionError(
            f"layers one behind the other need as many input as output channels, got {g.in_channels} and {g.out_channels}"
        )
    options: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
    w = np.ones(g.weight_shape, np.float32)

    def net(x: Any) -> Any:
        for _ in range(depth):
            x = conv_transpose(x, w, output_padding=g.remainder, **options) if values.transposed else conv(x, w, **options)
        return x

    return pictures.field(analyse(net, g.output_shape if values.transposed else g.input_shape))
