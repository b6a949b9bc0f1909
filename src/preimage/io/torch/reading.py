"""The two forms of torch.save's files: a zip archive (since torch 1.6), and pickles with the storages behind them (before).

    archive/data.pkl        the values, in pickle's instructions (opcodes.py)
    archive/data/0, 1, ...  the storages, not compressed
    archive/byteorder       "little" or "big"

Sizes are compared with the file before anything is allocated; entries may not overlap; checksums are compared.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from preimage.errors import FileFormatError
from preimage.host import printable
from preimage.io import limits
from preimage.io.torch.opcodes import evaluate
from preimage.io.torch.tensors import Storage, arrays_of, construct, known, storage_of

__all__ = ["load"]

Bytes = NDArray[np.uint8]
#: The first number in files before 1.6, and the version behind it. Source: torch/serialization.py, MAGIC_NUMBER.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
#: As much of such a file may be pickles.
_HEAD = 2**26
#: Bytes that the value of one instruction may take.
_STEP_BYTES = 256
_SAVE = "in torch: torch.save(model.state_dict(), path)"


def load(path: str | os.PathLike[str]) -> Any:
    """What torch.save wrote: tensors as arrays, in the dicts, lists, tuples, numbers and words around them. No code of the file is run.

    Raises: FileFormatError for a damaged file, for one that holds anything else (by its name), and for one that takes more than the memory allowed.
    """
    source = Path(path)
    if not source.is_file():
        raise FileFormatError(f"there is no file {str(path)!r}")
    try:
        with source.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == b"PK\x03\x04":
                return _Archive(file).value()
            if start[:1] == b"\x80":
                return _OldFile(file).value()
            raise FileFormatError("is no file of torch.save by its content")
    except FileFormatError as error:
        raise FileFormatError(f"{str(path)!r}: {error}") from None
    except OSError as error:
        raise FileFormatError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise FileFormatError(f"{str(path)!r} is damaged: {printable(error, most=200)}") from None


def _most() -> int:
    """Instructions, and values, that a file may have."""
    return max(10_000, limits.memory_bytes() // _STEP_BYTES)


def _into(file: BinaryIO, size: int, what: str) -> Bytes:
    """The next bytes of a file, in memory of their own."""
    data = np.empty(size, np.uint8)
    if file.readinto(data.data) != size if size else False:  # type: ignore[attr-defined]
        raise FileFormatError(f"{what} ends before its {size} bytes")
    return data


class _Archive:
    """A zip archive, of which every entry was found to lie where no other does."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        with zipfile.ZipFile(file) as archive:
            entries, end = archive.infolist(), archive.start_dir
        self.entries = {entry.filename: entry for entry in entries}
        if len(self.entries) != len(entries):
            raise FileFormatError("its archive has two entries of one name")
        self.places = {entry.filename: self._place(entry) for entry in entries}
        spans = sorted((entry.header_offset, self.places[entry.filename] + entry.file_size) for entry in entries)
        if any(before[1] > after[0] for before, after in pairwise([*spans, (end, end)])):
            raise FileFormatError("entries of its archive overlap")
        roots = [name.removesuffix("data.pkl") for name in self.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise FileFormatError("is a zip archive, but none of torch.save: it has no data.pkl in its one folder")
        self.root = roots[0]
        if f"{self.root}constants.pkl" in self.entries or any(name.startswith(f"{self.root}code/") for name in self.entries):
            raise FileFormatError(f"is a TorchScript archive, which holds code; save its weights: {_SAVE}")

    def _place(self, entry: zipfile.ZipInfo) -> int:
        """Where the bytes of an entry begin."""
        name = printable(entry.filename, most=80)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise FileFormatError(f"entry {name!r} of its archive is compressed or encrypted, which torch.save never does")
        self.file.seek(entry.header_offset)
        header = self.file.read(30)
        if len(header) != 30 or header[:4] != b"PK\x03\x04":
            raise FileFormatError(f"entry {name!r} of its archive is not where it is said to be")
        return entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")

    def bytes_of(self, name: str) -> Bytes:
        """An entry, read whole. Raises: FileFormatError where it is not there or its checksum is another."""
        entry = self.entries.get(self.root + name)
        if entry is None:
            raise FileFormatError(f"its archive has no {printable(name, most=80)}")
        self.file.seek(self.places[entry.filename])
        data = _into(self.file, entry.file_size, f"its archive, in {printable(name, most=80)},")
        if zlib.crc32(data.data) != entry.CRC:
            raise FileFormatError(f"{printable(name, most=80)} in it is damaged: its checksum is not the one that was written")
        return data

    def value(self) -> Any:
        order = bytes(self.bytes_of("byteorder")) if f"{self.root}byteorder" in self.entries else b"little"
        if order not in (b"little", b"big"):
            raise FileFormatError(f"its byteorder is neither little nor big: {printable(order[:20])}")
        program = self.bytes_of("data.pkl")
        value, end = evaluate(program.data, 0, known=known, construct=construct, stored=storage_of, most=_most())
        if end != program.size:
            raise FileFormatError(f"its pickle ends after {end} of {program.size} bytes")
        return arrays_of(value, self._storage, big_endian=order == b"big", most=_most())

    def _storage(self, storage: Storage) -> Bytes:
        return _fitting(self.bytes_of(f"data/{storage.key}"), storage)


def _fitting(data: Bytes, storage: Storage) -> Bytes:
    if data.size != storage.size_bytes:
        raise FileFormatError(
            f"storage {printable(storage.key, most=40)} has {data.size} bytes; {storage.count} elements of {storage.dtype} need {storage.size_bytes}"
        )
    return data


class _OldFile:
    """Pickles one after another (a magic number, a version, facts of the machine, the values, the keys of the storages), then the storages."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.found: dict[str, Storage] = {}

    def _stored(self, found: Any) -> Storage:
        storage = storage_of(found)
        if self.found.setdefault(storage.key, storage) != storage:
            raise FileFormatError(f"storage {printable(storage.key, most=40)} is described in two ways")
        return storage

    def value(self) -> Any:
        head, at, values = memoryview(self.file.read(_HEAD)), 0, []
        for _ in range(5):
            value, at = evaluate(head, at, known=known, construct=construct, stored=self._stored, most=_most())
            values.append(value)
            if values[0] != _MAGIC:
                raise FileFormatError(f"is a pickle, but none of torch.save; {_SAVE}")
        _, version, machine, value, keys = values
        if version != _VERSION or not isinstance(machine, dict):
            raise FileFormatError("is of a version of torch.save that is not known")
        big = machine.get("little_endian") is False
        places = self._places(keys, at, "big" if big else "little")

        def read(storage: Storage) -> Bytes:
            if storage.key not in places:
                raise FileFormatError(f"has no storage {printable(storage.key, most=40)}")
            self.file.seek(places[storage.key])
            return _into(self.file, storage.size_bytes, "it")

        return arrays_of(value, read, big_endian=big, most=_most())

    def _places(self, keys: Any, at: int, order: str) -> dict[str, int]:
        """Where each storage begins: a count of eight bytes stands before it."""
        if (
            not isinstance(keys, list)
            or not all(isinstance(k, str) and k in self.found for k in keys)
            or len(set(keys)) != len(keys)
        ):
            raise FileFormatError("is damaged: the keys of its storages are not those of its tensors")
        places: dict[str, int] = {}
        for key in keys:
            self.file.seek(at)
            (count,) = struct.unpack("<q" if order == "little" else ">q", self.file.read(8))
            if count != self.found[key].count or at + 8 + self.found[key].size_bytes > self.size:
                raise FileFormatError(
                    f"storage {printable(key, most=40)} is said to have {self.found[key].count} elements; the file has other"
                )
            places[key] = at + 8
            at += 8 + self.found[key].size_bytes
        return places
