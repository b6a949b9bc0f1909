"""Small ONNX models for tests: of one node or a few, with stored inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import preimage as pre
from preimage.io import onnx as onnx_io


def model(
    nodes: Sequence[Any], feeds: Mapping[str, Any], stored: Mapping[str, Any] | None = None, outputs: str = "y", opset: int = 21,
) -> Any:  # fmt: skip
    """The ModelProto of nodes whose inputs are arrays like `feeds`; the outputs have no declared type."""
    inputs = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()]
    outs = [helper.make_empty_tensor_value_info(key) for key in outputs.split()]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in (stored or {}).items()]
    graph = helper.make_graph(list(nodes), "g", inputs, outs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def ours(proto: Any, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs by preimage."""
    graph = onnx_io.load(proto.SerializeToString())
    with pre.no_grad():
        found = graph.run(feeds)
    return [np.asarray(found[key]) for key in graph.outputs]


def onnxruntimes(proto: Any, feeds: Mapping[str, Any]) -> list[Any] | None:
    """The outputs by onnxruntime; None where it has no such operator."""
    ort = pytest.importorskip("onnxruntime")
    from onnx import shape_inference

    typed = shape_inference.infer_shapes(proto)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(typed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds
        if "NOT_IMPLEMENTED" in str(error) or "Could not find an implementation" in str(error):
            return None
        raise
    return [np.asarray(v) for v in session.run(None, dict(feeds))]
