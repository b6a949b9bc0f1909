"""Named arrays as files: `.safetensors`, `.npz` and torch's `.pt`; single arrays as `.npy`. No pickle is ever loaded.

Nested values (an optimiser's state) go into the same files as arrays under dotted names, and a text that says how they belong together.

What a file claims of its sizes is compared with the bytes that are there, and with the memory allowed, before anything is allocated.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from preimage.errors import DTypeError, FileFormatError
from preimage.host import write_file
from preimage.io import limits
from preimage.io.narrow import bfloat16
from preimage.io.trees import TREE, flattened, is_flat, plain_array, rebuilt

__all__ = ["load_weights", "read_npy", "save_weights", "weights_writer"]

Array = NDArray[Any]
#: The endings of files that torch.save writes, as its users name them.
_TORCH = (".pt", ".pth")
#: The array in an .npz file that lists the names of those of bfloat16.
_NARROW = "preimage.bfloat16"
#: NumPy's names of types and those of the safetensors format, in the order in which its package writes arrays, the last ones first.
_TYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16", "bfloat16": "BF16",
    "int32": "I32", "uint32": "U32", "float32": "F32", "float64": "F64", "int64": "I64", "uint64": "U64",
}  # fmt: skip


def save_weights(
    arrays: Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Named arrays as `.safetensors`, `.npz` or `.pt` (`.pth`), written whole or not at all; also dicts, lists, numbers and words around
    arrays, such as `optimizer.state_dict()`, which `load_weights` gives back as they were.

    A `.pt` is read by torch.load(path, weights_only=True). It has no place for metadata.

    Raises: FileFormatError for another ending; DTypeError for Python objects and masked arrays, which no file would give back;
        OutputError where the file cannot be written.
    """
    write_file(path, weights_writer(arrays, Path(path).suffix.lower(), metadata), overwrite=overwrite)


def weights_writer(
    arrays: Mapping[str, Any], ending: str, metadata: Mapping[str, str] | None = None
) -> Callable[[BinaryIO], None]:
    """The function that writes named arrays to an open file. Raises: FileFormatError for an ending that is no weights file's."""
    if not isinstance(arrays, Mapping):
        raise DTypeError(f"weights are a dict of names and arrays, got {type(arrays).__name__}")
    if ending not in (".safetensors", ".npz", *_TORCH):
        raise FileFormatError(f"weights are written as .safetensors, .npz or .pt, not as {ending or 'a file without an ending'}")
    notes = dict(metadata or {})
    if ending in _TORCH:
        if notes:
            raise FileFormatError(f"a {ending} file has no place for metadata; write .safetensors")
        from preimage.io import torch

        return lambda file: torch.write(arrays, file)
    text = None
    if is_flat(arrays):
        named = {name: plain_array(a, name) for name, a in arrays.items()}
    else:
        named, text = flattened(arrays)
    plain = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in named.items()}
    if ending == ".npz":
        if narrow := [name for name, a in plain.items() if a.dtype.name == "bfloat16"]:  # NumPy's format has no name for it
            plain[_NARROW] = np.frombuffer(json.dumps(narrow).encode(), np.uint8)
        if text is not None:
            plain[TREE] = np.frombuffer(text.encode(), np.uint8)
        return lambda file: _write_npz(plain, file)
    return lambda file: _write_safetensors(plain, file, notes if text is None else {**notes, TREE: text})


def _write_npz(arrays: Mapping[str, Array], file: BinaryIO) -> None:
    """As np.savez, which takes no array called "file"."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_safetensors(arrays: Mapping[str, Array], file: BinaryIO, metadata: Mapping[str, str]) -> None:
    """The format in short: the header's length (8 bytes), the header (JSON: type, shape, place of every array), the data.

    The widest types come first, so that every array lies on a multiple of its item size.
    Source: the format's description in the package safetensors, version 0.4.
    """
    rank = {name: k for k, name in enumerate(_TYPES)}
    order = sorted(arrays, key=lambda name: (-rank.get(arrays[name].dtype.name, 0), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        array = arrays[name]
        if array.dtype.name not in _TYPES:
            raise FileFormatError(f"array {name!r} of type {array.dtype} cannot be written as .safetensors; write .npz")
        header[name] = {
            "dtype": _TYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [place, place + array.nbytes],
        }  # fmt: skip
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        array = arrays[name]
        little = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
        file.write(little.reshape(-1).view(np.uint8).data)


def load_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Named arrays from `.safetensors`, `.npz`, or what torch.save wrote (`.pt`, `.pth`; `.bin` and `.ckpt` too); nested values as they
    were saved.

    Of a file of torch's no code is run: it may hold tensors, numbers, words, and dicts, lists and tuples of them, and what else it asks for is
    refused by its name. Types and devices in it are given as words.

    Raises: FileFormatError for a damaged file, one that holds something else, and one that holds more than the memory allowed.
    """
    ending, source = Path(path).suffix.lower(), Path(path)
    if not source.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    limits.check_bytes(source.stat().st_size, f"{path}: its arrays")
    try:
        if ending == ".safetensors":
            return _read_safetensors(path)
        if ending == ".npz":
            return _read_npz(source)
        if ending in (*_TORCH, ".bin", ".ckpt"):
            return _read_torch(source)
    except FileFormatError:
        raise
    except Exception as error:  # each library has its own
        raise FileFormatError(f"{str(path)!r} is damaged: {error}") from error
    raise FileFormatError(f"{str(path)!r}: weights are read from .safetensors, .npz, .pt or .pth")


def _read_torch(path: Path) -> dict[str, Any]:
    from preimage.io import torch

    found = torch.load(path)
    if not isinstance(found, dict):
        kind = "one tensor" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        raise FileFormatError(f"{str(path)!r}: holds {kind}, wanted a dict; preimage.io.torch.load gives it as it is")
    return found


def _read_npz(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        limits.check_bytes(sum(entry.file_size for entry in entries), f"{path}: its arrays, unpacked,")
        found: dict[str, Array] = {}
        for entry in entries:
            with archive.open(entry) as member:
                found[entry.filename.removesuffix(".npy")] = _read_array(member, entry.file_size, f"{path}: {entry.filename}")
        narrow = found.pop(_NARROW, None)
        if narrow is not None:
            dtype = bfloat16()
            found |= {name: found[name].view(dtype) for name in json.loads(narrow.tobytes()) if found[name].dtype.itemsize == 2}
        text = found.pop(TREE, None)
        return found if text is None else _tree(found, text.tobytes().decode("utf-8", "replace"), str(path))


def _read_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    package = _safetensors()
    found = dict(package.load_file(str(path)))
    with Path(path).open("rb") as file:  # the package has read it whole: the header is sound
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    text = header.get("__metadata__", {}).get(TREE)
    return found if text is None else _tree(found, text, str(path))


def _tree(arrays: dict[str, Array], text: str, path: str) -> dict[str, Any]:
    try:
        made = rebuilt(arrays, text)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None
    if not isinstance(made, dict):
        raise FileFormatError(f"{path}: the description of nested values is of no dict")
    return made


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise FileFormatError("safetensors files need the package safetensors: pip install 'preimage[cli]'") from error
    return safetensors.numpy


def read_npy(path: str | os.PathLike[str]) -> Array:
    """The array of a `.npy` file. Raises: FileFormatError for what is none, or holds fewer bytes than its header says."""
    source = Path(path)
    if not source.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        with source.open("rb") as file:
            return _read_array(file, source.stat().st_size, str(path))
    except FileFormatError:
        raise
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_array(file: Any, size: int, what: str) -> Array:
    """One array in NumPy's format, of `size` bytes with its header."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read_header is None:
            raise FileFormatError(
                f"{what}: is written in version {version[0]}.{version[1]} of NumPy's format; 1.0 and 2.0 are read"
            )
        shape, fortran_order, dtype = read_header(file)
    except FileFormatError:
        raise
    except Exception as error:  # the header is parsed as Python text, which fails in many ways
        raise FileFormatError(f"{what}: is no array file: {error}") from None
    if dtype.hasobject:
        raise FileFormatError(f"{what}: holds Python objects, which are never loaded")
    needed = prod(shape) * dtype.itemsize
    there = size - file.tell()
    if any(n < 0 for n in shape) or len(shape) > 32 or needed != there:
        raise FileFormatError(f"{what}: an array of shape {shape} and {dtype} needs {needed} bytes, the file has {there}")
    limits.check_bytes(needed, what)
    data = bytearray(file.read(needed))
    if len(data) != needed:
        raise FileFormatError(f"{what}: ends after {len(data)} of {needed} bytes")
    array: Array = np.frombuffer(data, dtype) if needed else np.zeros(prod(shape), dtype)
    return array.reshape(shape[::-1]).T if fortran_order else array.reshape(shape)
