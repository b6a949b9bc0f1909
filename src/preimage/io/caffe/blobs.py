"""Blobs as arrays: shapes old and new; float, double and half-precision data; mean files."""

from __future__ import annotations

from math import prod
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.host import write_file
from preimage.io.caffe.wire.binary import decode, encode
from preimage.io.caffe.wire.message import Message

__all__ = ["array_of_blob", "blob_of_array", "blob_shape", "fits", "read_mean", "write_mean"]


def blob_shape(blob: Message) -> tuple[int, ...]:
    """The shape that a blob states: `shape`, or the four sizes of old files."""
    if any(blob.has(name) for name in ("num", "channels", "height", "width")) and not blob.has("shape"):
        shape: tuple[int, ...] = (blob.num, blob.channels, blob.height, blob.width)
    else:
        shape = tuple(int(dim) for dim in blob.shape.dim)
    if len(shape) > 32 or any(size < 0 for size in shape):
        raise FileFormatError(f"a blob has the impossible shape {shape[:33]}")
    return shape


def array_of_blob(blob: Message, *, diff: bool = False) -> NDArray[Any]:
    """The blob's data (or diff) in its stated shape. Raises FileFormatError where count and shape disagree."""
    shape = blob_shape(blob)
    single, double, raw = ("diff", "double_diff", "raw_diff") if diff else ("data", "double_data", "raw_data")
    if blob.has(double):
        values = np.asarray(getattr(blob, double), np.float64)
    elif blob.has(raw) and not blob.has(single):
        values = _raw_values(blob, raw)
    else:
        values = np.asarray(getattr(blob, single), np.float32)
    if values.size != prod(shape):
        raise FileFormatError(f"a blob of shape {shape} needs {prod(shape)} numbers, the file has {values.size}")
    return values.reshape(shape)


_RAW: dict[str, np.dtype[Any]] = {"DOUBLE": np.dtype("<f8"), "FLOAT": np.dtype("<f4"), "FLOAT16": np.dtype("<f2")}


def _raw_values(blob: Message, name: str) -> NDArray[Any]:
    """The numbers of `raw_data` or `raw_diff`: half, single or double precision, as the blob says; halves become float32."""
    word, data = blob.word(f"{name}_type"), getattr(blob, name)
    dtype = _RAW.get(word)
    if dtype is None:
        raise FileFormatError(f"a blob has {name} of type {word}, which is not read; there are {', '.join(_RAW)}")
    if len(data) % dtype.itemsize:
        raise FileFormatError(f"a blob's {name} has {len(data)} bytes, no whole number of {dtype.itemsize}-byte {word}s")
    return np.frombuffer(data, dtype).astype(np.float64 if word == "DOUBLE" else np.float32)


def blob_of_array(array: NDArray[Any], diff: NDArray[Any] | None = None) -> Message:
    """The message of an array; float64 is kept as double."""
    blob = Message("BlobProto")
    blob.sub("shape").dim = list(array.shape)
    double = array.dtype == np.float64
    for name, values in (("data", array), ("diff", diff)):
        if values is not None:
            kept = np.ascontiguousarray(values, np.float64 if double else np.float32).reshape(-1)
            setattr(blob, f"double_{name}" if double else name, kept)
    return blob


def fits(stated: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a stored shape is the wanted one; old files write missing leading axes as 1, up to four."""
    if stated == wanted:
        return True
    return len(stated) == 4 and len(wanted) <= 4 and stated == (1,) * (4 - len(wanted)) + wanted


def read_mean(path: str | PathLike[str]) -> NDArray[Any]:
    """The mean image of a `.binaryproto` file, (channels, height, width)."""
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise FileFormatError(f"{path} cannot be read: {problem.strerror}") from None
    array = array_of_blob(decode("BlobProto", data))
    return array.reshape(array.shape[1:]) if array.ndim == 4 and array.shape[0] == 1 else array


def write_mean(path: str | PathLike[str], mean: NDArray[Any], *, overwrite: bool = True) -> None:
    """Write a mean image (channels, height, width) as Caffe's compute_image_mean does."""
    if mean.ndim != 3:
        raise FileFormatError(f"a mean image has 3 axes (channels, height, width), got {mean.shape}")
    blob = blob_of_array(mean[None])
    blob.shape = None
    blob.num, blob.channels, blob.height, blob.width = (1, *mean.shape)
    write_file(path, encode(blob), overwrite=overwrite)
