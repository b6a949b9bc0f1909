"""The algebra of linear operators: A @ x, A.T, A @ B, A + B, 2 * A; and what can be asked of any of them.

An operator says its two shapes, its dtype, and how it acts in both directions; everything else follows.
"""

from __future__ import annotations

import math
from math import prod
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import array_of, refuse_masked
from preimage.errors import DTypeError, OptionError, ShapeError

__all__ = ["Adjoint", "Compose", "Operator", "Scaled", "Sum"]

Array = NDArray[Any]
#: to_matrix refuses more entries than this unless told otherwise (float64: 128 MiB).
MATRIX_ENTRIES = 2**24


def _length(v: Any) -> float:
    """The Euclidean norm, without BLAS, whose threads no setting here binds."""
    return math.sqrt(float(np.add.reduce(np.square(v), axis=None)))


class Operator:
    """A linear map between arrays of `input_shape` and arrays of `output_shape`, with its exact adjoint.

    A subclass gives `_forward(x)` and `_adjoint(y)`, linear in their argument, on arrays or Tensors of those shapes.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    #: NumPy's own @ and * give way to the operator's.
    __array_ufunc__ = None

    def _forward(self, x: Any) -> Any:
        raise NotImplementedError

    def _adjoint(self, y: Any) -> Any:
        raise NotImplementedError

    # -- application -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix that this operator is."""
        return prod(self.output_shape), prod(self.input_shape)

    @property
    def T(self) -> Operator:  # noqa: N802 - the transpose, as in NumPy
        """The adjoint operator."""
        return Adjoint(self)

    def __matmul__(self, other: Any) -> Any:
        """A @ x for an array or Tensor of `input_shape` (or flat, then the result is flat), A @ B for an operator."""
        if isinstance(other, Operator):
            return Compose(self, other)
        refuse_masked(other, "x")
        x = other if hasattr(other, "shape") else np.asarray(other)
        flat = x.shape == (prod(self.input_shape),) and x.shape != self.input_shape
        if not flat and x.shape != self.input_shape:
            raise ShapeError(f"{self} takes shape {self.input_shape} (or flat, {prod(self.input_shape)}), got {x.shape}")
        if array_of(x).dtype != self.dtype:
            raise DTypeError(f"{self} works in {self.dtype}, got {array_of(x).dtype}; convert with .astype")
        y = self._forward(x.reshape(self.input_shape) if flat else x)
        return y.reshape(-1) if flat else y

    def __call__(self, x: Any) -> Any:
        """The same as A @ x."""
        return self @ x

    # -- algebra ---------------------------------------------------------------------------------------------------

    def __add__(self, other: Operator) -> Operator:
        return Sum(self, other) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Operator) -> Operator:
        return Sum(self, Scaled(other, -1.0)) if isinstance(other, Operator) else NotImplemented

    def __mul__(self, factor: Any) -> Operator:
        return Scaled(self, float(factor)) if isinstance(factor, Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Operator:
        return Scaled(self, 1.0 / float(divisor)) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> Operator:
        return Scaled(self, -1.0)

    # -- questions -------------------------------------------------------------------------------------------------

    def to_matrix(self, most: int = MATRIX_ENTRIES) -> Array:
        """The operator as a dense matrix (rows, columns), column by column: for small ones.

        Raises: OptionError where it would have more than `most` entries.
        """
        rows, columns = self.shape
        if rows * columns > most:
            raise OptionError(
                f"the matrix of {self} would have {rows} x {columns} entries; to_matrix allows {most} (argument most)"
            )
        matrix = np.empty((rows, columns), self.dtype)
        unit = np.zeros(columns, self.dtype)
        for k in range(columns):
            unit[k] = 1
            matrix[:, k] = np.asarray(array_of(self._forward(unit.reshape(self.input_shape)))).reshape(-1)
            unit[k] = 0
        return matrix

    def to_scipy(self) -> Any:
        """The operator as a scipy.sparse.linalg.LinearOperator on flat vectors."""
        from scipy.sparse.linalg import LinearOperator  # loaded on first use

        def applied(A: Operator, v: Any) -> Array:
            x = np.asarray(v).reshape(A.input_shape).astype(A.dtype, copy=False)
            return np.asarray(A._forward(x)).reshape(-1)

        return LinearOperator(
            self.shape, matvec=lambda v: applied(self, v), rmatvec=lambda v: applied(self.T, v), dtype=self.dtype
        )

    def norm(self, *, iterations: int = 300, rtol: float = 1e-8, seed: int = 0) -> float:
        """The largest singular value, by power iteration on A^T A: a lower bound that rises to it.

        It stops when an iteration changes it by less than `rtol`, relative.
        """
        if 0 in self.shape:
            return 0.0
        sums = np.dtype(np.float32) if self.dtype.itemsize == 2 else self.dtype
        v = np.random.default_rng(seed).standard_normal(self.input_shape)
        estimate = 0.0
        for _ in range(iterations):
            length = _length(v)
            if length == 0.0:
                return 0.0
            x = (v / length).astype(self.dtype)
            y = self._forward(x)
            before, estimate = estimate, _length(np.asarray(y, sums).astype(np.float64))
            v = np.asarray(self._adjoint(y), sums).astype(np.float64)
            if abs(estimate - before) <= rtol * estimate:
                break
        return estimate

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.output_shape} <- {self.input_shape}, {self.dtype})"


def _same(a: Any, b: Any, what: str) -> None:
    if a != b:
        raise ShapeError(f"the operators do not fit: {what} {a} and {b}")


class Adjoint(Operator):
    """The adjoint of an operator; its own adjoint is the operator itself."""

    def __init__(self, A: Operator) -> None:
        self.A = A
        self.input_shape, self.output_shape, self.dtype = A.output_shape, A.input_shape, A.dtype

    def _forward(self, x: Any) -> Any:
        return self.A._adjoint(x)

    def _adjoint(self, y: Any) -> Any:
        return self.A._forward(y)

    @property
    def T(self) -> Operator:  # noqa: N802
        return self.A


class Compose(Operator):
    """A after B: (A B)^T = B^T A^T.

    Raises: ShapeError where the output of B is not the input of A; DTypeError for different dtypes.
    """

    def __init__(self, A: Operator, B: Operator) -> None:
        _same(A.input_shape, B.output_shape, "input of the left and output of the right one are")
        _check_dtypes(A, B)
        self.A, self.B = A, B
        self.input_shape, self.output_shape, self.dtype = B.input_shape, A.output_shape, A.dtype

    def _forward(self, x: Any) -> Any:
        return self.A._forward(self.B._forward(x))

    def _adjoint(self, y: Any) -> Any:
        return self.B._adjoint(self.A._adjoint(y))


class Sum(Operator):
    """A + B, of equal shapes and dtype."""

    def __init__(self, A: Operator, B: Operator) -> None:
        _same(A.input_shape, B.input_shape, "inputs are")
        _same(A.output_shape, B.output_shape, "outputs are")
        _check_dtypes(A, B)
        self.A, self.B = A, B
        self.input_shape, self.output_shape, self.dtype = A.input_shape, A.output_shape, A.dtype

    def _forward(self, x: Any) -> Any:
        return self.A._forward(x) + self.B._forward(x)

    def _adjoint(self, y: Any) -> Any:
        return self.A._adjoint(y) + self.B._adjoint(y)


class Scaled(Operator):
    """factor * A."""

    def __init__(self, A: Operator, factor: float) -> None:
        self.A, self.factor = A, factor
        self.input_shape, self.output_shape, self.dtype = A.input_shape, A.output_shape, A.dtype

    def _forward(self, x: Any) -> Any:
        return self.A._forward(x) * self.dtype.type(self.factor)

    def _adjoint(self, y: Any) -> Any:
        return self.A._adjoint(y) * self.dtype.type(self.factor)


def _check_dtypes(A: Operator, B: Operator) -> None:
    if A.dtype != B.dtype:
        raise DTypeError(f"the operators work in different dtypes: {A.dtype} and {B.dtype}")
