"""Helper threads that compile beside the calling one."""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Any

__all__ = ["Helpers"]


class Helpers:
    """Threads that run a function beside their maker. The system may refuse any of them, or let it fail before it begins.

    threading.Thread.start waits until the new thread says that it runs. One that finds no memory to say so is waited for
    for ever. Here a thread that has not begun by the time of `wait` is not waited for, and never begins.
    """

    def __init__(self, run: Callable[[], None], count: int) -> None:
        self._run, self._gates = run, [_thread.allocate_lock() for _ in range(max(0, count))]
        self._over = [_thread.allocate_lock() for _ in self._gates]
        for gate, over in zip(self._gates, self._over, strict=True):
            over.acquire()
            try:
                _thread.start_new_thread(self._work, (gate, over))
            except (RuntimeError, MemoryError):  # no more threads: those that there are do it
                break

    def _work(self, gate: Any, over: Any) -> None:
        if gate.acquire(False):  # free: the maker still counts on this thread
            try:
                self._run()
            finally:
                over.release()

    def wait(self) -> None:
        """Until every thread that has begun is done, whatever a signal handler raises meanwhile."""
        raised: BaseException | None = None
        for gate, over in zip(self._gates, self._over, strict=True):
            begun = not gate.acquire(False)
            while begun:
                try:
                    begun = not over.acquire()
                except BaseException as error:
                    raised = error
        if raised is not None:
            raise raised
