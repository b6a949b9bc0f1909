"""Contractions of integers as matrix products (`product_kernel.py`): an image's rows are gathered by the tasks that multiply them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from preimage.engines.base import Array, aligned_empty
from preimage.engines.integers import Finish, QuantisedLstm
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.elementwise.copies import in_order
from preimage.engines.jit.elementwise.kept import kept_kernel
from preimage.engines.jit.products.integers.blocks import Blocks, blocks_of, matrices
from preimage.engines.jit.products.integers.columns_kernel import ColumnsArguments, ColumnsSpec
from preimage.engines.jit.products.integers.depthwise import fits_bytes, packed_taps, plan_depthwise
from preimage.engines.jit.products.integers.depthwise_arguments import DepthwiseArguments, DepthwiseSpec
from preimage.engines.jit.products.integers.gather import Gather, conv_gather, transposed_gathers
from preimage.engines.jit.products.integers.plan import ProductPlan, plan_product
from preimage.engines.jit.products.integers.product_arguments import ProductArguments, ProductSpec
from preimage.engines.jit.products.integers.range import dynamic
from preimage.engines.jit.products.request import joined_rows, matrix_places
from preimage.engines.jit.runtime.link import launch_arrays
from preimage.engines.jit.runtime.together import Launched
from preimage.engines.recording import constant, made_once, recorder
from preimage.geometry import ConvGeometry
from preimage.settings import thread_count

__all__ = ["JitIntegers", "product_launch"]

_KINDS = {"int32": "i32", "f32": "f32", "int8": "i8", "uint8": "i8", "float32": "f32"}


class _Rows(NamedTuple):
    """The left factor: bytes in which each product's rows begin at `places`; row: from one to the next, where it is not gathered."""

    array: Array
    zero: Array | None
    places: Sequence[int]
    row: int
    gather: Gather | None = None


class _Image(NamedTuple):
    """The left factor of a convolution: (N, *space, C), dense."""

    array: Array
    zero: Array | None


class _Result(NamedTuple):
    """Where each product's rows begin, in bytes, and how far apart they are; channels: the first of each product's columns."""

    array: Array
    places: Sequence[int]
    row: int
    channels: Sequence[int]


class JitIntegers:
    """The functions of `engines.integers.IntegerKernels`."""

    dynamic = staticmethod(dynamic)

    def lstm(self, directions: Sequence[QuantisedLstm]) -> None:
        """As `engines.integers.lstm`."""
        from preimage.engines.jit.products.integers.recurrence import run_lstm

        run_lstm(directions)

    def matmul(self, a: Array, a_zero: Array | None, b: Array, b_zero: Array | None, finish: Finish) -> Array | None:
        """As `engines.integers.matmul`."""
        (m, k), n = a.shape[-2:], b.shape[-1]
        if b_zero is not None and b_zero.size > 1 and b_zero.shape != (n,):
            return None
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        made = aligned_empty((*lead, m, n), _result_dtype(finish))
        a = _with_terms_inside(a)
        rows, count = a.strides[-2], prod(lead)
        a_places, b_places = (matrix_places(each.shape, each.strides, lead) for each in (a, b))
        if prod(b.shape[:-2]) == 1 and (joined := joined_rows(a.shape, a.strides)) is not None:  # the rows of all A meet one B
            (m, rows), count, a_places, b_places = joined, 1, (0,), (0,)
        plan = plan_product(count, m, k, n, thread_count(), kernels.current_target())
        packed, b_starts = _packed(b, b_zero, plan)
        starts = [b_starts[place] for place in b_places]
        item = made.itemsize
        result = _Result(made, [p * m * n * item for p in range(count)], n * item, (0,) * count)
        _launch(plan, _Rows(a, a_zero, a_places, rows), packed, starts, result, finish, _has_zeros(b, b_zero))
        return made

    def conv(
        self, geometry: ConvGeometry, x: Array, x_zero: Array | None, w: Array, w_zero: Array | None, finish: Finish
    ) -> Array | None:
        """As `engines.integers.conv`."""
        if not 1 <= geometry.ndim <= 3 or not prod(geometry.output_shape):
            return None
        image = _channels_last(x)
        made = aligned_empty((geometry.batch, *geometry.output_size, geometry.out_channels), _result_dtype(finish))
        blocks = _blocks(geometry, geometry.in_channels, geometry.out_channels, w, w_zero)
        gather = conv_gather(geometry, image, blocks.channels, made)
        taps = tuple(range(n) for n in geometry.kernel_size)
        _convolve(gather, blocks, _Image(image, x_zero), w, w_zero, made, finish, taps, False)
        return np.moveaxis(made, -1, 1)

    def conv_transpose(
        self, geometry: ConvGeometry, y: Array, y_zero: Array | None, w: Array, w_zero: Array | None, finish: Finish
    ) -> Array | None:
        """As `engines.integers.conv_transpose`: every phase of the stride is a convolution of its own."""
        if not 1 <= geometry.ndim <= 3 or not prod(geometry.input_shape):
            return None
        image = _channels_last(y)
        made = aligned_empty((geometry.batch, *geometry.input_size, geometry.in_channels), _result_dtype(finish))
        blocks = _blocks(geometry, geometry.out_channels, geometry.in_channels, w, w_zero)
        for gather, taps in transposed_gathers(geometry, image, blocks.channels, made):
            _convolve(gather, blocks, _Image(image, y_zero), w, w_zero, made, finish, taps, True)
        return np.moveaxis(made, -1, 1)


def _result_dtype(finish: Finish) -> np.dtype[Any]:
    if finish.way == "requantised":
        assert finish.zero is not None
        return finish.zero.dtype
    return np.dtype(np.int32 if finish.way == "int32" else np.float32)


# -- operands ----------------------------------------------------------------------------------------------------------


def _copied(a: Array) -> Array:
    """A copy in C order."""
    made = in_order(a)
    assert made is not None  # kernels move all that these products take
    return made


def _with_terms_inside(a: Array) -> Array:
    """The array with its last axis innermost in memory."""
    if a.strides[-1] == 1 or a.shape[-1] == 1:
        return a
    return _copied(a)


def _channels_last(x: Array) -> Array:
    """(N, C, *space) as (N, *space, C), densely."""
    view = np.moveaxis(x, 1, -1)
    if view.flags.c_contiguous:
        return view
    return _copied(view)


def _packed(b: Array, zero: Array | None, plan: ProductPlan) -> tuple[Array, dict[int, int]]:
    """The matrices of B as the kernel reads them, and where each begins by its place in B. Once, where B never changes."""
    places = sorted(set(matrix_places(b.shape, b.strides, b.shape[:-2])))
    given = (b,) if zero is None else (b, zero)
    made = made_once(partial(_pack, b, zero, plan, places), *given)
    return made, {place: k * plan.panels * plan.panel_bytes for k, place in enumerate(places)}


def _pack(b: Array, zero: Array | None, plan: ProductPlan, places: Sequence[int]) -> Array:
    made = aligned_empty((len(places) * plan.panels * plan.panel_bytes,), np.dtype(np.uint8))
    dense = b.strides[-1] == 1 and b.shape[-1] >= plan.width
    each = zero is not None and zero.size > 1
    spec = ColumnsSpec(plan.way, b.dtype == np.int8, plan.width, each, plan.lanes if dense else 1)
    zero_step = plan.columns if zero is not None and each and zero.size > plan.columns else 0
    arguments = ColumnsArguments(
        source=b, zero=_or_none(zero) if each else _byte(zero, b.dtype), zero_step=zero_step, weight=made,
        places=constant(np.array(places, np.int64)), term_stride=b.strides[-2], column_stride=b.strides[-1], terms=plan.terms,
        columns=plan.columns, words=plan.words,
        panels=plan.panels,
    )  # fmt: skip
    tasks = len(places) * plan.panels
    launch_arrays(kept_kernel(spec), arguments.listed(), tasks, plan.threads if tasks > 1 else 1)
    return made


_ZEROS = {dtype: np.zeros(1, dtype) for dtype in (np.dtype(np.int8), np.dtype(np.uint8))}
for _zero in _ZEROS.values():
    _zero.flags.writeable = False


def _byte(zero: Array | None, dtype: np.dtype[Any]) -> Array:
    return _ZEROS[dtype] if zero is None else zero


def _has_zeros(b: Array, zero: Array | None) -> bool:
    """Whether some zero points of B are others than the middle of its type's range, as far as is known."""
    middle = 0 if b.dtype == np.int8 else 128
    if zero is None:
        return middle != 0
    here = recorder()
    return bool((zero != middle).any()) if here is None or here.is_fixed(zero) else True


def _blocks(geometry: ConvGeometry, summed: int, made: int, w: Array, w_zero: Array | None) -> Blocks:
    """The products that the groups are. Those of weights that are computed are not taken together, as kernels only copy them."""
    here = recorder()
    fixed = here is None or (here.is_fixed(w) and (w_zero is None or here.is_fixed(w_zero)))
    lanes, groups = kernels.current_target().vector_bytes // 4, geometry.groups
    if fixed and groups == summed == made > 1:
        return Blocks(1, groups, 1, 1, depthwise=True)
    return blocks_of(groups, summed // groups, made // groups, lanes if fixed else 1)


# -- launches ----------------------------------------------------------------------------------------------------------


def _convolve(
    gather: Gather, blocks: Blocks, image: _Image, w: Array, w_zero: Array | None, made: Array, finish: Finish,
    taps: Sequence[range], transposed: bool,
) -> None:  # fmt: skip
    """One convolution whose rows are gathered into a result (N, *space, channels)."""
    if blocks.depthwise:
        _launch_depthwise(gather, image, w, w_zero, made, finish, taps)
        return
    x = image.array
    weights = (w,) if w_zero is None else (w, w_zero)
    matrix = made_once(partial(matrices, w, w_zero, blocks, taps, transposed), *weights)
    batch, (groups, terms, columns) = x.shape[0], matrix.shape
    plain = gather.rows_of(x, made)
    images, rows = (1, batch * plain) if plain else (batch, gather.rows)
    plan = plan_product(images * groups, rows, terms, columns, thread_count(), kernels.current_target())
    packed, starts = _packed(matrix, w_zero, plan)
    each = [(p, k) for p in range(images) for k in range(groups)]
    begins = [p * x[0].size + k * blocks.channels for p, k in each]
    left = _Rows(x, image.zero, begins, x.shape[-1], None if plain else gather)
    item = columns * made.itemsize
    places = [p * made[0].nbytes + gather.out_first + k * item for p, k in each]
    result = _Result(made, places, gather.out_step_x, [k * columns for _, k in each])
    _launch(plan, left, packed, list(starts.values()) * images, result, finish, _has_zeros(w, w_zero))


_DEPTHWISE_WORDS = frozenset(DepthwiseArguments.__annotations__) - {"channels"}


def _launch_depthwise(
    gather: Gather, image: _Image, w: Array, w_zero: Array | None, made: Array, finish: Finish, taps: Sequence[range]
) -> None:  # fmt: skip
    """A convolution of every channel with its own taps, into a result (N, *space, channels)."""
    x, kind, factor = image.array, made.dtype, finish.factor
    plan = plan_depthwise(x.shape[0], len(w), gather, fits_bytes(w, w_zero), thread_count(), kernels.current_target())
    packed = made_once(partial(packed_taps, w, w_zero, taps, plan), *((w,) if w_zero is None else (w, w_zero)))
    spec = DepthwiseSpec(
        way=plan.way, signed=x.dtype == np.int8, lanes=plan.lanes, vectors=plan.vectors, pixels=plan.pixels, finish=finish.way,
        kind=_KINDS[kind.name], unsigned=kind == np.uint8, factors=factor is not None and factor.size > 1, bias=finish.bias is not None,
    )  # fmt: skip
    words = {name: number for name, number in gather.words().items() if name in _DEPTHWISE_WORDS}
    arguments = DepthwiseArguments(
        a=x, a_zero=_byte(image.zero, x.dtype), a_image=x[0].size, weight=packed, output=made.reshape(-1)[gather.out_first // made.itemsize :],
        out_image=made[0].nbytes, factor=_or_none(factor), bias=_or_none(finish.bias), zero=_or_none(finish.zero), steps=plan.steps,
        tap_places=_table(plan.tap_places()), channels=plan.channels, channel_share=plan.channel_share, channel_tasks=plan.channel_tasks,
        line_share=plan.line_share, line_tasks=plan.line_tasks, out_z=plan.planes, reach_y=plan.reach_y, room_y=plan.room_y,
        room_x=plan.room_x, scratch=aligned_empty((plan.threads * plan.thread_bytes,), np.dtype(np.uint8)),
        thread_bytes=plan.thread_bytes, **words,
    )  # fmt: skip
    launch_arrays(kept_kernel(spec), arguments.listed(), plan.tasks, plan.threads if plan.tasks > 1 else 1)


def _launch(
    plan: ProductPlan, left: _Rows, packed: Array, starts: Sequence[int], result: _Result, finish: Finish, zeros: bool
) -> None:  # fmt: skip
    """Multiply and store. zeros: zero points of B, as the kernel counts them, may not be 0."""
    one = _launch_of(plan, left, packed, starts, result, finish, zeros)
    launch_arrays(one.kernel, one.words, one.tasks, plan.threads if one.tasks > 1 else 1)


def _launch_of(
    plan: ProductPlan, left: _Rows, packed: Array, starts: Sequence[int], result: _Result, finish: Finish, zeros: bool
) -> Launched:
    gather = left.gather or Gather()
    factor = finish.factor
    each = factor is not None and factor.size > 1
    kind = result.array.dtype
    spec = ProductSpec(
        way=plan.way, signed=left.array.dtype == np.int8, lanes=plan.lanes, rows=plan.tile_rows, vectors=plan.vectors,
        axes=gather.axes if left.gather else 0, finish=finish.way, kind=_KINDS[kind.name], unsigned=kind == np.uint8, factors=each,
        bias=finish.bias is not None, zeros=plan.way == "quads" and zeros,
    )  # fmt: skip
    row_sums = plan.room * plan.pitch
    row_places = row_sums + -(-plan.room * 4 // 64) * 64
    thread_bytes = row_places + -(-plan.room * 8 // 64) * 64
    arguments = ProductArguments(
        a=left.array, a_zero=_byte(left.zero, left.array.dtype), a_row=left.row, weight=packed, output=result.array,
        out_row=result.row, factor=_or_none(factor), bias=_or_none(finish.bias), zero=_or_none(finish.zero),
        a_places=_table(left.places), b_places=_table(starts), out_places=_table(result.places),
        channel_places=_table(result.channels), rows=plan.rows, columns=plan.columns, terms=plan.terms, words=plan.words,
        panels=plan.panels, share=plan.share, panel_share=plan.panel_share, column_tasks=plan.column_tasks,
        product_tasks=plan.product_tasks, scratch=aligned_empty((plan.threads * thread_bytes,), np.dtype(np.uint8)),
        thread_bytes=thread_bytes, pitch=plan.pitch, row_sums=row_sums, row_places=row_places, **gather.words(),
    )  # fmt: skip
    return Launched(kept_kernel(spec), arguments.listed(), plan.tasks)


def product_launch(a: Array, a_zero: Array, b: Array, b_zero: Array | None, finish: Finish, made: Array) -> Launched:
    """The launch of a product of two matrices, dense, for one thread: made (m, n) takes (a - a_zero) (m, k) times (b - b_zero) (k, n)."""
    (m, k), n = a.shape, b.shape[1]
    plan = plan_product(1, m, k, n, 1, kernels.current_target())
    packed, starts = _packed(b, b_zero, plan)
    left, result = _Rows(a, a_zero, (0,), a.strides[0]), _Result(made, (0,), made.strides[0], (0,))
    return _launch_of(plan, left, packed, [starts[0]], result, finish, _has_zeros(b, b_zero))


def _or_none(array: Array | None) -> Array | int:
    """An array whose elements are neighbours; 0 for none."""
    if array is None or array.flags.c_contiguous:
        return 0 if array is None else array
    return _copied(array)


def _table(numbers: Sequence[int]) -> Array:
    return constant(np.array(numbers, np.int64))
