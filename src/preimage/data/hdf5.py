"""HDF5 files as datasets: datasets of one length under names, as Caffe's HDF5Data reads them. Needs h5py, which is imported on first use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from preimage.data.dataset import ArrayDataset
from preimage.errors import FileFormatError
from preimage.host import read_bytes
from preimage.io.hdf5 import inside, numbers, reading

__all__ = ["from_hdf5", "hdf5_list"]

StrPath = str | os.PathLike[str]
MOST_LIST_BYTES = 1 << 24


def from_hdf5(paths: StrPath | Sequence[StrPath], names: Sequence[str] = ("data", "label")) -> ArrayDataset:
    """Samples from the datasets `names` of one file or of several, one after the other, as float32.

    Raises: FileFormatError for files that cannot be read, lack a dataset, or whose datasets have other lengths or shapes.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    parts: list[list[np.ndarray]] = [[] for _ in names]
    for path in listed:
        if not Path(path).is_file():
            raise FileFormatError(f"there is no file {str(path)!r}")
        with reading(path) as file:
            for name, held in zip(names, parts, strict=True):
                entry = inside(file, name, path)
                if entry is None or not getattr(entry, "shape", ()):
                    raise FileFormatError(f"{path}: has no dataset {name!r}; it has {', '.join(list(file)[:10]) or 'none'}")
                held.append(numbers(entry, path))
        lengths = [len(held[-1]) for held in parts]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise FileFormatError(f"{path}: its datasets {', '.join(names)} have lengths {lengths}")
        for name, held in zip(names, parts, strict=True):
            if held[-1].shape[1:] != held[0].shape[1:]:
                raise FileFormatError(
                    f"{path}: {name!r} has samples of shape {held[-1].shape[1:]}, those of {listed[0]} are {held[0].shape[1:]}"
                )
    return ArrayDataset(*(np.concatenate(held) for held in parts))


def hdf5_list(path: StrPath, root: StrPath | None = None) -> list[Path]:
    """The files that a text file names, a line each; relative names count from `root` (default: the list's folder).

    Raises: FileFormatError for a list that cannot be read, or names none.
    """
    folder = Path(path).parent if root is None else Path(root)
    lines = read_bytes(path, MOST_LIST_BYTES).decode("utf-8", "surrogateescape").split()
    if not lines:
        raise FileFormatError(f"{path}: lists no files")
    return [place if place.is_file() else folder / place for place in map(Path, lines)]
