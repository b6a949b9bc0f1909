"""From layer messages to nodes, parameter declarations and shapes: everything about a net that needs no array.

Each layer type is a row of LAYERS: a function that reads the layer's message through a Context, declares its parameters, emits nodes of our ops and
states the shapes of its tops. In-place layers get values of their own: the last version of a blob has the blob's name, an earlier one
is `blob@layer`. What a net would need in memory and work is known before anything is allocated, and Limits refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NoReturn, Protocol

from preimage.errors import FileFormatError, PreimageError, ShapeError
from preimage.io import limits as budget
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.unread import refuse_slips
from preimage.io.graph import Input, Node
from preimage.records import record

__all__ = ["LAYERS", "Assembly", "Context", "Limits", "Parameter", "PythonHosts", "assemble", "layer_type", "selected"]

Shape = tuple[int, ...]
MAX_AXES = 32
MAX_DIM = (1 << 31) - 1


@record
class Limits:
    """What a net may ask for. Tighten it for files from strangers: a description of 100 bytes can ask for terabytes.

    memory_bytes: parameters and live activations together, counted as float32. work_flop: one forward pass. None: what io.limits
    allows (a share of the memory that is free).
    """

    memory_bytes: int | None = None
    work_flop: int | None = None
    layers: int = 20_000


@dataclass(slots=True)
class Parameter:
    """One blob of a layer: where it lies in the graph, how it starts, and its ParamSpec."""

    value: str
    layer: str
    index: int
    shape: Shape
    filler: Message
    trained: bool = True
    share: str = ""
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    start: Any = None  # the array that it starts as, in place of the filler's


class PythonHosts(Protocol):
    """What makes a host of each Python layer (layers.python.PythonHost), and says which may be run at all."""

    def allows(self, message: Message) -> bool:
        """Whether the class that a layer names may be run."""

    def __call__(self, message: Message) -> Any:
        """The host of a layer."""


@dataclass(slots=True)
class Assembly:
    """A net ready to become a Graph."""

    net: Message
    phase: str
    layers: list[Message] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    layer_blobs: dict[str, list[str]] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)  # blob name -> value of its last version
    blob_of: dict[str, str] = field(default_factory=dict)  # value -> blob name, for every version
    constants: dict[str, Any] = field(default_factory=dict)
    updates: dict[str, str] = field(default_factory=dict)
    loss_weights: dict[str, float] = field(default_factory=dict)
    layer_tops: dict[str, list[str]] = field(default_factory=dict)
    layer_bottoms: dict[str, list[str]] = field(default_factory=dict)
    work_flop: dict[str, int] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    folder: str | None = None  # where side files (an infogain matrix) may be read from
    python: PythonHosts | None = None
    rng: Any = None  # the numpy.random.Generator that layers draw from in each pass; None: one of their own

    def peak_bytes(self) -> int:
        """Parameters and the largest sum of values alive at once, as float32; a layer's scratch counts as one more of its largest array."""
        last: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            last |= dict.fromkeys((*node.inputs, *node.outputs), index)
        sizes = {key: 4 * prod(shape) for key, shape in self.shapes.items()}
        alive = sum(sizes[item.name] for item in self.inputs)
        peak = alive
        for index, node in enumerate(self.nodes):
            made = sum(sizes.get(key, 0) for key in node.outputs)
            scratch = max((sizes.get(key, 0) for key in (*node.inputs, *node.outputs)), default=0)
            alive += made
            peak = max(peak, alive + scratch)
            alive -= sum(
                sizes.get(key, 0) for key in {*node.inputs, *node.outputs} if last[key] == index and key not in self.outputs
            )
        return peak + sum(4 * prod(p.shape) for p in self.parameters.values())


class Context:
    """What a layer's row works with: its message, the values and shapes of its bottoms, and where its results go."""

    def __init__(self, assembly: Assembly, layer: Message, bottoms: list[str], tops: list[str], given: dict[str, Shape]) -> None:
        self.assembly, self.layer, self.bottoms, self.tops = assembly, layer, bottoms, tops
        self.shapes = [assembly.shapes[value] for value in bottoms]
        self.train = assembly.phase == "TRAIN"
        self.given = given
        self.flop = 0

    def fail(self, problem: str) -> NoReturn:
        raise FileFormatError(f"layer {self.layer.name!r} ({self.layer.type}): {problem}")

    def need(self, bottoms: int | range, tops: int | range = 1) -> None:
        """Check how many bottoms and tops the layer has."""
        for word, wanted, names in (("bottoms", bottoms, self.bottoms), ("tops", tops, self.tops)):
            allowed = range(wanted, wanted + 1) if isinstance(wanted, int) else wanted
            if len(names) not in allowed:
                span = str(allowed[0]) if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
                self.fail(f"has {len(names)} {word}, wanted {span}")

    def axis(self, axis: int, ndim: int, *, end: bool = False) -> int:
        """An axis that may be negative, as Caffe reads it; `end` also allows the place after the last."""
        canonical = axis + ndim + end if axis < 0 else axis
        if not 0 <= canonical < ndim + end:
            self.fail(f"axis {axis} does not exist in {ndim} axes")
        return canonical

    def blob(
        self,
        label: str,
        shape: Shape,
        filler: Message | None = None,
        *,
        value: float = 0.0,
        trained: bool = True,
        start: Any = None,
    ) -> str:
        """Declare the layer's next blob; gives its value name. Without a filler it starts as the array `start`, or the constant `value`."""
        index = len(self.assembly.layer_blobs[self.layer.name])
        spec = self.layer.param[index] if index < len(self.layer.param) else Message("ParamSpec")
        if filler is None or not list(filler.items()):
            filler = Message("FillerParameter", type="constant", value=value)
        name = f"{self.layer.name}.{label}"
        parameter = Parameter(
            name, self.layer.name, index, self._checked(shape), filler, trained, spec.name, spec.lr_mult, spec.decay_mult, start
        )
        owner = self._owner(parameter, spec.word("share_mode") == "PERMISSIVE")
        if owner is None:
            self.assembly.parameters[name] = parameter
        else:
            name = owner
        self.assembly.layer_blobs[self.layer.name].append(name)
        return name

    def _owner(self, parameter: Parameter, permissive: bool) -> str | None:
        if not parameter.share:
            return None
        for other in self.assembly.parameters.values():
            if other.share == parameter.share:
                same = prod(other.shape) == prod(parameter.shape) if permissive else other.shape == parameter.shape
                if not same:
                    self.fail(
                        f"shares {parameter.share!r} with layer {other.layer!r}, but {parameter.shape} is not {other.shape}"
                    )
                return other.value
        return None

    def emit(
        self,
        op: str,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        *,
        shape: Shape | None = None,
        **attributes: Any,
    ) -> str:
        """Add a node; without names it takes the bottoms and gives the tops. `shape` is that of its first output, where it is an inner value."""
        outputs = tuple(self.tops if outputs is None else outputs)
        inputs = tuple(self.bottoms if inputs is None else inputs)
        name = self.layer.name if outputs == tuple(self.tops) else outputs[0]
        self.assembly.nodes.append(Node(name, op, inputs, outputs, attributes, self.layer.name))
        if shape is not None:
            self.assembly.shapes[outputs[0]] = self._checked(shape)
        return outputs[0] if outputs else ""

    def inner(self, label: str) -> str:
        """A value name inside this layer."""
        return f"{self.layer.name}:{label}"

    def constant(self, label: str, array: Any) -> str:
        """A value that belongs to the structure."""
        name = self.inner(label)
        self.assembly.constants[name] = array
        return name

    def top(self, shape: Iterable[int], index: int = 0) -> None:
        """State the shape of a top."""
        self.assembly.shapes[self.tops[index]] = self._checked(tuple(shape))

    def same(self, index: int = 0) -> None:
        """The first top has the first bottom's shape."""
        self.top(self.shapes[index])

    def _checked(self, shape: Shape) -> Shape:
        if len(shape) > MAX_AXES:
            self.fail(f"has a shape of {len(shape)} axes; Caffe's blobs have at most {MAX_AXES}")
        for size in shape:
            if not 0 <= size <= MAX_DIM:
                self.fail(f"has shape {shape}: {size} is no size")
        if prod(shape) > MAX_DIM:
            self.fail(f"has shape {shape}: more than {MAX_DIM} elements, which no Caffe blob holds")
        return shape


Row = Callable[[Context], None]
LAYERS: dict[str, Row] = {}


def layer_type(*names: str) -> Callable[[Row], Row]:
    """Register a row for layer types."""

    def register(row: Row) -> Row:
        for name in names:
            LAYERS[name] = row
        return row

    return register


def selected(net: Message, phase: str, level: int = 0, stages: Sequence[str] = ()) -> list[Message]:
    """The layers that belong to a phase, level and set of stages, by their include or exclude rules."""
    state = (phase, level, frozenset(stages))
    out = []
    for layer in net.layer:
        if layer.has("include") and layer.has("exclude"):
            raise FileFormatError(f"layer {layer.name!r} has both include and exclude rules; give one kind")
        keep = not layer.has("include") or any(_meets(rule, *state) for rule in layer.include)
        if keep and not any(_meets(rule, *state) for rule in layer.exclude):
            out.append(layer)
    return out


def _meets(rule: Message, phase: str, level: int, stages: frozenset[str]) -> bool:
    return (
        (not rule.has("phase") or rule.word("phase") == phase)
        and (not rule.has("min_level") or level >= rule.min_level)
        and (not rule.has("max_level") or level <= rule.max_level)
        and all(stage in stages for stage in rule.stage)
        and not any(stage in stages for stage in rule.not_stage)
    )


def assemble(
    net: Message,
    phase: str = "TEST",
    *,
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
    limits: Limits | None = None,
    folder: str | None = None,
    python: PythonHosts | None = None,
    rng: Any = None,
) -> Assembly:
    """The net's nodes, parameters and shapes. Raises FileFormatError (naming the layer), ShapeError for sizes that do not fit.

    All layers of types that are not supported are listed in one error, before anything else is looked at.
    """
    limits = limits or Limits()
    layers = selected(net, phase, level, stages)
    if len(layers) > limits.layers:
        raise FileFormatError(f"the net has {len(layers)} layers, more than the limit of {limits.layers}")
    _refuse_strangers(layers, python)
    refuse_slips(net, f"net {net.name!r}")
    for layer in layers:
        refuse_slips(layer, f"layer {layer.name!r} ({layer.type})")
    assembly = Assembly(net, phase, folder=folder, python=python, rng=rng)
    layers = [_with_top(layer) for layer in layers]
    versions = _Versions(layers)
    unused: dict[str, None] = {}
    for position, layer in enumerate(layers):
        if layer.name in assembly.layer_tops:
            layer = _renamed(layer, assembly.layer_tops)
        bottoms = [versions.read(layer, blob) for blob in layer.bottom]
        tops = [versions.write(layer, blob, position) for blob in layer.top]
        assembly.blob_of |= dict(zip(tops, layer.top, strict=True))
        given = {blob: tuple(shape) for blob, shape in (input_shapes or {}).items() if blob in layer.top}
        context = Context(assembly, layer, bottoms, tops, given)
        assembly.layer_bottoms[layer.name], assembly.layer_tops[layer.name] = list(layer.bottom), list(layer.top)
        assembly.layer_blobs[layer.name] = []
        assembly.layers.append(layer)
        _run_row(context)
        for value in bottoms:
            unused.pop(value, None)
        unused |= dict.fromkeys(tops)
        _losses(context)
        assembly.work_flop[layer.name] = context.flop or sum(prod(assembly.shapes[value]) for value in tops)
    assembly.blobs = versions.last
    assembly.outputs = list(unused)
    _refuse(assembly, limits)
    return assembly


def _refuse_strangers(layers: Sequence[Message], python: PythonHosts | None) -> None:
    """Raises FileFormatError that names every layer whose type is not supported, by type."""
    named: dict[str, list[str]] = {}
    for layer in layers:
        if not layer.type:
            refuse_slips(layer, f"layer {layer.name!r}")
        if layer.type not in LAYERS or (layer.type == "Python" and (python is None or not python.allows(layer))):
            where = f" ({layer.python_param.module}.{layer.python_param.layer})" if layer.type == "Python" else ""
            named.setdefault(layer.type, []).append(f"{layer.name!r}{where}")
    if not named:
        return
    listed = "; ".join(f"{kind or 'no type'}: {', '.join(names)}" for kind, names in named.items())
    why = (
        ". A Python layer runs code that the net names, which nothing here imports: give its class, "
        "load(..., python_layers={'module.Layer': Layer})"
    ) * ("Python" in named)
    raise FileFormatError(f"{sum(map(len, named.values()))} layers have a type that is not supported. {listed}{why}")


def _run_row(context: Context) -> None:
    layer = context.layer
    try:
        LAYERS[layer.type](context)
    except FileFormatError:
        raise
    except PreimageError as problem:
        if layer.type == "Python":  # what the layer's own code raises is the caller's
            raise
        raise ShapeError(f"layer {layer.name!r} ({layer.type}): {problem}") from None
    missing = [top for top in context.tops if top not in context.assembly.shapes]
    if missing:
        context.fail(f"has {len(context.tops)} tops, gives no {missing[0]!r}")


def _refuse(assembly: Assembly, limits: Limits) -> None:
    """Raises ShapeError, with the setting to change, for a net that asks for too much."""
    needed = assembly.peak_bytes()
    most = budget.memory_bytes() if limits.memory_bytes is None else limits.memory_bytes
    if needed > most:
        biggest = max(assembly.shapes.items(), key=lambda item: prod(item[1]), default=("", ()))
        raise ShapeError(
            f"the net needs about {needed} bytes, more than the limit of {most} (largest: {biggest[0]!r} {biggest[1]};"
            " memory_bytes of caffe.Limits or io.limits.limits, on the command line --memory)"
        )
    work = sum(assembly.work_flop.values())
    allowed = budget.current().flop if limits.work_flop is None else limits.work_flop
    if work > allowed:
        raise ShapeError(
            f"one pass of the net costs {work} flop, more than the limit of {allowed}"
            " (work_flop of caffe.Limits or flop of io.limits.limits, on the command line --flop)"
        )


def _renamed(layer: Message, taken: Mapping[str, Any]) -> Message:
    """Caffe allows two layers of one name (the second then finds no weights of its own); values need distinct ones."""
    layer = layer.copy()
    count = 2
    while f"{layer.name}#{count}" in taken:
        count += 1
    layer.name = f"{layer.name}#{count}"
    return layer


def _with_top(layer: Message) -> Message:
    """A loss without a top gets one, as in Caffe."""
    if not layer.type.endswith("Loss") or layer.top:
        return layer
    layer = layer.copy()
    layer.top = [f"(automatic) {layer.name}"]
    return layer


def _losses(context: Context) -> None:
    layer, assembly = context.layer, context.assembly
    weights = list(layer.loss_weight)
    if weights and len(weights) != len(layer.top):
        context.fail(f"has {len(weights)} loss_weight for {len(layer.top)} tops")
    if not weights and layer.type.endswith("Loss") and context.tops:
        weights = [1.0]
    assembly.loss_weights |= {value: weight for value, weight in zip(context.tops, weights, strict=False) if weight}


class _Versions:
    """Which value a blob name stands for as the layers go by: in-place layers make new versions of a blob.

    The last version has the blob's name, so that it can be fetched by it; of a blob that is fed, the first one has.
    """

    def __init__(self, layers: Sequence[Message]) -> None:
        self.named: dict[str, int] = {}
        fed: set[str] = set()
        for position, layer in enumerate(layers):
            for blob in layer.top:
                if blob not in fed:
                    self.named[blob] = position
            if not layer.bottom:
                fed |= set(layer.top)
        self.last: dict[str, str] = {}

    def read(self, layer: Message, blob: str) -> str:
        if blob not in self.last:
            raise FileFormatError(f"layer {layer.name!r} ({layer.type}): takes blob {blob!r}, which no layer before it makes")
        return self.last[blob]

    def write(self, layer: Message, blob: str, position: int) -> str:
        if list(layer.top).count(blob) > 1 or (blob in self.last and blob not in layer.bottom):
            raise FileFormatError(f"layer {layer.name!r} ({layer.type}): blob {blob!r} is made twice")
        value = blob if self.named[blob] == position else f"{blob}@{layer.name}"
        self.last[blob] = value
        return value
