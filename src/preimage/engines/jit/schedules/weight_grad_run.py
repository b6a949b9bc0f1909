"""The call of the weight gradient: operands made ready, the argument vector, the launch, the result in its order.

Padding that is left out (see `weight_grad_plan`) changes no bit while y is finite: a skipped term is 0 * y = +-0, added to
a sum. Where y holds an infinity or a NaN, 0 * y is NaN and must be seen. So after a sum that is not finite, and where
positions were left out, the whole is done again on a copy of x with its padding written out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from preimage.engines.base import Array, accumulator_dtype, empty_like_order
from preimage.engines.jit import llvm, threads
from preimage.engines.jit.schedules import weight_grad_plan as planning
from preimage.engines.jit.schedules.weight_grad import KW_WORDS, Arg, build
from preimage.geometry import ConvGeometry

__all__ = ["conv_weight_grad"]

_ELEMENT = {"float32": "f32", "float64": "f64"}


@dataclass(frozen=True, slots=True)
class _Operand:
    """An array in memory as a kernel sees it: address, byte strides of image, spatial axes and group."""

    array: Array
    image: int
    spatial: tuple[int, ...]
    group: int

    @property
    def address(self) -> int:
        return int(self.array.ctypes.data)


def _native(a: Array, channels: int) -> bool:
    """Channels of one pixel are neighbours, in a float of its own width, so that the kernel can read the array as it is."""
    return a.itemsize >= 4 and (a.strides[1] == a.itemsize or channels == 1)


def _operand(a: Array, groups: int) -> _Operand:
    return _Operand(a, a.strides[0], a.strides[2:], a.shape[1] // groups * a.strides[1])


def _packed(a: Array, groups: int) -> _Operand:
    """A copy with channels innermost, in the dtype of the sums."""
    memory = np.empty((a.shape[0], *a.shape[2:], a.shape[1]), accumulator_dtype(a.dtype))
    view = np.moveaxis(memory, -1, 1)
    np.copyto(view, a)
    return _operand(view, groups)


def _padded(geometry: ConvGeometry, x: Array) -> Array:
    """x with its padding written out along the last axis, cut or filled to the columns that the kernel row touches."""
    lo, stride = geometry.padding[-1][0], geometry.stride[-1]
    width = (geometry.output_size[-1] - 1) * stride + geometry.kernel_size[-1]
    memory = np.zeros((x.shape[0], *x.shape[2:-1], width, x.shape[1]), accumulator_dtype(x.dtype))
    view = np.moveaxis(memory, -1, 1)
    first, last = max(0, -lo), min(x.shape[-1], width - lo)
    if first < last:
        view[..., first + lo : last + lo] = x[..., first:last]
    return view


def conv_weight_grad(geometry: ConvGeometry, x: Array, y: Array, n_threads: int = 1) -> Array:
    """grad_w for every geometry of at least one spatial axis; see `weight_grad`."""
    result = empty_like_order(geometry.weight_shape, x)
    if result.size == 0 or y.size == 0 or x.size == 0:
        result[...] = 0
        return result
    _fill(geometry, x, y, result, n_threads)
    if _leaves_out(geometry) and not np.isfinite(result).all() and not np.isfinite(y).all():
        wide, whole = _with_padding(geometry, x)
        _fill(wide, whole, y, result, n_threads)
    return result


def _leaves_out(geometry: ConvGeometry) -> bool:
    """Whether some tap meets padding."""
    for axis in range(geometry.ndim):
        lo, size = geometry.padding[axis][0], geometry.input_size[axis]
        end = (geometry.output_size[axis] - 1) * geometry.stride[axis] - lo + geometry.kernel_extent[axis]
        if lo > 0 or end > size:
            return True
    return False


def _with_padding(geometry: ConvGeometry, x: Array) -> tuple[ConvGeometry, Array]:
    """The same sums without padding: x with all of its padding written out."""
    sizes = tuple(
        (out - 1) * stride + extent
        for out, stride, extent in zip(geometry.output_size, geometry.stride, geometry.kernel_extent, strict=True)
    )
    whole = np.zeros((*x.shape[:2], *sizes), x.dtype)
    into, take = [slice(None)] * 2, [slice(None)] * 2
    for axis, size in enumerate(sizes):
        lo = geometry.padding[axis][0]
        first, last = max(0, -lo), max(max(0, -lo), min(x.shape[2 + axis], size - lo))
        into.append(slice(first + lo, last + lo))
        take.append(slice(first, last))
    whole[tuple(into)] = x[tuple(take)]
    return replace(geometry, input_size=sizes, padding=((0, 0),) * geometry.ndim), whole


def _fill(geometry: ConvGeometry, x: Array, y: Array, result: Array, n_threads: int) -> None:
    dtype = accumulator_dtype(x.dtype)
    target = llvm.current_target()
    reading = planning.read_geometry(geometry, dtype.itemsize, target)
    groups = geometry.groups
    i, o = geometry.in_channels_per_group, geometry.out_channels_per_group
    n_outer, last = prod(geometry.kernel_size[:-1]), geometry.kernel_size[-1]

    side_y = _operand(y, groups) if _native(y, o) else _packed(y, groups)
    if reading.run:
        fits = _native(x, i) and x.strides[-1] == i * x.itemsize and not _last_axis_pads(geometry)
        side_x = _operand(x if fits else _padded(geometry, x), groups)
    else:
        side_x = _operand(x, groups) if _native(x, i) else _packed(x, groups)
    x_is_vector = reading.kind != "outputs"
    vectors, scalars = (side_x, side_y) if x_is_vector else (side_y, side_x)

    pixel_bytes = (geometry.in_channels * prod(geometry.stride) + geometry.out_channels) * dtype.itemsize
    pixels = max(planning.BAND_PIXELS, planning.BAND_BYTES // pixel_bytes)
    table = planning.tables(geometry, side_x.spatial, side_y.spatial, pixels)
    segments = np.ascontiguousarray(table.segments if not x_is_vector else table.segments[:, [1, 0, 2, 3]])

    size = dtype.itemsize
    single = geometry.batch == 1 and table.n_bands == 1
    weights = result.size
    if x_is_vector:  # [o][tap][i]
        row_bytes, tap_bytes, outer_bytes = n_outer * last * i * size, i * size, last * i * size
        layout = np.moveaxis(result, 1, -1)
    else:  # [group][tap][i][o]
        row_bytes, tap_bytes, outer_bytes = o * size, i * o * size, last * i * o * size
        grouped = result.reshape((groups, o, *result.shape[1:])) if result.flags.c_contiguous else None
        layout = None if grouped is None else np.moveaxis(grouped, (1, 2), (-1, -2))
        if layout is None:
            inner = np.moveaxis(result, 1, -1)  # (O, *k, I) in memory
            layout = np.moveaxis(inner.reshape((groups, o, *inner.shape[1:])), 1, -1)
    direct = x_is_vector and layout.flags.c_contiguous and result.dtype == dtype
    total = layout if direct else np.empty(weights, dtype)
    chain = np.empty(weights, dtype) if geometry.batch > 1 and table.n_bands > 1 else total

    stride, dilation = geometry.stride[-1], geometry.dilation[-1]
    lo = geometry.padding[-1][0]
    n_taps = 1 if reading.run else last
    taps = np.zeros((n_taps, KW_WORDS), np.int64)
    for k in range(n_taps):
        offset = 0 if reading.run else (k * dilation - lo)
        x_offset = offset * side_x.spatial[-1]
        taps[k, 1 if x_is_vector else 0] = x_offset
        taps[k, 2] = k * tap_bytes
        taps[k, 3:] = (
            (0, geometry.output_size[-1])
            if reading.run
            else planning.tap_range(geometry.input_size[-1], geometry.output_size[-1], offset, stride)
        )
    tiles = n_taps * n_outer * reading.row_tiles * reading.column_tiles * groups
    n_tasks = min(tiles, 1 if n_threads == 1 else 3 * n_threads)
    per_task = -(-tiles // n_tasks)
    n_tasks = -(-tiles // per_task)
    image_bytes = (prod(geometry.input_size) * geometry.in_channels + prod(geometry.output_size) * geometry.out_channels) * size
    per_turn = 1 if table.n_bands > 1 else max(1, min(geometry.batch, planning.BAND_BYTES // image_bytes))

    x_step, y_step = side_x.spatial[-1] * stride, side_y.spatial[-1]
    values = dict.fromkeys(Arg, 0)
    values |= {
        Arg.SCALARS: scalars.address, Arg.VECTORS: vectors.address, Arg.TOTAL: int(total.ctypes.data),
        Arg.CHAIN: int(chain.ctypes.data), Arg.SEGMENTS: int(segments.ctypes.data), Arg.BANDS: int(table.bands.ctypes.data),
        Arg.TAPS: int(taps.ctypes.data), Arg.IMAGES: geometry.batch, Arg.IMAGES_PER_TURN: per_turn,
        Arg.N_BANDS: table.n_bands, Arg.TILES: tiles, Arg.TILES_PER_TASK: per_task, Arg.N_TAPS: n_taps,
        Arg.N_OUTER: n_outer, Arg.N_ROWS: reading.row_tiles, Arg.N_COLS: reading.column_tiles,
        Arg.ROW_STEP: reading.tile_rows * size, Arg.ROW_LAST: (reading.rows - reading.tile_rows) * size,
        Arg.COL_STEP: reading.tile_columns * size, Arg.COL_LAST: (reading.columns - reading.tile_columns) * size,
        Arg.ROWS: reading.rows, Arg.COLS: reading.columns,
        Arg.SCALAR_PIXEL: y_step if x_is_vector else x_step, Arg.VECTOR_PIXEL: x_step if x_is_vector else y_step,
        Arg.SCALAR_IMAGE: scalars.image, Arg.VECTOR_IMAGE: vectors.image,
        Arg.SCALAR_GROUP: scalars.group, Arg.VECTOR_GROUP: vectors.group,
        Arg.OUT_ROW: row_bytes, Arg.OUT_OUTER: outer_bytes, Arg.OUT_GROUP: weights // groups * size,
        Arg.TURNS: -(-geometry.batch // per_turn),
    }  # fmt: skip
    spec = planning.tile_spec(reading, _ELEMENT[dtype.name], single)
    kernel = llvm.compile_cached(repr(spec), lambda: build(spec), target)
    threads.launch(kernel, threads.pack_args(*values.values()), n_tasks, n_threads)
    if not direct:
        np.copyto(layout, total.reshape(layout.shape), casting="same_kind")


def _last_axis_pads(geometry: ConvGeometry) -> bool:
    lo, size = geometry.padding[-1][0], geometry.input_size[-1]
    return lo != 0 or (geometry.output_size[-1] - 1) * geometry.stride[-1] + geometry.kernel_extent[-1] > size
