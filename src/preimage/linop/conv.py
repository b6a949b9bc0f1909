"""Convolution with fixed stencils as a linear operator on the input."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage.autograd import array_of
from preimage.engines import PreparedWeight
from preimage.errors import ShapeError
from preimage.geometry import ConvGeometry, Padding, PerAxis
from preimage.geometry.sizes import integer
from preimage.linop.operator import Operator
from preimage.ops import conv, conv_transpose
from preimage.ops.contraction import weight_operand
from preimage.ops.layout import check_layout
from preimage.ops.operands import count_of, entries, sizes_of
from preimage.settings import check_accuracy
from preimage.typing import Accuracy, Layout, Operand, PaddingMode, Value

__all__ = ["Conv"]


class Conv(Operator):
    """x -> conv(x, w) for arrays of one size; its adjoint is y -> conv_transpose(y, w), to rounding, in every option.

    Shapes: w (C_out, C_in // groups, *kernel), or what `preimage.prepare` made of it; `input_size` is spatial.
        x (batch, C_in, *input_size), y (batch, C_out, *out);
        with layout="channels_last" the channels come last in both. Flat vectors are taken, and given back, flat.
    Definition: as preimage.conv, without bias; `padding_mode` any of zeros, reflect, replicate, circular. accuracy="fast" takes Fourier
        transforms where the kernel is large enough for them to pay (docs/large-kernels.md); w as it is now is transformed once.
    Raises: as preimage.conv, at once; ShapeError for an input of another shape.

    Example:
        >>> import numpy as np, preimage as pre
        >>> from preimage.linop import Conv
        >>> A = Conv(np.array([[[1.0, -1.0]]]), input_size=(4,), padding=((0, 1),), padding_mode="circular")
        >>> (A @ np.array([1.0, 2.0, 4.0, 8.0])).tolist()
        [-1.0, -2.0, -4.0, 7.0]
        >>> A.to_matrix().sum(axis=0).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        w: Operand | PreparedWeight,
        *,
        input_size: PerAxis,
        batch: int = 1,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        layout: Layout = "channels_first",
        accuracy: Accuracy | None = None,
    ) -> None:
        self.w = weight_operand(w, None)
        if len(self.w.shape) < 2:
            raise ShapeError(f"w has shape {self.w.shape}: wanted (C_out, C_in // groups, *kernel)")
        size = sizes_of(input_size, "input_size")
        size = size * (len(self.w.shape) - 2) if entries(input_size) is None else size
        if len(size) != len(self.w.shape) - 2:
            raise ShapeError(f"w has shape {self.w.shape}, input_size {size}: wanted one size per spatial axis of w")
        batch, groups = count_of(batch, "batch", 0), integer(groups, "groups")
        channels = self.w.shape[1] * groups
        self.geometry = ConvGeometry.from_conv(
            (batch, channels, *size), self.w.shape, stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        g = self.geometry
        self._options: dict[str, Any] = {
            "stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": groups,
            "padding_mode": padding_mode, "layout": layout, "accuracy": accuracy,
        }  # fmt: skip
        if accuracy is not None:
            check_accuracy(accuracy)
        if accuracy == "fast" and isinstance(self.w, np.ndarray):
            self.w = PreparedWeight(self.w)  # spectra are made once
        self.dtype = array_of(self.w).dtype
        last = check_layout(layout) == "channels_last"
        self.input_shape = (batch, *size, channels) if last else g.input_shape
        self.output_shape = (batch, *g.output_size, g.out_channels) if last else g.output_shape
        # one call on nothing: every option and the dtype are checked now, not at first use
        conv(np.zeros((0, *self.input_shape[1:]), self.dtype), self.w, **self._options)

    def _forward(self, x: Value) -> Value:
        return conv(x, self.w, **self._options)

    def _known_norm(self) -> float | None:
        """With circular borders, stride 1 and an output of the input's size: the largest singular value of the transfer matrix at any frequency."""
        g, w = self.geometry, np.asarray(array_of(self.w), np.float64)
        circular = self._options["padding_mode"] == "circular" or all(n == 1 for n in g.kernel_size)
        if not circular or g.output_size != g.input_size or any(s != 1 for s in g.stride) or not all(np.isfinite(w.reshape(-1))):
            return None
        if any(e > n for e, n in zip(g.kernel_extent, g.input_size, strict=True)):
            return None
        spread = np.zeros((*w.shape[:2], *g.input_size))  # the taps, on the grid of the input
        spread[(slice(None), slice(None), *(slice(0, e, d) for e, d in zip(g.kernel_extent, g.dilation, strict=True)))] = w
        transfer = np.fft.fftn(spread, axes=range(2, w.ndim)).reshape(g.groups, w.shape[0] // g.groups, w.shape[1], -1)
        return float(np.linalg.norm(np.moveaxis(transfer, -1, 1), 2, axis=(-2, -1)).max())

    def _adjoint(self, y: Value) -> Value:
        return conv_transpose(y, self.w, output_size=self.geometry.input_size, **self._options)
