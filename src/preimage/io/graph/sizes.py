"""Sizes that are open until a graph runs, and what can be computed with them.

A Size is a polynomial with whole coefficients over unknowns, each a size of some input (`x.2`) or of a result whose size the data decide.
Two Sizes that are equal as polynomials are equal whatever the unknowns are; of two that differ nothing is known. A quotient that does not divide
is an unknown of its own, named after what it is, so that the same quotient is the same Size wherever it is computed.

    >>> n = Size.of("x.2")
    >>> (n * 4 + 6) // 2
    2*x.2 + 3
    >>> n // 2 == n // 2, n // 2 == n
    (True, False)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import prod
from typing import TypeAlias

__all__ = ["Dim", "Shape", "Size", "UnknownError", "broadcast", "concrete", "product"]

#: Terms and letters of a Size; what is longer becomes an unknown of its own.
MOST_TERMS, MOST_LETTERS = 24, 200
#: Larger coefficients do not come from sizes of arrays.
MOST = 1 << 62


class UnknownError(Exception):
    """A rule cannot say what the result's shape is."""


class Size:
    """A polynomial over unknown sizes, with at least one unknown in it; what has none is an int."""

    __slots__ = ("terms",)

    def __init__(self, terms: tuple[tuple[tuple[str, ...], int], ...]) -> None:
        self.terms = terms

    @classmethod
    def of(cls, name: str) -> Size:
        """The unknown of this name."""
        return cls((((name,), 1),))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Size) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __repr__(self) -> str:
        parts = []
        for names, count in self.terms:
            word = "*".join(names)
            parts.append(str(count) if not names else word if count == 1 else f"{count}*{word}")
        return " + ".join(parts).replace("+ -", "- ")

    def __add__(self, other: Dim) -> Dim:
        return _made([*self.terms, *_terms(other)])

    def __mul__(self, other: Dim) -> Dim:
        mine, theirs = self.terms, _terms(other)
        if len(mine) * len(theirs) > MOST_TERMS**2:
            return _named(f"({self})*({other})")
        return _made([(tuple(sorted(a + b)), m * n) for a, m in mine for b, n in theirs])

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: int) -> Dim:
        return self * -1 + other

    def __neg__(self) -> Dim:
        return self * -1

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return _quotient(self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return _quotient(other, self)


Dim: TypeAlias = int | Size
Shape: TypeAlias = tuple[Dim, ...]


def _terms(value: Dim) -> tuple[tuple[tuple[str, ...], int], ...]:
    return value.terms if isinstance(value, Size) else (((), int(value)),)


def _made(terms: Iterable[tuple[tuple[str, ...], int]]) -> Dim:
    """The sum of the terms; an int where no unknown is left."""
    total: dict[tuple[str, ...], int] = {}
    for names, count in terms:
        total[names] = total.get(names, 0) + count
    found = tuple(sorted((names, count) for names, count in total.items() if count))
    if any(abs(count) > MOST for _, count in found):
        raise UnknownError("a size beyond 2**62")
    if not found:
        return 0
    if found[0][0] == () and len(found) == 1:
        return found[0][1]
    # the constant stands last, as one writes it
    made = Size(found[1:] + found[:1] if found[0][0] == () else found)
    text = sum(len(name) for names, _ in found for name in names)
    return made if len(found) <= MOST_TERMS and text <= MOST_LETTERS * 4 else _named(repr(made))


def _named(text: str) -> Size:
    """What is too long to be carried along, as an unknown that is the same for the same text."""
    return Size.of(text if len(text) <= MOST_LETTERS else f"({text[:24]}...{blake2b(text.encode(), digest_size=12).hexdigest()})")


def _quotient(a: Dim, b: Dim) -> Dim:
    """a // b, exact where every term of a divides."""
    if not isinstance(b, Size) and b == 0:
        raise UnknownError("a division by 0")
    if a == b:
        return 1  # sizes that are divided by are not 0: the run would fail
    divisor = _terms(b)
    if len(divisor) == 1:
        names, count = divisor[0]
        parts = []
        for own, number in _terms(a):
            left = list(own)
            for name in names:
                if name not in left:
                    break
                left.remove(name)
            else:
                if number % count == 0:
                    parts.append((tuple(left), number // count))
                    continue
            break
        else:
            return _made(parts)
    return _named(f"({a})//({b})")


def product(dims: Iterable[Dim]) -> Dim:
    """All sizes multiplied."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def concrete(shape: Sequence[Dim] | None) -> tuple[int, ...] | None:
    """The shape where every size is known, else None."""
    if shape is None or any(isinstance(dim, Size) for dim in shape):
        return None
    return tuple(int(dim) for dim in shape)  # type: ignore[arg-type]


def elements(shape: Sequence[Dim] | None) -> int | None:
    """How many elements an array of this shape has, where that is known."""
    known = concrete(shape)
    return None if known is None else prod(known)


def broadcast(*shapes: Sequence[Dim]) -> tuple[Dim | None, ...]:
    """The shape that all broadcast to; None for a size of which nothing is known. Raises: UnknownError where they cannot."""
    rank = max(map(len, shapes), default=0)
    found: list[Dim | None] = []
    for axis in range(-rank, 0):
        own = [shape[axis] for shape in shapes if len(shape) >= -axis]
        fixed = {dim for dim in own if not isinstance(dim, Size) and dim != 1}
        open_ = {dim for dim in own if isinstance(dim, Size)}
        if len(fixed) > 1:
            raise UnknownError(f"sizes {sorted(fixed)} do not broadcast")
        found.append(next(iter(fixed)) if fixed else 1 if not open_ else open_.pop() if len(open_) == 1 else None)
    return tuple(found)
