"""ONNX: Conv and ConvTranspose with their attributes; W, B and X stand as shapes.

    ConvTranspose(W=(64, 3, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1])
    ConvTranspose(X=(1, 64, 8, 8), W=(64, 3, 4, 4), strides=[2, 2], output_shape=[16, 16])

Source: the operators Conv-11 and ConvTranspose-11 of the ONNX specification.
"""

from __future__ import annotations

from typing import Any

from preimage.analysis.spellings.call import Call, count_of, per_axis_of, written
from preimage.analysis.spellings.layer import LayerSpec, Spelled, refused
from preimage.errors import OptionError
from preimage.geometry import extent_of, split_same

__all__ = ["read", "reads", "write"]

KNOWN = ("kernel_shape", "strides", "pads", "dilations", "group", "auto_pad", "output_padding", "output_shape")


def reads(call: Call) -> bool:
    """Whether this is ONNX's spelling."""
    return call.name in ("Conv", "ConvTranspose")


def read(call: Call, in_channels: int | None = None) -> Spelled:
    """The node's layer."""
    transposed = call.name == "ConvTranspose"
    a = call.bound(("X", "W", "B"), KNOWN[: 8 if transposed else 6], ("name",))
    shapes = {k: tuple(a[k]) for k in ("X", "W", "B") if isinstance(a.get(k), tuple | list)}
    w = shapes.get("W")
    if w is None and "kernel_shape" not in a:
        raise OptionError(f"{call.name}: say W's shape, such as W=(64, 3, 4, 4), or kernel_shape")
    kernel = per_axis_of(
        tuple(w[2:]) if w is not None else tuple(a["kernel_shape"]), len(w) - 2 if w else len(a["kernel_shape"]), "kernel_shape"
    )
    ndim = len(kernel)
    if w is not None and "kernel_shape" in a and tuple(a["kernel_shape"]) != kernel:
        raise OptionError(f"{call.name}: kernel_shape {a['kernel_shape']} is not W's, {list(kernel)}")
    stride = per_axis_of(a.get("strides", 1), ndim, "strides")
    dilation = per_axis_of(a.get("dilations", 1), ndim, "dilations")
    group = count_of(a.get("group", 1), "group")
    auto = a.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise OptionError(f"{call.name}: auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto!r}")
    pads = per_axis_of(a.get("pads", 0), 2 * ndim, "pads", 0)
    pairs: Any = tuple(zip(pads[:ndim], pads[ndim:], strict=True))
    size = tuple(shapes["X"][2:]) if "X" in shapes else None
    if transposed:
        pairs = _crops(call, a, pairs, auto, kernel, stride, dilation, size)
    elif auto == "VALID":
        pairs = ((0, 0),) * ndim
    elif auto != "NOTSET":
        word = "same" if auto == "SAME_UPPER" else "same_lower"
        extents = [extent_of(k, d) for k, d in zip(kernel, dilation, strict=True)]
        pairs = tuple(split_same(e - 1, word) for e in extents) if all(s == 1 for s in stride) else word
    first, second = (w[0], w[1] * group) if w is not None else (None, None)
    channels = (first, second) if transposed else (second, first)
    if channels[0] is None:
        channels = (shapes["X"][1] if "X" in shapes else in_channels, None)
    layer = LayerSpec(transposed, kernel, stride, pairs, dilation, group, *channels, bias="B" in a)
    return Spelled("onnx", layer, tuple(range(ndim + 2)), False, size)


def _crops(call: Call, a: Any, pairs: Any, auto: str, kernel: Any, stride: Any, dilation: Any, size: Any) -> Any:
    ndim = len(kernel)
    extra = per_axis_of(a.get("output_padding", 0), ndim, "output_padding", 0)
    if "output_shape" not in a and auto in ("NOTSET", "VALID"):
        pairs = pairs if auto == "NOTSET" else ((0, 0),) * ndim
        return tuple((lo, hi - e) for (lo, hi), e in zip(pairs, extra, strict=True))
    crops = []
    for axis in range(ndim):
        extent = extent_of(kernel[axis], dilation[axis])
        if "output_shape" in a:
            if size is None:
                raise OptionError(f"{call.name}: output_shape fixes the padding for one input only: say X's shape")
            wanted = per_axis_of(tuple(a["output_shape"])[-ndim:], ndim, "output_shape")[axis]
            total = stride[axis] * (size[axis] - 1) + extra[axis] + extent - wanted
        else:  # the output is input * stride
            total = extent + extra[axis] - stride[axis]
        if total < 0:  # nothing to crop: the rest is appended
            crops.append((0, total - extra[axis]))
            continue
        lo, hi = (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)
        crops.append((lo, hi - extra[axis]))
    return tuple(crops)


def write(layer: LayerSpec, input_size: tuple[int, ...] | None) -> str:
    """The layer as a node with its attributes."""
    if layer.padding_mode != "zeros":
        raise refused("ONNX", f"Conv pads with zeros only, not {layer.padding_mode}; a Pad node comes first")
    options: dict[str, Any] = {}
    if layer.in_channels is not None and layer.out_channels is not None:
        first, second = (layer.in_channels, layer.out_channels) if layer.transposed else (layer.out_channels, layer.in_channels)
        options["W"] = (first, second // layer.groups, *layer.kernel_size)
        if layer.bias:
            options["B"] = (layer.out_channels,)
    else:
        options["kernel_shape"] = list(layer.kernel_size)
    if any(s != 1 for s in layer.stride):
        options["strides"] = list(layer.stride)
    if isinstance(layer.padding, str):
        options["auto_pad"] = "SAME_UPPER" if layer.padding == "same" else "SAME_LOWER"
    else:
        options |= _pads(layer)
    if any(d != 1 for d in layer.dilation):
        options["dilations"] = list(layer.dilation)
    if layer.groups != 1:
        options["group"] = layer.groups
    return written("ConvTranspose" if layer.transposed else "Conv", (), options)


def _pads(layer: LayerSpec) -> dict[str, Any]:
    assert not isinstance(layer.padding, str)
    lows, ends = [lo for lo, _ in layer.padding], [end for _, end in layer.padding]
    extra = [0] * layer.ndim
    if layer.transposed:  # the same padding at both ends, as other libraries have it, where an output_padding makes up for it
        slack = [max(s, d) for s, d in zip(layer.stride, layer.dilation, strict=True)]
        extra = [lo - end if 0 <= lo - end < m else max(0, -end) for lo, end, m in zip(lows, ends, slack, strict=True)]
    highs = [end + e for end, e in zip(ends, extra, strict=True)]
    if min(*lows, *highs) < 0:
        raise refused("ONNX", f"pads may not be negative, and here they are {layer.padding}")
    for axis, (e, s, d) in enumerate(zip(extra, layer.stride, layer.dilation, strict=True)):
        if e >= max(s, d):
            raise refused(
                "ONNX", f"axis {axis} appends {e}, and output_padding must be below max(stride, dilation) = {max(s, d)}"
            )
    options: dict[str, Any] = {"pads": [*lows, *highs]} if any(lows) or any(highs) else {}
    return options | ({"output_padding": extra} if any(extra) else {})
