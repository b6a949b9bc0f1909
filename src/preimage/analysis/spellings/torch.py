"""PyTorch: Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d. The words of this library, too."""

from __future__ import annotations

from typing import Any

from preimage.analysis.spellings.call import Call, common, count_of, flag_of, per_axis_of, written
from preimage.analysis.spellings.layer import LayerSpec, Spelled, refused
from preimage.errors import OptionError
from preimage.geometry import extent_of, split_same

__all__ = ["read", "reads", "write"]

ORDER = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
CONV = (*ORDER, "dilation", "groups", "bias", "padding_mode")
TRANSPOSE = (*ORDER, "output_padding", "groups", "bias", "dilation", "padding_mode")
MODES = ("zeros", "reflect", "replicate", "circular")


def reads(call: Call) -> bool:
    """Whether this is PyTorch's spelling."""
    return call.name[:-2] in ("Conv", "ConvTranspose") and call.name[-2:] in ("1d", "2d", "3d")


def read(call: Call, in_channels: int | None = None) -> Spelled:
    """The layer that the call makes."""
    transposed, ndim = call.name.startswith("ConvTranspose"), int(call.name[-2])
    a = call.bound(TRANSPOSE if transposed else CONV, ignored=("device", "dtype"))
    for word in ("in_channels", "out_channels", "kernel_size"):
        if word not in a:
            raise OptionError(f"{call.name}: {word} is missing")
    kernel = per_axis_of(a["kernel_size"], ndim, "kernel_size")
    stride = per_axis_of(a.get("stride", 1), ndim, "stride")
    dilation = per_axis_of(a.get("dilation", 1), ndim, "dilation")
    mode = a.get("padding_mode", "zeros")
    if mode not in MODES or (transposed and mode != "zeros"):
        raise OptionError(f"{call.name}: padding_mode must be {'zeros' if transposed else ', '.join(MODES)}, got {mode!r}")
    padding = _padding(a.get("padding", 0), kernel, stride, dilation, transposed, call.name)
    if transposed:
        extra = per_axis_of(a.get("output_padding", 0), ndim, "output_padding", 0)
        for axis, (e, s, d) in enumerate(zip(extra, stride, dilation, strict=True)):
            if e >= max(s, d):
                raise OptionError(
                    f"{call.name}: output_padding along axis {axis} is {e}; it must be below max(stride, dilation) = {max(s, d)}"
                )
        padding = tuple((lo, hi - e) for (lo, hi), e in zip(padding, extra, strict=True))
    groups = count_of(a.get("groups", 1), "groups")
    channels = count_of(a["in_channels"], "in_channels"), count_of(a["out_channels"], "out_channels")
    if any(c % groups for c in channels):
        raise OptionError(f"{call.name}: groups {groups} must divide in_channels {channels[0]} and out_channels {channels[1]}")
    layer = LayerSpec(
        transposed, kernel, stride, padding, dilation, groups, *channels, flag_of(a.get("bias", True), "bias"), mode
    )
    return Spelled("torch", layer, tuple(range(ndim + 2)))


def _padding(given: Any, kernel: Any, stride: Any, dilation: Any, transposed: bool, name: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(given, str):
        return tuple((p, p) for p in per_axis_of(given, len(kernel), "padding", 0))
    if transposed or given not in ("same", "valid"):
        raise OptionError(f"{name}: padding must be {'numbers' if transposed else 'numbers, same or valid'}, got {given!r}")
    if given == "valid":
        return ((0, 0),) * len(kernel)
    if any(s != 1 for s in stride):
        raise OptionError(f"{name}: PyTorch's padding='same' takes a stride of 1 only")
    return tuple(split_same(extent_of(k, d) - 1, "same") for k, d in zip(kernel, dilation, strict=True))


def write(layer: LayerSpec, input_size: tuple[int, ...] | None) -> str:
    """The layer as PyTorch writes it."""
    if layer.in_channels is None or layer.out_channels is None:
        raise OptionError("PyTorch names the channels, which this spelling does not say: give in_channels (and out_channels)")
    sized = layer.sized(input_size)
    options: dict[str, Any] = {"kernel_size": common(layer.kernel_size)}
    if any(s != 1 for s in layer.stride):
        options["stride"] = common(layer.stride)
    if isinstance(sized.padding, str):
        raise refused(
            "PyTorch", f"padding {sized.padding!r} with stride {layer.stride} depends on the input's size; say the input's size"
        )
    extra: tuple[int, ...] = ()
    padding: Any
    if layer.transposed:
        padding, extra = _cropped(sized)
    else:
        padding = _both_ends(sized)
    if padding != (0,) * layer.ndim:
        options["padding"] = padding if isinstance(padding, str) else common(padding)
    if any(extra):
        options["output_padding"] = common(extra)
    if any(d != 1 for d in layer.dilation):
        options["dilation"] = common(layer.dilation)
    if layer.groups != 1:
        options["groups"] = layer.groups
    if not layer.bias:
        options["bias"] = False
    if layer.padding_mode != "zeros":
        options["padding_mode"] = layer.padding_mode
    return written(
        f"Conv{'Transpose' if layer.transposed else ''}{layer.ndim}d", (layer.in_channels, layer.out_channels), options
    )


def _both_ends(layer: LayerSpec) -> Any:
    assert not isinstance(layer.padding, str)
    if any(min(pair) < 0 for pair in layer.padding):
        raise refused("PyTorch", f"the padding {layer.padding} is negative; crop the input first")
    if all(lo == hi for lo, hi in layer.padding):
        return tuple(lo for lo, _ in layer.padding)
    same = tuple(split_same(e - 1, "same") for e in layer.extent)
    if layer.padding == same and all(s == 1 for s in layer.stride):
        return "same"
    raise refused(
        "PyTorch",
        f"its layer pads both ends alike, and here they differ, {layer.padding}; pad first with torch.nn.functional.pad",
    )


def _cropped(layer: LayerSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert not isinstance(layer.padding, str)
    extra = []
    for axis, ((lo, end), s, d) in enumerate(zip(layer.padding, layer.stride, layer.dilation, strict=True)):
        if lo < 0 or not 0 <= lo - end < max(s, d):
            raise refused(
                "PyTorch",
                f"axis {axis} crops {lo} at the start and {end} at the end; PyTorch takes the same padding off both ends and appends"
                f" an output_padding of 0 to {max(s, d) - 1}",
            )
        extra.append(lo - end)
    return tuple(lo for lo, _ in layer.padding), tuple(extra)
