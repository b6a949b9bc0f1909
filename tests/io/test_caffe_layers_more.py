"""Layers that move axes, feed data, measure and detect, on small nets against NumPy written here."""

from math import log
from typing import Any

import numpy as np
import pytest
from caffe_nets import build, run
from test_caffe_layers import check_gradients, close

import preimage as pre
from preimage.errors import FileFormatError, PreimageError
from preimage.io import caffe
from preimage.io.caffe.blobs import blob_of_array
from preimage.io.caffe.wire.binary import encode

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
