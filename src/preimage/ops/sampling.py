"""Where the outputs of a resized axis read its input: positions on a line, decided in integers.

    p(o) = start + o step,   o = 0 .. outputs - 1,   start and step fractions

Every resizing rule (half-pixel centres, aligned corners, asymmetric, a crop) is such a line. Floating point puts positions that lie on
an integer or halfway between two just beside it, and then the wrong pixel is read; integers do not.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from preimage.ops.operands import Array
from preimage.records import record

__all__ = ["ROUNDINGS", "Positions", "simplest_fraction"]

#: How a position becomes an index, in ONNX's words; the last two differ only halfway between two integers.
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


@record
class Positions:
    """The positions start + o * step of `outputs` outputs, exactly.

    Example:
        >>> Positions(3, Fraction(1, 2), Fraction(3, 2)).rounded("round_prefer_floor")
        array([0, 2, 3])
        >>> Positions(3, Fraction(1, 2), Fraction(3, 2)).blended()
        (array([0, 2, 3]), array([0.5, 0. , 0.5]))
    """

    outputs: int
    start: Fraction
    step: Fraction

    def _over(self, unit: int) -> Any:
        """The positions times `unit`, as integers: int64 where they fit, else Python's."""
        first, step = int(self.start * unit), int(self.step * unit)
        fits = max(abs(first), abs(first + step * self.outputs), unit) < 2**62
        return first + step * np.arange(self.outputs, dtype=np.int64 if fits else object)

    def rounded(self, rounding: str) -> Array:
        """The indices (int64), by one of ROUNDINGS; they are not held to any size."""
        unit = 2 * math.lcm(self.start.denominator, self.step.denominator)  # halves are integers too
        value = self._over(unit)
        if rounding == "round_prefer_ceil":
            value = value + unit // 2
        elif rounding == "round_prefer_floor":
            value = value - unit // 2
        whole = value // unit if rounding in ("floor", "round_prefer_ceil") else -((-value) // unit)
        return np.asarray(whole).astype(np.int64)

    def blended(self) -> tuple[Array, Array]:
        """The indices below the positions (int64), and how far behind them the positions lie, in 0..1: 0 only where they meet."""
        unit = math.lcm(self.start.denominator, self.step.denominator)
        value = self._over(unit)
        low = value // unit
        return np.asarray(low).astype(np.int64), np.asarray((value - low * unit) / unit).astype(np.float64)


def simplest_fraction(value: Any) -> Fraction:
    """The fraction of the smallest denominator that rounds to this number, in the number's own dtype (a Python float is float64).

    A factor of 0.1 or 5 / 3 means a tenth and five thirds; the binary number beside it would move every tenth, or fifth, position.

    Example:
        >>> simplest_fraction(0.1), simplest_fraction(np.float32(5 / 3)), simplest_fraction(2.5)
        (Fraction(1, 10), Fraction(5, 3), Fraction(5, 2))
    """
    exact = Fraction(float(value))
    dtype = value.dtype if isinstance(value, np.floating) else np.dtype(np.float64)
    half = Fraction(float(np.spacing(dtype.type(abs(value))))) / 2
    return _simplest_between(exact - half, exact + half)


def _simplest_between(low: Fraction, high: Fraction) -> Fraction:
    """The fraction of the smallest denominator in low..high, by their common continued fraction."""
    if low <= 0:
        return Fraction(0) if high >= 0 else -_simplest_between(-high, -low)
    whole = math.ceil(low)
    if whole <= high:
        return Fraction(whole)
    whole -= 1
    return whole + 1 / _simplest_between(1 / (high - whole), 1 / (low - whole))
