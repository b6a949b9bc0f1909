"""`preimage explain`: a layer, by options, in any library's words, or out of a model file: what it does, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import preimage
from preimage.analysis.spellings import LIBRARIES, LayerSpec, write
from preimage.cli import explained, one_layer, text
from preimage.cli.output import check_outputs
from preimage.engines import get, plan
from preimage.errors import OptionError, PreimageError
from preimage.geometry import ConvGeometry
from preimage.ops.layout import check_layout
from preimage.report.mechanics import axis_picture, axis_summary, coverage_lines, facts, plan_lines, verdict
from preimage.typing import Contraction, Layout

__all__ = ["explain"]

CONTRACTIONS: dict[Contraction, str] = {
    "conv": "small side from large side and weight",
    "conv_transpose": "large side from small side and weight",
    "conv_weight_grad": "weight from both sides",
}


def explain(
    model: Annotated[Path | None, typer.Argument(help="An .onnx, .prototxt or .caffemodel file; none: one layer.")] = None,
    kernel: one_layer.Kernel = "",
    size: Annotated[str, typer.Option(help="The input's spatial size: 8 or 8,8. For a model: of its input.")] = "",
    channels: Annotated[str, typer.Option(help="Input and output channels: 64,3.")] = "",
    transposed: one_layer.Transposed = False,
    stride: one_layer.Stride = "1",
    padding: one_layer.Padding = "0",
    dilation: one_layer.Dilation = "1",
    groups: one_layer.Groups = 1,
    output_padding: one_layer.OutputPadding = "0",
    given: Annotated[
        str,
        typer.Option("--input", help="The input's whole shape, 1,64,56,56 (with --weight); for a model: a picture or .npy file."),
    ] = "",
    weight: Annotated[str, typer.Option(help="The weight's whole shape: 128,64,3,3.")] = "",
    spelling: Annotated[
        str, typer.Option("--from", help='A layer in a library\'s words: "ConvTranspose2d(64, 3, 4, 2, 1)".')
    ] = "",
    to: Annotated[str, typer.Option(help="Write the layer in another's words: torch, keras, jax, onnx, caffe or all.")] = "",
    layer: Annotated[str, typer.Option(help="A layer of the model by its name.")] = "",
    weights: Annotated[Path | None, typer.Option(help="The caffemodel of a prototxt.")] = None,
    at: Annotated[str, typer.Option(help="One output of a model's layer, such as 0,3,5,5: the products that made it.")] = "",
    html: Annotated[Path | None, typer.Option(help="Write the interactive page of the layer to this file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of the page.")] = False,
    serve: Annotated[bool, typer.Option(help="Serve the interactive page on this machine, the library computing.")] = False,
    plans: Annotated[bool, typer.Option("--plan", help="Also how the engine would run each of the three contractions.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    layout: Annotated[str, typer.Option(help="With --plan: channels_first or channels_last.")] = "channels_first",
    engine: Annotated[str, typer.Option(help="auto, jit, gemm or reference.")] = "auto",
) -> None:
    """What a layer does: sizes, fields, flop, which taps land where. Without options: a deconvolution, as an example."""
    check_outputs(html, overwrite=overwrite)
    settings = preimage.config(**text.settings(engine))
    if engine != "auto":
        get(engine)  # known, and able to run here
    console = Console(soft_wrap=not Console().is_terminal)
    spec: LayerSpec | None
    if model is not None:
        if spelling or weight or kernel:
            raise OptionError("say a model file, or a layer by its options, not both; --layer NAME takes a layer of the model")
        with settings:
            shown = explained.of_model(model, weights, given, size, layer, at, console)
        if shown is None:
            if html is not None or serve or to or plans:
                raise OptionError("--html, --serve, --to and --plan are about one layer: add --layer NAME")
            return
        g, is_transposed, spec, page_layer = shown.geometry, shown.transposed, shown.spec, shown.page()
    else:
        if layer or at or weights is not None:
            raise OptionError("--layer, --at and --weights are about a model file: name one")
        shape, weight_shape = one_layer.shapes(given, weight)
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "output_padding": output_padding}
        g, is_transposed, spec = one_layer.layer_of(spelling, kernel, size, channels, transposed, shape, weight_shape, options)
        page_layer = None
    kind = _dtype(dtype)
    _tell(console, g, is_transposed, kind, spec is not None and spec.bias and bool(spelling or model))
    if spec is not None:
        _translations(console, spec, to, g.output_size if is_transposed else g.input_size)
    if plans:
        with settings:
            _plans(console, g, is_transposed, kind, check_layout(layout))
    elif not (html or serve or to or given or spelling or model):
        console.print(
            "\nMore: --html FILE for the interactive page, --plan for how it runs, --help for the rest.", highlight=False
        )
    if html is not None or serve:
        with settings:
            explained.show_page(page_layer or explained.page_of(g, is_transposed), html, serve, overwrite, console)


def _dtype(name: str) -> Any:
    if name not in text.DTYPES:
        raise OptionError(f"dtype must be float32, float64, float16 or bfloat16, got {name!r}")
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _tell(console: Console, g: ConvGeometry, transposed: bool, kind: Any, bias: bool) -> None:
    word = "deconvolution (transposed convolution)" if transposed else "convolution"
    console.print(f"[bold]A {word}, {g.ndim}-D, {kind.name}[/bold]")
    _print_rows(console, facts(g, transposed, kind.itemsize, bias))
    alike = len({(g.input_size[a], g.kernel_size[a], g.stride[a], g.padding[a], g.dilation[a]) for a in range(g.ndim)}) == 1
    for axis in range(min(g.ndim, 1) if alike else g.ndim):
        what = "where each input is painted on the output" if transposed else "the window of each output on the input"
        name = "Every axis" if alike and g.ndim > 1 else f"Axis {axis}"
        console.print(f"\n[bold]{name}[/bold]: {what} (# a tap, o one over the padding)")
        for line in (*axis_picture(g, axis), *coverage_lines(g, axis)):
            console.print(escape(line), highlight=False, soft_wrap=True)
        console.print(f"      {axis_summary(g, axis)}", highlight=False)
    console.print()
    for line in verdict(g, transposed) if g.ndim else ():
        console.print(line, highlight=False)


def _translations(console: Console, spec: LayerSpec, to: str, size: tuple[int, ...]) -> None:
    if not to:
        return
    names = LIBRARIES if to == "all" else text.words(to, "library (or all)", (*LIBRARIES, "pytorch", "tensorflow"))
    failed = None
    for name in names:
        try:
            said = write(spec, name, input_size=size)
        except PreimageError as error:
            failed, said = error, f"-: {error}"
        console.print(f"{name:<6} {escape(said)}", highlight=False, soft_wrap=True)
    if failed is not None and len(names) == 1:
        raise failed


def _plans(console: Console, g: ConvGeometry, transposed: bool, kind: Any, layout: Layout) -> None:
    for name, what in CONTRACTIONS.items():
        console.print(f"\n[bold]{name}[/bold]: {what}; {_role(name, transposed)}")
        _print_rows(console, plan_lines(plan(g, kind, name, layout=layout)))


def _role(name: str, transpose: bool) -> str:
    if name == "conv_weight_grad":
        return "the gradient of the weight"
    forward = (name == "conv_transpose") == transpose
    return "the forward pass" if forward else "the gradient of the input"


def _print_rows(console: Console, rows: list[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    console.print(table, highlight=False)
