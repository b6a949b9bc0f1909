"""onnxruntime's names over this library: a script changes one import.

    import preimage.runtime as ort

    session = ort.InferenceSession("model.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: x})

What a session runs is the model's graph, optimised, as one program for shapes that come again (`io/graph/program.py`). There is one provider, the
CPU. Left out: run_with_iobinding, OrtValue, custom operators, profiling to a file.
"""

from preimage.runtime.options import ExecutionMode, GraphOptimizationLevel, RunOptions, SessionOptions
from preimage.runtime.session import (
    InferenceSession,
    ModelMetadata,
    NodeArg,
    get_all_providers,
    get_available_providers,
    get_device,
    set_default_logger_severity,
    set_default_logger_verbosity,
)

__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "InferenceSession",
    "ModelMetadata",
    "NodeArg",
    "RunOptions",
    "SessionOptions",
    "get_all_providers",
    "get_available_providers",
    "get_device",
    "set_default_logger_severity",
    "set_default_logger_verbosity",
]


def __dir__() -> list[str]:
    """The public names; modules lie behind them."""
    return sorted(__all__)
