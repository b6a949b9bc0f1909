"""A geometry while it is being drawn: numbers that extremes change, and that are made smaller until the case is cheap enough."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import exp, log, prod

from preimage.audit.axes import Axis, axes_of, with_axes
from preimage.audit.case import Case

__all__ = ["LIMITS", "Draft", "Limits", "draft_of", "fit", "repaired", "split", "tail"]

_CHANNELS = ("batch", "groups", "large", "small")


@dataclass(frozen=True)
class Limits:
    """What a case may cost: multiply-adds, elements of x, y and w, elements of x with its padding, taps times small channels."""

    macs: int
    elements: int
    padded: int
    taps: int


#: What a case may cost: the audit lives on many small ones.
LIMITS = Limits(macs=100_000, elements=40_000, padded=100_000, taps=1_500)


@dataclass
class Draft:
    """batch, groups, channels of a group (large and small side), axes; `held` names what is made smaller last.

    forward: a convolution gives these sizes, so no remainder reaches the stride.
    """

    batch: int
    groups: int
    large: int
    small: int
    axes: list[Axis]
    forward: bool = True
    held: set[str | int] = field(default_factory=set)

    def case(self, label: str) -> Case:
        """The case. Axes are repaired first."""
        self.axes = [repaired(a, self.forward) for a in self.axes]
        nothing: tuple[int, ...] = ()
        bare = Case(
            self.batch, self.groups * self.large, self.groups * self.small, self.groups,
            nothing, nothing, nothing, nothing, (), nothing, label,
        )  # fmt: skip
        return with_axes(bare, self.axes)

    def costs(self) -> Limits:
        """What it costs, in the terms of Limits."""
        taps, outputs = prod(a.kernel for a in self.axes), prod(a.small for a in self.axes)
        batch, large, small = max(self.batch, 1), max(self.large, 1), max(self.small, 1)  # an empty axis makes no array small
        x, y = batch * self.groups * large, batch * self.groups * small
        w = self.groups * small * large * taps
        return Limits(
            w * batch * outputs,
            x * prod(max(a.large, 0) for a in self.axes) + y * outputs + w,
            x * prod(a.span for a in self.axes),
            taps * self.groups * small,
        )


def draft_of(case: Case) -> Draft:
    """A draft of the same numbers."""
    return Draft(case.batch, case.groups, case.group_in, case.group_out, axes_of(case), case.is_conv)


def tail(rng: random.Random, low: int, high: int) -> int:
    """An integer of low..high whose logarithm is uniform: as often from 3 to 6 as from 30 to 60."""
    return min(high, int(exp(rng.uniform(log(low), log(high + 1)))))


def split(rng: random.Random, axis: Axis, large: int) -> Axis:
    """The axis with padding that leaves it `large` positions, shared between its ends at random."""
    total = axis.span + axis.remainder - large
    if total >= 0:
        lo = rng.choice((rng.randint(0, total), rng.randint(0, total), 0, total))
    else:
        lo = rng.choice((0, total, rng.randint(total, 0)))
    return replace(axis, lo=lo, hi=total - lo)


def repaired(axis: Axis, forward: bool) -> Axis:
    """The nearest axis that a geometry can have: a remainder in range, and at least one position on the large side."""
    most = axis.stride if forward else max(axis.stride, axis.dilation)
    if axis.remainder >= most:
        axis = replace(axis, remainder=most - 1)
    missing = 1 - axis.large
    if missing <= 0:
        return axis
    from_hi = min(missing, max(axis.hi, 0))
    from_lo = missing - from_hi
    return replace(axis, hi=axis.hi - from_hi, lo=axis.lo - from_lo)


def _exceeds(costs: Limits, limits: Limits) -> tuple[bool, bool]:
    """Whether the work is too much, and whether arrays are too large."""
    work = costs.macs > limits.macs or costs.taps > limits.taps
    return work, costs.elements > limits.elements or costs.padded > limits.padded


def _reducible(draft: Draft, lengths: bool) -> Iterator[tuple[bool, int, str | int, str]]:
    """(not held, value, what, field) of every number that can become smaller; lengths: those that make the large side long too."""
    for name in _CHANNELS:
        value = getattr(draft, name)
        if value > 1:
            yield name not in draft.held, value, name, name
    for i, axis in enumerate(draft.axes):
        free = i not in draft.held
        if axis.small > 1:
            yield free, axis.small, i, "small"
        if axis.kernel > 1:
            yield free, axis.kernel, i, "kernel"
        if lengths:
            if axis.small > 1 and axis.stride > 1:
                yield free, axis.stride, i, "stride"
            if axis.kernel > 1 and axis.dilation > 1:
                yield free, axis.dilation, i, "dilation"
            if axis.remainder > 1:
                yield free, axis.remainder, i, "remainder"
            for end in ("lo", "hi"):
                if getattr(axis, end) < 0:
                    yield free, -getattr(axis, end), i, end


def fit(draft: Draft, limits: Limits) -> None:
    """Make the largest number smaller, those that are held last, until the costs are within the limits."""
    while True:
        draft.axes = [repaired(a, draft.forward) for a in draft.axes]
        work, arrays = _exceeds(draft.costs(), limits)
        if not work and not arrays:
            return
        _, value, what, name = max(_reducible(draft, arrays), key=lambda row: row[:2])
        value -= max(1, value // 3)
        if isinstance(what, int):
            end = name in ("lo", "hi")
            draft.axes[what] = replace(draft.axes[what], **{name: -value if end else value})
        else:
            setattr(draft, name, value)
