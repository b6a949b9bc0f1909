"""ONNX's operator on boxes: NonMaxSuppression. Plain arrays, no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.onnx.operators.shapes import data_of

__all__: list[str] = []


def _scalar(value: Any, default: float, what: str) -> float:
    if value is None:
        return default
    array = np.asarray(data_of(value))
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise FileFormatError(f"NonMaxSuppression: {what} must be one number, got shape {array.shape} of {array.dtype}")
    return float(array.reshape(-1)[0])


def _corners(boxes: NDArray[Any], centre: bool) -> NDArray[Any]:
    """Two opposite corners, the lower one first; boxes may name any two, or the centre and the size."""
    if centre:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate([middle - half, middle + half], axis=-1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=-1)


def _kept(boxes: NDArray[Any], order: NDArray[np.intp], most: int, overlap: float) -> list[int]:
    """Greedily, in the order given: a box strikes out all later ones that overlap it by more than the threshold."""
    side = boxes[:, 2:] - boxes[:, :2]
    area = side[:, 0] * side[:, 1]
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        meet = np.maximum(np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2]), 0)
        shared = meet[:, 0] * meet[:, 1]
        union = area[best] + area[order] - shared
        share = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        order = order[~(share > overlap)]
    return kept


@graph_op("onnx.NonMaxSuppression", types=gives("int64"))
def _non_max_suppression(
    boxes: Any, scores: Any, max_output: Any = None, overlap: Any = None, least: Any = None, center_point_box: int = 0
) -> Any:
    places, points = np.asarray(data_of(boxes)), np.asarray(data_of(scores))
    if places.ndim != 3 or places.shape[2] != 4 or points.ndim != 3 or points.shape[::2] != places.shape[:2]:
        raise FileFormatError(f"NonMaxSuppression: boxes {places.shape} and scores {points.shape} do not belong together")
    most, share = int(_scalar(max_output, 0, "max_output_boxes_per_class")), _scalar(overlap, 0.0, "iou_threshold")
    threshold = _scalar(least, -np.inf, "score_threshold")
    found = [np.zeros((0, 3), np.int64)]
    for image, corners in enumerate(_corners(places, bool(center_point_box))):
        for label, row in enumerate(points[image]):
            above = np.flatnonzero(row > threshold) if least is not None else np.arange(len(row))
            order = above[np.argsort(-row[above], kind="stable")]
            kept = _kept(corners, order, most, share)
            found.append(np.array([(image, label, k) for k in kept], np.int64).reshape(-1, 3))
    return np.concatenate(found)
