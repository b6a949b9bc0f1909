"""Python layers: the class that they derive from, its blobs, and what runs one in a net. Nothing here imports code that a net names."""

from preimage.io.caffe.python_layers.blob import Blob
from preimage.io.caffe.python_layers.host import Host, Hosts, call, propagation
from preimage.io.caffe.python_layers.layer import BlobVec, Layer, LayerError

__all__ = ["Blob", "BlobVec", "Host", "Hosts", "Layer", "LayerError", "call", "propagation"]
