"""The one lock of the package, and imports that happen on first use.

    with LOCK:                             # whatever is made once for the process: an engine, code, a pool of threads
        ...
    module = import_apart("preimage.engines.jit.engine")   # as importlib.import_module, in a thread of its own

A fork copies one thread. What another thread was about to change stays half-changed in the child for ever: a lock that is held, a
module that is half imported. So whatever is made once is made under LOCK, and the fork waits until it has the lock itself. There is
one lock, for with several a fork could wait for one while its owner waits for another.

It may be taken again by the thread that has it: a signal handler, a finaliser or a trace function may call the library in the middle
of a locked section. So a section must be right with itself inside: it takes and stores in single steps (`dict.get`, `list.pop`).
A half imported module is the one thing that such a call could not do with. So such modules are imported by a thread of their own, in
which no handler, no finaliser and no trace function runs; whoever needs one waits.

Nobody holds LOCK while waiting for an import: the module may take LOCK as it is imported, or need another one that does, in any
thread. Who waits gives LOCK up, however often it was taken, and then has it again, as with any condition variable. Meanwhile other
threads may enter their sections; to the one that waits they are calls in the middle of its own. A fork waits until no other thread
imports.
"""

from __future__ import annotations

import _thread
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["LOCK", "hold_over_fork", "import_apart"]

LOCK = threading.RLock()
#: How long a thread may take to begin: one that finds no memory to begin with never does.
BEGIN_S = 10.0
#: How often to look whether an import is over: where memory runs out, a notice may get lost.
LOOK_S = 0.1

_import_over = threading.Condition(LOCK)
_importers: set[int] = set()  # the threads that import now; changed under LOCK
_collects = False  # whether the garbage collector was on before the first of them began


def import_apart(name: str) -> ModuleType:
    """A module, imported now if it was not: by another thread, so that a call from a signal handler, a finaliser or a trace
    function finds all of it; and with no fork meanwhile, so that a child finds all of it too.

    Raises: what the import raises.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        return module
    if _thread.get_ident() in _importers:
        return import_module(name)
    return _Import(name).result()


class _Import:
    """One import, by a thread of its own; by the one that waits for it where that thread cannot be had."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._over = False
        self._module: ModuleType | None = None
        self._error: BaseException | None = None
        self._gate = _thread.allocate_lock()  # whoever takes it imports

    def result(self) -> ModuleType:
        process, begun = os.getpid(), time.monotonic()
        try:
            _thread.start_new_thread(self._run, ())
        except (RuntimeError, MemoryError):  # no more threads
            self._run()
        raised: BaseException | None = None
        while not self._over:
            try:
                self._wait()
                if time.monotonic() - begun > BEGIN_S or os.getpid() != process:  # a handler's child has no other thread
                    self._run()  # if nobody has begun
            except BaseException as error:  # a signal handler's: the process may end then, but not in the middle of an import
                raised = error
        failure = raised or self._error
        if failure is not None:
            raise failure
        assert self._module is not None
        return self._module

    def _wait(self) -> None:
        with LOCK:
            if not self._over:
                _import_over.wait(LOOK_S)

    def _run(self) -> None:
        global _collects
        me = _thread.get_ident()
        with LOCK:  # a fork comes before all of this, or after
            if not self._gate.acquire(False):
                return
            if not _importers:
                _collects = gc.isenabled()
                gc.disable()  # no finaliser runs in here
            _importers.add(me)
        try:
            self._module = import_module(self._name)
        except BaseException as error:  # raised by the one that waits
            self._error = error
        finally:
            with LOCK:
                _importers.discard(me)
                if _collects and not _importers:
                    gc.enable()
                self._over = True
                _import_over.notify_all()


# ---------------------------------------------------------------------------------------------------------------- fork

_inner: list[Callable[[], AbstractContextManager[Any] | None]] = []
_held: list[list[AbstractContextManager[Any]]] = []  # by the forks that are under way: a signal handler may fork inside a fork


def hold_over_fork(lock: Callable[[], AbstractContextManager[Any] | None]) -> None:
    """Have every fork enter lock() too, if there is one; after LOCK, as everybody else does who enters it under LOCK."""
    _inner.append(lock)


def _before_fork() -> None:
    LOCK.acquire()
    me = _thread.get_ident()
    raised: BaseException | None = None
    while not _importers <= {me}:
        try:
            _import_over.wait(LOOK_S)
        except BaseException as error:  # a signal handler's; Python forks all the same
            raised = error
    held: list[AbstractContextManager[Any]] = []
    for lock in tuple(_inner):  # read under LOCK: who is about to register is done
        found = lock()
        if found is not None:
            found.__enter__()
            held.append(found)
    _held.append(held)
    if raised is not None:
        raise raised


def _after_fork() -> None:
    for held in reversed(_held.pop()):
        held.__exit__(None, None, None)
    LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
