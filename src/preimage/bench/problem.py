"""One layer as arrays whose answer is known exactly.

The data are small integers, so every product and every sum of every order is exact in float32 and float64: what a
contestant must give is one array, bit for bit, and no tolerance is needed. Only contestants that transform the data first
(Winograd, FFT: peers may) get a bound: 8 sqrt(n) u sum|x||w|, the probable growth of rounding errors in a sum of n terms
(Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019). Values are -2, -1, 1 or 2; the time of a
multiply-add does not depend on them (there are no denormals).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Any

import numpy as np

from preimage.bench.suite import Layer
from preimage.engines.base import aligned_empty
from preimage.errors import EngineError

__all__ = ["Problem", "ordered", "values"]

Array = np.ndarray[Any, np.dtype[Any]]


def values(shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> Array:
    """Pseudo-random -2, -1, 1, 2 in C order: the same on every machine and for every NumPy."""
    count = prod(shape)
    numbers = np.arange(count, dtype=np.uint64)
    numbers += np.uint64(seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    numbers ^= numbers >> np.uint64(30)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    numbers ^= numbers >> np.uint64(27)
    numbers *= np.uint64(0x94D049BB133111EB)
    table = np.array([-2, -1, 1, 2], dtype)
    return table[(numbers >> np.uint64(62)).astype(np.intp)].reshape(shape)


def ordered(a: Array, layout: str) -> Array:
    """A copy with its memory in the layout, "channels_first" or "channels_last", on a cache line, as torch's tensors are
    and as results of this library are.
    """
    last = layout == "channels_last"
    source = np.moveaxis(a, 1, -1) if last else a
    memory = aligned_empty(source.shape, a.dtype)
    memory[...] = source
    return np.moveaxis(memory, -1, 1) if last else memory


@dataclass(eq=False)
class Problem:
    """A layer with data: `x` the large side, `y` the small side, `w` the weights, all in C order."""

    layer: Layer
    dtype: Any

    @cached_property
    def x(self) -> Array:
        return values(self.layer.geometry.input_shape, 1, self.dtype)

    @cached_property
    def w(self) -> Array:
        return values(self.layer.geometry.weight_shape, 2, self.dtype)

    @cached_property
    def y(self) -> Array:
        return values(self.layer.geometry.output_shape, 3, self.dtype)

    def terms(self, what: str) -> int:
        """The most terms that one element of a pass's result sums."""
        g = self.layer.geometry
        contraction = self.layer.contraction(what)
        if contraction == "conv":
            return g.in_channels_per_group * prod(g.kernel_size)
        if contraction == "conv_transpose":
            return g.out_channels_per_group * prod(g.kernel_size)
        return g.batch * prod(g.output_size if contraction == "conv_weight_grad" else g.input_size)

    def truth(self, what: str) -> Array:
        """The exact answer, by an engine that is not measured: torch in float64, else gemm, else reference."""
        if what not in self._truths:
            self._truths[what] = _truth(self.layer, self.layer.contraction(what), self.x, self.w, self.y)
        return self._truths[what]

    @cached_property
    def _truths(self) -> dict[str, Array]:
        return {}

    def forget(self, what: str) -> None:
        self._truths.pop(what, None)

    def check(self, what: str, result: Array, exact: bool) -> tuple[bool, str]:
        """Whether a result is right, and in words how it was found: "exact", or the error beside its bound."""
        truth = self.truth(what)
        if result.shape != truth.shape:
            return False, f"shape {result.shape}, wanted {truth.shape}"
        if np.array_equal(result, truth):
            return True, "exact"
        error = float(np.max(np.abs(np.asarray(result, np.float64) - truth)))
        if exact and np.dtype(self.dtype).itemsize >= 4:
            return False, f"differs from the exact answer by up to {error:g}"
        if np.dtype(self.dtype).itemsize < 4:  # summed in float32, rounded once at the end: half a unit in the last place
            last = 2.0**-8 if np.dtype(self.dtype).name == "bfloat16" else 2.0**-11
            bound = last * float(np.max(np.abs(truth)))
        else:
            n = self.terms(what)
            bound = 8 * sqrt(n) * float(np.finfo(self.dtype).eps) / 2 * 2.25 * n
        return error <= bound, f"error {error:.2g}, bound {bound:.2g}"


def _truth(layer: Layer, contraction: str, x: Array, w: Array, y: Array) -> Array:
    if contraction == "sum_over_space":
        large = layer.kind == "deconv"
        a = x if large else y
        return np.asarray(a.astype(np.float64).sum(axis=(0, *range(2, a.ndim))))
    x, w, y = (a.astype(np.float64) for a in (x, w, y))
    try:
        from preimage.bench.peers import torch_truth

        return torch_truth(layer, contraction, x, w, y)
    except ImportError:
        pass
    from preimage.engines import get as get_engine

    for name in ("gemm", "reference"):
        try:
            engine = get_engine(name)
        except EngineError:
            continue
        if contraction == "conv":
            return engine.conv(layer.geometry, x, w)
        if contraction == "conv_transpose":
            return engine.conv_transpose(layer.geometry, y, w)
        return engine.conv_weight_grad(layer.geometry, x, y)
    raise EngineError("nothing here can compute the exact answer: neither torch, nor the engines gemm and reference")
