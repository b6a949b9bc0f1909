"""SSD's training loss, judged detections and YOLO's boxes against loops over boxes written here from their definitions."""

from math import exp, log
from typing import Any

import numpy as np
import pytest
from caffe_nets import build, net_text, run
from test_caffe_layers import close

import preimage as pre
from preimage.errors import PreimageError, ShapeError
from preimage.io import caffe

RNG = np.random.default_rng(15)


def share(a: Any, b: Any) -> float:
    """Intersection over union."""
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    meet = wide * tall
    return float(meet / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - meet))


def coded(box: Any, prior: Any, code: str) -> Any:
    """What a net should say for a true box at a prior box."""
    size = [prior[2] - prior[0], prior[3] - prior[1]]
    if code == "CENTER_SIZE":
        centre = [((box[k] + box[k + 2]) - (prior[k] + prior[k + 2])) / 2 / size[k] for k in (0, 1)]
        return np.array([*centre, *(log((box[k + 2] - box[k]) / size[k]) for k in (0, 1))])
    return np.array([(box[k] - prior[k]) / (size[k % 2] if code == "CORNER_SIZE" else 1) for k in range(4)])


def matches(boxes: Any, true: Any, threshold: float, per_prediction: bool) -> tuple[list[int], list[float]]:
    found, best = [-1] * len(boxes), [max((share(b, t) for t in true), default=0.0) for b in boxes]
    free = set(range(len(true)))
    while free:
        pairs = [(share(boxes[i], true[j]), -i, -j) for i in range(len(boxes)) for j in free if found[i] == -1]
        overlap, i, j = max(pairs, default=(0, 0, 0))
        if overlap <= 1e-6:
            break
        found[-i] = -j
        free.discard(-j)
    if per_prediction:
        for i, box in enumerate(boxes):
            scores = [share(box, t) for t in true]
            if found[i] == -1 and scores and max(scores) >= threshold:
                found[i] = int(np.argmax(scores))
    return found, best


def class_loss(row: Any, label: int | None, logistic: bool) -> float:
    if not logistic:
        return log(sum(exp(v) for v in row)) - row[label]
    return sum(log(1 + exp(v)) - (v if k == label else 0) for k, v in enumerate(row))


def small(d: float, smooth: bool) -> float:
    return d * d / 2 if abs(d) < 1 or not smooth else abs(d) - 0.5


def multibox(places: Any, scores: Any, priors: Any, truth: Any, options: dict[str, Any]) -> float:
    """SSD's loss, box by box."""
    mining, logistic = options.get("mining", "MAX_NEGATIVE"), options.get("conf") == "LOGISTIC"
    boxes, variance = priors.reshape(2, -1, 4)
    total, count = 0.0, 0
    for n in range(len(places)):
        true = [row for row in truth.reshape(-1, 8) if row[0] == n and (options.get("difficult", True) or not row[7])]
        place, score = places[n].reshape(len(boxes), -1, 4), scores[n].reshape(len(boxes), -1)
        found, best = matches(boxes, [row[3:7] for row in true], 0.5, options.get("per_prediction", True))
        labels = [int(true[j][1]) if j >= 0 else 0 for j in found]
        each, losses = [], []
        for i, j in enumerate(found):
            loss = 0.0
            if j >= 0:
                d = coded(true[j][3:7], boxes[i], options.get("code", "CORNER"))
                said = place[i, labels[i] if place.shape[1] > 1 else 0]
                d = (said - d) / variance[i] if options.get("in_target") else said - d / variance[i]
                if options.get("bp_inside"):
                    d = d * ((boxes[i] >= 0) & (boxes[i] <= 1))
                loss = sum(small(v, options.get("loc") != "L2") for v in d)
            each.append(loss)
            losses.append(class_loss(score[i], labels[i], logistic))
        positive = [i for i, j in enumerate(found) if j >= 0]
        negative: list[int] = []
        if mining == "MAX_NEGATIVE" and true:
            able = sorted((-losses[i], i) for i, j in enumerate(found) if j < 0 and best[i] < 0.5)
            negative = [i for _, i in able[: int(len(positive) * options.get("ratio", 3))]]
        elif mining == "HARD_EXAMPLE" and true:
            hard = [i for _, i in sorted((-losses[i] - each[i], i) for i in range(len(found)))[:5]]
            negative = [i for i in hard if found[i] < 0]
            positive = [i for i in positive if i in hard]
        elif mining == "NONE":
            negative = [i for i, j in enumerate(found) if j < 0]
        count += len(positive)
        total += 2 * sum(each[i] for i in positive)
        blank = None if logistic and mining == "NONE" else 0
        total += sum(class_loss(score[i], labels[i], logistic) for i in positive)
        total += sum(class_loss(score[i], blank, logistic) for i in negative)
    return total / max(count, 1)


def random_boxes(count: int, low: float = 0.0, high: float = 1.0) -> Any:
    centre, half = RNG.uniform(low, high, (count, 2)), RNG.uniform(0.1, 0.3, (count, 2))
    return np.concatenate([centre - half, centre + half], axis=1)


def check_slope(graph: Any, inputs: list[Any], moved: int) -> None:
    """The gradient of the first `moved` inputs along a random direction against a central difference."""
    leaves = [pre.Tensor(x, requires_grad=k < moved) for k, x in enumerate(inputs)]
    with pre.config(engine="reference"):
        found = [g.data for g in pre.grad(graph(*leaves), leaves[:moved])]
    ways = [RNG.standard_normal(x.shape) for x in inputs[:moved]]
    up, down = (run(graph, *(x + s * w for x, w in zip(inputs, ways, strict=False)), *inputs[moved:]) for s in (1e-5, -1e-5))
    slope = sum(float(np.sum(g * w)) for g, w in zip(found, ways, strict=True))
    assert abs(slope) > 1e-2
    close(slope, (up - down) / 2e-5, 1e-5)


CASES: dict[str, dict[str, Any]] = {
    "": {},
    "code_type: CENTER_SIZE": {"code": "CENTER_SIZE"},
    "code_type: CORNER_SIZE loc_loss_type: L2": {"code": "CORNER_SIZE", "loc": "L2"},
    "code_type: CENTER_SIZE encode_variance_in_target: true": {"code": "CENTER_SIZE", "in_target": True},
    "conf_loss_type: LOGISTIC neg_pos_ratio: 1.5": {"conf": "LOGISTIC", "ratio": 1.5},
    "mining_type: NONE match_type: BIPARTITE": {"mining": "NONE", "per_prediction": False},
    "mining_type: NONE conf_loss_type: LOGISTIC": {"mining": "NONE", "conf": "LOGISTIC"},
    "mining_type: HARD_EXAMPLE sample_size: 5 bp_inside: true": {"mining": "HARD_EXAMPLE", "bp_inside": True},
    "use_difficult_gt: false": {"difficult": False},
    "share_location: false mining_type: NONE": {"mining": "NONE", "sets": 3},
}


@pytest.mark.parametrize("text", CASES)
def test_the_multibox_loss(text: str) -> None:
    options, count, classes = CASES[text], 12, 3
    sets = options.get("sets", 1)
    priors = np.stack([random_boxes(count), RNG.uniform(0.1, 0.4, (count, 4))]).reshape(1, 2, -1).astype(np.float32)
    true = np.concatenate([random_boxes(4, 0.3, 0.7), np.zeros((4, 1))], axis=1)
    truth = np.zeros((1, 1, 5, 8))
    truth[0, 0, :4, 3:], truth[0, 0, :4, 0], truth[0, 0, :4, 1] = true, [0, 0, 1, 1], [1, 2, 2, 1]
    truth[0, 0, 1, 7], truth[0, 0, 4, 0] = 1, -1
    truth = truth.astype(np.float32)
    places, scores = RNG.standard_normal((3, count * sets * 4)), 2 * RNG.standard_normal((3, count * classes))
    layer = f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: 3 loc_weight: 2 {text} }}'
    graph = build(layer, places.shape, scores.shape, priors.shape, truth.shape)
    wanted = multibox(places, scores, priors.astype(float), truth.astype(float), options)
    assert wanted > 1
    close(run(graph, places, scores, priors, truth), wanted, 2e-5)
    check_slope(graph, [places, scores, priors, truth], 2)


def test_a_multibox_loss_without_boxes_and_with_wrong_ones() -> None:
    layer = 'type: "MultiBoxLoss" multibox_loss_param { num_classes: 3 %s }'
    priors = np.stack([random_boxes(2), np.full((2, 4), 0.1)]).reshape(1, 2, -1)
    graph = build(layer % "", (1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8))
    given = [np.zeros((1, 8)), np.ones((1, 6)), priors]
    none, row = np.full((1, 1, 1, 8), -1.0), np.array([[[[0, 1, 0, 0.1, 0.1, 0.5, 0.6, 0]]]])
    close(run(graph, *given, none), 0)
    for change, problem in (
        ((1, 3), "label outside 0 .. 2"),
        ((1, 0), "label 0, which is the background's"),
        ((5, np.nan), "not finite"),
    ):
        wrong = row.copy()
        wrong[..., change[0]] = change[1]
        with pytest.raises(ShapeError, match=problem.replace("..", r"\.\.")):
            run(graph, *given, wrong)
    flat = row.copy()
    flat[..., 5] = 0.1
    centre = build(layer % "code_type: CENTER_SIZE", (1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8))
    touching = np.stack([np.tile(row[0, 0, 0, 3:7], (2, 1)), np.full((2, 4), 0.1)]).reshape(1, 2, -1)
    assert run(centre, *given[:2], touching, row) > 0
    close(run(centre, *given[:2], touching, flat), 0)  # it overlaps nothing


@pytest.mark.parametrize(
    ("text", "shapes", "problem"),
    [
        ("", [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)], "needs num_classes"),
        ("num_classes: 3 background_label_id: 3", [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)], "background_label_id within"),
        ("num_classes: 3", [(1, 8), (1, 6), (1, 1, 8), (1, 1, 1, 8)], "the priors have shape"),
        ("num_classes: 3", [(1, 8), (1, 5), (1, 2, 8), (1, 1, 1, 8)], "do not go with"),
        ("num_classes: 3", [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 7)], "the true boxes have shape"),
        ("num_classes: 3 mining_type: 7", [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)], "unknown mining_type 7"),
        ("num_classes: 3 share_location: false", [(1, 24), (1, 6), (1, 2, 8), (1, 1, 1, 8)], "mining_type NONE is needed"),
        ("num_classes: 3 nms_param { nms_threshold: 0.5 }", [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)], "nms_param"),
        ("num_classes: 3 map_object_to_agnostic: true", [(1, 8), (1, 6), (1, 2, 8), (1, 1, 1, 8)], "needs 2 classes"),
    ],
)
def test_multibox_losses_that_do_not_fit(text: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    with pytest.raises(PreimageError, match=problem):
        caffe.load(caffe.parse_text("NetParameter", net_text(f'type: "MultiBoxLoss" multibox_loss_param {{ {text} }}', *shapes)))


@pytest.mark.parametrize("difficult", [True, False])
def test_detections_are_judged(difficult: bool) -> None:
    truth = np.array([
        [0, 1, 0, 0.1, 0.1, 0.4, 0.4, 0], [0, 1, 0, 0.5, 0.5, 0.9, 0.9, 1], [0, 2, 0, 0.1, 0.6, 0.3, 0.9, 0],
        [1, 2, 0, 0.2, 0.2, 0.8, 0.8, 0], [-1, 1, 0, 0, 0, 1, 1, 0],
    ])  # fmt: skip
    found = np.array([
        [0, 1, 0.9, 0.1, 0.1, 0.4, 0.4], [0, 1, 0.95, 0.12, 0.1, 0.42, 0.4], [0, 1, 0.5, 0.5, 0.5, 0.9, 0.9], [0, 1, 0.4, 0.7, 0, 0.8, 0.1],
        [0, 2, 0.3, 0.1, 0.6, 0.3, 0.9], [1, 1, 0.2, 0, 0, 1, 1], [2, 1, 0.1, 0, 0, 1, 1], [3, -1, -1, -1, -1, -1, -1],
    ])  # fmt: skip
    text = (
        f'type: "DetectionEvaluate" detection_evaluate_param {{ num_classes: 3 evaluate_difficult_gt: {str(difficult).lower()} }}'
    )
    graph = build(text, (1, 1, 8, 7), (1, 1, 5, 8))
    rows = [
        [-1, 1, 2 if difficult else 1, -1, -1], [-1, 2, 2, -1, -1],
        [0, 1, 0.95, 1, 0], [0, 1, 0.9, 0, 1], [0, 1, 0.5, 1, 0] if difficult else [0, 1, 0.5, 0, 0], [0, 1, 0.4, 0, 1],
        [0, 2, 0.3, 1, 0], [1, 1, 0.2, 0, 1], [2, 1, 0.1, 0, 1],
    ]  # fmt: skip
    close(run(graph, found[None, None], truth[None, None]), np.array(rows)[None, None], 1e-6)


def yolo_loops(maps: Any, anchors: Any, scales: Any, classes: int, threshold: float, overlap: float) -> Any:
    found = []
    for data, boxes, scale in zip(maps, anchors, scales, strict=True):
        n, _, height, width = data.shape
        for image, i, j, k in np.ndindex(n, height, width, len(boxes)):
            row = data[image, k * (5 + classes) : (k + 1) * (5 + classes), i, j]
            s = 1 / (1 + np.exp(-row))
            x, y = (j + s[0]) / width, (i + s[1]) / height
            w, h = np.exp(row[2]) * boxes[k][0] / (width * scale), np.exp(row[3]) * boxes[k][1] / (height * scale)
            for label in range(classes):
                if s[4] * s[5 + label] > threshold:
                    found.append([0, label + 1, s[4] * s[5 + label], x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    found.sort(key=lambda row: -row[2])
    kept: list[Any] = []
    for row in found:
        if all(share(row[3:], other[3:]) < overlap for other in kept):
            kept.append(row)
    return np.array(kept)[None, None]


def test_yolo_boxes() -> None:
    text = """type: "Yolov3DetectionOutput" yolov3_detection_output_param { num_classes: 3 num_box: 2 confidence_threshold: 0.3 nms_threshold: 0.4
      biases: [10, 14, 23, 27, 37, 58, 81, 82] mask: [2, 3, 0, 1] mask_group_num: 2 anchors_scale: [32, 16] }"""
    maps = [RNG.standard_normal((2, 16, 3, 4)), RNG.standard_normal((2, 16, 6, 8))]
    graph = build(text, *(m.shape for m in maps))
    found = run(graph, *maps)
    anchors = [[(37, 58), (81, 82)], [(10, 14), (23, 27)]]
    wanted = yolo_loops(maps, anchors, (32, 16), 3, 0.3, 0.4)
    assert 20 < wanted.shape[2] < 500
    close(found, wanted, 1e-5)
    blank = run(graph, *(np.full(m.shape, -9.0) for m in maps))
    assert blank.tolist() == [[[[0, *[-1] * 6], [1, *[-1] * 6]]]]
    for change, problem in (
        ("num_box: 2", "num_box: 4"),
        ("mask_group_num: 2", "mask_group_num: 3"),
        ("2, 3, 0, 1]", "2, 4, 0, 1]"),
    ):
        with pytest.raises(PreimageError, match="mask"):
            caffe.load(caffe.parse_text("NetParameter", net_text(text.replace(change, problem), *(m.shape for m in maps))))


def test_an_empty_batch_detects_nothing() -> None:
    text = """type: "DetectionOutput" detection_output_param { num_classes: 3 share_location: true background_label_id: 0
      nms_param { nms_threshold: 0.45 top_k: 10 } keep_top_k: 5 confidence_threshold: 0.1 }"""
    shapes = [(0, 16), (0, 12), (1, 2, 16)]
    found = run(build(text, *shapes), *(RNG.random(shape) for shape in shapes))
    assert found.reshape(-1, 7)[:, 1:].tolist() == [[-1] * 6]
