"""Memory that ends where an array ends: pages that fault on either side, and fresh memory full of NaN.

`placed(a, "end")` is a copy of `a` whose last byte is the last of its page and whose next page must not be touched;
"start" puts the inaccessible page right before it. `guarded_allocations(side)` makes every array that NumPy allocates inside
the block such a piece of memory, filled with 0xFF (NaN in every float dtype), so that outputs and workspaces are guarded too
and what is read before it is written shows. Both are for a process that may die: the audit runs them in a child.

POSIX only. The allocator is set through NumPy's C interface (NEP 49, PyDataMem_SetHandler), by ctypes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["available", "guarded_allocations", "placed"]

_PAGE = mmap.PAGESIZE
_NONE, _READ_WRITE, _FIXED = 0, 3, 0x10
_ANONYMOUS = (getattr(mmap, "MAP_PRIVATE", 2) | getattr(mmap, "MAP_ANONYMOUS", 0x20)) | getattr(mmap, "MAP_NORESERVE", 0)
_RESERVED = 1 << 28  # bytes of address space, not of memory

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
_mmap: Any = _libc and _libc.mmap
_mprotect: Any = _libc and _libc.mprotect
if _libc is not None:
    _mmap.restype = ctypes.c_void_p
    _mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
    _mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def available() -> str | None:
    """None, or why guard pages cannot be had here."""
    if _libc is None:
        return "guard pages need a POSIX system"
    return None


class _Block:
    """Memory between two pages that fault. Address space is taken in large pieces, none of it twice: an access to what was
    freed long ago faults as well, and taking or freeing a block is one call of the system.
    """

    _next = _end = 0

    def __init__(self, size: int, side: str) -> None:
        self.length = max(1, -(-size // _PAGE)) * _PAGE
        kind = _Block
        if kind._next + self.length + _PAGE > kind._end:
            reserved = max(_RESERVED, self.length + 2 * _PAGE)
            kind._next = _map(None, reserved, _NONE, 0) + _PAGE
            kind._end = kind._next - _PAGE + reserved
        self.base = kind._next
        kind._next += self.length + _PAGE
        if _mprotect(self.base, self.length, _READ_WRITE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        self.address = self.base + self.length - size if side == "end" else self.base

    def lock(self) -> None:
        """Make all of it inaccessible, and give its memory back."""
        _map(self.base, self.length, _NONE, _FIXED)


def _map(address: int | None, length: int, access: int, flags: int) -> int:
    found: int | None = _mmap(address, length, access, _ANONYMOUS | flags, -1, 0)
    if found is None or found == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return found


def placed(a: NDArray[Any], side: str) -> NDArray[Any]:
    """A copy of `a`, in C order or channels-last as `a` is, flush against the page that faults; read-only."""
    order = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    block = _Block(a.nbytes, side)
    buffer: Any = (ctypes.c_char * a.nbytes).from_address(block.address)
    flat = np.frombuffer(buffer, np.uint8, count=a.nbytes) if a.nbytes else np.empty(0, np.uint8)
    memory = flat.view(a.dtype).reshape([a.shape[axis] for axis in order])
    result = memory.transpose(np.argsort(order)) if a.ndim else memory
    flags = result.flags
    result[...] = a
    flags.writeable = False
    _alive[id(result)] = block
    return result


_alive: dict[int, _Block] = {}


def release() -> None:
    """Forget the blocks of `placed`; their arrays must be gone."""
    for block in _alive.values():
        block.lock()
    _alive.clear()


# -- NumPy's allocator -------------------------------------------------------------------------------------------------

_MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Allocator(ctypes.Structure):
    _fields_ = (("ctx", ctypes.c_void_p), ("malloc", _MALLOC), ("calloc", _CALLOC), ("realloc", _REALLOC), ("free", _FREE))


class _Handler(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("allocator", _Allocator))


class _Heap:
    """The four functions of a NumPy allocator over guarded blocks."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.blocks: dict[int, tuple[_Block, int]] = {}
        self.allocator = _Allocator(None, _MALLOC(self.malloc), _CALLOC(self.calloc), _REALLOC(self.realloc), _FREE(self.free))
        self.handler = _Handler(b"preimage_audit_guard", 1, self.allocator)
        ctypes.pythonapi.Py_IncRef(
            ctypes.py_object(self)
        )  # at interpreter exit arrays made under it may be freed after the module

    def _new(self, size: int, fill: int) -> int:
        block = _Block(max(size, 1), self.side)
        self.blocks[block.address] = (block, size)
        if fill:
            ctypes.memset(block.address, fill, size)
        return block.address

    def malloc(self, ctx: int, size: int) -> int:
        del ctx
        return self._new(size, 0xFF)

    def calloc(self, ctx: int, count: int, size: int) -> int:
        del ctx
        return self._new(count * size, 0)

    def realloc(self, ctx: int, old: int | None, size: int) -> int:
        address = self._new(size, 0xFF)
        if old:
            ctypes.memmove(address, old, min(size, self.blocks[old][1]))
            self.free(ctx, old, 0)
        return address

    def free(self, ctx: int, address: int | None, size: int) -> None:
        del ctx, size
        if not address:
            return
        block, _ = self.blocks.pop(address)
        block.lock()


# prototypes of our own: those of `ctypes.pythonapi` are shared by all of a process
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_heaps: dict[str, _Heap] = {}  # handlers live as long as the process: arrays made under them may


def _numpy_function(index: int, result: Any, *arguments: Any) -> Any:
    """A function of NumPy's C interface by its place in the table, which is part of its ABI."""
    umath: Any = import_module("numpy._core._multiarray_umath" if np.__version__ >= "2" else "numpy.core._multiarray_umath")

    table = ctypes.cast(_capsule_pointer(umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    return ctypes.PYFUNCTYPE(result, *arguments)(table[index])


_SET_HANDLER = 304


@contextmanager
def guarded_allocations(side: str) -> Iterator[None]:
    """Every array that NumPy allocates in this thread inside the block is guarded on `side` and starts as NaN."""
    heap = _heaps.setdefault(side, _Heap(side))
    capsule = _new_capsule(ctypes.addressof(heap.handler), b"mem_handler", None)
    set_handler = _numpy_function(_SET_HANDLER, ctypes.py_object, ctypes.py_object)
    before = set_handler(capsule)
    try:
        yield
    finally:
        set_handler(before)
