"""The tables of what has a word: operations by the names of their primitives, functions that are one thing by theirs.

A row is given who writes, then what the operation or function was given; it writes nodes and gives the name of what they make, or the names. None:
there is no word for these arguments. Of a function that has none the operations that it calls are written instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from preimage.autograd import array_of
from preimage.io.onnx.model import CODES

if TYPE_CHECKING:
    from preimage.io.onnx.tracing.recorder import Recorder

__all__ = ["DTYPE_CODES", "FUNCTIONS", "OPERATIONS", "Names", "Row", "cast_to", "expanded", "like", "of_one_dtype", "row"]

Names = str | tuple[str, ...] | None
Row = Callable[..., Names]

OPERATIONS: dict[str, Row] = {}
FUNCTIONS: dict[str, Row] = {}
#: ONNX's numbers of dtypes.
DTYPE_CODES = {name: code for code, name in CODES.items()}


def row(table: dict[str, Row], *names: str) -> Callable[[Row], Row]:
    """Register a function as the row of these names."""

    def register(function: Row) -> Row:
        for name in names:
            assert name not in table, name
            table[name] = function
        return function

    return register


def like(w: Recorder, number: float, x: Any) -> str:
    """A number in the dtype of x."""
    return w.constant(number, array_of(x).dtype)


def cast_to(w: Recorder, x: Any, dtype: np.dtype[Any]) -> str | None:
    """x in another dtype."""
    code = DTYPE_CODES.get(dtype.name)
    return None if code is None else w.put("onnx.Cast", w.name(x), to=code)


def expanded(w: Recorder, name: str, given: Sequence[int], wanted: Sequence[int]) -> str:
    """A value of shape `given` broadcast to `wanted`. A size that stays as it is says 1, so that it may be another in another run."""
    extra = len(wanted) - len(given)
    return w.put("onnx.Expand", name, w.ints(*(1 if k >= extra and n == given[k - extra] else n for k, n in enumerate(wanted))))


def of_one_dtype(w: Recorder, args: Sequence[Any]) -> list[str]:
    """The names of arguments that NumPy would bring to one dtype."""
    dtype, names = np.result_type(*(array_of(v).dtype for v in args)), []
    for value in args:
        name = w.name(value)
        names.append(name if array_of(value).dtype == dtype else w.put("onnx.Cast", name, to=DTYPE_CODES[dtype.name]))
    return names
