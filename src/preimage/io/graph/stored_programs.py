"""Programs on disk: the first run of a model in a process is the program that an earlier process recorded.

    store = ProgramStore(origin)             # origin: in words, all that decides what the graph computes
    program = store.find(key, feeds)         # None: not there
    store.keep(key, feeds, program)

Definition: plain data, JSON and arrays (`packed`), in the folder of compiled kernels and under its rules (`engines/disk_cache.py`): whole files of
this user with a matching checksum, written atomically, the ones used longest ago removed first. A file is found by everything that decides what is in
it: the model (its digest) and how it was read, the shapes and places of the inputs, the settings, this package's source, the compiler and the CPU
(`circumstances` of the engine). What is in it: where every value lies (`Layout`), the steps with their code and their constants
(`engines/jit/runtime/stored_steps.py`), and the nodes that stayed functions (`stored_functions.py`). Programs with functions or kernels that cannot
be stored are not: such graphs run as without a store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from preimage.engines import disk_cache, step_store
from preimage.engines.recording import Guard, Place
from preimage.io.graph.program import WORKSPACE, Function, Layout, Program
from preimage.io.graph.stored_functions import function_of, said_of

__all__ = ["ProgramStore", "packed", "unpacked"]

FORMAT = "2"
#: Programs of one model that a process writes: shapes that change all the time must not fill the disk.
MOST_WRITTEN = 4
#: The part of the cache's limit that one program may take.
SHARE = 4
LINE_BYTES = 64
_LENGTH_BYTES = 8


class ProgramStore:
    """The stored programs of one graph."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.written = 0
        self.why: str | None = None  #: why the latest program was not stored

    def _key(self, kind: str, key: str) -> str | None:
        """The name of a file; None where nothing is stored now."""
        steps = step_store()
        if steps is None or disk_cache.folder()[0] is None:
            return None
        around = steps.circumstances()
        if around is None:
            return None
        return disk_cache.lined(disk_cache.key(kind=kind, format=FORMAT, origin=self.origin, run=key, around=around))

    def said(self, key: str) -> Any:
        """What was noted under a key, as JSON has it; None where nothing was."""
        full = self._key("note", key)
        found = None if full is None else disk_cache.read(full)
        try:
            return None if found is None else json.loads(found)
        except ValueError:
            return None

    def note(self, key: str, said: Any) -> None:
        """Note something that JSON can hold under a key."""
        full = self._key("note", key)
        if full is not None:
            disk_cache.write(full, json.dumps(said).encode())

    def find(self, key: str, feeds: Mapping[str, Any]) -> Program | None:
        """The program stored under a key, for inputs like these; None where there is none, or where it is not whole."""
        full = self._key("program", key)
        found = None if full is None else disk_cache.read_block(full)
        if found is None:
            return None
        try:
            said, arrays = unpacked(found)
            sizes = [int(size) for size in said["layout"]["sizes"]]
            functions = [function_of(each, k, arrays, lambda at: _place(at, sizes)) for k, each in enumerate(said["functions"])]
            made = [place for function in functions for _, place in function.results]
            layout = _layout(said["layout"], sizes, arrays, {name: _extent(value) for name, value in feeds.items()}, made)
            stretches = iter(step_store().restored(said["steps"], arrays, sizes))  # type: ignore[union-attr]
            return Program(layout, [next(stretches) if k is None else functions[k] for k in said["items"]])
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, OSError, ImportError, StopIteration):
            return None

    def keep(self, key: str, feeds: Mapping[str, Any], program: Program) -> bool:
        """Write a program down, if it can be; whether it was."""
        steps = step_store()
        full = self._key("program", key)
        if steps is None or full is None or self.written >= MOST_WRITTEN:
            return False
        functions = [item for item in program.items if isinstance(item, Function)]
        try:
            said_of_steps, arrays = steps.stored([item for item in program.items if not isinstance(item, Function)])
            said = _said_of_layout(program.layout, feeds, functions, arrays)
            nodes = [said_of(function, k, arrays, _said_of_place) for k, function in enumerate(functions)]
            numbers = iter(range(len(functions)))
            items = [next(numbers) if isinstance(item, Function) else None for item in program.items]
            pieces = packed({"layout": said, "steps": said_of_steps, "functions": nodes, "items": items}, arrays)
        except (steps.NotStorableError, ValueError) as error:
            self.why = str(error)
            return False
        if sum(map(len, pieces)) > disk_cache.limit_bytes() // SHARE:
            self.why = f"it takes more than a {SHARE}th of what the cache may hold"
            return False
        self.written += 1
        return disk_cache.write(full, *pieces)


def _said_of_layout(
    layout: Layout, feeds: Mapping[str, Any], functions: Sequence[Function], arrays: dict[str, Any]
) -> dict[str, Any]:
    """A layout as JSON has it; its arrays go to `arrays`."""
    sizes = [layout.planned, *[0] * layout.outer]
    for name, number in layout.given:
        sizes[number] = _extent(feeds[name])
    for number, size in layout.own:
        sizes[number] = size
    for place in (place for function in functions for _, place in function.results):
        sizes[place.memory] = _reach(place)
    for k, (_, value) in enumerate(layout.static):
        arrays[f"static{k}"] = np.asarray(value)
    return {
        "sizes": sizes, "given": layout.given, "own": [number for number, _ in layout.own],
        "results": [(key, _said_of_place(place)) for key, place in layout.results],
        "guards": [(_said_of_place(guard.place), guard.within) for guard in layout.guards],
        "static": [key for key, _ in layout.static],
    }  # fmt: skip


def _said_of_place(place: Place) -> list[Any]:
    if np.dtype(place.dtype.str) != place.dtype:
        raise ValueError(f"a value has the type {place.dtype}")
    return [place.memory, place.offset, list(place.shape), list(place.strides), place.dtype.str]


def _layout(
    said: Mapping[str, Any], sizes: Sequence[int], arrays: Mapping[str, Any], extents: Mapping[str, int], made: Sequence[Place]
) -> Layout:
    """made: the places that functions fill."""
    given = tuple([(str(name), int(number)) for name, number in said["given"]])
    if min(sizes) < 0 or {name: sizes[number] for name, number in given} != extents:
        raise ValueError("the inputs are others")
    own = tuple([(int(number), sizes[number]) for number in said["own"]])
    numbers = [number for _, number in given] + [number for number, _ in own] + [place.memory for place in made]
    if any(place.offset or sizes[place.memory] != _reach(place) for place in made):
        raise ValueError("a function's value is no memory of its own")
    if sorted(numbers) != list(range(WORKSPACE + 1, len(sizes))):
        raise ValueError("a memory is missing")
    results = tuple([(str(key), _place(place, sizes)) for key, place in said["results"]])
    guards = tuple([Guard(_place(place, sizes), None if w is None else (int(w[0]), int(w[1]))) for place, w in said["guards"]])
    static = tuple([(str(key), arrays[f"static{k}"]) for k, key in enumerate(said["static"])])
    return Layout(sizes[WORKSPACE], len(sizes) - 1, given, own, results, guards, static)


def _place(said: Sequence[Any], sizes: Sequence[int]) -> Place:
    memory, offset, dtype = int(said[0]), int(said[1]), np.dtype(str(said[4]))
    shape, strides = tuple(map(int, said[2])), tuple(map(int, said[3]))
    if dtype.hasobject or memory < 0 or offset < 0 or min(shape, default=0) < 0 or min(strides, default=0) < 0:
        raise ValueError("a place is none")
    found = Place(memory, offset, shape, strides, dtype)
    if _reach(found) > sizes[memory]:
        raise ValueError("a place lies outside its memory")
    return found


def _reach(place: Place) -> int:
    """Bytes from the beginning of a place's memory to its end."""
    return place.offset + _bytes_of(place.shape, place.strides, place.dtype.itemsize)


def _extent(array: Any) -> int:
    """Bytes from the first element to the end of the last."""
    return _bytes_of(array.shape, array.strides, array.itemsize)


def _bytes_of(shape: Sequence[int], strides: Sequence[int], item: int) -> int:
    return item + sum([(n - 1) * s for n, s in zip(shape, strides, strict=True)]) if prod(shape) else 0


# ---------------------------------------------------------------------------------------------------- arrays as bytes


def packed(said: Any, arrays: Mapping[str, Any]) -> list[bytes | memoryview]:
    """What JSON can hold and arrays, as pieces of one block: eight bytes of length, JSON, and the arrays, each from a cache line on.

    Raises: ValueError for an array whose type has no name that NumPy reads.
    """
    pieces: list[bytes | memoryview] = []
    rows, at = [], 0
    for name, array in arrays.items():
        if np.dtype(array.dtype.str) != array.dtype or array.dtype.hasobject:
            raise ValueError(f"array {name!r} has the type {array.dtype}")
        rows.append((name, array.dtype.str, array.shape, at))
        flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        contents = memoryview(flat)
        gap = -len(contents) % LINE_BYTES
        pieces += [contents, bytes(gap)]
        at += len(contents) + gap
    head = json.dumps({"said": said, "arrays": rows}).encode()
    head += b" " * (-(_LENGTH_BYTES + len(head)) % LINE_BYTES)
    return [len(head).to_bytes(_LENGTH_BYTES, "little") + head, *pieces]


def unpacked(block: memoryview) -> tuple[Any, dict[str, Any]]:
    """What `packed` wrote; arrays are views of the block. Raises: ValueError, KeyError or TypeError for what is not so."""
    length = int.from_bytes(block[:_LENGTH_BYTES], "little")
    found = json.loads(bytes(block[_LENGTH_BYTES : _LENGTH_BYTES + length]))
    begin = _LENGTH_BYTES + length
    arrays = {}
    for name, kind, shape, at in found["arrays"]:
        dtype, sizes = np.dtype(str(kind)), tuple(map(int, shape))
        if dtype.hasobject or at < 0 or min(sizes, default=0) < 0:
            raise ValueError(f"array {name!r} is none")
        count = prod(sizes)
        arrays[str(name)] = (
            np.frombuffer(block, dtype, count, begin + int(at)).reshape(sizes) if count else np.empty(sizes, dtype)
        )
    return found["said"], arrays
