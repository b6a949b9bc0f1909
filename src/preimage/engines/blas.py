"""What NumPy does not do about its BLAS: set how many threads it uses, and keep forks away from it.

The wheels of NumPy carry OpenBLAS as a shared library of their own, whose functions `..._set_num_threads` and
`..._get_num_threads` are reached by ctypes. Where NumPy was built on another BLAS nothing is found, and the number stays what
the environment (OMP_NUM_THREADS and the like) made it.

OpenBLAS stops its threads before a fork and starts new ones after it. If another Python thread is in the middle of a product then,
the child finds locks taken that nobody will release, and hangs in its first product. So a fork waits until no thread is in one of
ours (`multiply`), and none begins meanwhile. That costs a product nothing: the fork looks where the other threads are.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.locks import LOCK, hold_over_fork
from preimage.settings import thread_count

__all__ = ["blas_thread_control", "blas_thread_count", "blas_threads", "multiply"]

_PREFIXES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")
#: Below this much work BLAS does not share it out anyway, and setting the number would cost more than it gives.
SMALL_FLOP = 4_000_000

Control = tuple[Callable[[], int], Callable[[int], None]]


@lru_cache(maxsize=1)
def blas_thread_control() -> Control | None:
    """(get, set) of the number of threads of the OpenBLAS that NumPy loaded; None where there is none to be found."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs")
    for path in sorted(p for folder in folders if folder.is_dir() for p in folder.glob("*openblas*")):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for prefix in _PREFIXES:
            get = getattr(library, prefix.format("get_num_threads"), None)
            put = getattr(library, prefix.format("set_num_threads"), None)
            if get is not None and put is not None:
                get.restype, get.argtypes, put.restype, put.argtypes = ctypes.c_int, [], None, [ctypes.c_int]
                return get, put
    return None


def blas_thread_count(threads: int) -> int:
    """How many threads products run on where the setting is `threads`: 0 means as many as BLAS takes by itself."""
    if threads:
        return threads
    control = blas_thread_control()
    return control[0]() if control is not None else thread_count()


@contextmanager
def blas_threads(threads: int, work_flop: int) -> Iterator[None]:
    """Let BLAS use `threads` threads inside the block; 0 leaves it as it is (all CPUs, or what the environment says).

    The number belongs to the process: of calls at the same time, the last to set it decides.
    """
    control = blas_thread_control() if threads and work_flop >= SMALL_FLOP else None
    before = control[0]() if control is not None else threads
    if control is None or before == threads:
        yield
        return
    mine = (threading.get_ident(), before)
    try:
        _changed.append(mine)
        _set_threads(control, threads)
        yield
    finally:
        _set_threads(control, before)
        if mine in _changed:
            _changed.remove(mine)


#: (thread, number before) of the blocks of `blas_threads` that change the number now.
_changed: list[tuple[int, int]] = []


def _set_threads(control: Control, threads: int) -> None:
    while not _set(control, threads):
        with LOCK:  # until the fork is over
            pass


def multiply(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """np.matmul, which no fork meets in the middle."""
    while True:
        result = _product(a, b, out)
        if result is not None:
            return result
        with LOCK:  # until the fork is over
            pass


# ---------------------------------------------------------------------------------------------------------------- fork

_forker = 0  # the thread that is about to fork


def _product(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any] | None:
    return np.matmul(a, b, out=out) if _forker in (0, threading.get_ident()) else None


def _set(control: Control, threads: int) -> bool:
    if _forker in (0, threading.get_ident()):
        control[1](threads)
        return True
    return False


_IN_BLAS = (_product.__code__, _set.__code__)


def _frames() -> dict[int, FrameType]:
    """The frame that each thread is in, with the garbage collector held off: CPython 3.11 keeps its list of threads locked meanwhile, and
    objects that are collected then (a `threading.local`, a thread) may wait for that lock for ever.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if collects:
            gc.enable()


def _others_in_blas() -> bool:
    """Whether any other thread is inside, or about to be."""
    me = threading.get_ident()
    for thread, top in _frames().items():
        frame = top if thread != me else None
        while frame is not None:
            if frame.f_code in _IN_BLAS:
                return True
            frame = frame.f_back
    return False


class _NoProduct:
    """A block in which no other thread is in BLAS for us. It is entered under LOCK."""

    def __enter__(self) -> None:
        global _forker
        _forker = threading.get_ident()
        while _others_in_blas():
            time.sleep(0.0005)

    def __exit__(self, *_: object) -> None:
        global _forker
        _forker = 0


def _after_in_child() -> None:
    """The number of threads is what it was before other threads, which are not here, changed it for a while."""
    me = threading.get_ident()
    others = [before for thread, before in _changed if thread != me]
    control = blas_thread_control() if others else None
    if control is not None and len(others) == len(_changed):
        control[1](others[0])
    _changed[:] = [entry for entry in _changed if entry[0] == me]


if hasattr(sys, "_current_frames"):
    hold_over_fork(_NoProduct)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)
