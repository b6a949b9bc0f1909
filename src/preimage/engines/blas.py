"""How many threads NumPy's BLAS uses: the one thing of it that NumPy itself does not let one set.

The wheels of NumPy carry OpenBLAS as a shared library of their own, whose functions `..._set_num_threads` and
`..._get_num_threads` are reached by ctypes. Where NumPy was built on another BLAS nothing is found, and the number stays what
the environment (OMP_NUM_THREADS and the like) made it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from preimage.settings import thread_count

__all__ = ["blas_thread_control", "blas_thread_count", "blas_threads"]

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
    control[1](threads)
    try:
        yield
    finally:
        control[1](before)
