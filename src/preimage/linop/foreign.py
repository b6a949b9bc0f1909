"""Matrices, and operators of SciPy and PyLops, as operators of this library."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from preimage.autograd import Primitive, primitive
from preimage.errors import DTypeError, ShapeError
from preimage.linop.operator import Operator
from preimage.typing import Array, Value

__all__ = ["Foreign", "aslinearoperator"]


class Foreign(Operator):
    """What has `shape`, and `matvec` and `rmatvec` or is a matrix: an operator of SciPy's or PyLops's, a matrix, sparse or dense.

    It works on arrays of `dims` and `dimsd` where it has these (PyLops), else on flat ones; Tensors are recorded. Real ones alone.
    """

    def __init__(self, A: object) -> None:
        self.A: Any = A
        shape = getattr(A, "shape", None)
        if not isinstance(shape, tuple) or len(shape) != 2 or isinstance(A, str | type):
            raise DTypeError(f"wanted a matrix, or an operator with shape and matvec, got {type(A).__name__}")
        dtype = np.dtype(getattr(A, "dtype", None) or np.float64)
        if dtype.kind not in "fiu":
            raise DTypeError(f"operators here are real, got one of dtype {dtype}")
        self.dtype = dtype if dtype in (np.float32, np.float64) else np.dtype(np.float64)
        self.output_shape, self.input_shape = self._sizes("dimsd", int(shape[0])), self._sizes("dims", int(shape[1]))

    def _sizes(self, name: str, count: int) -> tuple[int, ...]:
        sizes = getattr(self.A, name, None)
        given = tuple(int(n) for n in sizes) if isinstance(sizes, tuple | list) else (count,)
        return given if prod(given) == count else (count,)

    def apply(self, v: Array, *, adjoint: bool) -> Array:
        """A v, or its adjoint, of a flat array in the operator's dtype. Raises: ShapeError where A gives another shape than it says."""
        function = getattr(self.A, "rmatvec" if adjoint else "matvec", None)
        found = function(v) if callable(function) else (self.A.T if adjoint else self.A) @ v
        array = np.asarray(found)
        wanted = self.shape[1] if adjoint else self.shape[0]
        if array.size != wanted or array.dtype.kind not in "fiu":
            raise ShapeError(
                f"{type(self.A).__name__} gave an array of shape {array.shape} and {array.dtype}, wanted {wanted} real numbers"
            )
        return array.reshape(-1).astype(self.dtype, copy=False)

    def _forward(self, x: Value) -> Value:
        return _foreign(x, operator=self, adjoint=False)

    def _adjoint(self, y: Value) -> Value:
        return _foreign(y, operator=self, adjoint=True)


def _run(v: Any, *, operator: Foreign, adjoint: bool) -> Any:
    shape = operator.input_shape if adjoint else operator.output_shape
    return operator.apply(np.ascontiguousarray(v).reshape(-1), adjoint=adjoint).reshape(shape)


_foreign: Primitive = primitive(
    "operator",
    _run,
    [lambda g, ans, v, operator, adjoint: _foreign(g, operator=operator, adjoint=not adjoint)],
    saves=(),
    linear=(0,),
)


def aslinearoperator(A: object) -> Operator:
    """A as an operator of this library: matrices (dense, sparse), operators of scipy.sparse.linalg and PyLops; our own as they are.

    The other way nothing is needed: `scipy.sparse.linalg.aslinearoperator` and PyLops take our operators.

    Raises: DTypeError for what is none, and for complex ones.

    Example:
        >>> import numpy as np
        >>> from preimage import linop
        >>> A = linop.aslinearoperator(np.array([[1.0, 2.0], [0.0, 1.0], [0.0, 0.0]]))
        >>> (A.T @ A + 0.5 * linop.Identity((2,))).to_matrix().tolist()
        [[1.5, 2.0], [2.0, 5.5]]
    """
    return A if isinstance(A, Operator) else Foreign(A)
