"""The program with vectors across pixels, for few output channels or channels-first arrays: see `across_pixels_kernel`."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.shuffles import can_split
from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import AcrossPixelsCosts
from preimage.engines.jit.conv.across_pixels_arguments import AcrossPixelsArguments, ColumnTap
from preimage.engines.jit.conv.across_pixels_kernel import MOST_ROWS, AcrossPixelsSpec, Part
from preimage.engines.jit.conv.across_pixels_walk import Walk, Window, row_axis, windows
from preimage.engines.jit.index.taps import Axis, merge_axes
from preimage.engines.jit.index.terms import Terms
from preimage.engines.jit.packing.moves import weight_call
from preimage.engines.jit.program import Buffer, Program, ProgramBuilder, kernel_call, operands
from preimage.engines.jit.request import ConvRequest
from preimage.records import record

__all__ = ["AcrossPixelsPlan", "across_pixels_plan", "lower_across_pixels", "row_axis"]

MOST_CHANNELS = 8  # of a tile that has all of a group
TILE_CHANNELS = (2, 3, 4, 6, 8)  # of tiles that take a block of them


@record
class AcrossPixelsPlan:
    """Tile and modelled cost (cycles)."""

    lanes: int
    vectors: int
    rows: int
    channels: int
    cost: float


def across_pixels_plan(r: ConvRequest, axes: list[Axis]) -> AcrossPixelsPlan | str:
    """The best tile, or why there is none: the last axis needs step 1 in the input, and some length."""
    refused = _unfit(r, axes)
    if refused is not None:
        return refused
    g, axes = r.geometry, Laid.of(r, axes).axes
    shape = _Shape.of(r, axes)  # has columns: a call in which no tap meets the input is little work
    item = 8 if r.element == "f64" else 4
    best: tuple[float, tuple[int, int, int, int]] | None = None
    met = {rows: found for rows in (1, 2, 3, 4, 6, 8) if (found := shape.met(rows)) is not None}
    for lanes in dict.fromkeys((r.target.vector_bytes // item, min(32, r.target.vector_bytes) // item)):
        for rows, vectors, channels in product(met, range(1, 9), shape.tiles):
            sums, most = rows * vectors * shape.phases * channels, r.target.vector_registers - 2 - vectors
            if sums > most or max(rows, shape.phases) > MOST_ROWS or (len(shape.tiles) > 1 and 2 * sums <= most):
                continue
            cost = shape.cost(lanes, vectors, rows, channels, lanes * item / 64.0, sums, met[rows])
            if cost is not None and (best is None or cost * g.groups < best[0]):
                best = cost * g.groups, (lanes, vectors, rows, channels)
    if best is None:
        return _refused("no_tile", "no tile of this kernel fits the registers and the code")
    filled = r.target.costs.across_pixels.fill_cycles * prod(a.in_size for a in axes) * shape.run * g.groups
    cost, tile = best
    if shape.channels <= MOST_CHANNELS:
        return AcrossPixelsPlan(*tile, cost + filled)
    packed = r.target.costs.direct.pack_cycles * prod(g.weight_shape)
    return AcrossPixelsPlan(*tile, cost * r.target.costs.across_pixels.channel_blocks + filled + packed)


@record
class Laid:
    """The axes as the kernel walks them: plain neighbours in one (a 1x1 layer has long lines), with their strides in bytes."""

    axes: list[Axis]
    in_strides: list[int]
    out_strides: list[int]

    @classmethod
    def of(cls, r: ConvRequest, axes: list[Axis]) -> Laid:
        spatial, ins, outs = merge_axes(axes[1:], list(r.in_strides[2:]), list(r.out_strides[2:]))
        return cls([axes[0], *spatial], [r.in_strides[0], *ins], [r.out_strides[0], *outs])


def _unfit(r: ConvRequest, axes: list[Axis]) -> str | None:
    """Why this strategy cannot compute a request, whatever the tile."""
    g = r.geometry
    channels = (g.out_channels if r.contraction == "conv" else g.in_channels) // g.groups
    last_in, last_out = _last(r)
    if channels > MOST_CHANNELS and (last_in or last_out):
        return _refused(
            "many_channels", f"channels lie innermost, and {channels} of a group's output are more than {MOST_CHANNELS}"
        )
    if r.single:
        return _refused("single_positions", "some weights are not finite, so positions are computed one by one")
    if len(axes) < 2:
        return _refused("no_axis", "there is no spatial axis")
    phases = axes[-1].phases
    parts = len(phases) * channels if last_out else len(phases)
    if any(p.in_step != 1 for p in phases):
        return _refused("stride", "the input is read with a stride along its last axis")
    if not can_split(parts) or (last_out and g.groups > 1):
        return _refused("store", f"vectors of {parts} interleaved parts cannot be stored")
    return None


class _Met(NamedTuple):
    """The windows of a tile's rows and columns, in all patterns of rows: the members of each and how often it comes; members: of each kind once."""

    windows: list[tuple[int, int]]
    patterns: int
    members: int


@record
class _Shape:
    """What the cost of a tile depends on. channels: output channels of a group; tiles: how many of them a tile may have; line:
    positions of a phase along the last axis; outer: of the axes before the rows.
    """

    down: Axis
    columns: list[Window]
    phases: int
    channels: int
    tiles: tuple[int, ...]
    run: int
    line: int
    outer: int
    outer_taps: int
    forward: bool
    costs: AcrossPixelsCosts

    @classmethod
    def of(cls, r: ConvRequest, axes: list[Axis]) -> _Shape:
        g, forward = r.geometry, r.contraction == "conv"
        channels, run = (g.out_channels, g.in_channels) if forward else (g.in_channels, g.out_channels)
        phases, channels, outer = axes[-1].phases, channels // g.groups, axes[: max(1, len(axes) - 2)]
        tiles = (channels,) if channels <= MOST_CHANNELS else TILE_CHANNELS
        return cls(
            row_axis(axes), windows(phases, range(len(phases)), forward), len(phases), channels, tiles, run // g.groups,
            -(-axes[-1].out_size // len(phases)), prod(a.out_size for a in outer),
            prod(sum(p.tap_total for p in a.phases) for a in outer), forward, r.target.costs.across_pixels,
        )  # fmt: skip

    def met(self, rows: int) -> _Met | None:
        """What a tile of so many rows multiplies; None where it does not fit the rows."""
        down = self.down
        if rows > down.out_size or (len(down.phases) % rows and rows % len(down.phases)):
            return None
        patterns = range(0, len(down.phases), rows) if len(down.phases) > 1 else range(1)
        across = Counter(column.part for column in self.columns)  # of a large kernel's windows most are alike
        found: list[tuple[int, int]] = []
        kinds: dict[tuple[Part, Part], int] = {}
        for start in patterns:
            along = Counter(row.part for row in windows(down.phases, range(start, start + rows), self.forward))
            for (row, count), (column, times) in product(along.items(), across.items()):
                kinds[row, column] = len(row) * len(column)
                found.append((len(row) * len(column), count * times))
        return _Met(found, len(patterns), sum(kinds.values()))

    def cost(self, lanes: int, vectors: int, rows: int, channels: int, width: float, sums: int, met: _Met) -> float | None:
        """Modelled cycles of one group; None where the tile is too much code. width: of a vector, in 64 bytes."""
        down, long, tile = self.down, self.line >= self.costs.long_line, 0.0
        for members, times in met.windows:
            work = members * channels
            loads = vectors * width * (2.0 if len(self.columns) > 1 else 1.0) + 0.5 * work
            tile += (max(work * vectors * width, 4.0, loads) + 0.4) * times / met.patterns
        products = met.members * channels * vectors
        if products > self.costs.most_products or (long and lanes * vectors > self.costs.long_tile):
            return None
        valid = sum(p.tap_total for p in down.phases) / max(1, sum(len(p.taps) * p.count for p in down.phases))
        tiles = self.line / (lanes * vectors) if long else -(-self.line // (lanes * vectors))
        tiles *= down.out_size / rows if down.out_size >= self.costs.long_line else -(-down.out_size // rows)
        tiles *= -(-self.channels // channels)
        cost = self.outer_taps * tiles * tile * self.run * valid + self.outer * tiles * (100.0 + 8.0 * sums * width)
        return cost * (1.0 + products / 1000)  # of two that do as well the one with less code


def _refused(branch: str, words: str) -> str:
    branches.across_pixels(f"refused.{branch}")
    return words


def lower_across_pixels(r: ConvRequest, axes: list[Axis], plan: AcrossPixelsPlan) -> Program:
    """Steps of rows down blocks of columns; input lines that pass through a ring of scratch lines."""
    g, laid = r.geometry, Laid.of(r, axes)
    axes, inner = laid.axes, "f64" if r.element == "f64" else "f32"
    item, shape = ELEMENT_BYTES[inner], _Shape.of(r, axes)
    run, channels, terms = shape.run, plan.channels, Terms.of(shape.run, axes[1:])
    walk = Walk(r, axes, (laid.in_strides, laid.out_strides), plan.rows, terms)
    channel_room = -(-run // 8) * 8  # transposing writes whole squares
    tap_bytes, units = run * channels * item, g.batch * g.groups
    wanted = 1 if r.threads == 1 else -(-8 * r.threads // units)
    cut = _cut_columns(r, shape, plan, item * channel_room * walk.slots, item, -(-wanted // walk.count))
    bands, steps, fills, rows, row_parts = walk.tables(
        max(1, min(-(-wanted // cut.blocks), walk.count)), channel_room * cut.pitch, tap_bytes
    )
    column_parts = list(dict.fromkeys(c.part for c in shape.columns))
    rows["part"] *= len(column_parts)
    column_table = _column_table(shape, channels, cut, walk, terms, column_parts, item)
    units *= cut.blocks * len(bands)
    per_task = -(-units // (1 if r.threads == 1 else min(units, 8 * r.threads)))
    tasks, scratch = -(-units // per_task), walk.slots * channel_room * cut.pitch

    program = ProgramBuilder("direct, vectors across pixels")
    blocks = -(-shape.channels // channels)
    block_bytes = _pack(r, program, plan, inner, blocks)
    program.buffers.append(Buffer("scratch", scratch * r.threads + 64 * plan.vectors))
    last_in, last_out = _last(r)
    # A line of the next step is read ahead in as many turns of all channels as a line of this step has (columns, tiles), and
    # in as many steps as there are for one that brings new lines.
    width = min(cut.block, shape.line)
    turns = len(column_table) * -(-width // (plan.lanes * plan.vectors)) * walk.parts(steps)
    ahead = -(-width * r.in_strides[-1] // turns)
    news = plan.rows / max(1, len(shape.down.phases)) * width * run * ELEMENT_BYTES[r.element]
    near = scratch + news > r.target.l2_bytes // 2
    spec = AcrossPixelsSpec(
        element=r.element, out=r.element, inner=inner, lanes=plan.lanes, vectors=plan.vectors, rows=plan.rows, phases=shape.phases,
        channels=channels, blocks="one" if blocks == 1 else "ragged" if shape.channels % channels else "whole", run=run,
        piece=terms.item, multiple=terms.multiple, depth=terms.order.depth, width=axes[-1].kernel, row_parts=tuple(row_parts),
        column_parts=tuple(column_parts), last_in=last_in, last_out=last_out, near=near, finish=r.finish,
    )  # fmt: skip
    values = AcrossPixelsArguments(
        **operands(), scratch="scratch", scratch_bytes=scratch, units=units, units_per_task=per_task, bands=bands,
        n_bands=len(bands), blocks=cut.blocks, groups=g.groups, steps=steps, fills=fills, rows=rows, columns=column_table,
        n_columns=len(column_table), x_image=r.in_strides[0], x_channel=r.in_strides[1], x_column=r.in_strides[-1], lead=cut.lead,
        begin=cut.begin, highest=cut.highest, line=shape.line, block=cut.block, out_columns=axes[-1].out_size,
        out_image=r.out_strides[0], out_channel=r.out_strides[1], out_line=walk.out_line, pitch=cut.pitch,
        group_weight_bytes=blocks * block_bytes, ahead_channel=-(-ahead // run), ahead_column=ahead,
        ahead_part=ahead * turns // walk.parts(steps), channel_blocks=blocks, block_weight_bytes=block_bytes,
        group_channels=shape.channels,
    )  # fmt: skip
    program.calls.append(kernel_call("direct", spec, values, tasks))
    program.skips_padding = any(axis.margins != (0, 0) for axis in axes) and not r.every_tap
    program.details = _details(plan, shape, cut, (last_in, tasks, len(bands), scratch, len(steps), len(rows)))
    _take(r, len(axes), plan, shape, cut, len(bands), near)
    branches.across_pixels(f"padding.{'skipped' if program.skips_padding else 'every_tap' if r.every_tap else 'none'}")
    return program.done()


def _pack(r: ConvRequest, program: ProgramBuilder, plan: AcrossPixelsPlan, inner: str, blocks: int) -> int:
    """Have the weights packed, one after another for every block of output channels of a group; the bytes of a block."""
    g = r.geometry
    program.packing, block_bytes = weight_call(
        r.contraction, g.weight_shape, g.groups, r.element, inner, plan.lanes, plan.channels, r.target.costs.packing
    )
    program.packed_bytes = g.groups * blocks * block_bytes
    program.packed_key = (r.contraction, r.element, "pixels", plan.channels, g.groups)
    if not r.prepared:
        program.pack_first()
    return block_bytes


def _column_table(
    shape: _Shape, channels: int, cut: _Columns, walk: Walk, terms: Terms, parts: list[Part], item: int
) -> Array:  # fmt: skip
    """Every column that a phase reads, and every piece of the channels under it: see `across_pixels_kernel`."""
    found = [(c.at, c.tap, parts.index(c.part)) for c in shape.columns]
    column, number, part = np.array(found, np.int64).reshape(-1, 3).T[:, :, None]
    first, count = np.array(terms.pieces, np.int64).T
    tap_bytes, term_bytes = shape.run * channels * item, channels * item
    return ColumnTap(
        scratch=(cut.lead + column) * item + first * cut.pitch, weight=number * tap_bytes + first * term_bytes, part=part,
        channels=count, ends=np.array(walk.ends.of_columns(shape.columns, terms.pieces), np.int64).reshape(len(column), -1),
    ).table()  # fmt: skip


@record
class _Columns:
    """Lines cut into blocks of columns. A scratch line holds columns -lead .. block + highest - 1; behind the first block it is
    filled from column `begin` on.
    """

    block: int
    blocks: int
    lead: int
    highest: int
    begin: int
    pitch: int  # bytes of a scratch line


def _cut_columns(r: ConvRequest, shape: _Shape, plan: AcrossPixelsPlan, line_bytes: int, item: int, wanted: int) -> _Columns:
    """Blocks whose scratch lines fit the memory of a thread; line_bytes: what all of them hold for one column; wanted: blocks that
    give all threads work.
    """
    tile, line = plan.lanes * plan.vectors, shape.line
    lowest, highest = min((c.at for c in shape.columns), default=0), max((c.at for c in shape.columns), default=0)
    lead, highest = -(-max(0, -lowest) // plan.lanes) * plan.lanes, max(0, highest)  # column 0 of a block lies aligned
    most = max(1, shape.costs.scratch_bytes // line_bytes - lead - highest) // tile
    block = max(1, min(-(-line // (tile * wanted)), most)) * tile
    blocks = -(-line // block)
    block = (line - 1) // (blocks * tile) * tile + tile  # in whole tiles, and the last not much shorter
    pitch = (-(-(lead + block + highest + 16) * item // 64) | 1) * 64
    # Behind the first block a line is filled from an aligned place as well, where that takes no vector more, or where it begins
    # before column 0 there too: no vector of a fill may hold columns on both sides of 0.
    vectors = [-(-(before + block + highest) // plan.lanes) for before in (lead, max(0, -lowest))]
    begin = -lead if vectors[0] == vectors[1] or block + lowest < 0 else min(0, lowest)
    return _Columns(block, blocks, lead, highest, begin, pitch)


def _details(
    plan: AcrossPixelsPlan, shape: _Shape, cut: _Columns, counts: tuple[bool, int, int, int, int, int]
) -> dict[str, str]:
    last_in, tasks, bands, scratch, steps, rows = counts
    return {
        "tile": f"{plan.rows} rows x {plan.vectors} vectors of {plan.lanes} pixels x {shape.phases} stride phases"
        f" x {plan.channels} channels",
        "tasks": f"{tasks}, of {cut.blocks} blocks of columns x {bands} bands of rows",
        "input": f"{'transposed' if last_in else 'copied'} line by line, {scratch} bytes of scratch a thread",
        "result": "stored as vectors",
        "tables": f"{steps} steps, {rows} lines",
    }


def _take(r: ConvRequest, ndim: int, plan: AcrossPixelsPlan, shape: _Shape, cut: _Columns, bands: int, near: bool) -> None:
    """Name the decisions that were made above."""
    take, (last_in, last_out) = branches.across_pixels, _last(r)
    take("taken")
    take("input.transposed" if last_in else "input.copied")
    if last_in and near:
        take("input.asked_twice")
    take("result.channels_last" if last_out else "result.channels_first")
    take("phases.one" if shape.phases == 1 else "phases.several")
    take("rows.one" if plan.rows == 1 else "rows.several")
    if ndim != 3:
        take("rows.no_axis" if ndim == 2 else "rows.outer_axes")
    take(
        "channels.all"
        if shape.channels <= plan.channels
        else "channels.ragged"
        if shape.channels % plan.channels
        else "channels.blocks"
    )
    if ndim < r.geometry.ndim + 1:
        take("lines.merged")
    take("lines.long" if shape.line >= shape.costs.long_line else "lines.short")
    take("blocks.one" if cut.blocks == 1 else "blocks.several")
    if cut.blocks > 1:
        take("blocks.begin.aligned" if cut.begin == -cut.lead else "blocks.begin.first_read")
    take("bands.one" if bands == 1 else "bands.several")


def _last(r: ConvRequest) -> tuple[bool, bool]:
    """Whether the input and the result are channels-last. (With one channel both orders are the same.)"""
    g = r.geometry
    counts = (g.in_channels, g.out_channels) if r.contraction == "conv" else (g.out_channels, g.in_channels)
    item = ELEMENT_BYTES[r.element]
    return r.in_strides[1] == item and counts[0] > 1, r.out_strides[1] == item and counts[1] > 1
