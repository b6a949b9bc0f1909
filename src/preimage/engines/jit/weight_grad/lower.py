"""The program of a weight gradient: copy what must be copied, run the tile over all pixels, put the result in its order."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from preimage.engines.base import Array
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.compiler.costs import WeightGradCosts
from preimage.engines.jit.index.running_sums import RunningSums, image_levels, running_sums
from preimage.engines.jit.packing.copy_kernel import Line, SwapArguments, SwapSpec
from preimage.engines.jit.program import Buffer, KernelCall, Program, ProgramBuilder, kernel_call
from preimage.engines.jit.request import WeightGradRequest
from preimage.engines.jit.runtime.lockstep import in_step
from preimage.engines.jit.weight_grad import tiling as planning
from preimage.engines.jit.weight_grad.operands import Side, rows_read, side_of
from preimage.engines.jit.weight_grad.tile_arguments import Segment, Tap, TileArguments
from preimage.geometry import ConvGeometry
from preimage.records import record

__all__ = ["leaves_out", "lower_weight_grad"]

_HOW = {"": "in place", "slab": "copied, channels innermost", "blocks": "copied in blocks of a tile's channels"}


@lru_cache(maxsize=1024)
def leaves_out(geometry: ConvGeometry) -> bool:
    """Whether some tap meets padding."""
    return any(_pads(geometry, axis) for axis in range(geometry.ndim))


def _pads(geometry: ConvGeometry, axis: int) -> bool:
    lo, reach = geometry.padding[axis][0], (geometry.output_size[axis] - 1) * geometry.stride[axis]
    return lo != 0 or reach + geometry.kernel_extent[axis] > geometry.input_size[axis]


def lower_weight_grad(r: WeightGradRequest) -> Program:
    """Tiles of the matrix of weights over all pixels: see `tile_kernel`."""
    g = r.geometry
    inner, size = r.sums, ELEMENT_BYTES[r.sums]
    reading = planning.read_geometry(g, size, r.target, r.little)
    program = ProgramBuilder(f"weight gradient, {reading.kind} as columns")
    x_is_vector = reading.kind != "outputs"
    y_width, y_tiles = _share(reading, not x_is_vector)
    x_width, x_tiles = _share(reading, x_is_vector)
    y_shape, x_shape = (g.batch, g.out_channels, *g.output_size), (g.batch, g.in_channels, *g.input_size)
    blocks_x, blocks_y = planning.wants_blocks(g, reading, size, r.target.costs.weight_grad)
    streams = x_is_vector and (not blocks_y or planning.products(g)["y"] < r.target.costs.weight_grad.stream_products)
    y = side_of(program, r, "y", y_shape, r.y_strides, y_width, y_tiles, None, blocks_y, streams)
    margin = None
    if reading.run:  # the columns that the kernel's rows touch: padding written out
        lo = g.padding[-1][0]
        hi = (g.output_size[-1] - 1) * g.stride[-1] + g.kernel_size[-1] - lo - g.input_size[-1]
        margin = max(lo, 0), max(hi, 0)
    x = side_of(program, r, "x", x_shape, r.x_strides, x_width, x_tiles, margin, blocks_x, False)
    _main_call(program, r, reading, x, y, inner)
    program.skips_padding = leaves_out(g)
    planning.take_reading(g, reading, size, r.target)
    branches.weight_grad("padding.skipped" if program.skips_padding else "padding.none")
    branches.weight_grad("batch.part" if r.part else "batch.whole")
    return program.done()


def _share(reading: planning.Reading, columns: bool) -> tuple[int, int]:
    """Width and number of the tiles along one side of the matrix."""
    if columns:
        return reading.tile_columns, reading.column_tiles
    return reading.tile_rows, reading.row_tiles


def _main_call(program: ProgramBuilder, r: WeightGradRequest, reading: planning.Reading, x: Side, y: Side, inner: str) -> None:
    """The call that sums, and what follows it."""
    g, size, m = r.geometry, ELEMENT_BYTES[inner], _Matrix.of(r, reading, x, y, inner)
    weight_bytes, one_band = prod(g.weight_shape) * size, m.table.n_bands == 1
    if not m.direct:
        program.buffers.append(Buffer("sums", weight_bytes))
    moved = g.batch * prod(g.output_size) * (g.in_channels * prod(g.stride) + g.out_channels) * size
    often = planning.products(g)
    ahead = [
        planning.lines_ahead(size, step, width, often[side.name[0]], r.target.costs.weight_grad)
        if moved > r.target.l2_bytes
        else 0
        for side, step, width in ((m.scalar, m.scalar_step, reading.tile_rows), (m.vector, m.vector_step, reading.tile_columns))
    ]
    few = reading.together or reading.abreast > 0  # multiply-adds for each line of the result
    far = one_band and (few or weight_bytes > r.target.costs.weight_grad.far_result * r.target.l2_bytes)
    spec = planning.tile_spec(reading, inner, (ahead[0], ahead[1]), r.little, m.prefetch, far, m.scalar.apart != 0)
    values, level_bytes = _arguments(r, reading, x, y, m, size, spec.tile_bytes), _level_bytes(r, m, spec.tile_bytes)
    if level_bytes:
        program.buffers.append(Buffer("levels", level_bytes))
    call = kernel_call("weight gradient", spec, values, m.tasks)
    program.calls.append(in_step(call, m.parts, r.threads) if m.tasks > m.parts else call)
    named = {
        "images.together": spec.together, "images.abreast": spec.abreast > 0,
        "prefetch.taken": m.prefetch, "ahead.scalars": ahead[0] > 0, "ahead.vectors": ahead[1] > 0, "result.far": spec.far,
        "result.in_place": m.direct,
    }  # fmt: skip
    _take(g, m, [name for name, holds in named.items() if holds])
    if not m.direct:
        program.calls.append(_order_call(r, m.x_is_vector, inner))
    program.details = _details(g, reading, x, y, m)


@record
class _Matrix:
    """The matrix of weights cut into tiles, and the pixels into bands and rounds. vector, scalar: which operand gives which, with the
    bytes from one pixel to the next.
    """

    x_is_vector: bool
    vector: Side
    vector_step: int
    scalar: Side
    scalar_step: int
    pixels: int  # of a band, about
    table: planning.Tables
    n_taps: int  # along the last axis, as turns of a loop
    n_outer: int  # of the other axes
    tiles: int
    per_turn: int  # images at a time, a power of two where there are several turns
    rounds: int
    parts: int
    per_part: int
    rounds_per_task: int
    sums: RunningSums
    thread_levels: int  # levels of running sums that no round leaves open
    tile_levels: int  # the others
    direct: bool  # the sums are the result
    prefetch: bool  # the next band's lines are prefetched while this one is summed

    @property
    def tasks(self) -> int:
        return self.parts * -(-self.rounds // self.rounds_per_task)

    @classmethod
    def of(cls, r: WeightGradRequest, reading: planning.Reading, x: Side, y: Side, inner: str) -> _Matrix:
        g, size = r.geometry, ELEMENT_BYTES[inner]
        x_is_vector, n_outer, last = reading.kind != "outputs", prod(g.kernel_size[:-1]), g.kernel_size[-1]
        pixels = planning.band_pixels(
            g, reading, size, r.target.costs.weight_grad, x.name == "x blocks" and (y.apart != 0 or y.name == "y blocks")
        )
        sums = running_sums(g.output_size)
        table = planning.tables(g, sums, x.strides[2:], y.strides[2:], pixels)
        n_taps = 1 if reading.run else last
        tiles = n_taps * n_outer * reading.row_tiles * reading.column_tiles * g.groups
        per_turn = 1 if table.n_bands > 1 else max(1, min(g.batch, pixels // max(1, prod(g.output_size))))
        per_turn = 1 << image_levels(g.batch) if per_turn == g.batch else 1 << per_turn.bit_length() - 1
        levels = sums.depth + image_levels(g.batch)
        thread_levels = sums.depth - table.open_levels if table.n_bands > 1 else sums.depth + image_levels(per_turn)
        rounds = -(-g.batch // per_turn) * table.n_bands
        parts, rounds_per_task = _shares(tiles, rounds, r.threads, r.target.costs.weight_grad)
        per_part = -(-tiles // parts)
        as_is = r.out_strides[1] == size or g.in_channels_per_group == 1 or n_outer * last == 1  # the sums' order is the result's
        x_step, y_step = x.strides[-1] * (g.stride[-1] if x.phases == 1 else 1), y.strides[-1]
        sides = (x, x_step, y, y_step) if x_is_vector else (y, y_step, x, x_step)
        prefetch = not r.little and "blocks" not in x.name + y.name and planning.prefetches_next_band(g, reading, size, r.target)
        return cls(
            x_is_vector, *sides, pixels, table, n_taps, n_outer, tiles, per_turn, rounds, -(-tiles // per_part), per_part,
            rounds_per_task, sums, thread_levels, levels - thread_levels, x_is_vector and as_is and inner == r.result, prefetch,
        )  # fmt: skip


def _arguments(
    r: WeightGradRequest, reading: planning.Reading, x: Side, y: Side, m: _Matrix, size: int, tile_bytes: int
) -> TileArguments:  # fmt: skip
    """The argument vector of the tile kernel."""
    g, last = r.geometry, r.geometry.kernel_size[-1]
    i, o = g.in_channels_per_group, g.out_channels_per_group
    if m.x_is_vector:  # the sums lie as [o][tap][i]
        row_bytes, tap_bytes, outer_bytes = m.n_outer * last * i * size, i * size, last * i * size
    else:  # as [group][tap][i][o]
        row_bytes, tap_bytes, outer_bytes = o * size, i * o * size, last * i * o * size
    parts, (scalars, vectors) = m.table.segments, ("y", "x") if m.x_is_vector else ("x", "y")
    spans, span_bounds = planning.spans(rows_read(g, m.table, x, y, m.x_is_vector) if m.prefetch else [])
    # A run's columns are neighbours in memory: all of them before the next row of x. Else one block of channels, for every tap.
    every = (reading.column_tiles, 1) if reading.kind == "run" else (1, m.n_outer)
    steps, image_steps, last_steps = m.sums.with_images(g.batch)
    return TileArguments(
        scalars=m.scalar.name, vectors=m.vector.name, total="out" if m.direct else "sums",
        levels="levels" if m.thread_levels + m.tile_levels else 0,
        segments=Segment(scalars=parts[scalars], vectors=parts[vectors], first=parts["first"], end=parts["end"]),
        blocks=m.table.blocks, bands=m.table.bands, taps=_tap_table(g, reading, x, m, tap_bytes), images=g.batch,
        images_per_turn=m.per_turn, rounds=m.rounds, n_bands=m.table.n_bands, tiles=m.tiles, tiles_per_part=m.per_part,
        parts=m.parts, rounds_per_task=m.rounds_per_task, n_taps=m.n_taps, n_outer=m.n_outer, outer_every=every[0],
        col_every=every[1], n_rows=reading.row_tiles, n_cols=reading.column_tiles, rows=reading.rows, cols=reading.columns,
        row_step=m.scalar.step, row_last=m.scalar.last, col_step=m.vector.step, col_last=m.vector.last,
        scalar_pixel=m.scalar_step, scalar_image=m.scalar.strides[0], scalar_group=m.scalar.group, scalar_row=m.scalar.apart,
        vector_pixel=m.vector_step, vector_image=m.vector.strides[0], vector_group=m.vector.group, out_row=row_bytes,
        out_outer=outer_bytes, out_group=prod(g.weight_shape) // g.groups * size, spans=spans, span_bounds=span_bounds,
        steps=steps, image_steps=image_steps, last_steps=last_steps, n_steps=len(steps), image_level=m.sums.depth,
        thread_levels=m.thread_levels, thread_bytes=m.thread_levels * tile_bytes,
        tile_levels=r.threads * m.thread_levels * tile_bytes, level_bytes=m.tiles * tile_bytes,
    )  # fmt: skip


def _level_bytes(r: WeightGradRequest, m: _Matrix, tile_bytes: int) -> int:
    return (r.threads * m.thread_levels + m.tiles * m.tile_levels) * tile_bytes


def _tap_table(g: ConvGeometry, reading: planning.Reading, x: Side, m: _Matrix, tap_bytes: int) -> Array:
    """Where each tap of the last axis reads and sums, and which columns of the output it meets."""
    taps = Tap.zeros(m.n_taps)
    for k in range(m.n_taps):
        offset = k * g.dilation[-1] - g.padding[-1][0]
        taps["vectors" if m.x_is_vector else "scalars"][k] = x.column(offset)
        taps["result"][k] = k * tap_bytes
        whole = (0, g.output_size[-1])
        taps["first"][k], taps["end"][k] = (
            whole if reading.run else planning.tap_range(g.input_size[-1], g.output_size[-1], offset, g.stride[-1])
        )
    return taps


def _take(g: ConvGeometry, m: _Matrix, named: list[str]) -> None:
    """Name the decisions that were made above."""
    take = branches.weight_grad
    take("bands.one" if m.table.n_bands == 1 else "bands.columns" if g.output_size[-1] > m.pixels else "bands.rows")
    take("images.one" if m.per_turn == 1 else "images.several")
    take("sums.stored" if m.tile_levels else "sums.held")
    take("blocks.one" if m.sums.depth == 0 else "blocks.several" if m.sums.depth == 1 else "blocks.groups")
    for name in named:
        take(name)
    take("tasks.one" if m.tasks == 1 else "tasks.in_step" if m.tasks > m.parts else "tasks.several")


def _details(g: ConvGeometry, reading: planning.Reading, x: Side, y: Side, m: _Matrix) -> dict[str, str]:
    return {
        "reading": f"{reading.rows} rows x {reading.columns} columns ({reading.kind}), "
        f"{m.n_taps} x {m.n_outer} taps, {g.groups} groups",
        "tile": f"{reading.tile_rows} rows x vectors of {reading.lanes} lanes, {100 / reading.waste:.0f} % of them used",
        "bands": f"{m.table.n_bands} of about {m.pixels} pixels, {m.per_turn} images at a time"
        + (", the next one prefetched meanwhile" if m.prefetch else ""),
        "sums": f"{len(m.sums.ends)} blocks an image, {m.sums.depth} levels above them, {m.tile_levels} of all levels kept between rounds",
        "tasks": f"{m.parts} parts of the tiles, {m.rounds_per_task} of {m.rounds} rounds each",
        "x": _HOW[x.name[2:]] + (", columns ordered by phase" if x.phases > 1 else ""),
        "y": _HOW[y.name[2:]],
        "result": "stored in place" if m.direct else "reordered from the order of the sums",
    }


def _shares(tiles: int, rounds: int, threads: int, costs: WeightGradCosts) -> tuple[int, int]:
    """Parts of the tiles, and rounds of one task: with one round of all pixels more tasks even out unequal cores, with many
    rounds they do so from one to the next, and fewer parts read the band less often.
    """
    if threads == 1:
        return 1, rounds
    parts = costs.parts_per_thread if rounds > 1 else costs.tasks_per_thread
    return min(tiles, threads * parts), max(1, rounds // costs.most_turns)


def _order_call(r: WeightGradRequest, x_is_vector: bool, inner: str) -> KernelCall:
    """The sums ([o][tap][i], or [group][tap][i][o]) to the result's order and element type."""
    g, size, own = r.geometry, ELEMENT_BYTES[inner], ELEMENT_BYTES[r.result]
    i, o, taps = g.in_channels_per_group, g.out_channels_per_group, prod(g.kernel_size)
    last_order = r.out_strides[1] == own or i == 1  # the result is [o][tap][i]
    order = "copied" if last_order else "by_output"
    if not x_is_vector:
        order = "by_group" if last_order else "by_input"
    branches.weight_grad(f"result.reordered.{order}")
    if x_is_vector:  # for each o: [tap][i] -> [i][tap], or a copy
        rows, columns = (taps, i) if not last_order else (taps * i, 1)
        c = np.arange(g.out_channels)
        planes = Line(source=c * taps * i * size, result=c * taps * i * own, count=rows, columns=columns)
        strides = (columns * size, taps * own)
    elif last_order:  # for each group: [(tap, i)][o] -> [o][(tap, i)]
        q = np.arange(g.groups)
        planes = Line(source=q * taps * i * o * size, result=q * o * taps * i * own, count=taps * i, columns=o)
        strides = (o * size, taps * i * own)
    else:  # for each group and i: [tap][o] -> [o][tap], at i
        q, c = np.arange(g.groups)[:, None], np.arange(i)
        planes = Line(source=(q * taps * i + c) * o * size, result=(q * o * i + c) * taps * own, count=taps, columns=o)
        strides = (i * o * size, i * taps * own)
    lines = planes.table()
    per_task = max(1, -(-len(lines) // (1 if r.threads == 1 else 4 * r.threads)))
    values = SwapArguments(
        input="sums", output="out", lines=lines, total=len(lines), per_task=per_task, source_stride=strides[0],
        result_stride=strides[1],
    )  # fmt: skip
    spec = SwapSpec(inner, r.result, r.target.vector_bytes // size, EpilogueSpec())
    return kernel_call("order result", spec, values, -(-len(lines) // per_task))
