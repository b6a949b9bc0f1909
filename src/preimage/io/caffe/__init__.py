"""Caffe's files: nets (`.prototxt`, `.caffemodel`), weights and mean images, without Caffe and without protobuf.

`load` gives a Graph that runs, differentiates and trains; `save` writes one back. The pycaffe-shaped face is preimage.caffe.
"""

from preimage.io.caffe import functions, layers  # noqa: F401 - their rows register themselves
from preimage.io.caffe.assemble import LAYERS, Limits
from preimage.io.caffe.blobs import read_mean, write_mean
from preimage.io.caffe.load import CaffeGraph, graph_writer, load, read_net, save, write_net
from preimage.io.caffe.wire.message import Message
from preimage.io.caffe.wire.text import format_text, parse_text

__all__ = [
    "LAYERS",
    "CaffeGraph",
    "Limits",
    "Message",
    "format_text",
    "graph_writer",
    "load",
    "parse_text",
    "read_mean",
    "read_net",
    "save",
    "write_mean",
    "write_net",
]
