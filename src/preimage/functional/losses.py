"""Losses with torch's arguments; the losses themselves are those of preimage.ops.losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, array_of
from preimage.errors import OptionError, ShapeError
from preimage.functional.checks import reduction_of
from preimage.ops import losses
from preimage.ops.operands import flag_of, number_of, operand
from preimage.typing import Integers, LossReduction, Operand, Value

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "kl_div", "l1_loss", "mse_loss", "nll_loss",
    "smooth_l1_loss",
]  # fmt: skip


def cross_entropy(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """-log softmax(input) at the target: input (N, classes, *) or (classes,), target of integers, or of probabilities as input."""
    options: Any = {
        "weight": weight, "ignore_index": ignore_index, "label_smoothing": label_smoothing,
        "reduction": reduction_of("cross_entropy", size_average, reduce, reduction),
    }  # fmt: skip
    x: Any = operand(input, "input")
    if x.ndim == 1:
        held: Any = target if isinstance(target, Tensor) else np.asarray(target)
        found: Any = losses.cross_entropy(x[None], held[None], **options)
        return found[0] if found.ndim else found  # type: ignore[no-any-return]
    return losses.cross_entropy(x, target, **options)


def nll_loss(
    input: Operand,
    target: Integers,
    weight: Operand | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Value:
    """-input at the target: input (N, classes, *) of log probabilities, target (N, *) of integers."""
    how = reduction_of("nll_loss", size_average, reduce, reduction)
    return losses.nll_loss(input, target, weight=weight, ignore_index=ignore_index, reduction=how)


def _reduced(each: Value, reduction: str) -> Value:
    return each if reduction == "none" else ops.mean(each) if reduction == "mean" else ops.sum(each)


def _weighted(name: str, each: Value, weight: Operand) -> tuple[Value, Value]:
    """The losses of all elements times weights, and the weights."""
    w = operand(weight, f"{name}: weight")
    if w.shape != each.shape:
        raise ShapeError(f"{name}: weight has shape {w.shape}, wanted that of the input, {each.shape}")
    return ops.multiply(each, w), w


def _averaged(name: str, each: Value, weight: Operand, reduction: str) -> Value:
    """Weighted losses reduced; the mean is over the sum of the weights."""
    weighted, w = _weighted(name, each, weight)
    return ops.divide(ops.sum(weighted), ops.sum(w)) if reduction == "mean" else _reduced(weighted, reduction)


def mse_loss(
    input: Operand,
    target: Operand,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    weight: Operand | None = None,
) -> Value:
    """(input - target)^2."""
    how = reduction_of("mse_loss", size_average, reduce, reduction)
    if weight is None:
        return losses.mse_loss(input, target, reduction=how)
    return _averaged("mse_loss", losses.mse_loss(input, target, reduction="none"), weight, how)


def l1_loss(
    input: Operand,
    target: Operand,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    weight: Operand | None = None,
) -> Value:
    """|input - target|."""
    how = reduction_of("l1_loss", size_average, reduce, reduction)
    if weight is None:
        return losses.l1_loss(input, target, reduction=how)
    return _averaged("l1_loss", losses.l1_loss(input, target, reduction="none"), weight, how)


def huber_loss(
    input: Operand, target: Operand, reduction: LossReduction = "mean", delta: float = 1.0, weight: Operand | None = None
) -> Value:
    """d^2 / 2 for |d| <= delta, else delta (|d| - delta / 2), with d = input - target."""
    how = reduction_of("huber_loss", None, None, reduction)
    if weight is None:
        return losses.huber_loss(input, target, delta=delta, reduction=how)
    return _reduced(
        _weighted("huber_loss", losses.huber_loss(input, target, delta=delta, reduction="none"), weight)[0], how
    )  # over the elements, as torch


def smooth_l1_loss(
    input: Operand,
    target: Operand,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    beta: float = 1.0,
) -> Value:
    """d^2 / (2 beta) for |d| < beta, else |d| - beta / 2, with d = input - target; beta 0 is l1_loss."""
    how, width = reduction_of("smooth_l1_loss", size_average, reduce, reduction), number_of(beta, "smooth_l1_loss: beta", least=0)
    if not width:
        return losses.l1_loss(input, target, reduction=how)
    return ops.divide(losses.huber_loss(input, target, delta=width, reduction=how), width)


def binary_cross_entropy(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
) -> Value:
    """-(t log p + (1 - t) log(1 - p)) of probabilities p, the logarithms held at -100."""
    x: Any = input
    return losses.bce_loss(
        x, target, weight=weight, reduction=reduction_of("binary_cross_entropy", size_average, reduce, reduction)
    )


def binary_cross_entropy_with_logits(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: LossReduction = "mean",
    pos_weight: Operand | None = None,
) -> Value:
    """binary_cross_entropy of sigmoid(input), without overflow."""
    how = reduction_of("binary_cross_entropy_with_logits", size_average, reduce, reduction)
    x: Any = input
    return losses.bce_with_logits_loss(x, target, weight=weight, pos_weight=pos_weight, reduction=how)


def kl_div(
    input: Operand,
    target: Operand,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Value:
    """target (log target - input), with input (and log_target's target) log probabilities; "batchmean" divides the sum by the first axis."""
    how = reduction_of("kl_div", size_average, reduce, reduction, also=("batchmean",))
    x, t = operand(input, "input"), operand(target, "target")
    if x.shape != t.shape:
        raise ShapeError(f"kl_div: input has shape {x.shape}, target {t.shape}; they must be equal")
    if flag_of(log_target, "kl_div: log_target"):
        each = ops.multiply(ops.exp(t), ops.subtract(t, x))
    else:  # 0 log 0 is 0
        some = array_of(t) > 0
        each = ops.multiply(t, ops.subtract(ops.log(ops.where(some, t, 1.0)), x))
    if how != "batchmean":
        return _reduced(each, how)
    if not x.ndim or not math.prod(x.shape[:1]):
        raise OptionError(f"kl_div: batchmean needs a first axis, got shape {x.shape}")
    return ops.divide(ops.sum(each), x.shape[0])
