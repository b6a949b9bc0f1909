"""The operations: arrays or Tensors in, the same out."""

from preimage.ops import methods as _methods  # noqa: F401 - gives Tensor its operators
from preimage.ops.activation import relu
from preimage.ops.broadcast import astype, broadcast_to, sum_to
from preimage.ops.conv import conv, conv_transpose, conv_weight_grad
from preimage.ops.linear import linear, matmul
from preimage.ops.pointwise import (
    abs,
    add,
    clip,
    cos,
    divide,
    exp,
    expm1,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    reciprocal,
    rsqrt,
    sign,
    sin,
    sqrt,
    square,
    subtract,
    where,
)
from preimage.ops.reduce import log_softmax, logsumexp, max, mean, min, prod, softmax, standardize, sum, var
from preimage.ops.shape import (
    concat,
    expand_dims,
    flatten,
    flip,
    getitem,
    moveaxis,
    put,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    take,
    tile,
    transpose,
)

__all__ = [
    "abs", "add", "astype", "broadcast_to", "clip", "concat", "conv", "conv_transpose", "conv_weight_grad", "cos",
    "divide", "exp", "expand_dims", "expm1", "flatten", "flip", "getitem", "linear", "log", "log1p", "log_softmax",
    "logsumexp", "matmul", "max", "maximum", "mean", "min", "minimum", "moveaxis", "multiply", "negative", "power",
    "prod", "put", "reciprocal", "relu", "repeat", "reshape", "roll", "rsqrt", "sign", "sin", "softmax", "split",
    "sqrt", "square", "squeeze", "stack", "standardize", "subtract", "sum", "sum_to", "swapaxes", "take", "tile",
    "transpose", "var", "where",
]  # fmt: skip
