"""The recipe of a weight gradient: copy what must be copied, run the tile over all pixels, put the result in its order.

Padding that is left out (see `weight_grad_plan`) changes no bit while y is finite: a skipped term is 0 * y = +-0, added to
a sum. Where y holds an infinity or a NaN, 0 * y is NaN and must be seen. So where positions were left out and a sum is not
finite because y is not, all is done again on a copy of x with its padding written out (`every_position`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from preimage.engines import decisions
from preimage.engines.base import Array, accumulator_dtype, aligned_empty, empty_like_order
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.ir.epilogue import Finish
from preimage.engines.jit import branches
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.depthwise.weight_grad import depthwise_grad_recipe, is_depthwise_grad
from preimage.engines.jit.index.partition import images_at_once
from preimage.engines.jit.index.taps import Ints, as_ints
from preimage.engines.jit.packing.copy_kernel import Move, SwapSpec
from preimage.engines.jit.program import Buffer, Recipe, Step, address_of, compiled, made_together
from preimage.engines.jit.request import is_little, little_macs, readable, take_request
from preimage.engines.jit.runtime.lockstep import in_step
from preimage.engines.jit.weight_grad import tiling as planning
from preimage.engines.jit.weight_grad.operands import Side, WeightGradRequest, rows_read, side_of
from preimage.engines.jit.weight_grad.tile_kernel import KW_WORDS, Arg
from preimage.geometry import ConvGeometry
from preimage.settings import current

__all__ = ["WeightGradRequest", "conv_weight_grad", "dense_strides", "weight_grad_recipe"]

SMALL_MACS = 500_000  # less work than this is not worth handing out
TASKS_PER_THREAD = 3  # of all pixels
PARTS_PER_THREAD = 2  # of a round
FAR_RESULT = 4  # second-level caches full of weights
MOST_TURNS = 64  # tasks of one part: so many are enough to keep the threads in step
_HOW = {"": "in place", "slab": "copied, channels innermost", "blocks": "copied in blocks of a tile's channels"}
ELEMENTS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}


def conv_weight_grad(
    geometry: ConvGeometry, x: Array, y: Array, n_threads: int, run: Callable[[Recipe, dict[str, int], int], None]
) -> Array:
    """grad_w; `run` gives a recipe its scratch memory and launches it."""
    limit = current().workspace_bytes
    key = (id(geometry), x.strides, y.strides, x.dtype.num, n_threads, id(kernels.current_target()), limit, little_macs())
    ready = _ready.get(key)
    if ready is not None and ready.geometry is geometry:
        result = aligned_empty(ready.memory, x.dtype)
        if ready.axes is not None:
            result = result.transpose(ready.axes)
        run(ready.recipe, {"x": address_of(x), "y": address_of(y), "out": address_of(result)}, n_threads)
    else:
        result = empty_like_order(geometry.weight_shape, x)
        if result.size == 0 or y.size == 0 or x.size == 0:
            branches.call("empty.weight_grad")
            result[...] = 0
            if y.size and result.size:  # every tap lies on padding, whose zeros take part: 0 * inf is NaN
                with np.errstate(invalid="ignore"):
                    zeros = (y * y.dtype.type(0)).sum(axis=(0, *range(2, y.ndim)))
                result += zeros.reshape(-1, *[1] * (result.ndim - 1))
            return result
        _fill(geometry, x, y, result, n_threads, run, key)
    if leaves_out(geometry) and _reaches_padding(geometry, y, result):
        branches.call("exact.every_position")
        wide, whole = every_position(geometry, x)
        _fill(wide, whole, y, result, n_threads, run)
    return result


@dataclass(frozen=True, slots=True)
class _Ready:
    """What a call needs once its recipe is known: the shape of the result in memory, and the order of its axes."""

    geometry: ConvGeometry
    recipe: Recipe
    memory: tuple[int, ...]
    axes: tuple[int, ...] | None


_ready: decisions.Shortcuts[tuple[Any, ...], _Ready] = decisions.Shortcuts(1024)


def _reaches_padding(geometry: ConvGeometry, y: Array, result: Array) -> bool:
    """Whether a y that is not finite was left out over padding. The smaller array is looked at first.

    A y that is not finite makes each sum that it takes part in not finite, so finite sums say enough, unless some
    position of y meets nothing but padding.
    """
    if result.size < y.size and not _has_dark_positions(geometry) and _finite(result):
        return False
    return not _finite(y)


def _finite(a: Array) -> bool:
    """Whether all elements are finite: those of a finite sum are."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(a.sum())) or bool(np.isfinite(a).all())


@lru_cache(maxsize=1024)
def _has_dark_positions(geometry: ConvGeometry) -> bool:
    """Whether some output position meets nothing but padding."""
    for axis in range(geometry.ndim):
        lit = np.zeros(geometry.output_size[axis], bool)
        for k in range(geometry.kernel_size[axis]):
            offset = k * geometry.dilation[axis] - geometry.padding[axis][0]
            begin, end = planning.tap_range(geometry.input_size[axis], len(lit), offset, geometry.stride[axis])
            lit[begin:end] = True
        if not lit.all():
            return True
    return False


def recipe_for_shapes(geometry: ConvGeometry, element: str, item: int, channels_last: bool, n_threads: int) -> Recipe:
    """The recipe for arrays that lie densely in C order or channels-last (for a Plan)."""
    return weight_grad_recipe(request_for_shapes(geometry, element, item, channels_last, n_threads))


def request_for_shapes(
    geometry: ConvGeometry, element: str, item: int, channels_last: bool, n_threads: int
) -> WeightGradRequest:  # fmt: skip
    """What a call on such arrays asks for."""
    geometry = _spatial(geometry)
    if not geometry.is_depthwise:
        geometry = replace(geometry, batch=images_at_once(geometry))
    shapes = (geometry.input_shape, geometry.output_shape, geometry.weight_shape)
    x, y, out = (dense_strides(shape, item, channels_last) for shape in shapes)
    return WeightGradRequest(geometry, element, x, y, out, n_threads, kernels.current_target(), is_little(geometry))


def dense_strides(shape: tuple[int, ...], item: int, channels_last: bool) -> tuple[int, ...]:
    """The strides of an array that lies densely in C order or channels-last."""
    if channels_last:
        memory = (shape[0], *shape[2:], shape[1])
        steps = [item * prod(memory[k + 1 :]) for k in range(len(memory))]
        return (steps[0], item, *steps[1:-1])
    return tuple(item * prod(shape[k + 1 :]) for k in range(len(shape)))


def _spatial(geometry: ConvGeometry) -> ConvGeometry:
    """The geometry itself, or for one without spatial axes one pixel on an axis of length one."""
    if geometry.ndim:
        return geometry
    one = (1,)
    return replace(geometry, input_size=one, output_size=one, kernel_size=one, stride=one, dilation=one, padding=((0, 0),))


def _fill(
    geometry: ConvGeometry, x: Array, y: Array, result: Array, n_threads: int,
    run: Callable[[Recipe, dict[str, int], int], None], key: tuple[Any, ...] | None = None,
) -> None:  # fmt: skip
    given, given_strides, shape, last = geometry, (x.strides, y.strides), result.shape, not result.flags.c_contiguous
    if geometry.ndim == 0:
        x, y, result = x[..., None], y[..., None], result[..., None]
    geometry = _spatial(geometry)
    given_x, given_y = x, y
    x, y = readable(x), readable(y)
    if x is not given_x or y is not given_y:
        branches.call("operand.copied")
    shared = n_threads if geometry.inside_macs > SMALL_MACS else 1
    request = WeightGradRequest(
        geometry,
        ELEMENTS[x.dtype.name],
        x.strides,
        y.strides,
        result.strides,
        shared,
        kernels.current_target(),
        is_little(geometry),
    )
    addresses = {"x": x.ctypes.data, "y": y.ctypes.data, "out": result.ctypes.data}
    images = geometry.batch if is_depthwise_grad(request) else images_at_once(geometry)
    recipe = weight_grad_recipe(
        request if images == geometry.batch else replace(request, geometry=replace(geometry, batch=images))
    )
    if not is_depthwise_grad(request):
        images = max(1, min(images, images * current().workspace_bytes // recipe.workspace_bytes))
    if images < geometry.batch:
        _in_turns(request, images, x, y, result, run)
        return
    decisions.report(recipe.decisions)
    run(recipe, addresses, n_threads)
    if key is not None and given.ndim and given_strides == (x.strides, y.strides):
        memory = (shape[0], *shape[2:], shape[1]) if last else shape
        axes = (0, len(shape) - 1, *range(1, len(shape) - 1)) if last else None
        _ready.keep(key, _Ready(given, recipe, memory, axes))


def _in_turns(
    r: WeightGradRequest, images: int, x: Array, y: Array, result: Array, run: Callable[[Recipe, dict[str, int], int], None]
) -> None:
    """The same sums, `images` at a time: an image is a chain of its own, and each turn goes on adding where the last one ended."""
    batch = r.geometry.batch
    sums = np.empty(prod(r.geometry.weight_shape), accumulator_dtype(x.dtype))
    for first in range(0, batch, images):
        part = slice(first, min(first + images, batch))
        turn = "first" if first == 0 else "last" if part.stop == batch else "middle"
        recipe = weight_grad_recipe(replace(r, geometry=replace(r.geometry, batch=part.stop - first), turn=turn))
        decisions.report(recipe.decisions)
        addresses = {"x": address_of(x[part]), "y": address_of(y[part]), "out": address_of(result), "sums": address_of(sums)}
        run(recipe, addresses, r.threads)


@lru_cache(maxsize=1024)
def leaves_out(geometry: ConvGeometry) -> bool:
    """Whether some tap meets padding."""
    return any(_pads(geometry, axis) for axis in range(geometry.ndim))


def _pads(geometry: ConvGeometry, axis: int) -> bool:
    lo, reach = geometry.padding[axis][0], (geometry.output_size[axis] - 1) * geometry.stride[axis]
    return lo != 0 or reach + geometry.kernel_extent[axis] > geometry.input_size[axis]


def every_position(geometry: ConvGeometry, x: Array) -> tuple[ConvGeometry, Array]:
    """The same sums without padding: x with all of its padding written out."""
    sizes = tuple(
        (out - 1) * stride + extent
        for out, stride, extent in zip(geometry.output_size, geometry.stride, geometry.kernel_extent, strict=True)
    )
    whole = np.zeros((*x.shape[:2], *sizes), x.dtype)
    into, take = [slice(None)] * 2, [slice(None)] * 2
    for axis, size in enumerate(sizes):
        lo = geometry.padding[axis][0]
        first = max(0, -lo)
        last = max(first, min(x.shape[2 + axis], size - lo))
        into.append(slice(first + lo, last + lo))
        take.append(slice(first, last))
    whole[tuple(into)] = x[tuple(take)]
    return replace(geometry, input_size=sizes, padding=((0, 0),) * geometry.ndim), whole


# ---------------------------------------------------------------------------------------------------------- the recipe


@lru_cache(maxsize=512)
def weight_grad_recipe(r: WeightGradRequest) -> Recipe:
    return made_together(lambda: _new_recipe(r), r.threads)


def _new_recipe(r: WeightGradRequest) -> Recipe:
    g = r.geometry
    take_request("conv_weight_grad", r.element, r.little, r.threads)
    if is_depthwise_grad(r):
        return depthwise_grad_recipe(r)
    inner = "f64" if r.element == "f64" else "f32"
    size = ELEMENT_BYTES[inner]
    reading = planning.read_geometry(g, size, r.target, r.little)
    recipe = Recipe(f"weight gradient, {reading.kind} as columns")
    x_is_vector = reading.kind != "outputs"
    y_width, y_tiles = _share(reading, not x_is_vector)
    x_width, x_tiles = _share(reading, x_is_vector)
    y_shape, x_shape = (g.batch, g.out_channels, *g.output_size), (g.batch, g.in_channels, *g.input_size)
    blocks_x, blocks_y = planning.wants_blocks(g, reading, size)
    streams = x_is_vector and (not blocks_y or planning.products(g)["y"] < planning.STREAM_PRODUCTS)
    y = side_of(recipe, r, "y", y_shape, r.y_strides, y_width, y_tiles, None, blocks_y, streams)
    margin = None
    if reading.run:  # the columns that the kernel's rows touch: padding written out
        lo = g.padding[-1][0]
        hi = (g.output_size[-1] - 1) * g.stride[-1] + g.kernel_size[-1] - lo - g.input_size[-1]
        margin = max(lo, 0), max(hi, 0)
    x = side_of(recipe, r, "x", x_shape, r.x_strides, x_width, x_tiles, margin, blocks_x, False)
    _main_step(recipe, r, reading, x, y, inner)
    recipe.skips_padding = leaves_out(g)
    planning.take_reading(g, reading, size, r.target)
    branches.weight_grad("padding.skipped" if recipe.skips_padding else "padding.none")
    branches.weight_grad(f"batch.{'whole' if r.turn == 'only' else r.turn}")
    return recipe


def _share(reading: planning.Reading, columns: bool) -> tuple[int, int]:
    """Width and number of the tiles along one side of the matrix."""
    if columns:
        return reading.tile_columns, reading.column_tiles
    return reading.tile_rows, reading.row_tiles


def _main_step(recipe: Recipe, r: WeightGradRequest, reading: planning.Reading, x: Side, y: Side, inner: str) -> None:
    g, size = r.geometry, ELEMENT_BYTES[inner]
    groups, batch = g.groups, g.batch
    i, o = g.in_channels_per_group, g.out_channels_per_group
    n_outer, last = prod(g.kernel_size[:-1]), g.kernel_size[-1]
    stride, dilation, lo = g.stride[-1], g.dilation[-1], g.padding[-1][0]
    x_is_vector = reading.kind != "outputs"
    pixels = planning.band_pixels(g, reading, size, x.name == "x blocks" and (y.apart != 0 or y.name == "y blocks"))
    table = planning.tables(g, x.strides[2:], y.strides[2:], pixels)
    segments = np.ascontiguousarray(table.segments if not x_is_vector else table.segments[:, [1, 0, 2, 3]])

    weights = prod(g.weight_shape)
    if x_is_vector:  # [o][tap][i]
        row_bytes, tap_bytes, outer_bytes = n_outer * last * i * size, i * size, last * i * size
    else:  # [group][tap][i][o]
        row_bytes, tap_bytes, outer_bytes = o * size, i * o * size, last * i * o * size
    n_taps = 1 if reading.run else last
    taps = np.zeros((n_taps, KW_WORDS), np.int64)
    for k in range(n_taps):
        offset = k * dilation - lo
        taps[k, 1 if x_is_vector else 0] = x.column(offset)
        taps[k, 2] = k * tap_bytes
        whole = (0, g.output_size[-1])
        taps[k, 3:] = whole if reading.run else planning.tap_range(g.input_size[-1], g.output_size[-1], offset, stride)

    tiles = n_taps * n_outer * reading.row_tiles * reading.column_tiles * groups
    per_turn = 1 if table.n_bands > 1 else max(1, min(batch, pixels // max(1, prod(g.output_size))))
    rounds = -(-batch // per_turn) * table.n_bands
    parts, rounds_per_task = _shares(tiles, rounds, r.threads)
    per_part = -(-tiles // parts)
    parts = -(-tiles // per_part)
    has_chain = (batch > 1 or r.turn != "only") and table.n_bands > 1
    as_is = r.out_strides[1] == size or i == 1 or n_outer * last == 1  # the sums' memory order is the result's
    direct = x_is_vector and as_is and inner == r.element

    early = not r.little and "blocks" not in x.name + y.name and planning.asks_early(g, reading, size, r.target.l2_bytes)
    asked = planning.spans(rows_read(g, table, x, y, x_is_vector) if early else [])
    # A run's columns are neighbours in memory: all of them before the next row of x. Else one block of channels, for every tap.
    every = (reading.column_tiles, 1) if reading.kind == "run" else (1, n_outer)
    x_step, y_step = x.strides[-1] * (stride if x.hands == 1 else 1), y.strides[-1]
    vector, scalar = ((x, x_step), (y, y_step)) if x_is_vector else ((y, y_step), (x, x_step))
    values = dict.fromkeys(Arg, 0) | {
        Arg.SEGMENTS: segments.ctypes.data, Arg.BANDS: table.bands.ctypes.data, Arg.TAPS: taps.ctypes.data,
        Arg.IMAGES: batch, Arg.IMAGES_PER_TURN: per_turn, Arg.ROUNDS: rounds, Arg.N_BANDS: table.n_bands,
        Arg.TILES: tiles, Arg.TILES_PER_PART: per_part, Arg.PARTS: parts, Arg.ROUNDS_PER_TASK: rounds_per_task,
        Arg.N_TAPS: n_taps, Arg.N_OUTER: n_outer,
        Arg.OUTER_EVERY: every[0], Arg.COL_EVERY: every[1],
        Arg.N_ROWS: reading.row_tiles, Arg.N_COLS: reading.column_tiles, Arg.ROWS: reading.rows, Arg.COLS: reading.columns,
        Arg.ROW_STEP: scalar[0].step, Arg.ROW_LAST: scalar[0].last, Arg.COL_STEP: vector[0].step,
        Arg.COL_LAST: vector[0].last, Arg.SCALAR_PIXEL: scalar[1], Arg.SCALAR_IMAGE: scalar[0].strides[0],
        Arg.SCALAR_GROUP: scalar[0].group, Arg.VECTOR_PIXEL: vector[1], Arg.VECTOR_IMAGE: vector[0].strides[0],
        Arg.VECTOR_GROUP: vector[0].group, Arg.SCALAR_ROW: scalar[0].apart,
        Arg.OUT_ROW: row_bytes, Arg.OUT_OUTER: outer_bytes, Arg.OUT_GROUP: weights // groups * size,
        Arg.BEGUN: int(r.turn in ("middle", "last")), Arg.SPANS: asked[0].ctypes.data, Arg.SPAN_BOUNDS: asked[1].ctypes.data,
    }  # fmt: skip
    sums = "out" if direct else "sums"
    if not direct and r.turn == "only":
        recipe.buffers.append(Buffer("sums", weights * size))
    if has_chain:
        recipe.buffers.append(Buffer("chain", weights * size))
    large = batch * prod(g.output_size) * (g.in_channels * prod(g.stride) + g.out_channels) * size > r.target.l2_bytes
    often = planning.products(g)
    ahead = tuple(
        planning.lines_ahead(size, step, width, often[side.name[0]]) if large else 0
        for (side, step), width in ((scalar, reading.tile_rows), (vector, reading.tile_columns))
    )
    spec = planning.tile_spec(
        reading, inner, batch == 1 and table.n_bands == 1 and r.turn == "only", (ahead[0], ahead[1]), r.little, early,
        table.n_bands == 1 and weights * size > FAR_RESULT * r.target.l2_bytes, scalar[0].apart != 0,
    )  # fmt: skip
    patches = (
        (Arg.SCALARS, scalar[0].name), (Arg.VECTORS, vector[0].name),
        (Arg.TOTAL, sums), (Arg.CHAIN, "chain" if has_chain else sums),
    )  # fmt: skip
    tasks = parts * -(-rounds // rounds_per_task)
    template = tuple(int(v) for v in values.values())
    step = Step("weight gradient", compiled(spec), template, patches, tasks, (segments, table.bands, taps, *asked))
    recipe.steps.append(in_step(step, parts, r.threads) if tasks > parts else step)
    take = branches.weight_grad
    take("bands.one" if table.n_bands == 1 else "bands.columns" if g.output_size[-1] > pixels else "bands.rows")
    take("images.one" if per_turn == 1 else "images.several")
    take("sums.chained" if has_chain else "sums.held")
    named = {
        "early.taken": early, "ahead.scalars": ahead[0] > 0, "ahead.vectors": ahead[1] > 0, "result.far": spec.far,
        "result.in_place": direct,
    }  # fmt: skip
    for name in [name for name, holds in named.items() if holds]:
        take(name)
    take("tasks.one" if tasks == 1 else "tasks.in_step" if tasks > parts else "tasks.several")
    if not direct and r.turn in ("only", "last"):
        recipe.steps.append(_order_step(r, x_is_vector, inner))
    recipe.details = {
        "reading": f"{reading.rows} rows x {reading.columns} columns ({reading.kind}), "
        f"{1 if reading.run else last} x {n_outer} taps, {groups} groups",
        "tile": f"{reading.tile_rows} rows x vectors of {reading.lanes} lanes, {100 / reading.waste:.0f} % of them used",
        "bands": f"{table.n_bands} of about {pixels} pixels, {per_turn} images at a time"
        + (", the next one asked for meanwhile" if early else ""),
        "tasks": f"{parts} parts of the tiles, {rounds_per_task} of {rounds} rounds each",
        "x": _HOW[x.name[2:]] + (", columns a stride apart dealt out" if x.hands > 1 else ""),
        "y": _HOW[y.name[2:]],
        "result": "stored in place" if direct else "reordered from the order of the sums",
    }


def _shares(tiles: int, rounds: int, threads: int) -> tuple[int, int]:
    """Parts of the tiles, and rounds of one task: with one round of all pixels more tasks even out unequal cores, with many
    rounds they do so from one to the next, and fewer parts read the band less often.
    """
    if threads == 1:
        return 1, rounds
    return min(tiles, threads * (PARTS_PER_THREAD if rounds > 1 else TASKS_PER_THREAD)), max(1, rounds // MOST_TURNS)


def _order_step(r: WeightGradRequest, x_is_vector: bool, inner: str) -> Step:
    """The sums ([o][tap][i], or [group][tap][i][o]) to the result's order and element type."""
    g, size, own = r.geometry, ELEMENT_BYTES[inner], ELEMENT_BYTES[r.element]
    i, o, taps = g.in_channels_per_group, g.out_channels_per_group, prod(g.kernel_size)
    last_order = r.out_strides[1] == own or i == 1  # the result is [o][tap][i]
    order = "copied" if last_order else "by_output"
    if not x_is_vector:
        order = "by_group" if last_order else "by_input"
    branches.weight_grad(f"result.reordered.{order}")
    if x_is_vector:  # for each o: [tap][i] -> [i][tap], or a copy
        rows, columns = (taps, i) if not last_order else (taps * i, 1)
        lines = [(c * taps * i * size, c * taps * i * own, rows, columns, 0) for c in range(g.out_channels)]
        strides = (columns * size, taps * own)
    elif last_order:  # for each group: [(tap, i)][o] -> [o][(tap, i)]
        lines = [(q * taps * i * o * size, q * o * taps * i * own, taps * i, o, 0) for q in range(g.groups)]
        strides = (o * size, taps * i * own)
    else:  # for each group and i: [tap][o] -> [o][tap], at i
        lines = [
            ((q * taps * i + c) * o * size, (q * o * i + c) * taps * own, taps, o, 0) for q in range(g.groups) for c in range(i)
        ]
        strides = (i * o * size, i * taps * own)
    table: Ints = as_ints(lines)
    values = [0] * (max(Move) + 1)
    per_task = max(1, -(-len(lines) // (1 if r.threads == 1 else 4 * r.threads)))
    values[Move.LINES], values[Move.TOTAL], values[Move.PER_TASK] = int(table.ctypes.data), len(lines), per_task
    values[Move.SOURCE_STRIDE], values[Move.RESULT_STRIDE] = strides
    kernel = compiled(SwapSpec(inner, r.element, r.target.vector_bytes // size, Finish()))
    patches = ((Move.INPUT, "sums"), (Move.OUTPUT, "out"))
    return Step("order result", kernel, tuple(values), patches, -(-len(lines) // per_task), (table,))
