"""How the words for layers of preimage.nn (io.graph.layers) are written as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.graph import Node
from preimage.io.onnx.export.words import Writer, word

__all__: list[str] = []

#: Word -> operator, and the operator's attributes from the word's.
_OPERATORS: dict[str, tuple[str, Callable[[Node], dict[str, Any]]]] = {
    "celu": ("Celu", lambda node: {"alpha": node.number("alpha", 1.0)}),
    "gelu": ("Gelu", lambda node: {"approximate": node.word("approximate", "none")}),
    "hard_sigmoid": ("HardSigmoid", lambda node: {"alpha": node.number("alpha", 1 / 6), "beta": node.number("beta", 0.5)}),
    "hard_swish": ("HardSwish", lambda node: {}),
    "log_softmax": ("LogSoftmax", lambda node: {"axis": node.integer("axis", -1)}),
    "mish": ("Mish", lambda node: {}),
    "neg": ("Neg", lambda node: {}),
    "reciprocal": ("Reciprocal", lambda node: {}),
    "selu": ("Selu", lambda node: {}),
    "softsign": ("Softsign", lambda node: {}),
}


@word(*_OPERATORS)
def _operator(writer: Writer, node: Node) -> None:
    op, attributes = _OPERATORS[node.op]
    writer.add(op, node.inputs, node.outputs, node.name, **attributes(node))


def _steps(writer: Writer, node: Node, *steps: tuple[str, float | None]) -> None:
    """Operators one after the other on the node's input, with one more number or none, ending in its output."""
    value = node.inputs[0]
    for position, (op, number) in enumerate(steps):
        result = node.outputs[0] if position == len(steps) - 1 else writer.value()
        writer.add(op, [value] if number is None else [value, writer.constant(number)], [result])
        value = result


@word("square")
def _square(writer: Writer, node: Node) -> None:
    writer.add("Mul", [node.inputs[0], node.inputs[0]], node.outputs, node.name)


@word("rsqrt")
def _rsqrt(writer: Writer, node: Node) -> None:
    _steps(writer, node, ("Sqrt", None), ("Reciprocal", None))


@word("log_sigmoid")
def _log_sigmoid(writer: Writer, node: Node) -> None:
    _steps(writer, node, ("Neg", None), ("Softplus", None), ("Neg", None))


@word("softplus")
def _softplus(writer: Writer, node: Node) -> None:
    beta = node.number("beta", 1.0)
    if beta == 1:
        _steps(writer, node, ("Softplus", None))
    else:
        _steps(writer, node, ("Mul", beta), ("Softplus", None), ("Div", beta))


# -- normalisations ----------------------------------------------------------------------------------------------------


def _weights(writer: Writer, node: Node, shape: Sequence[int]) -> list[str]:
    """The inputs with weight and bias; 1 and 0 where the layer has none."""
    x, weight, bias = (*node.inputs, "", "")[:3]
    return [x, weight or writer.constant(np.ones(shape)), bias or writer.constant(np.zeros(shape))]


@word("group_norm")
def _group_norm(writer: Writer, node: Node) -> None:
    inputs = _weights(writer, node, (node.integer("channels"),))
    writer.add(
        "GroupNormalization", inputs, node.outputs, node.name, num_groups=node.integer("groups"), epsilon=node.number("eps")
    )


@word("instance_norm")
def _instance_norm(writer: Writer, node: Node) -> None:
    inputs = _weights(writer, node, (node.integer("channels"),))
    writer.add("InstanceNormalization", inputs, node.outputs, node.name, epsilon=node.number("eps"))


@word("layer_norm")
def _layer_norm(writer: Writer, node: Node) -> None:
    """Over the last axes, of known sizes, one operator; over others the arithmetic."""
    eps, known = node.number("eps"), writer.sizes(node.inputs[0])
    if node.attributes.get("axes") is None:
        sizes: tuple[int | None, ...] = node.integers("sizes")
    else:
        axes = sorted(axis % writer.rank(node, node.inputs[0]) for axis in node.integers("axes"))
        last = known is not None and axes == list(range(len(known) - len(axes), len(known)))
        sizes = tuple(known[axis] for axis in axes) if last and known is not None else ()
        if not sizes or None in sizes or len(node.inputs) > 1:
            _standardized(writer, node, axes, eps)
            return
    inputs = _weights(writer, node, [n or 0 for n in sizes])
    writer.add("LayerNormalization", inputs, node.outputs, node.name, axis=-len(sizes), epsilon=eps)


def _standardized(writer: Writer, node: Node, axes: Sequence[int], eps: float) -> None:
    x, weight, bias = (*node.inputs, "", "")[:3]
    along = writer.ints(*axes)
    centred = writer.op("Sub", [x, writer.op("ReduceMean", [x, along])])
    squares = writer.op("ReduceMean", [writer.op("Mul", [centred, centred]), along])
    root = writer.op("Sqrt", [writer.op("Add", [squares, writer.constant(eps)])])
    steps = [("Div", root), *([("Mul", weight)] if weight else []), *([("Add", bias)] if bias else [])]
    for position, (op, other) in enumerate(steps):
        last = position == len(steps) - 1
        result = node.outputs[0] if last else writer.value()
        writer.add(op, [centred, other], [result], node.name if last else "")
        centred = result


@word("batch_statistics_norm")
def _batch_statistics_norm(writer: Writer, node: Node) -> None:
    """Every channel over the batch and space: transposed, that is a normalisation of each channel over all that is behind it."""
    x, weight, bias = _weights(writer, node, (node.integer("channels"),))
    swapped, normal = writer.value(), writer.value()
    order = [1, 0, *range(2, writer.rank(node, x))]
    writer.add("Transpose", [x], [swapped], perm=order)
    flat, shape, one = writer.value(), writer.value(), writer.value()
    writer.add("Reshape", [swapped, writer.constant([1, node.integer("channels"), -1], np.int64)], [flat])
    writer.add("InstanceNormalization", [flat, weight, bias], [one], node.name, epsilon=node.number("eps"))
    writer.add("Shape", [swapped], [shape])
    writer.add("Reshape", [one, shape], [normal])
    writer.add("Transpose", [normal], node.outputs, perm=order)


# -- resizing and adaptive pooling -------------------------------------------------------------------------------------


def _spatial(writer: Writer, node: Node) -> list[int]:
    sizes = writer.sizes(node.inputs[0])
    if sizes is None or any(n is None for n in sizes[2:]):
        raise FileFormatError(f"node {node.name!r} ({node.op}): the spatial sizes of its input must be known, they are {sizes}")
    return [int(n) for n in sizes[2:] if n is not None]


def _per_axis(given: Any, count: int) -> list[Any]:
    return [given] * count if given is None or np.ndim(given) == 0 else list(given)


@word("upsample")
def _upsample(writer: Writer, node: Node) -> None:
    """Positions on pixel centres or corners, as ONNX names them; over the spatial axes alone."""
    a = node.attributes
    coordinates, rounding = {
        "nearest": ("asymmetric", "floor"),
        "nearest-exact": ("half_pixel", "round_prefer_ceil"),
    }.get(mode := node.word("mode", "nearest"), ("align_corners" if a.get("align_corners") else "half_pixel", None))
    count = writer.rank(node, node.inputs[0]) - 2
    if a.get("size") is not None or a.get("recompute_scale_factor"):
        given = _per_axis(a.get("size"), count)
        if a.get("size") is None:
            factors = _per_axis(a["scale_factor"], count)
            given = [int(n * float(f)) for n, f in zip(_spatial(writer, node), factors, strict=True)]
        first, sizes = writer.value(), writer.value()
        writer.add("Shape", [node.inputs[0]], [first], start=0, end=2)
        writer.add("Concat", [first, writer.constant(given, np.int64)], [sizes], axis=0)
        inputs = ["", "", sizes]
    else:
        factors = _per_axis(a["scale_factor"], count)
        if mode == "linear" or a.get("antialias"):  # an axis that keeps its size is left as it is
            known = (writer.sizes(node.inputs[0]) or [])[2:] or [None] * count
            factors = [1.0 if n is not None and int(n * float(f)) == n else f for n, f in zip(known, factors, strict=True)]
        inputs = ["", writer.constant([1, 1, *factors], np.float32)]
    writer.add(
        "Resize", [node.inputs[0], *inputs], node.outputs, node.name, mode=mode if mode in ("linear", "cubic") else "nearest",
        coordinate_transformation_mode=coordinates, nearest_mode=rounding, **_antialias(node, mode),
    )  # fmt: skip


def _antialias(node: Node, mode: str) -> dict[str, Any]:
    """The widened filter, where what lies outside counts for nothing; PyTorch's cubic one has another shape then."""
    if not node.flag("antialias"):
        return {}
    return {"antialias": 1, "exclude_outside": 1} | ({"cubic_coeff_a": -0.5} if mode == "cubic" else {})


@word("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive_pool(writer: Writer, node: Node) -> None:
    """One window: global pooling. Windows of one size: pooling. Else axis by axis, window by window, for the sizes at hand."""
    mean = node.op == "adaptive_avg_pool"
    known = writer.sizes(node.inputs[0])
    count = len(known) - 2 if known is not None else max(len(_per_axis(node.attributes["output_size"], 1)), 1)
    wanted = _per_axis(node.attributes["output_size"], count)
    if all(m == 1 for m in wanted):
        writer.add("GlobalAveragePool" if mean else "GlobalMaxPool", node.inputs, node.outputs, node.name)
        return
    pairs = [(n, n if m is None else int(m)) for n, m in zip(_spatial(writer, node), wanted, strict=True)]
    if all(n % m == 0 for n, m in pairs):
        window = [n // m for n, m in pairs]
        op = "AveragePool" if mean else "MaxPool"
        writer.add(op, node.inputs, node.outputs, node.name, kernel_shape=window, strides=window)
        return
    value, left = node.inputs[0], [k for k, (n, m) in enumerate(pairs) if n != m]
    for k in left:
        n, m = pairs[k]
        parts, axis = [], writer.constant([k + 2], np.int64)
        for o in range(m):
            edges = [writer.constant([edge], np.int64) for edge in (o * n // m, -(-(o + 1) * n // m))]
            piece, part = writer.value(), writer.value()
            writer.add("Slice", [value, *edges, axis], [piece])
            writer.add("ReduceMean" if mean else "ReduceMax", [piece, axis], [part], keepdims=1)
            parts.append(part)
        value = node.outputs[0] if k == left[-1] else writer.value()
        writer.add("Concat", parts, [value], node.name if k == left[-1] else "", axis=k + 2)


# -- recurrent layers --------------------------------------------------------------------------------------------------

#: Where ONNX's gates lie among ours, which are in PyTorch's order.
_GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}


def _gates(writer: Writer, kind: str, weight: str) -> str:
    """A weight or bias with its gates in ONNX's order."""
    order = _GATES[kind]
    if len(order) == 1:
        return weight
    parts = [writer.value() for _ in order]
    rows = writer.shapes[weight][0] // len(order)
    writer.add("Split", [weight, writer.ints(*[rows] * len(order))], parts, axis=0)
    return writer.op("Concat", [parts[k] for k in order], axis=0)


def _joined(writer: Writer, parts: Sequence[str]) -> str:
    """Values of the directions along a new first axis."""
    return writer.op("Concat", [writer.op("Unsqueeze", [part, writer.ints(0)]) for part in parts], axis=0)


@word("recurrent")
def _recurrent(writer: Writer, node: Node) -> None:
    """One operator for each layer; the weights keep their names and are put in ONNX's order beside it."""
    kind, count, directions = node.word("kind"), node.integer("count"), node.integer("directions")
    each = (len(node.inputs) - 1) // count
    rows = [node.inputs[1 + k * each : 1 + (k + 1) * each] for k in range(count)]
    missing = [key for row in rows for key in row if key not in writer.shapes]
    if missing:
        raise FileFormatError(
            f"node {node.name!r} ({kind}): the weight {missing[0]!r} must be stored in the graph to be exported"
        )
    swap = node.flag("batch_first")
    x = writer.op("Transpose", node.inputs[:1], perm=[1, 0, 2]) if swap else node.inputs[0]
    attributes: dict[str, Any] = {
        "hidden_size": writer.shapes[rows[0][1]][1],
        "direction": "bidirectional" if directions == 2 else "forward",
    }
    attributes |= {"linear_before_reset": 1} if kind == "GRU" else {}
    if kind == "RNN":
        attributes["activations"] = ["Tanh" if node.word("nonlinearity", "tanh") == "tanh" else "Relu"] * directions
    ends: list[list[str]] = []
    for layer in range(0, count, directions):
        own = [[_gates(writer, kind, key) for key in row] for row in rows[layer : layer + directions]]
        inputs = [x, _joined(writer, [row[0] for row in own]), _joined(writer, [row[1] for row in own])]
        if each == 4:
            inputs.append(_joined(writer, [writer.op("Concat", row[2:], axis=0) for row in own]))
        made = [writer.value() for _ in range(3 if kind == "LSTM" else 2)]
        writer.add(kind, inputs, made, node.name if not layer else "", **attributes)
        ends.append(made[1:])
        beside = writer.op("Transpose", made[:1], perm=[0, 2, 1, 3])
        x = writer.op("Reshape", [beside, writer.ints(0, 0, -1)])
    if swap:
        writer.add("Transpose", [x], node.outputs[:1], perm=[1, 0, 2])
    else:
        writer.add("Identity", [x], node.outputs[:1])
    for output, parts in zip(node.outputs[1:], zip(*ends, strict=True), strict=True):
        writer.add("Concat", list(parts), [output], axis=0)
