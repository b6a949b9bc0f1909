"""Layers of Caffe's forks: values against index loops and NumPy written here, torch and OpenCV where they know the layer; gradients in float64."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_nets import build, net_text, run
from test_caffe_layers import check_gradients, close

from preimage.errors import FileFormatError, PreimageError, ShapeError
from preimage.io import caffe

RNG = np.random.default_rng(14)


def opencv(layer: str, *arrays: Any, tmp_path: Path) -> Any:
    """OpenCV's result for a net of one layer."""
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "cv.prototxt").write_text(net_text(layer, *(a.shape for a in arrays)))
    net = cv2.dnn.readNetFromCaffe(str(tmp_path / "cv.prototxt"))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    for name, array in zip("abcdefgh", arrays, strict=False):
        net.setInput(np.asarray(array, np.float32), name)
    return net.forward()


def test_relu6_and_axpy() -> None:
    x = RNG.uniform(-9, 9, (2, 3, 2, 3))
    for slope in (0, 0.25):
        graph = build(f'type: "ReLU6" relu6_param {{ negative_slope: {slope} }}', x.shape)
        close(run(graph, x), np.minimum(np.maximum(x, 0) + slope * np.minimum(x, 0), 6))
        check_gradients(graph, [x], [0])
    y = RNG.standard_normal(x.shape)
    for shape in ((2, 3), (2, 3, 1, 1)):
        a = RNG.standard_normal(shape)
        graph = build('type: "Axpy"', shape, x.shape, x.shape)
        wanted = np.array([[a.reshape(2, 3)[n, c] * x[n, c] + y[n, c] for c in range(3)] for n in range(2)])
        close(run(graph, a, x, y), wanted)
        check_gradients(graph, [a, x, y], [0, 1, 2])


def test_channels_shuffled_and_borders_cut() -> None:
    x = RNG.standard_normal((2, 6, 3, 4))
    graph = build('type: "ShuffleChannel" shuffle_channel_param { group: 3 }', x.shape)
    wanted = np.empty_like(x)
    for row, column in itertools.product(range(3), range(2)):
        wanted[:, column * 3 + row] = x[:, row * 2 + column]
    close(run(graph, x), wanted)
    check_gradients(graph, [x], [0])
    graph = build('type: "CropCenter" crop_center_param { crop_size: 0 crop_size: 2 crop_size: 1 crop_size: 1 }', x.shape)
    close(run(graph, x), x[:, 2:4, 1:2, 1:3])
    check_gradients(graph, [x], [0])


def reorg_loops(x: Any, stride: int, reverse: bool) -> Any:
    """Darknet's first program, on flat memory."""
    n, c, h, w = x.shape
    flat, out, inner = x.reshape(n, -1), np.zeros((n, x[0].size)), c // stride**2
    for k, j, i in itertools.product(range(c), range(h), range(w)):
        near = i + w * (j + h * k)
        offset = k // inner
        far = i * stride + offset % stride + w * stride * (j * stride + offset // stride + h * stride * (k % inner))
        if reverse:
            out[:, far] = flat[:, near]
        else:
            out[:, near] = flat[:, far]
    return out.reshape((n, inner, h * stride, w * stride) if reverse else (n, c * stride**2, h // stride, w // stride))


@pytest.mark.parametrize(
    ("shape", "stride", "reverse"), [((2, 8, 2, 4), 2, False), ((1, 9, 3, 6), 3, False), ((1, 8, 2, 3), 2, True)]
)
def test_reorg(shape: tuple[int, ...], stride: int, reverse: bool, tmp_path: Path) -> None:
    x = RNG.standard_normal(shape)
    text = f'type: "Reorg" reorg_param {{ stride: {stride} reverse: {str(reverse).lower()} }}'
    graph = build(text, shape)
    close(run(graph, x), reorg_loops(x, stride, reverse))
    check_gradients(graph, [x], [0])
    if stride == 2 and not reverse:  # OpenCV takes every stride for 2
        close(run(graph, x), opencv(text, x, tmp_path=tmp_path), 1e-6)


def test_upsampling_by_repeating() -> None:
    x = RNG.standard_normal((2, 3, 3, 4))
    graph = build('type: "Upsample" upsample_param { scale: 3 }', x.shape)
    close(run(graph, x), x.repeat(3, axis=2).repeat(3, axis=3))
    check_gradients(graph, [x], [0])
    close(run(build('type: "Upsample"', x.shape), x), x)  # MobileNet-YOLO's default is 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("upsample_h: 7 upsample_w: 8", (7, 8)),
        ("scale: 2 upsample_h: 7 upsample_w: 8", (7, 8)),
        ("scale: 2 pad_out_h: true", (7, 8)),
        ("scale_h: 2 scale_w: 2 pad_out_h: true", (7, 8)),
        ("", (8, 8)),
    ],
)
def test_upsampling_through_a_mask(text: str, size: tuple[int, int]) -> None:
    x = RNG.standard_normal((2, 3, 4, 4))
    mask = np.stack([RNG.choice(7 * 8, 16, replace=False).reshape(4, 4) for _ in range(6)]).reshape(x.shape)
    graph = build(f'type: "Upsample" upsample_param {{ {text} }}', x.shape, x.shape)
    wanted = np.zeros((2, 3, size[0] * size[1]))
    for n, c, i, j in np.ndindex(*x.shape):
        wanted[n, c, mask[n, c, i, j]] = x[n, c, i, j]
    close(run(graph, x, mask), wanted.reshape(2, 3, *size))
    check_gradients(graph, [x, mask], [0])
    with pytest.raises(ShapeError, match=f"label {size[0] * size[1]} is outside"):
        run(graph, x, mask + size[0] * size[1] - mask.max())


def test_segnets_pooling_and_upsampling_bring_the_maxima_home() -> None:
    net = """layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 7 } } }
    layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }
    layer { name: "u" type: "Upsample" bottom: "p" bottom: "m" top: "u" upsample_param { scale: 2 upsample_h: 5 upsample_w: 7 } }"""
    x = RNG.standard_normal((1, 2, 5, 7)).astype(np.float32)
    graph = caffe.load(caffe.parse_text("NetParameter", net))
    y = run(graph, x)
    assert y.shape == x.shape
    assert np.array_equal(y[y != 0], x[y != 0])
    assert np.count_nonzero(y) == 2 * 3 * 4


INTERPS = [
    ("height: 7 width: 5", lambda n: n, (7, 5)),
    ("zoom_factor: 3", lambda n: n + (n - 1) * 2, None),
    ("shrink_factor: 2", lambda n: (n - 1) // 2 + 1, None),
    ("shrink_factor: 2 zoom_factor: 4", lambda n: ((n - 1) // 2) * 4 + 1, None),
    ("height: 1 width: 9 pad_beg: -1 pad_end: -1", lambda n: n, (1, 9)),
    ("zoom_factor: 2 pad_end: -2", lambda n: n - 2 + n - 3, None),
    ("shrink_factor: 5 zoom_factor: 2 height: 3 width: 4", lambda n: n, (3, 4)),
]


@pytest.mark.parametrize(("text", "size", "fixed"), INTERPS)
def test_interp(text: str, size: Any, fixed: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x = RNG.standard_normal((1, 2, 5, 6))
    graph = build(f'type: "Interp" interp_param {{ {text} }}', x.shape)
    begin = 1 if "pad_beg" in text else 0
    end = int(text.split("pad_end: -")[1][0]) if "pad_end" in text else 0
    cut = x[:, :, begin : 5 - end, begin : 6 - end]
    wanted = fixed or (size(5), size(6))
    close(
        run(graph, x),
        torch.nn.functional.interpolate(torch.tensor(cut), size=wanted, mode="bilinear", align_corners=True).numpy(),
        1e-6,
    )
    check_gradients(graph, [x], [0])
    if not begin and not end and "shrink" not in text:  # which OpenCV does not read
        close(run(graph, x), opencv(f'type: "Interp" interp_param {{ {text} }}', x, tmp_path=tmp_path), 1e-5)


def test_sizes_of_interp_follow_the_input() -> None:
    graph = build('type: "Interp" interp_param { zoom_factor: 2 }', (1, 2, 3, 4))
    assert run(graph, np.zeros((1, 2, 6, 5))).shape == (1, 2, 11, 9)
    graph = build('type: "Upsample" upsample_param { scale: 2 pad_out_w: true }', (1, 2, 3, 4), (1, 2, 3, 4))
    assert run(graph, np.zeros((1, 2, 6, 5)), np.zeros((1, 2, 6, 5))).shape == (1, 2, 12, 9)
    graph = build('type: "Reorg" reorg_param { stride: 2 }', (1, 4, 2, 4))
    assert run(graph, np.zeros((2, 4, 6, 8))).shape == (2, 16, 3, 4)


def test_the_batch_normalisation_of_pspnet() -> None:
    x = RNG.standard_normal((2, 3, 3, 2))
    text = 'type: "BN" bn_param { slope_filler { value: 1 } momentum: 0.75 eps: 0.0078125 %s }'
    for phase, extra in (("TEST", ""), ("TRAIN", "frozen: true")):
        graph = build(text % extra, x.shape, phase=phase)
        slope, bias, mean, variance = (graph.array(f"t.{name}") for name in ("slope", "bias", "mean", "variance"))
        close(run(graph, x), (x - mean) / np.sqrt(variance + 0.0078125) * slope + bias)
        assert graph.assembly.parameters["t.slope"].lr_mult == (0 if extra else 1)
        check_gradients(graph, [x], [0])
    graph = build(text % "", x.shape, phase="TRAIN")
    mean, variance = graph.array("t.mean").copy(), graph.array("t.variance").copy()
    found = run(graph, x)
    own = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
    close(found, (x - own[0]) / np.sqrt(own[1] + 0.0078125) * graph.array("t.slope") + graph.array("t.bias"))
    close(graph.array("t.mean"), 0.75 * mean + 0.25 * own[0])
    close(graph.array("t.variance"), 0.75 * variance + 0.25 * own[1])
    check_gradients(graph, [x], [0], tolerance=1e-5)


def test_the_batch_normalisation_of_segnet() -> None:
    x = RNG.standard_normal((2, 3, 3, 2))
    graph = build('type: "BN" bn_param { scale_filler { value: 1 } }', x.shape, tops=3)
    mean, variance = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
    y, *statistics = run(graph, x)
    close(y, (x - mean) / np.sqrt(variance + 1e-9) * graph.array("t.scale") + graph.array("t.shift"))
    close(statistics[0], mean)
    close(statistics[1], variance)
    check_gradients(graph, [x], [0], tolerance=1e-5)
    graph = build('type: "BN" bn_param { bn_mode: INFERENCE }', x.shape)
    close(run(graph, x), x * graph.array("t.scale") + graph.array("t.shift"))
    check_gradients(graph, [x], [0])


# -- regions -----------------------------------------------------------------------------------------------------------

ROIS = np.array(
    [[0, 0, 0, 9, 9], [1, 3, 4, 22, 30], [1, 30, 8, 61, 11], [0, -9, -7, 200, 90], [0, 14, 14, 14, 14], [1, 63, 63, 70, 70]],
    float,
)


def roi_loops(x: Any, rois: Any, pooled: tuple[int, int], scale: float) -> Any:
    out = np.zeros((len(rois), x.shape[1], *pooled))
    for r, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (int(np.sign(v) * np.floor(abs(v * scale) + 0.5)) for v in corners)
        for i, j in np.ndindex(*pooled):
            tall, wide = max(y2 - y1 + 1, 1) / pooled[0], max(x2 - x1 + 1, 1) / pooled[1]
            rows = [y for y in range(x.shape[2]) if np.floor(i * tall) + y1 <= y < np.ceil((i + 1) * tall) + y1]
            columns = [c for c in range(x.shape[3]) if np.floor(j * wide) + x1 <= c < np.ceil((j + 1) * wide) + x1]
            if rows and columns:
                out[r, :, i, j] = x[int(image)][:, rows][:, :, columns].max(axis=(1, 2))
    return out


def test_the_maxima_of_regions(tmp_path: Path) -> None:
    x = RNG.permutation(2 * 3 * 9 * 9).reshape(2, 3, 9, 9).astype(float)
    text = 'type: "ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.125 }'
    graph = build(text, x.shape, ROIS.shape)
    close(run(graph, x, ROIS), roi_loops(x, ROIS, (3, 2), 0.125))
    few, two = RNG.permutation(27).reshape(1, 3, 3, 3).astype(float), np.array([[0, 0, 0, 9, 9], [0, 8, 3, 22, 20]], float)
    check_gradients(build(text, few.shape, two.shape), [few, two], [0])
    inside = ROIS[:3]
    close(run(build(text, x.shape, inside.shape), x, inside), opencv(text, x, inside, tmp_path=tmp_path))
    with pytest.raises(ShapeError, match="label 2 is outside 0"):
        run(graph, x, ROIS + np.array([2, 0, 0, 0, 0]))
    with pytest.raises(ShapeError, match="not finite"):
        run(graph, x, ROIS + np.array([0, np.nan, 0, 0, 0]))


def psroi_loops(x: Any, rois: Any, group: int, scale: float) -> Any:
    out = np.zeros((len(rois), x.shape[1] // group**2, group, group))
    for r, (image, *corners) in enumerate(rois):
        near = [float(np.sign(v) * np.floor(abs(v) + 0.5)) * scale for v in corners[:2]]
        far = [(float(np.sign(v) * np.floor(abs(v) + 0.5)) + 1) * scale for v in corners[2:]]
        wide, tall = (max(b - a, 0.1) / group for a, b in zip(near, far, strict=True))
        for i, j in np.ndindex(group, group):
            rows = [y for y in range(x.shape[2]) if np.floor(i * tall + near[1]) <= y < np.ceil((i + 1) * tall + near[1])]
            columns = [c for c in range(x.shape[3]) if np.floor(j * wide + near[0]) <= c < np.ceil((j + 1) * wide + near[0])]
            for c in range(out.shape[1]):
                if rows and columns:
                    out[r, c, i, j] = x[int(image), (c * group + i) * group + j][np.ix_(rows, columns)].mean()
    return out


def test_the_means_of_position_sensitive_regions(tmp_path: Path) -> None:
    x = RNG.standard_normal((2, 8, 9, 9))
    text = 'type: "PSROIPooling" psroi_pooling_param { output_dim: 2 group_size: 2 spatial_scale: 0.125 }'
    graph = build(text, x.shape, ROIS.shape)
    close(run(graph, x, ROIS), psroi_loops(x, ROIS, 2, 0.125))
    few, two = RNG.standard_normal((1, 4, 3, 3)), np.array([[0, 0, 0, 9, 9], [0, 8, 3, 22, 20]], float)
    check_gradients(build(text.replace("output_dim: 2", "output_dim: 1"), few.shape, two.shape), [few, two], [0])
    close(run(graph, x, ROIS), opencv(text, x, ROIS, tmp_path=tmp_path), 1e-5)


# -- losses and dropout ------------------------------------------------------------------------------------------------


def test_the_smooth_l1_loss() -> None:
    torch = pytest.importorskip("torch")
    x, t = RNG.uniform(-3, 3, (2, 2, 3)), RNG.uniform(-3, 3, (2, 2, 3))
    inside, outside = RNG.uniform(0, 2, x.shape), RNG.uniform(0, 2, x.shape)
    graph = build('type: "SmoothL1Loss"', x.shape, x.shape)
    close(run(graph, x, t), torch.nn.functional.smooth_l1_loss(torch.tensor(x), torch.tensor(t), reduction="sum").item() / 2)
    check_gradients(graph, [x, t], [0, 1])
    for count in (3, 4):
        graph = build('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }', *[x.shape] * count)
        d = np.abs(inside * (x - t))
        each = np.where(d < 1 / 9, 4.5 * d * d, d - 0.5 / 9) * (outside if count == 4 else 1)
        given = [x, t, inside, outside][:count]
        close(run(graph, *given), each.sum() / 2)
        check_gradients(graph, given, [0, 1])


def test_segnets_class_weights() -> None:
    x, labels = RNG.standard_normal((2, 3, 2, 2)), np.array([[[0, 1], [2, 1]], [[2, 2], [0, 9]]])
    text = 'type: "SoftmaxWithLoss" loss_param { ignore_label: 9 weight_by_label_freqs: %s class_weighting: [0.5, 2, 3] }'
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    for word, weights in (("true", [0.5, 2, 3]), ("false", [1, 1, 1])):
        graph = build(text % word, x.shape, labels.shape)
        total = sum(-weights[t] * np.log(p[n, t, i, j]) for (n, i, j), t in np.ndenumerate(labels) if t != 9)
        close(run(graph, x, labels), total / 7)
        check_gradients(graph, [x, labels], [0])


def test_forms_of_dropout() -> None:
    x = np.ones((40, 50))
    text = 'type: "Dropout" dropout_param { dropout_ratio: 0.25 %s }'
    close(run(build(text % "scale_train: false", x.shape), x), 0.75 * x)
    found = np.unique(np.round(run(build(text % "scale_train: false", x.shape, phase="TRAIN"), x), 12))
    assert list(found) == [0, 1]
    graph = build(text % "sample_weights_test: true", x.shape)
    first, second = run(graph, x), run(graph, x)
    assert 0.2 < np.mean(first == 0) < 0.3
    assert not np.array_equal(first, second)
    assert [node.op for node in graph.nodes] == ["dropout_sampled"]


def test_data_of_segnet_is_two_inputs() -> None:
    text = 'layer { name: "d" type: "DenseImageData" top: "x" top: "y" dense_image_data_param { batch_size: 4 %s } }'
    for extra, size in (("crop_height: 5 crop_width: 6", (5, 6)), ("new_height: 7 new_width: 8 is_color: false", (7, 8))):
        graph = caffe.load(caffe.parse_text("NetParameter", text % extra))
        channels = 1 if "false" in extra else 3
        assert [graph.assembly.shapes[name] for name in "xy"] == [(4, channels, *size), (4, 1, *size)]
    with pytest.raises(FileFormatError, match="the shape of 'x' is not in the file"):
        caffe.load(caffe.parse_text("NetParameter", text % ""))
    graph = caffe.load(caffe.parse_text("NetParameter", text % ""), input_shapes={"x": (2, 3, 8, 9)})
    assert graph.assembly.shapes["y"] == (2, 1, 8, 9)


F = (2, 4, 4, 6)
WRONG = [
    ('"Axpy"', [(2, 4), F, (2, 4, 4, 5)], "two blobs of one shape"),
    ('"ShuffleChannel" shuffle_channel_param { group: 3 }', [F], "group 3 must divide"),
    ('"CropCenter" crop_center_param { crop_size: 1 }', [F], "has 1 numbers in crop_size for 4 axes"),
    ('"CropCenter" crop_center_param { crop_size: [1, 0, 0, 0] }', [F], "leaves nothing"),
    ('"Reorg"', [F], "stride 0 must be at least 1"),
    ('"Reorg" reorg_param { stride: 3 }', [F], "stride 3 does not divide"),
    ('"Upsample" upsample_param { scale: 0 }', [F], "scale 0 must be at least 1"),
    ('"Upsample"', [F, (2, 4, 4, 5)], "the mask has shape"),
    ('"Upsample" upsample_param { scale_h: 2 }', [F, F], "give upsample_h and upsample_w"),
    ('"Upsample" upsample_param { scale: 3 pad_out_h: true }', [F, F], "at least 2, and 2 where pad_out"),
    ('"Interp"', [F], "needs height and width"),
    ('"Interp" interp_param { height: 0 width: 3 }', [F], "must be at least 1"),
    ('"Interp" interp_param { zoom_factor: 0 }', [F], "must be at least 1"),
    ('"Interp" interp_param { zoom_factor: 2 pad_beg: 1 }', [F], "must not be positive"),
    ('"Interp" interp_param { zoom_factor: 2 pad_end: -4 }', [F], "leave something"),
    ('"BN"', [(2, 3)], "needs 4 axes"),
    ('"ROIPooling"', [F, (3, 5)], "pooled_h and pooled_w"),
    ('"ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 }', [F, (3, 4)], "wants regions"),
    ('"ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: -1 }', [F, (3, 5)], "spatial_scale -1"),
    ('"PSROIPooling" psroi_pooling_param { output_dim: 3 group_size: 2 }', [F, (3, 5)], "needs output_dim"),
    ('"SmoothL1Loss"', [F, (2, 4)], "bottom 1 has shape"),
    ('"SmoothL1Loss" smooth_l1_loss_param { sigma: 0 }', [F, F], "sigma 0"),
    ('"SoftmaxWithLoss" loss_param { class_weighting: 1 }', [(2, 3), (2,)], "1 numbers in class_weighting for 3"),
]


@pytest.mark.parametrize(("text", "shapes", "problem"), WRONG)
def test_what_does_not_fit_is_refused_by_name(text: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    with pytest.raises(PreimageError, match=problem):
        caffe.load(caffe.parse_text("NetParameter", net_text(f"type: {text}", *shapes)))


@pytest.mark.parametrize(("text", "shapes"), [
    ('"BN" bn_param { slope_filler { type: "uniform" } eps: 0.001 momentum: 0.5 }', [F]),
    ('"BN" bn_param { scale_filler { type: "uniform" } shift_filler { value: 2 } bn_mode: INFERENCE }', [F]),
    ('"Upsample" upsample_param { scale: 2 pad_out_h: true }', [F, F]),
    ('"Interp" interp_param { zoom_factor: 3 pad_end: -1 }', [F]),
    ('"Reorg" reorg_param { stride: 2 reverse: true }', [F]),
    ('"ReLU6" relu6_param { negative_slope: 0.5 }', [F]),
    ('"ShuffleChannel" shuffle_channel_param { group: 2 }', [F]),
    ('"CropCenter" crop_center_param { crop_size: [0, 0, 1, 2] }', [F]),
    ('"ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }', [F, (3, 5)]),
    ('"PSROIPooling" psroi_pooling_param { output_dim: 1 group_size: 2 spatial_scale: 0.5 }', [F, (3, 5)]),
    ('"SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }', [F, F]),
])  # fmt: skip
def test_they_are_written_and_read_again(text: str, shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    first = caffe.load(caffe.parse_text("NetParameter", net_text(f"type: {text}", *shapes)), seed=4)
    caffe.save(first, tmp_path / "a.caffemodel")
    caffe.save(first, tmp_path / "a.prototxt")
    second, third = caffe.load(tmp_path / "a.caffemodel"), caffe.load(tmp_path / "a.prototxt", tmp_path / "a.caffemodel")
    again = second.to_message()
    assert again == first.to_message() == third.to_message()
    assert second.unread == third.unread == []
    for name, array in first.state_dict().items():
        assert np.array_equal(array, second.state_dict()[name])
    inputs = [
        np.zeros(shape, np.float32) if shape[-1] == 5 else RNG.standard_normal(shape).astype(np.float32) for shape in shapes
    ]
    inputs = (
        inputs if "scale: 2" not in text else [inputs[0], np.arange(24, dtype=np.float32).reshape(4, 6) + np.zeros(F, np.float32)]
    )
    assert np.array_equal(run(first, *inputs), run(second, *inputs))
