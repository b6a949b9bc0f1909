"""The programs of one graph: one for each set of input shapes and settings, the latest few; and in words why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from preimage.resources import register_keeper

__all__ = ["MOST_PROGRAMS", "NEW", "Programs", "feed_key"]

#: Programs that a graph keeps. Their memory is given back where it runs out.
MOST_PROGRAMS = 8
#: Reasons that are remembered.
MOST_REFUSED = 64
#: What is said of a first run.
NEW = "its shapes are new: the second run of some shapes is recorded, later ones are the program's"


class Programs:
    """What is known of runs by key: the program, or why there is none."""

    def __init__(self) -> None:
        self._found: dict[Any, Any] = {}
        self._refused: dict[Any, str] = {}
        self._seen: set[Any] = set()
        self.last: str | None = None  #: why the latest run was no program's; None where it was one
        register_keeper(self)

    def find(self, key: Any) -> Any:
        """The program of a key; True where this run should be recorded; None where it should not."""
        found = self._found.get(key)
        if found is not None:
            return found
        why = self._refused.get(key)
        if why is not None:
            self.last = why
            return None
        self.last = NEW
        return True

    def is_new(self, key: Any) -> bool:
        """Whether a run is the first of its key that is asked for: of graphs whose other runs do other things."""
        if key in self._seen:
            return False
        if len(self._seen) >= MOST_REFUSED:
            self._seen.clear()
        self._seen.add(key)
        self.last = NEW
        return True

    def keep(self, key: Any, program: Any) -> None:
        """Keep a program; the oldest goes where there are too many."""
        self._found[key] = program
        for oldest in list(self._found)[:-MOST_PROGRAMS]:
            self._found.pop(oldest, None)

    def refuse(self, key: Any, why: str) -> None:
        """Do not try again."""
        self._found.pop(key, None)
        if len(self._refused) >= MOST_REFUSED:
            self._refused.clear()
        self._refused[key] = self.last = why

    @property
    def kept(self) -> list[Any]:
        """The programs that are there, the latest last."""
        return list(self._found.values())

    @property
    def bytes(self) -> int:
        """The memory that is held between runs."""
        return sum([program.bytes for program in self.kept])

    def clear(self) -> int:
        """Let go of all; returns how many bytes of memory."""
        held, self._found = self.bytes, {}
        return held

    def __reduce__(self) -> tuple[Any, ...]:  # copies of what holds them begin anew
        return (Programs, ())


def feed_key(feeds: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What of the inputs a program depends on; None for inputs that none takes."""
    key: list[Any] = []
    for array in feeds.values():
        if type(array) is not np.ndarray or not array.flags.aligned or not array.dtype.isnative or array.dtype.hasobject:
            return None
        if not array.size or min(array.strides, default=0) < 0:
            return None
        key.append((array.shape, array.strides, array.dtype.num))
    return tuple(key)
