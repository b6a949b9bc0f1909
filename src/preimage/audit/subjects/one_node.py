"""A case as an ONNX model of one node, for the subjects that take ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.audit.case import Case
from preimage.audit.subjects.base import Array

__all__ = ["cannot", "one_node", "script"]

_OPSET = 17


def cannot(case: Case, result: str) -> str | None:
    """Why a case is no ONNX node, or None."""
    if case.ndim < 1:
        return "ONNX has at least one spatial axis"
    if any(min(pair) < 0 for pair in case.padding):
        return "ONNX takes no negative padding"
    if 0 in (*case.x_shape, *case.y_shape):
        return "empty arrays are not asked"
    if result == "conv" and not case.is_conv:
        return "no convolution gives these sizes"
    if result == "conv_transpose" and any(
        r >= max(s, d) for r, s, d in zip(case.remainder, case.stride, case.dilation, strict=True)
    ):
        return "output_padding too large"
    return None


def attributes(case: Case, result: str) -> dict[str, Any]:
    """The node's attributes."""
    given: dict[str, Any] = {
        "kernel_shape": list(case.kernel_size),
        "strides": list(case.stride),
        "dilations": list(case.dilation),
        "group": case.groups,
        "pads": [*(lo for lo, _ in case.padding), *(hi for _, hi in case.padding)],
    }
    if result == "conv_transpose":
        given["output_padding"] = list(case.remainder)
    return given


def one_node(case: Case, result: str, bias: bool, weights: Array | None = None, bias_value: Array | None = None) -> Any:
    """The ONNX model of one Conv or ConvTranspose; weights and bias are inputs unless they are given."""
    from onnx import TensorProto, helper, numpy_helper

    first, last = (case.x_shape, case.y_shape) if result == "conv" else (case.y_shape, case.x_shape)
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, first)]
    constants = []
    channels = last[1]
    for name, shape, value in (("w", case.w_shape, weights), ("b", (channels,), bias_value)):
        if name == "b" and not bias:
            continue
        if value is None:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        else:
            constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    node = helper.make_node(
        "Conv" if result == "conv" else "ConvTranspose", ["a", "w", *(["b"] if bias else [])], ["y"], **attributes(case, result)
    )
    graph = helper.make_graph([node], "one", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, last)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


def script(case: Case, result: str, operands: dict[str, str], bias: str | None) -> str:
    """The model and its feeds, as text."""
    op, (first, last) = ("Conv", ("x", "y")) if result == "conv" else ("ConvTranspose", ("y", "x"))
    shapes = {"x": case.x_shape, "y": case.y_shape}
    named = ", ".join(f"{k}={v}" for k, v in attributes(case, result).items())
    channels = shapes[last][1]
    extra = f", info('b', 1, [{channels}])" if bias else ""
    feeds = f"{{'a': {operands[first]}, 'w': {operands['w']}{f', {chr(39)}b{chr(39)}: {bias}' if bias else ''}}}"
    return "\n".join(
        [
            "import numpy as np",
            "from onnx import helper",
            f"node = helper.make_node('{op}', ['a', 'w'{', ' + repr('b') if bias else ''}], ['out'], {named})",
            "info = helper.make_tensor_value_info",
            f"inputs = [info('a', 1, {list(shapes[first])}), info('w', 1, {list(case.w_shape)}){extra}]",
            f"graph = helper.make_graph([node], 'one', inputs, [info('out', 1, {list(shapes[last])})])",
            f"model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', {_OPSET})], ir_version=8)",
            f"feeds = {feeds}",
        ]
    )
