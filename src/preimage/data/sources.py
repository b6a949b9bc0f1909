"""A dataset from whatever lies at a path: which reader, judged by what is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from preimage.data.arrays import from_npy, from_npz
from preimage.data.folders import ENDINGS, ImageFolder, ImageList, ImageMaskPairs
from preimage.data.hdf5 import from_hdf5
from preimage.data.idx import idx_pair, mnist, mnist_files
from preimage.data.lmdb import LmdbDataset
from preimage.errors import FileFormatError
from preimage.io.hdf5 import is_hdf5

__all__ = ["open_data"]

StrPath = str | os.PathLike[str]
_PARTS = {True: ("train", "training"), False: ("test", "val", "validation", "testing")}
_KINDS = (
    "IDX files (train-images-idx3-ubyte, ...), an LMDB database, folders of pictures (one for each class, or images/ and masks/), .npz, .npy,"
    " .h5, or a .txt list of pictures and labels"
)


def open_data(path: StrPath, *, train: bool = True, classes: int | None = None, scale: float | None = None) -> Any:
    """The dataset at a path: a folder with MNIST's IDX files, an LMDB database, folders of pictures, .npz, .npy, HDF5, a list of pictures.

    train: which part, where the path holds both (train-... and t10k-... files, folders train/ and test/ or val/, arrays x_train and x_test).
    scale: what bytes are multiplied by; default: to 0 .. 1.

    Raises: FileFormatError for what is none of these, and as each reader.
    """
    place = Path(path)
    if place.is_dir():
        return _folder(place, train, classes, scale)
    if not place.is_file():
        raise FileFormatError(f"there is no file or folder {str(path)!r}; wanted {_KINDS}")
    ending = place.suffix.lower()
    if ending == ".npz":
        for prefix in (*_PARTS[train], ""):
            try:
                return from_npz(place, prefix=prefix, scale=scale)
            except FileFormatError as error:
                if "has no array" not in str(error) or not prefix:
                    raise
    if ending == ".npy":
        return from_npy(place, scale=scale)
    if ending == ".txt":
        return ImageList(place, classes=classes)
    if ending == ".mdb":
        return LmdbDataset(place, classes=classes, scale=scale)
    if is_hdf5(place):
        return from_hdf5(place)
    if "idx" in place.name and "images" in place.name:
        labels = place.with_name(place.name.replace("images", "labels").replace("idx3", "idx1"))
        return idx_pair(place, labels, classes=classes, scale=scale)
    raise FileFormatError(f"{path}: no data that can be read by its name and content; wanted {_KINDS}")


def _folder(place: Path, train: bool, classes: int | None, scale: float | None) -> Any:
    if mnist_files(place, train=train) is not None:
        return mnist(place, train=train, classes=classes or 10, scale=scale)
    if (place / "data.mdb").is_file():
        return LmdbDataset(place, classes=classes, scale=scale)
    for name in _PARTS[train]:
        if (place / name).is_dir():
            return open_data(place / name, train=train, classes=classes, scale=scale)
    if (place / "images").is_dir() and (place / "masks").is_dir():
        return ImageMaskPairs(place / "images", place / "masks")
    if any(p.is_dir() and any(q.suffix.lower() in ENDINGS for q in p.iterdir()) for p in place.iterdir()):
        return ImageFolder(place)
    raise FileFormatError(f"{place}: the folder holds no data that can be read; wanted {_KINDS}")
