"""Contractions of plain arrays that came before: nothing is checked or planned twice.

    key, made = again("conv", conv_op, x, w, b, 0, stride, padding, dilation, groups, layout)
    if made is not None: return made        # its like came before
    ...                                     # the long way: arguments are checked, and a geometry is made
    remember(key, geometry)

A call is known by the shapes, strides and dtypes of its arrays and by its options. Its second time finds its geometry; from the third on
it is one function of the engine (`calls`), which may decline: then the call goes the long way again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.engines import warm
from preimage.engines.base import Array, Epilogue
from preimage.engines.decisions import Shortcuts
from preimage.engines.prepared import PreparedWeight
from preimage.geometry import ConvGeometry
from preimage.ops.contraction import channels_first
from preimage.settings import current
from preimage.typing import Contraction, Layout

__all__ = ["again", "calls", "keep_warm", "plain_option", "remember"]

Key = tuple[Any, ...]
MOST = 1024
_known: dict[Key, ConvGeometry] = {}
#: What a call runs; None: there is nothing shorter than the long way.
calls: Shortcuts[Key, Callable[..., Array | None] | None] = Shortcuts(MOST)


def again(
    contraction: Contraction, op: Callable[..., Any], a: Any, w: Any, b: Any, own: object, stride: object, padding: object,
    dilation: object, groups: object, layout: Layout,
) -> tuple[Key | None, Array | None]:  # fmt: skip
    """What a call is known by, and what it gives if its like came before.

    None, None for any but arrays of NumPy's own, in this machine's order of bytes, and options that are integers or sequences of these.
    w may be prepared, b None. own: the one option that other contractions don't have, or 0. op: is called with a geometry that was found good.
    """
    if type(w) is np.ndarray:
        weights: Any = (w.shape, w.strides, w.dtype)
        native = w.dtype.isnative
    elif type(w) is PreparedWeight and type(held := w.array) is np.ndarray:
        weights, native = (held.shape, held.dtype), True
    else:
        return None, None
    if not (type(a) is np.ndarray and (b is None or type(b) is np.ndarray) and type(groups) is int and type(layout) is str):
        return None, None
    if not (type(stride) is type(padding) is type(dilation) is type(own) is int):
        stride, padding, dilation, own = plain_option(stride), plain_option(padding), plain_option(dilation), plain_option(own)
        if stride is None or padding is None or dilation is None or own is None:
            return None, None
    bias = None if b is None else (b.shape, b.strides, b.dtype)
    key = (
        id(current()), contraction, own, a.shape, a.strides, a.dtype, weights, bias, stride, padding, dilation, groups, layout,
    )  # fmt: skip
    call = calls.get(key)
    if call is not None and (made := call(a, w, b)) is not None:
        return key, made
    if not (native and a.dtype.isnative and (b is None or b.dtype.isnative)):
        return None, None
    geometry = _known.get(key)
    if geometry is None or not all(type(each) is not np.ndarray or each.flags.aligned for each in (a, w, b)):
        return key, None
    made = op(a, w, b, geometry=geometry, layout=layout)
    keep_warm(key, contraction, geometry, layout, a, w, b)
    return key, made


def plain_option(value: object) -> object:
    """Something that equals an option only if that says the same in the same types; None where there is no such thing."""
    if type(value) is int or type(value) is str:
        return value
    if type(value) is tuple or type(value) is list:
        found = tuple([plain_option(each) for each in value])
        return None if None in found else found
    return None


def remember(key: Key | None, geometry: ConvGeometry) -> None:
    """Keep the geometry of a call that was found good; key: None for one that is never kept."""
    if key is not None:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = geometry


def keep_warm(
    key: Key | None, contraction: Contraction, geometry: ConvGeometry, layout: Layout, a: Array, w: Any, b: Array | None = None
) -> None:
    """After a call: what the next like it can run."""
    if key is None or key in calls:
        return
    if contraction == "conv_weight_grad":
        w = channels_first(w, layout)
    epilogue = None if b is None else Epilogue(bias=b)
    calls.keep(key, warm(contraction, geometry, channels_first(a, layout), w, epilogue, layout == "channels_last"))
