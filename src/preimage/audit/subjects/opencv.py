"""OpenCV's dnn module on the CPU: Convolution and Deconvolution layers, read from an ONNX model of one node."""

from __future__ import annotations

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array, InstalledSubject, Refused
from preimage.audit.subjects.one_node import cannot, one_node, script

__all__ = ["OpencvSubject"]


class OpencvSubject(InstalledSubject):
    """cv2.dnn.readNetFromONNX; the weights are constants of the model, as it wants them."""

    packages = ("cv2", "onnx")
    dtypes = ("float32",)

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
        net = self.library.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
        net.setInput(np.ascontiguousarray(operands[0]))
        try:
            return np.array(net.forward())
        except self.library.error as error:
            if error.code == self.library.Error.StsNotImplemented:
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
