"""A Module as a Graph whose batch size is open.

The forward pass is written down twice: on the example, and on values of a batch twice as large. What differs follows the batch: numbers in
shapes, bounds and counts become arithmetic on the size that the input has as the graph runs. Where the two passes differ in more (a module
that says its batch size, one whose operations are others), the graph keeps the example's size. What differs while the size is the same depends
on the values alone: that is no graph, and refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from preimage import nn
from preimage.autograd import Tensor, array_of, no_grad
from preimage.errors import FileFormatError, OutOfMemoryError
from preimage.io.graph import Graph, Input, Node
from preimage.io.onnx import importer  # noqa: F401 - the words of ONNX's operators register themselves
from preimage.io.onnx.tracing.recorder import Recorder, flat
from preimage.io.onnx.tracing.rows import DTYPE_CODES
from preimage.records import record

__all__ = ["trace"]

#: Attributes that are positions or sizes along an axis.
_SIZES = {"reshape": ("target",), "slice_axis": ("start", "stop")}


class _DiffersError(Exception):
    """Two forward passes do not make one graph; says why."""


@record
class Written:
    """A forward pass, without nodes whose results nothing takes."""

    recorder: Recorder
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    @property
    def taken(self) -> set[str]:
        """The values that nodes or outputs take."""
        return {key for node in self.nodes for key in node.inputs} | set(self.outputs)


def trace(module: nn.Module, example: Any) -> Graph:
    """The Graph of a Module's forward pass on `example`: an array of the input's shape, or a tuple of them, one for each argument.

    The size of the first axis of the first input is left open, and of those of other inputs that are as large: the batch. The graph shares
    the module's parameters, under the names of its state_dict. One input is called "input", several by the names of forward's arguments. A tuple
    (list, dict) of results, which may hold others, becomes several outputs in its order.

    Raises: FileFormatError that lists the operations which graphs have no word for, or where a result is no Tensor, or where what is
        computed depends on the values of the input.
    """
    arrays = _inputs(module, example)
    written = _written(module, arrays)
    for opened in _batches(arrays):
        try:
            return _opened(module, arrays, written, opened)
        except _DiffersError:
            continue
    _check_values(module, arrays, written)
    return _graph(module, written, arrays, (), written.nodes, {})


def _inputs(module: nn.Module, example: Any) -> dict[str, np.ndarray]:
    several = (
        isinstance(example, tuple) and bool(example) and all(np.ndim(array_of(v)) or isinstance(v, np.ndarray) for v in example)
    )
    listed = list(example) if several else [example]
    arrays = [np.asarray(array_of(v)) for v in listed]
    arrays = [np.array(a) if a.base is not None or a.flags.writeable else a for a in arrays]
    if len(arrays) == 1:
        return {"input": arrays[0]}
    try:
        names = [
            p.name
            for p in inspect.signature(module.forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        names = []
    taken = {key for key, _ in (*module.named_parameters(), *module.named_buffers())}
    names = [name if name not in taken else f"{name}_input" for name in names]
    return dict(zip([*names, *(f"input_{k}" for k in range(len(names), len(arrays)))], arrays, strict=False))


def _written(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> Written:
    recorder = Recorder(module)
    results = recorder.run(arrays)
    names = [recorder.known(v) if isinstance(v, Tensor | np.ndarray) else None for v in results]
    if not results or None in names:
        kinds = ", ".join(type(each).__name__ for each in results) or "nothing"
        raise FileFormatError(f"the module's result is {kinds}, not Tensors that were computed from the input")
    outputs = tuple(str(name) for name in names)
    if stored := [k for k, name in enumerate(outputs) if name in recorder.used or name in arrays or outputs.index(name) < k]:
        listed = list(outputs)  # an output is a value of its own
        for k in stored:
            listed[k] = recorder.put("identity", outputs[k])
        outputs = tuple(listed)
    needed, kept = set(outputs), []
    for node in reversed(recorder.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return Written(recorder, tuple(reversed(kept)), outputs)


def _graph(
    module: nn.Module, written: Written, arrays: Mapping[str, np.ndarray], opened: Sequence[str], nodes: Sequence[Node],
    constants: Mapping[str, np.ndarray],
) -> Graph:  # fmt: skip
    taken = {key for node in nodes for key in node.inputs} | set(written.outputs)
    used = {k: v for k, v in written.recorder.used.items() if k in taken}
    inputs = [Input(name, ("batch", *a.shape[1:]) if name in opened else a.shape, str(a.dtype)) for name, a in arrays.items()]
    return Graph(
        nodes,
        inputs,
        written.outputs,
        {k: v for k, v in used.items() if isinstance(v, Tensor)},
        {k: v for k, v in used.items() if not isinstance(v, Tensor)},
        {k: v for k, v in (written.recorder.constants | dict(constants)).items() if k in taken},
        name=type(module).__name__,
    )


# -- other values, other batches ---------------------------------------------------------------------------------------


def _batches(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, ...]]:
    """The inputs whose first axis is the batch: all that are as large as the first one's, or that one alone."""
    first = next(iter(arrays))
    if not arrays[first].ndim or not arrays[first].shape[0]:
        return
    alike = tuple(k for k, a in arrays.items() if a.ndim and a.shape[0] == arrays[first].shape[0])
    yield alike
    if len(alike) > 1:
        yield (first,)


def _varied(array: np.ndarray, times: int) -> np.ndarray:
    """Other values in the range of the array's own, so many times as many along the first axis."""
    more = np.concatenate([array] * times) if times > 1 else array
    rng = np.random.default_rng(times)
    if array.dtype.kind in "iub" or not array.size:
        return rng.permutation(more.reshape(-1)).reshape(more.shape)
    values = more.astype(np.float64)
    if values.min() == values.max():
        mixed = values + rng.random(values.shape)
    else:
        share = rng.random(values.shape)
        mixed = share * rng.permutation(values.reshape(-1)).reshape(values.shape) + (1 - share) * values
    return mixed.astype(array.dtype)


def _check_values(module: nn.Module, arrays: Mapping[str, np.ndarray], written: Written) -> None:
    """Raises: FileFormatError where other values of the same shapes make another graph."""
    try:
        other = _written(module, {k: _varied(a, 1) for k, a in arrays.items()})
    except OutOfMemoryError:
        raise
    except Exception:  # the module's own kinds: values that it refuses say nothing
        return
    try:
        if _differences(written, other):
            raise _DiffersError(_why(written, other))
    except _DiffersError as reason:
        raise FileFormatError(
            f"what the module computes depends on the values of its input, not on operations alone: {reason}"
        ) from None


def _why(written: Written, other: Written) -> str:
    key = next(iter(_differences(written, other)))
    if key not in written.recorder.constants:
        return f"the sizes of {key} are others for other values"
    user, shape = written.recorder.takers[key] or "an operation", written.recorder.shapes[key]
    return f"{user} takes an array of shape {shape} that no operation made from the input, and that is another for other values"


def _differences(one: Written, two: Written) -> dict[str, tuple[Any, Any]]:
    """What two passes of the same nodes differ in: values of constants by name; attributes that are sizes by the node's first output.

    Raises: _DiffersError where the nodes are not the same.
    """
    if len(one.nodes) != len(two.nodes) or one.outputs != two.outputs:
        raise _DiffersError(f"{len(one.nodes)} operations, or {len(two.nodes)}")
    found: dict[str, tuple[Any, Any]] = {}
    for a, b in zip(one.nodes, two.nodes, strict=True):
        if (a.op, a.inputs, a.outputs) != (b.op, b.inputs, b.outputs):
            raise _DiffersError(f"the operation {a.name.partition('#')[0]!r}, or {b.name.partition('#')[0]!r}")
        if _same(a.attributes, b.attributes):
            continue
        sizes = _SIZES.get(a.op, ())
        rest = [{k: v for k, v in node.attributes.items() if k not in sizes} for node in (a, b)]
        if not sizes or not _same(*rest):
            raise _DiffersError(f"the operation {a.name.partition('#')[0]!r} with other parameters")
        found[a.outputs[0]] = a.attributes, b.attributes
    for key in sorted(one.taken & one.recorder.constants.keys()):
        values = one.recorder.constants[key], two.recorder.constants.get(key)
        if not _same(*values):
            found[key] = values
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    return type(a) is type(b) and bool(a == b)


# -- sizes that follow the batch ---------------------------------------------------------------------------------------


def _opened(module: nn.Module, arrays: Mapping[str, np.ndarray], written: Written, opened: Sequence[str]) -> Graph:
    """The graph for any batch. Raises: _DiffersError where it is not one."""

    def larger(times: int) -> dict[str, np.ndarray]:
        return {k: _varied(a, times if k in opened else 1) for k, a in arrays.items()}

    try:
        other = _written(module, larger(2))
    except OutOfMemoryError:
        raise
    except Exception as error:  # the module's own kinds
        raise _DiffersError(str(error)) from None
    differences = _differences(written, other)
    sizes = _Sizes(opened[0], arrays[opened[0]].shape[0], written, other)
    nodes = [
        sizes.rewritten(node, *differences[node.outputs[0]]) if node.outputs[0] in differences else node for node in written.nodes
    ]
    names = {key: sizes.constant(*values) for key, values in differences.items() if key in written.recorder.constants}
    nodes = [replace(n, inputs=tuple([names.get(key, key) for key in n.inputs])) for n in nodes]
    if any(key in names for key in written.outputs):
        raise _DiffersError("an output that no operation makes")
    graph = _graph(module, written, arrays, opened, [*sizes.nodes, *nodes], sizes.constants)
    if sizes.nodes:  # two points lie on every line: a third is looked at
        _check_third(module, graph, larger(3))
    return graph


def _check_third(module: nn.Module, graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises: _DiffersError where the graph gives another answer than the module for a third batch."""
    with no_grad():
        try:
            given = [Tensor(a) if a.dtype.kind not in "iub" else a for a in arrays.values()]
            wanted = [np.asarray(array_of(v)) for v in flat(module(*given))]
            found = [np.asarray(array_of(v)) for v in flat(graph(*arrays.values()))]
        except Exception as error:  # the module's own kinds
            raise _DiffersError(str(error)) from None
    for a, b in zip(wanted, found, strict=True):
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-3, atol=1e-3 * float(np.abs(a).max(initial=0)), equal_nan=True):
            raise _DiffersError("the batch's size is computed with in another way than in a line")


class _Sizes:
    """Nodes that compute what follows the batch's size: from `size` in the first pass and twice that in the other."""

    def __init__(self, source: str, size: int, written: Written, other: Written) -> None:
        self.source, self.size = source, size
        self.shapes = written.recorder.shapes, other.recorder.shapes
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}

    def _put(self, op: str, *inputs: str, **attributes: Any) -> str:
        number = len(self.nodes)
        self.nodes.append(Node(f"batch#{number}", op, inputs, (f"batch_{number}",), attributes, layer="batch"))
        return f"batch_{number}"

    def _stored(self, value: Any, dtype: Any = np.int64) -> str:
        key = f"batch_constant_{len(self.constants)}"
        self.constants[key] = np.array(value, dtype)
        return key

    def number(self, one: int, two: int) -> str:
        """The name of a list of one integer."""
        if one == two:
            return self._stored([one])
        slope = Fraction(two - one, self.size)
        offset = one - slope * self.size
        if offset.denominator != 1:
            raise _DiffersError(f"a size of {one}, or {two}")
        key = slope, offset
        if key not in self._known:
            name = self._known.get("size") or self._put("onnx.Shape", self.source, start=0, end=1)
            self._known["size"] = name
            for op, value, idle in (("Mul", slope.numerator, 1), ("Div", slope.denominator, 1), ("Add", int(offset), 0)):
                name = name if value == idle else self._put(f"onnx.{op}", name, self._stored([value]))
            self._known[key] = name
        return self._known[key]

    def numbers(self, one: Sequence[int], two: Sequence[int]) -> str:
        """The name of a list of integers."""
        if len(one) != len(two):
            raise _DiffersError(f"{len(one)} sizes, or {len(two)}")
        parts = [self.number(int(a), int(b)) for a, b in zip(one, two, strict=True)]
        return parts[0] if len(parts) == 1 else self._put("onnx.Concat", *parts, axis=0)

    def rewritten(self, node: Node, one: Mapping[str, Any], two: Mapping[str, Any]) -> Node:
        """A node whose sizes follow the batch's."""
        if node.op == "slice_axis":
            bounds = []
            for key, none in (("start", 0), ("stop", np.iinfo(np.int64).max)):
                bounds.append(self.numbers(*([none if how[key] is None else how[key]] for how in (one, two))))
            inputs = (node.inputs[0], *bounds, self._stored([one["axis"]]))
            return replace(node, op="onnx.Slice", inputs=inputs, attributes={})
        first, second = one["target"], two["target"]
        if len(first) != len(second):
            raise _DiffersError(f"a shape {first}, or {second}")
        before = [shapes[node.inputs[0]] for shapes in self.shapes]
        target = [
            n if n == m else 0 if k < len(before[0]) and (before[0][k], before[1][k]) == (n, m) else -1
            for k, (n, m) in enumerate(zip(first, second, strict=True))
        ]
        if target.count(-1) <= 1 and 0 not in first:
            return replace(node, attributes={"target": tuple(target)})
        return replace(node, op="onnx.Reshape", inputs=(node.inputs[0], self.numbers(first, second)), attributes={})

    def constant(self, one: np.ndarray, two: np.ndarray | None) -> str:
        """A constant that is another for another batch: sizes, counts, 0, 1, 2 ..., or rows that are all alike."""
        if two is None or one.dtype != two.dtype or one.ndim != two.ndim:
            raise _DiffersError("other constants")
        whole = one.dtype.kind in "iu"
        if one.shape == two.shape:
            flat_one, flat_two = one.reshape(-1), two.reshape(-1)
            if one.size > 64 or not (
                np.isfinite(one).all() and np.isfinite(two).all() and (one % 1 == 0).all() and (two % 1 == 0).all()
            ):
                raise _DiffersError("a constant that depends on values")
            name = self.numbers([int(v) for v in flat_one], [int(v) for v in flat_two])
            name = name if one.ndim == 1 else self._put("onnx.Reshape", name, self._stored(one.shape))
            return name if one.dtype == np.int64 else self._put("onnx.Cast", name, to=DTYPE_CODES[one.dtype.name])
        if whole and all((v.reshape(-1) == np.arange(v.size)).all() for v in (one, two)):
            scalars = [self._put("onnx.Squeeze", self.number(one.size, two.size), self._stored([0]))]
            name = self._put("onnx.Range", self._stored(0), scalars[0], self._stored(1))
            name = name if one.dtype == np.int64 else self._put("onnx.Cast", name, to=DTYPE_CODES[one.dtype.name])
            return name if one.ndim == 1 else self._put("onnx.Reshape", name, self.numbers(one.shape, two.shape))
        axes = tuple(k for k, (n, m) in enumerate(zip(one.shape, two.shape, strict=True)) if n != m)
        if not one.size or not two.size:
            raise _DiffersError("empty constants")
        row = one[tuple(slice(0, 1) if k in axes else slice(None) for k in range(one.ndim))]
        if not all(_same(np.broadcast_to(row, v.shape), np.asarray(v)) for v in (one, two)):
            raise _DiffersError("rows that differ")
        shapes = [[v.shape[k] if k in axes else 1 for k in range(one.ndim)] for v in (one, two)]
        return self._put("onnx.Expand", self._stored(row, one.dtype), self.numbers(*shapes))
