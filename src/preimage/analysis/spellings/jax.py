"""JAX: lax.conv_transpose, lax.conv_general_dilated, lax.conv, lax.conv_with_general_padding. Arrays stand as their shapes.

    lax.conv_transpose((1, 8, 8, 64), (4, 4, 64, 3), strides=(2, 2), padding="SAME")
    lax.conv_general_dilated(x, (64, 3, 7, 7), window_strides=(2, 2), padding=((3, 3), (3, 3))) + b.reshape(-1, 1, 1)

Padding pairs of conv_transpose surround the spread-out input: (a, b) crops extent - 1 - a and extent - 1 - b of the full result. With
lhs_dilation conv_general_dilated is a deconvolution, too. Source: the documentation of jax.lax; read off by running it (tests).
"""

from __future__ import annotations

from typing import Any

from preimage.analysis.spellings.call import Call, Name, count_of, flag_of, per_axis_of, written
from preimage.analysis.spellings.layer import LayerSpec, Spelled, refused
from preimage.errors import OptionError
from preimage.geometry import extent_of, split_same

__all__ = ["read", "reads", "write"]

NAMES = ("conv", "conv_transpose", "conv_general_dilated", "conv_with_general_padding")
IGNORED = ("precision", "preferred_element_type", "out_sharding")
ORDERS = {
    "conv": ("lhs", "rhs", "window_strides", "padding"),
    "conv_with_general_padding": ("lhs", "rhs", "window_strides", "padding", "lhs_dilation", "rhs_dilation"),
    "conv_general_dilated": (
        "lhs", "rhs", "window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers", "feature_group_count",
        "batch_group_count",
    ),
    "conv_transpose": ("lhs", "rhs", "strides", "padding", "rhs_dilation", "dimension_numbers", "transpose_kernel"),
}  # fmt: skip
SPATIAL = {1: "W", 2: "HW", 3: "DHW"}


def reads(call: Call) -> bool:
    """Whether this is JAX's spelling."""
    return call.name in NAMES


def read(call: Call, in_channels: int | None = None) -> Spelled:
    """The layer that the call computes; the second argument must be the shape of the kernel."""
    a = call.bound(ORDERS[call.name], ("use_consistent_padding",) if call.name == "conv_transpose" else (), IGNORED)
    rhs = _shape(a.get("rhs"), "rhs")
    if rhs is None:
        raise OptionError(f"{call.name}: write the kernel as its shape, such as (64, 3, 4, 4)")
    ndim = len(rhs) - 2
    transposing = call.name == "conv_transpose"
    lhs_spec, rhs_spec = _numbers(a.get("dimension_numbers"), ndim, transposing)
    if a.get("batch_group_count", 1) != 1:
        raise OptionError(f"{call.name}: batch_group_count is no layer")
    lhs = _shape(a.get("lhs"), "lhs")
    if lhs is not None and len(lhs) != ndim + 2:
        raise OptionError(f"{call.name}: lhs {lhs} and rhs {rhs} have different numbers of axes")
    size = None if lhs is None else tuple(lhs[lhs_spec.index(c)] for c in rhs_spec if c not in "OI")
    kernel = tuple(n for n, c in zip(rhs, rhs_spec, strict=True) if c not in "OI")
    o, i = rhs[rhs_spec.index("O")], rhs[rhs_spec.index("I")]
    places = (rhs_spec.index("O"), rhs_spec.index("I"), *(k for k, c in enumerate(rhs_spec) if c not in "OI"))
    dilation = per_axis_of(_or(a.get("rhs_dilation"), 1), ndim, "rhs_dilation")
    if transposing:
        layer, swap, flipped = _transposed(call, a, kernel, dilation, o, i)
    else:
        layer, swap, flipped = _dilated(call, a, kernel, dilation, o, i, size)
    channels = None if lhs is None else lhs[lhs_spec.index("C")]
    if channels is not None and channels != layer.in_channels:
        raise OptionError(f"{call.name}: lhs {lhs} has {channels} channels, the kernel {rhs} wants {layer.in_channels}")
    if swap:
        places = (places[1], places[0], *places[2:])
    return Spelled("jax", layer, places, flipped, size)


def _or(value: Any, usual: Any) -> Any:
    return usual if value is None else value


def _shape(value: Any, what: str) -> tuple[int, ...] | None:
    if value is None or isinstance(value, Name):
        return None
    if not isinstance(value, tuple | list) or len(value) < 3 or len(value) > 5:
        raise OptionError(f"{what} must be an array's shape of 3 to 5 axes, got {value!r}")
    return per_axis_of(tuple(value), len(value), what)


def _numbers(given: Any, ndim: int, transposing: bool) -> tuple[str, str]:
    space = SPATIAL[ndim]
    if given is None:
        return (f"N{space}C", f"{space}IO") if transposing else (f"NC{space}", f"OI{space}")
    if not isinstance(given, tuple | list) or len(given) != 3 or not all(isinstance(s, str) for s in given):
        raise OptionError(f'dimension_numbers must be three words such as ("NHWC", "HWIO", "NHWC"), got {given!r}')
    lhs, rhs, out = given
    letters = set(rhs) - set("OI")
    if len(rhs) != ndim + 2 or len(letters) != ndim or {*lhs} != letters | {*"NC"} or {*out} != {*lhs} or not {*"OI"} <= {*rhs}:
        raise OptionError(f"dimension_numbers {given!r} do not fit {ndim} spatial axes")
    return lhs, rhs


def _pairs(given: Any, ndim: int, name: str) -> tuple[tuple[int, int], ...] | str:
    if isinstance(given, str):
        word = given.upper()
        if word not in ("SAME", "VALID", "SAME_LOWER"):
            raise OptionError(f"{name}: padding must be 'SAME', 'VALID', 'SAME_LOWER' or (lo, hi) pairs, got {given!r}")
        return word
    if isinstance(given, tuple | list) and len(given) == ndim:
        pairs = tuple(tuple(p) if isinstance(p, tuple | list) else () for p in given)
        if all(len(p) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in p) for p in pairs):
            return tuple((p[0], p[1]) for p in pairs)
    raise OptionError(f"{name}: padding must be a word or {ndim} pairs (lo, hi), got {given!r}")


def _transposed(call: Call, a: dict[str, Any], kernel: Any, dilation: Any, o: int, i: int) -> tuple[LayerSpec, bool, bool]:
    ndim = len(kernel)
    stride = per_axis_of(a.get("strides", 1), ndim, "strides")
    given = _pairs(a.get("padding"), ndim, call.name)
    extents = [extent_of(k, d) for k, d in zip(kernel, dilation, strict=True)]
    consistent = flag_of(a.get("use_consistent_padding", False), "use_consistent_padding")
    crops = []
    for axis, (e, s) in enumerate(zip(extents, stride, strict=True)):
        if given == "SAME":
            total = e + s - 2
            before = e - 1 if s > e - 1 else -(-total // 2)
        elif given == "VALID":
            total, before = e + s - 2 + max(e - s, 0), e - 1
        elif isinstance(given, str):
            raise OptionError(f"{call.name} has no padding {given!r}")
        else:
            lo, hi = given[axis]
            before, total = (e - 1 - lo, 2 * e - 2 - lo - hi) if consistent else (lo, lo + hi)
        crops.append((e - 1 - before, e - 1 - (total - before)))
    swapped = flag_of(a.get("transpose_kernel", False), "transpose_kernel")
    # transpose_kernel: the kernel is that of the convolution whose transpose this is, O its outputs, our inputs
    channels = (o, i) if swapped else (i, o)
    return LayerSpec(True, kernel, stride, tuple(crops), dilation, 1, *channels, bias=call.added), not swapped, not swapped


def _dilated(
    call: Call, a: dict[str, Any], kernel: Any, dilation: Any, o: int, i: int, size: Any
) -> tuple[LayerSpec, bool, bool]:  # fmt: skip
    ndim = len(kernel)
    stride = per_axis_of(a.get("window_strides", 1), ndim, "window_strides")
    spread = per_axis_of(_or(a.get("lhs_dilation"), 1), ndim, "lhs_dilation")
    groups = count_of(a.get("feature_group_count", 1), "feature_group_count")
    given = _pairs(a.get("padding"), ndim, call.name)
    extents = [extent_of(k, d) for k, d in zip(kernel, dilation, strict=True)]
    padding: Any = given
    if given == "VALID":
        padding = ((0, 0),) * ndim
    elif isinstance(given, str):
        word = "same" if given == "SAME" else "same_lower"
        if any(s != 1 for s in spread):
            raise OptionError(f"{call.name}: padding {given!r} with lhs_dilation; write the pairs")
        padding = tuple(split_same(e - 1, word) for e in extents) if all(s == 1 for s in stride) else word
    if all(s == 1 for s in spread):
        return LayerSpec(False, kernel, stride, padding, dilation, groups, i * groups, o, bias=call.added), False, False
    if any(s != 1 for s in stride):
        raise OptionError(
            f"{call.name}: window_strides {stride} with lhs_dilation {spread} is a deconvolution and a stride in one; no layer"
        )
    if groups != 1:
        raise OptionError(
            f"{call.name}: a deconvolution with feature_group_count is not read; its kernel has another order of channels"
        )
    crops = tuple((e - 1 - lo, e - 1 - hi) for e, (lo, hi) in zip(extents, padding, strict=True))
    return LayerSpec(True, kernel, spread, crops, dilation, 1, i, o, bias=call.added), True, True


def write(layer: LayerSpec, input_size: tuple[int, ...] | None) -> str:
    """The layer as JAX computes it, with the weight as PyTorch holds it, the bias added to the result."""
    if layer.padding_mode != "zeros":
        raise refused("JAX", f"it pads with zeros only, not {layer.padding_mode}; jax.numpy.pad comes first")
    if layer.in_channels is None or layer.out_channels is None:
        raise OptionError(
            "JAX reads the channels off the kernel's shape, and this spelling does not say them: give in_channels and out_channels"
        )
    bias = f" + b.reshape(-1{', 1' * layer.ndim})" if layer.bias else ""
    space = SPATIAL[layer.ndim]
    numbers = (f"NC{space}", f"OI{space}", f"NC{space}")
    first, second = (layer.in_channels, layer.out_channels) if layer.transposed else (layer.out_channels, layer.in_channels)
    lhs: Any = Name("x") if input_size is None else (1, layer.in_channels, *input_size)
    rhs = (first, second // layer.groups, *layer.kernel_size)
    options: dict[str, Any] = {}
    if layer.transposed:
        if layer.groups != 1:
            raise refused(
                "JAX",
                f"conv_transpose has no groups (here {layer.groups}); it takes conv_general_dilated on a kernel in another order",
            )
        assert not isinstance(layer.padding, str)
        options["strides"] = layer.stride
        options["padding"] = tuple((e - 1 - lo, e - 1 - end) for e, (lo, end) in zip(layer.extent, layer.padding, strict=True))
    else:
        options["window_strides"] = layer.stride
        options["padding"] = layer.padding.upper() if isinstance(layer.padding, str) else layer.padding
    if any(d != 1 for d in layer.dilation):
        options["rhs_dilation"] = layer.dilation
    options["dimension_numbers"] = numbers
    if layer.transposed:
        return written("lax.conv_transpose", (lhs, rhs), options | {"transpose_kernel": True}) + bias
    if layer.groups != 1:
        options["feature_group_count"] = layer.groups
    return written("lax.conv_general_dilated", (lhs, rhs), options) + bias
