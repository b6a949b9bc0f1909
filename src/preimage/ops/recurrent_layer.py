"""A recurrent layer's arguments, checked, and how it is run: by the engine's kernel, or step by step by operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from preimage.autograd import Tensor, array_of
from preimage.engines import PreparedWeight, around
from preimage.engines.base import Chain, aligned_empty
from preimage.engines.recording import constant, made_once, recorder
from preimage.engines.recurrent import Cell, Direction
from preimage.errors import DTypeError, ShapeError
from preimage.ops.activation import relu, sigmoid, tanh
from preimage.ops.linear import linear
from preimage.ops.operands import flag_of, number_of, operands, regular
from preimage.ops.pointwise import add, where
from preimage.ops.pointwise import clip as clip_values
from preimage.ops.shape import getitem, reshape, stack
from preimage.records import record
from preimage.typing import Value

__all__ = ["Activation", "Layer", "Once", "WithSteps", "by_kernel", "steps_of", "summed"]

Activation = Callable[..., Value]
#: One step: the step's product with weight_ih and the states before it -> the states after it, h first.
Step = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]


@record
class WithSteps:
    """A function of one value, and the elementwise steps of kernels that give the same bits."""

    function: Activation
    steps: Chain

    def __call__(self, x: Any) -> Any:
        return self.function(x)


#: The steps of functions of the library itself.
_STEPS: dict[Any, Chain] = {
    sigmoid: ((("sigmoid", (0,)),), ()), tanh: ((("tanh", (0,)),), ()), relu: ((("relu", (0,)),), ()),
}  # fmt: skip


def steps_of(functions: Sequence[Activation]) -> tuple[Chain, ...] | None:
    """The steps of activations; None where one is a function of the caller's."""
    found = [f.steps if isinstance(f, WithSteps) else _STEPS.get(f) for f in functions]
    return None if None in found else tuple([steps for steps in found if steps is not None])


class Layer:
    """The checked arguments that all kinds share, and what a kind adds to them."""

    step: Step
    cell: Cell | None = None  #: None where kernels do not know the activations
    bias: Any = None  #: of the product with weight_ih
    peephole: Any = None
    inside: Any = None  #: what a gru adds to the product of n before r multiplies it

    def __init__(
        self, name: Literal["rnn", "lstm", "gru"], gates: int, x: Any, weight_ih: Any, weight_hh: Any, biases: tuple[Any, Any],
        states: Sequence[Any], lengths: Any, reverse: bool, clip: float | None,
    ) -> None:  # fmt: skip
        self.prepared = weight_ih if type(weight_ih) is PreparedWeight else None
        weight_ih, weight_hh = (w.array if type(w) is PreparedWeight else w for w in (weight_ih, weight_hh))
        optional = [*biases, *states]
        x, w, r, *rest = operands(name, x, weight_ih, weight_hh, *(v for v in optional if v is not None))
        ready = iter(rest)
        b_ih, b_hh, *start = (None if v is None else next(ready) for v in optional)
        if len(kinds := {v.dtype for v in (x, w, r, b_ih, b_hh, *start) if v is not None}) > 1:
            raise DTypeError(f"{name}: all arrays must have one dtype, got {' and '.join(sorted(map(str, kinds)))}")
        if x.ndim != 3:
            raise ShapeError(f"{name}: x has shape {x.shape}, wanted (steps, batch, features)")
        if r.ndim != 2 or r.shape[0] != gates * r.shape[1] or not r.shape[1]:
            raise ShapeError(f"{name}: weight_hh has shape {r.shape}, wanted ({gates} * hidden, hidden)")
        self.name, self.steps, self.batch, self.hidden = name, x.shape[0], x.shape[1], r.shape[1]
        rows = gates * self.hidden
        for what, value, wanted in (
            ("weight_ih", w, (rows, x.shape[2])), ("bias_ih", b_ih, (rows,)), ("bias_hh", b_hh, (rows,)),
            *((f"state {k}", s, (self.batch, self.hidden)) for k, s in enumerate(start)),
        ):  # fmt: skip
            if value is not None and value.shape != wanted:
                raise ShapeError(f"{name}: {what} has shape {value.shape}, wanted {wanted}")
        self.x, self.weight_ih, self.bias_ih, self.bias_hh = x, w, b_ih, b_hh
        zeros = constant(np.zeros((self.batch, self.hidden), x.dtype))
        self.states = tuple(zeros if s is None else s for s in start)
        self.weight_hh = r
        self.reverse = flag_of(reverse, "reverse")
        self.lengths = None if lengths is None else _lengths(name, lengths, self.steps, self.batch)
        self.clip = None if clip is None else number_of(clip, "clip", 0)

    def describe(self, order: Sequence[int], functions: Sequence[Activation], **options: bool) -> None:
        """Say what cell it is. order: where the gates' rows stand."""
        steps = steps_of(functions)
        if steps is not None:
            self.cell = Cell(self.name, tuple(order), steps, self.clip, **options)

    def rows(self, value: Any, first: int, stop: int) -> Any:
        """The rows of a weight or bias that belong to the gates first .. stop."""
        own = slice(first * self.hidden, stop * self.hidden)
        return None if value is None else value[own] if type(value) is np.ndarray else getitem(value, own)

    def gate(self, values: Any, k: int) -> Any:
        """The columns of gate k."""
        return getitem(values, (slice(None), slice(k * self.hidden, (k + 1) * self.hidden)))

    def applied(self, function: Activation, value: Any) -> Any:
        """The activation of a value, which is held within -clip..clip."""
        return function(value if self.clip is None else clip_values(value, -self.clip, self.clip))

    def products(self) -> Any:
        """Those of all steps with weight_ih."""
        if self.prepared is not None and self.prepared.array is self.weight_ih:
            return linear(self.x, self.prepared, self.bias)
        here = recorder()
        weight = self.weight_ih
        if here is not None and isinstance(weight, np.ndarray) and here.is_fixed(weight):  # packed once, for all later runs
            return linear(self.x, Once(weight).prepared, self.bias)
        return linear(self.x, self.weight_ih, self.bias)

    def run(self) -> tuple[Any, ...]:
        """y and the last states."""
        made = by_kernel([self], 1)
        if made is not None:
            y, *last = made
            return y[:, 0], *(s[0] for s in last)
        return self.one_by_one()

    def one_by_one(self) -> tuple[Any, ...]:
        """The same step by step, by operations."""
        if not self.steps:
            return np.zeros((0, self.batch, self.hidden), self.x.dtype), *self.states
        here = recorder()
        if here is not None and self.lengths is not None and not here.is_fixed(self.lengths):
            here.lost("lengths decide which steps are computed")
        products = _unstacked(self.products())
        states, made = self.states, list[Any]([None]) * self.steps
        for t in reversed(range(self.steps)) if self.reverse else range(self.steps):
            fresh = self.step(products[t], states)
            y = fresh[0]
            if self.lengths is not None and (over := t >= self.lengths[:, None]).any():
                fresh = tuple(where(over, old, new) for old, new in zip(states, fresh, strict=True))
                y = where(over, np.zeros((), y.dtype), y)
            made[t], states = y, fresh
        return stack(made), *states

    def direction(self, y: np.ndarray, last: Sequence[np.ndarray]) -> Direction:
        """What a kernel is given to fill y and the last states."""
        assert self.cell is not None
        lengths = None if self.lengths is None else _int64(self.lengths)
        states = tuple(_neighbours(array_of(s)) for s in self.states)
        peephole, inside = (None if v is None else np.ascontiguousarray(array_of(v)) for v in (self.peephole, self.inside))
        products, weight = array_of(self.products()), array_of(self.weight_hh)
        return Direction(self.cell, products, weight, states, y, tuple(last), lengths, self.reverse, peephole, inside)

    def arrays(self) -> list[Any]:
        """What it computes with."""
        return [
            v
            for v in (self.x, self.weight_ih, self.weight_hh, self.bias, self.peephole, self.inside, *self.states)
            if v is not None
        ]


def by_kernel(layers: Sequence[Layer], axis: int) -> tuple[Any, ...] | None:
    """y of all layers along a new axis 1 or 2, and their last states along a new first axis; None where no kernel runs them."""
    arrays = [array for layer in layers for array in layer.arrays()]
    first = layers[0]
    if not all(type(a) is np.ndarray and a.size for a in arrays) or any(layer.cell is None for layer in layers):
        return None
    if not around.runs_recurrent(*arrays):
        return None
    shape, dtype = [first.steps, first.batch, first.hidden], first.x.dtype
    y = aligned_empty((*shape[:axis], len(layers), *shape[axis:]), dtype)
    last = tuple(aligned_empty((len(layers), *shape[1:]), dtype) for _ in first.states)
    around.recurrent([layer.direction(np.moveaxis(y, axis, 0)[k], [s[k] for s in last]) for k, layer in enumerate(layers)])
    return y, *last


def _lengths(name: str, lengths: Any, steps: int, batch: int) -> np.ndarray:
    found = np.asarray(regular(array_of(lengths), "lengths"))
    if found.dtype.kind not in "iu" or found.shape != (batch,):
        raise ShapeError(f"{name}: lengths must be {batch} integers, one per sequence, got {found.dtype} of shape {found.shape}")
    if found.size and not 0 <= found.min() <= found.max() <= steps:
        raise ShapeError(f"{name}: lengths must lie in 0..{steps}, got {found.min()}..{found.max()}")
    here = recorder()
    if here is not None and not here.is_fixed(found):
        here.expect(found, (0, steps))
    return found


def _int64(lengths: np.ndarray) -> np.ndarray:
    """The lengths as kernels read them; converted by a kernel where somebody records what is computed."""
    converted = None if recorder() is None or lengths.dtype == np.int64 else around.mixed((lengths,), (), np.float64, np.int64)
    return np.ascontiguousarray(lengths, np.int64) if converted is None else converted


def _unstacked(x: Any) -> list[Any]:
    """x[0], x[1], ...; of a Tensor by halves, so that the gradients take N log N and not N^2 of memory traffic."""
    if not isinstance(x, Tensor):
        return list(x)
    if x.shape[0] < 2:
        return [reshape(x, x.shape[1:])] if x.shape[0] else []
    half = x.shape[0] // 2
    return _unstacked(getitem(x, slice(None, half))) + _unstacked(getitem(x, slice(half, None)))


class Once:
    """A weight whose packed form is made once for all steps, when the first asks for it; a Tensor as it is."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight

    @cached_property
    def prepared(self) -> Any:
        return self.weight if isinstance(self.weight, Tensor) else PreparedWeight(np.ascontiguousarray(self.weight))


def _neighbours(state: np.ndarray) -> np.ndarray:
    """The state, or a copy whose units lie side by side."""
    return state if state.strides[1] == state.itemsize or state.shape[1] == 1 else np.ascontiguousarray(state)


def summed(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else made_once(lambda: add(a, b), a, b)
