"""What the checks share: operands drawn once for a case, a guarded call of a subject, comparison.

A check splits what it does into trials (what is asked), a draw (the data of a trial) and an attempt (run, compare). The
split is what lets a failure shrink: the same trial is attempted again on smaller cases and smaller data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.data import EPSILON, dtype_of, lay_out
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.oracle import Array, Truth, operands
from preimage.audit.subjects.base import REFUSALS, Fault, Subject

__all__ = ["Check", "Operands", "call", "compare", "few_images", "gamma"]


@dataclass
class Operands:
    """x, w, y and the two biases of a case, as integers or reals, with what was derived from them."""

    case: Case
    x: Array
    w: Array
    y: Array
    small_bias: Array
    large_bias: Array
    cache: dict[Any, Any] = field(default_factory=dict)

    @property
    def truth(self) -> Truth:
        """The oracle's results for x, w, y as they are."""
        return self.derived("truth", lambda: Truth(self.case, self.x, self.w, self.y))  # type: ignore[no-any-return]

    @property
    def magnitude(self) -> Truth:
        """The same sums over |x||w|, in float64: what rounding errors are measured by."""
        wide = (np.abs(np.asarray(a, np.float64)) for a in (self.x, self.w, self.y))
        return self.derived("magnitude", lambda: Truth(self.case, *wide))  # type: ignore[no-any-return]

    def derived(self, key: Any, make: Any) -> Any:
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def bias(self, result: str) -> Array:
        """The bias for the channels of that result."""
        return self.small_bias if result == "conv" else self.large_bias

    def arrays(self, result: str, dtype: str, layout: str) -> tuple[Array, ...]:
        """The operands of a result in a dtype and layout, read-only."""
        return tuple(
            self.derived((name, dtype, layout), lambda a=a: _freeze(lay_out(a.astype(dtype_of(dtype)), layout)))
            for name, a in zip(operands_names(result), operands(result, self.x, self.w, self.y), strict=True)
        )

    def bias_array(self, result: str, dtype: str) -> Array:
        return self.derived(("bias", result, dtype), lambda: _freeze(self.bias(result).astype(dtype_of(dtype))))  # type: ignore[no-any-return]


def operands_names(result: str) -> tuple[str, ...]:
    """The names of a result's operands, in order."""
    return {"conv": ("x", "w"), "conv_transpose": ("y", "w"), "conv_weight_grad": ("x", "y"), "bias_grad": ("y",)}[result]


def _freeze(a: Array) -> Array:
    a.flags.writeable = False
    return a


class Check:
    """One kind of question. `name` is what `--checks` takes."""

    name = ""
    #: Whether attempts must run in a process that may die.
    needs_child = False

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        """What to ask of the subject for this case."""
        raise NotImplementedError

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        """The data of a trial, by the seed."""
        raise NotImplementedError

    def data_key(self, trial: Trial) -> Any:
        """Trials with the same key have the same data, drawn once."""
        return trial

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        """Run the trial; None if all is well or the subject does not offer it."""
        raise NotImplementedError


def call(subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Array | Failure | None:
    """The subject's result, with shape, dtype and untouched inputs checked; None where it refuses openly."""
    case, result = ops.case, trial.result
    why = subject.refuses(case, result, trial.dtype)
    if isinstance(why, Fault):
        return Failure("crash", why)
    if why is not None:
        tally.refused[f"{result}: {why}"] += 1
        return None
    arrays = ops.arrays(result, trial.dtype, trial.layout)
    before = ops.derived(("bytes", result, trial.dtype, trial.layout), lambda: [a.tobytes() for a in arrays])
    bias = ops.bias_array(result, trial.dtype) if trial.bias else None
    try:
        got = subject.run(case, result, *arrays, bias=bias)
    except REFUSALS as reason:
        tally.refused[f"{result}: {reason}"] += 1
        return None
    except Exception as error:
        return Failure("crash", f"raised {type(error).__name__}: {str(error).strip()[:300]}")
    got = np.asarray(got)
    want = case.result_shape(result)
    if got.shape != want:
        return Failure("wrong value", f"shape {got.shape}, wanted {want}", got=got)
    if got.dtype != dtype_of(trial.dtype):
        return Failure("wrong value", f"dtype {got.dtype}, wanted {trial.dtype}", got=got)
    for a, was in zip(arrays, before, strict=True):
        if a.tobytes() != was:
            ops.cache.clear()
            return Failure("wrong value", "an input was written to", got=got)
        if a.size and got.size and np.may_share_memory(a, got) and np.shares_memory(a, got):
            return Failure("wrong value", "the result shares memory with an input", got=got)
    return got


def few_images(batch: int) -> list[int]:
    """The images of a batch that are looked at alone: all of a small one, of a large one both ends and some between."""
    return list(range(batch)) if batch <= 6 else sorted({0, 1, batch // 3, batch // 2, batch - 2, batch - 1})


def compare(got: Array, want: Array, what: str) -> Failure | None:
    """None if equal (NaN equals NaN, 0 equals -0); else a failure that counts and places the difference."""
    same = (got == want) | (np.isnan(got.astype(np.float64)) & np.isnan(want.astype(np.float64)))
    if bool(np.all(same)):
        return None
    wrong = ~same
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Failure(
        "wrong value",
        f"{what}: {int(wrong.sum())} of {wrong.size} elements differ; at {list(first)} got {got[first]}, wanted {want[first]}",
        got=got,
        want=want,
        wrong=wrong,
    )


def gamma(terms: int, dtype: str, *, sums_narrow: bool = False) -> float:
    """n*u / (1 - n*u): the a-priori bound of a sum of n products in units of sum |x||w| (Higham, Accuracy and Stability of
    Numerical Algorithms, 2002, section 3.1). Narrow floats are summed in float32, unless sums_narrow.
    """
    u = EPSILON[dtype] if dtype == "float64" or sums_narrow else EPSILON["float32"]
    n = max(terms, 1) * u
    return n / (1 - n) if n < 1 else float("inf")
