"""ONNX's operators on signals: DFT, STFT, MelWeightMatrix. A transform is a product with the matrix of cosines and sines, and differentiates."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage import ops
from preimage.engines.kept_tables import kept_tables
from preimage.engines.recording import apart, constant
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import Types
from preimage.io.limits import check_work, checked_size
from preimage.io.onnx.model import dtype_of
from preimage.io.onnx.operators.shapes import axis_of, data_of, ints

__all__: list[str] = []


def _whole(value: Any, what: str) -> int:
    """An integer input of one element."""
    found = ints(value, what)
    if len(found) != 1:
        raise FileFormatError(f"{what}: one whole number is wanted, got {len(found)}")
    return int(found[0])


def _matrices(inputs: int, length: int, outputs: int, inverse: bool, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi k m / length for places m and frequencies k; the sine's sign is the transform's, and the inverse is divided."""
    checked_size((inputs, outputs), "DFT")
    cos, sin = _kept_matrices(inputs, length, outputs, inverse, np.dtype(dtype))
    return constant(cos), constant(sin)


@kept_tables
def _kept_matrices(inputs: int, length: int, outputs: int, inverse: bool, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    turns = np.outer(np.arange(inputs), np.arange(outputs)) % length  # in whole numbers, so that no turn is lost
    angle = 2 * np.pi * turns / length
    with apart():  # by generated kernels, whose bits no CPU changes
        cos, sin = np.asarray(ops.cos(angle)), np.asarray(ops.sin(angle))
    by = length if inverse else 1
    return (cos / by).astype(dtype), ((1 if inverse else -1) * sin / by).astype(dtype)


def _transformed(x: Any, length: int, inverse: bool, onesided: bool) -> Any:
    """x (..., n, 1 or 2) along its last axis but one: padded with zeros or cut to the length."""
    outputs = length // 2 + 1 if onesided else length
    n = min(x.shape[-2], length)
    check_work(8 * int(np.prod(x.shape[:-2])) * n * outputs, "DFT")
    cos, sin = _matrices(n, length, outputs, inverse, x.dtype)
    x = x[..., :n, :]
    real, imaginary = ops.matmul(x[..., 0], cos), ops.matmul(x[..., 0], sin)
    if x.shape[-1] == 2:
        real = ops.subtract(real, ops.matmul(x[..., 1], sin))
        imaginary = ops.add(imaginary, ops.matmul(x[..., 1], cos))
    return ops.stack([real, imaginary], -1)


def _from_one_side(x: Any, length: int) -> Any:
    """The real signal (..., length, 1) of which x (..., frequencies, 2) holds the frequencies up to the middle: the others mirror them."""
    if x.shape[-1] != 2:
        raise FileFormatError("DFT: the inverse of one side takes real and imaginary parts")
    n = min(x.shape[-2], length // 2 + 1)
    check_work(4 * int(np.prod(x.shape[:-2])) * n * length, "DFT")
    cos, sin = _matrices(n, length, length, True, np.float64)
    times = np.where((np.arange(n) == 0) | (2 * np.arange(n) == length), 1.0, 2.0)[:, None]
    x = x[..., :n, :]
    real = ops.matmul(x[..., 0], (cos * times).astype(x.dtype))
    return ops.expand_dims(ops.subtract(real, ops.matmul(x[..., 1], (sin * times).astype(x.dtype))), -1)


@graph_op("onnx.DFT")
def _dft(
    x: Any, length: Any = None, at: Any = None, *, axis: int | None = None, inverse: int = 0, onesided: int = 0, opset: int = 20
) -> Any:
    """The discrete Fourier transform along one axis; the last axis holds real parts, or real and imaginary ones."""
    if x.ndim < 2 or x.shape[-1] not in (1, 2):
        raise FileFormatError(f"DFT: the input has shape {x.shape}; its last axis must have size 1 or 2")
    given = axis if axis is not None else 1 if opset < 20 else -2
    place = axis_of(_whole(at, "DFT") if at is not None else given, x.ndim, "DFT")
    if place == x.ndim - 1:
        raise FileFormatError("DFT: the last axis holds real and imaginary parts; it is none to transform along")
    unsaid = 2 * (x.shape[place] - 1) if inverse and onesided else x.shape[place]
    count = unsaid if length is None else _whole(length, "DFT")
    if count < 1:
        raise FileFormatError(f"DFT: dft_length is {count}")
    x = ops.swapaxes(x, place, x.ndim - 2)
    made = _from_one_side(x, count) if inverse and onesided else _transformed(x, count, bool(inverse), bool(onesided))
    return ops.swapaxes(made, place, x.ndim - 2)


@graph_op("onnx.STFT")
def _stft(x: Any, step: Any, window: Any = None, length: Any = None, *, onesided: int = 1) -> Any:
    """Frames of a signal (batch, n, 1 or 2), `step` apart, times the window, transformed: (batch, frames, frequencies, 2)."""
    if x.ndim == 2:
        x = ops.expand_dims(x, -1)
    if x.ndim != 3 or x.shape[-1] not in (1, 2):
        raise FileFormatError(f"STFT: the signal has shape {x.shape}, wanted (batch, length, 1 or 2)")
    if length is None and window is None:
        raise FileFormatError("STFT: frame_length or a window is needed")
    size = _whole(length, "STFT") if length is not None else int(np.shape(data_of(window))[0])
    hop, n = _whole(step, "STFT"), x.shape[1]
    if hop < 1 or not 1 <= size <= n or (window is not None and np.shape(data_of(window)) != (size,)):
        raise FileFormatError(f"STFT: a step of {hop} and frames of {size} in a signal of {n}")
    frames = (n - size) // hop + 1
    checked_size((x.shape[0], frames, size, 2), "STFT")
    rows = np.arange(frames)[:, None] * hop + np.arange(size)
    cut = ops.reshape(ops.take(x, rows.reshape(-1), 1), (x.shape[0], frames, size, x.shape[2]))
    if window is not None:
        cut = ops.multiply(cut, ops.reshape(window, (size, 1)))
    return _transformed(cut, size, False, bool(onesided))


def _mel_types(attributes: Any, _: Types) -> Types:
    return (dtype_of(attributes.get("output_datatype", 1), "MelWeightMatrix").name,)


@graph_op("onnx.MelWeightMatrix", types=_mel_types)
def _mel(bins: Any, length: Any, rate: Any, low: Any, high: Any, *, output_datatype: int = 1) -> np.ndarray:
    """Triangles on the mel scale, one a column, over the frequencies of a transform."""
    count, size, hertz = (_whole(v, "MelWeightMatrix") for v in (bins, length, rate))
    rows = size // 2 + 1
    checked_size((max(rows, 0), max(count, 0)), "MelWeightMatrix")
    if count < 1 or size < 1 or hertz < 1:
        raise FileFormatError(f"MelWeightMatrix: {count} bins of a transform of length {size} at {hertz} Hz")
    edges = [2595 * np.log10(1 + float(np.asarray(data_of(v)).reshape(())) / 700) for v in (low, high)]
    points = edges[0] + np.arange(count + 2) * ((edges[1] - edges[0]) / (count + 2))
    places = np.floor((size + 1) * 700 * (10 ** (points / 2595) - 1) / hertz).astype(np.int64)
    found = np.zeros((rows, count))
    k = np.arange(rows)
    for column in range(count):
        first, middle, last = places[column : column + 3]
        up, down = (k >= first) & (k <= middle), (k >= middle) & (k < last)
        if middle > first:
            found[up, column] = (k[up] - first) / (middle - first)
        else:
            found[k == middle, column] = 1
        found[down, column] = (last - k[down]) / max(last - middle, 1)
    return found.astype(dtype_of(output_datatype, "MelWeightMatrix"))
