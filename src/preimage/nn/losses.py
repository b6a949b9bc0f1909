"""Losses, as functions and as modules. reduction: "mean", "sum" or "none"."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import array_of
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.nn.module import Module
from preimage.ops.operands import operand, regular

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "DiceLoss", "HuberLoss", "L1Loss", "MSELoss", "NLLLoss", "bce_loss",
    "bce_with_logits_loss", "cross_entropy", "dice_loss", "huber_loss", "l1_loss", "mse_loss", "nll_loss",
]  # fmt: skip


def _reduce(values: Any, reduction: str) -> Any:
    if reduction == "mean":
        return ops.mean(values)
    if reduction == "sum":
        return ops.sum(values)
    if reduction == "none":
        return values
    raise OptionError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _pair(name: str, prediction: Any, target: Any) -> tuple[Any, Any]:
    prediction = operand(prediction, "prediction")
    target = operand(target, "target")
    if prediction.shape != target.shape:
        raise ShapeError(f"{name}: prediction has shape {prediction.shape}, target {target.shape}; they must be equal")
    return prediction, target


def mse_loss(prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """(prediction - target)^2."""
    prediction, target = _pair("mse_loss", prediction, target)
    return _reduce(ops.square(ops.subtract(prediction, target)), reduction)


def l1_loss(prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
    """|prediction - target|."""
    prediction, target = _pair("l1_loss", prediction, target)
    return _reduce(ops.abs(ops.subtract(prediction, target)), reduction)


def huber_loss(prediction: Any, target: Any, *, delta: float = 1.0, reduction: str = "mean") -> Any:
    """d^2 / 2 for |d| <= delta, else delta (|d| - delta / 2), with d = prediction - target."""
    if not delta > 0:
        raise OptionError(f"huber_loss: delta must be positive, got {delta}")
    prediction, target = _pair("huber_loss", prediction, target)
    d = ops.subtract(prediction, target)
    near = np.abs(array_of(d)) <= delta
    return _reduce(ops.where(near, ops.square(d) * 0.5, (ops.abs(d) - 0.5 * delta) * delta), reduction)


# -- classes -----------------------------------------------------------------------------------------------------------


def _class_weights(weight: Any, classes: int, dtype: Any) -> Any:
    if weight is None:
        return None
    values = regular(array_of(weight), "weight").astype(dtype)
    if values.shape != (classes,):
        raise ShapeError(f"weight has shape {values.shape}, wanted ({classes},): one per class")
    return values


def nll_loss(log_probability: Any, target: Any, *, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """-log_probability of the target class: log_probability (N, classes, *), target (N, *) of integers.

    weight: one per class; the mean is then over the weights. Positions whose target is ignore_index count for nothing.

    Raises: DTypeError for targets that are no integers; ShapeError for another shape or a class that does not exist.
    """
    x, classes = _classes(log_probability, "nll_loss")
    labels = _labels(target, x, "nll_loss", ignore_index)
    used = labels != ignore_index
    rows = ops.reshape(ops.moveaxis(x, 1, -1), (labels.size, classes))
    safe = np.where(used, labels, 0).reshape(-1)
    scale = used.reshape(-1).astype(x.dtype)
    weights = _class_weights(weight, classes, x.dtype)
    if weights is not None:
        scale = scale * weights[safe]
    picked = ops.negative(rows[(np.arange(labels.size), safe)])
    # an ignored position must not bring its infinity or NaN along
    losses = ops.where(used.reshape(-1), ops.multiply(picked, scale), 0.0)
    if reduction == "mean":
        with np.errstate(all="ignore"):
            return ops.divide(ops.sum(losses), np.asarray(scale.sum(dtype=np.float64), x.dtype))
    return _reduce(ops.reshape(losses, labels.shape), reduction)


def _classes(x: Any, name: str) -> tuple[Any, int]:
    x = operand(x, "input")
    if x.ndim < 2:
        raise ShapeError(f"{name}: wanted (N, classes, *), got shape {x.shape}")
    return x, x.shape[1]


def _labels(target: Any, x: Any, name: str, ignore_index: int) -> Any:
    labels = regular(array_of(target), "target")
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"{name}: target must hold integer classes, got {labels.dtype}")
    wanted = (x.shape[0], *x.shape[2:])
    if labels.shape != wanted:
        raise ShapeError(f"{name}: target has shape {labels.shape}, wanted {wanted}")
    valid = labels[labels != ignore_index]
    if valid.size and (valid.min() < 0 or valid.max() >= x.shape[1]):
        raise ShapeError(f"{name}: target classes reach from {valid.min()} to {valid.max()}; there are {x.shape[1]}")
    return labels.astype(np.int64)


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """-log softmax(logits) at the target: logits (N, classes, *), target (N, *) of integers, or probabilities as logits.

    label_smoothing mixes the target with the uniform distribution.

    Raises: as nll_loss; OptionError for a label_smoothing outside 0..1.
    """
    x, classes = _classes(logits, "cross_entropy")
    if not 0 <= label_smoothing <= 1:
        raise OptionError(f"cross_entropy: label_smoothing must lie in 0..1, got {label_smoothing}")
    low = ops.log_softmax(x, axis=1)
    array = array_of(target)
    if regular(array, "target").dtype.kind in "iu":
        loss = nll_loss(low, target, weight=weight, ignore_index=ignore_index, reduction=reduction)
        if not label_smoothing:
            return loss
        labels = _labels(target, x, "cross_entropy", ignore_index)
        used = np.expand_dims(labels != ignore_index, 1)
        weights = _class_weights(np.ones(classes) if weight is None else weight, classes, x.dtype)
        column = weights.reshape(1, classes, *([1] * (x.ndim - 2)))
        flat = ops.sum(ops.where(used, ops.negative(ops.multiply(low, column)), 0.0), 1)
        if reduction == "mean":
            chosen = labels[labels != ignore_index]
            with np.errstate(all="ignore"):
                flat = ops.divide(ops.sum(flat), np.asarray(weights[chosen].sum(dtype=np.float64), x.dtype))
        else:
            flat = _reduce(flat, reduction)
        return ops.add(ops.multiply(loss, 1 - label_smoothing), ops.multiply(flat, label_smoothing / classes))
    _, wanted = _pair("cross_entropy", x, target)
    if label_smoothing:
        wanted = ops.add(ops.multiply(wanted, 1 - label_smoothing), label_smoothing / classes)
    weights = _class_weights(weight, classes, x.dtype)
    if weights is not None:
        wanted = ops.multiply(wanted, weights.reshape(1, classes, *([1] * (x.ndim - 2))))
    losses = ops.negative(ops.sum(ops.multiply(low, wanted), 1))
    return _reduce(losses, reduction)


# -- two classes -------------------------------------------------------------------------------------------------------


def bce_with_logits_loss(logits: Any, target: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean") -> Any:
    """-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))) = softplus(x) - t x, without overflow.

    pos_weight multiplies the first term; weight the whole; both broadcast.
    """
    x, t = _pair("bce_with_logits_loss", logits, target)
    if pos_weight is None:
        losses = ops.subtract(ops.softplus(x), ops.multiply(x, t))
    else:
        factor = ops.add(ops.multiply(ops.subtract(pos_weight, 1.0), t), 1.0)
        losses = ops.add(ops.multiply(ops.subtract(1.0, t), x), ops.multiply(factor, ops.softplus(ops.negative(x))))
    return _reduce(losses if weight is None else ops.multiply(losses, weight), reduction)


def bce_loss(probability: Any, target: Any, *, weight: Any = None, reduction: str = "mean") -> Any:
    """-(t log p + (1 - t) log(1 - p)), the logarithms held at -100 as in PyTorch; from logits use bce_with_logits_loss."""
    p, t = _pair("bce_loss", probability, target)
    yes = ops.maximum(ops.log(p), -100.0)
    no = ops.maximum(ops.log(ops.subtract(1.0, p)), -100.0)
    losses = ops.negative(ops.add(ops.multiply(t, yes), ops.multiply(ops.subtract(1.0, t), no)))
    return _reduce(losses if weight is None else ops.multiply(losses, weight), reduction)


def dice_loss(probability: Any, target: Any, *, smooth: float = 1.0, reduction: str = "mean") -> Any:
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), the sums over space, for every image and channel (Milletari et
    al. 2016): p and t (N, C, *spatial), p after a sigmoid or softmax.
    """
    p, t = _pair("dice_loss", probability, target)
    if p.ndim < 3:
        raise ShapeError(f"dice_loss: wanted (N, C, *spatial), got shape {p.shape}")
    space = tuple(range(2, p.ndim))
    both = ops.add(ops.multiply(ops.sum(ops.multiply(p, t), space), 2.0), smooth)
    total = ops.add(ops.add(ops.sum(p, space), ops.sum(t, space)), smooth)
    return _reduce(ops.subtract(1.0, ops.divide(both, total)), reduction)


# -- the same as modules -----------------------------------------------------------------------------------------------


class _Loss(Module):
    """A loss with fixed options."""

    _function: Any

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    def forward(self, prediction: Any, target: Any) -> Any:
        return type(self)._function(prediction, target, **self._options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self._options.items() if np.ndim(v) == 0 and v is not None)


class MSELoss(_Loss):
    """The mean squared difference."""

    _function = staticmethod(mse_loss)

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class L1Loss(_Loss):
    """The mean absolute difference."""

    _function = staticmethod(l1_loss)

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class HuberLoss(_Loss):
    """Squared near zero, absolute beyond delta."""

    _function = staticmethod(huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction, delta=delta)


class NLLLoss(_Loss):
    """The negative log-probability of the target class."""

    _function = staticmethod(nll_loss)

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction)


class CrossEntropyLoss(_Loss):
    """Cross entropy from logits."""

    _function = staticmethod(cross_entropy)

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)


class BCELoss(_Loss):
    """Binary cross entropy from probabilities."""

    _function = staticmethod(bce_loss)

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(weight=weight, reduction=reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy from logits."""

    _function = staticmethod(bce_with_logits_loss)

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(weight=weight, reduction=reduction, pos_weight=pos_weight)


class DiceLoss(_Loss):
    """1 - the Dice coefficient, from probabilities."""

    _function = staticmethod(dice_loss)

    def __init__(self, smooth: float = 1.0, reduction: str = "mean") -> None:
        if smooth < 0 or not math.isfinite(smooth):
            raise OptionError(f"DiceLoss: smooth must not be negative, got {smooth}")
        super().__init__(smooth=smooth, reduction=reduction)
