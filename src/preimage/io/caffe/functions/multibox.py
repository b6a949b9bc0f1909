"""SSD's training loss as a graph word: boxes matched with prior boxes, hard negatives chosen, places and classes compared.

What is matched is worked out on plain arrays; the losses of what was chosen are written with preimage.ops, so gradients reach places and scores.
Source: W. Liu et al., "SSD: Single Shot MultiBox Detector" (2016), and weiliu89/caffe, branch ssd, read as facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage import ops
from preimage.errors import ShapeError
from preimage.io.caffe.functions.basic import constant
from preimage.io.caffe.functions.ssd import area, decoded, prior_boxes
from preimage.io.graph import graph_op
from preimage.nn import bce_with_logits_loss
from preimage.records import record

__all__ = ["Truth", "overlaps", "true_boxes"]

Floats = NDArray[Any]
Places = NDArray[np.intp]
_LEAST_OVERLAP = 1e-6


@record
class Truth:
    """The true boxes of an image."""

    labels: Places
    boxes: Floats
    difficult: NDArray[np.bool_]


def true_boxes(rows: Any, images: int, background: int, *, difficult: bool = True) -> list[Truth]:
    """The true boxes of each image from rows (image, label, number, xmin, ymin, xmax, ymax, difficult); an image of -1 is none.

    Raises: ShapeError for numbers that are not finite and for the background's label.
    """
    table = np.asarray(constant(rows), np.float32).reshape(-1, 8)
    if not np.isfinite(table).all():
        raise ShapeError("a true box has numbers that are not finite")
    image, label = np.clip(np.trunc(table[:, 0]), -1, 1 << 30).astype(np.intp), np.trunc(table[:, 1])
    hard = table[:, 7] != 0
    kept = (image >= 0) & (difficult | ~hard)
    if (kept & (label == background)).any():
        raise ShapeError(f"a true box has the label {background}, which is the background's")
    chosen = [np.flatnonzero(kept & (image == number)) for number in range(images)]
    return [Truth(np.clip(label[rows], -1, 1 << 30).astype(np.intp), table[rows, 3:7], hard[rows]) for rows in chosen]


def overlaps(first: Floats, second: Floats) -> Floats:
    """Intersection over union of each box of the first with each of the second; 0 where they do not meet."""
    side = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    meet = np.where((side > 0).all(axis=-1), side[..., 0] * side[..., 1], 0)
    union = area(first)[:, None] + area(second)[None] - meet
    with np.errstate(all="ignore"):
        share: Floats = np.divide(meet, union, out=np.zeros_like(meet), where=union > 0)
    return share


def _matched(boxes: Floats, truth: Floats, *, per_prediction: bool, overlap: float, inside_only: bool) -> tuple[Places, Floats]:
    """For each box the true box that it is matched with (-1: none, -2: it takes no part), and its overlap.

    Each true box first gets the box that overlaps it most, the best pair first; then every box that overlaps one by at least `overlap`
    is matched with it.
    """
    shares = overlaps(boxes, truth)
    outside = ((boxes < 0) | (boxes > 1)).any(axis=1) if inside_only else np.zeros(len(boxes), bool)
    shares[outside] = 0
    shares[shares <= _LEAST_OVERLAP] = 0
    match = np.where(outside, -2, -1).astype(np.intp)
    best = shares.max(axis=1, initial=0)
    left = shares.copy()
    for _ in range(len(truth)):
        box, true = np.unravel_index(int(left.argmax()), left.shape) if left.size else (0, 0)
        if not left.size or left[box, true] == 0:
            break
        match[box], best[box] = true, left[box, true]
        left[box], left[:, true] = 0, 0
    if per_prediction and len(truth):
        free = (match == -1) & (shares.max(axis=1, initial=0) >= max(overlap, _LEAST_OVERLAP))
        match[free] = shares[free].argmax(axis=1)
    return match, best


def _encoded(boxes: Floats, priors: Floats, code: str) -> Floats:
    """The code of true boxes at prior boxes. Raises: ShapeError for boxes without size."""
    size = priors[:, 2:] - priors[:, :2]
    if code != "CENTER_SIZE":
        shift = boxes - priors
        if code == "CORNER":
            return np.asarray(shift)
        if (size <= 0).any():
            raise ShapeError("a prior box has no positive width and height")
        return np.asarray(shift / np.concatenate([size, size], axis=1))
    extent = boxes[:, 2:] - boxes[:, :2]
    if (size <= 0).any() or (extent <= 0).any():
        raise ShapeError("a prior box or a true box has no positive width and height")
    centre = ((boxes[:, :2] + boxes[:, 2:]) - (priors[:, :2] + priors[:, 2:])) / 2 / size
    return np.concatenate([centre, np.log(extent / size)], axis=1)


def _hardest(loss: Floats, allowed: NDArray[np.bool_], count: int) -> Places:
    """The places of the `count` largest losses among those allowed."""
    places = np.flatnonzero(allowed)
    return np.sort(places[np.argsort(-loss[places], kind="stable")[: max(count, 0)]])


def _class_losses(scores: Floats, labels: Places, logistic: bool) -> Floats:
    """The loss of each row of scores for its label, for choosing."""
    rows = np.arange(len(labels))
    if logistic:
        each = np.maximum(scores, 0) + np.log1p(np.exp(-np.abs(scores)))
        return np.asarray(each.sum(axis=1) - scores[rows, labels])
    high = scores.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(scores - high).sum(axis=1)) + high[:, 0] - scores[rows, labels])


def _place_losses(difference: Floats, smooth: bool) -> Floats:
    size = np.abs(difference)
    return np.asarray(np.where((size < 1) | (not smooth), size * size / 2, size - 0.5).sum(axis=1))


@dataclass(slots=True)
class _Chosen:
    """What the loss compares: rows of places with what they should be, and rows of scores with their labels."""

    images: list[Places]
    boxes: list[Places]
    sets: list[Places]
    wanted: list[Floats]
    weights: list[Floats]
    score_images: list[Places]
    score_boxes: list[Places]
    labels: list[Places]
    positives: int = 0


@graph_op("multibox_loss")
def multibox_loss(places: Any, scores: Any, priors: Any, truth: Any, **options: Any) -> Any:
    """(loc_weight sum of place losses + sum of class losses) over the number of matched boxes, or what `normalization` says."""
    prior, variance = prior_boxes(constant(priors))
    batch, count, classes = np.shape(constant(scores))[0], len(prior), options["classes"]
    sets = 1 if options["share_location"] else classes
    place = ops.reshape(places, (batch, count, sets, 4))
    score = ops.reshape(scores, (batch, count, classes))
    true = true_boxes(truth, batch, options["background"], difficult=options["difficult"])
    chosen = _Chosen([], [], [], [], [], [], [], [])
    for image in range(batch):
        _choose(chosen, image, true[image], (constant(place)[image], constant(score)[image]), (prior, variance), options)
    by = {"FULL": batch * count, "VALID": chosen.positives, "BATCH_SIZE": batch}.get(options["normalization"], 1)
    loss = ops.add(
        ops.multiply(_place_loss(place, chosen, options), options["loc_weight"]),
        ops.multiply(_score_loss(score, chosen, options), options["conf_weight"]),
    )
    return ops.divide(loss, float(max(by, 1)))


def _choose(
    chosen: _Chosen, image: int, truth: Truth, made: tuple[Floats, Floats], prior: tuple[Floats, Floats], options: dict[str, Any]
) -> None:
    """Match the boxes of one image and choose the negatives that count."""
    (place, score), (priors, variance) = made, prior
    background, mining, code = options["background"], options["mining"], options["code"]
    if len(truth.labels) and (truth.labels.min() < 0 or truth.labels.max() >= options["classes"]):
        raise ShapeError(f"a true box has a label outside 0 .. {options['classes'] - 1}: {truth.labels.tolist()[:8]}")
    boxes = (
        priors
        if options["match_priors"]
        else decoded(place[None, :, 0], priors, variance, code, options["variance_in_target"])[0]
    )
    rules = {key: options[key] for key in ("per_prediction", "overlap", "inside_only")}
    match, share = _matched(boxes, truth.boxes, **rules)
    labels = np.full(len(priors), background, np.intp)
    positive = match >= 0
    labels[positive] = background + 1 if options["agnostic"] else truth.labels[match[positive]]
    wanted: Floats = np.zeros((len(priors), 4), np.float32)
    wanted[positive] = _encoded(truth.boxes[match[positive]], priors[positive], code)
    weights = 1 / variance
    if not options["variance_in_target"]:  # else both sides are compared over the variances
        wanted, weights = wanted / variance, np.ones_like(variance)
    if options["bp_inside"]:
        weights = weights * ((boxes >= 0) & (boxes <= 1))
    sets = labels if not options["share_location"] else np.zeros_like(labels)
    negatives = np.zeros(0, np.intp)
    if len(truth.labels) and mining != "NONE":
        loss = _class_losses(score, labels, options["conf_loss"] == "LOGISTIC")
        if mining == "MAX_NEGATIVE":
            eligible = (match == -1) & (share < options["negative_overlap"])
            negatives = _hardest(loss, eligible, int(np.float32(positive.sum()) * np.float32(options["ratio"])))
        else:
            loss = loss + np.where(
                positive, _place_losses((place[:, 0] - wanted) * weights, options["loc_loss"] == "SMOOTH_L1"), 0
            )
            taken = _hardest(loss, np.ones(len(match), bool), options["samples"])
            hard = np.zeros(len(match), bool)
            hard[taken] = True
            negatives = np.flatnonzero(hard & (match == -1))
            positive &= hard
    found = np.flatnonzero(positive)
    chosen.positives += len(found)
    chosen.images.append(np.full(len(found), image))
    chosen.boxes.append(found)
    chosen.sets.append(sets[found])
    chosen.wanted.append(wanted[found])
    chosen.weights.append(weights[found])
    compared = np.concatenate([found, negatives]) if mining != "NONE" else np.arange(len(priors))
    chosen.score_images.append(np.full(len(compared), image))
    chosen.score_boxes.append(compared)
    chosen.labels.append(labels[compared])


def _place_loss(place: Any, chosen: _Chosen, options: dict[str, Any]) -> Any:
    dtype = constant(place).dtype
    if not chosen.positives:
        return np.zeros((), dtype)
    rows = tuple(np.concatenate(parts) for parts in (chosen.images, chosen.boxes, chosen.sets))
    wanted, weights = (np.concatenate(parts).astype(dtype) for parts in (chosen.wanted, chosen.weights))
    difference = ops.multiply(ops.subtract(place[rows], wanted), weights)
    if options["loc_loss"] == "L2":
        return ops.multiply(ops.sum(ops.square(difference)), 0.5)
    return ops.sum(huber(difference))


def huber(x: Any) -> Any:
    """x^2 / 2 where |x| < 1, else |x| - 1/2."""
    size = ops.abs(x)
    return ops.where(np.asarray(constant(size) < 1), ops.multiply(ops.square(x), 0.5), ops.subtract(size, 0.5))


def _score_loss(score: Any, chosen: _Chosen, options: dict[str, Any]) -> Any:
    labels = np.concatenate(chosen.labels) if chosen.labels else np.zeros(0, np.intp)
    if not len(labels):
        return np.zeros((), constant(score).dtype)
    rows = score[np.concatenate(chosen.score_images), np.concatenate(chosen.score_boxes)]
    hot = np.arange(options["classes"]) == labels[:, None]
    if options["conf_loss"] == "SOFTMAX":
        return ops.negative(ops.sum(ops.where(hot, ops.log_softmax(rows, axis=1), 0.0)))
    if options["mining"] == "NONE":  # a box that nothing matches has no label at all there
        hot &= (labels != options["background"])[:, None]
    return bce_with_logits_loss(rows, hot.astype(constant(rows).dtype), reduction="sum")
