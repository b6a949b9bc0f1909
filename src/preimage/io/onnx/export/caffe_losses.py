"""How Caffe's losses and measures are written as ONNX operators: their values, as a net gives them in its TEST phase."""

from __future__ import annotations

import numpy as np

from preimage.io.caffe.functions.loss import LOG_FLOOR
from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, word

__all__: list[str] = []


def _labels(writer: Writer, node: Node, labels: str, target: str) -> tuple[str, str]:
    """Labels as int64 in another shape, 0 in the place of ignored ones; and which of them count, as floats."""
    whole = writer.op("Reshape", [writer.op("Cast", [labels], to=writer.onnx.TensorProto.INT64), target])
    ignore = node.attributes.get("ignore")
    if ignore is None:
        return whole, writer.op("CastLike", [writer.op("Equal", [whole, whole]), node.inputs[0]])
    counts = writer.op("Not", [writer.op("Equal", [whole, writer.constant(ignore, np.int64)])])
    safe = writer.op("Where", [counts, whole, writer.constant(0, np.int64)])
    return safe, writer.op("CastLike", [counts, node.inputs[0]])


def _sum(writer: Writer, value: str, *axes: int) -> str:
    """The sum over some axes, or all; they are gone."""
    return writer.op("ReduceSum", [value, *([writer.ints(*axes)] if axes else [])], keepdims=0)


def _number(writer: Writer, node: Node, sizes: str) -> str:
    """The product of sizes, as a float of no axes."""
    return writer.op("CastLike", [writer.op("ReduceProd", [sizes], keepdims=0), node.inputs[0]])


def _normalizer(writer: Writer, node: Node, batch: str, valid: str) -> str:
    """What the loss is divided by. batch: the sizes that BATCH_SIZE counts; valid: which elements count, as floats."""
    mode = node.word("normalization")
    if mode == "FULL":
        count = writer.op("CastLike", [writer.op("Size", [valid]), node.inputs[0]])
    elif mode == "VALID":
        count = _sum(writer, valid)
    elif mode == "BATCH_SIZE":
        count = _number(writer, node, batch)
    else:
        return writer.constant(1.0)
    return writer.op("Max", [count, writer.constant(1.0)])


def _batch(writer: Writer, node: Node) -> str:
    """The first size, at least 1, as a float of no axes."""
    return writer.op("Max", [_number(writer, node, writer.size(node.inputs[0], 0)), writer.constant(1.0)])


def _without_axis(writer: Writer, node: Node, axis: int) -> str:
    """The shape of the scores, with 1 at the axis of the classes."""
    x = node.inputs[0]
    behind = writer.size(x, axis + 1, writer.rank(node, x))
    return writer.op("Concat", [writer.size(x, 0, axis), writer.ints(1), behind], axis=0)


def _quotient(writer: Writer, node: Node, total: str, by: str) -> None:
    writer.add("Div", [total, by], node.outputs[:1], node.name)


@word("softmax_loss")
def _softmax_loss(writer: Writer, node: Node) -> None:
    x, labels = node.inputs
    axis = node.integer("axis")
    whole, valid = _labels(writer, node, labels, _without_axis(writer, node, axis))
    chosen = writer.op("GatherElements", [writer.op("LogSoftmax", [x], axis=axis), whole], axis=axis)
    if node.attributes.get("class_weights") is not None:
        chosen = writer.op("Mul", [chosen, writer.op("Gather", [writer.constant(node.numbers("class_weights")), whole], axis=0)])
    total = writer.op("Neg", [_sum(writer, writer.op("Mul", [chosen, valid]))])
    _quotient(writer, node, total, _normalizer(writer, node, writer.size(x, 0, axis), valid))
    if len(node.outputs) > 1:
        writer.add("Softmax", [x], node.outputs[1:2], axis=axis)


@word("infogain_loss")
def _infogain_loss(writer: Writer, node: Node) -> None:
    """The rows of the matrix that the labels name, their last axis moved to that of the classes."""
    x, labels, matrix = node.inputs
    axis, rank = node.integer("axis"), writer.rank(node, x)
    classes = writer.size(x, axis)
    square = writer.op("Reshape", [matrix, writer.op("Concat", [classes, classes], axis=0)])
    whole, valid = _labels(writer, node, labels, _without_axis(writer, node, axis))
    rows = writer.op("Gather", [square, writer.op("Squeeze", [whole, writer.ints(axis)])], axis=0)
    order = [*range(axis), rank - 1, *range(axis, rank - 1)]
    gains = writer.op("Mul", [writer.op("Transpose", [rows], perm=order), valid])
    total = writer.op("Neg", [_sum(writer, writer.op("Mul", [writer.op("LogSoftmax", [x], axis=axis), gains]))])
    _quotient(writer, node, total, _normalizer(writer, node, writer.size(x, 0, axis), valid))
    if len(node.outputs) > 1:
        writer.add("Softmax", [x], node.outputs[1:2], axis=axis)


@word("sigmoid_loss")
def _sigmoid_loss(writer: Writer, node: Node) -> None:
    """max(x, 0) - x t + log(1 + exp(-|x|))."""
    x, target = node.inputs
    goal = writer.op("Reshape", [target, writer.op("Shape", [x])])
    _, valid = _labels(writer, node, goal, writer.op("Shape", [x]))
    linear = writer.op("Sub", [writer.op("Relu", [x]), writer.op("Mul", [x, goal])])
    bent = writer.op("Softplus", [writer.op("Neg", [writer.op("Abs", [x])])])
    each = writer.op("Mul", [writer.op("Add", [linear, bent]), valid])
    _quotient(writer, node, _sum(writer, each), _normalizer(writer, node, writer.size(x, 0), valid))


@word("euclidean_loss")
def _euclidean_loss(writer: Writer, node: Node) -> None:
    a, b = node.inputs
    difference = writer.op("Sub", [a, writer.op("Reshape", [b, writer.op("Shape", [a])])])
    half = writer.op("Mul", [_sum(writer, writer.op("Mul", [difference, difference])), writer.constant(0.5)])
    _quotient(writer, node, half, _batch(writer, node))


@word("smooth_l1_loss")
def _smooth_l1_loss(writer: Writer, node: Node) -> None:
    x, target, *weights = node.inputs
    same, square = writer.op("Shape", [x]), node.number("sigma") ** 2
    difference = writer.op("Sub", [x, writer.op("Reshape", [target, same])])
    if weights:
        difference = writer.op("Mul", [difference, writer.op("Reshape", [weights[0], same])])
    size = writer.op("Abs", [difference])
    near = writer.op("Mul", [writer.op("Mul", [difference, difference]), writer.constant(0.5 * square)])
    far = writer.op("Sub", [size, writer.constant(0.5 / square)])
    each = writer.op("Where", [writer.op("Less", [size, writer.constant(1 / square)]), near, far])
    if len(weights) == 2:
        each = writer.op("Mul", [each, writer.op("Reshape", [weights[1], same])])
    _quotient(writer, node, _sum(writer, each), _batch(writer, node))


@word("hinge_loss")
def _hinge_loss(writer: Writer, node: Node) -> None:
    x, labels = node.inputs
    rows = writer.op("Flatten", [x], axis=1)
    whole, _ = _labels(writer, node, labels, writer.ints(-1))
    signs = writer.op("OneHot", [whole, writer.size(rows, 1), writer.constant([1.0, -1.0])], axis=-1)
    margin = writer.op("Relu", [writer.op("Add", [writer.op("Mul", [rows, signs]), writer.constant(1.0)])])
    margin = margin if node.word("norm") == "L1" else writer.op("Mul", [margin, margin])
    _quotient(writer, node, _sum(writer, margin), _batch(writer, node))


@word("multinomial_loss")
def _multinomial_loss(writer: Writer, node: Node) -> None:
    x, labels = node.inputs
    rows = writer.op("Flatten", [x], axis=1)
    whole, _ = _labels(writer, node, labels, writer.ints(-1, 1))
    chosen = writer.op("Max", [writer.op("GatherElements", [rows, whole], axis=1), writer.constant(LOG_FLOOR)])
    _quotient(writer, node, writer.op("Neg", [_sum(writer, writer.op("Log", [chosen]))]), _batch(writer, node))


@word("contrastive_loss")
def _contrastive_loss(writer: Writer, node: Node) -> None:
    a, b, similar = node.inputs
    difference = writer.op("Sub", [writer.op("Flatten", [v], axis=1) for v in (a, b)])
    square, margin = _sum(writer, writer.op("Mul", [difference, difference]), 1), writer.constant(node.number("margin"))
    if node.flag("legacy"):
        apart = writer.op("Relu", [writer.op("Sub", [margin, square])])
    else:
        short = writer.op("Relu", [writer.op("Sub", [margin, writer.op("Sqrt", [square])])])
        apart = writer.op("Mul", [short, short])
    whole, _ = _labels(writer, node, similar, writer.ints(-1))
    each = writer.op("Where", [writer.op("Cast", [whole], to=writer.onnx.TensorProto.BOOL), square, apart])
    half = writer.op("Mul", [_sum(writer, each), writer.constant(0.5)])
    _quotient(writer, node, half, _batch(writer, node))


@word("accuracy")
def _accuracy(writer: Writer, node: Node) -> None:
    """A label is right where fewer than top_k other scores are as high as its own."""
    x, labels = node.inputs
    axis = node.integer("axis") % writer.rank(node, x)
    whole, valid = _labels(writer, node, labels, _without_axis(writer, node, axis))
    own = writer.op("GatherElements", [x, whole], axis=axis)
    as_high = writer.op("CastLike", [writer.op("GreaterOrEqual", [x, own]), x])
    others = writer.op("ReduceSum", [as_high, writer.ints(axis)], keepdims=1)
    few = writer.op("LessOrEqual", [others, writer.constant(float(node.integer("top_k")))])
    right = writer.op("Mul", [writer.op("CastLike", [few, x]), valid])
    one = writer.constant(1.0)
    _quotient(writer, node, _sum(writer, right), writer.op("Max", [_sum(writer, valid), one]))
    if len(node.outputs) > 1:
        values = writer.constant([0.0, 1.0])
        column = writer.op("Reshape", [whole, writer.ints(-1)])
        hot = writer.op("OneHot", [column, writer.size(x, axis), values], axis=-1)
        counts = [_sum(writer, writer.op("Mul", [hot, writer.op("Reshape", [v, writer.ints(-1, 1)])]), 0) for v in (right, valid)]
        writer.add("Div", [counts[0], writer.op("Max", [counts[1], one])], node.outputs[1:2])
