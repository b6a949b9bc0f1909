"""Exact cases: integers whose sums are exact, so that any order of summation gives the same bits. No tolerance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from zlib import crc32

import numpy as np

from preimage.audit.case import RESULTS, Case
from preimage.audit.checks.base import Check, Operands, call, compare, gamma
from preimage.audit.coverage import contexts
from preimage.audit.data import EPSILON, LAYOUTS, PRECISION, amplitude, dtype_of, integers
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.oracle import Array, fingerprint, fold, operands
from preimage.audit.subjects.base import Subject

__all__ = ["Exact"]

#: Multiply-adds above which results are compared by fingerprint, at a cost that does not grow with channels.
FINGERPRINT_MACS = 20_000_000
#: How often one contraction is computed as larger work is too (`Subject.variants("schedules")`), which compiles kernels.
AS_LARGE = 0.08
AS_LARGE_IN_LONG_RUNS = 0.03


class Exact(Check):
    """All four results, with and without bias, in every dtype of the subject, in memory layouts drawn at random.

    brief: for long runs. One dtype a case, in float32 every other time; kernels that small cases of any sizes share, but for a few
    cases whose kernels are those of large work.
    """

    name = "exact"

    def __init__(self, *, brief: bool = False) -> None:
        self.brief = brief

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        others = [d for d in subject.dtypes if d != "float32"]
        dtypes = [d for d in ("float32",) if d in subject.dtypes]
        if others:
            dtypes.append(others[rng.integers(len(others))])
        if self.brief:
            dtypes = [dtypes[rng.integers(len(dtypes))]]
        few = ("few kernels:0",) if self.brief and subject.variants("few kernels") else ()
        large = ("schedules:0",) if subject.variants("schedules") else ()
        under = large if self.brief and rng.random() < AS_LARGE_IN_LONG_RUNS else few
        for dtype in dtypes:
            bits = PRECISION[dtype]
            if subject.rounds_once and dtype in ("float16", "bfloat16") and rng.random() < 0.5:
                bits = 15 if dtype == "float16" else 24  # sums that the result's dtype rounds, once
            for result in RESULTS:
                yield self._trial(subject, result, dtype, bits, under, rng)
        if not self.brief and large and rng.random() < AS_LARGE:
            threads = ("threads:1",) if subject.variants("threads") and rng.random() < 0.3 else ()
            result = RESULTS[rng.integers(3)]
            yield self._trial(subject, result, dtypes[0], PRECISION[dtypes[0]], large + threads, rng)

    def _trial(
        self, subject: Subject, result: str, dtype: str, bits: int, under: tuple[str, ...], rng: np.random.Generator
    ) -> Trial:  # fmt: skip
        layout = LAYOUTS[rng.integers(len(LAYOUTS))] if subject.any_strides and rng.random() < 0.5 else "contiguous"
        bias = result in ("conv", "conv_transpose") and bool(rng.random() < 0.5)
        return Trial(self.name, result, dtype, layout, bias, (bits, under))

    def data_key(self, trial: Trial) -> Any:
        return trial.extra[0]

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        rng = np.random.default_rng((seed, 0xE8AC7))
        bits = int(trial.extra[0])
        x, w, y = integers(case, rng, bits)
        top = max(amplitude(max(case.terms.values()), bits), 1)
        small, large = (rng.integers(-top, top + 1, n) for n in (case.out_channels, case.in_channels))
        return Operands(case, x, w, y, small, large)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        with contexts(subject, trial.extra[1] if len(trial.extra) > 1 else ()):
            got = call(subject, trial, ops, tally)
        if got is None or isinstance(got, Failure):
            return got
        tally.runs[self.name] += 1
        case, result = ops.case, trial.result
        if case.macs > FINGERPRINT_MACS and result != "bias_grad" and trial.dtype in ("float32", "float64"):
            return _by_fingerprint(got, trial, ops)
        want = ops.truth[result]
        if trial.bias:
            want = want + ops.bias(result).reshape(-1, *[1] * case.ndim)
        failure = compare(got, want.astype(np.float64).astype(dtype_of(trial.dtype)), result)
        if failure is None or subject.must_be_exact:
            return failure
        stated = subject.stated_bound(case, result, trial.dtype, *operands(result, ops.x, ops.w, ops.y))
        bound = gamma(case.terms[result] + 1, trial.dtype) * ops.magnitude[result] if stated is None else stated
        bound = bound + EPSILON[trial.dtype] * np.abs(want)
        with np.errstate(all="ignore"):
            units = np.abs(got.astype(np.float64) - want) / bound
        units = np.where(got == want, 0.0, np.where(np.isnan(units), np.inf, units))
        if float(units.max(initial=0.0)) <= 1:
            tally.add_inexact(f"{trial.dtype} {result}", float(units.max(initial=0.0)))
            return None
        return failure


def _by_fingerprint(got: Array, trial: Trial, ops: Operands) -> Failure | None:
    case, result = ops.case, trial.result
    whole = np.rint(got)
    sound = np.isfinite(got) & (whole == got) & (np.abs(got) <= 2.0 ** PRECISION[trial.dtype])
    if not sound.all():
        first = tuple(int(i) for i in np.argwhere(~sound)[0])
        return Failure(
            "wrong value", f"{result}: at {list(first)} got {got[first]}, which no sum of these integers is", got, None, ~sound
        )
    value = got.astype(np.int64)
    if trial.bias:
        value = value - ops.bias(result).reshape(-1, *[1] * case.ndim)
    seed = crc32(f"{case}{result}".encode())
    want = ops.derived(("fingerprint", result), lambda: fingerprint(case, result, ops.x, ops.w, ops.y, seed))
    bad = fold(case, result, value, seed) != want
    if not bad.any():
        return None
    first = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
    message = (
        f"{result}: the fingerprint over batch and channels differs at {int(bad.sum())} of {bad.size} places, first {list(first)}"
    )
    return Failure("wrong value", message, got, None, np.broadcast_to(bad, got.shape))
