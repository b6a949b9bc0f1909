"""Caffe: a layer of a prototxt with its convolution_param, or the convolution_param alone.

    layer { type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 } }

Source: the fields of ConvolutionParameter in caffe.proto.
"""

from __future__ import annotations

import re
from typing import Any

from preimage.analysis.spellings.call import MOST_TEXT
from preimage.analysis.spellings.layer import LayerSpec, Spelled, refused
from preimage.errors import OptionError

__all__ = ["read_text", "reads_text", "write"]

_TOKEN = re.compile(r"\s*(?:#[^\n]*\n\s*)*([{}:;,\[\]]|\"[^\"]*\"|'[^']*'|[\w.+-]+)")
_FIELDS = {
    "num_output", "bias_term", "pad", "kernel_size", "group", "stride", "dilation", "pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h",
    "stride_w", "axis", "engine", "weight_filler", "bias_filler", "force_nd_im2col",
}  # fmt: skip
_LAYERS = ("Convolution", "Deconvolution")


def reads_text(text: str) -> bool:
    """Whether this is a piece of a prototxt."""
    return bool(re.match(r"\s*(layer|convolution_param)\s*:?\s*\{", text))


def _fields(tokens: list[str]) -> dict[str, list[Any]]:
    """The fields of one message; consumes up to its closing brace."""
    found: dict[str, list[Any]] = {}
    while tokens:
        name = tokens.pop(0)
        if name == "}":
            return found
        if name in ",;":
            continue
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or not tokens:
            raise OptionError(f"the prototxt has {name!r} where a field's name is wanted")
        colon = tokens[0] == ":"
        if colon:
            tokens.pop(0)
        if not tokens:
            raise OptionError(f"the prototxt ends behind {name!r}")
        value = tokens.pop(0)
        if value == "{":
            found.setdefault(name, []).append(_fields(tokens))
        elif not colon or value in "}:,;]":
            raise OptionError(f"the prototxt has no value for {name!r}")
        elif value == "[":
            while tokens and (value := tokens.pop(0)) != "]":
                if value != ",":
                    found.setdefault(name, []).append(value)
        else:
            found.setdefault(name, []).append(value)
    return found


def read_text(text: str, in_channels: int | None = None, ndim: int | None = None) -> Spelled:
    """The layer of a piece of prototxt; two spatial axes unless its lists, or `ndim`, say otherwise."""
    if len(text) > MOST_TEXT:
        raise OptionError(f"a layer is written in at most {MOST_TEXT} characters, got {len(text)}")
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise OptionError(f"the prototxt has {text[at : at + 20]!r}, which is no field")
        tokens.append(match[1])
        at = match.end()
    if len([t for t in tokens if t == "{"]) > 50 or tokens.count("{") != tokens.count("}"):
        raise OptionError("the prototxt's braces do not match")
    top = _fields([*tokens, "}"])
    layer = top.get("layer", [top])[0]
    kind = str(layer.get("type", ['"Convolution"'])[0]).strip("\"'")
    if kind not in _LAYERS:
        raise OptionError(f"a Caffe layer of type {kind!r} is no convolution; there are {', '.join(_LAYERS)}")
    parameter = layer.get("convolution_param")
    if not parameter or not isinstance(parameter[0], dict):
        raise OptionError("the layer has no convolution_param { ... }")
    return _layer(parameter[0], kind == "Deconvolution", in_channels, ndim)


def _layer(p: dict[str, list[Any]], transposed: bool, in_channels: int | None, ndim: int | None) -> Spelled:
    if unknown := sorted(set(p) - _FIELDS):
        raise OptionError(f"convolution_param has no {unknown[0]!r}; it has {', '.join(sorted(_FIELDS))}")

    def numbers(name: str) -> list[int]:
        try:
            return [int(v) for v in p.get(name, [])]
        except (TypeError, ValueError):
            raise OptionError(f"convolution_param: {name} must be integers, got {p[name]!r}") from None

    if numbers("axis") not in ([], [1]):
        raise OptionError("convolution_param: an axis other than 1 has no counterpart elsewhere")
    found = ndim or max(len(numbers(n)) for n in ("kernel_size", "stride", "pad", "dilation"))
    count = found if found > 1 or ndim else 2

    def per_axis(name: str, short: str, usual: int | None, least: int) -> tuple[int, ...]:
        apart = numbers(f"{short}_h") + numbers(f"{short}_w")
        values = numbers(name) or apart or ([] if usual is None else [usual])
        if (numbers(name) and apart) or len(apart) == 1 or (apart and count != 2):
            raise OptionError(f"convolution_param: give {name}, or both {short}_h and {short}_w")
        values = values * count if len(values) == 1 else values
        if len(values) != count or min(values) < least:
            raise OptionError(f"convolution_param: {name} must be one or {count} integers of at least {least}, got {values}")
        return tuple(values)

    kernel = per_axis("kernel_size", "kernel", None, 1)
    stride, pad = per_axis("stride", "stride", 1, 1), per_axis("pad", "pad", 0, 0)
    dilation = per_axis("dilation", "dilation", 1, 1)
    outputs, group = (numbers("num_output") or [0])[0], (numbers("group") or [1])[0]
    if outputs < 1 or group < 1 or outputs % group:
        raise OptionError(f"convolution_param: num_output {outputs} must be at least 1 and divisible by group {group}")
    bias = str(p.get("bias_term", ["true"])[0]).lower() in ("true", "1", "t")
    layer = LayerSpec(transposed, kernel, stride, tuple((v, v) for v in pad), dilation, group, in_channels, outputs, bias)
    return Spelled("caffe", layer, tuple(range(count + 2)))


def write(layer: LayerSpec, input_size: tuple[int, ...] | None) -> str:
    """The layer as a piece of prototxt."""
    if layer.out_channels is None:
        raise OptionError("Caffe names num_output, which this spelling does not say: give out_channels")
    if layer.padding_mode != "zeros":
        raise refused("Caffe", f"it pads with zeros only, not {layer.padding_mode}")
    sized = layer.sized(input_size)
    if isinstance(sized.padding, str):
        raise refused(
            "Caffe", f"padding {sized.padding!r} with stride {layer.stride} depends on the input's size; say the input's size"
        )
    if any(lo != end or lo < 0 for lo, end in sized.padding):
        more = " and has no output_padding" if layer.transposed else ""
        raise refused("Caffe", f"it pads both ends alike{more}; here start and end are {sized.padding}")
    fields = [f"num_output: {layer.out_channels}"]
    pads = tuple(lo for lo, _ in sized.padding)
    for name, values, usual in (
        ("kernel_size", layer.kernel_size, None), ("stride", layer.stride, 1), ("pad", pads, 0), ("dilation", layer.dilation, 1),
    ):  # fmt: skip
        if any(v != usual for v in values):
            # one number means two axes to a reader of the text: other counts are written out
            listed = values[:1] if layer.ndim == 2 and len(set(values)) == 1 else values
            fields += [f"{name}: {v}" for v in listed]
    if layer.groups != 1:
        fields.append(f"group: {layer.groups}")
    if not layer.bias:
        fields.append("bias_term: false")
    kind = "Deconvolution" if layer.transposed else "Convolution"
    return f'layer {{ type: "{kind}" convolution_param {{ {" ".join(fields)} }} }}'
