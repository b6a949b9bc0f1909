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
from typing import Any

import numpy as np

from preimage.autograd.traced import whole
from preimage.engines.recording import made_once
from preimage.errors import OptionError, ShapeError
from preimage.ops.activation import sigmoid, tanh
from preimage.ops.linear import linear
from preimage.ops.operands import entries, flag_of, operands
from preimage.ops.pointwise import add, multiply, subtract
from preimage.ops.recurrent_gradients import in_one_vertex
from preimage.ops.recurrent_layer import Activation, Layer, Once, by_kernel, summed
from preimage.ops.shape import concat, stack
from preimage.typing import Integers, Operand, Value

__all__ = ["gru", "layers_side_by_side", "lstm", "rnn"]


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


def _run(make: Callable[..., Layer], given: dict[str, Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """y and the last states of the layer that make(**given, **options) makes."""
    layer = make(**given, **options)
    made = in_one_vertex(make, layer, given, options)
    return layer.run() if made is None else made


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
    y, h = _run(
        _rnn, {"x": x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh, "h0": h0},
        {"lengths": lengths, "reverse": reverse, "activation": activation, "clip": clip},
    )  # fmt: skip
    return y, h


def _rnn(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any = None, bias_hh: Any = None, *, h0: Any = None, lengths: Any,
    reverse: bool, activation: Any = tanh, clip: float | None = None,
) -> Layer:  # fmt: skip
    (function,) = _functions((activation,), (tanh,))
    layer = Layer("rnn", 1, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0,), lengths, reverse, clip)
    recurrent = Once(layer.weight_hh)

    def step(product: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
        return (layer.applied(function, add(product, linear(states[0], recurrent.prepared))),)

    layer.step, layer.bias = step, summed(layer.bias_ih, layer.bias_hh)
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
    y, h, c = _run(
        _lstm,
        {
            "x": x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh, "h0": h0, "c0": c0,
            "peephole": peephole,
        },
        {
            "lengths": lengths, "reverse": reverse, "activations": activations, "clip": clip, "coupled": coupled, "gate_order": gate_order,
        },
    )  # fmt: skip
    return y, h, c


def _lstm(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any = None, bias_hh: Any = None, *, h0: Any = None, c0: Any = None, lengths: Any, reverse: bool,
    activations: Any = None, peephole: Any = None, clip: float | None = None, coupled: bool = False, gate_order: str = "ifgo",
) -> Layer:  # fmt: skip
    order = i, f, g, o = _order(gate_order, "ifgo")
    gate, candidate, output = functions = _functions(activations, (sigmoid, tanh, tanh))
    layer = Layer("lstm", 4, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0, c0), lengths, reverse, clip)
    coupled, recurrent = flag_of(coupled, "coupled"), Once(layer.weight_hh)
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

    layer.step, layer.bias = step, summed(layer.bias_ih, layer.bias_hh)
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
    y, h = _run(
        _gru, {"x": x, "weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh, "h0": h0},
        {
            "lengths": lengths, "reverse": reverse, "activations": activations, "clip": clip, "reset_after": reset_after,
            "gate_order": gate_order,
        },
    )  # fmt: skip
    return y, h


def _gru(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any = None, bias_hh: Any = None, *, h0: Any = None, lengths: Any,
    reverse: bool, activations: Any = None, clip: float | None = None, reset_after: bool = True, gate_order: str = "rzn",
) -> Layer:  # fmt: skip
    order = r, z, n = _order(gate_order, "rzn")
    if n != 2:
        raise OptionError(f"gate_order must end with n, got {gate_order!r}")
    gate, candidate = functions = _functions(activations, (sigmoid, tanh))
    layer = Layer("gru", 3, x, weight_ih, weight_hh, (bias_ih, bias_hh), (h0,), lengths, reverse, clip)
    reset_after = flag_of(reset_after, "reset_after")
    gates = Once(layer.weight_hh if reset_after else layer.rows(layer.weight_hh, 0, 2))
    last = None if reset_after else Once(layer.rows(layer.weight_hh, 2, 3))
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
    layer.step, layer.bias = step, summed(layer.bias_ih, bias)
    layer.describe(order, functions, reset_after=reset_after)
    return layer


_KINDS: dict[str, Callable[..., Layer]] = {"rnn": _rnn, "lstm": _lstm, "gru": _gru}


def layers_side_by_side(
    kind: str, x: Operand, parts: Sequence[tuple[Sequence[Operand | None], Mapping[str, Any]]], axis: int
) -> tuple[Value, ...]:  # fmt: skip
    """Layers of one kind that read the same x, such as the two directions: y of all along a new axis 1 or 2, last states along a new first one.

    kind: "rnn", "lstm" or "gru"; parts: of every layer its two weights and two biases, and what the function of that name takes by keyword. They
    run at the same time on several threads.
    """
    layers = [_KINDS[kind](x, *arrays, **options) for arrays, options in parts]
    made = by_kernel(layers, axis)
    if made is not None:
        return made
    y, *last = zip(*[layer.one_by_one() for layer in layers], strict=True)
    return stack(y, axis), *(stack(states) for states in last)
