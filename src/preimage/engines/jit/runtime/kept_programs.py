"""The programs of an engine by their requests: so many, and so many bytes of their tables, the oldest let go first."""

from __future__ import annotations

from preimage.engines import decisions
from preimage.engines.jit.request import Request
from preimage.engines.jit.runtime.link import LinkedProgram
from preimage.locks import LOCK

__all__ = ["PROGRAMS", "TABLE_BYTES", "KeptPrograms"]

PROGRAMS = 2048  # kept at most
TABLE_BYTES = 256 << 20  # likewise: a training step of a large network must fit


class KeptPrograms(dict[Request, LinkedProgram]):
    """A cache that threads share; what is let go runs on where it is in use."""

    def __init__(self) -> None:
        super().__init__()
        #: Bytes of their tables: asking thousands of programs at every new one would take milliseconds.
        self._table_bytes: dict[Request, int] = {}

    def keep(self, request: Request, linked: LinkedProgram) -> None:
        with LOCK:
            if request in self:  # another thread made it meanwhile
                return
            self[request] = linked
            self._table_bytes[request] = linked.program.table_bytes
            held = sum(list(self._table_bytes.values()))
            if len(self) <= PROGRAMS and held <= TABLE_BYTES:
                return
            decisions.forget_shortcuts()  # which hold programs too
            sizes = list(self._table_bytes.copy().items())  # of one moment: see kept_tables
            for k, (key, size) in enumerate(sizes[:-1]):  # not the newest; a quarter at once, so that it comes seldom
                if len(sizes) - k <= PROGRAMS * 3 // 4 and held <= TABLE_BYTES * 3 // 4:
                    break
                self.pop(key, None)
                self._table_bytes.pop(key, None)
                held -= size

    def forget(self) -> None:
        """Let go of all, and of every call that was made ready."""
        with LOCK:
            decisions.forget_shortcuts()
            self.clear()
            self._table_bytes.clear()
