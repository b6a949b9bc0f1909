"""The row of Python layers: the net names a module and a class of it, whose code makes the tops.

Reading a net runs none of it: a caller that wants that (preimage.caffe.Net) gives `assemble` a function that makes a PythonHost of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from preimage.io.caffe.assemble import Context, Shape, layer_type

__all__ = ["PythonHost"]


class PythonHost(Protocol):
    """A Python layer in a net."""

    def shapes(self, bottoms: Sequence[Shape]) -> Sequence[Shape]:
        """The shapes of the tops for these of the bottoms."""

    def stored(self) -> Sequence[Any]:
        """The arrays of the layer's own blobs, as its set-up left them."""


@layer_type("Python")
def _python(context: Context) -> None:
    assert context.assembly.python is not None  # assemble refuses the layer without
    host = context.assembly.python(context.layer)
    for index, shape in enumerate(host.shapes(context.shapes)):
        context.top(shape, index)
    blobs = [context.blob(f"blob{index}", array.shape, start=array) for index, array in enumerate(host.stored())]
    context.emit("caffe_python", [*context.bottoms, *blobs], host=host)
