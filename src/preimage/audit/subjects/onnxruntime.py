"""ONNX Runtime on the CPU: the operators Conv and ConvTranspose, each case as a model of one node."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array, InstalledSubject
from preimage.audit.subjects.one_node import cannot, one_node, script

__all__ = ["OnnxruntimeSubject"]


class OnnxruntimeSubject(InstalledSubject):
    """conv is Conv, conv_transpose is ConvTranspose; there are no gradients."""

    packages = ("onnxruntime", "onnx")
    dtypes = ("float32",)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        if self.library is not None:
            self.library.set_default_logger_severity(4)

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        del dtype
        if result not in ("conv", "conv_transpose"):
            return "has no gradients"
        if result == "conv_transpose" and any(r >= s for r, s in zip(case.remainder, case.stride, strict=True)):
            return "it refuses an output_padding of at least the stride"
        return cannot(case, result)

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        session = _session(case.with_(label=""), result, bias is not None)
        feeds = dict(zip(("a", "w", "b"), (*operands, *(() if bias is None else (bias,))), strict=False))
        return np.asarray(session.run(None, {k: np.ascontiguousarray(v) for k, v in feeds.items()})[0])

    def product(self, a: Array, b: Array) -> Array:
        return _alone("MatMul", a, b)

    def total(self, x: Array, axes: tuple[int, ...]) -> Array:
        return _alone("ReduceSum", x, np.array(axes, np.int64), keepdims=0)

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        return script(case, result, operands, bias) + (
            "\nimport onnxruntime"
            "\ngot = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider']).run(None, feeds)[0]"
        )


@lru_cache(maxsize=8)
def _session(case: Case, result: str, bias: bool) -> Any:
    return _started(one_node(case, result, bias))


def _started(model: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _alone(op: str, *operands: Array, **attributes: Any) -> Array:
    """A node of that operator, of these inputs."""
    from onnx import helper

    feeds = {f"x{k}": a for k, a in enumerate(operands)}
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    result = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(operands[0].dtype), None)
    graph = helper.make_graph([helper.make_node(op, list(feeds), ["y"], **attributes)], "one", inputs, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return np.asarray(_started(model).run(None, feeds)[0])
