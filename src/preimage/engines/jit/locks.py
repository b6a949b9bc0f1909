"""What a forked child finds free, whichever thread of the parent was inside: a lock, and a property that is computed once."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["ForkLock", "kept"]

T = TypeVar("T")


class ForkLock:
    """A threading.Lock for short sections that leave no half-made state behind (one dictionary operation and the like)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _made.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        self._lock = threading.Lock()


_made: weakref.WeakSet[ForkLock] = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_made):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class kept(Generic[T]):  # noqa: N801 - read as a decorator
    """As functools.cached_property, whose lock (until Python 3.12) a child would wait for if a thread of its parent held it
    at the fork. Two threads may compute the value at the same time; it is the same one.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make, self._name, self.__doc__ = make, make.__name__, make.__doc__

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> kept[T]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._make(instance)
        return value
