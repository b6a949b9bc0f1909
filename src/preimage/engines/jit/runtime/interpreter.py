"""What generated functions need of CPython."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

from preimage.engines.addresses import DATA_FIELD

__all__ = ["interpreter"]


def _c_function(name: str) -> int:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


@lru_cache(maxsize=1)
def interpreter() -> dict[str, int] | None:
    """What a function needs of CPython, by `Head`'s names; None where there is no lock that its calls could hold."""
    if DATA_FIELD is None or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    names = {"make_int": "PyLong_FromLong", "save_thread": "PyEval_SaveThread", "restore_thread": "PyEval_RestoreThread"}
    return {"nothing": id(None)} | {ours: _c_function(name) for ours, name in names.items()}
