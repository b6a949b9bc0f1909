"""Batch and instance normalisation with weight and bias, forward and back, in as few passes over memory as it takes.

    y = (x - mean) s w + b,   s = 1 / sqrt(var + eps)        mean, var: of a channel over space (and images)
    mean = m + d:  m the sum over the count, as it was rounded;  d the mean of x - m, which a large mean's rounding leaves
    var = mean of (x - m)^2  -  d^2
    grad_b = sum g,   grad_w = s sum g (x - mean)
    grad_x = s w (g - grad_b / count - (x - mean) s grad_w / count)

Generated kernels take five passes for all of it: two for mean and variance, one for y, one for both sums, one for grad_x. Where
none runs (another engine, narrow floats), and for gradients that are recorded themselves, it is `standardize` and arithmetic.

slope: of a relu (0) or leaky relu that follows, computed in the same passes, with the same bits: y becomes y where y > 0, else slope y; on
the way back g becomes g or slope g by the sign of (x - mean) s w + b, which is computed anew from x.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, is_grad_enabled, primitive
from preimage.autograd.traced import whole
from preimage.engines import around
from preimage.engines.recording import constant, recorder
from preimage.engines.replayed import Replayed
from preimage.errors import ShapeError
from preimage.ops.activation import leaky_relu, relu
from preimage.ops.broadcast import astype, in_wide
from preimage.ops.operands import Array, common_dtype, operand
from preimage.ops.pointwise import add, multiply, select, subtract
from preimage.ops.reduce import mean, standardize, standardize_gradient, standardized_lines, sum, var
from preimage.ops.shape import reshape
from preimage.ops.sums import sum_dtype
from preimage.typing import Operand, Value

__all__ = ["affine", "grouped", "instance_normalised", "moved", "normalise", "scaled_by", "standardized"]


class _Statistics:
    """What the forward pass found, per channel (and image), and the sums of the last cotangent that a rule saw."""

    def __init__(self) -> None:
        self.mean: Array = np.zeros(0)  # m above: what is taken off first
        self.rest: Array = np.zeros(0)  # d above
        self.whole_mean: Array = np.zeros(0)  # m + d
        self.var: Array = np.zeros(0)
        self.inverse: Array = np.zeros(0)
        self.scale: Array = np.zeros(0)  # s w
        self.shift: Array = np.zeros(0)  # b - d s w
        self._lost: bool | None = None
        self._seen: Any = None
        self._sums: tuple[Array, ...] = ()

    def sums(self, g: Array, x: Array, images: bool, slope: float | None) -> tuple[Array, ...]:
        """Sums of g, of g (x - m - d), and the gradients of weight and bias: once for the three rules that want them."""
        if self._seen is None or self._seen() is not g:
            statistics = (self.mean, self.rest, self.inverse, self.scale, self.shift)
            self._sums = _sums_of(g, x, *statistics, images=images, slope=slope)
            self._seen = weakref.ref(g)
        return self._sums

    @property
    def lost(self) -> bool:
        """Whether the variance of some channel is not finite; a recorder guards the answer."""
        here = recorder()
        if here is not None and not around.expect_finite(self.var):
            here.lost("a variance that is not finite is computed by NumPy")
        if self._lost is None or here is not None:
            self._lost = not np.isfinite(self.var).all()
        return self._lost


@Replayed
def _sums_of(
    g: Array, x: Array, mean: Array, rest: Array, inverse: Array, scale: Array, shift: Array, *, images: bool, slope: float | None
) -> tuple[Array, ...]:
    gate = None if slope is None else (scale, shift, slope)
    made = around.channel_sums(x, "products", images, g, mean, gate)
    if made is None:  # the engine was changed since the forward pass
        axes, centred = _axes(x.ndim, images), x - _spread(mean, x.ndim)
        if slope is not None:
            g = np.where(centred * _spread(scale, x.ndim) + _spread(shift, x.ndim) > 0, g, _sloped(g, slope))
        made = around.sum_over(g, axes), around.sum_over(g * centred, axes)
    along = _chained(made[1], (rest, made[0]), (("mul", (1, 2)), ("sub", (0, 3))))
    of_weight = _chained(along, (inverse,), (("mul", (0, 1)),))
    if images:
        return made[0], along, of_weight
    return made[0], along, of_weight, around.sum_over(of_weight, (0,)), around.sum_over(made[0], (0,))


def _axes(ndim: int, images: bool) -> tuple[int, ...]:
    return (*((0,) if images else ()), *range(2, ndim))


def _spread(values: Any, ndim: int) -> Any:
    """(C,) or (N, C) as an array that broadcasts against (N, C, *space)."""
    lead = values.shape if values.ndim == 2 else (1, *values.shape)
    shape = (*lead, *[1] * (ndim - 2))
    return reshape(values, shape) if isinstance(values, Tensor) else values.reshape(shape)


def affine(x: Value, weight: Value | None, bias: Value | None) -> Value:
    """x weight + bias, one number each per channel (axis 1); None: left out."""
    if weight is not None:
        x = multiply(x, _spread(weight, x.ndim))
    return x if bias is None else add(x, _spread(bias, x.ndim))


def standardized(
    x: Value, weight: Value | None, bias: Value | None, *, axes: tuple[int, ...], eps: float, shape: tuple[int, ...] | None = None
) -> Value:
    """x (seen in another shape, if one is given) standardised over the axes, times weight plus bias, which broadcast; rounded once."""
    dtype = common_dtype("a normalisation", x, weight, bias)
    if x.dtype.itemsize == 2:
        wide: tuple[Any, ...] = tuple(None if v is None else astype(v, sum_dtype(x.dtype)) for v in (x, weight, bias))
        x, weight, bias = wide
    along = tuple(x.shape[k] for k in axes)
    if shape is None and all(type(v) is np.ndarray and v.dtype == x.dtype for v in (x, weight, bias)):
        scale, shift = (np.ascontiguousarray(v) for v in (weight, bias))
        if scale.shape == shift.shape == along:
            return astype(standardized_lines(array_of(x), axes, eps, scale, shift)[0], dtype)
    y = reshape(standardize(x if shape is None else reshape(x, shape), axes, eps), x.shape)
    if weight is not None and bias is not None and all(type(v) is np.ndarray and v.dtype == y.dtype for v in (y, weight, bias)):
        return astype(_chained(array_of(y), (array_of(weight), array_of(bias)), (("mul", (0, 1)), ("add", (3, 2)))), dtype)
    y = y if weight is None else multiply(y, weight)
    return astype(y if bias is None else add(y, bias), dtype)


@whole
def instance_normalised(x: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
    """Each channel of each image standardised over space, times weight plus bias, one number each per channel."""
    spread = (-1, *[1] * (x.ndim - 2))
    scale, shift = (None if v is None else reshape(v, spread) for v in (weight, bias))
    return standardized(x, scale, shift, axes=tuple(range(2, x.ndim)), eps=eps)


@whole
def scaled_by(x: Any, mean: Array, var: Array, weight: Any, bias: Any, eps: float) -> Value:
    """(x - mean) / sqrt(var + eps) weight + bias, one number each per channel (axis 1): the mean is taken off first, so that a large one
    costs no digits."""
    x = operand(x, "x")
    dtype = common_dtype("a normalisation", x, weight, bias)
    x, mean, var, weight, bias = (in_wide(v) for v in (x, mean, var, weight, bias))
    with np.errstate(all="ignore"):
        scale: Any = 1 / np.sqrt(var + var.dtype.type(eps))
    scale = scale if weight is None else multiply(weight, scale)
    bias = np.zeros(mean.shape, x.dtype) if bias is None else bias
    others = tuple(_spread(v, x.ndim) for v in (mean, scale, bias))
    values = (x, *others)
    if is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in values):
        return astype(add(multiply(subtract(x, others[0]), others[1]), others[2]), dtype)
    if len({v.dtype for v in values}) > 1:
        values = tuple(astype(v, common_dtype("a normalisation", *values)) for v in values)
    y = _chained(array_of(values[0]), tuple(array_of(v) for v in values[1:]), (("sub", (0, 1)), ("mul", (4, 2)), ("add", (5, 3))))
    return astype(Tensor(y) if any(isinstance(v, Tensor) for v in (x, weight, bias)) else y, dtype)


def _sloped(g: Array, slope: float) -> Array:
    return np.asarray(g * g.dtype.type(slope)) if slope else np.zeros((), g.dtype)


def _chained(
    x: Array, others: tuple[Array, ...], steps: tuple[tuple[str, tuple[int, ...]], ...], numbers: tuple[float, ...] = ()
) -> Array:
    """A chain over x, operands that broadcast against it, and numbers, in NumPy if no kernel takes it."""
    return _chain((x, *others), steps, numbers, (len(others) + len(numbers) + len(steps),))[0]


def _chain(
    operands: tuple[Array, ...],
    steps: tuple[tuple[str, tuple[int, ...]], ...],
    numbers: tuple[float, ...],
    results: tuple[int, ...],
) -> tuple[Array, ...]:
    """The values at these places of a chain."""
    made = around.chain(operands, steps, numbers, results)
    if made is not None:
        return made
    values: list[Array] = [*operands, *[np.asarray(number, operands[0].dtype) for number in numbers]]
    with np.errstate(all="ignore"):
        for word, places in steps:
            values.append(_WORDS[word](*[values[k] for k in places]))
    return tuple([values[k] for k in results])


_WORDS: dict[str, Any] = {
    "add": np.add,
    "div": np.divide,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "if_positive": lambda gate, a, b: np.where(gate > 0, a, b),
    "relu": lambda y: np.maximum(y, np.zeros((), y.dtype)),
    "leaky_relu": lambda y, slope: np.where(y > 0, y, _sloped(y, slope)),
}


def _numbered(slope: float | None) -> tuple[float, ...]:
    """The numbers of a chain with this slope: a relu needs none going forward."""
    return (slope,) if slope else ()


def _forward_steps(slope: float | None) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Of x, m, s w and the shift, with the slope as a number behind them if it is not 0."""
    k = 4 + len(_numbered(slope))
    steps: tuple[tuple[str, tuple[int, ...]], ...] = (("sub", (0, 1)), ("mul", (k, 2)), ("add", (k + 1, 3)))
    if slope is None:
        return steps
    return (*steps, ("leaky_relu", (k + 2, 4)) if slope else ("relu", (k + 2,)))


#: Of the sums of x - m and of its squares, m, weight, bias, count and eps: the rest of the mean (7), the variance (11), its inverse root (13),
#: the scale (14), the shift (16) and the whole mean (17).
_STATISTICS = (
    ("div", (0, 5)), ("div", (1, 5)), ("mul", (7, 7)), ("sub", (8, 9)), ("relu", (10,)), ("add", (11, 6)), ("rsqrt", (12,)),
    ("mul", (13, 3)), ("mul", (7, 14)), ("sub", (4, 15)), ("add", (2, 7)),
)  # fmt: skip
#: Of the sums of g and of g (x - mean), 1 / sqrt(var + eps), the rest of the mean, the count: what x - m is multiplied with (8), the offset (11).
_SLANT = (
    ("div", (1, 4)), ("neg", (5,)), ("mul", (2, 2)), ("mul", (6, 7)), ("div", (0, 4)), ("mul", (8, 3)), ("add", (9, 10)),
)  # fmt: skip


@Replayed
def _passes(
    x: Array, weight: Array, bias: Array, *, images: bool, eps: float, slope: float | None
) -> tuple[Array, ...]:  # fmt: skip
    """y, and what the fields of _Statistics are, wherever no sum overflows."""
    count = float(math.prod([x.shape[k] for k in _axes(x.ndim, images)]))
    sums = around.channel_sums(x, "plain", images)
    assert sums is not None
    mean = _chained(sums[0], (), (("div", (0, 1)),), (count,))
    squares = around.channel_sums(x, "squares", images, None, mean)
    assert squares is not None
    rest, var, inverse, scale, shift, whole_mean = _chain(
        (*squares, mean, weight, bias), _STATISTICS, (count, eps), (7, 11, 13, 14, 16, 17)
    )
    others = tuple([_spread(v, x.ndim) for v in (mean, scale, shift)])
    return _chained(x, others, _forward_steps(slope), _numbered(slope)), mean, rest, var, inverse, scale, shift, whole_mean


def _forward(
    x: Array, weight: Array, bias: Array, *, images: bool, eps: float, found: _Statistics, slope: float | None = None
) -> Array:  # fmt: skip
    y, *statistics = _passes(x, weight, bias, images=images, eps=float(eps), slope=slope)
    found.mean, found.rest, found.var, found.inverse, found.scale, found.shift, found.whole_mean = statistics
    if not found.lost:
        return y
    lost = _Lost(x, found)
    with np.errstate(all="ignore"):
        values = array_of(standardize(lost.part, lost.axes, eps)) * lost.numbers(weight) + lost.numbers(bias)
        rectified = values if slope is None else _WORDS["leaky_relu"](values, slope) if slope else _WORDS["relu"](values)
        return _mended(y, lost, rectified)


class _Lost:
    """The channels (of images) whose mean or squares overflowed, taken out to be computed by operations that scale them first."""

    def __init__(self, x: Array, found: _Statistics) -> None:
        self.mask = ~np.isfinite(found.var)
        images = self.mask.ndim == 1
        self.where: Any = (slice(None), self.mask) if images else self.mask
        self.part = x[self.where]
        self.axes = (0, *range(2, x.ndim)) if images else tuple(range(1, x.ndim - 1))
        self.shape = (-1, *[1] * (x.ndim - 2))

    def numbers(self, per_channel: Array) -> Array:
        """One number a channel for each of those taken out, to broadcast against them."""
        return np.asarray(np.broadcast_to(per_channel, self.mask.shape)[self.mask]).reshape(self.shape)


def _mended(y: Array, lost: _Lost, values: Array) -> Array:
    y = y if y.flags.writeable else y.copy()
    y[lost.where] = values
    return y


def _opened(
    g: Any, x: Any, weight: Any, bias: Any, images: bool, eps: float, found: _Statistics, slope: float | None
) -> tuple[Any, float | None]:  # fmt: skip
    """The cotangent behind the relu, and the slope that is left to take into account: where kernels do that, both as they are."""
    if slope is None or not (isinstance(g, Tensor) or found.lost):
        return g, slope
    whole = _forward(array_of(x), array_of(weight), array_of(bias), images=images, eps=eps, found=_Statistics())
    return select(whole > 0, g, multiply(g, slope) if slope else 0.0), None


#: Of x, g, m, slope, offset, s w, the shift and the slope as a number: the steps to g or its slope.
_GATE = (("sub", (0, 2)), ("mul", (8, 5)), ("add", (9, 6)))
_GATED = (*_GATE, ("if_positive", (10, 1, 7)), ("mul", (8, 3)), ("sub", (11, 4)), ("add", (13, 12)), ("mul", (14, 5)))
_LEAKY_GATED = (
    *_GATE, ("mul", (1, 7)), ("if_positive", (10, 1, 11)), ("mul", (8, 3)), ("sub", (12, 4)), ("add", (14, 13)), ("mul", (15, 5)),
)  # fmt: skip
_PLAIN = (("sub", (0, 2)), ("mul", (6, 3)), ("sub", (1, 4)), ("add", (8, 7)), ("mul", (9, 5)))


def _input_rule(
    g: Any, ans: Any, x: Any, weight: Any, bias: Any, *, images: bool, eps: float, found: _Statistics, slope: float | None = None
) -> Any:
    axes = _axes(x.ndim, images)
    g, slope = _opened(g, x, weight, bias, images, eps, found, slope)
    if isinstance(g, Tensor):
        return standardize_gradient(multiply(g, _spread(weight, x.ndim)), x, axes, eps)
    sums = found.sums(g, x, images, slope)[:2]
    (made,) = _slanted(
        x, g, *sums, found.mean, found.rest, found.inverse, found.scale, found.shift, images=images, slope=slope
    )  # fmt: skip
    if not found.lost:
        return made
    lost = _Lost(x, found)
    with np.errstate(all="ignore"):
        slopes = g[lost.where] * lost.numbers(weight)
        return _mended(made, lost, array_of(standardize_gradient(slopes, lost.part, lost.axes, eps)))


@Replayed
def _slanted(
    x: Array, g: Array, total: Array, along: Array, mean: Array, rest: Array, inverse: Array, scale: Array, shift: Array, *,
    images: bool, slope: float | None,
) -> tuple[Array]:  # fmt: skip
    """The gradient of x."""
    count = float(math.prod([x.shape[k] for k in _axes(x.ndim, images)]))
    slant, offset = _chain((total, along, inverse, rest), _SLANT, (count,), (8, 11))
    others = (mean, slant, offset, scale)
    if slope is None:
        return (_chained(x, (g, *[_spread(v, x.ndim) for v in others]), _PLAIN),)
    operands = (g, *[_spread(v, x.ndim) for v in (*others, shift)])
    return (_chained(x, operands, _LEAKY_GATED if slope else _GATED, (slope,)),)


def _weight_rule(
    g: Any, ans: Any, x: Any, weight: Any, bias: Any, *, images: bool, eps: float, found: _Statistics, slope: float | None = None
) -> Any:
    g, slope = _opened(g, x, weight, bias, images, eps, found, slope)
    if isinstance(g, Tensor):
        return sum(multiply(g, standardize(x, _axes(x.ndim, images), eps)), _axes(x.ndim, True))
    sums = found.sums(g, x, images, slope)
    if not found.lost:
        return sums[2 if images else 3]
    lost, along = _Lost(x, found), sums[2].copy()
    along[lost.mask] = sum(multiply(g[lost.where], standardize(lost.part, lost.axes, eps)), lost.axes)
    return along if images else around.sum_over(along, (0,))


def _bias_rule(
    g: Any, ans: Any, x: Any, weight: Any, bias: Any, *, images: bool, eps: float, found: _Statistics, slope: float | None = None
) -> Any:
    g, slope = _opened(g, x, weight, bias, images, eps, found, slope)
    if isinstance(g, Tensor):
        return sum(g, _axes(x.ndim, True))
    return found.sums(g, x, images, slope)[0 if images else 4]


_normalise_op = primitive("normalise", _forward, [_input_rule, _weight_rule, _bias_rule], saves=(0, 1, 2))


def normalise(
    x: Any, weight: Any, bias: Any, *, images: bool, eps: float, slope: float | None = None
) -> tuple[Value, Array, Array]:  # fmt: skip
    """(x - mean) / sqrt(var + eps) * weight + bias, and the mean and variance of each channel as arrays.

    slope: of a relu (0) or leaky relu that follows in the same passes, with the bits that it would have by itself.

    Shapes: x (N, C, *space); weight, bias (C,) or None; mean, var (C,) with `images` (over images and space), else (N, C).
    """
    x = operand(x, "x")
    dtype = common_dtype("a normalisation", x, weight, bias)
    if x.dtype.itemsize == 2:  # summed exactly, and rounded once behind weight and bias
        wide: tuple[Any, ...] = tuple(None if v is None else astype(v, sum_dtype(x.dtype)) for v in (x, weight, bias))
        x, weight, bias = wide
    data = array_of(x)
    given = [array_of(v) for v in (weight, bias) if v is not None]
    alike = all(v.dtype == dtype for v in (x, *given))
    if slope is not None and not (alike and data.size and around.fits(data, *given)):
        y, means, variances = normalise(x, weight, bias, images=images, eps=eps)
        return (leaky_relu(astype(y, dtype), slope) if slope else relu(astype(y, dtype))), means, variances
    if not data.size or not around.fits(data, *given):
        axes = _axes(x.ndim, images)
        y = astype(affine(standardize(x, axes, eps), weight, bias), dtype)
        return y, array_of(mean(data, axes)), array_of(var(data, axes))
    found = _Statistics()
    ones, zeros = np.ones(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
    ones.flags.writeable = zeros.flags.writeable = False  # nobody else holds them: the graph need not watch them
    w, b = constant(ones) if weight is None else weight, constant(zeros) if bias is None else bias
    y = astype(
        _normalise_op(x, w, b, images=images, eps=float(eps), found=found, **({} if slope is None else {"slope": slope})), dtype
    )
    means, variances = found.whole_mean, found.var
    if found.lost:
        lost = _Lost(data, found)
        means, variances = means.copy(), variances.copy()
        means[lost.mask], variances[lost.mask] = mean(lost.part, lost.axes), var(lost.part, lost.axes)
    return y, means, variances


@whole
def grouped(x: Operand, groups: int, weight: Operand | None, bias: Operand | None, *, eps: float) -> Value:
    """Each image standardised over each of so many groups of channels and all space, times weight plus bias, one number each per channel.

    Raises: ShapeError for a single value per group, whose answer would be 0 whatever it is.
    """
    x = operand(x, "x")
    channels = x.shape[1]
    each = math.prod(x.shape[1:]) // groups
    if x.shape[0] * each == 1:
        raise ShapeError(f"group_norm: needs more than one value per group, got shape {x.shape} in {groups} groups")
    per_channel = (channels, *[1] * (x.ndim - 2))
    spread = [None if v is None else reshape(v, per_channel) for v in (weight, bias)]
    return standardized(x, spread[0], spread[1], axes=(2,), eps=eps, shape=(x.shape[0], groups, each))


@np.errstate(all="ignore")
def moved(running: Array, batch: Array, rate: float) -> Array:
    """A running value moved towards a batch's."""
    return np.asarray(((1 - rate) * running + rate * np.asarray(batch)).astype(running.dtype))
