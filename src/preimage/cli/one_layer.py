"""One layer by its options, its whole shapes, or a spelling: what `explain` and `draw` are about."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from preimage.analysis.spellings import LayerSpec, read
from preimage.cli import explained, text
from preimage.errors import OptionError
from preimage.geometry import ConvGeometry

__all__ = ["Dilation", "Groups", "Kernel", "OutputPadding", "Padding", "Stride", "Transposed", "layer_of", "shapes"]

# The options that say one layer, for every command that takes one.
Kernel = Annotated[str, typer.Option(help="The kernel's size: one number, or one per axis. No layer said: 4.")]
Transposed = Annotated[bool, typer.Option("--transposed", "--transpose", help="It is a deconvolution.")]
Stride = Annotated[str, typer.Option(help="One number, or one per axis: 2 or 2,1.")]
Padding = Annotated[str, typer.Option(help="One number, one per axis, lo:hi pairs, same or valid.")]
Dilation = Annotated[str, typer.Option()]
Groups = Annotated[int, typer.Option()]
OutputPadding = Annotated[str, typer.Option(help="With --transposed.")]


def shapes(given: str, weight: str) -> tuple[Any, Any]:
    if bool(given) != bool(weight):
        missing = "--weight 128,64,3,3" if given else "--input 1,64,56,56"
        raise OptionError(f"a layer by its whole shapes needs {missing}, too; or say --kernel, --size and --channels")
    return (text.sizes(given), text.sizes(weight)) if given else (None, None)


def layer_of(
    spelling: str, kernel: str, size: str, channels: str, transposed: bool, shape: Any, weight: Any, words: dict[str, Any]
) -> tuple[ConvGeometry, bool, LayerSpec | None]:  # fmt: skip
    """The geometry of the one layer that was asked for; its neutral form where it was spelled or its padding is numbers."""
    if spelling:
        return _spelled(spelling, size, channels)
    options: dict[str, Any] = {
        "stride": text.numbers(str(words["stride"])), "padding": text.padding(str(words["padding"])),
        "dilation": text.numbers(str(words["dilation"])), "groups": words["groups"],
    }  # fmt: skip
    if shape is None:
        if not kernel:  # the example that everybody knows: it doubles a picture
            if transposed or size or channels or options != {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}:
                raise OptionError("say the kernel's size: --kernel 4, or --kernel 4,3")
            transposed, kernel, options = True, "4", options | {"stride": 2, "padding": 1}
        sizes = text.sizes(kernel)
        cells = text.sizes(size) if size else (4 if transposed else 8,)
        ndim = max(len(sizes), len(cells), 2 if len(sizes) == len(cells) == 1 and not size else 1)
        sizes, cells = sizes * ndim if len(sizes) == 1 else sizes, cells * ndim if len(cells) == 1 else cells
        c, o = _channels(channels, words["groups"])
        shape = (1, c, *cells)
        weight = (c, o // words["groups"], *sizes) if transposed else (o, c // words["groups"], *sizes)
    if transposed:
        g = ConvGeometry.from_conv_transpose(shape, weight, output_padding=text.numbers(str(words["output_padding"])), **options)
    else:
        g = ConvGeometry.from_conv(shape, weight, **options)
    return g, transposed, explained.spec_of(g, transposed)


def _channels(channels: str, groups: int) -> tuple[int, int]:
    values = text.sizes(channels) if channels else (groups, groups)
    if len(values) != 2 or min(values) < 1 or any(v % groups for v in values):
        raise OptionError(
            f"--channels wants input and output channels that {groups} groups divide, such as {groups * 4},{groups}"
        )
    return values[0], values[1]


def _spelled(spelling: str, size: str, channels: str) -> tuple[ConvGeometry, bool, LayerSpec]:
    c = text.sizes(channels) if channels else ()
    if len(c) > 2:
        raise OptionError(f"--channels wants input and output channels such as 64,3, got {channels!r}")
    found = read(spelling, in_channels=c[0] if c else None, out_channels=c[1] if len(c) > 1 else None)
    spec = found.layer
    cells = text.sizes(size) if size else found.input_size or tuple(max(8, e + 3) for e in spec.extent)
    cells = cells * spec.ndim if len(cells) == 1 else cells
    if len(cells) != spec.ndim:
        raise OptionError(f"--size has {len(cells)} numbers, the layer {spec.ndim} spatial axes")
    return spec.geometry(cells), spec.transposed, spec
