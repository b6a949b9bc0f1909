"""One model that is measured or checked: its files, what it is fed, and its file as every contestant reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from preimage.bench.models.feeds import MOST_INTEGER, Declared, candidates
from preimage.io.content import kind_of_file

__all__ = ["Prepared", "Subject", "operators", "prepare", "subject_of"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model: its file (a Caffe net: the prototxt, and the caffemodel as `weights`), a word for what it is, and what inputs shall be."""

    name: str
    path: Path
    kind: str = ""
    weights: Path | None = None
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model as contestants get it: the format ("onnx", "caffe"), the file, inputs as declared, outputs, and whether it convolves."""

    format: str
    path: Path
    inputs: tuple[Declared, ...]
    outputs: tuple[str, ...]
    convolves: bool
    weights: Path | None = None
    features: tuple[int, ...] = ()
    quantised: bool = False
    narrow: bool = False

    @property
    def tolerance(self) -> float:
        """How far answers may be apart, in parts of an output's range.

        Of quantised nets one step of a value may come out as the next, and where a CPU has no VNNI onnxruntime sums 8-bit products in 16 bits, which
        overflow; ours are exact. Of nets in 16 bits every value is rounded to 11 binary digits: two units of 1.
        """
        return 2e-2 if self.quantised else 2**-9 if self.narrow else 1e-4

    def feeds(self, subject: Subject) -> Iterator[dict[str, np.ndarray]]:
        """What it may be fed, the best guess first."""
        return candidates(self.inputs, subject.inputs, self.features)


def subject_of(path: str | os.PathLike[str]) -> Subject:
    """A file as a subject. A prototxt takes the caffemodel beside it: the one of its name, or the only one."""
    place = Path(path)
    weights = None
    if kind_of_file(place) == "prototxt":
        beside = sorted(place.parent.glob("*.caffemodel"))
        named = [each for each in beside if each.stem == place.stem]
        weights = named[0] if named else beside[0] if len(beside) == 1 else None
    return Subject(place.name, place, weights=weights)


def prepare(subject: Subject, folder: Path) -> Prepared:
    """The model's file in the folder, changed where it must be, and what it declares.

    ONNX: weights that are listed among the inputs too are taken out of them (from IR version 4 on, runtimes may not fold such weights, which would
    put them at a disadvantage that no user would accept); sizes that the file fixes and the subject changes are opened.

    Raises: FileFormatError for what cannot be read.
    """
    if kind_of_file(subject.path) == "onnx":
        return _onnx(subject, folder)
    return _caffe(subject)


def _caffe(subject: Subject) -> Prepared:
    from preimage.io.files import load_model

    shapes = {name: each["shape"] for name, each in subject.inputs.items() if "shape" in each}
    graph = load_model(subject.path, subject.weights, input_shapes=shapes)
    declared = tuple(Declared(i.name, i.dtype, _sizes(i.example or i.shape)) for i in graph.inputs)
    convolves = any("conv" in node.op.lower() for node in graph.nodes)
    return Prepared("caffe", subject.path, declared, tuple(graph.outputs), convolves, subject.weights)


def _sizes(shape: tuple[Any, ...] | None) -> tuple[int | None, ...] | None:
    return None if shape is None else tuple(size if isinstance(size, int) else None for size in shape)


def _onnx(subject: Subject, folder: Path) -> Prepared:
    import onnx

    from preimage.errors import FileFormatError
    from preimage.io.onnx.model import CODES

    try:
        proto = onnx.load(subject.path, load_external_data=False)
    except Exception as error:  # protobuf's own errors
        raise FileFormatError(f"{str(subject.path)!r} is no ONNX model: {type(error).__name__}") from error
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    inputs = [each for each in graph.input if each.name not in stored]
    changed = False
    if proto.ir_version >= 4 and len(inputs) < len(graph.input):
        changed = True
        del graph.input[:]
        graph.input.extend(inputs)
    declared, below, batches = [], _limits_of_integers(graph), _batch_axes(graph)
    for value in graph.input if changed else inputs:  # those that are in the message now
        tensor = value.type.tensor_type
        shape: tuple[int | None, ...] | None = None
        symbols: tuple[str, ...] = ()
        if tensor.HasField("shape"):
            shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
            symbols = tuple(d.dim_param for d in tensor.shape.dim)
        wanted = subject.inputs.get(value.name, {}).get("shape")
        if wanted is not None and shape is not None and len(wanted) == len(shape):
            for size, fixed, dim in zip(wanted, shape, tensor.shape.dim, strict=True):
                if fixed is not None and fixed != size:
                    changed = True
                    dim.ClearField("dim_value")
                    dim.dim_param = f"open_{value.name}_{fixed}"
        dtype = CODES.get(tensor.elem_type, "string" if tensor.elem_type == 8 else "")
        words = _words(graph) if dtype == "string" else ()
        declared.append(
            Declared(value.name, dtype, shape, words, symbols, below.get(value.name, MOST_INTEGER), batches.get(value.name, 0))
        )
    ops = operators(proto)
    path = subject.path
    if changed and not _has_external_data(proto):
        del graph.value_info[:]  # they may say sizes that hold no longer
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        path = folder / "model.onnx"
        path.write_bytes(proto.SerializeToString())
    outputs = tuple(value.name for value in graph.output)
    quantised = any(word in op for op in ops for word in ("Integer", "QLinear", "QuantizeLinear", "DynamicQuantize"))
    convolves = any("Conv" in op for op in ops)
    narrow = any(tensor.data_type in _NARROW for tensor in graph.initializer)
    return Prepared(
        "onnx", path, tuple(declared), outputs, convolves, features=_features(graph), quantised=quantised, narrow=narrow
    )


def _words(graph: Any) -> tuple[str, ...]:
    """The strings that the nodes of a graph know: what an input of strings may hold."""
    found: dict[bytes, None] = {}
    for node in graph.node:
        for attribute in node.attribute:
            tensors = [attribute.t] if attribute.type == 4 else []
            found |= dict.fromkeys([*attribute.strings, *(word for t in tensors for word in t.string_data)])
    found |= dict.fromkeys(word for tensor in graph.initializer for word in tensor.string_data)
    return tuple(word.decode("utf-8", "replace") for word in found)


#: ONNX's numbers of float16 and bfloat16.
_NARROW = (10, 16)
#: Operators that keep the rows of a table, and the numbers of indices.
_SAME_ROWS = ("Identity", "Cast", "DequantizeLinear")
_SAME_NUMBERS = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def _limits_of_integers(graph: Any) -> dict[str, int]:
    """What integers of inputs must be less than: the rows of a stored table that they are indices of; 2, where 1 - x is taken of them (masks)."""
    from onnx import numpy_helper

    tables = {tensor.name: tensor for tensor in graph.initializer}
    origin = {value.name: value.name for value in graph.input if value.name not in tables}
    found: dict[str, int] = {}
    for node in graph.node:
        first, second = [*map(str, node.input), "", ""][:2]
        if node.op_type == "Constant":
            tables.update((node.output[0], each.t) for each in node.attribute if each.type == 4)
        elif first in tables and node.op_type in _SAME_ROWS:
            tables[node.output[0]] = tables[first]
        elif first in origin and node.op_type in _SAME_NUMBERS:
            origin[node.output[0]] = origin[first]
        elif first in tables and second in origin:
            shape, below = tuple(tables[first].dims), None
            if node.op_type == "Gather":
                axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
                below = max(shape[axis], 1) if -len(shape) <= axis < len(shape) else None
            elif node.op_type == "Sub" and prod(shape) == 1 and tables[first].data_location == 0:
                below = 2 if float(numpy_helper.to_array(tables[first]).reshape(())) == 1 else None
            if below is not None:
                name = origin[second]
                found[name] = min(below, found.get(name, below))
    return found


#: Operators that leave the batch of a state where it is.
_SAME_BATCH = ("Identity", "Cast", "Slice", "Split")
#: Recurrent operators, whose sequences and first states have the batch on axis 1.
_RECURRENT = ("RNN", "GRU", "LSTM", "DynamicQuantizeLSTM")


def _batch_axes(graph: Any) -> dict[str, int]:
    """The axes of the batch of inputs that recurrent layers take as they are, or in parts."""
    origin, found = {value.name: value.name for value in graph.input}, dict[str, int]()
    for node in graph.node:
        if node.op_type in _SAME_BATCH and node.input[0] in origin:
            origin |= dict.fromkeys(node.output, origin[node.input[0]])
        elif node.op_type in _RECURRENT and not any(each.name == "layout" and each.i for each in node.attribute):
            taken = [node.input[k] for k in (0, 5, 6) if k < len(node.input)]
            found |= {origin[key]: 1 for key in taken if key in origin}
    return found


def _features(graph: Any) -> tuple[int, ...]:
    """How many numbers the matrices of a graph take, in the order of its nodes: what the last axis of an input may have to be."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[int, None] = {}
    for node in graph.node:
        shape = sizes.get(node.input[1], ()) if len(node.input) > 1 else ()
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type in ("MatMul", "Gemm") and len(shape) == 2:
            found[shape[1 if turned else 0]] = None
        elif node.op_type in ("LSTM", "GRU", "RNN") and len(shape) == 3:
            found[shape[2]] = None
    return tuple(found)


def _has_external_data(proto: Any) -> bool:
    return any(tensor.data_location == 1 for tensor in proto.graph.initializer)


def operators(proto: Any) -> set[str]:
    found: set[str] = set()
    waiting = [proto.graph, *proto.functions]
    while waiting:
        for node in waiting.pop().node:
            found.add(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}")
            waiting += [each.g for each in node.attribute if each.type == 5]
    return found
