"""Graphs and modules as ONNX files: `save`, `to_bytes`, `from_graph`. Each module beside `graph` has the rows of one kind of word."""

from preimage.io.onnx.export.graph import OPSET, from_graph, save, to_bytes

__all__ = ["OPSET", "from_graph", "save", "to_bytes"]
