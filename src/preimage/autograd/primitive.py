"""Declaring an operation: a forward function on arrays and one vector-Jacobian rule per argument.

    relu = primitive("relu", forward, [lambda g, ans, x: g * step(x)])

`forward(*args, **params)` sees arrays. Rule k is called as rule(g, ans, *args, **params), where g is the cotangent of the
result; it gives the cotangent of argument k and is written with operations, so that when g is a Tensor (create_graph) the
gradient itself is recorded, and derivatives of every order follow. Called without Tensors, an operation is just its
forward function. NumPy's floating-point warnings are off inside, and in the rules: what IEEE 754 gives (infinity, NaN) is the
answer, whatever the caller made of `numpy.seterr`.

What a rule needs is kept. `saves` narrows that: argument numbers, and "ans" for the result; every other argument reaches
the rules as a Spec (shape and dtype without data), so that an addition keeps nothing alive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preimage.autograd.device_arrays import DeviceArray
from preimage.autograd.modes import is_grad_enabled, observer
from preimage.autograd.tensor import Tensor
from preimage.autograd.traced import TracedArray, plain
from preimage.errors import GraphError
from preimage.floating_point import HALF, LEAST, MOST, SMALL, standard

__all__ = ["Node", "Primitive", "Spec", "primitive", "primitives"]

Array = NDArray[Any]
Value = Array | Tensor
Rule = Callable[..., Any]
Rules = Sequence[Rule | None] | Callable[[int], Rule | None]

_table: dict[str, Primitive] = {}


class Spec:
    """Shape and dtype of an argument whose data a rule does not need."""

    __slots__ = ("dtype", "ndim", "shape", "size")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self.size = math.prod(shape)


def _root(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _fingerprint(array: Array) -> bytes:
    """Sums of the raw bits over 64 stretches: cheap, and any change of a value shows (some reorderings do not)."""
    flat = array.ravel(order="K").view(np.uint8)
    whole = flat.size // 512 * 512
    sums = np.add.reduce(flat[:whole].view(np.uint64).reshape(64, -1), axis=1)
    made: bytes = sums.tobytes() + flat[whole:].tobytes()
    return made


class _Saved:
    """An argument or result kept for the rules, with what is needed to see that it was not changed meanwhile."""

    __slots__ = ("edge", "mark", "value")

    def __init__(self, value: Array, edge: Node | Tensor | None) -> None:
        self.value, self.edge = value, edge
        self.mark: Any
        if isinstance(value, DeviceArray):
            self.mark = value.version  # None, and nothing is seen, where the library counts no changes (CuPy)
        else:  # what an operation of ours made is read-only; anything else can be written to behind our back
            self.mark = _fingerprint(value) if _root(value).flags.writeable else None

    def _now(self) -> Any:
        return self.value.version if isinstance(self.value, DeviceArray) else _fingerprint(self.value)

    def load(self, op: Primitive, create_graph: bool) -> Any:
        edge = self.edge
        if (isinstance(edge, Tensor) and edge._data is not self.value) or (self.mark is not None and self.mark != self._now()):
            name = f" {edge.name!r}" if isinstance(edge, Tensor) and edge.name else ""
            raise GraphError(
                f"the gradient of {op.name} needs an array{name} of shape {self.value.shape} that was changed in place since the"
                " forward pass; change a copy, or run the forward pass again"
            )
        if not create_graph or edge is None:
            return self.value
        return edge if isinstance(edge, Tensor) else Tensor._result(self.value, edge)


class Node:
    """One recorded call: the operation, edges to what it was computed from, and what its rules need."""

    __slots__ = ("__weakref__", "ans", "args", "dtype", "edges", "op", "params", "shape")

    def __init__(self, op: Primitive, args: tuple[Any, ...], params: dict[str, Any], result: Array) -> None:
        self.op, self.params = op, params
        self.shape, self.dtype = result.shape, result.dtype
        self.edges = tuple([_edge(a) for a in args])  # lists: a generator is entered once more for every element
        self.args: tuple[Any, ...] | None = tuple(
            [op._keep(k, a, edge) for k, (a, edge) in enumerate(zip(args, self.edges, strict=True))]
        )
        self.ans: Array | None = result if op.saves_ans else None

    def cotangents(self, g: Any, wanted: Sequence[bool], create_graph: bool) -> list[Any]:
        """One cotangent per argument that is wanted; None for the others."""
        if self.args is None:
            raise GraphError(
                f"second backward through {self.op.name}: its saved arrays were freed by the first; pass retain_graph=True to keep them"
            )
        args = [a.load(self.op, create_graph) if isinstance(a, _Saved) else a for a in self.args]
        ans: Any = self.ans
        if create_graph and ans is not None:
            ans = Tensor._result(ans, self)
        results: list[Any] = []
        for k, want in enumerate(wanted):
            rule = self.op.rule(k) if want else None
            if want and rule is None:
                raise GraphError(f"{self.op.name} has no gradient with respect to argument {k}")
            results.append(rule(g, ans, *args, **self.params) if rule is not None else None)
        return results

    def free(self) -> None:
        """Drop what was kept for the rules; the edges stay."""
        self.args = self.ans = None


def _asks_gradient(args: Sequence[Any]) -> bool:
    """Whether an argument records. A loop: `any` enters its generator once more for every element."""
    for a in args:  # noqa: SIM110
        if isinstance(a, Tensor) and a.requires_grad:
            return True
    return False


def _is_view_of(root: Array, arrays: Sequence[Any]) -> bool:
    """Whether a result whose memory is `root` is a view of one of the arrays."""
    for a in arrays:  # noqa: SIM110
        if isinstance(a, np.ndarray) and _root(a) is root:
            return True
    return False


def _edge(value: Any) -> Node | Tensor | None:
    if not isinstance(value, Tensor) or not value.requires_grad:
        return None
    return value._node if value._node is not None else value


class Primitive:
    """A differentiable operation; call it with arrays or Tensors."""

    __slots__ = ("_rules", "_saves", "forward", "linear", "name", "on_device", "saves_ans")

    def __init__(
        self, name: str, forward: Callable[..., Any], rules: Rules, saves: Sequence[int | str] | None, linear: tuple[int, ...]
    ) -> None:
        self.name, self.forward, self._rules = name, forward, rules
        self._saves = None if saves is None else frozenset(s for s in saves if s != "ans")
        self.saves_ans = saves is None or "ans" in saves
        self.linear = linear
        #: The forward function on DeviceArrays, where there is one.
        self.on_device: Callable[..., Any] | None = None

    @property
    def saved(self) -> frozenset[int | str] | None:
        """The positions of the arguments that are kept for the rules; None for all."""
        return self._saves

    def rule(self, k: int) -> Rule | None:
        if callable(self._rules):
            return self._rules(k)
        return self._rules[k] if k < len(self._rules) else None

    def _keep(self, k: int, arg: Any, edge: Node | Tensor | None) -> Any:
        value: Any = arg._data if isinstance(arg, Tensor) else arg
        if isinstance(value, DeviceArray):
            value = value.kept()
        elif not isinstance(value, np.ndarray):
            return value
        if self._saves is not None and k not in self._saves:
            return Spec(value.shape, value.dtype)
        return _Saved(value, edge)

    def __call__(self, *args: Any, **params: Any) -> Value:
        one = LEAST * HALF * MOST
        if one + SMALL != one - SMALL:  # is_changed(), without the call
            with standard():
                return self(*args, **params)
        for a in args:
            if isinstance(a, Tensor) or type(a) is TracedArray:
                break
            if type(a) is DeviceArray:
                return self._call_on_device(args, params)
        else:  # a loop: `any` with its generator costs as much as all else here
            values: Array = self.forward(*args, **params)
            return values
        arrays = [a._data if isinstance(a, Tensor) else a for a in args]
        if DeviceArray in map(type, arrays):
            return self._call_on_device(args, params)
        watch = observer()
        if watch is None:
            result = np.asarray(self.forward(*arrays, **params))
        else:
            result = np.asarray(self.forward(*plain(arrays), **plain(params)))
        if is_grad_enabled() and _asks_gradient(args):
            root = _root(result)
            if not _is_view_of(root, arrays):
                root.flags.writeable = False
            result.flags.writeable = False
            made = Tensor._result(result, Node(self, args, params, result))
        else:
            made = Tensor._result(result, None)
        if watch is not None:
            watch(self, args, params, made)
            if not any(isinstance(a, Tensor) for a in args):
                return made._data  # arrays that are written down give such an array
        return made

    def _call_on_device(self, args: tuple[Any, ...], params: dict[str, Any]) -> Value:
        """The call on arrays of which some lie on a GPU: arrays of the caller's give one of the caller's, Tensors a Tensor."""
        arrays = [a._data if isinstance(a, Tensor) else a for a in args]
        if self.on_device is None:
            example = next(a for a in arrays if type(a) is DeviceArray)
            raise example.refused(self.name)
        result: Any = self.on_device(*arrays, **params)
        if not any(isinstance(a, Tensor) for a in args):
            back: Array = result.owner if any(type(a) is DeviceArray and a.given for a in args) else result
            return back
        recorded = is_grad_enabled() and _asks_gradient(args)
        made = Tensor._result(result, Node(self, args, params, result) if recorded else None)
        watch = observer()
        if watch is not None:
            watch(self, args, params, made)
        return made

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _silenced(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def call(*args: Any, **params: Any) -> Any:
        with np.errstate(all="ignore"):
            return forward(*args, **params)

    return call


def primitive(
    name: str,
    forward: Callable[..., Any],
    rules: Rules,
    *,
    saves: Sequence[int | str] | None = None,
    linear: tuple[int, ...] = (),
    silent: bool = False,
) -> Primitive:
    """Declare an operation: see this module's text. `linear` names the arguments that the result is linear in (one at a
    time), which the dot test of the test suite then checks. `silent`: the forward function turns NumPy's floating-point warnings
    off itself, where it computes with NumPy at all (it saves half a microsecond a call); so does one that says so (`is_silent`)."""
    if name in _table:
        raise GraphError(f"an operation called {name!r} is declared already")
    silent = silent or getattr(forward, "is_silent", False)
    _table[name] = Primitive(name, forward if silent else _silenced(forward), rules, saves, linear)
    return _table[name]


def primitives() -> dict[str, Primitive]:
    """Every declared operation by name."""
    return dict(_table)
