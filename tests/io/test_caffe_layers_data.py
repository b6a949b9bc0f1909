"""SSD's box layers against loops written here, and the layers that feed data."""

from typing import Any

import numpy as np
import pytest
from caffe_nets import build, run
from test_caffe_layers import close

import preimage as pre
from preimage.errors import FileFormatError, ShapeError
from preimage.io import caffe

# -- SSD ---------------------------------------------------------------------------------------------------------------


def test_prior_box() -> None:
    graph = build(
        'type: "PriorBox" prior_box_param { min_size: 4 max_size: 9 aspect_ratio: 2 clip: true '
        "variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4 }",
        (1, 2, 2, 3),
        (1, 3, 20, 30),
    )
    y = run(graph, np.zeros((1, 2, 2, 3)), np.zeros((1, 3, 20, 30)))
    sizes = [(4, 4), (6, 6), (4 * 2**0.5, 4 / 2**0.5), (4 / 2**0.5, 4 * 2**0.5)]
    wanted = []
    for i, j, (w, h) in ((i, j, s) for i in range(2) for j in range(3) for s in sizes):
        cx, cy = (j + 0.5) * 10, (i + 0.5) * 10
        wanted += [(cx - w / 2) / 30, (cy - h / 2) / 20, (cx + w / 2) / 30, (cy + h / 2) / 20]
    close(y[0, 0], np.clip(wanted, 0, 1), 1e-6)
    close(y[0, 1], np.tile(np.float32([0.1, 0.2, 0.3, 0.4]), 24), 1e-6)
    graph = build(
        'type: "PriorBox" prior_box_param { min_size: 4 flip: false aspect_ratio: 1 aspect_ratio: 3 step: 8 offset: 0 img_size: 40 }',
        (1, 2, 1, 2),
        (1, 3, 20, 30),
    )
    y = run(graph, np.zeros((1, 2, 1, 2)), np.zeros((1, 3, 20, 30)))
    assert y.shape == (1, 2, 16)
    close(y[0, 0, 8:12], [(8 - 2) / 40, -2 / 40, 10 / 40, 2 / 40], 1e-6)
    close(y[0, 1], np.full(16, np.float32(0.1)), 1e-6)


def detections(places: Any, scores: Any, priors: Any, classes: int, **p: Any) -> list[list[float]]:
    """Decode, threshold, suppress, keep the best: loops over boxes."""
    boxes, variance = priors.reshape(2, -1, 4)
    rows = []
    for n in range(len(scores)):
        kept = []
        for label in range(classes):
            if label == p["background"]:
                continue
            decoded = []
            for k, (x0, y0, x1, y1) in enumerate(boxes):
                s = places[n].reshape(len(boxes), -1, 4)[k, 0 if p["shared"] else label] * variance[k]
                w, h = x1 - x0, y1 - y0
                cx, cy = s[0] * w + (x0 + x1) / 2, s[1] * h + (y0 + y1) / 2
                ww, hh = np.exp(s[2]) * w, np.exp(s[3]) * h
                decoded.append([cx - ww / 2, cy - hh / 2, cx + ww / 2, cy + hh / 2])
            score = scores[n].reshape(len(boxes), classes)[:, label]
            order = sorted((k for k in range(len(boxes)) if score[k] > p["threshold"]), key=lambda k: -score[k])[: p["top_k"]]
            chosen: list[int] = []
            limit = p["overlap"]
            for k in order:
                if all(overlap(decoded[k], decoded[j]) <= limit for j in chosen):
                    chosen.append(k)
                    limit = limit * p["eta"] if p["eta"] < 1 and limit > 0.5 else limit
            kept += [[n, label, score[k], *decoded[k]] for k in chosen]
        if len(kept) > p["keep"]:
            kept = sorted(sorted(kept, key=lambda r: -r[2])[: p["keep"]], key=lambda r: r[1])
        rows += kept
    return rows


def overlap(a: Any, b: Any) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = [(r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)]
    return w * h / (sum(area) - w * h)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("eta", [1, 0.75])
def test_detection_output(shared: bool, eta: float) -> None:
    rng = np.random.default_rng(7)
    count, classes = 40, 3
    corner = rng.random((count, 2)) * 0.7
    priors = np.stack(
        [
            np.concatenate([corner, corner + 0.1 + rng.random((count, 2)) * 0.2], 1).reshape(-1),
            np.tile([0.1, 0.1, 0.2, 0.2], count),
        ]
    )[None]
    places = rng.standard_normal((2, count * 4 * (1 if shared else classes)))
    scores = rng.random((2, count * classes))
    text = f"num_classes: {classes} share_location: {str(shared).lower()} code_type: CENTER_SIZE keep_top_k: 20 "
    text += f"confidence_threshold: 0.3 nms_param {{ nms_threshold: 0.7 top_k: 25 eta: {eta} }}"
    graph = build(f'type: "DetectionOutput" detection_output_param {{ {text} }}', places.shape, scores.shape, priors.shape)
    wanted = detections(
        places, scores, priors, classes, background=0, shared=shared, threshold=0.3, overlap=0.7, top_k=25, keep=20, eta=eta
    )
    assert len(wanted) == 40
    close(run(graph, places, scores, priors)[0, 0], wanted, 1e-4)
    close(run(graph, places, scores * 0, priors), [[[[k, -1, -1, -1, -1, -1, -1] for k in range(2)]]])


# -- data --------------------------------------------------------------------------------------------------------------


def net(text: str, **options: Any) -> Any:
    return caffe.load(caffe.parse_text("NetParameter", text), **options)


def test_data_layers_become_inputs() -> None:
    graph = net(
        'layer { name: "d" type: "Data" top: "data" top: "label" transform_param { crop_size: 27 } data_param { batch_size: 5 } }'
    )
    assert graph.assembly.shapes == {"data": (5, 3, 27, 27), "label": (5,)}
    graph = net(
        'layer { name: "d" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 5 channels: 2 height: 3 width: 4 } }'
    )
    assert graph.assembly.shapes == {"data": (5, 2, 3, 4), "label": (5,)}
    graph = net(
        'layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { batch_size: 2 new_height: 8 new_width: 9 is_color: false } }'
    )
    assert graph.assembly.shapes["data"] == (2, 1, 8, 9)
    text = 'layer { name: "d" type: "HDF5Data" top: "data" hdf5_data_param { batch_size: 5 source: "x" } }'
    with pytest.raises(FileFormatError, match=r"pass input_shapes=\{'data': ...\}"):
        net(text)
    assert net(text, input_shapes={"data": (5, 7)}).assembly.shapes == {"data": (5, 7)}


def test_dummy_data_and_learned_blobs() -> None:
    graph = net(
        'layer { name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param { '
        'shape { dim: 2 dim: 3 } data_filler { value: 4 } data_filler { type: "uniform" } } }'
    )
    a, b = graph.run({}, ["a", "b"]).values()
    close(a, np.full((2, 3), 4.0))
    assert 0 <= b.min() < b.max() <= 1
    graph = net(
        'layer { name: "p" type: "Parameter" top: "a" parameter_param { shape { dim: 2 } } } layer { name: "s" type: "Silence" bottom: "a" }'
    )
    assert list(graph.weights) == ["p.weight"]
    assert graph.assembly.outputs == []


def test_input_shapes_may_be_replaced() -> None:
    text = 'layer { name: "d" type: "Input" top: "a" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'
    text += 'layer { name: "c" type: "Convolution" bottom: "a" top: "c" convolution_param { num_output: 2 kernel_size: 3 } }'
    assert net(text, input_shapes={"a": (2, 3, 5, 6)}).assembly.shapes["c"] == (2, 2, 3, 4)
    graph = net(text)
    with pre.no_grad():
        assert graph(np.zeros((4, 3, 5, 6), np.float32)).shape == (4, 2, 3, 4)
        with pytest.raises(ShapeError, match=r"layer 'c': its blob 'c.weight' has shape"):
            graph(np.zeros((4, 5, 5, 6), np.float32))
        with pytest.raises(FileFormatError, match=r"layer 'c' \(Convolution\): a kernel of extent"):
            graph(np.zeros((4, 3, 2, 2), np.float32))
