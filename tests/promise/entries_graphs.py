"""Entries of the promise for what imported graphs compute: one node of every ONNX operator and one layer of every Caffe type."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import preimage as pre
from preimage.io import caffe
from preimage.io import onnx as onnx_io
from preimage.io.caffe.assemble import Limits
from promise import BATCH, Entry

sys.path.append(str(Path(__file__).parents[1] / "io"))
from caffe_nets import net_text

X, SMALL, ROWS = (BATCH, 7, 13, 11), (BATCH, 4, 6, 7), (BATCH, 3, 600)

# -- ONNX --------------------------------------------------------------------------------------------------------------


def node(
    op: str, *shapes: Any, stored: tuple[Any, ...] = (), opset: int = 21, outputs: int = 1, images: bool = True, kind: str = "normal",
    label: str = "", **attributes: Any,
) -> Entry:  # fmt: skip
    """A graph of one node: inputs of these shapes, then stored arrays (None: left out)."""
    loaded: dict[Any, Any] = {}

    def graph(inputs: tuple[Any, ...]) -> Any:
        from onnx import helper, numpy_helper

        key = tuple((a.shape, a.dtype) for a in inputs)
        if key not in loaded:
            names = [f"x{k}" for k in range(len(inputs))]
            kept = {f"w{k}": v for k, v in enumerate(stored) if v is not None}
            words = [*names, *(f"w{k}" if v is not None else "" for k, v in enumerate(stored))]
            feeds = [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in zip(names, inputs, strict=True)
            ]
            initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in kept.items()]
            domain, _, word = op.rpartition("::")
            made = helper.make_node(word, words, ["y", *[f"y{k}" for k in range(1, outputs)]], domain=domain, **attributes)
            body = helper.make_graph([made], "g", feeds, [helper.make_empty_tensor_value_info("y")], initializers)
            proto = helper.make_model(
                body, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)], ir_version=9
            )
            loaded[key] = onnx_io.load(proto.SerializeToString())
        return loaded[key]

    def run(*inputs: Any) -> Any:
        found = graph(inputs)
        with pre.no_grad():
            return found.run({item.name: value for item, value in zip(found.inputs, inputs, strict=True)})[found.outputs[0]]

    return Entry(f"onnx.{op}", run, shapes, (True,) * len(shapes), images, (), kind, label=label)


def _ints(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def _weights(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


MS = "com.microsoft::"
_places = np.random.default_rng(4).uniform(-1.2, 1.2, (BATCH, 6, 5, 2)).astype(np.float32)
_bytes = np.random.default_rng(6).integers(0, 255, X).astype(np.uint8)
_lstm_bytes = [(_weights(1, n, 32) * 30).astype(np.int8) for n in (5, 8)]
_one = np.float32([0.01])
UNARY = (
    "Abs", "Asinh", "Atan", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Hardmax",
    "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu", "Flatten", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
)  # fmt: skip
BINARY = (
    "Add",
    "Div",
    "Max",
    "Mean",
    "Min",
    "Mul",
    "Sub",
    "Sum",
    "Pow",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
)
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

ONNX = [
    *[node(op, X) for op in UNARY],
    node("DFT", (BATCH, 19, 2), stored=(None, np.int64(1)), images=False),
    node("DFT", (BATCH, 30, 1), stored=(np.int64(24), np.int64(1)), onesided=1, images=False),
    node("STFT", (BATCH, 40, 1), stored=(np.int64(7), np.hanning(16).astype(np.float32)), opset=17, images=False),
    node("Gelu", X),
    *[node(op, X, kind="unit") for op in ("Acos", "Asin", "Atanh")],
    *[node(op, X, kind="positive") for op in ("Log", "Sqrt")],
    node("Acosh", X, kind="positive", opset=21),
    *[node(op, X, X, kind="positive") for op in BINARY],
    node("Mod", X, X, kind="positive", fmod=1),
    *[node(f"Reduce{name}", SMALL, stored=(_ints(1, 3),), kind="positive") for name in REDUCTIONS],
    *[node(f"Reduce{name}", ROWS, stored=(_ints(-1),), kind="positive", label="long rows") for name in REDUCTIONS if name != "Prod"],
    *[node(op, X, axis=1) for op in ("ArgMax", "ArgMin", "Softmax", "LogSoftmax", "LpNormalization")],
    node("LpNormalization", X, axis=1, p=1, label="of sizes"),
    node("MeanVarianceNormalization", X, axes=[2, 3]),
    node("AveragePool", X, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    node("MaxPool", X, kernel_shape=[3, 2], strides=[2, 1]),
    node("LpPool", X, kernel_shape=[3, 2]),
    node("LRN", X, size=3),
    node("BatchNormalization", X, stored=(_weights(7), _weights(7), _weights(7), np.abs(_weights(7)))),
    node("InstanceNormalization", X, stored=(_weights(7), _weights(7))),
    node("GroupNormalization", SMALL, stored=(_weights(4), _weights(4)), num_groups=2),
    node("LayerNormalization", ROWS, stored=(_weights(600), _weights(600))),
    node("RMSNormalization", ROWS, stored=(_weights(600),), opset=23),
    node("PRelu", X, stored=(_weights(7, 1, 1),)),
    node("Swish", X, opset=24),
    node("Dropout", X),
    node("Conv", X, stored=(_weights(9, 7, 3, 3), _weights(9)), pads=[1, 1, 1, 1]),
    node("ConvTranspose", X, stored=(_weights(7, 5, 3, 3),), strides=[2, 2]),
    node("Gemm", (BATCH, 70), stored=(_weights(9, 70), _weights(9)), transB=1),
    node("MatMul", ROWS, stored=(_weights(600, 9),)),
    node("MatMul", (BATCH, 6, 70), (BATCH, 70, 9), label="of batches"),
    node("Einsum", (BATCH, 6, 70), (BATCH, 70, 9), equation="bij,bjk->bik"),
    node("GridSample", X, _places, mode="cubic"),
    node("GridSample", X, _places, padding_mode="reflection", label="reflected"),
    node("RoiAlign", X, stored=(_weights(3, 4) * 5, _ints(0, 3, 1)), output_height=3, output_width=2, images=False),
    node("RoiAlign", X, stored=(_weights(3, 4) * 5, _ints(0, 3, 1)), output_height=3, output_width=2, mode="max", images=False, label="maximum"),
    node("DeformConv", X, stored=(_weights(5, 7, 3, 3), np.float32(1.3) * _weights(BATCH, 18, 11, 9)), images=False),
    node("CumProd", SMALL, stored=(np.array(2),), opset=26),
    node("Det", (BATCH, 6, 7, 7)),
    node(f"{MS}DynamicQuantizeLSTM", (6, BATCH, 5), stored=(*_lstm_bytes, *[None] * 5, *[_one, np.zeros(1, np.int8)] * 2), images=False,
         hidden_size=8),
    node("AffineGrid", (BATCH, 2, 3), stored=(_ints(BATCH, 7, 9, 8),), images=False),
    node("SimplifiedLayerNormalization", ROWS, stored=(_weights(600),)),
    node("QuantizeLinear", X, stored=(np.float32(0.03), np.uint8(120))),
    node("DequantizeLinear", _bytes, stored=(np.float32(0.03), np.uint8(120))),
    node("DynamicQuantizeLinear", X, images=False, outputs=3),
    *[node(f"{MS}{op}", X) for op in ("Gelu", "FastGelu", "QuickGelu")],
    node(f"{MS}BiasGelu", ROWS, stored=(_weights(600),)),
    node(f"{MS}FusedConv", X, stored=(_weights(9, 7, 3, 3), _weights(9)), activation="Tanh"),
    node(f"{MS}FusedGemm", (BATCH, 70), stored=(_weights(70, 9), _weights(9)), activation="Sigmoid"),
    node(f"{MS}FusedMatMul", ROWS, stored=(_weights(600, 9),), alpha=0.3),
    *[node(f"{MS}{op}", ROWS, ROWS, stored=(_weights(600),)) for op in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")],
    node(f"{MS}DynamicQuantizeMatMul", ROWS, stored=(_bytes[0, :3, :, :9].reshape(-1, 9)[:1].repeat(600, 0), np.float32([0.1])), images=False),
    node("CumSum", SMALL, stored=(np.array(2),)),
    node("Col2Im", (BATCH, 2 * 9, 42), stored=(_ints(8, 9), _ints(3, 3))),
    node("Upsample", X, stored=(np.float32([1, 1, 2, 3]),), mode="linear", opset=9),
    *[node("Resize", X, stored=(None, np.float32([1, 1, 2.5, 0.7])), mode=mode, label=mode) for mode in ("nearest", "linear", "cubic")],
    *[node(op, (BATCH, 8, 6, 4), blocksize=2) for op in ("DepthToSpace", "SpaceToDepth")],
    node("Concat", X, X, axis=1),
    node("Trilu", X),
    node("Pad", X, stored=(_ints(0, 0, 1, 2, 0, 0, 2, 0),)),
    node("Transpose", X, perm=[0, 2, 3, 1]),
    node("Slice", X, stored=(_ints(1), _ints(9), _ints(2))),
    node("Gather", X, stored=(_ints(3, 0, 3),), axis=2),
    node("Tile", SMALL, stored=(_ints(1, 2, 1, 2),)),
    node("Expand", (BATCH, 1, 7), stored=(_ints(1, 4, 7),)),
    node("Squeeze", (BATCH, 1, 7), stored=(_ints(1),)),
    node("Unsqueeze", X, stored=(_ints(2),)),
    node("Reshape", X, stored=(_ints(0, 7, -1),)),
    node("Cast", X, to=11),
    *[node(op, (6, BATCH, 5), stored=(_weights(1, g * 8, 5), _weights(1, g * 8, 8)), images=False, hidden_size=8)
      for op, g in (("RNN", 1), ("GRU", 3), ("LSTM", 4))],
]  # fmt: skip

# -- Caffe -------------------------------------------------------------------------------------------------------------


def layer(text: str, *shapes: Any, images: bool = True, kind: str = "normal", phase: str = "TEST", label: str = "") -> Entry:
    """A net of one layer; shapes: of its inputs, or arrays."""
    loaded: dict[Any, Any] = {}

    def run(*inputs: Any) -> Any:
        key = tuple(a.shape for a in inputs)
        if key not in loaded:
            message = caffe.parse_text("NetParameter", net_text(f'type: "{text}', *key))
            made = caffe.load(message, phase=phase, seed=0, limits=Limits())
            rng = np.random.default_rng(1)
            for name in made.weights:
                made.put(name, rng.standard_normal(made.array(name).shape).astype(np.float32))
            for name in made.state:
                made.put(name, (0.5 + rng.random(made.array(name).shape)).astype(np.float32))
            loaded[key] = made
        with pre.no_grad():
            return loaded[key](*inputs)

    return Entry(f"caffe.{text.split(chr(34))[0]}", run, shapes, (True,) * len(shapes), images, (), kind, label=label)


POINTWISE = (
    "AbsVal",
    "BNLL",
    "Dropout",
    "ELU",
    "Exp",
    "Flatten",
    "PReLU",
    "Power",
    "ReLU",
    "Sigmoid",
    "Split",
    "Swish",
    "TanH",
    "Threshold",
)
_labels = np.array([3, 0, 6, 2, 5], np.float32)
_maps = np.random.default_rng(5).integers(0, 7, (BATCH, 13, 11)).astype(np.float32)
_rois = np.array([[0, 0, 0, 4, 5], [4, 1, 2, 3, 4], [2, 5, 5, 5, 5], [1, 0, 1, 6, 2], [3, 2, 0, 2, 5]], np.float32)
_pairs = np.array([0, 1, 1, 0, 1], np.float32)

CAFFE = [
    *[layer(f'{name}"', X) for name in POINTWISE],
    layer('Log" log_param { shift: 5 }', X, kind="positive"),
    layer('Clip" clip_param { min: -0.5 max: 0.25 }', X),
    layer('ArgMax"', X),
    layer('BatchNorm"', X),
    layer('Bias" bias_param { axis: 1 }', X),
    layer('Scale" scale_param { axis: 1 bias_term: true }', X),
    layer('Concat"', X, X),
    layer('Eltwise" eltwise_param { operation: SUM }', X, X),
    layer('Convolution" convolution_param { num_output: 9 kernel_size: 3 pad: 1 }', X),
    *[layer(f'{name}" convolution_param {{ num_output: 7 kernel_size: 3 }}', X) for name in ("ConvolutionDepthwise", "DepthwiseConvolution")],
    layer('Deconvolution" convolution_param { num_output: 4 kernel_size: 3 stride: 2 }', X),
    layer('Crop" crop_param { axis: 2 offset: 1 }', X, SMALL),
    layer('InnerProduct" inner_product_param { num_output: 9 }', X),
    layer('Im2col" convolution_param { kernel_size: 3 }', SMALL),
    layer('Embed" embed_param { num_output: 9 input_dim: 8 }', _labels),
    layer('LRN" lrn_param { local_size: 3 alpha: 0.7 }', X),
    layer('LRN" lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }', X, label="within channels"),
    layer('MVN"', X),
    layer('MVN" mvn_param { across_channels: true }', X, label="across channels"),
    layer('Normalize" norm_param { across_spatial: true }', X),
    layer('Normalize" norm_param { across_spatial: false }', X, label="of a place"),
    layer('Permute" permute_param { order: 0 order: 2 order: 1 order: 3 }', X),
    layer('Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 }', X),
    layer('Pooling" pooling_param { pool: AVE global_pooling: true }', X, label="of all"),
    layer('Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 }', X, label="maximum"),
    *[
        layer(f'Reduction" reduction_param {{ operation: {name} axis: 1 }}', X, label=name)
        for name in ("SUM", "ASUM", "SUMSQ", "MEAN")
    ],
    layer('Reshape" reshape_param { shape { dim: 0 dim: -1 } }', X),
    layer('Tile" tile_param { axis: 2 tiles: 3 }', SMALL),
    layer('Softmax"', X),
    layer('SoftmaxWithLoss"', X, _maps, images=False),
    layer('EuclideanLoss"', X, X, images=False),
    layer('HingeLoss"', (BATCH, 7), _labels, images=False),
    layer('MultinomialLogisticLoss"', (BATCH, 7), _labels, images=False, kind="unit"),
    layer('SigmoidCrossEntropyLoss"', X, _weights(*X), images=False),
    layer('ReLU6"', X),
    layer('Axpy"', (BATCH, 7), X, X),
    layer('ShuffleChannel" shuffle_channel_param { group: 7 }', X),
    layer('CropCenter" crop_center_param { crop_size: 0 crop_size: 1 crop_size: 2 crop_size: 1 }', X),
    layer('Reorg" reorg_param { stride: 2 }', (BATCH, 4, 6, 8)),
    layer('Upsample" upsample_param { scale: 2 }', SMALL),
    layer('Interp" interp_param { zoom_factor: 2 }', SMALL),
    layer('BN" bn_param { eps: 0.01 }', X),
    layer('BN" bn_param { scale_filler { value: 1 } }', X, images=False, label="of the batch"),
    layer('SmoothL1Loss"', X, X, images=False),
    layer('ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 2 }', X, _rois, images=False),
    layer('PSROIPooling" psroi_pooling_param { output_dim: 1 group_size: 2 spatial_scale: 1 }', SMALL, _rois, images=False),
    layer('ContrastiveLoss"', (BATCH, 7), (BATCH, 7), _pairs, images=False),
]  # fmt: skip

#: What computes with no floats, runs graphs of the nodes above, or reads files.
#: (Quantised operators sum integers, exactly, and scale the sums one by one.)
NO_ARITHMETIC = {
    "onnx": {
        "Constant", "And", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CastLike", "CenterCropPad", "Compress", "ConstantOfShape",
        "EyeLike", "GatherElements", "GatherND", "If", "Loop", "NonMaxSuppression", "NonZero", "Not", "OldBroadcast", "OneHot", "Or", "MaxUnpool",
        "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "com.microsoft::MatMulIntegerToFloat", "com.microsoft::QLinearAdd",
        "com.microsoft::QLinearConcat",
        "com.microsoft::QGemm", "com.microsoft::QLinearGlobalAveragePool", "com.microsoft::QLinearLeakyRelu", "com.microsoft::QLinearMul",
        "com.microsoft::QLinearSigmoid",
        "MelWeightMatrix", "BitCast", "BitShift", "MaxRoiPool", "TensorScatter", "Unique", "ai.onnx.ml::LabelEncoder",
        "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
        "SplitToSequence",
        "Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
        "Range", "ReverseSequence", "Scan", "Scatter", "ScatterElements", "ScatterND", "Shape", "Size", "Split", "TopK", "Where", "Xor",
    },
    "caffe": {
        "Accuracy", "AnnotatedData", "Data", "DenseImageData", "DetectionEvaluate", "DetectionOutput", "MultiBoxLoss", "VideoData",
        "Yolov3DetectionOutput", "DummyData", "HDF5Data", "ImageData", "InfogainLoss", "Input", "MemoryData",
        "Parameter", "PriorBox", "Python", "Silence", "Slice", "WindowData",
    },
}  # fmt: skip
