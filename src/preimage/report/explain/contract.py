"""The JSON contract of the page: a layer and its arrays checked, in full, as plain data. See the package's text."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as BinasciiError
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import GeometryError, OptionError, ShapeError
from preimage.geometry import ConvGeometry, normalise_padding, per_axis

__all__ = [
    "GIVEN",
    "MODES",
    "checked_layer",
    "checked_values",
    "checked_view",
    "decoded",
    "encoded",
    "full_layer",
    "geometry_of",
    "shapes_of",
    "too_large",
]

Array = NDArray[np.float32]
Spec = dict[str, Any]

KINDS = ("conv", "conv_transpose", "linear")
MODES = ("paint", "slide", "grad_input", "grad_weight", "grad_bias")
GIVEN = ("input", "weight", "bias", "grad_output")
WORDS = (
    "kind", "in_channels", "out_channels", "groups", "input_size", "output_size", "kernel_size", "stride", "padding", "dilation",
    "output_padding", "bias",
)  # fmt: skip
#: What the page shows: numbers along an axis, channels, numbers in one array, multiply-adds of one contraction.
MOST_SIZE, MOST_CHANNELS, MOST_ELEMENTS, MOST_MACS = 64, 512, 300_000, 4_000_000
#: Limits of single words, those of the page's own fields.
_LIMITS = {"kernel_size": (1, 32), "stride": (1, 32), "dilation": (1, 32), "output_padding": (0, 64), "padding": (-32, 64)}


def checked_view(mode: str, step: int) -> dict[str, Any]:
    """What the page opens with."""
    if mode not in MODES:
        raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise OptionError(f"step must be a whole number from 0, got {step!r}")
    return {"mode": mode, "step": step}


def checked_layer(layer: Mapping[str, Any] | ConvGeometry, transposed: bool, values: Mapping[str, Any] | None) -> Spec:
    """A layer in full, of a size that the page can show."""
    spec = full_layer(layer, transposed, values)
    problem = too_large(spec)
    if problem is not None:
        raise GeometryError(problem)
    return spec


def full_layer(
    layer: Mapping[str, Any] | ConvGeometry, transposed: bool, values: Mapping[str, Any] | None, most_axes: int = 2
) -> Spec:
    """A layer in full: every word there, lists one entry an axis, sizes that the library accepts."""
    given = _words_of(layer, transposed) if isinstance(layer, ConvGeometry) else dict(layer)
    unknown = [str(word) for word in given if word not in WORDS]
    if unknown:
        raise OptionError(f"a layer has no {', '.join(unknown)}; its words are {', '.join(WORDS)}")
    kind = given.get("kind", "conv_transpose" if transposed else "conv")
    if kind not in KINDS:
        raise OptionError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if "input_size" not in given:
        raise OptionError("a layer needs its input_size: one number a spatial axis, one axis to three")
    size = given["input_size"]
    ndim = len(size) if hasattr(size, "__len__") and not isinstance(size, str) else 1
    if not 1 <= ndim <= most_axes:
        raise GeometryError(
            f"the page shows layers over one or two axes, and slices of those over three; got input_size {size!r}"
        )
    spec: Spec = {"kind": kind}
    for word in ("in_channels", "out_channels", "groups"):
        spec[word] = per_axis(given.get(word, 1), 1, word)[0]
    spec["input_size"] = list(per_axis(size, ndim, "input_size"))
    for word, usual in (("output_size", 4), ("kernel_size", 3), ("stride", 1), ("dilation", 1), ("output_padding", 0)):
        least = 0 if word == "output_padding" else 1
        entry = given.get(word, usual) if word != "output_size" or kind == "linear" else usual  # else it follows
        spec[word] = _within(per_axis(entry, ndim, word, least), _LIMITS.get(word, (1, 10**6)), word)
    spec["padding"] = _pairs(spec, given.get("padding", 0), ndim)
    spec["bias"] = bool(given.get("bias", "bias" in (values or {})))
    geometry = geometry_of(spec)  # raises where the sizes cannot be
    if kind != "linear":
        spec["output_size"] = list(geometry.input_size if kind == "conv_transpose" else geometry.output_size)
    if min(prod(shape) for shape in shapes_of(spec).values()) < 1:
        raise GeometryError(f"the layer's output would be empty: {spec['output_size']}")
    return spec


def too_large(spec: Spec) -> str | None:
    """Why the page cannot show a layer whole; None where it can."""
    for word, limits in (
        ("in_channels", (1, MOST_CHANNELS)),
        ("out_channels", (1, MOST_CHANNELS)),
        ("input_size", (1, MOST_SIZE)),
    ):
        for value in spec[word] if isinstance(spec[word], list) else [spec[word]]:
            if not limits[0] <= value <= limits[1]:
                return f"{word} is {value}; the page takes {limits[0]} to {limits[1]}, the nearest is {min(max(value, limits[0]), limits[1])}"
    if any(not _LIMITS["padding"][0] <= end <= _LIMITS["padding"][1] for pair in spec["padding"] for end in pair):
        return f"padding is {spec['padding']}; the page takes {_LIMITS['padding'][0]} to {_LIMITS['padding'][1]}"
    if spec["kind"] == "conv_transpose" and max(spec["output_size"]) > 2 * MOST_SIZE:
        return f"output_size is {spec['output_size']}; the page shows at most {2 * MOST_SIZE} along an axis"
    biggest, macs = max(prod(shape) for shape in shapes_of(spec).values()), geometry_of(spec).macs
    if biggest > MOST_ELEMENTS or macs > MOST_MACS:
        return (
            f"the page shows arrays of at most {MOST_ELEMENTS} numbers and layers of at most {MOST_MACS} multiply-adds, this one has"
            f" {biggest} and {macs}; give a part of it: fewer channels or a smaller input_size"
        )
    return None


def _words_of(g: ConvGeometry, transposed: bool) -> dict[str, Any]:
    """A geometry in the words of a layer."""
    if g.batch != 1:
        raise GeometryError(f"the page shows one image at a time, got a batch of {g.batch}; batch 1 would do")
    channels, size = ("out_channels", "in_channels"), g.output_size if transposed else g.input_size
    if not transposed:
        channels = ("in_channels", "out_channels")
    return {
        "kind": "conv_transpose" if transposed else "conv", channels[0]: g.in_channels, channels[1]: g.out_channels,
        "groups": g.groups, "input_size": size, "kernel_size": g.kernel_size, "stride": g.stride, "padding": g.padding,
        "dilation": g.dilation, "output_padding": g.remainder if transposed else 0,
    }  # fmt: skip


def _within(values: tuple[int, ...], limits: tuple[int, int], word: str) -> list[int]:
    least, most = limits
    for value in values:
        if not least <= value <= most:
            raise GeometryError(
                f"{word} is {value}; the page takes {least} to {most}, the nearest is {min(max(value, least), most)}"
            )
    return list(values)


def _pairs(spec: Spec, padding: Any, ndim: int) -> list[list[int]]:
    """Padding as pairs; "same" and "valid" become numbers."""
    pads = normalise_padding(padding, ndim)
    if isinstance(pads, str):
        if spec["kind"] == "linear":
            pads = ((0, 0),) * ndim
        else:
            pads = _geometry({**spec, "padding": pads}).padding
    return [list(pair) for pair in pads]


def _geometry(spec: Spec) -> ConvGeometry:
    options = {"stride": spec["stride"], "padding": spec["padding"], "dilation": spec["dilation"], "groups": spec["groups"]}
    shape = (1, spec["in_channels"], *spec["input_size"])
    if spec["kind"] == "linear":
        outputs = spec["out_channels"] * prod(spec["output_size"])
        return ConvGeometry.from_conv(shape, (outputs, spec["in_channels"], *spec["input_size"]))
    if spec["kind"] == "conv_transpose":
        weight = (spec["in_channels"], _share(spec, "out_channels"), *spec["kernel_size"])
        return ConvGeometry.from_conv_transpose(shape, weight, output_padding=spec["output_padding"], **options)
    return ConvGeometry.from_conv(shape, (spec["out_channels"], _share(spec, "in_channels"), *spec["kernel_size"]), **options)


def _share(spec: Spec, word: str) -> int:
    """Channels of a group."""
    channels, groups = int(spec[word]), int(spec["groups"])
    if channels % groups:
        near = max(d for d in range(1, groups + 1) if channels % d == 0)
        raise GeometryError(f"groups {groups} do not divide {word} {channels}; the nearest that would do is {near}")
    return channels // groups


def geometry_of(spec: Spec) -> ConvGeometry:
    """The library's geometry of a layer; a fully connected one is a convolution whose stencil is as large as its input."""
    return _geometry(spec)


def shapes_of(spec: Spec) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays that are given, without a batch axis."""
    g = geometry_of(spec)
    outputs = g.out_channels if spec["kind"] == "linear" else spec["out_channels"]
    return {
        "input": (spec["in_channels"], *spec["input_size"]), "weight": g.weight_shape, "bias": (outputs,),
        "grad_output": (spec["out_channels"], *spec["output_size"]),
    }  # fmt: skip


def checked_values(spec: Spec, values: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays as float32 in C order, each of the shape that the layer wants."""
    unknown = [str(name) for name in values if name not in GIVEN]
    if unknown:
        raise OptionError(f"values have no {', '.join(unknown)}; their names are {', '.join(GIVEN)}")
    shapes, checked = shapes_of(spec), {}
    for name, value in values.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
            raise OptionError(f"{name} must hold real numbers, got dtype {array.dtype}")
        want = shapes[name]
        flat_linear = spec["kind"] == "linear" and name == "weight" and array.shape == (want[0], prod(want[1:]))
        if array.shape not in (want, (1, *want)) and not flat_linear:
            batch = f"; one image at a time: {name}[:1]" if array.ndim == len(want) + 1 and array.shape[1:] == want else ""
            raise ShapeError(f"{name} has shape {array.shape}, the layer wants {want}{batch}")
        with np.errstate(over="ignore"):
            checked[name] = np.ascontiguousarray(array, dtype=np.float32).reshape(want)
    return checked


def encoded(array: Array) -> dict[str, Any]:
    """An array as plain data, every bit of it."""
    return {"shape": list(array.shape), "float32": b64encode(array.astype("<f4").tobytes()).decode()}


def decoded(data: Any, name: str, shape: tuple[int, ...]) -> Array:
    """An array from such data, of a shape that is known.

    Raises: OptionError for anything else.
    """
    if not isinstance(data, dict) or not isinstance(data.get("float32"), str):
        raise OptionError(f'{name} must be {{"shape": [...], "float32": base64}}')
    try:
        content = b64decode(data["float32"], validate=True)
    except (BinasciiError, ValueError):
        raise OptionError(f"{name} is not base64") from None
    if len(content) != 4 * prod(shape):
        raise ShapeError(f"{name} has {len(content)} bytes, the layer wants {4 * prod(shape)}: float32 of shape {shape}")
    return np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)
