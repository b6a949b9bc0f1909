"""The strategies of the engine, in one table, and the choice among them.

    STRATEGIES          a row each: name, contractions, and `consider`, which refuses a request in words or gives a `Candidate`
    lower(request)      the program of the cheapest candidate; it says which were refused and why, and what each would cost

To add a strategy, write a planner and its kernel (two files beside the others) and add a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from preimage.engines import decisions
from preimage.engines.base import CONTRACTIONS
from preimage.engines.jit import branches
from preimage.engines.jit.conv.direct import lower_direct
from preimage.engines.jit.conv.direct_layout import choose_layout
from preimage.engines.jit.conv.few_outputs import few_plan, lower_few
from preimage.engines.jit.depthwise.applies import is_depthwise, not_depthwise, not_planes, not_upsampling
from preimage.engines.jit.depthwise.channels_first import copied_weights, lower_plane
from preimage.engines.jit.depthwise.channels_last import lower_depthwise
from preimage.engines.jit.depthwise.upsample import lower_spread
from preimage.engines.jit.depthwise.weight_grad import lower_depthwise_grad, not_depthwise_grad, take_refusal
from preimage.engines.jit.index.gather import count_taps
from preimage.engines.jit.index.taps import gather_axes
from preimage.engines.jit.program import Program
from preimage.engines.jit.request import ConvRequest, Request, WeightGradRequest, take_epilogue, take_request
from preimage.engines.jit.weight_grad.lower import lower_weight_grad
from preimage.errors import EngineError

__all__ = ["LARGE_KERNEL", "STRATEGIES", "Candidate", "Strategy", "considered", "lower"]

LARGE_KERNEL = 1 << 10  # taps; with fewer, lists of taps never pass the limit
MOST_TAPS = 1 << 23  # 200 MB of tables, made in a second: kernels as large as their pictures are another engine's


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy that can compute a request. cost: modelled cycles of one thread; None where no other strategy competes with it.

    lower: makes the program. dearer: called where another strategy is taken, to name the decision.
    """

    lower: Callable[[], Program]
    cost: float | None = None
    dearer: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to compute some contractions. consider: a candidate for a request, or in words why it is refused."""

    name: str
    contractions: tuple[str, ...]
    consider: Callable[[Request], Candidate | str]


def _consider_upsample(r: ConvRequest) -> Candidate | str:
    refused = not_depthwise(r) or not_planes(r) or not_upsampling(r)
    return refused or Candidate(lambda: lower_spread(r, copied_weights(r)))


def _consider_channels_first(r: ConvRequest) -> Candidate | str:
    refused = not_depthwise(r) or not_planes(r)
    if refused is None and not_upsampling(r) is None:
        refused = "the stride fills vectors"
    return refused or Candidate(partial(lower_plane, r))


def _consider_channels_last(r: ConvRequest) -> Candidate | str:
    refused = not_depthwise(r)
    if refused is None and not_planes(r) is None:
        refused = "the arrays are channels-first, and transposing them would show"
    return refused or Candidate(partial(lower_depthwise, r))


def _consider_few(r: ConvRequest) -> Candidate | str:
    if is_depthwise(r):
        return _ONE_CHANNEL
    if r.tile or r.little:
        return "a tile of the direct strategy was asked for" if r.tile else "little work: the kernels of any size take it"
    axes = gather_axes(r.geometry, r.contraction, r.every_tap)
    plan = few_plan(r, axes)
    if isinstance(plan, str):
        return plan
    return Candidate(lambda: lower_few(r, axes, plan), plan.cost, lambda: branches.few_outputs("refused.dearer"))


def _consider_direct(r: ConvRequest) -> Candidate | str:
    if is_depthwise(r):
        return _ONE_CHANNEL
    layout = choose_layout(r)
    if prod(r.geometry.kernel_size) >= LARGE_KERNEL and not (
        r.single or r.every_tap
    ):  # those are asked for in the middle of a call
        taps = count_taps(layout.best.axes, layout.best.choice)
        if taps > MOST_TAPS:
            return f"lists of {taps:,} taps, as a kernel of {prod(r.geometry.kernel_size):,} and padding need, more than {MOST_TAPS:,}"
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


_ONE_CHANNEL = "each group has one input channel: a depthwise strategy takes it"
_FORWARD, _GRAD = CONTRACTIONS[:2], CONTRACTIONS[2:]

STRATEGIES: tuple[Strategy, ...] = (
    Strategy("depthwise, channels first, vectors across stride phases", _FORWARD, _consider_upsample),  # type: ignore[arg-type]
    Strategy("depthwise, channels first", _FORWARD, _consider_channels_first),  # type: ignore[arg-type]
    Strategy("depthwise", _FORWARD, _consider_channels_last),  # type: ignore[arg-type]
    Strategy("direct", _FORWARD, _consider_direct),  # type: ignore[arg-type]
    Strategy("direct, vectors across pixels", _FORWARD, _consider_few),  # type: ignore[arg-type]
    Strategy("depthwise weight gradient", _GRAD, _consider_depthwise_grad),  # type: ignore[arg-type]
    Strategy("weight gradient", _GRAD, _consider_weight_grad),  # type: ignore[arg-type]
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
        best = min(found, key=lambda name: found[name].cost or 0.0)
        for name, candidate in found.items():
            if name != best:
                candidate.dearer()
                refused[name] = f"{_cycles(candidate)} by the model, {best} {_cycles(found[best])}"
        program = found[best].lower()
    return replace(program, refused=refused, decisions=tuple(taken))


def considered(r: Request) -> tuple[dict[str, Candidate], dict[str, str]]:
    """The candidates for a request, and why the other strategies are refused, by name."""
    found: dict[str, Candidate] = {}
    refused: dict[str, str] = {}
    for strategy in STRATEGIES:
        if r.contraction in strategy.contractions:
            said = strategy.consider(r)
            if isinstance(said, str):
                refused[strategy.name] = said
            else:
                found[strategy.name] = said
    return found, refused


def _cycles(candidate: Candidate) -> str:
    return "no cost" if candidate.cost is None else f"{candidate.cost:,.0f} cycles"
