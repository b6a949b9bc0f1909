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
from preimage.geometry import ConvGeometry
from preimage.ops.contraction import channels_first
from preimage.settings import current
from preimage.typing import Contraction, Layout

__all__ = ["calls", "is_plain", "keep_warm", "known", "plain_key", "remember"]

Key = tuple[Any, ...]
MOST = 1024
_known: dict[Key | None, ConvGeometry] = {}
#: What a call runs; None: there is nothing shorter than the long way.
calls: Shortcuts[Key | None, Callable[..., Array | None] | None] = Shortcuts(MOST)


def plain_key(
    contraction: object, x: object, w: object, b: object, stride: object, padding: object, dilation: object, groups: object,
    layout: object,
) -> Key | None:  # fmt: skip
    """What a call is known by whose arrays are NumPy's own and whose options are integers; None for any other."""
    if not (
        type(x) is type(w) is np.ndarray
        and type(stride) is type(padding) is type(dilation) is type(groups) is int
        and (b is None or type(b) is np.ndarray)
        and type(layout) is str
    ):
        return None
    bias = None if b is None else (b.shape, b.strides, b.dtype)
    return (
        id(current()), contraction, x.shape, x.strides, x.dtype, w.shape, w.strides, w.dtype, bias, stride, padding, dilation, groups,
        layout,
    )  # fmt: skip


def is_plain(sizes: object) -> bool:
    """Whether sizes are equal to others only if these are integers, too."""
    return type(sizes) is int or (type(sizes) is tuple and all(type(size) is int for size in sizes))


def remember(key: Key, geometry: ConvGeometry) -> None:
    """Keep the geometry of a call that was found good."""
    if key[4].isnative:
        if len(_known) >= MOST:
            _known.clear()
        _known[key] = geometry


def known(key: Key | None, *arrays: Any) -> ConvGeometry | None:
    """The geometry of a call whose arrays engines can take as they are."""
    geometry = _known.get(key)
    if geometry is None or not all(a is None or a.flags.aligned for a in arrays):
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
