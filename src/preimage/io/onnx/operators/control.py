"""ONNX's operators that run graphs: If, Loop, Scan. Their work counts as that of the run that they are part of (`io.limits`).

A graph of a node takes its own inputs by position, and values of the graphs around it by name: `captured` names them, and they are
the last inputs of the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preimage import ops
from preimage.errors import FileFormatError
from preimage.io import limits
from preimage.io.graph import OPS, Graph, graph_op
from preimage.io.graph.inlining import inliner
from preimage.io.graph.types import Types, graph_types, infer_types
from preimage.io.onnx.operators.moving import recorded
from preimage.io.onnx.operators.shapes import axis_of, data_of

__all__: list[str] = []


def _parted(values: Sequence[Any], captured: Sequence[str]) -> tuple[Sequence[Any], dict[str, Any]]:
    """A node's own inputs, and the values of outer graphs by name."""
    own = len(values) - len(captured)
    return values[:own], dict(zip(captured, values[own:], strict=True))


def _call(graph: Graph, own: Sequence[Any], outer: Mapping[str, Any], what: str) -> list[Any]:
    """The outputs of a graph for its own inputs."""
    names = [item.name for item in graph.inputs if item.name not in outer]
    if len(names) != len(own):
        raise FileFormatError(f"{what}: its graph takes {len(names)} inputs, the node gives {len(own)}")
    feeds = dict(zip(names, own, strict=True)) | {i.name: outer[i.name] for i in graph.inputs if i.name in outer}
    here = inliner()
    found = graph.run(feeds) if here is None else here.run(graph, feeds)
    return [found[key] for key in graph.outputs]


def _types(graph: Graph, own: Types, captured: Sequence[str], outer: Types) -> list[str | None]:
    """The dtypes of a graph's outputs, from those of its own inputs and of the values that it takes from outside."""
    around = dict(zip(captured, outer, strict=True))
    given = iter(own)
    known: dict[str, str | None] = {}
    for item in graph.inputs:
        known[item.name] = around[item.name] if item.name in around else (next(given, None) or item.dtype or None)
    known |= {key: p.dtype.name for key, p in graph.weights.items()}
    known |= {key: array.dtype.name for key, array in (graph.state | graph.constants).items()}
    found = infer_types(graph.nodes, known, OPS)
    return [found[key] for key in graph.outputs]


def _if_types(attributes: Mapping[str, Any], inputs: Types) -> Types:
    captured = attributes["captured"]
    return _types(attributes["then_branch"], (), captured, inputs[len(inputs) - len(captured) :])


def _loop_types(attributes: Mapping[str, Any], inputs: Types) -> Types:
    captured = attributes["captured"]
    own = len(inputs) - len(captured)
    return _types(attributes["body"], ("int64", "bool", *inputs[2:own]), captured, inputs[own:])[1:]


def _scan_types(attributes: Mapping[str, Any], inputs: Types) -> Types:
    captured = attributes["captured"]
    own = len(inputs) - len(captured)
    return _types(attributes["body"], inputs[:own], captured, inputs[own:])


def _results(values: Sequence[Any], outputs: int, what: str) -> tuple[Any, ...]:
    """As many values as the node names."""
    if len(values) < outputs:
        raise FileFormatError(f"{what}: its graph gives {len(values)} values, the node names {outputs}")
    return tuple(values)


def _decided(value: Any) -> np.ndarray:
    """A value that decides what is computed."""
    if (here := inliner()) is not None:
        here.check_decided(value)
    return np.asarray(data_of(value))


def _truth(value: Any, what: str) -> bool:
    data = _decided(value)
    if data.size != 1:
        raise FileFormatError(f"{what}: its condition has shape {data.shape}, wanted a single truth value")
    return bool(data.reshape(()))


def _bytes(value: Any) -> int:
    return int(data_of(value).nbytes)


@graph_op("onnx.If", types=_if_types)
def _if(*values: Any, then_branch: Graph, else_branch: Graph, captured: Sequence[str] = (), outputs: int = 1) -> tuple[Any, ...]:
    own, outer = _parted(values, captured)
    if len(own) != 1:
        raise FileFormatError(f"If: takes one input, its condition; the node gives {len(own)}")
    with limits.looping("If"):
        return _results(_call(then_branch if _truth(own[0], "If") else else_branch, (), outer, "If"), outputs, "If")


def _stacked(parts: Sequence[Any], axis: int, what: str) -> Any:
    if len({np.shape(data_of(p)) for p in parts}) > 1:
        raise FileFormatError(f"{what}: its results have several shapes, {parts[0].shape} and others")
    axis = axis_of(axis, parts[0].ndim + 1, what)
    if (here := inliner()) is not None:
        return here.made(lambda: ops.stack(parts, axis), parts)
    return ops.stack(parts, axis) if recorded(*parts) else np.stack(parts, axis)


def _none(graph: Graph, position: int) -> np.ndarray:
    """The stacked result of no trip at all: its dtype is what the graph would give, its other sizes are unknown."""
    found = graph_types(graph, OPS).get(graph.outputs[position])
    return np.zeros(0, found or np.float32)


@graph_op("onnx.Loop", types=_loop_types)
def _loop(*values: Any, body: Graph, captured: Sequence[str] = (), outputs: int = 1) -> tuple[Any, ...]:
    own, outer = _parted(values, captured)
    most, condition, *carried = own if len(own) > 1 else (*own, None, None)[:2]
    count = None if most is None else int(_decided(most).reshape(()))
    going = True if condition is None else _truth(condition, "Loop")
    if len(body.outputs) < 1 + len(carried):
        raise FileFormatError(f"Loop: its body gives {len(body.outputs)} values, wanted at least {1 + len(carried)}")
    scanned: list[list[Any]] = [[] for _ in body.outputs[1 + len(carried) :]]
    trip = kept = 0
    with limits.looping("Loop") as before:
        while going and (count is None or trip < count):
            before(trip, kept)
            proceed, *made = _call(body, (np.asarray(trip, np.int64), np.asarray(True), *carried), outer, "Loop")
            carried = made[: len(carried)]
            for table, value in zip(scanned, made[len(carried) :], strict=True):
                table.append(value)
                kept += _bytes(value)
            going = _truth(proceed, "Loop")
            trip += 1
    first = 1 + len(carried)
    stacked = [_stacked(t, 0, "Loop") if t else _none(body, first + k) for k, t in enumerate(scanned)]
    return _results([*carried, *stacked], outputs, "Loop")


@graph_op("onnx.Scan", types=_scan_types)
def _scan(
    *values: Any, body: Graph, num_scan_inputs: int, scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None, scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None, captured: Sequence[str] = (), outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    own, outer = _parted(values, captured)
    states, sequences = list(own[: len(own) - num_scan_inputs]), list(own[len(own) - num_scan_inputs :])
    if not 0 < num_scan_inputs <= len(own) or len(body.outputs) < len(states):
        raise FileFormatError(
            f"Scan: {num_scan_inputs} of {len(own)} inputs are scanned, its body gives {len(body.outputs)} values"
        )
    results = len(body.outputs) - len(states)
    axes = _listed(scan_input_axes, num_scan_inputs, "scan_input_axes")
    backwards = _listed(scan_input_directions, num_scan_inputs, "scan_input_directions")
    out_axes = _listed(scan_output_axes, results, "scan_output_axes")
    out_backwards = _listed(scan_output_directions, results, "scan_output_directions")
    axes = [axis_of(axis, x.ndim, "Scan") for axis, x in zip(axes, sequences, strict=True)]
    lengths = {x.shape[axis] for axis, x in zip(axes, sequences, strict=True)}
    if len(lengths) > 1:
        raise FileFormatError(f"Scan: its sequences have several lengths: {sorted(lengths)}")
    (length,) = lengths
    scanned: list[list[Any]] = [[] for _ in range(results)]
    kept = 0
    with limits.looping("Scan") as before:
        for step in range(length):
            before(step, kept)
            parts = [
                x[(slice(None),) * axis + (length - 1 - step if back else step, ...)]
                for x, axis, back in zip(sequences, axes, backwards, strict=True)
            ]
            made = _call(body, [*states, *parts], outer, "Scan")
            states = made[: len(states)]
            for table, value in zip(scanned, made[len(states) :], strict=True):
                table.append(value)
                kept += _bytes(value)
    found = [
        _stacked(t[::-1] if back else t, axis, "Scan") if t else _none(body, len(states) + k)
        for k, (t, axis, back) in enumerate(zip(scanned, out_axes, out_backwards, strict=True))
    ]
    return _results([*states, *found], outputs, "Scan")


def _listed(given: Sequence[int] | None, count: int, name: str) -> list[int]:
    found = [0] * count if given is None else list(given)
    if len(found) != count:
        raise FileFormatError(f"Scan: {name} has {len(found)} entries, wanted {count}")
    return found
