"""HDF5 files of weights and solver states, as Caffe writes them. Needs h5py, which is imported on first use.

Weights: group `data`, in it a group for each layer, in it the datasets `0`, `1`, ...; `diff` likewise. A blob that a layer shares is
stored with the layer that owns it. Solver states: `iter`, `current_step`, `learned_net`, and a group `history` of datasets.

Files are written whole or not at all. A file's links to other files are not followed, and sizes are compared before anything is read.
Source: BVLC/caffe, Net::ToHDF5 and SGDSolver (read as facts).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np

from preimage.errors import FileFormatError, PreimageError, ShapeError
from preimage.host import write_file

__all__ = ["is_hdf5", "read_state", "read_weights", "write_state", "write_weights"]

StrPath = str | PathLike[str]
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _library() -> Any:
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


# -- weights -----------------------------------------------------------------------------------------------------------


def write_weights(
    path: StrPath, layers: Mapping[str, Sequence[Any | None]], diffs: Mapping[str, Sequence[Any]] | None = None
) -> None:
    """Write the blobs of layers by name; None stands for a blob that another layer owns. Raises: OutputError."""
    with _writing(path) as file:
        for group, table in (("data", layers), ("diff", diffs)):
            if table is None:
                continue
            root = file.create_group(group)
            for layer, blobs in table.items():
                inside = root.create_group(layer)
                for index, blob in enumerate(blobs):
                    if blob is not None:
                        inside.create_dataset(str(index), data=np.asarray(blob, np.float32))


def read_weights(path: StrPath, wanted: Mapping[str, Sequence[tuple[int, ...] | None]]) -> dict[str, list[Any]]:
    """The blobs of those layers that the file has; shapes as wanted, None where a blob may be missing (another layer owns it).

    Raises: FileFormatError for a file that is not what it should be, ShapeError for another shape.
    """
    found: dict[str, list[Any]] = {}
    with _reading(path) as file:
        data = _inside(file, "data", path)
        if data is None:
            raise FileFormatError(f"{path} has no group 'data'; it holds no weights of Caffe's")
        for layer, shapes in wanted.items():
            group = _inside(data, layer, path)
            if group is None or not shapes:
                continue
            if len(group) > len(shapes):
                raise FileFormatError(f"{path}: layer {layer!r} has {len(group)} blobs, the net {len(shapes)}")
            found[layer] = [_blob(group, index, shape, layer, path) for index, shape in enumerate(shapes)]
    return found


def _blob(group: Any, index: int, shape: tuple[int, ...] | None, layer: str, path: StrPath) -> Any:
    entry = _inside(group, str(index), path)
    if entry is None:
        if shape is None:
            return None
        raise FileFormatError(f"{path}: layer {layer!r} has no blob {index}, which the net needs")
    if not isinstance(entry, _library().Dataset):
        raise FileFormatError(f"{path}: {layer!r}: {index} is no array")
    if shape is not None and tuple(entry.shape) != shape:
        raise ShapeError(f"{path}: layer {layer!r}: blob {index} has shape {tuple(entry.shape)}, the net needs {shape}")
    return None if shape is None else _numbers(entry, path)


# -- solver states -----------------------------------------------------------------------------------------------------


def write_state(path: StrPath, step: int, current_step: int, learned_net: str, history: Sequence[Any]) -> None:
    """Write a solver's state. Raises: OutputError."""
    with _writing(path) as file:
        file.create_dataset("iter", data=np.array([step], np.int32))
        file.create_dataset("current_step", data=np.array([current_step], np.int32))
        _put_text(file, "learned_net", learned_net.encode("utf-8", "surrogateescape"))
        group = file.create_group("history")
        for index, array in enumerate(history):
            group.create_dataset(str(index), data=np.asarray(array, np.float32))


def read_state(path: StrPath, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, str, list[Any]]:
    """iter, current_step, learned_net ("" if none) and the history of the shapes. Raises: FileFormatError, ShapeError."""
    with _reading(path) as file:
        whole = [_inside(file, name, path) for name in ("iter", "current_step", "learned_net", "history")]
        if whole[0] is None or whole[3] is None:
            raise FileFormatError(f"{path} has no 'iter' and 'history'; it is no solver state")
        step, current = (0 if entry is None else _integer(entry, path) for entry in whole[:2])
        group = whole[3]
        if len(group) != len(shapes):
            raise FileFormatError(f"{path} has {len(group)} arrays of history, this solver {len(shapes)}: another type or net")
        history = [_blob(group, index, shape, "history", path) for index, shape in enumerate(shapes)]
        return step, current, _text(whole[2], path), history


def _put_text(file: Any, name: str, text: bytes) -> None:
    """A text with the zero at its end that Caffe's reader relies on."""
    library = _library()
    kind = library.h5t.C_S1.copy()
    kind.set_size(len(text) + 1)
    kind.set_strpad(library.h5t.STR_NULLTERM)
    entry = library.h5d.create(file.id, name.encode(), kind, library.h5s.create(library.h5s.SCALAR))
    entry.write(library.h5s.ALL, library.h5s.ALL, np.array(text, f"S{len(text) + 1}"))


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


# -- files -------------------------------------------------------------------------------------------------------------


@contextmanager
def _writing(path: StrPath) -> Iterator[Any]:
    memory = io.BytesIO()
    with _library().File(memory, "w") as file:
        yield file
    write_file(path, memory.getbuffer())


@contextmanager
def _reading(path: StrPath) -> Iterator[Any]:
    """An HDF5 file; what the library cannot read of it is a FileFormatError."""
    library = _library()
    try:
        with library.File(path, "r") as file:
            yield file
    except PreimageError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:  # as h5py meets damage
        raise FileFormatError(f"{path} cannot be read as HDF5: {error}") from None


def _inside(group: Any, name: str, path: StrPath) -> Any:
    """A group or dataset of the file itself, None if there is none."""
    library = _library()
    if not isinstance(group, library.Group):
        raise FileFormatError(f"{path}: {group.name!r} is a dataset where a group was expected")
    if "/" in name:  # a layer name with a slash is a group in a group
        outer, _, inner = name.partition("/")
        found = _inside(group, outer, path)
        return None if found is None else _inside(found, inner, path)
    link = group.get(name, getlink=True) if name else None
    if link is None:
        return None
    if not isinstance(link, library.HardLink):
        raise FileFormatError(f"{path}: {name!r} is a link; links are not followed")
    return group[name]


def _numbers(entry: Any, path: StrPath) -> Any:
    if not hasattr(entry, "dtype") or entry.dtype.kind not in "fiu":
        raise FileFormatError(f"{path}: {entry.name!r} holds no numbers")
    if entry.external or entry.is_virtual:
        raise FileFormatError(f"{path}: {entry.name!r} lies in other files; they are not read")
    with np.errstate(over="ignore"):
        return np.asarray(entry[()]).astype(np.float32)
