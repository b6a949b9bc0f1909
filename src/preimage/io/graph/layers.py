"""The words of graphs for layers of preimage.nn beyond `ops`: activations, normalisations, resizing, adaptive pooling.

Each computes what the layer's own forward does, so that a traced module gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from preimage import ops
from preimage.autograd import array_of
from preimage.engines import moving
from preimage.engines.base import is_channels_last
from preimage.engines.recording import constant
from preimage.geometry.sizes import conv_size, extent_of
from preimage.io.graph.nodes import graph_op
from preimage.nn.recurrent import stacked
from preimage.ops.normalise import instance_normalised, normalise, standardized

__all__: list[str] = []

Value = Any

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "adaptive_avg_pool": ops.adaptive_avg_pool,
    "adaptive_max_pool": ops.adaptive_max_pool,
    "celu": ops.celu,
    "gelu": ops.gelu,
    "hard_sigmoid": ops.hardsigmoid,
    "hard_swish": ops.hardswish,
    "log_sigmoid": ops.log_sigmoid,
    "log_softmax": ops.log_softmax,
    "mish": ops.mish,
    "neg": ops.negative,
    "reciprocal": ops.reciprocal,
    "rsqrt": ops.rsqrt,
    "selu": ops.selu,
    "softsign": ops.softsign,
    "square": ops.square,
    "upsample": ops.upsample,
}
for _name, _function in _FUNCTIONS.items():
    graph_op(_name)(_function)


@graph_op("group_norm")
def group_norm(x: Value, weight: Value = None, bias: Value = None, *, groups: int, channels: int, eps: float) -> Value:
    """Each image standardised over each group of channels and all space; weight and bias per channel."""
    shape = np.shape(array_of(x))
    spread = (channels, *[1] * (len(shape) - 2))
    weight, bias = (None if v is None else ops.reshape(v, spread) for v in (weight, bias))
    return standardized(x, weight, bias, axes=(2,), eps=eps, shape=(shape[0], groups, prod(shape[1:]) // groups))


@graph_op("instance_norm")
def instance_norm(x: Value, weight: Value = None, bias: Value = None, *, channels: int, eps: float) -> Value:
    """Each channel of each image standardised over space; weight and bias per channel."""
    return instance_normalised(x, weight, bias, eps)


@graph_op("batch_statistics_norm")
def batch_statistics_norm(x: Value, weight: Value = None, bias: Value = None, *, channels: int, eps: float) -> Value:
    """Each channel standardised over batch and space; weight and bias per channel."""
    return normalise(x, weight, bias, images=True, eps=eps)[0]


@graph_op("layer_norm")
def layer_norm(
    x: Value, weight: Value = None, bias: Value = None, *, sizes: tuple[int, ...] = (), axes: Sequence[int] | None = None, eps: float
) -> Value:  # fmt: skip
    """Standardised over the last axes, of these sizes, or over the axes named; weight and bias broadcast."""
    ndim = len(np.shape(array_of(x)))
    which = range(ndim - len(sizes), ndim) if axes is None else axes
    return standardized(x, weight, bias, axes=tuple(which), eps=eps)


@graph_op("rms_norm")
def rms_norm(x: Value, weight: Value = None, *, axes: Sequence[int], eps: float) -> Value:
    """x over the root of the mean of its squares over the axes, times the weight, which broadcasts."""
    y = ops.multiply(x, ops.rsqrt(ops.add(ops.mean(ops.square(x), tuple(axes), keepdims=True), eps)))
    return y if weight is None else ops.multiply(y, weight)


@graph_op("attention")
def attention(q: Value, k: Value, v: Value, mask: Value = None, *, scale: float = 1.0) -> Value:
    """softmax(scale q k + mask) v: q (..., L, d), k (..., d, S) as it lies in the product, v (..., S, e); the mask broadcasts to (..., L, S)."""
    scores = ops.matmul(q if scale == 1 else ops.multiply(q, scale), k)
    return ops.matmul(ops.softmax(scores if mask is None else ops.add(scores, mask), axis=-1), v)


@graph_op("channel_shuffle")
def channel_shuffle(x: Value, *, groups: int) -> Value:
    """Channels (axis 1) in `groups` rows, read by columns; they stay innermost in memory where they are."""
    size = np.shape(array_of(x))
    order = np.arange(size[1]).reshape(groups, -1).T.reshape(-1)
    if isinstance(x, np.ndarray):
        made = moving.exchanged(x, groups) if is_channels_last(x) else moving.take(x, constant(order), 1)
        if made is not None:
            return made
        return np.moveaxis(np.take(np.moveaxis(x, 1, -1), order, -1), -1, 1) if is_channels_last(x) else np.take(x, order, 1)
    return ops.take(x, order, 1)


@graph_op("unfold_maps")
def unfold_maps(x: Value, **window: Any) -> Value:
    """im2col: (N, C, space) -> (N, C prod(kernel), output space)."""
    columns = ops.unfold(x, **window)
    pairs = zip(
        np.shape(array_of(x))[2:], window["kernel_size"], window["stride"], window["padding"], window["dilation"], strict=True
    )
    space = [conv_size(n, lo, hi, extent_of(k, d), s) for n, k, s, (lo, hi), d in pairs]
    return ops.reshape(columns, (*np.shape(array_of(columns))[:2], *space))


_RECURRENT: dict[str, Callable[..., tuple[Any, ...]]] = {"RNN": ops.rnn, "LSTM": ops.lstm, "GRU": ops.gru}


@graph_op("recurrent")
def recurrent(
    x: Value, *weights: Value, kind: str, count: int, directions: int, batch_first: bool = False, nonlinearity: str | None = None
) -> tuple[Value, ...]:  # fmt: skip
    """A stack of RNN, LSTM or GRU layers: y, and the last states of each kind. weights: those of each layer and direction in turn."""
    each = len(weights) // count
    options = {} if nonlinearity is None else {"activation": ops.tanh if nonlinearity == "tanh" else ops.relu}

    def one(x: Value, place: int, reverse: bool) -> tuple[Value, ...]:
        return _RECURRENT[kind](x, *weights[place * each : (place + 1) * each], reverse=reverse, **options)

    y, last = stacked(one, ops.swapaxes(x, 0, 1) if batch_first else x, count, directions)
    return ops.swapaxes(y, 0, 1) if batch_first else y, *last
