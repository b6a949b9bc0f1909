"""Arrays as a file that torch.load(path, weights_only=True) reads: a zip archive, its values in pickle's instructions, which are written here.

Equal values give equal bytes, whenever and wherever they are written.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from preimage.errors import DTypeError
from preimage.io.torch.tensors import STORAGES, WITHOUT_STORAGE
from preimage.io.trees import plain_array

__all__ = ["write"]

#: Bytes of storages begin at multiples of this, as torch writes them.
_ALIGNMENT = 64
_DEEPEST = 100


def write(values: Mapping[Any, Any], file: BinaryIO) -> None:
    """Write a dict of arrays, numbers, words, and dicts, lists and tuples of them, to an open file.

    Raises: DTypeError for other values, before anything is written.
    """
    program = _Program(values)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _entry(archive, file, "data.pkl", bytes(program.code))
        _entry(archive, file, "byteorder", sys.byteorder.encode())
        for key, array in enumerate(program.arrays):
            _entry(archive, file, f"data/{key}", array.reshape(-1).view(np.uint8).data)
        _entry(archive, file, "version", b"3\n")


def _entry(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(f"archive/{name}")
    entry.file_size = len(data)  # decides on the long form of the header, 20 bytes more
    begin = file.tell() + 30 + len(entry.filename) + 4 + 20 * (entry.file_size * 1.05 > zipfile.ZIP64_LIMIT)
    gap = -begin % _ALIGNMENT
    entry.extra = struct.pack("<HH", 0x4246, gap) + b"Z" * gap  # "FB": padding, in torch's own files
    with archive.open(entry, "w") as member:
        member.write(data)


class _Program:
    """Pickle's instructions (protocol 2) for a value, and the arrays that it names."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self.code = bytearray(b"\x80\x02")
        self.arrays: list[NDArray[Any]] = []
        self._put(values, "", 0)
        self.code += b"."

    def _put(self, value: Any, place: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise DTypeError(f"{place[:60]!r} lies deeper than {_DEEPEST} levels, or holds itself")
        if value is None or value is True or value is False:
            self.code += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif type(value) is int:
            self._integer(value, place)
        elif type(value) is float:
            self.code += b"G" + struct.pack(">d", value)
        elif type(value) is str:
            self._word(value)
        elif isinstance(value, Mapping):
            self.code += b"}("
            for key, held in value.items():
                if type(key) not in (str, int):
                    raise DTypeError(f"{place or 'the dict'}: keys are words or integers, got {key!r}")
                self._put(key, place, depth)
                self._put(held, f"{place}.{key}" if place else str(key), depth + 1)
            self.code += b"u"
        elif type(value) in (list, tuple):
            self.code += b"](" if type(value) is list else b"("
            for k, held in enumerate(value):
                self._put(held, f"{place}.{k}", depth + 1)
            self.code += b"e" if type(value) is list else b"t"
        else:
            self._tensor(plain_array(value, place), place)

    def _integer(self, value: int, place: str = "") -> None:
        if -(2**31) <= value < 2**31:
            self.code += b"J" + struct.pack("<i", value)
            return
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        if len(data) > 255:
            raise DTypeError(f"{place!r} is an integer of {len(data)} bytes; at most 255 are written")
        self.code += b"\x8a" + bytes([len(data)]) + data

    def _word(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        self.code += b"X" + struct.pack("<I", len(data)) + data

    def _name(self, module: str, name: str) -> None:
        self.code += f"c{module}\n{name}\n".encode()

    def _integers(self, values: tuple[int, ...]) -> None:
        self.code += b"("
        for v in values:
            self._integer(v)
        self.code += b"t"

    def _tensor(self, array: NDArray[Any], place: str) -> None:
        name, untyped = array.dtype.name, array.dtype.name in WITHOUT_STORAGE
        if name not in STORAGES and not untyped:
            raise DTypeError(f"{place!r} is of type {array.dtype}, which torch has no tensors of")
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(array.shape)
        self._name("torch._utils", "_rebuild_tensor_v3" if untyped else "_rebuild_tensor_v2")
        self.code += b"(("
        self._word("storage")
        self._name(*(("torch.storage", "UntypedStorage") if untyped else ("torch", STORAGES[name])))
        self._word(str(len(self.arrays)))
        self._word("cpu")
        self._integer(array.nbytes if untyped else array.size)
        self.code += b"tQ"
        self._integer(0)
        self._integers(array.shape)
        self._integers(tuple(s // array.itemsize for s in array.strides) if array.size else (1,) * array.ndim)
        self.code += b"\x89"
        self._name("collections", "OrderedDict")
        self.code += b")R"
        if untyped:
            self._name("torch", name)
        self.code += b"tR"
        self.arrays.append(array)
