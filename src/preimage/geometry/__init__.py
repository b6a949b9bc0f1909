"""ConvGeometry: the sizes of one convolution, and every size formula of the library, once.

A geometry always describes the convolution, large side -> small side; a transposed convolution reads it backwards:

    y[n, o, oh...] = sum over kh..., i of  x[n, g*I + i, oh*stride - lo + kh*dilation] * w[o, i, kh...]

with x zero outside its range. Both sizes are stored, so `output_padding` and `output_size` of a transposed convolution
are two ways of saying the large one. Along one axis, with extent = dilation*(kernel - 1) + 1:

    conv             small = floor((large + lo + hi - extent) / stride) + 1
    conv_transpose   large = (small - 1)*stride + extent - lo - hi + output_padding

The remainder r = (large + lo + hi - extent) - (small - 1)*stride is what the floor loses, and what output_padding gives
back. A conv has 0 <= r < stride; a conv_transpose may have r up to max(stride, dilation) - 1, and then no forward
convolution gives its sizes: the stored small size is simply smaller than the formula's.

This module knows no arrays. Source: the formulas of Dumoulin and Visin, "A guide to convolution arithmetic for deep
learning" (2016), with unequal padding; "same" as in the ONNX operator Conv (auto_pad SAME_UPPER and SAME_LOWER).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

from preimage.display import Shown
from preimage.errors import GeometryError
from preimage.geometry.sizes import (
    MAX_ELEMENTS,
    Padding,
    PaddingWord,
    Pairs,
    PerAxis,
    check_groups,
    check_ndim,
    conv_size,
    conv_transpose_size,
    extent_of,
    hashable,
    integer,
    normalise_padding,
    per_axis,
    shape_of,
    sizes,
    split_same,
)

__all__ = [
    "ConvGeometry", "Padding", "PaddingWord", "PerAxis", "conv_size", "conv_transpose_size", "extent_of", "normalise_padding", "per_axis",
    "split_same",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConvGeometry(Shown):
    """The sizes of one convolution: `input_size` is the large side, `output_size` the small one.

    Fields are tuples with one entry per spatial axis; `padding` holds (lo, hi) pairs. Use `from_conv`,
    `from_conv_transpose` or `from_sizes` to build one from shapes; the class itself checks that all agree.

    Raises: GeometryError that names the axis, the numbers and the nearest valid value.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    _hash: int = field(init=False, repr=False, compare=False, default=0)
    _inside: int = field(init=False, repr=False, compare=False, default=-1)  # `inside_macs`, once it was asked for

    def __post_init__(self) -> None:
        for name in ("input_size", "output_size", "kernel_size", "stride", "padding", "dilation"):
            if type(getattr(self, name)) is not tuple:
                raise GeometryError(f"{name} must be a tuple with one entry per spatial axis, got {getattr(self, name)!r:.200}")
            object.__setattr__(self, name, tuple(hashable(v) for v in getattr(self, name)))
        if any(type(pair) is not tuple or len(pair) != 2 or not all(type(v) is int for v in pair) for pair in self.padding):
            raise GeometryError(f"padding must hold one pair (lo, hi) of integers per spatial axis, got {self.padding!r}")
        for name in ("batch", "in_channels", "out_channels", "groups"):
            object.__setattr__(self, name, integer(getattr(self, name), name))
        # a geometry is looked up at every call: its hash is worked out once
        sizes = (self.input_size, self.output_size, self.kernel_size, self.stride, self.padding, self.dilation)
        object.__setattr__(self, "_hash", hash((self.batch, self.in_channels, self.out_channels, self.groups, *sizes)))
        ndim = len(self.kernel_size)
        for name in ("input_size", "output_size", "stride", "padding", "dilation"):
            if len(getattr(self, name)) != ndim:
                raise GeometryError(f"{name} {getattr(self, name)} has not one entry per spatial axis ({ndim})")
        for name in ("batch", "in_channels", "out_channels"):
            if getattr(self, name) < 0:
                raise GeometryError(f"{name} is {getattr(self, name)}; the least is 0")
        for name, least in (("input_size", 0), ("output_size", 0), ("kernel_size", 1), ("stride", 1), ("dilation", 1)):
            per_axis(getattr(self, name), ndim, name, least)
        check_groups(self.groups, self.in_channels, self.out_channels)
        for axis, r in enumerate(self.remainder):
            slack = max(self.stride[axis], self.dilation[axis])
            if not 0 <= r < slack:
                small = conv_size(self.input_size[axis], *self.padding[axis], self.kernel_extent[axis], self.stride[axis])
                raise GeometryError(
                    f"axis {axis}: input size {self.input_size[axis]} and output size {self.output_size[axis]} do not belong"
                    f" together (kernel extent {self.kernel_extent[axis]}, stride {self.stride[axis]},"
                    f" padding {self.padding[axis]}); the convolution gives {max(small, 0)}"
                )
        for name, shape in (("input", self.input_shape), ("output", self.output_shape), ("weight", self.weight_shape)):
            if prod(max(s, 1) for s in shape) > MAX_ELEMENTS:
                raise GeometryError(
                    f"the {name} would have shape {shape}: more than the {MAX_ELEMENTS} elements that can be indexed"
                )

    def __hash__(self) -> int:
        return self._hash

    # -- derived sizes ---------------------------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of spatial axes; 0 is an inner product over the channels."""
        return len(self.kernel_size)

    @property
    def kernel_extent(self) -> tuple[int, ...]:
        """dilation * (kernel_size - 1) + 1 along every axis."""
        return tuple(extent_of(k, d) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def in_channels_per_group(self) -> int:
        return self.in_channels // self.groups

    @property
    def out_channels_per_group(self) -> int:
        return self.out_channels // self.groups

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the large side: (N, C_in, *input_size)."""
        return (self.batch, self.in_channels, *self.input_size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the small side: (N, C_out, *output_size)."""
        return (self.batch, self.out_channels, *self.output_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(out_channels, in_channels // groups, *kernel_size): the same array for both directions."""
        return (self.out_channels, self.in_channels_per_group, *self.kernel_size)

    @property
    def remainder(self) -> tuple[int, ...]:
        """What the convolution's floor loses along every axis: the output_padding that gives the large size back."""
        return tuple(
            large - conv_transpose_size(small, lo, hi, extent, stride)
            for large, small, (lo, hi), extent, stride in zip(
                self.input_size, self.output_size, self.padding, self.kernel_extent, self.stride, strict=True
            )
        )

    @property
    def output_padding(self) -> tuple[int, ...]:
        """The remainder under the name that a transposed convolution gives it."""
        return self.remainder

    @property
    def transpose_restores_size(self) -> bool:
        """Whether a conv_transpose without output_padding gives the large size back."""
        return not any(self.remainder)

    @property
    def is_conv_size(self) -> bool:
        """Whether a forward convolution gives the stored small size (False for some values of output_padding)."""
        return all(r < s for r, s in zip(self.remainder, self.stride, strict=True))

    @property
    def is_depthwise(self) -> bool:
        """One input channel a group, and more than one group."""
        return self.groups > 1 and self.in_channels_per_group == 1

    # -- cost ------------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        """Whether an image, a result or the weights have no elements, so that nothing is multiplied, whatever the batch."""
        return not all((self.in_channels, self.out_channels, *self.input_size, *self.output_size))

    @property
    def macs(self) -> int:
        """Multiply-adds of each of the three contractions, taps over the padding included."""
        return prod(self.output_shape) * self.in_channels_per_group * prod(self.kernel_size)

    @property
    def work_flop(self) -> int:
        """2 flop per multiply-add, taps over the padding included; the same for all three contractions."""
        return 2 * self.macs

    @property
    def inside_macs(self) -> int:
        """Multiply-adds whose tap lies on the input: what is left when padded taps are left out."""
        if self._inside < 0:
            total = self.batch * self.out_channels * self.in_channels_per_group
            for axis in range(self.ndim):
                total *= sum([_taps_inside(self, axis, k) for k in range(self.kernel_size[axis])])
            object.__setattr__(self, "_inside", total)
        return self._inside

    def array_bytes(self, itemsize: int = 4) -> int:
        """Bytes of input, weight and output together: the least that any contraction moves."""
        return itemsize * (prod(self.input_shape) + prod(self.weight_shape) + prod(self.output_shape))

    # -- constructors ----------------------------------------------------------------------------------------------

    @classmethod
    def from_conv(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """The geometry of conv(x, w): input_shape (N, C_in, *large), weight_shape (C_out, C_in // groups, *kernel).

        Raises: GeometryError where channels and groups disagree, the kernel does not fit, or a number is not valid.
        """
        return _from_conv(
            sizes(input_shape, "input"),
            sizes(weight_shape, "weight"),
            hashable(stride),
            hashable(padding),
            hashable(dilation),
            integer(groups, "groups"),
        )

    @classmethod
    def from_conv_transpose(
        cls,
        input_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        output_size: PerAxis | None = None,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """The geometry whose transpose is conv_transpose(y, w): input_shape (N, C_small, *small),
        weight_shape (C_small, C_large // groups, *kernel).

        The large size is said by `output_padding` (below max(stride, dilation)) or by `output_size`, not by both.
        """
        return _from_conv_transpose(
            sizes(input_shape, "input"), sizes(weight_shape, "weight"), hashable(stride), hashable(padding), hashable(output_padding),
            None if output_size is None else hashable(output_size), hashable(dilation), integer(groups, "groups"),
        )  # fmt: skip

    @classmethod
    def from_sizes(
        cls,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        kernel_size: PerAxis,
        *,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """The geometry between two shapes, (N, C_in, *large) and (N, C_out, *small), as conv_weight_grad needs it."""
        return _from_sizes(
            sizes(input_shape, "input"), sizes(output_shape, "output"), hashable(kernel_size),
            hashable(stride), hashable(padding),
            hashable(dilation), integer(groups, "groups"),
        )  # fmt: skip


def _taps_inside(g: ConvGeometry, axis: int, k: int) -> int:
    """How many output positions along `axis` have tap k on the input: 0 <= p*stride + k*dilation - lo < size."""
    stride, start = g.stride[axis], k * g.dilation[axis] - g.padding[axis][0]
    first = max(0, -(start // stride))
    last = min(g.output_size[axis] - 1, (g.input_size[axis] - 1 - start) // stride)
    return max(0, last - first + 1)


def _no_axes(ndim: int) -> str:
    """What helps where two 2-D arrays came: most likely a picture and its kernel."""
    return (
        ""
        if ndim
        else "; two axes are batch and channels alone: of a picture and a kernel each add two, x[None, None], w[None, None]"
    )


@lru_cache(maxsize=4096)
def _from_conv(input_shape: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> ConvGeometry:
    shape, weight = shape_of(input_shape, "input"), shape_of(weight_shape, "weight")
    ndim = check_ndim(shape, weight)
    strides, dilations = per_axis(stride, ndim, "stride"), per_axis(dilation, ndim, "dilation")
    channels = shape[1]
    check_groups(groups, channels, weight[0])
    if weight[1] * groups != channels:
        raise GeometryError(
            f"the input has {channels} channels, but weight shape {weight} with groups {groups} wants {weight[1] * groups}{_no_axes(ndim)}"
        )
    kernel, pads = weight[2:], normalise_padding(padding, ndim)
    pairs, small = [], []
    for axis, (size, k, s, d) in enumerate(zip(shape[2:], kernel, strides, dilations, strict=True)):
        extent = extent_of(k, d)
        if isinstance(pads, tuple):
            lo, hi = pads[axis]
        elif pads == "valid":
            lo = hi = 0
        else:
            lo, hi = split_same(max((-(-size // s) - 1) * s + extent - size, 0), pads)
        if size + lo + hi < extent:
            raise GeometryError(
                f"axis {axis}: the kernel covers {extent} (kernel size {k}, dilation {d}) but the padded input only"
                f" {size} + {lo} + {hi} = {size + lo + hi}; it needs an input of at least {max(extent - lo - hi, 0)}"
            )
        pairs.append((lo, hi))
        small.append(conv_size(size, lo, hi, extent, s))
    return ConvGeometry(shape[0], channels, weight[0], groups, shape[2:], tuple(small), kernel, strides, tuple(pairs), dilations)


@lru_cache(maxsize=4096)
def _from_conv_transpose(
    input_shape: Any, weight_shape: Any, stride: Any, padding: Any, output_padding: Any, output_size: Any,
    dilation: Any, groups: int,
) -> ConvGeometry:  # fmt: skip
    shape, weight = shape_of(input_shape, "input"), shape_of(weight_shape, "weight")
    ndim = check_ndim(shape, weight)
    strides, dilations = per_axis(stride, ndim, "stride"), per_axis(dilation, ndim, "dilation")
    check_groups(groups, weight[1] * groups, shape[1])
    if weight[0] != shape[1]:
        raise GeometryError(
            f"the input has {shape[1]} channels, but weight shape {weight}"
            f" (in_channels, out_channels // groups, *kernel) wants {weight[0]}{_no_axes(ndim)}"
        )
    extra = per_axis(output_padding, ndim, "output_padding", least=0)
    wanted = None if output_size is None else per_axis(output_size, ndim, "output_size", least=0)
    if wanted is not None and any(extra):
        raise GeometryError(f"give output_size {wanted} or output_padding {extra}, not both")
    kernel, pads = weight[2:], normalise_padding(padding, ndim)
    pairs, large = [], []
    for axis, (size, k, s, d) in enumerate(zip(shape[2:], kernel, strides, dilations, strict=True)):
        extent, slack = extent_of(k, d), max(s, d)
        if extra[axis] >= slack:
            raise GeometryError(
                f"output_padding along axis {axis} is {extra[axis]}; it must be below max(stride, dilation) = {slack}"
            )
        if isinstance(pads, tuple):
            lo, hi = pads[axis]
        elif pads == "valid":
            lo = hi = 0
        else:  # the large size is small * stride (or what is asked for); padding is what is too much of the full result
            target = size * s if wanted is None else wanted[axis]
            too_much = conv_transpose_size(size, 0, 0, extent, s, extra[axis]) - target
            lo, hi = split_same(max(too_much, 0), pads)
        least = conv_transpose_size(size, lo, hi, extent, s)
        if wanted is not None:
            result = wanted[axis]
        else:
            result = target if isinstance(pads, str) and pads != "valid" else least + extra[axis]
        if wanted is not None and not max(least, 0) <= result < least + slack:
            raise GeometryError(
                f"output_size along axis {axis} is {result}; an input of {size} gives {max(least, 0)} to {least + slack - 1}"
            )
        if result < 0:
            raise GeometryError(
                f"axis {axis}: the output size would be ({size} - 1)*{s} + {extent} - {lo} - {hi} + {extra[axis]} = {result};"
                f" the padding may be at most {lo + hi + result} in all"
            )
        pairs.append((lo, hi))
        large.append(result)
    return ConvGeometry(
        shape[0], weight[1] * groups, shape[1], groups, tuple(large), shape[2:], kernel, strides, tuple(pairs), dilations
    )


@lru_cache(maxsize=4096)
def _from_sizes(
    input_shape: Any, output_shape: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> ConvGeometry:
    large, small = shape_of(input_shape, "input"), shape_of(output_shape, "output")
    if len(large) != len(small):
        raise GeometryError(f"input shape {large} and output shape {small} have different numbers of axes")
    if large[0] != small[0]:
        raise GeometryError(f"input shape {large} and output shape {small} have different batch sizes")
    ndim = len(large) - 2
    kernel, strides = per_axis(kernel_size, ndim, "kernel_size"), per_axis(stride, ndim, "stride")
    dilations, pads = per_axis(dilation, ndim, "dilation"), normalise_padding(padding, ndim)
    pairs = []
    for axis, (size, k, s, d) in enumerate(zip(large[2:], kernel, strides, dilations, strict=True)):
        if isinstance(pads, tuple):
            pairs.append(pads[axis])
        elif pads == "valid":
            pairs.append((0, 0))
        else:
            pairs.append(split_same(max((-(-size // s) - 1) * s + extent_of(k, d) - size, 0), pads))
    return ConvGeometry(large[0], large[1], small[1], groups, large[2:], small[2:], kernel, strides, tuple(pairs), dilations)
