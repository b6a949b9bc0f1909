"""One layer as one interactive page: slide, paint, gradients, matrices and learning, on the layer's own numbers.

`page` gives the page as text, `write` puts it into a file, `serve` shows it with the library computing behind it. The page
is one file that needs no other and no network; its JavaScript computes in float32 with the library's bits. It shows layers
over one or two axes, slices of those over three (slices.py), and one image at a time.

The layer is a mapping in PyTorch's words, or a `ConvGeometry` (with `transposed=True` for a deconvolution). Every value is
an integer, or one a spatial axis:

    kind             "conv", "conv_transpose" or "linear" (fully connected)
    in_channels, out_channels                of the layer's own input and output; default 1
    groups           default 1
    input_size       spatial, of the layer's input
    kernel_size, stride, dilation            default 3, 1, 1; not for "linear"
    padding          an integer, one an axis, or (lo, hi) pairs; default 0
    output_padding   of a conv_transpose; default 0
    output_size      of a "linear" layer: its outputs are laid out so, for the eye
    bias             True or False; default: whether values has a bias

`values` may hold arrays (anything that NumPy takes as real numbers; they are rounded to float32). What is absent is filled in:

    input        (in_channels, *input_size), or with a batch axis of 1 in front
    weight       conv (out_channels, in_channels // groups, *kernel_size)
                 conv_transpose (in_channels, out_channels // groups, *kernel_size)
                 linear (outputs, inputs), or (outputs, in_channels, *input_size)
    bias         (out_channels,), for linear (outputs,)
    grad_output  (out_channels, *output size), or with a batch axis of 1 in front

The page carries this as JSON in `<script type="application/json" id="data">`:

    {"layer": {the mapping above in full, lists an axis long},
     "values": {name: {"shape": [...], "float32": base64 of little-endian float32 in C order}},
     "view": {"mode": "paint" | "slide" | "grad_input" | "grad_weight" | "grad_bias", "step": int},
     "note": which part of a larger layer it is,              only where it is one
     "channels": [what each input channel is, ...],           only for a slice
     "live": {"path": ..., "token": ...}                      only from `serve`}

`serve` answers POST /compute with header X-Preimage-Token and a body {"layer": ..., "values": ...} of the same form, by
{"values": {"output", "grad_input", "grad_weight", "grad_bias"}, "plans": {contraction: [[name, value], ...]}, "version"},
or by {"error": text} and status 400.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from preimage.geometry import ConvGeometry
from preimage.host import write_file
from preimage.report.explain.contract import MODES, checked_values, checked_view, encoded, full_layer, too_large
from preimage.report.explain.part import part_of
from preimage.report.explain.server import ExplainServer, serve
from preimage.report.explain.slices import slice_of

__all__ = ["MODES", "ExplainServer", "page", "serve", "write"]

#: What a page begins with where no layer is given.
FIRST = {"kind": "conv_transpose", "input_size": (4, 4), "kernel_size": 4, "stride": 2, "padding": 1}
TITLE = "What is a transposed convolution (deconvolution) layer?"
SCRIPTS = (
    "arithmetic", "geometry", "layer", "state", "grid", "stage", "formula", "matrix", "trio", "controls", "transport", "learn",
    "live", "app", "main",
)  # fmt: skip


def page(
    layer: Mapping[str, Any] | ConvGeometry | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    transposed: bool = False,
    title: str | None = None,
    mode: str = "paint",
    step: int = 0,
    at: Sequence[int] | None = None,
    live: Mapping[str, str] | None = None,
) -> str:
    """The page as text. Without a layer it begins with a 4 x 4 deconvolution of stride 2.

    mode, step: what it opens with. at: an index into the output (channel, then space): the part of the layer around it is
    shown, a window of outputs with all that they are made of. A layer too large for the page is cut so by itself, around
    its middle; of a layer over three axes the outputs at one depth are shown, the middle one. The page says which part it
    shows. live: where the library answers (see `serve`).

    Raises: OptionError for a word or value that is none of those in the module's text; GeometryError for sizes that cannot
    be; ShapeError for arrays of another shape.

    Example: `page({"kind": "conv_transpose", "input_size": (5, 5), "kernel_size": 4, "stride": 2, "padding": 1}, {"weight": w})`
    """
    data: dict[str, Any] = {"view": checked_view(mode, step)}
    if layer is None and (values or at is not None):
        layer = FIRST
    if layer is not None:
        spec = full_layer(layer, transposed, values, most_axes=3)
        arrays, notes = checked_values(spec, values or {}), []
        if len(spec["input_size"]) == 3:
            cut = slice_of(spec, arrays, at)
            spec, arrays, notes, data["channels"] = cut.spec, cut.values, [cut.note], cut.channels
            at = None if at is None or spec["kind"] == "linear" else (at[0], *at[2:])
        if at is not None or too_large(spec) is not None:
            part = part_of(spec, arrays, at)
            spec, arrays, notes = part.spec, part.values, [*notes, part.note]
            if "channels" in data:
                data["channels"] = data["channels"][part.inputs.start : part.inputs.stop]
        if notes:
            data["note"] = " ".join(notes)
        data["layer"], data["values"] = spec, {name: encoded(array) for name, array in arrays.items()}
    if live is not None:
        data["live"] = {"path": str(live["path"]), "token": str(live["token"])}
    return _assembled(title or TITLE, data)


def write(path: str | PathLike[str], *args: Any, overwrite: bool = True, **options: Any) -> Path:
    """The page (arguments as for `page`) as a file, written whole or not at all; gives its path.

    Raises: as `page`; OutputError where it cannot be written, or is there already and not to be overwritten.
    """
    target = Path(path)
    write_file(target, page(*args, **options), overwrite=overwrite)
    return target


def _asset(name: str) -> str:
    return files("preimage.report.explain").joinpath("assets", name).read_text("utf-8")


def _assembled(title: str, data: Mapping[str, Any]) -> str:
    """One file. Its policy lets this script run and no other, and nothing be loaded from elsewhere."""
    script = "\n'use strict';\n(() => {\n" + "\n".join(_asset(f"{name}.js") for name in SCRIPTS) + "})();\n"
    # no "<" inside the data: nothing in it can end the element or open a comment
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>\n{_asset("style.css")}</style></head>\n'
        f"<body>\n{_asset('page.html').replace('{{title}}', escape(title))}"
        f'<script type="application/json" id="data">{text}</script>\n<script>{script}</script>\n</body></html>\n'
    )
