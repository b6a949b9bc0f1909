"""Geometries that others have met: of benchmarks, bug reports and networks. The generator walks near them, one number changed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from preimage.audit.axes import Axis
from preimage.audit.case import Case
from preimage.audit.draft import LIMITS, Draft, draft_of, fit, repaired, tail

__all__ = ["known_cases", "near", "near_case", "one_change"]


@cache
def known_cases() -> tuple[Case, ...]:
    """The geometries of known.json, with one image each."""
    data = json.loads(Path(__file__).with_name("known.json").read_text())
    return tuple(Case.from_json({"batch": 1, **dict(zip(data["fields"], row, strict=True))}) for row in data["rows"])


def near(rng: random.Random, case: Case) -> Draft:
    """A draft near a case: a few images, one number changed, now and then two."""
    draft = draft_of(case)
    draft.batch = rng.choice((1, 1, 2, 3))
    for _ in range(rng.choice((1, 1, 1, 2))):
        one_change(rng, draft)
    return draft


def near_case(case: Case, number: int, seed: int) -> Case:
    """Case number `number` near another: one number changed, now and then two, and as cheap as drawn cases are."""
    draft = near(random.Random(f"near {seed}:{number}:{case}"), case)
    fit(draft, LIMITS)
    return draft.case(f"near {case.label or case} {seed}:{number}")


def _other(rng: random.Random, value: int, least: int) -> int:
    """Another value of a field: a step, half, twice, the least, or one from a heavy tail."""
    choices = (value + 1, value - 1, value * 2, value // 2, least, tail(rng, max(least, 1), max(3 * value, 12)))
    return max(least, rng.choice(choices))


_Change = Callable[[random.Random, Axis], Axis]
_ON_AXES: tuple[_Change, ...] = (
    lambda rng, a: replace(a, small=_other(rng, a.small, 1)),
    lambda rng, a: replace(a, small=1),
    lambda rng, a: replace(a, kernel=_other(rng, a.kernel, 1)),
    lambda rng, a: replace(a, stride=_other(rng, a.stride, 1)),
    lambda rng, a: replace(a, dilation=_other(rng, a.dilation, 1)),
    lambda rng, a: replace(a, lo=_other(rng, a.lo, -2)),
    lambda rng, a: replace(a, hi=_other(rng, a.hi, -2)),
    lambda rng, a: replace(a, lo=a.hi, hi=a.lo),
    lambda rng, a: replace(a, lo=a.lo + 1, hi=a.hi - 1),
    lambda rng, a: replace(a, remainder=rng.randint(0, max(a.stride, a.dilation) - 1)),
    lambda rng, a: replace(a, stride=a.dilation, dilation=a.stride),
)  # fmt: skip


def one_change(rng: random.Random, draft: Draft) -> None:
    """Change one number of a draft, in place."""
    kind = rng.random()
    if not draft.axes or kind < 0.3:
        name: Any = rng.choice(("batch", "groups", "large", "small"))
        setattr(draft, name, _other(rng, getattr(draft, name), 1))
    elif kind < 0.35:
        draft.large, draft.small = draft.small, draft.large
    elif kind < 0.4 and len(draft.axes) > 1:
        rng.shuffle(draft.axes)
    else:
        i = rng.randrange(len(draft.axes))
        changed = rng.choice(_ON_AXES)(rng, draft.axes[i])
        if changed.remainder >= changed.stride:
            draft.forward = False
        draft.axes[i] = repaired(changed, draft.forward)
