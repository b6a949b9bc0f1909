"""Operators of the domain com.microsoft that files optimised by onnxruntime hold: several of ONNX's own operators in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preimage import ops
from preimage.errors import FileFormatError
from preimage.io.graph import OPS, graph_op
from preimage.io.graph.types import gives
from preimage.io.onnx.operators.moving import transpose, typed

__all__: list[str] = []


def _activated(x: Any, name: str, numbers: Sequence[float] | None, what: str) -> Any:
    """The activation of a fused operator; its numbers come in one list."""
    given = [float(v) for v in numbers or ()]
    if name == "":
        return x
    if name in ("Relu", "Tanh", "Sigmoid"):
        return {"Relu": ops.relu, "Tanh": ops.tanh, "Sigmoid": ops.sigmoid}[name](x)
    if name == "LeakyRelu" and len(given) < 2:
        return ops.leaky_relu(x, *given)
    if name == "Clip" and len(given) == 2:
        return ops.clip(x, *given)
    if name == "HardSigmoid" and len(given) in (0, 2):
        return ops.hardsigmoid(x, *(given or (0.2, 0.5)))
    raise FileFormatError(f"{what}: the activation {name!r} with the numbers {given}")


@graph_op("onnx.com.microsoft::FusedConv")
def _fused_conv(
    x: Any,
    w: Any,
    b: Any = None,
    z: Any = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] | None = None,
    **window: Any,
) -> Any:
    """activation(Conv(x, w, b) + z)."""
    y = OPS["onnx.Conv"].function(x, w, b, **window)
    return _activated(y if z is None else ops.add(y, z), activation, activation_params, "FusedConv")


@graph_op("onnx.com.microsoft::FusedGemm")
def _fused_gemm(
    a: Any, b: Any, c: Any = None, *, activation: str = "", activation_alpha: float | None = None, activation_beta: float | None = None,
    activation_gamma: float | None = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,
) -> Any:  # fmt: skip
    y = OPS["onnx.Gemm"].function(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _activated(y, activation, [v for v in (activation_alpha, activation_beta) if v is not None], "FusedGemm")


def _last_two(x: Any, swap: int) -> Any:
    return transpose(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)) if swap and x.ndim > 1 else x


def _batch_inside(x: Any, swap: int) -> Any:
    """The first axis moved before the last: transBatchA and transBatchB."""
    return transpose(x, (*range(1, x.ndim - 1), 0, x.ndim - 1)) if swap else x


@graph_op("onnx.com.microsoft::FusedMatMul")
def _fused_matmul(
    a: Any, b: Any, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0
) -> Any:
    a, b = _last_two(_batch_inside(a, transBatchA), transA), _last_two(_batch_inside(b, transBatchB), transB)
    product = OPS["onnx.MatMul"].function(a, b)
    return product if alpha == 1 else typed(ops.multiply(product, alpha), product)


@graph_op("onnx.com.microsoft::Gelu")
def _gelu(x: Any) -> Any:
    return ops.gelu(x)


@graph_op("onnx.com.microsoft::BiasGelu")
def _bias_gelu(x: Any, bias: Any) -> Any:
    return ops.gelu(ops.add(x, bias))


@graph_op("onnx.com.microsoft::FastGelu")
def _fast_gelu(x: Any, bias: Any = None) -> Any:
    return ops.gelu(x if bias is None else ops.add(x, bias), approximate="tanh")


@graph_op("onnx.com.microsoft::QuickGelu")
def _quick_gelu(x: Any, *, alpha: float = 1.702) -> Any:
    return ops.multiply(x, ops.sigmoid(ops.multiply(x, alpha)))


def _mean_square(x: Any, scale: Any, epsilon: float) -> Any:
    return ops.multiply(ops.multiply(x, ops.rsqrt(ops.add(ops.mean(ops.square(x), -1, keepdims=True), epsilon))), scale)


@graph_op("onnx.SimplifiedLayerNormalization", types=gives(0))
def _simplified(x: Any, scale: Any, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Any:
    """Root mean square normalisation over the last axis; onnxruntime writes it without a domain."""
    if axis not in (-1, x.ndim - 1):
        raise FileFormatError(f"SimplifiedLayerNormalization: axis {axis} of {x.ndim}; the last is supported")
    return _mean_square(x, scale, epsilon)


@graph_op("onnx.com.microsoft::SkipLayerNormalization", types=gives(0, "float32", "float32", 0))
def _skip_layer_norm(
    x: Any, skip: Any, gamma: Any, beta: Any = None, bias: Any = None, *, epsilon: float = 1e-12, outputs: int = 1
) -> tuple[Any, ...]:
    """Layer normalisation of x + skip + bias over the last axis; mean and deviation, results for training, are not given."""
    total = ops.add(x, skip) if bias is None else ops.add(ops.add(x, skip), bias)
    return ops.add(ops.multiply(ops.standardize(total, -1, epsilon), gamma), 0.0 if beta is None else beta), None, None, total


@graph_op("onnx.com.microsoft::SkipSimplifiedLayerNormalization", types=gives(0, "float32", "float32", 0))
def _skip_simplified(
    x: Any, skip: Any, gamma: Any, bias: Any = None, *, epsilon: float = 1e-12, outputs: int = 1
) -> tuple[Any, ...]:
    total = ops.add(x, skip) if bias is None else ops.add(ops.add(x, skip), bias)
    return _mean_square(total, gamma, epsilon), None, None, total
