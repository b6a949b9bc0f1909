"""Memory: inputs flush against pages that fault, outputs and workspaces guarded and full of NaN, inputs compared afterwards.

Each contraction runs twice, with the guard behind the arrays ("end") and before them ("start"). Reading or writing one
element too far ends the process: it must be a child, and its death is the finding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from preimage.audit import guard
from preimage.audit.case import Case
from preimage.audit.checks.base import Check, Operands, compare, operands_names
from preimage.audit.checks.exact import Exact
from preimage.audit.data import PRECISION, dtype_of
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.subjects.base import REFUSALS, Subject

__all__ = ["Memory"]

_CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")


class Memory(Check):
    """One contraction a case, against both guards, in one dtype and in C order or channels-last."""

    name = "memory"
    needs_child = True

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        if guard.available() is not None or case.macs > 50_000_000:
            return
        dtype = subject.dtypes[rng.integers(len(subject.dtypes))] if rng.random() < 0.5 else subject.dtypes[0]
        result = _CONTRACTIONS[rng.integers(3)]
        layout = "channels_last" if subject.any_strides and rng.random() < 0.4 else "contiguous"
        bias = result != "conv_weight_grad" and bool(rng.random() < 0.5)
        for side in ("end", "start"):
            yield Trial(self.name, result, dtype, layout, bias, (side, PRECISION[dtype]))

    def data_key(self, trial: Trial) -> Any:
        return trial.extra[1]

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        return Exact().draw(case, Trial("exact", trial.result, trial.dtype, extra=(trial.extra[1],)), seed)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case, result, side = ops.case, trial.result, str(trial.extra[0])
        why = subject.refuses(case, result, trial.dtype)
        if why is not None:
            tally.refused[f"{result}: {why}"] += 1
            return None
        plain = ops.arrays(result, trial.dtype, trial.layout)
        arrays = [guard.placed(a, side) for a in plain]
        bias = guard.placed(ops.bias_array(result, trial.dtype), side) if trial.bias else None
        subject.forget_workspace()
        try:
            with guard.guarded_allocations(side):
                got = subject.run(case, result, *arrays, bias=bias)
            got = np.array(got)
            subject.forget_workspace()
        except REFUSALS as reason:
            tally.refused[f"{result}: {reason}"] += 1
            return None
        except Exception as error:
            return Failure("crash", f"raised {type(error).__name__}: {str(error).strip()[:300]}")
        tally.runs[self.name] += 1
        for name, a, was in zip(operands_names(result), arrays, plain, strict=True):
            if a.tobytes() != was.tobytes():
                return Failure("wrong value", f"{result} wrote to its input {name}")
        del arrays
        guard.release()
        want = ops.truth[result]
        if trial.bias:
            want = want + ops.bias(result).reshape(-1, *[1] * case.ndim)
        if got.shape != want.shape:
            return Failure("wrong value", f"shape {got.shape}, wanted {want.shape}", got=got)
        if not subject.must_be_exact:
            stale = np.isnan(got)
            if not stale.any():
                return None
            return Failure(
                "wrong value",
                f"{result} over fresh memory: {int(stale.sum())} elements hold what the memory held",
                got,
                None,
                stale,
            )
        return compare(got, want.astype(np.float64).astype(dtype_of(trial.dtype)), f"{result} over fresh memory full of NaN")
