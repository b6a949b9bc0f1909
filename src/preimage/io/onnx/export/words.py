"""How each of our own words is written as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import Node
from preimage.io.graph.facts import Fact
from preimage.io.onnx.model import require_onnx

__all__ = ["OPSET", "WORDS", "Writer", "window", "word", "write_steps"]

#: The opset that is written.
OPSET = 21


class Writer:
    """Collects the nodes and constants of the graph that is being written; those of graphs inside it, by writers of their own, share its names.

    stored: the graph's arrays by name. facts: what is known of its values (io.graph.facts). taken: names that are in use.
    """

    def __init__(
        self, dtype: np.dtype[Any], stored: Mapping[str, np.ndarray], facts: Mapping[str, Fact], taken: Iterable[str] = ()
    ) -> None:
        self.onnx = require_onnx()
        self.dtype = dtype
        self.stored, self.facts = dict(stored), facts
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {key: array.shape for key, array in self.stored.items()}
        self.domains: set[str] = set()
        self.opset = OPSET
        self._taken = frozenset(taken)
        self._numbers = count(1)

    def inside(self, stored: Mapping[str, np.ndarray], facts: Mapping[str, Fact]) -> Writer:
        """The writer of a graph inside a node."""
        inner = Writer(self.dtype, stored, facts, self._taken)
        inner._numbers, inner.domains = self._numbers, self.domains
        return inner

    def _name(self, kind: str) -> str:
        return next(name for k in self._numbers if (name := f"preimage_{kind}_{k}") not in self._taken)

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a new constant."""
        name = self._name("constant")
        self.constants[name] = np.array(value, self.dtype if dtype is None else dtype)
        return name

    def tensor(self, array: np.ndarray, name: str | None = None) -> Any:
        """An array as a TensorProto; strings as the objects that the package onnx wants."""
        plain = array.astype(object) if array.dtype.kind == "U" else np.ascontiguousarray(array).reshape(array.shape)
        return self.onnx.numpy_helper.from_array(plain, name)

    def value(self) -> str:
        """A new name for a value on the way."""
        return self._name("value")

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> None:
        """One ONNX node, of another domain where `domain::` stands before its name; attributes that are None are left out."""
        domain, _, op = op.rpartition("::")
        if domain:
            self.domains.add(domain)
        else:
            self.opset = max(self.opset, self._since(op))
        kept = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), list(outputs), name=name, domain=domain, **kept))

    def _since(self, op: str) -> int:
        """The oldest opset from OPSET on that has the operator: newer ones than OPSET are written where a net needs them."""
        defs = self.onnx.defs
        for opset in range(OPSET, defs.onnx_opset_version() + 1):
            if defs.has(op, opset, ""):
                return opset
        raise FileFormatError(f"ONNX has no operator {op!r}")

    def op(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """One node with one result, whose name is made up."""
        result = self.value()
        self.add(op, inputs, [result], **attributes)
        return result

    def ints(self, *values: int) -> str:
        """The name of a constant list of int64."""
        return self.constant(list(values), np.int64)

    def size(self, value: str, axis: int, end: int | None = None) -> str:
        """One size of a value, or those of the axes axis .. end - 1, as a list of int64."""
        return self.op("Shape", [value], start=axis, end=axis + 1 if end is None else end)

    def float32(self, value: str) -> str:
        """A value as float32."""
        return self.op("Cast", [value], to=self.onnx.TensorProto.FLOAT)

    def sizes(self, value: str) -> tuple[int | None, ...] | None:
        """The sizes of a value of the graph, None where one is open; None where not even their number is known."""
        fact = self.facts.get(value)
        return None if fact is None or fact.shape is None else tuple(n if isinstance(n, int) else None for n in fact.shape)

    def rank(self, node: Node, value: str) -> int:
        """How many axes a value has. Raises: FileFormatError where that is not known."""
        sizes = self.sizes(value)
        if sizes is None:
            raise FileFormatError(f"node {node.name!r} ({node.op}): the number of axes of its input is not known")
        return len(sizes)


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


def window(node: Node, kernel: Sequence[int], *, stride_is_kernel: bool = False) -> dict[str, Any]:
    """The attributes that all windows share; without a stride it is 1, or the kernel's size."""
    ndim, padding = len(kernel), node.padding(len(kernel))
    unsaid = stride_is_kernel and node.attributes.get("stride") is None
    return {
        "kernel_shape": list(kernel),
        "strides": list(kernel if unsaid else node.per_axis("stride", ndim)),
        **({"auto_pad": _AUTO_PAD[padding]} if isinstance(padding, str) else {"pads": _flat(padding)}),
        "dilations": list(node.per_axis("dilation", ndim)),
    }


def write_steps(
    writer: Writer, node: Node, values: Sequence[str], steps: Sequence[tuple[str, tuple[int, ...], Mapping[str, Any]]]
) -> None:
    """Steps one after the other: each takes values by number, or by -1 - k what step k made; the last gives the node's output."""
    made: list[str] = []
    for position, (op, at, attributes) in enumerate(steps):
        last = position == len(steps) - 1
        made.append(node.outputs[0] if last else writer.value())
        inputs = tuple(values[k] if k >= 0 else made[-1 - k] for k in at)
        if op in WORDS:
            WORDS[op](writer, Node(node.name if last else "", op, inputs, (made[-1],), attributes))
        else:  # one of ONNX's own, which are without attributes here
            writer.add(op.removeprefix("onnx."), inputs, [made[-1]], node.name if last else "")


@word("conv", "conv_transpose")
def _contraction(writer: Writer, node: Node) -> None:
    attributes = dict(node.attributes)
    if "chain" in attributes:
        steps, numbers = node.held("chain", tuple)
        plain = replace(
            node, name="", outputs=(writer.value(),), attributes={k: v for k, v in attributes.items() if k != "chain"}
        )
        _contraction(writer, plain)
        write_steps(writer, node, [plain.outputs[0], *map(writer.constant, numbers)], steps)
        return
    weight = writer.shapes.get(node.inputs[1]) or writer.sizes(
        node.inputs[1]
    )  # the latter where it is computed, or a graph around has it
    if weight is None:
        raise FileFormatError(f"node {node.name!r}: the number of axes of a {node.op}'s weight is not known")
    ndim = len(weight) - 2
    out: dict[str, Any] = {
        "kernel_shape": None if None in weight[2:] else list(weight[2:]),
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
    kernel = node.integers("kernel_size")
    out = window(node, kernel, stride_is_kernel=True) | {"ceil_mode": int(node.flag("ceil_mode"))}
    divisor = None if node.attributes.get("divisor_override") is None else node.number("divisor_override")
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
    scale = node.inputs[1] or writer.constant(np.ones(writer.shapes[node.inputs[3]]))
    bias = node.inputs[2] or writer.constant(np.zeros(writer.shapes[node.inputs[3]]))
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
    x, axis, end = node.inputs[0], node.integer("axis"), node.integer("end_axis", -1)
    if axis == 1 and end == -1:
        writer.add("Flatten", node.inputs, node.outputs, node.name, axis=1)
        return
    if axis >= 0 and end == -1:
        writer.add("Reshape", [x, writer.ints(*[0] * axis, -1)], node.outputs, node.name)
        return
    rank = writer.rank(node, x)
    axis, end = axis % rank, end % rank
    target = writer.op("Concat", [writer.ints(*[0] * axis, -1), writer.size(x, end + 1, rank)], axis=0)
    writer.add("Reshape", [x, target], node.outputs, node.name)


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
