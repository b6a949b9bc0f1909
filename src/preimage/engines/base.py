"""What an engine is: three contractions over arrays whose sizes a ConvGeometry has already checked.

Every engine gets logical (N, C, *spatial) arrays with any strides (channels-last is a transposed view of the same logical
shape), of one dtype, native and aligned; it never writes to them, never returns a view of them, and gives its result the
memory order of its first array. Narrow floats (float16, bfloat16) are stored narrow, summed in float32, rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from preimage.display import Shown
from preimage.engines.buffers import aligned_empty
from preimage.errors import DTypeError, OptionError
from preimage.geometry import ConvGeometry
from preimage.records import record

if TYPE_CHECKING:
    from preimage.engines.axis_matrix import AxisMatrix

__all__ = [
    "CONTRACTIONS",
    "PROMISES",
    "SMALL_KERNEL",
    "Array",
    "Chain",
    "ElementwiseKernels",
    "Engine",
    "Epilogue",
    "InexactEngine",
    "Plan",
    "ProductKernels",
    "accumulator_dtype",
    "aligned_empty",
    "apply_epilogue",
    "apply_to_columns",
    "empty_like_order",
    "is_channels_last",
    "memory_order",
    "supported_dtype",
]

Array = NDArray[Any]
DType = np.dtype[Any]
#: Elementwise steps on a result: (word, places), and the numbers they take. Places: 0 the result, then the numbers, then earlier steps.
Steps = tuple[tuple[str, tuple[int, ...]], ...]
Chain = tuple[Steps, tuple[float, ...]]

CONTRACTIONS = ("conv", "conv_transpose", "conv_weight_grad")
ACTIVATIONS = (None, "relu", "leaky_relu", "clip")

#: The usual dtypes, which need no look at their names (a property that takes 2 us).
_PLAIN = frozenset(np.dtype(t) for t in (np.float32, np.float64, np.float16))
#: What an engine may promise about its bits: the same result for ...
PROMISES = ("repeat", "batch", "threads", "layout", "tiling", "cpu")


@record
class Epilogue:
    """What is done to every element of a contraction's result before it is stored: bias, then residual, then activation.

    bias: one value per channel of the result. residual: an array of the result's shape. activation: None, "relu",
    "leaky_relu" (with `slope`) or "clip" (to `lo`..`hi`). NaN passes through every activation.
    """

    bias: Array | None = None
    residual: Array | None = None
    activation: str | None = None
    slope: float = 0.01
    lo: float = 0.0
    hi: float = 6.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            names = ", ".join(repr(a) for a in ACTIVATIONS)
            raise OptionError(f"activation must be one of {names}, got {self.activation!r}")


@record
class Plan(Shown):
    """What would run for one geometry, as plain data: `details` holds the engine's own figures (tile, blocking, ...).

    work_flop counts 2 per multiply-add; workspace_bytes is scratch memory beside inputs and output; promises are the
    changes under which the bits stay the same; refused says which algorithms were not taken, and why; decisions are the
    branches that the planner took, by name (`engines.decisions` has the words).
    """

    engine: str
    contraction: str
    algorithm: str
    geometry: ConvGeometry
    dtype: str
    work_flop: int
    array_bytes: int
    workspace_bytes: int
    threads: int
    promises: tuple[str, ...]
    details: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    decisions: tuple[str, ...] = ()

    def __str__(self) -> str:
        g = self.geometry
        lines = [
            f"{self.contraction} on {self.engine}: {self.algorithm}",
            f"  input {g.input_shape}  weight {g.weight_shape}  output {g.output_shape}  {self.dtype}",
            f"  stride {g.stride}  padding {g.padding}  dilation {g.dilation}  groups {g.groups}",
            f"  work {self.work_flop / 1e6:.3f} Mflop  arrays {self.array_bytes} bytes  workspace {self.workspace_bytes} bytes"
            f"  threads {self.threads}",
            f"  same bits for any: {', '.join(self.promises) or 'nothing promised'}",
        ]
        lines += [f"  {name}: {value}" for name, value in self.details.items()]
        lines += [f"  not {name}: {why}" for name, why in self.refused.items()]
        return "\n".join(lines)


class ElementwiseKernels(Protocol):
    """What an engine may compute beside the contractions, on arrays of one dtype, float32 or float64 (run_chain: of any): see `engines.around`.

    Functions that give None where the arrays do not lie so in memory leave the work to NumPy.
    """

    def run_chain(
        self, operands: Sequence[Array], steps: Steps, numbers: Sequence[float] | Array = (), results: tuple[int, ...] | None = None,
        dtype: DType | None = None, dtypes: tuple[DType, ...] | None = None, out: Sequence[Array] | None = None,
    ) -> tuple[Array, ...] | None: ...  # fmt: skip

    def channel_sums(
        self, x: Array, mode: str, images: bool, g: Array | None = None, m: Array | None = None,
        gate: tuple[Array, Array, float] | None = None,
    ) -> tuple[Array, ...]: ...  # fmt: skip

    def tree_sums(self, x: Array) -> Array: ...

    def concat(self, parts: Sequence[Array], axis: int) -> Array | None: ...

    def pool_axis(self, x: Array, axis: int, window: tuple[int, int, int, int, int], mode: str) -> Array | None: ...

    def pool_plane(
        self, x: Array, axis: int, windows: tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int]], mode: str,
        over: Array | None = None,
    ) -> Array | None: ...  # fmt: skip

    def unpool_axis(self, y: Array, axis: int, size: int, window: tuple[int, int, int, int, int]) -> Array | None: ...

    def max_pool_grad(
        self, g: Array, x: Array, pooled: Array, windows: tuple[tuple[int, int, int, int, int, int], ...]
    ) -> Array | None: ...

    def along_axes(self, x: Array, matrices: Sequence[tuple[int, AxisMatrix]]) -> Array | None: ...

    def softmax(self, x: Array, axis: int, g: Array | None = None) -> Array: ...

    def in_order(self, x: Array) -> Array | None: ...

    def take(self, x: Array, index: Array, axis: int) -> Array | None: ...

    def lines(
        self, x: Array, axis: tuple[int, ...], mode: str, g: Array | None = None, each: Array | None = None, eps: float = 0.0,
        affine: tuple[Array, Array] | None = None,
    ) -> tuple[Array, ...]: ...  # fmt: skip


class ProductKernels(Protocol):
    """Matrix products, as an engine computes them: arrays of one of the four float dtypes, aligned and native, with any strides."""

    def matmul(self, a: Array, b: Array, epilogue: Epilogue | None = None) -> Array:
        """a (..., m, k) times b (..., k, n); the other axes broadcast. The epilogue's channels are the n columns."""
        ...

    def linear(self, x: Array, w: Any, epilogue: Epilogue | None = None) -> Array:
        """x (..., k) times the transpose of w (n, k), which may be a PreparedWeight where the engine takes prepared ones."""
        ...


class Engine(Protocol):
    """The three contractions. `unavailable` and `supports` give None, or the reason why not.

    takes_prepared: conv and conv_transpose also take a PreparedWeight for w; other engines are given its array.
    kernels: what it computes beside the contractions, if anything. products: its matrix products.
    """

    name: str
    promises: tuple[str, ...]
    takes_prepared: bool
    kernels: ElementwiseKernels | None
    products: ProductKernels

    def unavailable(self) -> str | None: ...

    def supports(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None: ...

    def conv(self, geometry: ConvGeometry, x: Array, w: Array, epilogue: Epilogue | None = None) -> Array: ...

    def conv_transpose(self, geometry: ConvGeometry, y: Array, w: Array, epilogue: Epilogue | None = None) -> Array: ...

    def conv_weight_grad(self, geometry: ConvGeometry, x: Array, y: Array) -> Array: ...

    def plan(self, geometry: ConvGeometry, contraction: str, dtype: DType, channels_last: bool = False) -> Plan: ...


#: Kernels up to this size along every axis are for algorithms that work in tiles of a few outputs, not for Fourier transforms.
SMALL_KERNEL = 5


class InexactEngine(Engine, Protocol):
    """An engine that sums in an order of its own, which accuracy="fast" allows. It says itself when it pays: the choice changes bits, so it
    depends on nothing but the geometry without its batch, the contraction and the dtype.
    """

    def declines(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> str | None:
        """Why the exact path is the better one; None where it is not."""
        ...

    def gain(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> float:
        """How many times faster than the exact path it is, by its model."""
        ...

    def error_bound(self, geometry: ConvGeometry, contraction: str, dtype: DType) -> float:
        """c, where no result is off by more than c |a|_2 |b|_1, with a and b the operands as the result's group and image sees them."""
        ...


def supported_dtype(dtype: DType) -> bool:
    """float16, bfloat16 (ml_dtypes), float32 or float64."""
    return dtype in _PLAIN or dtype.name in ("float32", "float64", "float16", "bfloat16")


def accumulator_dtype(dtype: DType) -> DType:
    """The dtype that sums are kept in: float32 for the narrow floats, else the dtype itself."""
    if not supported_dtype(dtype):
        raise DTypeError(f"dtype {dtype} is not supported; use float32, float64, float16 or bfloat16")
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def memory_order(x: Array) -> tuple[int, ...]:
    """The axes from the outermost in memory to the innermost; axes of one element stay where they are."""
    axes = [k for k in range(x.ndim) if x.shape[k] > 1]
    moved = iter(sorted(axes, key=lambda k: -abs(x.strides[k])))
    return tuple(next(moved) if k in axes else k for k in range(x.ndim))


def is_channels_last(a: Any) -> bool:
    """Whether the memory of a logical (N, C, *spatial) array (here or on a device) holds channels innermost.

    Spatial axes of size 1 say nothing (their strides may be anything); where nothing is said, the answer is False. A single channel is innermost
    where its stride is an element's.
    """
    if a.ndim < 3:
        return False
    spatial = [abs(s) for s, n in zip(a.strides[2:], a.shape[2:], strict=True) if n > 1]
    if a.shape[1] == 1:
        return bool(spatial) and a.strides[1] == a.itemsize
    return bool(spatial) and abs(a.strides[1]) < min(spatial)


def empty_like_order(shape: tuple[int, ...], like: Array, dtype: DType | None = None) -> Array:
    """A new array of logical `shape`, channels-last in memory if `like` is, else C order; contents undefined."""
    dtype = like.dtype if dtype is None else dtype
    if is_channels_last(like):
        return np.moveaxis(aligned_empty((shape[0], *shape[2:], shape[1]), dtype), -1, 1)
    return aligned_empty(shape, dtype)


def apply_epilogue(result: Array, epilogue: Epilogue | None) -> Array:
    """Apply an epilogue in place, for engines that do not fuse it; `result` is the engine's own array."""
    if epilogue is None:
        return result
    if epilogue.bias is not None:
        result += epilogue.bias.astype(result.dtype, copy=False).reshape((-1,) + (1,) * (result.ndim - 2))
    if epilogue.residual is not None:
        result += epilogue.residual.astype(result.dtype, copy=False)
    if epilogue.activation == "relu":
        np.maximum(result, result.dtype.type(0), out=result)
    elif epilogue.activation == "leaky_relu":
        np.multiply(result, result.dtype.type(epilogue.slope), out=result, where=result < 0)
    elif epilogue.activation == "clip":
        np.clip(result, result.dtype.type(epilogue.lo), result.dtype.type(epilogue.hi), out=result)
    return result


def apply_to_columns(result: Array, epilogue: Epilogue | None) -> Array:
    """apply_epilogue to a new contiguous array whose channels are its last axis: of a matrix product."""
    if epilogue is None or not result.size:
        return result
    flat = result.reshape(-1, result.shape[-1])
    if epilogue.residual is not None:
        epilogue = replace(epilogue, residual=epilogue.residual.reshape(flat.shape))
    return apply_epilogue(flat, epilogue).reshape(result.shape)
