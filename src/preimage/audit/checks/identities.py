"""Identities: what must hold between the results of one subject, whatever computes them. Integers, so equality is exact.

dot       <y, conv(x, w)> = <conv_transpose(y, w), x> = <conv_weight_grad(x, y), w>
linear    conv(2 x1 - 3 x2, w) = 2 conv(x1, w) - 3 conv(x2, w), and the same in every argument of all three
shift     x moved by the stride moves y by one
batch     every image alone gives its part; groups: every group alone gives its part
bias      adds one number per channel and nothing else
gradients y and the gradients in x, w, b by automatic differentiation are the three contractions and the sum
double    gradients of gradients, from the trilinear form
epilogue  bias, then residual, then activation
prepared  the same with weights packed beforehand, and as a call that was bound beforehand
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.checks.base import Check, Operands, call, compare, few_images
from preimage.audit.data import EPSILON, LAYOUTS, PRECISION, amplitude, dtype_of, integers, lay_out
from preimage.audit.findings import Failure, Tally, Trial
from preimage.audit.oracle import Array, contract, operands
from preimage.audit.subjects.base import REFUSALS, Refused, Subject

__all__ = ["Identities"]

_PLAIN = ("dot", "linear", "shift", "batch", "groups", "bias")
_CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")
_LARGEST = 1 << 20  # elements that a move by the stride may add


class _Stop(Exception):  # noqa: N818 - carries a failure (or a refusal) out of an identity
    def __init__(self, failure: Failure | None) -> None:
        super().__init__()
        self.failure = failure


class Identities(Check):
    """Two identities of the plain ones a case, and those through automatic differentiation where the subject has it."""

    name = "identities"

    def trials(self, subject: Subject, case: Case, rng: np.random.Generator) -> Iterable[Trial]:
        if case.macs > 5_000_000:
            return
        for k in rng.permutation(len(_PLAIN))[:2]:
            yield Trial(self.name, _CONTRACTIONS[rng.integers(3)], subject.dtypes[0], extra=(_PLAIN[k],))
        if case.is_conv:
            for which in sorted(subject.differentiates):
                if rng.random() < 0.5:
                    yield Trial(self.name, "conv", subject.dtypes[0], extra=(which,))
        if subject.takes_epilogue and rng.random() < 0.5:
            dtype = subject.dtypes[rng.integers(len(subject.dtypes))]
            result = _CONTRACTIONS[rng.integers(2)]
            kind = ("relu", "leaky_relu", "clip", None)[rng.integers(4)]
            layouts = LAYOUTS if subject.any_strides else LAYOUTS[:1]
            layout, other = (layouts[rng.integers(len(layouts)) if rng.random() < 0.5 else 0] for _ in range(2))
            residual = other if rng.random() < 0.6 else ""
            yield Trial(self.name, result, dtype, layout, extra=("epilogue", kind, bool(rng.random() < 0.6), residual))
        if subject.takes_prepared and rng.random() < 0.3:
            dtype = subject.dtypes[rng.integers(len(subject.dtypes))]
            how = ("packed", "bound", "bound, with a chain")[rng.integers(3)]
            yield Trial(self.name, _CONTRACTIONS[rng.integers(2)], dtype, extra=("prepared", how, bool(rng.random() < 0.4)))

    def data_key(self, trial: Trial) -> Any:
        return trial.extra[0] in ("epilogue", "prepared") and trial.dtype

    def draw(self, case: Case, trial: Trial, seed: int) -> Operands:
        rng = np.random.default_rng((seed, 0x1DE1))
        epilogue = trial.extra[0] in ("epilogue", "prepared")
        bits = PRECISION[trial.dtype] - (3 if epilogue else 4)  # room for factors of 2 and 3, a residual, a slope of 1/4
        bits = bits if epilogue or trial.dtype != "float32" else 20
        x, w, y = integers(case, rng, bits)
        top = max(amplitude(max(case.terms.values()), bits), 1)
        small, large = (rng.integers(-top, top + 1, n) for n in (case.out_channels, case.in_channels))
        return Operands(case, x, w, y, small, large)

    def attempt(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        try:
            failure = getattr(self, f"_{trial.extra[0]}")(subject, trial, ops, tally)
        except _Stop as stop:
            return stop.failure
        except REFUSALS as reason:
            tally.refused[f"{trial.extra[0]}: {reason}"] += 1
            return None
        tally.runs[self.name] += 1
        if failure is not None:
            failure.message = f"identity {trial.extra[0]!r}: {failure.message}"
        return failure  # type: ignore[no-any-return]

    # Each of these gives None, or the failure.

    def _dot(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        _need_all(subject, trial, ops)
        others = {"conv": ops.y, "conv_transpose": ops.x, "conv_weight_grad": ops.w}
        found = {r: _inner(_run(subject, trial, ops, tally, r), others[r]) for r in _CONTRACTIONS}
        if len(set(found.values())) == 1:
            return None
        return Failure("wrong value", ", ".join(f"{r} gives {v}" for r, v in found.items()))

    def _linear(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case, result = ops.case, trial.result
        name = {"conv": "x", "conv_transpose": "w", "conv_weight_grad": "y"}[result]
        first = getattr(ops, name)
        second = np.random.default_rng(first.size).permutation(first.reshape(-1)).reshape(first.shape)
        if np.abs(first).max(initial=0) == 1 and (first == 0).any():
            second = first[..., ::-1] if case.ndim else first  # thinned data: keep what each channel sums
        parts = [_run(subject, trial, _with(ops, **{name: v}), tally) for v in (first, second, 2 * first - 3 * second)]
        return compare(parts[2], 2 * parts[0] - 3 * parts[1], f"linear in {name}")

    def _shift(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case = ops.case
        if not case.ndim or not all(case.x_shape) or subject.refuses(case, "conv", trial.dtype):
            raise Refused("no axis to move along")
        axis = case.ndim - 1
        if prod(case.x_shape[:-1]) * case.stride[axis] > _LARGEST:
            raise Refused("a stride too long to move along")
        grown = list(case.input_size)
        grown[axis] += case.stride[axis]
        more = list(case.output_size)
        more[axis] += 1
        wide = case.with_(input_size=tuple(grown), output_size=tuple(more))
        zeros = np.zeros((*case.x_shape[:-1], case.stride[axis]), ops.x.dtype)
        moved = Operands(
            wide, np.concatenate([zeros, ops.x], axis=-1), ops.w, np.zeros(wide.y_shape, np.int64), ops.small_bias, ops.large_bias
        )
        return compare(
            _run(subject, trial, moved, tally, "conv")[..., 1:], _run(subject, trial, ops, tally, "conv"), "moved by the stride"
        )

    def _batch(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        whole, parts = _run(subject, trial, ops, tally), []
        images = range(ops.case.batch) if trial.result == "conv_weight_grad" else few_images(ops.case.batch)
        for n in images:
            one = _with(ops, case=ops.case.with_(batch=1), x=ops.x[n : n + 1], y=ops.y[n : n + 1])
            parts.append(_run(subject, trial, one, tally))
        if trial.result == "conv_weight_grad":
            return compare(whole, sum(parts, np.zeros_like(whole)), "images summed")
        return compare(whole[list(images)], np.concatenate([whole[:0], *parts]), "images alone")

    def _groups(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case = ops.case
        whole, parts = _run(subject, trial, ops, tally), []
        one = case.with_(groups=1, in_channels=case.group_in, out_channels=case.group_out)
        for g in range(min(case.groups, 4)):
            large, small = slice(g * case.group_in, (g + 1) * case.group_in), slice(g * case.group_out, (g + 1) * case.group_out)
            alone = _with(ops, case=one, x=ops.x[:, large], w=ops.w[small], y=ops.y[:, small])
            parts.append(_run(subject, trial, alone, tally))
        axis = 0 if trial.result == "conv_weight_grad" else 1
        together = np.concatenate(parts, axis=axis)
        return compare(np.take(whole, range(together.shape[axis]), axis=axis), together, "groups alone")

    def _bias(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        if trial.result == "conv_weight_grad":
            raise Refused("weight gradients take no bias")
        with_bias = Trial(trial.check, trial.result, trial.dtype, bias=True)
        added = _run(subject, with_bias, ops, tally) - _run(subject, trial, ops, tally)
        want = np.broadcast_to(ops.bias(trial.result).reshape(-1, *[1] * ops.case.ndim), added.shape)
        return compare(added, want.astype(added.dtype), "what the bias adds")

    def _gradients(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case = ops.case
        _need_all(subject, trial, ops)
        bias = ops.bias_array("conv", trial.dtype)
        x, w = ops.arrays("conv", trial.dtype, "contiguous")
        (gy,) = ops.arrays("bias_grad", trial.dtype, "contiguous")
        found = _guarded(lambda: subject.gradients(case, x, w, bias, gy))
        want = [
            ops.truth["conv"] + ops.small_bias.reshape(-1, *[1] * case.ndim),
            *(ops.truth[r] for r in _CONTRACTIONS[1:]),
            ops.truth["bias_grad"],
        ]
        for name, got, true in zip(("y", "grad_x", "grad_w", "grad_b"), found, want, strict=True):
            if (failure := _checked(got, true, name)) is not None:
                return failure
        return None

    def _double_backward(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case, dtype = ops.case, dtype_of(trial.dtype)
        _need_all(subject, trial, ops)
        # <grad_x, vx> + <grad_w, vw> = T(vx, w, gy) + T(x, vw, gy), with T(x, w, y) = <y, conv(x, w)>
        vx, vw = ops.x[..., ::-1], ops.w[::-1]
        arrays = [np.ascontiguousarray(a.astype(dtype)) for a in (ops.x, ops.w, ops.y, vx, vw)]
        found = _guarded(lambda: subject.double_backward(case, *arrays))
        want = (
            contract(case, "conv_transpose", ops.y, np.ascontiguousarray(vw)),
            contract(case, "conv_weight_grad", np.ascontiguousarray(vx), ops.y),
            contract(case, "conv", vx, ops.w) + contract(case, "conv", ops.x, vw),
        )
        for name, got, true in zip(("in x", "in w", "in gy"), found, want, strict=True):
            if (failure := _checked(got, true, f"second derivative {name}")) is not None:
                return failure
        return None

    def _epilogue(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case, result, dtype = ops.case, trial.result, dtype_of(trial.dtype)
        _, kind, with_bias, residual_layout = trial.extra
        if subject.refuses(case, result, trial.dtype):
            raise Refused("refused")
        want = ops.truth[result].astype(np.float64)
        given: dict[str, Any] = {"activation": kind}
        if with_bias:
            given["bias"] = ops.bias_array(result, trial.dtype)
            want = want + ops.bias(result).reshape(-1, *[1] * case.ndim)
        if residual_layout:
            top = max(int(np.abs(ops.bias(result)).max(initial=1)), 1)
            residual = np.random.default_rng(want.size).integers(-top, top + 1, want.shape)
            given["residual"] = lay_out(residual.astype(dtype), residual_layout)
            want = want + residual
        if kind == "relu":
            want = np.maximum(want, 0)
        elif kind == "leaky_relu":
            given["slope"] = 0.25
            want = np.where(want < 0, 0.25 * want, want)
        elif kind == "clip":
            given.update(lo=-3.0, hi=5.0)
            want = np.clip(want, -3, 5)
        arrays = ops.arrays(result, trial.dtype, trial.layout)
        got = _guarded(lambda: subject.run_epilogue(case, result, *arrays, **given))
        return compare(_quarters(subject, trial, ops, got), want.astype(dtype), f"{result} with {', '.join(given)}")

    def _prepared(self, subject: Subject, trial: Trial, ops: Operands, tally: Tally) -> Failure | None:
        case, result, dtype = ops.case, trial.result, dtype_of(trial.dtype)
        _, how, with_residual = trial.extra
        if subject.refuses(case, result, trial.dtype):
            raise Refused("refused")
        want = ops.truth[result].astype(np.float64) + ops.bias(result).reshape(-1, *[1] * case.ndim)
        given: dict[str, Any] = {"bias": ops.bias_array(result, trial.dtype)}
        if with_residual:
            given["residual"] = np.random.default_rng(want.size).integers(-1, 2, want.shape).astype(dtype)
            want = want + given["residual"].astype(np.float64)
        if how == "bound, with a chain":
            want = 2 * want
        a, w = ops.arrays(result, trial.dtype, "contiguous")
        got = _guarded(lambda: subject.run_prepared(case, result, a, w, how, **given))
        return compare(_quarters(subject, trial, ops, got), want.astype(dtype), f"{result}, weights {how}")


def _need_all(subject: Subject, trial: Trial, ops: Operands) -> None:
    """Raises: Refused, unless the subject takes all three contractions of this case, as gradients of conv ask for."""
    if any(subject.refuses(ops.case, r, trial.dtype) for r in _CONTRACTIONS):
        raise Refused("not all three contractions")


def _with(ops: Operands, **changes: Any) -> Operands:
    values = {n: changes.get(n, getattr(ops, n)) for n in ("case", "x", "w", "y", "small_bias", "large_bias")}
    return Operands(**values)


def _run(subject: Subject, trial: Trial, ops: Operands, tally: Tally, result: str | None = None) -> Array:
    asked = Trial(trial.check, result or trial.result, trial.dtype, bias=trial.bias)
    got = call(subject, asked, ops, tally)
    if got is None or isinstance(got, Failure):
        raise _Stop(got)
    if not subject.must_be_exact:  # an algorithm that is not exact on integers is measured elsewhere
        if not np.isfinite(got).all():
            return got
        near = np.rint(got)
        slack = 64 * EPSILON[trial.dtype] * max(ops.case.terms[asked.result], 16)
        stated = _stated(subject, asked, ops)
        if np.all(np.abs(got - near) <= (slack * ops.magnitude[asked.result] if stated is None else stated) + 1e-30):
            return near
    return got


def _stated(subject: Subject, trial: Trial, ops: Operands) -> Array | None:
    return subject.stated_bound(ops.case, trial.result, trial.dtype, *operands(trial.result, ops.x, ops.w, ops.y))


def _quarters(subject: Subject, trial: Trial, ops: Operands, got: Any) -> Array:
    """A result whose true values are multiples of 1/4: rounded to them, where a subject that is not exact is within the bound that it states."""
    stated = _stated(subject, trial, ops)
    if stated is None:
        return np.asarray(got)
    wide = np.asarray(got, np.float64)
    near = np.rint(4 * wide) / 4
    return np.where(np.abs(wide - near) <= 2 * stated + 2 * EPSILON[trial.dtype] * np.abs(wide), near, wide).astype(got.dtype)


def _inner(a: Array, b: Array) -> int | float:
    """<a, b> in integers; a float only where a is no array of integers, and then it can equal nothing."""
    whole = np.rint(a.astype(np.float64))
    if not np.array_equal(whole, a.astype(np.float64)):
        return float((a.astype(np.float64) * b).sum())
    return int((whole.astype(np.int64) * b).sum())


def _guarded(function: Any) -> Any:
    try:
        return function()
    except REFUSALS:
        raise
    except Exception as error:
        raise _Stop(Failure("crash", f"raised {type(error).__name__}: {str(error).strip()[:300]}")) from error


def _checked(got: Any, want: Array, name: str) -> Failure | None:
    a = np.asarray(got)
    if a.shape != want.shape:
        return Failure("wrong value", f"{name} has shape {a.shape}, wanted {want.shape}", got=a)
    return compare(a, want.astype(a.dtype), name)
