"""An entry of the promise for every operation of `preimage.ops`."""

from __future__ import annotations

from typing import Any

import numpy as np

from preimage import ops
from promise import BATCH, Entry

X = (BATCH, 19, 13, 11)  # more than a vector of channels, whole vectors and a rest of space
LONG = (BATCH, 3, 1100)  # more than two blocks of a sum
ROWS = (BATCH, 600)
SMALL = (BATCH, 5, 6, 7)
BOTH = (np.float32, np.float64)
ALL = (np.float32, np.float64, np.float16)

UNARY = (
    "abs", "celu", "cos", "elu", "erf", "exp", "expm1", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid", "mish",
    "negative", "normal_cdf", "relu", "relu6", "selu", "sigmoid", "sign", "silu", "sin", "softplus", "softsign", "square", "tanh",
    "arcsinh", "arctan", "cosh", "sinh", "tan",
)  # fmt: skip
POSITIVE = ("log", "log1p", "reciprocal", "rsqrt", "sqrt")
BINARY = ("add", "divide", "maximum", "minimum", "multiply", "subtract")


def _batch_second(op: Any) -> Any:
    """A recurrent operation, whose second axis counts images, with the first for that."""

    def run(x: Any, *weights: Any) -> Any:
        return ops.moveaxis(op(ops.moveaxis(x, 0, 1), *weights), 1, 0)

    return run


_mask = np.arange(13 * 11).reshape(13, 11) % 3 == 0
_switches = np.broadcast_to(np.arange(0, 36, 4).reshape(3, 3), (BATCH, 5, 3, 3)).copy()

ENTRIES = [
    *[Entry(name, getattr(ops, name), (X,), dtypes=ALL, kind="unit") for name in ("arccos", "arcsin", "arctanh")],
    Entry("arccosh", lambda x: ops.arccosh(x + 1), (X,), dtypes=ALL, kind="positive"),
    *[Entry(name, getattr(ops, name), (X,), dtypes=ALL) for name in UNARY],
    *[Entry(name, getattr(ops, name), (X,), dtypes=ALL, kind="positive") for name in POSITIVE],
    *[Entry(name, getattr(ops, name), (X, X), (True, True), diff=(0, 1), kind="positive", dtypes=ALL) for name in BINARY],
    *[Entry(name, getattr(ops, name), (X, (19, 1, 1)), diff=(0, 1), kind="positive", label="a channel") for name in BINARY],
    Entry("power", ops.power, (X, X), (True, True), diff=(0, 1), kind="positive", dtypes=ALL),
    Entry("power", lambda x: ops.power(x, 0.75), (X,), kind="positive", label="a number"),
    *[
        Entry(name, lambda x, name=name: getattr(ops, name)(x * 1000), (X,), dtypes=BOTH, label="of many turns")
        for name in ("sin", "cos")
    ],
    *[
        Entry(name, getattr(ops, name), (X, (19, 1, 11)), diff=(0, 1), kind="positive", label="a channel's row")
        for name in ("divide", "power")
    ],
    Entry("gelu", lambda x: ops.gelu(x, "tanh"), (X,), dtypes=ALL, label="by tanh"),
    Entry("softplus", lambda x: ops.softplus(x, -0.7), (X,), label="of a slope"),
    Entry("where", lambda x, y: ops.where(_mask, x, y), (X, X), (True, True), diff=(0, 1)),
    Entry("clip", lambda x: ops.clip(x, -1, 1.5), (X,), dtypes=ALL),
    Entry("prelu", ops.prelu, (X, (19,)), diff=(0, 1), dtypes=ALL),
    Entry("astype", lambda x: ops.astype(x, np.float64), (X,)),
    Entry("astype", lambda x: ops.astype(x, np.float16), (X,), label="narrow"),
    # sums
    Entry("sum", ops.sum, (X,), images=False, dtypes=ALL),
    Entry("sum", lambda x: ops.sum(x, 0), (X,), images=False, label="over images"),
    Entry("sum", lambda x: ops.sum(x, (2, 3)), (X,), label="over space", dtypes=ALL),
    Entry("sum", lambda x: ops.sum(x, 1, keepdims=True), (X,), label="over channels"),
    Entry("sum", lambda x: ops.sum(x, (1, 3)), (X,), label="over channels and columns"),
    Entry("sum", lambda x: ops.sum(x, 2), (LONG,), label="of blocks", dtypes=ALL),
    Entry("sum", lambda x: ops.sum(x, (1, 2)), (LONG,), label="of images"),
    Entry("mean", ops.mean, (LONG,), images=False, dtypes=ALL),
    Entry("mean", lambda x: ops.mean(x, (2, 3)), (X,), label="over space", dtypes=ALL),
    Entry("mean", lambda x: ops.mean(x, (0, 2, 3)), (X,), images=False, label="over images and space"),
    Entry("var", lambda x: ops.var(x, (2, 3)), (X,), dtypes=ALL),
    Entry("var", lambda x: ops.var(x, 0, correction=1), (X,), images=False, label="over images"),
    Entry("std", lambda x: ops.std(x, (1, 2)), (LONG,), dtypes=ALL),
    Entry("prod", lambda x: ops.prod(x, (2, 3)), (SMALL,), kind="positive", dtypes=ALL),
    Entry("sum_to", lambda x: ops.sum_to(x, (19, 1, 1)), (X,), images=False, dtypes=ALL),
    Entry("logsumexp", lambda x: ops.logsumexp(x, (1, 2)), (LONG,), dtypes=ALL),
    Entry("softmax", lambda x: ops.softmax(x, 1), (X,), dtypes=ALL),
    Entry("softmax", ops.softmax, (LONG,), label="long rows"),
    Entry("log_softmax", lambda x: ops.log_softmax(x, 1), (X,), dtypes=ALL),
    Entry("log_softmax", ops.log_softmax, (ROWS,), label="long rows"),
    Entry("standardize", lambda x: ops.standardize(x, (2, 3)), (X,), dtypes=ALL),
    Entry("standardize", lambda x: ops.standardize(x, 1), (X,), dtypes=BOTH, label="over channels"),
    Entry("standardize", lambda x: ops.standardize(x, (1, 3)), (X,), label="over channels and columns"),
    Entry("standardize", lambda x: ops.standardize(x, (0, 2, 3)), (X,), images=False, label="over images"),
    *[Entry(name, lambda x, name=name: getattr(ops, name)(x, (2, 3)), (X,), dtypes=ALL) for name in ("max", "min")],
    *[
        Entry(name, lambda x, name=name: getattr(ops, name)(x, 1), (X,), label="over channels")
        for name in ("max", "min", "logsumexp")
    ],
    *[Entry(name, lambda x, name=name: getattr(ops, name)(x, 1), (X,), diff=()) for name in ("argmax", "argmin")],
    # what moves elements
    Entry("reshape", lambda x: ops.reshape(x, (x.shape[0], -1)), (X,)),
    Entry("flatten", lambda x: ops.flatten(x, 1), (X,)),
    Entry("expand_dims", lambda x: ops.expand_dims(x, -1), (X,)),
    Entry("squeeze", lambda x: ops.squeeze(x, 1), ((BATCH, 1, 9, 8),)),
    Entry("transpose", lambda x: ops.transpose(x, (0, 3, 1, 2)), (X,)),
    Entry("moveaxis", lambda x: ops.moveaxis(x, 1, -1), (X,)),
    Entry("swapaxes", lambda x: ops.swapaxes(x, 1, 3), (X,)),
    Entry("broadcast_to", lambda x: ops.broadcast_to(x, (x.shape[0], 4, 9, 8)), ((BATCH, 1, 9, 1),)),
    Entry("getitem", lambda x: ops.getitem(x, (slice(None), [2, 0, 2], slice(None, None, -2))), (X,)),
    Entry("put", lambda x: ops.put(x, (x.shape[0], 30, 13, 11), (slice(None), [*range(18), 17])), (X,)),
    Entry("take", lambda x: ops.take(x, [3, 1, 3], 2), (X,)),
    Entry("concat", lambda x, y: ops.concat([x, y], 1), (X, X), (True, True), diff=(0, 1)),
    Entry("stack", lambda x, y: ops.stack([x, y], 1), (X, X), (True, True), diff=(0, 1)),
    Entry("split", lambda x: ops.split(x, (4, 15), 1), (X,)),
    Entry("flip", lambda x: ops.flip(x, 2), (X,)),
    Entry("roll", lambda x: ops.roll(x, 3, 2), (X,)),
    Entry("tile", lambda x: ops.tile(x, (1, 2, 1, 2)), (SMALL,)),
    Entry("repeat", lambda x: ops.repeat(x, 3, 2), (SMALL,)),
    Entry("pad", lambda x: ops.pad(x, 2, axes=(2, 3)), (X,)),
    Entry("pad", lambda x: ops.pad(x, 2, mode="reflect", axes=(2, 3)), (X,), label="reflect"),
    Entry("fold_margin", lambda x: ops.fold_margin(x, 2, mode="replicate", axes=(2, 3)), (X,), dtypes=ALL),
    Entry("unfold", lambda x: ops.unfold(x, 3, padding=1), (X,), dtypes=ALL),
    Entry("fold", lambda x: ops.fold(x, (13, 11), 3, padding=1), ((BATCH, 5 * 9, 13 * 11),), dtypes=ALL),
    Entry("pixel_shuffle", lambda x: ops.pixel_shuffle(x, 2), ((BATCH, 8, 6, 5),)),
    Entry("pixel_unshuffle", lambda x: ops.pixel_unshuffle(x, 2), ((BATCH, 3, 6, 8),)),
    # windows
    Entry("max_pool", lambda x: ops.max_pool(x, 3, stride=2, padding=1), (X,), dtypes=ALL),
    Entry("avg_pool", lambda x: ops.avg_pool(x, 3, stride=2, padding=1), (X,), dtypes=ALL),
    Entry("sum_pool", lambda x: ops.sum_pool(x, (3, 2)), (X,), dtypes=ALL),
    Entry("adaptive_avg_pool", lambda x: ops.adaptive_avg_pool(x, (5, 3)), (X,), dtypes=ALL),
    Entry("adaptive_avg_pool", lambda x: ops.adaptive_avg_pool(x, 1), (X,), label="to one"),
    Entry("adaptive_avg_pool", lambda x: ops.adaptive_avg_pool(x, 17), (X,), label="to more"),
    Entry("adaptive_max_pool", lambda x: ops.adaptive_max_pool(x, (5, 3)), (X,), dtypes=ALL),
    Entry("global_avg_pool", ops.global_avg_pool, (X,), dtypes=ALL),
    Entry("global_max_pool", ops.global_max_pool, (X,), dtypes=ALL),
    Entry("max_unpool", lambda x, s: ops.max_unpool(x, s, (6, 6)), ((BATCH, 5, 3, 3), _switches), (True, True)),
    Entry(
        "max_unpool",
        lambda x, s: ops.max_unpool(x, s // 9, (6, 6), overlap="add"),
        ((BATCH, 5, 3, 3), _switches),
        (True, True),
        label="add",
    ),
    *[
        Entry("upsample", lambda x, mode=mode: ops.upsample(x, size=(29, 8), mode=mode), (X,), dtypes=ALL, label=mode)
        for mode in ("nearest", "linear", "cubic")
    ],
    Entry("upsample", lambda x: ops.upsample(x, size=(5, 31), mode="cubic", antialias=True), (X,), dtypes=ALL, label="antialias"),
    # products
    Entry("conv", lambda x, w, b: ops.conv(x, w, b, padding=1), (X, (21, 19, 3, 3), (21,)), diff=(0, 1, 2), dtypes=ALL),
    Entry("conv", lambda x, w: ops.conv(x, w, stride=2, groups=19), (X, (19, 1, 3, 3)), diff=(0, 1), label="depthwise"),
    Entry(
        "conv",
        lambda x, w: ops.conv(x, w, padding=2, padding_mode="circular"),
        (X, (4, 19, 5, 4)),
        diff=(0, 1),
        label="few outputs",
    ),
    Entry("conv", ops.conv, (LONG, (7, 3, 9)), diff=(0, 1), label="of lines", dtypes=BOTH),
    Entry(
        "conv_transpose",
        lambda x, w, b: ops.conv_transpose(x, w, b, stride=2),
        (X, (19, 6, 4, 3), (6,)),
        diff=(0, 1, 2),
        dtypes=ALL,
    ),
    Entry(
        "conv_weight_grad",
        lambda x, y: ops.conv_weight_grad(x, y, kernel_size=3),
        (X, (BATCH, 8, 11, 9)),
        (True, True),
        False,
        (0, 1),
        dtypes=ALL,
    ),
    Entry("linear", ops.linear, (ROWS, (37, 600), (37,)), diff=(0, 1, 2), dtypes=ALL),
    Entry("matmul", ops.matmul, (ROWS, (600, 33)), diff=(0, 1), dtypes=ALL),
    Entry("matmul", ops.matmul, ((BATCH, 12, 70), (BATCH, 70, 9)), (True, True), diff=(0, 1), label="of batches"),
    Entry("matmul", ops.matmul, ((BATCH, 300), (300,)), diff=(0, 1), label="by a vector"),
    Entry("rnn", _batch_second(lambda *a: ops.rnn(*a)[0]), ((BATCH, 4, 6), (9, 6), (9, 9)), diff=(0, 1, 2)),
    Entry("lstm", _batch_second(lambda *a: ops.lstm(*a)[0]), ((BATCH, 4, 6), (36, 6), (36, 9)), diff=(0, 1, 2)),
    Entry("gru", _batch_second(lambda *a: ops.gru(*a)[0]), ((BATCH, 4, 6), (27, 6), (27, 9)), diff=(0, 1, 2)),
]
