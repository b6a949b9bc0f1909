"""Options as text on the command line: sizes (1,64,56,56 or 1x64x56x56; 2 for every axis; 1:0,2:2 for begin and end), lists of words."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from preimage.errors import OptionError

__all__ = ["DTYPES", "finite", "layouts", "no_stray", "numbers", "padding", "settings", "sizes", "threads", "words"]

DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("channels_last", "channels_first")
MOST_THREADS = 1024


def no_stray(arguments: Sequence[object] | None, reason: str) -> None:
    """Raises: OptionError that names arguments which nothing takes, and says why: they must not be dropped in silence."""
    if arguments:
        raise OptionError(f"nothing takes {', '.join(repr(str(a)) for a in arguments)}: {reason}")


def sizes(text: str) -> tuple[int, ...]:
    """A shape. Raises: OptionError for anything but integers."""
    try:
        return tuple(int(v) for v in text.replace("x", ",").split(","))
    except ValueError:
        raise OptionError(f"{text!r} is no list of integers such as 1,64,56,56") from None


def numbers(text: str) -> Any:
    """One number for all axes, or one per axis."""
    values = sizes(text)
    return values[0] if len(values) == 1 else values


def padding(text: str) -> Any:
    """As `numbers`; or begin:end per axis; or a word ("same", "valid", "same_lower"), which the operation checks."""
    if not text[:1].isdigit() and text[:1] != "-":
        return text
    if ":" in text:
        pairs = [pair.partition(":") for pair in text.split(",")]
        return tuple((numbers(lo), numbers(hi)) for lo, _, hi in pairs)
    return numbers(text)


def words(text: str, what: str, known: Sequence[str]) -> tuple[str, ...]:
    """A list of known words. Raises: OptionError that names the first other one, and those that there are."""
    found = tuple(text.split(","))
    for word in found:
        if word not in known:
            raise OptionError(f"no {what} is called {word!r}; there are {', '.join(known)}")
    return found


def layouts(text: str) -> tuple[str, ...]:
    """One memory order, a list of them, or both."""
    return LAYOUTS if text == "both" else words(text, "layout (or both)", LAYOUTS)


def threads(text: str) -> tuple[int, ...]:
    """Numbers of threads. Raises: OptionError for less than one, and for far too many."""
    found = sizes(text)
    if min(found) < 1:
        raise OptionError(f"threads must be at least 1, got {text!r}")
    if max(found) > MOST_THREADS:
        raise OptionError(f"threads must be at most {MOST_THREADS}, got {text!r}")
    return found


def finite(value: float, what: str) -> float:
    """A number. Raises: OptionError for NaN and infinities."""
    if not isfinite(value):
        raise OptionError(f"--{what} wants a finite number, got {value}")
    return value


def settings(engine: str, threads: int = 0) -> dict[str, Any]:
    """What --engine and --threads set: nothing for auto, nothing for 0."""
    return ({"engine": engine} if engine != "auto" else {}) | ({"threads": threads} if threads else {})
