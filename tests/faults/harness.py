"""Faults on purpose: the n-th use of a door fails, and other calls come in the middle of a call.

    for fault in every(lambda n: failing(os, "replace", n, OSError(...))):     # n = 1, 2, ... until the fault was not met
        with fault: ...

    with interrupted(call, opcodes=True): ...                                  # call() at every step of Python in the block

No door is in the package: tests replace what it calls.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

import preimage as pre
from preimage.engines import get
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.elementwise import chain, kept
from preimage.engines.jit.runtime import pool

MOST_FAULTS = 3000


class Door:
    """Counts how often a door is used, and makes its n-th use fail; with `lasting`, every later one too."""

    def __init__(self, n: int, lasting: bool = False) -> None:
        self.n, self.lasting, self.uses = n, lasting, 0

    @property
    def met(self) -> bool:
        return self.uses >= self.n

    def fails_now(self) -> bool:
        self.uses += 1
        return self.uses == self.n or (self.lasting and self.uses > self.n)


@contextmanager
def failing(
    owner: Any, name: str, n: int, error: BaseException | None = None, *, lasting: bool = False, gives: Any = None
) -> Iterator[Door]:
    """The n-th call of owner.name raises the error, or gives a value instead of running."""
    real, door = getattr(owner, name), Door(n, lasting)

    def instead(*args: Any, **kwargs: Any) -> Any:
        if not door.fails_now():
            return real(*args, **kwargs)
        if error is not None:
            raise error
        return gives

    setattr(owner, name, instead)
    try:
        yield door
    finally:
        setattr(owner, name, real)


def every(fault: Callable[[int], Any], run: Callable[[], Any], allowed: tuple[type[BaseException], ...]) -> int:
    """run() with the n-th fault, for every n until run() meets none any more; it may raise what is allowed. Returns how many."""
    for n in range(1, MOST_FAULTS):
        with fault(n) as door:
            try:
                run()
            except allowed as error:
                if not door.met:
                    raise AssertionError(f"fault {n} was not met, and yet there was an error") from error
            if not door.met:
                return n - 1
    raise AssertionError(f"{MOST_FAULTS} faults, and no end")


def forget() -> None:
    """As in a new process: no program, no kernel, no chain is in memory."""
    engine: Any = get("jit")
    engine.forget()
    chain._ready.clear()
    kept._kept.clear()
    kernels.forget()


def forget_pool() -> None:
    """As in a new process: no worker has been started. (The workers of the pool that there is wait for ever.)"""
    pool._pool = None
    pool._here.value = 0


# ------------------------------------------------------------------------------------------------- calls in the middle


@contextmanager
def interrupted(
    call: Callable[[], None], *, opcodes: bool = False, every: int = 1, only: int | None = None
) -> Iterator[list[int]]:
    """call() before every line (or opcode) that Python runs in the block, or every so many, or before the one of that number alone.

    A signal handler, a finaliser and a trace function run between two opcodes; this is all of those places. The list that is given
    holds how many there were.
    """
    count = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes = opcodes
        if event in ("opcode", "line"):
            if count[0] == only or (only is None and count[0] % every == 0):
                call()
            count[0] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


# ----------------------------------------------------------------------------------------------- NumPy's own allocator

_ALLOCATOR = """
declare ptr @malloc(i64)
declare ptr @calloc(i64, i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)

; state: uses until one fails, whether later ones fail too, how many failed, live blocks
define internal i1 @fails(ptr %state) {
  %n = load i64, ptr %state
  %n.1 = sub i64 %n, 1
  store i64 %n.1, ptr %state
  %now = icmp eq i64 %n.1, 0
  %lasting.p = getelementptr i64, ptr %state, i64 1
  %lasting = load i64, ptr %lasting.p
  %lasts = icmp ne i64 %lasting, 0
  %past = icmp slt i64 %n.1, 0
  %later = and i1 %lasts, %past
  %fail = or i1 %now, %later
  %failed.p = getelementptr i64, ptr %state, i64 2
  %failed = load i64, ptr %failed.p
  %one = zext i1 %fail to i64
  %failed.1 = add i64 %failed, %one
  store i64 %failed.1, ptr %failed.p
  ret i1 %fail
}
define internal void @live(ptr %state, i64 %change) {
  %p = getelementptr i64, ptr %state, i64 3
  %old = atomicrmw add ptr %p, i64 %change monotonic
  ret void
}
define ptr @fault_malloc(ptr %state, i64 %size) {
  %fail = call i1 @fails(ptr %state)
  br i1 %fail, label %no, label %yes
yes:
  call void @live(ptr %state, i64 1)
  %made = call ptr @malloc(i64 %size)
  ret ptr %made
no:
  ret ptr null
}
define ptr @fault_calloc(ptr %state, i64 %count, i64 %size) {
  %fail = call i1 @fails(ptr %state)
  br i1 %fail, label %no, label %yes
yes:
  call void @live(ptr %state, i64 1)
  %made = call ptr @calloc(i64 %count, i64 %size)
  ret ptr %made
no:
  ret ptr null
}
define ptr @fault_realloc(ptr %state, ptr %old, i64 %size) {
  %fail = call i1 @fails(ptr %state)
  br i1 %fail, label %no, label %yes
yes:
  %made = call ptr @realloc(ptr %old, i64 %size)
  ret ptr %made
no:
  ret ptr null
}
define void @fault_free(ptr %state, ptr %memory, i64 %size) {
  call void @live(ptr %state, i64 -1)
  call void @free(ptr %memory)
  ret void
}
"""


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's C interface (NEP 49)."""

    _fields_ = (
        ("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("state", ctypes.c_void_p), ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p), ("realloc", ctypes.c_void_p), ("free", ctypes.c_void_p),
    )  # fmt: skip


class Allocator:
    """NumPy's allocations in this thread, counted, of which the n-th fails."""

    def __init__(self) -> None:
        code = kernels.load_all(
            [kernels.wanted_module(_ALLOCATOR, ("fault_malloc", "fault_calloc", "fault_realloc", "fault_free"), "allocator")]
        )[0]
        self._code = code
        self.state = (ctypes.c_int64 * 4)()
        addresses = [int(code[name]) for name in code]
        self._handler = _Handler(b"faults", 1, ctypes.addressof(self.state), *addresses)
        api = ctypes.pythonapi
        api.PyCapsule_New.restype, api.PyCapsule_New.argtypes = (
            ctypes.py_object,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
        )
        api.PyCapsule_GetPointer.restype, api.PyCapsule_GetPointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        self._capsule = api.PyCapsule_New(ctypes.addressof(self._handler), b"mem_handler", None)
        table = api.PyCapsule_GetPointer(np._core._multiarray_umath._ARRAY_API, None)
        set_handler = ctypes.c_void_p.from_address(table + 304 * ctypes.sizeof(ctypes.c_void_p)).value
        self._set = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(set_handler)

    @property
    def live(self) -> int:
        """Blocks that were taken inside the blocks of `failing` and are not freed yet."""
        return self.state[3]

    @property
    def met(self) -> bool:
        return self.state[2] > 0

    @contextmanager
    def failing(self, n: int, lasting: bool = False) -> Iterator[Allocator]:
        self.state[0], self.state[1], self.state[2] = n, lasting, 0
        before = self._set(self._capsule)
        try:
            yield self
        finally:
            self._set(before)
            self.state[1], self.state[0] = 0, -1


@cache
def allocator() -> Allocator:
    """The only one: arrays that it made may live until the process ends."""
    return Allocator()


def collected() -> int:
    """Live blocks once all that can be freed is."""
    gc.collect()
    pre.engines()  # leaves no frame of the last failure behind
    return allocator().live
