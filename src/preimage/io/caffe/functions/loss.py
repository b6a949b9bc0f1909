"""Losses and measures of Caffe as graph words, written with preimage.ops.

Source: BVLC/caffe (9b891540), the layer code, read as facts; formulas stand at each function.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import array_of, primitive
from preimage.io.caffe.functions.basic import constant, indices
from preimage.io.graph import graph_op
from preimage.nn import bce_with_logits_loss

__all__: list[str] = []

Value = Any
LOG_FLOOR = 1e-20


def _shape(x: Value) -> tuple[int, ...]:
    return tuple(np.shape(array_of(x)))


def _normalizer(mode: str, outer: int, inner: int, valid: int) -> float:
    count = {"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer}.get(mode, 1)
    return float(max(count, 1))


def _mask(array: Any, like: Value) -> Any:
    return np.asarray(array, array_of(like).dtype)


def _along(labels: Any, valid: Any, x: Value, axis: int) -> tuple[Any, Any]:
    """Labels and validity in the shape of x with `axis` gone to size 1; and the one-hot mask of the valid ones."""
    size = _shape(x)
    kept = (*size[:axis], 1, *size[axis + 1 :])
    labels, valid = labels.reshape(kept), valid.reshape(kept)
    classes = np.arange(size[axis]).reshape([-1 if k == axis else 1 for k in range(len(size))])
    return (classes == labels) & valid, labels


def _outer_inner(x: Value, axis: int) -> tuple[int, int]:
    size = _shape(x)
    return int(np.prod(size[:axis], dtype=np.int64)), int(np.prod(size[axis + 1 :], dtype=np.int64))


@graph_op("softmax_loss")
def softmax_loss(
    x: Value,
    labels: Value,
    *,
    axis: int,
    ignore: int | None,
    normalization: str,
    class_weights: tuple[float, ...] | None = None,
) -> tuple[Value, Value]:
    """-sum of log softmax(x)[label], times the label's class weight, over the normalizer; and the softmax."""
    whole, valid = indices(labels, _shape(x)[axis], ignore)
    hot, placed = _along(whole, valid, x, axis)
    each = ops.log_softmax(x, axis=axis)
    if class_weights is not None:
        each = ops.multiply(each, _mask(np.asarray(class_weights)[placed], x))
    total = ops.sum(ops.where(hot, each, 0.0))
    by = _normalizer(normalization, *_outer_inner(x, axis), int(valid.sum()))
    return ops.divide(ops.negative(total), by), ops.softmax(constant(x), axis=axis)


@graph_op("infogain_loss")
def infogain_loss(
    x: Value, labels: Value, matrix: Value, *, axis: int, ignore: int | None, normalization: str
) -> tuple[Value, Value]:
    """-sum over k of H[label, k] log softmax(x)[k] over the normalizer; and the softmax."""
    count = _shape(x)[axis]
    whole, valid = indices(labels, count, ignore)
    _, placed = _along(whole, valid, x, axis)
    gains = np.asarray(constant(matrix)).reshape(count, count)[np.squeeze(placed, axis)]
    gains = np.moveaxis(gains, -1, axis) * np.expand_dims(valid.reshape(np.squeeze(placed, axis).shape), axis)
    low, gains = ops.log_softmax(x, axis=axis), _mask(gains, x)
    total = ops.sum(ops.where(gains != 0, ops.multiply(ops.where(gains != 0, low, 0.0), gains), 0.0))
    by = _normalizer(normalization, *_outer_inner(x, axis), int(valid.sum()))
    return ops.divide(ops.negative(total), by), ops.softmax(constant(x), axis=axis)


@graph_op("euclidean_loss")
def euclidean_loss(a: Value, b: Value) -> Value:
    """sum (a - b)^2 / 2N."""
    difference = ops.subtract(a, ops.reshape(b, _shape(a)))
    return ops.multiply(ops.sum(ops.square(difference)), 0.5 / max(_shape(a)[0], 1))


@graph_op("sigmoid_loss")
def sigmoid_loss(x: Value, target: Value, *, ignore: int | None, normalization: str) -> Value:
    """sum of the cross entropies of sigmoid(x) with targets t over the normalizer."""
    goal = ops.reshape(target, _shape(x))
    each = bce_with_logits_loss(x, goal, reduction="none")
    valid = np.ones(_shape(x), bool) if ignore is None else np.trunc(constant(goal)) != ignore
    size = _shape(x)
    by = _normalizer(normalization, size[0] if size else 1, valid.size // max(size[0], 1) if size else 1, int(valid.sum()))
    return ops.divide(ops.sum(each if ignore is None else ops.where(valid, each, 0.0)), by)


@graph_op("smooth_l1_loss")
def smooth_l1_loss(x: Value, target: Value, inside: Value = None, outside: Value = None, *, sigma: float) -> Value:
    """sum of `outside` h(inside (x - target)) / N, h(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2)."""
    difference = ops.subtract(x, ops.reshape(target, _shape(x)))
    if inside is not None:
        difference = ops.multiply(difference, ops.reshape(inside, _shape(x)))
    each, square = ops.abs(difference), sigma * sigma
    flat = ops.subtract(each, 0.5 / square)
    each = ops.where(constant(each) < 1 / square, ops.multiply(ops.square(difference), 0.5 * square), flat)
    if outside is not None:
        each = ops.multiply(each, ops.reshape(outside, _shape(x)))
    return ops.divide(ops.sum(each), float(max(_shape(x)[0], 1)))


def _rows(x: Value) -> Value:
    return ops.reshape(x, (_shape(x)[0], -1)) if _shape(x)[0] else ops.reshape(x, (0, 1))


@graph_op("hinge_loss")
def hinge_loss(x: Value, labels: Value, *, norm: str) -> Value:
    """sum of max(0, 1 - s x) (squared for L2) over N; s is 1 for the label's column and -1 for the others."""
    rows = _rows(x)
    whole, _ = indices(labels, _shape(rows)[1])
    sign = np.where(np.arange(_shape(rows)[1]) == whole.reshape(-1, 1), -1.0, 1.0)
    margin = ops.relu(ops.add(ops.multiply(rows, _mask(sign, x)), 1.0))
    return ops.divide(ops.sum(margin if norm == "L1" else ops.square(margin)), float(max(_shape(x)[0], 1)))


@graph_op("multinomial_loss")
def multinomial_loss(x: Value, labels: Value) -> Value:
    """-sum of log max(x[label], 1e-20) / N, for x that is a probability already."""
    rows = _rows(x)
    whole, _ = indices(labels, _shape(rows)[1])
    chosen = rows[np.arange(_shape(rows)[0]), whole.reshape(-1)]
    return ops.divide(ops.negative(ops.sum(_log_floor(chosen))), float(max(_shape(x)[0], 1)))


# log max(x, floor), its gradient 1 / max(x, floor) as Caffe has it: a probability of 0 still moves.
_log_floor = primitive(
    "caffe_log_floor",
    lambda x: np.log(np.maximum(x, x.dtype.type(LOG_FLOOR))),
    [lambda g, ans, x: ops.divide(g, ops.maximum(x, LOG_FLOOR))],
    saves=(0,),
)

# The distance as a root whose slope is 1 / 2(d + 1e-4), as Caffe has it: equal vectors have a direction of 0, not NaN.
_distance = primitive(
    "caffe_distance",
    lambda x: np.sqrt(x),
    [lambda g, ans, x: ops.divide(g, ops.multiply(ops.add(ans, 1e-4), 2.0))],
    saves=("ans",),
)


@graph_op("contrastive_loss")
def contrastive_loss(a: Value, b: Value, similar: Value, *, margin: float, legacy: bool) -> Value:
    """sum of d^2 for similar pairs, max(margin - d, 0)^2 for others (legacy: max(margin - d^2, 0)), over 2N."""
    difference = ops.subtract(_rows(a), _rows(b))
    square = ops.sum(ops.square(difference), axis=1)
    apart = ops.relu(ops.subtract(margin, square)) if legacy else ops.square(ops.relu(ops.subtract(margin, _distance(square))))
    pull = np.trunc(constant(similar)).reshape(-1) != 0
    return ops.multiply(ops.sum(ops.where(pull, square, apart)), 0.5 / max(_shape(a)[0], 1))


@graph_op("accuracy")
def accuracy(x: Value, labels: Value, *, top_k: int, axis: int, ignore: int | None) -> tuple[Any, Any]:
    """The share of labels with fewer than top_k other scores as high as theirs; and the same for each class."""
    scores = np.moveaxis(constant(x), axis, -1)
    count = scores.shape[-1]
    whole, valid = indices(labels, count, ignore)
    whole, valid = whole.reshape(scores.shape[:-1]), valid.reshape(scores.shape[:-1])
    own = np.take_along_axis(scores, whole[..., None], axis=-1)
    right = ((scores >= own).sum(axis=-1) - 1 < top_k) & valid
    dtype = scores.dtype
    per_class = np.bincount(whole[valid], minlength=count)
    good = np.bincount(whole[right], minlength=count)
    share = np.divide(good, per_class, out=np.zeros(count), where=per_class > 0)
    overall = right.sum() / max(int(valid.sum()), 1)
    return np.asarray(overall, dtype), share.astype(dtype)
