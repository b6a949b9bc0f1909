"""DynamicQuantizeLSTM of com.microsoft: an LSTM whose weights are 8-bit integers, and what they are multiplied with made so at every step.

X is quantised as a whole, the state before every step by itself, each over its own range (DynamicQuantizeLinear); products are sums of integers,
exact, and scaled at once. Gates, peepholes and states are float32, as in LSTM. W (directions, in, 4 * hidden), R (directions, hidden, 4 * hidden);
the gates lie in the order i, o, f, c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from preimage.engines import around, integers
from preimage.engines.base import aligned_empty
from preimage.engines.integers import QuantisedLstm
from preimage.engines.recording import constant
from preimage.engines.recurrent import Cell
from preimage.errors import FileFormatError
from preimage.io.graph import graph_op
from preimage.io.graph.types import gives
from preimage.io.limits import check_work, checked_size
from preimage.io.onnx.operators import quantised_kernels as kernels
from preimage.io.onnx.operators.quantised import plain
from preimage.io.onnx.operators.quantised_products import dynamically_multiplied
from preimage.io.onnx.operators.recurrent import DIRECTIONS, activation_functions, reordered
from preimage.ops.recurrent_layer import steps_of

__all__: list[str] = []

_WHAT = "DynamicQuantizeLSTM"
#: Where the gates i, f, g, o stand among i, o, f, c.
_ORDER = (0, 2, 3, 1)


def _times(x: np.ndarray, weight: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """x (rows, in), quantised over its range, times weights (in, columns) in units of `scale`, one for all columns or one each."""
    return np.asarray(dynamically_multiplied(x, weight, scale, zero), np.float32)


def _direction(
    gates: np.ndarray, recur: Callable[[np.ndarray], np.ndarray], h: np.ndarray, c: np.ndarray, peephole: np.ndarray | None,
    lengths: np.ndarray, backwards: bool, functions: Sequence[Callable[..., Any]], clip: float, coupled: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Y (steps, batch, hidden) and the last states. gates: what X adds, with the biases; recur: what the state adds."""
    steps, batch, hidden = len(gates), *h.shape
    f, g, last = functions
    y = np.zeros((steps, batch, hidden), np.float32)
    p_i, p_o, p_f = (0, 0, 0) if peephole is None else peephole.reshape(3, hidden)

    def bounded(values: Any) -> Any:
        return np.clip(values, -clip, clip) if clip else values

    rows = np.arange(batch)
    for step in range(int(lengths.max(initial=0))):
        at = np.where(step < lengths, lengths - 1 - step if backwards else step, 0)
        i, o, forget, new = np.split(gates[at, rows] + recur(h), 4, axis=1)
        i = f(bounded(i + p_i * c))
        forget = 1 - i if coupled else f(bounded(forget + p_f * c))
        cell = np.asarray(forget * c + i * g(bounded(new)), np.float32)
        out = np.asarray(f(bounded(o + p_o * cell)) * last(cell), np.float32)
        there = (step < lengths)[:, None]
        c, h = np.where(there, cell, c), np.where(there, out, h)
        alive = rows[step < lengths]
        y[at[alive], alive] = out[alive]
    return y, h, c


@graph_op("onnx.com.microsoft::DynamicQuantizeLSTM", types=gives(0))
def _dynamic_quantize_lstm(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, p: Any = None, w_scale: Any = None,
    w_zero: Any = None, r_scale: Any = None, r_zero: Any = None, *, hidden_size: int | None = None, direction: str = "forward",
    activations: Sequence[str] | None = None, activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None, clip: float | None = None, input_forget: int = 0, outputs: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    given = (x, w, r, b, lengths, h, c, p, w_scale, w_zero, r_scale, r_zero)
    if direction not in DIRECTIONS or any(v is None for v in (w_scale, w_zero, r_scale, r_zero)):
        raise FileFormatError(f"{_WHAT}: direction {direction!r}; scales and zero points of W and R must be there")
    x, w, r, b, lengths, h, c, p, w_scale, w_zero, r_scale, r_zero = (None if v is None else plain(_WHAT, v)[0] for v in given)
    count = len(DIRECTIONS[direction])
    steps, batch, hidden = _sizes(x, w, r, count)
    if hidden_size not in (None, hidden) or (
        lengths is not None and (lengths.shape != (batch,) or lengths.dtype.kind not in "iu")
    ):
        raise FileFormatError(
            f"{_WHAT}: hidden_size {hidden_size}, lengths {None if lengths is None else lengths.shape} for {x.shape}"
        )
    wanted = {"B": (b, 8 * hidden), "P": (p, 3 * hidden)}
    for name, (value, width) in wanted.items():
        if value is not None and value.shape != (count, width):
            raise FileFormatError(f"{_WHAT}: {name} has shape {value.shape}, wanted {(count, width)}")
    functions = activation_functions(
        _WHAT, list(activations or ("Sigmoid", "Tanh", "Tanh") * count), activation_alpha, activation_beta
    )
    if len(functions) != 3 * count:
        raise FileFormatError(f"{_WHAT}: {len(functions)} activations for {count} directions")
    ends = np.full(batch, steps) if lengths is None else np.clip(lengths, 0, steps).astype(np.int64)
    layers = []
    for k, backwards in enumerate(DIRECTIONS[direction]):
        scales = [_per_column(v, k, count, 4 * hidden) for v in (w_scale, w_zero, r_scale, r_zero)]
        gates = _times(x.reshape(steps * batch, -1), w[k], scales[0], scales[1]).reshape(steps, batch, 4 * hidden)
        gates = gates if b is None else _biased(gates, b[k, : 4 * hidden], b[k, 4 * hidden :])
        states = _state(h, k, count, batch, hidden), _state(c, k, count, batch, hidden)
        own = functions[3 * k : 3 * k + 3]
        layers.append(_Layer(gates, r[k], scales[2], scales[3], states, None if p is None else p[k], backwards, own))
    made = None if lengths is not None or not x.size else _by_kernels(layers, clip or None, bool(input_forget))
    if made is None:
        parts = [layer.one_by_one(ends, clip or 0.0, bool(input_forget)) for layer in layers]
        made = tuple(np.stack([part[n] for part in parts], axis=1 if n == 0 else 0) for n in range(3))
    return made[:outputs]


class _Layer(NamedTuple):
    """One direction. gates (steps, batch, 4 * hidden): what X adds, with the biases; peephole: of i, o, f."""

    gates: np.ndarray
    weight: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    states: tuple[np.ndarray, np.ndarray]
    peephole: np.ndarray | None
    backwards: bool
    functions: Sequence[Any]

    def one_by_one(self, lengths: np.ndarray, clip: float, coupled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y and the last states, step by step: the definition."""
        recur = partial(_times, weight=self.weight, scale=self.scale, zero=self.zero)
        return _direction(self.gates, recur, *self.states, self.peephole, lengths, self.backwards, self.functions, clip, coupled)


def _biased(gates: np.ndarray, *biases: np.ndarray) -> np.ndarray:
    """gates + the bias of W + that of R."""
    made = around.chain((gates, *biases), (("add", (0, 1)), ("add", (3, 2))))
    return gates + biases[0] + biases[1] if made is None else made[0]


def _by_kernels(layers: Sequence[_Layer], clip: float | None, coupled: bool) -> tuple[Any, ...] | None:
    """Y and the last states, all steps in one call, of sequences of one length; None where no engine does that."""
    (steps, batch, columns), count, float32 = layers[0].gates.shape, len(layers), np.dtype(np.float32)
    hidden = columns // 4
    y, h, c = (aligned_empty(shape, float32) for shape in ((steps, count, batch, hidden), *[(count, batch, hidden)] * 2))
    directions = []
    for k, layer in enumerate(layers):
        activations = steps_of(layer.functions)
        if activations is None or layer.scale.dtype != float32 or not kernels.takes_products(layer.weight, layer.zero):
            return None
        peephole = None if layer.peephole is None else np.asarray(reordered(layer.peephole, hidden))
        cell = Cell("lstm", _ORDER, activations, clip, coupled)
        directions.append(
            QuantisedLstm(
                cell,
                layer.gates,
                layer.weight,
                layer.scale,
                layer.zero,
                layer.states,
                (h[k], c[k]),
                y[:, k],
                layer.backwards,
                peephole,
            )
        )
    return (y, h, c) if integers.lstm(directions) else None


def _sizes(x: np.ndarray, w: np.ndarray, r: np.ndarray, count: int) -> tuple[int, int, int]:
    """Steps, batch and hidden. Raises: FileFormatError for arrays that do not belong together."""
    if x.ndim != 3 or w.ndim != 3 or r.ndim != 3 or x.dtype != np.float32 or w.dtype.itemsize > 1 or r.dtype.itemsize > 1:
        raise FileFormatError(f"{_WHAT}: X {x.dtype}{x.shape}, W {w.dtype}{w.shape}, R {r.dtype}{r.shape}")
    hidden = r.shape[1]
    if not hidden or w.shape != (count, x.shape[2], 4 * hidden) or r.shape != (count, hidden, 4 * hidden):
        raise FileFormatError(f"{_WHAT}: X {x.shape}, W {w.shape} and R {r.shape} do not fit {count} directions")
    steps, batch = x.shape[:2]
    checked_size((steps, count, batch, max(4 * hidden, x.shape[2])), _WHAT)
    check_work(2 * steps * batch * (w.size + r.size), _WHAT)
    return steps, batch, hidden


def _per_column(values: np.ndarray, k: int, count: int, columns: int) -> np.ndarray:
    """A scale or zero point of a direction: one number, or one for each column."""
    if values.shape in ((count,), (count, columns), (count, 1)):
        own: np.ndarray = values[k : k + 1].reshape(() if values.size == count else columns)  # a view: known to a recording
        return own
    if values.size == 1:
        return values.reshape(())
    raise FileFormatError(f"{_WHAT}: a scale or zero point of shape {values.shape}, wanted {(count,)} or {(count, columns)}")


def _state(value: np.ndarray | None, k: int, count: int, batch: int, hidden: int) -> np.ndarray:
    if value is None:
        return constant(np.zeros((batch, hidden), np.float32))
    if value.shape != (count, batch, hidden):
        raise FileFormatError(f"{_WHAT}: a state of shape {value.shape}, wanted {(count, batch, hidden)}")
    return np.asarray(value[k], np.float32)
