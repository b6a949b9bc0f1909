"""Recorded steps as plain data: what a later process needs to run them without planning, compiling or packing anything.

    said, arrays = stored([steps, ...])     # arrays by name, and what JSON can hold
    steps = restored(said, arrays)          # the same, in this process

Definition: the tables of `replay.py`, in which every address is an offset into one of two blocks: `code`, the images of all object files that
the steps call (`object_loader`), and `data`, all arrays that never change (packed weights, tables). Which words those are was written
down as the steps were recorded. A word (of a vector, or of a table of integers) that nobody called an address, and that points into this process's
memory all the same, would be a wild pointer in the next: steps with such a word are not stored, whatever kernel wants it.

What is read is not trusted to be whole: each index, offset and size is compared with what it lies in.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preimage.engines import disk_cache
from preimage.engines.addresses import address_of
from preimage.engines.base import Array
from preimage.engines.jit.compiler import object_loader, remembered
from preimage.engines.jit.runtime.replay import ReplaySteps, Tables
from preimage.engines.recording import Code

__all__ = ["NotStorableError", "circumstances", "restored", "stored"]

#: Arrays begin on so many bytes, or as far behind such a place as they lie now.
LINE_BYTES = 64
#: Every address is above it, and no size or stride that makes sense.
LEAST_ADDRESS = 1 << 32


#: Folders of this package whose source has no say in what a program holds.
_NO_SAY = {"analysis", "audit", "bench", "caffe", "cli", "cuda", "cudnn", "data", "learning", "optim", "report"}


class NotStorableError(Exception):
    """Why steps cannot be stored."""


def circumstances() -> str | None:
    """What stored steps depend on beside the computation: this package's source, the compiler, the CPU, the environment. None: none are stored."""
    if not object_loader.supported():
        return None
    machine = _machine()
    if machine is None:
        return None
    said = {k: v for k, v in os.environ.items() if k.startswith("PREIMAGE_") and not k.startswith("PREIMAGE_CACHE_")}
    return json.dumps([machine, _source(), _target(), sorted(said.items())])


@functools.cache
def _machine() -> str | None:
    return remembered.circumstances()


@functools.cache
def _source() -> str:
    """A digest of the names, sizes and times of this package's files: reading them all would take longer than what is stored saves."""
    found = []
    folders = [str(Path(__file__).parents[3])]
    for folder in folders:  # which grows meanwhile
        for item in os.scandir(folder):
            if item.name.endswith(".py"):
                status = item.stat()
                found.append((folder, item.name, status.st_size, status.st_mtime_ns))
            elif item.name not in _NO_SAY and item.is_dir() and item.name != "__pycache__":
                folders.append(item.path)
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()


def _target() -> str:
    """The target where another one than the environment's was chosen (`toolchain.use_target`)."""
    toolchain = sys.modules.get("preimage.engines.jit.compiler.toolchain")
    return "" if toolchain is None else str(toolchain.chosen_target())


# ------------------------------------------------------------------------------------------------------------- writing


def stored(items: Sequence[ReplaySteps]) -> tuple[dict[str, Any], dict[str, Array]]:
    """The steps as plain data. Raises: NotStorableError."""
    if not object_loader.supported():
        raise NotStorableError("code is linked by LLVM on this machine")
    codes, data = _Codes(), _Data([what for item in items for _, what in item.tables.fixed if not isinstance(what, Code)])
    replay = codes.offset(items[0].kernel)
    arrays: dict[str, Array] = {}
    for k, item in enumerate(items):
        vectors, patches, steps, fixed, called = item.tables
        vectors, steps = vectors.copy(), steps.copy()
        in_code = [(word, codes.offset(what)) for word, what in fixed if isinstance(what, Code)]
        in_data = [(word, data.offset(what)) for word, what in fixed if not isinstance(what, Code)]
        steps[:, 0] = [codes.offset(code) for code in called]
        for word, offset in (*in_code, *in_data):
            vectors[word] = offset
        arrays |= {f"vectors{k}": vectors, f"patches{k}": patches, f"steps{k}": steps}
        arrays |= {f"in_code{k}": _words(in_code), f"in_data{k}": _words(in_data)}
    image = codes.image()
    arrays |= {"code": np.frombuffer(image.contents, np.uint8), "absolute": _pairs(image.absolute), "data": data.block}
    tables = [what for item in items for _, what in item.tables.fixed if not isinstance(what, Code) and what.dtype.kind in "iuV"]
    if any(_points_into_memory(array) for array in (*arrays.values(), *tables) if array.dtype != np.uint8):
        raise NotStorableError("a kernel is given an address that nobody called one")
    return {"items": len(items), "jumps": image.jumps, "replay": replay}, arrays


class _Codes:
    """The object files of functions, one after another."""

    def __init__(self) -> None:
        self._images: list[object_loader.Image] = []
        self._numbers: dict[str, int] = {}
        self._starts: dict[str, int] = {}
        self._size = 0

    def offset(self, code: Any) -> int:
        """Where a function lies in `image()`."""
        source = getattr(code, "source", None)
        if source is None:
            raise NotStorableError("a kernel is no file of the cache")
        full, symbol = source
        if full not in self._numbers:
            contents = disk_cache.read(full)
            image = None if contents is None else object_loader.read(contents, (symbol,))
            if image is None:
                raise NotStorableError("a kernel is no longer in the cache, or linked by LLVM")
            self._numbers[full] = len(self._images)
            self._starts[full] = -(-self._size // object_loader.JOIN_BYTES) * object_loader.JOIN_BYTES
            self._size = self._starts[full] + len(image.contents)
            self._images.append(image)
        symbols = self._images[self._numbers[full]].symbols
        if symbol not in symbols:
            raise NotStorableError(f"a second function, {symbol}, of one object file is called")
        return self._starts[full] + symbols[symbol]

    def image(self) -> object_loader.Image:
        joined, starts = object_loader.joined(self._images)
        assert starts == list(self._starts.values())
        return joined


class _Data:
    """Arrays copied into one block; those that share memory share it there."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        extents = sorted({(address_of(a), address_of(a) + _extent(a)) for a in arrays})
        self._runs: list[tuple[int, int, int]] = []  # begin and end of memory, and its place in the block
        at, k = 0, 0
        while k < len(extents):
            begin, end = extents[k]
            k += 1
            while k < len(extents) and extents[k][0] < end:
                end, k = max(end, extents[k][1]), k + 1
            at = -(-at // LINE_BYTES) * LINE_BYTES + begin % LINE_BYTES
            self._runs.append((begin, end, at))
            at += end - begin
        self.block: Array = np.zeros(at + LINE_BYTES, np.uint8)
        for begin, end, place in self._runs:
            ctypes.memmove(address_of(self.block) + place, begin, end - begin)
        self._begins = np.array([run[0] for run in self._runs], np.int64)

    def offset(self, array: Array) -> int:
        begin, _, place = self._runs[int(np.searchsorted(self._begins, address_of(array), "right")) - 1]
        return int(address_of(array)) - begin + place


def _extent(array: Array) -> int:
    """Bytes from the first element to the end of the last."""
    if min(array.strides, default=0) < 0:
        raise NotStorableError("an array lies backwards")
    if not array.size:
        return 1
    return int(sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True))) + array.itemsize


def _pairs(rows: Sequence[tuple[int, int]]) -> Array:
    return np.array(rows, np.int64).reshape(-1, 2)


def _words(rows: Sequence[tuple[int, int]]) -> Array:
    return np.array([word for word, _ in rows], np.int64)


def _points_into_memory(array: Array) -> bool:
    """Whether a 64-bit word of a table is an address of this process's memory."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    likely = np.unique(words[(words >= LEAST_ADDRESS) & (words < 1 << 47)])
    if not likely.size:
        return False
    with open("/proc/self/maps") as file:
        ranges = [tuple(int(end, 16) for end in line.split(" ", 1)[0].split("-")) for line in file]
    return any(bool(((likely >= begin) & (likely < end)).any()) for begin, end in ranges if end < 1 << 47)


# ------------------------------------------------------------------------------------------------------------- reading


def restored(said: Mapping[str, Any], arrays: Mapping[str, Array], memories: Sequence[int]) -> list[ReplaySteps]:
    """The steps, in fresh pages of code. memories: the sizes of a call's memories, by number.

    Raises: ValueError, KeyError, TypeError or OSError for what is not as `stored` gives it, or cannot be had in this process.
    """
    absolute = [(int(at), int(offset)) for at, offset in _checked(arrays["absolute"], 2)]
    jumps = [(int(at), str(name)) for at, name in said["jumps"]]
    code, data = arrays["code"], arrays["data"]
    image = object_loader.Image(code.tobytes(), tuple(absolute), tuple(jumps), {})
    pages = object_loader.place(image) if object_loader.supported() else None
    if pages is None:
        raise ValueError("the code cannot be linked here")
    base = ctypes.addressof(ctypes.c_char.from_buffer(pages.memory))
    replay = _within(np.array([said["replay"]], np.int64), code.size, "a function")
    found = []
    for k in range(int(said["items"])):
        vectors, steps = _checked(arrays[f"vectors{k}"], 0).copy(), _checked(arrays[f"steps{k}"], 4).copy()
        patches = _checked(arrays[f"patches{k}"], 3)
        in_code = _within(_checked(arrays[f"in_code{k}"], 0), vectors.size, "a word")
        in_data = _within(_checked(arrays[f"in_data{k}"], 0), vectors.size, "a word")
        vectors[in_code] = _within(vectors[in_code], code.size, "a function") + base
        vectors[in_data] = _within(vectors[in_data], data.size, "an array") + address_of(data)
        steps[:, 0] = _within(steps[:, 0], code.size, "a function") + base
        _within(steps[:, 1], vectors.size + 1, "a vector")
        _within(steps[:, 2:], 1 << 31, "a number of tasks")
        _within(patches[:, 0], vectors.size, "a word")
        numbers = _within(patches[:, 1], len(memories), "a memory")
        _within(patches[:, 2], np.array(memories, np.int64)[numbers] + 1, "a place")
        tables = Tables(vectors, patches, steps, (), ())
        found.append(ReplaySteps(tables, base + int(replay[0]), (pages.memory, data, code)))
    return found


def _checked(array: Array, columns: int) -> Array:
    """An array of 64-bit integers, or rows of so many."""
    if array.dtype != np.int64 or array.shape[1:] != ((columns,) if columns else ()):
        raise ValueError(f"a table has the wrong kind: {array.dtype} {array.shape}")
    return array


def _within(values: Array, size: Any, what: str) -> Array:
    if values.size and not (values.min() >= 0 and (values < size).all()):
        raise ValueError(f"{what} lies outside")
    return values
