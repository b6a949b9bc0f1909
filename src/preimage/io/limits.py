"""How large the values of a graph may become: a small file must not be able to ask for all the memory, or for hours.

`check` foresees what a node would make from the shapes that it is given, for the words that can multiply sizes: the
contractions, windows, products and broadcasting. Words that take sizes from data (Expand, Range, Tile ...) check themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from preimage.autograd import array_of
from preimage.errors import FileFormatError, PreimageError
from preimage.geometry import ConvGeometry

__all__ = ["allowed", "check", "checked_size", "current", "limits"]

#: Elements of one value, and flop of one contraction.
_LIMITS = {"elements": 2**29, "flop": 2**50}


@contextmanager
def limits(*, elements: int | None = None, flop: int | None = None) -> Iterator[None]:
    """Other limits inside a `with` block: elements of one value, flop of one contraction."""
    before = dict(_LIMITS)
    _LIMITS.update({k: v for k, v in (("elements", elements), ("flop", flop)) if v is not None})
    try:
        yield
    finally:
        _LIMITS.update(before)


def current() -> tuple[int, int]:
    """The limits that hold now: elements, flop."""
    return _LIMITS["elements"], _LIMITS["flop"]


def allowed() -> int:
    """Elements that one value may have."""
    return _LIMITS["elements"]


def checked_size(shape: Sequence[Any], what: str) -> tuple[int, ...]:
    """`shape` as integers.

    Raises: FileFormatError where a size is negative, or the whole larger than the limit.
    """
    sizes = tuple(int(v) for v in shape)
    if any(v < 0 for v in sizes) or len(sizes) > 32:
        raise FileFormatError(f"{what}: impossible shape {sizes}")
    if prod(sizes) > _LIMITS["elements"]:
        raise FileFormatError(f"{what}: a result of shape {sizes} is larger than the limit of {_LIMITS['elements']} elements")
    return sizes


def check(op: str, values: Sequence[Any], attributes: Any, what: str) -> None:
    """Refuse a node whose result, foreseen from the shapes of its inputs, would be larger than the limits.

    Raises: FileFormatError that names the node.
    """
    shapes = [tuple(np.shape(array_of(v))) for v in values if v is not None]
    if len(shapes) < 2:
        return
    word = op.removeprefix("onnx.").lower().replace("_", "")
    if word in ("conv", "convtranspose"):
        _check_contraction(word, shapes, attributes, what)
    elif word in ("matmul", "gemm", "linear"):
        a, b = shapes[:2]
        if a and b:
            checked_size([max(prod(a[:-1]), 1), max(b[-1], b[0] if len(b) > 1 else 1, 1)], what)
            if 2 * prod(a) * max(b) > _LIMITS["flop"]:
                raise FileFormatError(f"{what}: a product of shapes {a} and {b} is more work than the limit allows")
    elif len(shapes) <= 3:
        longest = max(map(len, shapes))
        if prod(map(prod, shapes)) > _LIMITS["elements"] and longest:
            aligned = [(1,) * (longest - len(s)) + s for s in shapes]
            widest = prod(max(column) for column in zip(*aligned, strict=True))
            if widest > _LIMITS["elements"]:
                raise FileFormatError(
                    f"{what}: shapes {shapes} together are larger than the limit of {_LIMITS['elements']} elements"
                )


def _check_contraction(word: str, shapes: Sequence[tuple[int, ...]], attributes: Any, what: str) -> None:
    given = {
        "stride": attributes.get("stride", attributes.get("strides")) or 1,
        "dilation": attributes.get("dilation", attributes.get("dilations")) or 1,
        "groups": attributes.get("groups", attributes.get("group", 1)),
        "padding": attributes.get("padding", 0),
    }
    pads = attributes.get("pads")
    if pads:
        given["padding"] = [(pads[k], pads[k + len(pads) // 2]) for k in range(len(pads) // 2)]
    extra = attributes.get("output_padding") or 0
    try:
        if word == "conv":
            geometry = ConvGeometry.from_conv(shapes[0], shapes[1], **given)
            result = geometry.output_shape
        else:
            geometry = ConvGeometry.from_conv_transpose(shapes[0], shapes[1], output_padding=extra, **given)
            result = geometry.input_shape
    except PreimageError:
        return  # the contraction itself says what is wrong
    checked_size(result, what)
    if geometry.work_flop > _LIMITS["flop"]:
        raise FileFormatError(f"{what}: {geometry.work_flop} flop are more than the limit of {_LIMITS['flop']}")
