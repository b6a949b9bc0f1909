"""Whether the caller's own functions in a forward pass compute from their input alone, and all that they read besides.

    watch = OwnCode(net)
    with watch: output = net(x)          # a pass as ever, in which every call is seen
    watch.why                            # why its result may be another next time; None: it may not
    state = watch.state()                # what its functions read: attributes, globals, closures, defaults
    state.is_unchanged()                 # later on

A pass whose operations are written down once may be left out later on only where Python would do the same again. So every function of the caller's
own that runs has to be found from the net (its classes, and what their functions name), may call of NumPy and C nothing but what has neither memory
nor effects, and may take no value out of a Tensor: what the library gives back to it is Tensors, and their sizes. Everything that these
functions could read is looked at before each later pass: numbers and texts by value, lists, dicts and plain objects by what they hold, the rest by
identity. What is of no such kind (arrays, generators of random numbers, files) is refused.
"""

from __future__ import annotations

import builtins
import dis
import functools
import gc
import math
import operator
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

from preimage.autograd import Tensor
from preimage.learning.training.own_state import LIBRARY, State, is_standard
from preimage.nn import Module

__all__ = ["OwnCode"]

#: Of the library, what a forward function may call.
_CALLABLE = tuple(f"{LIBRARY}.{part}" for part in ("autograd", "functional", "nn", "ops"))
_SAFE_NAMES = "len isinstance issubclass getattr hasattr sum min max abs sorted all any next iter divmod round callable pow"
_SAFE_CALLS = frozenset((*[getattr(builtins, name) for name in _SAFE_NAMES.split()], functools.reduce, tuple.__new__))
_SAFE_MODULES = frozenset((math.__name__, operator.itemgetter.__module__, operator.add.__module__))
_SAFE_OWNERS = (list, dict, tuple, str, set, frozenset, int, float, bytes, range)
#: Where Python's import is written: the library imports on first use.
_IMPORTING = "<frozen importlib."
_IMPORT = dis.opmap["IMPORT_NAME"]
#: Names by which values get out of Tensors, or code looks at itself.
_INNER = frozenset(
    ["_data", "_grad", "_node", "__array__", "__array_interface__", "__dlpack__", "__dict__", "__globals__", "__closure__"]
)


def _codes(kind: type, names: str) -> frozenset[types.CodeType]:
    """The code of a class's methods and properties."""
    found: list[Any] = [vars(kind)[name] for name in names.split()]
    return frozenset([getattr(f, "fget", f).__code__ for f in found])


_SIZES = _codes(Tensor, "shape ndim size numel dim __len__")
_VALUES = _codes(
    Tensor, "__bool__ __int__ __float__ __complex__ __round__ __index__ __format__ __repr__ __array__ item tolist numpy"
)
_EFFECTS = _codes(Tensor, "assign backward zero_grad") | _codes(
    Module,
    "__setattr__ __delattr__ register_forward_hook train eval requires_grad_ add_module register_parameter register_buffer load_state_dict zero_grad",
)


class OwnCode:
    """The caller's own code in passes of a net; see this module's text."""

    def __init__(self, net: Module) -> None:
        self.net = net
        self.why: str | None = None
        self.ran: set[types.CodeType] = set()
        self._frames: set[int] = set()
        self._importing: types.FrameType | None = None  # what runs inside is the import's: finders, and modules as they are read
        self._collects = False

    def __enter__(self) -> OwnCode:
        if sys.getprofile() is not None:
            self._refuse("a profiler watches the calls")
        else:
            self._frames.clear()
            self._importing = None
            self._collects = gc.isenabled()
            gc.disable()  # what a collection calls is nobody's here
            sys.setprofile(self._saw)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.getprofile() == self._saw:
            sys.setprofile(None)
            if self._collects:
                gc.enable()

    def _refuse(self, why: str) -> None:
        self.why = self.why or why

    def state(self) -> State:
        """What the functions that ran read. Where that is not known, `why` says so."""
        state = State(self.net, self.ran)
        if state.why is not None:
            self._refuse(state.why)
        return state

    # -- calls, as they are made ---------------------------------------------------------------------------------------

    def _saw(self, frame: types.FrameType, event: str, arg: Any) -> None:
        if self._importing is not None:
            if event == "return" and frame is self._importing:
                self._importing = None
        elif event == "call":
            self._called(frame)
        elif event == "return":
            self._frames.discard(id(frame))
            caller = frame.f_back
            if caller is not None and id(caller) in self._frames and _in_library(frame):
                self._given(frame.f_code, arg)
        elif event == "c_call" and id(frame) in self._frames:
            self._called_in_c(frame, arg)

    def _called(self, frame: types.FrameType) -> None:
        code, caller = frame.f_code, frame.f_back
        by_own = caller is not None and id(caller) in self._frames
        if _in_library(frame):
            if by_own and code.co_name != "__del__":  # that of memory which is free again
                name = str(frame.f_globals["__name__"])
                if code in _VALUES:
                    self._refuse(f"{_said(caller)} takes values out of a Tensor ({code.co_name})")
                elif code in _EFFECTS:
                    self._refuse(f"{_said(caller)} changes more than its result ({code.co_name})")
                elif not name.startswith(_CALLABLE) and name != LIBRARY:
                    self._refuse(f"{_said(caller)} calls {name}.{code.co_name}")
        elif not by_own and code.co_filename.startswith(_IMPORTING):
            self._importing = frame
        elif by_own or not (is_standard(code.co_filename) or _is_named_tuple(frame)):
            self._frames.add(id(frame))
            self._ran(code)

    def _ran(self, code: types.CodeType) -> None:
        if code in self.ran:
            return
        self.ran.add(code)
        inner = _INNER.intersection(code.co_names)
        if inner:
            self._refuse(f"{code.co_qualname} uses {', '.join(sorted(inner))}")
        if _IMPORT in code.co_code[::2]:
            self._refuse(f"{code.co_qualname} imports as it runs")

    def _called_in_c(self, frame: types.FrameType, function: Any) -> None:
        try:
            if function in _SAFE_CALLS or getattr(function, "__module__", None) in _SAFE_MODULES:
                return
        except TypeError:  # a method of something that cannot be hashed
            pass
        owner = getattr(function, "__self__", None)
        if isinstance(owner, _SAFE_OWNERS) or getattr(function, "__objclass__", None) in _SAFE_OWNERS:
            return
        self._refuse(f"{_said(frame)} calls {getattr(function, '__qualname__', function)}")

    def _given(self, code: types.CodeType, value: Any) -> None:
        """The library gives something to the caller's own code."""
        if code not in _SIZES and not _is_tensors(value, not code.co_filename.startswith(_NUMBERS_FROM)):
            self._refuse(f"{code.co_qualname} gives the caller's own code something else than Tensors ({type(value).__name__})")


_ROOT = str(Path(__file__).parents[2])
#: Where the library's functions of Tensors are: numbers that they give may have been computed from values.
_NUMBERS_FROM = tuple(str(Path(_ROOT) / part) for part in ("ops", "autograd", "functional"))


def _in_library(frame: types.FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and (name == LIBRARY or name.startswith(f"{LIBRARY}."))


def _is_named_tuple(frame: types.FrameType) -> bool:
    """Whether the frame is that in which a named tuple is made: its text is Python's own."""
    return frame.f_code.co_filename == "<string>" and str(frame.f_globals.get("__name__", "")).startswith("namedtuple_")


def _said(frame: types.FrameType | None) -> str:
    return "" if frame is None else frame.f_code.co_qualname


def _is_tensors(value: Any, numbers: bool) -> bool:
    """Whether a value holds Tensors, layers and the like. numbers: plain ones may be among them."""
    kind = type(value)
    if kind in (tuple, list):
        return all(_is_tensors(v, numbers) for v in value)
    if kind is dict:
        return all(_is_tensors(v, numbers) for v in value.values())
    if isinstance(value, bool | int | str):
        return numbers
    return not isinstance(value, np.ndarray | np.generic | float | complex | bytes)
