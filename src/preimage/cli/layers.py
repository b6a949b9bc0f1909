"""The options that describe the layers of `bench` and `tune`: names of a suite, or one geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from preimage.cli import text
from preimage.errors import OptionError
from preimage.resources import available_memory

__all__ = [
    "Dilation", "Given", "Groups", "Layers", "OutputPadding", "PaddingText", "Stride", "Suite", "Tier", "Transpose", "Weight",
    "layers_of",
]  # fmt: skip

Layers = Annotated[list[str] | None, typer.Argument(help="Names or patterns of suite layers; none: the whole tier.")]
Suite = Annotated[Path | None, typer.Option(help="A suite file (JSON) instead of the one of the package.")]
Tier = Annotated[str, typer.Option(help="core, heavy or all.")]
Given = Annotated[str | None, typer.Option("--input", help="One geometry instead: input shape, e.g. 1,64,56,56.")]
Weight = Annotated[str | None, typer.Option(help="Its weight shape, e.g. 64,64,3,3.")]
Transpose = Annotated[bool, typer.Option(help="It is a deconvolution (weight: C_in, C_out/groups, ...).")]
Stride = Annotated[str, typer.Option()]
PaddingText = Annotated[str, typer.Option(help="One number, one per axis, lo:hi pairs, same or valid.")]
Dilation = Annotated[str, typer.Option()]
OutputPadding = Annotated[str, typer.Option()]
Groups = Annotated[int, typer.Option()]


def layers_of(
    names: list[str] | None, suite: Path | None, tier: str, given: str | None, weight: str | None, transpose: bool, groups: int,
    stride: str, padding: str, dilation: str, output_padding: str,
) -> tuple[Any, ...]:  # fmt: skip
    """The one layer given by its shapes, or those of a suite. Raises: OptionError."""
    from preimage.bench.suite import builtin_suite, layer_from_sizes, load_suite, select

    if not (given or weight):
        there = load_suite(suite) if suite else builtin_suite()
        chosen = select(there, names or (), tier)
        if not chosen:
            tiers = ", ".join(sorted({layer.tier for layer in there})) or "none"
            raise OptionError(f"no layer is of the tier {tier!r}; there are {tiers} and all")
        return chosen
    if not (given and weight):
        raise typer.BadParameter("one geometry needs both --input and --weight")
    text.no_stray(names, "--input and --weight are one geometry, and take no names of layers")
    options: dict[str, Any] = {
        "stride": text.numbers(stride),
        "padding": text.padding(padding),
        "dilation": text.numbers(dilation),
    }
    if transpose:
        options["output_padding"] = text.numbers(output_padding)
    layer = layer_from_sizes(text.sizes(given), text.sizes(weight), transpose=transpose, groups=groups, **options)
    needed, free = 4 * layer.geometry.array_bytes(8), available_memory()
    if needed > free:
        raise OptionError(
            f"measuring {layer.label} needs about {needed / 2**30:.3g} GiB of memory; {free / 2**30:.3g} GiB are free"
        )
    return (layer,)
