"""A Module as a Graph: its forward pass is run once on an example, and what it calls is written down.

Layers of preimage.nn are written as one word each; other operations, called from a forward of one's own, under their own
names. Sizes that the forward computes in Python are those of the example.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from preimage import nn
from preimage.autograd import Primitive, Tensor, array_of, no_grad
from preimage.errors import FileFormatError
from preimage.io.graph.graph import Graph
from preimage.io.graph.nodes import Input, Node
from preimage.io.graph.trace_layers import Built, layer_word
from preimage.nn.kept import KeptWeight

__all__ = ["trace"]

_lock = threading.Lock()


#: Operations that are called outside layers: name of the primitive -> word.
_SAME = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh",
    "exp": "exp", "log": "log", "sqrt": "sqrt", "abs": "abs", "matmul": "matmul", "maximum": "maximum",
    "minimum": "minimum", "negative": "neg", "reciprocal": "reciprocal", "square": "square", "rsqrt": "rsqrt", "mish": "mish", "silu": "swish",
}  # fmt: skip
#: Those whose parameters are the word's attributes.
_WITH_ATTRIBUTES = {"clip": "clip", "hardtanh": "clip", "elu": "elu", "hardsigmoid": "hard_sigmoid", "softplus": "softplus"}


def _operation(op: str, args: Sequence[Any], params: dict[str, Any], values: list[str]) -> Built | None:
    if op in _SAME:
        return _SAME[op], values, {}
    if op in _WITH_ATTRIBUTES:
        return _WITH_ATTRIBUTES[op], values, dict(params)
    if op in ("gelu", "gelu_tanh"):
        return "gelu", values, {"approximate": "tanh" if op == "gelu_tanh" else "none"}
    if op in ("softmax", "log_softmax") and isinstance(params["axis"], int):
        return op, values, {"axis": params["axis"]}
    if op == "concat":
        return "concat", values, {"axis": int(params["axis"])}
    if op == "leaky_relu":
        slope = params.get("slope", params.get("negative_slope", 0.01))
        return "leaky_relu", values[:1], {"slope": float(slope)}
    if op == "reshape":
        shape = [int(v) for v in params.get("shape", ())]
        if shape and shape[0] == np.shape(array_of(args[0]))[0]:
            shape[0] = 0  # the batch stays open
        return "reshape", values[:1], {"target": shape}
    if op == "transpose":
        return "transpose", values[:1], {"axes": [int(a) for a in params["axes"]]}
    if op in ("conv", "conv_transpose") and params.get("layout") == "channels_first":
        g = params["geometry"]
        options: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
        if op == "conv_transpose" and any(g.remainder):
            options["output_padding"] = g.remainder
        return op, [v for v, a in zip(values, args, strict=True) if a is not None], options
    return None


class _Recorder:
    """Names of the values seen so far, the nodes written, and what could not be."""

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        self.module = module
        self.kept: list[Any] = [example]  # so that no id is given away twice
        self.names: dict[int, str] = {id(example): "input"}
        self.parameters = {id(p): key for key, p in module.named_parameters()}
        self.buffers = {id(b): key for key, b in module.named_buffers()}
        self.used: dict[str, Any] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.refused: list[str] = []
        self.layers = {id(m): key for key, m in module.named_modules()}
        self.depth = 0

    def name(self, value: Any) -> str:
        """The name of a Tensor, a parameter, a buffer, or a new constant."""
        for table in (self.names, self.parameters, self.buffers):
            if id(value) in table:
                key = table[id(value)]
                if table is not self.names:
                    self.used[key] = value
                return key
        key = f"constant_{len(self.constants)}"
        self.constants[key] = np.array(array_of(value))
        self.kept.append(value)
        self.names[id(value)] = key
        return key

    def has(self, values: Sequence[Any]) -> bool:
        """Whether some of the values are written down."""
        return any(id(value) in table for value in values for table in (self.names, self.parameters, self.buffers))

    def moved(self, value: str, ndim: int, *, first: bool) -> str:
        """A value with its channels moved from the last axis to the first behind the batch, or back: words have them there."""
        axes = (0, ndim - 1, *range(1, ndim - 1)) if first else (0, *range(2, ndim), 1)
        output = f"value_{len(self.nodes)}"
        self.nodes.append(Node(f"layout#{len(self.nodes)}", "transpose", (value,), (output,), {"axes": axes}))
        return output

    def write(self, built: Built | None, label: str, result: Any) -> None:
        if built is None:
            self.refused.append(label)
            built = ("identity", [next(iter(self.names.values()))], {})
        op, inputs, attributes = built
        results = _flat(result)
        outputs = tuple(f"value_{len(self.nodes)}" + (f"_{k}" if k else "") for k in range(len(results)))
        self.nodes.append(Node(f"{label}#{len(self.nodes)}", op, tuple(inputs), outputs, attributes, layer=label))
        self.kept += results
        self.names |= {id(value): key for value, key in zip(results, outputs, strict=True)}


def _flat(result: Any) -> list[Any]:
    """What a layer gives, as a list: a result, or a tuple of them, which may hold tuples."""
    return [each for part in result for each in _flat(part)] if isinstance(result, tuple | list) else [result]


@contextmanager
def _watching(recorder: _Recorder) -> Iterator[None]:
    """Every layer and operation called inside the block is reported to the recorder (in the whole process: one trace at a time)."""
    call_module, call_primitive, prepared, fusible = nn.Module.__call__, Primitive.__call__, KeptWeight.of, nn.Sequential._fusible

    def module_called(self: Any, *args: Any, **kwargs: Any) -> Any:
        built = None
        last = getattr(self, "layout", "channels_first") == "channels_last" and np.ndim(array_of(args[0])) > 2 if args else False
        if not recorder.depth and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            value = recorder.name(args[0])
            built = layer_word(self, [recorder.moved(value, args[0].ndim, first=True) if last else value], recorder.name)
        if isinstance(self, nn.Dropout) and self.training and self.p:
            recorder.refused.append("Dropout in training mode")
        recorder.depth += built is not None
        try:
            result = call_module(self, *args, **kwargs)
        finally:
            recorder.depth -= built is not None
        if built is not None:
            recorder.write(built, recorder.layers.get(id(self), type(self).__name__), result)
            if last:
                recorder.names[id(result)] = recorder.moved(recorder.names[id(result)], result.ndim, first=False)
        elif not recorder.depth and recorder.has(args) and isinstance(result, Tensor) and not recorder.has([result]):
            recorder.refused.append(type(self).__name__)  # it would be taken for a constant
        return result

    def primitive_called(self: Any, *args: Any, **params: Any) -> Any:
        result = call_primitive(self, *args, **params)
        if not recorder.depth and any(isinstance(a, Tensor) for a in args):
            values = [recorder.name(a) if a is not None else "" for a in args]
            recorder.write(_operation(self.name, args, params, values), self.name, result)
        return result

    known_by_name: Any = lambda self, weight: weight  # noqa: E731
    with _lock:
        nn.Module.__call__, Primitive.__call__ = module_called, primitive_called  # type: ignore[method-assign]
        KeptWeight.of = known_by_name  # type: ignore[method-assign]
        nn.Sequential._fusible = lambda *_: None  # type: ignore[method-assign]  # a layer and its activation are two nodes
        try:
            yield
        finally:
            nn.Module.__call__, Primitive.__call__ = call_module, call_primitive  # type: ignore[method-assign]
            KeptWeight.of, nn.Sequential._fusible = prepared, fusible  # type: ignore[method-assign]


def trace(module: nn.Module, example: Any) -> Graph:
    """The Graph of a Module's forward pass on `example`, an array of the input's shape; the batch size is left open.

    The graph shares the module's parameters, under the names of its state_dict.

    A tuple of results, which may hold tuples, becomes several outputs in its order.

    Raises: FileFormatError that lists the operations which graphs have no word for, or where a result is no Tensor.
    """
    x = Tensor(np.asarray(array_of(example)))
    recorder = _Recorder(module, x)
    with no_grad(), _watching(recorder):
        result = module(x)
    if recorder.refused:
        raise FileFormatError(
            f"{len(recorder.refused)} operations of the module have no word in graphs: {', '.join(recorder.refused)}"
        )
    results = _flat(result)
    if not results or any(not isinstance(each, Tensor) or id(each) not in recorder.names for each in results):
        kinds = ", ".join(type(each).__name__ for each in results) or "nothing"
        raise FileFormatError(f"the module's result is {kinds}, not Tensors that were computed from the input")
    state = {k: v for k, v in recorder.used.items() if not isinstance(v, Tensor)}
    parameters = {k: v for k, v in recorder.used.items() if isinstance(v, Tensor)}
    inputs = [Input("input", ("batch", *x.shape[1:]), str(x.dtype))]
    return Graph(
        recorder.nodes,
        inputs,
        [recorder.names[id(each)] for each in results],
        parameters,
        state,
        recorder.constants,
        name=type(module).__name__,
    )
