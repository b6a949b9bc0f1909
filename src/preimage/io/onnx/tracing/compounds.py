"""Contractions, windows, normalisations, recurrent layers and losses as words: see `rows`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from preimage.autograd import array_of
from preimage.geometry import ConvGeometry, normalise_padding, per_axis
from preimage.io.onnx.tracing.rows import FUNCTIONS, OPERATIONS, Names, Row, like, row
from preimage.ops.activation import relu, tanh

if TYPE_CHECKING:
    from preimage.io.onnx.tracing.recorder import Recorder

__all__: list[str] = []


# -- contractions ------------------------------------------------------------------------------------------------------


@row(OPERATIONS, "conv", "conv_transpose")
def _conv(w: Recorder, x: Any, weight: Any, bias: Any, geometry: ConvGeometry, layout: str, **how: Any) -> Names:
    g, word = geometry, w.label
    options: dict[str, Any] = {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}
    if word == "conv_transpose" and any(g.remainder):
        options["output_padding"] = g.remainder
    options |= {"accuracy": how["accuracy"]} if how.get("accuracy") is not None else {}
    weight = getattr(weight, "array", weight)  # of a prepared one
    ndim = g.ndim + 2
    value = w.name(x) if layout == "channels_first" else w.put("transpose", w.name(x), axes=(0, ndim - 1, *range(1, ndim - 1)))
    inputs = [value, w.name(weight), *([] if bias is None else [w.name(bias)])]
    made = w.put(word, *inputs, **options)
    return made if layout == "channels_first" else w.put("transpose", made, axes=(0, *range(2, ndim), 1))


@row(OPERATIONS, "linear")
def _linear(w: Recorder, x: Any, weight: Any, bias: Any, geometry: ConvGeometry) -> Names:
    weight = getattr(weight, "array", weight)
    return w.put("linear", w.name(x), w.name(weight), *([] if bias is None else [w.name(bias)]))


@row(OPERATIONS, "unfold")
def _unfold(w: Recorder, x: Any, geometry: ConvGeometry) -> Names:
    g = geometry
    maps = w.put("unfold_maps", w.name(x), kernel_size=g.kernel_size, stride=g.stride, padding=g.padding, dilation=g.dilation)
    return w.put("flatten", maps, axis=2)


@row(OPERATIONS, "fold")
def _fold(w: Recorder, columns: Any, geometry: ConvGeometry) -> Names:
    g = geometry
    pads = [*(lo for lo, _ in g.padding), *(hi for _, hi in g.padding)]
    return w.put(
        "onnx.Col2Im", w.name(columns), w.ints(*g.input_size), w.ints(*g.kernel_size),
        dilations=list(g.dilation), pads=pads, strides=list(g.stride),
    )  # fmt: skip


# -- windows and sizes -------------------------------------------------------------------------------------------------


def _window(ndim: int, kernel_size: Any, stride: Any, **options: Any) -> dict[str, Any]:
    kernel = per_axis(kernel_size, ndim, "kernel_size")
    return {"kernel_size": kernel, "stride": kernel if stride is None else per_axis(stride, ndim, "stride"), **options}


@row(FUNCTIONS, "max_pool")
def _max_pool(w: Recorder, x: Any, kernel_size: Any, stride: Any, return_switches: bool, **options: Any) -> Names:
    ndim = array_of(x).ndim - 2
    window = _window(ndim, kernel_size, stride, **options)
    if not return_switches:
        return w.put("max_pool", w.name(x), **window)
    padding = normalise_padding(window["padding"], ndim)
    if isinstance(padding, str):
        return None
    values, places = w.put_all(
        "onnx.MaxPool", w.name(x), results=2, outputs=2, kernel_shape=list(window["kernel_size"]), strides=list(window["stride"]),
        pads=[*(lo for lo, _ in padding), *(hi for _, hi in padding)], dilations=list(per_axis(window["dilation"], ndim, "dilation")),
        ceil_mode=int(window["ceil_mode"]),
    )  # fmt: skip
    plane = w.put("onnx.ReduceProd", w.put("onnx.Shape", w.name(x), start=2), keepdims=1)
    return values, w.put("onnx.Mod", places, plane)  # ONNX counts over the whole array


@row(FUNCTIONS, "avg_pool")
def _avg_pool(w: Recorder, x: Any, kernel_size: Any, stride: Any, dilation: Any, **options: Any) -> Names:
    options = {k: v for k, v in options.items() if v is not None}
    return w.put("avg_pool", w.name(x), dilation=dilation, **_window(array_of(x).ndim - 2, kernel_size, stride, **options))


@row(FUNCTIONS, "sum_pool")
def _sum_pool(w: Recorder, x: Any, ceil_mode: bool, **window: Any) -> Names:
    if ceil_mode:
        return None
    return _avg_pool(w, x, divisor_override=1.0, **window)


@row(FUNCTIONS, "adaptive_avg_pool", "adaptive_max_pool")
def _adaptive(w: Recorder, x: Any, output_size: Any) -> Names:
    return w.put(w.label, w.name(x), output_size=output_size)


@row(FUNCTIONS, "global_avg_pool", "global_max_pool")
def _global(w: Recorder, x: Any) -> Names:
    return w.put(w.label, w.name(x))


@row(FUNCTIONS, "max_unpool")
def _max_unpool(w: Recorder, y: Any, switches: Any, output_size: Any, overlap: str) -> Names:
    """Planes of zeros, into which the values are scattered."""
    x, ndim = w.name(y), array_of(y).ndim - 2
    size = per_axis(output_size, ndim, "output_size")
    if overlap != "last":
        return None
    lead = w.put("onnx.Shape", x, start=0, end=2)
    shape = w.put("onnx.Concat", lead, w.ints(math.prod(size)), axis=0)
    planes = w.put("onnx.Expand", like(w, 0.0, y), shape)
    rows = w.ints(0, 0, -1)
    places = w.put("onnx.Reshape", w.name(switches), rows)
    filled = w.put("onnx.ScatterElements", planes, places, w.put("onnx.Reshape", x, rows), axis=2)
    return w.put("onnx.Reshape", filled, w.put("onnx.Concat", lead, w.ints(*size), axis=0))


@row(FUNCTIONS, "upsample")
def _upsample(w: Recorder, x: Any, mode: str, antialias: bool, **options: Any) -> Names:
    return w.put("upsample", w.name(x), mode=mode, **options, **({"antialias": True} if antialias else {}))


@row(FUNCTIONS, "grid_sample")
def _grid_sample(w: Recorder, x: Any, grid: Any, mode: str, padding_mode: str, align_corners: bool) -> Names:
    return w.put(
        "onnx.GridSample", w.name(x), w.name(grid), mode=mode, padding_mode=padding_mode, align_corners=int(bool(align_corners))
    )


# -- normalisations ----------------------------------------------------------------------------------------------------


def _affine(w: Recorder, weight: Any, bias: Any) -> list[str]:
    """The names of weight and bias, without absent ones at the end."""
    names = ["" if v is None else w.name(v) for v in (weight, bias)]
    while names and not names[-1]:
        names.pop()
    return names


@row(OPERATIONS, "standardize")
def _standardize(w: Recorder, x: Any, axis: tuple[int, ...], eps: float) -> Names:
    return w.put("layer_norm", w.name(x), axes=axis, eps=eps)


@row(FUNCTIONS, "dropped")
def _dropped(w: Recorder, **_: Any) -> Names:
    w.refused.append("Dropout in training mode")
    return None


@row(FUNCTIONS, "scaled_by")
def _scaled_by(w: Recorder, x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Names:
    parameters = [*_affine(w, weight, bias), "", ""][:2]
    return w.put("batch_norm", w.name(x), *parameters, w.name(mean), w.name(var), eps=eps)


@row(FUNCTIONS, "grouped")
def _grouped(w: Recorder, x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Names:
    channels = array_of(x).shape[1]
    return w.put("group_norm", w.name(x), *_affine(w, weight, bias), groups=groups, channels=channels, eps=eps)


@row(FUNCTIONS, "instance_normalised")
def _instance_normalised(w: Recorder, x: Any, weight: Any, bias: Any, eps: float) -> Names:
    return w.put("instance_norm", w.name(x), *_affine(w, weight, bias), channels=array_of(x).shape[1], eps=eps)


# -- recurrent layers --------------------------------------------------------------------------------------------------


def _recurrent(kind: str, usual: dict[str, Any]) -> Row:
    """A layer as nn has it; one with other options is written step by step."""

    def layer(
        w: Recorder, x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, activation: Any = None, **options: Any
    ) -> Names:
        weights = [weight_ih, weight_hh, *([] if bias_ih is None else [bias_ih, bias_hh])]
        plain = options.items() <= usual.items() and (bias_ih is None) == (bias_hh is None)
        if not plain or (activation not in (None, tanh, relu)):
            return None
        how = {"nonlinearity": "relu" if activation is relu else "tanh"} if kind == "RNN" else {}
        count = 3 if kind == "LSTM" else 2
        y, *last = w.put_all(
            "recurrent",
            w.name(x),
            *map(w.name, weights),
            results=count,
            kind=kind,
            count=1,
            directions=1,
            batch_first=False,
            **how,
        )
        return y, *(w.put("onnx.Squeeze", each, w.ints(0)) for each in last)

    return layer


_NONE = {"h0": None, "lengths": None, "reverse": False, "clip": None}
FUNCTIONS.update(
    {
        "rnn": _recurrent("RNN", _NONE),
        "lstm": _recurrent(
            "LSTM", _NONE | {"c0": None, "activations": None, "peephole": None, "coupled": False, "gate_order": "ifgo"}
        ),
        "gru": _recurrent("GRU", _NONE | {"activations": None, "reset_after": True, "gate_order": "rzn"}),
    }
)

# -- losses ------------------------------------------------------------------------------------------------------------


@row(OPERATIONS, "class_cross_entropy")
def _class_cross_entropy(w: Recorder, x: Any, labels: Any, used: Any, scale: Any, whole: Any) -> Names:
    column = w.put("onnx.Unsqueeze", w.name(labels), w.ints(1))
    low = w.put("onnx.GatherElements", w.put("log_softmax", w.name(x), axis=1), column, axis=1)
    each = w.put("mul", w.name(scale), w.put("neg", w.put("onnx.Squeeze", low, w.ints(1))))
    counted = w.put("onnx.Where", w.name(used), each, like(w, 0.0, x))
    axes = w.ints(*range(array_of(labels).ndim))
    return w.put("div", w.put("onnx.ReduceSum", counted, axes, keepdims=0), w.name(whole))


@row(OPERATIONS, "binary_cross_entropy")
def _binary_cross_entropy(w: Recorder, p: Any, t: Any, near: Any) -> Names:
    one, floor, target = like(w, 1.0, p), like(w, -100.0, p), w.name(t)
    logs = [w.put("maximum", w.put("log", v), floor) for v in (w.name(p), w.put("sub", one, w.name(p)))]
    parts = [w.put("mul", share, log) for share, log in zip((target, w.put("sub", one, target)), logs, strict=True)]
    return w.put("neg", w.put("add", *parts))
