"""`preimage tune`: the best tile of a layer, measured on this machine and kept for later calls."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from preimage.cli import text
from preimage.cli.layers import (
    Dilation,
    Given,
    Groups,
    Layers,
    OutputPadding,
    PaddingText,
    Stride,
    Suite,
    Tier,
    Transpose,
    Weight,
    layers_of,
)

__all__ = ["tune"]


def tune(
    layers: Layers = None,
    suite: Suite = None,
    tier: Tier = "core",
    given: Given = None,
    weight: Weight = None,
    transpose: Transpose = False,
    stride: Stride = "1",
    padding: PaddingText = "0",
    dilation: Dilation = "1",
    output_padding: OutputPadding = "0",
    groups: Groups = 1,
    passes: Annotated[str, typer.Option(help="Comma-separated: forward, grad_input.")] = "forward,grad_input",
    dtype: Annotated[str, typer.Option(help="Comma-separated: float32, float64.")] = "float32",
    layout: Annotated[str, typer.Option(help="channels_last, channels_first, or both.")] = "both",
    threads: Annotated[str, typer.Option(help="Comma-separated numbers of threads.")] = "1",
    most: Annotated[int, typer.Option(help="Tiles to try, the best by the plan's model first.", min=1)] = 16,
) -> None:
    """Measure the tiles that a layer could use; later calls on this machine use the best. No tile changes a bit of a result."""
    from rich.table import Table
    from rich.text import Text

    from preimage.bench.tune import tune_layer
    from preimage.engines.jit.conv import autotune
    from preimage.report.terminal import Terminal

    options: dict[str, Any] = {
        "passes": text.words(passes, "pass", ("forward", "grad_input", "grad_weight")),  # the last is refused with its reason
        "dtypes": text.words(dtype, "dtype", text.DTYPES),
        "threads": text.threads(threads),
        "layouts": text.layouts(layout),
        "most": most,
    }
    chosen = layers_of(layers, suite, tier, given, weight, transpose, groups, stride, padding, dilation, output_padding)
    console = Terminal(width=190)
    table = Table("layer", "pass", "layout", "dtype", "threads", "tried", "the plan's own", "best", "gain", box=None)
    with console.status("tuning") as status:
        for layer in chosen:
            status.update(Text(layer.name))
            for f in tune_layer(layer, **options):
                best = "the same" if f.tile is None else "{2} pixels x {1} vectors of {0}".format(*f.tile)
                cells = (f.layer, f.what, f.layout, f.dtype, f.threads, f.tried, f.own, best, f"{f.gain:.2f}")
                table.add_row(*map(str, cells))
    console.print(table)
    console.print(f"kept in {autotune.path()}; the same bits from all that were tried")
