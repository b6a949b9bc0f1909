"""ONNX's operators that draw random numbers. The same numbers at every run: a node without a seed has one made of its name (the importer's).

All numbers of a node are drawn in one go, in the order of its elements: an image in a batch gets others than alone. They are the one kind of operator
to which the contract on batches does not apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preimage.io.graph import graph_op
from preimage.io.graph.types import Types
from preimage.io.limits import checked_size
from preimage.io.onnx.model import dtype_of
from preimage.io.onnx.operators.shapes import data_of

__all__: list[str] = []


def _generator(seed: float) -> np.random.Generator:
    """A generator of the seed, which ONNX has as a float."""
    return np.random.Generator(np.random.Philox(key=int(np.float32(seed).view(np.uint32))))


def _normal(shape: Sequence[int], dtype: Any, mean: float, scale: float, seed: float, what: str) -> np.ndarray:
    drawn = _generator(seed).standard_normal(checked_size(shape, what), np.float32)
    return np.asarray(drawn * np.float32(scale) + np.float32(mean), dtype)


def _uniform(shape: Sequence[int], dtype: Any, low: float, high: float, seed: float, what: str) -> np.ndarray:
    drawn = _generator(seed).random(checked_size(shape, what), np.float32)
    return np.asarray(drawn * np.float32(high - low) + np.float32(low), dtype)


def _by_attribute(attributes: Mapping[str, Any], _: Types) -> Types:
    return (dtype_of(attributes.get("dtype", 1), "a random array").name,)


def _by_attribute_or_input(attributes: Mapping[str, Any], inputs: Types) -> Types:
    return _by_attribute(attributes, inputs) if attributes.get("dtype") is not None else (inputs[0],)


def _like(x: Any, dtype: int | None, what: str) -> tuple[tuple[int, ...], Any]:
    array = np.asarray(data_of(x))
    return array.shape, array.dtype if dtype is None else dtype_of(dtype, what)


@graph_op("onnx.RandomNormal", types=_by_attribute)
def _random_normal(
    *, shape: Sequence[int], mean: float = 0.0, scale: float = 1.0, seed: float = 0.0, dtype: int = 1
) -> np.ndarray:
    return _normal(shape, dtype_of(dtype, "RandomNormal"), mean, scale, seed, "RandomNormal")


@graph_op("onnx.RandomNormalLike", types=_by_attribute_or_input)
def _random_normal_like(
    x: Any, *, mean: float = 0.0, scale: float = 1.0, seed: float = 0.0, dtype: int | None = None
) -> np.ndarray:
    return _normal(*_like(x, dtype, "RandomNormalLike"), mean, scale, seed, "RandomNormalLike")


@graph_op("onnx.RandomUniform", types=_by_attribute)
def _random_uniform(
    *, shape: Sequence[int], low: float = 0.0, high: float = 1.0, seed: float = 0.0, dtype: int = 1
) -> np.ndarray:
    return _uniform(shape, dtype_of(dtype, "RandomUniform"), low, high, seed, "RandomUniform")


@graph_op("onnx.RandomUniformLike", types=_by_attribute_or_input)
def _random_uniform_like(
    x: Any, *, low: float = 0.0, high: float = 1.0, seed: float = 0.0, dtype: int | None = None
) -> np.ndarray:
    return _uniform(*_like(x, dtype, "RandomUniformLike"), low, high, seed, "RandomUniformLike")


@graph_op("onnx.Bernoulli", types=_by_attribute_or_input)
def _bernoulli(x: Any, *, seed: float = 0.0, dtype: int | None = None) -> np.ndarray:
    """1 with the probability that the element says, else 0."""
    shape, kind = _like(x, dtype, "Bernoulli")
    return np.asarray(_generator(seed).random(checked_size(shape, "Bernoulli")) < np.asarray(data_of(x)), kind)
