"""Net: a network with its blobs, as pycaffe shows it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

import preimage.io.caffe as files
from preimage import ops
from preimage.autograd import Tensor, array_of, enable_grad, grad, no_grad
from preimage.caffe.feeds import Feed
from preimage.caffe.imported import imported
from preimage.caffe.net_batches import NetBatches
from preimage.caffe.net_weights import NetWeights, readable
from preimage.caffe.state import TEST, TRAIN, next_seed
from preimage.errors import OptionError, ShapeError
from preimage.io.caffe.assemble import Assembly
from preimage.io.caffe.python_layers import Blob, Host, Hosts, Layer, call, propagation
from preimage.io.caffe.wire.message import Message
from preimage.io.graph import Node

__all__ = ["Net"]

Path = str | PathLike[str]


class Net(NetWeights, NetBatches):
    """`Net("deploy.prototxt", "net.caffemodel", caffe.TEST)`, or `Net("deploy.prototxt", caffe.TEST, level=0, stages=[...], weights=...)`.

    The first file is a net's description under any name, or a NetParameter. `input_shapes` gives sizes that it does not tell, `data` batches
    for each forward pass (see set_data). Python layers are imported by the names that the net has for them, as pycaffe does: give `Net` files
    that you trust, or `python_layers={"module.Layer": class}`; then nothing is imported and no other class is run.

    Fill `net.blobs["data"].data`, call `forward()`, read `net.blobs[...]`. `backward()` starts from the diffs of the outputs (losses have
    their loss_weight there) and leaves the gradient in every blob's diff; those of parameters add up until clear_param_diffs().

    Raises: MissingFileError (also a RuntimeError), FileFormatError, ShapeError, OptionError.
    """

    def __init__(self, network_file: Path | files.Message, *arguments: Any, **options: Any) -> None:
        given = _arguments(arguments, options)
        for source in (network_file, given["weights"]):
            if isinstance(source, str | PathLike):
                readable(source)
        weights, self._feed = given["weights"], None if given["data"] is None else Feed(given["data"])
        self._graph = files.load(
            network_file,
            weights,
            phase="TRAIN" if given["phase"] == TRAIN else "TEST",
            level=given["level"],
            stages=given["stages"] or (),
            input_shapes=dict(given["input_shapes"] or {}) | (self._feed.shapes() if self._feed else {}),
            seed=next_seed(),
            python=Hosts(given["phase"], given["python_layers"], imported),
        )
        self._describe(self._graph.assembly)
        self._recorded: dict[str, Any] = {}
        self._record = given["phase"] == TRAIN
        self._set_loss_diffs()
        self._fill_constants()

    def _describe(self, assembly: Assembly) -> None:
        """The net's blobs, parameters and layers under pycaffe's names."""
        self._first = _first_versions(assembly)
        self.blobs: OrderedDict[str, Blob] = OrderedDict(
            (blob, Blob(assembly.shapes[value])) for blob, value in assembly.blobs.items()
        )
        stored = {name: Blob(p.shape, partial(self._graph.array, name)) for name, p in assembly.parameters.items()}
        self._stored = stored
        self._hosts: dict[str, Host] = {n.layer: n.held("host", Host) for n in self._graph.nodes if n.op == "caffe_python"}
        for layer, host in self._hosts.items():
            for index, name in enumerate(assembly.layer_blobs[layer]):
                if assembly.parameters[name].layer == layer:  # the blob that the layer made, and may hold
                    stored[name] = host.layer.blobs[index]
                    stored[name].attach(partial(self._graph.array, name))
                host.layer.blobs[index] = stored[name]
        propagation(assembly)
        self._layer_names = list(assembly.layer_tops)
        self._order = {name: position for position, name in enumerate(self._layer_names)}
        self.layers: list[Layer] = [
            self._hosts[layer.name].layer
            if layer.name in self._hosts
            else Layer._of(layer.type, [stored[name] for name in assembly.layer_blobs[layer.name]])
            for layer in assembly.layers
        ]
        self.params: OrderedDict[str, list[Blob]] = OrderedDict(
            (name, layer.blobs) for name, layer in zip(self._layer_names, self.layers, strict=True) if layer.blobs
        )
        self.layer_dict = OrderedDict(zip(self._layer_names, self.layers, strict=True))
        self.top_names = OrderedDict(assembly.layer_tops)
        self.bottom_names = OrderedDict(assembly.layer_bottoms)
        self.inputs = [assembly.blob_of[item.name] for item in assembly.inputs]
        self.outputs = [assembly.blob_of[value] for value in assembly.outputs]
        self.blob_loss_weights = OrderedDict(
            (blob, assembly.loss_weights.get(value, 0.0)) for blob, value in assembly.blobs.items()
        )

    def _fill_constants(self) -> None:
        """DummyData that is constant is made once; what is written into its blob afterwards stays, as in Caffe."""
        nodes = [
            n
            for n in self._graph.nodes
            if n.op == "dummy_data" and (n.attributes["filler"] is None or n.held("filler", Message).type == "constant")
        ]
        self._constant = {value for node in nodes for value in node.outputs}
        with no_grad():
            made = self._graph.run_nodes(nodes, {})
        for value, array in made.items():
            self.blobs[self._graph.assembly.blob_of[value]].receive(array)

    # -- sizes ---------------------------------------------------------------------------------------------------------

    def _set_loss_diffs(self) -> None:
        for blob, weight in self.blob_loss_weights.items():
            if weight:
                self.blobs[blob].diff[...] = weight

    def reshape(self) -> None:
        """Bring all blobs to the sizes that the input blobs now have."""
        shapes = {name: self.blobs[name].shape for name in self.inputs}
        if all(self._graph.assembly.shapes[name] == shape for name, shape in shapes.items()):
            return
        assembly = self._graph.assembly = self._graph.resized(shapes)
        for blob, value in assembly.blobs.items():
            self.blobs[blob].reshape(*assembly.shapes[value])
        self._set_loss_diffs()

    # -- forward -------------------------------------------------------------------------------------------------------

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **inputs: Any
    ) -> dict[str, Any]:
        """Run the layers `start` .. `end` (inclusive). Gives the outputs (or the tops of `end`) and the `blobs` asked for."""
        if inputs:
            if set(inputs) != set(self.inputs):
                raise OptionError(f"inputs {sorted(inputs)} given, the net's are {self.inputs}")
            for name, value in inputs.items():
                if np.shape(value) != self.blobs[name].shape:
                    raise ShapeError(
                        f"input {name!r} has shape {np.shape(value)}, the blob has {self.blobs[name].shape}; reshape it"
                    )
                self.blobs[name].data[...] = value
        first, last = self._span(start, end)
        if first == 0 and not inputs:
            self._fill()
        self.reshape()
        self._run(first, last)
        wanted = self.outputs if end is None else self.top_names[end]
        return {name: self.blobs[name].data for name in dict.fromkeys([*wanted, *(blobs or [])])}

    def _span(self, start: str | None, end: str | None) -> tuple[int, int]:
        for name in (start, end):
            if name is not None and name not in self._order:
                raise OptionError(f"there is no layer {name!r}; layers: {', '.join(self._layer_names[:20])} ...")
        return self._order[start] if start else 0, self._order[end] if end else len(self._layer_names) - 1

    def _run(self, first: int, last: int, *, again: bool = False) -> None:
        """Run the nodes of layers first .. last on the blobs' present data, and hand the results to the blobs.

        again: for the record only; layers that make data of nothing do not make new ones.
        """
        nodes = [
            n for n in self._graph.nodes if first <= self._order[n.layer] <= last and not self._constant.intersection(n.outputs)
        ]
        if again:
            nodes = [n for n in nodes if n.inputs or not n.outputs]
        made = {value for node in nodes for value in node.outputs}
        needed = [value for node in nodes for value in node.inputs if value and value not in made]
        blob_of = self._graph.assembly.blob_of
        feeds: dict[str, Any] = {
            value: self.blobs[blob_of[value]].data.copy() for value in dict.fromkeys(needed) if value in blob_of
        }
        with enable_grad() if self._record else no_grad():
            if self._record:
                feeds = {value: Tensor(array, requires_grad=True) for value, array in feeds.items()}
            values = self._values(nodes, feeds)
        self._recorded = values if self._record else {}
        for blob, value in self._graph.assembly.blobs.items():
            if value in made:
                self.blobs[blob].receive(array_of(values[value]))

    def _values(self, nodes: Sequence[Node], feeds: dict[str, Any]) -> dict[str, Any]:
        """Every value that the nodes make, and those that they were given."""
        values, waiting = dict(feeds), []
        for node in nodes:
            if node.op != "caffe_python":
                waiting.append(node)
                continue
            values |= self._graph.run_nodes(waiting, values)
            waiting = []
            stored = self._graph.weights
            inputs = [values[name] if name in values else stored[name] for name in node.inputs]
            values |= zip(node.outputs, call(node.held("host", Host), inputs), strict=True)
        return values | self._graph.run_nodes(waiting, values)

    # -- backward ------------------------------------------------------------------------------------------------------

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **tops: Any
    ) -> dict[str, Any]:
        """Run the layers `start` .. `end` backwards. Gives the diffs of the inputs (or the bottoms of `end`) and of `diffs`."""
        if tops:
            if set(tops) != set(self.outputs):
                raise OptionError(f"diffs of {sorted(tops)} given, the net's outputs are {self.outputs}")
            for name, value in tops.items():
                self.blobs[name].diff[...] = value
        last, first = self._span(end, start)
        self._recall(first)
        self._sweep(first, last)
        wanted = self.inputs if end is None else self.bottom_names[end]
        return {name: self.blobs[name].diff for name in dict.fromkeys([*wanted, *(diffs or [])])}

    def _recall(self, first: int) -> None:
        """Record a pass, where the last one was not recorded: from now on every pass is."""
        if not self._record or not self._recorded:
            self._record = True
            self._run(0, first, again=True)

    def _sweep(self, first: int, last: int) -> None:
        assembly, recorded = self._graph.assembly, self._recorded
        seeds: dict[str, Any] = {}
        ends = assembly.blobs.items() if first == len(self._layer_names) - 1 else ()
        for blob, value in ends:
            if value in assembly.outputs:
                seeds[value] = self.blobs[blob].diff
        for blob in self.top_names[self._layer_names[first]]:
            seeds[assembly.blobs[blob]] = self.blobs[blob].diff
        for value, weight in assembly.loss_weights.items():
            if value in recorded:
                seeds.setdefault(value, np.full(np.shape(array_of(recorded[value])), weight, np.float32))
        for layer, host in self._hosts.items():
            host.active = last <= self._order[layer] <= first
        outputs = [v for v in seeds if isinstance(recorded.get(v), Tensor) and recorded[v].requires_grad]
        outputs = [v for v in outputs if self._hosts or seeds[v].any()]  # a Python layer may add to diffs whatever comes
        blobs = {blob: value for blob, value in self._first.items() if isinstance(recorded.get(value), Tensor)}
        blobs = {b: v for b, v in blobs.items() if recorded[v].requires_grad and b not in self._untouched(first, last, outputs)}
        trained = self._graph.weights
        targets = [recorded[value] for value in blobs.values()] + list(trained.values())
        found: list[Any] = [None] * len(targets)
        if outputs:
            found = grad(
                [recorded[v] for v in outputs], targets, [seeds[v] for v in outputs], retain_graph=True, allow_unused=True
            )
        arrays = [None if g is None else array_of(g) for g in found]
        for blob, array in zip(blobs, arrays, strict=False):
            self.blobs[blob].receive_diff(array)
        within = {name for layer in self._layer_names[last : first + 1] for name in assembly.layer_blobs[layer]}
        for name, array in zip(trained, arrays[len(blobs) :], strict=True):
            if name in within:
                self._stored[name].receive_diff(array, add=True)

    def _untouched(self, first: int, last: int, outputs: Sequence[str]) -> set[str]:
        """Blobs whose diff a partial backward leaves alone: those of layers outside first .. last, and the seeds themselves."""
        inside = {blob for layer in self._layer_names[last : first + 1] for blob in self.bottom_names[layer]}
        kept = set(self.blobs) - inside
        return kept | {
            blob for blob, value in self._graph.assembly.blobs.items() if value in outputs and self._first[blob] == value
        }

    def clear_param_diffs(self) -> None:
        """Set the diffs of all parameters to zero."""
        for blob in self._stored.values():
            blob.receive_diff(None)

    # -- by position, as pycaffe's own code and some scripts ask -----------------------------------------------------------

    _blob_names = property(lambda self: list(self.blobs), doc="The names of the blobs.")
    _blobs = property(lambda self: list(self.blobs.values()), doc="The blobs.")
    _blob_loss_weights = property(lambda self: list(self.blob_loss_weights.values()), doc="The loss weight of each blob.")
    _inputs = property(lambda self: self._positions(self.inputs), doc="The positions of the inputs among the blobs.")
    _outputs = property(lambda self: self._positions(self.outputs), doc="The positions of the outputs among the blobs.")

    def _positions(self, names: Sequence[str]) -> list[int]:
        order = list(self.blobs)
        return [order.index(name) for name in names]

    def _top_ids(self, layer: int) -> list[int]:
        return self._positions(self.top_names[self._layer_names[layer]])

    def _bottom_ids(self, layer: int) -> list[int]:
        return self._positions(self.bottom_names[self._layer_names[layer]])

    def _loss(self) -> float:
        """The sum of what the blobs with a loss weight hold."""
        return sum(weight * float(ops.sum(self.blobs[blob].data)) for blob, weight in self.blob_loss_weights.items() if weight)

    def _forward(self, first: int, last: int) -> float:
        """Run the layers at positions first .. last; gives the loss."""
        self.forward(start=self._layer_names[first], end=self._layer_names[last])
        return self._loss()

    def _backward(self, first: int, last: int) -> None:
        """Run the layers at positions first .. last (first >= last) backwards."""
        self.backward(start=self._layer_names[first], end=self._layer_names[last])


_DEFAULTS: dict[str, Any] = {"phase": TEST, "level": 0} | dict.fromkeys(
    ("stages", "weights", "input_shapes", "data", "python_layers")
)


def _arguments(arguments: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """pycaffe's ways: (file, weights, phase) and (file, phase, level, stages, weights), the latter also by name."""
    if unknown := set(options) - set(_DEFAULTS):
        raise OptionError(f"Net does not know {sorted(unknown)}; its options: {', '.join(_DEFAULTS)}")
    old = bool(arguments) and not isinstance(arguments[0], int)
    names = ("weights", "phase") if old else ("phase", "level", "stages", "weights")
    given = _DEFAULTS | dict(zip(names, arguments, strict=False)) | dict(options)
    if given["phase"] not in (TRAIN, TEST) or len(arguments) > len(names):
        raise OptionError(f"Net takes a file, weights and a phase (caffe.TRAIN or caffe.TEST), got {arguments}")
    if isinstance(given["stages"], str):
        raise OptionError(f"stages must be a list of names, got {given['stages']!r}; wanted [{given['stages']!r}]")
    return given


def _first_versions(assembly: Assembly) -> dict[str, str]:
    """For each blob the value it holds first: in-place layers leave the gradient of that one in its diff."""
    first: dict[str, str] = {}
    for value, blob in assembly.blob_of.items():
        first.setdefault(blob, value)
    return first
