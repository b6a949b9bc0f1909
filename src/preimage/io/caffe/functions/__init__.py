"""Words of graphs that only Caffe has: pooling by its sizes, its losses, the boxes of SSD."""

from preimage.io.caffe.functions import basic, loss, shapes, ssd  # noqa: F401 - words register themselves
