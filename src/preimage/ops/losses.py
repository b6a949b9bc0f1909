"""Losses, as functions; as modules in preimage.nn. reduction: "mean", "sum" or "none".

16-bit floats are computed in float32 and rounded once. Where a weight, a label or a mask is 0, an infinity beside it counts for nothing.
"""

from __future__ import annotations

from typing import Any, TypedDict, Unpack, overload

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, array_of, fitted, primitive
from preimage.errors import DomainError, DTypeError, OptionError, ShapeError
from preimage.ops.broadcast import in_wide, match, widely
from preimage.ops.operands import broadcast_shape, number_of, operand, operands, regular
from preimage.typing import Array, ArrayLike, Integers, LossReduction, Operand, Value

__all__ = [
    "bce_loss", "bce_with_logits_loss", "cross_entropy", "dice_loss", "huber_loss", "l1_loss", "mse_loss", "nll_loss",
]  # fmt: skip


class _Weights(TypedDict, total=False):
    weight: Operand | None
    pos_weight: Operand | None
    reduction: LossReduction


class _ArrayWeights(TypedDict, total=False):
    weight: ArrayLike | None
    pos_weight: ArrayLike | None
    reduction: LossReduction


class _LabelOptions(TypedDict, total=False):
    weight: Operand | None
    ignore_index: int
    reduction: LossReduction


class _ClassOptions(_LabelOptions, total=False):
    label_smoothing: float


def _is_mean(reduction: LossReduction) -> bool:
    """Raises: OptionError for another word than the three."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise OptionError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction == "mean"


def _reduce(values: Value, reduction: LossReduction, dtype: np.dtype[Any]) -> Value:
    """The losses of all elements reduced, in the dtype that the arguments had."""
    reduced = ops.mean(values) if _is_mean(reduction) else values if reduction == "none" else ops.sum(values)
    return ops.astype(reduced, dtype)


def _pair(name: str, prediction: Operand, target: Operand) -> tuple[Value, Value, np.dtype[Any]]:
    """Both arguments, narrow floats in float32; and the dtype of the result."""
    prediction = operand(prediction, "prediction")
    target = operand(target, "target")
    if prediction.shape != target.shape:
        raise ShapeError(f"{name}: prediction has shape {prediction.shape}, target {target.shape}; they must be equal")
    dtype = (
        prediction.dtype if prediction.dtype == target.dtype else np.result_type(in_wide(prediction).dtype, in_wide(target).dtype)
    )
    return in_wide(prediction), in_wide(target), dtype


def _product(weight: Operand, value: Value) -> Value:
    """weight * value, and 0 where the weight is 0, also beside an infinity."""
    weight, value = operands("a weighted loss", weight, value)
    broadcast_shape("a weighted loss", weight.shape, value.shape)
    lost = (array_of(weight) == 0) & np.isinf(array_of(value))
    return ops.multiply(weight, ops.where(lost, 0.0, value) if lost.any() else value)


@overload
def mse_loss(prediction: Tensor, target: Operand, *, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def mse_loss(prediction: ArrayLike, target: Tensor, *, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def mse_loss(prediction: ArrayLike, target: ArrayLike, *, reduction: LossReduction = "mean") -> Array: ...
def mse_loss(prediction: Operand, target: Operand, *, reduction: LossReduction = "mean") -> Value:
    """(prediction - target)^2."""
    prediction, target, dtype = _pair("mse_loss", prediction, target)
    return _reduce(ops.square(ops.subtract(prediction, target)), reduction, dtype)


@overload
def l1_loss(prediction: Tensor, target: Operand, *, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def l1_loss(prediction: ArrayLike, target: Tensor, *, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def l1_loss(prediction: ArrayLike, target: ArrayLike, *, reduction: LossReduction = "mean") -> Array: ...
def l1_loss(prediction: Operand, target: Operand, *, reduction: LossReduction = "mean") -> Value:
    """|prediction - target|."""
    prediction, target, dtype = _pair("l1_loss", prediction, target)
    return _reduce(ops.abs(ops.subtract(prediction, target)), reduction, dtype)


@overload
def huber_loss(prediction: Tensor, target: Operand, *, delta: float = 1.0, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def huber_loss(prediction: ArrayLike, target: Tensor, *, delta: float = 1.0, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def huber_loss(prediction: ArrayLike, target: ArrayLike, *, delta: float = 1.0, reduction: LossReduction = "mean") -> Array: ...
def huber_loss(prediction: Operand, target: Operand, *, delta: float = 1.0, reduction: LossReduction = "mean") -> Value:
    """d^2 / 2 for |d| <= delta, else delta (|d| - delta / 2), with d = prediction - target."""
    delta = number_of(delta, "huber_loss: delta")
    if not delta > 0:
        raise OptionError(f"huber_loss: delta must be positive, got {delta}")
    prediction, target, dtype = _pair("huber_loss", prediction, target)
    d = ops.subtract(prediction, target)
    held = ops.clip(d, -delta, delta)  # both cases at once: held (d - held / 2)
    return _reduce(ops.multiply(held, ops.subtract(d, ops.multiply(held, 0.5))), reduction, dtype)


# -- classes -----------------------------------------------------------------------------------------------------------


def _class_weights(weight: Operand | None, classes: int, dtype: np.dtype[Any]) -> Array | None:
    if weight is None:
        return None
    values = regular(array_of(weight), "weight")
    if values.shape != (classes,):
        raise ShapeError(f"weight has shape {values.shape}, wanted ({classes},): one per class")
    return fitted(values, np.dtype(dtype), (classes,), "weight")


@overload
def nll_loss(log_probability: Tensor, target: Integers, **options: Unpack[_LabelOptions]) -> Tensor: ...
@overload
def nll_loss(log_probability: ArrayLike, target: Integers, **options: Unpack[_LabelOptions]) -> Array: ...
def nll_loss(
    log_probability: Operand,
    target: Integers,
    *,
    weight: Operand | None = None,
    ignore_index: int = -100,
    reduction: LossReduction = "mean",
) -> Value:
    """-log_probability of the target class: log_probability (N, classes, *), target (N, *) of integers.

    weight: one per class; the mean is then over the weights. Positions whose target is ignore_index count for nothing.

    Raises: DTypeError for targets that are no integers; ShapeError for another shape or a class that does not exist.
    """
    x, classes, dtype = _classes(log_probability, "nll_loss")
    labels = _labels(target, x, "nll_loss", ignore_index)
    rows = ops.reshape(ops.moveaxis(x, 1, -1), (labels.size, classes))
    safe, used, scale = [a.reshape(-1) for a in _scaled(labels, _class_weights(weight, classes, x.dtype), x.dtype, ignore_index)]
    picked = ops.negative(rows[(np.arange(labels.size), safe)])
    # an ignored position must not bring its infinity or NaN along
    losses = ops.where(used, _product(scale, picked), 0.0)
    losses = ops.reshape(losses, labels.shape)
    if _is_mean(reduction):
        return ops.astype(_over(losses, scale.reshape(labels.shape)), dtype)
    return _reduce(losses, reduction, dtype)


def _scaled(labels: Array, weights: Array | None, dtype: np.dtype[Any], ignore_index: int) -> tuple[Array, Array, Array]:
    """Classes that exist, 0 where a position is ignored; which positions are not; and what each one's loss is multiplied by, 0 where it is."""
    used = labels != ignore_index
    safe = np.where(used, labels, 0)
    return safe, used, used.astype(dtype) if weights is None else np.where(used, weights[safe], weights.dtype.type(0))


def _whole(weights: Array) -> Array:
    return np.asarray(ops.sum(weights.astype(np.float64)), weights.dtype)


def _over(losses: Value, weights: Array) -> Value:
    """The sum of the losses over the sum of the weights."""
    with np.errstate(all="ignore"):
        return ops.divide(ops.sum(losses), _whole(weights))


def _classes(x: Operand, name: str) -> tuple[Value, int, np.dtype[Any]]:
    """The array with narrow floats in float32, the number of classes, and the dtype of the result."""
    x = operand(x, "input")
    if x.ndim < 2:
        raise ShapeError(f"{name}: wanted (N, classes, *), got shape {x.shape}")
    return in_wide(x), x.shape[1], x.dtype


def _labels(target: Operand, x: Value, name: str, ignore_index: int) -> Array:
    labels = regular(array_of(target), "target")
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"{name}: target must hold integer classes, got {labels.dtype}")
    wanted = (x.shape[0], *x.shape[2:])
    if labels.shape != wanted:
        raise ShapeError(f"{name}: target has shape {labels.shape}, wanted {wanted}")
    outside = ((labels < 0) | (labels >= x.shape[1])) & (labels != ignore_index)
    if outside.any():
        place = tuple(map(int, np.argwhere(outside)[0]))
        raise ShapeError(f"{name}: target{list(place)} is {labels[place]}; there are {x.shape[1]} classes, 0 to {x.shape[1] - 1}")
    return labels.astype(np.int64)


@overload
def cross_entropy(logits: Tensor, target: Operand, **options: Unpack[_ClassOptions]) -> Tensor: ...
@overload
def cross_entropy(logits: ArrayLike, target: Tensor, **options: Unpack[_ClassOptions]) -> Tensor: ...
@overload
def cross_entropy(logits: ArrayLike, target: ArrayLike, **options: Unpack[_ClassOptions]) -> Array: ...
def cross_entropy(
    logits: Operand,
    target: Operand,
    *,
    weight: Operand | None = None,
    ignore_index: int = -100,
    reduction: LossReduction = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """-log softmax(logits) at the target: logits (N, classes, *), target (N, *) of integers, or probabilities as logits.

    label_smoothing mixes the target with the uniform distribution.

    Raises: as nll_loss; OptionError for a label_smoothing outside 0..1.
    """
    x, classes, dtype = _classes(logits, "cross_entropy")
    label_smoothing = number_of(label_smoothing, "cross_entropy: label_smoothing")
    if not 0 <= label_smoothing <= 1:
        raise OptionError(f"cross_entropy: label_smoothing must lie in 0..1, got {label_smoothing}")
    weights = _class_weights(weight, classes, x.dtype)
    given = regular(array_of(target), "target")
    of_classes = given.dtype.kind in "iu"
    if of_classes and not label_smoothing and reduction == "mean":
        labels, used, scale = _scaled(_labels(target, x, "cross_entropy", ignore_index), weights, x.dtype, ignore_index)
        whole = np.asarray(np.count_nonzero(used), x.dtype) if weights is None else _whole(scale)
        return ops.astype(_class_op(x, labels=labels, used=used, scale=scale, whole=whole), dtype)
    low = ops.log_softmax(x, axis=1)
    column = None if weights is None else weights.reshape(1, classes, *([1] * (x.ndim - 2)))
    if of_classes:
        numbers: Any = target
        loss = nll_loss(low, numbers, weight=weight, ignore_index=ignore_index, reduction=reduction)
        if label_smoothing:
            flat = _flat_loss(low, _labels(target, x, "cross_entropy", ignore_index), weights, ignore_index, reduction)
            loss = ops.add(ops.multiply(loss, 1 - label_smoothing), ops.multiply(flat, label_smoothing / classes))
        return ops.astype(loss, dtype)
    if given.shape == (x.shape[0], *x.shape[2:]):
        _labels(target, x, "cross_entropy", ignore_index)  # says that classes are integers
    _, wanted, dtype = _pair("cross_entropy", logits, target)
    if label_smoothing:
        wanted = ops.add(ops.multiply(wanted, 1 - label_smoothing), label_smoothing / classes)
    if column is not None:
        wanted = ops.multiply(wanted, column)
    return _reduce(ops.negative(ops.sum(_product(wanted, low), 1)), reduction, dtype)


# The mean cross entropy of classes as one operation: of every position the logarithm of one softmax, and its gradient
#     d mean / d x[n, c] = (softmax(x[n])[c] - (c is the label)) scale[n] / sum(scale)
# in two passes over the logits, where a chain of operations would take eight and keep most of their results.


def _class_loss(x: Array, *, labels: Array, used: Array, scale: Array, whole: Array) -> Array:
    low = np.take_along_axis(ops.log_softmax(x, axis=1), labels[:, None], 1)[:, 0]
    counts = used & ~((scale == 0) & np.isinf(low))
    return np.asarray(ops.sum(np.where(counts, -scale * low, x.dtype.type(0))) / whole)


def _class_rule(g: Any, ans: Any, x: Any, *, labels: Array, used: Array, scale: Array, whole: Array) -> Any:
    at, share = labels[:, None], ops.divide(g, whole)
    each = ops.where(used[:, None], ops.multiply(scale[:, None], share), 0.0)
    chance = ops.softmax(x, axis=1)
    if isinstance(g, Tensor):  # recorded, for derivatives of higher order
        classes = np.arange(x.shape[1]).reshape(1, -1, *([1] * (labels.ndim - 1)))
        return ops.multiply(ops.subtract(chance, (at == classes).astype(scale.dtype)), each)
    np.put_along_axis(chance, at, np.take_along_axis(chance, at, 1) - 1, 1)
    return ops.multiply(chance, each)


_class_op = primitive("class_cross_entropy", _class_loss, [_class_rule], saves=(0,))


def _flat_loss(low: Value, labels: Array, weights: Array | None, ignore_index: int, reduction: LossReduction) -> Value:
    """The cross entropy with equal probabilities for all classes, times their number, where labels count."""
    classes, used = low.shape[1], labels != ignore_index
    weights = np.ones(classes, low.dtype) if weights is None else weights
    each = _product(weights.reshape(1, classes, *([1] * (low.ndim - 2))), ops.where(np.expand_dims(used, 1), low, 0.0))
    flat = ops.negative(ops.sum(each, 1))
    return _over(flat, weights[labels[used]]) if reduction == "mean" else _reduce(flat, reduction, low.dtype)


# -- two classes -------------------------------------------------------------------------------------------------------


@overload
def bce_with_logits_loss(logits: Tensor, target: Operand, **options: Unpack[_Weights]) -> Tensor: ...
@overload
def bce_with_logits_loss(logits: ArrayLike, target: Tensor, **options: Unpack[_Weights]) -> Tensor: ...
@overload
def bce_with_logits_loss(logits: ArrayLike, target: ArrayLike, **options: Unpack[_ArrayWeights]) -> Array: ...
def bce_with_logits_loss(
    logits: Operand,
    target: Operand,
    *,
    weight: Operand | None = None,
    pos_weight: Operand | None = None,
    reduction: LossReduction = "mean",
) -> Value:
    """-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), without overflow, and without a difference that cancels.

    Definition: (1 - t) x for x >= 0, else -t x, plus log(1 + exp(-|x|)). pos_weight multiplies the first term, weight the whole; both
        broadcast. At an infinite x that its target names, the loss is 0.
    """
    x, t, dtype = _pair("bce_with_logits_loss", logits, target)
    positive = t if pos_weight is None else ops.multiply(pos_weight, t)
    negative = ops.subtract(1.0, t)
    right = array_of(x) >= 0
    size = ops.where(right, x, ops.negative(x))
    line = _product(ops.where(right, negative, positive), size)
    losses = ops.add(line, ops.multiply(ops.add(positive, negative), ops.softplus(ops.negative(size))))
    return _reduce(losses if weight is None else _product(weight, losses), reduction, dtype)


#: How near to 0 and to 1 a probability counts in the slopes of bce_loss: the smallest normal number, and half of what 1 - p rounds away.
_NEAREST = {"float16": (2.0**-14, 2.0**-12), "bfloat16": (2.0**-126, 2.0**-9), "float32": (2.0**-126, 2.0**-25),
            "float64": (2.0**-1022, 2.0**-54)}  # fmt: skip


def _bce(p: Any, t: Any, *, near: tuple[float, float]) -> Any:
    with np.errstate(all="ignore"):
        floor = p.dtype.type(-100)
        return -(t * np.maximum(np.log(p), floor) + (1 - t) * np.maximum(np.log1p(-p), floor))


def _bce_rule(g: Any, ans: Any, p: Any, t: Any, *, near: tuple[float, float]) -> Any:
    """(1 - t) / (1 - p) - t / p."""
    no = ops.divide(ops.subtract(1.0, t), ops.maximum(ops.subtract(1.0, p), near[1]))
    return match(ops.multiply(g, ops.subtract(no, ops.divide(t, ops.maximum(p, near[0])))), p)


def _bce_target_rule(g: Any, ans: Any, p: Any, t: Any, *, near: tuple[float, float]) -> Any:
    yes, no = (ops.maximum(ops.log(v), -100.0) for v in (p, ops.subtract(1.0, p)))
    return match(ops.multiply(g, ops.subtract(no, yes)), t)


_bce_op = primitive("binary_cross_entropy", _bce, widely([_bce_rule, _bce_target_rule]), saves=(0, 1))


@overload
def bce_loss(
    probability: Tensor, target: Operand, *, weight: Operand | None = None, reduction: LossReduction = "mean"
) -> Tensor: ...
@overload
def bce_loss(
    probability: ArrayLike, target: Tensor, *, weight: Operand | None = None, reduction: LossReduction = "mean"
) -> Tensor: ...
@overload
def bce_loss(
    probability: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None, reduction: LossReduction = "mean"
) -> Array: ...
def bce_loss(probability: Operand, target: Operand, *, weight: Operand | None = None, reduction: LossReduction = "mean") -> Value:
    """-(t log p + (1 - t) log(1 - p)), the logarithms held at -100 as in PyTorch; from logits use bce_with_logits_loss.

    Gradient: (1 - t) / (1 - p) - t / p, so 1 at p = t = 0 and -1 at p = t = 1. Where p has rounded to the other end, the smallest 1 - p
        (or p) that rounds so stands for it: large, finite, and in the right direction.
    Raises: DomainError for a probability outside 0..1.
    """
    p, t, dtype = _pair("bce_loss", probability, target)
    values = array_of(p)
    outside = (values < 0) | (values > 1)
    if outside.any():
        raise DomainError(
            f"bce_loss: a probability lies in 0..1, got {values[outside].flat[0]}; from logits use bce_with_logits_loss"
        )
    losses = _bce_op(p, t, near=_NEAREST[array_of(operand(probability, "prediction")).dtype.name])
    return _reduce(losses if weight is None else _product(weight, losses), reduction, dtype)


@overload
def dice_loss(probability: Tensor, target: Operand, *, smooth: float = 1.0, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def dice_loss(probability: ArrayLike, target: Tensor, *, smooth: float = 1.0, reduction: LossReduction = "mean") -> Tensor: ...
@overload
def dice_loss(probability: ArrayLike, target: ArrayLike, *, smooth: float = 1.0, reduction: LossReduction = "mean") -> Array: ...
def dice_loss(probability: Operand, target: Operand, *, smooth: float = 1.0, reduction: LossReduction = "mean") -> Value:
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), the sums over space, for every image and channel (Milletari et
    al. 2016): p and t (N, C, *spatial), p after a sigmoid or softmax.
    """
    p, t, dtype = _pair("dice_loss", probability, target)
    if p.ndim < 3:
        raise ShapeError(f"dice_loss: wanted (N, C, *spatial), got shape {p.shape}")
    space = tuple(range(2, p.ndim))
    both = ops.add(ops.multiply(ops.sum(ops.multiply(p, t), space), 2.0), smooth)
    total = ops.add(ops.add(ops.sum(p, space), ops.sum(t, space)), smooth)
    return _reduce(ops.subtract(1.0, ops.divide(both, total)), reduction, dtype)
