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
from itertools import product
from math import gcd
from typing import Any

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.arguments import Column, Record
from preimage.engines.order import Order
from preimage.geometry import ConvGeometry

__all__ = ["BlockRow", "GatherTables", "blocks_of", "gather_tables", "item_record", "phase_record"]


class BlockRow(Record):
    """A block of terms: how many steps it takes, and how many levels of sums end with it (0: only that of the block)."""

    steps: Column
    closes: Column


class _Phase(Record):
    """Positions of the result that share their taps. Beside these, for every axis k: count_k positions, of which the first is start_k."""

    first_item: Column
    first_block: Column
    steps: Column
    weights: Column  # where its packed weights begin


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


def most_taps(g: ConvGeometry, axis: int, transpose: bool) -> int:
    """Along one axis the taps that count (docs/contract.md): of a transpose those of the phase that could have most."""
    k_size, s, d = g.kernel_size[axis], g.stride[axis], g.dilation[axis]
    return -(-k_size // (s // gcd(s, d))) if transpose else k_size


@dataclass(frozen=True)
class GatherTables:
    """Everything that a gather with steps of `depth_step` channels reads, and the source of every row of its packed weights.

    depth: levels of sums above the blocks. pixels: of one image, of the largest phase. weight_rows: for every packed row the channel and
    the tap's number in the kernel, -1 where the row is filled up; weight_phases: for every phase its first row, and its number of rows.
    """

    depth: int
    phases: Array
    items: Array
    blocks: Array
    pixels: int
    weight_rows: Array
    weight_phases: tuple[tuple[int, int], ...]
    ragged: bool

    @property
    def rows(self) -> int:
        return len(self.weight_rows)


def blocks_of(order: Order, members: Sequence[Sequence[int]], steps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Consecutive items as blocks: (steps, levels that end). members: of every item its block, group, group of groups, ..."""
    for k, numbers in enumerate(members):
        following = members[k + 1] if k + 1 < len(members) else None
        if following is not None and (not order.depth or following[0] == numbers[0]):
            continue  # the block goes on
        begin = k
        while begin and (not order.depth or members[begin - 1][0] == numbers[0]):
            begin -= 1
        if following is None:
            closes = order.depth
        else:
            closes = 1 + next(
                level for level in range(order.depth) if level + 1 == order.depth or numbers[level + 1] == following[level + 1]
            )
        yield sum(steps[begin : k + 1]), closes


@lru_cache(maxsize=512)
def gather_tables(g: ConvGeometry, transpose: bool, depth_step: int, rows_to: int) -> GatherTables:
    """rows_to: elements of a packed row, of all groups and blocks of outputs: where a phase's weights begin is counted in them."""
    channels = g.out_channels_per_group if transpose else g.in_channels_per_group
    axes = [axis_phases(g, axis, transpose) for axis in range(g.ndim)]
    order = Order.of((channels, *(most_taps(g, axis, transpose) for axis in reversed(range(g.ndim)))))
    step = order.levels[0].step if order.levels and order.levels[0].axis == 0 else channels
    pieces = [(first, min(step, channels - first)) for first in range(0, channels, step)]
    phases: list[tuple[int, ...]] = []
    items: list[tuple[int, ...]] = []
    blocks: list[tuple[int, int]] = []
    rows: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    for phase in product(*axes):
        begin, members, steps = len(rows), [], []
        first_item, first_block = len(items), len(blocks)
        for numbers in product(*(range(len(axis.taps)) for axis in phase)):
            taps = [axis.taps[j] for axis, j in zip(phase, numbers, strict=True)]
            tap = int(np.ravel_multi_index([k for k, _ in taps], g.kernel_size))
            for first, count in pieces:
                items.append((first, count, *(shift for _, shift in taps)))
                members.append([order.member((first, *reversed(numbers)), level + 1) for level in range(order.depth)])
                steps.append(-(-count // depth_step))
                rows += [(c, tap) if c < first + count else (-1, -1) for c in range(first, first + steps[-1] * depth_step)]
        blocks += blocks_of(order, members, steps)
        blocks.append((0, 0))
        counts, starts = [axis.count for axis in phase], [axis.start for axis in phase]
        phases.append((first_item, first_block, sum(steps), begin * rows_to, *counts, *starts))
        spans.append((begin, len(rows) - begin))
    items.append((0,) * (2 + g.ndim))
    return GatherTables(
        order.depth,
        phase_record(g.ndim).of_rows(np.array(phases, np.int64)),
        item_record(g.ndim).of_rows(np.array(items, np.int64)),
        BlockRow.of_rows(np.array(blocks, np.int64)),
        max(int(np.prod([axis.count for axis in phase])) for phase in product(*axes)),
        np.array(rows, np.int64).reshape(-1, 2),
        tuple(spans),
        any(count % depth_step for _, count in pieces),
    )
