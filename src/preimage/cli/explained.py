"""What `explain` shows: a layer of a model file on a real input, and the interactive page of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from preimage.analysis import LayerTrace, Network, analyse
from preimage.analysis.spellings import LayerSpec
from preimage.cli import text
from preimage.errors import OptionError
from preimage.geometry import ConvGeometry

__all__ = ["Shown", "of_model", "page_of", "show_page", "spec_of"]

#: Most cells an axis and channels of the part of a large layer that the page shows.
PART_CELLS, PART_CHANNELS = 12, 4


@dataclass(frozen=True)
class Shown:
    """A layer of a model, traced."""

    trace: LayerTrace

    @property
    def geometry(self) -> ConvGeometry:
        return self.trace.geometry

    @property
    def transposed(self) -> bool:
        return self.trace.transposed

    @property
    def spec(self) -> LayerSpec:
        return replace(spec_of(self.geometry, self.transposed), bias=self.trace.b is not None)

    def page(self) -> tuple[Any, dict[str, Any]]:
        """The layer and its arrays for the page, cut to a part where it is large."""
        return page_of_trace(self.trace)


def spec_of(g: ConvGeometry, transposed: bool) -> LayerSpec:
    """The layer apart from sizes."""
    padding = tuple((lo, hi - r) for (lo, hi), r in zip(g.padding, g.remainder, strict=True)) if transposed else g.padding
    channels = (g.out_channels, g.in_channels) if transposed else (g.in_channels, g.out_channels)
    return LayerSpec(transposed, g.kernel_size, g.stride, padding, g.dilation, g.groups, *channels)


def of_model(
    model: Path, weights: Path | None, given: str, size: str, layer: str, at: str, console: Console
) -> Shown | None:  # fmt: skip
    """The table of a model; or, with the name of a layer, that layer on the input."""
    from preimage.io.files import load_model
    from preimage.io.inspection import random_inputs

    graph = load_model(model, weights, open_sizes=bool(size or given))
    if len(graph.inputs) != 1:
        names = ", ".join(i.name for i in graph.inputs)
        raise OptionError(f"{model} takes {len(graph.inputs)} inputs ({names}); `explain` takes models with one")
    item = graph.inputs[0]
    if given:
        x = _read(Path(given), item, size)
    else:
        shape = _shape(item, size)
        x = random_inputs(graph, {item.name: shape} if shape else None)[item.name]
    net = analyse(graph, x)
    if not layer:
        if at:
            raise OptionError("--at is about one layer: add --layer NAME")
        console.print(str(net), highlight=False, soft_wrap=True, markup=False)
        return None
    trace = net.trace(layer)
    if not given:
        console.print("on random numbers between 0 and 1; --input PICTURE takes a real one", highlight=False)
    _tell_place(net, layer, console)
    if at:
        console.print(str(trace.slide(text.sizes(at))), highlight=False, markup=False, soft_wrap=True)
    return Shown(trace)


def _shape(item: Any, size: str) -> tuple[int, ...] | None:
    known = item.example or item.shape
    if not size:
        return None
    cells = text.sizes(size)
    channels = known[1] if known is not None and len(known) > 1 and isinstance(known[1], int) else 3
    wanted = len(known) - 2 if known is not None else len(cells)
    cells = cells * wanted if len(cells) == 1 else cells
    if len(cells) != wanted:
        raise OptionError(f"--size has {len(cells)} numbers, the model's input {wanted} spatial axes")
    return (1, channels, *cells)


def _read(path: Path, item: Any, size: str) -> Any:
    from preimage.io.files import read_input

    known: tuple[Any, ...] = tuple(item.example or item.shape or ())
    channels = known[1] if len(known) > 1 and isinstance(known[1], int) else 3
    wanted: tuple[Any, ...] = text.sizes(size) if size else tuple(n for n in known[2:] if isinstance(n, int))
    wanted = wanted * 2 if len(wanted) == 1 else wanted
    height_width = (wanted[0], wanted[1]) if len(wanted) == 2 else None
    return read_input(path, channels=channels, size=height_width, scale=1 / 255)


def _tell_place(net: Network, name: str, console: Console) -> None:
    found = net.layer(name)
    said = ", ".join(str(v) for v in found.field) or "-"
    jump = ", ".join(str(v) for v in found.jump) or "-"
    console.print(f"layer {name}: in the net each output sees {said} cells of the input an axis, {jump} apart", highlight=False)


# -- the page ----------------------------------------------------------------------------------------------------------


def page_of(g: ConvGeometry, transposed: bool) -> tuple[Any, dict[str, Any]]:
    """The layer for the page, without values."""
    return _mapping(g, transposed, False), {}


def _mapping(g: ConvGeometry, transposed: bool, bias: bool) -> dict[str, Any]:
    channels = (g.out_channels, g.in_channels) if transposed else (g.in_channels, g.out_channels)
    return {
        "kind": "conv_transpose" if transposed else "conv", "in_channels": channels[0], "out_channels": channels[1],
        "groups": g.groups, "input_size": g.output_size if transposed else g.input_size, "kernel_size": g.kernel_size,
        "stride": g.stride, "padding": g.padding, "dilation": g.dilation, "output_padding": g.remainder if transposed else 0, "bias": bias,
    }  # fmt: skip


def page_of_trace(t: LayerTrace) -> tuple[Any, dict[str, Any]]:
    """A traced layer for the page: its first image, cut to a part where the layer is large.

    Of output channels the first few are taken (exact for those), of the input a patch in its corner; input channels only where they
    are too many, and then the sums are parts of the real ones.
    """
    g = t.geometry
    x, w, b = t.x[0], t.w, t.b
    if t.fully_connected:
        values = {"input": x.reshape(-1, 1, 1), "weight": w.reshape(*w.shape, 1, 1)} | ({} if b is None else {"bias": b})
        made = {"kind": "linear", "in_channels": x.size, "out_channels": len(w), "input_size": (1, 1), "output_size": (1, 1)}
        return made | {"bias": b is not None}, values
    groups = g.groups
    if groups > PART_CHANNELS:
        groups = PART_CHANNELS
    ins, outs = x.shape[0] // g.groups, (g.in_channels if t.transposed else g.out_channels) // g.groups
    keep_in, keep_out = min(ins, PART_CHANNELS * 4 // groups), min(outs, max(1, PART_CHANNELS // groups))
    x = x.reshape(g.groups, ins, *x.shape[1:])[:groups, :keep_in]
    first = ins if t.transposed else outs
    keep_first, keep_second = (keep_in, keep_out) if t.transposed else (keep_out, keep_in)
    w = w.reshape(g.groups, first, *w.shape[1:])[:groups, :keep_first, :keep_second]
    cut = tuple(slice(0, max(PART_CELLS, e)) for e in (g.kernel_extent if not t.transposed else (1,) * g.ndim))
    x = x[(slice(None), slice(None), *cut)]
    x, w = x.reshape(-1, *x.shape[2:]), w.reshape(-1, *w.shape[2:])
    shape = (1, *x.shape)
    options: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": groups}
    if t.transposed:
        part = ConvGeometry.from_conv_transpose(shape, w.shape, output_padding=g.remainder, **options)
    else:
        part = ConvGeometry.from_conv(shape, w.shape, **options)
    values = {"input": x, "weight": w}
    if b is not None:
        values["bias"] = b.reshape(g.groups, outs)[:groups, :keep_out].reshape(-1)
    return _mapping(part, t.transposed, b is not None) | {"_cut": part != g}, values


def show_page(layer: tuple[Any, dict[str, Any]], html: Path | None, serve: bool, overwrite: bool, console: Console) -> None:
    """Write the page, or serve it until interrupted."""
    from preimage.report import explain

    spec, values = dict(layer[0]), layer[1]
    if spec.pop("_cut", False):
        sizes = "x".join(map(str, spec["input_size"]))
        console.print(
            f"The page shows a part of the layer: {spec['in_channels']} of the input channels, {spec['out_channels']} of the output's, a patch"
            f" of {sizes}.",
            highlight=False,
        )
    if html is not None:
        path = explain.write(html, spec, values, overwrite=overwrite)
        console.print(f"page: {path.resolve().as_uri()}", highlight=False, soft_wrap=True)
    if serve:
        explain.serve(spec, values, show=lambda address: console.print(f"page: {address} (Ctrl-C ends it)", highlight=False))
