"""The program of a dense convolution or transposed convolution: pack what must be packed, multiply, put back (`direct_kernel`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import DirectCosts
from preimage.engines.jit.conv.direct_kernel import DirectArguments, DirectSpec
from preimage.engines.jit.conv.direct_layout import Layout, choose_layout, record_layout
from preimage.engines.jit.conv.streamed_weights import Work, cut_taps, piece_tables, streamed_call, streams_weights
from preimage.engines.jit.index.gather import Weights, gather_tables, split_rows
from preimage.engines.jit.index.taps import Ints, Phase, as_ints, distinct
from preimage.engines.jit.index.tiling import Choice, Tiles
from preimage.engines.jit.packing.moves import folded_weight_call, slab_calls, swap_back, tap_pitch, weight_call
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call, operands
from preimage.engines.jit.request import ConvRequest
from preimage.records import record

__all__ = ["Layout", "choose_layout", "lower_direct"]

STORES = {
    "straight": "stored in place",
    "transposed": "transposed in registers, stored in place",
    "scratch": "transposed back from a channels-last scratch",
}


SOURCES = {"x": "read in place", "slab": "copied into a channels-last slab"}
ENDS = "read in place, the ends of rows copied with their padding"
Part = Callable[[Phase, Tiles], tuple[Tiles, Ints]]


def lower_direct(r: ConvRequest, layout: Layout) -> Program:
    """Channels across vectors: see `direct_kernel`."""
    program = ProgramBuilder("direct, taps of a line joined" if layout.joined > 1 else "direct")
    best, edges, sizes = layout.best, layout.edges, _Sizes.of(r, layout)
    source, origin = _input(program, r, layout, sizes)
    in_scratch = best.store == "scratch"
    if in_scratch:
        size = prod(axis.out_size for axis in layout.axes) * sizes.out_channels * sizes.item
        program.buffers.append(Buffer("scratch", size))
    block_bytes = _pack(program, r, layout, sizes)
    record_layout(r, layout)
    if layout.joined > 1:
        branches.direct("taps.joined")
    main = _multiply(r, layout, sizes, block_bytes, source, best.in_strides, origin, edges.inner if edges else None)
    if r.prepared:
        program.calls.append(main.call)
    elif main.streamed is not None:
        branches.direct("weights.streamed")
        packing = program.packing if main.streamed.cuts is None else _packing(r, layout, sizes, by_taps=True)[0]
        assert packing is not None
        streamed_call(program, packing, main.call, main.chunks, r.threads, main.streamed)
    else:
        branches.direct("weights.packed_first")
        program.pack_first()
        program.calls.append(main.call)
    if edges is not None and edges.tiles:
        row = [*(axis.in_size for axis in best.axes[:-1]), edges.width]
        copied = [prod(row[k + 1 :]) * layout.pitch for k in range(len(row))]
        program.calls.append(_multiply(r, layout, sizes, block_bytes, "edges", copied, 0, edges.outer).call)
    if in_scratch:
        out_sizes, strides = [axis.out_size for axis in layout.axes], [r.out_strides[0], *r.out_strides[2:]]
        program.calls.append(
            swap_back(
                out_sizes,
                strides,
                sizes.out_channels,
                r.out_strides[1],
                sizes.inner,
                r.element,
                sizes.full,
                r.finish,
                r.target.costs.packing,
            )
        )
    padded = any(axis.margins != (0, 0) for axis in layout.axes)
    program.skips_padding = padded and not r.every_tap and not r.single
    branches.direct(f"padding.{'none' if not padded else 'every_tap' if r.every_tap else 'skipped'}")
    program.details |= {
        "tile": f"{best.choice.pixels} pixels x {best.choice.vectors} vectors of {best.choice.lanes} channels",
        "tasks": f"{main.chunks} chunks of rows x {sizes.blocks} blocks of channels",
        "input": ENDS if edges is not None and edges.tiles else SOURCES[source],
        "result": STORES[best.store],
        "tables": main.said,
    }
    return program.done()


@record
class _Sizes:
    """Element types, channels and bytes that the parts of the program share."""

    inner: str  # element type of sums, packed weights and slabs
    item: int
    own_item: int  # bytes of an element of the call's arrays
    full: int  # elements of a vector register
    in_channels: int
    out_channels: int
    width: int  # channels of a block
    group_blocks: int
    blocks: int
    tap_bytes: int  # of packed weights

    @classmethod
    def of(cls, r: ConvRequest, layout: Layout) -> _Sizes:
        g = r.geometry
        inner = "f64" if r.element == "f64" else "f32"
        item, choice, folded = ELEMENT_BYTES[inner], layout.best.choice, layout.best.folded
        channels = (g.in_channels, g.out_channels) if r.contraction == "conv" else (g.out_channels, g.in_channels)
        width = choice.lanes * choice.vectors
        group_blocks = -(-layout.best.channels // width)
        tap_bytes = (
            layout.run * width * item
            if layout.joined > 1 or folded is not None
            else tap_pitch(layout.run, width, item, r.target.costs.packing)
        )
        return cls(
            inner, item, ELEMENT_BYTES[r.element], r.target.vector_bytes // item, *channels, width, group_blocks,
            g.groups * group_blocks, tap_bytes,
        )  # fmt: skip


def _input(program: ProgramBuilder, r: ConvRequest, layout: Layout, sizes: _Sizes) -> tuple[str, int]:
    """Copy what must be copied first; the array that is multiplied, and where its position 0 lies."""
    edges, merged = layout.edges, layout.best.axes
    if edges is not None:
        if edges.tiles:
            rows, strides = [axis.in_size for axis in merged[:-1]], layout.best.in_strides[:-1]
            program.calls.append(
                edges.copy_call(rows, strides, sizes.in_channels, sizes.inner, sizes.item, sizes.full, r.target.costs.packing)
            )
            program.buffers.append(Buffer("edges", prod(rows) * edges.width * layout.pitch))
        return "x", 0
    if not layout.slab:
        return "x", 0
    program.calls += slab_calls(
        layout.in_sizes, layout.raw_strides, sizes.in_channels, r.in_strides[1], r.element, sizes.inner, layout.margins, sizes.full,
        layout.slab_strides, r.target.costs.packing,
    )  # fmt: skip
    program.buffers.append(Buffer("slab", prod(layout.padded) * layout.pitch))
    return "slab", sum(lo * s for (lo, _), s in zip(layout.margins, layout.slab_strides, strict=True))


def _packing(r: ConvRequest, layout: Layout, sizes: _Sizes, by_taps: bool = False) -> tuple[KernelCall, int]:
    """The call that packs the weights, and the bytes of a block."""
    shape, folded = r.geometry.weight_shape, layout.best.folded
    if folded is not None:
        return folded_weight_call(shape, folded, r.element, sizes.inner, sizes.width, r.target.costs.packing)
    return weight_call(
        r.contraction, shape, r.geometry.groups, r.element, sizes.inner, sizes.full, sizes.width,
        r.target.costs.packing, by_taps or layout.joined == 1,
        by_taps,
    )  # fmt: skip


def _pack(program: ProgramBuilder, r: ConvRequest, layout: Layout, sizes: _Sizes) -> int:
    """Say how the weights are packed; the bytes of a block."""
    choice, folded = layout.best.choice, layout.best.folded
    if folded is not None:
        program.bias_repeat = folded.stride
    program.packing, block_bytes = _packing(r, layout, sizes)
    program.packed_bytes = sizes.blocks * block_bytes
    program.packed_key = (r.contraction, r.element, choice.lanes, choice.vectors, folded is not None, r.geometry.groups)
    return block_bytes


def _spec(r: ConvRequest, layout: Layout, sizes: _Sizes) -> DirectSpec:
    best = layout.best
    choice, folded, in_scratch = best.choice, best.folded, best.store == "scratch"
    pixel = best.in_strides[choice.axis] * best.axes[choice.axis].phases[0].in_step
    return DirectSpec(
        element=sizes.inner, out=sizes.inner if in_scratch else r.element, lanes=choice.lanes, vectors=choice.vectors,
        pixels=choice.pixels, run=0 if r.little else layout.terms.item, multiple=1 if r.little else layout.terms.multiple,
        depth=layout.terms.order.depth, lone=layout.terms.lone,
        pixel_stride=0 if r.little or (choice.axis == 0 and len(best.axes) > 1) else pixel // sizes.item,
        ragged=r.little or best.channels % sizes.width != 0, folded=folded is not None,
        partial=folded is not None and min(folded.phases_of_tap) < folded.stride, transposed=best.store == "transposed",
        finish=EpilogueSpec() if in_scratch else r.finish,
    )  # fmt: skip


def _streams(r: ConvRequest, layout: Layout, sizes: _Sizes, block_bytes: int) -> bool:
    """Whether each block of weights is packed just before its use."""
    if layout.best.folded is not None or layout.edges is not None or r.prepared:
        return False
    positions = r.geometry.work_flop // (2 * prod(r.geometry.weight_shape))
    return streams_weights(r.target.costs.streaming, sizes.blocks, r.threads, sizes.blocks * block_bytes, positions)


@record
class _Product:
    """The multiplying call; streamed: where its weights are packed block by block; said: of its tables."""

    call: KernelCall
    chunks: int
    streamed: Work | None
    said: str


def _multiply(
    r: ConvRequest, layout: Layout, sizes: _Sizes, block_bytes: int, source: str, strides: list[int], origin: int, part: Part | None
) -> _Product:  # fmt: skip
    """The call on `source` with these byte strides, position 0 at `origin`; part: only some tiles, see `halo`."""
    best, run, item, blocks = layout.best, layout.run, sizes.item, sizes.blocks
    choice, merged = best.choice, best.axes
    weights, terms = Weights(sizes.width * item, sizes.tap_bytes, item), layout.terms
    gather = gather_tables(merged, choice, strides, best.out_strides, weights, terms, best.folded, sizes.out_channels, part)
    rows, tiles, taps, (lists, nodes) = gather.rows, gather.tiles, gather.taps, gather.nodes()
    rows["input"] += origin
    inputs = prod(layout.in_sizes) * (sizes.in_channels // r.geometry.groups) * item
    rows, bounds, blocks_inside = _share(
        r.target.costs.direct,
        rows,
        gather.kinds,
        tiles,
        blocks,
        r.threads,
        block_bytes,
        choice,
        run * item,
        best.channels * item,
        inputs,
    )
    chunks, longest = len(bounds) - 1, int((rows["end_tile"] - rows["first_tile"]).max())
    spec, streamed = _spec(r, layout, sizes), None
    if not blocks_inside and _streams(r, layout, sizes, block_bytes):
        streamed = Work(block_bytes, sizes.tap_bytes, sizes.own_item)
        partial = len(rows) * longest * choice.pixels * sizes.width * item * (terms.order.depth + 1)
        cuts = None
        if layout.joined == 1:
            reread = prod(layout.padded) * run * item
            cuts = cut_taps(
                r.target.costs.streaming, block_bytes // sizes.tap_bytes, sizes.tap_bytes, sizes.own_item, partial, reread
            )
        if cuts is not None:
            lists, nodes = piece_tables(gather, sizes.tap_bytes, cuts)
            spec = replace(spec, pieced=True)
            streamed = replace(streamed, cuts=cuts, lists_bytes=lists[0].nbytes, partial_bytes=partial)
    axis = merged[choice.axis].phases[0]
    values = DirectArguments(
        **operands(source, "scratch" if best.store == "scratch" else "out"), rows=rows, tiles=tiles, lists=lists.ravel(), taps=taps,
        nodes=nodes, chunk_rows=bounds, chunks=chunks, chunk_div=blocks if blocks_inside else 1, blocks=blocks,
        block_div=1 if blocks_inside else chunks, group_blocks=sizes.group_blocks, block_bytes=block_bytes,
        group_input_bytes=run * item, group_channels=best.channels, out_pixel_bytes=axis.step * best.out_strides[choice.axis],
        pixel_bytes=best.in_strides[choice.axis] * axis.in_step, channel_bytes=r.out_strides[1], row_tiles=longest,
        partial="partial" if spec.pieced else 0,
    )  # fmt: skip
    call = kernel_call("direct", spec, values, chunks * blocks)
    return _Product(call, chunks, streamed, f"{len(rows)} rows, {len(tiles)} tiles")


def _share(
    costs: DirectCosts, rows: Array, kinds: Ints, tiles: Array, blocks: int, threads: int, block_bytes: int,
    choice: Choice, pixel_bytes: int, out_bytes: int,
    inputs: int,
) -> tuple[Array, Ints, bool]:  # fmt: skip
    """Cut the rows into chunks, one task each for every block of channels; whether all blocks of a chunk come together.

    A chunk's input and output should stay in the L2 cache while all blocks of channels pass over it, so rows are sorted in bands
    by where their input lies; and its weights too, so the stride phases of a transposed convolution, each with weights of its own,
    make chunks of their own. What is larger, weights or input (`inputs`: bytes of a group's), stays while the other passes by.
    """
    counts = rows["end_tile"] - rows["first_tile"]
    count, longest = int(counts.sum()), int(counts.max())
    band = max(
        costs.least_band_bytes, costs.band_bytes * pixel_bytes // (pixel_bytes + out_bytes)
    )  # of input; the output has its share too
    per_row = max(1, band // (choice.pixels * pixel_bytes))
    wanted = 1 if threads == 1 else min(count, -(-8 * threads // blocks))
    pieces = max(-(-longest // per_row), -(-wanted // len(rows)))
    if pieces > 1:
        branches.direct("rows.split")
    rows, owner = split_rows(rows, pieces)
    at, kinds = rows["input"] + tiles["input"][rows["first_tile"]], kinds[owner]
    at -= int(at.min())
    weights, n_bands = blocks * block_bytes, 1
    moves = np.zeros(len(rows) - 1, bool)
    if int(at.max()) >= band:
        bands = at // band
        n_bands = len(distinct(bands))
        order = np.lexsort((bands, kinds) if weights > inputs else (kinds, bands))
        rows, kinds, bands = rows[order], kinds[order], bands[order]
        moves = bands[1:] != bands[:-1]
    if weights > costs.small_weights:
        moves |= kinds[1:] != kinds[:-1]
    edges = [0, *(np.flatnonzero(moves) + 1).tolist(), len(rows)] if blocks > 1 else [0, len(rows)]
    if len(edges) - 1 < wanted:
        edges = sorted({*edges, *(len(rows) * c // wanted for c in range(wanted + 1))})
    together = n_bands > 1 and n_bands * weights <= blocks * inputs
    branches.direct("rows.sorted_by_phase" if weights > inputs else "rows.sorted_by_input")
    branches.direct("chunks.one" if len(edges) == 2 else "chunks.blocks_together" if together else "chunks.several")
    return rows, as_ints(edges), together
