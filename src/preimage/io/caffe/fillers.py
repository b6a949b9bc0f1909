"""Fillers: how a blob starts where no file gives it.

Definition: constant (value); uniform in [min, max]; gaussian (mean, std; sparse: about `sparse` non-zero weights an output);
positive_unitball (uniform, each first-axis slice scaled to sum 1); xavier (uniform within +-sqrt(3/n)) and msra (gaussian with std
sqrt(2/n)), n the fan-in (count / first size), fan-out (count / second size) or their mean; bilinear (the tent of an
up-sampling deconvolution, the same in every pair of channels).
Source: BVLC/caffe, include/caffe/filler.hpp, read as facts.
"""

from __future__ import annotations

from math import ceil, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.io.caffe.wire.message import Message

__all__ = ["bilinear", "fill"]


def _fan(filler: Message, shape: tuple[int, ...]) -> float:
    count = prod(shape)
    fan_in = count / shape[0] if shape and shape[0] else 1
    fan_out = count / shape[1] if len(shape) > 1 and shape[1] else count
    word = filler.word("variance_norm")
    n = {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}.get(word, fan_in)
    return max(n, 1)


def bilinear(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """w[.., y, x] = (1 - |y/f - c|)(1 - |x/f - c|), f = ceil(k / 2), c = (k - 1) / 2f; the last two axes must be equal."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise FileFormatError(f"a bilinear filler needs 4 axes with a square kernel, got {shape}")
    half = ceil(shape[3] / 2)
    centre = (shape[3] - 1) / (2 * half)
    tent = 1 - np.abs(np.arange(shape[3]) / half - centre)
    return np.broadcast_to(np.outer(tent, tent).astype(np.float32), shape).copy()


def fill(filler: Message, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """A float32 array of the filler. Raises FileFormatError for an unknown type or impossible numbers."""
    kind = filler.type
    if filler.sparse != -1 and kind != "gaussian":
        raise FileFormatError(f"a {kind} filler knows no sparsity; gaussian does")
    if kind == "constant":
        return np.full(shape, filler.value, np.float32)
    if kind == "uniform":
        if not (np.isfinite(filler.min) and np.isfinite(filler.max) and filler.min <= filler.max):
            raise FileFormatError(f"a uniform filler needs min <= max, got {filler.min} and {filler.max}")
        return _single(filler.min + (filler.max - filler.min) * rng.random(shape, np.float32))
    if kind == "gaussian":
        values = _single(filler.mean + filler.std * rng.standard_normal(shape, np.float32))
        return values * _sparse_mask(filler.sparse, shape, rng) if filler.sparse >= 0 else values
    if kind == "positive_unitball":
        values = rng.random(shape, np.float32)
        return (
            values / np.sum(values, axis=tuple(range(1, len(shape))), keepdims=True)
            if len(shape) > 1
            else values / np.sum(values)
        )
    if kind == "xavier":
        bound = sqrt(3 / _fan(filler, shape))
        return _single(rng.uniform(-bound, bound, shape))
    if kind == "msra":
        return _single(sqrt(2 / _fan(filler, shape)) * rng.standard_normal(shape, np.float32))
    if kind == "bilinear":
        return bilinear(shape)
    raise FileFormatError(
        f"unknown filler {kind!r}; known: constant, uniform, gaussian, positive_unitball, xavier, msra, bilinear"
    )


def _single(values: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def _sparse_mask(sparse: int, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    outputs = shape[0] if shape else 1
    chance = min(sparse / outputs, 1.0) if outputs else 1.0
    return (rng.random(shape) < chance).astype(np.float32)
