"""Layers that move axes, feed data, measure and detect, on small nets against NumPy written here."""

from math import log
from typing import Any

import numpy as np
import pytest
from caffe_nets import build, run
from test_caffe_layers import check_gradients, close

import preimage as pre
from preimage.errors import FileFormatError, PreimageError, ShapeError
from preimage.io import caffe
from preimage.io.caffe.binary import encode
from preimage.io.caffe.blobs import blob_of_array

RNG = np.random.default_rng(4)


def test_concat_and_slice() -> None:
    a, b = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((2, 5, 4))
    for text in ("", "concat_param { axis: -2 }", "concat_param { concat_dim: 1 }"):
        graph = build(f'type: "Concat" {text}', a.shape, b.shape)
        close(run(graph, a, b), np.concatenate([a, b], axis=1))
    check_gradients(graph, [a, b], [0, 1])
    x = RNG.standard_normal((2, 6, 4))
    for text, points in (
        ("", [2, 4]),
        ("slice_param { slice_point: 1 slice_point: 2 }", [1, 2]),
        ("slice_param { slice_dim: 2 slice_point: 1 slice_point: 3 }", None),
    ):
        graph = build(f'type: "Slice" {text}', x.shape if points else (2, 6, 4), tops=3)
        wanted = np.split(x, points, axis=1) if points else np.split(x, [1, 3], axis=2)
        for ours, piece in zip(run(graph, x), wanted, strict=True):
            close(ours, piece)
    check_gradients(graph, [x], [0], out=1)
    for text in (
        "slice_point: 2 slice_point: 2",
        "slice_point: 3",
        "axis: 3",
        "slice_point: 4 slice_point: 6",
        "axis: 1 slice_dim: 1",
    ):
        with pytest.raises(PreimageError, match=r"layer 't' \(Slice\)"):
            build(f'type: "Slice" slice_param {{ {text} }}', x.shape, tops=3)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("", np.s_[:, :, :4, :3]),
        ("offset: 1", np.s_[:, :, 1:5, 1:4]),
        ("offset: 2 offset: 3", np.s_[:, :, 2:6, 3:6]),
        ("axis: 3 offset: 2", np.s_[:, :, :, 2:5]),
    ],
)
def test_crop(text: str, cut: Any) -> None:
    x, like = RNG.standard_normal((2, 3, 7, 6)), np.zeros((1, 1, 4, 3))
    graph = build(f'type: "Crop" crop_param {{ {text} }}', x.shape, like.shape)
    close(run(graph, x, like), x[cut])
    found, measured = _crop_gradient(graph, x, like)
    np.testing.assert_allclose(found, measured, atol=1e-6)


def _crop_gradient(graph: Any, x: Any, like: Any) -> tuple[Any, Any]:
    leaf = pre.Tensor(x.copy(), requires_grad=True)
    y = graph(leaf, like)
    g = RNG.standard_normal(y.shape)
    wanted = np.zeros_like(x)
    places = np.arange(x.size).reshape(x.shape)
    wanted.reshape(-1)[run(graph, places, like).astype(int).reshape(-1)] = g.reshape(-1)
    return pre.grad(y, leaf, g).data, wanted


def test_the_crops_of_fcn() -> None:
    """500x500 image, conv1_1 pad 100: five ceil poolings, fc6 7x7, upscore 64/32, crop offset 19 to 500."""
    size = 500 + 200 - 2
    sizes = [size := -(-(size - 2) // 2) + 1 for _ in range(5)]
    assert sizes == [349, 175, 88, 44, 22]
    graph = build(
        'type: "Deconvolution" convolution_param { num_output: 1 kernel_size: 64 stride: 32 bias_term: false }', (1, 1, 16, 16)
    )
    assert graph.assembly.shapes["y"] == (1, 1, 544, 544)
    graph = build('type: "Crop" crop_param { axis: 2 offset: 19 }', (1, 1, 544, 544), (1, 3, 500, 500))
    assert graph.assembly.shapes["y"] == (1, 1, 500, 500)
    with pytest.raises(PreimageError, match="do not lie in"):
        build('type: "Crop" crop_param { axis: 2 offset: 45 }', (1, 1, 544, 544), (1, 3, 500, 500))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ('"Flatten"', (2, 60)),
        ('"Flatten" flatten_param { axis: 0 end_axis: 1 }', (6, 4, 5)),
        ('"Flatten" flatten_param { axis: -2 end_axis: -1 }', (2, 3, 20)),
        ('"Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 2 } }', (2, 30, 2)),
        ('"Reshape" reshape_param { shape { dim: 6 dim: -1 } axis: 1 num_axes: 2 }', (2, 6, 2, 5)),
        ('"Reshape" reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }', (2, 3, 4, 5, 1)),
        ('"Reshape" reshape_param { shape { dim: 0 dim: 5 dim: 4 } axis: 1 }', (2, 3, 5, 4)),
    ],
)
def test_flatten_and_reshape(layer: str, shape: tuple[int, ...]) -> None:
    x = RNG.standard_normal((2, 3, 4, 5))
    graph = build(f"type: {layer}", x.shape)
    close(run(graph, x), x.reshape(shape))
    check_gradients(graph, [x], [0])
    if "dim: 5" not in layer and "dim: 6" not in layer:  # sizes are never frozen: another batch
        assert run(graph, np.concatenate([x, x])).shape[0] in (4, 12)


@pytest.mark.parametrize(
    "text",
    [
        "shape { dim: -1 dim: -1 }",
        "shape { dim: 7 }",
        "shape { dim: -2 }",
        "shape { dim: 7 dim: -1 }",
        "axis: 9",
        "num_axes: 8",
        "shape { dim: 2 dim: 3 dim: 4 dim: 5 dim: 0 }",
    ],
)
def test_impossible_reshapes(text: str) -> None:
    with pytest.raises(PreimageError, match=r"layer 't' \(Reshape\)"):
        build(f'type: "Reshape" reshape_param {{ {text} }}', (2, 3, 4, 5))


def test_permute_tile_and_reduction() -> None:
    x = RNG.standard_normal((2, 3, 4, 5))
    graph = build('type: "Permute" permute_param { order: 0 order: 2 }', x.shape)
    close(run(graph, x), x.transpose(0, 2, 1, 3))
    check_gradients(graph, [x], [0])
    graph = build('type: "Tile" tile_param { axis: 2 tiles: 3 }', x.shape)
    close(run(graph, x), np.tile(x, (1, 1, 3, 1)))
    check_gradients(graph, [x], [0])
    for operation, function in (
        ("SUM", np.sum),
        ("MEAN", np.mean),
        ("ASUM", lambda v, axis: np.abs(v).sum(axis)),
        ("SUMSQ", lambda v, axis: (v**2).sum(axis)),
    ):
        graph = build(f'type: "Reduction" reduction_param {{ operation: {operation} axis: -2 coeff: 0.5 }}', x.shape)
        close(run(graph, x), function(x, axis=(2, 3)) / 2)
        check_gradients(graph, [x], [0])
    close(run(build('type: "Reduction"', x.shape), x), x.sum())


def test_argmax() -> None:
    x = np.array([[[1.0, 5, 2], [5, 0, 3]], [[7, 7, 1], [0, 2, 9]]])
    close(run(build('type: "ArgMax"', x.shape), x), [[[3]], [[5]]])  # of equals, the higher place
    close(
        run(build('type: "ArgMax" argmax_param { top_k: 2 out_max_val: true }', x.shape), x), [[[3, 1], [5, 5]], [[5, 1], [9, 7]]]
    )
    close(run(build('type: "ArgMax" argmax_param { axis: 1 }', x.shape), x), [[[1, 0, 1]], [[0, 0, 1]]])
    close(
        run(build('type: "ArgMax" argmax_param { axis: 2 out_max_val: true top_k: 2 }', x.shape), x),
        [[[5, 2], [5, 3]], [[7, 7], [9, 2]]],
    )


# -- losses ------------------------------------------------------------------------------------------------------------


def log_softmax(x: Any, axis: int) -> Any:
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


@pytest.mark.parametrize(
    ("text", "by"),
    [
        ("", "valid"),
        ("normalization: FULL", 24),
        ("normalization: BATCH_SIZE", 2),
        ("normalization: NONE", 1),
        ("normalize: false", 2),
    ],
)
def test_softmax_loss(text: str, by: Any) -> None:
    graph = build(f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: 255 {text} }}', (2, 5, 3, 4), (2, 3, 4), tops=2)
    x, labels = RNG.standard_normal((2, 5, 3, 4)), RNG.integers(0, 5, (2, 3, 4)).astype(float)
    labels[0, 1] = 255
    total = 0.0
    for n, i, j in np.ndindex(2, 3, 4):
        if labels[n, i, j] != 255:
            total -= log_softmax(x, 1)[n, int(labels[n, i, j]), i, j]
    loss, prob = run(graph, x, labels)
    close(loss, total / ((labels != 255).sum() if by == "valid" else by))
    close(prob, np.exp(log_softmax(x, 1)))
    check_gradients(graph, [x, labels], [0])
    with pytest.raises(PreimageError, match=r"label 7 is outside 0 \.\. 4"):
        run(graph, x, np.full((2, 3, 4), 7.0))


def test_infogain_loss(tmp_path: Any) -> None:
    x, labels, gains = RNG.standard_normal((3, 4)), np.array([0.0, 3, 1]), RNG.random((4, 4))
    wanted = -sum(gains[int(k)] @ row for k, row in zip(labels, log_softmax(x, 1), strict=True)) / 3
    graph = build('type: "InfogainLoss"', x.shape, (3,), (1, 1, 4, 4))
    close(run(graph, x, labels, gains[None, None]), wanted)
    check_gradients(graph, [x, labels, gains[None, None]], [0])
    identity = build('type: "InfogainLoss"', x.shape, (3,), (4, 4))
    close(run(identity, x, labels, np.eye(4)), run(build('type: "SoftmaxWithLoss"', x.shape, (3,)), x, labels))
    text = 'layer { name: "i" type: "Input" top: "x" top: "l" input_param { shape { dim: 3 dim: 4 } shape { dim: 3 } } }'
    text += ' layer { name: "t" type: "InfogainLoss" bottom: "x" bottom: "l" top: "y" infogain_loss_param { source: "%s" } }'
    (tmp_path / "gains.binaryproto").write_bytes(encode(blob_of_array(gains[None, None])))
    (tmp_path / "net.prototxt").write_text(text % "gains.binaryproto")
    graph = caffe.load(tmp_path / "net.prototxt")
    close(run(graph.astype(np.float64), x, labels), wanted)
    for escape in ("../gains.binaryproto", "/etc/passwd", "missing.binaryproto"):
        (tmp_path / "bad.prototxt").write_text(text % escape)
        with pytest.raises(FileFormatError, match="layer 't'"):
            caffe.load(tmp_path / "bad.prototxt")


def test_euclidean_and_sigmoid_losses() -> None:
    a, b = RNG.standard_normal((3, 2, 2)), RNG.standard_normal((3, 4))
    graph = build('type: "EuclideanLoss"', a.shape, b.shape)
    close(run(graph, a, b), ((a.reshape(3, 4) - b) ** 2).sum() / 6)
    check_gradients(graph, [a, b], [0, 1])
    target = RNG.integers(0, 2, (3, 4)).astype(float)
    p = 1 / (1 + np.exp(-b))
    each = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    graph = build('type: "SigmoidCrossEntropyLoss"', b.shape, target.shape)
    close(run(graph, b, target), each.sum() / 3)
    check_gradients(graph, [b, target], [0])
    target[1] = -1
    graph = build('type: "SigmoidCrossEntropyLoss" loss_param { ignore_label: -1 normalization: VALID }', b.shape, target.shape)
    close(run(graph, b, target), each[[0, 2]].sum() / 8)


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge_loss(norm: str) -> None:
    x, labels = RNG.standard_normal((3, 4)), np.array([2.0, 0, 3])
    graph = build(f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}', x.shape, (3,))
    total = 0.0
    for n, k in np.ndindex(3, 4):
        margin = max(0.0, 1 + (-1 if k == labels[n] else 1) * x[n, k])
        total += margin if norm == "L1" else margin**2
    close(run(graph, x, labels), total / 3)
    check_gradients(graph, [x, labels], [0])


def test_multinomial_logistic_loss() -> None:
    x, labels = RNG.random((3, 4)), np.array([2.0, 0, 3])
    graph = build('type: "MultinomialLogisticLoss"', x.shape, (3,))
    close(run(graph, x, labels), -sum(log(x[n, int(k)]) for n, k in enumerate(labels)) / 3)
    check_gradients(graph, [x, labels], [0])
    x[0, 2] = 0
    assert run(graph, x, labels) > 15  # log of 1e-20, not of 0
    leaf = pre.Tensor(x, requires_grad=True)
    assert np.isfinite(pre.grad(graph(leaf, labels), leaf).data).all()


@pytest.mark.parametrize("legacy", ["true", "false"])
def test_contrastive_loss(legacy: str) -> None:
    a, b, similar = RNG.standard_normal((4, 3)), RNG.standard_normal((4, 3)), np.array([1.0, 0, 0, 1])
    graph = build(
        f'type: "ContrastiveLoss" contrastive_loss_param {{ margin: 4 legacy_version: {legacy} }}', a.shape, b.shape, (4,)
    )
    square = ((a - b) ** 2).sum(1)
    apart = np.maximum(4 - square, 0) if legacy == "true" else np.maximum(4 - np.sqrt(square), 0) ** 2
    close(run(graph, a, b, similar), np.where(similar == 1, square, apart).sum() / 8)
    check_gradients(graph, [a, b, similar], [0, 1], tolerance=2e-4)  # Caffe's slope has 1e-4 under the fraction
    leaf = pre.Tensor(a, requires_grad=True)
    assert np.isfinite(pre.grad(graph(leaf, a.copy(), np.zeros(4)), leaf).data).all()


def test_accuracy() -> None:
    x = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.9, 0.05, 0.05]])
    labels = np.array([1.0, 0, 1, 2])
    overall, per_class = run(build('type: "Accuracy"', x.shape, (4,), tops=2), x, labels)
    close(overall, 0.25)  # a tie counts against
    close(per_class, [0, 0.5, 0])
    close(run(build('type: "Accuracy" accuracy_param { top_k: 2 }', x.shape, (4,)), x, labels), 0.75)
    close(run(build('type: "Accuracy" accuracy_param { ignore_label: 2 }', x.shape, (4,)), x, labels), 1 / 3)
    maps = np.moveaxis(x.reshape(2, 2, 3), -1, 1)
    close(run(build('type: "Accuracy"', maps.shape, (2, 2)), maps, labels.reshape(2, 2)), 0.25)


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


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        ('type: "MVN" mvn_param { eps: 0.1 }', [(2, 3, 2, 3)]),
        ('type: "LRN" lrn_param { local_size: 3 alpha: 2 }', [(1, 4, 2, 2)]),
        ('type: "Normalize"', [(2, 3, 2, 2)]),
        ('type: "SigmoidCrossEntropyLoss"', [(3, 4), (3, 4)]),
        ('type: "EuclideanLoss"', [(3, 4), (3, 4)]),
    ],
)
def test_second_derivatives(layer: str, shapes: list[tuple[int, ...]]) -> None:
    """The slope of a slope along a random direction, recorded and measured."""
    graph = build(layer, *shapes)
    inputs = [RNG.random(shape) for shape in shapes]
    direction = RNG.standard_normal(shapes[0])
    result = run(graph, *inputs)
    weight = RNG.standard_normal(np.shape(result))

    def slope(x: Any, record: bool) -> Any:
        leaf = pre.Tensor(x, requires_grad=True)
        y = graph(leaf, *inputs[1:])
        (first,) = pre.grad(y, [leaf], weight, create_graph=record)
        return leaf, first

    leaf, first = slope(inputs[0], True)
    (second,) = pre.grad(first, [leaf], direction)
    step = 1e-5
    measured = (slope(inputs[0] + step * direction, False)[1].data - slope(inputs[0] - step * direction, False)[1].data) / (
        2 * step
    )
    np.testing.assert_allclose(second.data, measured, rtol=1e-4, atol=1e-6)
