"""What compiling needs of the system: helper threads beside the calling one, and signals that wait."""

from __future__ import annotations

import _thread
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Helpers", "held_signals"]

#: Caused by the thread itself: held, they would end the process without a word.
_OWN = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT")
_HELD = frozenset(signal.valid_signals()) - {getattr(signal, name) for name in _OWN if hasattr(signal, name)}


@contextmanager
def held_signals() -> Iterator[None]:
    """Signals of this thread, and of those that it starts, wait until the block ends.

    What a handler raises (KeyboardInterrupt) would come between LLVM making or freeing an object and Python knowing of it: the object would be
    freed twice, and the process end later, wherever it is then.
    """
    if not hasattr(signal, "pthread_sigmask"):  # pragma: no cover - Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
