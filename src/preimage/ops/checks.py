"""The checks that a user of the library runs on functions and operators of their own: gradients and adjoints.

    check_grads     <c, f(x + h v)> differentiated numerically along random v  ==  <gradient of <c, f>, v>
    check_adjoint   <A x, y> == <x, A^T y>  for random x and y

Cotangents and directions are random: a check with ones would let a flipped or swapped gradient pass. Tolerances are relative
and follow the dtype. The test suite proves that both fail on wrong gradients (tests/test_the_checks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preimage.autograd import Tensor, array_of, grad, is_real
from preimage.errors import CheckError, OptionError, ShapeError
from preimage.ops.operands import count_of, entries, number_of
from preimage.typing import Array, Operand, Value

__all__ = ["check_adjoint", "check_grads"]


class SupportsMatmul(Protocol):
    """An operator: of preimage.linop, of SciPy, or a sparse matrix."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def dot(self, other: Any, /) -> Any: ...


#: What can be asked for its adjoint: an operator (of preimage.linop or SciPy), a matrix, or a linear function.
Linear: TypeAlias = SupportsMatmul | Array | Callable[[Tensor], Value]
#: Relative tolerances: (first derivatives, second derivatives, adjoint) by the size of the dtype in bytes.
_TOLERANCES = {8: (1e-7, 1e-5, 1e-12), 4: (2e-3, 2e-2, 1e-5), 2: (1e-1, 3e-1, 2e-2)}


def _tolerance(dtype: np.dtype[Any], which: int) -> float:
    return _TOLERANCES[min(8, max(2, np.dtype(dtype).itemsize))][which]


def _wide(value: Operand) -> NDArray[np.float64]:
    return np.asarray(np.asarray(array_of(value)), np.float64)


def _random_like(rng: np.random.Generator, a: Array | Tensor) -> NDArray[Any]:
    return np.asarray(rng.standard_normal(a.shape)).astype(a.dtype)


def _listed(outputs: Any) -> list[Any]:
    """The results of a function that gives one, or several."""
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _contracted(f: Callable[..., Any], args: Sequence[Any], cotangents: Sequence[Any]) -> float:
    outputs = _listed(f(*args))
    return float(sum(np.sum(_wide(o) * _wide(c)) for o, c in zip(outputs, cotangents, strict=True)))


def _slope(value: Callable[[float], float], h: float) -> float:
    """The derivative at 0 by differences of fourth order."""
    return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)


def _check_first(
    f: Callable[..., Any], args: list[Any], which: Sequence[int], rng: np.random.Generator, trials: int, rtol: float, what: str
) -> None:
    tensors = [Tensor(a, requires_grad=k in which) if k in which else a for k, a in enumerate(args)]
    outputs = f(*tensors)
    several = isinstance(outputs, (tuple, list))
    outs = list(outputs) if several else [outputs]
    cotangents = [_random_like(rng, o) for o in outs]
    recorded = [(o, c) for o, c in zip(outs, cotangents, strict=True) if isinstance(o, Tensor) and o.requires_grad]
    leaves = [tensors[k] for k in which]
    if not recorded:
        raise CheckError(f"{what}: the function recorded nothing: no result depends on arguments {tuple(which)} as a Tensor")
    grads = grad([o for o, _ in recorded], leaves, [c for _, c in recorded], allow_unused=True, retain_graph=True)
    for k, g in zip(which, grads, strict=True):
        a = args[k]
        if g is not None and (g.shape != a.shape or g.dtype != a.dtype):
            raise CheckError(f"{what}: the gradient of argument {k} has {g.shape} {g.dtype}, the argument {a.shape} {a.dtype}")
        if not a.size:
            continue
        h = float(np.finfo(np.float16 if a.dtype.itemsize == 2 else a.dtype).eps) ** 0.2
        # A kink between -2h and 2h (a relu's argument that crosses 0) spoils the differences, not the gradient. In float64
        # smaller steps are still exact enough to see past it; a wrong gradient is off at every step.
        steps = (h, h / 32, h / 1024) if a.dtype.itemsize == 8 else (h,)
        for _ in range(trials):
            v = rng.standard_normal(a.shape)
            v *= max(1.0, float(np.sqrt(np.mean(_wide(a) ** 2)))) / (np.sqrt(np.sum(v * v)) or 1.0)

            def value(step: float, k: int = k, a: Any = a, v: Any = v) -> float:
                moved = list(args)
                moved[k] = (_wide(a) + step * v).astype(a.dtype)
                return _contracted(f, moved, cotangents)

            analytic = 0.0 if g is None else float(np.sum(_wide(g) * v))
            scale = 0.0 if g is None else float(np.sqrt(np.sum(_wide(g) ** 2) * np.mean(v * v)))
            for step in steps:
                numeric = _slope(value, step)
                size = max(abs(numeric), abs(analytic), scale)
                if abs(numeric - analytic) <= rtol * size + np.finfo(np.float64).tiny:
                    break
            else:
                raise CheckError(
                    f"{what}: along a random direction of argument {k} (shape {a.shape}, {a.dtype}) the gradient says"
                    f" {analytic:.9g}, differences say {numeric:.9g}; off by {abs(numeric - analytic) / (size or 1):.2e}"
                    f" relative, allowed {rtol:.1e}"
                )


def check_grads(
    f: Callable[..., Value | Sequence[Value]],
    args: Sequence[Operand],
    *,
    order: int = 2,
    argnums: int | Sequence[int] | None = None,
    rtol: float | None = None,
    trials: int = 3,
    seed: int = 0,
) -> None:
    """Compare the gradients of f, in reverse mode, with differences of its values; with order=2 second derivatives too.

    Shapes: `args` are float arrays or Tensors of any shape; f(*args) gives a Tensor, or several. `argnums` narrows the arguments
        that are checked.
    Definition: for random c and v, d/dh <c, f(x + h v)> at h = 0 by differences of fourth order, against <gradient, v>. The
        second order is the same check on the function x -> gradient of <c, f>(x).
    Cost: 4 calls of f per argument and trial, and one reverse sweep; about four times that for order=2.
    Raises: CheckError (also an AssertionError) that names the argument and both numbers; OptionError for another order.

    Use float64: the tolerance (relative, `rtol`) is 1e-7 there, and 2e-3 in float32. A kink close to the data
    (a relu's argument near 0) is stepped around with smaller differences in float64 only.

    Example:
        >>> import numpy as np, preimage as pre
        >>> from preimage.ops.checks import check_grads
        >>> check_grads(lambda x, w: pre.conv(x, w, stride=2), [np.random.rand(2, 3, 7), np.random.rand(4, 3, 2)])
    """
    if not callable(f):
        raise OptionError(f"check_grads takes a function, got {type(f).__name__}")
    if isinstance(args, str | bytes) or not isinstance(args, list | tuple):
        raise OptionError(f"check_grads: args must be a list of arrays, got {type(args).__name__}")
    trials, seed = count_of(trials, "trials", 1), count_of(seed, "seed", 0)
    rtol = None if rtol is None else number_of(rtol, "rtol", least=0)
    if not isinstance(order, int) or order not in (1, 2):
        raise OptionError(f"order must be 1 or 2, got {order!r}")
    arrays = [Tensor(a).data if not isinstance(a, Tensor) else a.data for a in args]
    listed = entries(argnums)
    chosen = range(len(arrays)) if argnums is None else [argnums] if listed is None else listed
    which = tuple(count_of(k, "argnums", 0) for k in chosen)
    if not which or max(which) >= len(arrays):
        raise OptionError(f"argnums must name some of the {len(arrays)} arguments, got {argnums!r}")
    rng = np.random.default_rng(seed)
    narrowest = min((arrays[k].dtype for k in which), key=lambda d: d.itemsize)
    _check_first(f, arrays, which, rng, trials, _tolerance(narrowest, 0) if rtol is None else rtol, "first derivative")
    if order == 1:
        return
    probe = _listed(f(*arrays))
    cotangents = [_random_like(rng, np.asarray(array_of(o))) for o in probe]

    def gradients(*values: Any) -> list[Any]:
        leaves = [v if isinstance(v, Tensor) else Tensor(v, requires_grad=k in which) for k, v in enumerate(values)]
        outs = _listed(f(*leaves))
        found = grad(outs, [leaves[k] for k in which], cotangents, create_graph=True, allow_unused=True)
        return [Tensor(np.zeros_like(leaves[k].data)) if g is None else g for k, g in zip(which, found, strict=True)]

    depends = any(g.requires_grad for g in gradients(*[Tensor(a, requires_grad=k in which) for k, a in enumerate(arrays)]))
    if depends:  # else f is linear, and its second derivative is 0, which differences would have shown in the first
        _check_first(
            gradients, arrays, which, rng, trials, _tolerance(narrowest, 1) if rtol is None else rtol, "second derivative"
        )


def _pair(A: Any, x: Any, rng: np.random.Generator) -> tuple[Callable[[Any], Any], Callable[[Any], Any], Any]:
    """(forward, adjoint, x) of an operator, a matrix, a scipy LinearOperator, or a linear function of one argument."""
    if hasattr(A, "input_shape") and hasattr(A, "T"):
        if x is None:
            x = rng.standard_normal(A.input_shape).astype(A.dtype)
        return (lambda v: A @ v), (lambda v: A.T @ v), x
    if hasattr(A, "shape") and hasattr(A, "dot"):
        if isinstance(A, Tensor) or len(A.shape) != 2 or not is_real(np.dtype(A.dtype)):
            raise OptionError(f"check_adjoint takes a real matrix, got shape {A.shape} of {A.dtype}")
        if x is None:
            x = rng.standard_normal(A.shape[1]).astype(A.dtype)
        if hasattr(A, "rmatvec"):
            return A.matvec, A.rmatvec, x
        if np.shape(x) != (A.shape[1],):
            raise ShapeError(f"check_adjoint: x has shape {np.shape(x)}, the matrix takes ({A.shape[1]},)")
        return A.dot, A.T.dot, x
    if not callable(A):
        raise OptionError(f"check_adjoint takes an operator, a matrix or a linear function, got {type(A).__name__}")
    if x is None:
        raise OptionError("check_adjoint of a function needs x, an array of the shape and dtype that it takes")
    x = _random_like(rng, np.asarray(array_of(x)))

    def adjoint(y: Any) -> Any:
        leaf = Tensor(x, requires_grad=True)
        return grad(A(leaf), leaf, y).data

    return A, adjoint, x


def check_adjoint(A: Linear, x: Operand | None = None, *, rtol: float | None = None, trials: int = 3, seed: int = 0) -> None:
    """The dot test: <A x, y> == <x, A^T y> for random x and y.

    Shapes: A is an operator of preimage.linop (or any object with input_shape, dtype, @ and T), a matrix, a scipy
        LinearOperator, or a linear function; for a function, `x` says the shape and dtype, and its gradient is the adjoint.
    Definition: |<A x, y> - <x, A^T y>| <= rtol * max(|A x| |y|, |x| |A^T y|), with Euclidean norms.
    Cost: one A x and one A^T y a trial.
    Raises: CheckError (also an AssertionError) with both numbers; ShapeError where A^T y has not the shape of x.

    Example:
        >>> import numpy as np, preimage as pre
        >>> from preimage.ops.checks import check_adjoint
        >>> check_adjoint(lambda x: pre.ops.pad(x, 2, mode="reflect"), np.zeros((1, 1, 5, 6)))
    """
    trials, rtol = count_of(trials, "trials", 1), None if rtol is None else number_of(rtol, "rtol", least=0)
    rng = np.random.default_rng(count_of(seed, "seed", 0))
    for _ in range(trials):
        forward, adjoint, v = _pair(A, x, rng)
        Av = forward(v)
        y = _random_like(rng, np.asarray(array_of(Av)))
        back = adjoint(y)
        wide_x, wide_y, wide_Ax, wide_back = _wide(v), _wide(y), _wide(Av), _wide(back)
        if wide_back.shape != wide_x.shape:
            raise ShapeError(f"check_adjoint: A^T y has shape {wide_back.shape}, x has {wide_x.shape}")
        left, right = float(np.sum(wide_Ax * wide_y)), float(np.sum(wide_x * wide_back))
        norm = np.linalg.norm
        size = float(max(norm(wide_Ax) * norm(wide_y), norm(wide_x) * norm(wide_back)))
        allowed = _tolerance(v.dtype, 2) if rtol is None else rtol
        if not abs(left - right) <= allowed * size:
            raise CheckError(
                f"not adjoint: <A x, y> = {left:.12g}, <x, A^T y> = {right:.12g}; off by {abs(left - right) / (size or 1):.2e}"
                f" relative, allowed {allowed:.1e}"
            )
