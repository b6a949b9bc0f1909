"""layout="channels_last" for the operations over (N, C, *spatial): the axes are moved as views before and after, so the memory
order of what goes in is that of what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from preimage.autograd import array_of
from preimage.errors import OptionError
from preimage.ops.operands import operand
from preimage.ops.shape import moveaxis
from preimage.typing import Layout

__all__ = ["LAYOUTS", "check_layout", "laid_out"]

LAYOUTS = ("channels_first", "channels_last")


def check_layout(layout: object) -> Layout:
    """The layout itself. Raises: OptionError for any other word."""
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise OptionError(f"layout must be 'channels_first' or 'channels_last', got {layout!r}")
    return "channels_last" if layout == "channels_last" else "channels_first"


def _back(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_back(r) for r in result)
    # switches are integers: no operation of the graph
    integers = isinstance(result, np.ndarray) and result.dtype.kind in "iu"
    return np.moveaxis(result, 1, -1) if integers else moveaxis(result, 1, -1)


def laid_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give an operation whose first argument is (N, C, *spatial) the keyword `layout`; an argument called `switches` is laid
    out likewise."""

    @wraps(function)
    def call(x: Any, *args: Any, layout: str = "channels_first", **options: Any) -> Any:
        if check_layout(layout) == "channels_first":
            return function(x, *args, **options)
        x = operand(x, "x")
        if x.ndim < 3:
            return function(x, *args, **options)
        if args and isinstance(args[0], np.ndarray) and args[0].dtype.kind in "iu" and args[0].ndim == x.ndim:
            args = (np.moveaxis(args[0], -1, 1), *args[1:])
        if "switches" in options:
            options["switches"] = np.moveaxis(np.asarray(array_of(options["switches"])), -1, 1)
        return _back(function(moveaxis(x, -1, 1), *args, **options))

    return call
