"""ONNX files: read to a Graph of our ops, and written from our modules and graphs. Writing needs the package `onnx`, reading does not."""

from preimage.io.onnx.importer import load, supported_ops, to_graph
from preimage.io.onnx.model import read_model

__all__ = ["load", "read_model", "supported_ops", "to_graph"]
