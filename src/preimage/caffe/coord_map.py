"""Which coordinates of one top belong to which of another, and the Crop layer that lines them up.

A map (axis, a, b) sends a coordinate x of a top to a x + b of another, along the axes after `axis`; a and b are one number for all axes or one for
each. With the extent e = dilation (kernel_size - 1) + 1 of a window:

    Convolution, Pooling, Im2col    bottom to top    a = 1 / stride,  b = (pad - (e - 1) / 2) / stride
    Deconvolution                                    a = stride,      b = (e - 1) / 2 - pad
    Crop                                             a = 1,           b = -offset
    pointwise layers                                 a = 1,           b = 0, for any axis

Maps compose along a path from both tops to a top that they both come from.
Source: BVLC/caffe, python/caffe/coord_map.py (read as facts).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.caffe.net_spec import Top, layers
from preimage.errors import CheckError, OptionError, PreimageError
from preimage.io.caffe.wire.message import Message

__all__ = [
    "AxisMismatchError",
    "UnconnectedError",
    "UndefinedMapError",
    "compose",
    "coord_map",
    "coord_map_from_to",
    "crop",
    "inverse",
]

Map = tuple[int | None, Any, Any]
IDENTITY: Map = (None, 1, 0)
POINTWISE = (
    "AbsVal", "BatchNorm", "Bias", "BNLL", "Clip", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN", "MVN", "Power", "PReLU", "ReLU",
    "Scale", "Sigmoid", "Split", "Swish", "TanH", "Threshold",
)  # fmt: skip


class UndefinedMapError(PreimageError, ValueError):
    """A layer that does not send coordinates to coordinates."""


class AxisMismatchError(PreimageError, ValueError):
    """Maps of different axes that were to be composed."""


class UnconnectedError(PreimageError, RuntimeError):
    """Tops that no path of layers with a map connects."""


UndefinedMapException, AxisMismatchException = UndefinedMapError, AxisMismatchError  # pycaffe's names


def _window(message: Message) -> tuple[int, Any, Any, Any]:
    """axis, stride, extent and pad of a layer with a window."""
    pooling = message.type == "Pooling"
    parameter = message.pooling_param if pooling else message.convolution_param
    if sided := [name for name in ("pad", "kernel", "stride") for side in "hw" if parameter.has(f"{name}_{side}")]:
        raise CheckError(f"layer type {message.type}: {sided[0]}_h and {sided[0]}_w are not looked at; give {sided[0]} as a list")
    if not parameter.has("kernel_size"):
        raise UndefinedMapError(f"a {message.type} without kernel_size has no map")

    def numbers(name: str, default: int) -> Any:
        return np.array(getattr(parameter, name) if parameter.has(name) else default, ndmin=1)

    extent = numbers("kernel_size", 1)
    if not pooling:
        extent = numbers("dilation", 1) * (extent - 1) + 1
    return 1 if pooling else int(parameter.axis), numbers("stride", 1), extent, numbers("pad", 0)


def coord_map(fn: Any) -> Map:
    """The map from a layer's bottoms to its tops. Raises: UndefinedMapError."""
    message: Message = fn.message
    if message.type in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = _window(message)
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if message.type == "Deconvolution":
        axis, stride, extent, pad = _window(message)
        return axis, stride, (extent - 1) / 2 - pad
    if message.type in POINTWISE:
        return IDENTITY
    if message.type == "Crop":
        parameter = message.crop_param
        return int(parameter.axis) - 1, 1, -np.array(list(parameter.offset) or 0, ndmin=1)
    raise UndefinedMapError(f"a {message.type} layer has no map of coordinates")


def compose(base: Map, following: Map) -> Map:
    """The map that applies `following` first, then `base`: a1 (a2 x + b2) + b1. Raises: AxisMismatchError."""
    (axis1, a1, b1), (axis2, a2, b2) = base, following
    if axis1 is not None and axis2 is not None and axis1 != axis2:
        raise AxisMismatchError(f"a map of the axes after {axis1} and one of those after {axis2} cannot be composed")
    return (axis2 if axis1 is None else axis1), a1 * a2, a1 * b2 + b1


def inverse(found: Map) -> Map:
    """The map back."""
    axis, a, b = found
    return axis, 1 / a, -b / a


def _walk(top: Top, visit: Callable[[Top, Map], bool]) -> bool:
    """Go from a top to all it comes from, each once and with its map from there; True where `visit` wants to stop."""
    waiting, seen = [(top, IDENTITY)], set()
    while waiting:
        current, found = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if visit(current, found):
            return True
        try:
            step = coord_map(current.fn)
        except UndefinedMapError:
            continue
        bottoms = current.fn.bottoms[:1] if current.fn.type_name == "Crop" else current.fn.bottoms  # the second only gives sizes
        waiting += [(bottom, compose(found, step)) for bottom in reversed(bottoms)]
    return False


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map (axis, a, b) from the coordinates of `top_from` to those of `top_to`. Raises: UnconnectedError (a RuntimeError)."""
    for top in (top_from, top_to):
        if not isinstance(top, Top):
            raise OptionError(f"a top was expected, got {type(top).__name__}")
    ancestors: dict[Top, Map] = {}

    def collect(top: Top, found: Map) -> bool:
        ancestors[top] = found
        return False

    answer: list[Map] = []

    def meet(top: Top, found: Map) -> bool:
        if top in ancestors:
            answer.append(compose(found, inverse(ancestors[top])))
        return bool(answer)

    _walk(top_from, collect)
    if not _walk(top_to, meet):
        raise UnconnectedError("no map leads from one top to the other: are they connected by layers that keep coordinates?")
    return answer[0]


def crop(top_from: Top, top_to: Top) -> Any:
    """The top of a Crop layer that cuts `top_from` to the part that lies over `top_to`.

    Raises: CheckError (an AssertionError) where the scales differ, or the offset is below 0 or no whole number.
    """
    axis, a, b = coord_map_from_to(top_from, top_to)
    a, b = np.atleast_1d(a), np.atleast_1d(b)
    if not (a == 1).all():
        raise CheckError(f"the scales of the tops differ by {a.tolist()}; a crop needs 1")
    if not (b <= 0).all():
        raise CheckError(f"the crop would begin {b.tolist()} before the first position; pad the layers before it more")
    if not (np.round(b) == b).all():
        raise CheckError(f"the crop would begin at {(-b).tolist()}, which are no whole numbers")
    first = 2 if axis is None else axis + 1
    return layers.Crop(top_from, top_to, crop_param={"axis": first, "offset": [int(n) for n in -b]})
