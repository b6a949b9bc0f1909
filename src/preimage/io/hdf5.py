"""HDF5 files, read with bounds and written whole. Needs h5py, which is imported on first use.

A file's links to other files are not followed, and sizes are compared before anything is read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, PreimageError
from preimage.host import write_file
from preimage.io import limits

__all__ = ["building", "inside", "is_hdf5", "library", "numbers", "reading", "writing"]

StrPath = str | PathLike[str]
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def library() -> Any:
    """The package h5py. Raises: FileFormatError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise FileFormatError(
            "HDF5 files need the package h5py: pip install 'preimage[hdf5]'; a .caffemodel holds the same weights without it"
        ) from error
    return h5py


def is_hdf5(path: StrPath) -> bool:
    """Whether a file is HDF5 by its first bytes; False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(8) == _SIGNATURE
    except OSError:
        return False


@contextmanager
def building(memory: io.BytesIO) -> Iterator[Any]:
    """A new HDF5 file in memory; its bytes are whole when the block ends."""
    with library().File(memory, "w") as file:
        yield file


@contextmanager
def writing(path: StrPath) -> Iterator[Any]:
    """A new HDF5 file, written whole or not at all when the block ends. Raises: OutputError."""
    memory = io.BytesIO()
    with building(memory) as file:
        yield file
    write_file(path, memory.getbuffer())


@contextmanager
def reading(path: StrPath) -> Iterator[Any]:
    """An HDF5 file; what the library cannot read of it is a FileFormatError."""
    h5py = library()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except PreimageError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:  # as h5py meets damage
        raise FileFormatError(f"{path} cannot be read as HDF5: {error}") from None


def inside(group: Any, name: str, path: StrPath) -> Any:
    """A group or dataset of the file itself, None if there is none."""
    h5py = library()
    if not isinstance(group, h5py.Group):
        raise FileFormatError(f"{path}: {group.name!r} is a dataset where a group was expected")
    if "/" in name:  # a layer name with a slash is a group in a group
        outer, _, inner = name.partition("/")
        found = inside(group, outer, path)
        return None if found is None else inside(found, inner, path)
    link = group.get(name, getlink=True) if name else None
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise FileFormatError(f"{path}: {name!r} is a link; links are not followed")
    return group[name]


def numbers(entry: Any, path: StrPath) -> Any:
    if not hasattr(entry, "dtype") or entry.dtype.kind not in "fiu":
        raise FileFormatError(f"{path}: {entry.name!r} holds no numbers")
    if entry.external or entry.is_virtual:
        raise FileFormatError(f"{path}: {entry.name!r} lies in other files; they are not read")
    limits.check_bytes(4 * int(entry.size), f"{path}: {entry.name!r}")
    with np.errstate(over="ignore"):
        return np.asarray(entry[()]).astype(np.float32)
