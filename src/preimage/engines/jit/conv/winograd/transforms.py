"""The transforms of Winograd's minimal algorithms F(m, r), made from their points, and how kernels apply them.

A convolution of r taps that gives m outputs is a product of polynomials, evaluated at a = m + r - 1 points (the last one is infinity),
multiplied point by point, and put together again (Toom and Cook; transposed by Winograd):

    y = A^T [(G w) * (B^T x)]        x: a inputs, w: r taps, y: m outputs, * element by element

Of a convolution with several axes each is applied along one axis after another. All matrices are exact fractions; those of inputs and
results hold powers of two in their denominators alone, so float32 has them exactly. Points come in pairs p, -p, which share their work.
Source: Lavin and Gray, Fast algorithms for convolutional neural networks (2015); points: docs/decisions/2026-11-27-winograd.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np

from preimage.engines.ir.builder import Kernel, Num

__all__ = [
    "POINTS",
    "Matrix",
    "amplification",
    "apply_paired_columns",
    "apply_paired_rows",
    "input_matrix",
    "output_matrix",
    "roundings",
    "transposed_matrix",
    "weight_matrix",
]

Matrix = tuple[tuple[Fraction, ...], ...]
#: The points of an algorithm, by their number a: zero, pairs p and -p (here p alone), and infinity.
POINTS: dict[int, tuple[Fraction, ...]] = {
    4: (Fraction(1),),
    6: (Fraction(5, 8), Fraction(3, 2)),
    8: (Fraction(1, 2), Fraction(1), Fraction(2)),
}


@cache
def _finite_points(points: int) -> tuple[Fraction, ...]:
    """Those of them that are numbers, in order."""
    return (Fraction(0), *(value for p in POINTS[points] for value in (p, -p)))


def _monic(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the polynomial with these roots, from the constant on."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


@cache
def output_matrix(m: int, points: int) -> Matrix:
    """A^T: m rows, a column for each point."""
    return tuple((*(p**k for p in _finite_points(points)), Fraction(int(k == m - 1))) for k in range(m))


@cache
def weight_matrix(taps: int, points: int) -> Matrix:
    """G: a row for each point, with what B^T leaves out: 1 / prod(p - q) over the other points q."""
    rows = []
    for number, p in enumerate(_finite_points(points)):
        scale = Fraction(1)
        for other, q in enumerate(_finite_points(points)):
            scale *= p - q if other != number else 1
        rows.append(tuple(p**k / scale for k in range(taps)))
    return (*rows, tuple(Fraction(int(k == taps - 1)) for k in range(taps)))


@cache
def input_matrix(points: int) -> Matrix:
    """B^T: in each row the coefficients of the polynomial that is zero at all other points."""
    finite = _finite_points(points)
    rows = [(*_monic([q for q in finite if q != p]), Fraction(0)) for p in finite]
    return (*rows, tuple(_monic(finite)))


def transposed_matrix(matrix: Matrix) -> Matrix:
    """Rows as columns."""
    return tuple(zip(*matrix, strict=True))


def amplification(axes: Sequence[tuple[int, int]]) -> float:
    """How many times sum|w| max|x| the terms of an output can be, at most: along each axis the largest of
    sum over points of |A^T| |G| sum|B^T|.
    """
    total = 1.0
    for m, taps in axes:
        if taps > 1:
            points = m + taps - 1
            inputs = [sum(map(abs, row)) for row in input_matrix(points)]
            out, weights = output_matrix(m, points), weight_matrix(taps, points)
            total *= float(
                max(sum(abs(out[k][j] * weights[j][t]) * inputs[j] for j in range(points)) for k in range(m) for t in range(taps))
            )
    return total


def roundings(axes: Sequence[tuple[int, int]], chain: int) -> int:
    """How many roundings one term passes through, at most: the transforms of its input and its weight, the sum over channels, that of the output."""
    through = 1 + chain
    for m, taps in axes:
        if taps > 1:
            through += (m + taps) // 2 + (m + taps - 1) // 2 + 2
    return through


# ------------------------------------------------------------------------------------------------------ in kernels


def _chain(f: Kernel, terms: Sequence[tuple[Fraction, Num]]) -> Num:
    """The sum of c v: the first product, to which the others are added by fused multiply-adds.

    In float32 the terms that its constants leave out come first, so that a constant errs in no result by more than a rounding.
    """
    rests = [(low, v) for c, v in terms if v.dtype == "f32" and (low := left_out(c))]
    (c, v), *rest = [*rests, *terms]
    total = v if c == 1 else v * f.const(v.dtype, v.lanes, float(c))
    for c, v in rest:
        total = total + v if c == 1 else total - v if c == -1 else v.fma(f.const(v.dtype, v.lanes, float(c)), total)
    return total


def left_out(c: Fraction) -> Fraction:
    """What the nearest float32 of a number leaves out."""
    return c - Fraction(float(np.float32(float(c))))


def _terms(row: Sequence[Fraction], values: Sequence[Num], parity: int | None = None) -> list[tuple[Fraction, Num]]:
    return [(c, v) for k, (c, v) in enumerate(zip(row, values, strict=True)) if c and parity in (None, k % 2)]


def apply_paired_rows(f: Kernel, matrix: Matrix, values: Sequence[Num]) -> list[Num]:
    """matrix @ values, where the rows of p and -p differ in the signs of every second column: B^T, G, A.

    Their even and their odd columns are summed once; the rows are the sum and the difference.
    """
    first, *inner = matrix[:-1]
    out = [_chain(f, _terms(first, values))]
    for row in inner[::2]:
        even, odd = _chain(f, _terms(row, values, 0)), _chain(f, _terms(row, values, 1))
        out += [even + odd, even - odd]
    return [*out, _chain(f, _terms(matrix[-1], values))]


def apply_paired_columns(f: Kernel, matrix: Matrix, values: Sequence[Num]) -> list[Num]:
    """matrix @ values, where the columns of p and -p differ in the signs of every second row: A^T, G^T."""
    pairs = [(a + b, a - b) for a, b in zip(values[1:-1:2], values[2:-1:2], strict=True)]
    out = []
    for number, row in enumerate(matrix):
        kept = [values[0], *(pair[number % 2] for pair in pairs), values[-1]]
        out.append(_chain(f, _terms([row[0], *row[1:-1:2], row[-1]], kept)))
    return out
