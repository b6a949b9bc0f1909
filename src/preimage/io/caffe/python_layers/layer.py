"""Layer: one layer of a net as pycaffe shows it, and the class that Python layers derive from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from preimage.errors import PreimageError
from preimage.io.caffe.python_layers.blob import Blob

__all__ = ["BlobVec", "Layer", "LayerError"]


class LayerError(PreimageError, RuntimeError):
    """A Python layer that cannot be found, made or used."""


class BlobVec(list[Blob]):
    """The blobs of a layer."""

    def add_blob(self, *shape: int) -> None:
        """A further blob of a shape, filled with zeros; a Python layer adds its parameters in `setup`."""
        fresh = Blob(())
        fresh.reshape(*shape)
        self.append(fresh)


class Layer:
    """One layer of a net: its `type` and its `blobs`. Derive from it to write a Python layer:

        class Scale(caffe.Layer):
            def setup(self, bottom, top):  # once; parameters are added here
                self.factor = float(self.param_str)

            def reshape(self, bottom, top):  # before each forward pass
                top[0].reshape(*bottom[0].data.shape)

            def forward(self, bottom, top):
                top[0].data[...] = self.factor * bottom[0].data

            def backward(self, top, propagate_down, bottom):  # adds to the diffs of its own blobs, sets those of the bottoms
                if propagate_down[0]:
                    bottom[0].diff[...] = self.factor * top[0].diff

    A net names it: `layer { type: "Python" ... python_param { module: "my_layers" layer: "Scale" param_str: "10" } }`. `preimage.io.caffe.load`
    runs it where it is given, `python_layers={"my_layers.Scale": Scale}`; `preimage.caffe.Net` imports the module otherwise.
    `param_str` and `phase` (caffe.TRAIN or caffe.TEST) are set before `setup`. Whatever a method raises reaches the caller.
    """

    type = "Python"
    param_str = ""
    phase = 0

    def __init__(self, layer_param: Any = None, *_: Any) -> None:
        self.blobs = BlobVec()

    @classmethod
    def _of(cls, type_name: str, blobs: Iterable[Blob]) -> Layer:
        """A layer that is no Python layer."""
        made = Layer()
        made.type, made.blobs = type_name, BlobVec(blobs)
        return made

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Nothing to set up."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the tops their shapes."""
        raise LayerError(f"{type(self).__name__} has no method reshape")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Fill the data of the tops."""
        raise LayerError(f"{type(self).__name__} has no method forward")

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Fill the diffs of the bottoms for which propagate_down says so, and add to those of the layer's own blobs."""
        raise LayerError(f"{type(self).__name__} has no method backward")

    def __repr__(self) -> str:
        return f"<Layer {self.type} with {len(getattr(self, 'blobs', ()))} blobs>"
