"""What the functions of this package share: axes as torch counts them, inputs without a batch, arguments that torch itself gave up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preimage.errors import OptionError, ShapeError
from preimage.ops.operands import integer_of, operand
from preimage.typing import Operand, Value

__all__ = ["axis_named", "batched", "one_of", "reduction_of", "unsupported"]


def batched(name: str, x: Operand, ndim: int, run: Callable[[Any], Value]) -> Value:
    """`run` of (N, C, `ndim` spatial axes); of (C, ...) with a batch of one around it, as torch takes it.

    Raises: ShapeError for other axes.
    """
    value = operand(x, "input")
    if value.ndim == ndim + 1:
        return run(value[None])[0]
    if value.ndim != ndim + 2:
        spatial = ", ".join("DHW"[3 - ndim :] if ndim > 1 else "L")
        raise ShapeError(f"{name}: wanted (N, C, {spatial}) or (C, {spatial}), got shape {value.shape}")
    return run(value)


def unsupported(name: str, **given: Any) -> None:
    """Refuse options of torch's that this library has not. Raises: OptionError for one that is set."""
    for option, value in given.items():
        if value is not None and value is not False:
            raise OptionError(f"{name}: {option} is not supported, got {value!r}; leave it out")


def reduction_of(name: str, size_average: bool | None, reduce: bool | None, reduction: Any, also: tuple[str, ...] = ()) -> Any:
    """The reduction. Raises: OptionError for another, and for the two arguments that torch replaced by it."""
    if size_average is not None or reduce is not None:
        raise OptionError(f"{name}: size_average and reduce are old names of reduction; give 'mean', 'sum' or 'none'")
    return one_of(name, "reduction", reduction, ("mean", "sum", "none", *also))


def one_of(name: str, option: str, value: Any, words: tuple[str, ...]) -> Any:
    """The word. Raises: OptionError for one that is none of these."""
    if not isinstance(value, str) or value not in words:
        raise OptionError(f"{name}: {option} must be one of {', '.join(map(repr, words))}, got {value!r}")
    return value


def axis_named(name: str, dim: Any) -> int:
    """An axis that must be said. Raises: OptionError for None."""
    if dim is None:
        raise OptionError(f"{name}: say dim=, the axis; torch's choice without it depends on the number of axes")
    return integer_of(dim, f"{name}: dim", -64)
