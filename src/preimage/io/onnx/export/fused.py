"""How the words that `optimise` makes are written: each as the operators that it stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, word, write_steps

__all__: list[str] = []


@word("pointwise")
def _pointwise(writer: Writer, node: Node) -> None:
    write_steps(writer, node, node.inputs, node.held("steps", tuple))


@word("quantised_pointwise")
def _quantised_pointwise(writer: Writer, node: Node) -> None:
    """Its steps in float32; integers are cast before them and after."""
    whole, dtype = node.integers("whole"), np.dtype(node.word("dtype"))
    inputs = [writer.op("Cast", [key], to=1) if k in whole else key for k, key in enumerate(node.inputs)]
    if dtype == np.float32:
        write_steps(writer, node, inputs, node.held("steps", tuple))
        return
    made = writer.value()
    write_steps(writer, replace(node, outputs=(made,), name=""), inputs, node.held("steps", tuple))
    writer.add("Cast", [made], node.outputs, node.name, to={"uint8": 2, "int8": 3}[dtype.name])


@word("channels_innermost")
def _channels_innermost(writer: Writer, node: Node) -> None:
    """Where elements lie in memory is nothing that ONNX says."""
    writer.add("Identity", node.inputs, node.outputs, node.name)


@word("attention")
def _attention(writer: Writer, node: Node) -> None:
    q, k, v, mask = (*node.inputs, "")[:4]
    scale = node.number("scale", 1.0)
    scores = writer.op("MatMul", [q if scale == 1 else writer.op("Mul", [q, writer.constant(scale)]), k])
    scores = writer.op("Add", [scores, mask]) if mask else scores
    writer.add("MatMul", [writer.op("Softmax", [scores], axis=-1), v], node.outputs, node.name)


@word("quantised_conv_transpose")
def _quantised_conv_transpose(writer: Writer, node: Node) -> None:
    """As the files hold it from which it came. The bias, in units of the sums, is scaled by hand: a stored scale is needed to dequantise it."""
    y, y_scale, y_zero, w, w_scale, w_zero, scale, zero, bias = (*node.inputs, "")[:9]
    factors = [writer.op("DequantizeLinear", [y, y_scale, y_zero]), writer.op("DequantizeLinear", [w, w_scale, w_zero], axis=1)]
    if bias:  # scales are each group's
        rows = writer.op("Reshape", [writer.op("Cast", [bias], to=1), writer.ints(node.integer("group", 1), -1)])
        scaled = writer.op("Mul", [rows, writer.op("Mul", [y_scale, w_scale])])
        factors.append(writer.op("Reshape", [scaled, writer.ints(-1)]))
    sums = writer.op("ConvTranspose", factors, **node.attributes)
    writer.add("QuantizeLinear", [sums, scale, zero], node.outputs, node.name)


@word("rms_norm")
def _rms_norm(writer: Writer, node: Node) -> None:
    x, weight = (*node.inputs, "")[:2]
    mean = writer.op("ReduceMean", [writer.op("Mul", [x, x]), writer.ints(*node.integers("axes"))])
    scale = writer.op("Reciprocal", [writer.op("Sqrt", [writer.op("Add", [mean, writer.constant(node.number("eps"))])])])
    if weight:
        writer.add("Mul", [writer.op("Mul", [x, scale]), weight], node.outputs, node.name)
    else:
        writer.add("Mul", [x, scale], node.outputs, node.name)


@word("channel_shuffle")
def _channel_shuffle(writer: Writer, node: Node) -> None:
    """Channels as rows and columns, transposed; all that is behind them as one axis."""
    x, groups = node.inputs[0], node.integer("groups")
    columns = writer.op("Div", [writer.size(x, 1), writer.ints(groups)])
    shape = writer.op("Concat", [writer.size(x, 0), writer.ints(groups), columns, writer.ints(-1)], axis=0)
    apart = writer.op("Reshape", [x, shape])
    swapped = writer.op("Transpose", [apart], perm=[0, 2, 1, 3])
    writer.add("Reshape", [swapped, writer.op("Shape", [x])], node.outputs, node.name)
