"""The strategies of the engine, in one table, and the choice among them.

    STRATEGIES          a row each: name, contractions, and `consider`, which refuses a request in words or gives a `Candidate`
    lower(request)      the program of the cheapest candidate; it says which were refused and why, and what each would cost
    planned_decisions   what planning a call would decide, without running it

To add a strategy, write a planner and its kernel (two files beside the others) and add a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from preimage.engines import decisions
from preimage.engines.base import CONTRACTIONS, Array, DType
from preimage.engines.ir.epilogue import EpilogueSpec
from preimage.engines.jit import branches
from preimage.engines.jit.compiler.target import Target
from preimage.engines.jit.conv.across_pixels import across_pixels_plan, lower_across_pixels
from preimage.engines.jit.conv.direct import lower_direct
from preimage.engines.jit.conv.direct_layout import choose_layout
from preimage.engines.jit.conv.pointwise import branches as pointwise_branches
from preimage.engines.jit.conv.pointwise import lower_pointwise, pointwise
from preimage.engines.jit.conv.winograd.applies import choose
from preimage.engines.jit.conv.winograd.lower import cycles_of, lower_winograd
from preimage.engines.jit.conv.winograd.weight_grad import lower_winograd_grad
from preimage.engines.jit.depthwise.applies import is_depthwise, not_depthwise, not_planes, not_upsampling
from preimage.engines.jit.depthwise.channels_first import copied_weights, lower_channels_first
from preimage.engines.jit.depthwise.channels_last import lower_depthwise
from preimage.engines.jit.depthwise.upsample import lower_upsample
from preimage.engines.jit.depthwise.weight_grad import lower_depthwise_grad, not_depthwise_grad, take_refusal
from preimage.engines.jit.index.gather import count_taps
from preimage.engines.jit.index.partition import Band, bands_within, cut, images_at_once
from preimage.engines.jit.index.taps import gather_axes
from preimage.engines.jit.program import Program
from preimage.engines.jit.request import (
    ELEMENTS,
    SMALL_MACS,
    ConvRequest,
    Request,
    WeightGradRequest,
    is_little,
    take_epilogue,
    take_request,
)
from preimage.engines.jit.weight_grad.call import as_tables_allow, images_of_a_part, parts, request_for_shapes
from preimage.engines.jit.weight_grad.lower import lower_weight_grad
from preimage.errors import EngineError
from preimage.geometry import ConvGeometry
from preimage.records import record
from preimage.settings import thread_count

if TYPE_CHECKING:
    from preimage.engines.jit.engine import JitEngine

__all__ = [
    "LARGE_KERNEL",
    "STRATEGIES",
    "Candidate",
    "Strategy",
    "considered",
    "lower",
    "planned_decisions",
    "unreachable_decisions",
]

T = TypeVar("T")
LARGE_KERNEL = 1 << 10  # taps; with fewer, lists of taps never pass the limit
MOST_TAPS = 1 << 23  # 200 MB of tables, made in a second: kernels as large as their pictures are another engine's


@record
class Candidate:
    """A strategy that can compute a request. cost: modelled cycles of one thread; None where no other strategy competes with it.

    lower: makes the program. dearer: called where another strategy is taken, to name the decision. by_geometry: taken wherever it can
    be, as its bits are its own, and must not depend on what a model says of one CPU, batch or layout.
    """

    lower: Callable[[], Program]
    cost: float | None = None
    dearer: Callable[[], None] = lambda: None
    by_geometry: bool = False


@record
class Strategy:
    """A way to compute some contractions. consider: a candidate for a request, or in words why it is refused."""

    name: str
    contractions: tuple[str, ...]
    consider: Callable[[Any], Candidate | str]  # of a ConvRequest, or of a WeightGradRequest: as its contractions are
    exact: bool = True  # in the contract's order; others are considered where a request allows them


def _consider_upsample(r: ConvRequest) -> Candidate | str:
    refused = not_depthwise(r) or not_planes(r) or not_upsampling(r)
    return refused or Candidate(lambda: lower_upsample(r, copied_weights(r)))


def _consider_channels_first(r: ConvRequest) -> Candidate | str:
    refused = not_depthwise(r) or not_planes(r)
    if refused is None and not_upsampling(r) is None:
        refused = "the stride fills vectors"
    return refused or Candidate(partial(lower_channels_first, r))


def _consider_channels_last(r: ConvRequest) -> Candidate | str:
    refused = not_depthwise(r)
    if refused is None and not_planes(r) is None:
        refused = "the arrays are channels-first, and transposing them would show"
    return refused or Candidate(partial(lower_depthwise, r))


def _consider_across_pixels(r: ConvRequest) -> Candidate | str:
    if is_depthwise(r):
        return _ONE_CHANNEL
    if r.tile or r.little:
        return "a tile of the direct strategy was asked for" if r.tile else "little work: the kernels of any size take it"
    axes = gather_axes(r.geometry, r.contraction, r.every_tap)
    plan = across_pixels_plan(r, axes)
    if isinstance(plan, str):
        return plan
    return Candidate(lambda: lower_across_pixels(r, axes, plan), plan.cost, lambda: branches.across_pixels("refused.dearer"))


def _consider_pointwise(r: ConvRequest) -> Candidate | str:
    if is_depthwise(r):
        return _ONE_CHANNEL
    found = pointwise(r)
    if isinstance(found, str):
        return found
    return Candidate(lambda: lower_pointwise(r, found), found.cost, lambda: pointwise_branches("refused.dearer"))


def _consider_direct(r: ConvRequest) -> Candidate | str:
    if is_depthwise(r):
        return _ONE_CHANNEL
    layout, kernel = choose_layout(r), prod(r.geometry.kernel_size)
    second = r.single or r.every_tap  # asked for in the middle of a call, whose first request was taken
    if kernel >= LARGE_KERNEL and not second:
        taps = count_taps(layout.best.axes, layout.best.choice, layout.terms)
        if taps > MOST_TAPS:
            return f"lists of {taps:,} taps, as a kernel of {kernel:,} and padding need, more than {MOST_TAPS:,}"
    return Candidate(partial(lower_direct, r, layout), layout.cost)


def _consider_depthwise_grad(r: WeightGradRequest) -> Candidate | str:
    refused = not_depthwise_grad(r)
    if refused is not None:
        take_refusal(r)
    return refused or Candidate(partial(lower_depthwise_grad, r))


def _consider_weight_grad(r: WeightGradRequest) -> Candidate | str:
    if not_depthwise_grad(r) is None:
        return _ONE_CHANNEL
    return Candidate(partial(lower_weight_grad, r))


def _consider_winograd(r: ConvRequest) -> Candidate | str:
    choice = choose(r.geometry, r.contraction, r.element)
    if isinstance(choice, str):
        return choice
    return Candidate(lambda: lower_winograd(r, choice), cycles_of(r, choice), by_geometry=True)


def _consider_winograd_grad(r: WeightGradRequest) -> Candidate | str:
    choice = choose(r.geometry, r.contraction, r.element)
    return choice if isinstance(choice, str) else Candidate(lambda: lower_winograd_grad(r, choice), by_geometry=True)


_ONE_CHANNEL = "each group has one input channel: a depthwise strategy takes it"
_FORWARD, _GRAD = CONTRACTIONS[:2], CONTRACTIONS[2:]

STRATEGIES: tuple[Strategy, ...] = (
    Strategy("depthwise, channels first, vectors across stride phases", _FORWARD, _consider_upsample),
    Strategy("depthwise, channels first", _FORWARD, _consider_channels_first),
    Strategy("depthwise", _FORWARD, _consider_channels_last),
    Strategy("direct", _FORWARD, _consider_direct),
    Strategy("direct, vectors across pixels", _FORWARD, _consider_across_pixels),
    Strategy("matrix product", _FORWARD, _consider_pointwise),
    Strategy("winograd", _FORWARD, _consider_winograd, exact=False),
    Strategy("depthwise weight gradient", _GRAD, _consider_depthwise_grad),
    Strategy("weight gradient", _GRAD, _consider_weight_grad),
    Strategy("winograd weight gradient", _GRAD, _consider_winograd_grad, exact=False),
)


def lower(r: Request) -> Program:
    """The program of a request, by the strategy that the model holds for the cheapest. Compiles nothing.

    Raises: EngineError where every strategy refuses.
    """
    with decisions.made() as taken:
        take_request(r.contraction, r.element, r.little, r.threads)
        if isinstance(r, ConvRequest):
            take_epilogue(r.finish, r.prepared)
        found, refused = considered(r)
        if not found:
            raise EngineError(f"no strategy takes this {r.contraction}: {'; '.join(f'{n}: {w}' for n, w in refused.items())}")
        best = min(found, key=lambda name: (not found[name].by_geometry, found[name].cost or 0.0))
        for name, candidate in found.items():
            if name != best:
                candidate.dearer()
                refused[name] = f"{_cycles(candidate)} by the model, {best} {_cycles(found[best])}"
        program = found[best].lower()
    return program.chosen(refused, tuple(taken))


def considered(r: Request) -> tuple[dict[str, Candidate], dict[str, str]]:
    """The candidates for a request, and why the other strategies are refused, by name."""
    found: dict[str, Candidate] = {}
    refused: dict[str, str] = {}
    for strategy in STRATEGIES:
        if r.contraction in strategy.contractions and (strategy.exact or r.fast):
            said = strategy.consider(r)
            if isinstance(said, str):
                refused[strategy.name] = said
            else:
                found[strategy.name] = said
    return found, refused


def _cycles(candidate: Candidate) -> str:
    return "no cost" if candidate.cost is None else f"{candidate.cost:,.0f} cycles"


# ------------------------------------------------------------------------------------------- decisions without a run


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
        _visit_weight_grad(engine, geometry, dtype, channels_last, found)
    else:
        shapes = (geometry.input_shape, geometry.output_shape)[:: 1 if contraction == "conv" else -1]
        x, out = (_array(shape, dtype, channels_last) for shape in shapes)
        _visit(engine, geometry, contraction, x, out, finite, found)
    return frozenset(found)


def _array(shape: tuple[int, ...], dtype: DType, channels_last: bool) -> Array:
    """An array that lies so in memory; the memory itself is never touched."""
    if channels_last and len(shape) > 2:
        return np.moveaxis(np.empty((shape[0], *shape[2:], shape[1]), dtype), -1, 1)
    return np.empty(shape, dtype)


def _some(parts: list[T]) -> list[T]:
    """The first, the second and the last of them."""
    return [parts[k] for k in sorted({0, min(1, len(parts) - 1), len(parts) - 1})]


def _visit(engine: JitEngine, g: ConvGeometry, contraction: str, x: Array, out: Array, finite: bool, found: set[str]) -> None:
    """As `JitEngine._into` goes about a call, but nothing runs."""
    images = images_at_once(g, contraction)
    bands: list[Band] | None
    if images < g.batch:
        found.add("jit.call.partition.tables")
        bands = cut(g, contraction, -(-g.batch // images))
    else:
        request = engine._request(g, contraction, x.dtype, x.strides, out.strides, EpilogueSpec(), thread_count(), False)
        program = engine.lower(request)
        with decisions.made() as around:
            bands = bands_within(program.scratch_bytes, g, contraction)
            if bands is None and program.skips_padding and not finite:
                found.update(engine.lower(engine.for_all_weights(request)).decisions)
        found.update(around)
        if bands is None:
            found.update(program.decisions)
            return
    for part, read, written in _some(bands or []):
        _visit(engine, part, contraction, x[read], out[written], finite, found)


def _visit_weight_grad(engine: JitEngine, geometry: ConvGeometry, dtype: DType, channels_last: bool, found: set[str]) -> None:
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


def unreachable_decisions(target: Target) -> dict[str, str]:
    """Declared decisions that no call takes on such a machine, and why."""
    found = {}
    if target.vector_bytes != 64:
        found["jit.direct.tile.half_vectors"] = "half vectors are tried only where the CPU's vectors have 64 bytes"
    if target.vector_registers < 32:
        found["jit.depthwise.channels_last.vectors.several"] = "tiles of several vectors need 32 registers"
    return found
