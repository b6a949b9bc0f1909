"""Several values of a line as one: sums in halves, extremes that lose no NaN and know the sign of a zero (line_kernel.py)."""

from __future__ import annotations

from collections.abc import Callable

from preimage.engines.ir.builder import Num
from preimage.engines.ir.words import Word

__all__ = ["across", "extremes", "joined", "strangest", "with_nan"]


def extremes(held: list[Num], found: list[Num], word: str) -> list[Num]:
    """The larger (smaller) ones of numbers, -0 below +0; NaNs are lost.

    Both ways to choose give the same but for two zeros, of which the one has no sign where either has none: whose bits, and (or), say so.
    """
    made = []
    for x, y in zip(held, found, strict=True):
        first = x.is_above(y) if word == "maximum" else x.is_below(y)
        other = y.is_above(x) if word == "maximum" else y.is_below(x)
        a, b = Word.of(first.select(x, y)), Word.of(other.select(y, x))
        made.append((a & b if word == "maximum" else a | b).as_float())
    return made


def strangest(held: list[Num], found: list[Num]) -> list[Num]:
    """NaN where there has been one."""
    return [y.is_nan().select(y, x) for x, y in zip(held, found, strict=True)]


def with_nan(top: Num, strange: Num) -> Num:
    value: Num = strange.is_nan().select(strange, top)
    return value


def joined(sums: list[Num]) -> Num:
    """j + (j + half) until one is left."""
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [a + b for a, b in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


def across(value: Num, join: Callable[[Num, Num], Num]) -> Num:
    """All lanes joined in lane 0, in halves."""
    half = value.lanes // 2
    while half:
        moved = value.shuffle(value, [*range(half, 2 * half), *range(half, value.lanes)])
        value = join(value, moved)
        half //= 2
    return value
