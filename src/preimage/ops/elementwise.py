"""Forward functions that look at one element of each argument: by one generated kernel, however many steps they take.

    square_root = Elementwise("sqrt", np.sqrt, exact=True)          # a step of `engines/ir/elementwise.py`, and its definition in NumPy
    line = Elementwise((("mul", (0, 1)), ("add", (4, 2)), ...), f, numbers=("alpha", "beta", 0.0, 1.0))

A call whose like came before is one function of the engine: nothing is looked up but that. `exact` says that every step is rounded as NumPy
rounds it: then NumPy computes few elements until a call has come several times, since a kernel has to be loaded first. Else kernels compute
arrays of every size, and NumPy only where there are none.

    slope = fused(lambda g, ans, x: multiply(g, multiply(sigmoid(x), sigmoid(negative(x)))))

An expression of such operations is itself one kernel, with the same bits, where all that it takes are arrays: it is called once with
Symbols, which write the steps down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, cast

import numpy as np

from preimage.autograd import Primitive, Spec, Tensor
from preimage.autograd.modes import is_grad_enabled, observer
from preimage.engines import around
from preimage.engines.decisions import Shortcuts
from preimage.ops.operands import Array, broadcast_shape, narrow, operand, operands, widened
from preimage.settings import current
from preimage.typing import Value

__all__ = ["Elementwise", "Symbol", "beside", "binary", "exact", "fused", "generated", "unary", "unary_with", "unrecorded"]

#: So many calls alike of few elements are NumPy's before a kernel is loaded for them.
REPEATS = 16
MOST = 1024
_WIDE = frozenset(np.dtype(t) for t in (np.float32, np.float64))
_NARROW = np.dtype(np.float32)
_LARGEST = float(np.finfo(np.float32).max)

Steps = tuple[tuple[str, tuple[int, ...]], ...]


def number_array(value: object, dtype: np.dtype[Any]) -> Array | None:
    """A plain number in a dtype, where that is float32 or float64 and the number is finite there; else None."""
    if (type(value) is float or type(value) is int) and dtype in _WIDE and -_LARGEST <= value <= _LARGEST:
        return np.array(value, dtype)
    return None


def options_key(params: dict[str, Any]) -> Any:
    """What tells options apart, -0.0 from 0.0 too."""
    values = tuple(params.values())
    return values if all(values) else repr(values)


def unrecorded(*values: Any) -> tuple[Array, ...] | None:
    """The arrays of values of which some are Tensors, where nobody records or observes what is computed of them; else None."""
    if observer() is not None:
        return None
    arrays, recording = [], is_grad_enabled()
    for value in values:
        array = value
        if isinstance(value, Tensor):
            if recording and value.requires_grad:
                return None
            array = value._data
        if type(array) is not np.ndarray:
            return None
        arrays.append(array)
    return tuple(arrays)


def beside(a: Any, b: Any) -> tuple[Array, Array] | None:
    """Two arrays, of which one may be given as a number; None where neither is an array, or it does not go so."""
    if type(a) is np.ndarray:
        if type(b) is np.ndarray:
            return a, b
        number = number_array(b, a.dtype)
        return None if number is None else (a, number)
    if type(b) is np.ndarray:
        number = number_array(a, b.dtype)
        return None if number is None else (number, b)
    return None


def binary(name: str, a: Any, b: Any, op: Primitive) -> Value:
    """Call a primitive of two broadcasting arguments, whose forward function is elementwise."""
    forward: Any = op.forward
    both = beside(a, b)
    made: Any
    if both is not None:
        one, other = both
        call = forward.calls.get((id(current()), one.shape, one.strides, one.dtype, other.shape, other.strides, other.dtype))
        if call is not None and (made := call(one, other)) is not None:
            return cast(Value, made)
    elif type(a) is Symbol or type(b) is Symbol:
        return cast(Value, forward.then(a, b))
    elif (isinstance(a, Tensor) or isinstance(b, Tensor)) and (arrays := unrecorded(a, b)) is not None:
        made = binary(name, arrays[0], arrays[1], op)
        return Tensor._result(made, None)
    a, b = operands(name, a, b)
    broadcast_shape(name, a.shape, b.shape)
    return op(a, b)


def unary(op: Primitive, x: Any) -> Value:
    """Call a primitive of one argument, whose forward function is elementwise."""
    forward: Any = op.forward
    made: Any
    if type(x) is np.ndarray:
        call = forward.calls.get((id(current()), x.shape, x.strides, x.dtype))
        if call is not None and (made := call(x)) is not None:
            return cast(Value, made)
    elif type(x) is Symbol:
        return cast(Value, forward.then(x))
    elif isinstance(x, Tensor) and (arrays := unrecorded(x)) is not None:
        made = unary(op, arrays[0])
        return Tensor._result(made, None)
    return op(operand(x, "x"))


def unary_with(op: Primitive, x: Any, **params: Any) -> Value:
    """The same with options."""
    forward: Any = op.forward
    if type(x) is np.ndarray:
        made = forward.again(x, **params)
        if made is not None:
            return cast(Value, made)
    elif type(x) is Symbol:
        return cast(Value, forward.then(x, **params))
    return op(operand(x, "x"), **params)


def generated(word: str, function: Callable[..., Any], arrays: int = 1) -> Elementwise:
    """`function` by the generated kernel of that word, whose bits no CPU changes."""
    return Elementwise(word, function, arrays=arrays)


def exact(word: str, function: Callable[..., Any], arrays: int = 1) -> Elementwise:
    """`function`, whose every element is one rounding or none: by the generated kernel of that word, with the same bits."""
    return Elementwise(word, function, arrays=arrays, exact=True)


class Elementwise:
    """See this module's text. numbers: of the steps, each a float or the name of a parameter; mask: whether the first array is a mask."""

    __slots__ = ("_came", "_define", "calls", "exact", "mask", "names", "steps")

    is_silent = True  #: NumPy's warnings are off where NumPy computes

    def __init__(
        self, steps: str | Steps, define: Callable[..., Any], numbers: Sequence[float | str] = (), *, arrays: int = 1,
        exact: bool = False, mask: bool = False,
    ) -> None:  # fmt: skip
        """define: takes the arrays, and the parameters by name."""
        self.steps = ((steps, tuple(range(arrays + len(numbers)))),) if isinstance(steps, str) else steps
        self.names, self.exact, self.mask, self._define = tuple(numbers), exact, mask, define
        #: By what calls are known by: what runs them, and how many of few elements came.
        self.calls: Shortcuts[Any, Callable[..., Array | None]] = Shortcuts(MOST)
        self._came: Shortcuts[Any, int] = Shortcuts(MOST)

    def numbers(self, params: dict[str, Any]) -> tuple[float, ...]:
        """The numbers of the steps of a call with these parameters."""
        return tuple([params[n] if isinstance(n, str) else n for n in self.names])

    def _key(self, arrays: Sequence[Array], params: dict[str, Any]) -> Any:
        settings = id(current())
        if len(arrays) == 1:
            x = arrays[0]
            if not params:
                return settings, x.shape, x.strides, x.dtype
            return settings, x.shape, x.strides, x.dtype, options_key(params)
        if len(arrays) == 2 and not params:
            a, b = arrays
            return settings, a.shape, a.strides, a.dtype, b.shape, b.strides, b.dtype
        return (settings, *[(a.shape, a.strides, a.dtype) for a in arrays], options_key(params))

    def again(self, *arrays: Array, **params: Any) -> Array | None:
        """What the function gives of NumPy's own arrays, where a call like this came before; else None, and nothing was done."""
        call = self.calls.get(self._key(arrays, params))
        return None if call is None else call(*arrays)

    def __call__(self, *arrays: Array, **params: Any) -> Array:
        key = self._key(arrays, params)
        call = self.calls.get(key)
        if call is not None and (made := call(*arrays)) is not None:
            return made
        kind = arrays[-1].dtype
        computed = kind if kind.itemsize > 2 else _NARROW
        if all(type(a) is np.ndarray for a in arrays) and all(a.dtype == kind for a in arrays[self.mask :]):
            numbers = self.numbers(params)
            few = self.exact and max([a.size for a in arrays]) < around.LEAST_CHAIN
            least = around.LEAST_CHAIN if self.exact else 1
            if few and not around.records():
                came = self._came.get(key, 0)
                self._came.keep(key, came + 1)
                least = 1 if came >= REPEATS else least
            if (made := self._generated(arrays, numbers, computed, kind, least)) is not None:
                if not around.records() and (ready := around.ready(arrays, self.steps, numbers, computed, kind)) is not None:
                    self.calls.keep(key, ready)
                return made
        with np.errstate(all="ignore"):
            wide = [a if self.mask and k == 0 else widened(a) for k, a in enumerate(arrays)]
            return narrow(self._define(*wide, **params), arrays[-1])

    def _generated(self, arrays: Sequence[Array], numbers: Sequence[float], computed: Any, kind: Any, least: int) -> Array | None:
        if self.mask or computed is not kind:
            return around.mixed(arrays, self.steps, computed, kind, numbers, least)
        made = around.chain(arrays, self.steps, numbers, None, least)
        return None if made is None else made[0]

    def then(self, *values: Any, **params: Any) -> Symbol:
        """The function of Symbols and numbers: its steps written down behind theirs."""
        trace = next(v.trace for v in values if isinstance(v, Symbol))
        return trace.inlined(self.steps, [*values, *self.numbers(params)])


class Trace:
    """Steps that are written down. A place is ("array", k), ("number", k) or ("step", k) until all are known."""

    def __init__(self) -> None:
        self.numbers: list[float] = []
        self.steps: list[tuple[str, tuple[tuple[str, int], ...]]] = []

    def place(self, value: Any) -> tuple[str, int]:
        if isinstance(value, Symbol):
            return value.place
        self.numbers.append(float(value))
        return "number", len(self.numbers) - 1

    def inlined(self, steps: Steps, given: Sequence[Any]) -> Symbol:
        """Steps whose first places are the given values. Gives the last one's value."""
        places = [self.place(v) for v in given]
        for word, own in steps:
            self.steps.append((word, tuple([places[p] for p in own])))
            places.append(("step", len(self.steps) - 1))
        return Symbol(self, places[-1])

    def resolved(self, arrays: int) -> Steps:
        """The steps with their places as a chain of so many arrays has them."""
        first = {"array": 0, "number": arrays, "step": arrays + len(self.numbers)}
        return tuple([(word, tuple([first[kind] + k for kind, k in operands])) for word, operands in self.steps])


class Symbol:
    """A value of a trace. Comparisons give one too, an answer."""

    __slots__ = ("place", "trace")

    def __init__(self, trace: Trace, place: tuple[str, int]) -> None:
        self.trace, self.place = trace, place

    def _asked(self, word: str, other: Any) -> Symbol:
        return self.trace.inlined(((word, (0, 1)),), (self, other))

    def __gt__(self, other: Any) -> Symbol:
        return self._asked("greater", other)

    def __ge__(self, other: Any) -> Symbol:
        return self._asked("greater_equal", other)

    def __lt__(self, other: Any) -> Symbol:
        return self._asked("less", other)

    def __le__(self, other: Any) -> Symbol:
        return self._asked("less_equal", other)

    def __and__(self, other: Any) -> Symbol:
        return self._asked("and", other)

    def __or__(self, other: Any) -> Symbol:
        return self._asked("or", other)


def fused(expression: Callable[..., Any]) -> Callable[..., Any]:
    """The expression as one kernel, where its arguments are arrays of one dtype, float32 or float64 (or nothing: a Spec, None)."""
    made: Shortcuts[Any, Elementwise] = Shortcuts(MOST)

    @wraps(expression)
    def call(*values: Any, **params: Any) -> Any:
        taken = [k for k, v in enumerate(values) if v is not None and type(v) is not Spec]
        arrays = [values[k] for k in taken]
        first = arrays[0]
        for a in arrays:
            if type(a) is not np.ndarray or a.dtype not in _WIDE or a.dtype != first.dtype:
                return expression(*values, **params)
        key = (tuple(taken), first.dtype, options_key(params))
        function = made.get(key)
        if function is None:
            function = _traced(expression, [None if k in taken else v for k, v in enumerate(values)], taken, params)
            made.keep(key, function)
        return function(*arrays)

    return call


def _traced(expression: Callable[..., Any], others: list[Any], taken: Sequence[int], params: dict[str, Any]) -> Elementwise:
    """The expression of arrays, which come at the places `taken` among the other arguments."""

    def filled(arrays: Sequence[Any]) -> list[Any]:
        values = list(others)
        for k, a in zip(taken, arrays, strict=True):
            values[k] = a
        return values

    trace = Trace()
    result = expression(*filled([Symbol(trace, ("array", k)) for k in range(len(taken))]), **params)
    assert result.place == ("step", len(trace.steps) - 1)
    return Elementwise(
        trace.resolved(len(taken)),
        lambda *arrays: expression(*filled(arrays), **params),
        trace.numbers,
        arrays=len(taken),
        exact=True,
    )
