"""Which products meet in one element of each contraction: the index arithmetic of the definition, for one element at a time.

    small    y[n, o, oh..]  of conv              x[n, g*I + i, oh*s - lo + kh*d]  *  w[o, i, kh..]
    large    x[n, c, ih..]  of conv_transpose    y[n, g*O + o, (ih + lo - kh*d) / s]  *  w[g*O + o, i, kh..]
    weight   w[o, i, kh..]  of conv_weight_grad  x[n, g*I + i, oh*s - lo + kh*d]  *  y[n, o, oh..]

Terms come in the order in which they are summed (order.py). With a padding mode other than zeros the large side is extended
first: a position in the margin stands for the cell that it was copied from.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.order import Cell, Tree, arranged, members_of
from preimage.engines.order import Order
from preimage.geometry import ConvGeometry
from preimage.ops.contraction import margin_free
from preimage.ops.pad import pad
from preimage.typing import PaddingMode

__all__ = ["Places", "Sides"]

Array = NDArray[Any]
Index = tuple[int, ...]


@dataclass(frozen=True)
class Places:
    """Where the two factors of every term of one element lie.

    first, second: (terms, axes) indices into the two operands; outside: the first lies in zero padding (its index is then
    the position beyond the border); margin: it was copied into the margin from the cell that its index names.
    blocks, tree: how they are summed (`order`); none where all are one chain. folded: the tree has cells that are folded back.
    """

    first: Array
    second: Array
    outside: Array
    margin: Array
    blocks: tuple[slice, ...] | None = None
    tree: Tree | None = None
    folded: bool = False

    def __len__(self) -> int:
        return len(self.first)


class Sides:
    """A geometry with its padding mode: where the terms of each of the three contractions lie."""

    def __init__(self, geometry: ConvGeometry, mode: PaddingMode = "zeros") -> None:
        self.geometry, self.mode = geometry, mode
        self.extended = mode != "zeros" and any(lo or hi for lo, hi in geometry.padding)
        self.inner = margin_free(geometry) if self.extended else geometry
        if self.extended:
            cells = np.arange(int(np.prod(geometry.input_size)), dtype=np.float64).reshape(geometry.input_size)
            self._sources = np.asarray(pad(cells, geometry.padding, mode=mode, axes=tuple(range(cells.ndim)))).astype(np.int64)

    # -- the three contractions ------------------------------------------------------------------------------------

    def small(self, index: Index) -> Places:
        """The terms of y[index]: (x, w)."""
        g = self.inner
        n, o, *at = index
        first, second, index_of = [], [], []
        base = o // g.out_channels_per_group * g.in_channels_per_group if g.out_channels else 0
        for tap in product(*map(range, g.kernel_size)):
            position = tuple(
                p * s - lo + k * d for p, s, (lo, _), k, d in zip(at, g.stride, g.padding, tap, g.dilation, strict=True)
            )
            for i in range(g.in_channels_per_group):
                first.append((n, base + i, *position))
                second.append((o, i, *tap))
                index_of.append((i, *tap[::-1]))
        order = Order.of((g.in_channels_per_group, *g.kernel_size[::-1]))
        return self._placed(first, second, members_of(order, index_of))

    def large(self, index: Index) -> Places:
        """The terms of x[index] of the transpose: (y, w)."""
        if not self.extended:
            return self._cell(index)
        n, c, *at = index
        blocks: list[slice] = []
        parts: list[Places] = []

        def folded(axis: int, chosen: tuple[int, ...]) -> Tree:
            if axis == self.inner.ndim:
                part, count = self._cell((n, c, *chosen)), len(blocks)
                start = blocks[-1].stop if blocks else 0
                blocks.extend(slice(start + b.start, start + b.stop) for b in part.blocks or ())
                parts.append(part)
                return Cell((_shifted(part.tree or 0, count),)) if len(part) else ()
            trees = tuple(folded(axis + 1, (*chosen, p)) for p in self._copies(axis, at[axis]))
            return trees[0] if len(trees) == 1 else trees

        tree = folded(0, ())
        none = _table([], 2 + self.inner.ndim)  # where no cell folds back
        first = np.concatenate([none, *(p.first for p in parts)])
        second = np.concatenate([none, *(p.second for p in parts)])
        return Places(first, second, np.zeros(len(first), bool), np.zeros(len(first), bool), tuple(blocks), tree, True)

    def weight(self, index: Index) -> Places:
        """The terms of w[index]: (x, y)."""
        g = self.inner
        o, i, *tap = index
        channel = o // g.out_channels_per_group * g.in_channels_per_group + i
        first, second = [], []
        for n in range(g.batch):
            for at in product(*map(range, g.output_size)):
                position = tuple(
                    p * s - lo + k * d for p, s, (lo, _), k, d in zip(at, g.stride, g.padding, tap, g.dilation, strict=True)
                )
                first.append((n, channel, *position))
                second.append((n, o, *at))
        order = Order.of(g.output_size[::-1])
        members = members_of(order, [row[:1:-1] for row in second], [row[0] for row in second])
        return self._placed(first, second, members)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _cell(self, index: Index) -> Places:
        """The terms of one cell of the (extended) large side."""
        g = self.inner
        n, c, *at = index
        group, i = divmod(c, g.in_channels_per_group)
        filters, index_of = g.out_channels_per_group, []
        first, second = [], []
        apart = [s // gcd(s, d) for s, d in zip(g.stride, g.dilation, strict=True)]  # taps that reach the same positions
        for tap in product(*map(range, g.kernel_size)):
            position = []
            for p, s, (lo, _), k, d, size in zip(at, g.stride, g.padding, tap, g.dilation, g.output_size, strict=True):
                q, rest = divmod(p + lo - k * d, s)
                if rest or not 0 <= q < size:
                    break
                position.append(q)
            else:
                for o in range(group * filters, (group + 1) * filters):
                    first.append((n, o, *position))
                    second.append((o, i, *tap))
                    ranks = [k // step for k, step in zip(tap, apart, strict=True)]
                    index_of.append((o - group * filters, *ranks[::-1]))
        none = np.zeros(len(first), bool)
        order = Order.of((filters, *(-(-k // step) for k, step in zip(g.kernel_size[::-1], apart[::-1], strict=True))))
        blocks, tree = arranged(members_of(order, index_of))
        return Places(_table(first, 2 + g.ndim), _table(second, 2 + g.ndim), none, none, tuple(blocks), tree)

    def _copies(self, axis: int, q: int) -> list[int]:
        """The positions of the extended axis that fold back to cell q: itself, then those of the margin in order."""
        lo = self.geometry.padding[axis][0]
        line = np.moveaxis(self._sources, axis, 0)
        cells = line.reshape(len(line), -1)[:, 0] // int(np.prod(self.geometry.input_size[axis + 1 :])) if line.size else line
        cells = cells % self.geometry.input_size[axis]
        inside = [p for p in range(len(cells)) if 0 <= p - lo < self.geometry.input_size[axis]]
        own = [q + lo] if q + lo in inside else []
        return own + [p for p in range(len(cells)) if cells[p] == q and p not in inside]

    def _placed(self, first: list[Any], second: list[Any], members: list[tuple[int, ...]]) -> Places:
        where, other = _table(first, 2 + self.inner.ndim), _table(second, 2 + self.inner.ndim)
        blocks, tree = arranged(members)
        size = np.array(self.geometry.input_size, np.int64)
        margin: Array = np.zeros(len(where), bool)
        if self.extended and len(where):
            lows = np.array([lo for lo, _ in self.geometry.padding], np.int64)
            margin = np.any((where[:, 2:] < lows) | (where[:, 2:] >= lows + size), axis=1)
            cells = self._sources[tuple(where[:, 2:].T)]
            where[:, 2:] = np.stack(np.unravel_index(cells, self.geometry.input_size), axis=1)
        outside: Array = np.any((where[:, 2:] < 0) | (where[:, 2:] >= size), axis=1)
        return Places(where, other, outside, margin, tuple(blocks), tree)


def _shifted(tree: Tree, by: int) -> Tree:
    """The tree over blocks that begin at another number."""
    return tree + by if isinstance(tree, int) else tuple(_shifted(part, by) for part in tree)


def _table(rows: list[Any], width: int) -> Array:
    return np.array(rows, np.int64).reshape(len(rows), width)
