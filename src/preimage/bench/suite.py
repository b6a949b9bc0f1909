"""The layers that are measured: the suite of the package, a JSON file with the same fields, or one geometry.

`data/perf_suite.json` holds 68 layers of known networks, each with its source and why it is there: tier "core" (60) is
the one that targets speak of, tier "heavy" (8) has layers of 20 to 80 GFLOP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

from preimage.errors import OptionError
from preimage.geometry import ConvGeometry
from preimage.host import read_json

__all__ = ["PASSES", "Layer", "builtin_suite", "layer_from_sizes", "load_suite", "select"]

#: What is timed of a layer. grad_bias is the sum of grad_output over batch and space.
PASSES = ("forward", "grad_input", "grad_weight", "grad_bias")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network: `kind` conv or deconv, and the geometry (always the convolution, large to small)."""

    name: str
    kind: str
    geometry: ConvGeometry
    tier: str = "core"
    source: str = ""
    why: str = ""

    def contraction(self, what: str) -> str:
        """Which of the three contractions a pass of this layer is; a deconvolution's forward is conv_transpose."""
        there, back = ("conv", "conv_transpose") if self.kind == "conv" else ("conv_transpose", "conv")
        return {"forward": there, "grad_input": back, "grad_weight": "conv_weight_grad", "grad_bias": "sum_over_space"}[what]

    @property
    def label(self) -> str:
        """The sizes in a few characters, in the order of the layer's own data flow."""
        g = self.geometry
        large = f"{g.in_channels}x{'x'.join(map(str, g.input_size))}"
        small = f"{g.out_channels}x{'x'.join(map(str, g.output_size))}"
        first, second = (large, small) if self.kind == "conv" else (small, large)
        text = f"{g.batch}x{first} -> {second} k{_short(g.kernel_size)} s{_short(g.stride)}"
        if any(d > 1 for d in g.dilation):
            text += f" d{_short(g.dilation)}"
        return text + (f" g{g.groups}" if g.groups > 1 else "")


def _short(values: Sequence[int]) -> str:
    return str(values[0]) if values and len(set(values)) == 1 else "x".join(map(str, values))


def _layer(case: dict[str, Any], where: str) -> Layer:
    try:
        kind, padding = case["kind"], [tuple(pair) for pair in case["padding"]]
        options = {"stride": case["stride"], "padding": padding, "dilation": case["dilation"], "groups": case["groups"]}
        batch = case["batch"] or 1
        per_group = case["in_channels"] // case["groups"]
        shape = (batch, case["in_channels"], *case["input"])
        if kind == "conv":
            geometry = ConvGeometry.from_conv(shape, (case["out_channels"], per_group, *case["kernel"]), **options)
            produced = geometry.output_size
        elif kind == "deconv":
            weight = (case["in_channels"], case["out_channels"] // case["groups"], *case["kernel"])
            extra = case.get("output_padding") or 0
            geometry = ConvGeometry.from_conv_transpose(shape, weight, output_padding=extra, **options)
            produced = geometry.input_size
        else:
            raise OptionError(f"kind must be 'conv' or 'deconv', got {kind!r}")
    except (KeyError, TypeError, ValueError, ArithmeticError, OverflowError) as error:
        raise OptionError(f"{where}: case {case.get('name', '?')!r} cannot be read: {error!r}") from error
    if "output" in case and case["output"] != list(produced):
        raise OptionError(f"{where}: case {case['name']!r} says output {case['output']}, the formula gives {list(produced)}")
    return Layer(case["name"], kind, geometry, case.get("tier", "core"), case.get("source", ""), case.get("why", ""))


def load_suite(path: str | Path) -> tuple[Layer, ...]:
    """The layers of a JSON file: {"cases": [...]} or a list, fields as in the suite of the package.

    Raises: FileFormatError for what is no JSON; OptionError for a case that is no layer.
    """
    return _layers(read_json(path), str(path))


def builtin_suite() -> tuple[Layer, ...]:
    """The suite that ships with the package."""
    text = resources.files("preimage.bench").joinpath("data/perf_suite.json").read_text()
    return _layers(json.loads(text), "perf_suite.json")


def _layers(data: Any, where: str) -> tuple[Layer, ...]:
    cases = data.get("cases") if isinstance(data, dict) else data
    if not isinstance(cases, list):
        raise OptionError(f"{where} has no list of cases")
    for k, case in enumerate(cases):
        if not isinstance(case, dict) or not isinstance(case.get("name"), str):
            raise OptionError(f"{where}: case {k} is no object with a name")
    return tuple(_layer(case, where) for case in cases)


def layer_from_sizes(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    transpose: bool = False,
    output_padding: Any = 0,
    name: str = "given",
    **options: Any,
) -> Layer:
    """One layer given by its shapes: conv, or with transpose=True a deconvolution (weight (C_in, C_out // groups, *k))."""
    if transpose:
        geometry = ConvGeometry.from_conv_transpose(input_shape, weight_shape, output_padding=output_padding, **options)
    else:
        geometry = ConvGeometry.from_conv(input_shape, weight_shape, **options)
    return Layer(name, "deconv" if transpose else "conv", geometry, source="given by options")


def select(layers: Iterable[Layer], patterns: Sequence[str] = (), tier: str | None = "core") -> tuple[Layer, ...]:
    """The layers of a tier (None: all) whose names match one of the patterns; patterns alone reach into every tier.

    Raises: OptionError for a pattern that matches nothing.
    """
    layers = tuple(layers)
    if not patterns:
        return tuple(layer for layer in layers if tier in (None, "all") or layer.tier == tier)
    chosen: dict[str, Layer] = {}
    for pattern in patterns:
        found = [layer for layer in layers if fnmatch(layer.name, pattern) or pattern in layer.name.split(",")]
        if not found:
            raise OptionError(f"no layer matches {pattern!r}; there are {', '.join(layer.name for layer in layers)}")
        chosen.update((layer.name, layer) for layer in found)
    return tuple(layer for layer in layers if layer.name in chosen)
