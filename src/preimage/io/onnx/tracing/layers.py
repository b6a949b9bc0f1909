"""Layers of preimage.nn as words of graphs: a row for each kind, read by `recorder`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preimage.geometry import per_axis

__all__ = ["layer_word"]

Built = tuple[str, list[str], dict[str, Any]]
Name = Callable[[Any], str]


def _affine(m: Any, name: Name) -> list[str]:
    """The names of weight and bias, without absent ones at the end."""
    names = ["" if p is None else name(p) for p in (getattr(m, "weight", None), getattr(m, "bias", None))]
    while names and not names[-1]:
        names.pop()
    return names


def _conv(m: Any, values: list[str], name: Name) -> Built:
    options = {k: getattr(m, k) for k in ("stride", "padding", "dilation", "groups")}
    options |= {"padding_mode": m.padding_mode} if m.padding_mode != "zeros" else {}
    return "conv", [*values, *_affine(m, name)], options


def _conv_transpose(m: Any, values: list[str], name: Name) -> Built | None:
    if m.padding_mode != "zeros":
        return None
    extra = {"output_padding": m.output_padding} if any(m.output_padding) else {}
    return "conv_transpose", [*values, *_affine(m, name)], _conv(m, [], name)[2] | extra


def _window(m: Any) -> dict[str, Any]:
    options = {k: getattr(m, k) for k in ("padding", "dilation", "ceil_mode", "count_include_pad") if hasattr(m, k)}
    if getattr(m, "divisor_override", None) is not None:
        options["divisor_override"] = m.divisor_override
    kernel = per_axis(m.kernel_size, m.ndim, "kernel_size")
    return options | {"kernel_size": kernel, "stride": kernel if m.stride is None else per_axis(m.stride, m.ndim, "stride")}


def _max_pool(m: Any, values: list[str], name: Name) -> Built | None:
    return None if m.return_indices else ("max_pool", values, _window(m))


def _batch_norm(m: Any, values: list[str], name: Name) -> Built | None:
    if m.running_mean is None:
        return "batch_statistics_norm", [*values, *_affine(m, name)], {"channels": m.num_features, "eps": float(m.eps)}
    if m.training:
        return None
    parameters = [*_affine(m, name), "", ""][:2]
    return "batch_norm", [*values, *parameters, name(m.running_mean), name(m.running_var)], {"eps": float(m.eps)}


def _group_norm(m: Any, values: list[str], name: Name) -> Built:
    return "group_norm", [*values, *_affine(m, name)], {"groups": m.num_groups, "channels": m.num_channels, "eps": float(m.eps)}


def _instance_norm(m: Any, values: list[str], name: Name) -> Built | None:
    if m.running_mean is not None:  # in evaluation they stand for the image's own
        return _batch_norm(m, values, name)
    return "instance_norm", [*values, *_affine(m, name)], {"channels": m.num_features, "eps": float(m.eps)}


def _layer_norm(m: Any, values: list[str], name: Name) -> Built:
    return "layer_norm", [*values, *_affine(m, name)], {"sizes": m.normalized_shape, "eps": float(m.eps)}


def _upsample(m: Any, values: list[str], name: Name) -> Built:
    options = {k: getattr(m, k) for k in ("size", "scale_factor", "recompute_scale_factor")}
    mode = "linear" if "linear" in m.mode else m.mode.removeprefix("bi")
    return "upsample", values, options | {"mode": mode, "align_corners": bool(m.align_corners)}


def _adaptive(word: str) -> Callable[[Any, list[str], Name], Built]:
    return lambda m, values, name: (word, values, {"output_size": m.output_size})


def _flatten(m: Any, values: list[str], name: Name) -> Built | None:
    return ("flatten", values, {"axis": 1}) if m.start_dim == 1 and m.end_dim == -1 else None


def _dropout(m: Any, values: list[str], name: Name) -> Built | None:
    return None if m.training and m.p else ("identity", values, {})


def _recurrent(m: Any, values: list[str], name: Name) -> Built | None:
    if m.training and m.dropout and m.num_layers > 1:
        return None
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if m.bias else 2]
    weights = [
        name(getattr(m, part + suffix)) for layer in range(m.num_layers) for suffix in m._suffixes(layer) for part in parts
    ]
    options = {"nonlinearity": m.nonlinearity} if hasattr(m, "nonlinearity") else {}
    directions = 2 if m.bidirectional else 1
    options |= {
        "kind": type(m).__name__,
        "count": m.num_layers * directions,
        "directions": directions,
        "batch_first": m.batch_first,
    }
    return "recurrent", [*values, *weights], options


def _plain(word: str, **renamed: str) -> Callable[[Any, list[str], Name], Built]:
    """An activation whose options are the word's attributes, under other names where said so."""
    return lambda m, values, name: (word, values, {renamed.get(k, k): v for k, v in m._options.items()})


_ROWS: dict[str, Callable[[Any, list[str], Name], Built | None]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "BatchNorm": _batch_norm, "GroupNorm": _group_norm,
    "InstanceNorm": _instance_norm, "LayerNorm": _layer_norm, "Upsample": _upsample, "Flatten": _flatten, "Dropout": _dropout,
    "AvgPool": lambda m, values, name: ("avg_pool", values, _window(m)),
    "AdaptiveAvgPool": _adaptive("adaptive_avg_pool"), "AdaptiveMaxPool": _adaptive("adaptive_max_pool"),
    "RNN": _recurrent, "LSTM": _recurrent, "GRU": _recurrent,
    "Linear": lambda m, values, name: ("linear", [*values, *_affine(m, name)], {}),
    "PReLU": lambda m, values, name: ("prelu", [*values, name(m.weight)], {}),
    "Identity": lambda m, values, name: ("identity", values, {}),
    "ReLU": _plain("relu"), "Sigmoid": _plain("sigmoid"), "Tanh": _plain("tanh"), "Softplus": _plain("softplus"), "ELU": _plain("elu"),
    "CELU": _plain("celu"), "SELU": _plain("selu"), "GELU": _plain("gelu"), "SiLU": _plain("swish"), "Mish": _plain("mish"),
    "Hardtanh": _plain("clip"), "ReLU6": _plain("clip"), "Hardswish": _plain("hard_swish"), "Hardsigmoid": _plain("hard_sigmoid"),
    "LeakyReLU": _plain("leaky_relu"), "LogSigmoid": _plain("log_sigmoid"), "LogSoftmax": _plain("log_softmax"),
    "Softmax": _plain("softmax"), "Softsign": _plain("softsign"),
}  # fmt: skip


def layer_word(module: Any, values: list[str], name: Name) -> Built | None:
    """The word, inputs and attributes of a layer with one input; None where its parts are to be written instead."""
    if not type(module).__module__.startswith("preimage.nn."):
        return None  # a class of the user's own may share a name with a layer
    kind = type(module).__name__
    row = _ROWS.get(kind[:-2] if kind[-2:] in ("1d", "2d", "3d") else kind)
    return None if row is None else row(module, values, name)
