"""`preimage explain`: the sizes, the mechanics and the plans of one layer."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import preimage
from preimage.cli import text
from preimage.engines import plan
from preimage.errors import OptionError
from preimage.geometry import ConvGeometry
from preimage.report.mechanics import axis_picture, axis_summary, facts, plan_lines

__all__ = ["explain"]

CONTRACTIONS = {
    "conv": "small side from large side and weight",
    "conv_transpose": "large side from small side and weight",
    "conv_weight_grad": "weight from both sides",
}


def explain(
    given: Annotated[str, typer.Option("--input", help="The input's shape, batch and channels first: 1,64,56,56.")],
    weight: Annotated[str, typer.Option(help="The weight's shape: 128,64,3,3.")],
    transpose: Annotated[bool, typer.Option("--transpose", help="It is a deconvolution: weight C_in, C_out/groups, ...")] = False,
    stride: Annotated[str, typer.Option(help="One number, or one per axis: 2 or 2,1.")] = "1",
    padding: Annotated[str, typer.Option(help="One number, one per axis, lo:hi pairs, same or valid.")] = "0",
    dilation: Annotated[str, typer.Option()] = "1",
    groups: Annotated[int, typer.Option()] = 1,
    output_padding: Annotated[str, typer.Option(help="With --transpose.")] = "0",
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    layout: Annotated[str, typer.Option(help="channels_first or channels_last.")] = "channels_first",
    engine: Annotated[str, typer.Option(help="auto, jit, gemm or reference.")] = "auto",
) -> None:
    """The sizes of one layer, which cells each output sees, and how each of the three contractions would run."""
    settings = preimage.config(**text.settings(engine))
    if dtype not in text.DTYPES:
        raise OptionError(f"dtype must be float32, float64, float16 or bfloat16, got {dtype!r}")
    if dtype == "bfloat16":
        import ml_dtypes

        kind: Any = np.dtype(ml_dtypes.bfloat16)
    else:
        kind = np.dtype(dtype)
    options: dict[str, Any] = {
        "stride": text.numbers(stride), "padding": text.padding(padding), "dilation": text.numbers(dilation), "groups": groups,
    }  # fmt: skip
    shape, weights = text.sizes(given), text.sizes(weight)
    if transpose:
        g = ConvGeometry.from_conv_transpose(shape, weights, output_padding=text.numbers(output_padding), **options)
    else:
        g = ConvGeometry.from_conv(shape, weights, **options)
    console = Console(soft_wrap=not Console().is_terminal)
    word = "deconvolution (transposed convolution)" if transpose else "convolution"
    console.print(f"[bold]A {word}, {g.ndim}-D, {dtype}[/bold]")
    _print_rows(console, facts(g, transpose, kind.itemsize))
    for axis in range(g.ndim):
        console.print(f"\n[bold]Axis {axis}[/bold]: what the first positions of the small side see of the large side")
        for line in axis_picture(g, axis):
            console.print(escape(line), highlight=False, soft_wrap=True)
        console.print(f"      {axis_summary(g, axis)}", highlight=False)
    with settings:
        for name, what in CONTRACTIONS.items():
            role = _role(name, transpose)
            console.print(f"\n[bold]{name}[/bold]: {what}; {role}")
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
