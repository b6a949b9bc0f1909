"""Contract: the bits of a contraction against its executable definition, `preimage.contract`, which shares no code with the engines.

Each case is computed once by the definition, in plain NumPy with correctly rounded fused multiply-adds, and by the subject as it is, in
another memory layout, with other numbers of threads, little workspace, and now and then other vectors, caches and schedules.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from math import prod
from typing import Any

import numpy as np

from preimage import contract
from preimage.audit.case import Case
from preimage.audit.checks.base import Check, Operands
from preimage.audit.checks.bits import call_within, counted_difference
from preimage.audit.data import LAYOUTS, reals
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.oracle import Array
from preimage.audit.subjects.base import Subject

__all__ = ["Contract"]

#: The definition works term by term, float64 element by element in whole numbers: larger cases would take minutes.
MOST_TERMS, MOST_MACS, MOST_MACS_F64 = 3000, 4_000_000, 20_000


class Contract(Check):
    """One contraction a case, drawn at random among those whose order the subject promises, with its dtype."""

    name = "contract"

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        results = sorted(subject.sums_by_contract)
        if not results or not all((*case.x_shape, *case.y_shape)) or case.macs > MOST_MACS:
            return
        result = results[rng.integers(len(results))]
        if _steps(case, result) > MOST_TERMS:
            return
        dtypes = [d for d in subject.dtypes if d != "float64" or case.macs <= MOST_MACS_F64]
        dtype = dtypes[rng.integers(len(dtypes))] if rng.random() < 0.4 else dtypes[0]
        yield Trial(self.name, result, dtype, extra=("layout", "contiguous"))
        if subject.any_strides:
            yield Trial(self.name, result, dtype, extra=("layout", LAYOUTS[rng.integers(1, len(LAYOUTS))]))
        promises: tuple[str, ...] = ("threads", "tiling", *(("cpu", "caches", "schedules") if rng.random() < 0.1 else ()))
        for promise in promises:
            for i in range(len(subject.variants(promise))):
                yield Trial(self.name, result, dtype, extra=(promise, i))

    def data_key(self, trial: Trial) -> Any:
        return trial.dtype

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        x, w, y = reals(case, np.random.default_rng((seed, 0xC0)), trial.dtype)
        none = np.zeros(0)
        return Operands(case, x, w, y, none, none)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        circumstance, which = trial.extra
        plain = Trial(self.name, trial.result, trial.dtype, str(which) if circumstance == "layout" else "contiguous")
        what: str = f"layout {which!r}"
        context: Any = nullcontext
        if circumstance != "layout":
            what, context = subject.variants(str(circumstance))[int(which)]
        got = call_within(context, subject, plain, ops, tally)
        if got is None or isinstance(got, Failure):
            return got
        tally.runs[self.name] += 1
        want = ops.derived(("contract", trial.result), lambda: _definition(ops, trial))
        return counted_difference(want, got, f"the engine, against preimage.contract ({what}),", trial.result, "contract", tally)


def _steps(case: Case, result: str) -> int:
    """How many times the definition goes through its arrays."""
    return case.batch * prod(case.output_size) if result == "conv_weight_grad" else case.terms[result]


def _definition(ops: Operands, trial: Trial) -> Array:
    case = ops.case
    x, w, y = (a if a.dtype == np.float64 else a.astype(np.float32) for a in (ops.x, ops.w, ops.y))
    extra = _extra(case)
    options: dict[str, Any] = {"stride": case.stride, "dilation": case.dilation, "groups": case.groups}
    if trial.result == "conv_transpose":
        sums = contract.conv_transpose(y, w, padding=case.padding, output_padding=extra, **options)
    else:
        reached = [(lo, hi - more) for (lo, hi), more in zip(case.padding, extra, strict=True)]  # as far as the last window
        if trial.result == "conv":
            sums = contract.conv(x, w, padding=reached, **options)
        else:
            sums = contract.conv_weight_grad(x, y, case.kernel_size, padding=reached, **options)
    with np.errstate(all="ignore"):
        return sums.astype(ops.x.dtype)


def _extra(case: Case) -> tuple[int, ...]:
    """What the large side has beyond the smallest that gives this small side."""
    return tuple(
        n - ((m - 1) * s + (k - 1) * d + 1 - lo - hi)
        for n, m, s, k, d, (lo, hi) in zip(
            case.input_size, case.output_size, case.stride, case.kernel_size, case.dilation, case.padding, strict=True
        )
    )
