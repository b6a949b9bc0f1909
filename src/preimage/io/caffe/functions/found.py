"""Detections as graph words: judged against true boxes (SSD's DetectionEvaluate), and made of YOLO v3's maps; plain arrays, no gradient.

Source: weiliu89/caffe, branch ssd; J. Redmon and A. Farhadi, "YOLOv3" (2018), and eric612/MobileNet-YOLO. Read as facts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.io.caffe.functions.basic import constant
from preimage.io.caffe.functions.multibox import Truth, overlaps, true_boxes
from preimage.io.caffe.functions.ssd import thinned
from preimage.io.graph import graph_op

__all__: list[str] = []

Floats = NDArray[Any]


@graph_op("detection_evaluate")
def detection_evaluate(found: Any, truth: Any, *, classes: int, background: int, overlap: float, difficult: bool) -> Floats:
    """Rows (-1, class, number of its true boxes, -1, -1), then one for each detection by image and label: (image, label, score, right, wrong).

    The best detection that overlaps a true box by at least `overlap` is right, later ones of the same box are wrong; one at a difficult
    box that does not count is neither.
    """
    table = np.asarray(constant(found), np.float32).reshape(-1, 7)
    table = table[(table[:, 0] != -1) & (table[:, 1] != -1) & np.isfinite(table).all(axis=1)]
    images = int(max([*table[:, 0], *np.asarray(constant(truth), np.float32).reshape(-1, 8)[:, 0], -1])) + 1
    known = true_boxes(truth, min(max(images, 0), 1 << 20), background)
    number = np.zeros(classes, np.float32)
    for each in known:
        counted = each.labels[difficult | ~each.difficult]
        number += np.bincount(counted[(counted >= 0) & (counted < classes)], minlength=classes)[:classes]
    heads = [(-1, label, number[label], -1, -1) for label in range(classes) if label != background]
    rows: list[Floats] = [np.array(heads, np.float32).reshape(-1, 5)]
    for image, label in sorted({(int(row[0]), int(row[1])) for row in table}):
        mine = table[(table[:, 0] == image) & (table[:, 1] == label)]
        mine = mine[np.argsort(-mine[:, 2], kind="stable")]
        rows.append(_judged(mine, known[image] if 0 <= image < len(known) else None, label, overlap, difficult))
    return np.concatenate(rows)[None, None]


def _judged(mine: Floats, truth: Truth | None, label: int, overlap: float, difficult: bool) -> Floats:
    """The rows of one image and label, best score first."""
    out = np.concatenate([mine[:, :3], np.zeros((len(mine), 1)), np.ones((len(mine), 1))], axis=1).astype(np.float32)
    own = np.flatnonzero(truth.labels == label) if truth is not None else np.zeros(0, np.intp)
    if truth is None or not len(own):
        return out
    shares, taken = overlaps(mine[:, 3:7], truth.boxes[own]), np.zeros(len(own), bool)
    for row, place in enumerate(shares.argmax(axis=1)):
        if shares[row, place] < overlap:
            continue
        if not difficult and truth.difficult[own[place]]:
            out[row, 3:] = 0
        elif not taken[place]:
            out[row, 3:], taken[place] = (1, 0), True
    return out


@graph_op("yolov3_detection_output")
def yolov3_detection_output(
    *maps: Any,
    classes: int,
    anchors: tuple[tuple[tuple[float, float], ...], ...],
    scales: tuple[int, ...],
    threshold: float,
    overlap: float,
) -> Floats:
    """Rows (0, label + 1, score, xmin, ymin, xmax, ymax), best score first; for each image a row (image, -1, ...) if nothing is found.

    At pixel (i, j) of a map of H x W with anchors (a, b) in the picture's pixels: centre ((j + sigmoid x) / W, (i + sigmoid y) / H), size
    (a exp(w) / (W scale), b exp(h) / (H scale)); score sigmoid(object) sigmoid(class). Of boxes that overlap by at least `overlap`,
    whatever their classes, the best is kept.
    """
    parts = [
        _decoded_map(np.asarray(constant(m), np.float32), classes, boxes, s)
        for m, boxes, s in zip(maps, anchors, scales, strict=True)
    ]
    boxes, scores = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    which, label = np.nonzero(scores > threshold)
    values = scores[which, label]
    order = np.argsort(-values, kind="stable")
    corners = boxes[which][order]
    with np.errstate(all="ignore"):
        kept = thinned(corners, np.arange(len(order)), float(np.nextafter(np.float32(overlap), np.float32(-1))), 1.0)
    if not kept:
        batch = np.shape(constant(maps[0]))[0]
        blank = np.full((max(batch, 1), 7), -1, np.float32)
        blank[:, 0] = np.arange(len(blank))
        return blank[None, None]
    chosen = order[kept]
    columns = np.stack([np.zeros(len(kept)), label[chosen] + 1, values[chosen]], axis=1)
    return np.concatenate([columns, corners[kept]], axis=1).astype(np.float32)[None, None]


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _decoded_map(data: Floats, classes: int, anchors: tuple[tuple[float, float], ...], scale: int) -> tuple[Floats, Floats]:
    """Corners (boxes, 4) and scores (boxes, classes) of a map, by image, pixel and anchor."""
    batch, _, height, width = data.shape
    table = data.reshape(batch, len(anchors), classes + 5, height, width)
    size = (
        np.array(anchors, np.float32)[None, :, :, None, None]
        / np.array([width * scale, height * scale], np.float32)[:, None, None]
    )
    with np.errstate(over="ignore"):
        x = (np.arange(width) + _sigmoid(table[:, :, 0])) / width
        y = (np.arange(height)[:, None] + _sigmoid(table[:, :, 1])) / height
        half = np.exp(table[:, :, 2:4]) * size / 2
        scores = _sigmoid(table[:, :, 4:5]) * _sigmoid(table[:, :, 5:])
    boxes = np.stack([x - half[:, :, 0], y - half[:, :, 1], x + half[:, :, 0], y + half[:, :, 1]], axis=2)
    rows = (np.moveaxis(v, (3, 4), (1, 2)).reshape(-1, v.shape[2]) for v in (boxes, scores))
    corners, values = rows
    return np.asarray(corners, np.float32), np.asarray(values, np.float32)
