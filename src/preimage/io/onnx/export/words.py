"""How each of our own words is written as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import Node
from preimage.io.onnx.model import require_onnx

__all__ = ["OPSET", "WORDS", "Writer", "word"]

#: The opset that is written.
OPSET = 21


class Writer:
    """Collects the nodes and constants of the model that is being written."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.onnx = require_onnx()
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.stored: dict[str, np.ndarray] = {}
        self.inputs: list[Any] = []
        self._known_shapes: dict[str, tuple[int | None, ...]] = {}
        self._sizes: dict[str, tuple[int | None, ...] | None] = {}
        self._count = 0

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a new constant."""
        self._count += 1
        name = f"preimage_constant_{self._count}"
        self.constants[name] = np.array(value, self.dtype if dtype is None else dtype)
        return name

    def value(self) -> str:
        """A new name for a value on the way."""
        self._count += 1
        return f"preimage_value_{self._count}"

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> None:
        """One ONNX node; attributes that are None are left out."""
        kept = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), list(outputs), name=name, **kept))

    def sizes(self, value: str) -> tuple[int | None, ...] | None:
        """The sizes of a value made so far, None where one is open; None where not even their number is known."""
        if value not in self._sizes:
            self._infer()
        return self._sizes.get(value)

    def same_sizes(self, output: str, source: str) -> None:
        """Note that a value has the sizes of another, where ONNX's inference does not know it."""
        sizes = self.sizes(source)
        if sizes is not None:
            self._known_shapes[output] = sizes

    def _infer(self) -> None:
        """ONNX's own shape inference over the nodes so far; large stored arrays take part by their shapes alone."""
        helper = self.onnx.helper
        arrays = self.stored | self.constants
        small = [self.onnx.numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in arrays.items() if v.size <= 64]
        large = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in arrays.items() if v.size > 64
        ]  # fmt: skip
        code = helper.np_dtype_to_tensor_dtype(self.dtype)
        infos = [helper.make_tensor_value_info(k, code, sizes) for k, sizes in self._known_shapes.items()]
        graph = helper.make_graph(self.nodes, "g", [*self.inputs, *large], [], small, value_info=infos)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        known = self.onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        for item in (*known.value_info, *known.input):
            tensor = item.type.tensor_type
            dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
            self._sizes[item.name] = tuple(dims) if tensor.HasField("shape") else None


Word = Callable[[Writer, Node], None]
WORDS: dict[str, Word] = {}


def word(*names: str) -> Callable[[Word], Word]:
    """Register how our words are written: the decorator of each function below (and of io.caffe's own words)."""

    def register(function: Word) -> Word:
        for name in names:
            WORDS[name] = function
        return function

    return register


_SAME_WORDS = {
    "abs": "Abs", "add": "Add", "div": "Div", "exp": "Exp", "log": "Log", "maximum": "Max", "minimum": "Min", "mul": "Mul",
    "relu": "Relu", "sigmoid": "Sigmoid", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
    "identity": "Identity", "matmul": "MatMul", "global_avg_pool": "GlobalAveragePool", "global_max_pool": "GlobalMaxPool",
}  # fmt: skip


@word(*_SAME_WORDS)
def _same(writer: Writer, node: Node) -> None:
    writer.add(_SAME_WORDS[node.op], node.inputs, node.outputs, node.name)


def _activation(writer: Writer, node: Node, value: str) -> None:
    """The fused residual and activation of a contraction, as nodes of their own, ending in the node's output."""
    attributes = node.attributes
    kind = attributes.get("activation")
    if kind is None:
        writer.add("Identity", [value], node.outputs)
    elif kind == "relu":
        writer.add("Relu", [value], node.outputs)
    elif kind == "leaky_relu":
        writer.add("LeakyRelu", [value], node.outputs, alpha=node.number("slope", 0.01))
    else:
        low, high = node.numbers("clip_range", (0.0, 6.0))
        writer.add("Clip", [value, writer.constant(low), writer.constant(high)], node.outputs)


def _flat(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [lo for lo, _ in pairs] + [hi for _, hi in pairs]


_AUTO_PAD = {"same": "SAME_UPPER", "same_lower": "SAME_LOWER", "valid": "VALID"}


@word("conv", "conv_transpose")
def _contraction(writer: Writer, node: Node) -> None:
    attributes = dict(node.attributes)
    if "chain" in attributes:
        raise FileFormatError(
            f"node {node.name!r} has swallowed {len(node.held('chain', tuple)[0])} others: export the graph as it was before"
        )
    weight = writer.shapes.get(node.inputs[1])
    if weight is None:
        raise FileFormatError(f"node {node.name!r}: the weight of a {node.op} must be stored in the graph to be exported")
    ndim = len(weight) - 2
    out: dict[str, Any] = {
        "kernel_shape": list(weight[2:]),
        "strides": list(node.per_axis("stride", ndim)),
        "dilations": list(node.per_axis("dilation", ndim)),
        "group": node.integer("groups", 1),
    }
    source = node.inputs[0]
    padding = node.padding(ndim)
    mode = node.word("padding_mode", "zeros")
    if isinstance(padding, str):
        out["auto_pad"] = _AUTO_PAD[padding]
    elif mode != "zeros" or any(v < 0 for pair in padding for v in pair):
        if node.op != "conv":
            raise FileFormatError(f"node {node.name!r}: ONNX has no transposed convolution with padding {padding}, mode {mode!r}")
        source = writer.value()
        pads = [0, 0, *(lo for lo, _ in padding), 0, 0, *(hi for _, hi in padding)]
        onnx_mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
        writer.add("Pad", [node.inputs[0], writer.constant(pads, np.int64)], [source], mode=onnx_mode)
    else:
        out["pads"] = _flat(padding)
    if node.op == "conv_transpose":
        if attributes.get("output_size") is not None:
            out["output_shape"] = list(node.per_axis("output_size", ndim, least=0))
        elif attributes.get("output_padding"):
            out["output_padding"] = list(node.per_axis("output_padding", ndim, least=0))
    inputs = [source, *node.inputs[1:3]]
    residual = node.inputs[3] if len(node.inputs) > 3 else ""
    fused = residual or attributes.get("activation")
    result = writer.value() if fused else node.outputs[0]
    writer.add("Conv" if node.op == "conv" else "ConvTranspose", [*inputs], [result], node.name, **out)
    if residual:
        total = writer.value()
        writer.add("Add", [result, residual], [total])
        result = total
    if fused:
        _activation(writer, node, result)


@word("linear")
def _linear(writer: Writer, node: Node) -> None:
    transposed = node.attributes.get("transposed", False)
    weight = node.inputs[1]
    if not transposed:
        weight = writer.value()
        writer.add("Transpose", [node.inputs[1]], [weight], perm=[1, 0])
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    product = writer.value() if bias else node.outputs[0]
    writer.add("MatMul", [node.inputs[0], weight], [product], node.name)
    if bias:
        writer.add("Add", [product, bias], node.outputs)


@word("max_pool", "avg_pool")
def _pool(writer: Writer, node: Node) -> None:
    attributes = dict(node.attributes)
    kernel = list(node.integers("kernel_size"))
    ndim = len(kernel)
    padding = node.padding(ndim)
    out: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": kernel if attributes.get("stride") is None else list(node.per_axis("stride", ndim)),
        **({"auto_pad": _AUTO_PAD[padding]} if isinstance(padding, str) else {"pads": _flat(padding)}),
        "ceil_mode": int(node.flag("ceil_mode")),
        "dilations": list(node.per_axis("dilation", ndim)),
    }
    divisor = None if attributes.get("divisor_override") is None else node.number("divisor_override")
    if node.op == "avg_pool":
        out["count_include_pad"] = int(divisor is not None or node.flag("count_include_pad", True))
    if divisor is not None:  # the mean over whole windows, padding included, times their size over the divisor
        if out["ceil_mode"]:
            raise FileFormatError(f"node {node.name!r}: ONNX has no average pooling with divisor_override and ceil_mode")
        mean = writer.value()
        writer.add("AveragePool", node.inputs, [mean], node.name, **out)
        writer.add("Mul", [mean, writer.constant(float(np.prod(kernel)) / divisor)], node.outputs)
        return
    writer.add("MaxPool" if node.op == "max_pool" else "AveragePool", node.inputs, node.outputs, node.name, **out)


@word("leaky_relu")
def _leaky_relu(writer: Writer, node: Node) -> None:
    writer.add("LeakyRelu", node.inputs, node.outputs, node.name, alpha=node.number("slope", 0.01))


@word("elu")
def _elu(writer: Writer, node: Node) -> None:
    writer.add("Elu", node.inputs, node.outputs, node.name, alpha=node.number("alpha", 1.0))


@word("clip")
def _clip(writer: Writer, node: Node) -> None:
    bounds = ["" if node.attributes.get(k) is None else writer.constant(node.attributes[k]) for k in ("lo", "hi")]
    writer.add("Clip", [node.inputs[0], *bounds], node.outputs, node.name)


@word("prelu")
def _prelu(writer: Writer, node: Node) -> None:
    """Our slope is per channel (axis 1); ONNX broadcasts from the last axis, so it gets axes of 1 behind, as many as x has."""
    value, slope = node.inputs
    shape = writer.shapes.get(slope, ())
    if len(shape) != 1 or shape[0] == 1:
        writer.add("PRelu", [value, slope], node.outputs, node.name)
        return
    sizes = writer.sizes(value)
    behind = 1 if sizes is None else len(sizes) - 2
    if behind > 0:
        column = writer.value()
        writer.add("Unsqueeze", [slope, writer.constant(list(range(1, 1 + behind)), np.int64)], [column])
        slope = column
    if sizes is not None:
        writer.add("PRelu", [value, slope], node.outputs, node.name)
        return
    flat, bent, shape_of = writer.value(), writer.value(), writer.value()  # of unknown rank: as (N, C, all the rest)
    writer.add("Reshape", [value, writer.constant([0, 0, -1], np.int64)], [flat])
    writer.add("PRelu", [flat, slope], [bent], node.name)
    writer.add("Shape", [value], [shape_of])
    writer.add("Reshape", [bent, shape_of], node.outputs)


@word("swish")
def _swish(writer: Writer, node: Node) -> None:
    scaled, gate, beta = node.inputs[0], writer.value(), node.number("beta", 1.0)
    if beta != 1:
        scaled = writer.value()
        writer.add("Mul", [node.inputs[0], writer.constant(beta)], [scaled])
    writer.add("Sigmoid", [scaled], [gate])
    writer.add("Mul", [node.inputs[0], gate], node.outputs, node.name)


@word("batch_norm")
def _batch_norm(writer: Writer, node: Node) -> None:
    channels = writer.shapes[node.inputs[3]]
    scale = node.inputs[1] or writer.constant(np.ones(channels))
    bias = node.inputs[2] or writer.constant(np.zeros(channels))
    writer.add(
        "BatchNormalization",
        [node.inputs[0], scale, bias, *node.inputs[3:5]],
        node.outputs,
        node.name,
        epsilon=node.number("eps"),
    )


@word("lrn")
def _lrn(writer: Writer, node: Node) -> None:
    writer.add(
        "LRN",
        node.inputs,
        node.outputs,
        node.name,
        size=node.integer("size"),
        alpha=node.number("alpha"),
        beta=node.number("beta"),
        bias=node.number("k", 1.0),
    )


@word("softmax")
def _softmax(writer: Writer, node: Node) -> None:
    writer.add("Softmax", node.inputs, node.outputs, node.name, axis=node.integer("axis", -1))


@word("reshape")
def _reshape(writer: Writer, node: Node) -> None:
    target = list(node.integers("target"))
    writer.add("Reshape", [node.inputs[0], writer.constant(target, np.int64)], node.outputs, node.name)


@word("flatten")
def _flatten(writer: Writer, node: Node) -> None:
    axis, end = node.integer("axis"), node.integer("end_axis", -1)
    if axis == 1 and end == -1:
        writer.add("Flatten", node.inputs, node.outputs, node.name, axis=1)
        return
    if end != -1 or axis < 0:
        raise FileFormatError(f"node {node.name!r}: a flatten of axes {axis} to {end} is not exported")
    writer.add("Reshape", [node.inputs[0], writer.constant([0] * axis + [-1], np.int64)], node.outputs, node.name)


@word("transpose")
def _transpose(writer: Writer, node: Node) -> None:
    writer.add("Transpose", node.inputs, node.outputs, node.name, perm=list(node.integers("axes")))


@word("concat")
def _concat(writer: Writer, node: Node) -> None:
    writer.add("Concat", node.inputs, node.outputs, node.name, axis=node.integer("axis"))


@word("slice_axis")
def _slice_axis(writer: Writer, node: Node) -> None:
    start, stop = node.attributes.get("start"), node.attributes.get("stop")
    bounds = [0 if start is None else start, np.iinfo(np.int64).max if stop is None else stop, node.attributes["axis"]]
    writer.add("Slice", [node.inputs[0], *(writer.constant([v], np.int64) for v in bounds)], node.outputs, node.name)
