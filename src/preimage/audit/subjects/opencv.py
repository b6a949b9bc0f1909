"""OpenCV's dnn module on the CPU: Convolution and Deconvolution layers, read from an ONNX model of one node."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array, Refused, Subject
from preimage.audit.subjects.one_node import cannot, one_node, script

__all__ = ["OpencvSubject"]


class OpencvSubject(Subject):
    """cv2.dnn.readNetFromONNX; the weights are constants of the model, as it wants them."""

    dtypes = ("float32",)

    def __init__(self, name: str) -> None:
        self.name = name
        self._reason: str | None = None
        try:
            import cv2
            import onnx  # noqa: F401
        except ImportError as error:
            self._reason = f"not installed ({error})"
        else:
            self.cv2: Any = cv2

    @property
    def spec(self) -> str:
        return self.name

    def unavailable(self) -> str | None:
        return self._reason

    def refuses(self, case: Case, result: str, dtype: str) -> str | None:
        del dtype
        if result not in ("conv", "conv_transpose"):
            return "has no gradients"
        if case.ndim not in (1, 2, 3):
            return "has 1 to 3 spatial axes"
        if result == "conv_transpose" and case.ndim != 2:
            return "its deconvolution has two axes"
        if result == "conv_transpose" and (
            max(case.dilation) > 1 or any(r >= s for r, s in zip(case.remainder, case.stride, strict=True))
        ):
            return "its deconvolution has no dilation"
        return cannot(case, result)

    def run(self, case: Case, result: str, *operands: Array, bias: Array | None = None) -> Array:
        model = one_node(case, result, bias is not None, operands[1], bias)
        net = self.cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
        net.setInput(np.ascontiguousarray(operands[0]))
        try:
            return np.array(net.forward())
        except self.cv2.error as error:
            if error.code == self.cv2.Error.StsNotImplemented:
                raise Refused(error.err) from None
            raise

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        return script(case, result, operands, bias) + (
            "\nimport cv2\nfrom onnx import numpy_helper"
            "\nfor name in [n for n in feeds if n != 'a']:"
            "\n    graph.initializer.append(numpy_helper.from_array(np.asarray(feeds[name]), name))"
            "\nmodel = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)"
            "\nnet = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))"
            "\nnet.setInput(np.asarray(feeds['a']))"
            "\ngot = net.forward()"
        )
