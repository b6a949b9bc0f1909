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
from preimage.engines.base import Steps
from preimage.engines.recording import constant_of
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.limits import check_work, checked_size
from preimage.io.onnx.operators.moving import recorded, transpose
from preimage.io.onnx.operators.shapes import data_of
from preimage.ops.recurrent import layers_side_by_side
from preimage.ops.recurrent_layer import WithSteps

__all__ = ["DIRECTIONS", "activation_functions", "reordered"]

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _scaled_tanh(x: Any, alpha: float, beta: float) -> Any:
    return ops.multiply(ops.tanh(ops.multiply(x, beta)), alpha)


def _thresholded(x: Any, alpha: float) -> Any:
    return ops.where(np.asarray(data_of(x)) > alpha, x, 0.0)


#: Name -> the function, what alpha and beta are where the model does not say, and its steps in kernels (None: they are known already), with the
#: numbers behind alpha and beta.
_ACTIVATIONS: dict[str, tuple[Callable[..., Any], tuple[float, ...], Steps | None, tuple[float, ...]]] = {
    "relu": (ops.relu, (), None, ()),
    "tanh": (ops.tanh, (), None, ()),
    "sigmoid": (ops.sigmoid, (), None, ()),
    "softsign": (ops.softsign, (), (("softsign", (0,)),), ()),
    "softplus": (ops.softplus, (), (("softplus", (0,)),), ()),
    "leakyrelu": (ops.leaky_relu, (0.01,), (("leaky_relu", (0, 1)),), ()),
    "thresholdedrelu": (_thresholded, (1.0,), (("greater", (0, 1)), ("where", (3, 0, 2))), (0.0,)),
    "elu": (ops.elu, (1.0,), (("elu", (0, 1, 2, 3)),), (1.0, 1.0)),
    "hardsigmoid": (ops.hardsigmoid, (0.2, 0.5), (("mul", (0, 1)), ("add", (5, 2)), ("clip", (6, 3, 4))), (0.0, 1.0)),
    "affine": (lambda x, alpha, beta: ops.add(ops.multiply(x, alpha), beta), (1.0, 0.0), (("mul", (0, 1)), ("add", (3, 2))), ()),
    "scaledtanh": (_scaled_tanh, (1.0, 1.0), (("mul", (0, 2)), ("tanh", (3,)), ("mul", (4, 1))), ()),
}


def activation_functions(
    what: str, names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None
) -> list[Any]:
    """The activations; alpha and beta are taken, in order, by those that have them."""
    given = (iter(alphas or ()), iter(betas or ()))
    found = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise FileFormatError(f"{what}: activation {name!r} is none of {', '.join(_ACTIVATIONS)}")
        function, usual, steps, more = _ACTIVATIONS[name.lower()]
        numbers = tuple([float(next(values, default)) for values, default in zip(given, usual, strict=False)])
        bound = _bound(function, numbers) if numbers else function
        found.append(bound if steps is None else WithSteps(bound, (steps, (*numbers, *more))))
    return found


def _bound(function: Callable[..., Any], numbers: Sequence[float]) -> Callable[[Any], Any]:
    return lambda x: function(x, *numbers)


def _run(
    what: str, gates: int, usual: tuple[str, ...], options_of: Callable[[int, list[Any]], dict[str, Any]], x: Any, w: Any, r: Any, b: Any,
    lengths: Any, states: Sequence[tuple[str, Any]], *, hidden_size: int | None, direction: str, activations: Sequence[str] | None,
    activation_alpha: Sequence[float] | None, activation_beta: Sequence[float] | None, clip: float | None, layout: int,
) -> tuple[Any, ...]:  # fmt: skip
    """Y and the last states. options_of: what the operation takes for a direction by keyword, from its number and its activations."""
    if direction not in DIRECTIONS or layout not in (0, 1):
        raise FileFormatError(f"{what}: direction {direction!r}, layout {layout}")
    reversed_ = DIRECTIONS[direction]
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
    functions = activation_functions(what, names, activation_alpha, activation_beta)
    counts = None if lengths is None else np.asarray(data_of(lengths))
    parts = []
    for k, backwards in enumerate(reversed_):
        biases = (None, None) if b is None else (b[k, : gates * hidden], b[k, gates * hidden :])
        own = functions[k * len(usual) : (k + 1) * len(usual)]
        start = {name: None if s is None else s[:, k] if layout else s[k] for name, s in states}
        shared = {"lengths": counts, "reverse": backwards, "clip": clip or None}
        parts.append(((w[k], r[k], *biases), start | shared | options_of(k, own)))
    first = layers_side_by_side(what.lower(), x, parts, 1)
    if not layout:
        return tuple(first)
    return transpose(first[0], (2, 0, 1, 3)), *(transpose(s, (1, 0, 2)) for s in first[1:])


def reordered(peephole: Any, hidden: int) -> Any:
    """Rows i, f, o from ONNX's i, o, f one after another."""
    i, o, f = (peephole[k * hidden : (k + 1) * hidden] for k in range(3))
    return ops.stack((i, f, o)) if recorded(i) else constant_of(peephole, np.stack((i, f, o)))


_TYPES = gives(0)


@graph_op("onnx.RNN", types=_TYPES)
def _rnn(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, hidden_size: int | None = None,
    direction: str = "forward", activations: Sequence[str] | None = None, activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None, clip: float | None = None, layout: int = 0, outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    def options_of(k: int, functions: list[Any]) -> dict[str, Any]:
        return {"activation": functions[0]}

    return _run(
        "RNN", 1, ("Tanh",), options_of, x, w, r, b, lengths, (("h0", h),), hidden_size=hidden_size, direction=direction, activations=activations,
        activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, layout=layout,
    )  # fmt: skip


@graph_op("onnx.GRU", types=_TYPES)
def _gru(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, hidden_size: int | None = None,
    direction: str = "forward", activations: Sequence[str] | None = None, activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None, clip: float | None = None, layout: int = 0, linear_before_reset: int = 0,
    outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    def options_of(k: int, functions: list[Any]) -> dict[str, Any]:
        return {"activations": functions, "reset_after": bool(linear_before_reset), "gate_order": "zrn"}

    return _run(
        "GRU", 3, ("Sigmoid", "Tanh"), options_of, x, w, r, b, lengths, (("h0", h),), hidden_size=hidden_size, direction=direction,
        activations=activations, activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, layout=layout,
    )  # fmt: skip


@graph_op("onnx.LSTM", types=_TYPES)
def _lstm(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, p: Any = None, *,
    hidden_size: int | None = None, direction: str = "forward", activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None, activation_beta: Sequence[float] | None = None, clip: float | None = None,
    layout: int = 0, input_forget: int = 0, outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    def options_of(k: int, functions: list[Any]) -> dict[str, Any]:
        seen = None if p is None else reordered(p[k], r.shape[2])
        return {"activations": functions, "peephole": seen, "coupled": bool(input_forget), "gate_order": "iofg"}

    return _run(
        "LSTM", 4, ("Sigmoid", "Tanh", "Tanh"), options_of, x, w, r, b, lengths, (("h0", h), ("c0", c)), hidden_size=hidden_size, direction=direction,
        activations=activations, activation_alpha=activation_alpha, activation_beta=activation_beta, clip=clip, layout=layout,
    )  # fmt: skip
