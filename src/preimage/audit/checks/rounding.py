"""Rounding cases: random reals, the error of every element in units of what a sum of n products may be off.

    unit[e] = gamma_n * sum |x||w|  (+ u_narrow * |result| where the dtype is narrower than its sums)

with the truth in float64 (for float64 in extended precision where the platform has it, else not measured). Above 1 no order
of summation explains the error: the subject is imprecise. A subject that sums in an order of its own and states a bound (`Subject.stated_bound`)
is held to that one instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from preimage.audit.case import RESULTS, Case
from preimage.audit.checks.base import Check, Operands, call, gamma
from preimage.audit.data import EPSILON, dtype_of, reals
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.oracle import Truth, operands
from preimage.audit.subjects.base import Subject

__all__ = ["Rounding"]

_KINDS = ("normal", "positive", "spread")
_WIDE = np.dtype(np.longdouble if np.finfo(np.longdouble).nmant > 60 else np.float64)


class Rounding(Check):
    """All four results in one dtype a case, on data that cancel, that do not, and that span ten binary orders."""

    name = "rounding"

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        dtypes = [d for d in subject.dtypes if d != "float64" or _WIDE.itemsize > 8]
        dtype = dtypes[rng.integers(len(dtypes))] if rng.random() < 0.6 else dtypes[0]
        kind = _KINDS[rng.integers(len(_KINDS))]
        if case.macs > 5_000_000:
            return
        for result in RESULTS:
            yield Trial(self.name, result, dtype, extra=(kind,))

    def data_key(self, trial: Trial) -> Any:
        return (trial.dtype, trial.extra)

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        rng = np.random.default_rng((seed, 0xF10A7))
        x, w, y = reals(case, rng, trial.dtype, str(trial.extra[0]))
        none = np.zeros(0)
        return Operands(case, x, w, y, none, none)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        got = call(subject, trial, ops, tally)
        if got is None or isinstance(got, Failure):
            return got
        tally.runs[self.name] += 1
        case, result, dtype = ops.case, trial.result, trial.dtype
        wide = _WIDE if dtype == "float64" else np.dtype(np.float64)
        truth = ops.derived("wide", lambda: Truth(case, *(a.astype(wide) for a in (ops.x, ops.w, ops.y))))[result]
        narrow = EPSILON[dtype] > EPSILON["float32"]
        # Who does not promise to sum narrow floats in float32 is measured by sums in the dtype itself.
        share = gamma(case.terms[result], dtype, sums_narrow=narrow and not subject.rounds_once)
        stated = subject.stated_bound(case, result, dtype, *operands(result, ops.x, ops.w, ops.y))
        bound = share * ops.magnitude[result] if stated is None else np.broadcast_to(stated, got.shape)
        if narrow:
            bound = bound + EPSILON[dtype] * np.abs(truth.astype(np.float64)) * (1 + share)
            bound = bound + float(np.finfo(np.float16).smallest_subnormal if dtype == "float16" else 0.0)
        error = np.abs(got.astype(wide) - truth).astype(np.float64)
        with np.errstate(all="ignore"):
            units = np.where(error == 0, 0.0, error / bound)
        units = np.where(np.isnan(units), np.inf, units)
        key = f"{dtype} {result}"
        at = int(units.argmax()) if units.size else 0
        where = f"{case} at {[int(i) for i in np.unravel_index(at, units.shape)]}" if units.size else ""
        tally.add_rounding(key, units, where)
        if float(units.max(initial=0.0)) <= 1:
            return None
        wrong = units > 1
        first = tuple(int(i) for i in np.unravel_index(at, units.shape))
        return Failure(
            "imprecise",
            f"{result} {dtype}: {int(wrong.sum())} of {wrong.size} elements beyond the a-priori bound; worst at {list(first)}:"
            f" got {got[first]}, true {truth[first]}, error {units[first]:.3g} bounds",
            got=got,
            want=truth.astype(dtype_of(dtype)),
            wrong=wrong,
        )
