"""Engines with one planted defect each, for tests/audit/test_planted_defects.py: each must be found, and named for what it is.

They are classes at module level so that the audit's child processes can import them. All are made from a correct engine, the
definition in index loops; the comments say in which library the like has been reported.
"""

from __future__ import annotations

import ctypes
from itertools import count
from typing import Any

import numpy as np

from preimage.audit.subjects.definition import Definition


def changed(geometry: Any, **fields: Any) -> Any:
    """A copy of a geometry with other numbers, unchecked: what an engine with wrong index arithmetic would use."""
    names = (
        "batch",
        "in_channels",
        "out_channels",
        "groups",
        "input_size",
        "output_size",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
    )
    made = _Loose()
    for name in names:
        setattr(made, name, fields.get(name, getattr(geometry, name)))
    made.input_shape = (made.batch, made.in_channels, *made.input_size)
    made.output_shape = (made.batch, made.out_channels, *made.output_size)
    made.weight_shape = (made.out_channels, made.in_channels // made.groups, *made.kernel_size)
    return made


class _Loose:
    pass


class FlippedKernel(Definition):
    """A true convolution in the forward pass: the kernel turned round (textbook convolution against correlation)."""

    def conv(self, geometry, x, w, bias=None):
        return super().conv(geometry, x, w[(slice(None), slice(None), *[slice(None, None, -1)] * (w.ndim - 2))], bias)


class SwappedGroupChannels(Definition):
    """Transposed weights read as (group, in, out) where they lie as (group, out, in)."""

    def conv_transpose(self, geometry, y, w, bias=None):
        small, large = geometry.out_channels // geometry.groups, geometry.in_channels // geometry.groups
        mixed = w.reshape(geometry.groups, small * large, *w.shape[2:])
        order = [o * large + i for i in range(large) for o in range(small)]
        return super().conv_transpose(geometry, y, mixed[:, order].reshape(w.shape), bias)


class OutputPaddingOffByOne(Definition):
    """The rows that output_padding adds hold zeros (with the bias) and not the taps that reach them (TVM, tinygrad)."""

    def conv_transpose(self, geometry, y, w, bias=None):
        x = super().conv_transpose(geometry, y, w, None)
        for axis, r in enumerate(geometry.output_padding):
            if r and geometry.input_size[axis]:
                cut = [slice(None)] * x.ndim
                cut[2 + axis] = slice(-min(r, geometry.input_size[axis]), None)
                x[tuple(cut)] = 0
        return x if bias is None else x + bias.reshape(-1, *[1] * (x.ndim - 2))


class WrongBorderTap(Definition):
    """The padding at the beginning taken for the padding at the end too (unequal padding lost)."""

    def conv(self, geometry, x, w, bias=None):
        padding = tuple((hi, lo) for lo, hi in geometry.padding)
        return super().conv(changed(geometry, padding=padding), x, w, bias)


class DroppedLastTapRow(Definition):
    """The last row of taps left out of the weight gradient (a loop bound off by one)."""

    def conv_weight_grad(self, geometry, x, y):
        w = super().conv_weight_grad(geometry, x, y)
        if w.ndim > 2 and w.shape[2] > 1:
            w[:, :, -1] = 0
        return w


class BiasTwice(Definition):
    """The bias added by each strip over rows, and rows in two strips: the seam has it twice."""

    def conv(self, geometry, x, w, bias=None):
        y = super().conv(geometry, x, w, bias)
        if bias is not None and y.ndim > 2 and y.shape[2] > 2:
            y[:, :, 1] += bias.reshape(-1, *[1] * (y.ndim - 3))
        return y


class TransposedWeightGradient(Definition):
    """Height and width of the kernel exchanged in the weight gradient: unseen while kernels are square and data symmetric."""

    def conv_weight_grad(self, geometry, x, y):
        w = super().conv_weight_grad(geometry, x, y)
        return np.ascontiguousarray(np.swapaxes(w, -1, -2)) if w.ndim == 4 and w.shape[2] == w.shape[3] else w


class StrideDilationMixUp(Definition):
    """stride used where dilation should be and the reverse; each alone at 1 hides the other."""

    def conv_transpose(self, geometry, y, w, bias=None):
        both = any(s > 1 for s in geometry.stride) and any(d > 1 for d in geometry.dilation)
        if not both:
            return super().conv_transpose(geometry, y, w, bias)
        return super().conv_transpose(changed(geometry, stride=geometry.dilation, dilation=geometry.stride), y, w, bias)


class Race(Definition):
    """Once in 50 calls the last row of the result is taken before it is finished: the partial sum lacks a channel."""

    def __init__(self) -> None:
        self.calls = count(1)

    def conv(self, geometry, x, w, bias=None):
        y = super().conv(geometry, x, w, bias)
        if next(self.calls) % 50 == 0 and y.size and geometry.in_channels > geometry.groups:
            less = w.copy()
            less[:, -1] = 0
            y[-1] = super().conv(geometry, x, less, bias)[-1]
        return y


class OverRead(Definition):
    """Vector loads that reach one float past the end of the input; what they fetch is not used."""

    def conv(self, geometry, x, w, bias=None):
        if x.size and x.flags.c_contiguous:
            ctypes.string_at(x.ctypes.data + x.nbytes, x.itemsize)
        return super().conv(geometry, x, w, bias)


class UnderRead(Definition):
    """The same before the beginning."""

    def conv_transpose(self, geometry, y, w, bias=None):
        if w.size and w.flags.c_contiguous:
            ctypes.string_at(w.ctypes.data - w.itemsize, w.itemsize)
        return super().conv_transpose(geometry, y, w, bias)


class OverWrite(Definition):
    """A store of one element too many behind the result: guarded as well, since NumPy's own memory is."""

    def conv(self, geometry, x, w, bias=None):
        y = np.empty(geometry.output_shape, x.dtype)
        y[...] = super().conv(geometry, x, w, bias)
        if y.size:
            ctypes.memset(y.ctypes.data + y.nbytes, 0, y.itemsize)
        return y


class SwallowedNaN(Definition):
    """Taps whose weight is zero are skipped ("sparse weights are faster"): NaN and infinity in the input get lost."""

    def conv(self, geometry, x, w, bias=None):
        usable = np.where(np.isfinite(x), x, 0)
        clean = super().conv(geometry, usable.astype(x.dtype), w, bias)
        full = super().conv(geometry, x, w, bias)
        touched = super().conv(geometry, (~np.isfinite(x)).astype(x.dtype), (w != 0).astype(w.dtype))
        return np.where(touched > 0, full, clean)


class HistoricalStrideDilation(Definition):
    """PyTorch issue 1565: stride with dilation in the transpose was wrong in forward and backward alike, as one wrong but
    consistent operator, so that gradient checks passed."""

    def _wrong(self, geometry):
        both = [s > 1 and d > 1 for s, d in zip(geometry.stride, geometry.dilation, strict=True)]
        dilation = tuple(1 if b else d for b, d in zip(both, geometry.dilation, strict=True))
        return changed(geometry, dilation=dilation)

    def conv(self, geometry, x, w, bias=None):
        return super().conv(self._wrong(geometry), x, w, bias)

    def conv_transpose(self, geometry, y, w, bias=None):
        return super().conv_transpose(self._wrong(geometry), y, w, bias)

    def conv_weight_grad(self, geometry, x, y):
        return super().conv_weight_grad(self._wrong(geometry), x, y)


class StaleOutput(Definition):
    """The gaps that a stride larger than the kernel leaves are never written (MIOpen): they hold what the memory held."""

    def conv_transpose(self, geometry, y, w, bias=None):
        x = super().conv_transpose(geometry, y, w, bias)
        ones = super().conv_transpose(geometry, np.ones_like(y), np.ones_like(w))
        out = np.empty(x.shape, x.dtype)
        np.copyto(out, x, where=ones != 0)
        return out


class WritesToInput(Definition):
    """Scales its input in place and scales it back."""

    def conv(self, geometry, x, w, bias=None):
        address = x.ctypes.data
        if x.size and x.flags.c_contiguous:
            ctypes.memset(address, 0, x.itemsize)
        return super().conv(geometry, x, w, bias)


class BatchDependent(Definition):
    """Sums in another order when the batch is larger than one (as BLAS does by shape): within rounding, other bits."""

    must_be_exact = False

    def conv(self, geometry, x, w, bias=None):
        if geometry.batch == 1 or geometry.in_channels // geometry.groups < 2:
            return super().conv(geometry, x, w, bias)
        large = geometry.in_channels // geometry.groups
        flat = x.reshape(geometry.batch, geometry.groups, large, *x.shape[2:])[:, :, ::-1].reshape(x.shape)
        return super().conv(geometry, flat, w[:, ::-1], bias)


class FlushesDenormals(Definition):
    """Products below the smallest normal number become zero."""

    def conv(self, geometry, x, w, bias=None):
        tiny = np.finfo(x.dtype).tiny
        y = super().conv(geometry, np.where(np.abs(x) < tiny, 0, x).astype(x.dtype), w, bias)
        return np.where(np.abs(y) < tiny, 0, y).astype(x.dtype)


class Crashes(Definition):
    """Divides by the groups of a depthwise layer as if there were fewer (SIGSEGV on some geometries)."""

    def conv(self, geometry, x, w, bias=None):
        if geometry.groups > 30:
            ctypes.string_at(0)
        return super().conv(geometry, x, w, bias)


class DilatedOnePosition(Definition):
    """Wrong only where an axis has one small position and a dilation of at least 5: the kind that a generator of small dilations
    never draws (`jit` was wrong so, up to November 2026).
    """

    def conv_transpose(self, geometry, y, w, bias=None):
        x = super().conv_transpose(geometry, y, w, bias)
        axes = zip(geometry.output_size, geometry.dilation, geometry.kernel_size, strict=True)
        if x.size and any(m == 1 and d >= 5 and k > 1 for m, d, k in axes):
            x.flat[-1] += 1
        return x


class KernelBeyondInput(Definition):
    """Wrong only where the kernel has more taps than the input has positions."""

    def conv(self, geometry, x, w, bias=None):
        y = super().conv(geometry, x, w, bias)
        if y.size and any(k > n for k, n in zip(geometry.kernel_size, geometry.input_size, strict=True)):
            y.flat[0] += 1
        return y


class StrideBeyondExtent(Definition):
    """Wrong only where the stride jumps over more than the dilated kernel covers."""

    def conv_weight_grad(self, geometry, x, y):
        w = super().conv_weight_grad(geometry, x, y)
        axes = zip(geometry.stride, geometry.kernel_size, geometry.dilation, geometry.output_size, strict=True)
        if w.size and any(s > (k - 1) * d + 1 and k > 1 and m > 1 for s, k, d, m in axes):
            w.flat[-1] += 1
        return w


class LargeBatch(Definition):
    """Wrong only from the ninth image on."""

    def conv(self, geometry, x, w, bias=None):
        y = super().conv(geometry, x, w, bias)
        if geometry.batch > 8 and y.size:
            y[8] += 1
        return y


class RareChannels(Definition):
    """Wrong only for 37 to 43 channels of a group on the small side."""

    def conv_transpose(self, geometry, y, w, bias=None):
        x = super().conv_transpose(geometry, y, w, bias)
        if x.size and 37 <= geometry.out_channels // geometry.groups <= 43:
            x.flat[0] -= 1
        return x


class Imprecise(Definition):
    """Rounds its input to 16 bits (as TF32 and bfloat16 paths do) without saying so."""

    must_be_exact = False

    def conv(self, geometry, x, w, bias=None):
        bits = np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFF8000) if x.dtype == np.float32 else None
        return super().conv(geometry, x if bits is None else bits.view(np.float32).reshape(x.shape), w, bias)


class Winograd(Definition):
    """An algorithm that is not exact on integers but within the rounding bound: to be recognised, and not to be failed."""

    must_be_exact = False

    def conv(self, geometry, x, w, bias=None):
        y = super().conv(geometry, x, w)
        if len(w) and w[0].size > 4 and y.dtype == np.float32:
            y *= np.float32(1 + 2**-23)
        return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))
