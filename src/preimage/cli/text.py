"""Sizes as text on the command line: 1,64,56,56 or 1x64x56x56; 2 for every axis; 1:0,2:2 for begin and end; words as they are."""

from __future__ import annotations

from typing import Any

from preimage.errors import OptionError

__all__ = ["numbers", "padding", "sizes"]


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
