"""ONNX's recurrent operators: RNN, GRU and LSTM, one or two directions, on `preimage.ops.recurrent`.

X (steps, batch, in), W (directions, gates * hidden, in), R (directions, gates * hidden, hidden), B (directions, 2 * gates * hidden): the
biases beside W, then those beside R. Y (steps, directions, batch, hidden), Y_h and Y_c (directions, batch, hidden); layout 1 has
the batch first. Gates lie in the order z, r, h (GRU) and i, o, f, c (LSTM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preimage import ops
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.limits import check_work, checked_size
from preimage.io.onnx.operators.moving import recorded, reshape, transpose
from preimage.io.onnx.operators.shapes import data_of

__all__: list[str] = []

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _scaled_tanh(x: Any, alpha: float, beta: float) -> Any:
    return ops.multiply(ops.tanh(ops.multiply(x, beta)), alpha)


def _thresholded(x: Any, alpha: float) -> Any:
    return ops.where(np.asarray(data_of(x)) > alpha, x, 0.0)


#: Name -> the function, and what alpha and beta are where the model does not say.
_ACTIVATIONS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "relu": (ops.relu, ()),
    "tanh": (ops.tanh, ()),
    "sigmoid": (ops.sigmoid, ()),
    "softsign": (ops.softsign, ()),
    "softplus": (ops.softplus, ()),
    "leakyrelu": (ops.leaky_relu, (0.01,)),
    "thresholdedrelu": (_thresholded, (1.0,)),
    "elu": (ops.elu, (1.0,)),
    "hardsigmoid": (ops.hardsigmoid, (0.2, 0.5)),
    "affine": (lambda x, alpha, beta: ops.add(ops.multiply(x, alpha), beta), (1.0, 0.0)),
    "scaledtanh": (_scaled_tanh, (1.0, 1.0)),
}


def _functions(what: str, names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None) -> list[Any]:
    """The activations; alpha and beta are taken, in order, by those that have them."""
    given = (iter(alphas or ()), iter(betas or ()))
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise FileFormatError(f"{what}: activation {name!r} is none of {', '.join(_ACTIVATIONS)}")
        function, usual = _ACTIVATIONS[name.lower()]
        numbers = [float(next(values, default)) for values, default in zip(given, usual, strict=False)]
        found.append(_bound(function, numbers) if numbers else function)
    return found


def _bound(function: Callable[..., Any], numbers: Sequence[float]) -> Callable[[Any], Any]:
    return lambda x: function(x, *numbers)


def _run(
    what: str, gates: int, usual: tuple[str, ...], layer: Callable[..., tuple[Any, ...]], x: Any, w: Any, r: Any, b: Any,
    lengths: Any, states: Sequence[Any], peephole: Any, *, hidden_size: int | None, direction: str, activations: Sequence[str] | None,
    activation_alpha: Sequence[float] | None, activation_beta: Sequence[float] | None, clip: float | None, layout: int,
) -> tuple[Any, ...]:  # fmt: skip
    """Every direction by `layer`; Y and the last states."""
    if direction not in _DIRECTIONS or layout not in (0, 1):
        raise FileFormatError(f"{what}: direction {direction!r}, layout {layout}")
    reversed_ = _DIRECTIONS[direction]
    count = len(reversed_)
    if x.ndim != 3 or w.ndim != 3 or r.ndim != 3 or w.shape[0] != count or r.shape[0] != count:
        raise FileFormatError(f"{what}: X {x.shape}, W {w.shape} and R {r.shape} do not fit the direction {direction!r}")
    hidden = r.shape[2]
    if hidden_size not in (None, hidden):
        raise FileFormatError(f"{what}: hidden_size is {hidden_size}, R has shape {r.shape}")
    if b is not None and b.shape != (count, 2 * gates * hidden):
        raise FileFormatError(f"{what}: B has shape {b.shape}, wanted {(count, 2 * gates * hidden)}")
    x = transpose(x, (1, 0, 2)) if layout else x
    steps, batch = x.shape[:2]
    checked_size((steps, count, batch, max(gates * hidden, w.shape[2])), what)
    check_work(2 * steps * batch * (int(np.prod(w.shape)) + int(np.prod(r.shape))), what)
    names = list(activations or usual * count)
    if len(names) != count * len(usual):
        raise FileFormatError(f"{what}: {len(names)} activations for {count} directions of {len(usual)}")
    functions = _functions(what, names, activation_alpha, activation_beta)
    counts = None if lengths is None else np.asarray(data_of(lengths))
    made = []
    for k, backwards in enumerate(reversed_):
        biases = (None, None) if b is None else (b[k, : gates * hidden], b[k, gates * hidden :])
        own = functions[k * len(usual) : (k + 1) * len(usual)]
        start = [None if s is None else s[:, k] if layout else s[k] for s in states]
        options = {"lengths": counts, "reverse": backwards, "clip": clip or None}
        made.append(layer(x, w[k], r[k], *biases, start, own, None if peephole is None else peephole[k], options))
    first = [_stacked(parts, axis) for parts, axis in zip(zip(*made, strict=True), (1, *[0] * len(states)), strict=True)]
    if not layout:
        return tuple(first)
    return transpose(first[0], (2, 0, 1, 3)), *(transpose(s, (1, 0, 2)) for s in first[1:])


def _stacked(parts: Sequence[Any], axis: int) -> Any:
    if recorded(*parts):
        return ops.stack(parts, axis)
    return np.stack(parts, axis) if len(parts) > 1 else reshape(parts[0], (*parts[0].shape[:axis], 1, *parts[0].shape[axis:]))


_TYPES = gives(0)


@graph_op("onnx.RNN", types=_TYPES)
def _rnn(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, hidden_size: int | None = None,
    direction: str = "forward", activations: Sequence[str] | None = None, activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None, clip: float | None = None, layout: int = 0, outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    def layer(x: Any, w: Any, r: Any, b: Any, c: Any, start: Any, own: Any, peephole: Any, options: Any) -> tuple[Any, ...]:
        return ops.rnn(x, w, r, b, c, h0=start[0], activation=own[0], **options)

    return _run(
        "RNN", 1, ("Tanh",), layer, x, w, r, b, lengths, (h,), None, hidden_size=hidden_size, direction=direction, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, layout=layout,
    )  # fmt: skip


@graph_op("onnx.GRU", types=_TYPES)
def _gru(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, hidden_size: int | None = None,
    direction: str = "forward", activations: Sequence[str] | None = None, activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None, clip: float | None = None, layout: int = 0, linear_before_reset: int = 0,
    outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    def layer(x: Any, w: Any, r: Any, b: Any, c: Any, start: Any, own: Any, peephole: Any, options: Any) -> tuple[Any, ...]:
        return ops.gru(
            x, w, r, b, c, h0=start[0], activations=own, reset_after=bool(linear_before_reset), gate_order="zrn", **options
        )

    return _run(
        "GRU", 3, ("Sigmoid", "Tanh"), layer, x, w, r, b, lengths, (h,), None, hidden_size=hidden_size, direction=direction,
        activations=activations, activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, layout=layout,
    )  # fmt: skip


@graph_op("onnx.LSTM", types=_TYPES)
def _lstm(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, p: Any = None, *,
    hidden_size: int | None = None, direction: str = "forward", activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None, activation_beta: Sequence[float] | None = None, clip: float | None = None,
    layout: int = 0, input_forget: int = 0, outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    def layer(x: Any, w: Any, r: Any, b: Any, c: Any, start: Any, own: Any, peephole: Any, options: Any) -> tuple[Any, ...]:
        if peephole is not None:  # i, o, f in ONNX
            i, o, f = (peephole[k * r.shape[1] : (k + 1) * r.shape[1]] for k in range(3))
            peephole = _stacked((i, f, o), 0)
        return ops.lstm(
            x, w, r, b, c, h0=start[0], c0=start[1], activations=own, peephole=peephole, coupled=bool(input_forget),
            gate_order="iofg", **options,
        )  # fmt: skip

    return _run(
        "LSTM", 4, ("Sigmoid", "Tanh", "Tanh"), layer, x, w, r, b, lengths, (h, c), p, hidden_size=hidden_size, direction=direction,
        activations=activations, activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, layout=layout,
    )  # fmt: skip
