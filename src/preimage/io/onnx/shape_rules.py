"""Which shapes ONNX's operators give (`io.graph.facts`): those that move, pick and count elements, and the simple kinds."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from preimage.io.graph.facts import Call, Shapes, shapes_of
from preimage.io.graph.sizes import Dim, Shape, Size, UnknownError, broadcast, product
from preimage.io.graph.word_shapes import broadcasting, concatenated, like, matrix_product, of_rank, reduced, reshaped
from preimage.io.onnx.operators.pointwise import per_channel

__all__ = ["MOST_AXES", "axes_of", "bounds_of"]

#: Of arrays in NumPy, at the least.
MOST_AXES = 32

MS = "onnx.com.microsoft::"


def _onnx(*names: str) -> list[str]:
    return [f"onnx.{name}" for name in names]


_SAME = _onnx(
    "Abs", "Neg", "Exp", "Log", "Sqrt", "Tanh", "Reciprocal", "Sigmoid", "Softplus", "Erf", "Softsign", "Mish", "Floor", "Ceil", "Round", "Sign",
    "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "BitwiseNot", "Not", "IsNaN", "IsInf", "Identity",
    "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "HardSigmoid", "HardSwish", "Swish", "ThresholdedRelu", "Shrink", "Clip",
    "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Softmax", "LogSoftmax", "Hardmax", "InstanceNormalization", "GroupNormalization",
    "MeanVarianceNormalization", "LpNormalization", "LRN", "Trilu", "EyeLike", "CumSum", "ReverseSequence", "ScatterND", "ScatterElements",
    "Scatter", "SimplifiedLayerNormalization", "OldBroadcast", "CumProd", "BitCast", "TensorScatter", "ai.onnx.ml::LabelEncoder",
)  # fmt: skip
shapes_of(*_SAME, *(MS + name for name in ("Gelu", "QuickGelu", "QLinearSigmoid", "QLinearLeakyRelu")))(like(0))
shapes_of(
    *_onnx("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Sum", "Mean", "Max", "Min", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "And", "Or", "Xor",
           "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Where", "BitShift"),
    MS + "BiasGelu", MS + "FastGelu", "onnx.RMSNormalization",
)(broadcasting())  # fmt: skip
shapes_of("onnx.Dropout")(like(0, 0))
shapes_of(*_onnx("RandomNormalLike", "RandomUniformLike", "Bernoulli"))(like(0))
shapes_of(*_onnx("RandomNormal", "RandomUniform"))(lambda call: [call.node.integers("shape")])
shapes_of("onnx.DynamicQuantizeLinear")(lambda call: [call.shape(0), (), ()])
shapes_of(MS + "SkipLayerNormalization", MS + "SkipSimplifiedLayerNormalization")(
    lambda call: [broadcast(call.shape(0), call.shape(1)), None, None, broadcast(call.shape(0), call.shape(1))]
)
shapes_of(MS + "QLinearAdd", MS + "QLinearMul")(lambda call: [broadcast(call.shape(0), call.shape(3))])


@shapes_of("onnx.PRelu")
def _prelu(call: Call) -> Shapes:
    x, slope = call.shape(0), call.shape(1)
    return [x if per_channel(x, slope, call.node.integer("opset", 7)) else broadcast(x, slope)]


@shapes_of("onnx.BatchNormalization")
def _batch_norm(call: Call) -> Shapes:
    return [call.shape(0), *[call.shape(3)] * 4]


@shapes_of("onnx.LayerNormalization")
def _layer_norm(call: Call) -> Shapes:
    x = call.shape(0)
    axis = call.axis(call.node.integer("axis", -1), len(x))
    whole = broadcast(x, *(call.shape(k) for k in range(1, len(call)) if call.has(k)))
    left = reduced(x, range(axis, len(x)), True)
    return [whole, left, left]


# -- moving ------------------------------------------------------------------------------------------------------------


@shapes_of("onnx.Shape")
def _shape(call: Call) -> Shapes:
    if call.fact(0).shape is None:
        return [of_rank(1)]
    end = call.node.attributes.get("end")
    start = call.node.integer("start", 0)
    return [[len(call.shape(0)[start : None if end is None else call.node.integer("end")])]]


shapes_of("onnx.Size", "onnx.SequenceLength")(lambda call: [()])


@shapes_of("onnx.Reshape")
def _reshape(call: Call) -> Shapes:
    zero = not call.node.integer("allowzero", 0)
    try:
        return [reshaped(call.fact(0).shape, bounds_of(call, 1, "shape"), zero)]
    except UnknownError:
        (rank,) = call.shape(1)
        if isinstance(rank, Size) or rank > MOST_AXES:
            raise
        return [of_rank(rank)]


@shapes_of("onnx.Flatten")
def _flatten(call: Call) -> Shapes:
    x, axis = call.shape(0), call.node.integer("axis", 1)
    if not -len(x) <= axis <= len(x):
        raise UnknownError("axis")
    axis = axis + len(x) if axis < 0 else axis
    return [[product(x[:axis]), product(x[axis:])]]


@shapes_of("onnx.Transpose")
def _transpose(call: Call) -> Shapes:
    x = call.shape(0)
    order = tuple(range(len(x)))[::-1] if call.node.attributes.get("perm") is None else call.node.integers("perm")
    if sorted(order) != list(range(len(x))):
        raise UnknownError("perm")
    return [[x[a] for a in order]]


def axes_of(call: Call, position: int, attribute: str = "axes") -> list[int] | None:
    """Axes that an attribute or an input says; None where neither does."""
    if call.node.attributes.get(attribute) is not None:
        return list(call.node.integers(attribute))
    return call.integers(position) if call.has(position) else None


def bounds_of(call: Call, position: int, attribute: str) -> list[Dim]:
    """Integers that an attribute says, or an input whose contents are known."""
    return list(call.node.integers(attribute)) if call.node.attributes.get(attribute) is not None else call.contents(position)


@shapes_of("onnx.Squeeze")
def _squeeze(call: Call) -> Shapes:
    x, axes = call.shape(0), axes_of(call, 1)
    if axes is None and any(isinstance(dim, Size) for dim in x):
        raise UnknownError("which sizes are 1")
    which = [k for k, dim in enumerate(x) if dim == 1] if axes is None else [call.axis(a, len(x)) for a in axes]
    return [[dim for k, dim in enumerate(x) if k not in which]]


@shapes_of("onnx.Unsqueeze")
def _unsqueeze(call: Call) -> Shapes:
    x, given = call.shape(0), axes_of(call, 1) or []
    total = len(x) + len(given)
    which = {call.axis(a, total) for a in given}
    sizes = iter(x)
    return [[1 if k in which else next(sizes) for k in range(total)]]


@shapes_of("onnx.Concat")
def _concat(call: Call) -> Shapes:
    return [concatenated([call.shape(k) for k in range(len(call))], call.node.integer("axis"))]


@shapes_of(MS + "QLinearConcat")
def _qlinear_concat(call: Call) -> Shapes:
    return [concatenated([call.shape(k) for k in range(2, len(call), 3)], call.node.integer("axis"))]


@shapes_of("onnx.Split")
def _split(call: Call) -> Shapes:
    x = call.shape(0)
    axis, count = call.axis(call.node.integer("axis", 0), len(x)), len(call.node.outputs)
    given = call.node.attributes.get("split")
    if given is not None or call.has(1):
        parts: Sequence[Dim | None] = list(call.node.integers("split")) if given is not None else call.contents(1)
    else:
        size, pieces = x[axis], call.node.attributes.get("num_outputs")
        if isinstance(size, Size):
            parts = [size // count if pieces is None else None] * count
        else:
            each = ceil(size / count)
            parts = [max(0, min(each, size - k * each)) for k in range(count)]
    return [[part if k == axis else dim for k, dim in enumerate(x)] for part in parts]


@shapes_of("onnx.ConstantOfShape")
def _constant_of_shape(call: Call) -> Shapes:
    try:
        return [call.contents(0)]
    except UnknownError:
        (rank,) = call.shape(0)
        if isinstance(rank, Size) or rank > MOST_AXES:
            raise
        return [of_rank(rank)]


@shapes_of("onnx.Range")
def _range(call: Call) -> Shapes:
    values = [call.fact(k).value for k in range(3)]
    if any(v is None or v.size != 1 for v in values):
        return [of_rank(1)]
    a, b, d = (v.reshape(-1)[0] for v in values if v is not None)
    if isinstance(a, Size) or isinstance(d, Size) or isinstance(b, Size):
        return [[b]] if isinstance(b, Size) and not isinstance(a, Size) and a == 0 and d == 1 else [of_rank(1)]
    return [[max(ceil((b.item() - a.item()) / d.item()), 0)]]


@shapes_of("onnx.NonZero")
def _nonzero(call: Call) -> Shapes:
    return [[max(len(call.shape(0)), 1), None]]


@shapes_of("onnx.OneHot")
def _one_hot(call: Call) -> Shapes:
    x = list(call.shape(0))
    axis = call.axis(call.node.integer("axis", -1), len(x) + 1)
    depth = call.fact(1).value
    count = None if depth is None or depth.size != 1 else depth.reshape(-1)[0]
    return [[*x[:axis], count if count is None or isinstance(count, Size) else int(count), *x[axis:]]]


@shapes_of("onnx.ArgMax", "onnx.ArgMin")
def _arg(call: Call) -> Shapes:
    x = call.shape(0)
    return [reduced(x, [call.axis(call.node.integer("axis", 0), len(x))], bool(call.node.integer("keepdims", 1)))]


@shapes_of("onnx.TopK")
def _top_k(call: Call) -> Shapes:
    found: list[Dim | None] = list(call.shape(0))
    value = call.fact(1).value if call.has(1) else np.array(call.node.integer("k"))
    axis = call.axis(call.node.integer("axis", -1), len(found))
    found[axis] = None if value is None else value.reshape(-1)[0]
    found[axis] = found[axis] if found[axis] is None or isinstance(found[axis], Size) else int(found[axis])  # type: ignore[arg-type]
    return [found, found]


@shapes_of("onnx.Compress")
def _compress(call: Call) -> Shapes:
    if call.node.attributes.get("axis") is None:
        return [of_rank(1)]
    x: list[Dim | None] = list(call.shape(0))
    flags = call.fact(1).known
    axis = call.axis(call.node.integer("axis"), len(x))
    x[axis] = None if flags is None else int(np.count_nonzero(flags))
    return [x]


@shapes_of("onnx.DepthToSpace")
def _depth_to_space(call: Call) -> Shapes:
    (n, c, h, w), b = call.shape(0), call.node.integer("blocksize")
    return [[n, c // (b * b), h * b, w * b]]


@shapes_of("onnx.SpaceToDepth")
def _space_to_depth(call: Call) -> Shapes:
    (n, c, h, w), b = call.shape(0), call.node.integer("blocksize")
    return [[n, c * b * b, h // b, w // b]]


@shapes_of("onnx.Gather")
def _gather(call: Call) -> Shapes:
    x, index = call.shape(0), call.shape(1)
    axis = call.axis(call.node.integer("axis", 0), len(x))
    return [[*x[:axis], *index, *x[axis + 1 :]]]


shapes_of("onnx.GatherElements")(like(1))


@shapes_of("onnx.GatherND")
def _gather_nd(call: Call) -> Shapes:
    x, index, batch = call.shape(0), call.shape(1), call.node.integer("batch_dims", 0)
    width = index[-1]
    if isinstance(width, Size):
        raise UnknownError("the last axis of the indices")
    return [[*index[:-1], *x[batch + width :]]]


@shapes_of("onnx.NonMaxSuppression")
def _non_max_suppression(call: Call) -> Shapes:
    return [[None, 3]]


@shapes_of("onnx.Unique")
def _unique(call: Call) -> Shapes:
    """How many different ones there are, contents decide."""
    axis = call.node.attributes.get("axis")
    found: list[Dim | None] = [None] if axis is None else list(call.shape(0))
    found[0 if axis is None else call.axis(call.node.integer("axis"), len(found))] = None
    size = [product(call.shape(0))] if axis is None else [call.shape(0)[call.axis(call.node.integer("axis"), len(found))]]
    return [found, [None], size, [None]]


shapes_of("onnx.Det")(lambda call: [call.shape(0)[:-2]])


# -- reductions and products -------------------------------------------------------------------------------------------


@shapes_of(
    *_onnx(*(f"Reduce{word}" for word in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")))
)
def _reduce(call: Call) -> Shapes:
    x, keep = call.shape(0), bool(call.node.integer("keepdims", 1))
    axes = axes_of(call, 1)
    if not axes:
        return [x if call.node.integer("noop_with_empty_axes", 0) else reduced(x, range(len(x)), keep)]
    return [reduced(x, [call.axis(a, len(x)) for a in axes], keep)]


@shapes_of(*_onnx("MatMul", "MatMulInteger"), MS + "MatMulIntegerToFloat", MS + "DynamicQuantizeMatMul")
def _matmul(call: Call) -> Shapes:
    return [matrix_product(call.shape(0), call.shape(1))]


@shapes_of("onnx.QLinearMatMul")
def _qlinear_matmul(call: Call) -> Shapes:
    return [matrix_product(call.shape(0), call.shape(3))]


@shapes_of(MS + "QGemm")
def _qgemm(call: Call) -> Shapes:
    sides = (call.shape(k)[call.node.integer(swap, 0) == other] for k, swap, other in ((0, "transA", 1), (3, "transB", 0)))
    return [list(sides)]


@shapes_of(MS + "FusedMatMul")
def _fused_matmul(call: Call) -> Shapes:
    sides: list[Shape] = []
    for k, letter in enumerate("AB"):
        shape = list(call.shape(k))
        if call.node.integer(f"transBatch{letter}", 0):
            shape = [*shape[1:-1], shape[0], shape[-1]]
        if call.node.integer(f"trans{letter}", 0) and len(shape) > 1:
            shape[-2:] = shape[:-3:-1]
        sides.append(tuple(shape))
    return [matrix_product(*sides)]


@shapes_of("onnx.Gemm", MS + "FusedGemm")
def _gemm(call: Call) -> Shapes:
    a, b = call.shape(0), call.shape(1)
    product_ = [a[1 if call.node.integer("transA", 0) else 0], b[0 if call.node.integer("transB", 0) else 1]]
    if call.has(2) and call.node.number("beta", 1.0):
        return [broadcast(product_, call.shape(2))]
    return [product_]


@shapes_of("onnx.Einsum")
def _einsum(call: Call) -> Shapes:
    left, arrow, right = call.node.word("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    sizes: dict[str, Dim] = {}
    many: list[Shape] = []
    for k, term in enumerate(terms):
        shape = call.shape(k)
        head, dots, tail = term.partition("...")
        rest = len(shape) - len(head) - len(tail)
        many.append(shape[len(head) : len(head) + rest] if dots else ())
        for letter, dim in [*zip(head, shape, strict=False), *zip(tail, shape[len(head) + rest :], strict=True)]:
            if letter not in sizes or isinstance(sizes[letter], Size) or sizes[letter] == 1:
                sizes[letter] = dim
    spread = broadcast(*many)
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        right = ("..." if spread else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    head, dots, tail = right.partition("...")
    return [[*(sizes[c] for c in head), *(spread if dots else ()), *(sizes[c] for c in tail)]]


# -- sequences have one axis, which says how many values there are ----------------------------------------------------

shapes_of("onnx.SequenceEmpty")(lambda call: [[0]])
shapes_of("onnx.SequenceConstruct")(lambda call: [[len(call)]])
shapes_of(*_onnx("SequenceErase", "SequenceInsert", "SplitToSequence"))(lambda call: [[None]])
shapes_of(*_onnx("SequenceAt", "ConcatFromSequence"))(lambda call: [None])
