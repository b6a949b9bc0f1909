"""Recurrent layers: a state that every step of a sequence renews. One layer in one direction each; `nn` stacks them.

    rnn    h' = tanh(W x + R h + b)
    lstm   i, f, g, o = W x + R h + b;   c' = sigmoid(f) c + sigmoid(i) tanh(g);   h' = sigmoid(o) tanh(c')
    gru    r, z, n = W x, R h + b;       h' = (1 - sigmoid(z)) tanh(n_x + sigmoid(r) n_h) + sigmoid(z) h

Shapes, as in PyTorch: x (steps, batch, in), weight_ih (gates * hidden, in), weight_hh (gates * hidden, hidden), biases
(gates * hidden,), states (batch, hidden); the weights may be what `preimage.prepare` made of them;
y (steps, batch, hidden) holds the state h after every step.

The products of all steps with weight_ih are one product. A sequence that ends early (`lengths`) keeps its state from there on, and
its y is zero there. `reverse` goes through every sequence from its own end to its beginning.
Gradients of every order come from the operations that this is written with.
Source: Hochreiter and Schmidhuber (1997), Gers et al. (2000: forget gates; 2002: peepholes), Cho et al. (2014).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from preimage.autograd import Tensor, array_of
from preimage.autograd.traced import whole
from preimage.engines import PreparedWeight, around
from preimage.engines.base import Chain, aligned_empty
from preimage.engines.recording import constant, made_once, recorder
from preimage.engines.recurrent import Cell, Direction
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.ops.activation import relu, sigmoid, tanh
from preimage.ops.linear import linear
from preimage.ops.operands import entries, flag_of, number_of, operands, regular
from preimage.ops.pointwise import add, multiply, subtract, where
from preimage.ops.pointwise import clip as clip_values
from preimage.ops.shape import concat, getitem, reshape, stack
from preimage.records import record
from preimage.typing import Integers, Operand, Value

__all__ = ["WithSteps", "gru", "layers_side_by_side", "lstm", "rnn", "steps_of"]

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


class _Layer:
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
            return linear(self.x, _Once(weight).prepared, self.bias)
        return linear(self.x, self.weight_ih, self.bias)

    def run(self) -> tuple[Any, ...]:
        """y and the last states."""
        made = _by_kernel([self], 1)
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


def _by_kernel(layers: Sequence[_Layer], axis: int) -> tuple[Any, ...] | None:
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


class _Once:
    """A weight whose packed form is made once for all steps, when the first asks for it; a Tensor as it is."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight

    @cached_property
    def prepared(self) -> Any:
        return self.weight if isinstance(self.weight, Tensor) else PreparedWeight(np.ascontiguousarray(self.weight))


def _neighbours(state: np.ndarray) -> np.ndarray:
    """The state, or a copy whose units lie side by side."""
    return state if state.strides[1] == state.itemsize or state.shape[1] == 1 else np.ascontiguousarray(state)


def _summed(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else made_once(lambda: add(a, b), a, b)


def _order(gate_order: Any, letters: str) -> list[int]:
    if not isinstance(gate_order, str) or sorted(gate_order) != sorted(letters):
        raise OptionError(f"gate_order must name the gates {letters!r} in some order, got {gate_order!r}")
    return [gate_order.index(letter) for letter in letters]


def _functions(activations: Any, usual: tuple[Activation, ...]) -> tuple[Activation, ...]:
    if activations is None:
        return usual
    found = entries(activations)
    if found is None or len(found) != len(usual) or not all(callable(f) for f in found):
        raise OptionError(f"activations must be {len(usual)} functions, got {activations!r}")
    return tuple(found)


@whole
def rnn(
    x: Operand, weight_ih: Operand, weight_hh: Operand, bias_ih: Operand | None = None, bias_hh: Operand | None = None, *,
    h0: Operand | None = None, lengths: Integers | None = None,
    reverse: bool = False, activation: Activation = tanh, clip: float | None = None,
) -> tuple[Value, Value]:  # fmt: skip
    """Elman's recurrent layer: h' = activation(weight_ih x + bias_ih + weight_hh h + bias_hh). Gives y and the last h.

    The shapes, `lengths` and `reverse`: see this module. h0: the first state, zeros unless given. clip: arguments of the activation are held
    within -clip..clip.

    Raises: ShapeError for shapes that do not fit; DTypeError for arrays of several dtypes; OptionError for wrong options.
    """
    y, h = _rnn(
        x, weight_ih, weight_hh, bias_ih, bias_hh, h0=h0, lengths=lengths, reverse=reverse, activation=activation, clip=clip
    ).run()  # fmt: skip
    return y, h


def _rnn(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, *, h0: Any, lengths: Any, reverse: bool, activation: Any = tanh,
    clip: float | None = None,
) -> _Layer:  # fmt: skip
    (function,) = _functions((activation,), (tanh,))
    layer = _Layer("rnn", 1, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0,), lengths, reverse, clip)
    recurrent = _Once(layer.weight_hh)

    def step(product: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        return (layer.applied(function, add(product, linear(states[0], recurrent.prepared))),)

    layer.step, layer.bias = step, _summed(layer.bias_ih, layer.bias_hh)
    layer.describe((0,), (function,))
    return layer


@whole
def lstm(
    x: Operand, weight_ih: Operand, weight_hh: Operand, bias_ih: Operand | None = None, bias_hh: Operand | None = None, *,
    h0: Operand | None = None, c0: Operand | None = None,
    lengths: Integers | None = None, reverse: bool = False, activations: Sequence[Activation] | None = None, peephole: Operand | None = None,
    clip: float | None = None, coupled: bool = False, gate_order: str = "ifgo",
) -> tuple[Value, Value, Value]:  # fmt: skip
    """Long short-term memory. Gives y, the last h and the last c.

    The shapes, `lengths` and `reverse`: see this module. h0, c0: the first states, zeros unless given. activations: three functions, of the
    gates, of g and of c, in place of sigmoid, tanh, tanh. peephole (3, hidden): c times these is added in the gates i, f (the c before) and o
    (the c after). coupled: f is 1 - i. clip: arguments of the gates and of g are held within -clip..clip. gate_order: the
    order of the gates in the rows of weights and biases.

    Raises: ShapeError for shapes that do not fit; DTypeError for arrays of several dtypes; OptionError for wrong options.
    """
    y, h, c = _lstm(
        x, weight_ih, weight_hh, bias_ih, bias_hh, h0=h0, c0=c0, lengths=lengths, reverse=reverse, activations=activations,
        peephole=peephole, clip=clip, coupled=coupled, gate_order=gate_order,
    ).run()  # fmt: skip
    return y, h, c


def _lstm(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, *, h0: Any, c0: Any, lengths: Any, reverse: bool,
    activations: Any = None, peephole: Any = None, clip: float | None = None, coupled: bool = False, gate_order: str = "ifgo",
) -> _Layer:  # fmt: skip
    order = i, f, g, o = _order(gate_order, "ifgo")
    gate, candidate, output = functions = _functions(activations, (sigmoid, tanh, tanh))
    layer = _Layer("lstm", 4, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0, c0), lengths, reverse, clip)
    coupled, recurrent = flag_of(coupled, "coupled"), _Once(layer.weight_hh)
    seen: list[Any] = [None, None, None]
    if peephole is not None:
        (p,) = operands("lstm", peephole)
        if p.shape != (3, layer.hidden) or p.dtype != layer.x.dtype:
            raise ShapeError(f"lstm: peephole is {p.dtype} {p.shape}, wanted {layer.x.dtype} {(3, layer.hidden)}")
        seen, layer.peephole = [p[0], p[1], p[2]], p

    def opened(values: Any, k: int, c: Any, weight: Any) -> Any:
        value = layer.gate(values, k)
        return layer.applied(gate, value if weight is None else add(value, multiply(weight, c)))

    def step(product: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        h, c = states
        values = add(product, linear(h, recurrent.prepared))
        entered = opened(values, i, c, seen[0])
        kept = subtract(1.0, entered) if coupled else opened(values, f, c, seen[1])
        new = add(multiply(kept, c), multiply(entered, layer.applied(candidate, layer.gate(values, g))))
        return multiply(opened(values, o, new, seen[2]), output(new)), new

    layer.step, layer.bias = step, _summed(layer.bias_ih, layer.bias_hh)
    layer.describe(order, functions, coupled=coupled)
    return layer


@whole
def gru(
    x: Operand, weight_ih: Operand, weight_hh: Operand, bias_ih: Operand | None = None, bias_hh: Operand | None = None, *,
    h0: Operand | None = None, lengths: Integers | None = None,
    reverse: bool = False, activations: Sequence[Activation] | None = None, clip: float | None = None, reset_after: bool = True,
    gate_order: str = "rzn",
) -> tuple[Value, Value]:  # fmt: skip
    """Gated recurrent units. Gives y and the last h.

    The shapes, `lengths` and `reverse`: see this module. h0: the first state, zeros unless given. activations: two functions, of the gates and
    of n, in place of sigmoid and tanh. reset_after: the gate r multiplies the product of h (as in PyTorch), or else h before
    the product (as it was first published, and by default in ONNX). clip: arguments of the activations are held within -clip..clip. gate_order: the
    order of the gates in the rows of weights and biases, "rzn" or "zrn".

    Raises: ShapeError for shapes that do not fit; DTypeError for arrays of several dtypes; OptionError for wrong options.
    """
    y, h = _gru(
        x, weight_ih, weight_hh, bias_ih, bias_hh, h0=h0, lengths=lengths, reverse=reverse, activations=activations, clip=clip,
        reset_after=reset_after, gate_order=gate_order,
    ).run()  # fmt: skip
    return y, h


def _gru(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, *, h0: Any, lengths: Any, reverse: bool, activations: Any = None,
    clip: float | None = None, reset_after: bool = True, gate_order: str = "rzn",
) -> _Layer:  # fmt: skip
    order = r, z, n = _order(gate_order, "rzn")
    if n != 2:
        raise OptionError(f"gate_order must end with n, got {gate_order!r}")
    gate, candidate = functions = _functions(activations, (sigmoid, tanh))
    layer = _Layer("gru", 3, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0,), lengths, reverse, clip)
    reset_after = flag_of(reset_after, "reset_after")
    gates = _Once(layer.weight_hh if reset_after else layer.rows(layer.weight_hh, 0, 2))
    last = None if reset_after else _Once(layer.rows(layer.weight_hh, 2, 3))
    inside = layer.inside = layer.rows(layer.bias_hh, 2, 3) if reset_after else None

    def step(product: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        (h,) = states
        values = linear(h, gates.prepared)
        reset, kept = (layer.applied(gate, add(layer.gate(product, k), layer.gate(values, k))) for k in (r, z))
        if last is None:
            held = multiply(reset, layer.gate(values, n) if inside is None else add(layer.gate(values, n), inside))
        else:
            held = linear(multiply(reset, h), last.prepared)
        new = layer.applied(candidate, add(layer.gate(product, n), held))
        return (add(new, multiply(kept, subtract(h, new))),)

    bias = layer.bias_hh
    if bias is not None and reset_after:  # that of n stays inside the product with r
        outside, zeros = layer.rows(bias, 0, 2), np.zeros(layer.hidden, layer.x.dtype)
        bias = made_once(lambda: concat([outside, zeros]), outside)
    layer.step, layer.bias = step, _summed(layer.bias_ih, bias)
    layer.describe(order, functions, reset_after=reset_after)
    return layer


_KINDS: dict[str, Callable[..., _Layer]] = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


def layers_side_by_side(
    kind: str, x: Operand, parts: Sequence[tuple[Sequence[Operand | None], Mapping[str, Any]]], axis: int
) -> tuple[Value, ...]:  # fmt: skip
    """Layers of one kind that read the same x, such as the two directions: y of all along a new axis 1 or 2, last states along a new first one.

    kind: "rnn", "lstm" or "gru"; parts: of every layer its two weights and two biases, and what the function of that name takes by keyword. They
    run at the same time on several threads.
    """
    layers = [_KINDS[kind](x, *arrays, **options) for arrays, options in parts]
    made = _by_kernel(layers, axis)
    if made is not None:
        return made
    y, *last = zip(*[layer.one_by_one() for layer in layers], strict=True)
    return stack(y, axis), *(stack(states) for states in last)
