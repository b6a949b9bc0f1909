"""Extremes: what an engine's usual layers do not have, each as one change of a draft, to be switched on in any combination.

The ranges are wide and their tails heavy (`draft.tail`): most values are moderate, and every size up to the end comes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from preimage.audit.draft import Draft, repaired, split, tail

__all__ = ["BLOCKS", "EXTREMES", "switch_on"]

#: Channel counts on either side of what vector blocks and their tails hold.
BLOCKS = (7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65)


def _some(rng: random.Random, draft: Draft) -> list[int]:
    """Numbers of axes: mostly the last (which vectors run along), another, or all of them."""
    n = len(draft.axes)
    kind = rng.random()
    return list(range(n)) if kind < 0.3 else [n - 1] if kind < 0.75 else [rng.randrange(n)]


def _change(rng: random.Random, draft: Draft, change: Callable[[Any], Any]) -> None:
    """Change some axes, and hold them."""
    for i in _some(rng, draft):
        draft.axes[i] = repaired(change(draft.axes[i]), draft.forward)
        draft.held.add(i)


def _long_kernel(rng: random.Random, draft: Draft) -> None:
    _change(rng, draft, lambda a: replace(a, kernel=tail(rng, 6, 70)))


def _unit_kernel(rng: random.Random, draft: Draft) -> None:
    _change(rng, draft, lambda a: replace(a, kernel=1))


def _long_dilation(rng: random.Random, draft: Draft) -> None:
    _change(rng, draft, lambda a: replace(a, kernel=a.kernel if a.kernel > 1 else rng.randint(2, 5), dilation=tail(rng, 3, 60)))


def _long_stride(rng: random.Random, draft: Draft) -> None:
    _change(rng, draft, lambda a: replace(a, stride=tail(rng, 3, 60)))


def _stride_beyond_kernel(rng: random.Random, draft: Draft) -> None:
    _change(rng, draft, lambda a: replace(a, stride=a.extent + tail(rng, 1, 30)))


def _long_axis(rng: random.Random, draft: Draft) -> None:
    i = rng.choice(_some(rng, draft))
    draft.axes[i] = replace(draft.axes[i], small=tail(rng, 30, 4000))
    draft.held.add(i)


def _one_position(rng: random.Random, draft: Draft) -> None:
    """On the small side; the large one is what its padding leaves, or a few positions that the padding follows."""
    if rng.random() < 0.5:
        _change(rng, draft, lambda a: replace(a, small=1))
    else:
        _change(rng, draft, lambda a: split(rng, replace(a, small=1), rng.randint(1, 20)))


def _one_output(rng: random.Random, draft: Draft) -> None:
    draft.axes = [repaired(replace(a, small=1), draft.forward) for a in draft.axes]
    draft.held |= set(range(len(draft.axes)))


def _one_input_position(rng: random.Random, draft: Draft) -> None:
    _change(rng, draft, lambda a: split(rng, a, 1))


def _kernel_beyond_input(rng: random.Random, draft: Draft) -> None:
    """More taps than the input has positions; or a dilated kernel that covers more than the input."""
    if rng.random() < 0.5:
        kernel = tail(rng, 2, 20)
        _change(rng, draft, lambda a: split(rng, replace(a, kernel=kernel, small=tail(rng, 1, 8)), rng.randint(1, kernel - 1)))
    else:
        _change(rng, draft, lambda a: split(rng, replace(a, small=tail(rng, 1, 8)), rng.randint(1, max(1, a.extent - 1))))


def _wide_padding(rng: random.Random, draft: Draft) -> None:
    """At least the whole kernel at one end, or at both."""
    ends = rng.choice((("lo",), ("hi",), ("lo", "hi")))
    _change(rng, draft, lambda a: replace(a, **{end: a.extent + tail(rng, 1, 2 * a.extent + 2) - 1 for end in ends}))


def _one_sided_padding(rng: random.Random, draft: Draft) -> None:
    first = rng.random() < 0.5
    _change(rng, draft, lambda a: replace(a, lo=a.extent - 1 if first else 0, hi=0 if first else a.extent - 1))


def _cut(rng: random.Random, draft: Draft) -> None:
    """Negative padding."""
    ends = rng.choice((("lo",), ("hi",), ("lo", "hi")))
    _change(rng, draft, lambda a: replace(a, **{end: -tail(rng, 1, 12) for end in ends}))


def _long_remainder(rng: random.Random, draft: Draft) -> None:
    """As much output_padding as there may be; one that no forward convolution has, where the dilation allows it."""
    draft.forward = draft.forward and rng.random() < 0.5
    _change(rng, draft, lambda a: replace(a, remainder=(a.stride if draft.forward else max(a.stride, a.dilation)) - 1))


def _idle_numbers(rng: random.Random, draft: Draft) -> None:
    """A huge stride where there is one position, and a huge dilation where there is one tap: they must not matter."""
    one = rng.random() < 0.5
    if one:
        _change(rng, draft, lambda a: replace(a, small=1, stride=tail(rng, 60, 1 << 40), remainder=min(a.remainder, 3)))
    else:
        _change(
            rng, draft, lambda a: replace(a, kernel=1, dilation=tail(rng, 60, 1 << 40), remainder=min(a.remainder, a.stride - 1))
        )


def _flat(rng: random.Random, draft: Draft) -> None:
    """All axes but one are a single position under a single tap."""
    chosen = rng.choice((len(draft.axes) - 1, rng.randrange(len(draft.axes))))
    for i, a in enumerate(draft.axes):
        if i != chosen:
            draft.axes[i] = replace(a, small=1, kernel=1, lo=0, hi=0, remainder=0)
            draft.held.add(i)


def _many_channels(rng: random.Random, draft: Draft) -> None:
    side = rng.choice(("large", "small", "small", "large", "both"))
    for name in ("large", "small") if side == "both" else (side,):
        setattr(draft, name, tail(rng, 6, 700) if rng.random() < 0.6 else rng.randint(6, 700))
        draft.held.add(name)


def _block_channels(rng: random.Random, draft: Draft) -> None:
    draft.large, draft.small = rng.choice(BLOCKS), rng.choice(BLOCKS)
    draft.held |= {"large", "small"}


def _many_groups(rng: random.Random, draft: Draft) -> None:
    draft.groups = tail(rng, 2, 250)
    if rng.random() < 0.6:
        draft.large, draft.small = 1, rng.choice((1, 1, 1, 2, 3, 4))
    draft.held.add("groups")


def _large_batch(rng: random.Random, draft: Draft) -> None:
    draft.batch = tail(rng, 4, 90)
    draft.held.add("batch")


#: In the order in which they are applied: those that place padding around the others' numbers come behind them.
EXTREMES: dict[str, Callable[[random.Random, Draft], None]] = {
    "many channels": _many_channels,
    "block channels": _block_channels,
    "many groups": _many_groups,
    "large batch": _large_batch,
    "long kernel": _long_kernel,
    "unit kernel": _unit_kernel,
    "long dilation": _long_dilation,
    "long stride": _long_stride,
    "stride beyond kernel": _stride_beyond_kernel,
    "long axis": _long_axis,
    "one position": _one_position,
    "one output": _one_output,
    "flat": _flat,
    "long remainder": _long_remainder,
    "wide padding": _wide_padding,
    "one-sided padding": _one_sided_padding,
    "cut": _cut,
    "one input position": _one_input_position,
    "kernel beyond input": _kernel_beyond_input,
    "idle numbers": _idle_numbers,
}
_OF_CHANNELS = frozenset({"many channels", "block channels", "many groups", "large batch"})


def switch_on(rng: random.Random, draft: Draft) -> list[str]:
    """Switch on some extremes, mostly one to three, now and then nearly all; gives their names."""
    count = rng.choice((1, 1, 1, 2, 2, 2, 3, 3, 4, 6, len(EXTREMES) // 2, len(EXTREMES)))
    chosen = set(rng.sample(list(EXTREMES), count))
    if not draft.axes:
        chosen &= _OF_CHANNELS
    for name, change in EXTREMES.items():
        if name in chosen:
            change(rng, draft)
    return [name for name in EXTREMES if name in chosen]
