"""How the words of Caffe's layers are written as ONNX operators: shapes, indices, normalisations."""

from __future__ import annotations

from math import prod

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, window, word

__all__: list[str] = []


# -- shapes --------------------------------------------------------------------------------------------------------------


@word("fold_batch")
def _fold_batch(writer: Writer, node: Node) -> None:
    x, axis = node.inputs[0], node.integer("axis")
    behind = writer.size(x, axis, writer.rank(node, x))
    writer.add("Reshape", [x, writer.op("Concat", [writer.ints(-1), behind], axis=0)], node.outputs, node.name)


@word("unfold_batch")
def _unfold_batch(writer: Writer, node: Node) -> None:
    y, x = node.inputs
    behind = writer.size(y, 1, writer.rank(node, y))
    target = writer.op("Concat", [writer.size(x, 0, node.integer("axis")), behind], axis=0)
    writer.add("Reshape", [y, target], node.outputs, node.name)


@word("reshape_part")
def _reshape_part(writer: Writer, node: Node) -> None:
    """A 0 copies the size of the same place, in ONNX as in Caffe."""
    x, axis, end = node.inputs[0], node.integer("axis"), node.integer("end_axis")
    first = writer.ints(*[0] * axis, *node.integers("target"))
    target = writer.op("Concat", [first, writer.size(x, end, writer.rank(node, x))], axis=0)
    writer.add("Reshape", [x, target], node.outputs, node.name)


@word("unfold_maps")
def _unfold_maps(writer: Writer, node: Node) -> None:
    """im2col as a convolution of every map with one stencil for each tap, 1 there and 0 elsewhere."""
    x = node.inputs[0]
    ndim = writer.rank(node, x) - 2
    kernel = node.per_axis("kernel_size", ndim)
    taps = prod(kernel)
    alone = writer.op("Concat", [writer.ints(-1, 1), writer.size(x, 2, ndim + 2)], axis=0)
    maps = writer.op("Reshape", [x, alone])
    stencils = writer.constant(np.eye(taps).reshape(taps, 1, *kernel))
    columns = writer.op("Conv", [maps, stencils], **window(node, kernel))
    space = writer.size(columns, 2, ndim + 2)
    target = writer.op("Concat", [writer.size(x, 0), writer.ints(-1), space], axis=0)
    writer.add("Reshape", [columns, target], node.outputs, node.name)


@word("max_pool_with_mask")
def _max_pool_with_mask(writer: Writer, node: Node) -> None:
    """ONNX counts positions over the whole array; within its plane each is the rest by the plane's size."""
    x = node.inputs[0]
    rank = writer.rank(node, x)
    values, places = node.outputs[0], writer.value()
    attributes = window(node, node.per_axis("kernel_size", rank - 2), stride_is_kernel=True)
    writer.add("MaxPool", [x], [values, places], node.name, ceil_mode=int(node.flag("ceil_mode")), **attributes)
    plane = writer.op("ReduceProd", [writer.size(x, 2, rank)], keepdims=1)
    writer.add("CastLike", [writer.op("Mod", [places, plane]), x], node.outputs[1:])


@word("embed")
def _embed(writer: Writer, node: Node) -> None:
    x, weight, bias = (*node.inputs, "")[:3]
    rows = writer.op("Cast", [x], to=writer.onnx.TensorProto.INT64)
    if bias:
        writer.add("Add", [writer.op("Gather", [weight, rows], axis=0), bias], node.outputs, node.name)
    else:
        writer.add("Gather", [weight, rows], node.outputs, node.name, axis=0)


@word("dummy_data")
def _dummy_data(writer: Writer, node: Node) -> None:
    filler = node.attributes.get("filler")
    kind = "constant" if filler is None else str(getattr(filler, "type", ""))
    if kind != "constant":
        raise FileFormatError(
            f"node {node.name!r} (DummyData): a {kind} filler draws other numbers in each run; ONNX stores them"
        )
    value = 0.0 if filler is None else float(getattr(filler, "value", 0.0))
    made = writer.constant(np.full(node.integers("shape_of_data"), value), np.float32)
    writer.add("Identity", [made], node.outputs, node.name)


@word("batch_norm_train")
def _batch_norm_train(writer: Writer, node: Node) -> None:
    raise FileFormatError(
        f"node {node.name!r}: a BatchNorm that learns its statistics is not written; load the net with phase='TEST'"
    )


# -- reductions and indices ----------------------------------------------------------------------------------------------


@word("reduce_tail")
def _reduce_tail(writer: Writer, node: Node) -> None:
    x, operation, coeff = node.inputs[0], node.word("operation"), node.number("coeff")
    axes = range(node.integer("axis"), writer.rank(node, x))
    if operation in ("ASUM", "SUMSQ"):
        x = writer.op("Abs", [x]) if operation == "ASUM" else writer.op("Mul", [x, x])
    if axes:
        x = writer.op("ReduceMean" if operation == "MEAN" else "ReduceSum", [x, writer.ints(*axes)], keepdims=0)
    if coeff == 1:
        writer.add("Identity", [x], node.outputs, node.name)
    else:
        writer.add("Mul", [x, writer.constant(coeff)], node.outputs, node.name)


@word("argmax_top")
def _argmax_top(writer: Writer, node: Node) -> None:
    """TopK over the axis read backwards, because of equals Caffe takes the last."""
    x, top_k, with_values = node.inputs[0], node.integer("top_k"), node.flag("with_values")
    rank, whole = writer.rank(node, x), node.attributes.get("axis") is None
    data = writer.op("Reshape", [x, writer.ints(0, -1)]) if whole else x
    axis = 1 if whole else node.integer("axis")
    least = writer.ints(np.iinfo(np.int64).min)
    backwards = writer.op("Slice", [data, writer.ints(-1), least, writer.ints(axis), writer.ints(-1)])
    values, places = writer.value(), writer.value()
    writer.add("TopK", [backwards, writer.ints(top_k)], [values, places], axis=axis, largest=1, sorted=1)
    last = writer.op("Sub", [writer.size(data, axis), writer.ints(1)])
    order = writer.op("CastLike", [writer.op("Sub", [last, places]), x])
    if not whole:
        writer.add("Identity", [values if with_values else order], node.outputs, node.name)
        return
    rows = writer.op("Concat", [order, values], axis=1) if with_values else order
    shape = writer.ints(0, 1 + with_values, top_k, *[1] * (rank - 3))
    writer.add("Reshape", [rows, shape], node.outputs, node.name)


@word("threshold")
def _threshold(writer: Writer, node: Node) -> None:
    above = writer.op("Greater", [node.inputs[0], writer.constant(node.number("threshold"))])
    writer.add("CastLike", [above, node.inputs[0]], node.outputs, node.name)


# -- normalisations ------------------------------------------------------------------------------------------------------


@word("mvn")
def _mvn(writer: Writer, node: Node) -> None:
    x = node.inputs[0]
    axes = range(1 if node.flag("across_channels") else 2, writer.rank(node, x))
    mean = writer.op("ReduceMean", [x, writer.ints(*axes)]) if axes else x
    if not node.flag("variance"):
        writer.add("Sub", [x, mean], node.outputs, node.name)
        return
    centred, eps = writer.op("Sub", [x, mean]), writer.constant(node.number("eps"))
    if axes:
        spread = writer.op("Sqrt", [writer.op("ReduceMean", [writer.op("Mul", [centred, centred]), writer.ints(*axes)])])
        eps = writer.op("Add", [spread, eps])
    writer.add("Div", [centred, eps], node.outputs, node.name)


@word("lrn_within")
def _lrn_within(writer: Writer, node: Node) -> None:
    x, size = node.inputs[0], node.integer("size")
    square = writer.op("Mul", [x, x])
    pads = [(size - 1) // 2] * 4
    mean = writer.op("AveragePool", [square], kernel_shape=[size, size], strides=[1, 1], pads=pads, count_include_pad=1)
    base = writer.op("Add", [writer.op("Mul", [mean, writer.constant(node.number("alpha"))]), writer.constant(1.0)])
    factor = writer.op("Pow", [base, writer.constant(-node.number("beta"))])
    writer.add("Mul", [x, factor], node.outputs, node.name)


@word("l2_normalize")
def _l2_normalize(writer: Writer, node: Node) -> None:
    x, scale = node.inputs
    rank = writer.rank(node, x)
    axes = range(1, rank) if node.flag("across_spatial") else (1,)
    total = writer.op("ReduceSum", [writer.op("Mul", [x, x]), writer.ints(*axes)])
    norm = writer.op("Sqrt", [writer.op("Add", [total, writer.constant(node.number("eps"))])])
    if len(writer.shapes.get(scale, ())) == 1 and rank > 2:
        scale = writer.op("Unsqueeze", [scale, writer.ints(*range(1, rank - 1))])
    writer.add("Mul", [writer.op("Div", [x, norm]), scale], node.outputs, node.name)
