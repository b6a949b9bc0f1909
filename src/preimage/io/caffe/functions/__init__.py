"""Words of graphs that only Caffe has: pooling by its sizes, its losses, the boxes of SSD and YOLO, layers of forks."""

from preimage.io.caffe.functions import basic, forks, found, loss, multibox, shapes, ssd  # noqa: F401 - words register themselves
