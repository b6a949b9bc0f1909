"""How weights start. Each initialiser gives an array of a shape; with `_` behind its name it sets a Parameter.

    init.kaiming_normal((64, 3, 7, 7), rng=0)          an array
    init.kaiming_normal_(layer.weight, rng=0)          sets the layer's weight

`rng` is a numpy Generator, a seed, or None for the library's own generator, which starts from seed 0 in every process:
the same program gives the same network (`manual_seed` starts it elsewhere). A forked process goes on from where its parent stood,
so forked workers draw the same numbers: give each a seed of its own (`manual_seed(worker)`, or `rng=worker`).

Weights are (out, in / groups, *kernel); fan_in = in / groups * prod(kernel), fan_out = out * prod(kernel), as in PyTorch, also
for the transpose, whose first axis is its input channels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec

import numpy as np

from preimage.autograd import Tensor
from preimage.engines.blas import SMALL_FLOP, blas_threads
from preimage.errors import OptionError, ShapeError
from preimage.ops.operands import check_room, count_of, number_of, shape_sizes
from preimage.ops.random import generator, manual_seed
from preimage.typing import Array, Seed, Shape

__all__ = [
    "bilinear", "bilinear_", "constant", "constant_", "dirac", "dirac_", "fans", "gain", "generator", "icnr", "icnr_",
    "kaiming_normal", "kaiming_normal_", "kaiming_uniform", "kaiming_uniform_", "manual_seed", "normal", "normal_", "ones", "ones_", "orthogonal",
    "orthogonal_", "trunc_normal", "trunc_normal_", "uniform", "uniform_", "xavier_normal", "xavier_normal_", "xavier_uniform", "xavier_uniform_",
    "zeros", "zeros_",
]  # fmt: skip

FanMode = Literal["fan_in", "fan_out"]
Nonlinearity = Literal["linear", "conv", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]
P = ParamSpec("P")


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight shape. Raises: ShapeError for less than two axes."""
    shape = _sized(shape)
    if len(shape) < 2:
        raise ShapeError(f"fan in and out need a weight of at least two axes, got shape {shape}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def gain(nonlinearity: Nonlinearity, slope: float = 0.01) -> float:
    """The factor that keeps the variance through an activation. Raises: OptionError for one that is not known."""
    slope = number_of(slope, "gain: slope")
    gains = {
        "linear": 1.0, "conv": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1 + slope * slope)), "selu": 0.75,
    }  # fmt: skip
    if not isinstance(nonlinearity, str) or nonlinearity not in gains:
        raise OptionError(f"gain: nonlinearity must be one of {', '.join(gains)}, got {nonlinearity!r}")
    return gains[nonlinearity]


def _sized(shape: Shape) -> tuple[int, ...]:
    """The shape of an array that memory can hold."""
    sizes = shape_sizes(shape, "shape")
    check_room("an initial weight", sizes, np.dtype(np.float64))
    return sizes


def _fan(shape: Shape, mode: FanMode) -> int:
    if not isinstance(mode, str) or mode not in ("fan_in", "fan_out"):
        raise OptionError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return max(1, fans(shape)[mode == "fan_out"])


def constant(shape: Shape, value: float = 0.0) -> Array:
    """One value everywhere."""
    return np.full(_sized(shape), number_of(value, "value"), np.float64)


def zeros(shape: Shape) -> Array:
    """0 everywhere."""
    return constant(shape, 0.0)


def ones(shape: Shape) -> Array:
    """1 everywhere."""
    return constant(shape, 1.0)


def trunc_normal(
    shape: Shape, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, *, rng: Seed = None
) -> Array:
    """Normal, drawn again where it lies outside a..b. Raises: OptionError for bounds that hold too little of it to be drawn from."""
    mean, std, a, b = (number_of(v, k) for k, v in (("mean", mean), ("std", std), ("a", a), ("b", b)))
    shape = _sized(shape)
    if not a < b or not std > 0 or (min(abs(a - mean), abs(b - mean)) > 4 * std and not a < mean < b):
        raise OptionError(
            f"trunc_normal: bounds {a}..{b} hold next to nothing of a normal distribution with mean {mean}, deviation {std}"
        )
    draw = generator(rng)
    values = draw.normal(mean, std, shape)
    while (outside := (values < a) | (values > b)).any():
        values = np.where(outside, draw.normal(mean, std, shape), values)
    return np.asarray(values)


def uniform(shape: Shape, lo: float = 0.0, hi: float = 1.0, *, rng: Seed = None) -> Array:
    """Uniform between lo and hi."""
    lo, hi = number_of(lo, "lo"), number_of(hi, "hi")
    if not -math.inf < lo <= hi < math.inf or math.isinf(hi - lo):
        raise OptionError(f"uniform: wanted finite bounds, lo not above hi, got {lo} and {hi}")
    return generator(rng).uniform(lo, hi, _sized(shape))


def normal(shape: Shape, mean: float = 0.0, std: float = 1.0, *, rng: Seed = None) -> Array:
    """Normal with this mean and standard deviation."""
    return generator(rng).normal(number_of(mean, "mean"), number_of(std, "std", least=0), _sized(shape))


def kaiming_uniform(
    shape: Shape, *, slope: float = 0.0, mode: FanMode = "fan_in", nonlinearity: Nonlinearity = "leaky_relu", rng: Seed = None
) -> Array:
    """Uniform within gain * sqrt(3 / fan) (He et al. 2015)."""
    bound = gain(nonlinearity, slope) * math.sqrt(3.0 / _fan(shape, mode))
    return uniform(shape, -bound, bound, rng=rng)


def kaiming_normal(
    shape: Shape, *, slope: float = 0.0, mode: FanMode = "fan_in", nonlinearity: Nonlinearity = "leaky_relu", rng: Seed = None
) -> Array:
    """Normal with standard deviation gain / sqrt(fan) (He et al. 2015)."""
    return normal(shape, 0.0, gain(nonlinearity, slope) / math.sqrt(_fan(shape, mode)), rng=rng)


def xavier_uniform(shape: Shape, *, scale: float = 1.0, rng: Seed = None) -> Array:
    """Uniform within scale * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = number_of(scale, "scale", least=0) * math.sqrt(6.0 / max(1, sum(fans(shape))))
    return uniform(shape, -bound, bound, rng=rng)


def xavier_normal(shape: Shape, *, scale: float = 1.0, rng: Seed = None) -> Array:
    """Normal with standard deviation scale * sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal(shape, 0.0, number_of(scale, "scale", least=0) * math.sqrt(2.0 / max(1, sum(fans(shape)))), rng=rng)


def orthogonal(shape: Shape, *, scale: float = 1.0, rng: Seed = None) -> Array:
    """Rows (or columns, whichever are fewer) of the weight as a matrix orthonormal, times scale (Saxe et al. 2014)."""
    shape, scale = _sized(shape), number_of(scale, "scale")
    if len(shape) < 2:
        raise ShapeError(f"orthogonal needs a weight of at least two axes, got shape {shape}")
    rows, columns = shape[0], math.prod(shape[1:])
    tall = generator(rng).standard_normal((max(rows, columns), min(rows, columns)))
    with blas_threads(1, SMALL_FLOP):  # LAPACK's, whose bits may depend on the number of threads
        q, r = np.linalg.qr(tall)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform over orthogonal matrices
    return np.ascontiguousarray(q.T if rows < columns else q).reshape(shape) * scale


def dirac(shape: Shape, *, groups: int = 1) -> Array:
    """The weight that passes its input on: 1 at the kernel's centre, from channel k of each group to channel k."""
    shape, groups = _sized(shape), count_of(groups, "groups", 1)
    if len(shape) < 3 or shape[0] % groups:
        raise ShapeError(f"dirac needs (out, in / groups, *kernel) with out divisible by groups {groups}, got shape {shape}")
    weight = np.zeros(shape)
    per_group = shape[0] // groups
    for g in range(groups):
        for k in range(min(per_group, shape[1])):
            weight[(g * per_group + k, k, *(n // 2 for n in shape[2:]))] = 1.0
    return weight


def _hat(kernel: int) -> Array:
    """1 - |x / f - c| with f = ceil(kernel / 2), c = (kernel - 1) / (2 f) (Caffe's BilinearFiller, along one axis)."""
    f = -(-kernel // 2)
    return 1.0 - np.abs(np.arange(kernel) / f - (kernel - 1) / (2.0 * f))


def bilinear(shape: Shape, *, pairs: Literal["diagonal", "all"] = "diagonal") -> Array:
    """The stencil of linear interpolation, for a deconvolution that up-samples (kernel 2s - s % 2, stride s), in any dimension.

    pairs="diagonal": each channel to itself, as FCN fills a dense weight, and as a depthwise weight (C, 1, *kernel) needs;
    "all": the same in every (in, out) pair, as Caffe's BilinearFiller does.

    Raises: ShapeError where "diagonal" has no diagonal to fill.
    """
    shape = _sized(shape)
    if len(shape) < 3:
        raise ShapeError(f"bilinear needs (in, out / groups, *kernel), got shape {shape}")
    stencil: Any = np.ones(())
    for kernel in shape[2:]:
        stencil = np.multiply.outer(stencil, _hat(kernel))
    weight = np.zeros(shape)
    if not isinstance(pairs, str):
        raise OptionError(f"bilinear: pairs must be 'diagonal' or 'all', got {pairs!r}")
    if pairs == "all" or (pairs == "diagonal" and shape[1] == 1):
        weight[...] = stencil
    elif pairs == "diagonal":
        if shape[0] != shape[1]:
            raise ShapeError(f"bilinear: a diagonal needs as many channels in as out, got shape {shape}; or pairs='all'")
        weight[np.arange(shape[0]), np.arange(shape[0])] = stencil
    else:
        raise OptionError(f"bilinear: pairs must be 'diagonal' or 'all', got {pairs!r}")
    return weight


def icnr(shape: Shape, factor: int, *, base: Callable[..., Array] = kaiming_normal, rng: Seed = None) -> Array:
    """A weight whose pixel shuffle by `factor` starts as nearest up-sampling: all channels that go to one pixel's
    block are equal (Aitken et al. 2017).

    Raises: ShapeError where the output channels do not divide.
    """
    shape, factor = _sized(shape), count_of(factor, "icnr: factor", 1)
    if not callable(base):
        raise OptionError(f"icnr: base must be an initialiser, got {type(base).__name__}")
    if len(shape) < 3 or factor > shape[0]:
        raise ShapeError(f"icnr: {shape[:1]} output channels do not divide by {factor} to the number of spatial axes")
    block = factor ** (len(shape) - 2)
    if len(shape) < 3 or shape[0] % block:
        raise ShapeError(f"icnr: {shape[0]} output channels do not divide by {factor} to the number of spatial axes")
    try:
        part = base((shape[0] // block, *shape[1:]), rng=rng)
    except TypeError as error:  # another callable
        raise OptionError(f"icnr: base must be an initialiser, got {base!r}: {error}") from None
    return np.repeat(part, block, axis=0)


def _setter(initialiser: Callable[Concatenate[Shape, P], Array]) -> Callable[Concatenate[Tensor, P], Tensor]:
    def set_(parameter: Tensor, /, *args: P.args, **options: P.kwargs) -> Tensor:
        if not isinstance(parameter, Tensor):
            raise OptionError(f"{initialiser.__name__}_ sets a Parameter, got {type(parameter).__name__}")
        parameter.assign(initialiser(parameter.shape, *args, **options).astype(parameter.dtype))
        return parameter

    first, *others = inspect.signature(initialiser).parameters.values()
    set_.__signature__ = inspect.Signature([first.replace(name="parameter", annotation=Tensor), *others])  # type: ignore[attr-defined]
    set_.__name__ = initialiser.__name__ + "_"
    set_.__doc__ = f"Set a parameter with `{initialiser.__name__}`; gives the parameter."
    return set_


ones_ = _setter(ones)
trunc_normal_ = _setter(trunc_normal)
zeros_ = _setter(zeros)
bilinear_ = _setter(bilinear)
constant_ = _setter(constant)
dirac_ = _setter(dirac)
icnr_ = _setter(icnr)
kaiming_normal_ = _setter(kaiming_normal)
kaiming_uniform_ = _setter(kaiming_uniform)
normal_ = _setter(normal)
orthogonal_ = _setter(orthogonal)
uniform_ = _setter(uniform)
xavier_normal_ = _setter(xavier_normal)
xavier_uniform_ = _setter(xavier_uniform)


def __dir__() -> list[str]:
    """The public names; modules lie behind them."""
    return sorted(__all__)
