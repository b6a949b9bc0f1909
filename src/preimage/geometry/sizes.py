"""Size formulas along one axis, arguments that are given once for all axes made one per axis, and what shapes must agree in."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, Literal, SupportsIndex

from preimage.errors import GeometryError

__all__ = [
    "MAX_ELEMENTS", "MAX_PARAMETER", "Padding", "PaddingWord", "Pairs", "PerAxis", "check_groups", "check_ndim", "conv_size",
    "conv_transpose_size", "extent_of", "hashable", "integer", "normalise_padding", "per_axis", "shape_of", "sizes", "split_same",
]  # fmt: skip

#: A number for every spatial axis, or one for all.
PerAxis = SupportsIndex | Sequence[SupportsIndex]
PaddingWord = Literal["same", "same_upper", "same_lower", "valid"]
#: Padding of the spatial axes: a number for both ends of all, one per axis, a pair (lo, hi) per axis, or a word.
Padding = SupportsIndex | PaddingWord | Sequence[SupportsIndex | Sequence[SupportsIndex]]
Pairs = tuple[tuple[int, int], ...]
_WORDS: dict[str, PaddingWord] = {"same": "same", "same_upper": "same", "same_lower": "same_lower", "valid": "valid"}

#: No engine indexes an array of more elements (2**40 float32 are 4 TiB); what is larger is refused, not wrapped.
MAX_ELEMENTS = 2**40
#: No parameter of an axis (padding, stride, dilation, kernel) may be larger, so that all sums stay inside 64 bits.
MAX_PARAMETER = 2**48


def extent_of(kernel: int, dilation: int) -> int:
    """The length that a dilated kernel covers: dilation * (kernel - 1) + 1."""
    return dilation * (kernel - 1) + 1


def conv_size(large: int, lo: int, hi: int, extent: int, stride: int) -> int:
    """The small size that a convolution gives along one axis; below 1 where the kernel does not fit."""
    return (large + lo + hi - extent) // stride + 1


def conv_transpose_size(small: int, lo: int, hi: int, extent: int, stride: int, output_padding: int = 0) -> int:
    """The large size that a transposed convolution gives along one axis; may be negative: then it is impossible."""
    return (small - 1) * stride + extent - lo - hi + output_padding


def integer(value: Any, what: str) -> int:
    if isinstance(value, bool):
        raise GeometryError(f"{what} must be an integer, got {value!r}")
    try:
        return index(value)
    except TypeError:
        raise GeometryError(f"{what} must be an integer, got {value!r}") from None


def per_axis(value: PerAxis, ndim: int, name: str, least: int = 1) -> tuple[int, ...]:
    """`value` as one integer an axis: a single integer stands for all.

    Raises: GeometryError for another count, a value below `least`, or something that is no integer.
    """
    given: Any = value  # anything may come
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        if hasattr(given, "__iter__") and not isinstance(given, (str, bytes)) and getattr(given, "ndim", 1) != 0:
            given = tuple(given)
        else:
            given = (integer(given, name),) * ndim
    values = tuple(integer(v, f"{name}[{axis}]") for axis, v in enumerate(given))
    if len(values) != ndim:
        raise GeometryError(f"{name} {values} has {len(values)} entries, wanted one integer or one per axis ({ndim})")
    for axis, v in enumerate(values):
        if v < least:
            raise GeometryError(f"{name} along axis {axis} is {v}; the least is {least}")
        if v > MAX_PARAMETER:
            raise GeometryError(f"{name} along axis {axis} is {v}; the most is {MAX_PARAMETER}")
    return values


def normalise_padding(padding: Padding, ndim: int) -> Pairs | PaddingWord:
    """`padding` as one (lo, hi) pair an axis, or one of the words "same", "same_lower", "valid".

    An integer stands for both ends of every axis, an integer per axis for both its ends. Negative padding crops.
    """
    if isinstance(padding, str):
        word = _WORDS.get(padding.lower())
        if word is None:
            raise GeometryError(f"padding must be numbers, 'same', 'same_lower' or 'valid', got {padding!r}")
        return word
    given: Any = padding  # anything may come
    if not hasattr(given, "__iter__") or getattr(given, "ndim", 1) == 0:
        both = integer(given, "padding")
        entries: list[Any] = [both] * ndim
    else:
        entries = list(given)
    if len(entries) != ndim:
        hint = f"; one axis takes a pair inside: (({entries[0]}, {entries[1]}),)" if ndim == 1 and len(entries) == 2 else ""
        raise GeometryError(f"padding {padding!r} has {len(entries)} entries, wanted one per axis ({ndim}){hint}")
    pairs = []
    for axis, entry in enumerate(entries):
        if hasattr(entry, "__iter__") and not isinstance(entry, str) and getattr(entry, "ndim", 1) != 0:
            pair = tuple(integer(v, f"padding[{axis}]") for v in entry)
            if len(pair) != 2:
                raise GeometryError(f"padding[{axis}] is {entry!r}, wanted an integer or a pair (lo, hi)")
        else:
            pair = (integer(entry, f"padding[{axis}]"),) * 2
        if max(abs(pair[0]), abs(pair[1])) > MAX_PARAMETER:
            raise GeometryError(f"padding along axis {axis} is {pair}; the most is {MAX_PARAMETER}")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def split_same(total: int, word: str) -> tuple[int, int]:
    """Share the padding of "same" between both ends; the odd one goes to the end ("same") or the start ("same_lower")."""
    half = total // 2
    return (half, total - half) if word == "same" else (total - half, half)


def hashable(value: Any) -> Any:
    """`value` as something hashable without changing what it says: lists and arrays become tuples of exact integers."""
    if type(value) is int or isinstance(value, str):
        return value
    if type(value) is tuple:
        for v in value:
            if type(v) is not int:
                break
        else:
            return value
    if hasattr(value, "__iter__") and getattr(value, "ndim", 1) != 0:
        return tuple(hashable(v) for v in value)
    return integer(value, "a size")


def check_groups(groups: int, in_channels: int, out_channels: int) -> None:
    """Refuse groups that do not divide the channels."""
    if groups < 1:
        raise GeometryError(f"groups is {groups}; the least is 1")
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            near = channels - channels % groups or groups
            raise GeometryError(f"groups {groups} do not divide {name} {channels}; the nearest that would do is {near}")


def sizes(shape: Sequence[SupportsIndex], name: str) -> tuple[int, ...]:
    """A shape as a tuple of exact integers. Raises: GeometryError for what is none."""
    if not hasattr(shape, "__iter__") or isinstance(shape, str | bytes) or getattr(shape, "ndim", 1) != 1:
        raise GeometryError(f"the {name} shape must be a sequence of sizes, got {shape!r:.200}")
    found: tuple[Any, ...] = tuple(shape)
    for v in found:
        if type(v) is not int:  # an array's own shape needs no more than this look: it comes with every call
            return tuple([integer(v, f"{name} shape") for v in found])
    return found


def shape_of(shape: Sequence[SupportsIndex], name: str) -> tuple[int, ...]:
    """A shape as exact integers: batch, channels and what follows."""
    sizes = tuple(integer(v, f"{name} shape") for v in shape)
    if len(sizes) < 2:
        raise GeometryError(f"the {name} needs a batch and a channel axis before its spatial axes, got shape {sizes}")
    if any(v < 0 for v in sizes):
        raise GeometryError(f"the {name} shape {sizes} has a negative size")
    return sizes


def check_ndim(shape: tuple[int, ...], weight: tuple[int, ...]) -> int:
    """The number of spatial axes, which an input and a weight must share."""
    if len(shape) != len(weight):
        raise GeometryError(f"input shape {shape} has {len(shape) - 2} spatial axes, weight shape {weight} has {len(weight) - 2}")
    for axis, k in enumerate(weight[2:]):
        if k < 1:
            raise GeometryError(f"kernel size along axis {axis} is {k}; the least is 1")
    return len(shape) - 2
