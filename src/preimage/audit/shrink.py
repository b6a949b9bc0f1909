"""From a failure to the smallest one: first the geometry, then the data, as long as the same kind of failure stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from preimage.audit.axes import Axis, axes_of, with_axes
from preimage.audit.case import Case
from preimage.audit.checks.base import Check, Operands
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.subjects.base import Subject

__all__ = ["Shrunk", "shrink", "smaller_cases"]


@dataclass
class Shrunk:
    """The smallest failure found, and how often it came back when tried again."""

    trial: Trial
    operands: Operands
    failure: Failure
    seen: int
    tried: int


def _rebuilt(case: Case, axes: list[Axis]) -> Case | None:
    if not all(a.sound for a in axes):
        return None
    result = with_axes(case, axes)
    return None if case.is_conv and not result.is_conv else result


def _lower(value: int, least: int) -> Iterator[int]:
    """Smaller values to try: the least, the middle, one less."""
    for v in dict.fromkeys((least, (value + least) // 2, value - 1)):
        if least <= v < value:
            yield v


def smaller_cases(case: Case) -> Iterator[Case]:
    """Cases that are smaller in one respect, the boldest first."""
    base = case.with_(label="")
    axes = axes_of(base)
    for i in range(len(axes)):
        cut = _rebuilt(base.with_(**_dropped(base, i)), [a for j, a in enumerate(axes) if j != i])
        if cut is not None:
            yield cut
    for n in _lower(base.batch, 1):
        yield base.with_(batch=n)
    for g in _lower(base.groups, 1):
        yield base.with_(groups=g, in_channels=g * base.group_in, out_channels=g * base.group_out)
    for c in _lower(base.group_in, 1):
        yield base.with_(in_channels=base.groups * c)
    for c in _lower(base.group_out, 1):
        yield base.with_(out_channels=base.groups * c)
    for i, axis in enumerate(axes):
        for name, least in (("small", 1), ("kernel", 1), ("stride", 1), ("dilation", 1), ("lo", 0), ("hi", 0), ("remainder", 0)):
            for v in _lower(getattr(axis, name), least):
                changed = replace(axis, **{name: v})
                slack = max(changed.stride, changed.dilation)
                changed = replace(changed, remainder=min(changed.remainder, slack - 1))
                smaller = _rebuilt(base, [*axes[:i], changed, *axes[i + 1 :]])
                if smaller is not None:
                    yield smaller
        for both in _lower(min(axis.lo, axis.hi), 0):
            smaller = _rebuilt(base, [*axes[:i], replace(axis, lo=both, hi=both), *axes[i + 1 :]])
            if smaller is not None:
                yield smaller


def _dropped(case: Case, i: int) -> dict[str, Any]:
    names = ("input_size", "output_size", "kernel_size", "stride", "padding", "dilation")
    return {name: getattr(case, name)[:i] + getattr(case, name)[i + 1 :] for name in names}


class _Search:
    def __init__(self, check: Check, subject: Subject, trial: Trial, seed: int, severity: str, seconds: float) -> None:
        self.check, self.subject, self.trial, self.seed, self.severity = check, subject, trial, seed, severity
        self.until = time.monotonic() + seconds
        self.tally = Tally()  # what shrinking runs is not counted

    @property
    def late(self) -> bool:
        return time.monotonic() > self.until

    def attempt(self, trial: Trial, ops: Operands) -> Failure | None:
        try:
            failure = self.check.attempt(self.subject, trial, ops, self.tally)
        except Exception:  # a shrunk case that the check itself cannot pose is no failure of the subject
            return None
        return failure if failure is not None and failure.severity == self.severity else None

    def draw(self, trial: Trial, case: Case, tries: int) -> tuple[Operands, Failure] | None:
        for k in range(tries):
            ops = self.check.draw(case, trial, self.seed + k)
            failure = self.attempt(trial, ops)
            if failure is not None:
                return ops, failure
        return None


def shrink(
    check: Check, subject: Subject, trial: Trial, case: Case, seed: int, failure: Failure, *, seconds: float = 5.0
) -> Shrunk | None:
    """The smallest failure reachable by single steps; None if it does not come back at all in 60 tries."""
    search = _Search(check, subject, trial, seed, failure.severity, seconds)
    found = search.draw(trial, case, 1)
    tries = 3
    if found is None:  # it comes and goes: the data are not at fault, so ask again and again
        ops = check.draw(case, trial, seed)
        again = (search.attempt(trial, ops) for _ in range(60))
        came = next((f for f in again if f is not None), None)
        if came is None:
            return None
        found, tries = (ops, came), 60
    plain_settings = {"extra": (trial.extra[0], ())} if check.name == "exact" and len(trial.extra) > 1 else {}
    for simpler in ({"layout": "contiguous"}, {"bias": False}, {"dtype": "float32"}, plain_settings):
        plainer = replace(trial, **simpler)
        if plainer != trial and (smaller := search.draw(plainer, case, tries)) is not None:
            trial, found = plainer, smaller
    progress = True
    while progress and not search.late:
        progress = False
        for candidate in smaller_cases(found[0].case):
            if search.late:
                break
            smaller = search.draw(trial, candidate, tries)
            if smaller is not None:
                found, progress = smaller, True
                break
    ops, last = _plain_data(search, trial, *found)
    seen = sum(search.attempt(trial, _fresh(ops)) is not None for _ in range(10))
    return Shrunk(trial, ops, last, seen, 10)


def _fresh(ops: Operands) -> Operands:
    return Operands(ops.case, ops.x, ops.w, ops.y, ops.small_bias, ops.large_bias)


def _plain_data(search: _Search, trial: Trial, ops: Operands, failure: Failure) -> tuple[Operands, Failure]:
    """Set as many entries as possible to zero, in halves and then one by one, and the rest to 1."""
    for name in ("large_bias", "small_bias", "y", "w", "x"):
        values = getattr(ops, name)
        size = values.size
        chunk = max(size, 1)
        while chunk and not search.late:
            for first in range(0, size, chunk):
                if search.late:
                    break
                flat = getattr(ops, name).reshape(-1).copy()
                for plain in (0, 1):
                    part = flat[first : first + chunk]
                    if not np.any((part != plain) & (part != 0)) and (plain or not part.any()):
                        continue
                    changed = flat.copy()
                    changed[first : first + chunk] = np.where(part != 0, plain, part)
                    candidate = replace(_fresh(ops), **{name: changed.reshape(values.shape)})
                    if (again := search.attempt(trial, candidate)) is not None:
                        ops, failure = candidate, again
                        break
            chunk = chunk // 2 if chunk > 1 else 0
    return ops, failure
