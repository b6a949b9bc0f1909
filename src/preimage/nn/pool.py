"""Pooling and unpooling layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, Literal, SupportsIndex, overload

from preimage import ops
from preimage.autograd import Tensor
from preimage.errors import ShapeError
from preimage.geometry import per_axis
from preimage.nn.module import Layer, Module
from preimage.ops.layout import check_layout
from preimage.ops.operands import shape_of
from preimage.typing import (
    Array,
    ArrayLike,
    Integers,
    Layout,
    Operand,
    OutputSize,
    Padding,
    PerAxis,
    Value,
)

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d",
    "AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d",
]  # fmt: skip


if TYPE_CHECKING:
    from typing_extensions import TypeVar  # for the default: a MaxPool2d gives no places, if nothing else is said

    Places = TypeVar("Places", Literal[True], Literal[False], bool, default=Literal[False])
else:
    from typing import TypeVar

    Places = TypeVar("Places", Literal[True], Literal[False], bool)


class _Spatial(Module):
    """A layer over (N, C, *spatial), or with layout="channels_last" over (N, *spatial, C)."""

    ndim: int

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = check_layout(layout)

    def _check(self, x: Operand) -> tuple[int, ...]:
        shape = shape_of(x)
        if len(shape) != self.ndim + 2:
            raise ShapeError(f"{type(self).__name__}: wanted (N, C, {self.ndim} spatial axes), got shape {shape}")
        return shape


class _MaxPool(_Spatial, Generic[Places]):
    """The maximum over every window; with return_indices also where it was, for the unpooling layer."""

    if TYPE_CHECKING:

        @overload
        def __call__(self: _MaxPool[Literal[False]], x: Tensor) -> Tensor: ...
        @overload
        def __call__(self: _MaxPool[Literal[False]], x: ArrayLike) -> Value: ...
        @overload
        def __call__(self: _MaxPool[Literal[True]], x: Tensor) -> tuple[Tensor, Array]: ...
        @overload
        def __call__(self, x: Operand) -> Value | tuple[Value, Array]: ...
        def __call__(self, x: Operand) -> Value | tuple[Value, Array]: ...

    @overload  # nothing is said of places: the default of the type, none
    def __init__(
        self, kernel_size: PerAxis, stride: PerAxis | None = None, padding: Padding = 0, dilation: PerAxis = 1, *,
        ceil_mode: bool = False, layout: Layout = "channels_first",
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self, kernel_size: PerAxis, stride: PerAxis | None = None, padding: Padding = 0, dilation: PerAxis = 1,
        return_indices: Places = ..., ceil_mode: bool = False, *, layout: Layout = "channels_first",
    ) -> None: ...  # fmt: skip
    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        layout: Layout = "channels_first",
    ) -> None:
        super().__init__(layout)
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, x: Operand) -> Value | tuple[Value, Array]:
        self._check(x)
        return ops.max_pool(
            x, self.kernel_size, stride=self.stride, padding=self.padding, dilation=self.dilation, ceil_mode=self.ceil_mode,
            return_switches=self.return_indices, layout=self.layout,
        )  # fmt: skip

    def extra_repr(self) -> str:
        stride = self.kernel_size if self.stride is None else self.stride
        return (
            f"kernel_size={self.kernel_size}, stride={stride}, padding={self.padding}, dilation={self.dilation},"
            f" ceil_mode={self.ceil_mode}"
        )


class _AvgPool(_Spatial, Layer):
    """The mean over every window."""

    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: float | None = None,
        *,
        layout: Layout = "channels_first",
    ) -> None:
        super().__init__(layout)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, x: Operand) -> Value:
        self._check(x)
        return ops.avg_pool(
            x, self.kernel_size, stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad, divisor_override=self.divisor_override, layout=self.layout,
        )  # fmt: skip

    def extra_repr(self) -> str:
        stride = self.kernel_size if self.stride is None else self.stride
        return f"kernel_size={self.kernel_size}, stride={stride}, padding={self.padding}, ceil_mode={self.ceil_mode}"


class _MaxUnpool(_Spatial):
    """Every value put back where its maximum was, zeros elsewhere; overlap as in ops.max_unpool."""

    if TYPE_CHECKING:

        @overload
        def __call__(self, x: Tensor, indices: Integers, output_size: Sequence[SupportsIndex] | None = None) -> Tensor: ...
        @overload
        def __call__(self, x: ArrayLike, indices: Integers, output_size: Sequence[SupportsIndex] | None = None) -> Array: ...
        def __call__(self, x: Operand, indices: Integers, output_size: Sequence[SupportsIndex] | None = None) -> Value: ...

    def __init__(
        self, kernel_size: PerAxis, stride: PerAxis | None = None, padding: PerAxis = 0, *, overlap: Literal["last", "add"] = "last",
        layout: Layout = "channels_first",
    ) -> None:  # fmt: skip
        super().__init__(layout)
        self.kernel_size = per_axis(kernel_size, self.ndim, "kernel_size")
        self.stride = self.kernel_size if stride is None else per_axis(stride, self.ndim, "stride")
        self.padding, self.overlap = per_axis(padding, self.ndim, "padding", 0), overlap

    def forward(self, x: Operand, indices: Integers, output_size: Sequence[SupportsIndex] | None = None) -> Value:
        """indices: what max pooling recorded; output_size: the pooled array's spatial sizes, or its whole shape."""
        shape = self._check(x)
        last = self.layout == "channels_last"
        if output_size is None:
            sizes = zip(shape[1:-1] if last else shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
            output_size = tuple((n - 1) * s - 2 * p + k for n, k, s, p in sizes)
        given = tuple(output_size)
        size = given[-1 - self.ndim : -1] if last and len(given) > self.ndim else given[-self.ndim :]
        return ops.max_unpool(x, indices, size, overlap=self.overlap, layout=self.layout)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _Adaptive(_Spatial, Layer):
    """Pooling with windows chosen so that the output has output_size (None for an axis: as it is)."""

    _pool: Callable[..., Value]

    def __init__(self, output_size: OutputSize, *, layout: Layout = "channels_first") -> None:
        super().__init__(layout)
        self.output_size = output_size

    def forward(self, x: Operand) -> Value:
        self._check(x)
        return type(self)._pool(x, self.output_size, layout=self.layout)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class MaxPool1d(_MaxPool[Places]):
    """Max pooling of (N, C, L)."""

    ndim = 1


class MaxPool2d(_MaxPool[Places]):
    """Max pooling of (N, C, H, W)."""

    ndim = 2


class MaxPool3d(_MaxPool[Places]):
    """Max pooling of (N, C, D, H, W)."""

    ndim = 3


class AvgPool1d(_AvgPool):
    """Average pooling of (N, C, L)."""

    ndim = 1


class AvgPool2d(_AvgPool):
    """Average pooling of (N, C, H, W)."""

    ndim = 2


class AvgPool3d(_AvgPool):
    """Average pooling of (N, C, D, H, W)."""

    ndim = 3


class MaxUnpool1d(_MaxUnpool):
    """Max unpooling to (N, C, L)."""

    ndim = 1


class MaxUnpool2d(_MaxUnpool):
    """Max unpooling to (N, C, H, W)."""

    ndim = 2


class MaxUnpool3d(_MaxUnpool):
    """Max unpooling to (N, C, D, H, W)."""

    ndim = 3


class AdaptiveAvgPool1d(_Adaptive):
    """Average pooling of (N, C, L) to a size."""

    ndim, _pool = 1, staticmethod(ops.adaptive_avg_pool)


class AdaptiveAvgPool2d(_Adaptive):
    """Average pooling of (N, C, H, W) to a size; 1 is global pooling."""

    ndim, _pool = 2, staticmethod(ops.adaptive_avg_pool)


class AdaptiveAvgPool3d(_Adaptive):
    """Average pooling of (N, C, D, H, W) to a size."""

    ndim, _pool = 3, staticmethod(ops.adaptive_avg_pool)


class AdaptiveMaxPool1d(_Adaptive):
    """Max pooling of (N, C, L) to a size."""

    ndim, _pool = 1, staticmethod(ops.adaptive_max_pool)


class AdaptiveMaxPool2d(_Adaptive):
    """Max pooling of (N, C, H, W) to a size; 1 is global pooling."""

    ndim, _pool = 2, staticmethod(ops.adaptive_max_pool)


class AdaptiveMaxPool3d(_Adaptive):
    """Max pooling of (N, C, D, H, W) to a size."""

    ndim, _pool = 3, staticmethod(ops.adaptive_max_pool)
