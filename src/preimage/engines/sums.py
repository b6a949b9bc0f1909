"""Pure sums in the contract's order (docs/contract.md), for any axes of any array: the views that kernels take, and the same bits in NumPy.

    terms of an image, row-major -> blocks of 512 -> sixteen partial sums a block, added as a tree
    blocks of an image -> the aligned tree;  images (axis 0, where it is summed over) -> the aligned tree

Only additions of whole arrays are used, so neither memory order nor NumPy's own order of reduction has a say.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.order import BLOCK, PARTIALS
from preimage.reduction import tree_sum

__all__ = ["Blocked", "sum_over"]


#: The sums over space, (N, C), of an array (N, C, S).
Blocked = Callable[[Array], Array]


@np.errstate(all="ignore")
def sum_over(
    x: Array, axis: tuple[int, ...], blocked: Blocked | None = None, tree: Callable[[Array], Array] | None = None,
    in_order: Callable[[Array], Array | None] = lambda array: None,
) -> Array:  # fmt: skip
    """The sum over the axes (numbered from 0), which are dropped, in the dtype of x. blocked: what sums the images, by default NumPy; tree: what
    adds dense ones (count, results) up; in_order: what copies an array into row-major order. With these nothing is left to NumPy.
    """
    kept = [k for k in range(x.ndim) if k not in axis]
    terms = [k for k in axis if k]
    images = [0] if 0 in axis else []
    if not x.size:
        return np.zeros([x.shape[k] for k in kept], x.dtype)
    # What lies innermost in memory stays there, as one axis: of terms, or of results.
    near = sorted(kept, key=lambda k: -abs(x.strides[k]))
    step = min([abs(x.strides[k]) for k in terms if x.shape[k] > 1], default=0)
    inner = [k for k in near if abs(x.strides[k]) < step] if step else near
    outer = [k for k in near if k not in inner]
    count = prod(x.shape[k] for k in images)
    lead, space, channels = (prod(x.shape[k] for k in axes) for axes in (outer, sorted(terms), inner))
    if space > 1 and not inner:
        view = _reshaped(x.transpose([*images, *outer, *sorted(terms)]), (count, lead, space), in_order)
    else:
        turned = x.transpose([*images, *outer, *sorted(terms), *inner])
        view = _reshaped(turned, (count * lead, space, channels), in_order).transpose(0, 2, 1)
    sums: Array
    if space == 1 and tree is not None and count > 1 and view.flags.c_contiguous:
        sums = view
    elif space == 1 and tree is None:
        sums = view + x.dtype.type(0)
    else:
        sums = (blocked or _in_numpy)(view)
    sums = sums.reshape(count, lead * channels)
    total: Array = sums[0] if count == 1 else (tree or tree_sum)(sums)
    order = outer + inner
    return total.reshape([x.shape[k] for k in order]).transpose([order.index(k) for k in kept])


def _reshaped(x: Array, shape: tuple[int, ...], in_order: Callable[[Array], Array | None]) -> Array:
    """x in another shape, copied where its axes do not lie so that they can be joined: terms on both sides of what is kept."""
    view = x.reshape(shape)
    if np.may_share_memory(view, x) or (copied := in_order(x)) is None:
        return view
    return copied.reshape(shape)


def _in_numpy(view: Array) -> Array:
    terms = view.transpose(2, 0, 1)
    whole = len(terms) // BLOCK
    sums = []
    if whole:
        rows = terms[: whole * BLOCK].reshape(whole, BLOCK // PARTIALS, PARTIALS, *terms.shape[1:])
        sums.append(_block(rows.swapaxes(0, 1)))
    if len(terms) % BLOCK:
        rest = terms[whole * BLOCK :]
        even = len(rest) // PARTIALS * PARTIALS
        rows = rest[:even].reshape(-1, 1, PARTIALS, *terms.shape[1:])
        sums.append(_block(rows, rest[even:]))
    return np.asarray(tree_sum(np.concatenate(sums)))


def _block(rows: Array, rest: Array | None = None) -> Array:
    """Sums of blocks: rows (R, blocks, 16, ...) of whole sets of sixteen, and of a single block what is left."""
    partials = np.zeros(rows.shape[1:], rows.dtype)
    for row in rows:
        partials += row
    if rest is not None:
        partials[0, : len(rest)] += rest
    half = PARTIALS // 2
    while half:
        partials = partials[:, :half] + partials[:, half : 2 * half]
        half //= 2
    return partials[:, 0]
