"""Steps as a built-in function of CPython (`function_kernel`).

function = native_function(steps, words, patches, releases, kept)
function(None, x, out)                 # arrays, or None for one that is absent; 0, or the flag that the steps set
                                       # -1: nothing was computed, since an array does not begin on a multiple of its elements' size
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from preimage.engines.addresses import DATA_FIELD, address_of
from preimage.engines.base import Array
from preimage.engines.buffers import aligned
from preimage.engines.jit.compiler import kernels
from preimage.engines.jit.runtime.function_kernel import MOST_WORDS, FunctionSpec, Head
from preimage.engines.jit.runtime.interpreter import interpreter
from preimage.engines.jit.runtime.link import compiled
from preimage.engines.jit.runtime.steps_kernel import Step

__all__ = ["SHARED_BYTES", "Function", "native_function"]

#: Calls that keep the interpreter's lock run one after another, so they share memory; a program that needs more of it lets go of the lock.
SHARED_BYTES = 256 << 10
_FASTCALL = 0x80  # METH_FASTCALL: f(self, arguments, their number)

Function = Callable[..., int]


class _Method(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


class _Table(np.ndarray[Any, Any]):
    """A function's words (`Head` and what follows it), and what must live as long as they do."""

    kept: Any = None


@lru_cache(maxsize=1)
def _shared() -> Array:
    return aligned(SHARED_BYTES)


@lru_cache(maxsize=1)
def _new_function() -> Callable[..., Any]:
    """PyCFunction_NewEx, by a prototype of our own: that of `ctypes.pythonapi` is shared by all of a process, where others may change it."""
    kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return kind(("PyCFunction_NewEx", ctypes.pythonapi))


@lru_cache(maxsize=8)
def _method(field: int, triple: str) -> Any:
    """The kernel of all programs as CPython knows it. A function may outlive this module, so it is never freed."""
    kernel = compiled(FunctionSpec(field, triple))
    method = _Method(b"program", int(kernel), _FASTCALL, None)
    for kept in (kernel, method):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    return method


def native_function(
    steps: Sequence[int], words: Sequence[int], patches: Sequence[tuple[int, int, int, int]], releases: bool, kept: object,
    flagged: bool = False, shared: tuple[int, int, int, int] = (0, 0, 0, 0), own: bool = False,
) -> Function | None:  # fmt: skip
    """The function that runs steps (`link.step_tables`); None where there can be none. patches: see `Patch`, of which
    argument 0 is the workspace; releases: other Python threads run meanwhile; flagged: the steps set a flag; kept: what must live as long;
    shared: with whom, `Head`'s run, pool, workers and work; own: the workspace is on the function's stack.
    """
    known = interpreter()
    if known is None or DATA_FIELD is None or len(words) > MOST_WORDS:
        return None
    head = Head(
        workspace=0 if own else address_of(_shared()), releases=releases, patches=len(patches), steps=len(steps) // len(Step.fields),
        words=len(words), flagged=flagged, **known, **dict(zip(("run", "pool", "workers", "work"), shared, strict=True)),
    )  # fmt: skip
    table = np.array([*head.table()[0].tolist(), *chain(*patches), *steps, *words], np.int64).view(_Table)
    table.kept = kept
    made: Function = _new_function()(ctypes.addressof(_method(DATA_FIELD, kernels.current_target().triple)), table, None)
    return made
