"""All entries."""

from entries_graphs import CAFFE, ONNX
from entries_nn import LAYERS, LOSSES, OPTIMISERS
from entries_ops import ENTRIES as OPERATIONS

ENTRIES = [*OPERATIONS, *LAYERS, *LOSSES, *OPTIMISERS, *ONNX, *CAFFE]
