"""Reading a Caffe net into a Graph, and writing one back.

Weights go to layers by name; binaries may hold more layers than the description (Split, training layers). A caffemodel alone is a
whole net too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preimage.autograd import array_of
from preimage.errors import FileFormatError, ShapeError
from preimage.host import write_file
from preimage.io.caffe import hdf5
from preimage.io.caffe.assemble import Assembly, Limits, PythonHosts, assemble
from preimage.io.caffe.blobs import array_of_blob, blob_of_array, blob_shape, fits
from preimage.io.caffe.fillers import fill
from preimage.io.caffe.python_layers import Host, Hosts, propagation
from preimage.io.caffe.upgrade import upgraded
from preimage.io.caffe.wire.binary import decode, encode
from preimage.io.caffe.wire.detect import is_text_net
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.text import format_text, parse_text, text_of_bytes
from preimage.io.caffe.wire.unread import unread_fields
from preimage.io.graph import Graph

__all__ = ["CaffeGraph", "graph_writer", "load", "read_net", "save", "write_net"]

_MAX_FILE = (1 << 31) - 1
_TEXT_ENDINGS = (".prototxt", ".pbtxt", ".txt")
_HDF5_ENDINGS = (".h5", ".hdf5")
Source = str | PathLike[str] | Message


def read_net(source: Source) -> Message:
    """The NetParameter of a text or binary file (its content says which), in today's form.

    Raises: FileFormatError with the file's name and the line or byte.
    """
    if isinstance(source, Message):
        return upgraded(source)
    path = Path(source)
    try:
        if path.stat().st_size > _MAX_FILE:
            raise FileFormatError(f"{path} is larger than 2 GiB, more than a protobuf message can be")
        data = path.read_bytes()
    except OSError as problem:
        raise FileFormatError(f"{path} cannot be read: {problem.strerror}") from None
    try:
        if is_text_net(data, path.suffix):
            return upgraded(parse_text("NetParameter", text_of_bytes(data), str(path)))
        return upgraded(decode("NetParameter", data))
    except FileFormatError as problem:
        raise FileFormatError(str(problem) if str(problem).startswith(str(path)) else f"{path}: {problem}") from None


class CaffeGraph(Graph):
    """A Caffe net as a Graph: parameters `layer.weight`, `layer.bias`..., values named like blobs.

    Where a blob is changed in place, its name means the last version (the first, for a blob that is fed); see `assembly.blobs`.
    New input sizes are checked layer by layer, against the stored weights and the limits, before anything runs.
    """

    def __init__(self, assembly: Assembly, arrays: Mapping[str, Any], limits: Limits, state: Mapping[str, Any]) -> None:
        trained = {name for name, declared in assembly.parameters.items() if declared.trained}
        super().__init__(
            assembly.nodes,
            assembly.inputs,
            assembly.outputs,
            parameters={name: array for name, array in arrays.items() if name in trained},
            buffers={name: array for name, array in arrays.items() if name not in trained},
            constants=assembly.constants,
            updates=assembly.updates,
            name=assembly.net.name,
        )
        self.assembly, self.limits, self._state_rules = assembly, limits, dict(state)
        self._filled = set(arrays)  # arrays that no file has given yet
        self.train(assembly.phase == "TRAIN")

    def resized(self, input_shapes: Mapping[str, tuple[int, ...]]) -> Assembly:
        """The assembly for other input sizes. Raises ShapeError where a layer's weights do not fit them."""
        known = {item.name: self.assembly.shapes[item.name] for item in self.assembly.inputs}
        fresh = assemble(self.assembly.net, **self._state_rules, input_shapes=known | dict(input_shapes), limits=self.limits)
        for name, declared in fresh.parameters.items():
            if declared.shape != self.assembly.parameters[name].shape:
                raise ShapeError(
                    f"layer {declared.layer!r}: its blob {name!r} has shape {self.assembly.parameters[name].shape}, "
                    f"these inputs need {declared.shape}"
                )
        return fresh

    def run(self, feeds: Mapping[str, Any], fetch: Sequence[str] | None = None, **options: Any) -> dict[str, Any]:
        """As Graph.run."""
        shapes = {name: tuple(np.shape(array_of(value))) for name, value in feeds.items()}
        known = self.assembly.shapes
        if any(name in known and known[name] != shape for name, shape in shapes.items()):
            self.assembly = self.resized({name: shape for name, shape in shapes.items() if name in known})
        return super().run(feeds, fetch, **options)

    @property
    def unread(self) -> list[str]:
        """The fields of the net and its layers that are not known here: kept and written back, and without effect."""
        found = unread_fields(self.assembly.net)
        for layer in self.assembly.layers:
            found += [f"layer {layer.name!r}: {field}" for field in unread_fields(layer)]
        return found

    @property
    def missing(self) -> list[str]:
        """The layers with blobs that no file has given: they hold what their fillers made."""
        return [layer for layer, values in self.assembly.layer_blobs.items() if self._filled.intersection(values)]

    def array(self, name: str) -> Any:
        """The stored array of a parameter or buffer."""
        return self.weights[name].data if name in self.weights else self.state[name]

    def put(self, name: str, array: Any) -> None:
        """Exchange the stored array of a parameter or buffer."""
        if name in self.weights:
            self.weights[name].data = array
        else:
            self.state[name] = np.asarray(array, self.state[name].dtype).reshape(self.state[name].shape)

    def given(self, names: Iterable[str]) -> None:
        """Count these parameters and buffers as given by a file."""
        self._filled -= set(names)

    def copy_weights(self, source: Source) -> list[str]:
        """Take the blobs of layers of the same names (a caffemodel's, or an HDF5 file's); gives the layers that have blobs here and none there.

        Raises: FileFormatError where a layer has another number of blobs, ShapeError where shapes differ; nothing is taken then.
        """
        if not isinstance(source, Message) and hdf5.is_hdf5(source):
            fresh, found = self._of_hdf5(source)
        else:
            fresh, found = self._of_net(read_net(source))
        for value, array in fresh.items():
            self.put(value, array)
        self.given(fresh)
        return [name for name, values in self.assembly.layer_blobs.items() if values and name not in found]

    def _of_net(self, net: Message) -> tuple[dict[str, Any], Collection[str]]:
        """The arrays of a net for parameters and buffers here, and the names of the layers that it has."""
        found: dict[str, Message] = {layer.name: layer for layer in net.layer if layer.name in self.assembly.layer_blobs}
        fresh: dict[str, Any] = {}
        for name, layer in found.items():
            values = self.assembly.layer_blobs[name]
            if not values or not layer.has("blobs"):
                continue
            if len(values) != len(layer.blobs):
                raise FileFormatError(f"layer {name!r} has {len(values)} blobs, the weights file has {len(layer.blobs)} for it")
            for value, blob in zip(values, layer.blobs, strict=True):
                fresh[value] = _stored(blob, self.assembly.parameters[value].shape, name)
        return fresh, found

    def owned(self) -> dict[str, list[str]]:
        """The blobs of each layer that no other layer owns."""
        parameters = self.assembly.parameters
        blobs = self.assembly.layer_blobs.items()
        return {layer: [name for name in names if parameters[name].layer == layer] for layer, names in blobs}

    def _of_hdf5(self, path: str | PathLike[str]) -> tuple[dict[str, Any], Collection[str]]:
        parameters, own = self.assembly.parameters, self.owned()
        wanted = {
            layer: [parameters[name].shape if name in own[layer] else None for name in names]
            for layer, names in self.assembly.layer_blobs.items()
        }
        found = hdf5.read_weights(path, wanted)
        pairs = [pair for layer, arrays in found.items() for pair in zip(self.assembly.layer_blobs[layer], arrays, strict=True)]
        return {name: np.asarray(array, np.float32) for name, array in pairs if array is not None}, found

    def hdf5_bytes(self, diffs: Mapping[str, Any] | None = None) -> bytes:
        """The present weights (and their diffs by name) as an HDF5 file. Raises: FileFormatError without h5py."""
        table, own = self.assembly.layer_blobs, self.owned()
        data = {layer: [self.array(name) if name in own[layer] else None for name in names] for layer, names in table.items()}
        slopes = None if diffs is None else {layer: [diffs[name] for name in names] for layer, names in table.items()}
        return hdf5.weights_bytes(data, slopes)

    def to_message(self, *, diffs: Mapping[str, Any] | None = None, weights: bool = True) -> Message:
        """The net with its present weights (or as a description, without), as a NetParameter."""
        net = self.assembly.net.copy()
        net.layer = None
        for layer in self.assembly.layers:
            kept = layer.copy()
            if weights:
                names = self.assembly.layer_blobs[layer.name]
                kept.blobs = [blob_of_array(self.array(name), (diffs or {}).get(name)) for name in names]
            net.add("layer", kept)
        return net


def _stored(blob: Message, wanted: tuple[int, ...], layer: str) -> Any:
    stated = blob_shape(blob)
    if not fits(stated, wanted):
        raise ShapeError(f"layer {layer!r}: the file's blob has shape {stated}, the net needs {wanted}")
    with np.errstate(over="ignore"):
        return array_of_blob(blob).astype(np.float32).reshape(wanted)


def load(
    model: Source,
    weights: Source | None = None,
    *,
    phase: str = "TEST",
    level: int | None = None,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    python_layers: Mapping[str, type] | None = None,
    python: PythonHosts | None = None,
) -> CaffeGraph:
    """A Caffe net as a Graph (an nn.Module): `load("deploy.prototxt", "net.caffemodel")`, or a caffemodel alone.

    The weights may be HDF5, too (`net.caffemodel.h5`; the package h5py reads it).

    Layers are chosen by phase ("TEST" or "TRAIN"), level (default: what the file's `state` says, or 0) and stages (and those of the
    file's `state`). Blobs that no file gives start from their fillers; such layers are listed in `missing`. `seed` makes them, and what
    Dropout and DummyData draw in each pass, repeatable. `input_shapes` replaces sizes in the file.

    python_layers: the classes (of preimage.caffe.Layer) that Python layers of the net may run, by the names that it has for them,
    `{"my_layers.Scale": Scale}`. A layer whose class is not among them is refused: no code is imported because a net names it.
    python: in place of that, what makes hosts of such layers itself, as preimage.caffe.Net does.

    Raises: FileFormatError for a file that is not what it should be (with line or byte, and layer), ShapeError for sizes that
    do not fit or are beyond `limits`.
    """
    if phase.upper() not in ("TEST", "TRAIN"):
        raise FileFormatError(f"phase must be 'TEST' or 'TRAIN', got {phase!r}")
    if python_layers is not None:
        python = Hosts(("TRAIN", "TEST").index(phase.upper()), python_layers)
    net, limits = read_net(model), limits or Limits()
    folder = None if isinstance(model, Message) else str(Path(model).parent)
    level = int(net.state.level) if level is None else level
    rules = {"phase": phase.upper(), "level": level, "stages": (*net.state.stage, *stages), "folder": folder, "python": python}
    rules["rng"] = np.random.default_rng([seed, 1])
    assembly = assemble(net, **rules, input_shapes=input_shapes, limits=limits)  # type: ignore[arg-type]
    names = [assembly.blob_of[item.name] for item in assembly.inputs]
    if unknown := [name for name in input_shapes or {} if name not in names]:
        raise FileFormatError(f"the net has no input {unknown[0]!r}; its inputs: {names}")
    known = {layer.name for layer in assembly.layers if layer.has("blobs")}
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, declared in assembly.parameters.items():
        given = declared.layer in known
        if given:
            arrays[name] = np.zeros(declared.shape, np.float32)
        elif declared.start is not None:
            arrays[name] = np.array(declared.start, np.float32)
        else:
            arrays[name] = fill(declared.filler, declared.shape, rng)
    assembly.net, assembly.layers = _without_blobs(net), [_bare(layer) for layer in assembly.layers]
    graph = CaffeGraph(assembly, arrays, limits, rules)
    if python_layers is not None:
        _show_arrays(graph)
    if known:
        graph.copy_weights(net)
    if weights is not None:
        graph.copy_weights(weights)
    return graph


def _show_arrays(graph: CaffeGraph) -> None:
    """Let the blobs of Python layers show the arrays of the graph, and tell the layers which of their bottoms need diffs."""
    for node in graph.nodes:
        if node.op == "caffe_python":
            blobs = node.held("host", Host).layer.blobs
            for blob, name in zip(blobs, graph.assembly.layer_blobs[node.layer], strict=True):
                blob.attach(partial(graph.array, name))
    propagation(graph.assembly, every=True)


def _without_blobs(net: Message) -> Message:
    """The description alone: the arrays live in the graph."""
    bare = net.copy()
    for layer in bare.layer:
        layer.blobs = None
    return bare


def _bare(layer: Message) -> Message:
    if not layer.has("blobs"):
        return layer
    out = layer.copy()
    out.blobs = None
    return out


def save(graph: CaffeGraph, path: str | PathLike[str], *, overwrite: bool = True) -> None:
    """Write the net: its description as text for a `.prototxt`, its weights for a `.h5` (HDF5), else both, binary, as a `.caffemodel`.

    The file appears whole or not at all. Raises: OutputError.
    """
    write_file(path, graph_writer(graph, path), overwrite=overwrite)


def _is_text_name(path: str | PathLike[str]) -> bool:
    return Path(path).suffix.lower() in _TEXT_ENDINGS


def write_net(net: Message, path: str | PathLike[str], *, overwrite: bool = True) -> None:
    """Write a NetParameter, whole or not at all: text for a `.prototxt`, else binary. Raises: OutputError."""
    write_file(path, _net_bytes(net, path), overwrite=overwrite)


def _net_bytes(net: Message, path: str | PathLike[str]) -> bytes:
    return format_text(net).encode("utf-8", "surrogateescape") if _is_text_name(path) else encode(net)


def graph_writer(graph: CaffeGraph, path: str | PathLike[str]) -> Callable[[BinaryIO], object]:
    """The function that writes a net to an open file as `save` would to `path`."""
    if Path(path).suffix.lower() in _HDF5_ENDINGS:
        data = graph.hdf5_bytes()
    else:
        data = _net_bytes(graph.to_message(weights=not _is_text_name(path)), path)
    return lambda file: file.write(data)
