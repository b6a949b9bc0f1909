"""Databases of LMDB, read only, as Caffe writes them: keys in order, each value a Datum.

The reader is our own, since the library maps a file into memory and takes what it says for true: a damaged one ends the process. Here every page
number, offset and length is compared with the file before use.

The file in short: pages of one size; pages 0 and 1 describe the database (the one with the higher transaction number holds), the main tree's root
among it. A page begins with its number, flags, and the end of a list of 2-byte offsets, one for each node in it. A branch's node leads to a page;
a leaf's node is a key and a value, or a key and the number of the pages (their header first) on which a long value lies.
Source: LMDB 0.9 (lib/lmdb/libraries/liblmdb/mdb.c, read as facts).
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from preimage.data.dataset import Array, Sample
from preimage.errors import FileFormatError
from preimage.io import limits
from preimage.io.caffe.wire.binary import decode
from preimage.io.caffe.wire.message import Message
from preimage.io.pictures import decoded_pixels

__all__ = ["LmdbDataset", "LmdbReader", "array_of_datum"]

StrPath = str | os.PathLike[str]
_MAGIC, _VERSION, _HEADER, _NO_PAGE = 0xBEEFC0DE, 1, 16, (1 << 64) - 1
_BRANCH, _LEAF, _OVERFLOW, _BIG = 0x01, 0x02, 0x04, 0x01
#: Where the size of a page, the main tree (flags, depth, entries, root), the last page and the transaction lie in a description.
_PAGE_SIZE, _TREE, _LAST = 40, 88, 136
MOST_DEPTH = 32


class LmdbReader:
    """The values of a database in the order of their keys: `len`, `reader[i]`, `key(i)`.

    path: the folder that LMDB makes, or the file `data.mdb` in it.

    Raises: FileFormatError that names the file, and the page of what is damaged.
    """

    def __init__(self, path: StrPath) -> None:
        place = Path(path)
        self.path = place / "data.mdb" if place.is_dir() else place
        if not self.path.is_file():
            raise FileFormatError(f"there is no LMDB database {str(path)!r}: a folder with data.mdb is wanted")
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < 2 * 256:
                    raise FileFormatError(f"{self.path}: {size} bytes are no LMDB database")
                self._map: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FileFormatError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        self._size = size
        self._page_size, entries, root, last = self._description()
        if (last + 1) * self._page_size > size:
            raise FileFormatError(
                f"{self.path}: is truncated: its {last + 1} pages of {self._page_size} bytes need {(last + 1) * self._page_size}, it has {size}"
            )
        self._pages = last + 1
        self._places: list[tuple[int, int, int, int]] = []  # where key and value begin, and how long they are
        if root != _NO_PAGE:
            self._walk(root, entries)
        if len(self._places) != entries:
            raise FileFormatError(f"{self.path}: says {entries} entries and has {len(self._places)}")

    def __len__(self) -> int:
        return len(self._places)

    def key(self, index: int) -> bytes:
        """A key, by its number."""
        begin, _, size, _ = self._places[index]
        return bytes(self._map[begin : begin + size])

    def __getitem__(self, index: int) -> bytes:
        _, begin, _, size = self._places[index]
        return bytes(self._map[begin : begin + size])

    def _description(self) -> tuple[int, int, int, int]:
        """The size of a page, the number of entries, the root and the last page, by the newer of the two descriptions."""
        found, first = [], self._head(0)
        if first is None:
            raise FileFormatError(f"{self.path}: is no LMDB database: no magic number at byte {_HEADER}")
        for place in (0, first[0]):
            head = self._head(place)
            if head is not None:
                found.append(head)
        page_size, entries, root, last, _ = max(found, key=lambda head: head[4])
        return page_size, entries, root, last

    def _head(self, place: int) -> tuple[int, int, int, int, int] | None:
        if place + _LAST + 16 > self._size:
            return None
        magic, version = struct.unpack_from("<II", self._map, place + _HEADER)
        if magic != _MAGIC:
            return None
        if version != _VERSION:
            raise FileFormatError(
                f"{self.path}: is of LMDB's data version {version}; {_VERSION} is read, which LMDB 0.9 and Caffe write"
            )
        (page_size,) = struct.unpack_from("<I", self._map, place + _PAGE_SIZE)
        if not 256 <= page_size <= 1 << 16 or page_size & (page_size - 1):
            raise FileFormatError(f"{self.path}: pages of {page_size} bytes (byte {place + _PAGE_SIZE})")
        entries, root = struct.unpack_from("<QQ", self._map, place + _TREE + 32)
        last, transaction = struct.unpack_from("<QQ", self._map, place + _LAST)
        return page_size, entries, root, last, transaction

    def _walk(self, root: int, entries: int) -> None:
        limits.check_bytes(64 * entries, f"{self.path}: a list of {entries} entries")
        stack, seen = [(root, 0)], set()
        while stack:
            page, depth = stack.pop()
            if page in seen or depth > MOST_DEPTH:
                raise FileFormatError(f"{self.path}: page {page} is part of a circle, or the tree is too deep")
            seen.add(page)
            base, flags, nodes = self._nodes(page)
            if flags & _BRANCH:
                children = []
                for at in nodes:
                    low, high, top = struct.unpack_from("<HHH", self._map, base + at)
                    children.append((low | high << 16 | top << 32, depth + 1))
                stack += reversed(children)
                continue
            for at in nodes:
                self._places.append(self._leaf(page, base, at))
                if len(self._places) > entries:
                    raise FileFormatError(f"{self.path}: says {entries} entries and has more")

    def _nodes(self, page: int) -> tuple[int, int, list[int]]:
        """Where a page begins, its flags, and where its nodes lie in it."""
        if not 1 < page < self._pages:
            raise FileFormatError(f"{self.path}: page {page} does not exist; there are {self._pages}")
        base = page * self._page_size
        _, _, flags, lower, upper = struct.unpack_from("<QHHHH", self._map, base)
        if not flags & (_BRANCH | _LEAF) or not _HEADER <= lower <= upper <= self._page_size or lower % 2:
            raise FileFormatError(f"{self.path}: page {page} is damaged (flags {flags:#x}, {lower}, {upper})")
        count = (lower - _HEADER) // 2
        nodes = list(struct.unpack_from(f"<{count}H", self._map, base + _HEADER))
        if any(not upper <= at <= self._page_size - 8 for at in nodes):
            raise FileFormatError(f"{self.path}: page {page} has a node outside of it")
        return base, flags, nodes

    def _leaf(self, page: int, base: int, at: int) -> tuple[int, int, int, int]:
        low, high, flags, key = struct.unpack_from("<HHHH", self._map, base + at)
        size, begin = low | high << 16, base + at + 8 + key
        inside = key + (8 if flags & _BIG else size)
        if flags & ~_BIG or at + 8 + inside > self._page_size:
            raise FileFormatError(f"{self.path}: page {page} has a damaged entry, or one of a kind that Caffe does not write")
        if not flags & _BIG:
            return base + at + 8, begin, key, size
        (far,) = struct.unpack_from("<Q", self._map, begin)
        place = far * self._page_size
        if not 1 < far < self._pages or place + _HEADER + size > self._pages * self._page_size:
            raise FileFormatError(f"{self.path}: page {page} has a value of {size} bytes on page {far}, beyond the end")
        return base + at + 8, place + _HEADER, key, size


class LmdbDataset:
    """(image, label) from a database of Datum messages; images (C, H, W) of float32, bytes as 0 .. 1 (times `scale`, if given).

    Encoded pictures (JPEG, PNG) are decoded, with channels blue, green, red as Caffe has them.

    Raises: FileFormatError that names the file, and the key of what is damaged.
    """

    def __init__(self, path: StrPath, *, classes: int | None = None, scale: float | None = None) -> None:
        self.reader, self.classes = LmdbReader(path), classes
        self.scale = np.float32(1 / 255 if scale is None else scale)
        if not len(self.reader):
            raise FileFormatError(f"{self.reader.path}: the database is empty")

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> Sample:
        try:
            datum = decode("Datum", self.reader[index])
            image = array_of_datum(datum, self.describe(index))
        except FileFormatError as error:
            raise FileFormatError(f"{self.describe(index)}: {error}") from None
        label = int(datum.label)
        if label < 0 or (self.classes is not None and label >= self.classes):
            raise FileFormatError(
                f"{self.describe(index)}: label {label} is out of range; wanted 0 to {(self.classes or 1 << 31) - 1}"
            )
        pixels = image.astype(np.float32)
        return (pixels if image.dtype == np.float32 else pixels * self.scale), np.int64(label)

    def describe(self, index: int) -> str:
        """The file and key of a sample."""
        return f"{self.reader.path}: key {self.reader.key(index)[:60].decode('utf-8', 'backslashreplace')!r}"


def array_of_datum(datum: Message, said: str = "a Datum") -> Array:
    """The (channels, height, width) array of a Datum: uint8, or float32 for float_data. Raises: FileFormatError where it holds another number."""
    if datum.encoded:
        pixels = decoded_pixels(datum.data, said)
        return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels[..., ::-1], -1, 0))
    shape = (datum.channels, datum.height, datum.width)
    values = np.frombuffer(datum.data, np.uint8) if datum.has("data") else np.asarray(datum.float_data, np.float32)
    if min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
        raise FileFormatError(f"a Datum of {shape[0]} x {shape[1]} x {shape[2]} holds {values.size} values")
    return values.reshape(shape)
