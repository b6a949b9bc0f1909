"""Which words of graphs may be recorded as kernels (program.py), and what their results depend on.

A word may be recorded where its function reads the values of some inputs through kernels alone: then the kernels that it launches depend
on shapes and on the other inputs, which must not change. Which inputs those are stands here. A word that is missing stays a function: slower,
never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preimage.io.graph.nodes import Node

__all__ = ["decides", "goes_on", "may_record", "only_shapes", "runs_graphs", "same_order"]

#: Results that depend on the shapes of inputs, not on their values.
_ONLY_SHAPES = frozenset(("onnx.Shape", "onnx.Size"))
#: Results with the elements of the first input in their order.
_SAME_ORDER = frozenset(("reshape", "flatten", "onnx.Reshape", "onnx.Flatten", "onnx.Squeeze", "onnx.Unsqueeze"))
#: Results that are views of the first input.
_VIEWS = frozenset(
    (
        "transpose", "onnx.Transpose", "slice_axis", "onnx.Slice", "onnx.Split", "identity", "onnx.Identity", "dropout", "channels_innermost",
    )
)  # fmt: skip
#: Words that read no value but through kernels, of any input.
_ALL = frozenset(
    (
        "add", "sub", "mul", "div", "relu", "leaky_relu", "clip", "sigmoid", "tanh", "exp", "sqrt", "abs", "maximum", "minimum", "swish",
        "pointwise", "softmax", "onnx.Softmax", "concat", "onnx.Concat", "matmul", "onnx.MatMul", "attention", "gelu", "mish", "softplus", "log",
        "neg", "reciprocal", "rsqrt", "square", "hard_sigmoid", "hard_swish", "onnx.Gather", "onnx.PRelu", "onnx.Where", "onnx.Equal", "onnx.Less",
        "onnx.LessOrEqual", "onnx.Greater", "onnx.GreaterOrEqual", "onnx.And", "onnx.Or", "onnx.Xor", "onnx.Not", "onnx.IsNaN", "rms_norm",
        "onnx.LSTM", "onnx.GRU", "onnx.RNN", "group_norm", "instance_norm", "onnx.Einsum",
        "quantised_pointwise", "onnx.Clip", "onnx.LayerNormalization", "onnx.InstanceNormalization", "onnx.GroupNormalization",
        "onnx.RMSNormalization", "onnx.SimplifiedLayerNormalization", "onnx.com.microsoft::SkipLayerNormalization",
        "onnx.com.microsoft::SkipSimplifiedLayerNormalization", "layer_norm", "onnx.Gelu", "onnx.com.microsoft::Gelu",
        "onnx.com.microsoft::BiasGelu", "onnx.com.microsoft::FastGelu", "onnx.com.microsoft::QuickGelu", "onnx.Swish", "onnx.Mish",
        "onnx.com.microsoft::FusedMatMul", "prelu", "selu", "celu", "softsign", "log_sigmoid", "onnx.Selu", "onnx.Celu", "onnx.Add", "onnx.Sub",
        "onnx.Mul", "onnx.Abs", "onnx.Neg", "onnx.Exp", "onnx.Log", "onnx.Sqrt", "onnx.Tanh", "onnx.Reciprocal", "onnx.Sigmoid", "onnx.Softplus",
        "onnx.Erf", "onnx.Softsign", "onnx.MeanVarianceNormalization", "onnx.Sum", "onnx.Mean", "onnx.Max", "onnx.Min",
    )
)  # fmt: skip
#: Words that read the first input so, and decide on the others.
_FIRST = frozenset(
    (
        "max_pool", "onnx.MaxPool", "global_avg_pool", "onnx.GlobalAveragePool", "onnx.ReduceMean", "onnx.ReduceSum", "onnx.Resize",
        "onnx.Upsample", "linear", "onnx.Gemm", "onnx.HardSigmoid", "onnx.HardSwish", "onnx.Relu", "onnx.LeakyRelu", "avg_pool",
        "onnx.AveragePool", "layer_norm", "onnx.Pad", "onnx.Tile", "onnx.Expand", "onnx.Cast", "onnx.Floor", "onnx.Ceil", "onnx.Round", "onnx.Sign",
        "onnx.Sin", "onnx.Cos", "onnx.Tan", "onnx.Asin", "onnx.Acos", "onnx.Atan", "onnx.Sinh", "onnx.Cosh", "onnx.Asinh", "onnx.Acosh",
        "onnx.Atanh", "upsample", "channel_shuffle", "elu", "onnx.Elu", "onnx.DepthToSpace", "onnx.SpaceToDepth",
        "global_max_pool", "onnx.GlobalMaxPool", "onnx.LogSoftmax", "log_softmax", "onnx.ReduceMax", "onnx.ReduceMin",
        "onnx.ReduceL1", "onnx.ReduceL2", "onnx.ReduceSumSquare", "onnx.ReduceLogSum", "onnx.Pow",
        "onnx.QuantizeLinear", "onnx.DequantizeLinear", "onnx.CumSum", "lrn", "onnx.DynamicQuantizeLinear",
        "onnx.com.microsoft::DynamicQuantizeMatMul", "onnx.BatchNormalization", "batch_norm", "onnx.ConvTranspose", "onnx.CastLike", "tile_axis",
        "onnx.com.microsoft::FusedConv", "onnx.com.microsoft::FusedGemm", "onnx.LRN", "onnx.LpPool", "onnx.GlobalLpPool", "onnx.ReduceProd",
        "onnx.ArgMax", "onnx.ArgMin",
    )
)  # fmt: skip
#: Words that run graphs.
_DECIDE: dict[str, tuple[int, ...]] = {"onnx.If": (0,), "onnx.Loop": (0, 1), "onnx.Scan": ()}
_POSITIONS = {
    "onnx.Conv": (0,), "conv": (0, 3), "conv_transpose": (0, 3), "onnx.QLinearConv": (0,), "quantised_conv_transpose": (0,),
    "onnx.ConvInteger": (0, 2), "onnx.QLinearMatMul": (0, 3),
    "onnx.MatMulInteger": (0, 1, 2), "onnx.com.microsoft::MatMulIntegerToFloat": (0, 2, 4), "onnx.com.microsoft::QGemm": (0,),
    "onnx.com.microsoft::DynamicQuantizeLSTM": (0, 5, 6), "onnx.GatherElements": (0, 1),
}  # fmt: skip


def may_record(node: Node, moving: Sequence[int]) -> bool:
    """Whether the node may be recorded where the inputs at these positions change from run to run."""
    if node.op in _ALL:
        return True
    if node.op in _POSITIONS:
        return set(moving) <= set(_POSITIONS[node.op])
    return (node.op in _FIRST or node.op in _VIEWS or node.op in _SAME_ORDER) and tuple(moving) == (0,)


def decides(op: str) -> tuple[int, ...]:
    """The inputs whose values decide which of the word's graphs run, and how often."""
    return _DECIDE.get(op, ())


def goes_on(op: str) -> bool:
    """Whether the first output of the word's graph decides if it runs again."""
    return op == "onnx.Loop"


def runs_graphs(op: str) -> bool:
    """Whether the word runs graphs that the node holds."""
    return op in _DECIDE


def only_shapes(op: str) -> bool:
    """Whether the word's results depend on shapes alone."""
    return op in _ONLY_SHAPES


def same_order(op: str) -> bool:
    """Whether the word's result has the elements of its first input, in row-major order."""
    return op in _SAME_ORDER
