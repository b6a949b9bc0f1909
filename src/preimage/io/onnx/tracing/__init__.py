"""A Module written down as a Graph: its forward pass is run on an example, and every layer, operation and function is written as words.

    graph = trace(net, np.zeros((1, 3, 224, 224), np.float32))

recorder    who writes: the names of values, and the nodes that make them
layers      layers of preimage.nn as words: a row for each kind
operations  operations and functions as words: a row for each; indexing: `x[key]`; numpy_calls: NumPy on masks and indices
batches     the same forward pass on other batches, and what of the graph follows the batch's size
"""

from preimage.io.onnx.tracing.batches import trace

__all__ = ["trace"]
