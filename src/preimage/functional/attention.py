"""Attention, as transformers and diffusion nets take it."""

from __future__ import annotations

import math

import numpy as np

from preimage import ops
from preimage.autograd import array_of
from preimage.errors import OptionError, ShapeError
from preimage.functional.norms import dropout
from preimage.ops.operands import flag_of, number_of, operand, regular
from preimage.typing import Condition, Operand, Value

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | Condition | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(query key^T scale + mask) value.

    Shapes: query (..., L, E), key (..., S, E), value (..., S, V); leading axes broadcast. Gives (..., L, V).
    attn_mask: broadcasts to (..., L, S); of booleans: True where a key is looked at (a query that looks at none gets NaN); else numbers that are
        added. is_causal: query i looks at the keys up to i. scale: 1 / sqrt(E) by default. dropout_p: of the softmax, at all times.
    Raises: ShapeError for shapes that do not fit; OptionError for is_causal beside attn_mask, and for enable_gqa.
    """
    q, k, v = operand(query, "query"), operand(key, "key"), operand(value, "value")
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            f"scaled_dot_product_attention: query {q.shape}, key {k.shape} and value {v.shape}, wanted (..., L, E), (..., S, E), (..., S, V)"
        )
    if flag_of(enable_gqa, "scaled_dot_product_attention: enable_gqa"):
        raise OptionError("scaled_dot_product_attention: enable_gqa is not supported; repeat key and value by ops.repeat")
    causal = flag_of(is_causal, "scaled_dot_product_attention: is_causal")
    if causal and attn_mask is not None:
        raise OptionError("scaled_dot_product_attention: is_causal and attn_mask are two masks; give one")
    factor = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else number_of(scale, "scaled_dot_product_attention: scale")
    scores = ops.multiply(ops.matmul(q, ops.swapaxes(k, -1, -2)), factor)
    if causal:
        attn_mask = np.tril(np.ones(scores.shape[-2:], bool))
    if attn_mask is not None:
        scores = _masked(scores, attn_mask)
    weights = ops.softmax(scores, -1)
    return ops.matmul(dropout(weights, dropout_p), v)


def _masked(scores: Value, mask: Operand | Condition) -> Value:
    held = regular(array_of(mask), "attn_mask")
    sizes = zip(reversed(held.shape), reversed(scores.shape), strict=False)
    if held.ndim > scores.ndim or any(a not in (1, b) for a, b in sizes):
        raise ShapeError(f"scaled_dot_product_attention: attn_mask {held.shape} does not broadcast to {scores.shape}")
    if held.dtype == np.bool_:
        return ops.where(held, scores, -math.inf)
    return ops.add(scores, operand(mask, "attn_mask"))
