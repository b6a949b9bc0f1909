"""What networks need around the contractions, by the kernels that an engine has beside them (`Engine.kernels`).

Every function gives None where NumPy has to do the work: the engine has no such kernels, the dtype is not float32 or float64, the
arrays are too small to pay, or they do not lie densely in memory. The operations keep their NumPy definitions for that; the
results agree bit for bit where only sums of two, products, maxima and the like are taken. exp, sigmoid and tanh differ in the
last bits from NumPy's, so these are generated for arrays of every size: their bits depend on the engine alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any, TypeAlias

import numpy as np

from preimage.autograd.device_arrays import DeviceArray
from preimage.engines import DEVICE_ENGINES, get, names, sums
from preimage.engines.axis_matrix import AxisMatrix
from preimage.engines.base import Array, ElementwiseKernels, Steps
from preimage.engines.recording import recorder
from preimage.engines.recurrent import Direction
from preimage.errors import EngineError
from preimage.settings import current

__all__ = [
    "active",
    "active_engine",
    "along_axes",
    "cast",
    "chain",
    "channel_sums",
    "concat",
    "expect_finite",
    "function",
    "gathered",
    "in_order",
    "lines",
    "max_pool_grad",
    "mixed",
    "pointwise",
    "pool_axis",
    "pool_plane",
    "ready",
    "records",
    "recurrent",
    "runs_recurrent",
    "softmax",
    "standardize",
    "standardize_gradient",
    "sum_over",
    "unpool_axis",
]

#: Elements from which a kernel computes what NumPy computes with the same bits. Below, one that is not loaded yet takes longer than it saves:
#: there a call has to have come several times (`ops/elementwise.py`).
LEAST_CHAIN = 1 << 13
#: Of windows along an axis: outputs, kernel, stride, lo, dilation.
Window: TypeAlias = tuple[int, int, int, int, int]
_WIDE = frozenset(np.dtype(t) for t in (np.float32, np.float64))
#: By the setting `engine`, the kernels that were found, and the engine's name.
_found: dict[str, tuple[ElementwiseKernels, str]] = {}


def active() -> ElementwiseKernels | None:
    """The kernels of the engine that the settings choose; for "auto" of the first engine that runs here and has some. An engine of a GPU has
    kernels for the arrays that lie there, none for NumPy's.
    """
    wanted = current().engine
    known = _found.get(wanted)
    if known is None:
        for name in names() if wanted == "auto" else (wanted,):
            if name in DEVICE_ENGINES:
                continue
            try:
                kernels = getattr(get(name), "kernels", None)
            except EngineError:
                continue
            if kernels is not None:
                known = _found[wanted] = kernels, name
                break
    return None if known is None else known[0]


def active_engine() -> Any:
    """The engine whose kernels these are, or None."""
    return None if active() is None else get(_found[current().engine][1])


def log_kernels(what: str, *arrays: Any) -> None:
    """Log to stderr, with PREIMAGE_DEBUG, which operation runs on generated kernels."""
    if current().debug:
        shapes = ", ".join(str(a.shape) for a in arrays)
        print(f"preimage: {what} of {shapes} {arrays[0].dtype} runs on {_found[current().engine][1]}", file=sys.stderr)


def fits(*arrays: Any) -> ElementwiseKernels | None:
    """The kernels, where there are some and they take arrays of this dtype."""
    dtype = arrays[0].dtype
    return active() if dtype in _WIDE and all(a.dtype == dtype for a in arrays[1:]) else None


def _pays(size: int, least: int) -> bool:
    """Whether so many elements are worth a kernel's call: for a recorder, which runs it without Python, any are."""
    return size >= least or (size > 0 and recorder() is not None)


def chain(
    operands: Sequence[Array],
    steps: Steps,
    numbers: Sequence[float] | Array = (),
    results: tuple[int, ...] | None = None,
    least: int = LEAST_CHAIN,
) -> tuple[Array, ...] | None:
    """Elementwise steps in one pass (`run_chain`), on arrays of one dtype; `least` is the number of elements from which it pays."""
    if DeviceArray in map(type, operands):
        return chain_on_device(operands, steps, numbers, results)
    if not _pays(max([a.size for a in operands]), max(least, 1)) or (kernels := fits(*operands)) is None:
        return None
    operands = [a if isinstance(a, np.ndarray) else np.asarray(a) for a in operands]  # a NumPy number's bits lie in no array
    made = kernels.run_chain(operands, steps, numbers, results)
    if made is not None:
        log_kernels(" ".join([word for word, _ in steps]), *operands)
    return made


def chain_on_device(
    operands: Sequence[Any], steps: Steps, numbers: Sequence[float] | Array, results: tuple[int, ...] | None
) -> tuple[Any, ...]:  # fmt: skip
    """Elementwise steps on arrays that lie on one GPU. Raises: EngineError where they do not, or cannot be taken together."""
    from preimage.engines import on_device

    on_device.one_place(**{f"operand {k + 1}": a for k, a in enumerate(operands)})
    words = " ".join(word for word, _ in steps)
    made = on_device.device_kernels(words, operands[0]).run_chain(operands, steps, numbers, results)
    if made is None:
        shapes = ", ".join(str(a.shape) for a in operands)
        raise EngineError(
            f"{words}: arrays of shapes {shapes} and their order in memory are not taken together on {operands[0].device}"
        )
    return made


def mixed(
    operands: Sequence[Array], steps: Steps, dtype: Any, kind: Any, numbers: Sequence[float] = (), least: int = LEAST_CHAIN
) -> Array | None:
    """Elementwise steps on arrays of any dtypes. dtype: what is computed in, float32 or float64; kind: the dtype of the result."""
    if not _pays(max([a.size for a in operands]), max(least, 1)) or (kernels := active()) is None:
        return None
    made = kernels.run_chain(operands, steps, numbers, None, np.dtype(dtype), (np.dtype(kind),))
    if made is None:
        return None
    log_kernels(" ".join([word for word, _ in steps]) or "cast", *operands)
    return made[0]


def cast(x: Array, kind: np.dtype[Any]) -> Array | None:
    """The array in another dtype, where that is one rounding and many elements."""
    if not _pays(x.size, LEAST_CHAIN) or x.dtype == kind:
        return None
    wide = kind == np.float64 or x.dtype == np.float64  # integers of 64 bits are rounded to float32 at once
    return mixed((x,), (), np.float64 if wide else np.float32, kind)


def pointwise(word: str, *operands: Array, numbers: Sequence[float] = ()) -> Array | None:
    """One step that is rounded as NumPy rounds it."""
    made = chain(operands, _one_step(word, len(operands) + len(numbers)), numbers)
    return None if made is None else made[0]


def ready(
    operands: Sequence[Array], steps: Steps, numbers: Sequence[float], dtype: Any, kind: Any
) -> Callable[..., Array | None] | None:
    """Elementwise steps for more arrays of the same shapes, strides and dtypes under the same settings: `call(*operands)`, which may give
    None, and has then done nothing. dtype: what is computed in; kind: the dtype of the result. None where there are no such calls.
    """
    kernels = None if current().debug or recorder() is not None else active()
    maker = getattr(kernels, "ready_chain", None)
    made: Callable[..., Array | None] | None = maker and maker(operands, steps, numbers, np.dtype(dtype), np.dtype(kind))
    return made


def function(word: str, *operands: Array, numbers: Sequence[float] = ()) -> Array | None:
    """A function whose bits are the engine's (exp, log, erf, ...; `ir/elementwise.py` has them), of arrays of any size."""
    made = chain(operands, _one_step(word, len(operands) + len(numbers)), numbers, least=1)
    return None if made is None else made[0]


@cache
def _one_step(word: str, values: int) -> Steps:
    return ((word, tuple(range(values))),)


def channel_sums(
    x: Array, mode: str, images: bool, g: Array | None = None, m: Array | None = None, gate: tuple[Array, Array, float] | None = None
) -> tuple[Array, ...] | None:  # fmt: skip
    """Sums per channel of (N, C, *space) arrays, whatever the size: the engine alone decides on the bits.

    gate: a scale and a shift for each m, and a slope: where (x - m) scale + shift is not above 0, g counts times the slope.
    """
    if not x.size or x.ndim < 2 or (kernels := fits(x)) is None:
        return None
    log_kernels(f"sums ({mode})", x)
    return kernels.channel_sums(x, mode, images, g, m, gate)


def sum_over(x: Array, axis: tuple[int, ...]) -> Array:
    """The sum over any axes, which are dropped, in the contract's order; NumPy where no kernel fits, with the same bits."""
    kernels = fits(x) if x.size else None
    if kernels is None:
        return sums.sum_over(x, axis)
    log_kernels(f"sum over {axis}", x)
    return sums.sum_over(
        gathered(x),
        axis,
        lambda view: kernels.channel_sums(view, "plain", False)[0],
        lambda level: kernels.tree_sums(level[None])[0],
        in_order if records() else lambda array: None,
    )


def concat(parts: Sequence[Array], axis: int) -> Array | None:
    """The parts side by side."""
    if not _pays(sum([p.size for p in parts]), LEAST_CHAIN) or (kernels := fits(*parts)) is None:
        return None
    return _said("concat", kernels.concat(parts, axis), *parts)


def pool_axis(x: Array, axis: int, window: Window, mode: str) -> Array | None:
    """The maximum ("max") or sum ("sum") over windows along a spatial axis; window: outputs, kernel, stride, lo, dilation."""
    if not _pays(x.size, LEAST_CHAIN) or (kernels := fits(x)) is None:
        return None
    return _said(f"{mode} over windows", kernels.pool_axis(x, axis, window, mode), x)


def pool_plane(x: Array, axis: int, windows: tuple[Window, Window], mode: str, over: Array | None = None) -> Array | None:
    """The same over windows along an axis and the next at once; "mean": the sums divided by `over`, a number for each."""
    if not _pays(x.size, LEAST_CHAIN) or (kernels := fits(x)) is None:
        return None
    return _said(f"{mode} over windows", kernels.pool_plane(x, axis, windows, mode, over), x)


def unpool_axis(y: Array, axis: int, size: int, window: Window) -> Array | None:
    """The adjoint of the sum over windows along a spatial axis of `size`."""
    if not _pays(y.size, LEAST_CHAIN) or (kernels := fits(y)) is None:
        return None
    return _said("sum over windows, transposed", kernels.unpool_axis(y, axis, size, window), y)


def max_pool_grad(g: Array, x: Array, pooled: Array, windows: tuple[tuple[int, int, int, int, int, int], ...]) -> Array | None:
    """The gradient of a maximum over windows (each: size, outputs, kernel, stride, lo, dilation)."""
    if not g.size or not _pays(x.size, LEAST_CHAIN) or (kernels := fits(g, x, pooled)) is None:
        return None
    return _said("gradient of max over windows", kernels.max_pool_grad(g, x, pooled, windows), x)


def along_axes(x: Array, matrices: Sequence[tuple[int, AxisMatrix]]) -> Array:
    """Every line of x along an axis times a sparse matrix of x's dtype, one axis after another."""
    shape = list(x.shape)
    for axis, matrix in matrices:
        shape[axis] = max(shape[axis], matrix.outputs)
    works = x.size and all(matrix.outputs for _, matrix in matrices) and _pays(prod(shape), LEAST_CHAIN)
    kernels = fits(x) if works else None
    made = None if kernels is None else _said("matrices along axes", kernels.along_axes(x, matrices), x)
    if made is None:
        made = x
        for axis, matrix in matrices:
            made = matrix.times(made, axis)
    return made


def runs_recurrent(*arrays: Array) -> bool:
    """Whether the engine runs recurrent layers of arrays of this dtype."""
    return fits(*arrays) is not None and hasattr(active_engine(), "recurrent")


def recurrent(directions: Sequence[Direction]) -> None:
    """Fill y and the last states of layers that do not depend on each other, where the engine runs them."""
    active_engine().recurrent(directions)
    log_kernels("recurrent layer", *[d.products for d in directions])


def in_order(x: Array) -> Array | None:
    """A copy in row-major order, whatever the dtype is."""
    kernels = active()
    return None if kernels is None else _said("copy", kernels.in_order(x), x)


def gathered(x: Array) -> Array:
    """For a recorder, an array whose elements do not fill their memory as a copy by a kernel, its axes in the same order; else the array."""
    if recorder() is None or not x.size:
        return x
    order = sorted(range(x.ndim), key=lambda k: -abs(x.strides[k]))
    view = x.transpose(order)
    copied = None if view.flags.c_contiguous else in_order(view)
    return x if copied is None else copied.transpose(np.argsort(order))


def records() -> bool:
    """Whether somebody records what is computed: then kernels are wanted where NumPy would do as well."""
    return recorder() is not None


def expect_finite(x: Array) -> bool:
    """Whether somebody records what is computed, and x is finite: who has to see to it then that it stays so."""
    here = recorder()
    if here is None or not np.isfinite(x).all():
        return False
    here.expect(x)
    return True


def softmax(x: Array, axis: int, g: Array | None = None) -> Array | None:
    """exp(x) / sum exp(x) along an axis, or with g its gradient at the answer x, whatever the size: the engine decides on the bits."""
    return lines(x, (axis,), "softmax") if g is None else lines(x, (axis,), "softmax_gradient", g)


def lines(x: Array, axis: tuple[int, ...], mode: str, g: Array | None = None, least: int = 1) -> Array | None:
    """What is computed of whole lines along the axes: softmax, log_softmax, logsumexp, max, min (axes dropped by the last three)."""
    if x.size < least or not axis or (kernels := fits(x, *(() if g is None else (g,)))) is None:
        return None
    return _said(mode, kernels.lines(x, axis, mode, g)[0], x)


def standardize(
    x: Array, axis: tuple[int, ...], eps: float, affine: tuple[Array, Array] | None = None
) -> tuple[Array, Array] | None:  # fmt: skip
    """(x - mean) / sqrt(var + eps) over the axes (then times and plus two dense arrays along them), and var + eps with the axes as 1.

    None where axis 0, which counts images, is among them: sums over images have an order of their own.
    """
    if not x.size or not axis or 0 in axis or (kernels := fits(x, *(affine or ()))) is None:
        return None
    made, below = kernels.lines(x, axis, "standardize", None, None, eps, affine)
    log_kernels("standardize", x)
    return made, below.reshape([1 if k in axis else n for k, n in enumerate(x.shape)])


def standardize_gradient(g: Array, y: Array, inverse: Array, axis: tuple[int, ...]) -> Array | None:
    """The gradient of `standardize` at its answer y; inverse: 1 / sqrt(var + eps), the axes as 1."""
    if not y.size or not axis or 0 in axis or (kernels := fits(y, g, inverse)) is None:
        return None
    each = inverse.reshape([n for k, n in enumerate(inverse.shape) if k not in axis])
    return _said("gradient of standardize", kernels.lines(y, axis, "standardize_gradient", g, each)[0], y)


def _said(what: str, made: Array | None, *arrays: Array) -> Array | None:
    if made is not None:
        log_kernels(what, *arrays)
    return made
