"""Bits: the same call in other circumstances, compared bit for bit.

What an engine promises (preimage.engines.base.PROMISES) must hold: "repeat" (again), "batch" (an image alone, and the same
image elsewhere in a batch), "layout" (memory order and alignment), "threads", "tiling" and "cpu" (settings that the subject
names itself; "schedules" are what it would take for larger work, "tiles" tiles other than its own: "tiling" too; "caches" are a machine
with small ones: "cpu" too). What it does not promise is counted and reported, and is no finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.checks.base import Check, Operands, call, few_images
from preimage.audit.data import LAYOUTS, reals
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.oracle import Array
from preimage.audit.subjects.base import REFUSALS, Subject

__all__ = ["Bits", "Repeat", "bit_difference", "call_within", "counted_difference"]

_CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")
#: Settings of `Subject.variants` that a promise of another name holds for.
_PART_OF = {"schedules": "tiling", "tiles": "tiling", "caches": "cpu"}


def _same_bits(a: Array, b: Array) -> Array:
    """Where two arrays hold the same bits (any NaN equals any NaN)."""
    kind = np.dtype(f"u{a.dtype.itemsize}")
    return np.asarray((a.view(kind) == b.view(kind)) | (np.isnan(a) & np.isnan(b)))


def bit_difference(a: Array, b: Array, what: str, result: str) -> Failure | None:
    """None if all bits are the same; else a failure that counts and places the difference."""
    same = _same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b))
    if same.all():
        return None
    wrong = ~same
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Failure(
        "wrong bits",
        f"{result}: {what} changes {int(wrong.sum())} of {wrong.size} elements; at {list(first)} {a[first]!r} became {b[first]!r}",
        got=b,
        want=a,
        wrong=wrong,
    )


def counted_difference(want: Array, got: Array, what: str, result: str, promise: str, tally: Tally) -> Failure | None:
    """`bit_difference`, with the elements that were compared and that differ counted under a promise."""
    failure = bit_difference(want, got, what, result)
    tally.add_bits(promise, want.size, 0 if failure is None or failure.wrong is None else int(failure.wrong.sum()))
    return failure


def call_within(
    context: Callable[[], AbstractContextManager[Any]], subject: Subject, trial: Trial, ops: Operands, tally: Tally
) -> Array | Failure | None:  # fmt: skip
    """`call` under settings that the subject may refuse."""
    try:
        with context():
            return call(subject, trial, ops, tally)
    except REFUSALS as reason:
        tally.refused[f"{trial.result}: {reason}"] += 1
        return None


class Bits(Check):
    """One contraction a case, drawn at random with its dtype, under every circumstance."""

    name = "bits"

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        dtypes = subject.dtypes
        dtype = dtypes[rng.integers(len(dtypes))] if rng.random() < 0.4 else dtypes[0]
        result = _CONTRACTIONS[rng.integers(3)]
        if not all((*case.x_shape, *case.y_shape)) or case.macs > 20_000_000:
            return
        yield Trial(self.name, result, dtype, extra=("repeat", 0))
        if result != "conv_weight_grad":
            yield Trial(self.name, result, dtype, extra=("batch", 0))
            yield Trial(self.name, result, dtype, extra=("batch", 1))
        if subject.any_strides:
            for layout in LAYOUTS[1:]:
                yield Trial(self.name, result, dtype, extra=("layout", layout))
        promises: tuple[str, ...] = ("threads", "tiling")
        if rng.random() < 0.2:  # other vectors, other schedules: all compiled anew
            promises += ("cpu", "caches", "schedules", *(("tiles",) if rng.random() < 0.2 else ()))
        for promise in promises:
            for i in range(len(subject.variants(promise))):
                yield Trial(self.name, result, dtype, extra=(promise, i))

    def data_key(self, trial: Trial) -> Any:
        return trial.dtype

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        rng = np.random.default_rng((seed, 0xB175))
        x, w, y = reals(case, rng, trial.dtype)
        none = np.zeros(0)
        return Operands(case, x, w, y, none, none)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        plain = Trial(self.name, trial.result, trial.dtype)
        base = ops.derived(("base", subject.name, trial.result), lambda: call(subject, plain, ops, tally))
        if base is None or isinstance(base, Failure):
            return None if trial.extra[0] != "repeat" else base
        promise, which = trial.extra
        what = promise
        if promise == "batch":
            images = few_images(ops.case.batch) if which == 0 else range(ops.case.batch)
            base = base[list(images)]
            other: Any = _batched(subject, trial, ops, images, int(which), tally)
            what = "being alone in the batch" if which == 0 else "another place in the batch"
        elif promise == "layout":
            other = call(subject, Trial(self.name, trial.result, trial.dtype, str(which)), ops, tally)
            what = f"the layout {which!r}"
        else:
            what, context = ("a second run", nullcontext) if promise == "repeat" else subject.variants(promise)[int(which)]
            other = call_within(context, subject, plain, ops, tally)
        if other is None or isinstance(other, Failure):
            return other
        tally.runs[self.name] += 1
        promise = _PART_OF.get(promise, promise)
        failure = counted_difference(base, other, what, trial.result, promise, tally)
        return failure if promise in subject.promises else None


def _batched(
    subject: Subject, trial: Trial, ops: Operands, images: Sequence[int], which: int, tally: Tally
) -> Array | Failure | None:  # fmt: skip
    """The result put together from images alone (0), or from the middle of a larger batch of other images (1)."""
    case, plain = ops.case, Trial(trial.check, trial.result, trial.dtype)
    none = np.zeros(0)
    if which == 0:
        parts = []
        for n in images:
            alone = Operands(case.with_(batch=1), ops.x[n : n + 1], ops.w, ops.y[n : n + 1], none, none)
            part = call(subject, plain, alone, tally)
            if part is None or isinstance(part, Failure):
                return part
            parts.append(part)
        return np.concatenate(parts)
    x, y = (np.concatenate([a[-1:] * a.dtype.type(2), a, a[:1] * a.dtype.type(3)]) for a in (ops.x, ops.y))
    more = Operands(case.with_(batch=case.batch + 2), x, ops.w, y, none, none)
    got = call(subject, plain, more, tally)
    return got[1:-1] if isinstance(got, np.ndarray) else got


class Repeat(Check):
    """The same call 60 times, every result against the first: races show now and then. One case in sixteen."""

    name = "repeat"
    times = 60

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        draw, result = rng.integers(16), _CONTRACTIONS[rng.integers(3)]
        if draw == 0 and all((*case.x_shape, *case.y_shape)):
            yield Trial(self.name, result, subject.dtypes[0])

    def data_key(self, trial: Trial) -> Any:
        return trial.dtype

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        return Bits().draw(case, trial, seed)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        contexts: list[Any] = [(None, nullcontext), *subject.variants("threads")]
        base: Any = None
        for k in range(self.times):
            name, context = contexts[k % len(contexts)]
            try:
                with context():
                    got = call(subject, trial, ops, tally)
            except REFUSALS:
                continue
            if got is None or isinstance(got, Failure):
                return got
            if base is None:
                base = got
                continue
            what = f"run {k + 1} of the same call" + (f" ({name})" if name else "")
            failure = bit_difference(base, got, what, trial.result)
            tally.add_bits("repeat", base.size, 0 if failure is None or failure.wrong is None else int(failure.wrong.sum()))
            if failure is not None and ("repeat" in subject.promises or not _is_rounding(base, got, ops, trial)):
                return failure
        tally.runs[self.name] += 1
        return None


def _is_rounding(a: Array, b: Array, ops: Operands, trial: Trial) -> bool:
    """Whether two results differ by no more than two orders of summation may."""
    from preimage.audit.checks.base import gamma

    bound = 2 * gamma(ops.case.terms[trial.result], trial.dtype) * ops.magnitude[trial.result]
    return bool(np.all(np.abs(a.astype(np.float64) - b.astype(np.float64)) <= bound))
