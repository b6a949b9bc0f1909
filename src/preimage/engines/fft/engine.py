"""The fft engine: large kernels by fast Fourier transforms, where accuracy="fast" allows it."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from preimage.engines.base import (
    SMALL_KERNEL,
    Array,
    DType,
    Epilogue,
    Plan,
    ProductKernels,
    accumulator_dtype,
    apply_epilogue,
    empty_like_order,
    supported_dtype,
)
from preimage.engines.decisions import declare_all, is_recording
from preimage.engines.fft.contractions import Contractions
from preimage.engines.fft.plan import FftPlan, plan_for
from preimage.engines.fft.transform import real_dtype
from preimage.engines.prepared import PreparedWeight
from preimage.errors import EngineError
from preimage.floating_point import in_standard_mode
from preimage.geometry import ConvGeometry

__all__ = ["FftEngine"]

take = declare_all(
    "fft",
    {
        "empty": "an array has no elements, or no tap lies on the input: nothing is transformed",
        "whole": "one transform takes a whole picture",
        "tiles": "pictures are cut into overlapping tiles (overlap-save)",
        "stride": "a stride is taken apart into phases, which are summed as channels are",
        "dilation": "a dilation is taken apart into residues, which are transformed as images are",
        "products.single": "nothing is summed over channels: spectra are multiplied element by element",
        "products.matrix": "spectra are multiplied as matrices, one a frequency",
        "weights.chunks": "the spectra of the weights are made and used in parts",
        "sums.widened": "16-bit numbers are transformed in float32, and results rounded once",
    },
)
#: Of the cost model: where FFT is not faster by this much, the exact path keeps the call.
LEAST_GAIN = 1.4


class FftEngine:
    """The three contractions as products of spectra (`preimage.engines.fft`); bits fixed as those of exact engines are, in an order of its own."""

    name = "fft"
    takes_prepared = True
    kernels = None
    promises = ("repeat", "batch", "threads", "layout", "tiling", "cpu")

    def unavailable(self) -> str | None:
        """It always runs."""
        return None

    @property
    def products(self) -> ProductKernels:
        """Those of the first exact engine."""
        return _products()

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        """Every geometry with a spatial axis; the four float types."""
        if not supported_dtype(dtype):
            return f"dtype {dtype} is not one of float32, float64, float16, bfloat16"
        return None if geometry.ndim else "there is no spatial axis to transform"

    def declines(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        """Why the exact path is the better one, by the geometry of one image: the same on every machine."""
        if not prod(geometry.input_shape[1:]) * prod(geometry.output_shape[1:]) * prod(geometry.weight_shape):
            return "an array has no elements"
        if max(geometry.kernel_size) <= SMALL_KERNEL:
            return f"a kernel of {geometry.kernel_size}: at most {SMALL_KERNEL} along every axis"
        made = _plan(geometry, contraction, dtype)
        gain = made.direct_ns() / made.cost_ns()
        if gain >= LEAST_GAIN:
            return None
        return f"{made.cost_ns() / 1e6:.3g} ms by the model, an image; sums of products {made.direct_ns() / 1e6:.3g} ms"

    def gain(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> float:
        """How many times faster than the exact path an image is, by the model."""
        made = _plan(geometry, contraction, dtype)
        return made.direct_ns() / made.cost_ns()

    def error_bound(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> float:
        """c of |error| <= c |a|_2 |b|_1: see docs/large-kernels.md."""
        real = real_dtype(dtype)
        unit = float(np.finfo(real).eps) / 2
        return _plan(geometry, contraction, dtype).error_bound * unit

    def conv(self, geometry: ConvGeometry, x: Array, w: Array | PreparedWeight, epilogue: Epilogue | None = None) -> Array:
        return self._gather(geometry, "conv", x, w, epilogue)

    def conv_transpose(
        self, geometry: ConvGeometry, y: Array, w: Array | PreparedWeight, epilogue: Epilogue | None = None
    ) -> Array:  # fmt: skip
        return self._gather(geometry, "conv_transpose", y, w, epilogue)

    @in_standard_mode
    @np.errstate(all="ignore")
    def _gather(
        self, g: ConvGeometry, contraction: str, a: Array, w: Array | PreparedWeight, epilogue: Epilogue | None
    ) -> Array:  # fmt: skip
        out = empty_like_order(g.output_shape if contraction == "conv" else g.input_shape, a)
        if not out.size:
            take("empty")
            return out
        sums = accumulator_dtype(a.dtype)
        result = out if sums == a.dtype else empty_like_order(out.shape, a, sums)
        result.fill(0)
        if self._work(g, contraction, a, w.shape) is not None:
            getattr(_contractions(g, contraction, a.dtype), contraction)(a, w, result)
        elif contraction == "conv":  # every tap lies on padding, whose zeros take part: 0 * inf is NaN
            values = w.array if isinstance(w, PreparedWeight) else w
            result += _zeros(values, 0, sums).reshape(-1, *[1] * g.ndim)
        apply_epilogue(result, epilogue)
        if result is not out:
            out[...] = result
        return out

    @in_standard_mode
    @np.errstate(all="ignore")
    def conv_weight_grad(self, geometry: ConvGeometry, x: Array, y: Array) -> Array:
        out = np.zeros(geometry.weight_shape, accumulator_dtype(x.dtype))
        if out.size and self._work(geometry, "conv_weight_grad", x, y.shape) is not None:
            _contractions(geometry, "conv_weight_grad", x.dtype).conv_weight_grad(x, y, out)
        elif out.size and y.size:
            out += _zeros(y, 1, out.dtype).reshape(-1, *[1] * (out.ndim - 1))
        return out.astype(x.dtype, copy=False)

    def _work(self, g: ConvGeometry, contraction: str, a: Array, other: tuple[int, ...]) -> FftPlan | None:
        """The plan of a call; None where its result is zeros."""
        made = _plan(g, contraction, a.dtype) if a.size and prod(other) else None
        if made is None or not made.meets:
            take("empty")
            return None
        if is_recording():
            for name in _decisions(made, a.dtype):
                take(name)
        return made

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan:
        made = _plan(geometry, contraction, dtype)
        sizes = " x ".join(map(str, made.periods))
        details: dict[str, Any] = {
            "transforms": f"{sizes}, {made.rows} an image and channel" + (f", for {_parts(made)}" if _parts(made) else ""),
            "products": "element by element"
            if made.elementwise
            else f"{made.frequencies} matrix products, over {made.depth} channels",
            "spectra of the weights": f"{made.kernel_bytes} bytes" + (f", in {made.chunks} parts" if made.chunks > 1 else ""),
            "predicted": f"{geometry.batch * made.cost_ns() / 1e6:.3g} ms, sums of products {geometry.batch * made.direct_ns() / 1e6:.3g} ms",
            "error": f"at most {self.error_bound(geometry, contraction, dtype):.2g} |a|_2 |b|_1, of what an image and group brings",
        }
        if real_dtype(dtype).itemsize > accumulator_dtype(dtype).itemsize:
            details["computed in"] = f"float64: NumPy {np.__version__} has no float32 transforms"
        refused = {
            "direct": f"accuracy='fast': {made.direct_ns() / 1e6:.3g} ms by the model, transforms {made.cost_ns() / 1e6:.3g}"
        }
        names = tuple(f"fft.{name}" for name in _decisions(made, dtype)) if made.meets else ("fft.empty",)
        algorithm = "Fourier transforms" + (", overlap-save" if len(made.tiles) > 1 else "")
        workspace = _contractions(geometry, contraction, dtype).workspace_bytes(geometry.batch) if made.meets else 0
        return Plan(
            self.name, contraction, algorithm, geometry, dtype.name, geometry.work_flop, geometry.array_bytes(dtype.itemsize),
            workspace, 1, self.promises, details, refused, names,
        )  # fmt: skip


def _plan(g: ConvGeometry, contraction: str, dtype: DType) -> FftPlan:
    return plan_for(g, contraction, real_dtype(dtype).itemsize)


@lru_cache(maxsize=1024)
def _contractions(g: ConvGeometry, contraction: str, dtype: DType) -> Contractions:
    return Contractions(_plan(g, contraction, dtype), real_dtype(dtype), _products().matmul)


def _zeros(a: Array, axis: int, dtype: DType) -> Array:
    """Sums of 0 * a over all axes but one: NaN where a is not finite."""
    return np.asarray((a.astype(dtype) * 0).sum(axis=tuple(k for k in range(a.ndim) if k != axis)))


def _decisions(made: FftPlan, dtype: DType) -> list[str]:
    found = {
        "whole": len(made.tiles) == 1,
        "tiles": len(made.tiles) > 1,
        "stride": len(made.phases) > 1,
        "dilation": len(made.residues) > 1,
        "products.single": made.elementwise,
        "products.matrix": not made.elementwise,
        "weights.chunks": made.chunks > 1,
        "sums.widened": dtype.itemsize == 2,
    }
    return [name for name, holds in found.items() if holds]


def _parts(made: FftPlan) -> str:
    """What of an image's transforms comes from tiles, strides and dilations."""
    counts = {"tiles": len(made.tiles), "phases of the stride": len(made.phases), "residues of the dilation": len(made.residues)}
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n > 1)


def _products() -> ProductKernels:
    """Matrix products in the contract's order: of the first exact engine."""
    from preimage.engines import INEXACT, get, names  # the registry imports this module by name

    for name in names():
        if name not in INEXACT:
            try:
                return get(name).products
            except EngineError:
                continue
    raise EngineError("no engine has matrix products")
