"""The one lock of the package, and imports that happen on first use.

    with LOCK:                             # whatever is made once for the process: an engine, code, a pool of threads
        ...
    module = import_later("preimage.nn")   # as importlib.import_module
    module = import_apart("preimage.engines.jit.engine")   # the same, in a thread of its own

A fork copies one thread. What another thread was about to change stays half-changed in the child for ever: a lock that is held, a
module that is half imported. So whatever is made once is made under LOCK, and the fork waits until it has the lock itself. There is
one lock, for with several a fork could wait for one while its owner waits for another.

It may be taken again by the thread that has it: a signal handler, a finaliser or a trace function may call the library in the middle
of a locked section. So a section must be right with itself inside: it takes and stores in single steps (`dict.get`, `list.pop`).
A half imported module is the one thing that such a call could not do with. So an engine is imported by a thread of its own, in
which no handler, no finaliser and no trace function runs; whoever needs it waits.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["LOCK", "hold_over_fork", "import_apart", "import_later"]

LOCK = threading.RLock()
#: How long a thread may take to begin: one that finds no memory to begin with never does.
BEGIN_S = 10.0

_importers: set[int] = set()  # the threads of import_apart


def _imported(name: str) -> ModuleType | None:
    """The module, if all of it is there."""
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def import_later(name: str) -> ModuleType:
    """A module, imported now if it was not; no fork happens meanwhile, and so a child finds all of it."""
    if _thread.get_ident() in _importers:
        return import_module(name)
    found = _imported(name)
    if found is None:
        with LOCK:
            found = import_module(name)
    return found


def import_apart(name: str) -> ModuleType:
    """The same by another thread, so that a call from a signal handler, a finaliser or a trace function finds all of it too."""
    found = _imported(name)
    if found is not None:
        return found
    with LOCK:
        found = None if _thread.get_ident() in _importers else _import_apart(name)
    return found or import_module(name)


def _import_apart(name: str) -> ModuleType | None:
    """The module; None where no thread could be had for it."""
    begun, done = _thread.allocate_lock(), _thread.allocate_lock()
    done.acquire()
    result: list[Any] = []

    def work() -> None:
        if not begun.acquire(False):
            return  # too late: nobody waits any more
        collects = gc.isenabled()
        gc.disable()  # no finaliser runs in here
        _importers.add(_thread.get_ident())
        try:
            result.append(import_module(name))
        except BaseException as error:  # raised by who waits
            result.append(error)
        finally:
            _importers.discard(_thread.get_ident())
            if collects:
                gc.enable()
            done.release()

    try:
        _thread.start_new_thread(work, ())
    except (RuntimeError, MemoryError):
        return None
    raised: BaseException | None = None
    waiting = True
    while waiting:
        try:
            waiting = not done.acquire(timeout=BEGIN_S) and not begun.acquire(False)
        except BaseException as error:  # a signal handler's: nobody may import once LOCK is given back
            raised = error
    if raised is not None:
        raise raised
    if result and isinstance(result[0], BaseException):
        raise result[0]
    return result[0] if result else None


# ---------------------------------------------------------------------------------------------------------------- fork

_inner: list[Callable[[], AbstractContextManager[Any] | None]] = []
_held: list[list[AbstractContextManager[Any]]] = []  # by the forks that are under way: a signal handler may fork inside a fork


def hold_over_fork(lock: Callable[[], AbstractContextManager[Any] | None]) -> None:
    """Have every fork enter lock() too, if there is one; after LOCK, as everybody else does who enters it under LOCK."""
    _inner.append(lock)


def _before_fork() -> None:
    LOCK.acquire()
    held: list[AbstractContextManager[Any]] = []
    for lock in tuple(_inner):  # read under LOCK: who is about to register is done
        found = lock()
        if found is not None:
            found.__enter__()
            held.append(found)
    _held.append(held)


def _after_fork() -> None:
    for held in reversed(_held.pop()):
        held.__exit__(None, None, None)
    LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
