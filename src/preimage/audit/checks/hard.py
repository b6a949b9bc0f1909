"""Hard values: NaN and infinity reach the outputs that the definition says and no other; magnitudes at the ends stay exact.

Integers times a power of two are as exact as integers, as long as no result leaves the range. So scales that make the data,
the products or the results denormal, huge or tiny leave nothing to a tolerance: flushing to zero anywhere shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.checks.base import Check, Operands, call, compare
from preimage.audit.coverage import contexts
from preimage.audit.data import LAYOUTS, PRECISION, dtype_of, integers
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.oracle import contract
from preimage.audit.subjects.base import Subject

__all__ = ["Hard"]

_CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")
#: Powers of two for the first and the second operand: their sum scales the result, and must keep it in range.
_SCALES = {
    "float32": ((100, -100), (60, 40), (-70, -70), (-149, 0), (0, -149), (-120, -29)),
    "float64": ((900, -900), (500, 400), (-500, -500), (-1074, 0), (0, -1074)),
    "float16": ((-24, 0), (-12, -12), (4, 0), (0, -24)),
    "bfloat16": ((100, -100), (60, 40), (-133, 0), (0, -133), (-60, -70)),
}
_KINDS = ("nan", "inf", "mixed", "overflow", "negative zero", "scale", "scale")
_NAMES = {"conv": ("x", "w"), "conv_transpose": ("y", "w"), "conv_weight_grad": ("x", "y")}
_LARGEST = {"float32": 127, "float64": 1023, "float16": 15, "bfloat16": 127}


class Hard(Check):
    """One kind of hard value a case, for each contraction."""

    name = "hard"

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        if case.macs > 5_000_000:
            return
        kind = _KINDS[rng.integers(len(_KINDS))]
        dtype = subject.dtypes[rng.integers(len(subject.dtypes))] if rng.random() < 0.5 else subject.dtypes[0]
        scale = _SCALES[dtype][rng.integers(len(_SCALES[dtype]))] if kind == "scale" else (0, 0)
        for result in _CONTRACTIONS:
            layout = LAYOUTS[rng.integers(len(LAYOUTS))] if subject.any_strides and rng.random() < 0.3 else "contiguous"
            yield Trial(self.name, result, dtype, layout, extra=(kind, *scale, int(rng.integers(1 << 30))))

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        kind, first, second, salt = trial.extra[:4]
        rng = np.random.default_rng((seed, int(salt), 0x4A4D))
        dtype, result = trial.dtype, trial.result
        wide: Any = np.longdouble if dtype == "float64" else np.float64
        arrays = dict(zip("xwy", (a.astype(wide) for a in integers(case, rng, PRECISION[dtype])), strict=True))
        one, two = _NAMES[result]
        if kind == "scale":
            arrays[one], arrays[two] = np.ldexp(arrays[one], int(first)), np.ldexp(arrays[two], int(second))
        elif kind == "negative zero":
            arrays[one] = np.where(rng.random(arrays[one].shape) < 0.7, -0.0, 0.0).astype(wide)
        elif kind == "overflow":
            arrays[one] = np.zeros_like(arrays[one])
            _put(rng, arrays[one], 1, (2.0 ** _LARGEST[dtype],))
            arrays[two] = np.where(arrays[two] < 0, -4.0, 4.0).astype(wide)
        else:
            for name in (one, two):  # zeros opposite to them: 0 * inf is NaN, and who skips zeros loses it
                arrays[name][rng.random(arrays[name].shape) < 0.3] = 0
            values = {"nan": (np.nan,), "inf": (np.inf, -np.inf), "mixed": (np.nan, np.inf, -np.inf)}[str(kind)]
            _put(rng, arrays[one if rng.random() < 0.5 else two], int(rng.integers(1, 3)), values)
            if kind == "mixed":
                _put(rng, arrays[one], 1, values)
                _put(rng, arrays[two], 1, values)
        none = np.zeros(0)
        with np.errstate(all="ignore"):
            x, w, y = (arrays[k].astype(dtype_of(dtype)) for k in "xwy")
        return Operands(case, x, w, y, none, none)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        with np.errstate(all="ignore"):
            with contexts(subject, trial.extra[4] if len(trial.extra) > 4 else ()):
                got = call(subject, trial, ops, tally)
            if got is None or isinstance(got, Failure):
                return got
            tally.runs[self.name] += 1
            case, result, dtype = ops.case, trial.result, dtype_of(trial.dtype)
            wide: Any = np.longdouble if trial.dtype == "float64" else np.float64
            arrays = [a.astype(wide) for a in _pair(ops, result)]
            full = contract(case, result, *arrays).astype(dtype)
            what = f"{result} with {trial.extra[0]}"
            if subject.stated_bound(case, result, trial.dtype, *_pair(ops, result)) is not None:
                return _none_lost(got, full, what) if trial.extra[0] in ("nan", "inf", "mixed") else None
            if result == "conv_transpose" or trial.extra[0] in ("scale", "negative zero", "overflow"):
                return compare(got, full, what)
            part = contract(case, result, *arrays, inside=True).astype(dtype)
            rule = subject.padding_takes_part
            if rule is not None:
                return compare(got, full if rule else part, what)
            both = compare(full, part, "") is None
            like_full, like_part = compare(got, full, what), compare(got, part, what)
            if not both and (like_full is None or like_part is None):
                tally.conventions["padding takes part" if like_full is None else "padding left out"] += 1
            if like_full is None or like_part is None:
                return None
            mixed = np.where(_equal(got, full), full, part)  # some kernels of the subject one way, some the other
            return compare(got, mixed, what)


def _none_lost(got: Any, full: Any, what: str) -> Failure | None:
    """Of an algorithm that works in blocks: NaN and infinity reach at least what the definition sends them to."""
    lost = np.isfinite(got) & ~np.isfinite(full)
    if not lost.any():
        return None
    return Failure(
        "wrong value", f"{what}: {int(lost.sum())} of {lost.size} elements are finite that must not be", got, full, lost
    )


def _pair(ops: Operands, result: str) -> tuple[Any, Any]:
    return {"conv": (ops.x, ops.w), "conv_transpose": (ops.y, ops.w), "conv_weight_grad": (ops.x, ops.y)}[result]


def _equal(a: Any, b: Any) -> Any:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _put(rng: np.random.Generator, a: Any, count: int, values: tuple[float, ...]) -> None:
    flat = a.reshape(-1)
    for _ in range(count if flat.size else 0):
        flat[rng.integers(flat.size)] = values[rng.integers(len(values))]
