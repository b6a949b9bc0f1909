"""Which copies are exchanges of a short axis with a long one (exchange_kernel.py)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.shuffles import can_split
from preimage.engines.jit.elementwise.exchange_kernel import ExchangeSpec

__all__ = ["Exchange", "exchange"]

#: Elements of the short axis that are held in registers at a time.
MOST_PARTS = 16


class Exchange(NamedTuple):
    """An exchange: its kernel, the words that its argument vector begins with but for the offsets, and those, of every part."""

    spec: ExchangeSpec
    length: int
    lines: int
    second: int
    strides: tuple[int, int, int, int]  # of the source along two outer axes, then of the result
    offsets: Array


def exchange(sizes: Sequence[int], strides: Sequence[tuple[int, ...]], item: int, lanes: int) -> Exchange | None:
    """A copy as an exchange; None for others.

    sizes, strides: of axes as the result lies, the outermost first; bytes in the source and the result. lanes: of a vector of items.
    """
    last = len(sizes) - 1
    if last < 1 or strides[last][1] != item or strides[last][0] <= item:
        return None
    found = _parts(sizes, [s[0] for s in strides], item, strides[last][0]), sizes[last], [last], True
    if found[0] is None:  # the short axes are the innermost of the result
        axis = next((k for k in range(last) if strides[k][0] == item), None)
        if axis is None or strides[axis][1] != item * prod(sizes[axis + 1 :]):
            return None
        found = list(range(axis + 1, last + 1)), sizes[axis], [axis], False
    short, length, long, split = found
    assert short is not None
    parts = prod([sizes[k] for k in short])
    outer = [k for k in range(last + 1) if k not in (*short, *long)]
    if not 2 <= parts <= MOST_PARTS or not can_split(parts) or 2 * length < lanes or len(outer) > 2:
        return None
    side = 1 if split else 0
    offsets = np.zeros(1, np.int64)
    for k in short:  # the last of them is the innermost of the short axis
        offsets = (offsets[:, None] + np.arange(sizes[k]) * strides[k][side]).reshape(-1)
    first, second = ([0] * (2 - len(outer)) + [k + 1 for k in outer])[:2]
    steps = [strides[k - 1] if k else (0, 0) for k in (first, second)]
    lines = prod([sizes[k] for k in outer])
    words = (steps[0][0], steps[1][0], steps[0][1], steps[1][1])
    element = {4: "f32", 8: "f64"}[item]
    return Exchange(ExchangeSpec(element, lanes, parts, split), length, lines, sizes[second - 1] if second else 1, words, offsets)


def _parts(sizes: Sequence[int], steps: Sequence[int], item: int, end: int) -> list[int] | None:
    """The axes whose elements fill `end` bytes, the outermost of them first; None where there are none such."""
    axes: list[int] = []
    while item < end:
        axis = next((k for k in range(len(sizes) - 1) if steps[k] == item and k not in axes), None)
        if axis is None:
            return None
        axes.insert(0, axis)
        item *= sizes[axis]
    return axes if item == end else None
