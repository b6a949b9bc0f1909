"""The floating-point mode of the calling thread: what is computed here rounds to nearest and keeps denormal numbers, whatever it is set to.

A library built with -ffast-math sets flush-to-zero in the thread that loads it; `torch.set_flush_denormal` and C's `fesetround` do so
when asked. Generated kernels set the standard mode themselves (engines/ir/floating_point.py); what NumPy computes in between follows
the thread. So operations look first whether the mode is another one, which takes five operations on Python's floats:

    if is_changed():
        with standard():
            return operation(...)
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from preimage.errors import EngineError

__all__ = ["HALF", "LEAST", "MOST", "SMALL", "in_standard_mode", "is_changed", "standard"]

#: The least normal number, the inverse of half of it, and what is lost beside 1.
LEAST, HALF, MOST, SMALL = 2.0**-1022, 0.5, 2.0**1023, 2.0**-60

F = TypeVar("F", bound=Callable[..., Any])


def is_changed() -> bool:
    """Whether this thread flushes denormal numbers, or rounds in another way than to nearest."""
    one = LEAST * HALF * MOST  # 0 where the denormal number between is flushed, as it is made or as it is read
    return one + SMALL != one - SMALL


@functools.cache
def _functions() -> tuple[Any, Any, ctypes.c_void_p]:
    """C's fegetenv and fesetenv, and the environment that a program begins with (FE_DFL_ENV)."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "fesetenv"):
        from ctypes.util import find_library  # which imports subprocess and much else

        library = ctypes.CDLL(find_library("m"))
    if sys.platform == "darwin":
        return library.fegetenv, library.fesetenv, ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV")))
    return library.fegetenv, library.fesetenv, ctypes.c_void_p(-1)


@contextmanager
def standard() -> Iterator[None]:
    """The block runs in the standard mode; afterwards the thread has its own again.

    Raises: EngineError where the C library leaves the mode as it is.
    """
    get, set_, default = _functions()
    own = ctypes.create_string_buffer(256)
    get(own)
    set_(default)
    try:
        if is_changed():
            raise EngineError(
                "this thread flushes denormal numbers or does not round to nearest, and C's fesetenv changes nothing about it;"
                " set the standard mode before the call"
            )
        yield
    finally:
        set_(own)


def in_standard_mode(function: F) -> F:
    """The function, run in the standard mode."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_changed():
            with standard():
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]
