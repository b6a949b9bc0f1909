"""ONNX Runtime on the CPU: the operators Conv and ConvTranspose, each case as a model of one node."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array, Subject
from preimage.audit.subjects.one_node import cannot, one_node, script

__all__ = ["OnnxruntimeSubject"]


class OnnxruntimeSubject(Subject):
    """conv is Conv, conv_transpose is ConvTranspose; there are no gradients."""

    dtypes = ("float32",)

    def __init__(self, name: str) -> None:
        self.name = name
        self._reason: str | None = None
        try:
            import onnx  # noqa: F401
            import onnxruntime
        except ImportError as error:
            self._reason = f"not installed ({error})"
        else:
            onnxruntime.set_default_logger_severity(4)

    @property
    def spec(self) -> str:
        return self.name

    def unavailable(self) -> str | None:
        return self._reason

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

    def script(self, case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
        return script(case, result, operands, bias) + (
            "\nimport onnxruntime"
            "\ngot = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider']).run(None, feeds)[0]"
        )


@lru_cache(maxsize=8)
def _session(case: Case, result: str, bias: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = one_node(case, result, bias).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
