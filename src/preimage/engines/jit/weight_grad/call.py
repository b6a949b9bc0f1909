"""Calls of the weight gradient: from arrays to a request, and back to what the kernels left out.

Padding that is left out (see `tiling`) changes no bit while y is finite: a skipped term is 0 * y = +-0, added to a sum. Where y holds
an infinity or a NaN, 0 * y is NaN and must be seen. So where positions were left out and a sum is not finite because y is not, all is
done again on a copy of x with its padding written out (`every_position`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from preimage.engines import decisions
from preimage.engines.base import Array, DType, accumulator_dtype, aligned_empty, empty_like_order
from preimage.engines.ir.builder import ELEMENT_BYTES
from preimage.engines.jit import branches
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.conv.winograd.applies import choose
from preimage.engines.jit.depthwise.weight_grad import is_depthwise_grad
from preimage.engines.jit.elementwise.chain import run_chain
from preimage.engines.jit.elementwise.copies import readable
from preimage.engines.jit.index.partition import images_at_once
from preimage.engines.jit.request import ELEMENTS, SMALL_MACS, WeightGradRequest, dense_strides, is_little, little_macs
from preimage.engines.jit.runtime.link import LinkedProgram
from preimage.engines.jit.runtime.program_call import ProgramCall, WarmCall
from preimage.engines.jit.runtime.scratch import Scratch
from preimage.engines.jit.weight_grad import tiling as planning
from preimage.engines.jit.weight_grad.lower import leaves_out
from preimage.engines.recording import state
from preimage.geometry import ConvGeometry
from preimage.records import record
from preimage.reduction import TreeSum
from preimage.settings import current

__all__ = [
    "WeightGradients",
    "as_tables_allow",
    "every_position",
    "images_of_a_part",
    "node_bytes",
    "parts",
    "request_for_shapes",
]


@record
class _Ready:
    """What a call needs once its program is known: the shape of the result in memory, and the order of its axes."""

    geometry: ConvGeometry
    call: ProgramCall
    memory: tuple[int, ...]
    axes: tuple[int, ...] | None
    exact: bool  # no position is left out


class WeightGradients:
    """conv_weight_grad of an engine. linked: gives the program of a request; scratch: the engine's workspaces."""

    def __init__(self, linked: Callable[[WeightGradRequest], LinkedProgram], scratch: Scratch) -> None:
        self._linked, self._scratch = linked, scratch
        self._ready: decisions.Shortcuts[tuple[Any, ...], _Ready] = decisions.Shortcuts(1024)

    def forget(self) -> None:
        """Drop the calls that were made ready."""
        self._ready.clear()

    def __call__(self, geometry: ConvGeometry, x: Array, y: Array, n_threads: int) -> Array:
        key = _key(geometry, x, y, n_threads)
        ready = self._ready.get(key)
        if ready is not None and ready.geometry is geometry:
            result = aligned_empty(ready.memory, x.dtype)
            if ready.axes is not None:
                result = result.transpose(ready.axes)
            ready.call(x, y, None, result)
            if ready.exact:
                return result
        else:
            result = empty_like_order(geometry.weight_shape, x)
            if result.size == 0 or y.size == 0 or x.size == 0:
                return _of_nothing(x, y, result)
            self._fill(geometry, x, y, result, n_threads, key)
        if _by_tiles(geometry, x) or not leaves_out(geometry) or _stays_finite(result):
            return result
        if _reaches_padding(geometry, y, result):
            branches.call("exact.every_position")
            wide, whole = every_position(geometry, x)
            self._fill(wide, whole, y, result, n_threads)
        return result

    def _call(self, linked: LinkedProgram, r: WeightGradRequest) -> ProgramCall:
        return ProgramCall(
            linked, ("x", "y", "bias", "out"), self._scratch, r.threads, ELEMENT_BYTES[r.element], r.geometry.inside_macs
        )

    def warm(self, geometry: ConvGeometry, x: Array, y: Array, n_threads: int) -> WarmCall | None:
        """Calls of x and y, without looking at them."""
        ready = self._ready.get(_key(geometry, x, y, n_threads))
        if ready is None or ready.geometry is not geometry or not ready.exact:
            return None
        return ready.call.warm(ready.memory, ready.axes, x.dtype)

    def _fill(
        self, geometry: ConvGeometry, x: Array, y: Array, result: Array, n_threads: int, key: tuple[Any, ...] | None = None
    ) -> None:
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
            geometry=geometry, element=ELEMENTS[x.dtype.name], x_strides=x.strides, y_strides=y.strides,
            out_strides=result.strides, threads=shared, target=kernels.current_target(), little=is_little(geometry),
            fast=current().accuracy == "fast",
        )  # fmt: skip
        linked = self._linked(as_tables_allow(request))
        images = images_of_a_part(request, linked.workspace_bytes)
        if images < geometry.batch:
            self._in_parts(request, images, x, y, result)
            return
        decisions.report(linked.program.decisions)
        call = self._call(linked, request)
        call(x, y, None, result)
        if key is not None and given.ndim and given_strides == (x.strides, y.strides):
            memory = (shape[0], *shape[2:], shape[1]) if last else shape
            axes = (0, len(shape) - 1, *range(1, len(shape) - 1)) if last else None
            exact = _by_tiles(given, x) or not leaves_out(given)
            self._ready.keep(key, _Ready(given, call, memory, axes, exact))

    def _in_parts(self, r: WeightGradRequest, images: int, x: Array, y: Array, result: Array) -> None:
        """The same sum, so many images at a time (a power of two): each part is a node of the images' tree."""
        tree = TreeSum(owned=True, into=_into)
        for number, (part, request) in enumerate(parts(r, images)):
            linked = self._linked(request)
            decisions.report(linked.program.decisions)
            node = (
                tree.spare.pop() if tree.spare else empty_like_order(r.geometry.weight_shape, result, accumulator_dtype(x.dtype))
            )
            self._call(linked, request)(x[part], y[part], None, node)
            tree.add(node, number, images.bit_length() - 1)
        total = tree.total()
        if state.recorder is None or run_chain((total,), (), dtype=total.dtype, dtypes=(result.dtype,), out=(result,)) is None:
            result[...] = total


def _into(left: Array, right: Array) -> Array:
    """left + right, in the memory of left."""
    if state.recorder is None:
        with np.errstate(all="ignore"):
            return np.add(left, right, out=left)
    run_chain((left, right), (("add", (0, 1)),), out=(left,))
    return left


def _stays_finite(result: Array) -> bool:
    """Whether somebody records, and the sums are finite; the recording then holds only where they are: nothing that was left out is missing."""
    here = state.recorder
    if here is None:
        return False
    if not np.isfinite(result).all():
        here.lost("positions in the padding meet values that are not finite")
        return False
    here.expect(result)
    return True


def _key(geometry: ConvGeometry, x: Array, y: Array, n_threads: int) -> tuple[Any, ...]:
    """What a call made ready is known by."""
    settings = current()
    kind = (settings.workspace_bytes, settings.accuracy, little_macs())
    return (id(geometry), x.strides, y.strides, x.dtype.num, n_threads, id(kernels.current_target()), *kind)


def as_tables_allow(r: WeightGradRequest) -> WeightGradRequest:
    """The request for so many images as the tables of one program may speak of."""
    images = r.geometry.batch if is_depthwise_grad(r) else images_at_once(r.geometry)
    return r if images == r.geometry.batch else replace(r, geometry=replace(r.geometry, batch=images))


def images_of_a_part(r: WeightGradRequest, workspace_bytes: int) -> int:
    """How many images are summed in one run: all, or a power of two. workspace_bytes: what the program of `as_tables_allow` takes."""
    if is_depthwise_grad(r):
        return r.geometry.batch
    if r.fast and not isinstance(choose(r.geometry, r.contraction, r.element), str) and not _rows_side_by_side(r):
        return 1
    images = as_tables_allow(r).geometry.batch
    images = max(1, min(images, images * current().workspace_bytes // workspace_bytes))
    return images if images == r.geometry.batch else 1 << images.bit_length() - 1


def _rows_side_by_side(r: WeightGradRequest) -> bool:
    """Whether the gradients of an output channel lie together, and those of the next one behind them."""
    return r.out_strides[0] == prod(r.geometry.weight_shape[1:]) * ELEMENT_BYTES[r.element]


def node_bytes(r: WeightGradRequest, batch: int, dtype: DType, workspace_bytes: int) -> int:
    """The most memory that the sums of parts of a batch take: a node for each level of the tree, the newest and its sum."""
    whole = replace(r, geometry=replace(r.geometry, batch=batch))
    count = -(-batch // images_of_a_part(whole, workspace_bytes))
    nodes = (count - 1).bit_length() + 2 if count > 1 else 0
    return nodes * prod(r.geometry.weight_shape) * accumulator_dtype(dtype).itemsize


def parts(r: WeightGradRequest, images: int) -> list[tuple[slice, WeightGradRequest]]:
    """The requests that sum a batch so many images at a time, and the images of each."""
    batch, g = r.geometry.batch, r.geometry
    out = tuple(stride // ELEMENT_BYTES[r.element] * ELEMENT_BYTES[r.sums] for stride in r.out_strides)
    found = [slice(first, min(first + images, batch)) for first in range(0, batch, images)]
    return [(part, replace(r, geometry=replace(g, batch=part.stop - part.start), part=True, out_strides=out)) for part in found]


def _of_nothing(x: Array, y: Array, result: Array) -> Array:
    """The gradient where some array has no elements."""
    branches.call("empty.weight_grad")
    result[...] = 0
    if y.size and result.size:  # every tap lies on padding, whose zeros take part: 0 * inf is NaN
        with np.errstate(all="ignore"):
            zeros = (y * y.dtype.type(0)).sum(axis=(0, *range(2, y.ndim)))
            result += zeros.reshape(-1, *[1] * (result.ndim - 1))
    return result


def _by_tiles(geometry: ConvGeometry, x: Array) -> bool:
    """Whether the gradient is computed by tiles (`winograd`): their padding takes part."""
    return current().accuracy == "fast" and not isinstance(choose(geometry, "conv_weight_grad", ELEMENTS[x.dtype.name]), str)


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


def request_for_shapes(
    geometry: ConvGeometry, element: str, item: int, channels_last: bool, n_threads: int
) -> WeightGradRequest:  # fmt: skip
    """What a call on arrays that lie densely in C order or channels-last asks for, so many images as one plan is made for."""
    geometry = _spatial(geometry)
    if not geometry.is_depthwise and (images := images_at_once(geometry)) != geometry.batch:
        geometry = replace(geometry, batch=images)
    shapes = (geometry.input_shape, geometry.output_shape, geometry.weight_shape)
    x, y, out = (dense_strides(shape, item, channels_last) for shape in shapes)
    return WeightGradRequest(
        geometry=geometry, element=element, x_strides=x, y_strides=y, out_strides=out, threads=n_threads,
        target=kernels.current_target(), little=is_little(geometry), fast=current().accuracy == "fast",
    )  # fmt: skip


def _spatial(geometry: ConvGeometry) -> ConvGeometry:
    """The geometry itself, or for one without spatial axes one pixel on an axis of length one."""
    if geometry.ndim:
        return geometry
    one = (1,)
    return replace(geometry, input_size=one, output_size=one, kernel_size=one, stride=one, dilation=one, padding=((0, 0),))


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
