"""A row of the table of operations.

Row(name, op, inputs, reference, ...): `op` takes the inputs (arrays or Tensors); `inputs(rng)` gives them as float64 arrays,
away from kinks and ties; `reference` is an independent definition on float64 arrays; `diff` the arguments with a gradient,
`linear` those that the result is linear in; `empty` shapes of the inputs with a zero-size axis (None: refused there);
`narrow` how many units in the last place a result in a narrow dtype may be off, relative to the largest value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Inputs = Callable[[np.random.Generator], list[Any]]


@dataclass(frozen=True)
class Row:
    name: str
    op: Callable[..., Any]
    inputs: Inputs
    reference: Callable[..., Any]
    diff: tuple[int, ...] = (0,)
    linear: tuple[int, ...] = ()
    empty: tuple[tuple[int, ...], ...] | None = ((0, 3, 4),)
    second: bool = True
    narrow: float = 8.0


def normal(*shapes: tuple[int, ...], scale: float = 1.0) -> Inputs:
    return lambda rng: [rng.standard_normal(s) * scale for s in shapes]


def positive(*shapes: tuple[int, ...]) -> Inputs:
    return lambda rng: [rng.uniform(0.5, 2.0, s) for s in shapes]


def within(*shapes: tuple[int, ...]) -> Inputs:
    """Between -1 and 1."""
    return lambda rng: [rng.uniform(-0.9, 0.9, s) for s in shapes]


def away(*shapes: tuple[int, ...], scale: float = 2.0, kinks: tuple[float, ...] = (0.0,)) -> Inputs:
    """At least 0.05 from every kink."""

    def inputs(rng: np.random.Generator) -> list[Any]:
        arrays = []
        for s in shapes:
            x = rng.standard_normal(s) * scale
            for kink in kinks:
                x = np.where(np.abs(x - kink) < 0.05, kink + 0.3, x)
            arrays.append(x)
        return arrays

    return inputs


def distinct(*shapes: tuple[int, ...]) -> Inputs:
    """No two values nearer than 0.1."""
    return lambda rng: [rng.permutation(math.prod(s)).reshape(s) * 0.125 - 1.0 for s in shapes]


A, B, C = (2, 3, 4), (3, 1), (4,)
IMAGE = (2, 3, 7, 6)
