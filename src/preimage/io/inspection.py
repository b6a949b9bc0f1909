"""What a model consists of and costs: shapes, parameters, flop, memory, receptive fields, times, and the plan of each contraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from preimage.autograd import no_grad
from preimage.display import Shown
from preimage.engines import plan
from preimage.errors import EngineError, OptionError, PreimageError
from preimage.geometry import ConvGeometry
from preimage.io import limits
from preimage.io.graph import Graph, Node, Step
from preimage.records import record
from preimage.settings import allowing
from preimage.typing import Contraction

__all__ = ["Layer", "ModelInfo", "geometry_of", "inspect_model", "random_inputs"]

_CONTRACTIONS = ("conv", "conv_transpose")
_WINDOWS = (*_CONTRACTIONS, "max_pool", "avg_pool")


@record
class Layer:
    """One node of a model after a run.

    work_flop counts 2 per multiply-add and is 0 for nodes that are no contraction. field: the size of the input patch that
    one output value sees, per axis (None where it has no meaning). schedule: what the engine in force runs. refused: the
    engine's other strategies, each with the reason against it.
    """

    name: str
    op: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    work_flop: int
    output_bytes: int
    time_ns: int
    field: tuple[int, ...] | None
    schedule: str
    refused: Mapping[str, str] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False)
class ModelInfo(Shown):
    """A model's layers and totals for given input shapes.

    packed_bytes: what it holds to run contractions without packing (their weights once more, and the packed forms). buffer_bytes: what it keeps
    between runs for intermediate values.
    """

    name: str
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    layers: tuple[Layer, ...]
    parameters: int
    stored_bytes: int
    work_flop: int
    peak_bytes: int
    packed_bytes: int
    buffer_bytes: int

    def __repr__(self) -> str:
        return f"ModelInfo({self.name!r}, {len(self.layers)} layers, {self.parameters:,} parameters, {self.work_flop:,} flop)"


def random_inputs(graph: Graph, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays for a graph's inputs, uniform in 0..1; open sizes must be given in `shapes`.

    Raises: OptionError that names an input whose shape is open.
    """
    rng = np.random.default_rng(seed)
    given = dict(shapes or {})
    feeds = {}
    for item in graph.inputs:
        shape = given.pop(item.name, None)
        if shape is None:
            known = item.example or item.shape or (None,)
            if any(not isinstance(d, int) for d in known):
                raise OptionError(f"input {item.name!r} has the open shape {known}: say its sizes, e.g. {item.name}=1,3,224,224")
            shape = [int(d) for d in known if isinstance(d, int)]
        sizes = limits.checked_size(shape, f"input {item.name!r}")
        limits.check_bytes(12 * prod(sizes), f"input {item.name!r} of shape {sizes}")
        values = rng.random(sizes)
        feeds[item.name] = values.astype(item.dtype) if item.dtype.startswith("float") else np.zeros(sizes, item.dtype)
    if given:
        raise OptionError(f"the model has no input {next(iter(given))!r}; its inputs: {[i.name for i in graph.inputs]}")
    return feeds


def inspect_model(graph: Graph, feeds: Mapping[str, np.ndarray], *, plans: bool = True) -> ModelInfo:
    """Run a graph twice and say what each node made, how long it took the second time and what it cost."""
    steps: list[Step] = []
    with no_grad():
        graph.run(feeds)  # kernels are compiled here
        found = graph.run(feeds, steps=steps)
    shapes = {k: tuple(np.shape(v)) for k, v in feeds.items()}
    dtypes = {k: np.asarray(v).dtype for k, v in feeds.items()}
    fields = {k: _Field((1,) * max(len(s) - 2, 0), (Fraction(1),) * max(len(s) - 2, 0)) for k, s in shapes.items()}
    layers = []
    for step in steps:
        node = step.node
        shapes.update(zip(node.outputs, step.shapes, strict=False))
        inputs = [key for key in node.inputs if key]
        dtypes.update(
            dict.fromkeys(node.outputs, dtypes.get(inputs[0], np.dtype(np.float32)) if inputs else np.dtype(np.float32))
        )
        geometry = geometry_of(graph, node, shapes)
        field = _grown(graph, node, [fields[k] for k in inputs if k in fields], step.shapes)
        if field is not None:
            fields.update(dict.fromkeys(node.outputs, field))
        weights = {k: graph.weights[k] for k in inputs if k in graph.weights}
        schedule, refused = _schedule(geometry, node, dtypes.get(inputs[0])) if geometry and plans else ("", {})
        layers.append(
            Layer(
                node.name, node.op.removeprefix("onnx."), step.shapes, sum(int(p.data.size) for p in weights.values()),
                geometry.work_flop if geometry else 0, step.output_bytes, step.time_ns,
                field.size if field is not None and field.size else None,
                schedule, refused,
            )
        )  # fmt: skip
    stored = [np.asarray(p.data) for p in graph.weights.values()] + list(graph.state.values())
    return ModelInfo(
        graph.name,
        {k: tuple(np.shape(v)) for k, v in feeds.items()},
        {k: tuple(np.shape(found[k])) for k in graph.outputs},
        tuple(layers),
        sum(int(p.data.size) for p in graph.weights.values()),
        sum(int(a.nbytes) for a in stored),
        sum(layer.work_flop for layer in layers),
        _peak(steps, graph.outputs),
        graph.packed_bytes,
        graph.buffer_bytes,
    )


@record
class _Field:
    """The patch of the input that one value sees, and how far apart the patches of neighbours lie."""

    size: tuple[int, ...]
    jump: tuple[Fraction, ...]


def _window(graph: Graph, node: Node) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Kernel, stride and dilation of a node that slides a window."""
    if node.op in _CONTRACTIONS:
        stored = graph.weights.get(node.inputs[1])
        weight = stored.data if stored is not None else graph.constants.get(node.inputs[1])
        if weight is None:
            return None
        kernel = tuple(np.shape(weight)[2:])
        stride = node.per_axis("stride", len(kernel))
    elif node.op in _WINDOWS:
        kernel = node.integers("kernel_size")
        stride = kernel if node.attributes.get("stride") is None else node.per_axis("stride", len(kernel))
    else:
        return None
    ndim = len(kernel)
    return kernel, stride, node.per_axis("dilation", ndim)


def _grown(graph: Graph, node: Node, sources: Sequence[_Field], made: Sequence[tuple[int, ...]]) -> _Field | None:
    if not sources:
        return None
    widest = max(sources, key=lambda f: f.size)
    window = _window(graph, node)
    ndim = len(made[0]) - 2 if made else 0
    if window is None:
        return widest if len(widest.size) == ndim else None
    kernel, stride, dilation = window
    if len(kernel) != len(widest.size):
        return None
    if node.op == "conv_transpose":  # the result's neighbours lie stride times closer; it sees ceil(extent / stride) cells
        reach = [-(-((k - 1) * d + 1) // s) for k, s, d in zip(kernel, stride, dilation, strict=True)]
        size = tuple(int(f + (r - 1) * j) for f, r, j in zip(widest.size, reach, widest.jump, strict=True))
        return _Field(size, tuple(j / s for j, s in zip(widest.jump, stride, strict=True)))
    size = tuple(int(f + (k - 1) * d * j) for f, k, d, j in zip(widest.size, kernel, dilation, widest.jump, strict=True))
    return _Field(size, tuple(j * s for j, s in zip(widest.jump, stride, strict=True)))


def geometry_of(graph: Graph, node: Node, shapes: Mapping[str, tuple[int, ...]]) -> ConvGeometry | None:
    """The geometry of a contraction whose weight is stored, for known shapes of values; None for every other node."""
    if node.op not in _CONTRACTIONS or node.inputs[0] not in shapes:
        return None
    stored = graph.weights.get(node.inputs[1])
    weight = stored.data if stored is not None else graph.constants.get(node.inputs[1])
    if weight is None:
        return None
    a: dict[str, Any] = {k: node.attributes[k] for k in ("stride", "padding", "dilation", "groups") if k in node.attributes}
    try:
        if node.op == "conv":
            return ConvGeometry.from_conv(shapes[node.inputs[0]], np.shape(weight), **a)
        extra: dict[str, Any] = {k: node.attributes[k] for k in ("output_padding", "output_size") if node.attributes.get(k)}
        return ConvGeometry.from_conv_transpose(shapes[node.inputs[0]], np.shape(weight), **a, **extra)
    except PreimageError:
        return None


def _schedule(geometry: ConvGeometry, node: Node, dtype: Any) -> tuple[str, Mapping[str, str]]:
    """What the engine would run, with the accuracy that is written at the node, and why not its other strategies."""
    op: Contraction = "conv" if node.op == "conv" else "conv_transpose"
    try:
        with allowing(node.word("accuracy") if node.attributes.get("accuracy") is not None else None):
            chosen = plan(geometry, np.dtype(dtype) if dtype is not None else np.float32, op)
    except (EngineError, PreimageError) as error:
        return str(error), {}
    return f"{chosen.engine}: {chosen.algorithm}", chosen.refused


def _peak(steps: Sequence[Step], outputs: Sequence[str]) -> int:
    """The most bytes of values that are alive at once."""
    last = {key: position for position, step in enumerate(steps) for key in (*step.node.inputs, *step.node.outputs)}
    last.update(dict.fromkeys(outputs, len(steps)))
    alive: dict[int, int] = {}
    most = 0
    for position, step in enumerate(steps):
        until = max((last[key] for key in step.node.outputs if key), default=position)
        alive[position] = step.output_bytes
        most = max(most, sum(alive.values()))
        alive = {k: v for k, v in alive.items() if max((last[o] for o in steps[k].node.outputs if o), default=k) > position}
        if until <= position:
            alive.pop(position, None)
    return most
