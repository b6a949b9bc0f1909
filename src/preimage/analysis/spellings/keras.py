"""Keras and tf.keras: Conv1D, Conv2D, Conv3D, Conv1DTranspose .., DepthwiseConv1D, DepthwiseConv2D; "valid" and "same".

"same" of a convolution gives ceil(size / stride) outputs, the odd cell of padding at the end. Of a deconvolution it gives size * stride;
with output_padding, (size - 1) * stride + extent % 2 + output_padding. "valid" gives at least (size - 1) * stride + stride.
Source: Keras 3, documented shapes of Conv2DTranspose; padding read off by running it (tests).
"""

from __future__ import annotations

from itertools import product
from typing import Any

from preimage.analysis.spellings.call import Call, common, count_of, flag_of, per_axis_of, written
from preimage.analysis.spellings.layer import LayerSpec, Spelled, refused
from preimage.errors import OptionError
from preimage.geometry import extent_of, split_same

__all__ = ["read", "reads", "write"]

CONV = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups", "activation", "use_bias")
TRANSPOSE = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "output_padding",
    "data_format",
    "dilation_rate",
    "activation",
    "use_bias",
)
DEPTHWISE = ("kernel_size", "strides", "padding", "depth_multiplier", "data_format", "dilation_rate", "activation", "use_bias")
#: About how training starts and goes, or the layer's place in a model: nothing about what it computes.
IGNORED = (
    "name", "dtype", "trainable", "input_shape", "kernel_initializer", "bias_initializer", "depthwise_initializer", "kernel_regularizer",
    "bias_regularizer", "depthwise_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint", "depthwise_constraint",
)  # fmt: skip
NAMES = {f"{a}{n}D{b}" for n in (1, 2, 3) for a, b in (("Conv", ""), ("Conv", "Transpose"), ("DepthwiseConv", ""))} - {
    "DepthwiseConv3D"
}


def reads(call: Call) -> bool:
    """Whether this is Keras's spelling."""
    return call.name in NAMES


def read(call: Call, in_channels: int | None = None) -> Spelled:
    """The layer that the call makes. A depthwise one needs the channels of its input."""
    transposed, depthwise = call.name.endswith("Transpose"), call.name.startswith("Depthwise")
    ndim = int(next(c for c in call.name if c.isdigit()))
    a = call.bound(TRANSPOSE if transposed else DEPTHWISE if depthwise else CONV, ignored=IGNORED)
    for word in ("kernel_size",) if depthwise else ("filters", "kernel_size"):
        if word not in a:
            raise OptionError(f"{call.name}: {word} is missing")
    if a.get("activation") not in (None, "linear"):
        raise OptionError(f"{call.name}: activation {a['activation']!r} is no part of the convolution; leave it out")
    kernel = per_axis_of(a["kernel_size"], ndim, "kernel_size")
    stride = per_axis_of(a.get("strides", 1), ndim, "strides")
    dilation = per_axis_of(a.get("dilation_rate", 1), ndim, "dilation_rate")
    if max(stride) > 1 and max(dilation) > 1:
        raise OptionError(f"{call.name}: Keras takes strides or dilation_rate above 1, not both")
    word = str(a.get("padding", "valid")).lower()
    if word not in ("valid", "same"):
        raise OptionError(f"{call.name}: padding must be 'valid' or 'same', got {a['padding']!r}")
    groups = count_of(a.get("groups", 1), "groups")
    if depthwise:
        if in_channels is None:
            raise OptionError(f"{call.name} has as many groups as its input has channels: give in_channels")
        groups, filters = in_channels, in_channels * count_of(a.get("depth_multiplier", 1), "depth_multiplier")
    else:
        filters = count_of(a["filters"], "filters")
        if filters % groups or (in_channels or 0) % groups:
            raise OptionError(f"{call.name}: groups {groups} must divide filters {filters} and the input's channels")
    # (kernel.., in, out), transposed (kernel.., out, in): the last axis is our first; depthwise (kernel.., channels, multiplier)
    axes = (ndim, ndim + 1, *range(ndim)) if depthwise else (ndim + 1, ndim, *range(ndim))
    padding: Any
    if transposed:
        given = a.get("output_padding")
        extras = (None,) * ndim if given is None else per_axis_of(given, ndim, "output_padding", 0)
        if any(e is not None and e >= s for e, s in zip(extras, stride, strict=True)):
            raise OptionError(f"{call.name}: output_padding {given!r} must be below strides {a.get('strides', 1)!r}")
        padding = tuple(_crop(word, extent_of(k, d), s, e) for k, d, s, e in zip(kernel, dilation, stride, extras, strict=True))
    elif word == "valid":
        padding = ((0, 0),) * ndim
    elif all(s == 1 for s in stride):
        padding = tuple(split_same(extent_of(k, d) - 1, "same") for k, d in zip(kernel, dilation, strict=True))
    else:
        padding = "same"
    layer = LayerSpec(
        transposed, kernel, stride, padding, dilation, groups, in_channels, filters, flag_of(a.get("use_bias", True), "use_bias")
    )
    return Spelled("keras", layer, axes, depthwise=depthwise)


def _crop(word: str, extent: int, stride: int, extra: int | None) -> tuple[int, int]:
    """(lo, end) of a deconvolution."""
    if word == "valid":
        return 0, min(0, extent - stride) if extra is None else -extra
    # the length that Keras wants, and the padding around the spread-out input that gives it, the larger half in front
    total = stride + extent - 2 if extra is None else extent + extent % 2 - 2 + extra
    left = min(-(-total // 2), extent - 1)
    return extent - 1 - left, extent - 1 - (total - left)


def write(layer: LayerSpec, input_size: tuple[int, ...] | None) -> str:
    """The layer as Keras writes it."""
    if layer.out_channels is None:
        raise OptionError("Keras names the filters, which this spelling does not say: give out_channels")
    if layer.padding_mode != "zeros":
        raise refused("Keras", f"it pads with zeros only, not {layer.padding_mode}")
    if max(layer.stride) > 1 and max(layer.dilation) > 1:
        raise refused(
            "Keras", f"it takes strides or dilation above 1, not both (stride {layer.stride}, dilation {layer.dilation})"
        )
    options: dict[str, Any] = {}
    if any(s != 1 for s in layer.stride):
        options["strides"] = common(layer.stride)
    options |= _transposed_padding(layer) if layer.transposed else _padding(layer, input_size)
    if any(d != 1 for d in layer.dilation):
        options["dilation_rate"] = common(layer.dilation)
    if layer.groups != 1:
        if layer.transposed:
            raise refused("Keras", f"its deconvolutions have no groups (here {layer.groups})")
        options["groups"] = layer.groups
    if not layer.bias:
        options["use_bias"] = False
    name = f"Conv{layer.ndim}D{'Transpose' if layer.transposed else ''}"
    return written(name, (layer.out_channels, common(layer.kernel_size)), options)


def _padding(layer: LayerSpec, input_size: tuple[int, ...] | None) -> dict[str, Any]:
    if layer.padding == ((0, 0),) * layer.ndim:
        return {}
    same = LayerSpec(False, layer.kernel_size, layer.stride, "same", layer.dilation)
    if layer.padding == "same":
        return {"padding": "same"}
    if all(s == 1 for s in layer.stride) and layer.padding == tuple(split_same(e - 1, "same") for e in layer.extent):
        return {"padding": "same"}
    if input_size is not None and layer.sized(input_size).padding == same.sized(input_size).padding:
        return {"padding": "same"}
    size = "" if input_size is not None else " (for one input size it may be 'same': say the input's size)"
    raise refused(
        "Keras",
        f"its padding is 'valid' or 'same', and here it is {layer.padding}{size}; a ZeroPadding layer before a valid one does",
    )


def _transposed_padding(layer: LayerSpec) -> dict[str, Any]:
    assert not isinstance(layer.padding, str)
    for word in ("valid", "same"):
        if all(_crop(word, e, s, None) == p for e, s, p in zip(layer.extent, layer.stride, layer.padding, strict=True)):
            return {} if word == "valid" else {"padding": word}
    for word, extras in product(("valid", "same"), product(*(range(s) for s in layer.stride))):
        if all(_crop(word, e, s, x) == p for e, s, x, p in zip(layer.extent, layer.stride, extras, layer.padding, strict=True)):
            return ({} if word == "valid" else {"padding": word}) | {"output_padding": common(extras)}
    raise refused(
        "Keras", f"no padding word and output_padding crop {layer.padding} (start, end); a Cropping layer after a valid one does"
    )
