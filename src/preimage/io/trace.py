"""A Module as a Graph: its forward pass is run once on an example, and what it calls is written down.

Layers of preimage.nn are written as one word each; other operations, called from a forward of one's own, under their own
names. Sizes that the forward computes in Python are those of the example.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from preimage import nn
from preimage.autograd import Primitive, Tensor, array_of, no_grad
from preimage.errors import FileFormatError
from preimage.geometry import per_axis
from preimage.io import graph_ops  # noqa: F401 - the words
from preimage.io.graph import Graph, Input, Node
from preimage.nn.kept import KeptWeight

__all__ = ["trace"]

_lock = threading.Lock()
Built = tuple[str, list[str], dict[str, Any]]


def _conv_options(m: Any) -> dict[str, Any]:
    options = {k: getattr(m, k) for k in ("stride", "padding", "dilation", "groups")}
    return options | ({"padding_mode": m.padding_mode} if m.padding_mode != "zeros" else {})


def _window(m: Any) -> dict[str, Any]:
    options = {k: getattr(m, k) for k in ("padding", "dilation", "ceil_mode", "count_include_pad") if hasattr(m, k)}
    kernel = per_axis(m.kernel_size, m.ndim, "kernel_size")
    return options | {"kernel_size": kernel, "stride": kernel if m.stride is None else per_axis(m.stride, m.ndim, "stride")}


def _layer(module: Any, values: list[str], name: Callable[[Any], str]) -> Built | None:
    """The word of a layer with one input, or None where it has none and its parts are written instead."""
    kind = type(module).__name__.rstrip("123d") if type(module).__name__[-1:] == "d" else type(module).__name__
    parameters = [name(p) for p in (getattr(module, "weight", None), getattr(module, "bias", None)) if p is not None]
    if kind == "Conv" and module.layout == "channels_first":
        return "conv", [*values, *parameters], _conv_options(module)
    if kind == "ConvTranspose" and module.layout == "channels_first" and module.padding_mode == "zeros":
        extra = {"output_padding": module.output_padding} if any(module.output_padding) else {}
        return "conv_transpose", [*values, *parameters], _conv_options(module) | extra
    if kind == "Linear":
        return "linear", [*values, *parameters], {}
    if kind == "BatchNorm" and not module.training and module.running_mean is not None:
        affine = parameters or ["", ""]
        return "batch_norm", [*values, *affine, name(module.running_mean), name(module.running_var)], {"eps": float(module.eps)}
    simple: dict[str, tuple[str, dict[str, Any]]] = {
        "ReLU": ("relu", {}), "Sigmoid": ("sigmoid", {}), "Tanh": ("tanh", {}), "Softplus": ("softplus", {}), "Identity": ("identity", {}),
    }  # fmt: skip
    if kind in simple:
        return simple[kind][0], values, dict(simple[kind][1])
    if kind in ("Dropout",) and not module.training:
        return "identity", values, {}
    if kind in ("MaxPool", "AvgPool") and not getattr(module, "return_indices", False):
        return ("max_pool" if kind == "MaxPool" else "avg_pool"), values, _window(module)
    if kind == "Flatten" and module.start_dim == 1 and module.end_dim == -1:
        return "flatten", values, {"axis": 1}
    return None


#: Operations that are called outside layers: name of the primitive -> word.
_SAME = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh",
    "softplus": "softplus", "exp": "exp", "log": "log", "sqrt": "sqrt", "abs": "abs", "matmul": "matmul", "maximum": "maximum",
    "minimum": "minimum",
}  # fmt: skip


def _operation(op: str, args: Sequence[Any], params: dict[str, Any], values: list[str]) -> Built | None:
    if op in _SAME:
        return _SAME[op], values, {}
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

    def write(self, built: Built | None, label: str, result: Any) -> None:
        if built is None:
            self.refused.append(label)
            built = ("identity", [next(iter(self.names.values()))], {})
        op, inputs, attributes = built
        output = f"value_{len(self.nodes)}"
        self.nodes.append(Node(f"{label}#{len(self.nodes)}", op, tuple(inputs), (output,), attributes, layer=label))
        self.kept.append(result)
        self.names[id(result)] = output


@contextmanager
def _watching(recorder: _Recorder) -> Iterator[None]:
    """Every layer and operation called inside the block is told to the recorder (in the whole process: one trace at a time)."""
    call_module, call_primitive, prepared = nn.Module.__call__, Primitive.__call__, KeptWeight.of

    def module_called(self: Any, *args: Any, **kwargs: Any) -> Any:
        built = None
        if not recorder.depth and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            built = _layer(self, [recorder.name(args[0])], recorder.name)
        recorder.depth += built is not None
        try:
            result = call_module(self, *args, **kwargs)
        finally:
            recorder.depth -= built is not None
        if built is not None:
            recorder.write(built, recorder.layers.get(id(self), type(self).__name__), result)
        return result

    def primitive_called(self: Any, *args: Any, **params: Any) -> Any:
        result = call_primitive(self, *args, **params)
        if not recorder.depth and any(isinstance(a, Tensor) for a in args):
            values = [recorder.name(a) if a is not None else "" for a in args]
            recorder.write(_operation(self.name, args, params, values), self.name, result)
        return result

    with _lock:
        nn.Module.__call__, Primitive.__call__ = module_called, primitive_called  # type: ignore[method-assign]
        KeptWeight.of = lambda self, weight: weight  # type: ignore[method-assign]  # known by name
        try:
            yield
        finally:
            nn.Module.__call__, Primitive.__call__ = call_module, call_primitive  # type: ignore[method-assign]
            KeptWeight.of = prepared  # type: ignore[method-assign]


def trace(module: nn.Module, example: Any) -> Graph:
    """The Graph of a Module's forward pass on `example`, an array of the input's shape; the batch size is left open.

    The graph shares the module's parameters, under the names of its state_dict.

    Raises: FileFormatError that lists the operations which graphs have no word for, or where the result is no Tensor.
    """
    x = Tensor(np.asarray(array_of(example)))
    recorder = _Recorder(module, x)
    with no_grad(), _watching(recorder):
        result = module(x)
    if recorder.refused:
        raise FileFormatError(
            f"{len(recorder.refused)} operations of the module have no word in graphs: {', '.join(recorder.refused)}"
        )
    if not isinstance(result, Tensor) or id(result) not in recorder.names:
        raise FileFormatError(
            f"the module's result is a {type(result).__name__}, not one Tensor that was computed from the input"
        )
    state = {k: v for k, v in recorder.used.items() if not isinstance(v, Tensor)}
    parameters = {k: v for k, v in recorder.used.items() if isinstance(v, Tensor)}
    inputs = [Input("input", ("batch", *x.shape[1:]), str(x.dtype))]
    return Graph(
        recorder.nodes, inputs, [recorder.names[id(result)]], parameters, state, recorder.constants, name=type(module).__name__
    )
