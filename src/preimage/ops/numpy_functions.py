"""NumPy's functions on Tensors: `np.exp(t)`, `np.mean(t, axis=0)`, `np.concatenate([t, u])`.

A function that is an operation here gives a Tensor and records, as the operation does. Any other works on the values and gives what it
gives for arrays, so a plain result says that no gradient goes through it. `out=` takes the values of a result that records nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of, install_methods, is_grad_enabled
from preimage.errors import GraphError, OptionError, PreimageError, ShapeError
from preimage.ops import activation, broadcast, exponentials, pointwise, reduce, shape, trigonometry
from preimage.ops.linear import matmul
from preimage.ops.operands import flag_of

__all__ = ["into", "reduction"]

_UNSET: Any = type("_Unset", (), {"__repr__": lambda self: "<not given>"})()


def into(result: Any, out: Any) -> Any:
    """The result itself, or `out` with its values.

    Raises: GraphError for a result that records: the array would not know its gradient; OptionError for an `out` that is no array.
    """
    if out is None or out is _UNSET:
        return result
    (target,) = out if isinstance(out, tuple) and len(out) == 1 else (out,)
    if not isinstance(target, np.ndarray):
        raise OptionError(f"out must be a NumPy array, got {type(target).__name__}; Tensors are not written to")
    if isinstance(result, Tensor) and result.requires_grad:
        raise GraphError("out= would lose the gradient of a result that records; leave it out, or compute on t.detach()")
    values = np.asarray(array_of(result))
    if target.shape != values.shape:
        raise ShapeError(f"out has shape {target.shape}, the result {values.shape}")
    if not np.can_cast(values.dtype, target.dtype, "same_kind"):
        raise OptionError(f"out has dtype {target.dtype}, which does not take {values.dtype}")
    np.copyto(target, values, casting="same_kind")
    return target


# -- reductions, under NumPy's keywords and PyTorch's -------------------------------------------------------------------


def reduction(operation: Callable[..., Any], plain: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A method of Tensor from an operation over axes: `t.mean(axis, keepdims)`, with NumPy's dtype= and out= and PyTorch's dim= and
    keepdim=. plain: NumPy's function, for initial= and where=, which work on values.
    """
    name = operation.__name__

    def method(
        x: Any, axis: Any = None, keepdims: Any = False, *, dim: Any = _UNSET, keepdim: Any = _UNSET, dtype: Any = None,
        out: Any = None, initial: Any = _UNSET, where: Any = _UNSET, **options: Any,
    ) -> Any:  # fmt: skip
        axis = axis if dim is _UNSET else dim
        keepdims = keepdims if keepdim is _UNSET else keepdim
        if keepdims is _UNSET or keepdims is np._NoValue:
            keepdims = False
        keepdims = flag_of(keepdims, f"{name}: keepdims")
        if dtype is not None:
            x = broadcast.astype(x, dtype)
        extra = {k: v for k, v in (("initial", initial), ("where", where)) if v is not _UNSET and v is not np._NoValue}
        if not extra:
            return into(operation(x, axis, keepdims=keepdims, **options), out)
        if plain is None or _records(x):
            raise OptionError(
                f"{name}: no gradient goes through {' and '.join(extra)}; select with ops.where first, or use t.numpy()"
            )
        try:
            return into(Tensor(plain(array_of(x), axis=axis, keepdims=keepdims, **extra)), out)
        except (TypeError, ValueError) as error:  # what NumPy says of its own keywords
            if isinstance(error, PreimageError):
                raise
            raise OptionError(f"{name}: {error}") from None

    method.__name__, method.__doc__ = name, operation.__doc__
    return method


def _spread_method(operation: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """As `reduction`, for var and std, whose correction NumPy calls ddof too."""
    method = reduction(operation, plain)

    def call(x: Any, axis: Any = None, keepdims: Any = False, correction: Any = 0, *, ddof: Any = _UNSET, **options: Any) -> Any:
        return method(x, axis, keepdims, correction=correction if ddof is _UNSET else ddof, **options)

    call.__name__, call.__doc__ = operation.__name__, operation.__doc__
    return call


REDUCTIONS: dict[str, Callable[..., Any]] = {
    **{name: reduction(getattr(reduce, name), getattr(np, name)) for name in ("sum", "mean", "max", "min", "prod")},
    **{name: _spread_method(getattr(reduce, name), getattr(np, name)) for name in ("var", "std")},
    **{name: reduction(getattr(reduce, name)) for name in ("argmax", "argmin")},
    "logsumexp": reduction(exponentials.logsumexp),
}


def _with_dtype(method: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's order of arguments: a, axis, dtype, out, keepdims."""
    return lambda a, axis=None, dtype=None, out=None, *rest, **options: (
        method(a, axis, *rest[1:], ddof=rest[0], dtype=dtype, out=out, **options)  # var and std: ddof comes before keepdims
        if rest and method.__name__ in ("var", "std")
        else method(a, axis, *rest, dtype=dtype, out=out, **options)
    )


def _without_dtype(method: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's order of arguments: a, axis, out, keepdims."""
    return lambda a, axis=None, out=None, *rest, **options: method(a, axis, *rest, out=out, **options)


# -- functions ---------------------------------------------------------------------------------------------------------


def _concatenate(arrays: Any, axis: Any = 0, out: Any = None, **options: Any) -> Any:
    if options:
        return np.concatenate([np.asarray(array_of(a)) for a in arrays], axis, out, **options)
    parts = list(arrays)
    return into(shape.concat([shape.reshape(p, -1) for p in parts] if axis is None else parts, axis or 0), out)


def _where(condition: Any, *values: Any) -> Any:
    return pointwise.where(array_of(condition), *values) if values else np.where(array_of(condition))


def _along(operation: Callable[..., Any], x: Any, amount: Any, axis: Any) -> Any:
    """repeat, roll and take without an axis go over the flat array."""
    if axis is None:
        flat = operation(shape.reshape(x, -1), amount, 0)
        return shape.reshape(flat, x.shape) if operation is shape.roll else flat
    return operation(x, amount, axis)


def _dot(a: Any, b: Any, out: Any = None) -> Any:
    ndims = np.ndim(array_of(a)), np.ndim(array_of(b))
    if 0 in ndims:
        return into(pointwise.multiply(a, b), out)
    if ndims[1] > 2:  # every row of a meets every matrix of b, whose axes follow those of a
        rows = shape.reshape(a, (-1, np.shape(array_of(a))[-1]))
        product = shape.moveaxis(matmul(rows, b), -2, 0)
        return into(shape.reshape(product, (*np.shape(array_of(a))[:-1], *product.shape[1:])), out)
    return into(matmul(a, b), out)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Any:
    lo, hi = (a_min if min is None else min), (a_max if max is None else max)
    if all(v is None or (np.ndim(array_of(v)) == 0 and not isinstance(v, Tensor)) for v in (lo, hi)):
        return into(pointwise.clip(a, *(None if v is None else float(v) for v in (lo, hi))), out)
    a = a if lo is None else pointwise.maximum(a, lo)
    return into(a if hi is None else pointwise.minimum(a, hi), out)


def _reshape(a: Any, shape_: Any = None, *, shape: Any = None, **options: Any) -> Any:
    if options.get("order", "C") != "C":
        return np.reshape(np.asarray(array_of(a)), shape if shape_ is None else shape_, **options)
    return _reshape_op(a, shape if shape_ is None else shape_)


_reshape_op = shape.reshape


def _rows(arrays: Any) -> Any:
    """vstack: vectors are rows."""
    return shape.concat([shape.reshape(p, (1, -1)) if np.ndim(array_of(p)) < 2 else p for p in arrays], 0)


def _columns(arrays: Any) -> Any:
    """hstack: along the second axis, vectors along their only one."""
    parts = [shape.reshape(p, -1) if np.ndim(array_of(p)) == 0 else p for p in arrays]
    return shape.concat(parts, 0 if parts and np.ndim(array_of(parts[0])) == 1 else 1)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: _with_dtype(REDUCTIONS["sum"]),
    np.mean: _with_dtype(REDUCTIONS["mean"]),
    np.prod: _with_dtype(REDUCTIONS["prod"]),
    np.var: _with_dtype(REDUCTIONS["var"]),
    np.std: _with_dtype(REDUCTIONS["std"]),
    np.max: _without_dtype(REDUCTIONS["max"]),
    np.amax: _without_dtype(REDUCTIONS["max"]),
    np.min: _without_dtype(REDUCTIONS["min"]),
    np.amin: _without_dtype(REDUCTIONS["min"]),
    np.argmax: _without_dtype(REDUCTIONS["argmax"]),
    np.argmin: _without_dtype(REDUCTIONS["argmin"]),
    np.reshape: _reshape,
    np.ravel: lambda a, order="C": _reshape(a, -1, order=order),
    np.transpose: lambda a, axes=None: shape.transpose(a) if axes is None else shape.transpose(a, axes),
    np.moveaxis: shape.moveaxis,
    np.swapaxes: shape.swapaxes,
    np.squeeze: shape.squeeze,
    np.expand_dims: shape.expand_dims,
    np.broadcast_to: lambda array, shape, **_: broadcast.broadcast_to(array, shape),
    np.concatenate: _concatenate,
    np.stack: lambda arrays, axis=0, out=None: into(shape.stack(list(arrays), axis), out),
    np.vstack: _rows,
    np.hstack: _columns,
    np.flip: lambda m, axis=None: shape.flip(m, axis),
    np.roll: lambda a, shift, axis=None: _along(shape.roll, a, shift, axis),
    np.repeat: lambda a, repeats, axis=None: _along(shape.repeat, a, repeats, axis),
    np.tile: lambda A, reps: shape.tile(A, reps),
    np.take: lambda a, indices, axis=None, out=None: into(_along(shape.take, a, indices, axis), out),
    np.where: _where,
    np.clip: _clip,
    np.dot: _dot,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.copy: lambda a, **_: pointwise.multiply(a, 1.0),
}


def _values(value: Any) -> Any:
    """The arguments with arrays in place of Tensors, also inside lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return value.data
    if type(value) in (list, tuple):
        return type(value)(_values(v) for v in value)
    if type(value) is dict:
        return {k: _values(v) for k, v in value.items()}
    return value


def _records(value: Any) -> bool:
    if type(value) in (list, tuple):
        return any(_records(v) for v in value)
    return isinstance(value, Tensor) and value.requires_grad and is_grad_enabled()


def _array_function(self: Tensor, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
    handler = _FUNCTIONS.get(function)
    if handler is not None:
        try:
            return handler(*args, **kwargs)
        except TypeError as error:  # a keyword that NumPy's own function alone has
            if isinstance(error, PreimageError):
                raise
            if _records(args):
                raise OptionError(f"np.{function.__name__} of a Tensor that records: {error}; t.numpy() has the values") from None
    return function(*_values(args), **_values(kwargs))


# -- universal functions -----------------------------------------------------------------------------------------------

_UFUNCS: dict[Any, Callable[..., Any]] = {
    np.add: pointwise.add,
    np.subtract: pointwise.subtract,
    np.multiply: pointwise.multiply,
    np.divide: pointwise.divide,
    np.power: pointwise.power,
    np.float_power: pointwise.power,
    np.negative: pointwise.negative,
    np.positive: lambda x: x,
    np.absolute: pointwise.abs,
    np.fabs: pointwise.abs,
    np.exp: pointwise.exp,
    np.expm1: pointwise.expm1,
    np.log: pointwise.log,
    np.log1p: pointwise.log1p,
    np.sqrt: pointwise.sqrt,
    np.square: pointwise.square,
    np.reciprocal: pointwise.reciprocal,
    np.sin: pointwise.sin,
    np.cos: pointwise.cos,
    np.arccos: trigonometry.arccos,
    np.arccosh: trigonometry.arccosh,
    np.arcsin: trigonometry.arcsin,
    np.arcsinh: trigonometry.arcsinh,
    np.arctan: trigonometry.arctan,
    np.arctanh: trigonometry.arctanh,
    np.cosh: trigonometry.cosh,
    np.sinh: trigonometry.sinh,
    np.tan: trigonometry.tan,
    np.tanh: activation.tanh,
    np.sign: pointwise.sign,
    np.maximum: pointwise.maximum,
    np.minimum: pointwise.minimum,
    np.matmul: matmul,
}

_REDUCES = {np.add: "sum", np.multiply: "prod", np.maximum: "max", np.minimum: "min"}


def _array_ufunc(self: Tensor, ufunc: Any, way: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
    operation = _UFUNCS.get(ufunc)
    if way == "__call__" and operation is not None and not options:
        if out is not None and out[0] is inputs[0] and any(_records(v) for v in inputs):
            # `array += t`, which NumPy spells with out=: the name goes on as a Tensor that records, of values that stay as they were
            result = operation(np.array(inputs[0]), *inputs[1:])
            into(array_of(result), out)
            return result
        return into(operation(*inputs), out)
    if way == "reduce" and ufunc in _REDUCES:
        options.setdefault("axis", 0)
        return REDUCTIONS[_REDUCES[ufunc]](inputs[0], out=out, **options)
    if any(isinstance(o, Tensor) for o in out or ()):
        raise OptionError("out must be a NumPy array; Tensors are not written to")
    given = {**_values(options), **({} if out is None else {"out": out})}
    return getattr(ufunc, way)(*_values(inputs), **given)


class _ForUfuncs:
    """Tensor.__array_ufunc__: NumPy asks the class for it. Masked arrays ask the object, and would compute on its values, without its
    gradient and past the refusal of masks; None there makes them give way to Tensor's operators.
    """

    def __get__(self, tensor: Tensor | None, kind: type | None = None) -> Any:
        return _array_ufunc if tensor is None else None

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _array_ufunc(*args, **options)


install_methods({"__array_ufunc__": _ForUfuncs(), "__array_function__": _array_function, **REDUCTIONS})
