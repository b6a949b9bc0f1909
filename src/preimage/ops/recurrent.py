"""Recurrent layers: a state that every step of a sequence renews. One layer in one direction each; `nn` stacks them.

    rnn    h' = tanh(W x + R h + b)
    lstm   i, f, g, o = W x + R h + b;   c' = sigmoid(f) c + sigmoid(i) tanh(g);   h' = sigmoid(o) tanh(c')
    gru    r, z, n = W x, R h + b;       h' = (1 - sigmoid(z)) tanh(n_x + sigmoid(r) n_h) + sigmoid(z) h

Shapes, as in PyTorch: x (steps, batch, in), weight_ih (gates * hidden, in), weight_hh (gates * hidden, hidden), biases
(gates * hidden,), states (batch, hidden); y (steps, batch, hidden) holds the state h after every step.

The products of all steps with weight_ih are one product. A sequence that ends early (`lengths`) keeps its state from there on, and
its y is zero there. `reverse` goes through every sequence from its own end to its beginning.
Gradients of every order come from the operations that this is written with.
Source: Hochreiter and Schmidhuber (1997), Gers et al. (2000: forget gates; 2002: peepholes), Cho et al. (2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage.autograd import Tensor, array_of
from preimage.engines import PreparedWeight
from preimage.errors import DTypeError, OptionError, ShapeError
from preimage.ops.activation import sigmoid, tanh
from preimage.ops.linear import linear
from preimage.ops.operands import entries, flag_of, number_of, operands, regular
from preimage.ops.pointwise import add, multiply, subtract, where
from preimage.ops.pointwise import clip as clip_values
from preimage.ops.repeated import LEAST_STEPS, RecordedSteps, cached, keep, key_of
from preimage.ops.shape import concat, getitem, reshape, stack
from preimage.typing import Integers, Operand, Value

__all__ = ["gru", "lstm", "rnn"]

Activation = Callable[..., Value]
#: One step: the step's product with weight_ih and the states before it -> the states after it, h first.
Step = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]


class _Layer:
    """The checked arguments that all kinds share."""

    def __init__(
        self, name: str, gates: int, x: Any, weight_ih: Any, weight_hh: Any, biases: tuple[Any, Any], states: Sequence[Any],
        lengths: Any, reverse: bool, clip: float | None,
    ) -> None:  # fmt: skip
        self.name = name
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
        self.steps, self.batch, self.hidden = x.shape[0], x.shape[1], r.shape[1]
        rows = gates * self.hidden
        for what, value, wanted in (
            ("weight_ih", w, (rows, x.shape[2])), ("bias_ih", b_ih, (rows,)), ("bias_hh", b_hh, (rows,)),
            *((f"state {k}", s, (self.batch, self.hidden)) for k, s in enumerate(start)),
        ):  # fmt: skip
            if value is not None and value.shape != wanted:
                raise ShapeError(f"{name}: {what} has shape {value.shape}, wanted {wanted}")
        self.x, self.weight_ih, self.bias_ih, self.bias_hh = x, w, b_ih, b_hh
        zeros = np.zeros((self.batch, self.hidden), x.dtype)
        self.states = tuple(zeros if s is None else s for s in start)
        self.weight_hh = r
        self.reverse = flag_of(reverse, "reverse")
        self.lengths = None if lengths is None else _lengths(name, lengths, self.steps, self.batch)
        self.clip = None if clip is None else number_of(clip, "clip", 0)
        self.options: tuple[Any, ...] = ()  # what else a step depends on

    def rows(self, value: Any, first: int, stop: int) -> Any:
        """The rows of a weight or bias that belong to the gates first .. stop."""
        return None if value is None else getitem(value, slice(first * self.hidden, stop * self.hidden))

    def gate(self, values: Any, k: int) -> Any:
        """The columns of gate k."""
        return getitem(values, (slice(None), slice(k * self.hidden, (k + 1) * self.hidden)))

    def inside(self, function: Activation, value: Any) -> Any:
        """The activation of a value, which is held within -clip..clip."""
        return function(value if self.clip is None else clip_values(value, -self.clip, self.clip))

    def run(self, step: Step, bias: Any, fixed: Sequence[Any], functions: Sequence[Activation]) -> tuple[Any, ...]:
        """y and the last states. fixed: the arrays that every step reads; functions: its activations."""
        if not self.steps:
            return np.zeros((0, self.batch, self.hidden), self.x.dtype), *self.states
        values = linear(self.x, self.weight_ih, bias)
        if not any(isinstance(v, Tensor) for v in (values, *self.states, *fixed)) and set(functions) <= _KERNELS:
            found = self._recorded(step, values, fixed)
            if found is not None:
                return found
        return self._one_by_one(step, values)

    def _one_by_one(self, step: Step, values: Any) -> tuple[Any, ...]:
        products = _unstacked(values)
        states, made = self.states, list[Any]([None]) * self.steps
        for t in reversed(range(self.steps)) if self.reverse else range(self.steps):
            made[t], states = self._step(step, t, products[t], states)
        return stack(made), *states

    def _step(self, step: Step, t: int, product: Any, states: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """y and the states after step t; sequences that are over keep theirs."""
        fresh = step(product, states)
        y = fresh[0]
        if self.lengths is not None and (over := t >= self.lengths).any():
            fresh = tuple(where(over, old, new) for old, new in zip(states, fresh, strict=True))
            y = where(over, np.zeros((), y.dtype), y)
        return y, fresh

    def _recorded(self, step: Step, products: Any, fixed: Sequence[Any]) -> tuple[Any, ...] | None:
        """The same by a recorded step; None where the steps are few, or one is more than kernels."""
        last = self.steps if self.lengths is None else int(self.lengths.min(initial=self.steps))
        if last < LEAST_STEPS:
            return None
        order = list(reversed(range(self.steps)) if self.reverse else range(self.steps))
        begin = self.steps - last if self.reverse else 0  # of the steps in which no sequence is over
        plain = order[begin : begin + last]
        products = np.ascontiguousarray(products)
        states: tuple[Any, ...] = self.states
        y = np.empty((self.steps, self.batch, self.hidden), products.dtype)
        for t in order[:begin]:
            y[t], states = self._step(step, t, products[t], states)
        states = tuple(np.ascontiguousarray(s) for s in states)
        key = key_of((self.name, self.options, self.clip), products[0], states, fixed)
        steps = cached(key)
        if steps is None:
            found = RecordedSteps.of(step, products[plain[0]], states, fixed)
            if found is None:
                return None
            steps, after = found
            keep(key, steps, fixed)
            y[plain[0]], states, plain = after[0], after, plain[1:]
        states = steps.run(products, states, y, plain)
        for t in order[begin + last :]:
            y[t], states = self._step(step, t, products[t], states)
        return y, *states


#: Activations that are kernels whatever their arguments.
_KERNELS = frozenset((sigmoid, tanh))


def _lengths(name: str, lengths: Any, steps: int, batch: int) -> np.ndarray:
    found = np.asarray(regular(array_of(lengths), "lengths"))
    if found.dtype.kind not in "iu" or found.shape != (batch,):
        raise ShapeError(f"{name}: lengths must be {batch} integers, one per sequence, got {found.dtype} of shape {found.shape}")
    if found.size and not 0 <= found.min() <= found.max() <= steps:
        raise ShapeError(f"{name}: lengths must lie in 0..{steps}, got {found.min()}..{found.max()}")
    return found[:, None]


def _unstacked(x: Any) -> list[Any]:
    """x[0], x[1], ...; of a Tensor by halves, so that the gradients take N log N and not N^2 of memory traffic."""
    if not isinstance(x, Tensor):
        return list(x)
    if x.shape[0] < 2:
        return [reshape(x, x.shape[1:])] if x.shape[0] else []
    half = x.shape[0] // 2
    return _unstacked(getitem(x, slice(None, half))) + _unstacked(getitem(x, slice(half, None)))


def _fixed(weight: Any) -> Any:
    """An array's packed form, made once for all steps; a Tensor as it is."""
    return weight if isinstance(weight, Tensor) else PreparedWeight(np.ascontiguousarray(weight))


def _summed(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else add(a, b)


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
    (function,) = _functions((activation,), (tanh,))
    layer = _Layer("rnn", 1, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0,), lengths, reverse, clip)
    recurrent = _fixed(layer.weight_hh)

    def step(product: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        return (layer.inside(function, add(product, linear(states[0], recurrent))),)

    layer.options = (function,)
    y, h = layer.run(step, _summed(layer.bias_ih, layer.bias_hh), [layer.weight_hh], [function])
    return y, h


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
    i, f, g, o = _order(gate_order, "ifgo")
    gate, candidate, output = _functions(activations, (sigmoid, tanh, tanh))
    layer = _Layer("lstm", 4, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0, c0), lengths, reverse, clip)
    coupled, recurrent = flag_of(coupled, "coupled"), _fixed(layer.weight_hh)
    seen: list[Any] = [None, None, None]
    if peephole is not None:
        (p,) = operands("lstm", peephole)
        if p.shape != (3, layer.hidden) or p.dtype != layer.x.dtype:
            raise ShapeError(f"lstm: peephole is {p.dtype} {p.shape}, wanted {layer.x.dtype} {(3, layer.hidden)}")
        seen = [p[0], p[1], p[2]]

    def opened(values: Any, k: int, c: Any, weight: Any) -> Any:
        value = layer.gate(values, k)
        return layer.inside(gate, value if weight is None else add(value, multiply(weight, c)))

    def step(product: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        h, c = states
        values = add(product, linear(h, recurrent))
        entered = opened(values, i, c, seen[0])
        kept = subtract(1.0, entered) if coupled else opened(values, f, c, seen[1])
        new = add(multiply(kept, c), multiply(entered, layer.inside(candidate, layer.gate(values, g))))
        return multiply(opened(values, o, new, seen[2]), output(new)), new

    layer.options = (i, f, g, o, coupled, gate, candidate, output)
    fixed = [layer.weight_hh, *(p for p in seen if p is not None)]
    y, h, c = layer.run(step, _summed(layer.bias_ih, layer.bias_hh), fixed, [gate, candidate, output])
    return y, h, c


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
    r, z, n = _order(gate_order, "rzn")
    if n != 2:
        raise OptionError(f"gate_order must end with n, got {gate_order!r}")
    gate, candidate = _functions(activations, (sigmoid, tanh))
    layer = _Layer("gru", 3, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0,), lengths, reverse, clip)
    reset_after = flag_of(reset_after, "reset_after")
    gates = _fixed(layer.weight_hh if reset_after else layer.rows(layer.weight_hh, 0, 2))
    last = None if reset_after else _fixed(layer.rows(layer.weight_hh, 2, 3))
    inside = layer.rows(layer.bias_hh, 2, 3) if reset_after else None

    def step(product: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        (h,) = states
        values = linear(h, gates)
        reset, kept = (layer.inside(gate, add(layer.gate(product, k), layer.gate(values, k))) for k in (r, z))
        if last is None:
            held = multiply(reset, layer.gate(values, n) if inside is None else add(layer.gate(values, n), inside))
        else:
            held = linear(multiply(reset, h), last)
        new = layer.inside(candidate, add(layer.gate(product, n), held))
        return (add(new, multiply(kept, subtract(h, new))),)

    bias = layer.bias_hh
    if bias is not None and reset_after:  # that of n stays inside the product with r
        bias = concat([layer.rows(bias, 0, 2), np.zeros(layer.hidden, layer.x.dtype)])
    layer.options = (r, z, n, reset_after, gate, candidate)
    fixed = [v for v in (layer.weight_hh, inside) if v is not None]
    y, h = layer.run(step, _summed(layer.bias_ih, bias), fixed, [gate, candidate])
    return y, h
