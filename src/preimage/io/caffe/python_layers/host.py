"""Python layers in a net: made, run forward and backward, and recorded as one operation of the DAG.

The operation takes the bottoms (and the layer's own parameters) joined into one vector and gives the tops joined, so that the layer's `backward`
is called once for all of them. A layer has blobs of its own for its bottoms and tops: what it writes there reaches nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, array_of, is_grad_enabled
from preimage.autograd.primitive import Primitive
from preimage.errors import OptionError
from preimage.io.caffe.assemble import Assembly, Shape
from preimage.io.caffe.python_layers.blob import Blob
from preimage.io.caffe.python_layers.layer import BlobVec, Layer, LayerError
from preimage.io.caffe.wire.message import Message
from preimage.io.graph import graph_op
from preimage.io.graph.facts import shapes_of

__all__ = ["Host", "Hosts", "call", "propagation"]


class Host:
    """One Python layer in a net, with its blobs. Calls of the layer's methods raise what those raise, with a note that names the layer."""

    def __init__(self, message: Message, phase: int, find: Callable[[Message], Any]) -> None:
        self.name, self.where = message.name, _where(message)
        self.layer = _instance(message, phase, find, self._noted)
        self.bottoms = [Blob(()) for _ in message.bottom]
        same = {blob: place for place, blob in enumerate(message.bottom)}
        self.tops = [self.bottoms[same[blob]] if blob in same else Blob(()) for blob in message.top]
        self.propagate = [True] * len(self.bottoms)
        self.needed = self.active = True
        self._ready = False

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The shapes of the tops for these of the bottoms; sets the layer up the first time."""
        for blob, shape in zip(self.bottoms, bottoms, strict=True):
            blob.reshape(*shape)
        with self._noted():
            if not self._ready:
                self.layer.setup(self.bottoms, self.tops)
                self._ready = True
            self.layer.reshape(self.bottoms, self.tops)
        return [blob.shape for blob in self.tops]

    def stored(self) -> list[Any]:
        """The arrays of the layer's own blobs."""
        return [blob.data for blob in self.layer.blobs]

    def forward(self, arrays: Sequence[Any]) -> list[Any]:
        """The tops for arrays of the bottoms."""
        for blob, array in zip(self.bottoms, arrays, strict=True):
            blob.receive(array)
        with self._noted():
            self.layer.reshape(self.bottoms, self.tops)
            self.layer.forward(self.bottoms, self.tops)
        return [blob.data.copy() for blob in self.tops]

    def backward(self, slopes: Sequence[Any]) -> list[Any]:
        """The diffs of the bottoms and of the layer's own blobs for those of the tops.

        Zeros where nothing needs them, or outside the layers that are run backwards. The layer adds to the diffs of its own blobs: they
        are handed on, and what was there before is there again.
        """
        own = list(self.layer.blobs)
        if not (self.needed and self.active):
            return [np.zeros(blob.shape, np.float32) for blob in (*self.bottoms, *own)]
        before = [blob.diff.copy() for blob in own]
        for blob in (*self.bottoms, *own):
            blob.receive_diff(None)
        for blob, slope in zip(self.tops, slopes, strict=True):
            blob.receive_diff(slope)
        with self._noted():
            self.layer.backward(self.tops, list(self.propagate), self.bottoms)
        found = [
            blob.diff.copy() if want else np.zeros(blob.shape, np.float32)
            for blob, want in zip(self.bottoms, self.propagate, strict=True)
        ]
        found += [blob.diff.copy() for blob in own]
        for blob, array in zip(own, before, strict=True):
            blob.receive_diff(array)
        return found

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(f"in the Python layer {self.name!r} ({self.where})")
            raise


class Hosts:
    """Makes the Host of each Python layer of a net, once: a net that gets other sizes keeps its layers.

    phase: 0 for TRAIN, 1 for TEST. classes: those that may be run, by "module.Layer" as nets name them. find: in place of classes, what
    looks a layer's class up; None of it means that there is none of that name.

    Raises: OptionError for classes that are no layers.
    """

    def __init__(
        self, phase: int, classes: Mapping[str, type] | None = None, find: Callable[[Message], Any] | None = None
    ) -> None:
        for name, given in (classes or {}).items():
            if not (isinstance(name, str) and "." in name):
                raise OptionError(f"python_layers: a key is 'module.Layer', as nets name it, got {name!r}")
            if not (isinstance(given, type) and issubclass(given, Layer)):
                raise OptionError(f"python_layers: {name!r} is {given!r}, no class derived from preimage.caffe.Layer")
        self.phase, self._classes, self._find = phase, classes, find
        self.made: dict[str, Host] = {}

    def allows(self, message: Message) -> bool:
        """Whether the class that a layer names may be run."""
        return self._classes is None or _where(message) in self._classes

    def __call__(self, message: Message) -> Host:
        if message.name not in self.made:
            self.made[message.name] = Host(message, self.phase, self._look_up)
        return self.made[message.name]

    def _look_up(self, message: Message) -> Any:
        if self._classes is not None:
            return self._classes[_where(message)]
        return None if self._find is None else self._find(message)


def _where(message: Message) -> str:
    return f"{message.python_param.module}.{message.python_param.layer}"


def _instance(message: Message, phase: int, find: Callable[[Message], Any], noted: Any) -> Layer:
    """The layer that python_param names. Raises: LayerError, and what finding and making it raise."""
    module, name = message.python_param.module, message.python_param.layer
    if not module or not name:
        raise LayerError(f"the Python layer {message.name!r} needs python_param {{ module: ... layer: ... }}")
    with noted():
        found = find(message)
    if not (isinstance(found, type) and issubclass(found, Layer)):
        what = f"{found!r}, no class derived from caffe.Layer" if found is not None else f"no such name in module {module!r}"
        raise LayerError(f"the Python layer {message.name!r} wants {module}.{name}: {what}")
    with noted():
        layer = found(message)
    if not isinstance(getattr(layer, "blobs", None), BlobVec):  # an __init__ that does not call ours
        layer.blobs = BlobVec()
    layer.param_str, layer.phase = message.python_param.param_str, phase
    return layer


# -- as an operation ---------------------------------------------------------------------------------------------------


def _forward(flat: Any, *, host: Host, shapes: tuple[Shape, ...]) -> Any:
    arrays = _parts(flat, shapes)[: len(host.bottoms)]
    return _joined(host.forward(arrays))


def _backward(g: Any, ans: Any, flat: Any, *, host: Host, shapes: tuple[Shape, ...]) -> Any:
    if isinstance(g, Tensor):
        raise LayerError(f"the Python layer {host.name!r} has no second derivatives")
    return _joined(host.backward(_parts(g, [blob.shape for blob in host.tops])))


_OPERATION = Primitive("caffe_python", _forward, [_backward], (), ())


def _parts(flat: Any, shapes: Sequence[Shape]) -> list[Any]:
    parts, start = [], 0
    for shape in shapes:
        stop = start + prod(shape)
        parts.append(ops.reshape(flat[start:stop], shape))
        start = stop
    return parts


def _joined(arrays: Sequence[Any]) -> Any:
    return np.concatenate([np.reshape(a, -1) for a in arrays]) if arrays else np.zeros(0, np.float32)


def call(host: Host, inputs: Sequence[Any]) -> list[Any]:
    """The tops for the bottoms and the layer's own blobs; recorded where those are Tensors."""
    if not is_grad_enabled() or not any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
        return host.forward([array_of(value) for value in inputs[: len(host.bottoms)]])
    shapes = tuple(tuple(np.shape(array_of(value))) for value in inputs)
    flat = _OPERATION(ops.concat([ops.reshape(value, (-1,)) for value in inputs]), host=host, shapes=shapes)
    return _parts(flat, [blob.shape for blob in host.tops])


@graph_op("caffe_python")
def _python(*inputs: Any, host: Host) -> Any:
    """The tops of a Python layer."""
    return tuple(call(host, inputs))


shapes_of("caffe_python")(lambda call: [None] * len(call.node.outputs))  # whatever the layer's own code says


# -- which bottoms get diffs -------------------------------------------------------------------------------------------


def propagation(assembly: Assembly, *, every: bool = False) -> None:
    """Tell each Python layer which of its bottoms need diffs: those that lead to parameters, or all with force_backward, as in Caffe.

    every: all for which propagate_down does not say otherwise, since the net's inputs may want gradients, too.
    """
    needed: dict[str, bool] = {}
    hosts: Mapping[str, Host] = {node.layer: node.held("host", Host) for node in assembly.nodes if node.op == "caffe_python"}
    for layer in assembly.layers:
        bottoms = [every or bool(assembly.net.force_backward) or needed.get(blob, False) for blob in layer.bottom]
        if layer.propagate_down:
            bottoms = [bool(value) for value in layer.propagate_down][: len(bottoms)] + bottoms[len(layer.propagate_down) :]
        learned = any(assembly.parameters[name].lr_mult != 0 for name in assembly.layer_blobs[layer.name])
        needed |= dict.fromkeys(layer.top, learned or any(bottoms))
        if layer.name in hosts:
            hosts[layer.name].propagate, hosts[layer.name].needed = bottoms, learned or any(bottoms)
