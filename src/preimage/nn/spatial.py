"""Layers that move values in space: resizing, shuffles, margins, patches."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from preimage import functional, ops
from preimage.errors import OptionError, ShapeError
from preimage.nn.module import Layer
from preimage.ops.layout import check_layout
from preimage.ops.operands import count_of, entries, flag_of, integer_of, number_of, operand, shape_of
from preimage.typing import Layout, Operand, Padding, PaddingMode, PerAxis, ResizeMode, ScaleFactor, Value

__all__ = [
    "ChannelShuffle", "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "Fold",
    "PixelShuffle", "PixelUnshuffle", "ReflectionPad1d", "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d",
    "ReplicationPad3d", "Unfold", "Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d",
]  # fmt: skip

_RESIZE_MODES: dict[str, ResizeMode] = {
    "nearest": "nearest", "nearest-exact": "nearest-exact", "linear": "linear", "bilinear": "linear", "trilinear": "linear",
    "bicubic": "cubic",
}  # fmt: skip


class Upsample(Layer):
    """Resizing of the spatial axes: mode "nearest", "nearest-exact" or "linear" ("bilinear", "trilinear" are its names in two
    and three dimensions), or "bicubic".

    Raises: OptionError for another mode, or one that does not fit the input's dimensions.
    """

    def __init__(
        self,
        size: PerAxis | None = None,
        scale_factor: ScaleFactor | None = None,
        mode: Literal["nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic"] = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool = False,
        *,
        layout: Layout = "channels_first",
    ) -> None:
        super().__init__()
        if not isinstance(mode, str) or mode not in _RESIZE_MODES:
            raise OptionError(
                f"Upsample: mode must be nearest, nearest-exact, linear, bilinear, trilinear or bicubic, got {mode!r}"
            )
        self.size, self.scale_factor, self.mode, self.layout = size, scale_factor, mode, check_layout(layout)
        self.align_corners = None if align_corners is None else flag_of(align_corners, "Upsample: align_corners")
        self.recompute_scale_factor = (
            None if recompute_scale_factor is None else flag_of(recompute_scale_factor, "Upsample: recompute_scale_factor")
        )

    def forward(self, x: Operand) -> Value:
        wanted = {"bilinear": 2, "bicubic": 2, "trilinear": 3}.get(self.mode)
        if wanted is not None and len(shape_of(x)) != wanted + 2:
            raise OptionError(f"Upsample: mode {self.mode!r} is for {wanted} spatial axes, got shape {shape_of(x)}")
        return ops.upsample(
            x, size=self.size, scale_factor=self.scale_factor, mode=_RESIZE_MODES[self.mode],
            align_corners=bool(self.align_corners), recompute_scale_factor=self.recompute_scale_factor,
            layout=self.layout,
        )  # fmt: skip

    def extra_repr(self) -> str:
        how = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{how}, mode={self.mode!r}"


class PixelShuffle(Layer):
    """Channels rearranged into space."""

    def __init__(self, upscale_factor: PerAxis, *, layout: Layout = "channels_first") -> None:
        super().__init__()
        self.upscale_factor, self.layout = upscale_factor, check_layout(layout)

    def forward(self, x: Operand) -> Value:
        return ops.pixel_shuffle(x, self.upscale_factor, layout=self.layout)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Layer):
    """Space gathered into channels."""

    def __init__(self, downscale_factor: PerAxis, *, layout: Layout = "channels_first") -> None:
        super().__init__()
        self.downscale_factor, self.layout = downscale_factor, check_layout(layout)

    def forward(self, x: Operand) -> Value:
        return ops.pixel_unshuffle(x, self.downscale_factor, layout=self.layout)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class UpsamplingNearest2d(Upsample):
    """Each pixel repeated, to a size or by a factor."""

    def __init__(
        self, size: PerAxis | None = None, scale_factor: ScaleFactor | None = None, *, layout: Layout = "channels_first"
    ) -> None:
        super().__init__(size, scale_factor, "nearest", layout=layout)


class UpsamplingBilinear2d(Upsample):
    """Bilinear resizing, to a size or by a factor; the corners' pixels keep their places (align_corners)."""

    def __init__(
        self, size: PerAxis | None = None, scale_factor: ScaleFactor | None = None, *, layout: Layout = "channels_first"
    ) -> None:
        super().__init__(size, scale_factor, "bilinear", align_corners=True, layout=layout)


class ChannelShuffle(Layer):
    """The channels (N, C, ...) in another order: those of equal place in every group side by side (ShuffleNet)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = count_of(groups, "ChannelShuffle: groups", 1)

    def forward(self, x: Operand) -> Value:
        value: Any = operand(x, "x")
        found: Value = functional.channel_shuffle(value, self.groups)
        return found

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class Unfold(Layer):
    """The patches of pictures (N, C, H, W) as columns (N, C * taps, positions)."""

    def __init__(self, kernel_size: PerAxis, dilation: PerAxis = 1, padding: Padding = 0, stride: PerAxis = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, x: Operand) -> Value:
        value: Any = operand(x, "x")
        found: Value = functional.unfold(value, self.kernel_size, self.dilation, self.padding, self.stride)
        return found

    def extra_repr(self) -> str:
        names = ("kernel_size", "dilation", "padding", "stride")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class Fold(Layer):
    """The adjoint of Unfold: columns (N, C * taps, positions) added up to pictures of output_size."""

    def __init__(
        self, output_size: PerAxis, kernel_size: PerAxis, dilation: PerAxis = 1, padding: Padding = 0, stride: PerAxis = 1
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, x: Operand) -> Value:
        value: Any = operand(x, "x")
        found: Value = functional.fold(value, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)
        return found

    def extra_repr(self) -> str:
        names = ("output_size", "kernel_size", "dilation", "padding", "stride")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class _Pad(Layer):
    """A margin around the spatial axes of (N, C, *spatial) or (C, *spatial).

    padding: one number for every side, or two an axis in PyTorch's order, the last axis first: (left, right, top, bottom, ...). Negative ones crop.
    Raises: OptionError for another count of numbers; ShapeError for an input with other axes.
    """

    ndim: ClassVar[int]
    _mode: ClassVar[PaddingMode]

    def __init__(self, padding: PerAxis, *, layout: Layout = "channels_first") -> None:
        super().__init__()
        name = type(self).__name__
        listed = entries(padding)
        sides: list[Any] = [padding] * (2 * self.ndim) if listed is None else list(listed)
        if len(sides) != 2 * self.ndim:
            raise OptionError(
                f"{name}: padding is one number or {2 * self.ndim}, (lo, hi) of the last axis first; got {padding!r}"
            )
        self.padding = tuple(integer_of(n, f"{name}: padding", -(2**31)) for n in sides)
        self.layout, self.value = check_layout(layout), 0.0

    def forward(self, x: Operand) -> Value:
        value = operand(x, "x")
        if value.ndim not in (self.ndim + 1, self.ndim + 2):
            raise ShapeError(
                f"{type(self).__name__}: wanted (N, C, {self.ndim} spatial axes) or one image, got shape {value.shape}"
            )
        first = value.ndim - self.ndim - (self.layout == "channels_last")
        pairs = tuple(zip(self.padding[::2], self.padding[1::2], strict=True))[::-1]
        return ops.pad(value, pairs, mode=self._mode, value=self.value, axes=tuple(range(first, first + self.ndim)))

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    _mode = "zeros"

    def __init__(self, padding: PerAxis, value: float, *, layout: Layout = "channels_first") -> None:
        super().__init__(padding, layout=layout)
        self.value = number_of(value, f"{type(self).__name__}: value")

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_Pad):
    _mode = "zeros"


class _ReflectionPad(_Pad):
    _mode = "reflect"


class _ReplicationPad(_Pad):
    _mode = "replicate"


class _CircularPad(_Pad):
    _mode = "circular"


class ConstantPad1d(_ConstantPad):
    """A margin of one value around (N, C, L)."""

    ndim = 1


class ConstantPad2d(_ConstantPad):
    """A margin of one value around (N, C, H, W)."""

    ndim = 2


class ConstantPad3d(_ConstantPad):
    """A margin of one value around (N, C, D, H, W)."""

    ndim = 3


class ZeroPad1d(_ZeroPad):
    """A margin of zeros around (N, C, L)."""

    ndim = 1


class ZeroPad2d(_ZeroPad):
    """A margin of zeros around (N, C, H, W)."""

    ndim = 2


class ZeroPad3d(_ZeroPad):
    """A margin of zeros around (N, C, D, H, W)."""

    ndim = 3


class ReflectionPad1d(_ReflectionPad):
    """A margin that mirrors what lies inside the border of (N, C, L)."""

    ndim = 1


class ReflectionPad2d(_ReflectionPad):
    """A margin that mirrors what lies inside the border of (N, C, H, W)."""

    ndim = 2


class ReflectionPad3d(_ReflectionPad):
    """A margin that mirrors what lies inside the border of (N, C, D, H, W)."""

    ndim = 3


class ReplicationPad1d(_ReplicationPad):
    """A margin that repeats the border of (N, C, L)."""

    ndim = 1


class ReplicationPad2d(_ReplicationPad):
    """A margin that repeats the border of (N, C, H, W)."""

    ndim = 2


class ReplicationPad3d(_ReplicationPad):
    """A margin that repeats the border of (N, C, D, H, W)."""

    ndim = 3


class CircularPad1d(_CircularPad):
    """A margin that goes on at the other side of (N, C, L)."""

    ndim = 1


class CircularPad2d(_CircularPad):
    """A margin that goes on at the other side of (N, C, H, W)."""

    ndim = 2


class CircularPad3d(_CircularPad):
    """A margin that goes on at the other side of (N, C, D, H, W)."""

    ndim = 3
