"""IDX files, the format of MNIST and Fashion-MNIST, plain or compressed with gzip.

Two zero bytes, one for the type, one for the number of axes; the sizes, four bytes each, big-endian; the values, row by row.
Source: the description of the format on the MNIST database's page (LeCun, Cortes, Burges).
"""

from __future__ import annotations

import gzip
import os
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from preimage.data.dataset import Array, ArrayDataset, check_labels
from preimage.errors import DTypeError, FileFormatError
from preimage.host import write_file
from preimage.io import limits

__all__ = ["idx_pair", "mnist", "mnist_files", "read_idx", "write_idx"]

StrPath = str | os.PathLike[str]
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
#: A sound file has 1 to 4 axes; more than this is no IDX file.
MOST_AXES = 8


def read_idx(path: StrPath) -> Array:
    """The array of an IDX file, in the machine's byte order.

    Raises: FileFormatError that names the file and the place, for a file that is missing, has another magic number, or holds more or fewer
        bytes than its header says.
    """
    source = Path(path)
    if not source.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        with source.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(source, "rb") if packed else source.open("rb") as stream:
            return _read(stream, str(path))
    except FileFormatError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(f"{path}: its compressed data are damaged or broken off: {error}") from None
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read(stream: Any, said: str) -> Array:
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= MOST_AXES:
        kinds = ", ".join(f"{k:02x}" for k in _TYPES)
        raise FileFormatError(
            f"{said}: is no IDX file: it begins with {head.hex(' ') or 'nothing'} (byte 0), wanted 00 00, a type ({kinds}) and 1 to {MOST_AXES} axes"
        )
    axes, dtype = head[3], np.dtype(_TYPES[head[2]])
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise FileFormatError(f"{said}: ends at byte {4 + len(sizes)}, in the sizes of its {axes} axes")
    shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
    needed = prod(shape) * dtype.itemsize
    limits.check_bytes(needed, f"{said}: an array of {' x '.join(map(str, shape))}")
    data = stream.read(needed)
    begin = 4 + 4 * axes
    if len(data) < needed:
        item = len(data) // max(1, prod(shape[1:]) * dtype.itemsize)
        raise FileFormatError(
            f"{said}: is truncated: {' x '.join(map(str, shape))} values need {begin + needed} bytes, it ends at byte {begin + len(data)},"
            f" in item {item} of {shape[0]}"
        )
    if stream.read(1):
        raise FileFormatError(f"{said}: goes on after byte {begin + needed}, where its {' x '.join(map(str, shape))} values end")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def write_idx(array: Any, path: StrPath, *, overwrite: bool = True) -> None:
    """Write an array as an IDX file, compressed where the name ends in .gz. Raises: DTypeError for a type that the format has not; OutputError."""
    values = np.asarray(array)
    codes = {np.dtype(kind).newbyteorder("="): code for code, kind in _TYPES.items()}
    if values.dtype not in codes or not 1 <= values.ndim <= MOST_AXES:
        raise DTypeError(
            f"an IDX file holds {', '.join(d.name for d in codes)} of 1 to {MOST_AXES} axes, got {values.dtype} of {values.ndim}"
        )
    code = codes[values.dtype]
    head = bytes((0, 0, code, values.ndim)) + np.asarray(values.shape, ">u4").tobytes()
    data = head + values.astype(_TYPES[code]).tobytes()
    write_file(path, gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data, overwrite=overwrite)


def idx_pair(images: StrPath, labels: StrPath, *, classes: int | None = 10, scale: float | None = None) -> ArrayDataset:
    """Images (N, H, W) or (N, C, H, W) and labels (N,) of two IDX files; images become (1, H, W), or stay (C, H, W).

    Raises: FileFormatError for files that do not belong together, and a label that is not in 0 .. classes - 1.
    """
    pictures, numbers = read_idx(images), read_idx(labels)
    if pictures.ndim not in (3, 4) or numbers.ndim != 1:
        raise FileFormatError(
            f"{images}, {labels}: wanted images of 3 or 4 axes and labels of 1, got {pictures.ndim} and {numbers.ndim}"
        )
    if len(pictures) != len(numbers):
        raise FileFormatError(f"{images} has {len(pictures)} images, {labels} has {len(numbers)} labels")
    if not len(pictures):
        raise FileFormatError(f"{images}: holds no images")
    check_labels(numbers, classes, str(labels))
    return ArrayDataset(pictures[:, None] if pictures.ndim == 3 else pictures, numbers.astype(np.int64), scale=scale)


def mnist_files(folder: StrPath, *, train: bool = True) -> tuple[Path, Path] | None:
    """The files of images and labels under the names that MNIST and Fashion-MNIST have, None where a folder has none."""
    found = []
    for kind, axes in (("images", 3), ("labels", 1)):
        start = f"{'train' if train else 't10k'}-{kind}"
        names = [f"{start}{mark}idx{axes}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
        there = [Path(folder, name) for name in names if Path(folder, name).is_file()]
        if not there:
            return None
        found.append(there[0])
    return found[0], found[1]


def mnist(folder: StrPath, *, train: bool = True, classes: int = 10, scale: float | None = None) -> ArrayDataset:
    """MNIST or Fashion-MNIST from a folder with their IDX files: images (1, 28, 28) of 0 .. 1, labels 0 .. 9.

    Raises: FileFormatError where files are missing or damaged.
    """
    files = mnist_files(folder, train=train)
    if files is None:
        start = "train" if train else "t10k"
        raise FileFormatError(
            f"{folder}: has no {start}-images-idx3-ubyte and {start}-labels-idx1-ubyte (nor with .gz); docs/training.md says where they come from"
        )
    return idx_pair(*files, classes=classes, scale=scale)
