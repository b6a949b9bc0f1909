"""Activation functions: pointwise, without overflow, NaN staying NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.autograd import array_of, primitive
from preimage.ops.operands import operand
from preimage.ops.pointwise import select

__all__ = ["relu"]

_relu_op = primitive(
    "relu",
    lambda x: np.asarray(np.maximum(x, np.zeros((), x.dtype))),
    [lambda g, ans, x: select(array_of(ans) > 0, g, 0.0)],
    saves=("ans",),
)


def relu(x: Any) -> Any:
    """max(x, 0). Gradient: 1 where x > 0, else 0."""
    return _relu_op(operand(x, "x"))
