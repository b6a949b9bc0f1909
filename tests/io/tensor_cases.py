"""A row for every method and operator of Tensor, and every operation, as in `function_cases`; and what stays without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
from function_cases import ACTIVATIONS, FUNCTIONAL, LINE, MAP, POSITIVE, Case, of, with_weights

import preimage.functional as F  # noqa: N812 - as its users import it
from preimage import ops

TENSOR: dict[str, Case] = {
    "__add__": with_weights(lambda m, x: x + 1.5 + m.weight, MAP, weight=(4, 1, 1)),
    "__radd__": of(lambda x: 2 + x),
    "__sub__": of(lambda x, y: x - y - 0.5, MAP, (2, 1, 6, 1)),
    "__rsub__": of(lambda x: 1 - x),
    "__mul__": with_weights(lambda m, x: x * m.weight * 3.0, MAP, weight=(5,)),
    "__rmul__": of(lambda x: np.float32([1, 2, 3, 4, 5]) * x),
    "__truediv__": of(lambda x, y: x / y / 2.0, MAP, POSITIVE),
    "__rtruediv__": of(lambda x: 1.0 / x, POSITIVE),
    "__pow__": of(lambda x: x**2 + x**3, MAP),
    "__pow__ of a root": of(lambda x: x**0.5 + x**-1.5, POSITIVE),
    "__pow__ of Tensors": of(lambda x, y: x**y, POSITIVE, MAP),
    "__rpow__": of(lambda x: 2.0**x),
    "__matmul__": of(lambda x: x @ x.swapaxes(-1, -2)),
    "__matmul__ of a vector": with_weights(lambda m, x: x @ m.weight, MAP, weight=(5,)),
    "__rmatmul__": of(lambda x: np.ones((3, 6), np.float32) @ x),
    "__neg__": of(lambda x: -x),
    "__pos__": of(lambda x: +x),
    "__abs__": of(abs),
    "__eq__": of(lambda x: (x == 0).astype(np.float32) + x),
    "__ne__": of(lambda x: (x != 0).astype(np.float32) * x),
    "__lt__": of(lambda x: ops.where(x < 0.2, x, 0.5)),
    "__le__": of(lambda x: ops.where((x <= 0.2) & (x >= -0.4), x, -x)),
    "__gt__": of(lambda x: ops.where((x > 0.2) | (x < -0.4), x, -x)),
    "__ge__": of(lambda x: x * (x >= 0) + ops.where(~(x >= 0), 1.0, 0.0)),
    "split": of(lambda x: ops.concat(x.split([1, 3], dim=1)[::-1], axis=1) + ops.concat(x.split(3, dim=1)[::-1], axis=1)),
    "chunk": of(lambda x: ops.concat(x.chunk(3, dim=3)[::-1], axis=3)),
    "unbind": of(lambda x: x.unbind(1)[2] * x.unbind(dim=1)[0]),
    "clamp": of(lambda x: x.clamp(-0.3, 0.4) + x.clamp(min=0.1) + x.clamp(max=0.2)),
    "pow": of(lambda x: x.pow(2) + x.pow(3)),
    "masked_fill": of(lambda x: x.masked_fill(x > 0.2, 0.25)),
    "expand": of(lambda x: x[:, :1].expand(-1, 3, -1, -1)),
    "clone": of(lambda x: x.clone() + 1.0),
    "repeat": of(lambda x: x.repeat(1, 2, 1, 3) * 2.0),
    "repeat along an axis": of(lambda x: x.repeat(2, axis=1)),
    "tile": of(lambda x: x.tile(2, 1)),
    "flip": of(lambda x: x.flip(1, -1)),
    "roll": of(lambda x: x.roll(2, 1)),
    "narrow": of(lambda x: x.narrow(1, 1, 2)),
    "unflatten": of(lambda x: x.unflatten(1, (2, -1))),
    "expand_as": of(lambda x: x[:, :1].expand_as(x) + x),
    "view_as": of(lambda x: x.swapaxes(1, 2).view_as(x) + x),
    "reshape_as": of(lambda x: x.swapaxes(1, 2).reshape_as(x) - x),
    "movedim": of(lambda x: x.movedim(1, -1)),
    "amax": of(lambda x: x.amax((2, 3))),
    "amin": of(lambda x: x.amin(dim=1, keepdim=True)),
    "add": of(lambda x: x.add(x * x, alpha=0.5)),
    "sub": of(lambda x: x.sub(0.25).sub(x * x, alpha=2)),
    "mul": of(lambda x: x.mul(3.0).mul(x)),
    "div": of(lambda x: x.div(4.0)),
    "neg": of(lambda x: x.neg()),
    "maximum": of(lambda x: x.maximum(x * x)),
    "minimum": of(lambda x: x.minimum(0.25)),
    "bmm": of(lambda x, y: x.bmm(y), (2, 3, 4), (2, 4, 5)),
    "mm": of(lambda x: x[0, 0].mm(x[0, 1].swapaxes(0, 1))),
    "cos": of(lambda x: x.cos()),
    "sin": of(lambda x: x.sin()),
    "expm1": of(lambda x: x.expm1()),
    "reciprocal": of(lambda x: x.reciprocal(), POSITIVE),
    "rsqrt": of(lambda x: x.rsqrt(), POSITIVE),
    "sign": of(lambda x: x.sign() * x),
    "contiguous": of(lambda x: x.swapaxes(1, 2).contiguous() * 2.0),
    "__getitem__": of(lambda x: x[:, 1:3, ..., -1]),
    "__getitem__ by steps": of(lambda x: x[:, ::2, ::-1, 1::2]),
    "__getitem__ of numbers": of(lambda x: x[:, 0] + x[:, -1, :, :]),
    "__getitem__ with new axes": of(lambda x: x[:, None, 2, :, None]),
    "__getitem__ by an array": of(lambda x: x[:, [3, 0, 0]]),
    "__getitem__ by arrays": of(lambda x: x[:, :, [3, 0, 5], [1, 2, 4]]),
    "__getitem__ by arrays apart": of(lambda x: x[:, [3, 0, 1], :, [1, 2, 4]]),
    "__getitem__ by a mask": of(lambda x: x[:, np.array([True, False, True, True])]),
    "__getitem__ by an input": of(lambda i, x: x[i], np.array([[1, 2], [0, 4]]), (5, 3)),
    "__getitem__ by computed indices": of(lambda x: x.argmax(1)[:, 0] + 1),
    "__iter__": Case(lambda m, x: [part * (k + 1) for k, part in enumerate(x.swapaxes(0, 1))]),
    "abs": of(lambda x: x.abs()),
    "argmax": of(lambda x: x.argmax(1)),
    "argmax of all": of(lambda x: x.argmax()),
    "argmin": of(lambda x: x.argmin(-1, keepdims=True)),
    "astype": of(lambda x: x.astype(np.float64).sum(1).astype(np.float32)),
    "broadcast_to": with_weights(lambda m, x: x + m.weight.broadcast_to(x.shape), MAP, weight=(4, 1, 1)),
    "clip": of(lambda x: x.clip(-0.5, 0.5)),
    "exp": of(lambda x: x.exp()),
    "expand_dims": of(lambda x: x.expand_dims((1, -1))),
    "flatten": of(lambda x: x.flatten(1)),
    "log": of(lambda x: x.log(), POSITIVE),
    "log1p": of(lambda x: x.log1p(), POSITIVE),
    "log_softmax": of(lambda x: x.log_softmax(1)),
    "logsumexp": of(lambda x: x.logsumexp((2, 3))),
    "matmul": of(lambda x, y: x.matmul(y), (2, 3, 4), (2, 4, 5)),
    "max": of(lambda x: x.max(1)),
    "max of all": of(lambda x: x.max() + x),
    "mean": of(lambda x: x.mean((2, 3), keepdims=True)),
    "mean by torch's names": of(lambda x: x.mean(dim=-1, keepdim=True)),
    "min": of(lambda x: x.min(-1, keepdims=True)),
    "moveaxis": of(lambda x: x.moveaxis(1, -1)),
    "permute": of(lambda x: x.permute(0, 3, 1, 2)),
    "prod": of(lambda x: x.prod(1)),
    "ravel": of(lambda x: x.ravel()),
    "relu": of(lambda x: x.relu()),
    "reshape": of(lambda x: x.reshape(x.shape[0], -1)),
    "reshape of batch and channels": of(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])),
    "reshape of groups": of(lambda x: x.reshape(-1, 2, 2, 6, 5).swapaxes(1, 2).reshape(x.shape)),
    "sigmoid": of(lambda x: x.sigmoid()),
    "softmax": of(lambda x: x.softmax()),
    "sqrt": of(lambda x: x.sqrt(), POSITIVE),
    "square": of(lambda x: x.square()),
    "squeeze": of(lambda x: x.mean(1, keepdims=True).squeeze(1)),
    "std": of(lambda x: x.std(1, correction=1)),
    "sum": of(lambda x: x.sum(1)),
    "sum of all": of(lambda x: x.sum() + x / x.shape[0]),
    "swapaxes": of(lambda x: x.swapaxes(1, 3)),
    "tanh": of(lambda x: x.tanh()),
    "transpose": of(lambda x: x.transpose(0, 3, 2, 1)),
    "T": of(lambda x: x.T.sum(0)),
    "unsqueeze": of(lambda x: x.unsqueeze(1)),
    "var": of(lambda x: x.var((2, 3))),
    "view": of(lambda x: x.view(x.shape[0], 4, -1)),
    "detach": of(lambda x: x.detach() + 1.0)._replace(cut=True),
    "data": of(lambda x: x * (x.data > 0)),
    "numpy": of(lambda x: x + x.numpy())._replace(cut=True),
    "shape": of(lambda x: x.reshape((x.shape[0], -1)) * float(x.shape[1])),
    "size": of(lambda x: x / x.size),
    "numel": of(lambda x: x.sum((1, 2, 3)) / (x.numel() // x.shape[0])),
    "ndim": of(lambda x: x.flatten(x.ndim - 2)),
    "dim": of(lambda x: x.flatten(x.dim() - 2)),
    "dtype": of(lambda x: x + np.ones(5, x.dtype)),
    "__len__": of(lambda x: ops.concat([x[k : k + 1] * k for k in range(len(x))]))._replace(fixed=True),
    "__array_function__": of(
        lambda x: np.concatenate([np.mean(x, axis=1, keepdims=True), np.max(x, axis=1, keepdims=True)], axis=1)
    ),
    "__array_function__ of values": of(
        lambda x: x + np.cumsum(x, axis=1) + np.linalg.norm(x, axis=1, keepdims=True) + np.einsum("nchw,nchv->nwv", x, x).sum()
    )._replace(cut=True),
    "__array_function__ of a mask": of(
        lambda x: np.where(x > 0, x, 0.5) / (x > 0).sum() + (x.data * x.data).mean(axis=(0, 1))
    )._replace(cut=True),
    "__array_function__ of indices": of(lambda x: np.take_along_axis(x, np.expand_dims(x.argmax(1), 1), axis=1))._replace(
        cut=True
    ),
    "__array_ufunc__ of many": of(
        lambda x: (
            np.isfinite(x) * np.rint(x * 2)
            + np.remainder(x, 0.7)
            - np.floor_divide(x, 0.3)
            + np.square(np.arctan(x))
            + np.logical_xor(x > 0, x < 1)
        )
    )._replace(cut=True),
    "__array_ufunc__": of(lambda x: np.exp(x) * np.floor(x) + np.maximum(x, 0.1)),
}

OPS: dict[str, Case] = {
    **{name: of(getattr(ops, name)) for name in ("tan", "sinh", "cosh", "arctan", "arcsinh")},
    **{name: of(getattr(ops, name), POSITIVE * np.float32(0.7)) for name in ("arcsin", "arccos", "arctanh")},
    "arccosh": of(ops.arccosh, POSITIVE + np.float32(1)),
    "add": of(ops.add, MAP, MAP),
    "subtract": of(ops.subtract, MAP, MAP),
    "multiply": of(ops.multiply, MAP, MAP),
    "divide": of(ops.divide, MAP, POSITIVE),
    "maximum": of(ops.maximum, MAP, MAP),
    "minimum": of(ops.minimum, MAP, MAP),
    "power": of(ops.power, POSITIVE, MAP),
    "where": of(lambda x, y: ops.where(np.arange(5) < 2, x, y), MAP, MAP),
    **{
        name: of(getattr(ops, name))
        for name in (
            "abs",
            "negative",
            "exp",
            "expm1",
            "sin",
            "cos",
            "sign",
            "square",
            *ACTIVATIONS,
            "log_sigmoid",
            "erf",
            "normal_cdf",
            "softmax",
            "log_softmax",
            "logsumexp",
            "sum",
            "mean",
            "max",
            "min",
            "prod",
            "var",
            "std",
            "argmax",
            "argmin",
            "global_avg_pool",
            "global_max_pool",
            "flatten",
            "transpose",
            "flip",
        )
    },
    **{name: of(getattr(ops, name), POSITIVE) for name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal")},
    "clip": of(ops.clip, lo=-0.5),
    "astype": of(ops.astype, dtype=np.float64),
    "prelu": with_weights(lambda m, x: ops.prelu(x, m.weight, layout="channels_last"), MAP, weight=(5,)),
    "linear": with_weights(lambda m, x: ops.linear(x, m.weight), MAP, weight=(3, 5)),
    "matmul": of(ops.matmul, (2, 3, 4, 5), (2, 1, 5, 6)),
    "conv": with_weights(
        lambda m, x: ops.conv(x, m.weight, m.bias, padding=1, padding_mode="reflect", activation="relu"),
        MAP,
        weight=(3, 4, 3, 3),
        bias=(3,),
    ),
    "conv channels last": with_weights(lambda m, x: ops.conv(x, m.weight, layout="channels_last"), MAP, weight=(3, 5, 3, 3)),
    "conv with a residual": with_weights(lambda m, x: ops.conv(x, m.weight, padding=1, residual=x), MAP, weight=(4, 4, 3, 3)),
    **{
        f"conv_transpose {mode}": with_weights(
            lambda m, x, mode=mode: ops.conv_transpose(x, m.weight, padding=(2, 1), padding_mode=mode), MAP, weight=(4, 3, 4, 3)
        )
        for mode in ("zeros", "reflect", "replicate", "circular")
    },
    "fold_margin": of(ops.fold_margin, padding=((1, 2), (2, 0)), mode="reflect"),
    "fold_margin of zeros": of(ops.fold_margin, padding=((1, -2), (2, 0))),
    "pad": of(ops.pad, padding=2, mode="replicate"),
    "fold": of(ops.fold, (2, 12, 4), output_size=6, kernel_size=3),
    "unfold": of(ops.unfold, LINE, kernel_size=3, stride=2),
    "max_pool": of(ops.max_pool, kernel_size=3, stride=1, padding=1, layout="channels_last"),
    "avg_pool": of(ops.avg_pool, kernel_size=2),
    "sum_pool": of(ops.sum_pool, kernel_size=(2, 3), padding=1),
    "max_unpool": FUNCTIONAL["max_unpool2d"],
    "adaptive_avg_pool": of(ops.adaptive_avg_pool, output_size=2),
    "adaptive_max_pool": of(ops.adaptive_max_pool, output_size=(3, 1)),
    "upsample": of(ops.upsample, scale_factor=2, mode="linear"),
    "pixel_shuffle": of(ops.pixel_shuffle, factor=2),
    "pixel_unshuffle": of(ops.pixel_unshuffle, factor=(3, 5)),
    "standardize": of(ops.standardize, axis=(1, 3)),
    "broadcast_to": of(lambda x: ops.broadcast_to(x, (3, *x.shape))),
    "sum_to": of(lambda x: ops.sum_to(x, (4, 1, 5))),
    "reshape": of(lambda x: ops.reshape(x, (-1, 5))),
    "squeeze": of(ops.squeeze, (2, 1, 3), axis=1),
    "expand_dims": of(ops.expand_dims, axis=0),
    "moveaxis": of(ops.moveaxis, source=1, destination=-1),
    "swapaxes": of(ops.swapaxes, axis1=1, axis2=2),
    "getitem": of(lambda x: ops.getitem(x, (slice(None), 1))),
    "take": of(lambda x: ops.take(x, [[2, 0], [1, 1]], 1)),
    "concat": of(lambda x, y: ops.concat([x, y], -1), MAP, MAP),
    "stack": of(lambda x: ops.stack([x, x])),
    "split": of(lambda x: ops.split(x, (1, 3), 1)),
    "tile": of(ops.tile, repeats=(1, 2, 1, 3)),
    "repeat": of(ops.repeat, repeats=3, axis=1),
    "roll": of(ops.roll, shift=2, axis=-1),
    "rnn": with_weights(lambda m, x: ops.rnn(x, m.w, m.r, m.b, m.c), (5, 2, 4), w=(3, 4), r=(3, 3), b=(3,), c=(3,)),
    "lstm": with_weights(lambda m, x: ops.lstm(x, m.w, m.r, m.b, m.c), (5, 2, 4), w=(12, 4), r=(12, 3), b=(12,), c=(12,)),
    "gru": with_weights(lambda m, x: ops.gru(x, m.w, m.r), (5, 2, 4), w=(9, 4), r=(9, 3)),
    "gru with a first state": Case(
        lambda m, x, h: ops.gru(x, m.w, m.r, h0=h), ((5, 2, 4), (2, 3)), {"w": (9, 4), "r": (9, 3)}, True
    ),
    "lstm reversed": with_weights(lambda m, x: ops.lstm(x, m.w, m.r, reverse=True), (5, 2, 4), w=(12, 4), r=(12, 3))._replace(
        fixed=True
    ),
}

#: What stays without a word, and why: kept in docs/onnx.md too.
REFUSED: dict[str, tuple[Case, str]] = {
    "batch_norm in training": (Case(lambda m, x: F.batch_norm(x, None, None, training=True)), "normalise"),
    "dropout in training": (of(F.dropout), "Dropout in training mode"),
    "a mask of the input": (of(lambda x: x[x.data > 0]), "getitem"),
    "put": (of(lambda x: ops.put(x, (2, 4, 6, 9), (..., [0, 3, 3, 5, 8]))), "put"),
    "conv_weight_grad": (of(lambda x, y: ops.conv_weight_grad(x, y, kernel_size=3), MAP, (2, 3, 4, 3)), "conv_weight_grad"),
    "a number of the values": (of(lambda x: x * float(x.data.max())), "depends on the values"),
    "a function of NumPy without a word": (of(lambda x: x + np.sort(x, axis=1)), "depends on the values"),
    "assignment": (Case(lambda m, x: _assigned(x * 2)), "no operation made its result"),
    "writing into an array": (of(lambda x: _written_to(x * 2)), "writes into an array"),
    "a branch on values": (of(lambda x: x.relu() if x.sum() > 0.4 else x.tanh()), "a branch on values"),
}


def _assigned(x: Any) -> Any:
    x[:, 0] = 1.0
    return x


def _written_to(x: Any) -> Any:
    x.numpy()[:, 0] = 1.0
    return x
