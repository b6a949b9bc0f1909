"""A thousand random calls with one thing wrong: each gives a PreimageError, never a NumPy traceback and never a result."""

from __future__ import annotations

import random

import numpy as np
import pytest

import preimage as pre
from geometries import random_geometry
from preimage.errors import DTypeError, OptionError, PreimageError, ShapeError

CALLS = ("conv", "conv_transpose", "conv_weight_grad")


def valid_call(rng):
    """A call that works: (name, positional arrays, keywords)."""
    while True:
        g = random_geometry(rng, ndim=rng.choice((1, 2, 3)))
        if g.is_conv_size and min((*g.input_size, *g.output_size)) > 0:
            break
    numbers = np.random.default_rng(0)
    x, w, y = (numbers.standard_normal(s) for s in (g.input_shape, g.weight_shape, g.output_shape))
    options = {"stride": list(g.stride), "padding": list(g.padding), "dilation": list(g.dilation), "groups": g.groups}
    name = rng.choice(CALLS)
    if name == "conv":
        return name, [x, w, numbers.standard_normal(g.out_channels)], options
    if name == "conv_transpose":
        return name, [y, w, numbers.standard_normal(g.in_channels)], {**options, "output_size": list(g.input_size)}
    return name, [x, y], {**options, "kernel_size": list(g.kernel_size)}


def _replace(values, rng, new):
    values = list(values)
    values[rng.randrange(len(values))] = new
    return values


def _missing_axis(rng, arrays, options):
    arrays[0] = arrays[0][0]


def _extra_axis(rng, arrays, options):
    arrays[rng.randrange(2)] = arrays[rng.randrange(2)][..., None]
    if arrays[0].ndim == arrays[1].ndim:
        arrays[0] = arrays[0][..., None]


def _channels(rng, arrays, options):
    arrays[0] = np.concatenate([arrays[0], arrays[0][:, :1]], axis=1)
    if "kernel_size" in options:  # a weight gradient takes any two numbers of channels; groups that divide neither it does not
        options["groups"] = arrays[0].shape[1] + arrays[1].shape[1]


def _dtype_mix(rng, arrays, options):
    k = rng.randrange(len(arrays))
    arrays[k] = arrays[k].astype(rng.choice((np.float32, np.float16)))


def _bad_dtype(rng, arrays, options):
    k = rng.randrange(len(arrays))
    arrays[k] = arrays[k].astype(rng.choice((np.int64, np.complex128, np.bool_, np.uint8, object, "U8", np.longdouble)))


def _no_array(rng, arrays, options):
    arrays[rng.randrange(2)] = rng.choice((None, "text", [[1.0], [1.0, 2.0]], {}, object(), 3, [[1, 2], [3, 4]], lambda: 0))


def _bias(rng, arrays, options):
    if len(arrays) < 3:
        return _missing_axis(rng, arrays, options)
    bias = arrays[2]
    arrays[2] = rng.choice((np.concatenate([bias, [1.0]]), bias[:, None], np.float64(1.0), bias[:-1], "bias"))
    return None


def _stride(rng, arrays, options):
    options["stride"] = _replace(options["stride"], rng, rng.choice((0, -1, 1.5, None, "2", True, 2**60, [1, 2])))


def _dilation(rng, arrays, options):
    options["dilation"] = _replace(options["dilation"], rng, rng.choice((0, -3, 0.5, None, "1", False, 10**30)))


def _padding(rng, arrays, options):
    new = rng.choice((1.5, None, "x", (1,), (1, 2, 3), -(10**4), (10**17, 0), object(), (None, 1), [[1], 2]))
    options["padding"] = rng.choice((_replace(options["padding"], rng, new), "full", None, 1.0, {}, b"same"))


def _counts(rng, arrays, options):
    name = rng.choice(("stride", "dilation", "padding"))
    options[name] = [*options[name], 1] if rng.random() < 0.5 else [*options[name], 1, 1]


def _groups(rng, arrays, options):
    options["groups"] = rng.choice((0, -1, 1.0, None, "1", True, 97, 10**20))


def _option(rng, arrays, options):
    options[rng.choice(("padding_mode", "layout"))] = rng.choice(("", "wrap", None, 3, "NHWC", "zeros ", ["zeros"], b"zeros"))


def _size(rng, arrays, options):
    if "output_size" in options:
        options["output_size"] = _replace(options["output_size"], rng, rng.choice((-1, 10**6, 1.5, None, "9", 10**30)))
    elif "kernel_size" in options:
        options["kernel_size"] = _replace(options["kernel_size"], rng, rng.choice((0, -1, 1.5, None, "3", 10**6)))
    else:
        options["dilation"] = [10**6] * len(options["dilation"])
        arrays[1] = np.concatenate([arrays[1], arrays[1]], axis=-1)


def _batch(rng, arrays, options):
    if "kernel_size" in options:
        arrays[1] = np.concatenate([arrays[1], arrays[1][:1]])
    else:
        _option(rng, arrays, options)


MISTAKES = (
    _missing_axis, _extra_axis, _channels, _dtype_mix, _bad_dtype, _no_array, _bias, _stride, _dilation, _padding, _counts,
    _groups, _option, _size, _batch,
)  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.__name__.strip("_"))
def test_invalid_calls(mistake):
    rng = random.Random(mistake.__name__)
    for _ in range(70):
        name, arrays, options = valid_call(rng)
        assert getattr(pre, name)(*arrays, **options).dtype == np.float64, "the call is right before the mistake"
        mistake(rng, arrays, options)
        try:
            result = getattr(pre, name)(*arrays, **options)
        except PreimageError:
            continue
        pytest.fail(f"{name} of {[np.shape(a) for a in arrays]} with {options} gave a result of shape {result.shape}")


def test_a_thousand_and_more():
    assert 70 * len(MISTAKES) >= 1000


X, W, B = np.ones((1, 3, 5, 6), np.float32), np.ones((4, 3, 2, 2), np.float32), np.ones(4, np.float32)

TEXTS = [
    (lambda: pre.conv(X[0], W), ShapeError, r"x has shape \(3, 5, 6\), .* the batch axis is missing; x\[None\] adds it"),
    (lambda: pre.conv_transpose(X[0, 0], W), ShapeError, r"y has shape \(5, 6\): 2 axes; w .* wants 4"),
    (lambda: pre.conv(X, W, B[:1]), ShapeError, r"bias has shape \(1,\), wanted \(4,\): one value per channel"),
    (lambda: pre.conv(X, W, B[:3]), ShapeError, r"bias has shape \(3,\), wanted \(4,\)"),
    (lambda: pre.conv(X, W, B[:, None]), ShapeError, r"bias has shape \(4, 1\), wanted \(4,\)"),
    (lambda: pre.conv_transpose(np.ones((1, 4, 5, 6), np.float32), W, B), ShapeError, r"bias has shape \(4,\), wanted \(3,\)"),
    (lambda: pre.conv(X, W.astype(np.float64)), DTypeError, "one dtype, got x float32, w float64"),
    (lambda: pre.conv(X, W, B.astype(np.float64)), DTypeError, "one dtype, got x float32, w float32, b float64"),
    (lambda: pre.conv(X.astype(int), W), DTypeError, r"x has dtype int64; use float32, .* x.astype\(np.float32\)"),
    (lambda: pre.conv([[1.0], [1.0, 2.0]], W), ShapeError, "x is no regular array"),
    (lambda: pre.conv(X, W, layout="NHWC"), OptionError, "layout must be 'channels_first' or 'channels_last', got 'NHWC'"),
    (lambda: pre.conv(X, W, padding_mode="wrap"), OptionError, "padding mode must be one of 'zeros', 'reflect'.*, got 'wrap'"),
    (lambda: pre.conv(X, W, padding_mode=np.array(["zeros", "wrap"])), OptionError, "padding mode must be one of 'zeros', 'reflect'"),
    (lambda: pre.conv_transpose(pre.conv(X, W), W, padding_mode=np.array(["zeros"] * 2)), OptionError, "padding mode must be one of"),
    (lambda: pre.conv(X, W, activation="gelu"), OptionError, "activation must be one of .*, got 'gelu'"),
    (lambda: pre.conv(X, W, activation="clip", clip_range=3), OptionError, r"clip_range must be a pair .*, got 3"),
    (lambda: pre.conv(X, W, activation="clip", clip_range=(3, 1)), OptionError, r"clip_range \(3.0, 1.0\) is empty"),
    (lambda: pre.conv(X, W, residual=X), ShapeError, r"residual has shape \(1, 3, 5, 6\), wanted .* \(1, 4, 4, 5\)"),
    (lambda: pre.conv(X, W, residual=np.ones((1, 4, 4, 5))), DTypeError, "residual float64, the others float32"),
    (lambda: pre.conv(X[:, :, :0], W, padding=2, padding_mode="reflect"), ShapeError, "axis 2 has no cells that mode 'reflect'"),
    (lambda: pre.conv_weight_grad(X, X[0], kernel_size=2), ShapeError, "the batch axis is missing|axes"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "text"), TEXTS)
def test_texts(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize("contraction", [pre.conv, pre.conv_transpose])
def test_a_picture_and_a_kernel_without_batch_and_channels_get_a_hint(contraction):
    with pytest.raises(pre.GeometryError, match=r"add two, x\[None, None\]"):
        contraction(np.ones((7, 6)), np.ones((3, 4)))
    with pytest.raises(pre.GeometryError) as found:
        contraction(np.ones((1, 7, 6)), np.ones((3, 4, 2)))
    assert "add two" not in str(found.value)
