"""A whole net analysed: sizes, receptive and projective fields, grids, flop, bytes, memory, layer by layer.

net = analyse(module, (1, 3, 224, 224))        a Module, a list of Modules, a loaded ONNX or Caffe graph, a function
print(net)                                     the table
net.layers[-1].field, .jump, .start            what one position sees, per axis, borders aside
net.receptive_field((0, 5, 3, 3))              the elements of the input that one output can depend on, exactly
net.projective_field((0, 0, 10, 10))           the elements of the output that one input can reach, exactly
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.analysis.axes import Axes, Everything, Join, relations
from preimage.analysis.cost import Cost, Memory, cost_of_call, memory_of
from preimage.analysis.coverage import Coverage, coverage
from preimage.analysis.grids import Relation
from preimage.analysis.record import Call, Record, record
from preimage.analysis.structure import field_of, reached_from
from preimage.analysis.tracing import LayerTrace, checked
from preimage.display import Shown
from preimage.errors import OptionError
from preimage.geometry import ConvGeometry

__all__ = ["Layer", "Network", "analyse"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer(Shown):
    """One layer of a net: the operations that share a name.

    shape: of its result. parameters: numbers that it alone holds or shares. axes: for each axis of the result what it sees of the
    first input (axes.Axis, None where it is not followed). geometry: of its contraction, where it is one.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    parameters: int
    output_bytes: int
    cost: Cost
    axes: Axes
    geometry: ConvGeometry | None
    transposed: bool
    result: int

    @property
    def relations(self) -> tuple[Relation | Everything | None, ...]:
        """What each spatial axis sees of the input's: a Relation, All, or None where it is not followed."""
        return tuple(None if a is None else a.relation for a in self.axes[2:])

    @property
    def field(self) -> tuple[int | str | None, ...]:
        """The receptive field per spatial axis: the widest span over the phases, "all", or None."""
        return tuple(_said(r, lambda r: r.size) for r in self.relations)

    @property
    def projective(self) -> tuple[int | str | None, ...]:
        """The projective field per spatial axis: the widest span of positions of the result that one input position reaches."""
        return tuple(_said(r, lambda r: None if (back := r.reversed()) is None else back.size) for r in self.relations)

    @property
    def jump(self) -> tuple[Fraction | str | None, ...]:
        """Input positions from one position of the result to the next, per spatial axis."""
        return tuple(_said(r, lambda r: r.grid.jump) for r in self.relations)

    @property
    def start(self) -> tuple[Fraction | str | None, ...]:
        """Where the centre of what position 0 sees lies, per spatial axis."""
        return tuple(_said(r, lambda r: r.grid.start) for r in self.relations)

    @property
    def coverage(self) -> Coverage | None:
        """How many taps land on each output, where the layer is a deconvolution."""
        return coverage(self.geometry) if self.geometry is not None and self.transposed else None


def _said(relation: Relation | Everything | None, what: Any) -> Any:
    return None if relation is None else "all" if isinstance(relation, Everything) else what(relation)


@dataclass(frozen=True, repr=False)
class Network(Shown):
    """The analysis of a net: see the module's text. misaligned: joins of paths whose grids do not lie on one another.

    gaps: nodes of a graph whose result the record does not follow; what comes after them is incomplete.
    """

    layers: tuple[Layer, ...]
    cost: Cost
    memory: Memory
    misaligned: tuple[Join, ...]
    gaps: tuple[str, ...]
    record: Record

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises: OptionError that lists the names near it."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise OptionError(f"no layer is called {name!r}; there are {', '.join(layer.name for layer in self.layers[:12])}")

    def _places(self, layer: str | None) -> int:
        if layer is not None:
            return self.layer(layer).result
        if not self.record.outputs:
            raise OptionError("the net's output was not recorded: name a layer")
        return self.record.outputs[0]

    def receptive_field(self, index: Any, *, layer: str | None = None, source: int = 0) -> Array:
        """A boolean array of the input's shape: what the value at `index` of the output (or of a layer) can depend on."""
        number = self._places(layer)
        chosen = np.zeros(self.record.shape(number), bool)
        chosen[checked(index, chosen.shape, "the value")] = True
        return field_of(self.record, number, chosen, self.record.inputs[source])

    def projective_field(self, index: Any, *, layer: str | None = None, source: int = 0) -> Array:
        """A boolean array of the output's (or a layer's) shape: what the input at `index` can reach."""
        number = self.record.inputs[source]
        chosen = np.zeros(self.record.shape(number), bool)
        chosen[checked(index, chosen.shape, "the input")] = True
        return reached_from(self.record, number, chosen, self._places(layer))

    def trace(self, name: str) -> LayerTrace:
        """The trace of a layer that is a convolution, deconvolution or fully connected, with the values that it met in this run.

        A padding mode other than zeros is a step of its own here: the trace's input has its margin.

        Raises: OptionError for a layer of another kind.
        """
        layer = self.layer(name)
        calls = {call.result: call for call in self.record.calls}
        stack, seen = [calls[layer.result]], set()
        while stack:
            call = stack.pop()
            if call.op.name in ("conv", "conv_transpose", "linear") and call.arguments[1] is not None:
                return _trace_of(call, self.record, name)
            for k in call.arguments:
                if k in calls and k not in seen and calls[k].name == calls[layer.result].name:
                    seen.add(k)
                    stack.append(calls[k])
        raise OptionError(
            f"layer {name!r} ({layer.op}) is no convolution, deconvolution or fully connected layer with weights of its own"
        )

    def __repr__(self) -> str:
        return f"Network({len(self.layers)} layers, {self.cost.flop:,} flop)"

    def __str__(self) -> str:
        head = ("layer", "operation", "output", "field", "jump", "start", "Mflop", "parameters", "kB")
        rows = [head, *(_row(layer) for layer in self.layers)]
        rows.append(
            ("total", "", "", "", "", "", f"{self.cost.flop / 1e6:.4g}", f"{sum(l.parameters for l in self.layers):,}", "")
        )
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        m = self.memory
        lines.append(
            f"gradients {self.cost.backward_flop / 1e6:.4g} Mflop; memory: parameters {m.parameter_bytes / 1e3:,.4g} kB, forward"
            f" {m.forward_peak_bytes / 1e3:,.4g} kB, training {m.training_peak_bytes / 1e3:,.4g} kB at most"
        )
        lines += [f"misaligned: {join}" for join in self.misaligned]
        if self.gaps:
            lines.append(f"not followed beyond: {', '.join(self.gaps[:8])}")
        return "\n".join(lines)


def _trace_of(call: Call, made: Record, name: str) -> LayerTrace:
    arrays = [None if k is None else made.tensors[k].data for k in call.arguments]
    x, w = arrays[0], arrays[1]
    b = arrays[2] if len(arrays) > 2 else None
    assert x is not None
    assert w is not None
    if call.params.get("layout") == "channels_last" and x.ndim > 2:
        x = np.moveaxis(x, -1, 1)
    linear = call.op.name == "linear"
    g = call.params["geometry"]
    return LayerTrace(g, call.op.name == "conv_transpose", x.reshape(g.input_shape) if linear else x, w, b, "zeros", linear, name)


def listed(values: Any) -> str:
    """Numbers per axis, one where all agree."""
    words = ["?" if v is None else str(v) for v in values]
    return "-" if not words else words[0] if len(set(words)) == 1 else ", ".join(words)


def _row(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name, layer.op, "x".join(map(str, layer.shape)), listed(layer.field), listed(layer.jump), listed(layer.start),
        f"{layer.cost.flop / 1e6:.4g}", f"{layer.parameters:,}", f"{layer.output_bytes / 1e3:.4g}",
    )  # fmt: skip


def analyse(net: Any, *inputs: Any, dtype: Any = None) -> Network:
    """The analysis of a net on inputs of these shapes (or these arrays); the net is run once.

    Raises: OptionError, ShapeError where the net cannot be run on them.
    """
    made = record(net, *inputs, dtype=dtype)
    axes, joins = relations(made, made.inputs[0])
    layers: list[Layer] = []
    total = Cost()
    names: set[str] = set()
    for name, calls in _grouped(made):
        cost = Cost()
        for call in calls:
            cost = cost + cost_of_call(call, made)
        total = total + cost
        if not any(made.values[c.result].depends for c in calls):
            continue
        layers.append(_layer(_fresh(name, names), calls, cost, made, axes))
    return Network(tuple(layers), total, memory_of(made), tuple(joins), made.gaps, made)


def _grouped(made: Record) -> list[tuple[str, list[Call]]]:
    groups: list[tuple[str, list[Call]]] = []
    for call in made.calls:
        if groups and call.name and groups[-1][0] == call.name:
            groups[-1][1].append(call)
        else:
            groups.append((call.name, [call]))
    return groups


def _fresh(name: str, taken: set[str]) -> str:
    """A name that no layer has yet."""
    base = name or "op"
    found, n = base if name else "op 1", 1
    while found in taken:
        n += 1
        found = f"{base} {n}" if not name else f"{base} ({n})"
    taken.add(found)
    return found


def _layer(name: str, calls: list[Call], cost: Cost, made: Record, axes: dict[int, Axes]) -> Layer:
    last = calls[-1]
    value = made.values[last.result]
    main = next((c for c in calls if c.op.name in ("conv", "conv_transpose", "linear", "matmul")), None)
    own = {k for c in calls for k in c.arguments if k is not None and made.values[k].kind == "parameter"}
    ops = dict.fromkeys(c.op.name for c in calls)
    word = main.op.name if main is not None else " ".join(ops) if len(ops) < 4 else f"{len(calls)} operations"
    return Layer(
        name, word, value.shape, sum(prod(made.shape(k)) for k in own), value.nbytes, cost,
        axes.get(last.result, (None,) * len(value.shape)), main.params.get("geometry") if main is not None else None,
        main is not None and main.op.name == "conv_transpose", last.result,
    )  # fmt: skip
