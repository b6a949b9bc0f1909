"""Gradients of functions of one array as chains: one pass over the cotangent and the array, where operations of their own would take one each.

    _rule = in_one_pass(lambda do, g, x: do("mul", g, do("sigmoid", x)), lambda g, ans, x: multiply(g, sigmoid(x)))

The first function writes down the steps (`engines/ir/elementwise.py` has their words); the second computes with operations, for gradients that are
recorded themselves, other engines and few elements. Both take the same steps in the same order, so they have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from preimage.autograd.primitive import Rule
from preimage.engines import around

__all__ = ["in_one_pass"]

#: A value of a chain: ("operand", 0), ("number", 2), ("step", 1); or a number itself.
_Value = Any
_Do = Callable[..., _Value]


class _Steps:
    """The steps of a chain in the order in which they are asked for."""

    def __init__(self) -> None:
        self.numbers: list[float] = []
        self.steps: list[tuple[str, tuple[_Value, ...]]] = []

    def __call__(self, word: str, *values: _Value) -> _Value:
        self.steps.append((word, tuple([v if isinstance(v, tuple) else self._number(v) for v in values])))
        return "step", len(self.steps) - 1

    def _number(self, value: float) -> _Value:
        known = [repr(number) for number in self.numbers]  # 0.0 and -0.0 are two
        if repr(value) not in known:
            self.numbers.append(value)
            known.append(repr(value))
        return "number", known.index(repr(value))

    def written(self, operands: int) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], tuple[float, ...]]:
        """The steps as chains take them: operands, numbers and steps under one numbering."""
        before = {"operand": 0, "number": operands, "step": operands + len(self.numbers)}
        steps = tuple([(word, tuple([before[kind] + k for kind, k in values])) for word, values in self.steps])
        return steps, tuple(self.numbers)


def in_one_pass(write: Callable[..., _Value], rule: Callable[..., Any], of: str = "x") -> Rule:
    """A rule (g, ans, x, **params), by a chain where it can be one. write: (do, g, x, **params), with the answer in the place of x if of="ans"."""

    @cache
    def chain(*params: tuple[str, float]) -> Any:
        do = _Steps()
        write(do, ("operand", 0), ("operand", 1), **dict(params))
        return do.written(2)

    def apply(g: Any, ans: Any, x: Any, **params: float) -> Any:
        seen = ans if of == "ans" else x
        if type(g) is np.ndarray and type(seen) is np.ndarray and g.shape == seen.shape and g.dtype == seen.dtype:
            made = around.chain((g, seen), *chain(*params.items()))
            if made is not None:
                return made[0]
        return rule(g, ans, x, **params)

    return apply
