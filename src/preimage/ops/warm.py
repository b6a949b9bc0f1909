"""Contractions of plain arrays that came before: nothing is checked or planned twice.

A call is known by the shapes, strides and dtypes of its arrays and by its options (`plain_key`). Its second time finds its geometry; from
the third on it is one function of the engine (`calls`), which may decline: then the call goes the long way again.
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

__all__ = ["calls", "keep_warm", "known", "plain_key", "plain_option", "remember"]

Key = tuple[Any, ...]
MOST = 1024
_known: dict[Key | None, ConvGeometry] = {}
#: What a call runs; None: there is nothing shorter than the long way.
calls: Shortcuts[Key | None, Callable[..., Array | None] | None] = Shortcuts(MOST)


def plain_key(
    contraction: object, x: object, w: object, b: object, stride: object, padding: object, dilation: object, groups: object,
    layout: object,
) -> Key | None:  # fmt: skip
    """What a call is known by whose arrays are NumPy's own and whose options are integers or sequences of these; None for any other.
    w may be prepared.
    """
    if type(w) is np.ndarray:
        weights: Any = (w.shape, w.strides, w.dtype)
    elif type(w) is PreparedWeight and type(held := w.array) is np.ndarray:
        weights = (held.shape, held.dtype)
    else:
        return None
    if not (type(x) is np.ndarray and (b is None or type(b) is np.ndarray) and type(groups) is int and type(layout) is str):
        return None
    if not (type(stride) is type(padding) is type(dilation) is int):
        stride, padding, dilation = plain_option(stride), plain_option(padding), plain_option(dilation)
        if stride is None or padding is None or dilation is None:
            return None
    bias = None if b is None else (b.shape, b.strides, b.dtype)
    return (
        id(current()), contraction, x.shape, x.strides, x.dtype, weights, bias, stride, padding, dilation, groups, layout,
    )  # fmt: skip


def plain_option(value: object) -> object:
    """Something that equals an option only if that says the same in the same types; None where there is no such thing."""
    if type(value) is int or type(value) is str:
        return value
    if type(value) is tuple or type(value) is list:
        found = tuple([plain_option(each) for each in value])
        return None if None in found else found
    return None


def remember(key: Key, geometry: ConvGeometry) -> None:
    """Keep the geometry of a call that was found good."""
    if key[4].isnative:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = geometry


def known(key: Key | None, *arrays: Any) -> ConvGeometry | None:
    """The geometry of a call whose arrays engines can take as they are."""
    geometry = _known.get(key)
    if geometry is None or not all(type(a) is not np.ndarray or a.flags.aligned for a in arrays):
        return None
    return geometry


def keep_warm(
    key: Key | None, contraction: Contraction, geometry: ConvGeometry, layout: Layout, x: Any, w: Any, b: Any = None
) -> None:
    """After a call: what the next like it can run."""
    if key in calls or not x.dtype.isnative:
        return
    if contraction == "conv_weight_grad":
        w = channels_first(w, layout)
    epilogue = None if b is None else Epilogue(bias=b)
    calls.keep(key, warm(contraction, geometry, channels_first(x, layout), w, epilogue, layout == "channels_last"))
