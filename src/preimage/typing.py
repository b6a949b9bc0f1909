"""The types of the public signatures: what may be given, what comes back, and the words that options take.

An operation takes an `Operand`. It gives an array where it was given none but arrays, and a Tensor where it was given a Tensor; for a type
checker that is said by the overloads in `preimage/ops/__init__.pyi`. `Value`, an array or a Tensor, is what functions give whose
result depends on more than that: a module that is called with arrays gives a Tensor where gradients are recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from preimage.autograd.tensor import Tensor
from preimage.geometry import Padding, PerAxis

__all__ = [
    "Accuracy",
    "Activation",
    "Array",
    "ArrayLike",
    "Axes",
    "Condition",
    "DTypeLike",
    "EpilogueOptions",
    "ForeignArray",
    "Index",
    "Integers",
    "Layout",
    "LossReduction",
    "Operand",
    "OutputSize",
    "Padding",
    "PaddingMode",
    "PerAxis",
    "Reduction",
    "ResizeMode",
    "ScaleFactor",
    "Seed",
    "Shape",
    "SpreadReduction",
    "Value",
]  # fmt: skip


class Rows(Protocol):
    """A list or a tuple of numbers, arrays, or further rows. No word is one: in a `str` only a `str` can be."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[float | np.generic | NDArray[Any] | Rows]: ...

    def __contains__(self, value: object, /) -> bool: ...


class IntegerRows(Protocol):
    """A list or a tuple of integers, or further rows."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[int | IntegerRows]: ...

    def __contains__(self, value: object, /) -> bool: ...


class ForeignArray(Protocol):
    """An array of another library (torch, JAX, CuPy), which NumPy can read."""

    def __array__(self) -> NDArray[Any]: ...

    def __dlpack__(self, *args: Any, **options: Any) -> object: ...

    @property
    def device(self) -> Any: ...  # which tells them from Tensor, that is shared by DLPack too


#: An array of NumPy, of any shape and dtype.
Array: TypeAlias = NDArray[Any]
#: What is read as an array: arrays, also of other libraries, numbers, and lists of them.
ArrayLike: TypeAlias = NDArray[Any] | ForeignArray | float | np.generic | Rows
#: What an operation takes.
Operand: TypeAlias = ArrayLike | Tensor
#: What an operation gives: an array, or a Tensor.
Value: TypeAlias = NDArray[Any] | Tensor

#: An array of integers (labels, positions), or lists of them.
Integers: TypeAlias = NDArray[Any] | ForeignArray | IntegerRows
#: A shape, or the sizes of some axes.
Shape: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
#: One axis or several; None for all.
Axes: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | None
#: Output sizes of adaptive pooling; None for an axis that stays as it is.
OutputSize: TypeAlias = SupportsIndex | Sequence[SupportsIndex | None] | None
#: Factors of the spatial axes: one for all, or one each.
ScaleFactor: TypeAlias = float | Sequence[float] | NDArray[Any]
#: Booleans that choose between elements.
Condition: TypeAlias = NDArray[Any] | ForeignArray | bool | np.bool_ | Rows
_Place: TypeAlias = SupportsIndex | slice | EllipsisType | NDArray[Any] | Sequence[int] | Sequence[bool] | None
#: What stands between the brackets of an array.
Index: TypeAlias = _Place | tuple[_Place, ...]
#: Where random numbers come from: a generator, the seed of one, or None for the library's own.
Seed: TypeAlias = "int | np.integer[Any] | np.random.Generator | None"  # as text: numpy.random is imported late

#: One of the three contractions.
Contraction: TypeAlias = Literal["conv", "conv_transpose", "conv_weight_grad"]
#: Where the channels of activations are: (N, C, *spatial) or (N, *spatial, C).
Layout: TypeAlias = Literal["channels_first", "channels_last"]
#: What lies beyond the border of a signal.
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
#: Whether sums are taken in the contract's order, or algorithms that multiply less and round more may run.
Accuracy: TypeAlias = Literal["exact", "fast"]
#: What a contraction may do to its result before it is stored.
Activation: TypeAlias = Literal["relu", "leaky_relu", "clip"]
#: What is made of the losses of all elements.
LossReduction: TypeAlias = Literal["mean", "sum", "none"]
#: How `upsample` finds values between the elements.
ResizeMode: TypeAlias = Literal["nearest", "nearest-exact", "linear", "cubic"]


class EpilogueOptions(TypedDict, total=False):
    """What a convolution layer may do to its result in the same call."""

    residual: Operand | None
    activation: Activation | None
    slope: float
    clip_range: tuple[float, float]


Result = TypeVar("Result", covariant=True)


class ReductionOptions(TypedDict, total=False):
    """Further keywords of a Tensor's reductions: PyTorch's names of axis and keepdims, and NumPy's options."""

    dim: Axes
    keepdim: bool
    dtype: DTypeLike | None
    initial: float
    where: Array


class SpreadOptions(ReductionOptions, total=False):
    """Those of `var` and `std`."""

    ddof: float


class Reduction(Protocol[Result]):
    """A method of Tensor over axes: `t.sum(axis, keepdims)`; the array under `out` takes the values, and is what comes back."""

    @overload
    def __call__(
        self, axis: Axes = None, keepdims: bool = False, *, out: None = None, **options: Unpack[ReductionOptions]
    ) -> Result: ...

    @overload
    def __call__(
        self, axis: Axes = None, keepdims: bool = False, *, out: Array, **options: Unpack[ReductionOptions]
    ) -> Array: ...


class SpreadReduction(Protocol):
    """`t.var` and `t.std`."""

    @overload
    def __call__(
        self,
        axis: Axes = None,
        keepdims: bool = False,
        correction: float = 0,
        *,
        out: None = None,
        **options: Unpack[SpreadOptions],
    ) -> Tensor: ...

    @overload
    def __call__(
        self, axis: Axes = None, keepdims: bool = False, correction: float = 0, *, out: Array, **options: Unpack[SpreadOptions]
    ) -> Array: ...
