"""HDF5 files of solver states, as Caffe writes them: `iter`, `current_step`, `learned_net`, and a group `history` of datasets.

Needs h5py, which is imported on first use.
Files are written whole or not at all. A file's links to other files are not followed, and sizes are compared before anything is read.
Source: BVLC/caffe, SGDSolver (read as facts).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from preimage.errors import FileFormatError
from preimage.io.caffe.hdf5 import read_blob
from preimage.io.hdf5 import inside, is_hdf5, library, reading, writing

__all__ = ["is_hdf5", "read_state", "write_state"]

StrPath = str | PathLike[str]


def write_state(path: StrPath, step: int, current_step: int, learned_net: str, history: Sequence[Any]) -> None:
    """Write a solver's state. Raises: OutputError."""
    with writing(path) as file:
        file.create_dataset("iter", data=np.array([step], np.int32))
        file.create_dataset("current_step", data=np.array([current_step], np.int32))
        _put_text(file, "learned_net", learned_net.encode("utf-8", "surrogateescape"))
        group = file.create_group("history")
        for index, array in enumerate(history):
            group.create_dataset(str(index), data=np.asarray(array, np.float32))


def read_state(path: StrPath, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, str, list[Any]]:
    """iter, current_step, learned_net ("" if none) and the history of the shapes. Raises: FileFormatError, ShapeError."""
    with reading(path) as file:
        whole = [inside(file, name, path) for name in ("iter", "current_step", "learned_net", "history")]
        if whole[0] is None or whole[3] is None:
            raise FileFormatError(f"{path} has no 'iter' and 'history'; it is no solver state")
        step, current = (0 if entry is None else _integer(entry, path) for entry in whole[:2])
        group = whole[3]
        if len(group) != len(shapes):
            raise FileFormatError(f"{path} has {len(group)} arrays of history, this solver {len(shapes)}: another type or net")
        history = [read_blob(group, index, shape, "history", path) for index, shape in enumerate(shapes)]
        return step, current, _text(whole[2], path), history


def _put_text(file: Any, name: str, text: bytes) -> None:
    """A text with the zero at its end that Caffe's reader relies on."""
    h5py = library()
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(text) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    entry = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    entry.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(text, f"S{len(text) + 1}"))


def _integer(entry: Any, path: StrPath) -> int:
    if getattr(entry, "size", 0) != 1 or entry.dtype.kind not in "iu":
        raise FileFormatError(f"{path}: {entry.name!r} is not one whole number")
    return int(np.asarray(entry[()]).reshape(-1)[0])


def _text(entry: Any, path: StrPath) -> str:
    if entry is None:
        return ""
    if getattr(entry, "size", 0) != 1 or entry.dtype.kind not in "SO" or entry.dtype.itemsize > 1 << 16:
        raise FileFormatError(f"{path}: {entry.name!r} is no text")
    value = np.asarray(entry[()]).reshape(-1)[0]
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return data.split(b"\0")[0].decode("utf-8", "surrogateescape")
