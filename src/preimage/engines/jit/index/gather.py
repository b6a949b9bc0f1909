"""The tables of a gather: the rows, tiles, lists of taps and taps that a table-driven kernel walks (`tables`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.jit.index.tables import Row, Tap, Tile
from preimage.engines.jit.index.taps import Axis, Folded, Ints, Phase
from preimage.engines.jit.index.terms import Terms, node_tables
from preimage.engines.jit.index.tiling import Choice, Tiles, tile_phase

__all__ = ["Gather", "Weights", "count_taps", "gather_tables", "numbered", "positions_of", "split_rows"]

TAP_WORDS = len(Tap.fields)


def gather_tables(
    axes: list[Axis],
    choice: Choice,
    in_strides: list[int],
    out_strides: list[int],
    weights: Weights,
    terms: Terms,
    folded: Folded | None = None,
    channels: int = 0,
    part: Callable[[Phase, Tiles], tuple[Tiles, Ints]] | None = None,
) -> Gather:
    """The tables of a gather whose pixels run along `choice.axis`.

    Strides are in bytes, along each axis; the addresses of input and output are those of position 0 everywhere.
    part: picks some of a phase's tiles, and says how far (in positions) the input of each is moved.
    """
    covers, all_tiles = _covers(axes[choice.axis], choice, in_strides, out_strides, folded, channels, part)
    outer = [k for k in range(len(axes)) if k != choice.axis]
    entries = _TapWords(axes, in_strides, weights, terms, folded, channels)
    rows: list[Array] = []
    taps: list[Ints] = []
    for phases in product(*([p for p in axes[k].phases if p.count] for k in outer)):
        at_in, at_out, number = positions_of(outer, phases, in_strides, out_strides)
        picks = [[(p, taken) for taken in p.classes[1]] for p in phases]
        for cover in covers:
            rows.append(Row(
                input=at_in, output=at_out, first_list=len(taps) + number * len(cover.ranges), first_tile=cover.first,
                end_tile=cover.end,
            ).table())  # fmt: skip
            for picked in product(*picks):
                before, behind = picked[: choice.axis], picked[choice.axis :]
                taps += [entries.of((*before, (cover.phase, taken), *behind)) for taken in cover.ranges]
    words = taps[0] if len(taps) == 1 else np.concatenate(taps)
    kinds, owner = numbered(rows), numbered(taps)
    table = Tap.of_rows(words[:, :TAP_WORDS])
    return Gather(Row.joined(rows), kinds, all_tiles, table, owner, words[:, TAP_WORDS:], len(taps), terms)


def numbered(parts: list[Any]) -> Ints:
    """The number of each part, as often as it has rows."""
    return np.arange(len(parts), dtype=np.int64).repeat([len(part) for part in parts])


class Weights(NamedTuple):
    """Bytes of the packed weights: of a term, and from one tap to the next; item: of an element of the input."""

    term: int
    tap: int
    item: int


class Gather(NamedTuple):
    """Rows, tiles and taps (`tables`). kinds: of every row; rows of one kind (of the outer axes' phases, and the tile's) share
    their taps. owner, members: see `terms.node_tables`.
    """

    rows: Array
    kinds: Ints
    tiles: Array
    taps: Array
    owner: Ints
    members: Ints
    lists: int
    terms: Terms

    def nodes(self, part: Ints | None = None, base: int = 0) -> tuple[Array, Array]:
        """The lists and the nodes; part: the call in which each tap comes, where the sums are computed in several."""
        return node_tables(self.owner, self.members, self.lists, self.terms.lone, part, base)


def count_taps(axes: list[Axis], choice: Choice, terms: Terms) -> int:
    """How many entries the table of taps of `gather_tables` has, at most."""
    found = len(terms.pieces)
    for k, axis in enumerate(axes):
        phases = [p for p in axis.phases if p.count]
        ranges = [(tile_phase(p, choice.pixels) if k == choice.axis else p).classes[1] for p in phases]
        found *= sum(max(1, last - first) for some in ranges for first, last in some)
    return found


class _Cover(NamedTuple):
    """The tiles of one phase of the pixels' axis: the ranges of taps that they have, and their numbers (first, last + 1)."""

    phase: Phase
    ranges: list[tuple[int, int]]
    first: int
    end: int


def _covers(
    axis: Axis, choice: Choice, in_strides: list[int], out_strides: list[int], folded: Folded | None, channels: int,
    part: Callable[[Phase, Tiles], tuple[Tiles, Ints]] | None,
) -> tuple[list[_Cover], Array]:  # fmt: skip
    """How tiles cover each phase of the pixels' axis, and the table of tiles."""
    covers: list[_Cover] = []
    tiles: list[Array] = []
    count = 0
    for phase in axis.phases:
        if not phase.count:
            continue
        cover, moved = tile_phase(phase, choice.pixels), None
        if part is not None:
            cover, moved = part(phase, cover)
            if not len(cover.starts):
                continue
        number, ranges = cover.classes
        at_in = cover.starts * phase.in_step if moved is None else cover.starts * phase.in_step + moved
        at_out = phase.start + cover.starts * phase.step
        table = Tile(
            input=at_in * in_strides[choice.axis], output=at_out * out_strides[choice.axis], list=number, cut_lanes=0, end_lanes=1 << 40
        ).table()  # fmt: skip
        if folded is not None:
            table["cut_lanes"][cover.starts == 0] = folded.first_cut * channels
            table["end_lanes"][cover.starts + cover.pixels == phase.count] = folded.last_end * channels
        tiles.append(table)
        covers.append(_Cover(phase, ranges, count, count + len(cover.starts)))
        count += len(cover.starts)
    return covers, Tile.joined(tiles) if tiles else Tile.zeros(0)


def positions_of(
    outer: list[int], phases: tuple[Phase, ...], in_strides: list[int], out_strides: list[int]
) -> tuple[Ints, Ints, Ints]:
    """Input offset, output offset and class of taps of all positions of the outer axes' phases, row-major."""
    at = np.zeros((3, 1), np.int64)  # all three at once
    for k, p in zip(outer, phases, strict=True):
        if p.count == 1:
            at[1] += p.start * out_strides[k]
            continue
        own, (number, choices) = np.arange(p.count, dtype=np.int64) * np.ones((3, 1), np.int64), p.classes
        own[0] *= p.in_step * in_strides[k]
        own[1] = (own[1] * p.step + p.start) * out_strides[k]
        own[2] = number
        at[2] *= len(choices)
        at = (at[:, :, None] + own[:, None]).reshape(3, -1)
    return at[0], at[1], at[2]


class _TapWords:
    """The columns of lists of taps (`tables.Tap`), and behind them the numbers of each one's block, group of blocks, ..."""

    def __init__(
        self, axes: list[Axis], in_strides: list[int], weights: Weights, terms: Terms, folded: Folded | None, channels: int
    ) -> None:  # fmt: skip
        self._axes, self._in_strides, self._terms, self._folded, self._channels = axes, in_strides, terms, folded, channels
        self._weight_bytes = [prod([axis.kernel for axis in axes[k + 1 :]]) * weights.tap for k in range(len(axes))]
        self._words = TAP_WORDS + terms.order.depth
        self._known: dict[tuple[int, int, tuple[int, int]], Ints | None] = {}
        self._pieces = np.zeros((len(terms.pieces), self._words), np.int64)
        first, count = np.array(terms.pieces, np.int64).T
        self._pieces[:, Tap.input.slot], self._pieces[:, Tap.weight.slot] = first * weights.item, first * weights.term
        self._pieces[:, Tap.terms.slot] = count
        if terms.order.depth:
            inner = terms.order.axes[0]
            self._pieces[:, TAP_WORDS:] = terms.members(0, first % inner)
            if terms.joined > 1:
                self._pieces[:, TAP_WORDS:] += terms.members(1, first // inner)

    def of(self, where: Sequence[tuple[Phase, tuple[int, int]]]) -> Ints:
        """The taps in the product of a range of taps along each axis."""
        one = len(self._pieces) == 1
        entry = self._pieces if one else None
        for k, (phase, taken) in enumerate(where):
            more = self._along(k, phase, taken)
            if more is not None:
                entry = more if entry is None else (entry[:, None] + more).reshape(-1, self._words)
        if one and entry is not None:
            return entry
        return self._pieces if entry is None else (entry[:, None] + self._pieces).reshape(-1, self._words)

    def _along(self, k: int, p: Phase, taps: tuple[int, int]) -> Ints | None:
        """What a range of taps of one axis adds; None for nothing at all."""
        key = k, id(p), taps
        if key not in self._known:
            if taps == (0, 1) and p.taps[0] == (0, 0) and self._folded is None:  # an axis without a kernel, mostly
                self._known[key] = None
                return None
            numbers = np.array([n for n, _ in p.taps[slice(*taps)]], np.int64)
            found = np.zeros((len(numbers), self._words), np.int64)
            found[:, Tap.input.slot] = p.offsets[slice(*taps)] * self._in_strides[k]
            found[:, Tap.weight.slot] = numbers * self._weight_bytes[k]
            if self._folded is not None and k == len(self._axes) - 1:
                found[:, Tap.channels.slot] = np.array(self._folded.phases_of_tap, np.int64)[numbers] * self._channels
            if self._axes[k].most > 1 and self._terms.order.depth:
                found[:, TAP_WORDS:] = self._terms.members(len(self._axes) - k, np.arange(*taps))
            self._known[key] = found if len(found) != 1 or found.any() else None
        return self._known[key]


def split_rows(rows: Array, pieces: int) -> tuple[Array, Ints]:
    """Every row cut into up to `pieces` rows of fewer tiles, so that one long row can be shared; and the row that each is part of."""
    owner = np.arange(len(rows), dtype=np.int64)
    if pieces <= 1:
        return rows, owner
    first, count = rows["first_tile"][:, None], (rows["end_tile"] - rows["first_tile"])[:, None]
    cut, piece = np.repeat(rows[:, None], pieces, axis=1), np.arange(pieces)
    cut["first_tile"], cut["end_tile"] = first + count * piece // pieces, first + count * (piece + 1) // pieces
    some = cut["end_tile"] > cut["first_tile"]
    return cut[some], np.repeat(owner[:, None], pieces, axis=1)[some]
