"""Cases by the thousand: seeded, wide in every number, and rich in the combinations that engines get wrong.

`cases(count, seed)` gives the same cases for the same seed, and case i depends on (seed, i) alone, so any of them can be
made again without the others. Each comes from one stratum:

plain       layers as networks have them, all sizes unequal unless chance wills otherwise
extreme     a plain or tiny one with a subset of `extremes` switched on: one to three, now and then nearly all
tiny        one to three axes of a few positions, where stride, dilation, padding and kernel meet in every way
near        a geometry that others have met (`known`), with one number changed

A case that would cost too much is not drawn again, which would leave the rare ones out: its largest numbers are made smaller,
those that make it extreme last.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from preimage.audit.axes import Axis
from preimage.audit.case import Case
from preimage.audit.draft import LIMITS, Draft, Limits, fit, repaired, split, tail
from preimage.audit.extremes import BLOCKS, switch_on
from preimage.audit.known import known_cases, near

__all__ = ["case_at", "cases"]

#: Every so many cases, one is large enough to be worth handing out to threads.
LARGE_EVERY = 40
LARGE_LEAST = 600_000
LARGE_LIMITS = Limits(macs=1_200_000, elements=150_000, padded=300_000, taps=4_000)
_STRATA = ("plain",) * 4 + ("extreme",) * 8 + ("tiny",) * 5 + ("near",) * 3
_DIMENSIONS = (0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4)
_TINY_CHANNELS = (1, 2, 3, 5, 8, 9, 16, 17, 24, 33)


def cases(count: int, seed: int = 0, start: int = 0) -> Iterator[Case]:
    """`count` cases, the first of them number `start` of the seed's sequence."""
    for i in range(start, start + count):
        yield case_at(i, seed)


def case_at(i: int, seed: int = 0) -> Case:
    """Case number i of a seed's sequence."""
    rng = random.Random(f"geometry {seed}:{i}")
    stratum = rng.choice(_STRATA)
    label = stratum
    match stratum:
        case "extreme":
            draft = _plain(rng) if rng.random() < 0.5 else _tiny(rng)
            label = ", ".join(switch_on(rng, draft)) or "plain"
        case "tiny":
            draft = _tiny(rng)
        case "near":
            draft = near(rng, rng.choice(known_cases()))
        case _:
            draft = _plain(rng)
    if i % LARGE_EVERY == LARGE_EVERY - 1:
        _grow(rng, draft)
    else:
        fit(draft, LIMITS)
    return _maybe_empty(rng, draft.case(f"random {seed}:{i} ({label})"))


def _unequal(rng: random.Random, ndim: int, draw: tuple[int, ...]) -> list[int]:
    """One of `draw` an axis, drawn again a few times where it repeats an earlier axis."""
    result: list[int] = []
    for _ in range(ndim):
        value = rng.choice(draw)
        for _ in range(3):
            if value not in result:
                break
            value = rng.choice(draw)
        result.append(value)
    return result


def _channels(rng: random.Random) -> tuple[int, int, int]:
    """(groups, channels per group of the large side, of the small side)."""
    kind = rng.random()
    if kind < 0.3:
        groups, large, small = 1, rng.randint(1, 6), rng.randint(1, 6)
    elif kind < 0.5:
        groups, large, small = 1, _any_channels(rng), _any_channels(rng)
    elif kind < 0.65:  # vector blocks and their tails
        groups, large, small = 1, rng.choice(BLOCKS), rng.choice(BLOCKS)
        if rng.random() < 0.5:
            large = rng.randint(1, 4)
        elif rng.random() < 0.5:
            small = rng.randint(1, 4)
    elif kind < 0.8:  # groups
        groups, large, small = rng.randint(2, 5), rng.randint(1, 4), rng.randint(1, 4)
    else:  # depthwise, often with a multiplier; the transpose's multiplier now and then
        groups = rng.choice(BLOCKS) if rng.random() < 0.5 else rng.randint(2, 6)
        large, small = 1, (1 if rng.random() < 0.6 else rng.randint(2, 3))
        if rng.random() < 0.15:
            large, small = small, large
    if large == small and large > 1 and rng.random() < 0.8:
        small += 1
    return groups, large, small


def _any_channels(rng: random.Random) -> int:
    return tail(rng, 1, 120) if rng.random() < 0.5 else rng.randint(1, 72)


def _pad(rng: random.Random, extent: int) -> int:
    kind = rng.random()
    if kind < 0.3:
        return 0
    if kind < 0.85:
        return rng.randint(0, extent - 1)
    return rng.randint(extent, extent + 2) if kind < 0.97 else -1


def _plain(rng: random.Random) -> Draft:
    ndim = rng.choice(_DIMENSIONS)
    groups, large, small = _channels(rng)
    most = {1: 9, 2: 5, 3: 4}.get(ndim, 3)
    kernel = _unequal(rng, ndim, (*([1] * 1), *range(1, most + 1)))
    pointwise = rng.random() < 0.18
    if pointwise:
        kernel = [1] * ndim
    plain = rng.random()  # the common layers are the ones with the most special paths: keep a share of them
    stride = [1] * ndim if plain < 0.3 else _unequal(rng, ndim, (1, 1, 1, 2, 3, 4))
    dilation = [1] * ndim if plain > 0.6 or plain < 0.15 else _unequal(rng, ndim, (1, 2, 3, 4))
    if 0.15 < plain < 0.2 or 0.7 < plain < 0.8:  # square kernels and equal strides, as nearly all layers have
        kernel = [rng.choice((1, 2, 3, 3, 4, 5) if ndim < 3 else (1, 2, 3))] * ndim
        stride = [rng.choice((1, 2, 2, 3))] * ndim
    wide = rng.random() < 0.2  # rows as long as a tile, and its tails
    forward = rng.random() < 0.6
    reach = {1: 12, 2: 8, 3: 6}.get(ndim, 4)
    axes = []
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        positions = rng.randint(13, 70) if wide and i == ndim - 1 else 1 if rng.random() < 0.12 else rng.randint(1, reach)
        extent = (k - 1) * d + 1
        remainder = rng.randint(0, s - 1) if forward else rng.choice((0, rng.randint(0, max(s, d) - 1)))
        axes.append(repaired(Axis(positions, k, s, _pad(rng, extent), _pad(rng, extent), d, remainder), forward))
    if pointwise and rng.random() < 0.7:
        axes = [_product_axis(rng, axis, forward) for axis in axes]
    return Draft(rng.choice((1, 2, 2, 3)), groups, large, small, axes, forward)


def _product_axis(rng: random.Random, axis: Axis, forward: bool) -> Axis:
    """An axis of a layer that is a matrix product, if nothing about it is odd; now and then one thing is."""
    dilation = rng.randint(1, 3)
    remainder = 0 if forward else rng.randint(0, dilation - 1)
    lo, hi = (int(rng.random() < 0.05) for _ in range(2))
    return repaired(Axis(axis.small, 1, 1, lo, hi, dilation, remainder), forward)


def _tiny(rng: random.Random) -> Draft:
    """Few positions and taps, and a large side whose padding is what the other numbers leave."""
    axes = []
    forward = rng.random() < 0.6
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 2, 3))):
        positions = 1 if rng.random() < 0.5 else rng.randint(2, 6)
        k, s, d = rng.randint(1, 5), rng.choice((1, 1, 2, 3, 4, 5)), rng.randint(1, 8)
        axis = Axis(positions, k, s, 0, 0, d, rng.randint(0, (s if forward else max(s, d)) - 1))
        axes.append(repaired(split(rng, axis, rng.randint(1, 16)), forward))
    groups = rng.choice((1, 1, 1, 1, 1, 2, 3, 0))
    if groups:
        large, small = (rng.choice(_TINY_CHANNELS) if rng.random() < 0.65 else _any_channels(rng) for _ in range(2))
    else:
        groups, large, small = rng.choice((*BLOCKS, rng.randint(2, 70))), 1, rng.choice((1, 1, 2))
    return Draft(rng.choice((1, 2)), groups, large, small, axes, forward)


def _grow(rng: random.Random, draft: Draft) -> None:
    """More images, channels and positions, as long as there is too little work and room in the arrays."""
    fit(draft, LARGE_LIMITS)
    for _ in range(60):
        costs = draft.costs()
        if costs.macs >= LARGE_LEAST:
            break
        before = draft.batch, draft.large, draft.small, list(draft.axes)
        what = rng.choice(("batch", "large", "small", *range(len(draft.axes)), *range(len(draft.axes))))
        if isinstance(what, int):
            axis = draft.axes[what]
            draft.axes[what] = Axis(
                axis.small + axis.small // 2 + 1, axis.kernel, axis.stride, axis.lo, axis.hi, axis.dilation, axis.remainder
            )
        else:
            value = getattr(draft, what)
            setattr(draft, what, value + value // 2 + 1)
        costs = draft.costs()
        if any(
            getattr(costs, name) > getattr(LARGE_LIMITS, name) for name in ("macs", "elements", "padded", "taps")
        ):  # what it was before
            draft.batch, draft.large, draft.small, draft.axes = before


def _maybe_empty(rng: random.Random, case: Case) -> Case:
    """One case in forty has an empty axis: batch, channels of one side, or the spatial axes, where padding fills them."""
    if rng.random() >= 0.025:
        return case
    kind = rng.randrange(3)
    if kind == 0:
        return case.with_(batch=0)
    if kind == 1:
        return case.with_(**{rng.choice(("in_channels", "out_channels")): 0})
    try:
        return Case.of_conv(
            case.batch, case.in_channels, case.out_channels, case.groups, (0,) * case.ndim, case.kernel_size, case.stride,
            case.padding, case.dilation, case.label,
        )  # fmt: skip
    except ValueError:
        return case
