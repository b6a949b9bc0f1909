"""Gradient clipping: holding gradients to a norm or a range before a step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import Tensor
from preimage.engines.base import accumulator_dtype
from preimage.errors import OptionError
from preimage.floating_point import in_standard_mode
from preimage.ops.operands import entries, number_of
from preimage.typing import Array

__all__ = ["clip_grad_norm", "clip_grad_value"]


def _with_gradients(parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    several = None if isinstance(parameters, Tensor) else entries(parameters)
    listed: list[Any] = [parameters] if several is None else several
    for p in listed:
        if not isinstance(p, Tensor):
            raise OptionError(f"gradients are clipped of Tensors, got {type(p).__name__}")
    return [p for p in listed if p.grad is not None]


@in_standard_mode
@np.errstate(all="ignore")
def clip_grad_norm(parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0) -> float:
    """Scale all gradients together so that their norm, over all elements of all of them, is at most max_norm; gives the norm
    before.

    norm_type: p of the p-norm, math.inf for the largest absolute value.
    Raises: OptionError for a max_norm or norm_type that is not positive.
    """
    max_norm, norm_type = number_of(max_norm, "max_norm"), number_of(norm_type, "norm_type")
    if not max_norm > 0 or not norm_type > 0:
        raise OptionError(f"clip_grad_norm: max_norm and norm_type must be positive, got {max_norm} and {norm_type}")
    held = _with_gradients(parameters)
    sizes = [np.abs(_gradient(p).astype(np.float64)) for p in held]
    top = float(np.max([np.max(a) for a in sizes if a.size], initial=0.0))
    total = top
    if not math.isinf(norm_type) and 0 < top < math.inf:  # powers of fractions of the largest: none of them overflows
        total = top * math.fsum(float(ops.sum((a / top) ** norm_type)) for a in sizes) ** (1 / norm_type)
    scale = max_norm / (total + 1e-6)  # PyTorch's guard against a norm of 0
    if scale < 1:
        for p in held:
            g = _gradient(p)
            p.grad = Tensor((g.astype(accumulator_dtype(g.dtype)) * scale).astype(g.dtype))
    return total


@np.errstate(all="ignore")
def clip_grad_value(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Hold every element of every gradient to -clip_value..clip_value. Raises: OptionError for a negative one."""
    clip_value = number_of(clip_value, "clip_value")
    if not clip_value >= 0:
        raise OptionError(f"clip_grad_value: clip_value must be at least 0, got {clip_value}")
    for p in _with_gradients(parameters):
        g = _gradient(p)
        p.grad = Tensor(np.clip(g, g.dtype.type(-clip_value), g.dtype.type(clip_value)))


def _gradient(parameter: Tensor) -> Array:
    assert parameter.grad is not None
    return parameter.grad.data
