"""A convolution or deconvolution layer apart from any library's way of writing it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import OptionError
from preimage.geometry import ConvGeometry, PaddingWord, extent_of, split_same

__all__ = ["LayerSpec", "Spelled"]

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LayerSpec:
    """One layer. Channels are None where the spelling does not say them.

    padding of a convolution: (lo, hi) an axis, or "same" / "same_lower" where it depends on the input's size (a stride above 1). Of a
    deconvolution: what is cropped, (lo, end) an axis; a negative end appends, so that end = padding - output_padding in PyTorch's words:
    output = (input - 1) * stride + extent - lo - end.
    """

    transposed: bool
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs | PaddingWord
    dilation: tuple[int, ...]
    groups: int = 1
    in_channels: int | None = None
    out_channels: int | None = None
    bias: bool = True
    padding_mode: str = "zeros"

    @property
    def ndim(self) -> int:
        return len(self.kernel_size)

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple(extent_of(k, d) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    def sized(self, input_size: tuple[int, ...] | None) -> LayerSpec:
        """The same with the padding of "same" worked out for this input size; as it is where nothing depends on the size."""
        if not isinstance(self.padding, str) or input_size is None:
            return self
        pairs = tuple(
            split_same(max((-(-n // s) - 1) * s + e - n, 0), self.padding)
            for n, s, e in zip(input_size, self.stride, self.extent, strict=True)
        )
        return replace(self, padding=pairs)

    def geometry(self, input_size: tuple[int, ...], batch: int = 1) -> ConvGeometry:
        """The geometry on an input of this spatial size; channels that are not known count as the groups.

        Raises: GeometryError where the layer does not fit.
        """
        c, o = self.in_channels or self.groups, self.out_channels or self.groups
        if not self.transposed:
            return ConvGeometry.from_conv(
                (batch, c, *input_size), (o, c // self.groups, *self.kernel_size), stride=self.stride, padding=self.padding,
                dilation=self.dilation, groups=self.groups,
            )  # fmt: skip
        assert not isinstance(self.padding, str)
        large = tuple(
            (n - 1) * s + e - lo - end
            for n, s, e, (lo, end) in zip(input_size, self.stride, self.extent, self.padding, strict=True)
        )
        pads = tuple((lo, max(end, 0)) for lo, end in self.padding)
        return ConvGeometry.from_conv_transpose(
            (batch, c, *input_size), (c, o // self.groups, *self.kernel_size), stride=self.stride, padding=pads, output_size=large,
            dilation=self.dilation, groups=self.groups,
        )  # fmt: skip


@dataclass(frozen=True)
class Spelled:
    """A layer as it was written: the library, the layer, and how the library's weight array lies.

    axes: the weight's axes in our order (numpy.transpose); flipped: whether its taps run the other way; depthwise: whether its first
    two axes are then (channel, multiplier), which make up ours together. input_size: of the input, where the text says it.
    """

    library: str
    layer: LayerSpec
    axes: tuple[int, ...]
    flipped: bool = False
    input_size: tuple[int, ...] | None = None
    depthwise: bool = False

    def weight(self, array: Any) -> NDArray[Any]:
        """The library's weight array in our layout (that of PyTorch, ONNX and Caffe)."""
        w = np.asarray(array)
        if w.ndim != len(self.axes):
            raise OptionError(f"the weight has {w.ndim} axes, this layer's has {len(self.axes)}")
        w = w.transpose(self.axes)
        if self.depthwise:
            w = w.reshape(w.shape[0] * w.shape[1], 1, *w.shape[2:])
        return w[(slice(None), slice(None), *[slice(None, None, -1)] * (w.ndim - 2))] if self.flipped else w


def refused(library: str, why: str) -> OptionError:
    """The error for what a library cannot say."""
    return OptionError(f"{library} has no exact counterpart: {why}")
