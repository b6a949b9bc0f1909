"""Operators made of others, side by side: the pieces of a stacked input or output lie one after another in one flat array."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from preimage.errors import OptionError
from preimage.linop.operator import Operator, one_dtype, same
from preimage.ops import concat, reshape
from preimage.typing import Value

__all__ = ["BlockDiag", "HStack", "VStack"]


def _pieces(v: Value, shapes: Sequence[tuple[int, ...]]) -> list[Value]:
    """A flat array cut into arrays of these shapes."""
    ends = list(accumulate(prod(s) for s in shapes))
    return [reshape(v[end - prod(s) : end], s) for end, s in zip(ends, shapes, strict=True)]


def _joined(parts: Sequence[Value]) -> Value:
    return concat([reshape(p, -1) for p in parts])


class _Stack(Operator):
    """Several operators, in one dtype."""

    def __init__(self, operators: Sequence[Operator]) -> None:
        if not isinstance(operators, Sequence) or isinstance(operators, str):
            raise OptionError(f"{type(self).__name__}: wanted a sequence of operators, got {type(operators).__name__}")
        if not operators:
            raise OptionError(f"{type(self).__name__}: wanted a sequence of operators, got none")
        self.operators = one_dtype(*operators)
        self.dtype = self.operators[0].dtype
        self._open_dtype = all(A._open_dtype for A in self.operators)

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return type(self)([A._in(dtype) for A in self.operators])

    def _flat(self, side: str) -> tuple[int, ...]:
        return (sum(prod(getattr(A, side)) for A in self.operators),)


class VStack(_Stack):
    """x -> (A x, B x, ...), one after another in a flat array; `split` gives the parts in their shapes.

    Raises: ShapeError for operators of different input shapes.

    Example:
        >>> import numpy as np
        >>> from preimage import linop
        >>> A = linop.VStack([linop.Identity((2,)), 3 * linop.Identity((2,))])
        >>> (A @ np.array([1.0, 2.0])).tolist(), [p.tolist() for p in A.split(A @ np.array([1.0, 2.0]))]
        ([1.0, 2.0, 3.0, 6.0], [[1.0, 2.0], [3.0, 6.0]])
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__(operators)
        for A in self.operators:
            same(self.operators[0].input_shape, A.input_shape, "inputs are")
        self.input_shape, self.output_shape = self.operators[0].input_shape, self._flat("output_shape")

    def split(self, y: Value) -> list[Value]:
        """The parts of an output, each in the output shape of its operator."""
        return _pieces(reshape(y, -1), [A.output_shape for A in self.operators])

    def _forward(self, x: Value) -> Value:
        return _joined([A._forward(x) for A in self.operators])

    def _adjoint(self, y: Value) -> Value:
        first, *others = (A._adjoint(part) for A, part in zip(self.operators, self.split(y), strict=True))
        for other in others:
            first = first + other
        return first


class HStack(_Stack):
    """(x, z, ...) -> A x + B z + ..., the input's parts one after another in a flat array; `split` gives them in their shapes.

    Raises: ShapeError for operators of different output shapes.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__(operators)
        for A in self.operators:
            same(self.operators[0].output_shape, A.output_shape, "outputs are")
        self.input_shape, self.output_shape = self._flat("input_shape"), self.operators[0].output_shape
        self._transposed = VStack([A.T for A in self.operators])

    def split(self, x: Value) -> list[Value]:
        """The parts of an input, each in the input shape of its operator."""
        return self._transposed.split(x)

    def _forward(self, x: Value) -> Value:
        return self._transposed._adjoint(x)

    def _adjoint(self, y: Value) -> Value:
        return self._transposed._forward(y)


class BlockDiag(_Stack):
    """(x, z, ...) -> (A x, B z, ...), input and output flat: each operator on its own part.

    Norm: the largest of the operators' own.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__(operators)
        self.input_shape, self.output_shape = self._flat("input_shape"), self._flat("output_shape")

    def _forward(self, x: Value) -> Value:
        parts = _pieces(x, [A.input_shape for A in self.operators])
        return _joined([A._forward(part) for A, part in zip(self.operators, parts, strict=True)])

    def _adjoint(self, y: Value) -> Value:
        parts = _pieces(y, [A.output_shape for A in self.operators])
        return _joined([A._adjoint(part) for A, part in zip(self.operators, parts, strict=True)])

    def _known_norm(self) -> float | None:
        known = [A._known_norm() for A in self.operators]
        return None if None in known else max(n for n in known if n is not None)
