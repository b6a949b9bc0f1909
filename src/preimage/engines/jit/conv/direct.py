"""The recipe of a dense convolution or transposed convolution: pack what must be packed, run the direct schedule, put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import Finish
from preimage.engines.jit import branches
from preimage.engines.jit.conv.direct_kernel import DirectSpec, turned_side
from preimage.engines.jit.conv.few_outputs import few_plan, few_recipe
from preimage.engines.jit.conv.halo import Edges, find_edges
from preimage.engines.jit.conv.streamed_weights import Work, cut_taps, piece_lists, sweep_step, sweeps
from preimage.engines.jit.index.tables import Slot
from preimage.engines.jit.index.taps import (
    Axis,
    Folded,
    Ints,
    Phase,
    as_ints,
    distinct,
    fold_phases,
    gather_axes,
    join_taps,
    merge_axes,
)
from preimage.engines.jit.index.tiling import Choice, Tiles, choose_tile, take_tiling
from preimage.engines.jit.packing.moves import FEW_CHANNELS, folded_weight_step, slab_steps, swap_back, tap_pitch, weight_step
from preimage.engines.jit.program import Buffer, Recipe, Step, compiled, gather_tables, operands, slots, split_rows
from preimage.engines.jit.request import Request

__all__ = ["Request", "dense_recipe"]

BAND_BYTES = 512 << 10  # of input and output together, held in the L2 cache
SMALL_WEIGHTS = 64 << 10  # of all stride phases together: these need no chunks of their own
CROWDED_RUN = 256  # channels from which on the copy is worth its while
SCRATCH_CYCLES = 1.5  # an element of the result, written to a scratch and transposed back
PACK_CYCLES = 1.0  # an element of the weights, packed in blocks
COPY_CYCLES, TURN_CYCLES = 0.6, 2.0  # an element of the input, copied or transposed into a slab
GATHER_CYCLES = 4.0  # one by one


def dense_recipe(r: Request) -> Recipe:
    """Channels across vectors: see `direct_kernel`."""
    g, forward = r.geometry, r.contraction == "conv"
    target = r.target
    inner = "f64" if r.element == "f64" else "f32"
    item, own_item = ELEMENT_BYTES[inner], ELEMENT_BYTES[r.element]
    full = target.vector_bytes // item
    in_channels, out_channels = (g.in_channels, g.out_channels) if forward else (g.out_channels, g.in_channels)
    run, channels = in_channels // g.groups, out_channels // g.groups
    axes = gather_axes(g, r.contraction, r.every_tap)
    few = None if r.tile or r.little else few_plan(r, axes)
    recipe, joined = Recipe("direct"), False
    if forward and run < FEW_CHANNELS and g.ndim and g.dilation[-1] == 1 and g.groups == 1 and g.kernel_size[-1] > 1:
        # The taps of a line and their few channels lie side by side: one longer run.
        branches.direct("taps.joined")
        axes[-1], run, joined = join_taps(g), run * g.kernel_size[-1], True
        recipe.algorithm = "direct, taps of a line joined"

    # The input: as it lies, or as a channels-last slab with margins.
    raw_strides = _skip_lines(axes, [r.in_strides[0], *r.in_strides[2:]])
    in_sizes, in_strides = [axis.in_size for axis in axes], raw_strides
    lasting = r.in_strides[1] == own_item or in_channels == 1
    margins = [(0, 0)] * len(axes)
    pixel_axis = max([k for k in range(1, len(axes)) if axes[k].out_size > 1], default=0)
    reach = [axis.margins for axis in axes]
    if r.every_tap:
        margins = reach
    elif not r.single:
        margins[pixel_axis] = reach[pixel_axis]
    if joined:
        margins[-1] = reach[-1]
    folded_axis = _may_fold(r)
    if folded_axis is not None:  # folded phases read one tap more at either end, for the phases that lack it
        far = folded_axis.axis.margins
        margins[-1] = max(margins[-1][0], far[0]), max(margins[-1][1], far[1])
    # Neighbouring pixels a multiple of a page apart would all fall on the same few lines of the L1 cache.
    pitch = in_channels * item
    apart = (in_strides[pixel_axis] if lasting else pitch) * axes[pixel_axis].phases[0].in_step
    crowded = run >= CROWDED_RUN and apart % 4096 == 0 and axes[pixel_axis].out_size > 1 and own_item == item
    if crowded and not joined:
        pitch += 64
    moved = crowded or r.element != inner or not lasting
    slab = moved or any(m != (0, 0) for m in margins)
    padded = [n + lo + hi for n, (lo, hi) in zip(in_sizes, margins, strict=True)]
    slab_strides = [prod(padded[k + 1 :]) * pitch for k in range(len(axes))]
    edges = best = None
    if slab and not (moved or joined or r.every_tap or r.single):
        best = min(_options(r, axes, in_strides, channels, run, item), key=lambda option: option.cost)
        edges = find_edges(best.axes, best.choice, in_channels * item) if best.folded is None else None
    if edges is None:
        # The result: in place if channels-last; else turned in registers tile by tile, or through a scratch transposed back.
        in_strides = slab_strides if slab else in_strides
        best = min(_options(r, axes, in_strides, channels, run, item), key=lambda option: option.cost)
    assert best is not None
    copying = (COPY_CYCLES if lasting else TURN_CYCLES) * prod(in_sizes) * in_channels if slab and edges is None else 0.0
    if few is not None and few.cost < best.cost + copying:
        return few_recipe(r, gather_axes(g, r.contraction, r.every_tap), few)
    if few is not None:
        branches.few_outputs("refused.dearer")
    merged, choice, folded, channels = best.axes, best.choice, best.folded, best.channels
    in_strides, out_strides = best.in_strides, best.out_strides
    origin = 0
    if edges is not None and edges.tiles:
        outer_sizes = [axis.in_size for axis in merged[:-1]]
        recipe.steps.append(edges.copy_step(outer_sizes, in_strides[:-1], in_channels, inner, item, full))
        recipe.buffers.append(Buffer("edges", prod(outer_sizes) * edges.width * pitch))
    elif slab and edges is None:
        origin = sum(lo * s for (lo, _), s in zip(margins, slab_strides, strict=True))
        recipe.steps += slab_steps(
            in_sizes, raw_strides, in_channels, r.in_strides[1], r.element, inner, margins, full, slab_strides
        )
        recipe.buffers.append(Buffer("slab", prod(padded) * pitch))
    in_scratch = best.store == "scratch"
    if in_scratch:
        recipe.buffers.append(Buffer("scratch", prod(axis.out_size for axis in axes) * out_channels * item))
    width = choice.lanes * choice.vectors
    if folded is None:
        weights, block_bytes = weight_step(r.contraction, g.weight_shape, g.groups, r.element, inner, full, width, not joined)
    else:
        weights, block_bytes = folded_weight_step(g.weight_shape, folded, r.element, inner, width)
        recipe.bias_repeat = folded.stride
    tap_bytes = run * width * item if joined or folded is not None else tap_pitch(run, width, item)
    group_blocks = -(-channels // width)
    recipe.packing, recipe.packed_bytes = weights, g.groups * group_blocks * block_bytes
    recipe.packed_key = (r.contraction, r.element, choice.lanes, choice.vectors, folded is not None, g.groups)

    blocks = g.groups * group_blocks
    pixel = in_strides[choice.axis] * merged[choice.axis].phases[0].in_step
    spec = DirectSpec(
        inner, inner if in_scratch else r.element, choice.lanes, choice.vectors, choice.pixels, 0 if r.little else run,
        0 if r.little or (choice.axis == 0 and len(merged) > 1) else pixel // item, r.little or channels % width != 0,
        folded is not None, folded is not None and min(folded.phases_of_tap) < folded.stride, best.store == "turned",
        Finish() if in_scratch else r.finish,
    )  # fmt: skip
    step_out = merged[choice.axis].phases[0].step * out_strides[choice.axis]
    positions = g.work_flop // (2 * prod(g.weight_shape))
    _take_layout(r, best, len(axes), raw_strides, margins, inner, lasting, crowded, slab, edges)
    alone = folded is None and edges is None and not r.prepared and sweeps(blocks, r.threads, recipe.packed_bytes, positions)
    work, inputs = Work(block_bytes, tap_bytes, own_item), prod(in_sizes) * (in_channels // g.groups) * item

    def multiply(source: str, strides: list[int], origin: int, part: Part | None) -> tuple[Step, int, Work | None, str]:
        rows, tiles, lists, taps = gather_tables(merged, choice, strides, out_strides, tap_bytes, folded, out_channels, part)
        rows[:, 0] += origin
        rows, bounds, blocks_inside = _share(
            rows, tiles, blocks, r.threads, block_bytes, choice, run * item, channels * item, inputs
        )
        chunks, longest = len(bounds) - 1, int((rows[:, 4] - rows[:, 3]).max())
        swept, own_spec = (work if alone and not blocks_inside else None), spec
        if swept is not None and not joined:
            partial = len(rows) * longest * choice.pixels * width * item
            cuts = cut_taps(block_bytes // tap_bytes, tap_bytes, own_item, partial, prod(padded) * run * item)
            if cuts is not None:
                lists = np.concatenate([piece_lists(lists, taps, tap_bytes, cut) for cut in cuts])
                own_spec = replace(spec, pieced=True)
                swept = replace(work, cuts=cuts, lists_bytes=lists[0].nbytes, partial_bytes=partial)
        values = {
            Slot.ROWS: rows.ctypes.data, Slot.TILES: tiles.ctypes.data, Slot.LISTS: lists.ctypes.data,
            Slot.TAPS: taps.ctypes.data, Slot.CHUNK_ROWS: bounds.ctypes.data, Slot.CHUNKS: chunks,
            Slot.CHUNK_DIV: blocks if blocks_inside else 1, Slot.BLOCKS: blocks,
            Slot.BLOCK_DIV: 1 if blocks_inside else chunks, Slot.GROUP_BLOCKS: group_blocks, Slot.BLOCK_BYTES: block_bytes,
            Slot.GROUP_INPUT_BYTES: run * item, Slot.GROUP_CHANNELS: channels, Slot.OUT_PIXEL_BYTES: step_out,
            Slot.PIXEL_BYTES: pixel, Slot.CHANNEL_BYTES: r.out_strides[1], Slot.RUN: run, Slot.ROW_TILES: longest,
        }  # fmt: skip
        patches = operands(source, "scratch" if in_scratch else "out")
        if own_spec.pieced:
            patches += ((Slot.PARTIAL, "partial"),)
        tables = (rows, tiles, lists, taps, bounds)
        step = Step("direct", compiled(own_spec), tuple(slots(values)), patches, chunks * blocks, tables)
        return step, chunks, swept, f"{len(rows)} rows, {len(tiles)} tiles"

    source = "slab" if slab and edges is None else "x"
    step, chunks, swept, said = multiply(source, in_strides, origin, edges.inner if edges else None)
    if r.prepared:
        recipe.steps.append(step)
    elif swept is not None:
        branches.direct("weights.streamed")
        if swept.cuts is not None:
            weights, _ = weight_step(r.contraction, g.weight_shape, g.groups, r.element, inner, full, width, True, True)
        sweep_step(recipe, weights, step, chunks, r.threads, swept)
    else:
        branches.direct("weights.packed_first")
        recipe.pack_first()
        recipe.steps.append(step)
    if edges is not None and edges.tiles:
        sizes = [*(axis.in_size for axis in merged[:-1]), edges.width]
        copied = [prod(sizes[k + 1 :]) * pitch for k in range(len(sizes))]
        recipe.steps.append(multiply("edges", copied, 0, edges.outer)[0])
    if in_scratch:
        sizes = [axis.out_size for axis in axes]
        true_strides = [r.out_strides[0], *r.out_strides[2:]]
        recipe.steps.append(swap_back(sizes, true_strides, out_channels, r.out_strides[1], inner, r.element, full, r.finish))
    padded_axes = any(reach[k] != (0, 0) for k in range(len(axes)))
    recipe.skips_padding = padded_axes and not r.every_tap and not r.single
    branches.direct(f"padding.{'none' if not padded_axes else 'every_tap' if r.every_tap else 'skipped'}")
    recipe.details |= {
        "tile": f"{choice.pixels} pixels x {choice.vectors} vectors of {choice.lanes} channels",
        "tasks": f"{chunks} chunks of rows x {blocks} blocks of channels",
        "input": ENDS if edges is not None and edges.tiles else SOURCES[source],
        "result": STORES[best.store],
        "tables": said,
    }
    return recipe


@dataclass(frozen=True, slots=True)
class _Option:
    axes: list[Axis]
    in_strides: list[int]
    out_strides: list[int]
    choice: Choice
    channels: int  # of a group, phases included
    folded: Folded | None
    store: str  # "straight", "turned" or "scratch"
    cost: float


STORES = {
    "straight": "stored in place",
    "turned": "turned in registers, stored in place",
    "scratch": "transposed back from a channels-last scratch",
}


SOURCES = {"x": "read in place", "slab": "copied into a channels-last slab"}
ENDS = "read in place, the ends of rows copied with their padding"
Part = Callable[[Phase, Tiles], tuple[Tiles, Ints]]


def _skip_lines(axes: list[Axis], strides: list[int]) -> list[int]:
    """Outer axes of which one tap reads every so many lines (1x1 layers with strides), as plain ones: no copy moves the lines
    between. Changes `axes`; returns the strides in memory that go with them."""
    out = list(strides)
    for k in range(1, len(axes) - 1):
        axis, only = axes[k], axes[k].phases[0]
        inside = (only.count - 1) * only.in_step < axis.in_size
        if axis.kernel == 1 and len(axis.phases) == 1 and only.step == 1 and only.taps == ((0, 0),) and inside:
            if only.in_step > 1:
                branches.direct("lines.skipped")
            n = only.count
            axes[k] = Axis(n, n, (replace(only, in_step=1, in_size=n),))
            out[k] *= only.in_step
    return out


def _may_fold(r: Request) -> Folded | None:
    """The last axis with its stride phases folded into channels, where that is a choice."""
    g = r.geometry
    if r.contraction != "conv_transpose" or g.groups != 1 or not g.ndim or r.single or r.little or r.tile is not None:
        return None
    folded = fold_phases(g)
    return folded if folded is not None and folded.axis.phases[0].count > 1 else None


def _options(r: Request, axes: list[Axis], in_strides: list[int], channels: int, run: int, item: int) -> list[_Option]:
    """The ways to lay out the work, with modelled costs."""
    g, own_item = r.geometry, ELEMENT_BYTES[r.element]
    elements, all_channels = prod(g.weight_shape), channels * g.groups
    sizes = [axis.out_size for axis in axes]
    true_strides = [r.out_strides[0], *r.out_strides[2:]]
    if r.out_strides[1] == own_item or all_channels == 1:
        stores = [("straight", true_strides, 0.0)]
    else:
        scratch = [prod(sizes[k + 1 :]) * all_channels * item for k in range(len(axes))]
        stores = [("scratch", scratch, SCRATCH_CYCLES * prod(sizes) * all_channels), ("turned", true_strides, 0.0)]
    shape = (run, item, r.target.vector_bytes, r.target.vector_registers)
    out: list[_Option] = []
    for store, out_strides, extra in stores:
        merged, a, b = merge_axes(axes, in_strides, out_strides)
        candidates = [max([k for k in range(len(merged)) if merged[k].out_size > 1], default=0)]
        if merged[0].out_size > 1 and 0 not in candidates and not merged[0].margins[0]:
            candidates.append(0)
        side = turned_side(r.target.vector_bytes, item) if store == "turned" else 1
        if store == "turned":
            candidates = [k for k in candidates if len(merged[k].phases) == 1 and b[k] == own_item and merged[k].out_size >= side]
            if not candidates or r.single or r.little:
                continue
        if r.tile is not None and not r.single:
            lanes, vectors, pixels = r.tile
            pixels = min(pixels, *(p.count for p in merged[candidates[0]].phases if p.count))
            forced = Choice(candidates[0], lanes, vectors, pixels // side * side, 0.0)
            if forced.pixels:
                return [_Option(merged, a, b, forced, channels, None, store, 0.0)]
            continue
        if r.single:
            return [
                _Option(merged, a, b, Choice(candidates[0], r.target.vector_bytes // item, 1, 1, 0.0), channels, None, store, 0.0)
            ]
        choice = choose_tile(merged, candidates, channels, g.groups, *shape, side, r.little)
        out.append(_Option(merged, a, b, choice, channels, None, store, choice.cost + extra + PACK_CYCLES * elements))
        last_bytes = ELEMENT_BYTES[r.element] if store == "straight" else item
        contiguous = store != "turned" and out_strides[-1] == channels * last_bytes
        folded = _may_fold(r) if contiguous else None
        if folded is not None:
            wide, phased = channels * folded.stride, [*axes[:-1], folded.axis]
            choice = choose_tile(phased, [len(phased) - 1], wide, 1, *shape, little=r.little)
            cost = choice.cost + extra + GATHER_CYCLES * elements
            out.append(_Option(phased, in_strides, out_strides, choice, wide, folded, store, cost))
    return out


def _take_layout(
    r: Request, best: _Option, ndim: int, raw_strides: list[int], margins: list[tuple[int, int]], inner: str, lasting: bool,
    crowded: bool, slab: bool, edges: Edges | None,
) -> None:  # fmt: skip
    """Name the decisions that were made above, each by what it changes in the program."""
    take, choice, axis = branches.direct, best.choice, best.axes[best.choice.axis]
    take("taken")
    if len(best.axes) < ndim:
        take("axes.merged")
    if edges is not None:
        take("input.halo" if edges.tiles else "input.halo_unread")
    elif slab:
        take("input.packed")
        reasons = {
            "channels_first": not lasting, "widened": r.element != inner, "crowded": crowded,
            "margins": any(m != (0, 0) for m in margins),
        }  # fmt: skip
        for reason in [name for name, holds in reasons.items() if holds]:
            take(f"input.packed.{reason}")
    else:
        take("input.in_place")
    take(f"result.{best.store}")
    if best.folded is not None:
        take("phases.folded")
        if min(best.folded.phases_of_tap) < best.folded.stride:
            take("phases.folded.partial")
        if best.folded.first_cut or best.folded.last_end < best.folded.stride:
            take("phases.folded.cut")
    else:
        take("phases.one" if len(axis.phases) == 1 else "phases.several")
        if not all(phase.taps for phase in axis.phases):
            take("phases.empty")
    last = len(best.axes) - 1
    take("pixels.last_axis" if choice.axis == last else "pixels.batch" if choice.axis == 0 else "pixels.outer_axis")
    if r.single or r.tile is not None:
        take("tile.single" if r.single else "tile.given")
    full = r.target.vector_bytes // ELEMENT_BYTES[inner]
    take_tiling(axis, choice)
    take("tile.one_pixel" if choice.pixels == 1 else "tile.several_pixels")
    take("tile.one_vector" if choice.vectors == 1 else "tile.several_vectors")
    take("tile.full_vectors" if choice.lanes == full else "tile.half_vectors")
    take("channels.ragged" if best.channels % (choice.lanes * choice.vectors) else "channels.whole")
    take("groups.one" if r.geometry.groups == 1 else "groups.several")


def _share(
    rows: Any, tiles: Any, blocks: int, threads: int, block_bytes: int, choice: Choice, pixel_bytes: int, out_bytes: int,
    inputs: int,
) -> tuple[Any, Any, bool]:  # fmt: skip
    """Cut the rows into chunks, one task each for every block of channels; whether all blocks of a chunk come together.

    A chunk's input and output should stay in the L2 cache while all blocks of channels pass over it, so rows are sorted in bands
    by where their input lies; and its weights too, so the stride phases of a transposed convolution, each with weights of its own,
    make chunks of their own. What is larger, weights or input (`inputs`: bytes of a group's), stays while the other passes by.
    """
    count = int((rows[:, 4] - rows[:, 3]).sum())
    longest = int((rows[:, 4] - rows[:, 3]).max())
    band = max(16 << 10, BAND_BYTES * pixel_bytes // (pixel_bytes + out_bytes))  # of input; the output has its share too
    per_row = max(1, band // (choice.pixels * pixel_bytes))
    wanted = 1 if threads == 1 else min(count, -(-8 * threads // blocks))
    pieces = max(-(-longest // per_row), -(-wanted // len(rows)))
    if pieces > 1:
        branches.direct("rows.split")
    rows = split_rows(rows, pieces)
    at = rows[:, 0] + tiles[rows[:, 3], 0]
    lowest = int(at.min())
    bands, kinds = (at - lowest) // band, rows[:, 5]
    weights = blocks * block_bytes
    n_bands = len(distinct(bands))
    order = np.lexsort((bands, kinds) if weights > inputs else (kinds, bands))
    rows = np.ascontiguousarray(rows[order])
    moves = np.diff(bands[order]) != 0
    if weights > SMALL_WEIGHTS:
        moves |= np.diff(rows[:, 5]) != 0
    edges = [0, *(np.flatnonzero(moves) + 1).tolist(), len(rows)] if blocks > 1 else [0, len(rows)]
    if len(edges) - 1 < wanted:
        edges = sorted({*edges, *(len(rows) * c // wanted for c in range(wanted + 1))})
    together = n_bands > 1 and n_bands * weights <= blocks * inputs
    branches.direct("rows.sorted_by_phase" if weights > inputs else "rows.sorted_by_input")
    branches.direct("chunks.one" if len(edges) == 2 else "chunks.blocks_together" if together else "chunks.several")
    return np.ascontiguousarray(rows[:, :5]), as_ints(edges), together
