"""HDF5 files of weights (`.caffemodel.h5`), as Caffe writes them. Needs h5py, which is imported on first use.

Group `data`, in it a group for each layer, in it the datasets `0`, `1`, ...; `diff` likewise. A blob that a layer shares is stored with
the layer that owns it. Files are written whole or not at all. A file's links to other files are not followed, and sizes are compared
before anything is read.
Source: BVLC/caffe, Net::ToHDF5 (read as facts).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, ShapeError
from preimage.io.hdf5 import building, inside, is_hdf5, library, numbers, reading

__all__ = ["is_hdf5", "read_blob", "read_weights", "weights_bytes"]

StrPath = str | PathLike[str]


def weights_bytes(layers: Mapping[str, Sequence[Any | None]], diffs: Mapping[str, Sequence[Any]] | None = None) -> bytes:
    """The file of the blobs of layers by name; None stands for a blob that another layer owns."""
    memory = io.BytesIO()
    with building(memory) as file:
        for group, table in (("data", layers), ("diff", diffs)):
            if table is None:
                continue
            root = file.create_group(group)
            for layer, blobs in table.items():
                made = root.create_group(layer)
                for index, blob in enumerate(blobs):
                    if blob is not None:
                        made.create_dataset(str(index), data=np.asarray(blob, np.float32))
    return memory.getvalue()


def read_weights(path: StrPath, wanted: Mapping[str, Sequence[tuple[int, ...] | None]]) -> dict[str, list[Any]]:
    """The blobs of those layers that the file has; shapes as wanted, None where a blob may be missing (another layer owns it).

    Raises: FileFormatError for a file that is not what it should be, ShapeError for another shape.
    """
    found: dict[str, list[Any]] = {}
    with reading(path) as file:
        data = inside(file, "data", path)
        if data is None:
            raise FileFormatError(f"{path} has no group 'data'; it holds no weights of Caffe's")
        for layer, shapes in wanted.items():
            group = inside(data, layer, path)
            if group is None or not shapes:
                continue
            if len(group) > len(shapes):
                raise FileFormatError(f"{path}: layer {layer!r} has {len(group)} blobs, the net {len(shapes)}")
            found[layer] = [read_blob(group, index, shape, layer, path) for index, shape in enumerate(shapes)]
    return found


def read_blob(group: Any, index: int, shape: tuple[int, ...] | None, layer: str, path: StrPath) -> Any:
    """One array of a group, in the shape that is wanted; None for a shape that is None: another layer owns that one."""
    entry = inside(group, str(index), path)
    if entry is None:
        if shape is None:
            return None
        raise FileFormatError(f"{path}: layer {layer!r} has no blob {index}, which the net needs")
    if not isinstance(entry, library().Dataset):
        raise FileFormatError(f"{path}: {layer!r}: {index} is no array")
    if shape is not None and tuple(entry.shape) != shape:
        raise ShapeError(f"{path}: layer {layer!r}: blob {index} has shape {tuple(entry.shape)}, the net needs {shape}")
    return None if shape is None else numbers(entry, path)
