"""Object code into the process without LLVM: what a first call pays that finds all its kernels on disk.

    loaded = load(code, ("kernel",))       # None: not the plain kind of file that this reads; LLVM's linker takes those

Definition: LLVM writes relocatable ELF files (x86-64, Linux). Sections that belong in memory are copied beside each other into fresh pages,
each relocation is added up as the table below says, and the pages become readable and executable, and writable no more. Functions of the
C library are reached through a jump each, since they may lie farther off than an instruction can say.

    R_X86_64_64      8 bytes   symbol + addend
    R_X86_64_PC32    4 bytes   symbol + addend - place
    R_X86_64_PLT32   4 bytes   the same; of a function outside: its jump

Nothing in a file is trusted to lie within it: what does not is None too, as are sections to write to, other relocations, symbols that
nobody has, and other machines. Constants share the pages of the code: a page more for each of hundreds of kernels is not worth it.

Source: Tool Interface Standard, Executable and Linking Format 1.2; System V ABI, AMD64 supplement, section 4.4.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import struct
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["CodePages", "Image", "joined", "load", "place", "read", "supported"]

#: Joined images begin on so many bytes, and no section wants more.
JOIN_BYTES = 64

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QIIq")
_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_RELOCATABLE, _X86_64 = 1, 62
_CONTENTS, _SYMBOLS, _RELOCATIONS = 1, 2, 4  # types of sections
_WRITE, _IN_MEMORY = 1, 2  # flags of sections
_ABSOLUTE_64, _PC_32, _PLT_32 = 1, 2, 4  # types of relocations
_JUMP = struct.Struct("<6s2xQ")  # jmp *8(%rip), so that the address lies on 8 bytes
_JUMP_CODE = b"\xff\x25\x02\x00\x00\x00"


class CodePages(NamedTuple):
    """Pages of code: they stay while this does. addresses: of the functions that were asked for, by name."""

    memory: mmap.mmap
    addresses: dict[str, int]


class Image(NamedTuple):
    """Code as it will lie in memory, but for what depends on where that is. Plain data: images can be joined, and kept on disk.

    contents: with all relative addresses filled in. absolute: (place, offset from the first byte) of each word that is an address.
    jumps: (place, name of a function of the process). symbols: the functions that were asked for, as offsets.
    """

    contents: bytes
    absolute: tuple[tuple[int, int], ...]
    jumps: tuple[tuple[int, str], ...]
    symbols: dict[str, int]


class _OtherKindError(Exception):
    """The file is not of the kind that is read here."""


class _Section(NamedTuple):
    kind: int
    flags: int
    begin: int
    size: int
    link: int
    info: int
    alignment: int


@functools.cache
def supported() -> bool:
    """Whether files are read here at all: Linux on x86-64."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32


def load(code: bytes, symbols: Sequence[str]) -> CodePages | None:
    """The functions of an object file in memory; None where LLVM has to link it. Raises: OSError where there are no pages."""
    image = read(code, symbols)
    return None if image is None else place(image)


def read(code: bytes, symbols: Sequence[str]) -> Image | None:
    """An object file laid out for memory; None where LLVM has to link it."""
    if not supported():
        return None
    try:
        return _Reader(code).image(symbols)
    except (_OtherKindError, struct.error, IndexError, KeyError, ValueError, OverflowError):
        return None


def place(image: Image) -> CodePages | None:
    """An image in fresh pages; None where it names a function that nobody has, or where the system does not let pages be executed.

    Raises: OSError where there are no pages; ValueError for places outside the image.
    """
    size = len(image.contents)
    if not all(0 <= at <= size - 8 and 0 <= offset <= size for at, offset in image.absolute):
        raise ValueError("an address lies outside the code")
    if not all(0 <= at <= size - _JUMP.size for at, _ in image.jumps):
        raise ValueError("a jump lies outside the code")
    try:
        outside = [(at, _outside(name)) for at, name in image.jumps]
        memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        memory[:size] = image.contents
        for at, offset in image.absolute:
            struct.pack_into("<Q", memory, at, base + offset)
        for at, address in outside:
            memory[at : at + _JUMP.size] = _JUMP.pack(_JUMP_CODE, address)
        _protect(base, len(memory))
    except _OtherKindError:
        return None
    return CodePages(memory, {name: base + offset for name, offset in image.symbols.items()})


def joined(images: Sequence[Image]) -> tuple[Image, list[int]]:
    """Images one after another as one without symbols, and where each begins."""
    contents = bytearray()
    absolute: list[tuple[int, int]] = []
    jumps: list[tuple[int, str]] = []
    starts = []
    for image in images:
        start = -(-len(contents) // JOIN_BYTES) * JOIN_BYTES
        contents += bytes(start - len(contents)) + image.contents
        absolute += [(start + at, start + offset) for at, offset in image.absolute]
        jumps += [(start + at, name) for at, name in image.jumps]
        starts.append(start)
    return Image(bytes(contents), tuple(absolute), tuple(jumps), {}), starts


class _Reader:
    def __init__(self, code: bytes) -> None:
        self.code = code
        magic, kind, machine, *rest = _HEADER.unpack_from(code)
        first, entry_size, count = rest[3], rest[8], rest[9]
        if not magic.startswith(_MAGIC) or (kind, machine, entry_size) != (_RELOCATABLE, _X86_64, _SECTION.size):
            raise _OtherKindError
        self.sections = [self._section(first + k * _SECTION.size) for k in range(count)]
        self.starts: dict[int, int] = {}  # of sections in memory, from the first page
        self.jumps: dict[str, int] = {}
        self.absolute: list[tuple[int, int]] = []
        self.contents = bytearray()
        self.size = 0
        for k, section in enumerate(self.sections):
            if section.flags & _IN_MEMORY and section.kind == _CONTENTS:
                if section.flags & _WRITE:
                    raise _OtherKindError
                self.starts[k] = self._take(section.size, section.alignment)

    def _section(self, at: int) -> _Section:
        _, kind, flags, _, begin, size, link, info, alignment, _ = _SECTION.unpack_from(self.code, at)
        if kind in (_CONTENTS, _SYMBOLS, _RELOCATIONS) and begin + size > len(self.code):
            raise _OtherKindError
        return _Section(kind, flags, begin, size, link, info, max(alignment, 1))

    def _take(self, size: int, alignment: int) -> int:
        if alignment > JOIN_BYTES:
            raise _OtherKindError
        at = -(-self.size // alignment) * alignment
        self.size = at + size
        return at

    def image(self, symbols: Sequence[str]) -> Image:
        (table,) = (section for section in self.sections if section.kind == _SYMBOLS)
        names = self.sections[table.link].begin
        found = list(_SYMBOL.iter_unpack(self.code[table.begin : table.begin + table.size]))
        wanted = []
        for section in self.sections:
            if section.kind == _RELOCATIONS and section.info in self.starts:
                wanted += [(section.info, *each) for each in _RELOCATION.iter_unpack(self._bytes(section))]
        for _, _, kind, number, _ in wanted:
            if found[number][3] == 0:  # defined elsewhere
                if kind != _PLT_32:
                    raise _OtherKindError
                self.jumps.setdefault(self._name(names + found[number][0]), 0)
        self.jumps = {name: self._take(_JUMP.size, 16) for name in self.jumps}
        self.contents = bytearray(self.size)
        for k, start in self.starts.items():
            self.contents[start : start + self.sections[k].size] = self._bytes(self.sections[k])

        def offset(symbol: tuple[Any, ...]) -> int:
            if symbol[3] == 0:
                return self.jumps[self._name(names + symbol[0])]
            if symbol[4] > self.sections[symbol[3]].size:
                raise _OtherKindError
            return self.starts[symbol[3]] + int(symbol[4])

        for target, at, kind, number, addend in wanted:
            self._relocate(target, at, kind, offset(found[number]) + addend)
        defined = {self._name(names + each[0]): each for each in found if each[0] and each[3]}
        jumps = tuple([(at, name) for name, at in self.jumps.items()])
        return Image(bytes(self.contents), tuple(self.absolute), jumps, {name: offset(defined[name]) for name in symbols})

    def _relocate(self, target: int, place: int, kind: int, value: int) -> None:
        at = self.starts[target] + place
        size = 8 if kind == _ABSOLUTE_64 else 4
        if place + size > self.sections[target].size:
            raise _OtherKindError
        if kind == _ABSOLUTE_64:
            if not 0 <= value <= self.size:
                raise _OtherKindError
            self.absolute.append((at, value))
        elif kind in (_PC_32, _PLT_32):
            struct.pack_into("<i", self.contents, at, value - at)
        else:
            raise _OtherKindError

    def _bytes(self, section: _Section) -> bytes:
        return self.code[section.begin : section.begin + section.size]

    def _name(self, at: int) -> str:
        return self.code[at : self.code.index(b"\0", at)].decode()


@functools.cache
def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)


@functools.cache
def _outside(name: str) -> int:
    """The address of a function of the process."""
    try:
        function = getattr(_library(), name)
    except AttributeError:
        raise _OtherKindError from None
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


@functools.cache
def _protect_call() -> Any:
    call = _library().mprotect
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return call


def _protect(base: int, size: int) -> None:
    """Executable, and writable no more. What a system forbids here it may allow LLVM, which says why if not."""
    if _protect_call()(base, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise _OtherKindError
