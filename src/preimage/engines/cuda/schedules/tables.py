"""What a gather reads: the phases of its result, under each the taps, and the steps in which their terms are added up. Plain data.

conv and conv_transpose are one thing here. Along one axis, position a of a phase lies at `start + a * step` in the result, and tap
number j of the phase reads position `a * in_step + shift[j]` of the input:

    conv             one phase: step 1, in_step = stride, shift[k] = k * dilation - lo
    conv_transpose   `stride` phases r: step = stride, in_step 1, and only the taps k with r + lo - k * dilation = stride * shift

The terms of a sum lie in the order of `engines.order`: an *item* is what one tap gives to one block, some channels of it. Kernels
add items up `depth_step` channels at a time; a *block* is some of these steps, and says how many levels of sums end with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby, product
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.arguments import Column, Record
from preimage.engines.order import Order
from preimage.geometry import ConvGeometry

__all__ = ["BlockRow", "GatherTables", "blocks_of", "gather_tables", "item_record", "order_of", "phase_record"]


class BlockRow(Record):
    """A block of terms: how many steps it takes, and how many levels of sums end with it (0: only that of the block)."""

    steps: Column
    closes: Column


class _Phase(Record):
    """Positions of the result that share their taps. Beside these, for every axis k: count_k positions, of which the first is start_k."""

    first_item: Column
    items: Column
    first_block: Column
    steps: Column
    weights: Column  # where its packed weights begin
    packed: Column  # steps that are packed together: those of the whole phase,
    first_step: Column  # and the first of them that is this one's
    unit: Column  # its number among the parts of the sum


class _Item(Record):
    """Channels under one tap that lie in one block. Beside these, for every axis k, shift_k: from where the tap reads."""

    first_channel: Column
    channels: Column


def _with_axes(base: type[Record], ndim: int, *words: str) -> type[Any]:
    names = {f"{word}_{k}": Column for word in words for k in range(ndim)}
    return type(f"{base.__name__[1:]}{ndim}", (base,), {"__annotations__": names, "__module__": __name__})


@cache
def phase_record(ndim: int) -> type[Any]:
    return _with_axes(_Phase, ndim, "count", "start")


@cache
def item_record(ndim: int) -> type[Any]:
    return _with_axes(_Item, ndim, "shift")


@dataclass(frozen=True)
class AxisPhase:
    """Along one axis: positions, the first of them, and the taps that reach them as (number in the kernel, shift), in order."""

    count: int
    start: int
    taps: tuple[tuple[int, int], ...]


def axis_phases(g: ConvGeometry, axis: int, transpose: bool) -> list[AxisPhase]:
    k_size, s, d, lo = g.kernel_size[axis], g.stride[axis], g.dilation[axis], g.padding[axis][0]
    if not transpose:
        return [AxisPhase(g.output_size[axis], 0, tuple((k, k * d - lo) for k in range(k_size)))]
    large = g.input_size[axis]
    return [
        AxisPhase(
            -(-(large - r) // s),
            r,
            tuple((k, (r + lo - k * d) // s) for k in range(k_size) if (r + lo - k * d) % s == 0),
        )
        for r in range(min(s, large))
    ]


def order_of(g: ConvGeometry, transpose: bool) -> Order:
    """The order of the sums: channels of a group, then the taps that count."""
    channels = g.out_channels_per_group if transpose else g.in_channels_per_group
    return Order.of((channels, *(most_taps(g, axis, transpose) for axis in reversed(range(g.ndim)))))


def most_taps(g: ConvGeometry, axis: int, transpose: bool) -> int:
    """Along one axis the taps that count (docs/contract.md): of a transpose those of the phase that could have most."""
    k_size, s, d = g.kernel_size[axis], g.stride[axis], g.dilation[axis]
    return -(-k_size // (s // gcd(s, d))) if transpose else k_size


@dataclass(frozen=True)
class GatherTables:
    """Everything that a gather with steps of `depth_step` channels reads, and the source of every row of its packed weights.

    depth: levels of sums above the blocks, within a unit; outer_depth: above the units; closes: for every unit how many of these end with
    it. pixels: of one image, of the largest phase. weight_rows: for every packed row the channel and the tap's number in the kernel, -1 where the
    row is filled up; weight_phases: for every phase its first row, and its number of rows.
    """

    depth: int
    phases: Array
    items: Array
    blocks: Array
    pixels: int
    weight_rows: Array
    weight_phases: tuple[tuple[int, int], ...]
    ragged: bool
    closes: Array
    outer_depth: int

    @property
    def rows(self) -> int:
        return len(self.weight_rows)


def _closes(order: Order, numbers: Sequence[int], following: Sequence[int] | None) -> int:
    """How many levels of sums end with a block, from its numbers and those of the block behind it (None: the last one)."""
    if following is None:
        return order.depth
    return 1 + next(
        level for level in range(order.depth) if level + 1 == order.depth or numbers[level + 1] == following[level + 1]
    )


def blocks_of(order: Order, members: Sequence[Sequence[int]], steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive items as blocks: (steps, levels that end). members: of every item its block, group, group of groups, ..."""
    for k, numbers in enumerate(members):
        following = members[k + 1] if k + 1 < len(members) else None
        if following is not None and (not order.depth or following[0] == numbers[0]):
            continue  # the block goes on
        begin = k
        while begin and (not order.depth or members[begin - 1][0] == numbers[0]):
            begin -= 1
        yield sum(steps[begin : k + 1]), _closes(order, numbers, following)


@dataclass(frozen=True)
class _Piece:
    """Channels under one tap that lie in one block. member: the numbers of its block, group, ...; tap: its number in the kernel."""

    member: list[int]
    first: int
    count: int
    tap: int
    shifts: tuple[int, ...]


class _Terms(NamedTuple):
    """The terms of a phase as a kernel takes them: items, packed rows as (channel, tap), and for `blocks_of` members and steps."""

    items: list[tuple[int, ...]]
    rows: list[tuple[int, int]]
    members: list[list[int]]
    steps: list[int]


def _whole_items(pieces: Sequence[_Piece], depth_step: int) -> _Terms:
    """A piece is an item, whose last step is filled up."""
    made = _Terms([], [], [p.member for p in pieces], [-(-p.count // depth_step) for p in pieces])
    for p, steps in zip(pieces, made.steps, strict=True):
        made.items.append((p.first, p.count, *p.shifts))
        end = p.first + p.count
        made.rows.extend((c, p.tap) if c < end else (-1, -1) for c in range(p.first, p.first + steps * depth_step))
    return made


def _single_items(pieces: Sequence[_Piece], depth_step: int) -> _Terms:
    """A term is an item; a block's last step is filled up with items of no channel."""
    made = _Terms([], [], [], [])
    for _, block in groupby(pieces, key=lambda p: p.member[:1]):
        held = list(block)
        terms = [(p, c) for p in held for c in range(p.first, p.first + p.count)]
        missing = -len(terms) % depth_step
        made.items.extend((c, 1, *p.shifts) for p, c in terms)
        made.items.extend([(0, 0, *[0] * len(held[0].shifts))] * missing)
        made.rows.extend((c, p.tap) for p, c in terms)
        made.rows.extend([(-1, -1)] * missing)
        made.members.append(held[0].member)
        made.steps.append((len(terms) + missing) // depth_step)
    return made


@lru_cache(maxsize=512)
def gather_tables(
    g: ConvGeometry, transpose: bool, depth_step: int, rows_to: int, spread: bool = False, level: int = 0
) -> GatherTables:
    """rows_to: elements of a packed row, of all groups and blocks of outputs: where a phase's weights begin is counted in them.

    spread: every term is an item, so that a step may hold terms of several taps. level: nodes of that level of the sum are units, each as a
    phase of its own (1: blocks, 2: groups of blocks); 0: the sum is whole.
    """
    axes, order = [axis_phases(g, axis, transpose) for axis in range(g.ndim)], order_of(g, transpose)
    channels, depth = order.axes[0], level - 1 if level else order.depth
    step = order.levels[0].step if order.levels and order.levels[0].axis == 0 else channels
    ranges = [(first, min(step, channels - first)) for first in range(0, channels, step)]
    phases: list[tuple[int, ...]] = []
    items: list[tuple[int, ...]] = []
    blocks: list[tuple[int, int]] = []
    rows: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    closes = [1]
    for phase in product(*axes):
        pieces = []
        for numbers in product(*(range(len(axis.taps)) for axis in phase)):
            taps = [axis.taps[j] for axis, j in zip(phase, numbers, strict=True)]
            tap, shifts = int(np.ravel_multi_index([k for k, _ in taps], g.kernel_size)), tuple(shift for _, shift in taps)
            for first, count in ranges:
                member = [order.member((first, *reversed(numbers)), level + 1) for level in range(order.depth)]
                pieces.append(_Piece(member, first, count, tap, shifts))
        units = [list(own) for _, own in groupby(pieces, key=lambda p: p.member[level - 1 :])] if level else [pieces]
        made = [(_single_items if spread else _whole_items)(unit, depth_step) for unit in units]
        counts, starts = [axis.count for axis in phase], [axis.start for axis in phase]
        first_row, first_step = len(rows), 0
        packed = sum(sum(own.steps) for own in made)
        for number, own in enumerate(made):
            steps = sum(own.steps)
            begins = len(items), len(own.items), len(blocks), steps, first_row * rows_to, packed, first_step, number
            phases.append((*begins, *counts, *starts))
            items += own.items
            rows += own.rows
            blocks += [(n, min(ends, depth)) for n, ends in blocks_of(order, own.members, own.steps)]
            blocks.append((0, 0))
            first_step += steps
        spans.append((first_row, len(rows) - first_row))
        if level:
            following = [*(unit[0].member for unit in units[1:]), None]
            closes = [_closes(order, unit[-1].member, after) - depth for unit, after in zip(units, following, strict=True)]
    items.append((0,) * (2 + g.ndim))
    return GatherTables(
        depth,
        phase_record(g.ndim).of_rows(np.array(phases, np.int64)),
        item_record(g.ndim).of_rows(np.array(items, np.int64)),
        BlockRow.of_rows(np.array(blocks, np.int64)),
        max(int(np.prod([axis.count for axis in phase])) for phase in product(*axes)),
        np.array(rows, np.int64).reshape(-1, 2),
        tuple(spans),
        not spread and any(count % depth_step for _, count in ranges),
        np.array(closes, np.int64),
        order.depth - depth,
    )
