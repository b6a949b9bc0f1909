"""The algebra of linear operators: A @ x, A.T, A @ B, A + B, 2 * A; and what can be asked of any of them.

An operator says its two shapes, its dtype, and how it acts in both directions; everything else follows.
"""

from __future__ import annotations

import math
from math import prod
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import numpy as np

from preimage.autograd import Tensor, array_of, as_array, is_real
from preimage.errors import DTypeError, MissingPackageError, OptionError, ShapeError
from preimage.ops import reshape, stack, transpose
from preimage.ops.operands import count_of, number_of
from preimage.ops.sums import dot
from preimage.typing import Array, ForeignArray, Operand, Rows, Value

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

__all__ = ["Adjoint", "Compose", "Operator", "Scaled", "Sum", "one_dtype", "same"]

#: What an operator is applied to, beside Tensors: a number scales it.
_Arrays: TypeAlias = Array | ForeignArray | Rows
_Number: TypeAlias = float | np.floating[Any]
#: to_matrix refuses more entries than this unless `most` says otherwise (float64: 128 MiB).
MATRIX_ENTRIES = 2**24


def _given(x: Operand, name: str = "x") -> Value:
    """A Tensor as it is, anything else as an array."""
    if isinstance(x, Tensor):
        return x
    array = as_array(x, name)
    if not is_real(array.dtype):
        raise DTypeError(f"an operator takes arrays of floats, got {type(x).__name__} of dtype {array.dtype}")
    return array


def _factor(value: object) -> float | None:
    """A real number, also as an array without axes; None for anything else."""
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, np.ndarray) and value.ndim == 0 and is_real(value.dtype):
        return float(value)
    return None


def _is_complex(x: object) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "c"


def _from_parts(real: Array, imaginary: Array) -> Array:
    """The complex array of these parts."""
    made = np.empty(real.shape, np.result_type(real, np.complex64))
    made.real, made.imag = real, imaginary
    return made


def _length(v: Array) -> float:
    """The Euclidean norm."""
    return math.sqrt(dot(v, v))


class Operator:
    """A linear map between arrays of `input_shape` and arrays of `output_shape`, with its exact adjoint.

    A subclass gives `_forward(x)` and `_adjoint(y)`, linear in their argument, on arrays or Tensors of those shapes.
    `shape`, `matvec`, `rmatvec`, `matmat`, `rmatmat`, `dot`, `H` are SciPy's: `scipy.sparse.linalg` and PyLops take an operator as it is.
    All operators are real; of a complex array one gives the complex array of what it makes of the real and of the imaginary part.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    #: NumPy's own @ and * give way to the operator's.
    __array_ufunc__ = None

    def _forward(self, x: Value) -> Value:
        raise NotImplementedError

    def _adjoint(self, y: Value) -> Value:
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

    @property
    def H(self) -> Operator:  # noqa: N802 - as in SciPy
        """The adjoint operator; all operators are real, so that it is the transpose."""
        return self.T

    def adjoint(self) -> Operator:
        """The adjoint operator: `T`."""
        return self.T

    transpose = adjoint

    @property
    def dims(self) -> tuple[int, ...]:
        """`input_shape` under PyLops's name."""
        return self.input_shape

    @property
    def dimsd(self) -> tuple[int, ...]:
        """`output_shape` under PyLops's name."""
        return self.output_shape

    @overload
    def __matmul__(self, other: Operator) -> Operator: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: _Arrays) -> Array: ...
    @np.errstate(all="ignore")
    def __matmul__(self, other: _Arrays | Tensor | Operator) -> Value | Operator:
        """A @ x for an array or Tensor of `input_shape` (or flat, then the result is flat); A @ X for the columns of a matrix, one flat
        array each; A @ B for an operator.

        Raises: ShapeError for another shape; DTypeError for another dtype.
        """
        if isinstance(other, Operator):
            return Compose(self, other)
        if _is_complex(other):
            values: Any = as_array(other, "x")
            return _from_parts(self @ values.real, self @ values.imag)
        x = _given(other)
        columns = self.shape[1]
        flat = x.shape == (columns,) and x.shape != self.input_shape
        several = x.ndim == 2 and x.shape[0] == columns and x.shape != self.input_shape
        if not flat and not several and x.shape != self.input_shape:
            raise ShapeError(
                f"{self} takes shape {self.input_shape} (or flat, {columns}; or columns of that length), got {x.shape}"
            )
        if array_of(x).dtype != self.dtype:
            raise DTypeError(f"{self} works in {self.dtype}, got {array_of(x).dtype}; convert with .astype")
        if several:
            if not x.shape[1]:
                return np.zeros((self.shape[0], 0), self.dtype)
            return stack([self @ x[:, k] for k in range(x.shape[1])], axis=1)
        y = self._forward(reshape(x, self.input_shape) if flat else x)
        return reshape(y, -1) if flat else y

    @overload
    def __rmatmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __rmatmul__(self, other: _Arrays) -> Array: ...
    def __rmatmul__(self, other: _Arrays | Tensor) -> Value:
        """x @ A is A.T @ x, of the rows of a matrix too."""
        if _is_complex(other):
            values: Any = as_array(other, "x")
            return _from_parts(values.real @ self, values.imag @ self)
        x = _given(other)
        rows = x.ndim == 2 and x.shape[1] == self.shape[0] and x.shape != self.output_shape
        return transpose(self.T @ transpose(x)) if rows else self.T @ x

    @overload
    def __call__(self, x: Operator) -> Operator: ...
    @overload
    def __call__(self, x: Tensor) -> Tensor: ...
    @overload
    def __call__(self, x: _Arrays) -> Array: ...
    def __call__(self, x: _Arrays | Tensor | Operator) -> Value | Operator:
        """The same as A @ x."""
        return self @ x

    @overload
    def dot(self, other: _Number) -> Operator: ...
    @overload
    def dot(self, other: Operator) -> Operator: ...
    @overload
    def dot(self, other: Tensor) -> Tensor: ...
    @overload
    def dot(self, other: _Arrays) -> Array: ...
    def dot(self, other: _Number | _Arrays | Tensor | Operator) -> Value | Operator:
        """A @ other; a number gives the scaled operator."""
        return self * other

    def _vector(self, x: Operand) -> Array:
        """A flat array in the operator's dtype, from what SciPy's solvers give: any real dtype, also (n, 1)."""
        array = as_array(array_of(x), "x")
        if array.shape not in ((self.shape[1],), (self.shape[1], 1)):
            raise ShapeError(f"matvec of {self} takes shape ({self.shape[1]},) or ({self.shape[1]}, 1), got {array.shape}")
        if not is_real(array.dtype):
            raise DTypeError(f"{self} takes numbers, got {array.dtype}")
        with np.errstate(all="ignore"):
            return array.astype(self.dtype, copy=False)

    @np.errstate(all="ignore")
    def matvec(self, x: Operand) -> Array:
        """A @ x for a flat array (n,) or (n, 1) of any real or complex dtype, computed in the operator's, as SciPy's solvers call it."""
        if _is_complex(x):
            values: Any = x
            return _from_parts(self.matvec(values.real), self.matvec(values.imag))
        v = self._vector(x)
        y = np.asarray(array_of(self._forward(v.reshape(self.input_shape))))
        return y.reshape(-1, 1) if v.ndim == 2 else y.reshape(-1)

    def rmatvec(self, y: Operand) -> Array:
        """A.T @ y for a flat array: as `matvec`."""
        return self.T.matvec(y)

    def matmat(self, X: Operand) -> Array:
        """A @ X for a matrix (n, k): `matvec` of every column."""
        matrix = as_array(array_of(X), "X")
        if matrix.ndim != 2 or matrix.shape[0] != self.shape[1]:
            raise ShapeError(f"matmat of {self} takes shape ({self.shape[1]}, k), got {matrix.shape}")
        columns = [self.matvec(matrix[:, k]) for k in range(matrix.shape[1])]
        return np.stack(columns, axis=1) if columns else np.zeros((self.shape[0], 0), self.dtype)

    def rmatmat(self, Y: Operand) -> Array:
        """A.T @ Y for a matrix."""
        return self.T.matmat(Y)

    _matvec, _rmatvec = matvec, rmatvec  # PyLops wraps an operator that has these

    #: Whether no dtype was asked for: beside another operator it takes that one's (see `_in`).
    _open_dtype = False

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        """The same map in another dtype, of operators with `_open_dtype`."""
        raise NotImplementedError

    # -- algebra ---------------------------------------------------------------------------------------------------

    def __add__(self, other: Operator) -> Operator:
        return Sum(self, other) if isinstance(other, Operator) else NotImplemented

    def __sub__(self, other: Operator) -> Operator:
        return Sum(self, Scaled(other, -1.0)) if isinstance(other, Operator) else NotImplemented

    @overload
    def __mul__(self, other: _Number) -> Operator: ...
    @overload
    def __mul__(self, other: Operator) -> Operator: ...
    @overload
    def __mul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __mul__(self, other: _Arrays) -> Array: ...
    def __mul__(self, other: _Number | _Arrays | Tensor | Operator) -> Value | Operator:
        """A number scales; anything else is applied to, as in SciPy: A * x is A @ x, A * B is A @ B."""
        factor, applied = _factor(other), cast("_Arrays | Tensor | Operator", other)
        return self @ applied if factor is None else Scaled(self, factor)

    @overload
    def __rmul__(self, other: _Number) -> Operator: ...
    @overload
    def __rmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __rmul__(self, other: _Arrays) -> Array: ...
    def __rmul__(self, other: _Number | _Arrays | Tensor) -> Value | Operator:
        factor = _factor(other)
        return other @ self if factor is None and isinstance(other, np.ndarray | Tensor) else self * other

    def __truediv__(self, divisor: _Number) -> Operator:
        factor = _factor(divisor)
        if factor is None:
            raise DTypeError(f"an operator is divided by a number, got {type(divisor).__name__}")
        if factor == 0:
            raise OptionError("an operator cannot be divided by 0")
        return Scaled(self, 1.0 / factor)

    def __neg__(self) -> Operator:
        return Scaled(self, -1.0)

    # -- questions -------------------------------------------------------------------------------------------------

    @np.errstate(all="ignore")
    def to_matrix(self, most: int = MATRIX_ENTRIES) -> Array:
        """The operator as a dense matrix (rows, columns), column by column: for small ones.

        Raises: OptionError where it would have more than `most` entries.
        """
        rows, columns = self.shape
        if rows * columns > count_of(most, "most", 0):
            raise OptionError(
                f"the matrix of {self} would have {rows} x {columns} entries; to_matrix allows {most} (argument most)"
            )
        matrix = np.empty((rows, columns), self.dtype)
        unit = np.zeros(columns, self.dtype)
        for k in range(columns):
            unit[k] = 1
            matrix[:, k] = self.matvec(unit)
            unit[k] = 0
        return matrix

    def to_scipy(self) -> LinearOperator:
        """The operator as a scipy.sparse.linalg.LinearOperator on flat vectors."""
        try:
            from scipy.sparse.linalg import LinearOperator  # loaded on first use
        except ImportError:
            raise MissingPackageError("to_scipy needs the package scipy: pip install 'preimage[scipy]'") from None
        return LinearOperator(
            self.shape, matvec=self.matvec, rmatvec=self.rmatvec, matmat=self.matmat, rmatmat=self.rmatmat, dtype=self.dtype
        )

    @np.errstate(all="ignore")
    def norm(self, *, iterations: int = 300, rtol: float = 1e-8, seed: int = 0) -> float:
        """The largest singular value: in closed form where it is known (Identity, Diagonal, Gradient, Laplacian, circular Conv of stride 1, and
        what is made of these by adjoints, factors, A.T @ A and BlockDiag), else by power iteration on A^T A: a lower bound that rises to it.

        The iteration stops when a step changes it by less than `rtol`, relative.
        """
        iterations, rtol = count_of(iterations, "iterations", 1), number_of(rtol, "rtol", least=0)
        if 0 in self.shape:
            return 0.0
        known = self._known_norm()
        if known is not None:
            return known
        sums = np.dtype(np.float32) if self.dtype.itemsize == 2 else self.dtype
        v = np.random.default_rng(count_of(seed, "seed", 0)).standard_normal(self.input_shape)
        estimate = 0.0
        for _ in range(iterations):
            length = _length(v)
            if length == 0.0:
                return 0.0
            x = (v / length).astype(self.dtype)
            y = array_of(self._forward(x))
            before, estimate = estimate, _length(np.asarray(y, sums).astype(np.float64))
            v = np.asarray(array_of(self._adjoint(y)), sums).astype(np.float64)
            if abs(estimate - before) <= rtol * estimate:
                break
        return estimate

    def _known_norm(self) -> float | None:
        """The norm in closed form; None where there is none."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.output_shape} <- {self.input_shape}, {self.dtype})"


def same(a: object, b: object, what: str) -> None:
    """Refuse operators that do not fit. Raises: ShapeError."""
    if a != b:
        raise ShapeError(f"the operators do not fit: {what} {a} and {b}")


class Adjoint(Operator):
    """The adjoint of an operator; its own adjoint is the operator itself."""

    def __init__(self, A: Operator) -> None:
        _operators(A)
        self.A = A
        self.input_shape, self.output_shape, self.dtype = A.output_shape, A.input_shape, A.dtype
        self._open_dtype = A._open_dtype

    def _forward(self, x: Value) -> Value:
        return self.A._adjoint(x)

    def _adjoint(self, y: Value) -> Value:
        return self.A._forward(y)

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return Adjoint(self.A._in(dtype))

    def _known_norm(self) -> float | None:
        return self.A._known_norm()

    @property
    def T(self) -> Operator:  # noqa: N802
        return self.A


class Compose(Operator):
    """A after B: (A B)^T = B^T A^T.

    Raises: ShapeError where the output of B is not the input of A; DTypeError for different dtypes.
    """

    def __init__(self, A: Operator, B: Operator) -> None:
        _operators(A, B)
        same(A.input_shape, B.output_shape, "input of the left and output of the right one are")
        A, B = one_dtype(A, B)
        self.A, self.B = A, B
        self.input_shape, self.output_shape, self.dtype = B.input_shape, A.output_shape, A.dtype
        self._open_dtype = A._open_dtype and B._open_dtype

    def _forward(self, x: Value) -> Value:
        return self.A._forward(self.B._forward(x))

    def _adjoint(self, y: Value) -> Value:
        return self.B._adjoint(self.A._adjoint(y))

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return Compose(self.A._in(dtype), self.B._in(dtype))

    def _known_norm(self) -> float | None:
        """|A^T A| = |A|^2."""
        pair = self.B.T is self.A or self.A.T is self.B
        known = self.B._known_norm() if pair else None
        return None if known is None else known**2


class Sum(Operator):
    """A + B, of equal shapes and dtype."""

    def __init__(self, A: Operator, B: Operator) -> None:
        _operators(A, B)
        same(A.input_shape, B.input_shape, "inputs are")
        same(A.output_shape, B.output_shape, "outputs are")
        A, B = one_dtype(A, B)
        self.A, self.B = A, B
        self.input_shape, self.output_shape, self.dtype = A.input_shape, A.output_shape, A.dtype
        self._open_dtype = A._open_dtype and B._open_dtype

    def _forward(self, x: Value) -> Value:
        return self.A._forward(x) + self.B._forward(x)

    def _adjoint(self, y: Value) -> Value:
        return self.A._adjoint(y) + self.B._adjoint(y)

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return Sum(self.A._in(dtype), self.B._in(dtype))


class Scaled(Operator):
    """factor * A."""

    def __init__(self, A: Operator, factor: float) -> None:
        _operators(A)
        self.A, self.factor = A, number_of(factor, "factor")
        self.input_shape, self.output_shape, self.dtype = A.input_shape, A.output_shape, A.dtype
        self._open_dtype = A._open_dtype

    def _forward(self, x: Value) -> Value:
        scaled: Value = self.A._forward(x) * self.dtype.type(self.factor)
        return scaled

    def _adjoint(self, y: Value) -> Value:
        scaled: Value = self.A._adjoint(y) * self.dtype.type(self.factor)
        return scaled

    def _in(self, dtype: np.dtype[Any]) -> Operator:
        return Scaled(self.A._in(dtype), self.factor)

    def _known_norm(self) -> float | None:
        known = self.A._known_norm()
        return None if known is None else abs(self.factor) * known


def _operators(*given: object) -> None:
    for value in given:
        if not isinstance(value, Operator):
            raise DTypeError(f"an operator of preimage.linop is wanted, got {type(value).__name__}")


def one_dtype(*operators: Operator) -> tuple[Operator, ...]:
    """All in one dtype: those that were asked for no dtype take the others'. Raises: DTypeError where two differ, and for what is no operator."""
    _operators(*operators)
    fixed = {A.dtype for A in operators if not A._open_dtype} or {A.dtype for A in operators}
    if len(fixed) > 1:
        raise DTypeError(f"the operators work in different dtypes: {' and '.join(sorted(map(str, fixed)))}")
    return tuple(A if A.dtype in fixed else A._in(next(iter(fixed))) for A in operators)
