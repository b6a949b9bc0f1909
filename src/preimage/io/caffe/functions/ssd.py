"""SSD's box layers as graph words; plain arrays, no gradient.

Source: W. Liu et al., "SSD: Single Shot MultiBox Detector" (2016), and weiliu89/caffe, branch ssd, read as facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.caffe.functions.basic import constant
from preimage.io.graph import graph_op

__all__ = ["area", "decoded", "prior_boxes", "prior_halves", "thinned"]

Floats = NDArray[Any]


def prior_halves(min_sizes: Sequence[float], max_sizes: Sequence[float], ratios: Sequence[float]) -> Floats:
    """Half widths and half heights of the boxes of one pixel, (boxes, 2): float32 arithmetic, as SSD's."""
    single = np.float32
    halves: list[tuple[Any, Any]] = []
    for index, size in enumerate(map(int, min_sizes)):
        halves.append((single(size), single(size)))
        if max_sizes:
            side = np.sqrt(single(size * int(max_sizes[index])))
            halves.append((side, side))
        roots = [np.sqrt(single(r)) for r in ratios if abs(r - 1) >= 1e-6]
        halves += [(single(size) * root, single(size) / root) for root in roots]
    return np.array(halves, np.float32) / single(2)


@graph_op("prior_box")
def prior_box(
    x: Any,
    picture: Any,
    *,
    min_sizes: tuple[float, ...],
    max_sizes: tuple[float, ...],
    ratios: tuple[float, ...],
    variance: tuple[float, ...],
    clip: bool,
    offset: float,
    step: tuple[float, float],
    image: tuple[int, int],
) -> Floats:
    """Boxes around each pixel's centre, (xmin, ymin, xmax, ymax) over the image's size; sizes are whole pixels, as in SSD.

    For each min_size s: s x s; sqrt(s S) twice, S its max_size; then s sqrt(r) x s / sqrt(r) for each other ratio r.
    """
    (height, width), pixels = constant(x).shape[2:], constant(picture).shape[2:]
    tall, wide = image if all(image) else pixels
    step_h, step_w = step if all(step) else (tall / height, wide / width)
    half = prior_halves(min_sizes, max_sizes, ratios)
    centre_y = ((np.arange(height, dtype=np.float32) + np.float32(offset)) * np.float32(step_h))[:, None, None]
    centre_x = ((np.arange(width, dtype=np.float32) + np.float32(offset)) * np.float32(step_w))[None, :, None]
    boxes = np.empty((height, width, len(half), 4), np.float32)
    boxes[..., 0], boxes[..., 2] = (centre_x - half[:, 0]) / wide, (centre_x + half[:, 0]) / wide
    boxes[..., 1], boxes[..., 3] = (centre_y - half[:, 1]) / tall, (centre_y + half[:, 1]) / tall
    if clip:
        np.clip(boxes, 0, 1, out=boxes)
    spread = np.broadcast_to(np.array(variance, np.float32), boxes.shape)
    return np.stack([boxes.reshape(-1), spread.reshape(-1)])[None]


def prior_boxes(priors: Any) -> tuple[Floats, Floats]:
    """The prior boxes and their variances, (boxes, 4) each, of the values (1, 2, boxes * 4) that PriorBox layers make."""
    boxes, variance = np.asarray(priors, np.float32)[0].reshape(2, -1, 4)
    return boxes, variance


def decoded(places: Floats, priors: Floats, variance: Floats, code: str, in_target: bool) -> Floats:
    """Boxes from predicted places (N, boxes, 4) and prior boxes (boxes, 4)."""
    shift = places if in_target else places * variance
    size = priors[:, 2:] - priors[:, :2]
    if code != "CENTER_SIZE":
        shift = shift * np.concatenate([size, size], axis=1) if code == "CORNER_SIZE" else shift
        corners: Floats = priors + shift
        return corners
    centre = shift[..., :2] * size + (priors[:, :2] + priors[:, 2:]) / 2
    with np.errstate(over="ignore"):
        half = np.exp(shift[..., 2:]) * size / 2
    boxes: Floats = np.concatenate([centre - half, centre + half], axis=-1)
    return boxes


def area(boxes: Floats) -> Floats:
    """The area of each box; 0 for one whose corners are exchanged."""
    side = boxes[..., 2:] - boxes[..., :2]
    return np.where((side < 0).any(axis=-1), 0, side[..., 0] * side[..., 1])


def thinned(boxes: Floats, order: NDArray[np.intp], overlap: float, eta: float) -> list[int]:
    """Greedy non-maximum suppression: a box stays if it overlaps no kept one by more than the threshold (which eta lowers)."""
    kept: list[int] = []
    sizes, threshold = area(boxes), np.float32(overlap)
    if eta >= 1:  # with one threshold for all, each kept box strikes out the rest at once
        left = order
        while len(left):
            best, left = int(left[0]), left[1:]
            kept.append(best)
            left = left[~(_shared(boxes, sizes, best, left) > threshold)]
        return kept
    for candidate in map(int, order):
        if not (_shared(boxes, sizes, candidate, np.array(kept, np.intp)) > threshold).any():
            kept.append(candidate)
            threshold = threshold * np.float32(eta) if threshold > 0.5 else threshold
    return kept


def _shared(boxes: Floats, area: Floats, one: int, others: NDArray[np.intp]) -> Floats:
    """Intersection over union of a box with others; 0 where they do not meet."""
    side = np.minimum(boxes[one, 2:], boxes[others, 2:]) - np.maximum(boxes[one, :2], boxes[others, :2])
    meet = np.where((side > 0).all(axis=-1), side[:, 0] * side[:, 1], 0)
    union = area[one] + area[others] - meet
    share: Floats = np.divide(meet, union, out=np.zeros_like(meet), where=union > 0)
    return share


@graph_op("detection_output")
def detection_output(
    places: Any,
    scores: Any,
    priors: Any,
    *,
    classes: int,
    share_location: bool,
    background: int,
    code: str,
    variance_in_target: bool,
    threshold: float | None,
    overlap: float | None,
    eta: float,
    top_k: int,
    keep_top_k: int,
) -> Floats:
    """Rows (image, label, score, xmin, ymin, xmax, ymax), by image and label; a row of -1 for each image if nothing is found."""
    prior, variance = prior_boxes(constant(priors))
    batch = constant(scores).shape[0]
    score = np.asarray(constant(scores), np.float32).reshape(batch, len(prior), classes)
    place = np.asarray(constant(places), np.float32).reshape(batch, len(prior), 1 if share_location else classes, 4)
    rows: list[Floats] = []
    for image in range(batch):
        found: list[tuple[int, NDArray[np.intp], Floats]] = []
        for label in range(classes):
            if label == background:
                continue
            boxes = decoded(place[image, :, 0 if share_location else label], prior, variance, code, variance_in_target)
            mine = score[image, :, label]
            if overlap is None:
                kept = np.arange(len(prior))
            else:
                above = np.flatnonzero(mine > threshold) if threshold is not None else np.arange(len(prior))
                order = above[np.argsort(-mine[above], kind="stable")]
                order = order[:top_k] if top_k > -1 else order
                with np.errstate(invalid="ignore", over="ignore"):
                    kept = np.array(thinned(boxes, order, overlap, eta), np.intp)
            found.append((label, kept, boxes[kept]))
        rows += _best(image, found, score[image], keep_top_k)
    if not rows:
        blank = np.full((max(batch, 1), 7), -1, np.float32)
        blank[:, 0] = np.arange(len(blank))
        return blank[None, None]
    return np.concatenate(rows)[None, None]


def _best(image: int, found: list[tuple[int, NDArray[np.intp], Floats]], score: Floats, keep: int) -> list[Floats]:
    """The rows of one image; where there are more than `keep`, the highest scores of all labels, then by label."""
    labels = np.concatenate([np.full(len(kept), label) for label, kept, _ in found]) if found else np.zeros(0, int)
    if not len(labels):
        return []
    priors = np.concatenate([kept for _, kept, _ in found])
    boxes = np.concatenate([box for _, _, box in found])
    values = score[priors, labels]
    if -1 < keep < len(labels):
        chosen = np.argsort(-values, kind="stable")[:keep]
        chosen = chosen[np.argsort(labels[chosen], kind="stable")]
        labels, boxes, values = labels[chosen], boxes[chosen], values[chosen]
    columns = [np.full(len(labels), image), labels, values]
    return [np.concatenate([np.stack(columns, axis=1), boxes], axis=1).astype(np.float32)]
