"""Batch and instance normalisation with weight and bias, forward and back, in as few passes over memory as it takes.

    y = (x - mean) s w + b,   s = 1 / sqrt(var + eps)        mean, var: of a channel over space (and images)
    grad_b = sum g,   grad_w = s sum g (x - mean)
    grad_x = s w (g - grad_b / count - (x - mean) s grad_w / count)

Generated kernels take five passes for all of it: two for mean and variance, one for y, one for both sums, one for grad_x. Where
none runs (another engine, narrow floats), and for gradients that are recorded themselves, it is `standardize` and arithmetic.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, primitive
from preimage.engines import around
from preimage.ops.operands import Array, operand
from preimage.ops.pointwise import add, multiply
from preimage.ops.reduce import mean, standardize, standardize_gradient, sum, var
from preimage.ops.shape import reshape

__all__ = ["affine", "normalise"]


class _Statistics:
    """What the forward pass found, per channel (and image), and the sums of the last cotangent that a rule saw."""

    def __init__(self) -> None:
        self.mean: Array = np.zeros(0)
        self.var: Array = np.zeros(0)
        self.inverse: Array = np.zeros(0)
        self._seen: Any = None
        self._sums: tuple[Array, ...] = ()

    def sums(self, g: Array, x: Array, images: bool) -> tuple[Array, ...]:
        """Sums of g and of g (x - mean): once for the three rules that want them."""
        if self._seen is None or self._seen() is not g:
            made = around.channel_sums(x, "products", images, g, self.mean)
            if made is None:  # the engine was changed since the forward pass
                axes, centred = _axes(x.ndim, images), x - _spread(self.mean, x.ndim)
                made = np.add.reduce(g, axes), np.add.reduce(g * centred, axes)
            self._sums, self._seen = made, weakref.ref(g)
        return self._sums


def _axes(ndim: int, images: bool) -> tuple[int, ...]:
    return (*((0,) if images else ()), *range(2, ndim))


def _spread(values: Any, ndim: int) -> Any:
    """(C,) or (N, C) as an array that broadcasts against (N, C, *space)."""
    lead = values.shape if values.ndim == 2 else (1, *values.shape)
    shape = (*lead, *[1] * (ndim - 2))
    return reshape(values, shape) if isinstance(values, Tensor) else values.reshape(shape)


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x weight + bias, one number each per channel (axis 1); None: left out."""
    if weight is not None:
        x = multiply(x, _spread(weight, x.ndim))
    return x if bias is None else add(x, _spread(bias, x.ndim))


def _chained(x: Array, others: tuple[Array, ...], steps: tuple[tuple[str, tuple[int, ...]], ...]) -> Array:
    """A chain over x and operands that broadcast against it, in NumPy if no kernel takes it."""
    made = around.chain((x, *others), steps)
    if made is not None:
        return made[0]
    values: list[Array] = [x, *others]
    words = {"add": np.add, "sub": np.subtract, "mul": np.multiply}
    with np.errstate(all="ignore"):
        for word, (a, b) in steps:
            values.append(words[word](values[a], values[b]))
    return values[-1]


def _forward(x: Array, weight: Array, bias: Array, *, images: bool, eps: float, found: _Statistics) -> Array:
    count = x.dtype.type(math.prod(x.shape[k] for k in _axes(x.ndim, images)))
    sums, squares = around.channel_sums(x, "plain", images), None
    assert sums is not None
    with np.errstate(all="ignore"):
        found.mean = sums[0] / count
        squares = around.channel_sums(x, "squares", images, None, found.mean)
        assert squares is not None
        found.var = squares[0] / count
        found.inverse = 1 / np.sqrt(found.var + x.dtype.type(eps))
        scale = found.inverse * weight
    others = tuple(_spread(v, x.ndim) for v in (found.mean, scale, bias))
    return _chained(x, others, (("sub", (0, 1)), ("mul", (4, 2)), ("add", (5, 3))))


def _input_rule(g: Any, ans: Any, x: Any, weight: Any, bias: Any, *, images: bool, eps: float, found: _Statistics) -> Any:
    axes = _axes(x.ndim, images)
    if isinstance(g, Tensor):
        return standardize_gradient(multiply(g, _spread(weight, x.ndim)), x, axes, eps)
    total, along = found.sums(g, x, images)
    count = x.dtype.type(math.prod(x.shape[k] for k in axes))
    with np.errstate(all="ignore"):
        slope = -(along / count) * (found.inverse * found.inverse)
        others = (found.mean, slope, total / count, found.inverse * weight)
    steps = (("sub", (0, 2)), ("mul", (6, 3)), ("sub", (1, 4)), ("add", (8, 7)), ("mul", (9, 5)))
    return _chained(x, (g, *[_spread(v, x.ndim) for v in others]), steps)


def _weight_rule(g: Any, ans: Any, x: Any, weight: Any, bias: Any, *, images: bool, eps: float, found: _Statistics) -> Any:
    if isinstance(g, Tensor):
        return sum(multiply(g, standardize(x, _axes(x.ndim, images), eps)), _axes(x.ndim, True))
    along = found.sums(g, x, images)[1] * found.inverse
    return along if images else np.add.reduce(along, 0)


def _bias_rule(g: Any, ans: Any, x: Any, weight: Any, bias: Any, *, images: bool, eps: float, found: _Statistics) -> Any:
    if isinstance(g, Tensor):
        return sum(g, _axes(x.ndim, True))
    total = found.sums(g, x, images)[0]
    return total if images else np.add.reduce(total, 0)


_normalise_op = primitive("normalise", _forward, [_input_rule, _weight_rule, _bias_rule], saves=(0, 1))


def normalise(x: Any, weight: Any, bias: Any, *, images: bool, eps: float) -> tuple[Any, Array, Array]:
    """(x - mean) / sqrt(var + eps) * weight + bias, and the mean and variance of each channel as arrays.

    Shapes: x (N, C, *space); weight, bias (C,) or None; mean, var (C,) with `images` (over images and space), else (N, C).
    """
    x = operand(x, "x")
    data = array_of(x)
    given = [array_of(v) for v in (weight, bias) if v is not None]
    if data.size and around.fits(data, *given):
        found = _Statistics()
        ones, zeros = np.ones(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
        ones.flags.writeable = zeros.flags.writeable = False  # nobody else holds them: the graph need not watch them
        w, b = ones if weight is None else weight, zeros if bias is None else bias
        return _normalise_op(x, w, b, images=images, eps=float(eps), found=found), found.mean, found.var
    axes = _axes(x.ndim, images)
    return affine(standardize(x, axes, eps), weight, bias), mean(data, axes), var(data, axes)
