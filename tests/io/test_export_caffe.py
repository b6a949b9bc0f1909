"""Every layer of Caffe's as ONNX: written, accepted by the checker, run by onnxruntime, read back with the same bits in the weights."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_nets import net_text

onnx = pytest.importorskip("onnx")

import preimage as pre  # noqa: E402
from preimage.errors import FileFormatError  # noqa: E402
from preimage.io import caffe, files  # noqa: E402
from preimage.io.caffe.assemble import LAYERS  # noqa: E402
from preimage.io.onnx import export  # noqa: E402

X, ROWS, SMALL = (2, 6, 5, 7), (4, 3), (2, 3, 4, 4)
#: The shapes of a layer's bottoms, what its labels count up to (0: the last bottom has none), and the layer itself.
CASES: list[tuple[list[tuple[int, ...]], int, str]] = [
    ([X], 0, 'AbsVal"'),
    ([X], 0, 'BNLL"'),
    ([X], 0, 'ReLU"'),
    ([X], 0, 'ReLU" relu_param { negative_slope: 0.1 }'),
    ([X], 0, 'Sigmoid"'),
    ([X], 0, 'TanH"'),
    ([X], 0, 'ELU" elu_param { alpha: 0.5 }'),
    ([X], 0, 'Swish" swish_param { beta: 2 }'),
    ([X], 0, 'Split"'),
    ([X], 0, 'Clip" clip_param { min: -0.5 max: 1 }'),
    ([X], 0, 'Threshold" threshold_param { threshold: 0.3 }'),
    ([X], 0, 'Dropout"'),
    ([X], 0, 'Power" power_param { power: 2 shift: 1 scale: 0.5 }'),
    ([X], 0, 'Power" power_param { power: 0 }'),
    ([X], 0, 'Exp" exp_param { base: 2 shift: 0.5 }'),
    ([X], 0, 'Log" log_param { base: 10 shift: 9 }'),
    ([X], 0, 'PReLU"'),
    ([ROWS], 0, 'PReLU"'),
    ([(2, 3, 4)], 0, 'PReLU"'),
    ([(2, 3, 2, 3, 2)], 0, 'PReLU"'),
    ([X], 0, 'PReLU" prelu_param { channel_shared: true }'),
    ([X], 0, 'ArgMax"'),
    ([X], 0, 'ArgMax" argmax_param { top_k: 3 }'),
    ([X], 0, 'ArgMax" argmax_param { out_max_val: true top_k: 3 }'),
    ([X], 0, 'ArgMax" argmax_param { axis: 1 top_k: 3 }'),
    ([X], 0, 'ArgMax" argmax_param { axis: -1 out_max_val: true }'),
    ([X], 0, 'BatchNorm"'),
    ([ROWS], 0, 'BatchNorm"'),
    ([X], 0, 'Scale" scale_param { axis: 1 bias_term: true }'),
    ([X, (6, 5)], 0, 'Scale" scale_param { axis: 1 }'),
    ([X], 0, 'Bias" bias_param { axis: 2 num_axes: 2 }'),
    ([X, X, X], 0, 'Concat" concat_param { axis: 2 }'),
    ([X, X, X], 0, 'Eltwise" eltwise_param { operation: SUM coeff: 2 coeff: 1 coeff: -1 }'),
    ([X, X, X], 0, 'Eltwise" eltwise_param { operation: MAX }'),
    ([X, X, X], 0, 'Eltwise" eltwise_param { operation: PROD }'),
    ([X], 0, 'Convolution" convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 pad: 1 stride: 2 group: 2 dilation: 2 }'),
    ([(2, 4, 3, 5, 6)], 0, 'Convolution" convolution_param { num_output: 4 kernel_size: 3 axis: 2 }'),
    ([(2, 4, 3, 5, 6)], 0, 'Convolution" convolution_param { num_output: 4 kernel_size: 2 axis: 1 }'),
    ([X], 0, 'Deconvolution" convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 group: 2 }'),
    ([(2, 4, 3, 5, 6)], 0, 'Deconvolution" convolution_param { num_output: 4 kernel_size: 3 stride: 2 axis: 2 }'),
    ([X], 0, 'ConvolutionDepthwise" convolution_param { num_output: 6 kernel_size: 3 }'),
    ([X], 0, 'DepthwiseConvolution" convolution_param { num_output: 6 kernel_size: 3 stride: 2 }'),
    ([X, SMALL], 0, 'Crop" crop_param { axis: 2 offset: 1 }'),
    ([X], 0, 'InnerProduct" inner_product_param { num_output: 9 axis: 2 }'),
    ([X], 0, 'InnerProduct" inner_product_param { num_output: 9 transpose: true }'),
    ([SMALL], 0, 'Im2col" convolution_param { kernel_h: 3 kernel_w: 2 stride: 2 pad: 1 dilation: 1 }'),
    ([X], 0, 'LRN" lrn_param { local_size: 3 alpha: 2 }'),
    ([X], 0, 'LRN" lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL alpha: 3 }'),
    ([X], 0, 'MVN"'),
    ([X], 0, 'MVN" mvn_param { across_channels: true }'),
    ([X], 0, 'MVN" mvn_param { normalize_variance: false eps: 0.1 }'),
    ([ROWS], 0, 'MVN"'),
    ([X], 0, 'Normalize" norm_param { across_spatial: false }'),
    ([X], 0, 'Normalize" norm_param { channel_shared: false }'),
    ([X], 0, 'Permute" permute_param { order: 0 order: 2 order: 1 order: 3 }'),
    ([X], 0, 'Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }'),
    ([X], 0, 'Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 }'),
    ([X], 0, 'Pooling" pooling_param { pool: AVE global_pooling: true }'),
    ([X], 0, 'Reduction" reduction_param { operation: MEAN axis: 1 }'),
    ([X], 0, 'Reduction" reduction_param { operation: SUMSQ axis: 2 coeff: 3 }'),
    ([X], 0, 'Reduction" reduction_param { operation: ASUM }'),
    ([X], 0, 'Reduction" reduction_param { operation: SUM axis: -1 }'),
    ([X], 0, 'Reshape" reshape_param { shape { dim: 0 dim: -1 } }'),
    ([X], 0, 'Reshape" reshape_param { shape { dim: 3 dim: -1 } axis: 1 num_axes: 1 }'),
    ([X], 0, 'Flatten" flatten_param { axis: 1 end_axis: 2 }'),
    ([X], 0, 'Flatten" flatten_param { axis: 2 }'),
    ([SMALL], 0, 'Tile" tile_param { axis: 2 tiles: 3 }'),
    ([X], 0, 'Softmax"'),
    ([X], 0, 'Softmax" softmax_param { axis: -1 }'),
    ([X], 0, 'Slice" slice_param { axis: 1 slice_point: 2 }'),
    ([X], 0, 'Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 } top: "mask'),
    ([(4, 3)], 5, 'Embed" embed_param { num_output: 4 input_dim: 5 }'),
    ([(4,)], 5, 'Embed" embed_param { num_output: 4 input_dim: 5 bias_term: false }'),
    ([], 0, 'DummyData" dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 1.5 } }'),
    ([], 0, 'Parameter" parameter_param { shape { dim: 2 dim: 3 } }'),
    ([ROWS, (4,)], 3, 'SoftmaxWithLoss"'),
    ([X, (2, 1, 5, 7)], 6, 'SoftmaxWithLoss" loss_param { ignore_label: 2 }'),
    ([X, (2, 1, 5, 7)], 6, 'SoftmaxWithLoss" loss_param { ignore_label: 2 normalization: FULL }'),
    ([X, (2, 1, 5, 7)], 6, 'SoftmaxWithLoss" loss_param { normalization: BATCH_SIZE }'),
    ([X, (2, 1, 5, 7)], 6, 'SoftmaxWithLoss" loss_param { normalization: NONE }'),
    ([ROWS, (4,), (1, 1, 3, 3)], 3, 'InfogainLoss"'),
    ([X, (2, 1, 5, 7), (1, 1, 6, 6)], 6, 'InfogainLoss" loss_param { ignore_label: 1 }'),
    ([X, X], 0, 'EuclideanLoss"'),
    ([X, X], 2, 'SigmoidCrossEntropyLoss"'),
    ([X, X], 3, 'SigmoidCrossEntropyLoss" loss_param { ignore_label: 2 normalization: VALID }'),
    ([ROWS, (4,)], 3, 'HingeLoss"'),
    ([ROWS, (4,)], 3, 'HingeLoss" hinge_loss_param { norm: L2 }'),
    ([ROWS, (4,)], 3, 'MultinomialLogisticLoss"'),
    ([ROWS, ROWS, (4,)], 2, 'ContrastiveLoss" contrastive_loss_param { margin: 2 }'),
    ([ROWS, ROWS, (4,)], 2, 'ContrastiveLoss" contrastive_loss_param { legacy_version: true }'),
    ([ROWS, (4,)], 3, 'Accuracy"'),
    ([X, (2, 5, 7)], 6, 'Accuracy" accuracy_param { top_k: 2 axis: 1 ignore_label: 3 } top: "each'),
    ([X], 0, 'ReLU6"'),
    ([X], 0, 'ReLU6" relu6_param { negative_slope: 0.25 }'),
    ([(2, 6), X, X], 0, 'Axpy"'),
    ([X], 0, 'ShuffleChannel" shuffle_channel_param { group: 3 }'),
    ([X], 0, 'CropCenter" crop_center_param { crop_size: [0, 1, 2, 1] }'),
    ([(2, 8, 4, 6)], 0, 'Reorg" reorg_param { stride: 2 }'),
    ([(2, 8, 3, 5)], 0, 'Reorg" reorg_param { stride: 2 reverse: true }'),
    ([X], 0, 'Upsample" upsample_param { scale: 2 }'),
    ([X, X], 140, 'Upsample" upsample_param { scale: 2 }'),
    ([X, X], 99, 'Upsample" upsample_param { upsample_h: 9 upsample_w: 11 }'),
    ([X], 0, 'Interp" interp_param { zoom_factor: 3 pad_beg: -1 }'),
    ([X], 0, 'Interp" interp_param { shrink_factor: 2 }'),
    ([X], 0, 'Interp" interp_param { height: 8 width: 3 }'),
    ([X], 0, 'BN" bn_param { eps: 0.01 }'),
    ([X], 0, 'BN" bn_param { bn_mode: INFERENCE }'),
    ([X], 0, 'BN" bn_param { scale_filler { value: 1 } }'),
    ([X, X], 0, 'SmoothL1Loss"'),
    ([X, X, X, X], 0, 'SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }'),
    ([ROWS, (4,)], 3, 'SoftmaxWithLoss" loss_param { class_weighting: [0.5, 2, 3] }'),
    ([X], 0, 'Dropout" dropout_param { scale_train: false }'),
]
#: Layers that other tests export, that feed data from elsewhere, that give nothing, or that are Python of the caller's.
ELSEWHERE = {
    "DenseImageData", "VideoData", "ROIPooling", "PSROIPooling", "MultiBoxLoss", "DetectionEvaluate", "Yolov3DetectionOutput",
    "PriorBox", "DetectionOutput", "Input", "Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "AnnotatedData", "Silence", "Python",
}  # fmt: skip


def built(layer: str, shapes: list[tuple[int, ...]]) -> Any:
    text = net_text(f'type: "{layer}', *shapes, tops=2 if layer.startswith("Slice") else 1)
    if 'top: "' in layer:  # a second top
        text = text[: text.rindex("}")].rstrip() + '" }'
    graph = caffe.load(caffe.parse_text("NetParameter", text), seed=0)
    rng = np.random.default_rng(zlib.crc32(layer.encode()))
    for name in graph.weights:
        graph.put(name, rng.standard_normal(graph.array(name).shape).astype(np.float32))
    for name in graph.state:
        graph.put(name, (0.5 + rng.random(graph.array(name).shape)).astype(np.float32))
    return graph


def fed(graph: Any, shapes: list[tuple[int, ...]], labels: int, layer: str) -> dict[str, Any]:
    """Random inputs: whole numbers, so that some are equal, where places of maxima are asked for; labels in the bottom that holds them."""
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    if layer.startswith(("ArgMax", "Pooling", "Accuracy")):
        arrays = [np.round(x * 2) for x in arrays]
    if layer.startswith("Multinomial"):
        arrays = [np.abs(x) for x in arrays]
    if layer.startswith("Upsample") and labels:  # places, each once in its plane
        arrays[1] = np.stack([rng.permutation(labels)[:35] for _ in range(12)]).reshape(X).astype(np.float32)
    elif labels:
        which = 1 if layer.startswith("Infogain") else len(shapes) - 1
        arrays[which] = rng.integers(0, labels, shapes[which]).astype(np.float32)
    return {item.name: x for item, x in zip(graph.inputs, arrays, strict=True)}


def test_every_layer_is_among_the_cases() -> None:
    tested = {layer.split('"')[0] for _, _, layer in CASES}
    assert set(LAYERS) - tested - ELSEWHERE == set()


@pytest.mark.parametrize(("shapes", "labels", "layer"), CASES, ids=[layer.replace('"', "") for _, _, layer in CASES])
def test_a_layer_goes_to_onnx_and_back(shapes: list[tuple[int, ...]], labels: int, layer: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    graph = built(layer, shapes)
    feeds = fed(graph, shapes, labels, layer)
    path = tmp_path / "net.onnx"
    export.save(graph, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    again = files.load_model(path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {item.name for item in session.get_inputs()}
    with pre.no_grad():
        wanted, ours = graph.run(feeds), again.run({k: v for k, v in feeds.items() if k in {i.name for i in again.inputs}})
    theirs = dict(
        zip(again.outputs, session.run(list(again.outputs), {k: v for k, v in feeds.items() if k in taken}), strict=True)
    )
    for key in graph.outputs:
        for reader, found in (("onnxruntime", theirs[key]), ("preimage", ours[key])):
            assert np.shape(found) == np.shape(wanted[key]), reader
            np.testing.assert_allclose(found, np.asarray(wanted[key]), rtol=1e-5, atol=2e-6, err_msg=reader)
    stored = again.state_dict() | again.constants
    for key, value in graph.weights.items():
        assert stored[key].tobytes() == value.data.tobytes(), key


def test_regions_in_onnxruntime(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    shapes = [(2, 3, 9, 9), (3, 5)]
    graph = built('ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.125 }', shapes)
    rois = np.array([[0, 0, 0, 9, 9], [1, 3, 4, 22, 30], [1, 30, 8, 61, 11]], np.float32)
    x = np.random.default_rng(1).standard_normal(shapes[0]).astype(np.float32)
    export.save(graph, tmp_path / "net.onnx")
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    with pre.no_grad():
        assert np.array_equal(session.run(None, {"a": x, "b": rois})[0], graph(x, rois))


def test_what_onnx_cannot_say_is_refused() -> None:
    for layer, why in (
        (
            'DummyData" dummy_data_param { shape { dim: 2 } data_filler { type: "gaussian" } }',
            "gaussian filler draws other numbers",
        ),
    ):
        with pytest.raises(FileFormatError, match=why):
            export.to_bytes(built(layer, []))
    text = net_text('type: "BatchNorm"', X)
    graph = caffe.load(caffe.parse_text("NetParameter", text), phase="TRAIN")
    with pytest.raises(FileFormatError, match="phase='TEST'"):
        export.to_bytes(graph)
