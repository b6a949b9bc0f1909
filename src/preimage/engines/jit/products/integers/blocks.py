"""The groups of a convolution as matrix products: which of them one product takes together, and its matrix.

A group with few output channels leaves most lanes of a vector idle. Several are one product whose matrix has the groups' own along its diagonal and
zero points beside them, which add nothing: as many multiplications as one group after another, and longer runs of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preimage.engines.base import Array
from preimage.engines.jit.elementwise.copies import in_order
from preimage.records import record

__all__ = ["Blocks", "blocks_of", "matrices"]


@record
class Blocks:
    """`count` products of `together` groups each; summed, made: channels of a group that are added up, and that come out. depthwise: no products:
    every channel is a group.
    """

    count: int
    together: int
    summed: int
    made: int
    depthwise: bool = False

    @property
    def channels(self) -> int:
        """Channels of the image that a product takes."""
        return self.summed if self.depthwise else self.together * self.summed

    @property
    def columns(self) -> int:
        """Channels of the result that a product makes."""
        return self.together * self.made


def blocks_of(groups: int, summed: int, made: int, most: int) -> Blocks:
    """So many groups together that a product has at most so many columns."""
    together = next((n for n in range(min(groups, most // made), 1, -1) if groups % n == 0), 1)
    return Blocks(groups // together, together, summed, made)


def matrices(w: Array, zero: Array | None, blocks: Blocks, taps: Sequence[range], transposed: bool) -> Array:
    """Weights at some taps as (products, taps and channels that are summed, columns).

    w: (groups * made, summed, *kernel), or (groups * summed, made, *kernel) of a transposed convolution. zero: of the weights, one or one for each
    output channel.
    """
    picked = w[(slice(None), slice(None), *[slice(t.start, t.stop if t.stop >= 0 else None, t.step) for t in taps])]
    first = blocks.summed if transposed else blocks.made
    view = picked.reshape(blocks.count, blocks.together, first, *picked.shape[1:])
    channels = (2, 3) if transposed else (3, 2)
    view = view.transpose(0, *range(4, view.ndim), 1, *channels)  # (products, *taps, groups, summed, made)
    if blocks.together == 1:
        copied = in_order(view)
        assert copied is not None  # kernels move bytes
        return copied.reshape(blocks.count, -1, blocks.made)
    form = (blocks.count, *view.shape[1:-2], blocks.summed, blocks.together, blocks.made)
    made = np.empty(form, w.dtype)
    each = zero is not None and zero.size > 1
    made[...] = 0 if zero is None else _beside(zero, blocks, view.ndim) if each else zero
    for k in range(blocks.together):
        made[..., k, :, k, :] = view[..., k, :, :]
    return made.reshape(blocks.count, -1, blocks.columns)


def _beside(zero: Array, blocks: Blocks, ndim: int) -> Array:
    """A zero point for each column, beside the matrices."""
    return zero.reshape(blocks.count, *(1,) * (ndim - 2), blocks.together, blocks.made)
