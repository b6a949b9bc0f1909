"""The decisions that planning a call takes, without running it: the audit's search uses them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from preimage.engines import decisions
from preimage.engines.base import Array, DType
from preimage.engines.ir.epilogue import Finish
from preimage.engines.jit.index.partition import Band, bands_within, cut, images_at_once
from preimage.engines.jit.request import ELEMENTS, SMALL_MACS, is_little
from preimage.engines.jit.weight_grad.call import as_tables_allow, images_of_a_part, parts, request_for_shapes
from preimage.geometry import ConvGeometry
from preimage.settings import thread_count

if TYPE_CHECKING:
    from preimage.engines.jit.engine import JitEngine

__all__ = ["planned_decisions"]

T = TypeVar("T")


def planned_decisions(
    engine: JitEngine, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False, finite: bool = True
) -> frozenset[str]:
    """The names of the decisions that the plan of a call takes, under the settings and the target of now.

    The call is one on dense arrays in C order or channels-last. finite: whether its weights are; where they are not, and the first
    plan relied on it, a call is planned again (the decisions are those of both plans). Where the call is cut, those of its first,
    second and last part. Empty arrays have no plan.
    """
    sizes = (*geometry.input_shape, *geometry.output_shape, *geometry.weight_shape)
    if not all(sizes) or engine.supports(geometry, contraction, dtype) is not None:
        return frozenset()
    found: set[str] = set()
    if contraction == "conv_weight_grad":
        _plan_weight_grad(engine, geometry, dtype, channels_last, found)
    else:
        shapes = (geometry.input_shape, geometry.output_shape)[:: 1 if contraction == "conv" else -1]
        x, out = (_array(shape, dtype, channels_last) for shape in shapes)
        _plan(engine, geometry, contraction, x, out, finite, found)
    return frozenset(found)


def _array(shape: tuple[int, ...], dtype: DType, channels_last: bool) -> Array:
    """An array that lies so in memory; the memory itself is never touched."""
    if channels_last and len(shape) > 2:
        return np.moveaxis(np.empty((shape[0], *shape[2:], shape[1]), dtype), -1, 1)
    return np.empty(shape, dtype)


def _some(parts: list[T]) -> list[T]:
    """The first, the second and the last of them."""
    return [parts[k] for k in sorted({0, min(1, len(parts) - 1), len(parts) - 1})]


def _plan(engine: JitEngine, g: ConvGeometry, contraction: str, x: Array, out: Array, finite: bool, found: set[str]) -> None:
    """As `JitEngine._into` goes about a call, but nothing runs."""
    images = images_at_once(g, contraction)
    bands: list[Band] | None
    if images < g.batch:
        found.add("jit.call.partition.tables")
        bands = cut(g, contraction, -(-g.batch // images))
    else:
        request = engine._request(g, contraction, x.dtype, x.strides, out.strides, Finish(), thread_count(), False)
        program = engine.lower(request)
        with decisions.made() as around:
            bands = bands_within(program.scratch_bytes, g, contraction)
            if bands is None and program.skips_padding and not finite:
                found.update(engine.lower(engine.exact_request(request)).decisions)
        found.update(around)
        if bands is None:
            found.update(program.decisions)
            return
    for part, read, written in _some(bands or []):
        _plan(engine, part, contraction, x[read], out[written], finite, found)


def _plan_weight_grad(engine: JitEngine, geometry: ConvGeometry, dtype: DType, channels_last: bool, found: set[str]) -> None:
    """As `WeightGradients` goes about a call, but nothing runs."""
    threads = thread_count() if geometry.inside_macs > SMALL_MACS else 1
    request = request_for_shapes(geometry, ELEMENTS[dtype.name], dtype.itemsize, channels_last, threads)
    whole = replace(request.geometry, batch=geometry.batch)
    request = replace(request, geometry=whole, little=is_little(whole))
    program = engine.lower(as_tables_allow(request))
    images = images_of_a_part(request, program.workspace_bytes)
    if images == geometry.batch:
        found.update(program.decisions)
        return
    for _, part in _some(parts(request, images)):
        found.update(engine.lower(part).decisions)
