"""Layer types: each a row that reads a layer's message, works out the shapes of its tops and emits nodes (see `assemble`)."""

from preimage.io.caffe.layers import boxes, conv, forks, loss, pointwise, python, shape  # noqa: F401 - rows register themselves
