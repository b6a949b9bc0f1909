"""Recurrent layers: stacks of `ops.rnn`, `ops.lstm` and `ops.gru`, in one direction or in both, under PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from preimage import ops
from preimage.autograd import Tensor, array_of, is_grad_enabled
from preimage.errors import OptionError, ShapeError
from preimage.nn import init
from preimage.nn.conv import is_recording
from preimage.nn.kept import KeptWeight
from preimage.nn.module import Module, Parameter
from preimage.nn.norm import Dropout
from preimage.ops.operands import flag_of, float_dtype, integer_of, number_of, shape_of
from preimage.typing import DTypeLike, Integers, Operand, Seed, Value

__all__ = ["GRU", "LSTM", "RNN", "stacked"]


def stacked(
    one: Callable[[Any, int, bool], tuple[Any, ...]], x: Any, count: int, directions: int, between: Callable[[Any], Any] | None = None
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Layers on layers, each in its directions: the last one's y, and every kind of last states of all.

    one: y and the last states of layer and direction number k, from the layer's input, k, and whether it goes backwards.
    """
    last: list[tuple[Any, ...]] = []
    for first in range(0, count, directions):
        if first and between is not None:
            x = between(x)
        made = [one(x, first + k, bool(k)) for k in range(directions)]
        last += [tuple(ends) for _, *ends in made]
        x = made[0][0] if directions == 1 else ops.concat([y for y, *_ in made], axis=2)
    return x, [ops.stack(list(states)) for states in zip(*last, strict=True)]


class _Recurrent(Module):
    """What the kinds share.

    Parameters, as in PyTorch: weight_ih_l{k} (gates * hidden, in), weight_hh_l{k} (gates * hidden, hidden), bias_ih_l{k} and bias_hh_l{k}
    (gates * hidden,) for each layer k, and for a second direction the same with `_reverse` behind.
    Shapes: x (steps, batch, in), with batch_first (batch, steps, in), without a batch (steps, in); the result's last axis holds
    the states of the directions side by side; states are (layers * directions, batch, hidden).
    """

    _gates: int
    _states: int

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, dtype: DTypeLike = np.float32, rng: Seed = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size, self.hidden_size = integer_of(input_size, "input_size", 0), integer_of(hidden_size, "hidden_size", 1)
        self.num_layers, self.bias = integer_of(num_layers, "num_layers", 1), flag_of(bias, "bias")
        self.batch_first, self.bidirectional = flag_of(batch_first, "batch_first"), flag_of(bidirectional, "bidirectional")
        self.dropout = number_of(dropout, "dropout", 0, 1)
        generator, dtype, rows = init.generator(rng), float_dtype(dtype), self._gates * self.hidden_size
        bound = 1 / math.sqrt(self.hidden_size)
        self._between = (Dropout(self.dropout, rng=generator),)  # in a tuple: no layer of its own
        for layer in range(self.num_layers):
            features = self.hidden_size * self._directions if layer else self.input_size
            for suffix in self._suffixes(layer):
                shapes: list[tuple[str, tuple[int, ...]]] = [
                    ("weight_ih", (rows, features)),
                    ("weight_hh", (rows, self.hidden_size)),
                ]
                shapes += [("bias_ih", (rows,)), ("bias_hh", (rows,))] if self.bias else []
                for name, shape in shapes:
                    values = init.uniform(shape, -bound, bound, rng=generator).astype(dtype)
                    self.register_parameter(name + suffix, Parameter(values))
        self._kept = {name: KeptWeight() for name, _ in self.named_parameters() if name.startswith("weight")}

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    def _one(self, x: Any, weights: list[Any], states: list[Any], lengths: Any, reverse: bool) -> tuple[Any, ...]:
        """One layer in one direction: y and the last states."""
        raise NotImplementedError

    def forward(
        self, x: Operand, hx: Operand | Sequence[Operand] | None = None, *, lengths: Integers | None = None
    ) -> tuple[Value, Value | tuple[Value, ...]]:
        """The states after every step, and the last ones. hx: the first states, zeros unless given. lengths: the steps of each sequence."""
        shape = shape_of(x)
        ndim = len(shape)
        if ndim not in (2, 3) or shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: x has shape {shape}, wanted (steps, batch, {self.input_size}) or (steps, {self.input_size})"
            )
        alone = ndim == 2
        given = self._given(hx)
        if alone:
            x, given = ops.expand_dims(x, 1), [None if s is None else ops.expand_dims(s, 1) for s in given]
        elif self.batch_first:
            x = ops.swapaxes(x, 0, 1)
        recording = is_grad_enabled() and (is_recording(self, x) or any(isinstance(s, Tensor) and s.requires_grad for s in given))
        if not recording:
            x, given = array_of(x), [None if s is None else array_of(s) for s in given]
        y, last = self._layers(x, given, lengths, recording)
        if alone:
            y, last = ops.squeeze(y, 1), [ops.squeeze(s, 1) for s in last]
        elif self.batch_first:
            y = ops.swapaxes(y, 0, 1)
        y, *last = (v if isinstance(v, Tensor) else Tensor(v) for v in (y, *last))
        return y, last[0] if self._states == 1 else tuple(last)

    def _given(self, hx: Any) -> list[Any]:
        if hx is None:
            return [None] * self._states
        states = [hx] if self._states == 1 else list(hx) if isinstance(hx, tuple | list) else []
        count = self.num_layers * self._directions
        if len(states) != self._states or any(np.ndim(array_of(s)) < 2 or len(array_of(s)) != count for s in states):
            what = "a state" if self._states == 1 else f"{self._states} states"
            raise ShapeError(f"{type(self).__name__}: hx must be {what} of shape ({count}, batch, {self.hidden_size})")
        return states

    def _layers(self, x: Any, given: list[Any], lengths: Any, recording: bool) -> tuple[Any, list[Any]]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if self.bias else ("weight_ih", "weight_hh")
        suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
        weights = [[getattr(self, name + suffix) for name in names] for suffix in suffixes]
        if not recording:
            for row, suffix in zip(weights, suffixes, strict=True):
                for k, name in enumerate(names):
                    kept = self._kept.get(name + suffix)
                    row[k] = row[k].data if kept is None else array_of(kept.in_place_of(row[k]))

        def one(x: Any, place: int, reverse: bool) -> tuple[Any, ...]:
            return self._one(x, weights[place], [None if s is None else s[place] for s in given], lengths, reverse)

        return stacked(one, x, len(suffixes), self._directions, self._between[0] if self.training else None)

    @property
    def packed_bytes(self) -> int:
        """Memory held to run without packing: copies of the weights and their packed forms, made by calls that recorded nothing."""
        return sum(kept.packed_bytes for kept in self._kept.values())

    def work_flop(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Flop of the matrix products of one run: 2 per multiply-add."""
        return 2 * math.prod(input_shape[:-1]) * sum(p.size for p in self.parameters() if p.ndim == 2)

    def extra_repr(self) -> str:
        options = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        changed = [f"{name}={getattr(self, name)}" for name, usual in options.items() if getattr(self, name) != usual]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])


class RNN(_Recurrent):
    """Elman's recurrent layer, h' = tanh(W x + R h + b); nonlinearity "relu" in place of tanh. Gives y and h_n.

    Example:
        >>> import numpy as np, preimage as pre
        >>> y, h = pre.nn.RNN(3, 4, bidirectional=True, rng=0)(np.zeros((5, 2, 3), np.float32))
        >>> y.shape, h.shape
        ((5, 2, 8), (2, 2, 4))
    """

    _gates = _states = 1

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: Literal["tanh", "relu"] = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *, dtype: DTypeLike = np.float32, rng: Seed = None,
    ) -> None:  # fmt: skip
        if not isinstance(nonlinearity, str) or nonlinearity not in ("tanh", "relu"):
            raise OptionError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype, rng=rng
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def _one(self, x: Any, weights: list[Any], states: list[Any], lengths: Any, reverse: bool) -> tuple[Any, ...]:
        function = ops.tanh if self.nonlinearity == "tanh" else ops.relu
        return ops.rnn(x, *weights, h0=states[0], lengths=lengths, reverse=reverse, activation=function)


class LSTM(_Recurrent):
    """Long short-term memory (see ops.lstm), gates in the order i, f, g, o. Gives y and (h_n, c_n); hx is (h_0, c_0)."""

    _gates, _states = 4, 2

    def _one(self, x: Any, weights: list[Any], states: list[Any], lengths: Any, reverse: bool) -> tuple[Any, ...]:
        return ops.lstm(x, *weights, h0=states[0], c0=states[1], lengths=lengths, reverse=reverse)


class GRU(_Recurrent):
    """Gated recurrent units (see ops.gru), gates in the order r, z, n. Gives y and h_n."""

    _gates, _states = 3, 1

    def _one(self, x: Any, weights: list[Any], states: list[Any], lengths: Any, reverse: bool) -> tuple[Any, ...]:
        return ops.gru(x, *weights, h0=states[0], lengths=lengths, reverse=reverse)
