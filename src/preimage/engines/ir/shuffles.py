"""Vectors interleaved and deinterleaved in registers: s vectors of neighbours, and s vectors of every s-th element."""

from __future__ import annotations

from preimage.engines.ir.builder import Num

__all__ = ["can_split", "deinterleave", "interleave"]


def can_split(parts: int) -> bool:
    """Whether `parts` vectors are interleaved, or deinterleaved, in reasonably few shuffles."""
    rest = parts
    for factor in (2, 3, 5, 7):
        while rest % factor == 0:
            rest //= factor
    return rest == 1 and parts <= 32


def _factor(parts: int) -> int:
    return next(f for f in range(2, parts + 1) if parts % f == 0)


def deinterleave(values: list[Num]) -> list[Num]:
    """s vectors of neighbouring elements to s vectors of which the q-th has the elements s*i + q."""
    parts, lanes = len(values), values[0].lanes
    if parts == 1:
        return values
    factor = _factor(parts)
    if factor == parts:
        return [_gathered(values, [parts * i + q for i in range(lanes)]) for q in range(parts)]
    chunks = [deinterleave(values[first : first + factor]) for first in range(0, parts, factor)]
    out = list(values)
    for q in range(factor):
        out[q::factor] = deinterleave([chunk[q] for chunk in chunks])
    return out


def interleave(values: list[Num]) -> list[Num]:
    """The inverse of `deinterleave`."""
    parts, lanes = len(values), values[0].lanes
    if parts == 1:
        return values
    factor = _factor(parts)
    if factor == parts:
        places = [(k % parts) * lanes + k // parts for k in range(parts * lanes)]
        return [_gathered(values, places[v * lanes : (v + 1) * lanes]) for v in range(parts)]
    groups = [interleave(values[q::factor]) for q in range(factor)]
    return [value for picked in zip(*groups, strict=True) for value in interleave(list(picked))]


def _gathered(values: list[Num], places: list[int]) -> Num:
    """One vector of elements picked from several vectors laid end to end."""
    lanes = values[0].lanes
    result = values[0].shuffle(values[1], [p if p < 2 * lanes else 0 for p in places])
    for k, value in enumerate(values[2:], 2):
        if any(p // lanes == k for p in places):
            result = result.shuffle(value, [p % lanes + lanes if p // lanes == k else i for i, p in enumerate(places)])
    return result
