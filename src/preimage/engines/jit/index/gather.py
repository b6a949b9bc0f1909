"""The tables of a gather: the rows, tiles, lists of taps and taps that a table-driven kernel walks (`tables.Slot`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.jit.index.tables import TAP_WORDS
from preimage.engines.jit.index.taps import Axis, Folded, Ints, Phase
from preimage.engines.jit.index.terms import Terms, node_tables
from preimage.engines.jit.index.tiling import Choice, Tiles, tile_phase

__all__ = ["Gather", "Weights", "count_taps", "gather_tables", "split_rows"]


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
    """The tables (see `tables.Slot`) of a gather whose pixels run along `choice.axis`.

    Strides are in bytes, along each axis; the addresses of INPUT and OUTPUT are those of position 0 everywhere.
    part: picks some of a phase's tiles, and says how far (in positions) the input of each is moved.
    Rows have one more number at their end: rows of one number (of the outer axes' phases, and the tile's) share their taps.
    """
    covers, all_tiles = _covers(axes[choice.axis], choice, in_strides, out_strides, folded, channels, part)
    outer = [k for k in range(len(axes)) if k != choice.axis]
    entries = _TapWords(axes, in_strides, weights, terms, folded, channels)
    rows: list[Ints] = []
    taps: list[Ints] = []
    for phases in product(*([p for p in axes[k].phases if p.count] for k in outer)):
        at_in, at_out, number = _positions(outer, phases, in_strides, out_strides)
        picks = [p.classes[1] for p in phases]
        for cover in covers:
            block = np.empty((len(at_in), 6), np.int64)
            block[:, 0], block[:, 1], block[:, 2] = at_in, at_out, len(taps) + number * len(cover.ranges)
            block[:, 3], block[:, 4], block[:, 5] = cover.first, cover.end, len(rows)
            rows.append(block)
            for picked in product(*picks):
                for taps_of_tile in cover.ranges:
                    where = {k: (p, r) for k, p, r in zip(outer, phases, picked, strict=True)}
                    where[choice.axis] = (cover.phase, taps_of_tile)
                    taps.append(entries.of(where))
    all_rows = np.concatenate(rows)
    all_rows = all_rows[all_rows[:, 4] > all_rows[:, 3]]
    words = np.concatenate(taps)
    owner = np.repeat(np.arange(len(taps), dtype=np.int64), [len(entry) for entry in taps])
    return Gather(all_rows, all_tiles, np.ascontiguousarray(words[:, :TAP_WORDS]), owner, words[:, TAP_WORDS:], len(taps), terms)


class Weights(NamedTuple):
    """Bytes of the packed weights: of a term, and from one tap to the next; item: of an element of the input."""

    term: int
    tap: int
    item: int


class Gather(NamedTuple):
    """Rows, tiles and taps as `tables.Slot` says; owner, members: see `terms.node_tables`."""

    rows: Ints
    tiles: Ints
    taps: Ints
    owner: Ints
    members: Ints
    lists: int
    terms: Terms

    def nodes(self, part: Ints | None = None, base: int = 0) -> tuple[Ints, Array]:
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
) -> tuple[list[_Cover], Ints]:  # fmt: skip
    """How tiles cover each phase of the pixels' axis, and the table of tiles."""
    covers: list[_Cover] = []
    tiles: list[Ints] = []
    count = 0
    for phase in axis.phases:
        if not phase.count:
            continue
        cover, moved = tile_phase(phase, choice.pixels), np.zeros(1, np.int64)
        if part is not None:
            cover, moved = part(phase, cover)
        number, ranges = cover.classes
        at_in = (cover.starts * phase.in_step + moved) * in_strides[choice.axis]
        at_out = (phase.start + cover.starts * phase.step) * out_strides[choice.axis]
        cut, end = np.zeros_like(at_in), np.full_like(at_in, 1 << 40)
        if folded is not None:
            cut[cover.starts == 0] = folded.first_cut * channels
            end[cover.starts + cover.pixels == phase.count] = folded.last_end * channels
        tiles.append(np.stack([at_in, at_out, number, cut, end], axis=1).astype(np.int64))
        covers.append(_Cover(phase, ranges, count, count + len(cover.starts)))
        count += len(cover.starts)
    return covers, np.concatenate(tiles) if tiles else np.zeros((0, 5), np.int64)


def _positions(
    outer: list[int], phases: tuple[Phase, ...], in_strides: list[int], out_strides: list[int]
) -> tuple[Ints, Ints, Ints]:
    """Input offset, output offset and class of taps of all positions of the outer axes' phases, row-major."""
    at_in, at_out, number = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64)
    for k, p in zip(outer, phases, strict=True):
        cls, choices = p.classes
        t = np.arange(p.count, dtype=np.int64)
        at_in = (at_in[:, None] + t * (p.in_step * in_strides[k])).ravel()
        at_out = (at_out[:, None] + (p.start + t * p.step) * out_strides[k]).ravel()
        number = (number[:, None] * len(choices) + cls).ravel()
    return at_in, at_out, number


class _TapWords:
    """The words of lists of taps (`tables.Slot.TAPS`), and behind them the numbers of each one's block, group of blocks, ..."""

    def __init__(
        self, axes: list[Axis], in_strides: list[int], weights: Weights, terms: Terms, folded: Folded | None, channels: int
    ) -> None:  # fmt: skip
        self._axes, self._in_strides, self._terms, self._folded, self._channels = axes, in_strides, terms, folded, channels
        numbers = np.cumprod([1, *(axes[k].kernel for k in reversed(range(len(axes))))])[:-1][::-1]  # row-major tap numbers
        self._weight_bytes = [int(n) * weights.tap for n in numbers]
        self._words = TAP_WORDS + terms.order.depth
        self._known: dict[tuple[int, int, tuple[int, int]], Ints | None] = {}
        self._pieces = np.zeros((len(terms.pieces), self._words), np.int64)
        first, count = np.array(terms.pieces, np.int64).T
        self._pieces[:, 0], self._pieces[:, 1], self._pieces[:, 3] = first * weights.item, first * weights.term, count
        inner = terms.order.axes[0]
        self._pieces[:, TAP_WORDS:] = terms.members(0, first % inner)
        if terms.joined > 1:
            self._pieces[:, TAP_WORDS:] += terms.members(1, first // inner)

    def of(self, where: dict[int, tuple[Phase, tuple[int, int]]]) -> Ints:
        """The taps in the product of a range of taps along each axis."""
        nothing = entry = np.zeros((1, self._words), np.int64)
        for k in range(len(self._axes)):
            more = self._along(k, *where[k])
            if more is not None:
                entry = more if entry is nothing else (entry[:, None, :] + more[None]).reshape(-1, self._words)
        return (entry[:, None, :] + self._pieces[None]).reshape(-1, self._words)

    def _along(self, k: int, p: Phase, taps: tuple[int, int]) -> Ints | None:
        """What a range of taps of one axis adds; None for nothing at all."""
        key = k, id(p), taps
        if key not in self._known:
            numbers = np.array([n for n, _ in p.taps[slice(*taps)]], np.int64)
            found = np.zeros((len(numbers), self._words), np.int64)
            found[:, 0], found[:, 1] = p.offsets[slice(*taps)] * self._in_strides[k], numbers * self._weight_bytes[k]
            if self._folded is not None and k == len(self._axes) - 1:
                found[:, 2] = np.array(self._folded.phases_of_tap, np.int64)[numbers] * self._channels
            if self._axes[k].most > 1:
                found[:, TAP_WORDS:] = self._terms.members(len(self._axes) - k, np.arange(*taps))
            self._known[key] = found if len(found) != 1 or found.any() else None
        return self._known[key]


def split_rows(rows: Ints, pieces: int) -> Ints:
    """Every row cut into up to `pieces` rows of fewer tiles, so that one long row can be shared."""
    if pieces <= 1:
        return rows
    out = []
    for piece in range(pieces):
        part = rows.copy()
        count = rows[:, 4] - rows[:, 3]
        part[:, 3] = rows[:, 3] + count * piece // pieces
        part[:, 4] = rows[:, 3] + count * (piece + 1) // pieces
        out.append(part)
    cut = np.stack(out, axis=1).reshape(-1, rows.shape[1])
    return np.ascontiguousarray(cut[cut[:, 4] > cut[:, 3]])
