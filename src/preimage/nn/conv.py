"""Convolution and deconvolution layers, with PyTorch's arguments, weight names and shapes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, is_grad_enabled
from preimage.errors import OptionError, ShapeError
from preimage.geometry import normalise_padding, per_axis
from preimage.nn import init
from preimage.nn.kept import KeptWeight
from preimage.nn.module import Layer, Module, Parameter
from preimage.ops.layout import check_layout
from preimage.ops.operands import flag_of, float_dtype, integer_of, shape_of
from preimage.typing import ArrayLike, DTypeLike, EpilogueOptions, Layout, Operand, Padding, PaddingMode, PerAxis, Seed, Value

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Layer):
    """What a convolution and its transpose share: options, weight and bias.

    stride, dilation, kernel_size: an int or one per axis; padding: an int, one per axis, (lo, hi) pairs, "same" or "valid";
    padding_mode: zeros, reflect, replicate or circular; layout: "channels_first" or "channels_last" (of the activations).
    rng: a numpy Generator or seed for the start of the weights.

    Raises: OptionError for channels that do not divide by groups; GeometryError for sizes that are none.
    """

    ndim: int
    transposed: bool
    bias: Parameter | None

    if TYPE_CHECKING:

        @overload
        def __call__(self, x: Tensor, **epilogue: Unpack[EpilogueOptions]) -> Tensor: ...
        @overload
        def __call__(self, x: ArrayLike, **epilogue: Unpack[EpilogueOptions]) -> Value: ...
        def __call__(self, x: Operand, **epilogue: Unpack[EpilogueOptions]) -> Value: ...

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        *,
        output_padding: PerAxis = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: PerAxis = 1,
        padding_mode: PaddingMode = "zeros",
        layout: Layout = "channels_first",
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__()
        in_channels, out_channels = integer_of(in_channels, "in_channels", 0), integer_of(out_channels, "out_channels", 0)
        groups, dtype, bias = integer_of(groups, "groups", 1), float_dtype(dtype), flag_of(bias, "bias")
        if in_channels % groups or out_channels % groups:
            raise OptionError(f"groups {groups} must divide in_channels {in_channels} and out_channels {out_channels}")
        if not isinstance(padding_mode, str) or padding_mode not in MODES:
            raise OptionError(f"padding_mode must be one of {', '.join(repr(m) for m in MODES)}, got {padding_mode!r}")
        check_layout(layout)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_axis(kernel_size, self.ndim, "kernel_size")
        self.stride = per_axis(stride, self.ndim, "stride")
        self.dilation = per_axis(dilation, self.ndim, "dilation")
        self.output_padding = per_axis(output_padding, self.ndim, "output_padding", 0)
        self.padding = normalise_padding(padding, self.ndim)
        self.padding_mode, self.layout = padding_mode, layout
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        generator = init.generator(rng)
        # PyTorch's start: uniform within 1 / sqrt(fan_in), weights and bias
        bound = 1 / math.sqrt(max(1, init.fans(shape)[0]))
        self.weight = Parameter(init.uniform(shape, -bound, bound, rng=generator).astype(dtype))
        start = Parameter(init.uniform((out_channels,), -bound, bound, rng=generator).astype(dtype)) if bias else None
        self.register_parameter("bias", start)
        self._kept = KeptWeight()

    def _options(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups", "padding_mode", "layout")
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Operand, **options: Any) -> Value:
        """The layer's result; an input without a batch axis gives one without."""
        shape = shape_of(x)
        if len(shape) == self.ndim + 1:
            return self._run(ops.reshape(x, (1, *shape)), **options)[0]
        if len(shape) != self.ndim + 2:
            raise ShapeError(f"{type(self).__name__}: wanted (N, C, {self.ndim} spatial axes), got shape {shape}")
        channels = shape[-1] if self.layout == "channels_last" else shape[1]
        if channels != self.in_channels:
            raise ShapeError(
                f"{type(self).__name__}: the input has {channels} channels, wanted {self.in_channels}; shape {shape}"
            )
        return self._run(x, **options)

    def _run(self, x: Operand, **options: Any) -> Value:
        """The contraction; where nothing records it, with weights that an earlier call has packed."""
        contraction = ops.conv_transpose if self.transposed else ops.conv
        if is_grad_enabled() and is_recording(self, x):
            return contraction(x, self.weight, self.bias, **self._options(), **options)
        result = contraction(x, self._kept.in_place_of(self.weight), self.bias, **self._options(), **options)
        return result if isinstance(result, Tensor) else Tensor(result)

    @property
    def packed_bytes(self) -> int:
        """Memory held to run without packing: a copy of the weights and their packed forms, made by calls that recorded nothing."""
        return self._kept.packed_bytes

    @property
    def position_flop(self) -> int:
        """Flop per position of the small side: 2 per multiply-add."""
        return 2 * self.weight.size

    def work_flop(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Flop of one run, from the shapes of its input and output."""
        small = input_shape if self.transposed else output_shape
        spatial = small[-1 - self.ndim : -1] if self.layout == "channels_last" else small[-self.ndim :]
        batch = small[0] if len(small) == self.ndim + 2 else 1
        return batch * math.prod(spatial) * self.position_flop

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        pads = self.padding
        if isinstance(pads, str):
            parts.append(f"padding={pads!r}")
        elif any(pad != (0, 0) for pad in pads):
            parts.append(f"padding={tuple(lo for lo, _ in pads) if all(lo == hi for lo, hi in pads) else pads}")
        if any(self.output_padding):
            parts.append(f"output_padding={self.output_padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)


class _Conv(_Convolution):
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        *,
        layout: Layout = "channels_first",
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias, dilation=dilation,
            padding_mode=padding_mode, layout=layout, dtype=dtype, rng=rng,
        )  # fmt: skip


class _ConvTranspose(_Convolution):
    transposed = True

    if TYPE_CHECKING:

        @overload
        def __call__(self, x: Tensor, output_size: PerAxis | None = None, **epilogue: Unpack[EpilogueOptions]) -> Tensor: ...
        @overload
        def __call__(self, x: ArrayLike, output_size: PerAxis | None = None, **epilogue: Unpack[EpilogueOptions]) -> Value: ...
        def __call__(self, x: Operand, output_size: PerAxis | None = None, **epilogue: Unpack[EpilogueOptions]) -> Value: ...

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: PerAxis = 1,
        padding_mode: PaddingMode = "zeros",
        *,
        layout: Layout = "channels_first",
        dtype: DTypeLike = np.float32,
        rng: Seed = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding=output_padding, groups=groups, bias=bias,
            dilation=dilation, padding_mode=padding_mode, layout=layout, dtype=dtype, rng=rng,
        )  # fmt: skip

    def forward(self, x: Operand, output_size: PerAxis | None = None, **epilogue: Any) -> Value:
        """The layer's result. output_size says the spatial sizes (or the whole shape) instead of output_padding."""
        if output_size is None:
            return super().forward(x, output_padding=self.output_padding, **epilogue)
        given: Any = output_size
        sizes: tuple[Any, ...] = tuple(given) if hasattr(given, "__iter__") else (given,) * self.ndim
        if len(sizes) > self.ndim:  # PyTorch takes the shape with its channels, and its batch, too
            whole = self.layout == "channels_last"
            sizes = sizes[-1 - self.ndim : -1] if whole else sizes[-self.ndim :]
        return super().forward(x, output_size=sizes, **epilogue)


class Conv1d(_Conv):
    """The convolution of (N, C, L) with out_channels stencils; see ops.conv."""

    ndim = 1


class Conv2d(_Conv):
    """The convolution of (N, C, H, W) with out_channels stencils; see ops.conv."""

    ndim = 2


class Conv3d(_Conv):
    """The convolution of (N, C, D, H, W) with out_channels stencils; see ops.conv."""

    ndim = 3


class ConvTranspose1d(_ConvTranspose):
    """The transposed convolution of (N, C, L): every activation blown up by its stencil; see ops.conv_transpose."""

    ndim = 1


class ConvTranspose2d(_ConvTranspose):
    """The transposed convolution of (N, C, H, W): every activation blown up by its stencil; see ops.conv_transpose."""

    ndim = 2


class ConvTranspose3d(_ConvTranspose):
    """The transposed convolution of (N, C, D, H, W): every activation blown up by its stencil; see ops.conv_transpose."""

    ndim = 3


def is_recording(layer: Module, x: object) -> bool:
    """Whether a call of this layer on x would be recorded, were recording on."""
    return (isinstance(x, Tensor) and x.requires_grad) or any(p.requires_grad for p in layer.parameters())
